// SPDX-License-Identifier: GPL-2.0-or-later
//
// Call and reply over a plain pair of unix stream sockets: what the kernel charges two processes that need no bus.
// The service is a child. Usage:
//
//     socket-call copy|memfd SECONDS SIZE...
//
// A message is its size in 8 bytes and then so many bytes. copy: the request carries SIZE bytes, and so does the reply.
// memfd: the request carries a descriptor of SIZE bytes of sealed memory, the reply nothing but the size.

#define _GNU_SOURCE
#include "measure.h"
#include "sealed.h"

#include <sys/socket.h>
#include <sys/uio.h>

struct client {
    int socket;
    char *data;
    char *room;  // for the reply
    uint64_t size;
    int memory;
};

static void send_bytes(int socket, const char *data, uint64_t size)
{
    struct iovec pieces[] = {{.iov_base = &size, .iov_len = sizeof(size)}, {.iov_base = (void *)data, .iov_len = size}};
    ssize_t sent = writev(socket, pieces, 2);

    if (sent < (ssize_t)sizeof(size))
        fail_errno("send a message");
    write_all(socket, data + (sent - (ssize_t)sizeof(size)), size + sizeof(size) - (uint64_t)sent);
}

// One system call where the whole message is there, as it is with small ones.
static uint64_t receive_bytes(int socket, char *room, uint64_t room_size)
{
    uint64_t size;
    struct iovec pieces[] = {{.iov_base = &size, .iov_len = sizeof(size)}, {.iov_base = room, .iov_len = room_size}};
    ssize_t got = readv(socket, pieces, 2);

    if (got < (ssize_t)sizeof(size))
        fail("the other end is gone");
    if (size > room_size)
        fail("a message of %llu bytes is too large", (unsigned long long)size);
    read_all(socket, room + (got - (ssize_t)sizeof(size)), size + sizeof(size) - (uint64_t)got);
    return size;
}

static void send_memory(int socket, int memory)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
    uint64_t nothing = 0;
    struct iovec piece = {.iov_base = &nothing, .iov_len = sizeof(nothing)};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};

    memcpy(CMSG_DATA(&control.header), &memory, sizeof(memory));
    if (sendmsg(socket, &message, 0) != sizeof(nothing))
        fail_errno("send a descriptor");
}

static int receive_memory(int socket)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    uint64_t nothing;
    struct iovec piece = {.iov_base = &nothing, .iov_len = sizeof(nothing)};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    int memory;

    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != sizeof(nothing) ||
        message.msg_controllen < CMSG_LEN(sizeof(int)))
        fail("the other end is gone");
    memcpy(&memory, CMSG_DATA(&control.header), sizeof(memory));
    return memory;
}

__attribute__((noreturn)) static void serve(int socket, bool memory, uint64_t room_size)
{
    char *room = make_bytes(room_size);

    for (;;) {
        if (memory) {
            int descriptor = receive_memory(socket);
            uint64_t size = sealed_size(descriptor);

            close(descriptor);
            send_bytes(socket, (char *)&size, sizeof(size));
        } else {
            send_bytes(socket, room, receive_bytes(socket, room, room_size));
        }
    }
}

static void call_with_copy(void *context)
{
    struct client *client = context;

    send_bytes(client->socket, client->data, client->size);
    if (receive_bytes(client->socket, client->room, client->size) != client->size)
        fail("the reply has another size");
}

static void call_with_memory(void *context)
{
    struct client *client = context;
    uint64_t size;

    send_memory(client->socket, client->memory);
    receive_bytes(client->socket, (char *)&size, sizeof(size));
    if (size != client->size)
        fail("the service says %llu bytes", (unsigned long long)size);
}

int main(int argc, char **argv)
{
    struct client client = {.memory = -1};
    uint64_t largest = 0;
    bool memory;
    double seconds;
    int ends[2];
    pid_t service;

    if (argc < 4 || (strcmp(argv[1], "copy") && strcmp(argv[1], "memfd")))
        fail("usage: socket-call copy|memfd SECONDS SIZE...");
    memory = strcmp(argv[1], "memfd") == 0;
    seconds = parse_seconds(argv[2]);
    for (int i = 3; i < argc; i++) {
        uint64_t size = parse_number(argv[i], 1, (uint64_t)1 << 32);

        largest = size > largest ? size : largest;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        fail_errno("make a socket pair");
    service = fork_helper();
    if (service == 0) {
        close(ends[0]);
        serve(ends[1], memory, memory ? sizeof(uint64_t) : largest);
    }
    close(ends[1]);
    client.socket = ends[0];

    for (int i = 3; i < argc; i++) {
        client.size = parse_number(argv[i], 1, (uint64_t)1 << 32);
        if (memory) {
            client.memory = make_sealed(client.size);
            measure(argv[i], seconds, call_with_memory, &client);
            close(client.memory);
        } else {
            client.data = make_bytes(client.size);
            client.room = make_bytes(client.size);
            measure(argv[i], seconds, call_with_copy, &client);
            free(client.data);
            free(client.room);
        }
    }
    end_helpers(&service, 1);
    return EXIT_SUCCESS;
}
