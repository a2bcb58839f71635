// SPDX-License-Identifier: GPL-2.0-or-later
//
// What was served here, for whoever watches (interposer/traps/tap.py): a record of each call, made when it has taken
// effect, before its results are stored and it is answered.
//
// No memory of a target is touched in the middle of that, as it may not come (hot_stall.c).
//
// Records are of one size; the bytes that they are about (a message, its payload as far as it was asked for) are behind
// each other in a second piece of memory. Both are fetched by the thread that fills them, so the loop ends when the
// largest record might not fit any more (flow_ring_is_full), and nothing is lost; a bounded buffer that is emptied
// whole needs no end that chases its beginning. The broker does nothing in the meantime, so its records and these have
// one order.
//
// While nobody watches there is no ring, and each function is one comparison.

#include "hot_path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RING_RECORDS 2048
#define RING_BYTES (1U << 20)
#define RING_MESSAGE (64U << 10) // bytes of a message that are kept (interposer/traps/watched.py)
#define RING_PAYLOAD LENT_PAYLOAD
#define RING_PER_CALL 2 // a reply ends another call

struct flow_ring {
    uint64_t start_ns; // of the present call
    uint64_t payload;  // bytes of each that are asked for
    size_t most;       // records, after which they have to be taken
    size_t largest;    // bytes that one call may leave
    size_t count;
    size_t used;
    size_t size;
    char *data;
    struct kdbus_call_record *sent; // the SEND that was added last
    struct kdbus_call_record records[RING_RECORDS];
};

// Watches from now on, with `payload` bytes of each message's, or no longer if that is negative. kdbus_engine_run ends
// with `most` records, or earlier. What has not been taken is lost. 0 or -ENOMEM.
int kdbus_engine_watch(struct kdbus_engine *engine, int64_t payload, size_t most)
{
    struct flow_ring *ring;

    flow_forget_ring(engine);
    if (payload < 0)
        return 0;
    shelf_close_all(engine); // what is taken from there would not be seen
    ring = calloc(1, sizeof(*ring));
    if (!ring)
        return -ENOMEM;
    ring->payload = payload < RING_PAYLOAD ? (uint64_t)payload : RING_PAYLOAD;
    ring->most = most < RING_RECORDS - RING_PER_CALL ? most : RING_RECORDS - RING_PER_CALL;
    ring->largest = RING_PER_CALL * (RING_MESSAGE + (size_t)ring->payload);
    ring->size = RING_BYTES + 2 * ring->largest;
    ring->data = malloc(ring->size);
    if (!ring->data) {
        free(ring);
        return -ENOMEM;
    }
    engine->ring = ring;
    return 0;
}

void flow_forget_ring(struct kdbus_engine *engine)
{
    if (engine->ring)
        free(engine->ring->data);
    free(engine->ring);
    engine->ring = NULL;
}

// Takes all records: their number, with `*records` and the `*size` bytes at `*data` valid until the next call.
size_t kdbus_engine_take_records(struct kdbus_engine *engine, const struct kdbus_call_record **records,
                                 const char **data, size_t *size)
{
    struct flow_ring *ring = engine->ring;
    size_t count = ring ? ring->count : 0;

    if (!count)
        return 0;
    *records = ring->records;
    *data = ring->data;
    *size = ring->used;
    ring->count = ring->used = 0;
    return count;
}

int flow_ring_is_full(const struct kdbus_engine *engine)
{
    const struct flow_ring *ring = engine->ring;

    return ring && (ring->count >= ring->most || ring->used + ring->largest > ring->size);
}

// A call begins to be served.
void flow_ring_begin(struct kdbus_engine *engine)
{
    if (engine->ring)
        engine->ring->start_ns = flow_now_ns();
}

// When the present call began, 0 if nobody watches.
uint64_t flow_ring_start(const struct kdbus_engine *engine)
{
    return engine->ring ? engine->ring->start_ns : 0;
}

