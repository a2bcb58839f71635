// SPDX-License-Identifier: GPL-2.0-or-later
//
// Calls that wait while they are lent: when somebody has to look after them, and whether their threads still sleep.
//
// A signal wakes a waiting thread, and nothing announces that, so its state is looked at from time to time; why, and
// what the state tells, is explained in interposer/supervisor/waiting.py. Nearly always it sleeps. That is seen here,
// so that not everything has to be taken back for it; whatever else is seen is the broker's business.

#include "flow.h"

#include <string.h>
#include <unistd.h>

#define INTERVAL_NS 20000000ULL // between looks, the longest one of interposer/supervisor/waiting.py
#define INTERVAL_PER_CALL_NS 100000ULL // or longer, so that looking is not all that is done

// When the broker has to look: the nearest deadline, or the moment at which the thread of a waiting call must be looked
// at. All ones for never.
uint64_t kdbus_engine_deadline(const struct kdbus_engine *engine)
{
    uint64_t nearest = UINT64_MAX;

    for (const struct flow_reply *reply = engine->replies; reply; reply = reply->next) {
        uint64_t due = reply->linked ? reply->deadline_ns : UINT64_MAX;

        if (reply->waiting && reply->look_ns < due)
            due = reply->look_ns;
        if (due < nearest)
            nearest = due;
    }
    return nearest;
}

// Whether the thread still waits, and sleeps, as far as its `status` tells.
static int sleeps(struct kdbus_engine *engine, const struct flow_reply *reply)
{
    static const char key[] = "\nState:\t";
    uint64_t thread_and_descriptor = (uint64_t)reply->caller.pid << 32 | (uint32_t)reply->caller.arguments[0];
    struct flow_binding *binding = flow_find_binding(engine, thread_and_descriptor);
    char text[512]; // the line is the second or third
    const char *state;
    ssize_t length;

    // After an exec the folder may be that of a thread which has taken over the number, and does not wait.
    if (kdbus_listener_is_valid(reply->listener, reply->caller.id) != 1)
        return 0;
    if (!binding || !flow_open_thread(engine, binding, reply->listener, reply->caller.id))
        return 0;
    length = pread(binding->status, text, sizeof(text), 0);
    state = length > 0 ? memmem(text, (size_t)length, key, sizeof(key) - 1) : NULL;
    return state && state + sizeof(key) - 1 < text + length && state[sizeof(key) - 1] == 'S';
}

// Looks at the threads that are to be looked at by `now_ns`. Those that sleep are to be looked at again later; the
// others stay due.
void kdbus_engine_look(struct kdbus_engine *engine, uint64_t now_ns)
{
    uint64_t interval = 0;

    for (const struct flow_reply *reply = engine->replies; reply; reply = reply->next)
        interval += reply->waiting ? INTERVAL_PER_CALL_NS : 0;
    if (interval < INTERVAL_NS)
        interval = INTERVAL_NS;
    for (struct flow_reply *reply = engine->replies; reply; reply = reply->next)
        if (reply->waiting && reply->look_ns <= now_ns && sleeps(engine, reply))
            reply->look_ns = now_ns + interval;
}
