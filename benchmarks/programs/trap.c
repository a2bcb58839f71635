// SPDX-License-Identifier: GPL-2.0-or-later
//
// What one trapped system call costs at the least: a child makes the ioctl that the filter traps, and a bare loop
// answers it at once with 0. No supervisor can be faster by this means. Usage:
//
//     trap bare|served SECONDS
//
// bare: the call is not looked at. served: with what no supervisor can do without that has to be sure of the descriptor
// and to read and write what the argument points at: poll(2) for the call or for a descriptor that has been closed,
// kcmp(2), one process_vm_readv(2) and one process_vm_writev(2). Nothing is done with what is read.
//
// The filter's flags are those that a supervisor wants: the waiting call can only be killed, not interrupted, and the
// two wake each other up as if they called each other. Where the kernel has neither (before 5.19 and 6.6) the figure is
// that of a plain notification, as any supervisor's would be there.

#define _GNU_SOURCE
#include "measure.h"

#include <linux/filter.h>
#include <linux/kcmp.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif

#define REQUEST 0x40009501  // no command of kdbus, but of its type
#define WORDS 5             // of the smallest command, KDBUS_CMD_FREE
#define RESULTS 2           // of them, at the end

static int install_filter(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x9500, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
    };
    struct sock_fprog program = {.len = sizeof(filter) / sizeof(*filter), .filter = filter};
    unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
    int listener;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        fail_errno("set no_new_privs");
    listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
                            &program);
    if (listener < 0 && errno == EINVAL)
        listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (listener < 0)
        fail_errno("install a seccomp filter");
    return listener;
}

static void pass(int socket, int descriptor)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
    struct iovec byte = {.iov_base = "", .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};

    memcpy(CMSG_DATA(&control.header), &descriptor, sizeof(descriptor));
    if (sendmsg(socket, &message, 0) != 1)
        fail_errno("pass the listener on");
}

static int take(int socket)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    char data;
    struct iovec byte = {.iov_base = &data, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    int descriptor;

    if (recvmsg(socket, &message, 0) != 1 || message.msg_controllen < CMSG_LEN(sizeof(int)))
        fail("the child could not set up its filter");
    memcpy(&descriptor, CMSG_DATA(&control.header), sizeof(descriptor));
    return descriptor;
}

static void trap(void *context)
{
    uint64_t command[WORDS] = {sizeof(command)};

    if (ioctl(*(int *)context, REQUEST, command))
        fail_errno("make a trapped call");
}

// The child's file in an epoll set, which does not keep it open.
struct known {
    pid_t self;
    int epoll;
    int number;
};

static struct known know(int descriptor)
{
    struct known known = {.self = getpid(), .epoll = epoll_create1(EPOLL_CLOEXEC), .number = descriptor};
    struct epoll_event event = {.events = 0};

    if (known.epoll < 0 || epoll_ctl(known.epoll, EPOLL_CTL_ADD, descriptor, &event))
        fail_errno("watch the child's descriptor");
    return known;
}

static void wait_for_call_or_end(int listener, const struct known *known)
{
    struct pollfd entries[] = {{.fd = listener, .events = POLLIN}, {.fd = known->epoll, .events = POLLIN}};

    if (poll(entries, 2, -1) < 0 && errno != EINTR)
        fail_errno("wait for a notification");
}

static void look(const struct seccomp_data *call, pid_t pid, const struct known *known)
{
    struct kcmp_epoll_slot slot = {.efd = (uint32_t)known->epoll, .tfd = (uint32_t)known->number};
    uint64_t command[WORDS] = {0};
    uint64_t results[RESULTS] = {call->args[1], 0};
    struct iovec here[] = {{command, sizeof(command)}, {results, sizeof(results)}};
    struct iovec there[] = {{(void *)call->args[2], sizeof(command)},
                            {(uint64_t *)call->args[2] + WORDS - RESULTS, sizeof(results)}};

    if (syscall(SYS_kcmp, pid, known->self, KCMP_EPOLL_TFD, call->args[0], &slot))
        fail_errno("compare the descriptor");
    if (process_vm_readv(pid, &here[0], 1, &there[0], 1, 0) != sizeof(command) || command[0] != sizeof(command))
        fail_errno("read the command");
    if (process_vm_writev(pid, &here[1], 1, &there[1], 1, 0) != sizeof(results))
        fail_errno("write results");
}

// `known`: NULL not to look at the calls.
static void answer_all(int listener, const struct known *known)
{
    for (;;) {
        struct pollfd entry = {.fd = listener, .events = POLLIN};
        struct seccomp_notif notification;
        struct seccomp_notif_resp response = {.id = 0};

        if (known)
            wait_for_call_or_end(listener, known);
        memset(&notification, 0, sizeof(notification));
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &notification)) {
            // ENOENT also comes when the last target has ended.
            if (errno != ENOENT && errno != EINTR)
                fail_errno("receive a notification");
            if (poll(&entry, 1, 0) > 0 && !(entry.revents & POLLIN) && entry.revents & POLLHUP)
                return;
            continue;
        }
        if (known)
            look(&notification.data, (pid_t)notification.pid, known);
        response.id = notification.id;
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) && errno != ENOENT)
            fail_errno("answer a notification");
    }
}

int main(int argc, char **argv)
{
    struct known known;
    double seconds;
    int ends[2];
    pid_t child;
    int listener;
    int status;

    if (argc != 3)
        fail("usage: trap bare|served SECONDS");
    seconds = parse_seconds(argv[2]);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        fail_errno("make a socket pair");
    child = fork_child();
    if (child == 0) {
        listener = install_filter();
        pass(ends[1], listener);
        close(listener);
        measure("trap", seconds, trap, &ends[1]);
        exit(EXIT_SUCCESS);
    }
    known = know(ends[1]);
    close(ends[1]);
    listener = take(ends[0]);
    // By value. Unknown to kernels before 6.6.
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
    answer_all(listener, strcmp(argv[1], "served") == 0 ? &known : NULL);
    if (waitpid(child, &status, 0) < 0 || status)
        fail("the child that makes the calls ended with wait status %d", status);
    return EXIT_SUCCESS;
}
