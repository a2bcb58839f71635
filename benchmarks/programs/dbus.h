// SPDX-License-Identifier: GPL-2.0-or-later
//
// Connecting to the D-Bus message bus whose address is in the environment, with libsystemd's sd-bus.

#ifndef BENCHMARKS_DBUS_H
#define BENCHMARKS_DBUS_H

#include "measure.h"

#include <systemd/sd-bus.h>

#define ADDRESS_VARIABLE "DBUS_SESSION_BUS_ADDRESS"
#define OBJECT "/benchmark"
#define INTERFACE "org.example.Benchmark"

// sd-bus returns negative errno numbers.
static inline void check(int result, const char *attempt)
{
    if (result < 0)
        fail("cannot %s: %s", attempt, strerror(-result));
}

static inline sd_bus *join(void)
{
    const char *address = getenv(ADDRESS_VARIABLE);
    sd_bus *bus;
    int result;

    if (!address)
        fail("%s is not set", ADDRESS_VARIABLE);
    for (;;) {
        check(sd_bus_new(&bus), "make a D-Bus connection");
        check(sd_bus_set_address(bus, address), "set the address of the message bus");
        check(sd_bus_set_bus_client(bus, true), "say hello to the message bus");
        check(sd_bus_negotiate_fds(bus, true), "ask for descriptors");
        result = sd_bus_start(bus);
        if (result != -EAGAIN)
            break;
        // Too many come at once, so that they do not fit into the backlog of its socket.
        sd_bus_unref(bus);
        usleep(1000);
    }
    check(result, "connect to the message bus");
    return bus;
}

static inline const char *unique_name(sd_bus *bus)
{
    const char *name;

    check(sd_bus_get_unique_name(bus, &name), "get the own name");
    return name;
}

// Serves the connection for good.
__attribute__((noreturn)) static inline void serve(sd_bus *bus)
{
    for (;;) {
        int result = sd_bus_process(bus, NULL);

        check(result, "process a message");
        if (result == 0)
            check(sd_bus_wait(bus, UINT64_MAX), "wait for a message");
    }
}

#define NAME_ROOM 256

// Serves an object with these methods on a connection of its own, for good, once its name, in NAME_ROOM bytes, is in
// the pipe.
__attribute__((noreturn)) static inline void offer(const sd_bus_vtable *methods, int pipe)
{
    sd_bus *bus = join();
    char name[NAME_ROOM] = "";

    check(sd_bus_add_object_vtable(bus, NULL, OBJECT, INTERFACE, methods, NULL), "add the object");
    snprintf(name, sizeof(name), "%s", unique_name(bus));
    write_all(pipe, name, sizeof(name));
    serve(bus);
}

#endif
