// SPDX-License-Identifier: GPL-2.0-or-later
//
// The loop of the flow engine: the next trap, whichever listener it comes from, served here or handed to the broker.
//
// Each round polls all listeners at once: the processes that talk to each other may belong to different trees, and a
// supervisor that is waiting at one of them would have to be woken to look at the others. Polling them through an
// epoll set would be cheaper for many, but the kernel then no longer wakes the supervisor on the caller's core.
//
// How long it waits is limited by a timer that is set once, not by a timeout of each poll, which costs a third of a
// microsecond every time. Whatever else the process waits for meanwhile, in an epoll set of its own, ends the wait.

#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

// Behind the listeners in `pollers`.
enum { HANG_UPS, TIMER, ATTENTION, OTHERS };

// What kdbus_engine_run waits for besides calls.
int flow_prepare_loop(struct kdbus_engine *engine, int hang_ups)
{
    engine->hang_ups = hang_ups;
    engine->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (engine->timer < 0)
        return -errno;
    return kdbus_engine_listen(engine, NULL, NULL, 0);
}

void flow_end_loop(struct kdbus_engine *engine)
{
    if (engine->timer >= 0)
        close(engine->timer);
    free(engine->pollers);
    free(engine->received);
}

// The listeners that kdbus_engine_run receives from; they stay the caller's.
int kdbus_engine_listen(struct kdbus_engine *engine, const int *listeners, struct kdbus_received *const *received,
                        size_t count)
{
    struct pollfd *pollers = calloc(count + OTHERS, sizeof(*pollers));
    struct kdbus_received **copy = calloc(count + 1, sizeof(*copy)); // never of nothing

    if (!pollers || !copy) {
        free(pollers);
        free(copy);
        return -ENOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        pollers[i] = (struct pollfd){.fd = listeners[i], .events = POLLIN};
        copy[i] = received[i];
    }
    // After the listeners: a file that was closed before the call that makes a listener ready has hung up by the time
    // that this is looked at. And once only, as looking uses up some of it (interposer/traps/mount_watch.py).
    pollers[count + HANG_UPS] = (struct pollfd){.fd = engine->hang_ups, .events = POLLIN};
    pollers[count + TIMER] = (struct pollfd){.fd = engine->timer, .events = POLLIN};
    pollers[count + ATTENTION] = (struct pollfd){.fd = engine->attention, .events = POLLIN};
    free(engine->pollers);
    free(engine->received);
    engine->pollers = pollers;
    engine->received = copy;
    engine->listener_count = count;
    engine->turn = 0;
    return 0;
}

// From now on, `descriptor` (-1 for none) ends waiting when it is readable; it stays the caller's.
void kdbus_engine_attend(struct kdbus_engine *engine, int descriptor)
{
    engine->attention = descriptor;
    engine->pollers[engine->listener_count + ATTENTION].fd = descriptor; // poll(2) ignores negative ones
}

// A listener that has something, from the one whose turn it is on; NULL if none has.
static const struct pollfd *ready_listener(struct kdbus_engine *engine)
{
    for (size_t i = 0; i < engine->listener_count; i++) {
        size_t index = (engine->turn + i) % engine->listener_count;

        if (engine->pollers[index].revents) {
            engine->turn = index + 1;
            return &engine->pollers[index];
        }
    }
    return NULL;
}

static int set_timer(const struct kdbus_engine *engine, uint64_t stop_ns)
{
    struct itimerspec stop = {
        .it_value = {.tv_sec = (time_t)(stop_ns / 1000000000), .tv_nsec = (long)(stop_ns % 1000000000)}};

    return !timerfd_settime(engine->timer, TFD_TIMER_ABSTIME, &stop, NULL);
}

// Receives calls, and serves what it can: returns 1 with a call for the broker, 0 when there is none until `stop_ns`
// (CLOCK_MONOTONIC) or something else to do, 2 at the end of the targets of a listener, or -errno; `*listener` is the
// one that it is about. When `stop_ns` is over, what waits is served, one call; and once one has been served,
// `turn_ns` later at the latest, as it may have made a deadline. A call that follows a hang-up is the broker's, which
// has to look after that first.
int kdbus_engine_run(struct kdbus_engine *engine, uint64_t stop_ns, uint64_t turn_ns,
                     struct kdbus_notification *notification, int *listener)
{
    uint64_t now = flow_now_ns();
    int over = stop_ns <= now || !set_timer(engine, stop_ns);
    int may_linger = stop_ns > now + turn_ns;

    engine->self = (int)syscall(SYS_gettid);
    do {
        const struct pollfd *others = &engine->pollers[engine->listener_count];
        const struct pollfd *ready;
        int hung_up;
        int result;

        if (poll(engine->pollers, engine->listener_count + OTHERS, over ? 0 : -1) < 0)
            return 0; // a signal, or no memory: no listener is to blame
        hung_up = others[HANG_UPS].revents;
        over = over || others[TIMER].revents || others[ATTENTION].revents;
        ready = ready_listener(engine);
        if (!ready)
            return 0;
        *listener = engine->listener = ready->fd;
        result = kdbus_listener_take(ready, engine->received[ready - engine->pollers], notification);
        if (result != 1)
            return result;
        if (!engine->lent_any || hung_up || !flow_serve(engine, notification))
            return 1;
        engine->served++;
        if (may_linger) {
            may_linger = 0;
            over = over || !set_timer(engine, flow_now_ns() + turn_ns);
        }
    } while (!over);
    return 0;
}
