// SPDX-License-Identifier: GPL-2.0-or-later
//
// The hot path: SEND, RECV and FREE of lent connections, see flow.c.
//
// Each of the three first finds out whether it can serve the call, reading all that it needs from the target once, and
// only then changes anything. A call is the broker's (result 0) as soon as anything is unusual: a size other than that
// of the bare structure, an unknown flag, an item that is neither a plain vector, nor a sealed memfd, nor a
// destination, a receiver that is not lent, no flow, a full pool, an address that cannot be read or written.
// What the broker then reads is what it decides on. That a sender's user has no room left in a queue is decided here:
// whoever is refused tries again, and would keep from being served here what makes room.
//
// Crossings into the kernel per call: the notification and its answer, one kcmp(2) to be sure of the descriptor,
// one process_vm_readv(2) for the command, and for a SEND also the message where the last one of this descriptor was;
// another for the payload; one process_vm_writev(2) if results differ from what stands there; where metadata or credentials
// matter, those of evidence.c. A receiver is woken, before the sender is answered, if its queue was empty; and its
// descriptor made unreadable when the queue is empty again.

#include "hot_path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

// -- SEND ---------------------------------------------------------------------------------------------------------------

static struct flow_reply *find_reply(struct kdbus_engine *engine, const struct flow_connection *requester,
                                     const struct flow_connection *replier, uint64_t cookie)
{
    for (struct flow_reply *reply = engine->last_in_list; reply; reply = reply->previous)
        if (reply->linked && reply->requester == requester && reply->replier == replier && reply->cookie == cookie)
            return reply;
    return NULL;
}

// What a message costs, other than the index of a charge.
enum { CHARGE_NONE = -1, CHARGE_REFUSED = -2, CHARGE_OF_BROKER = -3 };

// Index of the charge that a message of `user` costs, or one of the above (broker/quota.py).
static int find_charge(const struct flow_connection *receiver, uint64_t user)
{
    int unused = CHARGE_OF_BROKER;

    if (receiver->message_count < LENT_UNACCOUNTED)
        return CHARGE_NONE;
    for (int i = 0; i < LENT_USERS; i++) {
        if (receiver->charges[i].count && receiver->charges[i].user == user)
            return receiver->charges[i].count < LENT_PER_USER ? i : CHARGE_REFUSED;
        if (!receiver->charges[i].count && unused < 0)
            unused = i;
    }
    return unused;
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
    entry->user = -1;
}

// The results of a SEND that waited: `reply`, then `return_flags`. The address in between belongs to the caller, which
// may have changed it while it waited.
static int write_reply(const struct flow_reply *reply, uint64_t *results)
{
    uint64_t address = reply->caller.arguments[2];
    uint64_t zero = 0;
    struct iovec local[2] = {{results, 24}, {&zero, 8}};
    struct iovec remote[2] = {{(void *)(address + 8 * SEND_REPLY), 24}, {(void *)(address + 8 * SEND_RETURN_FLAGS), 8}};

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

    if (incoming_has_metadata(entry)) {
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
        lent_pool_undo(&requester->pool, slice);
        return 0;
    }
    results[2] = incoming_install_files(reply->listener, caller, &requester->pool, slice, entry);
    if (results[2])
        write_reply(reply, results);
    slice->published = 1;
    slice->holders--;
    requester->dirty = LENT_CHANGED;
    // Whether it is still there to hear the answer is no longer anybody's business.
    kdbus_listener_respond(reply->listener, caller, 0, 0);
    return 1;
}

// The SEND of `command` is done. Only now `return_flags` is written, as one that fails leaves it as it was.
static void finish_send(struct kdbus_engine *engine, const struct kdbus_notification *call, const uint64_t *command)
{
    const uint64_t zero = 0;
    int written = hot_write_back(call->pid, call->arguments[2], command, SEND_RETURN_FLAGS, &zero, 1);

    kdbus_listener_respond(engine->listener, call->id, 0, written ? 0 : EFAULT);
}

