// SPDX-License-Identifier: GPL-2.0-or-later
//
// Well-known names, as the broker has told them: whose they are. A program that reads the properties of a hundred names
// sends to few connections, and the answer for those (flow.c) is the same by whichever of their names they are
// addressed.
//
// Names change hands, and the engine is not told of that. But with each connection that is lent comes a number that
// stands for the names it has (broker/origin.py), and a name counts as long as its owner still has the number that it
// had when the name was told.

#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// Names of different buses have keys of their own.
static uint64_t name_key(uint64_t bus, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325ULL ^ flow_mix(bus);

    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001b3ULL;
    return flow_mix(hash) | 1;
}

// The connection that has the name has to be known; `facts` is its number for the names that it has. -ENOSPC when there
// are too many: those that are told have to be forgotten first.
int kdbus_engine_learn_name(struct kdbus_engine *engine, const struct kdbus_name_facts *facts, const char *name)
{
    const struct flow_connection *owner = flow_connection_at(engine, facts->connection);
    size_t size = strlen(name) + 1;
    struct flow_name *record;
    int result;

    if (!owner)
        return -ENOENT;
    if (size > LENT_NAME)
        return -ENAMETOOLONG;
    if (engine->names.used >= LENT_NAMES)
        return -ENOSPC;
    record = malloc(sizeof(*record) + size);
    if (!record)
        return -ENOMEM;
    record->key = name_key(owner->bus, name);
    record->owner = owner->serial;
    record->facts = *facts;
    memcpy(record->name, name, size);
    result = flow_table_insert(&engine->names, record);
    if (result)
        free(record);
    return result;
}

int kdbus_engine_forget_names(struct kdbus_engine *engine)
{
    flow_table_clear(&engine->names);
    return 0;
}

// The lent connection of that bus which has the name, and which acquisition of the name that was; NULL if that is not
// known.
const struct flow_connection *flow_owner_of(const struct kdbus_engine *engine, uint64_t bus, const char *name,
                                            uint64_t *name_id)
{
    const struct flow_name *record = flow_table_find(&engine->names, name_key(bus, name));
    const struct flow_connection *owner = record ? flow_connection_at(engine, record->facts.connection) : NULL;

    if (!owner || owner->serial != record->owner || owner->bus != bus || !flow_is_lent(engine, owner) ||
        owner->facts != record->facts.facts || strcmp(record->name, name))
        return NULL;
    *name_id = record->facts.name_id;
    return owner;
}
