// SPDX-License-Identifier: GPL-2.0-or-later
//
// Call and reply over kdbus. The service is a child. Usage, under `kdbus run`:
//
//     kdbus-call synchronous|asynchronous copy|memfd METADATA SECONDS SIZE...
//
// synchronous: the client waits within SEND. asynchronous: SEND, poll, RECV. Both then FREE. The service always polls.
// copy: the request carries SIZE bytes, and so does the reply. memfd: the request carries SIZE bytes of sealed memory,
// the reply nothing but the size. METADATA: the KDBUS_ATTACH_* bits of what each end wants to know of the other.

#define _GNU_SOURCE
#include "kdbus.h"
#include "sealed.h"

#define POOL_SIZE (16 << 20)

struct client {
    struct connection connection;
    uint64_t service;
    uint64_t cookie;
    bool synchronous;
    char *data;  // or memory
    uint64_t size;
    int memory;
};

static void serve(const struct connection *connection, bool memory)
{
    for (;;) {
        const struct kdbus_msg *request;
        struct buffer reply;
        const char *data;
        uint64_t offset;
        uint64_t size;

        wait_for_message(connection);
        offset = receive(connection);
        request = message_at(connection, offset);
        compose(&reply, request->src_id, request->cookie);
        reply.message.cookie_reply = request->cookie;
        if (memory) {
            int descriptor = ((const struct kdbus_memfd *)find_item(request, KDBUS_ITEM_PAYLOAD_MEMFD))->fd;

            size = sealed_size(descriptor);
            close(descriptor);
            add_bytes(&reply, &size, sizeof(size));
        } else {
            data = payload_of(connection, offset, &size);
            add_bytes(&reply, data, size);
        }
        send_message(connection, &reply);
        release(connection, offset);
    }
}

static void call_service(void *context)
{
    struct client *client = context;
    struct buffer request;
    const char *data;
    uint64_t offset;
    uint64_t size;

    compose(&request, client->service, ++client->cookie);
    if (client->data)
        add_bytes(&request, client->data, client->size);
    else
        add_memory(&request, client->memory, client->size);
    if (client->synchronous) {
        offset = call(&client->connection, &request);
    } else {
        request.message.flags = KDBUS_MSG_EXPECT_REPLY;
        request.message.timeout_ns = now_ns() + PATIENCE;
        send_message(&client->connection, &request);
        wait_for_message(&client->connection);
        offset = receive(&client->connection);
    }
    data = payload_of(&client->connection, offset, &size);
    if (!client->data)
        memcpy(&size, data, sizeof(size));
    if (size != client->size)
        fail("the reply tells of %llu bytes", (unsigned long long)size);
    release(&client->connection, offset);
}

int main(int argc, char **argv)
{
    struct client client = {.memory = -1};
    uint64_t metadata;
    bool memory;
    char path[64];
    int ends[2];
    double seconds;
    pid_t service;

    if (argc < 6)
        fail("usage: kdbus-call synchronous|asynchronous copy|memfd METADATA SECONDS SIZE...");
    client.synchronous = strcmp(argv[1], "synchronous") == 0;
    memory = strcmp(argv[2], "memfd") == 0;
    metadata = parse_number(argv[3], 0, _KDBUS_ATTACH_ALL);
    seconds = parse_seconds(argv[4]);
    make_bus("benchmark");
    bus_path(path, geteuid(), "benchmark");
    if (pipe(ends))
        fail_errno("make a pipe");
    service = fork_helper();
    if (service == 0) {
        struct connection connection = join(path, POOL_SIZE, true, metadata);

        write_all(ends[1], &connection.id, sizeof(connection.id));
        serve(&connection, memory);
    }
    close(ends[1]);
    read_all(ends[0], &client.service, sizeof(client.service));
    client.connection = join(path, POOL_SIZE, true, metadata);

    for (int i = 5; i < argc; i++) {
        client.size = parse_number(argv[i], 1, (uint64_t)1 << 32);
        if (memory)
            client.memory = make_sealed(client.size);
        else
            client.data = make_bytes(client.size);
        measure(argv[i], seconds, call_service, &client);
        free(client.data);
        client.data = NULL;
        if (memory)
            close(client.memory);
    }
    end_helpers(&service, 1);
    return EXIT_SUCCESS;
}
