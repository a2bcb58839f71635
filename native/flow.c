// SPDX-License-Identifier: GPL-2.0-or-later
//
// Flows: decisions of the broker that are repeated here without asking it again.
//
// A switch in a network asks its controller about the first packet of a flow and forwards the rest by itself. Here
// the broker is the controller. It *lends* connections to the engine, with the state of their pools, and allows flows:
// this sender to that receiver, without metadata. The engine then serves SEND between them, RECV and FREE, in exactly
// the cases in which the broker would succeed without a side effect elsewhere. All rules stay with the broker: whatever
// is not plainly such a case, every error above all, is not served at all, and nothing has been changed by then.
//
// The broker and the engine never own a connection at the same time. Before the broker does anything, it takes
// everything back: kdbus_engine_recall hands over what has changed and ends all flows. What the broker changes in
// between therefore cannot be missed here. Connections are lent again as they prove busy.
//
// State is passed in both directions as arrays of 64-bit words, described where they are written.
//
// Weakness: calls that wait when they are taken back stay with the broker, and so do their connections until they
// have ended. A bus on which the broker is needed often, say for broadcasts, gains little, as everything is taken back
// each time.

#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

int words_add(struct words *words, uint64_t word)
{
    if (words->count == words->room) {
        size_t room = words->room ? 2 * words->room : 256;
        uint64_t *data = realloc(words->data, room * sizeof(*data));

        if (!data)
            return -ENOMEM;
        words->data = data;
        words->room = room;
    }
    words->data[words->count++] = word;
    return 0;
}

static int add_all(struct words *words, const void *data, size_t count)
{
    int result = 0;

    for (size_t i = 0; i < count && !result; i++) {
        uint64_t word;

        memcpy(&word, (const char *)data + 8 * i, sizeof(word));
        result = words_add(words, word);
    }
    return result;
}

// -- tables -----------------------------------------------------------------------------------------------------------

static uint64_t mix(uint64_t key)
{
    key ^= key >> 33;
    key *= 0xff51afd7ed558ccdULL;
    key ^= key >> 33;
    return key;
}

// Every record begins with its key.
static void **table_place(const struct flow_table *table, uint64_t key)
{
    size_t place = mix(key) & (table->room - 1);

    while (table->places[place] && *(uint64_t *)table->places[place] != key)
        place = (place + 1) & (table->room - 1);
    return &table->places[place];
}

static void *table_find(const struct flow_table *table, uint64_t key)
{
    return table->room ? *table_place(table, key) : NULL;
}

static int table_insert(struct flow_table *table, void *record)
{
    if (2 * (table->used + 1) > table->room) {
        struct flow_table larger = {.room = table->room ? 2 * table->room : 64, .used = table->used};

        larger.places = calloc(larger.room, sizeof(*larger.places));
        if (!larger.places)
            return -ENOMEM;
        for (size_t i = 0; i < table->room; i++)
            if (table->places[i])
                *table_place(&larger, *(uint64_t *)table->places[i]) = table->places[i];
        free(table->places);
        *table = larger;
    }
    *table_place(table, *(uint64_t *)record) = record;
    table->used++;
    return 0;
}

static void table_clear(struct flow_table *table)
{
    for (size_t i = 0; i < table->room; i++)
        free(table->places[i]);
    free(table->places);
    memset(table, 0, sizeof(*table));
}

// -- connections, bindings and flows --------------------------------------------------------------------------------

struct kdbus_engine *kdbus_engine_create(int hang_ups)
{
    struct kdbus_engine *engine = calloc(1, sizeof(*engine));

    if (engine) {
        engine->listener = -1;
        engine->hang_ups = hang_ups;
        engine->generation = 1;
    }
    return engine;
}

void flow_close_files(struct flow_entry *entry)
{
    for (uint32_t i = 0; i < entry->part_count; i++)
        if (entry->parts[i].file >= 0)
            close(entry->parts[i].file);
    entry->part_count = 0;
}

