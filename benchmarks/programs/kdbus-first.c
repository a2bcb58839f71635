// SPDX-License-Identifier: GPL-2.0-or-later
//
// How long a program that has just been executed waits for its first message. Usage, under `kdbus run`:
//
//     kdbus-first
//
// Makes a bus, joins it, sends itself a message of 8 bytes and receives it. The time is that from the beginning of
// main(), a moment after the exec, to the end of RECV.

#define _GNU_SOURCE
#include "kdbus.h"

#define POOL_SIZE (64 << 10)

int main(void)
{
    static const uint64_t payload = 1;
    uint64_t begun = now_ns();
    struct connection self;
    struct buffer message;
    char path[64];

    make_bus("benchmark");
    bus_path(path, geteuid(), "benchmark");
    self = join(path, POOL_SIZE, true, 0);
    compose(&message, self.id, 1);
    add_bytes(&message, &payload, sizeof(payload));
    send_message(&self, &message);
    release(&self, receive(&self));
    report("first message", (double)(now_ns() - begun));
    return EXIT_SUCCESS;
}
