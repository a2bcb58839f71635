// SPDX-License-Identifier: GPL-2.0-or-later
//
// Flows: decisions of the broker that are repeated here without asking it again.
//
// A switch in a network asks its controller about the first packet of a flow and forwards the rest by itself. Here
// the broker is the controller. It *lends* connections to the engine, with the state of their pools, and allows flows:
// this sender to that receiver. The engine then serves SEND between them, RECV and FREE, in exactly
// the cases in which the broker would succeed without a side effect elsewhere. All rules stay with the broker: whatever
// is not plainly such a case, every error above all, is not served at all, and nothing has been changed by then.
//
// The broker and the engine never own a connection at the same time. Before the broker does anything, it takes
// everything back: kdbus_engine_recall hands over what has changed and ends all flows. What the broker changes in
// between therefore cannot be missed here. Connections are lent again as they prove busy.
//
// This file has the connections, what is known about callers' descriptors (bindings), and the flows; flow_state.c
// passes state to and fro; origin.c has what is known of senders; loop.c receives calls, and hot_path.c serves them.
//
// Weakness: everything is taken back each time the broker is needed, so a bus on which that is often gains little.

#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// -- connections, bindings and flows --------------------------------------------------------------------------------

// NULL with errno if that cannot be.
struct kdbus_engine *kdbus_engine_create(int hang_ups, size_t descriptors)
{
    struct kdbus_engine *engine = calloc(1, sizeof(*engine));
    int error;

    if (!engine)
        return NULL;
    engine->listener = engine->timer = engine->attention = engine->interrupt = -1;
    engine->most_descriptors = descriptors;
    engine->generation = 1;
    error = flow_prepare_loop(engine, hang_ups);
    if (error) {
        kdbus_engine_destroy(engine);
        errno = -error;
        return NULL;
    }
    return engine;
}

static void forget_bindings(struct kdbus_engine *engine);

void kdbus_engine_destroy(struct kdbus_engine *engine)
{
    for (size_t i = 0; i < engine->connection_room; i++) {
        if (engine->connections[i]) {
            flow_forget_state(engine, engine->connections[i]);
            shelf_end(engine->connections[i]);
        }
    }
    flow_forget_replies(engine);
    for (size_t i = 0; i < engine->connection_room; i++)
        free(engine->connections[i]);
    free(engine->connections);
    forget_bindings(engine);
    flow_table_clear(&engine->flows);
    flow_table_clear(&engine->names);
    flow_table_clear(&engine->signals);
    flow_table_clear(&engine->origins);
    flow_table_clear(&engine->exports);
    flow_forget_ring(engine);
    free(engine->out.data);
    flow_end_loop(engine);
    free(engine);
}

struct flow_connection *flow_connection_at(const struct kdbus_engine *engine, uint32_t index)
{
    struct flow_connection *connection = index < engine->connection_room ? engine->connections[index] : NULL;

    return connection && connection->used ? connection : NULL;
}

int kdbus_engine_speak(struct kdbus_engine *engine, const struct kdbus_flow_revision *revision)
{
    if (engine->revision_count == LENT_REVISIONS || revision->send_words > LENT_COMMAND ||
        revision->recv_words > LENT_COMMAND || revision->free_words > LENT_COMMAND)
        return -ENOSPC;
    engine->revisions[engine->revision_count] = *revision;
    return (int)engine->revision_count++;
}

int64_t kdbus_engine_add_connection(struct kdbus_engine *engine, const struct kdbus_flow_connection *facts)
{
    struct flow_connection *connection = NULL;
    size_t index;

    if (facts->counter >= LENT_COUNTERS || facts->revision >= engine->revision_count)
        return -ENOSPC;
    for (index = 0; index < engine->connection_room; index++)
        if (!engine->connections[index] || !engine->connections[index]->used)
            break;
    if (index == engine->connection_room) {
        size_t room = index ? 2 * index : 16;
        struct flow_connection **connections = realloc(engine->connections, room * sizeof(*connections));

        if (!connections)
            return -ENOMEM;
        memset(connections + index, 0, (room - index) * sizeof(*connections));
        engine->connections = connections;
        engine->connection_room = room;
    }
    connection = engine->connections[index];
    if (!connection)
        connection = engine->connections[index] = calloc(1, sizeof(*connection));
    if (!connection)
        return -ENOMEM;
    memset(connection, 0, sizeof(*connection));
    connection->used = 1;
    connection->serial = ++engine->last_serial;
    connection->index = (uint32_t)index;
    connection->revision = &engine->revisions[facts->revision];
    connection->accepts_files = facts->accepts_files;
    connection->counter = facts->counter;
    connection->id = facts->id;
    connection->bus = facts->bus;
    connection->user = facts->user;
    connection->ours = facts->ours;
    connection->epoll = facts->epoll;
    connection->target = facts->target;
    connection->cookie = facts->cookie;
    connection->pool.memory = *facts->pool;
    connection->pool.origin = facts->pool;
    return (int64_t)index;
}

