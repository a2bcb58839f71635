// SPDX-License-Identifier: GPL-2.0-or-later
//
// The state of lent connections on its way: from the broker to the engine, and back (broker/lending.py).
//
// It travels as an array of 64-bit words, in the same layout in both directions: LENT_COUNTERS sequence numbers, how
// many connections and how many replies there are, the replies, the connections. What comes from the broker is checked
// all the same: an index that is none, or a count beyond a limit, is -EINVAL, and nothing is lent.

#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A reply: these, then the call that waits for it, zeros if none does. The requester is all ones if the broker keeps
// the reply. The state is bit 0 sync, 1 linked, 2 waiting.
enum {
    REPLY_NUMBER,
    REPLY_REQUESTER,
    REPLY_REPLIER,
    REPLY_COOKIE,
    REPLY_DEADLINE,
    REPLY_NAME_ID,
    REPLY_STATE,
    REPLY_WORDS
};

// A call that waits: its notification with its listener and six arguments, when to look at its thread, when it began (0
// if nobody watched), its command.
enum {
    CALL_ID,
    CALL_PID,
    CALL_FLAGS,
    CALL_NUMBER,
    CALL_ARCHITECTURE,
    CALL_POINTER,
    CALL_LISTENER,
    CALL_ARGUMENTS,
    CALL_LOOK = CALL_ARGUMENTS + 6,
    CALL_BEGAN,
    CALL_COMMAND,
    CALL_WORDS = CALL_COMMAND + LENT_COMMAND
};

// A connection: these, the first of its pool's words among them; the slices of its pool; the number of its messages;
// those. The state is bit 0 readable, 1 changed; the facts are its names and description.
enum {
    CONNECTION_INDEX,
    CONNECTION_STATE,
    CONNECTION_FACTS,
    CONNECTION_ATTACH_FLAGS,
    CONNECTION_POOL,
    CONNECTION_WORDS = CONNECTION_POOL + POOL_WORDS
};

// A message: the HEADER_WORDS of its header; these; its parts; the size of the name, and the name in whole words. The
// payload is an offset, all ones for none; the reply a number, 0 for none; the user all ones for none.
enum {
    ENTRY_SEQUENCE,
    ENTRY_NAME_ID,
    ENTRY_PAYLOAD,
    ENTRY_REPLY,
    ENTRY_USER,
    ENTRY_ORIGIN,
    ENTRY_HAS_TIMESTAMP,
    ENTRY_TIMESTAMP,
    ENTRY_PARTS = ENTRY_TIMESTAMP + 2,
    ENTRY_WORDS
};
enum { HEADER_WORDS = 8 };

// A piece of payload. The file is a descriptor, all ones for none; the high half is `sender` of struct flow_part.
enum { PART_SIZE, PART_START, PART_FILE, PART_PLACE, PART_WORDS };

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

void flow_close_files(struct flow_entry *entry)
{
    for (uint32_t i = 0; i < entry->part_count; i++)
        if (entry->parts[i].file >= 0)
            close(entry->parts[i].file);
    entry->part_count = 0;
}

void flow_forget_state(struct kdbus_engine *engine, struct flow_connection *connection)
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
    connection->waiting_bytes = 0;
    lent_pool_clear(&connection->pool);
    connection->dirty = 0;
}

void flow_forget_replies(struct kdbus_engine *engine)
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

// -- taking back ------------------------------------------------------------------------------------------------------

