// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who a connection says it is: descriptions, and credentials, processes and labels that a privileged connection
 * claims for another.
 */
#include "e2e.h"

#define ALL_DEFAULT (KDBUS_ATTACH_CREDS | KDBUS_ATTACH_PIDS | KDBUS_ATTACH_AUXGROUPS | KDBUS_ATTACH_SECLABEL | \
		     KDBUS_ATTACH_CONN_DESCRIPTION)

/* HELLO with one item. */
static int claim(struct connection *connection, const struct bus *bus, __u64 type, const void *content, size_t size)
{
	struct buffer buffer;

	begin_hello(&buffer, 0);
	add(&buffer, type, content, size);
	return try_hello(connection, bus->path, &buffer);
}

CASE(what_hello_returns)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_GROUP);
	struct connection first = hello(bus.path), second;
	const struct kdbus_item_list *list = (const void *)(first.pool + first.hello.offset);
	static const char zeros[16];

	EQ(first.id, 1);
	EQ(first.hello.bus_flags, KDBUS_MAKE_ACCESS_GROUP);
	EQ(first.hello.attach_flags_send, KDBUS_FLAG_KERNEL);
	EQ(list->size, sizeof(*list) + HEADER + sizeof(struct kdbus_bloom_parameter));
	EQ(first.hello.items_size, list->size);
	EQ(list->items[0].type, KDBUS_ITEM_BLOOM_PARAMETER);
	EQ(list->items[0].bloom_parameter.size, BLOOM_SIZE);
	EQ(list->items[0].bloom_parameter.n_hash, 1);
	CHECK(memcmp(first.hello.id128, zeros, 16));
	second = hello(bus.path);
	EQ(second.id, 2);
	CHECK(!memcmp(first.hello.id128, second.hello.id128, 16));
	EQ(release(&first, first.hello.offset), 0);
	EQ(release(&first, first.hello.offset), -ENXIO);
	{
		struct bus other = { .fd = open_control() };

		EQ(try_bus(&other, "other", 0, 0, 0), 0);
		CHECK(memcmp(first.hello.id128, hello(other.path).hello.id128, 16));
	}
}

CASE(unknown_hello_flags)
{
	struct bus bus = new_bus(0);
	struct connection refused;
	struct buffer buffer;
	struct kdbus_cmd_hello *command = begin_hello(&buffer, 1ULL << 4);

	EQ(try_hello(&refused, bus.path, &buffer), -EINVAL);
	EQ(command->kernel_flags, KDBUS_FLAG_KERNEL | KDBUS_HELLO_ACCEPT_FD | KDBUS_HELLO_ACTIVATOR |
	   KDBUS_HELLO_POLICY_HOLDER | KDBUS_HELLO_MONITOR);
}

CASE(descriptions)
{
	struct bus bus = new_bus(0);
	struct connection peer, receiver = hello_with(bus.path, 0, 0, KDBUS_ATTACH_CONN_DESCRIPTION);
	struct buffer buffer;
	char long_one[65];

	memset(long_one, 'd', sizeof(long_one));
	long_one[64] = 0;
	EQ(claim(&peer, &bus, KDBUS_ITEM_CONN_DESCRIPTION, long_one, 65), -ENAMETOOLONG);
	EQ(claim(&peer, &bus, KDBUS_ITEM_CONN_DESCRIPTION, "", 1), -EINVAL);
	EQ(claim(&peer, &bus, KDBUS_ITEM_CONN_DESCRIPTION, "sp ace", 7), -EINVAL);
	EQ(claim(&peer, &bus, KDBUS_ITEM_CONN_DESCRIPTION, "no end", 6), -EINVAL);
	EQ(claim(&peer, &bus, KDBUS_ITEM_CONN_DESCRIPTION, "two\0", 5), -EINVAL);
	begin_hello(&buffer, 0);
	add_string(&buffer, KDBUS_ITEM_CONN_DESCRIPTION, "one");
	add_string(&buffer, KDBUS_ITEM_CONN_DESCRIPTION, "two");
	EQ(try_hello(&peer, bus.path, &buffer), -EINVAL);
	EQ(claim(&peer, &bus, KDBUS_ITEM_CONN_DESCRIPTION, long_one + 1, 64), 0);
	EQ(SEND(&peer, .to = receiver.id), 0);
	SAME(get(receive(&receiver), KDBUS_ITEM_CONN_DESCRIPTION)->str, long_one + 1);
	peer = hello(bus.path);
	EQ(SEND(&peer, .to = receiver.id), 0);
	CHECK(!find(receive(&receiver), KDBUS_ITEM_CONN_DESCRIPTION));
}

CASE(items_that_hello_does_not_take)
{
	struct bus bus = new_bus(0);
	struct connection refused;

	EQ(claim(&refused, &bus, KDBUS_ITEM_DST_NAME, "a.b", 4), -EINVAL);
	EQ(claim(&refused, &bus, KDBUS_ITEM_ATTACH_FLAGS_SEND, NULL, 8), -EINVAL);
	EQ(claim(&refused, &bus, 12345, NULL, 8), -EINVAL);
	EQ(claim(&refused, &bus, KDBUS_ITEM_CREDS, NULL, 31), -EINVAL);
	EQ(claim(&refused, &bus, KDBUS_ITEM_PIDS, NULL, 16), -EINVAL);
	EQ(claim(&refused, &bus, KDBUS_ITEM_SECLABEL, "no end", 6), -EINVAL);
}

