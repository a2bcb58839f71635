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
//
// Mostly one call waits at a time, and is served as it comes. Whether others wait as well is looked at with every few
// calls, as looking takes a poll(2). Once there are several, all are received, and each gets its turn (shares.c).
// A received call waits on whatever signals arrive (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV), or, without that flag, may
// be broken off like any; one that is over by its turn is not served. A hang-up is looked for before each call that is
// served, which is later than when that call was received, so what was closed before is seen.

#include "hot_path.h"
#include "shares.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

// Behind the listeners in `pollers`.
enum { HANG_UPS, TIMER, ATTENTION, INTERRUPT, OTHERS };

#define LOOK_EVERY 4 // calls, for others that wait
#define AT_ONCE 64   // calls are received of one listener, before one is served

// What kdbus_engine_run waits for besides calls.
int flow_prepare_loop(struct kdbus_engine *engine, int hang_ups)
{
    engine->hang_ups = hang_ups;
    engine->shares = kdbus_shares_create();
    if (!engine->shares)
        return -ENOMEM;
    engine->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (engine->timer < 0)
        return -errno;
    engine->interrupt = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine->interrupt < 0)
        return -errno;
    return kdbus_engine_listen(engine, NULL, NULL, 0);
}

void flow_end_loop(struct kdbus_engine *engine)
{
    if (engine->timer >= 0)
        close(engine->timer);
    if (engine->interrupt >= 0)
        close(engine->interrupt);
    kdbus_shares_destroy(engine->shares);
    free(engine->pollers);
    free(engine->received);
    free(engine->held);
}

// The listeners that kdbus_engine_run receives from; they stay the caller's. Of one that is left out, no call may wait
// here (kdbus_engine_take).
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
    pollers[count + INTERRUPT] = (struct pollfd){.fd = engine->interrupt, .events = POLLIN};
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
static struct pollfd *ready_listener(struct kdbus_engine *engine)
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

// Whether it is time to look for more calls than the one that is received.
static int is_time_to_look(struct kdbus_engine *engine)
{
    if (++engine->unlooked < LOOK_EVERY)
        return 0;
    engine->unlooked = 0;
    return 1;
}

// Whether calls wait besides the one that was just received from `ready`, as far as it was looked.
static int others_wait(struct kdbus_engine *engine, struct pollfd *ready)
{
    int several = 0;

    ready->revents = 0;
    for (size_t i = 0; i < engine->listener_count; i++)
        several |= engine->pollers[i].revents & POLLIN;
    if (!several && !is_time_to_look(engine))
        return 0;
    return (poll(ready, 1, 0) > 0 && ready->revents & POLLIN) || several;
}

// The present call is charged that, in ns, instead of the time that it has taken when it is over.
void kdbus_engine_charge(struct kdbus_engine *engine, uint64_t cost)
{
    if (engine->chosen_ns)
        kdbus_shares_charge(engine->shares, cost);
    engine->chosen_ns = 0;
}

// The next call of that thread's process is served first.
void kdbus_engine_favour(struct kdbus_engine *engine, uint32_t thread)
{
    shares_favour_thread(engine->shares, thread);
}

// A call that was received from `listener` waits for its turn: 0, or -ENOMEM. One that is over is forgotten.
int kdbus_engine_put(struct kdbus_engine *engine, int listener, const struct kdbus_notification *notification)
{
    uint64_t user;
    uint64_t process;

    if (!shares_owner(engine->shares, listener, notification, flow_now_ns(), &user, &process))
        return 0;
    return kdbus_shares_put(engine->shares, user, process, listener, notification);
}

// A call of `listener` that waits for its turn, whoever's it is: 1 with `notification` filled, 0 if there is none.
int kdbus_engine_take(struct kdbus_engine *engine, int listener, struct kdbus_notification *notification)
{
    return kdbus_shares_take(engine->shares, listener, notification);
}

// Receives a call of each listener that was found ready, or `all` that wait there, as far as there is room. Results as
// those of kdbus_listener_receive: 1 with a call that has to be served now, as there is no memory for it to wait.
static int receive(struct kdbus_engine *engine, int all, struct kdbus_notification *notification, int *listener)
{
    for (size_t i = 0; i < engine->listener_count; i++) {
        struct pollfd *poller = &engine->pollers[i];

        for (int count = 0; poller->revents; count++) {
            int result;

            if (count == AT_ONCE) {
                engine->unlooked = LOOK_EVERY; // for the rest
                break;
            }
            if (poller->revents & POLLIN && shares_waiting(engine->shares) >= SHARES_ROOM)
                return 0;
            *listener = poller->fd;
            result = kdbus_listener_take(poller, engine->received[i], notification);
            if (result < 0 || result == 2)
                return result;
            if (result == 1 && kdbus_engine_put(engine, poller->fd, notification))
                return 1;
            engine->newest = notification->id;
            if (!all || poll(poller, 1, 0) <= 0)
                break;
        }
    }
    return 0;
}

