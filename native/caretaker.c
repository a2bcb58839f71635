// SPDX-License-Identifier: GPL-2.0-or-later
//
// The caretaker of a tree of processes: a process of its own that answers trapped calls when the supervisor has ended.
//
// A call that is trapped when nobody has the listener fails with ENOSYS; so do opens and mappings that have nothing to
// do with kdbus, in a daemon that outlives `kdbus run`, or in the whole tree when the supervisor is killed. So a
// process keeps a duplicate of the listener. It sleeps until the supervisor has ended, in whatever way, and then lets
// the kernel have every call but kdbus's own, which fail as on a bus that is gone. It ends with the last process of the
// tree.
//
// As long as there is a listener, a call that the supervisor had received when it was killed waits for an answer, and
// nobody else knows its id. But ids are given one after the other, so it is enough to know the first and the newest
// that was received: they stand in memory that both share, and all between are answered. An id that waits for nobody is
// refused, and one that has not been received yet stays and is received. What the call was is not known any more, so
// the kernel gets it, too: kdbus's own then fail with ENOTTY.
//
// It is forked and never executes anything: it starts in half a millisecond, and needs neither a file nor an
// interpreter afterwards. Its memory is what it shares with the supervisor; the part that the supervisor changes later
// becomes its own. Alternatives: a program to be built, installed and found; a thread or a child of the program, which
// would be under the filter itself and keep the tree alive for ever.

#include "helper.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

// A call may have been received just before its id would have been noted, by each of a few threads.
#define UNNOTED 64
// How many ids are tried before new calls get their turn; 0.2 us each.
#define AT_ONCE 1024
#define MOST_CALLS 8

// What the child needs, on its stack.
struct caretaker {
    int listener;
    int supervisor;
    struct kdbus_received *received;
    struct kdbus_call calls[MOST_CALLS];
    size_t count;
};

void kdbus_note_received(struct kdbus_received *received, uint64_t id)
{
    if (!received)
        return;
    if (!__atomic_load_n(&received->first, __ATOMIC_RELAXED))
        __atomic_store_n(&received->first, id, __ATOMIC_RELEASE);
    __atomic_store_n(&received->newest, id, __ATOMIC_RELEASE);
}

// Only `listener` and `supervisor` stay open: nobody must wait for an end of file that this process keeps from coming.
static void close_others(const struct caretaker *self)
{
    unsigned int low = (unsigned int)(self->listener < self->supervisor ? self->listener : self->supervisor);
    unsigned int high = (unsigned int)(self->listener < self->supervisor ? self->supervisor : self->listener);

    if (low > 0)
        syscall(SYS_close_range, 0U, low - 1, 0U);
    if (high > low + 1)
        syscall(SYS_close_range, low + 1, high - 1, 0U);
    syscall(SYS_close_range, high + 1, ~0U, 0U);
}

static int is_own(const struct caretaker *self, const struct kdbus_notification *notification)
{
    for (size_t i = 0; i < self->count; i++)
        if (self->calls[i].architecture == notification->architecture && self->calls[i].number == notification->number)
            return 1;
    return 0;
}

// Answers what waits for the next of the ids down from `*id`, to the first; whether some are left.
static int answer_received(const struct caretaker *self, uint64_t *id, uint64_t first)
{
    for (unsigned int tried = 0; tried < AT_ONCE; tried++, --*id) {
        // Answers that nobody waits for are refused.
        (void)kdbus_listener_continue(self->listener, *id);
        if (*id == first)
            return 0;
    }
    return 1;
}

// Until the supervisor has ended (1) or the tree (0).
static int sleep_until_needed(const struct caretaker *self)
{
    // Not POLLIN: the supervisor's calls must not wake this process.
    struct pollfd pollers[] = {{.fd = self->supervisor, .events = POLLIN}, {.fd = self->listener}};

    while (!pollers[0].revents) {
        if (poll(pollers, 2, -1) < 0 && errno != EINTR && errno != ENOMEM)
            return 0;
        if (pollers[1].revents)
            return 0;
    }
    return 1;
}

static void serve(const struct caretaker *self)
{
    uint64_t first = __atomic_load_n(&self->received->first, __ATOMIC_ACQUIRE);
    uint64_t id = __atomic_load_n(&self->received->newest, __ATOMIC_ACQUIRE) + UNNOTED;
    struct pollfd poller = {.fd = self->listener, .events = POLLIN};
    int received = first != 0;

    for (;;) {
        struct kdbus_notification notification;
        int ready = poll(&poller, 1, received ? 0 : -1);

        if (ready > 0) {
            int result = kdbus_listener_take(&poller, NULL, &notification);

            if (result == 2 || (result < 0 && result != -EINTR))
                return;
            if (result == 1 && is_own(self, &notification))
                (void)kdbus_listener_respond(self->listener, notification.id, 0, ESHUTDOWN);
            else if (result == 1)
                (void)kdbus_listener_continue(self->listener, notification.id);
        } else if (ready < 0 && errno != EINTR && errno != ENOMEM) {
            return;
        }
        if (received)
            received = answer_received(self, &id, first);
    }
}

static _Noreturn void live(struct caretaker *self)
{
    (void)setsid(); // a child of fork leads no group, so this cannot fail
    if (chdir("/"))
        _exit(1); // a working folder would keep its file system from being unmounted
    (void)prctl(PR_SET_NAME, "kdbus-caretaker");
    close_others(self);
    if (sleep_until_needed(self))
        serve(self);
    _exit(0);
}

int kdbus_start_caretaker(int listener, const struct kdbus_call *calls, size_t count, struct kdbus_received **received)
{
    struct caretaker self = {.listener = listener, .count = count};
    sigset_t all, before;
    pid_t child;
    int error;

    if (count > MOST_CALLS)
        return -E2BIG;
    memcpy(self.calls, calls, count * sizeof(*calls));
    self.received = mmap(NULL, sizeof(*self.received), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (self.received == MAP_FAILED)
        return -errno;
    self.supervisor = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (self.supervisor < 0) {
        error = errno;
        munmap(self.received, sizeof(*self.received));
        return -error;
    }
    // They stay blocked in the child: whoever ends the tree politely is to reach its programs while they are answered.
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    child = fork();
    error = errno;
    if (child == 0)
        live(&self);
    sigprocmask(SIG_SETMASK, &before, NULL);
    close(self.supervisor);
    if (child < 0) {
        munmap(self.received, sizeof(*self.received));
        return -error;
    }
    *received = self.received;
    return child;
}
