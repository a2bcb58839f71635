// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the files of the flow engine share: what a connection, a message and a reply are while they are lent, and then
// what each file does for the others, under its name. What the engine is, and what it is not, is explained in flow.c.

#ifndef KDBUS_NATIVE_FLOW_H
#define KDBUS_NATIVE_FLOW_H

#include "deputy.h"

#include <time.h>

#include <sys/uio.h>

#define LENT_SLICES 1024   // a pool in more pieces is left to the broker
#define LENT_MESSAGES 256  // limit of a queue (broker/limits.py)
#define LENT_REQUESTS 128  // limit of expected replies
#define LENT_UNACCOUNTED 16
#define LENT_PER_USER 16
#define LENT_USERS 8       // users with charges in one queue; more are left to the broker
#define LENT_SHARE_MESSAGES 256 // and bytes: what a user may have in a queue whose memory is shared
#define LENT_SHARE_BYTES UINT32_MAX
#define LENT_REVISIONS 8
#define LENT_COMMAND 9 // words of the largest command
// How long a call may wait before its thread is looked at (interposer/supervisor/waiting.py).
#define LENT_PATIENCE_NS 10000000ULL
#define LENT_PARTS 16      // payload items of one message
#define LENT_NAME 256      // a well-known name with its zero
#define LENT_COUNTERS 16
#define LENT_BINDINGS 8192 // descriptors of threads that are remembered
#define LENT_ORIGINS 1024 // records, and as many of what receivers are shown
#define LENT_FLOWS 8192 // those of former lendings among them, which only take room
#define LENT_NAMES 16384
#define LENT_SIGNALS 1024 // as many kinds of signals
#define LENT_MESSAGE_SIZE 1024 // header and items of a message; larger ones are left to the broker
#define LENT_PAYLOAD (2U << 20)
#define LENT_SHORT 512 // payload that is read together with its message

enum {
    LENT_GIVEN = 1, // it had messages, which the broker has forgotten
    LENT_CHANGED,   // a call was served on it
};

struct words {
    uint64_t *data;
    size_t count;
    size_t room;
};

int words_add(struct words *words, uint64_t word);

struct lent_slice {
    uint64_t offset;
    uint64_t size;
    uint64_t serial; // age among free slices of one size
    uint64_t serial_before; // what lent_pool_undo restores: this one's age, and the pool's counter
    uint64_t pool_serial_before;
    uint32_t holders;
    uint8_t free;
    uint8_t published;
    struct lent_slice *child;
    struct lent_slice *before;
    struct lent_slice *next;
};

struct lent_pool {
    struct kdbus_pool memory;
    struct kdbus_pool *origin; // of `memory`, a copy; tells how much of it is usable
    uint64_t serial;
    uint64_t busy;
    uint64_t count;
    struct lent_slice *first;
};

void lent_pool_clear(struct lent_pool *pool);

// A pool in words: these, then each slice in order of offset. The state of a slice is bit 0 free, bit 1 published, from
// bit 8 on the number of holders; its child an offset, all ones for none.
enum { POOL_SERIAL, POOL_BUSY, POOL_COUNT, POOL_WORDS };
enum { SLICE_SIZE, SLICE_STATE, SLICE_SERIAL, SLICE_CHILD, SLICE_WORDS };
int lent_pool_load(struct lent_pool *pool, const uint64_t *words, size_t count);
int lent_pool_store(const struct lent_pool *pool, struct words *out);
struct lent_slice *lent_pool_find(const struct lent_pool *pool, uint64_t offset);
struct lent_slice *lent_pool_allocate(struct lent_pool *pool, uint64_t size);
void lent_pool_undo(struct lent_pool *pool, struct lent_slice *slice);
void lent_pool_release(struct lent_pool *pool, struct lent_slice *slice);
void lent_pool_unpublish(struct lent_pool *pool, struct lent_slice *slice);

struct flow_connection;
struct flow_shelf;

