// SPDX-License-Identifier: GPL-2.0-or-later
//
// Shelves (shelf.h): what receivers take and free by themselves.
//
// A shelf is part of its connection's lent state: it is open only while the connection is lent, and before anything is
// taken back, or a trapped RECV served, it is closed, which settles what its user has done. So neither the broker nor
// the other code of the engine ever has to know of it, and what is done to queue, quota, replies and pool is done in
// the same order, and by the same functions, as if each RECV and FREE had trapped. Only later: when the next message
// comes for the connection, or whatever else its state is needed for.
//
// Nothing in that memory is trusted. What is on the shelf, the engine knows by itself; from the memory it takes how
// many messages have been taken, which may not be more than lie there, and which slices were freed, each of which must
// be one that is the receiver's. Whoever writes anything else there gets its own messages twice, or not at all, or is
// not woken; a shelf whose head makes no sense is never opened again. Each word is read once, and the memory cannot
// shrink, as it is sealed.
//
// Messages go there in the order of the queue, and only plain ones: without descriptors, in a pool of whole messages,
// where nothing depends on who receives. What stands behind one that is not waits for a trapped RECV.
//
// Whether pollers see the descriptor readable is in the head as long as the shelf is open: its user takes the byte out
// of the socket before it takes the last message, and says so with the same exchange. If a message has come meanwhile,
// or the shelf was closed, that exchange fails, the byte is gone, and the user asks for another (SHELF_SETTLE). The
// byte is written when the message lies there, as who is woken by it may run at once; a user that comes before the byte
// finds none, and makes a call that traps, so that none is left over.

#include "hot_path.h"
#include "shelf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORDS (SHELF_PLACES + SHELF_HELD)
#define ATTEMPTS 16 // at changing the head, which an honest user changes once meanwhile

struct flow_shelf {
    struct shelf *shared;
    int open;
    int broken; // never to be opened again
    uint64_t taken;
    uint64_t put;
    uint64_t frees;
    uint32_t next_held;
    uint64_t live[(WORDS + 63) / 64]; // which words may be live
    uint64_t offsets[WORDS];          // and of which slices
};

struct freed {
    uint64_t number;
    uint64_t offset;
};

// Word number `index`: of a place, or, behind those, of what is held.
static uint64_t *word_at(struct flow_shelf *shelf, uint32_t index)
{
    return index < SHELF_PLACES ? &shelf->shared->places[index].word : &shelf->shared->held[index - SHELF_PLACES];
}

static int is_live(const struct flow_shelf *shelf, uint32_t index)
{
    return shelf->live[index / 64] >> index % 64 & 1;
}

// -- what was freed ---------------------------------------------------------------------------------------------------

static void unpublish(struct kdbus_engine *engine, struct flow_connection *connection, uint64_t offset)
{
    struct lent_slice *slice = lent_pool_find(&connection->pool, offset);

    if (!slice || !slice->published)
        return;
    lent_pool_unpublish(&connection->pool, slice);
    connection->dirty = LENT_CHANGED;
    engine->self_served++;
}

// Whether the slice is its receiver's: a message that still waits cannot be freed.
static int is_published(const struct flow_connection *connection, uint64_t offset)
{
    const struct lent_slice *slice = lent_pool_find(&connection->pool, offset);

    return slice && slice->published;
}

