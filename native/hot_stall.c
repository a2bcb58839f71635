// SPDX-License-Identifier: GPL-2.0-or-later
//
// What becomes of a call in which the deputy that runs the engine was left behind (deputy.c).
//
// Until a call takes effect, all that it has made is its own, and noted in `flight` before each copy: it is undone
// here, and the call is served from its start when the copy is over, as if it came then. Behind that, only its results
// and its answer are left, which is given when the results are written. A reply is written into the memory of whoever
// waits for it, who is not to delay the replier: there the broker serves the reply, and writes its results behind those
// that do not get through now.

#include "hot_path.h"
#include "shares.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

// Undoes what the present call has made. The pool that was being filled moves away from the copy, which `sink` then
// takes; 0 if it cannot, and the copy has to be waited for.
static int undo(struct kdbus_engine *engine, void **sink, size_t *size)
{
    struct flight *flight = &engine->flight;
    struct sending *send = flight->send;
    int moved = 1;

    if (send && send->out.filling) {
        struct lent_pool *pool = &send->out.filled->pool;

        *size = pool->memory.size;
        moved = pool_move_away(pool->origin, sink) == 0;
        pool->memory.memory = pool->origin->memory;
        lent_pool_undo(pool, send->out.filling);
    }
    if (flight->shown.slice)
        incoming_undo(flight->shown.receiver, flight->shown.entry, flight->shown.slice);
    if (flight->made)
        signal_undo(flight->signal, flight->made, flight->made_count);
    else if (send && send->entry)
        sending_undo(send->receiver, send->entry);
    return moved;
}

// The deputy is left behind in the middle of `call`: 4 if that is the broker's to serve, 3 if there is nothing to do
// but what `engine->stall` says.
int hot_abandon(struct kdbus_engine *engine, const struct kdbus_notification *call)
{
    struct flight *flight = &engine->flight;
    struct kdbus_stall *stall = &engine->stall;
    const struct flow_reply *answering = flight->answering;
    void *sink = NULL;
    size_t size = 0;
    uint64_t process;
    int moved;

    *stall = (struct kdbus_stall){.ticket = kdbus_deputies_ticket(engine->deputies)};
    stall->listener = answering ? answering->listener : engine->listener;
    stall->call = answering ? answering->caller : *call;
    stall->kind = answering ? STALL_OTHER : flight->finished ? STALL_ANSWER : STALL_CALL;
    if (flight->foreseen) {
        // Perhaps it was not asked for at all.
        flight->foreseen->message_address = 0;
        flight->foreseen->payload.iov_len = 0;
        stall->kind = STALL_NOBODY;
    }
    if (!shares_owner(engine->shares, stall->listener, &stall->call, flow_now_ns(), &stall->user, &process))
        stall->user = UINT64_MAX;
    moved = undo(engine, &sink, &size);
    if (flight->socket >= 0)
        close(flight->socket);
    engine->deputy = NULL;
    deputies_release(engine->deputies, sink, sink ? size : 0, moved);
    if (stall->kind == STALL_ANSWER)
        engine->served++;
    return stall->kind == STALL_OTHER ? 4 : 3;
}

void kdbus_engine_stall(const struct kdbus_engine *engine, struct kdbus_stall *stall)
{
    *stall = engine->stall;
}

int kdbus_engine_hold(struct kdbus_engine *engine, uint64_t user, int held)
{
    uint64_t *users;

    for (size_t i = 0; !held && i < engine->held_count; i++) {
        if (engine->held[i] == user) {
            engine->held[i] = engine->held[--engine->held_count];
            return 0;
        }
    }
    if (!held)
        return 0;
    users = realloc(engine->held, (engine->held_count + 1) * sizeof(*users));
    if (!users)
        return -ENOMEM;
    users[engine->held_count++] = user;
    engine->held = users;
    return 0;
}

// Whether calls of who made this one are held.
int stall_holds(struct kdbus_engine *engine, int listener, const struct kdbus_notification *call)
{
    uint64_t user = engine->held_count ? kdbus_engine_user(engine, listener, call) : 0;

    for (size_t i = 0; i < engine->held_count; i++)
        if (engine->held[i] == user)
            return 1;
    return 0;
}

// Whose call that is; all ones for nobody.
uint64_t kdbus_engine_user(struct kdbus_engine *engine, int listener, const struct kdbus_notification *call)
{
    uint64_t user;
    uint64_t process;

    return shares_owner(engine->shares, listener, call, flow_now_ns(), &user, &process) ? user : UINT64_MAX;
}
