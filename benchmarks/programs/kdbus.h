// SPDX-License-Identifier: GPL-2.0-or-later
//
// A kdbus connection in as few lines as measuring needs, on the public interface (linux/kdbus.h) alone. For an
// introduction to that interface read samples/common.h of this project. It compiles with the headers of all revisions.
// That of version 2 has nothing that the preprocessor could know it by, so MESSAGE_IS_COMMAND is defined with it.

#ifndef BENCHMARKS_KDBUS_H
#define BENCHMARKS_KDBUS_H

#include "measure.h"

#include <fcntl.h>
#include <linux/kdbus.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define MOUNT_POINT "/sys/fs/kdbus"
#define BLOOM_SIZE 64
#define PAYLOAD 0x4b64627573426e63ULL  // any number but 0
#define PATIENCE 30000000000ULL        // ns until a call counts as lost

#ifdef MESSAGE_IS_COMMAND
// Version 2: SEND has the message itself, RECV and FREE do not say how large they are, and a broadcast is a signal.
typedef struct kdbus_cmd_make make_command;
typedef struct kdbus_cmd_name name_command;
#define PAYLOAD_IN_MESSAGE 1
enum { KDBUS_MSG_SIGNAL = 0 };
#elif defined(KDBUS_FLAG_NEGOTIATE)
// One structure serves all commands that have nothing but items, and payload lies in the slice of its message.
typedef struct kdbus_cmd make_command;
typedef struct kdbus_cmd name_command;
#define PAYLOAD_IN_MESSAGE 1
#else
typedef struct kdbus_cmd_make make_command;
typedef struct kdbus_cmd_name name_command;
#define PAYLOAD_IN_MESSAGE 0
#endif

struct connection {
    int descriptor;
    uint64_t id;
    const char *pool;  // NULL unless mapped
};

// A message or command with its items.
struct buffer {
    union {
        uint64_t size;
        struct kdbus_msg message;
        make_command make;
        name_command name;
        struct kdbus_cmd_match match;
        uint64_t room[128];
    };
};

// Starts a message that has no items yet.
static inline void compose(struct buffer *buffer, uint64_t destination, uint64_t cookie)
{
    memset(buffer, 0, sizeof(*buffer));
    buffer->size = sizeof(buffer->message);
    buffer->message.dst_id = destination;
    buffer->message.payload_type = PAYLOAD;
    buffer->message.cookie = cookie;
}

// Appends an item. Returns the place of its content, zeros of `size` bytes.
static inline void *add_item(struct buffer *buffer, uint64_t type, uint64_t size)
{
    struct kdbus_item *item = (struct kdbus_item *)((char *)buffer + buffer->size);
    uint64_t whole = offsetof(struct kdbus_item, data) + size;

    if (whole > sizeof(*buffer) - buffer->size)
        fail("too many items");
    item->size = whole;
    item->type = type;
    buffer->size += (whole + 7) & ~(uint64_t)7;
    return item->data;
}

static inline void add_text(struct buffer *buffer, uint64_t type, const char *text)
{
    strcpy(add_item(buffer, type, strlen(text) + 1), text);
}

static inline void add_bytes(struct buffer *buffer, const void *data, uint64_t size)
{
    struct kdbus_vec *vec = add_item(buffer, KDBUS_ITEM_PAYLOAD_VEC, sizeof(*vec));

    vec->size = size;
    vec->address = (uint64_t)(uintptr_t)data;
}

static inline void add_memory(struct buffer *buffer, int memory, uint64_t size)
{
    struct kdbus_memfd *item = add_item(buffer, KDBUS_ITEM_PAYLOAD_MEMFD, sizeof(*item));

    memset(item, 0, sizeof(*item)); // it begins at its start
    item->size = size;
    item->fd = memory;
}

// The content of the first item of that type in a message that stands in a pool. The bus wrote it, so it is trusted.
static inline const void *find_item(const struct kdbus_msg *message, uint64_t type)
{
    const char *position = (const char *)message->items;
    const char *end = (const char *)message + message->size;

    while (position < end) {
        const struct kdbus_item *item = (const struct kdbus_item *)position;

        if (item->type == type)
            return item->data;
        position += (item->size + 7) & ~(uint64_t)7;
    }
    fail("the message has no item of type %#llx", (unsigned long long)type);
}