static void forget_state(struct kdbus_engine *engine, struct flow_connection *connection)
{
    while (connection->first) {
        struct flow_entry *entry = connection->first;

        connection->first = entry->next;
        if (entry->reply)
            flow_drop_reply(engine, entry->reply);
        flow_close_files(entry);
        free(entry);
    }
    connection->last = NULL;
    connection->message_count = 0;
    memset(connection->charges, 0, sizeof(connection->charges));
    lent_pool_clear(&connection->pool);
    connection->dirty = 0;
}

static void forget_replies(struct kdbus_engine *engine)
{
    while (engine->replies) {
        struct flow_reply *reply = engine->replies;

        engine->replies = reply->next;
        if (reply->requester)
            reply->requester->request_count = 0;
        free(reply);
    }
    engine->last_in_list = NULL;
}

static void forget_bindings(struct kdbus_engine *engine);

void kdbus_engine_destroy(struct kdbus_engine *engine)
{
    for (size_t i = 0; i < engine->connection_room; i++) {
        if (engine->connections[i]) {
            forget_state(engine, engine->connections[i]);
        }
    }
    forget_replies(engine);
    for (size_t i = 0; i < engine->connection_room; i++)
        free(engine->connections[i]);
    free(engine->connections);
    forget_bindings(engine);
    table_clear(&engine->flows);
    free(engine->out.data);
    free(engine);
}

static struct flow_connection *connection_at(const struct kdbus_engine *engine, uint32_t index)
{
    struct flow_connection *connection = index < engine->connection_room ? engine->connections[index] : NULL;

    return connection && connection->used ? connection : NULL;
}

int64_t kdbus_engine_add_connection(struct kdbus_engine *engine, const struct kdbus_flow_connection *facts)
{
    struct flow_connection *connection = NULL;
    size_t index;

    if (facts->domain >= LENT_DOMAINS)
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
    connection->index = (uint32_t)index;
    connection->domain = facts->domain;
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
    struct flow_connection *connection = connection_at(engine, index);

    if (!connection)
        return -ENOENT;
    if (flow_is_lent(engine, connection))
        return -EBUSY; // it has to be taken back first
    for (size_t i = 0; i < engine->bindings.room; i++) {
        struct flow_binding *binding = engine->bindings.places[i];

        if (binding && binding->connection == connection) {
            binding->connection = NULL;
            flow_forget_pidfd(engine, binding);
        }
    }
    connection->used = 0;
    return 0;
}

void flow_forget_pidfd(struct kdbus_engine *engine, struct flow_binding *binding)
{
    if (binding->pidfd < 0)
        return;
    close(binding->pidfd);
    binding->pidfd = -1;
    engine->pidfds--;
}

void flow_forget_pidfds(struct kdbus_engine *engine)
{
    for (size_t i = 0; i < engine->bindings.room; i++)
        if (engine->bindings.places[i])
            flow_forget_pidfd(engine, engine->bindings.places[i]);
}

static void forget_bindings(struct kdbus_engine *engine)
{
    flow_forget_pidfds(engine);
    table_clear(&engine->bindings);
}

int kdbus_engine_bind(struct kdbus_engine *engine, uint32_t index, uint32_t thread, uint32_t descriptor)
{
    struct flow_connection *connection = connection_at(engine, index);
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
        binding->pidfd = -1;
        result = table_insert(&engine->bindings, binding);
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
    return table_find(&engine->bindings, key);
}

int flow_is_lent(const struct kdbus_engine *engine, const struct flow_connection *connection)
{
    return connection->generation == engine->generation;
}

int kdbus_engine_is_lent(const struct kdbus_engine *engine, uint32_t index)
{
    const struct flow_connection *connection = connection_at(engine, index);

    return connection && flow_is_lent(engine, connection);
}

// Flows by id and by name have keys of their own: connections' numbers, or a hash of the name.
static uint64_t flow_key(const struct flow_connection *source, uint64_t destination_id, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325ULL ^ source->index;

    if (!name[0])
        return mix((uint64_t)(source->index + 1) << 40 ^ destination_id) | 1;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001b3ULL;
    return mix(hash) | 1;
}

