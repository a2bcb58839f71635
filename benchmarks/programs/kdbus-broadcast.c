// SPDX-License-Identifier: GPL-2.0-or-later
//
// A signal to many receivers. Usage, under `kdbus run`:
//
//     kdbus-broadcast matching|others SECONDS RECEIVERS...
//
// matching: all receivers want it. "N sent" is SEND alone, "N received" SEND and then poll, RECV and FREE for each
// receiver. others: the receivers want something else, "N" is SEND. All connections belong to one process, so that the
// figures hold what the bus does, and not how the scheduler spreads so many processes over so few cores.

#define _GNU_SOURCE
#include "kdbus.h"

#define POOL_SIZE (16 << 10)
#define WANTED_BIT 3
#define OTHER_BIT 5
#define MOST_RECEIVERS 1000

struct broadcast {
    struct connection sender;
    struct connection receivers[MOST_RECEIVERS];
    uint64_t count;
    struct buffer message;
    struct part parts[2];
};

static void send_signal(void *context)
{
    struct broadcast *broadcast = context;

    send_message(&broadcast->sender, &broadcast->message);
}

static void send_and_receive(void *context)
{
    struct broadcast *broadcast = context;
    uint64_t start = now_ns();

    send_signal(broadcast);
    broadcast->parts[0].spent += now_ns() - start;
    for (uint64_t i = 0; i < broadcast->count; i++) {
        const struct connection *receiver = &broadcast->receivers[i];

        wait_for_message(receiver);
        release(receiver, receive(receiver));
    }
    broadcast->parts[1].spent += now_ns() - start;
}

int main(int argc, char **argv)
{
    static struct broadcast broadcast;
    bool matching;
    double seconds;
    char path[64];

    if (argc < 4 || (strcmp(argv[1], "matching") && strcmp(argv[1], "others")))
        fail("usage: kdbus-broadcast matching|others SECONDS RECEIVERS...");
    matching = strcmp(argv[1], "matching") == 0;
    seconds = parse_seconds(argv[2]);
    raise_descriptor_limit();
    make_bus("benchmark");
    bus_path(path, geteuid(), "benchmark");
    broadcast.sender = join(path, POOL_SIZE, false, 0);
    compose_signal(&broadcast.message, WANTED_BIT);

    for (int i = 3; i < argc; i++) {
        uint64_t wanted = parse_number(argv[i], 1, MOST_RECEIVERS);
        char sent[64];
        char received[64];

        while (broadcast.count < wanted) {
            struct connection *receiver = &broadcast.receivers[broadcast.count++];

            *receiver = join(path, POOL_SIZE, false, 0);
            add_match(receiver, matching ? WANTED_BIT : OTHER_BIT, 1);
        }
        if (matching) {
            snprintf(sent, sizeof(sent), "%s sent", argv[i]);
            snprintf(received, sizeof(received), "%s received", argv[i]);
            broadcast.parts[0].what = sent;
            broadcast.parts[1].what = received;
            measure_parts(broadcast.parts, 2, seconds, send_and_receive, &broadcast);
        } else {
            measure(argv[i], seconds, send_signal, &broadcast);
        }
    }
    return EXIT_SUCCESS;
}
