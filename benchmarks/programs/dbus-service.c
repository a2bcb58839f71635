// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a program does that calls others and tells the world, over a D-Bus message bus. Usage:
//
//     dbus-service SECONDS
//
// The same as in kdbus-service. "signal" is the time until the message bus has been handed the signal.

#define _GNU_SOURCE
#include "dbus.h"

struct client {
    sd_bus *self;
    sd_bus *listener;
    char service[NAME_ROOM];
    uint64_t arrived;
    struct part parts[1];
};

static int echo(sd_bus_message *request, void *context, sd_bus_error *error)
{
    uint64_t number;

    (void)context;
    (void)error;
    check(sd_bus_message_read(request, "t", &number), "read the request");
    return sd_bus_reply_method_return(request, "t", number);
}

static const sd_bus_vtable methods[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Echo", "t", "t", echo, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

static int take(sd_bus_message *message, void *context, sd_bus_error *error)
{
    (void)message;
    (void)error;
    ++*(uint64_t *)context;
    return 0;
}

static void call_service(void *context)
{
    struct client *client = context;
    sd_bus_message *reply;

    check(sd_bus_call_method(client->self, client->service, OBJECT, INTERFACE, "Echo", NULL, &reply, "t", (uint64_t)1),
          "call the service");
    sd_bus_message_unref(reply);
}

static void send_signal(const struct client *client)
{
    check(sd_bus_emit_signal(client->self, OBJECT, INTERFACE, "Wanted", "t", (uint64_t)1), "send the signal");
    check(sd_bus_flush(client->self), "send the signal");
}

static void listen_to_signal(const struct client *client)
{
    uint64_t before = client->arrived;

    while (client->arrived == before) {
        int result = sd_bus_process(client->listener, NULL);

        check(result, "process a message");
        if (result == 0)
            check(sd_bus_wait(client->listener, UINT64_MAX), "wait for a message");
    }
}

static void signal_alone(void *context)
{
    struct client *client = context;
    uint64_t start = now_ns();

    send_signal(client);
    client->parts[0].spent += now_ns() - start;
    listen_to_signal(client);
}

static void call_and_signal(void *context)
{
    struct client *client = context;
    uint64_t start = now_ns();

    call_service(client);
    send_signal(client);
    client->parts[0].spent += now_ns() - start;
    listen_to_signal(client);
}

int main(int argc, char **argv)
{
    static struct client client;
    double seconds;
    int ends[2];
    pid_t service;

    if (argc != 2)
        fail("usage: dbus-service SECONDS");
    seconds = parse_seconds(argv[1]);
    if (pipe(ends))
        fail_errno("make a pipe");
    service = fork_helper();
    if (service == 0)
        offer(methods, ends[1]);
    close(ends[1]);
    read_all(ends[0], client.service, sizeof(client.service));
    client.self = join();
    client.listener = join();
    check(sd_bus_match_signal(client.listener, NULL, NULL, OBJECT, INTERFACE, "Wanted", take, &client.arrived),
          "add a match");

    measure("call", seconds, call_service, &client);
    client.parts[0].what = "signal";
    measure_parts(client.parts, 1, seconds, signal_alone, &client);
    client.parts[0].what = "call and signal";
    measure_parts(client.parts, 1, seconds, call_and_signal, &client);
    sd_bus_unref(client.self);
    end_helpers(&service, 1);
    return EXIT_SUCCESS;
}
