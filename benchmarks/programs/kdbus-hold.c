// SPDX-License-Identifier: GPL-2.0-or-later
//
// Holds things on a bus while somebody else looks at what they cost. Usage, under `kdbus run`:
//
//     kdbus-hold CONNECTIONS MESSAGES BUSES
//
// Says "ready" after each stage and goes on when a line arrives on stdin: a bus with one connection that has sent
// itself a message; then CONNECTIONS more, idle, with mapped pools; then MESSAGES of 8 bytes queued in each of those;
// then BUSES more. Ends at the end of stdin.

#define _GNU_SOURCE
#include "kdbus.h"

#define POOL_SIZE (64 << 10)

// False at the end of stdin.
static bool ready(void)
{
    char line[16];

    puts("ready");
    fflush(stdout);
    return fgets(line, sizeof(line), stdin) != NULL;
}

static void send_to(const struct connection *from, uint64_t to)
{
    static const uint64_t payload = 1;
    struct buffer message;

    compose(&message, to, 1);
    add_bytes(&message, &payload, sizeof(payload));
    send_message(from, &message);
}

int main(int argc, char **argv)
{
    struct connection first;
    uint64_t *ids;
    uint64_t connections;
    uint64_t messages;
    uint64_t buses;
    char path[64];
    char suffix[32];

    if (argc != 4)
        fail("usage: kdbus-hold CONNECTIONS MESSAGES BUSES");
    connections = parse_number(argv[1], 0, 1000);
    messages = parse_number(argv[2], 0, 32);
    buses = parse_number(argv[3], 0, 15);
    ids = calloc(connections + 1, sizeof(*ids));
    if (!ids)
        fail_errno("allocate");
    raise_descriptor_limit();
    make_bus("benchmark");
    bus_path(path, geteuid(), "benchmark");
    first = join(path, POOL_SIZE, true, 0);
    send_to(&first, first.id);
    release(&first, receive(&first));
    if (!ready())
        return EXIT_SUCCESS;

    for (uint64_t i = 0; i < connections; i++)
        ids[i] = join(path, POOL_SIZE, true, 0).id;
    if (!ready())
        return EXIT_SUCCESS;

    for (uint64_t i = 0; i < connections; i++)
        for (uint64_t j = 0; j < messages; j++)
            send_to(&first, ids[i]);
    if (!ready())
        return EXIT_SUCCESS;

    for (uint64_t i = 0; i < buses; i++) {
        snprintf(suffix, sizeof(suffix), "benchmark-%llu", (unsigned long long)i);
        make_bus(suffix);
    }
    ready();
    return EXIT_SUCCESS;
}
