// SPDX-License-Identifier: GPL-2.0-or-later
//
// The mix of a desktop session over a D-Bus message bus: the same as in kdbus-desktop. Usage:
//
//     dbus-desktop SECONDS

#define _GNU_SOURCE
#include "dbus.h"

#define SERVICES 10
#define NAMES 100
#define LISTENERS 10
#define WANTED_BY 2
#define KINDS (LISTENERS / WANTED_BY)
#define READS 9
#define REQUEST_BYTES 96
#define REPLY_BYTES 32

static void name_of(char name[64], int service, int number)
{
    snprintf(name, 64, "org.example.Service%d.Name%d", service, number);
}

static int answer(sd_bus_message *request, void *context, sd_bus_error *error)
{
    static const char property[REPLY_BYTES] = "a property";
    sd_bus_message *reply;
    int result;

    (void)context;
    (void)error;
    check(sd_bus_message_new_method_return(request, &reply), "make the reply");
    check(sd_bus_message_append_array(reply, 'y', property, sizeof(property)), "write the reply");
    result = sd_bus_send(NULL, reply, NULL);
    sd_bus_message_unref(reply);
    return result;
}

static const sd_bus_vtable methods[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Read", "ay", "ay", answer, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

__attribute__((noreturn)) static void run_service(int service, int pipe)
{
    sd_bus *bus = join();
    char name[64];

    check(sd_bus_add_object_vtable(bus, NULL, OBJECT, INTERFACE, methods, NULL), "add the object");
    for (int i = 0; i < NAMES; i++) {
        name_of(name, service, i);
        check(sd_bus_request_name(bus, name, 0), "acquire a name");
    }
    write_all(pipe, "r", 1);
    serve(bus);
}

static int ignore(sd_bus_message *message, void *context, sd_bus_error *error)
{
    (void)message;
    (void)context;
    (void)error;
    return 0;
}

__attribute__((noreturn)) static void listen_to_signals(int kind, int pipe)
{
    sd_bus *bus = join();
    char member[32];

    snprintf(member, sizeof(member), "Kind%d", kind);
    check(sd_bus_match_signal(bus, NULL, NULL, OBJECT, INTERFACE, member, ignore, NULL), "add a match");
    write_all(pipe, "r", 1);
    serve(bus);
}

static void ten_operations(void *context)
{
    static const char question[REQUEST_BYTES] = "which property";
    sd_bus *bus = context;
    char text[64];

    for (int i = 0; i < READS; i++) {
        sd_bus_message *request;
        sd_bus_message *reply;

        name_of(text, rand() % SERVICES, rand() % NAMES);
        check(sd_bus_message_new_method_call(bus, &request, text, OBJECT, INTERFACE, "Read"), "make the request");
        check(sd_bus_message_append_array(request, 'y', question, sizeof(question)), "write the request");
        check(sd_bus_call(bus, request, 0, NULL, &reply), "call the service");
        sd_bus_message_unref(request);
        sd_bus_message_unref(reply);
    }
    snprintf(text, sizeof(text), "Kind%d", rand() % KINDS);
    check(sd_bus_emit_signal(bus, OBJECT, INTERFACE, text, "t", (uint64_t)1), "send the signal");
    check(sd_bus_flush(bus), "send the signal");
}

int main(int argc, char **argv)
{
    pid_t helpers[SERVICES + LISTENERS];
    char ready[SERVICES + LISTENERS];
    double seconds;
    int ends[2];
    sd_bus *bus;

    if (argc != 2)
        fail("usage: dbus-desktop SECONDS");
    seconds = parse_seconds(argv[1]);
    if (pipe(ends))
        fail_errno("make a pipe");
    for (int i = 0; i < SERVICES + LISTENERS; i++) {
        helpers[i] = fork_helper();
        if (helpers[i] == 0 && i < SERVICES)
            run_service(i, ends[1]);
        if (helpers[i] == 0)
            listen_to_signals(i % KINDS, ends[1]);
    }
    close(ends[1]);
    read_all(ends[0], ready, sizeof(ready));
    bus = join();
    measure("nine property reads and a signal", seconds, ten_operations, bus);
    sd_bus_unref(bus);
    end_helpers(helpers, SERVICES + LISTENERS);
    return EXIT_SUCCESS;
}
