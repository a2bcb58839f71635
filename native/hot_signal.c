// SPDX-License-Identifier: GPL-2.0-or-later
//
// Signals on the hot path, see hot_path.c. The broker has said who gets those to this destination, all or one, with
// this filter; here it is looked whether all of them can take it. If one cannot, the broker looks, as that one has lost
// something then, or the SEND fails; and nobody has got anything yet.

#include "hot_path.h"

#include <stdlib.h>

// What one of the receivers gets.
struct delivery {
    struct flow_entry *entry;
    int charge;
};

static int deliver(struct kdbus_engine *engine, struct sending *send, const struct flow_listener *listener,
                   struct delivery *made)
{
    struct flow_connection *receiver = listener->connection;
    const struct flow kind = {.destination = receiver, .attach_flags = listener->attach_flags};
    const struct flow_export *shown = NULL;

    if (!receiver->used || !flow_is_lent(engine, receiver))
        return 0;
    shelf_collect(engine, receiver);
    if (receiver->message_count >= LENT_MESSAGES)
        return 0;
    if (receiver->revision->whole && listener->attach_flags) {
        shown = flow_export_to(engine, &kind, send->origin->facts.origin);
        if (!shown)
            return 0;
    }
    made->entry = sending_new_entry(send);
    if (!made->entry)
        return 0;
    made->charge = sending_place(send, receiver, made->entry, shown, 0);
    if (made->charge != CHARGE_OF_BROKER && made->charge != CHARGE_REFUSED)
        return 1;
    sending_undo(receiver, made->entry);
    made->entry = NULL;
    return 0;
}

// As if nobody had got anything: `count` deliveries, and perhaps one more that was being made.
void signal_undo(const struct flow_signal *signal, struct delivery *made, uint32_t count)
{
    for (uint32_t i = 0; i <= count; i++)
        if (made[i].entry)
            sending_undo(signal->listeners[i].connection, made[i].entry);
    free(made);
}

// 1 if the signal was served, 0 if it is the broker's.
int hot_signal(struct kdbus_engine *engine, struct sending *send)
{
    const struct flow_signal *signal = flow_find_signal(engine, send->source, send->out.words[MSG_DST],
                                                        send->out.filter, send->out.filter_size);
    const struct flow kind = {.attach_flags = signal ? signal->attach_flags : 0};
    struct delivery *made;
    uint32_t count = 0;

    // A memfd would need a duplicate for each receiver.
    if (!signal || send->out.part_count != send->out.vector_count ||
        (kind.attach_flags && !sending_find_origin(engine, send, &kind)) ||
        (!signal->count && !flow_ring_foresee(engine, send)) || !sending_write_flags(send))
        return 0;
    made = calloc(signal->count + 1, sizeof(*made)); // may be nobody
    if (!made) {
        sending_restore_flags(send);
        return 0;
    }
    engine->flight.signal = signal;
    engine->flight.made = made;
    while (count < signal->count && deliver(engine, send, &signal->listeners[count], &made[count]))
        engine->flight.made_count = ++count;
    engine->flight.made = NULL;
    if (count < signal->count) {
        signal_undo(signal, made, count);
        sending_restore_flags(send);
        return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct flow_connection *receiver = signal->listeners[i].connection;

        quota_charge(receiver, made[i].entry, made[i].charge, send->source->user);
        sending_enqueue(engine, receiver, made[i].entry);
    }
    free(made);
    sending_count(engine, send);
    flow_ring_sent(engine, send);
    sending_finish(engine, send);
    return 1;
}
