// SPDX-License-Identifier: GPL-2.0-or-later
//
// The hot commands of three revisions as data, for programs whose peers speak both: a program can include only one
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
        uint32_t words, flags, return_flags, priority, dropped, message;
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
    uint64_t attach_all;
    uint32_t item_pids;
    // A message is its own command, with a word more in its header and memfds without a start; a program here makes the
    // final revision's, and sends what says the same.
    uint32_t more_words;
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
        .recv_at = {.words = 9, .flags = 1, .return_flags = 3, .priority = 4, .dropped = 5, .message = 6},
        .free_at = {.words = 5, .offset = 1, .flags = 2, .return_flags = 4},
        .item = {1, 2, 3, 6, 9, 10, 12, 14, 7, 8},
        .match_words = 5,
        .match_cookie = 1,
        .attach_all = (1 << 14) - 1,
        .item_pids = 0x1002,
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
        .recv_at = {.words = 8, .flags = 1, .return_flags = 2, .priority = 3, .dropped = 4, .message = 5},
        .free_at = {.words = 4, .offset = 3, .flags = 1, .return_flags = 2},
        .item = {2, 3, 4, 7, 10, 11, 13, 15, 8, 9},
        .match_words = 4,
        .match_cookie = 3,
        .relative = 1,
        .attach_all = (1 << 14) - 1,
        .item_pids = 0x1002,
    },
    {
        .bus_make = 0x40189500,
        .hello = 0xc0609520,
        .update = 0x40189551,
        .name_acquire = 0xc0189540,
        .send = 0xc0489530,
        .recv = 0xc0209531,
        .release = 0x40189533,
        .match_add = 0x40209570,
        .match_remove = 0x40209571,
        .head = 3,
        .hello_at = {.words = 12, .send_mask = 3, .recv_mask = 4, .id = 6, .pool_size = 7},
        .send_at = {.words = 7, .return_flags = 2, .address = 3, .reply = 4}, // of what is made, see `more_words`
        .recv_at = {.words = 4, .flags = 0, .return_flags = 1, .priority = 2, .dropped = 3, .message = 3},
        .free_at = {.words = 3, .offset = 0, .flags = 1, .return_flags = 2},
        .item = {1, 2, 3, 5, 8, 9, 11, 13, 6, 7},
        .match_words = 4,
        .match_cookie = 1,
        .relative = 1,
        .attach_all = (1 << 13) - 1,
        .more_words = 1,
    },
};

// The state of systemd 219 has the hot commands of the final revision, as which it is taken until it asks about a
// connection: CONN_INFO with a structure of its own.
#define CONN_INFO_219 0x80309584

enum { DIALECT_3, DIALECT_FINAL, DIALECT_2 };

// The same in all of them, but for `more_words` behind the flags of a message.
enum { MSG_SIZE, MSG_FLAGS, MSG_PRIORITY, MSG_DST, MSG_SRC, MSG_TYPE, MSG_COOKIE, MSG_TIMEOUT, MSG_WORDS };
enum { EXPECT_REPLY = 1, NO_AUTO_START = 2, SIGNAL = 4 };
enum { ACCEPT_FD = 1, MONITOR = 8, RECV_PEEK = 1, RECV_DROP = 2 };
enum { ITEM_TIMESTAMP = 0x1000, ITEM_CREDS = 0x1001 };
enum { EXPECT_REPLY_2 = 1, SYNC_REPLY_2 = 2, NO_AUTO_START_2 = 4, CREDS_SIZE_2 = 16 + 40 };
#define PAYLOAD_DBUS 0x4442757344427573ULL

#endif