// Frees, in the order in which that was said, what was freed; `all`: nothing can be freed by means of the shelf
// any more.
static void collect_frees(struct kdbus_engine *engine, struct flow_connection *connection, int all)
{
    struct flow_shelf *shelf = connection->shelf;
    struct freed found[WORDS];
    uint32_t count = 0;

    for (uint32_t index = 0; index < WORDS; index++) {
        uint64_t word;
        uint32_t place;

        if (!shelf->live[index / 64]) {
            index |= 63;
            continue;
        }
        if (!is_live(shelf, index))
            continue;
        word = all ? __atomic_exchange_n(word_at(shelf, index), 0, __ATOMIC_ACQ_REL)
                   : __atomic_load_n(word_at(shelf, index), __ATOMIC_ACQUIRE);
        if ((word & SHELF_STATE) == SHELF_FREED && is_published(connection, shelf->offsets[index])) {
            for (place = count++; place && found[place - 1].number > word; place--)
                found[place] = found[place - 1];
            found[place] = (struct freed){word, shelf->offsets[index]};
        } else if (!all) {
            continue;
        }
        __atomic_store_n(word_at(shelf, index), 0, __ATOMIC_RELEASE);
        shelf->live[index / 64] &= ~(1ULL << index % 64);
    }
    for (uint32_t i = 0; i < count; i++)
        unpublish(engine, connection, found[i].offset);
}

// From now on the word stands for that slice. What it stood for can be freed by a trapped call.
static void set_word(struct kdbus_engine *engine, struct flow_connection *connection, uint32_t index, uint64_t offset)
{
    struct flow_shelf *shelf = connection->shelf;
    uint64_t before = __atomic_exchange_n(word_at(shelf, index), offset | SHELF_LIVE, __ATOMIC_ACQ_REL);

    if (is_live(shelf, index) && (before & SHELF_STATE) == SHELF_FREED)
        unpublish(engine, connection, shelf->offsets[index]);
    shelf->offsets[index] = offset;
    shelf->live[index / 64] |= 1ULL << index % 64;
}

// -- what was taken ---------------------------------------------------------------------------------------------------

// Receives what the head says was taken. 0 if that cannot be.
static int collect_taken(struct kdbus_engine *engine, struct flow_connection *connection, uint64_t head)
{
    struct flow_shelf *shelf = connection->shelf;
    uint64_t count = (shelf_taken(head) - shelf->taken) & SHELF_POSITIONS;

    if (!(head & SHELF_OPEN) || count > ((shelf->put - shelf->taken) & SHELF_POSITIONS))
        return 0;
    shelf->taken = shelf_taken(head);
    engine->self_served += count;
    while (count--) {
        connection->first->payload->published = 1;
        hot_dequeue(engine, connection);
    }
    return 1;
}

// Settles what the user has done, and lets it do nothing more; pollers see what it said.
void shelf_close(struct kdbus_engine *engine, struct flow_connection *connection)
{
    struct flow_shelf *shelf = connection->shelf;
    uint64_t head;

    if (!shelf || !shelf->open)
        return;
    head = __atomic_exchange_n(&shelf->shared->head, 0, __ATOMIC_ACQ_REL);
    shelf->open = 0;
    if (!collect_taken(engine, connection, head))
        shelf->broken = 1;
    collect_frees(engine, connection, 1);
    shelf->taken = shelf->put;
    if (connection->readable != ((head & SHELF_READABLE) != 0)) {
        connection->readable = !connection->readable;
        connection->dirty = LENT_CHANGED;
    }
}

void shelf_close_all(struct kdbus_engine *engine)
{
    for (size_t i = 0; i < engine->connection_room; i++)
        if (engine->connections[i] && engine->connections[i]->used)
            shelf_close(engine, engine->connections[i]);
}

// Settles what the user has done so far; it may go on.
void shelf_collect(struct kdbus_engine *engine, struct flow_connection *connection)
{
    struct flow_shelf *shelf = connection->shelf;
    uint64_t frees;

    if (!shelf || !shelf->open)
        return;
    if (!collect_taken(engine, connection, __atomic_load_n(&shelf->shared->head, __ATOMIC_ACQUIRE))) {
        shelf_close(engine, connection);
        return;
    }
    frees = __atomic_load_n(&shelf->shared->frees, __ATOMIC_ACQUIRE);
    if (frees == shelf->frees)
        return;
    shelf->frees = frees;
    collect_frees(engine, connection, 0);
}

// -- what is put there ------------------------------------------------------------------------------------------------

