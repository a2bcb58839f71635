// SPDX-License-Identifier: GPL-2.0-or-later
//
// How fast one receiver gets D-Bus messages that need no reply, from one or several senders. Usage:
//
//     dbus-throughput SENDERS SECONDS SIZE...
//
// The same conversation as in kdbus-throughput: at most 16 messages under way together, and the last
// of each sender's share is a call whose reply it waits for.

#define _GNU_SOURCE
#include "dbus.h"
#include "sealed.h"

#define UNDER_WAY 16

static uint64_t received;

static int put(sd_bus_message *message, void *context, sd_bus_error *error)
{
    const void *data;
    size_t size;

    (void)context;
    (void)error;
    check(sd_bus_message_read_array(message, 'y', &data, &size), "read the message");
    received++;
    // Sends nothing unless a reply is expected.
    return sd_bus_reply_method_return(message, NULL);
}

static const sd_bus_vtable methods[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Put", "ay", "", put, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

__attribute__((noreturn)) static void run_sender(const char *receiver, uint64_t size, uint64_t window)
{
    sd_bus *bus = join();
    char *data = make_bytes(size);

    for (uint64_t number = 1;; number++) {
        sd_bus_message *message;
        sd_bus_message *reply;

        check(sd_bus_message_new_method_call(bus, &message, receiver, OBJECT, INTERFACE, "Put"), "make a message");
        check(sd_bus_message_append_array(message, 'y', data, size), "write the message");
        if (number % window == 0) {
            check(sd_bus_call(bus, message, 0, NULL, &reply), "call the receiver");
            sd_bus_message_unref(reply);
        } else {
            check(sd_bus_message_set_expect_reply(message, false), "do without a reply");
            check(sd_bus_send(bus, message, NULL), "send a message");
        }
        sd_bus_message_unref(message);
    }
}

static void receive_one(void *context)
{
    sd_bus *bus = context;
    uint64_t before = received;

    while (received == before) {
        int result = sd_bus_process(bus, NULL);

        check(result, "process a message");
        if (result == 0)
            check(sd_bus_wait(bus, UINT64_MAX), "wait for a message");
    }
}

int main(int argc, char **argv)
{
    pid_t senders[UNDER_WAY];
    uint64_t count;
    double seconds;

    if (argc < 4)
        fail("usage: dbus-throughput SENDERS SECONDS SIZE...");
    count = parse_number(argv[1], 1, UNDER_WAY);
    seconds = parse_seconds(argv[2]);
    for (int i = 3; i < argc; i++) {
        // A new one each time: what the last senders left behind goes with it.
        sd_bus *bus = join();
        uint64_t size = parse_number(argv[i], 1, 2 << 20);
        // Here, as sd-bus refuses to work in a child of the process that connected.
        const char *name = unique_name(bus);

        check(sd_bus_add_object_vtable(bus, NULL, OBJECT, INTERFACE, methods, NULL), "add the object");
        for (uint64_t j = 0; j < count; j++) {
            senders[j] = fork_helper();
            if (senders[j] == 0)
                run_sender(name, size, UNDER_WAY / count);
        }
        measure(argv[i], seconds, receive_one, bus);
        end_helpers(senders, count);
        sd_bus_close(bus);
        sd_bus_unref(bus);
    }
    return EXIT_SUCCESS;
}
