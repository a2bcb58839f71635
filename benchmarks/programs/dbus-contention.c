// SPDX-License-Identifier: GPL-2.0-or-later
//
// How a service of a D-Bus message bus fares that many clients call at once, each a process that waits for its reply.
// Usage:
//
//     dbus-contention SECONDS CLIENTS...
//
// "N" is the time from one call of N clients that is answered to the next, whoever makes it, as in kdbus-contention;
// the message bus refuses nobody, but lets them wait.

#define _GNU_SOURCE
#include "dbus.h"

#include <stdatomic.h>
#include <sys/mman.h>

#define MOST 1000

static int echo(sd_bus_message *request, void *context, sd_bus_error *error)
{
    (void)context;
    (void)error;
    return sd_bus_reply_method_return(request, "");
}

static const sd_bus_vtable methods[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Echo", "t", "", echo, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

__attribute__((noreturn)) static void keep_calling(const char *service, _Atomic uint64_t *answered, int pipe)
{
    sd_bus *bus = join();

    write_all(pipe, "r", 1);
    for (;;) {
        sd_bus_message *reply;

        check(sd_bus_call_method(bus, service, OBJECT, INTERFACE, "Echo", NULL, &reply, "t", (uint64_t)1),
              "call the service");
        sd_bus_message_unref(reply);
        ++*answered;
    }
}

int main(int argc, char **argv)
{
    _Atomic uint64_t *answered =
        mmap(NULL, sizeof(*answered), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t helpers[MOST + 1];
    double seconds;

    if (argc < 3)
        fail("usage: dbus-contention SECONDS CLIENTS...");
    if (answered == MAP_FAILED)
        fail_errno("get memory");
    seconds = parse_seconds(argv[1]);
    for (int i = 2; i < argc; i++) {
        uint64_t count = parse_number(argv[i], 1, MOST);
        char service[NAME_ROOM];
        char ready[MOST];
        int ends[2];

        if (pipe(ends))
            fail_errno("make a pipe");
        helpers[0] = fork_helper();
        if (helpers[0] == 0)
            offer(methods, ends[1]);
        read_all(ends[0], service, sizeof(service));
        for (uint64_t j = 0; j < count; j++) {
            helpers[j + 1] = fork_helper();
            if (helpers[j + 1] == 0)
                keep_calling(service, answered, ends[1]);
        }
        close(ends[1]);
        read_all(ends[0], ready, count);
        close(ends[0]);
        pass_time(seconds / (SLICES + 1));
        for (int slice = 0; slice < SLICES; slice++) {
            uint64_t before = *answered;
            uint64_t start = now_ns();

            pass_time(seconds / (SLICES + 1));
            before = *answered - before;
            report(argv[i], (double)(now_ns() - start) / (double)(before ? before : 1));
        }
        end_helpers(helpers, count + 1);
    }
    return EXIT_SUCCESS;
}
