// SPDX-License-Identifier: GPL-2.0-or-later
//
// SEND on the hot path, see hot_path.c: what it leads to, the message in its receiver's pool, and the answer; in steps
// each of which may still leave the call to the broker, as if nothing had been done, until the message is in the queue.

#include "hot_path.h"
#include "shares.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

static struct flow_reply *find_reply(struct kdbus_engine *engine, const struct flow_connection *requester,
                                     const struct flow_connection *replier, uint64_t cookie)
{
    for (struct flow_reply *reply = engine->last_in_list; reply; reply = reply->previous)
        if (reply->linked && reply->requester == requester && reply->replier == replier && reply->cookie == cookie)
            return reply;
    return NULL;
}

// Where messages like this one come from, and when it is sent. 0 if that is the broker's to find out.
int sending_find_origin(struct kdbus_engine *engine, struct sending *send, const struct flow *flow)
{
    send->origin = flow_origin_of(engine, send->binding, send->call->id, flow);
    if (send->origin && send->origin->facts.has_timestamp) {
        send->timestamp[0] = flow_now_ns();
        send->timestamp[1] = flow_clock_ns(CLOCK_REALTIME);
    }
    return send->origin != NULL;
}

// The message as an entry that nothing refers to yet; NULL if there is no memory.
struct flow_entry *sending_new_entry(const struct sending *send)
{
    const struct outgoing *out = &send->out;
    struct flow_entry *entry = calloc(1, sizeof(*entry));

    if (!entry)
        return NULL;
    if (send->origin)
        entry->origin = send->origin->facts.origin;
    if (send->origin && send->origin->facts.has_timestamp) {
        entry->has_timestamp = 1;
        memcpy(entry->timestamp, send->timestamp, sizeof(entry->timestamp));
    }
    memcpy(entry->header, out->words, sizeof(entry->header));
    entry->header[MSG_SRC] = send->source->id;
    entry->sequence = send->sequence;
    entry->part_count = out->part_count;
    memcpy(entry->parts, out->parts, out->part_count * sizeof(*out->parts));
    entry->name_size = out->name_size;
    memcpy(entry->name, out->name, out->name_size);
    entry->user = CHARGE_NONE;
    return entry;
}

// The results of a SEND that waited: `reply`, then `return_flags`, if there is more than an offset. The address in
// between belongs to the caller, which may have changed it while it waited.
static int write_reply(struct kdbus_engine *engine, const struct flow_reply *reply, uint64_t *results)
{
    const struct kdbus_flow_revision *revision = reply->requester->revision;
    uint64_t address = reply->caller.arguments[2];
    uint64_t zero = 0;
    struct iovec local[2] = {{results, 8 * INFO_WORDS}, {&zero, 8}};
    struct iovec remote[2] = {{(void *)(address + 8 * revision->send_reply), 8 * INFO_WORDS},
                              {(void *)(address + 8 * revision->send_return_flags), 8}};

    if (revision->only_offsets) {
        local[0].iov_len = remote[0].iov_len = 8;
        return deputy_write(engine->deputy, reply->caller.pid, local, 1, remote, 1);
    }
    return deputy_write(engine->deputy, reply->caller.pid, local, 2, remote, 2);
}

// The answer to a waiting call: into its pool, its command (three words, `results`), and out of its wait. 0 if that
// cannot be.
static int finish_wait(struct kdbus_engine *engine, struct flow_reply *reply, const struct flow_entry *entry,
                       uint64_t *results)
{
    struct flow_connection *requester = reply->requester;
    uint64_t caller = reply->caller.id;
    const struct flow_export *shown = NULL;
    struct lent_slice *slice;

    if (incoming_has_metadata(entry) && !requester->revision->whole) {
        struct flow_binding *binding =
            flow_find_binding(engine, (uint64_t)reply->caller.pid << 32 | (uint32_t)reply->caller.arguments[0]);

        if (binding && binding->connection == requester)
            shown = flow_export_for(engine, binding, reply->listener, caller, entry->origin);
        if (!shown)
            return 0;
    }
    if (kdbus_listener_is_valid(reply->listener, caller) != 1)
        return 0;
    slice = incoming_write(requester, entry, shown);
    if (!slice)
        return 0;
    results[INFO_OFFSET] = slice->offset;
    results[INFO_SIZE] = slice->size;
    results[INFO_RETURN_FLAGS] = 0;
    engine->flight.shown = (struct showing){requester, entry, slice};
    engine->flight.answering = reply;
    if (!write_reply(engine, reply, results)) {
        incoming_undo(requester, entry, slice);
        return 0;
    }
    results[INFO_RETURN_FLAGS] = incoming_install_files(reply->listener, caller, requester, slice, entry);
    if (results[INFO_RETURN_FLAGS])
        write_reply(engine, reply, results);
    engine->flight.shown.slice = NULL;
    engine->flight.answering = NULL;
    slice->published = 1;
    slice->holders--;
    shelf_hold(engine, requester, slice);
    requester->dirty = LENT_CHANGED;
    // Whether it is still there to hear the answer is no longer anybody's business.
    kdbus_listener_respond(reply->listener, caller, 0, 0);
    return 1;
}