static int store_reply(const struct flow_reply *reply, struct words *out)
{
    const struct kdbus_notification *caller = &reply->caller;
    uint64_t words[] = {
        [REPLY_NUMBER] = reply->number,
        [REPLY_REQUESTER] = reply->requester ? reply->requester->index : UINT64_MAX,
        [REPLY_REPLIER] = reply->replier->index,
        [REPLY_COOKIE] = reply->cookie,
        [REPLY_DEADLINE] = reply->deadline_ns,
        [REPLY_NAME_ID] = reply->name_id,
        [REPLY_STATE] = reply->sync | (uint64_t)reply->linked << 1 | (uint64_t)reply->waiting << 2,
        [REPLY_WORDS + CALL_ID] = caller->id,
        [REPLY_WORDS + CALL_PID] = caller->pid,
        [REPLY_WORDS + CALL_FLAGS] = caller->flags,
        [REPLY_WORDS + CALL_NUMBER] = (uint64_t)caller->number,
        [REPLY_WORDS + CALL_ARCHITECTURE] = caller->architecture,
        [REPLY_WORDS + CALL_POINTER] = caller->instruction_pointer,
        [REPLY_WORDS + CALL_LISTENER] = (uint64_t)reply->listener,
    };
    int result = add_all(out, words, sizeof(words) / sizeof(*words));

    if (!result)
        result = add_all(out, caller->arguments, 6);
    if (!result)
        result = words_add(out, reply->look_ns);
    if (!result)
        result = words_add(out, reply->began_ns);
    return result ? result : add_all(out, reply->command, LENT_COMMAND);
}

static int store_entry(const struct flow_connection *connection, const struct flow_entry *entry, struct words *out)
{
    uint64_t words[] = {
        [ENTRY_SEQUENCE] = entry->sequence,
        [ENTRY_NAME_ID] = entry->name_id,
        [ENTRY_PAYLOAD] = entry->payload ? entry->payload->offset : UINT64_MAX,
        [ENTRY_REPLY] = entry->reply ? entry->reply->number : 0,
        [ENTRY_USER] = entry->user < 0 ? UINT64_MAX : connection->charges[entry->user].user,
        [ENTRY_ORIGIN] = entry->origin,
        [ENTRY_HAS_TIMESTAMP] = entry->has_timestamp,
        [ENTRY_TIMESTAMP] = entry->timestamp[0],
        [ENTRY_TIMESTAMP + 1] = entry->timestamp[1],
        [ENTRY_PARTS] = entry->part_count,
    };
    int result = add_all(out, entry->header, HEADER_WORDS);

    if (!result)
        result = add_all(out, words, sizeof(words) / sizeof(*words));
    for (uint32_t i = 0; i < entry->part_count && !result; i++) {
        const struct flow_part *part = &entry->parts[i];
        uint64_t file = part->file < 0 ? UINT64_MAX : (uint64_t)part->sender << 32 | (uint32_t)part->file;
        uint64_t told[] = {
            [PART_SIZE] = part->size,
            [PART_START] = part->start,
            [PART_FILE] = file,
            [PART_PLACE] = part->place,
        };

        result = add_all(out, told, PART_WORDS);
    }
    if (!result)
        result = words_add(out, entry->name_size);
    return result ? result : add_all(out, entry->name, (entry->name_size + 7) / 8);
}