/* What CONN_INFO tells about a connection whose identity is claimed; messages of it tell nothing about the process. */
static const struct kdbus_info *told_about(const struct bus *bus, const struct connection *claimed)
{
	struct connection asking = hello_with(bus->path, 0, 0, ALL_DEFAULT);
	struct kdbus_cmd_info info = { .size = sizeof(info), .id = claimed->id, .flags = _KDBUS_ATTACH_ALL };
	const struct kdbus_msg *message;

	EQ(SEND(claimed, .to = asking.id), 0);
	message = receive(&asking);
	CHECK(!find(message, KDBUS_ITEM_CREDS) && !find(message, KDBUS_ITEM_PIDS));
	CHECK(!find(message, KDBUS_ITEM_AUXGROUPS) && !find(message, KDBUS_ITEM_SECLABEL));
	EQ(command(asking.fd, KDBUS_CMD_CONN_INFO, &info), 0);
	return (const void *)(asking.pool + info.offset);
}

static const struct kdbus_item *told(const struct kdbus_info *info, __u64 type)
{
	return nth_item(info->items, (const char *)info + info->size, type, 0);
}

ROOT_CASE(faked_credentials)
{
	struct bus bus = new_bus(0);
	struct kdbus_creds creds = { 1, 2, 3, 4, 5, 6, 7, ~0U };
	const struct kdbus_item *item;
	const struct kdbus_info *info;
	struct connection claimed;

	EQ(claim(&claimed, &bus, KDBUS_ITEM_CREDS, &creds, sizeof(creds)), 0);
	info = told_about(&bus, &claimed);
	item = told(info, KDBUS_ITEM_CREDS);
	CHECK(item && !memcmp(&item->creds, &creds, sizeof(creds)));
	/* Nothing true about the process is told beside it. */
	CHECK(!told(info, KDBUS_ITEM_PIDS) && !told(info, KDBUS_ITEM_AUXGROUPS));
}

ROOT_CASE(faked_pids)
{
	struct bus bus = new_bus(0);
	struct kdbus_pids pids = { .pid = 1, .tid = (__u64)getpid(), .ppid = 0 };
	const struct kdbus_item *item;
	const struct kdbus_info *info;
	struct connection claimed;

	EQ(claim(&claimed, &bus, KDBUS_ITEM_PIDS, &pids, sizeof(pids)), 0);
	info = told_about(&bus, &claimed);
	item = told(info, KDBUS_ITEM_PIDS);
	CHECK(item && !memcmp(&item->pids, &pids, sizeof(pids)));
	CHECK(!told(info, KDBUS_ITEM_CREDS));
	pids.ppid = 4194305;	/* above the highest number that a process may have */
	EQ(claim(&claimed, &bus, KDBUS_ITEM_PIDS, &pids, sizeof(pids)), -EINVAL);
}

ROOT_CASE(a_faked_label_and_both)
{
	struct bus bus = new_bus(0);
	struct kdbus_creds creds = { .uid = 9 };
	struct kdbus_pids pids = { .pid = 1, .tid = 1 };
	const struct kdbus_info *info;
	struct connection claimed;
	struct buffer buffer;

	begin_hello(&buffer, 0);
	add(&buffer, KDBUS_ITEM_CREDS, &creds, sizeof(creds));
	add(&buffer, KDBUS_ITEM_PIDS, &pids, sizeof(pids));
	add_string(&buffer, KDBUS_ITEM_SECLABEL, "system_u:system_r");
	add_string(&buffer, KDBUS_ITEM_CONN_DESCRIPTION, "proxy");
	EQ(try_hello(&claimed, bus.path, &buffer), 0);
	info = told_about(&bus, &claimed);
	CHECK(told(info, KDBUS_ITEM_CREDS) && told(info, KDBUS_ITEM_PIDS) && told(info, KDBUS_ITEM_SECLABEL));
	SAME(told(info, KDBUS_ITEM_SECLABEL)->str, "system_u:system_r");
	CHECK(told(info, KDBUS_ITEM_CONN_DESCRIPTION));
}

ROOT_CASE(only_the_privileged_may_fake)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);

	AS(NOBODY) {
		struct connection refused;
		struct kdbus_creds creds = { .uid = NOBODY };
		struct kdbus_pids pids = { .pid = (__u64)getpid() };

		EQ(claim(&refused, &bus, KDBUS_ITEM_CREDS, &creds, sizeof(creds)), -EPERM);
		EQ(claim(&refused, &bus, KDBUS_ITEM_PIDS, &pids, sizeof(pids)), -EPERM);
		EQ(claim(&refused, &bus, KDBUS_ITEM_SECLABEL, "label", 6), -EPERM);
	}
	/* Faking changes what is told, and not what is allowed. */
	IN_CHILD {
		struct kdbus_creds creds = { .uid = NOBODY, .euid = NOBODY };
		struct connection claimed;

		EQ(claim(&claimed, &bus, KDBUS_ITEM_CREDS, &creds, sizeof(creds)), 0);
		EQ(acquire(&claimed, "org.example.Name", 0), 0);
	}
}
