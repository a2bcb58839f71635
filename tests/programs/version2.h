/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What programs of version 2 do all the time, for cases.h. */
#ifndef VERSION2_H
#define VERSION2_H

#include "cases.h"

static char bus_path[64];

static inline void make_bus(void)
{
	struct kdbus_bloom_parameter bloom = { .size = BLOOM_SIZE, .n_hash = 8 };
	struct buffer buffer;
	struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));
	char name[32];

	snprintf(name, sizeof(name), "%u-version2", geteuid());
	make->flags = KDBUS_MAKE_ACCESS_WORLD;
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, name);
	add(&buffer, KDBUS_ITEM_BLOOM_PARAMETER, &bloom, sizeof(bloom));
	EQ(command(open_control(), KDBUS_CMD_BUS_MAKE, make), 0);
	CHECK(make->kernel_flags & KDBUS_FLAG_KERNEL);
	snprintf(bus_path, sizeof(bus_path), ROOT "/%s/bus", name);
}

struct connection {
	int fd;
	__u64 id;
	const char *pool;
};

static inline struct connection hello(const char *path)
{
	struct connection made = { .fd = open(path, O_RDWR | O_CLOEXEC) };
	struct kdbus_cmd_hello hello = {
		.size = sizeof(hello), .flags = KDBUS_HELLO_ACCEPT_FD, .attach_flags_send = _KDBUS_ATTACH_ALL,
		.attach_flags_recv = KDBUS_ATTACH_CREDS, .pool_size = POOL_SIZE,
	};

	GE(made.fd, 0);
	EQ(command(made.fd, KDBUS_CMD_HELLO, &hello), 0);
	made.id = hello.id;
	made.pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, made.fd, 0);
	CHECK(made.pool != MAP_FAILED);
	EQ(hello.bloom.size, BLOOM_SIZE);
	EQ(hello.bloom.n_hash, 8);
	return made;
}

static inline struct kdbus_msg *begin_message(struct buffer *buffer, __u64 to, __u64 cookie, const char *text)
{
	struct kdbus_msg *message = begin(buffer, sizeof(*message));

	message->dst_id = to;
	message->payload_type = KDBUS_PAYLOAD_DBUS;
	message->cookie = cookie;
	add(buffer, KDBUS_ITEM_PAYLOAD_VEC, (__u64[]){ strlen(text) + 1, (uintptr_t)text }, 16);
	return message;
}

/* The next message, waited for; to be given back with FREE. */
static inline const struct kdbus_msg *receive(const struct connection *connection)
{
	struct kdbus_cmd_recv recv = { .flags = 0 };

	CHECK(wait_for(connection->fd, POLLIN) & POLLIN);
	EQ(command(connection->fd, KDBUS_CMD_MSG_RECV, &recv), 0);
	return (const struct kdbus_msg *)(connection->pool + recv.offset);
}

static inline const struct kdbus_item *item_of(const struct kdbus_msg *message, __u64 type)
{
	const char *end = (const char *)message + message->size;

	for (const struct kdbus_item *item = message->items; (const char *)item < end; item = NEXT(item))
		if (item->type == type)
			return item;
	printf("# no item 0x%llx\n", (unsigned long long)type);
	give_up();
}

static inline const char *text_of(const struct kdbus_msg *message)
{
	return (const char *)message + item_of(message, KDBUS_ITEM_PAYLOAD_OFF)->vec.offset;
}

static inline int give_back(const struct connection *connection, const void *place)
{
	struct kdbus_cmd_free free_ = { .offset = (__u64)((const char *)place - connection->pool) };

	return command(connection->fd, KDBUS_CMD_FREE, &free_);
}

#endif