// What stands in the caller's command when the SEND is over. Only now `return_flags` is written, as in version 3 one
// that fails leaves it as it was.
static int write_sent(const struct sending *send)
{
    const struct kdbus_flow_revision *revision = send->revision;
    const uint64_t empty[] = {revision->empty_is_pool_size ? send->source->pool.memory.size : 0, 0, 0};
    const uint64_t zero = 0;
    uint64_t address = send->call->arguments[2];

    if (revision->only_offsets)
        return 1;
    return hot_write_back(send->engine, send->call->pid, address, send->command, revision->send_return_flags, &zero,
                          1) &&
           (!revision->writes_empty_reply ||
            hot_write_back(send->engine, send->call->pid, address, send->command, revision->send_reply, empty, 3));
}

void sending_finish(struct kdbus_engine *engine, const struct sending *send)
{
    int written;

    engine->flight.send = NULL;
    engine->flight.finished = 1;
    written = write_sent(send);
    if (!written)
        flow_ring_failed(engine, EFAULT);
    kdbus_listener_respond(engine->listener, send->call->id, 0, written ? 0 : EFAULT);
}

void sending_count(struct kdbus_engine *engine, struct sending *send)
{
    engine->sequences[send->source->counter]++;
    send->source->dirty = LENT_CHANGED; // the sequence number goes with it
}

// As if the entry had never been made.
void sending_undo(struct flow_connection *receiver, struct flow_entry *entry)
{
    if (entry->payload)
        lent_pool_undo(&receiver->pool, entry->payload);
    flow_close_files(entry);
    free(entry);
}

// 0: the broker looks at it, as if nothing had been done.
static int give_up(struct sending *send)
{
    sending_undo(send->receiver, send->entry);
    send->entry = NULL;
    sending_restore_flags(send);
    return 0;
}

// The SEND is refused, for the receiver's queue is full. As the broker does it: what was copied goes, and nothing else
// is left of the message than that it was counted.
static int refuse_send(struct kdbus_engine *engine, struct sending *send)
{
    const uint64_t zero = 0;

    if (!flow_ring_foresee(engine, send))
        return give_up(send);
    if (send->revision->writes_empty_reply && // it also says in `return_flags` that there is nothing to say
        !hot_write_back(engine, send->call->pid, send->call->arguments[2], send->command,
                        send->revision->send_return_flags, &zero, 1))
        return give_up(send);
    flow_ring_refused(engine, send);
    if (send->entry->payload) {
        lent_pool_release(&send->receiver->pool, send->entry->payload);
        send->receiver->dirty = LENT_CHANGED;
    }
    flow_close_files(send->entry);
    free(send->entry);
    sending_count(engine, send);
    shares_favour_thread(engine->shares, send->receiver->receiving); // or nobody makes room
    kdbus_listener_respond(engine->listener, send->call->id, 0, ENOBUFS);
    return 1;
}

// Reads the call, and finds out where it leads. 0 if it is the broker's.
static int read_send(struct kdbus_engine *engine, struct sending *send)
{
    uint64_t destination;

    if (!outgoing_read(engine, send->call, send->binding, send->command, &send->out) || !outgoing_parse(&send->out) ||
        !outgoing_is_plain(send->source, &send->out))
        return 0;
    outgoing_foresee(send->binding, &send->out);
    destination = send->out.words[MSG_DST];
    if (send->out.filter)
        return 1;
    send->expects = send->out.words[MSG_FLAGS_WORD] & MSG_EXPECT_REPLY;
    if (send->out.name[0]) {
        const struct flow_connection *owner =
            flow_owner_of(engine, send->source->bus, send->out.name, &send->name_id);

        if (!owner || (destination && destination != owner->id))
            return 0;
        destination = owner->id;
    }
    send->flow = flow_find(engine, send->source, destination);
    if (!send->flow || !flow_is_lent(engine, send->flow->destination))
        return 0;
    send->receiver = send->flow->destination;
    shelf_collect(engine, send->receiver);
    return 1;
}