// The next record, of `call` on `connection`, whose argument was `before`.
static struct kdbus_call_record *new_record(struct flow_ring *ring, const struct kdbus_notification *call,
                                            const struct flow_connection *connection, const uint64_t *before,
                                            size_t words)
{
    struct kdbus_call_record *record = &ring->records[ring->count++];

    memset(record, 0, sizeof(*record));
    record->start_ns = ring->start_ns;
    record->end_ns = flow_now_ns();
    record->tid = call->pid;
    record->descriptor = (uint32_t)call->arguments[0];
    record->connection = connection->index;
    record->request = (uint32_t)call->arguments[1];
    record->address = call->arguments[2];
    record->data = ring->used;
    memcpy(record->before, before, 8 * words);
    memcpy(record->after, before, 8 * words);
    return record;
}

static void append(struct flow_ring *ring, const void *bytes, size_t size)
{
    memcpy(ring->data + ring->used, bytes, size);
    ring->used += size;
}

// The payload of a message that nobody gets is at hand, if anybody watches: it is read before anything is done, as it
// may not come. 0 if it is the broker's call, as that cannot be had, or is long.
int flow_ring_foresee(struct kdbus_engine *engine, struct sending *send)
{
    struct outgoing *out = &send->out;
    struct iovec local = {out->payload, out->payload_size};

    if (!engine->ring || out->copy || !out->payload_size)
        return 1;
    if (out->payload_size > sizeof(out->payload) ||
        !deputy_read(engine->deputy, send->call->pid, &local, 1, out->remote, out->vector_count))
        return 0;
    out->copy = out->payload;
    return 1;
}

// A message in the pool of who has received it, and the beginning of its payload; both where the items say.
static void append_received(struct flow_ring *ring, struct kdbus_call_record *record,
                            const struct flow_connection *receiver, uint64_t offset, uint64_t size)
{
    const struct kdbus_flow_revision *revision = receiver->revision;
    const char *pool = receiver->pool.memory.memory;
    uint64_t pool_size = receiver->pool.memory.size;
    uint64_t rest = ring->payload;
    uint64_t length;
    uint64_t item[4]; // size, type, and of a piece its size and offset, of a memfd its start and size

    memcpy(&length, pool + offset, sizeof(length));
    if (length > size)
        length = size;
    if (length > RING_MESSAGE)
        length = RING_MESSAGE;
    append(ring, pool + offset, length);
    record->message_kept = (uint32_t)length;
    for (uint64_t at = HEADER_BYTES; at + VEC_ITEM <= length; at += align8(item[0])) {
        uint64_t start;
        uint64_t piece;

        memcpy(item, pool + offset + at, sizeof(item));
        if (item[0] < ITEM_HEADER || item[0] > length - at)
            break;
        if (item[1] == revision->item_memfd)
            record->payload_size += item[3];
        if (item[1] != revision->item_offset)
            continue;
        record->payload_size += item[2];
        piece = item[2] < rest ? item[2] : rest;
        start = item[3] == UINT64_MAX ? 0 : item[3] + (revision->whole ? offset : 0);
        if (start > pool_size || piece > pool_size - start)
            break;
        if (item[3] == UINT64_MAX) { // zeros that are not stored
            memset(ring->data + ring->used, 0, piece);
            ring->used += piece;
        } else {
            append(ring, pool + start, piece);
        }
        record->payload_kept += (uint32_t)piece;
        rest -= piece;
    }
    memcpy(&record->peer, pool + offset + 8 * MSG_SRC, sizeof(record->peer));
}

static struct kdbus_call_record *add_sent(struct flow_ring *ring, const struct sending *send)
{
    const struct kdbus_flow_revision *revision = send->revision;
    const struct outgoing *out = &send->out;
    struct kdbus_call_record *record =
        new_record(ring, send->call, send->source, send->command, revision->send_words);

    if (revision->send_kernel_flags) {
        record->after[revision->send_kernel_flags] = SEND_SYNC_REPLY | FLAG_KERNEL;
        record->after[revision->send_kernel_flags + 1] = MSG_FLAGS | FLAG_KERNEL;
    }
    record->peer = send->receiver ? send->receiver->id : 0;
    record->sequence = send->sequence;
    for (uint32_t i = 0; i < out->part_count; i++)
        record->payload_size += out->parts[i].size;
    record->message_kept = (uint32_t)out->words[MSG_SIZE];
    record->payload_kept = (uint32_t)(out->payload_size < ring->payload ? out->payload_size : ring->payload);
    append(ring, out->words, record->message_kept);
    if (record->payload_kept)
        append(ring, out->copy, record->payload_kept);
    return record;
}

