// SPDX-License-Identifier: GPL-2.0-or-later
//
// How fast calls are when many call at once: pairs of processes, each with a client and a service of its own, that do
// nothing but synchronous calls of 8 bytes. Usage, under `kdbus run`:
//
//     kdbus-conversations SECONDS PAIRS...
//
// The figure is the time from one call to the next, whoever makes it.

#define _GNU_SOURCE
#include "kdbus.h"

#include <stdatomic.h>
#include <sys/mman.h>

#define POOL_SIZE (64 << 10)
#define MOST 200

__attribute__((noreturn)) static void serve(const struct connection *connection)
{
    for (;;) {
        const struct kdbus_msg *request;
        struct buffer reply;
        uint64_t offset;

        wait_for_message(connection);
        offset = receive(connection);
        request = message_at(connection, offset);
        compose(&reply, request->src_id, request->cookie);
        reply.message.cookie_reply = request->cookie;
        release(connection, offset);
        send_message(connection, &reply);
    }
}

__attribute__((noreturn)) static void keep_calling(const struct connection *connection, uint64_t service,
                                                   _Atomic uint64_t *calls)
{
    for (uint64_t cookie = 1;; cookie++) {
        struct buffer request;

        compose(&request, service, cookie);
        add_bytes(&request, &cookie, sizeof(cookie));
        release(connection, call(connection, &request));
        ++*calls;
    }
}

static void start_pair(const char *path, pid_t *helpers, _Atomic uint64_t *calls)
{
    struct connection client = join(path, POOL_SIZE, true, 0);
    struct connection service = join(path, POOL_SIZE, true, 0);

    helpers[0] = fork_helper();
    if (helpers[0] == 0)
        serve(&service);
    helpers[1] = fork_helper();
    if (helpers[1] == 0)
        keep_calling(&client, service.id, calls);
    munmap((void *)client.pool, POOL_SIZE);
    munmap((void *)service.pool, POOL_SIZE);
    close(client.descriptor);
    close(service.descriptor);
}

int main(int argc, char **argv)
{
    _Atomic uint64_t *calls = mmap(NULL, sizeof(*calls), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t helpers[2 * MOST];
    double seconds;
    char path[64];

    if (argc < 3)
        fail("usage: kdbus-conversations SECONDS PAIRS...");
    if (calls == MAP_FAILED)
        fail_errno("get memory");
    seconds = parse_seconds(argv[1]);
    make_bus("benchmark");
    bus_path(path, geteuid(), "benchmark");
    for (int i = 2; i < argc; i++) {
        uint64_t pairs = parse_number(argv[i], 1, MOST);

        for (uint64_t j = 0; j < pairs; j++)
            start_pair(path, helpers + 2 * j, calls);
        pass_time(seconds / (SLICES + 1));
        for (int slice = 0; slice < SLICES; slice++) {
            uint64_t before = *calls;
            uint64_t start = now_ns();
            uint64_t done;

            pass_time(seconds / (SLICES + 1));
            done = *calls - before;
            report(argv[i], (double)(now_ns() - start) / (double)(done ? done : 1));
        }
        end_helpers(helpers, 2 * pairs);
    }
    return EXIT_SUCCESS;
}
