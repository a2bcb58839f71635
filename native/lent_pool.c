// SPDX-License-Identifier: GPL-2.0-or-later
//
// The slices of a pool while the helper keeps them: the same best fit, the same splitting and merging as the broker's
// (broker/pool.py, where the rules are explained), so that nobody can tell who gave a slice out.

#include "flow.h"

#include <errno.h>
#include <stdlib.h>

void lent_pool_clear(struct lent_pool *pool)
{
    struct lent_slice *slice = pool->first;

    while (slice) {
        struct lent_slice *next = slice->next;

        free(slice);
        slice = next;
    }
    pool->first = NULL;
    pool->count = 0;
}

struct lent_slice *lent_pool_find(const struct lent_pool *pool, uint64_t offset)
{
    for (struct lent_slice *slice = pool->first; slice && slice->offset <= offset; slice = slice->next)
        if (slice->offset == offset)
            return slice->free ? NULL : slice;
    return NULL;
}

int lent_pool_load(struct lent_pool *pool, const uint64_t *words, size_t count)
{
    struct lent_slice *last = NULL;
    uint64_t offset = 0;

    lent_pool_clear(pool);
    if (count < POOL_WORDS || words[POOL_COUNT] > LENT_SLICES || count != POOL_WORDS + SLICE_WORDS * words[POOL_COUNT])
        return -EINVAL;
    pool->serial = words[POOL_SERIAL];
    pool->busy = words[POOL_BUSY];
    pool->memory.memory = pool->origin->memory;
    pool->memory.usable = pool->origin->usable;
    for (const uint64_t *word = words + POOL_WORDS; word < words + count; word += SLICE_WORDS) {
        struct lent_slice *slice = calloc(1, sizeof(*slice));

        if (!slice) {
            lent_pool_clear(pool);
            return -ENOMEM;
        }
        slice->offset = offset;
        slice->size = word[SLICE_SIZE];
        slice->free = word[SLICE_STATE] & 1;
        slice->published = word[SLICE_STATE] >> 1 & 1;
        slice->holders = (uint32_t)(word[SLICE_STATE] >> 8);
        slice->serial = word[SLICE_SERIAL];
        slice->before = last;
        if (last)
            last->next = slice;
        else
            pool->first = slice;
        last = slice;
        pool->count++;
        offset += slice->size;
    }
    if (offset != pool->memory.size) {
        lent_pool_clear(pool);
        return -EINVAL;
    }
    // Children are named by offset, so they can be linked only now.
    last = pool->first;
    for (const uint64_t *word = words + POOL_WORDS; word < words + count; word += SLICE_WORDS, last = last->next)
        if (word[SLICE_CHILD] != UINT64_MAX)
            last->child = lent_pool_find(pool, word[SLICE_CHILD]);
    return 0;
}

int lent_pool_store(const struct lent_pool *pool, struct words *out)
{
    int result = words_add(out, pool->serial);

    if (!result)
        result = words_add(out, pool->busy);
    if (!result)
        result = words_add(out, pool->count);
    for (const struct lent_slice *slice = pool->first; slice && !result; slice = slice->next) {
        uint64_t state = slice->free | (uint64_t)slice->published << 1 | (uint64_t)slice->holders << 8;

        result = words_add(out, slice->size);
        if (!result)
            result = words_add(out, state);
        if (!result)
            result = words_add(out, slice->serial);
        if (!result)
            result = words_add(out, slice->child ? slice->child->offset : UINT64_MAX);
    }
    return result;
}

// A free slice for `size` > 0 bytes, held once; NULL where the broker has to look for itself.
struct lent_slice *lent_pool_allocate(struct lent_pool *pool, uint64_t size)
{
    struct lent_slice *found = NULL;

    size = align8(size);
    for (struct lent_slice *slice = pool->first; slice; slice = slice->next)
        if (slice->free && slice->size >= size &&
            (!found || slice->size < found->size || (slice->size == found->size && slice->serial < found->serial)))
            found = slice;
    if (!found || pool->count >= LENT_SLICES || found->offset + size > pool->memory.usable)
        return NULL;
    found->serial_before = found->serial;
    found->pool_serial_before = pool->serial;
    if (found->size > size) {
        struct lent_slice *rest = calloc(1, sizeof(*rest));

        if (!rest)
            return NULL;
        rest->offset = found->offset + size;
        rest->size = found->size - size;
        rest->free = 1;
        rest->serial = ++pool->serial;
        rest->before = found;
        rest->next = found->next;
        if (found->next)
            found->next->before = rest;
        found->next = rest;
        found->size = size;
        pool->count++;
    }
    found->free = 0;
    found->published = 0;
    found->holders = 1;
    found->child = NULL;
    pool->busy += size;
    return found;
}

// `slice` takes up the room of the one behind it, which is gone then.
static void merge(struct lent_pool *pool, struct lent_slice *slice)
{
    struct lent_slice *following = slice->next;

    slice->size += following->size;
    slice->next = following->next;
    if (following->next)
        following->next->before = slice;
    pool->count--;
    free(following);
}

static void give_back(struct lent_pool *pool, struct lent_slice *slice)
{
    struct lent_slice *child;

    if (slice->holders || slice->published)
        return;
    child = slice->child;
    slice->child = NULL;
    pool->busy -= slice->size;
    if (slice->next && slice->next->free)
        merge(pool, slice);
    if (slice->before && slice->before->free) {
        slice = slice->before;
        merge(pool, slice);
    }
    slice->free = 1;
    slice->serial = ++pool->serial;
    if (child)
        lent_pool_release(pool, child);
}

// As if the latest allocation, `slice`, had never been made: the broker makes it again, and must find what was there.
void lent_pool_undo(struct lent_pool *pool, struct lent_slice *slice)
{
    uint64_t pool_serial = slice->pool_serial_before;
    uint64_t serial = slice->serial_before;

    if (slice->child)
        slice->child->holders--;
    slice->child = NULL;
    slice->holders = 0;
    give_back(pool, slice); // nothing before it is free, so it stays where it is
    slice->serial = serial;
    pool->serial = pool_serial;
}

void lent_pool_release(struct lent_pool *pool, struct lent_slice *slice)
{
    slice->holders--;
    give_back(pool, slice);
}

void lent_pool_unpublish(struct lent_pool *pool, struct lent_slice *slice)
{
    slice->published = 0;
    give_back(pool, slice);
}
