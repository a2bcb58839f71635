// SPDX-License-Identifier: GPL-2.0-or-later
//
// Call and reply over a D-Bus message bus, sd-bus on both ends. The service is a child. Usage:
//
//     dbus-call copy|memfd SECONDS SIZE...
//
// copy: the request carries SIZE bytes, and so does the reply. memfd: the request carries a descriptor of SIZE bytes of
// sealed memory, the reply nothing but the size. As with the other peers, nobody looks at the bytes.

#define _GNU_SOURCE
#include "dbus.h"
#include "sealed.h"

struct client {
    sd_bus *bus;
    char service[NAME_ROOM];
    char *data;
    uint64_t size;
    int memory;
};

static int echo(sd_bus_message *request, void *context, sd_bus_error *error)
{
    sd_bus_message *reply;
    const void *data;
    size_t size;
    int result;

    (void)context;
    (void)error;
    check(sd_bus_message_read_array(request, 'y', &data, &size), "read the request");
    check(sd_bus_message_new_method_return(request, &reply), "make the reply");
    check(sd_bus_message_append_array(reply, 'y', data, size), "write the reply");
    result = sd_bus_send(NULL, reply, NULL);
    sd_bus_message_unref(reply);
    return result;
}

static int take(sd_bus_message *request, void *context, sd_bus_error *error)
{
    int memory;

    (void)context;
    (void)error;
    check(sd_bus_message_read(request, "h", &memory), "read the request");
    return sd_bus_reply_method_return(request, "t", sealed_size(memory));
}

static const sd_bus_vtable methods[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Echo", "ay", "ay", echo, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Take", "h", "t", take, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

static sd_bus_message *call(struct client *client, sd_bus_message *request)
{
    sd_bus_message *reply;

    check(sd_bus_call(client->bus, request, 0, NULL, &reply), "call the service");
    sd_bus_message_unref(request);
    return reply;
}

static sd_bus_message *begin(struct client *client, const char *method)
{
    sd_bus_message *request;

    check(sd_bus_message_new_method_call(client->bus, &request, client->service, OBJECT, INTERFACE, method),
          "make the request");
    return request;
}

static void call_with_copy(void *context)
{
    struct client *client = context;
    sd_bus_message *message = begin(client, "Echo");
    const void *data;
    size_t size;

    check(sd_bus_message_append_array(message, 'y', client->data, client->size), "write the request");
    message = call(client, message);
    check(sd_bus_message_read_array(message, 'y', &data, &size), "read the reply");
    if (size != client->size)
        fail("the reply has %zu bytes", size);
    sd_bus_message_unref(message);
}

static void call_with_memory(void *context)
{
    struct client *client = context;
    sd_bus_message *message = begin(client, "Take");
    uint64_t size;

    check(sd_bus_message_append(message, "h", client->memory), "write the request");
    message = call(client, message);
    check(sd_bus_message_read(message, "t", &size), "read the reply");
    if (size != client->size)
        fail("the service says %llu bytes", (unsigned long long)size);
    sd_bus_message_unref(message);
}

int main(int argc, char **argv)
{
    struct client client = {.memory = -1};
    bool memory;
    double seconds;
    int ends[2];
    pid_t service;

    if (argc < 4 || (strcmp(argv[1], "copy") && strcmp(argv[1], "memfd")))
        fail("usage: dbus-call copy|memfd SECONDS SIZE...");
    memory = strcmp(argv[1], "memfd") == 0;
    seconds = parse_seconds(argv[2]);
    if (pipe(ends))
        fail_errno("make a pipe");
    service = fork_helper();
    if (service == 0)
        offer(methods, ends[1]);
    close(ends[1]);
    read_all(ends[0], client.service, sizeof(client.service));
    client.bus = join();

    for (int i = 3; i < argc; i++) {
        client.size = parse_number(argv[i], 1, (uint64_t)1 << 32);
        if (memory) {
            client.memory = make_sealed(client.size);
            measure(argv[i], seconds, call_with_memory, &client);
            close(client.memory);
        } else {
            client.data = make_bytes(client.size);
            measure(argv[i], seconds, call_with_copy, &client);
            free(client.data);
        }
    }
    sd_bus_unref(client.bus);
    end_helpers(&service, 1);
    return EXIT_SUCCESS;
}
