// SPDX-License-Identifier: GPL-2.0-or-later
//
// A D-Bus signal to many receivers. Usage:
//
//     dbus-broadcast matching|others SECONDS RECEIVERS...
//
// The same conversation as in kdbus-broadcast: "N received" is the time until all have it. Where the receivers want
// something else, "N" is the time until the message bus has dealt with the signal, which shows when it answers a call
// sent after it; so there is a call in that figure, which kdbus does not need.

#define _GNU_SOURCE
#include "dbus.h"

#define MOST_RECEIVERS 1000

struct broadcast {
    sd_bus *sender;
    sd_bus *receivers[MOST_RECEIVERS];
    uint64_t count;
    uint64_t arrived[MOST_RECEIVERS];
};

static int take(sd_bus_message *message, void *context, sd_bus_error *error)
{
    (void)message;
    (void)error;
    ++*(uint64_t *)context;
    return 0;
}

static void send_signal(struct broadcast *broadcast)
{
    check(sd_bus_emit_signal(broadcast->sender, OBJECT, INTERFACE, "Wanted", "t", (uint64_t)1), "send the signal");
    check(sd_bus_flush(broadcast->sender), "send the signal");
}

static void send_and_receive(void *context)
{
    struct broadcast *broadcast = context;

    send_signal(broadcast);
    for (uint64_t i = 0; i < broadcast->count; i++) {
        uint64_t before = broadcast->arrived[i];

        while (broadcast->arrived[i] == before) {
            int result = sd_bus_process(broadcast->receivers[i], NULL);

            check(result, "process a message");
            if (result == 0)
                check(sd_bus_wait(broadcast->receivers[i], UINT64_MAX), "wait for a message");
        }
        broadcast->arrived[i] = 0;
    }
}

static void send_and_ask(void *context)
{
    struct broadcast *broadcast = context;
    sd_bus_message *reply;

    send_signal(broadcast);
    check(sd_bus_call_method(broadcast->sender, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                             "GetId", NULL, &reply, ""),
          "call the message bus");
    sd_bus_message_unref(reply);
}

int main(int argc, char **argv)
{
    static struct broadcast broadcast;
    bool matching;
    double seconds;

    if (argc < 4 || (strcmp(argv[1], "matching") && strcmp(argv[1], "others")))
        fail("usage: dbus-broadcast matching|others SECONDS RECEIVERS...");
    matching = strcmp(argv[1], "matching") == 0;
    seconds = parse_seconds(argv[2]);
    raise_descriptor_limit();
    broadcast.sender = join();
    for (int i = 3; i < argc; i++) {
        uint64_t wanted = parse_number(argv[i], 1, MOST_RECEIVERS);
        char received[64];

        while (broadcast.count < wanted) {
            uint64_t next = broadcast.count++;

            broadcast.receivers[next] = join();
            check(sd_bus_match_signal(broadcast.receivers[next], NULL, NULL, OBJECT, INTERFACE,
                                      matching ? "Wanted" : "Other", take, &broadcast.arrived[next]),
                  "add a match");
        }
        snprintf(received, sizeof(received), "%s received", argv[i]);
        if (matching)
            measure(received, seconds, send_and_receive, &broadcast);
        else
            measure(argv[i], seconds, send_and_ask, &broadcast);
    }
    return EXIT_SUCCESS;
}
