// SPDX-License-Identifier: GPL-2.0-or-later
//
// SEND on the hot path, see hot_path.c: what it leads to, the message in its receiver's pool, and the answer; in steps each
// of which may still leave the call to the broker, as if nothing had been done, until the message is in the queue.

#include "hot_path.h"

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

static void fill_entry(struct flow_entry *entry, const struct flow_connection *source, const struct outgoing *out,
                       const struct flow_origin *origin)
{
    if (origin)
        entry->origin = origin->facts.origin;
    if (origin && origin->facts.has_timestamp) {
        entry->has_timestamp = 1;
        entry->timestamp[0] = flow_now_ns();
        entry->timestamp[1] = flow_clock_ns(CLOCK_REALTIME);
    }
    memcpy(entry->header, out->words, sizeof(entry->header));
    entry->header[MSG_SRC] = source->id;
    entry->part_count = out->part_count;
    memcpy(entry->parts, out->parts, out->part_count * sizeof(*out->parts));
    entry->name_size = out->name_size;
    memcpy(entry->name, out->name, out->name_size);
    entry->user = CHARGE_NONE;
}

// The results of a SEND that waited: `reply`, then `return_flags`. The address in between belongs to the caller, which
// may have changed it while it waited.
static int write_reply(const struct flow_reply *reply, uint64_t *results)
{
    const struct kdbus_flow_revision *revision = reply->requester->revision;
    uint64_t address = reply->caller.arguments[2];
    uint64_t zero = 0;
    struct iovec local[2] = {{results, 24}, {&zero, 8}};
    struct iovec remote[2] = {{(void *)(address + 8 * revision->send_reply), 24},
                              {(void *)(address + 8 * revision->send_return_flags), 8}};

    return process_vm_writev((pid_t)reply->caller.pid, local, 2, remote, 2, 0) == 32;
}

// The answer to a waiting call: into its pool, its command, and out of its wait. 0 if that cannot be.
static int finish_wait(struct kdbus_engine *engine, struct flow_reply *reply, const struct flow_entry *entry)
{
    struct flow_connection *requester = reply->requester;
    uint64_t caller = reply->caller.id;
    const struct flow_export *shown = NULL;
    struct lent_slice *slice;
    uint64_t results[3];

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
    results[0] = slice->offset;
    results[1] = slice->size;
    results[2] = 0;
    if (!write_reply(reply, results)) {
        incoming_undo(requester, entry, slice);
        return 0;
    }
    results[2] = incoming_install_files(reply->listener, caller, requester, slice, entry);
    if (results[2])
        write_reply(reply, results);
    slice->published = 1;
    slice->holders--;
    requester->dirty = LENT_CHANGED;
    // Whether it is still there to hear the answer is no longer anybody's business.
    kdbus_listener_respond(reply->listener, caller, 0, 0);
    return 1;
}

// A SEND on its way through the steps below: what was read, what it leads to, and what came of it.
struct sending {
    const struct kdbus_notification *call;
    struct flow_binding *binding;
    const struct kdbus_flow_revision *revision; // of the sender
    struct flow_connection *source;
    struct flow_connection *receiver;
    const struct flow *flow;
    const struct flow_origin *origin; // NULL without metadata
    const struct flow_export *shown;  // of that, to a receiver of whole messages
    struct flow_reply *answered;      // the request that this is the reply to, NULL for none
    int expects;
    int charge;
    struct whole whole; // of that kind of receiver as well
    struct flow_entry *entry;
    uint64_t command[LENT_COMMAND];
    struct outgoing out;
};

// What stands in the caller's command when the SEND is over. Only now `return_flags` is written, as in version 3 one
// that fails leaves it as it was.
static int write_sent(const struct sending *send)
{
    const struct kdbus_flow_revision *revision = send->revision;
    const uint64_t empty[] = {revision->empty_is_pool_size ? send->source->pool.memory.size : 0, 0, 0};
    const uint64_t zero = 0;
    uint64_t address = send->call->arguments[2];

    return hot_write_back(send->call->pid, address, send->command, revision->send_return_flags, &zero, 1) &&
           (!revision->writes_empty_reply ||
            hot_write_back(send->call->pid, address, send->command, revision->send_reply, empty, 3));
}

static void finish_send(struct kdbus_engine *engine, const struct sending *send)
{
    int written = write_sent(send);

    kdbus_listener_respond(engine->listener, send->call->id, 0, written ? 0 : EFAULT);
}

static void count_message(struct kdbus_engine *engine, struct sending *send)
{
    engine->sequences[send->source->counter]++;
    send->source->dirty = LENT_CHANGED; // the sequence number goes with it
}

// 0: the broker looks at it, as if nothing had been done.
static int give_up(struct sending *send)
{
    if (send->entry->payload)
        lent_pool_undo(&send->receiver->pool, send->entry->payload);
    flow_close_files(send->entry);
    free(send->entry);
    return 0;
}

// The SEND is refused, for the receiver's queue is full. As the broker does it: what was copied goes, and nothing else
// is left of the message than that it was counted.
static int refuse_send(struct kdbus_engine *engine, struct sending *send)
{
    const uint64_t zero = 0;

    if (send->revision->writes_empty_reply && // it also says in `return_flags` that there is nothing to say
        !hot_write_back(send->call->pid, send->call->arguments[2], send->command, send->revision->send_return_flags,
                        &zero, 1))
        return give_up(send);
    if (send->entry->payload) {
        lent_pool_release(&send->receiver->pool, send->entry->payload);
        send->receiver->dirty = LENT_CHANGED;
    }
    flow_close_files(send->entry);
    free(send->entry);
    count_message(engine, send);
    kdbus_listener_respond(engine->listener, send->call->id, 0, ENOBUFS);
    return 1;
}