// The SEND is refused, for the receiver's queue is full. As the broker does it: what was copied goes, and nothing else
// is left of the message than that it was counted.
static void refuse_send(struct kdbus_engine *engine, const struct kdbus_notification *call,
                        struct flow_connection *source, struct flow_connection *receiver, struct flow_entry *entry)
{
    if (entry->payload) {
        lent_pool_release(&receiver->pool, entry->payload);
        receiver->dirty = LENT_CHANGED;
    }
    flow_close_files(entry);
    free(entry);
    engine->sequences[source->domain]++;
    source->dirty = LENT_CHANGED; // the sequence number goes with it
    kdbus_listener_respond(engine->listener, call->id, 0, ENOBUFS);
}

static int serve_send(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_binding *binding)
{
    const uint64_t expected[] = {SEND_SYNC_REPLY | FLAG_KERNEL, MSG_FLAGS | FLAG_KERNEL};
    struct flow_connection *source = binding->connection;
    struct flow_connection *receiver;
    struct flow_reply *answered = NULL;
    struct flow_reply *reply = NULL;
    struct flow_entry *entry;
    const struct flow_origin *origin = NULL;
    const struct flow *flow;
    struct outgoing out;
    uint64_t command[9];
    int expects;
    int failed;
    int charge;

    if (!outgoing_read(call, binding, command, &out) || !outgoing_parse(&out) ||
        !outgoing_is_plain(source, command, &out))
        return 0;
    outgoing_foresee(binding, &out);
    expects = out.words[MSG_FLAGS_WORD] & MSG_EXPECT_REPLY;
    flow = flow_find(engine, source, out.words[MSG_DST], out.name);
    if (!flow || !flow_is_lent(engine, flow->destination))
        return 0;
    receiver = flow->destination;
    if (!expects && out.words[MSG_TIMEOUT]) {
        answered = find_reply(engine, receiver, source, out.words[MSG_TIMEOUT]);
        if (!answered || (answered->sync && !answered->waiting))
            return 0;
    }
    if (!answered && !flow->talks)
        return 0;
    if (expects && source->request_count >= LENT_REQUESTS)
        return 0;
    if (flow->attach_flags || (flow->credentials && !answered)) {
        origin = flow_origin_of(engine, binding, call->id, flow);
        if (!origin)
            return 0;
    }
    charge = answered && answered->sync ? CHARGE_NONE : find_charge(receiver, source->user);
    // A refused answer uses up its permission, which is the broker's business, like a queue that is full altogether.
    if (charge == CHARGE_OF_BROKER || (charge == CHARGE_REFUSED && answered) ||
        receiver->message_count >= LENT_MESSAGES)
        return 0;
    if (!hot_write_back(call->pid, call->arguments[2], command, SEND_KERNEL_FLAGS, expected, 2))
        return 0;

    if (!outgoing_fetch_files(engine, binding, &out))
        return 0;
    entry = calloc(1, sizeof(*entry));
    if (!entry) {
        outgoing_close_files(&out, out.part_count);
        return 0;
    }
    fill_entry(entry, source, &out, origin);
    entry->sequence = engine->sequences[source->domain] + 1;
    entry->payload = outgoing_take_payload(call, &out, receiver, &failed);
    if (failed) {
        flow_close_files(entry);
        free(entry);
        return 0;
    }
    if (charge == CHARGE_REFUSED) {
        refuse_send(engine, call, source, receiver, entry);
        return 1;
    }
    if (answered && answered->sync) {
        int finished = finish_wait(engine, answered, entry);

        if (entry->payload && finished)
            lent_pool_release(&receiver->pool, entry->payload);
        else if (entry->payload)
            lent_pool_undo(&receiver->pool, entry->payload);
        flow_close_files(entry);
        free(entry);
        if (!finished)
            return 0;
        answered->waiting = 0;
        flow_unlink_reply(engine, answered);
        flow_drop_reply(engine, answered); // the waiting call's
        engine->sequences[source->domain]++;
        source->dirty = LENT_CHANGED;
        finish_send(engine, call, command);
        return 1;
    }
    if (expects) {
        reply = flow_new_reply(engine);
        if (!reply) {
            if (entry->payload)
                lent_pool_undo(&receiver->pool, entry->payload);
            flow_close_files(entry);
            free(entry);
            return 0;
        }
        reply->requester = source;
        reply->replier = receiver;
        reply->cookie = out.words[MSG_COOKIE];
        reply->deadline_ns = out.words[MSG_TIMEOUT];
        reply->name_id = flow->name_id;
        reply->linked = 1;
        reply->sync = command[SEND_FLAGS] & SEND_SYNC_REPLY;
        reply->holders = 2; // the link, and the entry
        source->request_count++;
        source->dirty = LENT_CHANGED;
        entry->reply = reply;
        if (reply->sync) {
            reply->waiting = 1;
            reply->holders++;
            reply->caller = *call;
            reply->listener = engine->listener;
            reply->look_ns = flow_now_ns() + LENT_PATIENCE_NS;
            memcpy(reply->command, command, sizeof(reply->command));
        }
    }
    if (answered)
        flow_unlink_reply(engine, answered);
    engine->sequences[source->domain]++;
    entry->name_id = flow->name_id;
    if (charge >= 0) {
        receiver->charges[charge].user = source->user;
        receiver->charges[charge].count++;
        entry->user = charge;
    }
    if (receiver->last)
        receiver->last->next = entry;
    else
        receiver->first = entry;
    receiver->last = entry;
    receiver->message_count++;
    receiver->dirty = LENT_CHANGED;
    source->dirty = LENT_CHANGED; // the sequence number goes with it
    hot_wake(receiver);
    if (!reply || !reply->sync)
        finish_send(engine, call, command);
    return 1;
}