// Whether the broker has allowed it already, and what the message has of metadata. 0 if it is the broker's.
static int judge_send(struct kdbus_engine *engine, struct sending *send)
{
    const struct flow *flow = send->flow;

    if (!send->expects && send->out.words[MSG_TIMEOUT]) {
        send->answered = find_reply(engine, send->receiver, send->source, send->out.words[MSG_TIMEOUT]);
        if (!send->answered || (send->answered->sync && !send->answered->waiting))
            return 0;
    }
    if (!send->answered && !flow->talks)
        return 0;
    if (send->expects && send->source->request_count >= LENT_REQUESTS)
        return 0;
    if (send->receiver->revision->needs_all_files && send->out.part_count != send->out.vector_count)
        return 0;
    if (flow->attach_flags || (flow->credentials && !send->answered)) {
        if (!sending_find_origin(engine, send, flow))
            return 0;
        if (send->receiver->revision->whole && flow->attach_flags) {
            send->shown = flow_export_to(engine, flow, send->origin->facts.origin);
            if (!send->shown)
                return 0;
        }
    }
    return send->receiver->message_count < LENT_MESSAGES;
}

// The flags that are known, if that is told, and how many words: those of the message stand behind those of the
// command, unless it is the command.
static size_t known_flags(const struct kdbus_flow_revision *revision, uint64_t *words)
{
    if (!revision->send_kernel_flags)
        return 0;
    words[0] = (revision->message_is_command ? COMMAND_FLAGS : SEND_SYNC_REPLY) | FLAG_KERNEL;
    words[1] = MSG_FLAGS | FLAG_KERNEL;
    return revision->message_is_command ? 1 : 2;
}

// What is written before anything is done. 0 if it cannot be.
int sending_write_flags(const struct sending *send)
{
    uint64_t words[2];
    size_t count = known_flags(send->revision, words);

    return !count || hot_write_back(send->engine, send->call->pid, send->call->arguments[2], send->command,
                                    send->revision->send_kernel_flags, words, count);
}

// Undoes sending_write_flags, as the call is the broker's after all, who looks at what its caller has passed.
void sending_restore_flags(const struct sending *send)
{
    uint32_t first = send->revision->send_kernel_flags;
    uint64_t written[LENT_COMMAND];
    size_t count = known_flags(send->revision, written + first);

    if (count)
        hot_write_back(send->engine, send->call->pid, send->call->arguments[2], written, first, send->command + first,
                       count);
}

// Whether that many bytes are more than the receiver may be given, though there is room.
static int exceeds_half(const struct flow_connection *receiver, uint64_t size)
{
    uint64_t remaining = receiver->pool.memory.size - receiver->pool.busy;

    return receiver->revision->takes_half && size < remaining && size > remaining / 2;
}

// Puts the message into the receiver's pool, and finds out what it costs (as quota_find says). Where it is refused, or
// the broker's, there is nothing to undo but the entry.
int sending_place(struct sending *send, struct flow_connection *receiver, struct flow_entry *entry,
                  const struct flow_export *shown, int free_of_charge)
{
    int is_whole = receiver->revision->whole;
    struct whole whole = {0};
    int charge;

    if (is_whole)
        whole = whole_measure(&send->out, receiver->revision, entry, shown);
    if (exceeds_half(receiver, is_whole ? whole.size : send->out.payload_size))
        return CHARGE_OF_BROKER;
    charge = free_of_charge && !is_whole ? CHARGE_NONE : quota_find(receiver, send->source->user, whole.size);
    if (charge == CHARGE_OF_BROKER || (charge == CHARGE_REFUSED && is_whole))
        return charge;
    if (is_whole)
        entry->payload = whole_write(send->call, &send->out, receiver, entry, shown, &whole);
    else if (send->out.payload_size)
        entry->payload = outgoing_take_payload(send->call, &send->out, receiver);
    return entry->payload || (!is_whole && !send->out.payload_size) ? charge : CHARGE_OF_BROKER;
}

