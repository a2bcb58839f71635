// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a message costs its sender's user in the receiver's queue, as the broker counts it (broker/quota.py): messages,
// or, where the revision of the receiver has it so, the pool's memory.

#include "flow.h"

// Index of the user's charge, perhaps one of nothing yet, or CHARGE_OF_BROKER.
int quota_of_user(const struct flow_connection *receiver, uint64_t user)
{
    int unused = CHARGE_OF_BROKER;

    for (int i = 0; i < LENT_USERS; i++) {
        if (receiver->charges[i].count && receiver->charges[i].user == user)
            return i;
        if (!receiver->charges[i].count && unused < 0)
            unused = i;
    }
    return unused;
}

// Whether `charge`, of `size` bytes more, would be more than the user's share: a third of what the others leave of half
// of the pool.
static int exceeds_share(const struct flow_connection *receiver, const struct flow_charge *charge, uint64_t size)
{
    uint64_t half = receiver->pool.memory.size / 2;
    uint64_t bytes = charge->count ? charge->bytes : 0;
    uint64_t count = charge->count;

    if (half < receiver->waiting_bytes || size > LENT_SHARE_BYTES)
        return 1;
    return (half - receiver->waiting_bytes + bytes) / 3 < bytes + size || bytes + size > LENT_SHARE_BYTES ||
           count >= LENT_SHARE_MESSAGES;
}

// Index of the charge that a message of `user` costs which takes `size` bytes of the pool, or why there is none.
int quota_find(const struct flow_connection *receiver, uint64_t user, uint64_t size)
{
    int found;

    if (receiver->revision->shares_memory) {
        found = quota_of_user(receiver, user);
        return found >= 0 && exceeds_share(receiver, &receiver->charges[found], size) ? CHARGE_REFUSED : found;
    }
    if (receiver->message_count < LENT_UNACCOUNTED)
        return CHARGE_NONE;
    found = quota_of_user(receiver, user);
    return found >= 0 && receiver->charges[found].count >= LENT_PER_USER ? CHARGE_REFUSED : found;
}

// Why quota_find has said CHARGE_REFUSED, in the broker's words. `size`: bytes in the pool, where they count.
void quota_explain(const struct flow_connection *receiver, uint64_t user, uint64_t size,
                   struct kdbus_refusal *refusal)
{
    int found = quota_of_user(receiver, user);
    const struct flow_charge none = {0};
    const struct flow_charge *charge = found >= 0 && receiver->charges[found].count ? &receiver->charges[found] : &none;
    uint64_t half = receiver->pool.memory.size / 2;
    uint64_t most;

    *refusal = (struct kdbus_refusal){KDBUS_REFUSED_COUNT, charge->count, LENT_PER_USER, LENT_UNACCOUNTED};
    if (!receiver->revision->shares_memory)
        return;
    *refusal = (struct kdbus_refusal){KDBUS_REFUSED_COUNT, charge->count, LENT_SHARE_MESSAGES, 0};
    most = half < receiver->waiting_bytes ? 0 : (half - receiver->waiting_bytes + charge->bytes) / 3;
    if (half < receiver->waiting_bytes)
        *refusal = (struct kdbus_refusal){KDBUS_REFUSED_ALL, receiver->waiting_bytes, half, 0};
    else if (most < charge->bytes + size || charge->bytes + size > LENT_SHARE_BYTES)
        *refusal = (struct kdbus_refusal){KDBUS_REFUSED_SIZE, charge->bytes, most, size};
}

// Charges a message, whose slice is known; `charge`: what quota_find has said.
void quota_charge(struct flow_connection *receiver, struct flow_entry *entry, int charge, uint64_t user)
{
    struct flow_charge *record;

    entry->user = charge;
    if (charge < 0)
        return;
    record = &receiver->charges[charge];
    if (!record->count)
        *record = (struct flow_charge){user, 0, 0};
    record->count++;
    if (receiver->revision->shares_memory) {
        record->bytes += entry->payload->size;
        receiver->waiting_bytes += entry->payload->size;
    }
}

// Called while the slice is still the message's.
void quota_give_back(struct flow_connection *receiver, struct flow_entry *entry)
{
    if (entry->user < 0)
        return;
    receiver->charges[entry->user].count--;
    if (receiver->revision->shares_memory) {
        receiver->charges[entry->user].bytes -= entry->payload->size;
        receiver->waiting_bytes -= entry->payload->size;
    }
    entry->user = -1;
}