struct flow *flow_find(const struct kdbus_engine *engine, const struct flow_connection *source, uint64_t destination_id,
                       const char *name)
{
    struct flow *flow = table_find(&engine->flows, flow_key(source, destination_id, name));

    if (!flow || flow->generation != engine->generation || strcmp(flow->name, name))
        return NULL;
    if (!flow->destination->used || flow->destination->bus != source->bus)
        return NULL;
    if (!name[0] && flow->destination->id != destination_id)
        return NULL;
    if (name[0] && destination_id && flow->destination->id != destination_id)
        return NULL;
    return flow;
}

int kdbus_engine_allow(struct kdbus_engine *engine, uint32_t source_index, uint32_t destination_index, const char *name,
                       uint64_t name_id)
{
    struct flow_connection *source = connection_at(engine, source_index);
    struct flow_connection *destination = connection_at(engine, destination_index);
    struct flow *flow;
    uint64_t key;

    if (!source || !destination)
        return -ENOENT;
    if (strlen(name) >= LENT_NAME)
        return -ENAMETOOLONG;
    key = flow_key(source, destination->id, name);
    flow = table_find(&engine->flows, key);
    if (!flow) {
        int result;

        if (engine->flows.used >= LENT_FLOWS)
            table_clear(&engine->flows);
        flow = calloc(1, sizeof(*flow));
        if (!flow)
            return -ENOMEM;
        flow->key = key;
        result = table_insert(&engine->flows, flow);
        if (result) {
            free(flow);
            return result;
        }
    }
    flow->generation = engine->generation;
    flow->destination = destination;
    flow->name_id = name_id;
    strcpy(flow->name, name);
    return 0;
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

// When the broker has to look: the nearest deadline, or the moment at which the thread of a waiting call must be looked
// at. All ones for never.
uint64_t kdbus_engine_deadline(const struct kdbus_engine *engine)
{
    uint64_t nearest = UINT64_MAX;

    for (const struct flow_reply *reply = engine->replies; reply; reply = reply->next) {
        uint64_t due = reply->linked ? reply->deadline_ns : UINT64_MAX;

        if (reply->waiting && reply->look_ns < due)
            due = reply->look_ns;
        if (due < nearest)
            nearest = due;
    }
    return nearest;
}

// -- taking back ------------------------------------------------------------------------------------------------------

// number, requester (all ones if the broker keeps the reply), replier, cookie, deadline, name id, state (bit 0 sync,
// 1 linked, 2 waiting), then of a waiting call the notification (13 words, one of them its listener), when to look at
// its thread, and the command (9 words), zeros for others.
static int store_reply(const struct flow_reply *reply, struct words *out)
{
    const struct kdbus_notification *caller = &reply->caller;
    uint64_t words[] = {
        reply->number,
        reply->requester ? reply->requester->index : UINT64_MAX,
        reply->replier->index,
        reply->cookie,
        reply->deadline_ns,
        reply->name_id,
        reply->sync | (uint64_t)reply->linked << 1 | (uint64_t)reply->waiting << 2,
        caller->id,
        caller->pid,
        caller->flags,
        (uint64_t)caller->number,
        caller->architecture,
        caller->instruction_pointer,
        (uint64_t)reply->listener,
    };
    int result = add_all(out, words, sizeof(words) / sizeof(*words));

    if (!result)
        result = add_all(out, caller->arguments, 6);
    if (!result)
        result = words_add(out, reply->look_ns);
    return result ? result : add_all(out, reply->command, 9);
}

// The header of the message (8 words), sequence, name id, offset of the payload (all ones for none), number of the
// reply (0 for none), user (all ones for none), number of parts, each with size, start and descriptor (all ones for
// none), size of the name, the name in whole words.
static int store_entry(const struct flow_connection *connection, const struct flow_entry *entry, struct words *out)
{
    uint64_t words[] = {
        entry->sequence,
        entry->name_id,
        entry->payload ? entry->payload->offset : UINT64_MAX,
        entry->reply ? entry->reply->number : 0,
        entry->user < 0 ? UINT64_MAX : connection->charges[entry->user].user,
        entry->part_count,
    };
    int result = add_all(out, entry->header, 8);

    if (!result)
        result = add_all(out, words, sizeof(words) / sizeof(*words));
    for (uint32_t i = 0; i < entry->part_count && !result; i++) {
        uint64_t part[] = {entry->parts[i].size, entry->parts[i].start, (uint64_t)(int64_t)entry->parts[i].file};

        result = add_all(out, part, 3);
    }
    if (!result)
        result = words_add(out, entry->name_size);
    return result ? result : add_all(out, entry->name, (entry->name_size + 7) / 8);
}

// index, readable, the pool as lent_pool_store writes it, number of entries, the entries.
static int store_connection(const struct flow_connection *connection, struct words *out)
{
    int result = words_add(out, connection->index);

    if (!result)
        result = words_add(out, connection->readable);
    if (!result)
        result = lent_pool_store(&connection->pool, out);
    if (!result)
        result = words_add(out, connection->message_count);
    for (const struct flow_entry *entry = connection->first; entry && !result; entry = entry->next)
        result = store_entry(connection, entry, out);
    return result;
}

static int store_all(const struct kdbus_engine *engine, struct words *out)
{
    uint64_t connections = 0;
    uint64_t replies = 0;
    int result;

    for (size_t i = 0; i < engine->connection_room; i++) {
        const struct flow_connection *connection = engine->connections[i];

        connections += connection && flow_is_lent(engine, connection) && connection->dirty;
    }
    for (const struct flow_reply *reply = engine->replies; reply; reply = reply->next)
        replies++;
    result = add_all(out, engine->sequences, LENT_DOMAINS);
    if (!result)
        result = words_add(out, connections);
    if (!result)
        result = words_add(out, replies);
    for (const struct flow_reply *reply = engine->replies; reply && !result; reply = reply->next)
        result = store_reply(reply, out);
    for (size_t i = 0; i < engine->connection_room && !result; i++) {
        const struct flow_connection *connection = engine->connections[i];

        if (connection && flow_is_lent(engine, connection) && connection->dirty)
            result = store_connection(connection, out);
    }
    return result;
}

static void forget_all(struct kdbus_engine *engine)
{
    for (size_t i = 0; i < engine->connection_room; i++)
        if (engine->connections[i] && flow_is_lent(engine, engine->connections[i]))
            forget_state(engine, engine->connections[i]);
    forget_replies(engine);
    engine->generation++;
    engine->lent_any = 0;
}

// The descriptors in what was stored are the broker's from now on.
static void give_files_away(struct kdbus_engine *engine)
{
    for (size_t i = 0; i < engine->connection_room; i++) {
        struct flow_connection *connection = engine->connections[i];

        if (!connection || !flow_is_lent(engine, connection))
            continue;
        for (struct flow_entry *entry = connection->first; entry; entry = entry->next)
            entry->part_count = 0;
    }
}

// Takes everything back. Returns the number of words at `*words` (valid until the next call): the sequence numbers of
// the domains, the number of changed connections and of replies, the replies, oldest first, and these connections; 0 if
// nothing was lent; -ENOMEM, and then nothing has changed.
int64_t kdbus_engine_recall(struct kdbus_engine *engine, const uint64_t **words)
{
    int result;

    *words = NULL;
    if (!engine->lent_any)
        return 0;
    engine->out.count = 0;
    result = store_all(engine, &engine->out);
    if (result)
        return result;
    give_files_away(engine);
    forget_all(engine);
    *words = engine->out.data;
    return (int64_t)engine->out.count;
}

// -- lending ----------------------------------------------------------------------------------------------------------

struct reader {
    const uint64_t *next;
    const uint64_t *end;
};

// `count` words, NULL if there are not that many left.
static const uint64_t *read_words(struct reader *reader, uint64_t count)
{
    const uint64_t *words = reader->next;

    if (count > (uint64_t)(reader->end - words))
        return NULL;
    reader->next += count;
    return words;
}

static struct flow_reply *reply_of_number(const struct kdbus_engine *engine, uint64_t number)
{
    for (struct flow_reply *reply = engine->last_in_list; reply; reply = reply->previous)
        if (reply->number == number)
            return reply;
    return NULL;
}

static int load_charge(struct flow_connection *connection, uint64_t user)
{
    for (int i = 0; i < LENT_USERS; i++) {
        struct flow_charge *charge = &connection->charges[i];

        if (charge->count && charge->user != user)
            continue;
        charge->user = user;
        charge->count++;
        return i;
    }
    return -1;
}

static int load_entry(struct kdbus_engine *engine, struct flow_connection *connection, struct reader *reader)
{
    const uint64_t *header = read_words(reader, 8);
    const uint64_t *facts = read_words(reader, 6);
    const uint64_t *parts = facts && facts[5] <= LENT_PARTS ? read_words(reader, 3 * facts[5]) : NULL;
    const uint64_t *name_size = parts ? read_words(reader, 1) : NULL;
    const uint64_t *name = name_size && *name_size <= LENT_NAME ? read_words(reader, (*name_size + 7) / 8) : NULL;
    struct flow_entry *entry;

    if (!header || !name)
        return -EINVAL;
    entry = calloc(1, sizeof(*entry));
    if (!entry)
        return -ENOMEM;
    memcpy(entry->header, header, sizeof(entry->header));
    entry->sequence = facts[0];
    entry->name_id = facts[1];
    entry->payload = facts[2] == UINT64_MAX ? NULL : lent_pool_find(&connection->pool, facts[2]);
    entry->reply = facts[3] ? reply_of_number(engine, facts[3]) : NULL;
    entry->user = facts[4] == UINT64_MAX ? -1 : load_charge(connection, facts[4]);
    entry->part_count = (uint32_t)facts[5];
    for (uint32_t i = 0; i < entry->part_count; i++)
        entry->parts[i] = (struct flow_part){parts[3 * i], parts[3 * i + 1], (int)(int64_t)parts[3 * i + 2]};
    entry->name_size = (uint32_t)*name_size;
    memcpy(entry->name, name, entry->name_size);
    if (connection->last)
        connection->last->next = entry;
    else
        connection->first = entry;
    connection->last = entry;
    connection->message_count++;
    if (entry->reply)
        entry->reply->holders++;
    if ((facts[2] != UINT64_MAX && !entry->payload) || (facts[3] && !entry->reply) ||
        (facts[4] != UINT64_MAX && entry->user < 0))
        return -EINVAL;
    return 0;
}

static int load_connection(struct kdbus_engine *engine, struct reader *reader)
{
    const uint64_t *start = read_words(reader, 5); // index, readable, and the beginning of the pool
    const uint64_t *slices = start && start[4] <= LENT_SLICES ? read_words(reader, 4 * start[4]) : NULL;
    const uint64_t *entries = slices ? read_words(reader, 1) : NULL;
    struct flow_connection *connection = entries ? connection_at(engine, (uint32_t)start[0]) : NULL;
    int result;

    if (!connection || *entries > LENT_MESSAGES)
        return -EINVAL;
    connection->generation = engine->generation;
    connection->readable = start[1] != 0;
    connection->dirty = *entries > 0; // the broker has forgotten them
    result = lent_pool_load(&connection->pool, start + 2, 3 + 4 * start[4]);
    for (uint64_t i = 0; i < *entries && !result; i++)
        result = load_entry(engine, connection, reader);
    return result;
}

// In the order of store_reply.
static void load_caller(struct flow_reply *reply, const uint64_t *words)
{
    struct kdbus_notification *caller = &reply->caller;

    caller->id = words[0];
    caller->pid = (uint32_t)words[1];
    caller->flags = (uint32_t)words[2];
    caller->number = (int32_t)words[3];
    caller->architecture = (uint32_t)words[4];
    caller->instruction_pointer = words[5];
    reply->listener = (int)words[6];
    memcpy(caller->arguments, words + 7, sizeof(caller->arguments));
    reply->look_ns = words[13];
    memcpy(reply->command, words + 14, sizeof(reply->command));
}

static int load_reply(struct kdbus_engine *engine, struct reader *reader)
{
    const uint64_t *facts = read_words(reader, 7);
    const uint64_t *wait = facts ? read_words(reader, 14 + 9) : NULL;
    int kept = wait && facts[1] == UINT64_MAX;
    struct flow_connection *requester = wait && !kept ? connection_at(engine, (uint32_t)facts[1]) : NULL;
    struct flow_connection *replier = wait ? connection_at(engine, (uint32_t)facts[2]) : NULL;
    struct flow_reply *reply;

    if (!replier || (!requester && !kept))
        return -EINVAL;
    reply = flow_new_reply(engine);
    if (!reply)
        return -ENOMEM;
    reply->number = facts[0];
    if (engine->last_reply < reply->number)
        engine->last_reply = reply->number;
    reply->replier = replier;
    if (kept)
        return 0; // only named by requests that the replier has not received yet
    reply->requester = requester;
    requester->request_count++;
    reply->cookie = facts[3];
    reply->deadline_ns = facts[4];
    reply->name_id = facts[5];
    reply->sync = facts[6] & 1;
    reply->linked = facts[6] >> 1 & 1;
    reply->waiting = facts[6] >> 2 & 1;
    reply->holders = reply->linked + reply->waiting; // and the entries that name it
    load_caller(reply, wait);
    return 0;
}

// Takes connections with all that belongs to them, as words in the layout that kdbus_engine_recall returns. -EBUSY while
// anything is lent; -EINVAL for a state that is not taken, -ENOMEM: then nothing is lent, and no descriptor is taken.
int kdbus_engine_lend(struct kdbus_engine *engine, const uint64_t *words, size_t count)
{
    struct reader reader = {words, words + count};
    const uint64_t *start = read_words(&reader, LENT_DOMAINS + 2);
    int result = start ? 0 : -EINVAL;

    if (engine->lent_any)
        return -EBUSY;
    if (start) {
        memcpy(engine->sequences, start, sizeof(engine->sequences));
        engine->lent_any = 1;
        for (uint64_t i = 0; i < start[LENT_DOMAINS + 1] && !result; i++)
            result = load_reply(engine, &reader);
        for (uint64_t i = 0; i < start[LENT_DOMAINS] && !result; i++)
            result = load_connection(engine, &reader);
        if (!result && reader.next != reader.end)
            result = -EINVAL;
        if (result) {
            give_files_away(engine);
            forget_all(engine);
        }
    }
    return result;
}

// -- the loop -----------------------------------------------------------------------------------------------------------

// Receives as kdbus_listener_receive does, and serves what it can: returns 1 with a call for the broker, 0 when none
// came for `linger_ns` or `stop_ns` (CLOCK_MONOTONIC) is over, 2 at the end of the targets, or -errno. A call that
// follows a hang-up is the broker's, which has to look after that first.
int kdbus_engine_run(struct kdbus_engine *engine, int listener, int64_t linger_ns, uint64_t stop_ns,
                     struct kdbus_notification *notification)
{
    engine->listener = listener;
    engine->self = (int)syscall(SYS_gettid);
    for (unsigned int round = 1;; round++) {
        int hung_up;
        int result =
            kdbus_listener_receive_beside(listener, engine->hang_ups, linger_ns, notification, &hung_up);

        if (result != 1)
            return result;
        if (!engine->lent_any || hung_up)
            return 1;
        result = flow_serve(engine, notification);
        if (result <= 0)
            return result < 0 ? result : 1;
        engine->served++;
        if (round % 16 == 0 && now_ns() >= stop_ns)
            return 0;
    }
}

uint64_t kdbus_engine_served(const struct kdbus_engine *engine)
{
    return engine->served;
}
