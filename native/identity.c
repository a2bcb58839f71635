// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which file a descriptor of another process is, without holding that file: kcmp(2) with KCMP_EPOLL_TFD compares it
// to an entry of an epoll set, and an entry does not keep its file alive.

#include "helper.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// `self` is the calling thread, whose descriptors are meant by `epoll`: gettid, not getpid.
static int compare(int self, int pid, int descriptor, int epoll, int target)
{
    struct kcmp_epoll_slot slot = {.efd = (uint32_t)epoll, .tfd = (uint32_t)target, .toff = 0};
    long order = syscall(SYS_kcmp, (long)pid, (long)self, (long)KCMP_EPOLL_TFD, (unsigned long)descriptor,
                         (unsigned long)&slot);

    return order < 0 ? -errno : (int)order;
}

int kdbus_same_file(int pid, int descriptor, int epoll, int target)
{
    return kdbus_same_file_as((int)syscall(SYS_gettid), pid, descriptor, epoll, target);
}

int kdbus_same_file_as(int self, int pid, int descriptor, int epoll, int target)
{
    int order;

    if (descriptor < 0)
        return 0;
    order = compare(self, pid, descriptor, epoll, target);
    if (order == -ENOENT)
        return 0; // the registered file is gone, so nobody can have it
    if (order == -EBADF && fcntl(epoll, F_GETFD) >= 0)
        return 0; // not ours: the target has no such descriptor
    return order < 0 ? order : order == 0;
}

int kdbus_epoll_holds(int epoll, int target)
{
    // The set itself stands for the file to compare with: only whether there is an entry matters.
    int self = (int)syscall(SYS_gettid);
    int order = compare(self, self, epoll, epoll, target);

    if (order == -ENOENT)
        return 0;
    return order < 0 ? order : 1;
}

int kdbus_pidfd_open(int pid, unsigned int flags)
{
    long descriptor = syscall(SYS_pidfd_open, pid, flags);

    return descriptor < 0 ? -errno : (int)descriptor;
}

int kdbus_pidfd_getfd(int pidfd, int descriptor)
{
    long copy = syscall(SYS_pidfd_getfd, pidfd, descriptor, 0);

    return copy < 0 ? -errno : (int)copy;
}

int kdbus_socket_cookie(int descriptor, uint64_t *cookie)
{
    socklen_t size = sizeof(*cookie);

    if (getsockopt(descriptor, SOL_SOCKET, SO_COOKIE, cookie, &size))
        return -errno;
    return 0;
}

// The process that the thread `pid` belongs to, from /proc/PID/status.
static int thread_group(int pid)
{
    static const char key[] = "\nTgid:";
    char path[sizeof("/proc/-2147483648/status")];
    char text[1024]; // the line is the fourth or fifth
    const char *line;
    ssize_t length;
    int result;
    int file;

    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    length = read(file, text, sizeof(text) - 1);
    result = length < 0 ? -errno : 0;
    close(file);
    if (result < 0)
        return result;
    text[length] = 0;
    line = strstr(text, key);
    return line ? atoi(line + sizeof(key) - 1) : -ESRCH;
}

// A pidfd whose descriptors are those of the thread `pid`. Kernels before 6.9 only know whole processes, whose
// threads share their descriptors in all but odd cases; the caller checks what it gets.
static int open_thread(int pid)
{
    int pidfd = kdbus_pidfd_open(pid, PIDFD_THREAD);
    int group;

    if (pidfd != -EINVAL)
        return pidfd;
    pidfd = kdbus_pidfd_open(pid, 0);
    if (pidfd >= 0)
        return pidfd;
    group = thread_group(pid);
    return group < 0 ? group : kdbus_pidfd_open(group, 0);
}

static int discard_pending(int socket)
{
    char discarded[4096];

    for (;;) {
        ssize_t length = recv(socket, discarded, sizeof(discarded), MSG_DONTWAIT);

        if (length == 0)
            return 0;
        if (length < 0 && errno != EINTR)
            return errno == EAGAIN ? 0 : -errno;
    }
}

int kdbus_drain(int pid, int descriptor, uint64_t cookie, int *stranger)
{
    uint64_t found;
    int pidfd;
    int copy;
    int result;

    *stranger = -1;
    pidfd = open_thread(pid);
    if (pidfd < 0)
        return pidfd;
    copy = kdbus_pidfd_getfd(pidfd, descriptor);
    close(pidfd);
    if (copy < 0)
        return copy == -EBADF ? 0 : copy;
    if (kdbus_socket_cookie(copy, &found) < 0 || found != cookie) {
        *stranger = copy;
        return 0;
    }
    result = discard_pending(copy);
    close(copy);
    return result < 0 ? result : 1;
}