// A reply that is expected (broker/reply.py). `holders` counts the link, the request in a queue, and the waiting call.
struct flow_reply {
    struct flow_reply *next; // of the engine
    struct flow_reply *previous;
    struct flow_connection *requester; // NULL: the call waits with the broker, which keeps the reply
    struct flow_connection *replier;
    uint64_t number; // names it in what is handed back
    uint64_t cookie;
    uint64_t deadline_ns;
    uint64_t name_id;
    uint32_t holders;
    uint8_t sync;
    uint8_t linked;
    uint8_t waiting;
    struct kdbus_notification caller; // of a waiting call
    int listener;                     // that it came from
    uint64_t look_ns; // when its thread has to be looked at (CLOCK_MONOTONIC)
    uint64_t began_ns; // when the call began, if that is in the ring or known to who reads it, else 0
    uint64_t command[LENT_COMMAND]; // its argument, as it was read
};

struct flow_part {
    uint64_t size;
    uint64_t start;
    int file; // a sealed memfd that is ours to close, -1 for copied payload
    uint32_t sender; // one more than the index of who sent it, if that was while lent, else 0
    uint64_t place; // in a message of one slice, where the number of its descriptor stands, in bytes from the start
};

// A message in a queue (broker/queue.py).
struct flow_entry {
    struct flow_entry *next;
    uint64_t header[8]; // struct kdbus_msg, but for the size
    uint64_t sequence;
    uint64_t name_id;
    struct lent_slice *payload; // or the whole message, as the revision of the receiver has it
    struct flow_reply *reply;
    int user; // index into the receiver's charges, -1 for none
    uint64_t origin; // broker/origin.py
    uint64_t has_timestamp;
    uint64_t timestamp[2]; // CLOCK_MONOTONIC and CLOCK_REALTIME, ns
    uint32_t part_count;
    struct flow_part parts[LENT_PARTS];
    uint32_t name_size; // with its zero; 0 for none
    char name[LENT_NAME];
};

struct flow_charge {
    uint64_t user;
    uint64_t count; // of messages
    uint64_t bytes; // of their memory, where that is shared
};

struct flow_connection {
    const struct kdbus_flow_revision *revision; // that it speaks
    int accepts_files;
    uint32_t receiving; // the thread that received here last, 0 for none
    uint32_t index;
    uint32_t counter; // of messages
    uint64_t id;
    uint64_t bus;
    uint64_t user;
    uint64_t serial; // no other connection ever has the same
    uint64_t generation; // lent if it is the engine's
    uint64_t facts; // number of its names and its description
    uint64_t attach_flags; // that it asks for as a receiver
    int ours;
    int epoll;
    int target;
    uint64_t cookie;
    uint8_t dirty; // has to be handed back: LENT_GIVEN or LENT_CHANGED
    uint8_t readable;
    uint8_t used;
    struct lent_pool pool;
    uint32_t message_count;
    uint32_t request_count;
    struct flow_entry *first;
    struct flow_entry *last;
    struct flow_charge charges[LENT_USERS];
    uint64_t waiting_bytes; // of all messages that are charged, where memory is shared
    struct flow_shelf *shelf; // what its receiver may take by itself, NULL if it does not
};

struct flow_binding {
    uint64_t key; // thread << 32 | descriptor
    struct flow_connection *connection;
    int pidfd;     // of the thread, -1 until it is needed
    int directory; // /proc/TID, likewise
    int status;    // the file of that name in it
    uint64_t message_address; // where the last SEND had its message,
    struct iovec payload;     // and its payload, if that was one short piece
};

struct flow {
    uint64_t key;
    uint64_t generation;
    struct flow_connection *destination;
    uint64_t attach_flags;
    uint64_t credentials;
    int talks;
};

// A name, see names.c.
struct flow_name {
    uint64_t key;
    uint64_t owner; // serial
    struct kdbus_name_facts facts;
    char name[];
};

// Who gets one kind of signal.
struct flow_listener {
    struct flow_connection *connection;
    uint64_t attach_flags;
};

struct flow_signal {
    uint64_t key;
    uint64_t generation;
    const struct flow_connection *source;
    uint64_t destination; // an id, or that for all
    uint64_t attach_flags;
    size_t filter_size;
    char *filter; // behind the listeners
    uint32_t count;
    struct flow_listener listeners[];
};