int kdbus_engine_remove_connection(struct kdbus_engine *engine, uint32_t index)
{
    struct flow_connection *connection = flow_connection_at(engine, index);

    if (!connection)
        return -ENOENT;
    if (flow_is_lent(engine, connection))
        return -EBUSY; // it has to be taken back first
    for (size_t i = 0; i < engine->bindings.room; i++) {
        struct flow_binding *binding = engine->bindings.places[i];

        if (binding && binding->connection == connection) {
            binding->connection = NULL;
            flow_forget_descriptors(engine, binding);
        }
    }
    shelf_end(connection);
    connection->used = 0;
    return 0;
}

static void forget_descriptor(struct kdbus_engine *engine, int *descriptor)
{
    if (*descriptor < 0)
        return;
    close(*descriptor);
    *descriptor = -1;
    engine->descriptors--;
}

void flow_forget_descriptors(struct kdbus_engine *engine, struct flow_binding *binding)
{
    forget_descriptor(engine, &binding->pidfd);
    forget_descriptor(engine, &binding->directory);
    forget_descriptor(engine, &binding->status);
}

void flow_forget_all_descriptors(struct kdbus_engine *engine)
{
    for (size_t i = 0; i < engine->bindings.room; i++)
        if (engine->bindings.places[i])
            flow_forget_descriptors(engine, engine->bindings.places[i]);
}

static void forget_bindings(struct kdbus_engine *engine)
{
    flow_forget_all_descriptors(engine);
    flow_table_clear(&engine->bindings);
}

int kdbus_engine_bind(struct kdbus_engine *engine, uint32_t index, uint32_t thread, uint32_t descriptor)
{
    struct flow_connection *connection = flow_connection_at(engine, index);
    uint64_t key = (uint64_t)thread << 32 | descriptor;
    struct flow_binding *binding;

    if (!connection || !thread)
        return -ENOENT;
    binding = flow_find_binding(engine, key);
    if (!binding) {
        int result;

        if (engine->bindings.used >= LENT_BINDINGS)
            forget_bindings(engine); // those in use come back
        binding = calloc(1, sizeof(*binding));
        if (!binding)
            return -ENOMEM;
        binding->key = key;
        binding->pidfd = binding->directory = binding->status = -1;
        result = flow_table_insert(&engine->bindings, binding);
        if (result) {
            free(binding);
            return result;
        }
    }
    binding->connection = connection;
    return 0;
}

struct flow_binding *flow_find_binding(const struct kdbus_engine *engine, uint64_t key)
{
    return flow_table_find(&engine->bindings, key);
}

int flow_is_lent(const struct kdbus_engine *engine, const struct flow_connection *connection)
{
    return connection->generation == engine->generation;
}

static uint64_t flow_key(const struct flow_connection *source, uint64_t destination_id)
{
    return flow_mix((uint64_t)(source->index + 1) << 40 ^ destination_id) | 1;
}

struct flow *flow_find(const struct kdbus_engine *engine, const struct flow_connection *source, uint64_t destination_id)
{
    struct flow *flow = flow_table_find(&engine->flows, flow_key(source, destination_id));

    if (!flow || flow->generation != engine->generation)
        return NULL;
    if (!flow->destination->used || flow->destination->bus != source->bus || flow->destination->id != destination_id)
        return NULL;
    return flow;
}

int kdbus_engine_allow(struct kdbus_engine *engine, const struct kdbus_flow_facts *facts)
{
    struct flow_connection *source = flow_connection_at(engine, facts->source);
    struct flow_connection *destination = flow_connection_at(engine, facts->destination);
    struct flow *flow;
    uint64_t key;

    if (!source || !destination)
        return -ENOENT;
    key = flow_key(source, destination->id);
    flow = flow_table_find(&engine->flows, key);
    if (!flow) {
        int result;

        if (engine->flows.used >= LENT_FLOWS)
            flow_table_clear(&engine->flows);
        flow = calloc(1, sizeof(*flow));
        if (!flow)
            return -ENOMEM;
        flow->key = key;
        result = flow_table_insert(&engine->flows, flow);
        if (result) {
            free(flow);
            return result;
        }
    }
    flow->generation = engine->generation;
    flow->destination = destination;
    flow->attach_flags = facts->attach_flags;
    flow->credentials = facts->credentials;
    flow->talks = facts->talks;
    return 0;
}