// The node of the bus that `make_bus` made with that suffix.
static inline void bus_path(char path[64], uid_t uid, const char *suffix)
{
    snprintf(path, 64, MOUNT_POINT "/%u-%s/bus", uid, suffix);
}

// Makes a bus that everybody may use. It lasts as long as the descriptor.
static inline int make_bus(const char *suffix)
{
    struct buffer command = {.make = {.size = sizeof(command.make), .flags = KDBUS_MAKE_ACCESS_WORLD}};
    struct kdbus_bloom_parameter *bloom;
    char name[64];
    int control = open(MOUNT_POINT "/control", O_RDWR | O_CLOEXEC);

    if (control < 0)
        fail("cannot open %s: %s; run me under `kdbus run`", MOUNT_POINT "/control", strerror(errno));
    bloom = add_item(&command, KDBUS_ITEM_BLOOM_PARAMETER, sizeof(*bloom));
    bloom->size = BLOOM_SIZE;
    bloom->n_hash = 1;
    snprintf(name, sizeof(name), "%u-%s", geteuid(), suffix);
    add_text(&command, KDBUS_ITEM_MAKE_NAME, name);
    if (ioctl(control, KDBUS_CMD_BUS_MAKE, &command))
        fail_errno("make a bus");
    return control;
}

static inline void release(const struct connection *connection, uint64_t offset)
{
    struct kdbus_cmd_free command = {.offset = offset};

#ifndef MESSAGE_IS_COMMAND
    command.size = sizeof(command);
#endif

    if (ioctl(connection->descriptor, KDBUS_CMD_FREE, &command))
        fail_errno("free a part of the pool");
}

// Joins the bus of that node, and maps the pool if told so; `metadata` is what messages shall tell of their senders.
static inline struct connection join(const char *path, uint64_t pool_size, bool map, uint64_t metadata)
{
    struct connection connection = {.descriptor = open(path, O_RDWR | O_CLOEXEC)};
    struct kdbus_cmd_hello hello = {
        .size = sizeof(hello),
        .flags = KDBUS_HELLO_ACCEPT_FD,
        .attach_flags_send = _KDBUS_ATTACH_ALL,
        .attach_flags_recv = metadata,
        .pool_size = pool_size,
    };

    if (connection.descriptor < 0)
        fail("cannot open %s: %s", path, strerror(errno));
    if (ioctl(connection.descriptor, KDBUS_CMD_HELLO, &hello))
        fail_errno("say hello to the bus");
    connection.id = hello.id;
    if (map) {
        connection.pool = mmap(NULL, pool_size, PROT_READ, MAP_SHARED, connection.descriptor, 0);
        if (connection.pool == MAP_FAILED)
            fail_errno("map the pool");
    }
#ifndef MESSAGE_IS_COMMAND
    release(&connection, hello.offset);
#endif
    return connection;
}

// 0, or -1 with errno.
static inline int try_to_send(const struct connection *connection, struct buffer *buffer)
{
#ifdef MESSAGE_IS_COMMAND
    buffer->message.kernel_flags = 0; // left there by the last time
    return ioctl(connection->descriptor, KDBUS_CMD_MSG_SEND, buffer);
#else
    struct kdbus_cmd_send command = {.size = sizeof(command), .msg_address = (uint64_t)(uintptr_t)buffer};

    return ioctl(connection->descriptor, KDBUS_CMD_SEND, &command);
#endif
}

static inline void send_message(const struct connection *connection, struct buffer *buffer)
{
    if (try_to_send(connection, buffer))
        fail_errno("send a message");
}

// Sends a request and blocks until its reply is there; the offset of the reply.
static inline uint64_t call(const struct connection *connection, struct buffer *buffer)
{
#ifdef MESSAGE_IS_COMMAND
    buffer->message.flags = KDBUS_MSG_EXPECT_REPLY | KDBUS_MSG_SYNC_REPLY;
    buffer->message.timeout_ns = now_ns() + PATIENCE;
    if (try_to_send(connection, buffer))
        fail_errno("call the service");
    return buffer->message.offset_reply;
#else
    struct kdbus_cmd_send command = {
        .size = sizeof(command),
        .flags = KDBUS_SEND_SYNC_REPLY,
        .msg_address = (uint64_t)(uintptr_t)buffer,
    };

    buffer->message.flags = KDBUS_MSG_EXPECT_REPLY;
    buffer->message.timeout_ns = now_ns() + PATIENCE;
    if (ioctl(connection->descriptor, KDBUS_CMD_SEND, &command))
        fail_errno("call the service");
    return command.reply.offset;
#endif
}