struct flow_origin {
    uint64_t key;
    uint64_t source; // serial
    struct kdbus_origin_facts facts;
    size_t evidence_size;
    char evidence[];
};

struct flow_export {
    uint64_t key;
    uint64_t receiver; // serial
    struct kdbus_export_facts facts;
    size_t items_size;
    size_t evidence_size;
    char data[]; // items, evidence
};

// Tables with open addressing; a key of 0 is an empty place.
struct flow_table {
    void **places;
    size_t room;
    size_t used;
};

// A message that is being shown to its receiver.
struct showing {
    struct flow_connection *receiver;
    const struct flow_entry *entry;
    struct lent_slice *slice; // NULL for none
};

// What there is to undo of the present call while a copy from or to a target is under way (hot_stall.c).
struct flight {
    int socket;                     // a duplicate to be closed, -1 for none
    struct flow_binding *foreseen;  // whose last message's addresses are tried
    struct sending *send;           // that nobody has got yet
    const struct flow_signal *signal;
    struct delivery *made;          // of that signal, so many and one more perhaps
    uint32_t made_count;
    struct showing shown;
    struct flow_reply *answering;   // whose call gets its results, which is not the present one
    int finished;                   // nothing is left but the results and the answer
};

struct flow_ring; // ring.c

struct kdbus_engine {
    struct flow_ring *ring; // NULL while nobody watches
    struct kdbus_deputies *deputies; // NULL where whoever runs the engine does all by itself
    struct deputy *deputy;           // that runs it now, NULL for none
    struct flight flight;
    struct kdbus_stall stall;
    uint64_t *held; // users whose calls are not served
    size_t held_count;
    int interrupt; // eventfd: a signal has come to who waits for the deputy
    struct pollfd *pollers; // the listeners, and behind them the others
    struct kdbus_received **received; // of each listener, NULL where there is no caretaker
    size_t listener_count;
    size_t turn; // whose call is received first
    struct kdbus_shares *shares; // calls that wait for their turn
    unsigned int unlooked; // calls since it was looked whether others wait
    uint64_t newest; // the call that was received last of those that wait
    uint64_t chosen_ns; // when the present call was chosen among those that wait, 0 if it was not
    int hang_ups;
    int timer;
    int attention; // kdbus_engine_attend
    int listener; // that the present call came from
    int self; // the thread that runs the engine
    uint64_t generation;
    struct kdbus_flow_revision revisions[LENT_REVISIONS];
    uint32_t revision_count;
    uint64_t last_reply;
    uint64_t sequences[LENT_COUNTERS];
    uint64_t served;
    uint64_t self_served; // calls that receivers have served by themselves, as far as they were settled
    uint64_t files_left; // how many may still be fetched from senders, see kdbus_engine_allow_files
    int lent_any;
    int hung_up; // something has ended since that was lent, which the broker has to look after first
    struct flow_connection **connections;
    size_t connection_room;
    struct flow_table bindings;
    size_t descriptors; // of all bindings
    size_t most_descriptors; // but for the few of one binding
    struct flow_table flows;
    struct flow_table names;
    struct flow_table signals;
    struct flow_table origins;
    struct flow_table exports;
    uint64_t last_serial;
    struct flow_reply *replies; // all alive, the oldest first
    struct flow_reply *last_in_list;
    struct words out;
};

static inline uint64_t align8(uint64_t size)
{
    return (size + 7) & ~7ULL;
}

static inline uint64_t flow_clock_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline uint64_t flow_now_ns(void)
{
    return flow_clock_ns(CLOCK_MONOTONIC);
}

// flow_table.c
uint64_t flow_mix(uint64_t key);
void *flow_table_find(const struct flow_table *table, uint64_t key);
int flow_table_insert(struct flow_table *table, void *record);
void flow_table_clear(struct flow_table *table);

// quota.c: what a message costs in its receiver's queue, other than the index of a charge.
enum { CHARGE_NONE = -1, CHARGE_REFUSED = -2, CHARGE_OF_BROKER = -3 };
int quota_of_user(const struct flow_connection *receiver, uint64_t user);
int quota_find(const struct flow_connection *receiver, uint64_t user, uint64_t size);
void quota_explain(const struct flow_connection *receiver, uint64_t user, uint64_t size,
                   struct kdbus_refusal *refusal);
