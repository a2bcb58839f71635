// SPDX-License-Identifier: GPL-2.0-or-later
//
// RECV and FREE on the hot path, see hot_path.c.

#include "hot_path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

// The results of a RECV. What cannot be stored keeps `return_flags` from being stored, so that comes last; unless all
// are in one page, when they are one piece with the caller's own priority in between as it was read a moment ago, which
// takes less time.
static int write_received(struct kdbus_engine *engine, const struct kdbus_notification *call,
                          const struct kdbus_flow_revision *revision, uint64_t *results)
{
    // `kernel_flags`, where there are any, and `return_flags` stand before the priority; then the others.
    uint32_t first = revision->recv_kernel_flags ? revision->recv_kernel_flags : revision->recv_return_flags;
    size_t size = 8 * revision->recv_words;
    uint64_t address = call->arguments[2];
    struct iovec local[2] = {{results + revision->recv_dropped, revision->only_offsets ? 8 : 32},
                             {results + first, 8 * (revision->recv_priority - first)}};
    struct iovec remote[2] = {{(void *)(address + 8 * revision->recv_dropped), local[0].iov_len},
                              {(void *)(address + 8 * first), local[1].iov_len}};

    if (address / PAGE != (address + size - 1) / PAGE)
        return deputy_write(engine->deputy, call->pid, local, 2, remote, 2);
    local[1].iov_len = remote[1].iov_len = size - 8 * first;
    return deputy_write(engine->deputy, call->pid, local + 1, 1, remote + 1, 1);
}

// There is no message: what is stored then. 0 if it cannot be.
static int write_no_message(struct kdbus_engine *engine, const struct kdbus_notification *call,
                            const struct flow_connection *receiver, const uint64_t *command, uint64_t *results)
{
    const struct kdbus_flow_revision *revision = receiver->revision;

    if (revision->recv_kernel_flags)
        return hot_write_back(engine, call->pid, call->arguments[2], command, revision->recv_kernel_flags,
                              results + revision->recv_kernel_flags, 1);
    results[revision->recv_return_flags] = 0;
    if (!revision->writes_no_message)
        return hot_write_back(engine, call->pid, call->arguments[2], command, revision->recv_return_flags,
                              results + revision->recv_return_flags, 1);
    results[revision->recv_dropped] = 0;
    memset(results + revision->recv_message, 0, 8 * INFO_WORDS);
    if (revision->empty_is_pool_size)
        results[revision->recv_message] = receiver->pool.memory.size;
    return !memcmp(command, results, 8 * revision->recv_words) || write_received(engine, call, revision, results);
}

// The first message of the queue has been received.
void hot_dequeue(struct kdbus_engine *engine, struct flow_connection *receiver)
{
    struct flow_entry *entry = receiver->first;

    receiver->first = entry->next;
    if (!receiver->first)
        receiver->last = NULL;
    receiver->message_count--;
    receiver->dirty = LENT_CHANGED;
    quota_give_back(receiver, entry);
    if (entry->payload)
        lent_pool_release(&receiver->pool, entry->payload);
    if (entry->reply)
        flow_drop_reply(engine, entry->reply);
    flow_close_files(entry);
    free(entry);
}

// 1 if the RECV was served. `socket`: a duplicate of the descriptor of the call, where this may empty the queue.
int hot_recv(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_binding *binding,
             int socket)
{
    struct flow_connection *receiver = binding->connection;
    const struct kdbus_flow_revision *revision = receiver->revision;
    struct flow_entry *entry = receiver->first;
    const struct flow_export *shown = NULL;
    uint64_t command[LENT_COMMAND];
    uint64_t results[LENT_COMMAND];
    uint64_t *message = results + revision->recv_message;
    struct lent_slice *slice;

    receiver->receiving = call->pid;
    if (!hot_read(engine, call->pid, call->arguments[2], command, 8 * revision->recv_words))
        return 0;
    if (command[revision->recv_flags] || command[0] != (revision->only_offsets ? 0 : 8 * revision->recv_words))
        return 0;
    if (revision->only_offsets && command[revision->recv_message])
        return 0;
    memcpy(results, command, 8 * revision->recv_words);
    if (revision->recv_kernel_flags)
        results[revision->recv_kernel_flags] = RECV_FLAGS | FLAG_KERNEL;
    if (!entry) {
        if (!write_no_message(engine, call, receiver, command, results))
            return 0;
        hot_clear_readable(receiver, socket);
        flow_ring_over(engine, call, receiver, command, results, NULL, EAGAIN);
        kdbus_listener_respond(engine->listener, call->id, 0, EAGAIN);
        return 1;
    }
    if (incoming_has_metadata(entry) && !revision->whole) {
        shown = flow_export_for(engine, binding, engine->listener, call->id, entry->origin);
        if (!shown)
            return 0;
    }
    slice = incoming_write(receiver, entry, shown);
    if (!slice)
        return 0;
    results[revision->recv_return_flags] = 0;
    results[revision->recv_dropped] = 0;
    message[INFO_OFFSET] = slice->offset;
    message[INFO_SIZE] = slice->size;
    message[INFO_RETURN_FLAGS] = 0;
    engine->flight.shown = (struct showing){receiver, entry, slice};
    if (!write_received(engine, call, revision, results)) {
        incoming_undo(receiver, entry, slice);
        return 0;
    }
    engine->flight.shown.slice = NULL;
    message[INFO_RETURN_FLAGS] = incoming_install_files(engine->listener, call->id, receiver, slice, entry);
    slice->published = 1;
    slice->holders--;
    hot_dequeue(engine, receiver);
    if (!receiver->first)
        hot_clear_readable(receiver, socket);
    flow_ring_over(engine, call, receiver, command, results, slice, 0);
    engine->flight.finished = 1;
    if (message[INFO_RETURN_FLAGS])
        hot_overwrite_word(engine, call->pid, call->arguments[2], revision->recv_message + INFO_RETURN_FLAGS,
                           message[INFO_RETURN_FLAGS]);
    kdbus_listener_respond(engine->listener, call->id, 0, 0);
    return 1;
}

// 1 if the FREE was served.
int hot_free(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_connection *owner)
{
    const struct kdbus_flow_revision *revision = owner->revision;
    const uint64_t expected[] = {FLAG_KERNEL, 0};
    // `return_flags` stand behind `kernel_flags`, where there are both.
    uint32_t first = revision->free_kernel_flags ? revision->free_kernel_flags : revision->free_return_flags;
    const uint64_t *told = expected + !revision->free_kernel_flags;
    size_t count = (size_t)!!revision->free_kernel_flags + !!revision->free_return_flags;
    uint64_t command[LENT_COMMAND];
    uint64_t results[LENT_COMMAND];
    struct lent_slice *slice;

    if (!hot_read(engine, call->pid, call->arguments[2], command, 8 * revision->free_words))
        return 0;
    if ((!revision->only_offsets && command[0] != 8 * revision->free_words) || command[revision->free_flags])
        return 0;
    slice = lent_pool_find(&owner->pool, command[revision->free_offset]);
    if (!slice || !slice->published)
        return 0;
    if (!hot_write_back(engine, call->pid, call->arguments[2], command, first, told, count))
        return 0;
    shelf_forget(owner, slice->offset);
    lent_pool_unpublish(&owner->pool, slice);
    owner->dirty = LENT_CHANGED;
    memcpy(results, command, 8 * revision->free_words);
    memcpy(results + first, told, 8 * count);
    flow_ring_over(engine, call, owner, command, results, NULL, 0);
    kdbus_listener_respond(engine->listener, call->id, 0, 0);
    return 1;
}
