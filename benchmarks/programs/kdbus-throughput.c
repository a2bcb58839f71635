// SPDX-License-Identifier: GPL-2.0-or-later
//
// How fast one receiver gets messages that need no reply, from one or several senders. Usage, under `kdbus run`:
//
//     kdbus-throughput SENDERS SECONDS SIZE...
//
// The figure is the time from one message to the next at the receiver. kdbus refuses a message
// when the queue is full, and does not block: 16 in a queue are always granted to the messages of one user. So the
// senders keep at most 16 under way together. Of each one's share the last is a request, and it waits for the reply.
// The D-Bus programs do the same.

#define _GNU_SOURCE
#include "kdbus.h"
#include "sealed.h"

#define POOL_SIZE (64 << 20)
#define UNDER_WAY 16

__attribute__((noreturn)) static void run_sender(const char *path, uint64_t receiver, uint64_t size, uint64_t window)
{
    struct connection connection = join(path, 1 << 20, true, 0);
    char *data = make_bytes(size);

    for (uint64_t cookie = 1;; cookie++) {
        struct buffer message;

        compose(&message, receiver, cookie);
        add_bytes(&message, data, size);
        if (cookie % window == 0)
            release(&connection, call(&connection, &message));
        else
            send_message(&connection, &message);
    }
}

static void receive_one(void *context)
{
    const struct connection *connection = context;
    const struct kdbus_msg *message;
    struct buffer reply;
    uint64_t offset;

    wait_for_message(connection);
    offset = receive(connection);
    message = message_at(connection, offset);
    if (message->flags & KDBUS_MSG_EXPECT_REPLY) {
        compose(&reply, message->src_id, message->cookie);
        reply.message.cookie_reply = message->cookie;
        send_message(connection, &reply);
    }
    release(connection, offset);
}

int main(int argc, char **argv)
{
    pid_t senders[UNDER_WAY];
    uint64_t count;
    double seconds;
    char path[64];

    if (argc < 4)
        fail("usage: kdbus-throughput SENDERS SECONDS SIZE...");
    count = parse_number(argv[1], 1, UNDER_WAY);
    seconds = parse_seconds(argv[2]);
    make_bus("benchmark");
    bus_path(path, geteuid(), "benchmark");
    for (int i = 3; i < argc; i++) {
        // A new one each time: what the last senders left behind goes with it.
        struct connection connection = join(path, POOL_SIZE, true, 0);
        uint64_t size = parse_number(argv[i], 1, 2 << 20);

        for (uint64_t j = 0; j < count; j++) {
            senders[j] = fork_helper();
            if (senders[j] == 0)
                run_sender(path, connection.id, size, UNDER_WAY / count);
        }
        measure(argv[i], seconds, receive_one, &connection);
        end_helpers(senders, count);
        munmap((void *)connection.pool, POOL_SIZE);
        close(connection.descriptor);
    }
    return EXIT_SUCCESS;
}
