// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the test programs for the final revision share: how they make buses, connect, send and receive.
 */
#ifndef FINAL_H
#define FINAL_H

#include "cases.h"

struct connection {
	int fd;
	__u64 id;
	const char *pool;
};

static char bus_path[256];

static inline void add_vector(struct buffer *buffer, const char *bytes, size_t size)
{
	__u64 vector[2] = { size, (__u64)(uintptr_t)bytes };

	add(buffer, KDBUS_ITEM_PAYLOAD_VEC, vector, sizeof(vector));
}

/* Makes a bus; its descriptor stays open until the case ends. */
static inline int make_bus(__u64 flags)
{
	struct kdbus_bloom_parameter bloom = { .size = BLOOM_SIZE, .n_hash = 8 };
	struct buffer buffer;
	struct kdbus_cmd *make = begin(&buffer, sizeof(*make));
	static int serial;
	char name[64];
	int fd = open_control();

	snprintf(name, sizeof(name), "%u-final-%d-%d", geteuid(), getpid(), ++serial);
	snprintf(bus_path, sizeof(bus_path), ROOT "/%s/bus", name);
	make->flags = flags;
	add(&buffer, KDBUS_ITEM_BLOOM_PARAMETER, &bloom, sizeof(bloom));
	add_u64(&buffer, KDBUS_ITEM_ATTACH_FLAGS_SEND, _KDBUS_ATTACH_ANY);
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, name);
	EQ(command(fd, KDBUS_CMD_BUS_MAKE, buffer.words), 0);
	return fd;
}

static inline struct connection connect_with(__u64 flags, __u64 pool_size, __u64 wanted)
{
	struct kdbus_cmd_hello hello = {
		.size = sizeof(hello),
		.flags = flags,
		.attach_flags_send = _KDBUS_ATTACH_ANY,
		.attach_flags_recv = wanted,
		.pool_size = pool_size,
	};
	struct connection connection = { .fd = open(bus_path, O_RDWR | O_CLOEXEC) };
	struct kdbus_cmd_free give_back = { .size = sizeof(give_back) };
	const struct kdbus_item *item;

	CHECK(connection.fd >= 0);
	EQ(command(connection.fd, KDBUS_CMD_HELLO, &hello), 0);
	EQ(hello.attach_flags_send, _KDBUS_ATTACH_ANY);
	connection.id = hello.id;
	connection.pool = mmap(NULL, pool_size, PROT_READ, MAP_SHARED, connection.fd, 0);
	CHECK(connection.pool != MAP_FAILED);
	item = (const struct kdbus_item *)(connection.pool + hello.offset);
	EQ(hello.items_size, 32);
	EQ(item->type, KDBUS_ITEM_BLOOM_PARAMETER);
	EQ(item->bloom_parameter.size, BLOOM_SIZE);
	give_back.offset = hello.offset;
	EQ(command(connection.fd, KDBUS_CMD_FREE, &give_back), 0);
	return connection;
}

static inline struct connection hello(void)
{
	return connect_with(KDBUS_HELLO_ACCEPT_FD, POOL_SIZE, 0);
}

static inline void begin_message(struct buffer *buffer, __u64 destination, __u64 flags, __u64 cookie)
{
	struct kdbus_msg *message = begin(buffer, sizeof(*message));

	message->dst_id = destination;
	message->flags = flags;
	message->cookie = cookie;
	message->payload_type = KDBUS_PAYLOAD_DBUS;
}

static inline int send_buffer(const struct connection *connection, struct buffer *buffer, __u64 flags,
		       struct kdbus_cmd_send *send)
{
	*send = (struct kdbus_cmd_send) {
		.size = sizeof(*send),
		.flags = flags,
		.msg_address = (__u64)(uintptr_t)buffer->words,
	};
	return command(connection->fd, KDBUS_CMD_SEND, send);
}

static inline int send_text(const struct connection *connection, __u64 destination, const char *text, __u64 cookie)
{
	struct kdbus_cmd_send send;
	struct buffer buffer;

	begin_message(&buffer, destination, 0, cookie);
	add_vector(&buffer, text, strlen(text) + 1);
	return send_buffer(connection, &buffer, 0, &send);
}

static inline int receive(const struct connection *connection, struct kdbus_cmd_recv *recv, __u64 flags)
{
	*recv = (struct kdbus_cmd_recv) { .size = sizeof(*recv), .flags = flags, .dropped_msgs = 77 };
	return command(connection->fd, KDBUS_CMD_RECV, recv);
}

static inline const struct kdbus_msg *get_message(const struct connection *connection)
{
	struct kdbus_cmd_recv recv;

	EQ(wait_for(connection->fd, POLLIN) & POLLIN, POLLIN);
	EQ(receive(connection, &recv, 0), 0);
	return (const struct kdbus_msg *)(connection->pool + recv.msg.offset);
}

static inline const struct kdbus_item *item_of(const struct kdbus_msg *message, __u64 type)
{
	const struct kdbus_item *item = message->items;

	for (; (const char *)item < (const char *)message + message->size; item = NEXT(item))
		if (item->type == type)
			return item;
	return NULL;
}

static inline const char *text_of(const struct kdbus_msg *message)
{
	const struct kdbus_item *item = item_of(message, KDBUS_ITEM_PAYLOAD_OFF);

	CHECK(item);
	return (const char *)message + item->vec.offset;
}

static inline int free_offset(const struct connection *connection, __u64 offset)
{
	struct kdbus_cmd_free give_back = { .size = sizeof(give_back), .offset = offset };

	return command(connection->fd, KDBUS_CMD_FREE, &give_back);
}

static inline int add_match(const struct connection *connection, __u64 cookie, __u64 type, const void *rule,
			    size_t size)
{
	struct buffer buffer;
	struct kdbus_cmd_match *match = begin(&buffer, sizeof(*match));

	match->cookie = cookie;
	add(&buffer, type, rule, size);
	return command(connection->fd, KDBUS_CMD_MATCH_ADD, buffer.words);
}

static inline int acquire(const struct connection *connection, const char *name, __u64 flags, __u64 *result)
{
	struct buffer buffer;
	struct kdbus_cmd *cmd = begin(&buffer, sizeof(*cmd));
	int answer;

	cmd->flags = flags;
	add_string(&buffer, KDBUS_ITEM_NAME, name);
	answer = command(connection->fd, KDBUS_CMD_NAME_ACQUIRE, buffer.words);
	*result = cmd->return_flags;
	return answer;
}

#endif