void quota_charge(struct flow_connection *receiver, struct flow_entry *entry, int charge, uint64_t user);
void quota_give_back(struct flow_connection *receiver, struct flow_entry *entry);

// flow_state.c
void flow_close_files(struct flow_entry *entry);
void flow_forget_state(struct kdbus_engine *engine, struct flow_connection *connection);
void flow_forget_replies(struct kdbus_engine *engine);

// shelf.c: what receivers take by themselves.
void shelf_open(struct kdbus_engine *engine, struct flow_connection *connection);
void shelf_open_all(struct kdbus_engine *engine);
void shelf_close(struct kdbus_engine *engine, struct flow_connection *connection);
void shelf_close_all(struct kdbus_engine *engine);
void shelf_collect(struct kdbus_engine *engine, struct flow_connection *connection);
int shelf_add(struct kdbus_engine *engine, struct flow_connection *connection, const struct flow_entry *entry);
void shelf_hold(struct kdbus_engine *engine, struct flow_connection *connection, const struct lent_slice *slice);
void shelf_forget(struct flow_connection *connection, uint64_t offset);
void shelf_end(struct flow_connection *connection);

// ring.c, but for what is told of single calls (hot_path.h)
void flow_forget_ring(struct kdbus_engine *engine);
int flow_ring_is_full(const struct kdbus_engine *engine);
void flow_ring_begin(struct kdbus_engine *engine);
uint64_t flow_ring_start(const struct kdbus_engine *engine);

// loop.c: 0 or -errno, with `flow_end_loop` still to be called.
int flow_prepare_loop(struct kdbus_engine *engine, int hang_ups);
void flow_end_loop(struct kdbus_engine *engine);

// flow.c
struct flow_connection *flow_connection_at(const struct kdbus_engine *engine, uint32_t index);
int flow_is_lent(const struct kdbus_engine *engine, const struct flow_connection *connection);
void flow_forget_descriptors(struct kdbus_engine *engine, struct flow_binding *binding);
void flow_forget_all_descriptors(struct kdbus_engine *engine);
struct flow_binding *flow_find_binding(const struct kdbus_engine *engine, uint64_t key);
struct flow *flow_find(const struct kdbus_engine *engine, const struct flow_connection *source,
                       uint64_t destination_id);
const struct flow_connection *flow_owner_of(const struct kdbus_engine *engine, uint64_t bus, const char *name,
                                            uint64_t *name_id);
const struct flow_signal *flow_find_signal(const struct kdbus_engine *engine, const struct flow_connection *source,
                                           uint64_t destination, const char *filter, size_t size);
struct flow_reply *flow_new_reply(struct kdbus_engine *engine);
void flow_drop_reply(struct kdbus_engine *engine, struct flow_reply *reply);
void flow_unlink_reply(struct kdbus_engine *engine, struct flow_reply *reply);

// origin.c: `directory` and `status` of the binding, 0 if they cannot be had. `id`: the call of its thread at
// `listener`.
int flow_open_thread(struct kdbus_engine *engine, struct flow_binding *binding, int listener, uint64_t id);

// origin.c: NULL if there is none that is known to be right. `id`: the call of the binding's thread. What does not
// depend on who receives is found by flow_export_to.
const struct flow_origin *flow_origin_of(struct kdbus_engine *engine, struct flow_binding *binding, uint64_t id,
                                         const struct flow *flow);
const struct flow_export *flow_export_for(struct kdbus_engine *engine, struct flow_binding *binding, int listener,
                                          uint64_t id, uint64_t origin);
const struct flow_export *flow_export_to(const struct kdbus_engine *engine, const struct flow *flow, uint64_t origin);

// hot_path.c: 1 if the trapped call was served, 0 if it is the broker's, as it also is when there is no memory.
int flow_serve(struct kdbus_engine *engine, const struct kdbus_notification *notification);

#endif