// Signals are kept by their sender, whom they are for, and all that their filter says.
static uint64_t signal_key(const struct flow_connection *source, uint64_t destination, const char *filter, size_t size)
{
    uint64_t hash = 0xcbf29ce484222325ULL ^ source->index ^ flow_mix(destination);
    uint64_t word;

    for (size_t i = 0; i + sizeof(word) <= size; i += sizeof(word)) {
        memcpy(&word, filter + i, sizeof(word));
        hash = flow_mix(hash ^ word) * 0x100000001b3ULL;
    }
    return flow_mix(hash) | 1;
}

const struct flow_signal *flow_find_signal(const struct kdbus_engine *engine, const struct flow_connection *source,
                                           uint64_t destination, const char *filter, size_t size)
{
    const struct flow_signal *found = flow_table_find(&engine->signals, signal_key(source, destination, filter, size));


    if (!found || found->generation != engine->generation || found->source != source ||
        found->destination != destination || found->filter_size != size ||
        memcmp(found->filter, filter, size))
        return NULL;
    return found;
}

int kdbus_engine_allow_signal(struct kdbus_engine *engine, const struct kdbus_signal_facts *facts, const char *filter,
                              const uint32_t *receivers, const uint64_t *attach_flags)
{
    const struct flow_connection *source = flow_connection_at(engine, facts->source);
    struct flow_signal *record;
    size_t listeners = facts->count * sizeof(*record->listeners);
    int result;

    if (!source)
        return -ENOENT;
    record = malloc(sizeof(*record) + listeners + facts->filter_size);
    if (!record)
        return -ENOMEM;
    record->key = signal_key(source, facts->destination, filter, facts->filter_size);
    record->generation = engine->generation;
    record->source = source;
    record->destination = facts->destination;
    record->attach_flags = facts->attach_flags;
    record->count = facts->count;
    record->filter_size = facts->filter_size;
    record->filter = (char *)record->listeners + listeners;
    memcpy(record->filter, filter, facts->filter_size);
    for (uint32_t i = 0; i < facts->count; i++) {
        record->listeners[i] = (struct flow_listener){flow_connection_at(engine, receivers[i]), attach_flags[i]};
        if (!record->listeners[i].connection) {
            free(record);
            return -ENOENT;
        }
    }
    if (engine->signals.used >= LENT_SIGNALS && !flow_table_find(&engine->signals, record->key))
        flow_table_clear(&engine->signals); // those in use come back
    result = flow_table_insert(&engine->signals, record);
    if (result)
        free(record);
    return result;
}

// How many memfds may be fetched from senders until everything is taken back: they count as the senders' only then.
void kdbus_engine_allow_files(struct kdbus_engine *engine, uint64_t count)
{
    engine->files_left = count;
}

// -- expected replies -----------------------------------------------------------------------------------------------

// Held once; linked in nobody's eyes yet.
struct flow_reply *flow_new_reply(struct kdbus_engine *engine)
{
    struct flow_reply *reply = calloc(1, sizeof(*reply));

    if (!reply)
        return NULL;
    reply->number = ++engine->last_reply;
    reply->holders = 1;
    reply->previous = engine->last_in_list;
    if (engine->last_in_list)
        engine->last_in_list->next = reply;
    else
        engine->replies = reply;
    engine->last_in_list = reply;
    return reply;
}

void flow_drop_reply(struct kdbus_engine *engine, struct flow_reply *reply)
{
    if (--reply->holders)
        return;
    if (reply->previous)
        reply->previous->next = reply->next;
    else
        engine->replies = reply->next;
    if (reply->next)
        reply->next->previous = reply->previous;
    else
        engine->last_in_list = reply->previous;
    reply->requester->request_count--;
    free(reply);
}

void flow_unlink_reply(struct kdbus_engine *engine, struct flow_reply *reply)
{
    if (reply->linked) {
        reply->linked = 0;
        flow_drop_reply(engine, reply);
    }
}

uint64_t kdbus_engine_served(const struct kdbus_engine *engine)
{
    return engine->served;
}