// The offset of the next message. 0, or -1 with errno.
static inline int try_to_receive(const struct connection *connection, uint64_t *offset)
{
#ifdef MESSAGE_IS_COMMAND
    struct kdbus_cmd_recv command = {.flags = 0};
    int result = ioctl(connection->descriptor, KDBUS_CMD_MSG_RECV, &command);

    *offset = command.offset;
#else
    struct kdbus_cmd_recv command = {.size = sizeof(command)};
    int result = ioctl(connection->descriptor, KDBUS_CMD_RECV, &command);

    *offset = command.msg.offset;
#endif
    return result;
}

// The offset of the next message; it has to be there.
static inline uint64_t receive(const struct connection *connection)
{
    uint64_t offset;

    if (try_to_receive(connection, &offset))
        fail_errno("receive a message");
    return offset;
}

static inline void wait_for_message(const struct connection *connection)
{
    struct pollfd entry = {.fd = connection->descriptor, .events = POLLIN};

    while (poll(&entry, 1, -1) < 0)
        if (errno != EINTR)
            fail_errno("poll");
    if (entry.revents & (POLLHUP | POLLERR))
        fail("the bus is gone");
}

static inline const struct kdbus_msg *message_at(const struct connection *connection, uint64_t offset)
{
    return (const struct kdbus_msg *)(connection->pool + offset);
}

// The payload of a received message that was sent as one piece.
static inline const char *payload_of(const struct connection *connection, uint64_t offset, uint64_t *size)
{
    const struct kdbus_vec *vec = find_item(message_at(connection, offset), KDBUS_ITEM_PAYLOAD_OFF);

    *size = vec->size;
    return connection->pool + (PAYLOAD_IN_MESSAGE ? offset : 0) + vec->offset;
}

// Answers each request with its 8 bytes, for good.
__attribute__((noreturn)) static inline void echo_requests(const struct connection *connection)
{
    for (;;) {
        const struct kdbus_msg *request;
        struct buffer reply;
        uint64_t offset;
        uint64_t size;

        wait_for_message(connection);
        offset = receive(connection);
        request = message_at(connection, offset);
        compose(&reply, request->src_id, request->cookie);
        reply.message.cookie_reply = request->cookie;
        add_bytes(&reply, payload_of(connection, offset, &size), sizeof(uint64_t));
        send_message(connection, &reply);
        release(connection, offset);
    }
}

// Wants the broadcasts whose bloom filter has that bit.
static inline void add_match(const struct connection *connection, unsigned bit, uint64_t cookie)
{
    struct buffer command = {.match = {.size = sizeof(command.match), .cookie = cookie}};
    unsigned char *mask = add_item(&command, KDBUS_ITEM_BLOOM_MASK, BLOOM_SIZE);

    mask[bit / 8] = (unsigned char)(1u << bit % 8);
    if (ioctl(connection->descriptor, KDBUS_CMD_MATCH_ADD, &command))
        fail_errno("add a match");
}

// A broadcast of 8 bytes for those who want that bit.
static inline void compose_signal(struct buffer *message, unsigned bit)
{
    static const uint64_t payload = 1;
    struct kdbus_bloom_filter *filter;

    compose(message, KDBUS_DST_ID_BROADCAST, 1);
    message->message.flags = KDBUS_MSG_SIGNAL;
    add_bytes(message, &payload, sizeof(payload));
    filter = add_item(message, KDBUS_ITEM_BLOOM_FILTER, sizeof(*filter) + BLOOM_SIZE);
    ((unsigned char *)filter->data)[bit / 8] |= 1u << bit % 8;
}

static inline void acquire_name(const struct connection *connection, const char *name)
{
    struct buffer command = {.name = {.size = sizeof(command.name)}};

    add_text(&command, KDBUS_ITEM_NAME, name);
    if (ioctl(connection->descriptor, KDBUS_CMD_NAME_ACQUIRE, &command))
        fail_errno("acquire a name");
}

#endif
