// SPDX-License-Identifier: GPL-2.0-or-later
//
// The keeper: a thread with a table of descriptors of its own, for those that are hardly ever needed.
//
// RLIMIT_NOFILE counts what stands in one table, and each thread may have its own (unshare(2), CLONE_FILES). So what
// the supervisor has to keep open, but hardly ever touches, lies there: it goes over a socket, and a duplicate comes
// back over it when it is wanted, some 20 us later. It is closed with the process, however that ends, as nobody else
// has it.
//
// Alternatives: a child would do the same, but a fork keeps what is mapped here alive (pools, which end meanwhile), and
// an executed program costs a start; descriptors that lie in a socket's queue need no thread, but the kernel counts
// those of all programs of a user together, and then refuses to pass any for who is allowed fewer; io_uring's table of
// files is forbidden in many containers.

#include "helper.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1U << 1)
#endif
#define STACK_BYTES (64U << 10)

enum { KEEP, FETCH, DROP };

struct order {
    int32_t kind;
    int32_t number; // in the keeper's table
};

struct kdbus_keeper {
    pthread_t thread;
    int ours;
    int theirs;
};

// `size` bytes, and `descriptor` unless that is negative. 0 or -errno.
static int send_with(int socket, void *bytes, size_t size, int descriptor)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.room = {0}};
    struct iovec piece = {.iov_base = bytes, .iov_len = size};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    ssize_t sent;

    if (descriptor >= 0) {
        message.msg_control = control.room;
        message.msg_controllen = sizeof(control.room);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &descriptor, sizeof(int));
    }
    do
        sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

// The next message, of `size` bytes: 1, or 0 if there is nobody any more, or -errno. `*descriptor`: what came with it,
// or -1; -EMFILE if there was no room for it.
static int receive_with(int socket, void *bytes, size_t size, int *descriptor)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec piece = {.iov_base = bytes, .iov_len = size};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
    struct cmsghdr *header;
    ssize_t received;

    do
        received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (received < 0 && errno == EINTR);
    if (received <= 0)
        return received < 0 ? -errno : 0;
    *descriptor = message.msg_flags & MSG_CTRUNC ? -EMFILE : -1;
    header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(descriptor, CMSG_DATA(header), sizeof(int));
    return (size_t)received == size ? 1 : -EPROTO;
}

// Leaves the table that all threads share, with nothing but `kept`. 0 or -errno.
static int leave_table(int kept)
{
    struct rlimit limit;

    if (!syscall(SYS_close_range, (unsigned int)kept + 1, ~0U, CLOSE_RANGE_UNSHARE)) {
        if (kept > 0)
            syscall(SYS_close_range, 0U, (unsigned int)kept - 1, 0U);
        return 0;
    }
    // Kernels before 5.9.
    if (unshare(CLONE_FILES) || getrlimit(RLIMIT_NOFILE, &limit))
        return -errno;
    for (rlim_t number = 0; number < limit.rlim_cur; number++)
        if ((int)number != kept)
            close((int)number);
    return 0;
}

static void *live(void *argument)
{
    // Whoever waits for the first word may give the structure up then.
    int socket = ((struct kdbus_keeper *)argument)->theirs;
    int32_t word = leave_table(socket);
    struct order order;
    int descriptor;

    (void)prctl(PR_SET_NAME, "kdbus-keeper");
    if (send_with(socket, &word, sizeof(word), -1) || word)
        return NULL;
    while (receive_with(socket, &order, sizeof(order), &descriptor) == 1) {
        if (order.kind == DROP) {
            close(order.number);
            continue;
        }
        word = order.kind == KEEP ? descriptor : order.number;
        // Where it could not be passed on, the word alone says so.
        word = send_with(socket, &word, sizeof(word), order.kind == FETCH ? order.number : -1);
        if (word && send_with(socket, &word, sizeof(word), -1))
            break;
    }
    close(socket);
    return NULL;
}

static int start(struct kdbus_keeper *keeper)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);

    if (error)
        return -error;
    error = pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!error)
        error = pthread_create(&keeper->thread, &attributes, live, keeper);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return -error;
}

int kdbus_keeper_create(struct kdbus_keeper **made)
{
    struct kdbus_keeper *keeper = malloc(sizeof(*keeper));
    int32_t word = -EPROTO;
    int descriptor;
    int sockets[2];
    int result;

    if (!keeper)
        return -ENOMEM;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets)) {
        result = -errno;
        free(keeper);
        return result;
    }
    keeper->ours = sockets[0];
    keeper->theirs = sockets[1];
    result = start(keeper);
    if (!result) {
        result = receive_with(keeper->ours, &word, sizeof(word), &descriptor);
        result = result == 1 ? word : result < 0 ? result : -EPROTO;
        if (result)
            pthread_join(keeper->thread, NULL);
    }
    close(keeper->theirs); // the thread has its own
    if (result) {
        close(keeper->ours);
        free(keeper);
        return result;
    }
    *made = keeper;
    return 0;
}

void kdbus_keeper_destroy(struct kdbus_keeper *keeper)
{
    close(keeper->ours);
    pthread_join(keeper->thread, NULL);
    free(keeper);
}

static int ask(const struct kdbus_keeper *keeper, int32_t kind, int number, int descriptor, int *found)
{
    struct order order = {.kind = kind, .number = number};
    int32_t word;
    int result = send_with(keeper->ours, &order, sizeof(order), descriptor);

    if (result)
        return result;
    result = receive_with(keeper->ours, &word, sizeof(word), found);
    if (result != 1)
        return result < 0 ? result : -EPROTO;
    return word;
}

int kdbus_keeper_keep(const struct kdbus_keeper *keeper, int descriptor)
{
    int nothing;

    if (descriptor < 0)
        return -EBADF;
    return ask(keeper, KEEP, 0, descriptor, &nothing);
}

int kdbus_keeper_fetch(const struct kdbus_keeper *keeper, int number)
{
    int found = -1;
    int result = ask(keeper, FETCH, number, -1, &found);

    return result < 0 ? result : found;
}

int kdbus_keeper_drop(const struct kdbus_keeper *keeper, int number)
{
    struct order order = {.kind = DROP, .number = number};

    return send_with(keeper->ours, &order, sizeof(order), -1);
}