// The next call; results as those of kdbus_listener_receive, for listeners that were polled.
static int next_call(struct kdbus_engine *engine, struct kdbus_notification *notification, int *listener)
{
    int all = 1;
    int result;

    if (engine->chosen_ns) {
        kdbus_shares_charge(engine->shares, flow_now_ns() - engine->chosen_ns);
        engine->chosen_ns = 0;
    }
    if (shares_waiting(engine->shares)) {
        all = is_time_to_look(engine);
    } else {
        struct pollfd *ready = ready_listener(engine);

        if (!ready)
            return 0;
        *listener = ready->fd;
        result = kdbus_listener_take(ready, engine->received[ready - engine->pollers], notification);
        if (result != 1 || !others_wait(engine, ready) || kdbus_engine_put(engine, ready->fd, notification))
            return result;
    }
    engine->newest = 0;
    result = receive(engine, all, notification, listener);
    if (result)
        return result;
    while (kdbus_shares_next(engine->shares, notification, listener)) {
        if (notification->id != engine->newest && kdbus_listener_is_valid(*listener, notification->id) != 1)
            continue;
        engine->chosen_ns = flow_now_ns();
        return 1;
    }
    return 0;
}

static int set_timer(const struct kdbus_engine *engine, uint64_t stop_ns)
{
    struct itimerspec stop = {
        .it_value = {.tv_sec = (time_t)(stop_ns / 1000000000), .tv_nsec = (long)(stop_ns % 1000000000)}};

    return !timerfd_settime(engine->timer, TFD_TIMER_ABSTIME, &stop, NULL);
}

// A signal has come, in whose stead the interrupt was; it is not told again.
static int was_interrupted(struct kdbus_engine *engine, const struct pollfd *poller)
{
    uint64_t count;

    return poller->revents && read(engine->interrupt, &count, sizeof(count)) == sizeof(count);
}

static int run(struct kdbus_engine *engine, uint64_t stop_ns, uint64_t turn_ns,
               struct kdbus_notification *notification, int *listener)
{
    uint64_t now = flow_now_ns();
    int over = stop_ns <= now || !set_timer(engine, stop_ns);
    int may_linger = stop_ns > now + turn_ns;

    engine->self = (int)syscall(SYS_gettid);
    do {
        const struct pollfd *others = &engine->pollers[engine->listener_count];
        int result;

        if (poll(engine->pollers, engine->listener_count + OTHERS, over || shares_waiting(engine->shares) ? 0 : -1) < 0)
            return 0; // a signal, or no memory: no listener is to blame
        if (others[HANG_UPS].revents)
            engine->hung_up = 1;
        over = was_interrupted(engine, &others[INTERRUPT]) || over || others[TIMER].revents ||
               others[ATTENTION].revents;
        result = next_call(engine, notification, listener);
        if (result != 1)
            return result;
        engine->listener = *listener;
        if (engine->chosen_ns && !engine->hung_up) // it may have come since that was looked at
            engine->hung_up = poll(&engine->pollers[engine->listener_count + HANG_UPS], 1, 0) > 0;
        if (engine->held_count && stall_holds(engine, *listener, notification))
            return 5;
        if (!engine->lent_any || engine->hung_up || !flow_serve(engine, notification))
            return 1;
        engine->served++;
        if (may_linger) {
            may_linger = 0;
            over = over || !set_timer(engine, flow_now_ns() + turn_ns);
        }
    } while (!over && !flow_ring_is_full(engine));
    return 0;
}

// What a deputy is to do.
struct turn {
    struct kdbus_engine *engine;
    uint64_t stop_ns;
    uint64_t turn_ns;
    struct kdbus_notification *notification;
    int *listener;
    int result;
};

static void run_turn(struct deputy *self, void *argument)
{
    struct turn *turn = argument;

    turn->engine->deputy = self;
    turn->result = run(turn->engine, turn->stop_ns, turn->turn_ns, turn->notification, turn->listener);
    turn->engine->deputy = NULL;
}

// Receives calls, and serves what it can: returns 1 with a call for the broker, 0 when there is none until `stop_ns`
// (CLOCK_MONOTONIC) or something else to do (as to take records, ring.c), 2 at the end of the targets of a listener, 3
// when it has left a deputy behind (kdbus_engine_stall), 4 when so and there is a call for the broker, 5 with a call of
// somebody whose calls are held, or -errno; `*listener` is the one that it is about. When `stop_ns` is over, what waits
// is served, one call; and once one has been served, `turn_ns` later at the latest, as it may have made a deadline. A
// call that follows a hang-up is the broker's, which has to look after that first; that is remembered until
// something is lent again, since looking uses up what is told of mounts.
//
// As long as nothing is lent, no memory of a target is touched here, and no deputy needed.
int kdbus_engine_run(struct kdbus_engine *engine, uint64_t stop_ns, uint64_t turn_ns,
                     struct kdbus_notification *notification, int *listener)
{
    struct turn turn = {engine, stop_ns, turn_ns, notification, listener, 0};
    int result = -EAGAIN;

    if (engine->deputies && engine->lent_any)
        result = deputies_do(engine->deputies, run_turn, &turn, engine->interrupt);
    if (result == -EINPROGRESS) {
        *listener = engine->listener;
        return hot_abandon(engine, notification);
    }
    return result ? run(engine, stop_ns, turn_ns, notification, listener) : turn.result;
}

void kdbus_engine_employ(struct kdbus_engine *engine, struct kdbus_deputies *deputies)
{
    engine->deputies = deputies;
}
