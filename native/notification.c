// SPDX-License-Identifier: GPL-2.0-or-later
//
// The supervisor's end of a seccomp filter: receiving trapped calls and answering them, see seccomp_unotify(2).

#include "helper.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// The kernel may know longer structures than this header does, and writes its own length. It promises to say so
// through SECCOMP_GET_NOTIF_SIZES; there is room for some growth, and kdbus_listener_prepare refuses more.
#define ROOM 512

union request {
    struct seccomp_notif notification;
    char room[ROOM];
};

union response {
    struct seccomp_notif_resp response;
    char room[ROOM];
};

_Static_assert(sizeof(struct seccomp_notif) <= ROOM, "room for requests");
_Static_assert(sizeof(struct seccomp_notif_resp) <= ROOM, "room for responses");

int kdbus_listener_prepare(int listener)
{
    struct seccomp_notif_sizes sizes;
    uint64_t nobody = 0;

    // 0 is never the id of a waiting call in practice (ids start at a random number), so ENOENT is what a
    // notification descriptor says; any other file says ENOTTY or EINVAL.
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &nobody) && errno != ENOENT)
        return -errno;
    memset(&sizes, 0, sizeof(sizes));
    if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes))
        return -errno;
    if (sizes.seccomp_notif > ROOM || sizes.seccomp_notif_resp > ROOM)
        return -E2BIG;
    // By value: a pointer here is an unknown flag, and only speed would tell.
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, (unsigned long)SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP))
        return errno == EINVAL || errno == ENOTTY ? 0 : -errno;
    return 1;
}

int kdbus_listener_receive(int listener, struct kdbus_received *received, int64_t timeout_ns,
                           struct kdbus_notification *notification)
{
    struct pollfd poller = {.fd = listener, .events = POLLIN};
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    int ready;

    if (listener < 0)
        return -EBADF; // poll would ignore it, and wait
    ready = ppoll(&poller, 1, timeout_ns < 0 ? NULL : &timeout, NULL);
    return ready <= 0 ? (ready < 0 ? -errno : 0) : kdbus_listener_take(&poller, received, notification);
}

int kdbus_listener_take(const struct pollfd *poller, struct kdbus_received *received,
                        struct kdbus_notification *notification)
{
    union request request;

    if (poller->revents & POLLNVAL)
        return -EBADF;
    if (!(poller->revents & POLLIN))
        return poller->revents & POLLHUP ? 2 : -EIO;

    memset(&request, 0, sizeof(request)); // the kernel insists on zeros
    if (ioctl(poller->fd, SECCOMP_IOCTL_NOTIF_RECV, &request))
        return errno == ENOENT ? 0 : -errno; // the target died, or was interrupted, since the poll
    kdbus_note_received(received, request.notification.id);
    notification->id = request.notification.id;
    notification->pid = request.notification.pid;
    notification->flags = request.notification.flags;
    notification->number = request.notification.data.nr;
    notification->architecture = request.notification.data.arch;
    notification->instruction_pointer = request.notification.data.instruction_pointer;
    memcpy(notification->arguments, request.notification.data.args, sizeof(notification->arguments));
    return 1;
}

// A request that a signal to this process may break off before it has had any effect (the kernel takes its lock, and
// waits for the target, interruptibly), made again until it has one.
static int insist(int listener, unsigned long request, void *argument)
{
    int result;

    do
        result = ioctl(listener, request, argument);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

static int respond(int listener, uint64_t id, int64_t value, int32_t error, uint32_t flags)
{
    union response response;

    memset(&response, 0, sizeof(response));
    response.response.id = id;
    response.response.val = value;
    response.response.error = error;
    response.response.flags = flags;
    return insist(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

int kdbus_listener_respond(int listener, uint64_t id, int64_t value, int32_t error)
{
    if (error < 0)
        return -EINVAL;
    return respond(listener, id, value, -error, 0);
}

int kdbus_listener_continue(int listener, uint64_t id)
{
    return respond(listener, id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
}

int kdbus_listener_add_descriptor(int listener, uint64_t id, int descriptor, int at, uint32_t flags)
{
    struct seccomp_notif_addfd request = {
        .id = id,
        .flags = at < 0 ? 0 : SECCOMP_ADDFD_FLAG_SETFD,
        .srcfd = (uint32_t)descriptor,
        .newfd = at < 0 ? 0 : (uint32_t)at,
        .newfd_flags = flags,
    };

    return insist(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &request);
}

int kdbus_listener_is_valid(int listener, uint64_t id)
{
    int result = insist(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id);

    return result == -ENOENT ? 0 : result < 0 ? result : 1;
}