// Whether the message, the next one behind what lies ready, can be put there as well.
static int may_put(const struct flow_shelf *shelf, const struct flow_entry *entry)
{
    if (((shelf->put - shelf->taken) & SHELF_POSITIONS) >= SHELF_PLACES)
        return 0;
    for (uint32_t i = 0; i < entry->part_count; i++)
        if (entry->parts[i].file >= 0)
            return 0;
    return 1;
}

static void put(struct kdbus_engine *engine, struct flow_connection *connection, const struct flow_entry *entry)
{
    struct flow_shelf *shelf = connection->shelf;
    uint32_t index = (uint32_t)(shelf->put % SHELF_PLACES);

    shelf->shared->places[index].size = entry->payload->size;
    set_word(engine, connection, index, entry->payload->offset);
    shelf->put = (shelf->put + 1) & SHELF_POSITIONS;
}

// The connection is lent, and no call on it is being served: its user may take what is in the queue, unless somebody
// watches, who would not see that.
void shelf_open(struct kdbus_engine *engine, struct flow_connection *connection)
{
    struct flow_shelf *shelf = connection->shelf;
    const struct flow_entry *entry = connection->first;

    if (!shelf || shelf->open || shelf->broken || engine->ring)
        return;
    for (; entry && may_put(shelf, entry); entry = entry->next)
        put(engine, connection, entry);
    shelf->open = 1;
    shelf->frees = __atomic_load_n(&shelf->shared->frees, __ATOMIC_ACQUIRE);
    __atomic_store_n(&shelf->shared->head,
                     shelf_head(SHELF_OPEN | (connection->readable ? SHELF_READABLE : 0) | (entry ? SHELF_MORE : 0),
                                shelf->taken, shelf->put),
                     __ATOMIC_RELEASE);
}

void shelf_open_all(struct kdbus_engine *engine)
{
    for (size_t i = 0; i < engine->connection_room; i++)
        if (engine->connections[i] && engine->connections[i]->used && flow_is_lent(engine, engine->connections[i]))
            shelf_open(engine, engine->connections[i]);
}

// The head makes no sense: what was not settled yet counts as not done, and pollers are woken by each message.
static void give_up(struct flow_connection *connection)
{
    struct flow_shelf *shelf = connection->shelf;

    __atomic_store_n(&shelf->shared->head, 0, __ATOMIC_RELEASE);
    for (uint32_t index = 0; index < WORDS; index++)
        __atomic_store_n(word_at(shelf, index), 0, __ATOMIC_RELEASE);
    memset(shelf->live, 0, sizeof(shelf->live));
    shelf->open = 0;
    shelf->broken = 1;
    connection->readable = 0;
}