// -- RECV and FREE ------------------------------------------------------------------------------------------------------

// The results of a RECV. What cannot be stored keeps `return_flags` from being stored, so that comes last; unless all are
// in one page, when they are one piece with the caller's own priority in between as it was read a moment ago, which
// takes less time.
static int write_received(const struct kdbus_notification *call, uint64_t *results)
{
    uint64_t address = call->arguments[2];
    struct iovec local[2] = {{results + RECV_DROPPED, 32}, {results + RECV_KERNEL_FLAGS, 16}};
    struct iovec remote[2] = {{(void *)(address + 8 * RECV_DROPPED), 32},
                              {(void *)(address + 8 * RECV_KERNEL_FLAGS), 16}};

    if (address / PAGE != (address + RECV_BYTES - 1) / PAGE)
        return process_vm_writev((pid_t)call->pid, local, 2, remote, 2, 0) == 48;
    local[1].iov_len = remote[1].iov_len = RECV_BYTES - 8 * RECV_KERNEL_FLAGS;
    return process_vm_writev((pid_t)call->pid, local + 1, 1, remote + 1, 1, 0) == (ssize_t)remote[1].iov_len;
}

// `socket`: see empties_queue.
static int serve_recv(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_binding *binding,
                      int socket)
{
    struct flow_connection *receiver = binding->connection;
    struct flow_entry *entry = receiver->first;
    const struct flow_export *shown = NULL;
    uint64_t command[RECV_BYTES / 8];
    uint64_t results[RECV_BYTES / 8];
    struct lent_slice *slice;

    if (!hot_read(call->pid, call->arguments[2], command, RECV_BYTES))
        return 0;
    if (command[RECV_SIZE] != RECV_BYTES || command[RECV_FLAGS_WORD])
        return 0;
    memcpy(results, command, sizeof(results));
    results[RECV_KERNEL_FLAGS] = RECV_FLAGS | FLAG_KERNEL;
    if (!entry) {
        if (!hot_write_back(call->pid, call->arguments[2], command, RECV_KERNEL_FLAGS, results + RECV_KERNEL_FLAGS, 1))
            return 0;
        hot_calm(receiver, socket);
        kdbus_listener_respond(engine->listener, call->id, 0, EAGAIN);
        return 1;
    }
    if (incoming_has_metadata(entry)) {
        shown = flow_export_for(engine, binding, engine->listener, call->id, entry->origin);
        if (!shown)
            return 0;
    }
    slice = incoming_write(receiver, entry, shown);
    if (!slice)
        return 0;
    results[RECV_RETURN_FLAGS] = 0;
    results[RECV_DROPPED] = 0;
    results[RECV_MSG] = slice->offset;
    results[RECV_MSG + 1] = slice->size;
    results[RECV_MSG + 2] = 0;
    if (!write_received(call, results)) {
        lent_pool_undo(&receiver->pool, slice);
        return 0;
    }
    results[RECV_MSG + 2] = incoming_install_files(engine->listener, call->id, &receiver->pool, slice, entry);
    if (results[RECV_MSG + 2])
        hot_correct(call->pid, call->arguments[2], RECV_MSG + 2, results[RECV_MSG + 2]);
    slice->published = 1;
    slice->holders--;
    receiver->first = entry->next;
    if (!receiver->first)
        receiver->last = NULL;
    receiver->message_count--;
    receiver->dirty = LENT_CHANGED;
    if (entry->user >= 0)
        receiver->charges[entry->user].count--;
    if (entry->payload)
        lent_pool_release(&receiver->pool, entry->payload);
    if (entry->reply)
        flow_drop_reply(engine, entry->reply);
    flow_close_files(entry);
    free(entry);
    if (!receiver->first)
        hot_calm(receiver, socket);
    kdbus_listener_respond(engine->listener, call->id, 0, 0);
    return 1;
}

