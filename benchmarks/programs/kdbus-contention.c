// SPDX-License-Identifier: GPL-2.0-or-later
//
// How a service fares that more clients call than its queue takes. The service polls when there is nothing to receive;
// each client is a process that sends a request of 8 bytes, waits 5 ms and sends it again as long as the queue is full
// (ENOBUFS), and otherwise polls for the reply. Usage, under `kdbus run`:
//
//     kdbus-contention SECONDS CLIENTS...
//
// The figures for N clients: "N", the time from one call that is answered to the next, whoever makes it; at the end,
// once, "N refused", how many SENDs were refused for each call that was answered (a number, not a time), and "N most",
// how many calls the client with the most got for each one of the median client, "N least" the same for the one with
// the fewest (numbers as well; the median counts as one call if it got none).

#define _GNU_SOURCE
#include "kdbus.h"

#include <stdatomic.h>
#include <sys/mman.h>

#define POOL_SIZE (64 << 10)
#define SERVICE_POOL (1 << 20)
#define MOST 1000
#define PAUSE_US 5000

struct client {
    _Atomic uint64_t answered;
    _Atomic uint64_t refused;
};

__attribute__((noreturn)) static void serve(const struct connection *connection)
{
    for (;;) {
        const struct kdbus_msg *request;
        struct buffer reply;
        uint64_t offset;

        if (try_to_receive(connection, &offset)) {
            if (errno != EAGAIN)
                fail_errno("receive a request");
            wait_for_message(connection);
            continue;
        }
        request = message_at(connection, offset);
        compose(&reply, request->src_id, request->cookie);
        reply.message.cookie_reply = request->cookie;
        release(connection, offset);
        send_message(connection, &reply);
    }
}

static void request(const struct connection *connection, uint64_t service, uint64_t cookie, struct client *client)
{
    struct buffer buffer;

    compose(&buffer, service, cookie);
    add_bytes(&buffer, &cookie, sizeof(cookie));
    buffer.message.flags = KDBUS_MSG_EXPECT_REPLY;
    buffer.message.timeout_ns = now_ns() + PATIENCE;
    while (try_to_send(connection, &buffer)) {
        if (errno != ENOBUFS)
            fail_errno("send a request");
        client->refused++;
        usleep(PAUSE_US);
    }
}

__attribute__((noreturn)) static void keep_calling(const char *path, uint64_t service, struct client *client, int pipe)
{
    struct connection connection = join(path, POOL_SIZE, true, 0);

    write_all(pipe, "r", 1);
    for (uint64_t cookie = 1;; cookie++) {
        uint64_t offset;

        request(&connection, service, cookie, client);
        wait_for_message(&connection);
        offset = receive(&connection);
        if (message_at(&connection, offset)->cookie_reply != cookie)
            fail("this is not the answer to what was asked");
        release(&connection, offset);
        client->answered++;
    }
}

static uint64_t total(const struct client *clients, uint64_t count)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < count; i++)
        sum += clients[i].answered;
    return sum;
}

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;

    return (a > b) - (a < b);
}

// What does not depend on the time: from the end of the warming up to the end.
static void report_shares(const char *what, const struct client *before, const struct client *clients, uint64_t count)
{
    uint64_t answered[MOST];
    uint64_t refused = 0;
    uint64_t sum = 0;
    uint64_t median;
    char text[64];

    for (uint64_t i = 0; i < count; i++) {
        answered[i] = clients[i].answered - before[i].answered;
        refused += clients[i].refused - before[i].refused;
        sum += answered[i];
    }
    qsort(answered, count, sizeof(*answered), compare);
    median = answered[count / 2];
    snprintf(text, sizeof(text), "%s refused", what);
    report(text, (double)refused / (double)(sum ? sum : 1));
    snprintf(text, sizeof(text), "%s most", what);
    report(text, (double)answered[count - 1] / (double)(median ? median : 1));
    snprintf(text, sizeof(text), "%s least", what);
    report(text, (double)answered[0] / (double)(median ? median : 1));
}

int main(int argc, char **argv)
{
    static struct client before[MOST];
    struct client *clients =
        mmap(NULL, MOST * sizeof(*clients), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t helpers[MOST + 1];
    double seconds;
    char path[64];

    if (argc < 3)
        fail("usage: kdbus-contention SECONDS CLIENTS...");
    if (clients == MAP_FAILED)
        fail_errno("get memory");
    seconds = parse_seconds(argv[1]);
    make_bus("benchmark");
    bus_path(path, geteuid(), "benchmark");
    for (int i = 2; i < argc; i++) {
        uint64_t count = parse_number(argv[i], 1, MOST);
        struct connection service = join(path, SERVICE_POOL, true, 0);
        char ready[MOST];
        int ends[2];

        if (pipe(ends))
            fail_errno("make a pipe");
        memset(clients, 0, MOST * sizeof(*clients));
        helpers[0] = fork_helper();
        if (helpers[0] == 0)
            serve(&service);
        for (uint64_t j = 0; j < count; j++) {
            helpers[j + 1] = fork_helper();
            if (helpers[j + 1] == 0)
                keep_calling(path, service.id, &clients[j], ends[1]);
        }
        close(ends[1]);
        read_all(ends[0], ready, count);
        close(ends[0]);
        pass_time(seconds / (SLICES + 1));
        memcpy(before, clients, sizeof(before));
        for (int slice = 0; slice < SLICES; slice++) {
            uint64_t answered = total(clients, count);
            uint64_t start = now_ns();

            pass_time(seconds / (SLICES + 1));
            answered = total(clients, count) - answered;
            report(argv[i], (double)(now_ns() - start) / (double)(answered ? answered : 1));
        }
        report_shares(argv[i], before, clients, count);
        end_helpers(helpers, count + 1);
        munmap((void *)service.pool, SERVICE_POOL);
        close(service.descriptor);
    }
    return EXIT_SUCCESS;
}