static int store_connection(const struct flow_connection *connection, struct words *out)
{
    int result = words_add(out, connection->index);

    if (!result)
        result = words_add(out, connection->readable | (uint64_t)(connection->dirty == LENT_CHANGED) << 1);
    if (!result)
        result = words_add(out, connection->facts);
    if (!result)
        result = words_add(out, connection->attach_flags);
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
    result = add_all(out, engine->sequences, LENT_COUNTERS);
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
            flow_forget_state(engine, engine->connections[i]);
    flow_forget_replies(engine);
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

// Takes everything back. Returns the number of words at `*words` (valid until the next call): the latest sequence
// numbers, the number of changed connections and of replies, the replies, oldest first, and these connections; 0 if
// nothing was lent; -ENOMEM, and then nothing has changed.
int64_t kdbus_engine_recall(struct kdbus_engine *engine, const uint64_t **words)
{
    int result;

    *words = NULL;
    if (!engine->lent_any)
        return 0;
    shelf_close_all(engine);
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

static int load_charge(struct flow_connection *connection, struct flow_entry *entry, uint64_t user)
{
    int found = quota_of_user(connection, user);

    if (found < 0)
        return -EINVAL;
    quota_charge(connection, entry, found, user);
    return 0;
}

// Whether the message lies in a slice of its own, and the numbers of its descriptors would be written into that.
static int is_whole(const struct flow_connection *connection, const struct flow_entry *entry)
{
    if (!entry->payload)
        return 0;
    for (uint32_t i = 0; i < entry->part_count; i++)
        if (entry->parts[i].file >= 0 && (entry->parts[i].place & 3 || entry->payload->size < sizeof(uint32_t) ||
                                          entry->parts[i].place > entry->payload->size - sizeof(uint32_t)))
            return 0;
    return entry->payload->offset + entry->payload->size <= connection->pool.memory.size;
}

static int load_entry(struct kdbus_engine *engine, struct flow_connection *connection, struct reader *reader)
{
    const uint64_t *header = read_words(reader, HEADER_WORDS);
    const uint64_t *facts = read_words(reader, ENTRY_WORDS);
    uint64_t count = facts ? facts[ENTRY_PARTS] : 0;
    const uint64_t *parts = facts && count <= LENT_PARTS ? read_words(reader, PART_WORDS * count) : NULL;
    const uint64_t *name_size = parts ? read_words(reader, 1) : NULL;
    const uint64_t *name = name_size && *name_size <= LENT_NAME ? read_words(reader, (*name_size + 7) / 8) : NULL;
    struct flow_entry *entry;

    if (!header || !name)
        return -EINVAL;
    entry = calloc(1, sizeof(*entry));
    if (!entry)
        return -ENOMEM;
    memcpy(entry->header, header, sizeof(entry->header));
    entry->sequence = facts[ENTRY_SEQUENCE];
    entry->name_id = facts[ENTRY_NAME_ID];
    entry->payload =
        facts[ENTRY_PAYLOAD] == UINT64_MAX ? NULL : lent_pool_find(&connection->pool, facts[ENTRY_PAYLOAD]);
    entry->reply = facts[ENTRY_REPLY] ? reply_of_number(engine, facts[ENTRY_REPLY]) : NULL;
    entry->user = -1;
    entry->origin = facts[ENTRY_ORIGIN];
    entry->has_timestamp = facts[ENTRY_HAS_TIMESTAMP];
    memcpy(entry->timestamp, facts + ENTRY_TIMESTAMP, sizeof(entry->timestamp));
    entry->part_count = (uint32_t)count;
    for (uint32_t i = 0; i < entry->part_count; i++, parts += PART_WORDS)
        entry->parts[i] = (struct flow_part){
            parts[PART_SIZE], parts[PART_START], (int)(int64_t)parts[PART_FILE], 0, parts[PART_PLACE],
        };
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
    if ((facts[ENTRY_PAYLOAD] != UINT64_MAX && !entry->payload) || (facts[ENTRY_REPLY] && !entry->reply))
        return -EINVAL;
    if (connection->revision->whole && !is_whole(connection, entry))
        return -EINVAL;
    return facts[ENTRY_USER] == UINT64_MAX ? 0 : load_charge(connection, entry, facts[ENTRY_USER]);
}

static int load_connection(struct kdbus_engine *engine, struct reader *reader)
{
    const uint64_t *start = read_words(reader, CONNECTION_WORDS);
    uint64_t count = start ? start[CONNECTION_POOL + POOL_COUNT] : 0;
    const uint64_t *slices = start && count <= LENT_SLICES ? read_words(reader, SLICE_WORDS * count) : NULL;
    const uint64_t *entries = slices ? read_words(reader, 1) : NULL;
    struct flow_connection *connection =
        entries ? flow_connection_at(engine, (uint32_t)start[CONNECTION_INDEX]) : NULL;
    int result;

    if (!connection || *entries > LENT_MESSAGES)
        return -EINVAL;
    connection->generation = engine->generation;
    connection->readable = start[CONNECTION_STATE] & 1;
    connection->facts = start[CONNECTION_FACTS];
    connection->attach_flags = start[CONNECTION_ATTACH_FLAGS];
    connection->dirty = *entries ? LENT_GIVEN : 0;
    result = lent_pool_load(&connection->pool, start + CONNECTION_POOL, POOL_WORDS + SLICE_WORDS * count);
    for (uint64_t i = 0; i < *entries && !result; i++)
        result = load_entry(engine, connection, reader);
    return result;
}

static void load_caller(struct flow_reply *reply, const uint64_t *words)
{
    struct kdbus_notification *caller = &reply->caller;

    caller->id = words[CALL_ID];
    caller->pid = (uint32_t)words[CALL_PID];
    caller->flags = (uint32_t)words[CALL_FLAGS];
    caller->number = (int32_t)words[CALL_NUMBER];
    caller->architecture = (uint32_t)words[CALL_ARCHITECTURE];
    caller->instruction_pointer = words[CALL_POINTER];
    reply->listener = (int)words[CALL_LISTENER];
    memcpy(caller->arguments, words + CALL_ARGUMENTS, sizeof(caller->arguments));
    reply->look_ns = words[CALL_LOOK];
    reply->began_ns = words[CALL_BEGAN];
    memcpy(reply->command, words + CALL_COMMAND, sizeof(reply->command));
}

static int load_reply(struct kdbus_engine *engine, struct reader *reader)
{
    const uint64_t *facts = read_words(reader, REPLY_WORDS);
    const uint64_t *wait = facts ? read_words(reader, CALL_WORDS) : NULL;
    int kept = wait && facts[REPLY_REQUESTER] == UINT64_MAX;
    struct flow_connection *requester =
        wait && !kept ? flow_connection_at(engine, (uint32_t)facts[REPLY_REQUESTER]) : NULL;
    struct flow_connection *replier = wait ? flow_connection_at(engine, (uint32_t)facts[REPLY_REPLIER]) : NULL;
    struct flow_reply *reply;

    if (!replier || (!requester && !kept))
        return -EINVAL;
    reply = flow_new_reply(engine);
    if (!reply)
        return -ENOMEM;
    reply->number = facts[REPLY_NUMBER];
    if (engine->last_reply < reply->number)
        engine->last_reply = reply->number;
    reply->replier = replier;
    if (kept)
        return 0; // only named by requests that the replier has not received yet
    reply->requester = requester;
    requester->request_count++;
    reply->cookie = facts[REPLY_COOKIE];
    reply->deadline_ns = facts[REPLY_DEADLINE];
    reply->name_id = facts[REPLY_NAME_ID];
    reply->sync = facts[REPLY_STATE] & 1;
    reply->linked = facts[REPLY_STATE] >> 1 & 1;
    reply->waiting = facts[REPLY_STATE] >> 2 & 1;
    reply->holders = reply->linked + reply->waiting; // and the entries that name it
    load_caller(reply, wait);
    return 0;
}

// Takes connections with all that belongs to them, as words in the layout that kdbus_engine_recall returns. -EBUSY
// while anything is lent; -EINVAL for a state that is not taken, -ENOMEM: then nothing is lent, and no descriptor is
// taken.
int kdbus_engine_lend(struct kdbus_engine *engine, const uint64_t *words, size_t count)
{
    struct reader reader = {words, words + count};
    const uint64_t *start = read_words(&reader, LENT_COUNTERS + 2);
    int result = start ? 0 : -EINVAL;

    if (engine->lent_any)
        return -EBUSY;
    if (start) {
        memcpy(engine->sequences, start, sizeof(engine->sequences));
        engine->files_left = 0;
        engine->lent_any = 1;
        engine->hung_up = 0;
        for (uint64_t i = 0; i < start[LENT_COUNTERS + 1] && !result; i++)
            result = load_reply(engine, &reader);
        for (uint64_t i = 0; i < start[LENT_COUNTERS] && !result; i++)
            result = load_connection(engine, &reader);
        if (!result && reader.next != reader.end)
            result = -EINVAL;
        if (result) {
            give_files_away(engine);
            forget_all(engine);
        } else {
            shelf_open_all(engine);
        }
    }
    return result;
}
