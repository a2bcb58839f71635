// SPDX-License-Identifier: GPL-2.0-or-later
//
// What SEND, RECV and FREE of a message of 8 bytes cost their callers. Usage, under `kdbus run`:
//
//     kdbus-commands SECONDS
//
// Both connections belong to one process, which makes one call after the other: nobody waits for anybody else, so what
// is measured is the calls alone. One message at a time: the queue is empty before each SEND and after each RECV, as
// in a conversation.

#define _GNU_SOURCE
#include "kdbus.h"

enum { SEND, RECV, FREE };

struct pair {
    struct connection from;
    struct connection to;
    struct buffer message;
    struct part parts[3];
};

static void send_receive_free(void *context)
{
    struct pair *pair = context;
    uint64_t times[4];
    uint64_t offset;

    times[0] = now_ns();
    send_message(&pair->from, &pair->message);
    times[1] = now_ns();
    offset = receive(&pair->to);
    times[2] = now_ns();
    release(&pair->to, offset);
    times[3] = now_ns();
    for (int i = SEND; i <= FREE; i++)
        pair->parts[i].spent += times[i + 1] - times[i];
}

int main(int argc, char **argv)
{
    struct pair pair = {.parts = {{.what = "SEND"}, {.what = "RECV"}, {.what = "FREE"}}};
    uint64_t payload = 1;
    char path[64];

    if (argc != 2)
        fail("usage: kdbus-commands SECONDS");
    make_bus("benchmark");
    bus_path(path, geteuid(), "benchmark");
    pair.from = join(path, 1 << 20, false, 0);
    pair.to = join(path, 1 << 20, true, 0);
    compose(&pair.message, pair.to.id, 1);
    add_bytes(&pair.message, &payload, sizeof(payload));
    measure_parts(pair.parts, 3, parse_seconds(argv[1]), send_receive_free, &pair);
    return EXIT_SUCCESS;
}
