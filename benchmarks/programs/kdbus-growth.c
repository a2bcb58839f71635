// SPDX-License-Identifier: GPL-2.0-or-later
//
// Whether a call costs more on a crowded bus: a synchronous call of 8 bytes while connections, names or matches of
// others grow in number. The service is a child, and so are those who hold what grows. Usage, under `kdbus run`:
//
//     kdbus-growth connections|names|matches SECONDS COUNT...
//
// The counts must grow. With names the service is called by its name, otherwise by its id.
//
// One user may have 1024 connections, so each child with 1000 of them becomes a user of its own; only root can do
// that. One connection may have 256 names and 256 matches, so these are spread over connections with 250 each.

#define _GNU_SOURCE
#include "kdbus.h"

#include <grp.h>

#define POOL_SIZE (64 << 10)
#define SERVICE_NAME "org.example.Benchmark"
#define FIRST_USER 20000
#define PER_USER 1000
#define PER_CONNECTION 250
#define BIT 5

enum kind { CONNECTIONS, NAMES, MATCHES };

struct client {
    struct connection connection;
    uint64_t service;
    uint64_t cookie;
    bool by_name;
};

static void call_service(void *context)
{
    struct client *client = context;
    uint64_t payload = ++client->cookie;
    struct buffer request;

    compose(&request, client->by_name ? KDBUS_DST_ID_NAME : client->service, client->cookie);
    if (client->by_name)
        add_text(&request, KDBUS_ITEM_DST_NAME, SERVICE_NAME);
    add_bytes(&request, &payload, sizeof(payload));
    release(&client->connection, call(&client->connection, &request));
}

static void become(uid_t user)
{
    pid_t parent = getppid();

    if (setgroups(0, NULL) || setresgid(user, user, user) || setresuid(user, user, user))
        fail_errno("become another user");
    die_with_parent(parent);
}

// Holds from `first` up to, not including, `end`, of whatever it is; `slot` tells this child from the others.
static void hold(enum kind kind, const char *path, uint64_t first, uint64_t end, uid_t slot)
{
    struct connection connection = {.descriptor = -1};

    raise_descriptor_limit();
    // Only the bus's creator may own names without further policy.
    if (kind != NAMES && geteuid() == 0)
        become(FIRST_USER + slot);
    for (uint64_t i = first; i < end; i++) {
        char name[64];

        if (kind == CONNECTIONS || (i - first) % PER_CONNECTION == 0)
            connection = join(path, POOL_SIZE, false, 0);
        if (kind == NAMES) {
            snprintf(name, sizeof(name), "org.example.Name%llu", (unsigned long long)i);
            acquire_name(&connection, name);
        } else if (kind == MATCHES) {
            add_match(&connection, BIT, i);
        }
    }
}

// Adds children until there are `count`; what is there already is `have`.
static void grow(enum kind kind, const char *path, uint64_t have, uint64_t count)
{
    static uid_t slot;

    while (have < count) {
        uint64_t end = kind == CONNECTIONS && count - have > PER_USER ? have + PER_USER : count;
        int ends[2];
        char done;

        if (pipe(ends))
            fail_errno("make a pipe");
        slot++;
        if (fork_helper() == 0) {
            close(ends[0]);
            hold(kind, path, have, end, slot);
            write_all(ends[1], "", 1);
            for (;;)
                pause();
        }
        close(ends[1]);
        read_all(ends[0], &done, 1);
        close(ends[0]);
        have = end;
    }
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"connections", "names", "matches"};
    struct client client = {.cookie = 0};
    uint64_t have = 0;
    enum kind kind = CONNECTIONS;
    double seconds;
    char path[64];
    int ends[2];

    while (argc >= 4 && kind <= MATCHES && strcmp(argv[1], kinds[kind]))
        kind++;
    if (argc < 4 || kind > MATCHES)
        fail("usage: kdbus-growth connections|names|matches SECONDS COUNT...");
    seconds = parse_seconds(argv[2]);
    client.by_name = kind == NAMES;
    make_bus("benchmark");
    bus_path(path, geteuid(), "benchmark");
    if (pipe(ends))
        fail_errno("make a pipe");
    if (fork_helper() == 0) {
        struct connection connection = join(path, POOL_SIZE, true, 0);

        acquire_name(&connection, SERVICE_NAME);
        write_all(ends[1], &connection.id, sizeof(connection.id));
        echo_requests(&connection);
    }
    read_all(ends[0], &client.service, sizeof(client.service));
    client.connection = join(path, POOL_SIZE, true, 0);
    // The client and the service count as well.
    if (kind == CONNECTIONS)
        have = 2;

    for (int i = 3; i < argc; i++) {
        uint64_t count = parse_number(argv[i], have, 1000000);

        grow(kind, path, have, count);
        have = count;
        measure(argv[i], seconds, call_service, &client);
    }
    return EXIT_SUCCESS;
}
