// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a program does that calls others and tells the world: a synchronous call of 8 bytes, and a broadcast of 8 bytes
// that one connection wants. Usage, under `kdbus run`:
//
//     kdbus-service SECONDS
//
// The figures: "call", the call alone; "signal", SEND of the broadcast alone; "call and signal", both in turns. The one
// who gets the broadcasts belongs to the caller's process, and receives between the figures.

#define _GNU_SOURCE
#include "kdbus.h"

#define POOL_SIZE (64 << 10)
#define BIT 3

struct client {
    struct connection self;
    struct connection listener;
    uint64_t service;
    uint64_t cookie;
    struct buffer signal;
    struct part parts[1];
};

static void call_service(void *context)
{
    static const uint64_t payload = 1;
    struct client *client = context;
    struct buffer request;

    compose(&request, client->service, ++client->cookie);
    add_bytes(&request, &payload, sizeof(payload));
    release(&client->self, call(&client->self, &request));
}

static void listen_to_signal(const struct client *client)
{
    wait_for_message(&client->listener);
    release(&client->listener, receive(&client->listener));
}

static void signal_alone(void *context)
{
    struct client *client = context;
    uint64_t start = now_ns();

    send_message(&client->self, &client->signal);
    client->parts[0].spent += now_ns() - start;
    listen_to_signal(client);
}

static void call_and_signal(void *context)
{
    struct client *client = context;
    uint64_t start = now_ns();

    call_service(client);
    send_message(&client->self, &client->signal);
    client->parts[0].spent += now_ns() - start;
    listen_to_signal(client);
}

int main(int argc, char **argv)
{
    struct client client = {0};
    struct connection service;
    double seconds;
    char path[64];
    pid_t helper;

    if (argc != 2)
        fail("usage: kdbus-service SECONDS");
    seconds = parse_seconds(argv[1]);
    make_bus("benchmark");
    bus_path(path, geteuid(), "benchmark");
    service = join(path, POOL_SIZE, true, 0);
    helper = fork_helper();
    if (helper == 0)
        echo_requests(&service);
    close(service.descriptor);
    client.self = join(path, POOL_SIZE, true, 0);
    client.listener = join(path, POOL_SIZE, false, 0);
    client.service = service.id;
    add_match(&client.listener, BIT, 1);
    compose_signal(&client.signal, BIT);

    measure("call", seconds, call_service, &client);
    client.parts[0].what = "signal";
    measure_parts(client.parts, 1, seconds, signal_alone, &client);
    client.parts[0].what = "call and signal";
    measure_parts(client.parts, 1, seconds, call_and_signal, &client);
    end_helpers(&helper, 1);
    return EXIT_SUCCESS;
}
