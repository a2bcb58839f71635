// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a receiver finds in its pool: header and items of a message, for RECV and for the answer to a synchronous SEND.

#include "hot_path.h"

#include <string.h>

// Whether it depends on the receiving thread what it is shown of the message (flow_export_for).
int incoming_has_metadata(const struct flow_entry *entry)
{
    return entry->origin || entry->has_timestamp;
}

// Bytes of the message without metadata, as incoming_write_items makes its items.
size_t incoming_size(const struct flow_entry *entry)
{
    size_t size = HEADER_BYTES + (entry->name_size ? align8(ITEM_HEADER + entry->name_size) : 0);

    for (uint32_t i = 0; i < entry->part_count; i++)
        size += entry->parts[i].file < 0 ? VEC_ITEM : MEMFD_ITEM;
    return size;
}

static size_t size_of(const struct flow_entry *entry, const struct flow_export *shown)
{
    size_t size = incoming_size(entry);

    if (shown)
        size += shown->items_size + (entry->has_timestamp && shown->facts.shows_timestamp ? TIMESTAMP_ITEM : 0);
    return size;
}

// Destination and payload as items at `word`; `payload_at`: where the payload begins, counted as the receiver does.
// Returns what is behind them.
uint64_t *incoming_write_items(const struct kdbus_flow_revision *receiver, const struct flow_entry *entry,
                               uint64_t payload_at, uint64_t *word)
{
    if (entry->name_size) {
        size_t padded = align8(entry->name_size);

        *word++ = ITEM_HEADER + entry->name_size;
        *word++ = receiver->item_name;
        memset(word, 0, padded);
        memcpy(word, entry->name, entry->name_size);
        word += padded / 8;
    }
    for (uint32_t i = 0; i < entry->part_count; i++) {
        if (entry->parts[i].file >= 0) {
            *word++ = MEMFD_ITEM;
            *word++ = receiver->item_memfd;
            *word++ = entry->parts[i].start;
            *word++ = entry->parts[i].size;
            *word++ = UINT32_MAX; // until it is installed
            continue;
        }
        *word++ = VEC_ITEM;
        *word++ = receiver->item_offset;
        *word++ = entry->parts[i].size;
        // Zeros that are not stored have no place.
        *word++ = entry->parts[i].start == UINT64_MAX ? UINT64_MAX : entry->parts[i].start + payload_at;
    }
    return word;
}

// The same for a message of one slice, which knows where the numbers go; what cannot be installed is -1 there.
static uint64_t install_into_whole(int listener, uint64_t call, const struct flow_connection *receiver,
                                   const struct flow_entry *entry)
{
    char *message = (char *)receiver->pool.memory.memory + entry->payload->offset;
    uint64_t flags = 0;

    for (uint32_t i = 0; i < entry->part_count; i++) {
        int32_t number = -1;

        if (entry->parts[i].file < 0)
            continue;
        if (receiver->accepts_files) {
            number = kdbus_listener_add_descriptor(listener, call, entry->parts[i].file, -1, O_CLOEXEC);
            if (number < 0) {
                number = -1;
                flags = RETURN_INCOMPLETE_FDS;
            }
        }
        memcpy(message + entry->parts[i].place, &number, sizeof(number));
    }
    return flags;
}

// Gives the caller of `call`, from `listener`, the memfds of the message in `slice`, whose items have to be told the
// numbers.
uint64_t incoming_install_files(int listener, uint64_t call, const struct flow_connection *receiver,
                                const struct lent_slice *slice, const struct flow_entry *entry)
{
    uint64_t *word = (uint64_t *)((char *)receiver->pool.memory.memory + slice->offset) + MSG_WORDS;
    uint64_t flags = 0;

    if (receiver->revision->whole)
        return install_into_whole(listener, call, receiver, entry);
    if (entry->name_size)
        word += align8(ITEM_HEADER + entry->name_size) / 8;
    for (uint32_t i = 0; i < entry->part_count; i++) {
        int number;

        if (entry->parts[i].file < 0) {
            word += VEC_ITEM / 8;
            continue;
        }
        number = kdbus_listener_add_descriptor(listener, call, entry->parts[i].file, -1, O_CLOEXEC);
        if (number < 0)
            flags = RETURN_INCOMPLETE_FDS;
        word[4] = (uint32_t)number;
        word += MEMFD_ITEM / 8;
    }
    return flags;
}

// Makes the message readable: header and items, as broker/inbox.py writes them, in a slice that holds the payload's; or
// the one slice that has it all already, held once more. `shown`: NULL without metadata.
struct lent_slice *incoming_write(struct flow_connection *receiver, const struct flow_entry *entry,
                                  const struct flow_export *shown)
{
    const struct kdbus_flow_revision *revision = receiver->revision;
    uint64_t offset = entry->payload ? entry->payload->offset : 0;
    size_t size = size_of(entry, shown);
    struct lent_slice *slice;
    uint64_t *word;

    if (revision->whole) {
        entry->payload->holders++;
        return entry->payload;
    }
    slice = lent_pool_allocate(&receiver->pool, size);
    if (!slice)
        return NULL;
    if (entry->payload) {
        entry->payload->holders++;
        slice->child = entry->payload;
    }
    word = (uint64_t *)((char *)receiver->pool.memory.memory + slice->offset);
    memcpy(word, entry->header, HEADER_BYTES);
    word[MSG_SIZE] = size;
    word = incoming_write_items(revision, entry, offset, word + MSG_WORDS);
    if (shown) {
        memcpy(word, shown->data, shown->items_size);
        word += shown->items_size / 8;
        if (entry->has_timestamp && shown->facts.shows_timestamp) {
            *word++ = TIMESTAMP_ITEM;
            *word++ = revision->item_timestamp;
            *word++ = entry->sequence;
            *word++ = entry->timestamp[0];
            *word++ = entry->timestamp[1];
        }
    }
    return slice;
}

// Undoes incoming_write.
void incoming_undo(struct flow_connection *receiver, const struct flow_entry *entry, struct lent_slice *slice)
{
    if (slice == entry->payload)
        slice->holders--;
    else
        lent_pool_undo(&receiver->pool, slice);
}
