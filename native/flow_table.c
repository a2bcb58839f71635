// SPDX-License-Identifier: GPL-2.0-or-later
//
// Tables of the engine: records that begin with a key of 64 bits, found by it. Open addressing, at most half full, so
// that a search looks at one or two places; nothing is ever taken out alone. Records are freed with the table.

#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// Spreads the bits of a key over all of the word.
uint64_t flow_mix(uint64_t key)
{
    key ^= key >> 33;
    key *= 0xff51afd7ed558ccdULL;
    key ^= key >> 33;
    return key;
}

static void **flow_table_place(const struct flow_table *table, uint64_t key)
{
    size_t place = flow_mix(key) & (table->room - 1);

    while (table->places[place] && *(uint64_t *)table->places[place] != key)
        place = (place + 1) & (table->room - 1);
    return &table->places[place];
}

void *flow_table_find(const struct flow_table *table, uint64_t key)
{
    return table->room ? *flow_table_place(table, key) : NULL;
}

// In the place of a record with the same key, which is freed, if there is one.
int flow_table_insert(struct flow_table *table, void *record)
{
    void **place;

    if (2 * (table->used + 1) > table->room) {
        struct flow_table larger = {.room = table->room ? 2 * table->room : 64, .used = table->used};

        larger.places = calloc(larger.room, sizeof(*larger.places));
        if (!larger.places)
            return -ENOMEM;
        for (size_t i = 0; i < table->room; i++)
            if (table->places[i])
                *flow_table_place(&larger, *(uint64_t *)table->places[i]) = table->places[i];
        free(table->places);
        *table = larger;
    }
    place = flow_table_place(table, *(uint64_t *)record);
    table->used += !*place;
    free(*place);
    *place = record;
    return 0;
}

void flow_table_clear(struct flow_table *table)
{
    for (size_t i = 0; i < table->room; i++)
        free(table->places[i]);
    free(table->places);
    memset(table, 0, sizeof(*table));
}