// The message as an entry in the receiver's pool, which nothing refers to yet. 0 if the call is the broker's.
static int make_entry(struct kdbus_engine *engine, struct sending *send)
{
    if (!sending_write_flags(send))
        return 0;
    if (!outgoing_fetch_files(engine, send->binding, &send->out)) {
        sending_restore_flags(send);
        return 0;
    }
    send->entry = sending_new_entry(send);
    if (!send->entry) {
        outgoing_close_files(&send->out, send->out.part_count);
        sending_restore_flags(send);
        return 0;
    }
    send->charge = sending_place(send, send->receiver, send->entry, send->shown,
                                 send->answered && send->answered->sync);
    // A refused answer uses up its permission, which is the broker's business.
    if (send->charge == CHARGE_OF_BROKER || (send->charge == CHARGE_REFUSED && send->answered))
        return give_up(send);
    return 1;
}

// The reply to a call that waits for it in the kernel. 0 if it is the broker's.
static int answer_wait(struct kdbus_engine *engine, struct sending *send)
{
    struct flow_entry *entry = send->entry;
    uint64_t results[INFO_WORDS];

    if (!finish_wait(engine, send->answered, entry, results))
        return give_up(send);
    flow_ring_sent(engine, send);
    flow_ring_answered(engine, send->answered, results);
    if (entry->payload)
        lent_pool_release(&send->receiver->pool, entry->payload);
    flow_close_files(entry);
    free(entry);
    send->answered->waiting = 0;
    flow_unlink_reply(engine, send->answered);
    flow_drop_reply(engine, send->answered); // the waiting call's
    sending_count(engine, send);
    sending_finish(engine, send);
    return 1;
}

// The reply that the message expects, NULL if there is no memory.
static struct flow_reply *expect_reply(struct kdbus_engine *engine, struct sending *send)
{
    struct flow_reply *reply = flow_new_reply(engine);

    if (!reply)
        return NULL;
    reply->requester = send->source;
    reply->replier = send->receiver;
    reply->cookie = send->out.words[MSG_COOKIE];
    reply->deadline_ns = send->out.words[MSG_TIMEOUT];
    reply->name_id = send->name_id;
    reply->linked = 1;
    reply->sync = send->out.flags & SEND_SYNC_REPLY;
    reply->holders = 2; // the link, and the entry
    send->source->request_count++;
    if (reply->sync) {
        reply->waiting = 1;
        reply->holders++;
        reply->caller = *send->call;
        reply->listener = engine->listener;
        reply->look_ns = flow_now_ns() + LENT_PATIENCE_NS;
        reply->began_ns = flow_ring_start(engine);
        memcpy(reply->command, send->command, sizeof(reply->command));
    }
    return reply;
}

// The message is the last in the queue now, and pollers see it.
void sending_enqueue(struct kdbus_engine *engine, struct flow_connection *receiver, struct flow_entry *entry)
{
    if (receiver->last)
        receiver->last->next = entry;
    else
        receiver->first = entry;
    receiver->last = entry;
    receiver->message_count++;
    receiver->dirty = LENT_CHANGED;
    if (!shelf_add(engine, receiver, entry))
        hot_wake(receiver);
}

// 1 if the SEND was served, 0 if it is the broker's.
int hot_send(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_binding *binding)
{
    struct flow_connection *source = binding->connection;
    struct sending send;
    int waits;

    // Not what is read into, which is large.
    memset(&send, 0, offsetof(struct sending, command));
    send.engine = engine;
    send.call = call;
    send.binding = binding;
    send.source = source;
    send.revision = source->revision;
    send.sequence = engine->sequences[source->counter] + 1;
    memset(send.command, 0, sizeof(send.command));
    send.out.filling = NULL;
    engine->flight.send = &send;
    if (!read_send(engine, &send))
        return 0;
    if (send.out.filter)
        return hot_signal(engine, &send);
    if (!judge_send(engine, &send) || !make_entry(engine, &send))
        return 0;
    if (send.charge == CHARGE_REFUSED)
        return refuse_send(engine, &send);
    if (send.answered && send.answered->sync)
        return answer_wait(engine, &send);
    if (send.expects) {
        send.entry->reply = expect_reply(engine, &send);
        if (!send.entry->reply)
            return give_up(&send);
    }
    if (send.answered)
        flow_unlink_reply(engine, send.answered);
    send.entry->name_id = send.name_id;
    quota_charge(send.receiver, send.entry, send.charge, source->user);
    sending_count(engine, &send);
    waits = send.entry->reply && send.entry->reply->sync;
    sending_enqueue(engine, send.receiver, send.entry);
    if (waits) {
        flow_ring_waits(engine, &send);
        return 1;
    }
    flow_ring_sent(engine, &send);
    sending_finish(engine, &send);
    return 1;
}
