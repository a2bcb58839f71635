// SPDX-License-Identifier: GPL-2.0-or-later
//
// Messages of one slice, as all but version 3 have them (broker/inbox.py): the sender's
// items in its own order, or others that say the same; metadata, and then the payload, all of it written when the
// message is sent.

#include "hot_path.h"

#include <string.h>

static int has_timestamp(const struct flow_entry *entry, const struct flow_export *shown)
{
    return entry->has_timestamp && shown->facts.shows_timestamp;
}

static uint64_t header_bytes(const struct kdbus_flow_revision *receiver)
{
    return receiver->message_is_command ? COMMAND_HEADER_BYTES : HEADER_BYTES;
}

// How large the message will be. `shown`: NULL without metadata.
struct whole whole_measure(const struct outgoing *out, const struct kdbus_flow_revision *receiver,
                           const struct flow_entry *entry, const struct flow_export *shown)
{
    struct whole whole = {.message_size = out->items_end, .metadata_at = align8(out->words[MSG_SIZE])};

    if (!receiver->keeps_order)
        whole.message_size = whole.metadata_at = incoming_size(entry) + header_bytes(receiver) - HEADER_BYTES;
    whole.payload_at = whole.metadata_at;
    if (shown && shown->items_size) {
        whole.message_size = whole.payload_at + (receiver->keeps_order ? shown->facts.items_end : shown->items_size);
        whole.payload_at += shown->items_size;
    }
    if (shown && has_timestamp(entry, shown))
        whole.message_size = whole.payload_at += TIMESTAMP_ITEM;
    whole.size = align8(whole.payload_at + out->payload_size);
    return whole;
}

// The items that were sent, with the receiver's numbers; offsets of payload are counted from the start of the message,
// and descriptors have no number yet.
static void write_sent_items(const struct outgoing *out, const struct kdbus_flow_revision *receiver,
                        struct flow_entry *entry, uint64_t payload_at, char *message)
{
    const struct kdbus_flow_revision *sender = out->revision;
    const int32_t none = -1;
    uint32_t part = 0;

    memcpy(message + HEADER_BYTES, (const char *)out->words + HEADER_BYTES, out->words[MSG_SIZE] - HEADER_BYTES);
    memset(message + out->words[MSG_SIZE], 0, align8(out->words[MSG_SIZE]) - out->words[MSG_SIZE]);
    for (uint64_t position = HEADER_BYTES; position < out->words[MSG_SIZE];) {
        uint64_t *item = (uint64_t *)(message + position);
        uint64_t size = item[0];

        if (item[1] == sender->item_vector) {
            item[1] = receiver->item_offset;
            item[3] = payload_at + entry->parts[part++].start;
        } else if (item[1] == sender->item_memfd) {
            item[1] = receiver->item_memfd;
            entry->parts[part].place = position + ITEM_HEADER + 16;
            memcpy(message + entry->parts[part++].place, &none, sizeof(none));
        } else if (item[1] == sender->item_filter) {
            item[1] = receiver->item_filter;
        } else {
            item[1] = receiver->item_name;
            if (!sender->keeps_padding)
                memset(message + position + size, 0, align8(size) - size);
        }
        position += align8(size);
    }
}

// Items that say the same, in an order of their own.
static void write_own_items(const struct kdbus_flow_revision *receiver, struct flow_entry *entry, uint64_t payload_at,
                            char *message)
{
    uint64_t place = header_bytes(receiver) + (entry->name_size ? align8(ITEM_HEADER + entry->name_size) : 0);

    incoming_write_items(receiver, entry, payload_at, (uint64_t *)(message + header_bytes(receiver)));
    for (uint32_t i = 0; i < entry->part_count; i++) {
        if (entry->parts[i].file >= 0)
            entry->parts[i].place = place + ITEM_HEADER + 16;
        place += entry->parts[i].file < 0 ? VEC_ITEM : MEMFD_ITEM;
    }
}

// The header, but for the size; where a message is its own command, as that.
static void write_header(const struct outgoing *out, const struct kdbus_flow_revision *receiver,
                         const struct flow_entry *entry, uint64_t *word)
{
    uint64_t flags = entry->header[MSG_FLAGS_WORD];

    if (!receiver->message_is_command) {
        memcpy(word, entry->header, HEADER_BYTES);
        return;
    }
    word[COMMAND_FLAGS_WORD] = (flags & MSG_EXPECT_REPLY ? COMMAND_EXPECT_REPLY : 0) |
                               (flags & MSG_NO_AUTO_START ? COMMAND_NO_AUTO_START : 0) |
                               (out->flags & SEND_SYNC_REPLY ? COMMAND_SYNC_REPLY : 0);
    word[COMMAND_KERNEL_FLAGS_WORD] = 0;
    memcpy(word + COMMAND_PRIORITY, entry->header + MSG_PRIORITY, HEADER_BYTES - 8 * MSG_PRIORITY);
}

// Metadata, at `place`.
static void write_shown(const struct kdbus_flow_revision *receiver, const struct flow_entry *entry,
                        const struct flow_export *shown, char *place)
{
    uint64_t item[] = {TIMESTAMP_ITEM, receiver->item_timestamp, entry->sequence, entry->timestamp[0],
                       entry->timestamp[1]};
    int is_timed = has_timestamp(entry, shown);

    if (is_timed)
        memcpy(place + (receiver->timestamp_first ? 0 : shown->items_size), item, sizeof(item));
    memcpy(place + (is_timed && receiver->timestamp_first ? TIMESTAMP_ITEM : 0), shown->data, shown->items_size);
}

// The message in a slice of its own, held once; NULL if that is the broker's business.
struct lent_slice *whole_write(const struct kdbus_notification *call, struct outgoing *out,
                               struct flow_connection *receiver, struct flow_entry *entry,
                               const struct flow_export *shown, const struct whole *whole)
{
    struct lent_slice *slice = lent_pool_allocate(&receiver->pool, whole->size);
    char *message;

    if (!slice)
        return NULL;
    message = (char *)receiver->pool.memory.memory + slice->offset;
    out->filling = slice;
    out->filled = receiver;
    if (!outgoing_copy_payload(call, out, message + whole->payload_at)) {
        lent_pool_undo(&receiver->pool, slice);
        slice = NULL;
    }
    out->filling = NULL;
    if (!slice)
        return NULL;
    memset(message + whole->payload_at + out->payload_size, 0, whole->size - whole->payload_at - out->payload_size);
    write_header(out, receiver->revision, entry, (uint64_t *)message);
    memcpy(message, &whole->message_size, sizeof(whole->message_size));
    if (receiver->revision->keeps_order)
        write_sent_items(out, receiver->revision, entry, whole->payload_at, message);
    else
        write_own_items(receiver->revision, entry, whole->payload_at, message);
    if (shown)
        write_shown(receiver->revision, entry, shown, message + whole->metadata_at);
    return slice;
}