static int serve_free(struct kdbus_engine *engine, const struct kdbus_notification *call,
                      struct flow_connection *owner)
{
    const uint64_t expected[] = {FLAG_KERNEL, 0};
    uint64_t command[FREE_BYTES / 8];
    struct lent_slice *slice;

    if (!hot_read(call->pid, call->arguments[2], command, FREE_BYTES))
        return 0;
    if (command[FREE_SIZE] != FREE_BYTES || command[FREE_FLAGS])
        return 0;
    slice = lent_pool_find(&owner->pool, command[FREE_OFFSET]);
    if (!slice || !slice->published)
        return 0;
    if (!hot_write_back(call->pid, call->arguments[2], command, FREE_KERNEL_FLAGS, expected, 2))
        return 0;
    lent_pool_unpublish(&owner->pool, slice);
    owner->dirty = LENT_CHANGED;
    kdbus_listener_respond(engine->listener, call->id, 0, 0);
    return 1;
}

// A RECV after which nothing waits any more needs a duplicate of the descriptor, to make it unreadable.
static int empties_queue(const struct kdbus_notification *call, const struct flow_connection *connection)
{
    return (uint32_t)call->arguments[1] == CMD_RECV && connection->readable && connection->message_count <= 1;
}

int flow_serve(struct kdbus_engine *engine, const struct kdbus_notification *call)
{
    uint32_t descriptor = (uint32_t)call->arguments[0];
    struct flow_binding *binding;
    struct flow_connection *connection;
    int socket;
    int result;

    if (call->architecture != OWN_ARCHITECTURE || call->number != SYS_ioctl || call->arguments[2] & 7)
        return 0;
    binding = flow_find_binding(engine, (uint64_t)call->pid << 32 | descriptor);
    connection = binding ? binding->connection : NULL;
    if (!connection || !flow_is_lent(engine, connection))
        return 0;
    if (empties_queue(call, connection)) {
        // The duplicate also proves that the descriptor is the connection's.
        socket = hot_duplicate(engine, connection, binding);
        if (socket < 0)
            return 0;
        result = serve_recv(engine, call, binding, socket);
        close(socket);
        return result;
    }
    if (kdbus_same_file_as(engine->self, (int)call->pid, (int)descriptor, connection->epoll, connection->target) != 1)
        return 0;
    switch ((uint32_t)call->arguments[1]) {
    case CMD_SEND:
        return serve_send(engine, call, binding);
    case CMD_RECV:
        return serve_recv(engine, call, binding, -1);
    case CMD_FREE:
        return serve_free(engine, call, connection);
    default:
        return 0;
    }
}
