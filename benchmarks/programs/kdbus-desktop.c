// SPDX-License-Identifier: GPL-2.0-or-later
//
// The mix of a desktop session: ten services with a hundred names each, ten programs that listen to signals, and one
// that reads nine properties, each of a name chosen by chance, and then sends a signal that two of the ten want. Usage,
// under `kdbus run`:
//
//     kdbus-desktop SECONDS
//
// The figure is the time of those ten operations. A property is read by a synchronous call of 96 bytes, and has 32.

#define _GNU_SOURCE
#include "kdbus.h"

#define POOL_SIZE (256 << 10)
#define SERVICES 10
#define NAMES 100
#define LISTENERS 10
#define WANTED_BY 2
#define KINDS (LISTENERS / WANTED_BY)
#define READS 9
#define REQUEST_BYTES 96
#define REPLY_BYTES 32

struct client {
    struct connection self;
    uint64_t cookie;
    struct buffer signals[KINDS];
};

static void name_of(char name[64], int service, int number)
{
    snprintf(name, 64, "org.example.Service%d.Name%d", service, number);
}

__attribute__((noreturn)) static void serve(const char *path, int service, int pipe)
{
    static const char property[REPLY_BYTES] = "a property";
    struct connection connection = join(path, POOL_SIZE, true, 0);
    char name[64];

    for (int i = 0; i < NAMES; i++) {
        name_of(name, service, i);
        acquire_name(&connection, name);
    }
    write_all(pipe, "r", 1);
    for (;;) {
        const struct kdbus_msg *request;
        struct buffer reply;
        uint64_t offset;

        wait_for_message(&connection);
        offset = receive(&connection);
        request = message_at(&connection, offset);
        compose(&reply, request->src_id, request->cookie);
        reply.message.cookie_reply = request->cookie;
        release(&connection, offset);
        add_bytes(&reply, property, sizeof(property));
        send_message(&connection, &reply);
    }
}

__attribute__((noreturn)) static void listen_to_signals(const char *path, unsigned bit, int pipe)
{
    struct connection connection = join(path, POOL_SIZE, true, 0);

    add_match(&connection, bit, 1);
    write_all(pipe, "r", 1);
    for (;;) {
        wait_for_message(&connection);
        release(&connection, receive(&connection));
    }
}

static void ten_operations(void *context)
{
    static const char question[REQUEST_BYTES] = "which property";
    struct client *client = context;

    for (int i = 0; i < READS; i++) {
        struct buffer request;
        char name[64];

        name_of(name, rand() % SERVICES, rand() % NAMES);
        compose(&request, KDBUS_DST_ID_NAME, ++client->cookie);
        add_text(&request, KDBUS_ITEM_DST_NAME, name);
        add_bytes(&request, question, sizeof(question));
        release(&client->self, call(&client->self, &request));
    }
    send_message(&client->self, &client->signals[rand() % KINDS]);
}

int main(int argc, char **argv)
{
    static struct client client;
    pid_t helpers[SERVICES + LISTENERS];
    char ready[SERVICES + LISTENERS];
    double seconds;
    char path[64];
    int ends[2];

    if (argc != 2)
        fail("usage: kdbus-desktop SECONDS");
    seconds = parse_seconds(argv[1]);
    if (pipe(ends))
        fail_errno("make a pipe");
    make_bus("benchmark");
    bus_path(path, geteuid(), "benchmark");
    for (int i = 0; i < SERVICES + LISTENERS; i++) {
        helpers[i] = fork_helper();
        if (helpers[i] == 0 && i < SERVICES)
            serve(path, i, ends[1]);
        if (helpers[i] == 0)
            listen_to_signals(path, (unsigned)i % KINDS, ends[1]);
    }
    close(ends[1]);
    read_all(ends[0], ready, sizeof(ready));
    client.self = join(path, POOL_SIZE, true, 0);
    for (unsigned i = 0; i < KINDS; i++)
        compose_signal(&client.signals[i], i);
    measure("nine property reads and a signal", seconds, ten_operations, &client);
    end_helpers(helpers, SERVICES + LISTENERS);
    return EXIT_SUCCESS;
}