// `entry` is the last in the queue now; pollers see it. 0 if the shelf is not open.
int shelf_add(struct kdbus_engine *engine, struct flow_connection *connection, const struct flow_entry *entry)
{
    struct flow_shelf *shelf = connection->shelf;
    uint64_t put_before;
    int ready;

    if (!shelf || !shelf->open)
        return 0;
    put_before = shelf->put;
    ready = connection->message_count - 1 == ((shelf->put - shelf->taken) & SHELF_POSITIONS) && may_put(shelf, entry);
    if (ready)
        put(engine, connection, entry);
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        uint64_t head = __atomic_load_n(&shelf->shared->head, __ATOMIC_ACQUIRE);
        uint64_t flags = (head & SHELF_FLAGS) | SHELF_READABLE | (ready ? 0 : SHELF_MORE);

        if (!(head & SHELF_OPEN) || shelf_put(head) != put_before)
            break;
        if (!__atomic_compare_exchange_n(&shelf->shared->head, &head, shelf_head(flags, shelf_taken(head), shelf->put),
                                         0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            continue;
        if (!(head & SHELF_READABLE))
            send(connection->ours, "m", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        return 1;
    }
    give_up(connection);
    return 0;
}

// The answer to a synchronous call has been received: its slice can be freed like those of messages.
void shelf_hold(struct kdbus_engine *engine, struct flow_connection *connection, const struct lent_slice *slice)
{
    struct flow_shelf *shelf = connection->shelf;

    if (shelf && shelf->open)
        set_word(engine, connection, SHELF_PLACES + shelf->next_held++ % SHELF_HELD, slice->offset);
}

// Whether what is in that place still waits to be taken.
static int waits(const struct flow_shelf *shelf, uint32_t index)
{
    return index < SHELF_PLACES &&
           (index - shelf->taken) % SHELF_PLACES < ((shelf->put - shelf->taken) & SHELF_POSITIONS);
}

// A trapped call has freed the slice at `offset`; not the message in it, if that was only looked at.
void shelf_forget(struct flow_connection *connection, uint64_t offset)
{
    struct flow_shelf *shelf = connection->shelf;

    if (!shelf || !shelf->open)
        return;
    for (uint32_t index = 0; index < WORDS; index++) {
        if (is_live(shelf, index) && shelf->offsets[index] == offset && !waits(shelf, index)) {
            __atomic_store_n(word_at(shelf, index), 0, __ATOMIC_RELEASE);
            shelf->live[index / 64] &= ~(1ULL << index % 64);
        }
    }
}

// -- making and ending one --------------------------------------------------------------------------------------------

void shelf_end(struct flow_connection *connection)
{
    if (!connection->shelf)
        return;
    __atomic_store_n(&connection->shelf->shared->head, 0, __ATOMIC_RELEASE);
    munmap(connection->shelf->shared, sizeof(struct shelf));
    free(connection->shelf);
    connection->shelf = NULL;
}

static void tell_layout(const struct flow_connection *connection, struct shelf_layout *layout)
{
    const struct kdbus_flow_revision *of = connection->revision;

    *layout = (struct shelf_layout){
        .recv = of->recv,
        .recv_words = of->recv_words,
        .recv_flags = of->recv_flags,
        .recv_return_flags = of->recv_return_flags,
        .recv_dropped = of->recv_dropped,
        .recv_message = of->recv_message,
        .free = of->free,
        .free_words = of->free_words,
        .free_flags = of->free_flags,
        .free_return_flags = of->free_return_flags,
        .free_offset = of->free_offset,
        .empty_offset = of->empty_is_pool_size ? connection->pool.memory.size : 0,
        .cookie = connection->cookie,
    };
}

// A new shelf for the connection, in place of any that it has: a descriptor, which is the caller's; -EBUSY while it is
// lent, -EOPNOTSUPP where messages are not the final revision's, or -errno.
int kdbus_engine_share(struct kdbus_engine *engine, uint32_t index)
{
    struct flow_connection *connection = flow_connection_at(engine, index);
    struct flow_shelf *shelf;
    void *memory;
    int result;
    int file;

    if (!connection)
        return -ENOENT;
    if (flow_is_lent(engine, connection))
        return -EBUSY;
    if (!connection->revision->whole || !connection->revision->keeps_order ||
        connection->revision->recv_kernel_flags || connection->revision->free_kernel_flags)
        return -EOPNOTSUPP;
    file = kdbus_memory_file("kdbus-shelf");
    if (file < 0)
        return file;
    memory = MAP_FAILED;
    shelf = calloc(1, sizeof(*shelf));
    if (shelf && !ftruncate(file, sizeof(struct shelf)) &&
        !fcntl(file, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL))
        memory = mmap(NULL, sizeof(struct shelf), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) {
        result = shelf ? -errno : -ENOMEM;
        free(shelf);
        close(file);
        return result;
    }
    shelf_end(connection);
    shelf->shared = memory;
    tell_layout(connection, &shelf->shared->layout);
    connection->shelf = shelf;
    return file;
}

uint64_t kdbus_engine_self_served(const struct kdbus_engine *engine)
{
    return engine->self_served;
}
