// SPDX-License-Identifier: GPL-2.0-or-later
//
// What one trapped system call costs at the least: a child makes the ioctl that the filter traps, and a bare loop
// answers it at once with 0, without looking at it. No supervisor can be faster by this means. Usage:
//
//     trap SECONDS
//
// The filter's flags are those that a supervisor wants: the waiting call can only be killed, not interrupted, and the
// two wake each other up as if they called each other. Where the kernel has neither (before 5.19 and 6.6) the figure is
// that of a plain notification, as any supervisor's would be there.

#define _GNU_SOURCE
#include "measure.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

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
    if (ioctl(*(int *)context, REQUEST, context))
        fail_errno("make a trapped call");
}

static void answer_all(int listener)
{
    for (;;) {
        struct pollfd entry = {.fd = listener, .events = POLLIN};
        struct seccomp_notif notification;
        struct seccomp_notif_resp response = {.id = 0};

        memset(&notification, 0, sizeof(notification));
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &notification)) {
            // ENOENT also comes when the last target has ended.
            if (errno != ENOENT && errno != EINTR)
                fail_errno("receive a notification");
            if (poll(&entry, 1, 0) > 0 && !(entry.revents & POLLIN) && entry.revents & POLLHUP)
                return;
            continue;
        }
        response.id = notification.id;
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) && errno != ENOENT)
            fail_errno("answer a notification");
    }
}

int main(int argc, char **argv)
{
    double seconds;
    int ends[2];
    pid_t child;
    int listener;
    int status;

    if (argc != 2)
        fail("usage: trap SECONDS");
    seconds = parse_seconds(argv[1]);
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
    close(ends[1]);
    listener = take(ends[0]);
    // By value. Unknown to kernels before 6.6.
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
    answer_all(listener);
    if (waitpid(child, &status, 0) < 0 || status)
        fail("the child that makes the calls ended with wait status %d", status);
    return EXIT_SUCCESS;
}
