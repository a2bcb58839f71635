// SPDX-License-Identifier: GPL-2.0-or-later
//
// The shelf of a connection: memory that its receiver shares with the engine, so that it can take plain messages and
// free them without a trap. shelf.c has the engine's side, and says what is trusted; preload/taking.c the receiver's.
//
// `head` says which messages lie ready. One word, so that who takes one and who withdraws them agree on each: how many
// have been taken since the beginning, how many have been put there, and whether the shelf is open at all. Message
// number N is in place N modulo SHELF_PLACES. Positions are never used again (until they have gone round once, after
// 2^30 messages), so a thread that was held up between looking and taking cannot take another message than it saw.
//
// A word of a place or of what is held says what may be freed: 0 nothing, else a slice's offset, which is a multiple of
// 8, with SHELF_LIVE, or, in its place, since it was freed, the number of that with SHELF_FREED.

#ifndef KDBUS_SHELF_H
#define KDBUS_SHELF_H

#include <stdint.h>
#include <sys/ioctl.h>

#define SHELF_PLACES 256
#define SHELF_HELD 16 // answers to synchronous calls, which lie in no queue

// Private calls, of numbers that no revision of kdbus has, without argument. The first returns a descriptor of the
// shelf (open for reading and writing), of which the caller is the user from now on; ENOTCONN: not yet; EOPNOTSUPP:
// never here; any other failure: nowhere. The second has pollers woken if there is a message; on a descriptor that
// is none, it fails once what was closed before has been seen to.
#define SHELF_ASK _IO(0x95, 0xf0)
#define SHELF_SETTLE _IO(0x95, 0xf1)

// RECV and FREE in those revisions whose connections may have a shelf.
#define SHELF_RECV _IOR(0x95, 0x91, uint64_t[8])
#define SHELF_FREE _IOW(0x95, 0x83, uint64_t[4])

#define SHELF_OPEN 1ULL
#define SHELF_READABLE 2ULL // pollers see the descriptor readable
#define SHELF_MORE 4ULL     // behind what lies ready, more waits, for a RECV that traps
#define SHELF_FLAGS 15ULL
#define SHELF_POSITIONS ((1ULL << 30) - 1)

#define SHELF_LIVE 1ULL
#define SHELF_FREED 2ULL
#define SHELF_STATE 7ULL

// What the receiver has to know of its revision of kdbus, as in struct kdbus_flow_revision, and of its descriptor.
struct shelf_layout {
    uint32_t recv, recv_words, recv_flags, recv_return_flags, recv_dropped, recv_message;
    uint32_t free, free_words, free_flags, free_return_flags, free_offset, reserved;
    uint64_t empty_offset; // that stands for no message
    uint64_t cookie;       // SO_COOKIE of the descriptor
};

struct shelf_place {
    uint64_t word;
    uint64_t size; // bytes of the message
};

struct shelf {
    uint64_t head;
    uint64_t own_line[7];
    uint64_t serial; // of the latest slice that was freed
    uint64_t frees;  // how many have been, each counted when its word says so
    uint64_t other_line[6];
    struct shelf_layout layout;
    struct shelf_place places[SHELF_PLACES];
    uint64_t held[SHELF_HELD];
};

static inline uint64_t shelf_head(uint64_t flags, uint64_t taken, uint64_t put)
{
    return flags | (taken & SHELF_POSITIONS) << 4 | (put & SHELF_POSITIONS) << 34;
}

static inline uint64_t shelf_taken(uint64_t head)
{
    return head >> 4 & SHELF_POSITIONS;
}

static inline uint64_t shelf_put(uint64_t head)
{
    return head >> 34;
}

// How many messages lie ready.
static inline uint64_t shelf_ready(uint64_t head)
{
    return (shelf_put(head) - shelf_taken(head)) & SHELF_POSITIONS;
}

#endif
