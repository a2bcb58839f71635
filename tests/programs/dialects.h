// SPDX-License-Identifier: GPL-2.0-or-later
//
// The hot commands of two revisions as data, for programs whose peers speak both: a program can include only one
// header. All places are words of 64 bits from the start of a structure, 0 for what a revision does not have. Written
// down from the documentation of each, not from the project's tables, which are tried with them.

#ifndef DIALECTS_H
#define DIALECTS_H

#include <stdint.h>

struct dialect {
    unsigned long bus_make, hello, update, name_acquire, send, recv, release, match_add, match_remove;
    uint32_t head; // words of a structure that has nothing but sizes and flags
    struct {
        uint32_t words, send_mask, recv_mask, id, pool_size, offset;
    } hello_at;
    struct {
        uint32_t words, kernel_flags, return_flags, address, reply;
    } send_at;
    struct {
        uint32_t words, return_flags, priority, dropped, message;
    } recv_at;
    struct {
        uint32_t words, offset, flags, return_flags;
    } free_at;
    struct {
        uint32_t vector, offset, memfd, bloom_parameter, dst_name, make_name, attach_flags_recv, name;
        uint32_t filter, mask;
    } item;
    uint32_t match_words; // the cookie is the second word in version 3, and the last one later
    uint32_t match_cookie;
    int relative; // offsets of payload are counted from the message, not from the pool
};

static const struct dialect dialects[] = {
    {
        .bus_make = 0x40209500,
        .hello = 0xc0689520,
        .update = 0x40209551,
        .name_acquire = 0xc0209540,
        .send = 0xc0489530,
        .recv = 0xc0489531,
        .release = 0x40289532,
        .match_add = 0x40289570,
        .match_remove = 0x40289571,
        .head = 4,
        .hello_at = {.words = 13, .send_mask = 4, .recv_mask = 5, .id = 7, .pool_size = 8, .offset = 9},
        .send_at = {.words = 9, .kernel_flags = 2, .return_flags = 4, .address = 5, .reply = 6},
        .recv_at = {.words = 9, .return_flags = 3, .priority = 4, .dropped = 5, .message = 6},
        .free_at = {.words = 5, .offset = 1, .flags = 2, .return_flags = 4},
        .item = {1, 2, 3, 6, 9, 10, 12, 14, 7, 8},
        .match_words = 5,
        .match_cookie = 1,
    },
    {
        .bus_make = 0x40189500,
        .hello = 0xc0609580,
        .update = 0x40189581,
        .name_acquire = 0x401895a0,
        .send = 0x40389590,
        .recv = 0x80409591,
        .release = 0x40209583,
        .match_add = 0x402095b0,
        .match_remove = 0x402095b1,
        .head = 3,
        .hello_at = {.words = 12, .send_mask = 3, .recv_mask = 4, .id = 6, .pool_size = 7, .offset = 8},
        .send_at = {.words = 7, .return_flags = 2, .address = 3, .reply = 4},
        .recv_at = {.words = 8, .return_flags = 2, .priority = 3, .dropped = 4, .message = 5},
        .free_at = {.words = 4, .offset = 3, .flags = 1, .return_flags = 2},
        .item = {2, 3, 4, 7, 10, 11, 13, 15, 8, 9},
        .match_words = 4,
        .match_cookie = 3,
        .relative = 1,
    },
};

// The state of systemd 219 has the hot commands of the final revision, as which it is taken until it asks about a
// connection: CONN_INFO with a structure of its own.
#define CONN_INFO_219 0x80309584

enum { DIALECT_3, DIALECT_FINAL };

// The same in both.
enum { MSG_SIZE, MSG_FLAGS, MSG_PRIORITY, MSG_DST, MSG_SRC, MSG_TYPE, MSG_COOKIE, MSG_TIMEOUT, MSG_WORDS };
enum { EXPECT_REPLY = 1, NO_AUTO_START = 2, SIGNAL = 4, ATTACH_ALL = (1 << 14) - 1 };
enum { ACCEPT_FD = 1, MONITOR = 8, RECV_PEEK = 1, RECV_DROP = 2 };
enum { ITEM_TIMESTAMP = 0x1000, ITEM_PIDS = 0x1002 };
#define PAYLOAD_DBUS 0x4442757344427573ULL

#endif