// A SEND that is over, but for its results.
void flow_ring_sent(struct kdbus_engine *engine, const struct sending *send)
{
    const struct kdbus_flow_revision *revision = send->revision;
    struct kdbus_call_record *record;

    if (!engine->ring)
        return;
    record = engine->ring->sent = add_sent(engine->ring, send);
    record->after[revision->send_return_flags] = 0;
    if (revision->writes_empty_reply) {
        record->after[revision->send_reply] = revision->empty_is_pool_size ? send->source->pool.memory.size : 0;
        record->after[revision->send_reply + 1] = record->after[revision->send_reply + 2] = 0;
    }
}

// Those could not be stored.
void flow_ring_failed(struct kdbus_engine *engine, int error)
{
    if (engine->ring)
        engine->ring->sent->error = (uint32_t)error;
}

// A SEND that waits for its reply from now on.
void flow_ring_waits(struct kdbus_engine *engine, const struct sending *send)
{
    if (engine->ring)
        add_sent(engine->ring, send)->kind = KDBUS_CALL_WAITS;
}

// A SEND that is refused, as its user has no room left in the receiver's queue; what is there, by sender, stands behind
// the payload: its id, and how many.
void flow_ring_refused(struct kdbus_engine *engine, const struct sending *send)
{
    struct flow_ring *ring = engine->ring;
    struct kdbus_call_record *record;
    uint64_t size = 0;

    if (!ring)
        return;
    if (send->receiver->revision->whole)
        size = whole_measure(&send->out, send->receiver->revision, send->entry, send->shown).size;
    record = add_sent(ring, send);
    record->error = ENOBUFS;
    if (send->revision->writes_empty_reply)
        record->after[send->revision->send_return_flags] = 0;
    quota_explain(send->receiver, send->source->user, size, &record->refusal);
    for (const struct flow_entry *entry = send->receiver->first; entry; entry = entry->next) {
        append(ring, &entry->header[MSG_SRC], sizeof(uint64_t));
        record->senders++;
    }
}

// A SEND that waited is over: its reply lies in its pool, as `results` (offset, size, flags) say.
void flow_ring_answered(struct kdbus_engine *engine, const struct flow_reply *reply, const uint64_t *results)
{
    const struct flow_connection *requester = reply->requester;
    const struct kdbus_flow_revision *revision = requester->revision;
    struct kdbus_call_record *record;

    if (!engine->ring || !reply->began_ns)
        return; // or nobody has seen it begin
    record = new_record(engine->ring, &reply->caller, requester, reply->command, revision->send_words);
    record->kind = KDBUS_CALL_RESUMED;
    record->start_ns = reply->began_ns;
    memcpy(record->after + revision->send_reply, results, 3 * sizeof(*results));
    record->after[revision->send_return_flags] = 0;
    append_received(engine->ring, record, requester, results[0], results[1]);
}

// A RECV or FREE that is over. `slice`: the message that was received, NULL for none.
void flow_ring_over(struct kdbus_engine *engine, const struct kdbus_notification *call,
                    const struct flow_connection *connection, const uint64_t *before, const uint64_t *after,
                    const struct lent_slice *slice, int error)
{
    const struct kdbus_flow_revision *revision = connection->revision;
    struct flow_ring *ring = engine->ring;
    struct kdbus_call_record *record;
    size_t words;

    if (!ring)
        return;
    words = (uint32_t)call->arguments[1] == revision->recv ? revision->recv_words : revision->free_words;
    record = new_record(ring, call, connection, before, words);
    memcpy(record->after, after, 8 * words);
    record->error = (uint32_t)error;
    if (slice)
        append_received(ring, record, connection, slice->offset, slice->size);
}