// Reads the call, and finds out where it leads. 0 if it is the broker's.
static int read_send(struct kdbus_engine *engine, struct sending *send)
{
    if (!outgoing_read(send->call, send->binding, send->command, &send->out) || !outgoing_parse(&send->out) ||
        !outgoing_is_plain(send->source, send->command, &send->out))
        return 0;
    outgoing_foresee(send->binding, &send->out);
    send->expects = send->out.words[MSG_FLAGS_WORD] & MSG_EXPECT_REPLY;
    send->flow = flow_find(engine, send->source, send->out.words[MSG_DST], send->out.name);
    if (!send->flow || !flow_is_lent(engine, send->flow->destination))
        return 0;
    send->receiver = send->flow->destination;
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
    if (flow->attach_flags || (flow->credentials && !send->answered)) {
        send->origin = flow_origin_of(engine, send->binding, send->call->id, flow);
        if (!send->origin)
            return 0;
        if (send->receiver->revision->whole && flow->attach_flags) {
            send->shown = flow_export_to(engine, flow, send->origin->facts.origin);
            if (!send->shown)
                return 0;
        }
    }
    return send->receiver->message_count < LENT_MESSAGES;
}

// The message as an entry, which nothing refers to yet, and what it costs. 0 if the call is the broker's.
static int make_entry(struct kdbus_engine *engine, struct sending *send)
{
    const uint64_t expected[] = {SEND_SYNC_REPLY | FLAG_KERNEL, MSG_FLAGS | FLAG_KERNEL};
    struct flow_connection *receiver = send->receiver;
    int whole = receiver->revision->whole;

    // The flags of the message stand behind those of the command.
    if (send->revision->send_kernel_flags &&
        !hot_write_back(send->call->pid, send->call->arguments[2], send->command, send->revision->send_kernel_flags,
                        expected, 2))
        return 0;
    if (!outgoing_fetch_files(engine, send->binding, &send->out))
        return 0;
    send->entry = calloc(1, sizeof(*send->entry));
    if (!send->entry) {
        outgoing_close_files(&send->out, send->out.part_count);
        return 0;
    }
    fill_entry(send->entry, send->source, &send->out, send->origin);
    send->entry->sequence = engine->sequences[send->source->counter] + 1;
    if (whole)
        send->whole = whole_measure(&send->out, send->entry, send->shown);
    send->charge = !whole && send->answered && send->answered->sync
                       ? CHARGE_NONE
                       : quota_find(receiver, send->source->user, send->whole.size);
    // A refused answer uses up its permission, which is the broker's business.
    if (send->charge == CHARGE_OF_BROKER || (send->charge == CHARGE_REFUSED && send->answered))
        return give_up(send);
    if (whole && send->charge == CHARGE_REFUSED)
        return 1;
    if (whole)
        send->entry->payload =
            whole_write(send->call, &send->out, receiver, send->entry, send->shown, &send->whole);
    else if (send->out.payload_size)
        send->entry->payload = outgoing_take_payload(send->call, &send->out, receiver);
    if (!send->entry->payload && (whole || send->out.payload_size))
        return give_up(send);
    return 1;
}

// The reply to a call that waits for it in the kernel. 0 if it is the broker's.
static int answer_wait(struct kdbus_engine *engine, struct sending *send)
{
    struct flow_entry *entry = send->entry;

    if (!finish_wait(engine, send->answered, entry))
        return give_up(send);
    if (entry->payload)
        lent_pool_release(&send->receiver->pool, entry->payload);
    flow_close_files(entry);
    free(entry);
    send->answered->waiting = 0;
    flow_unlink_reply(engine, send->answered);
    flow_drop_reply(engine, send->answered); // the waiting call's
    count_message(engine, send);
    finish_send(engine, send);
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
    reply->name_id = send->flow->name_id;
    reply->linked = 1;
    reply->sync = send->command[send->revision->send_flags] & SEND_SYNC_REPLY;
    reply->holders = 2; // the link, and the entry
    send->source->request_count++;
    if (reply->sync) {
        reply->waiting = 1;
        reply->holders++;
        reply->caller = *send->call;
        reply->listener = engine->listener;
        reply->look_ns = flow_now_ns() + LENT_PATIENCE_NS;
        memcpy(reply->command, send->command, sizeof(reply->command));
    }
    return reply;
}

static void enqueue(struct flow_connection *receiver, struct flow_entry *entry)
{
    if (receiver->last)
        receiver->last->next = entry;
    else
        receiver->first = entry;
    receiver->last = entry;
    receiver->message_count++;
    receiver->dirty = LENT_CHANGED;
}

// 1 if the SEND was served, 0 if it is the broker's.
int hot_send(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_binding *binding)
{
    struct flow_connection *source = binding->connection;
    struct sending send;
    int waits;

    // Not what is read into, which is large.
    memset(&send, 0, offsetof(struct sending, command));
    send.call = call;
    send.binding = binding;
    send.source = source;
    send.revision = source->revision;
    memset(send.command, 0, sizeof(send.command));
    if (!read_send(engine, &send) || !judge_send(engine, &send) || !make_entry(engine, &send))
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
    send.entry->name_id = send.flow->name_id;
    quota_charge(send.receiver, send.entry, send.charge, source->user);
    count_message(engine, &send);
    waits = send.entry->reply && send.entry->reply->sync;
    enqueue(send.receiver, send.entry);
    hot_wake(send.receiver);
    if (!waits)
        finish_send(engine, &send);
    return 1;
}
