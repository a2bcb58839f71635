// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where messages come from, and what receivers are shown of it (broker/origin.py): what the broker has found out once,
// with the evidence for it, and whether it may be repeated.
//
// Records are found by who they are about. That the evidence holds is established for each message, by reading what it
// consists of; it does not matter how old a record is, or whether its thread's number is another one's by now.

#include "flow.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t key_of(uint64_t connection, uint32_t thread, uint64_t attach_flags, uint64_t origin)
{
    uint64_t key = flow_mix(connection << 32 ^ thread);

    key = flow_mix(key ^ attach_flags);
    return flow_mix(key ^ origin) | 1;
}

static int put(struct flow_table *table, uint64_t key, void *record)
{
    int result;

    if (table->used >= LENT_ORIGINS && !flow_table_find(table, key))
        flow_table_clear(table); // those in use come back
    result = flow_table_insert(table, record);
    if (result)
        free(record);
    return result;
}

int kdbus_engine_learn_origin(struct kdbus_engine *engine, const struct kdbus_origin_facts *facts, const char *evidence,
                              size_t evidence_size)
{
    const struct flow_connection *source = flow_connection_at(engine, facts->connection);
    struct flow_origin *record;

    if (!source)
        return -ENOENT;
    record = malloc(sizeof(*record) + evidence_size);
    if (!record)
        return -ENOMEM;
    record->key = key_of(source->serial, facts->thread, facts->attach_flags, 0);
    record->source = source->serial;
    record->facts = *facts;
    record->evidence_size = evidence_size;
    memcpy(record->evidence, evidence, evidence_size);
    return put(&engine->origins, record->key, record);
}

int kdbus_engine_learn_export(struct kdbus_engine *engine, const struct kdbus_export_facts *facts, const char *items,
                              size_t items_size, const char *evidence, size_t evidence_size)
{
    const struct flow_connection *receiver = flow_connection_at(engine, facts->connection);
    struct flow_export *record;

    if (!receiver)
        return -ENOENT;
    if (items_size & 7 || facts->items_end > items_size || items_size - facts->items_end >= 8)
        return -EINVAL;
    record = malloc(sizeof(*record) + items_size + evidence_size);
    if (!record)
        return -ENOMEM;
    record->key = key_of(receiver->serial, facts->thread, facts->attach_flags, facts->origin);
    record->receiver = receiver->serial;
    record->facts = *facts;
    record->items_size = items_size;
    record->evidence_size = evidence_size;
    memcpy(record->data, items, items_size);
    memcpy(record->data + items_size, evidence, evidence_size);
    return put(&engine->exports, record->key, record);
}

// The numbers of origins begin to mean something else; -EBUSY while messages may refer to them.
int kdbus_engine_forget_origins(struct kdbus_engine *engine)
{
    if (engine->lent_any)
        return -EBUSY;
    flow_table_clear(&engine->origins);
    flow_table_clear(&engine->exports);
    return 0;
}

// Opens what is read of the thread of a binding, which is known to be that of call `id` of `listener`. 0 if that fails.
int flow_open_thread(struct kdbus_engine *engine, struct flow_binding *binding, int listener, uint64_t id)
{
    char path[sizeof("/proc/4294967295")];

    if (binding->directory >= 0)
        return 1;
    if (engine->descriptors + 2 > engine->most_descriptors)
        flow_forget_all_descriptors(engine); // those in use come back
    snprintf(path, sizeof(path), "/proc/%u", (uint32_t)(binding->key >> 32));
    binding->directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (binding->directory < 0)
        return 0;
    engine->descriptors++;
    binding->status = openat(binding->directory, "status", O_RDONLY | O_CLOEXEC);
    if (binding->status >= 0)
        engine->descriptors++;
    // The number was the thread's when the folder was opened, if the thread still waits now.
    if (binding->status >= 0 && kdbus_listener_is_valid(listener, id) == 1)
        return 1;
    flow_forget_descriptors(engine, binding);
    return 0;
}

static int holds(struct kdbus_engine *engine, struct flow_binding *binding, int listener, uint64_t id,
                 const char *evidence, size_t size)
{
    if (flow_open_thread(engine, binding, listener, id)) {
        int found;

        deputy_leaves(engine->deputy);
        found = kdbus_evidence_holds(binding->directory, binding->status, evidence, size);
        deputy_is_back(engine->deputy, 0);
        if (found)
            return 1;
    }
    flow_forget_descriptors(engine, binding); // perhaps of a thread that has ended
    return 0;
}

const struct flow_origin *flow_origin_of(struct kdbus_engine *engine, struct flow_binding *binding, uint64_t id,
                                         const struct flow *flow)
{
    const struct flow_connection *source = binding->connection;
    uint32_t thread = (uint32_t)(binding->key >> 32);
    const struct flow_origin *record =
        flow_table_find(&engine->origins, key_of(source->serial, thread, flow->attach_flags, 0));

    if (!record || record->source != source->serial || record->facts.thread != thread ||
        record->facts.attach_flags != flow->attach_flags || record->facts.connection_facts != source->facts ||
        (flow->credentials && record->facts.credentials != flow->credentials))
        return NULL;
    return holds(engine, binding, engine->listener, id, record->evidence, record->evidence_size) ? record : NULL;
}

const struct flow_export *flow_export_for(struct kdbus_engine *engine, struct flow_binding *binding, int listener,
                                          uint64_t id, uint64_t origin)
{
    const struct flow_connection *receiver = binding->connection;
    uint32_t thread = (uint32_t)(binding->key >> 32);
    const struct flow_export *record =
        flow_table_find(&engine->exports, key_of(receiver->serial, thread, receiver->attach_flags, origin));

    if (!record || record->receiver != receiver->serial || record->facts.thread != thread ||
        record->facts.attach_flags != receiver->attach_flags || record->facts.origin != origin)
        return NULL;
    return holds(engine, binding, listener, id, record->data + record->items_size, record->evidence_size) ? record
                                                                                                         : NULL;
}

// What `flow->destination` is shown of an origin, whoever receives it: decided when it became a connection, so there is
// nothing to look at again. NULL if it is not known.
const struct flow_export *flow_export_to(const struct kdbus_engine *engine, const struct flow *flow, uint64_t origin)
{
    const struct flow_connection *receiver = flow->destination;
    const struct flow_export *record =
        flow_table_find(&engine->exports, key_of(receiver->serial, 0, flow->attach_flags, origin));

    if (!record || record->receiver != receiver->serial || record->facts.thread ||
        record->facts.attach_flags != flow->attach_flags || record->facts.origin != origin)
        return NULL;
    return record;
}
