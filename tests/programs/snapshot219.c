// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a program built for systemd 219 relies on, with that header. Run with `kdbus run --revision 219`.
 */
#include "cases.h"

static char bus_path[64];

static void make_bus(void)
{
	struct kdbus_bloom_parameter bloom = { .size = 64, .n_hash = 8 };
	struct buffer buffer;
	struct kdbus_cmd *make = begin(&buffer, sizeof(*make));
	__u64 masks[] = { ~0ULL };
	int control = open("/sys/fs/kdbus/control", O_RDWR | O_CLOEXEC);
	char name[32];

	GE(control, 0);
	snprintf(name, sizeof(name), "%u-snapshot", geteuid());
	add(&buffer, KDBUS_ITEM_MAKE_NAME, name, strlen(name) + 1);
	add(&buffer, KDBUS_ITEM_BLOOM_PARAMETER, &bloom, sizeof(bloom));
	/* as its systemd did */
	add(&buffer, KDBUS_ITEM_ATTACH_FLAGS_RECV, masks, sizeof(masks));
	EQ(command(control, KDBUS_CMD_BUS_MAKE, make), 0);
	snprintf(bus_path, sizeof(bus_path), "/sys/fs/kdbus/%s/bus", name);
}

struct connection {
	int fd;
	__u64 id;
	const char *pool;
};

static struct connection hello(void)
{
	struct connection made = { .fd = open(bus_path, O_RDWR | O_CLOEXEC) };
	struct kdbus_cmd_hello hello = {
		.size = sizeof(hello), .flags = KDBUS_HELLO_ACCEPT_FD, .attach_flags_send = _KDBUS_ATTACH_ANY,
		.attach_flags_recv = KDBUS_ATTACH_CREDS, .pool_size = POOL_SIZE,
	};
	const struct kdbus_item_list *list;

	GE(made.fd, 0);
	EQ(command(made.fd, KDBUS_CMD_HELLO, &hello), 0);
	made.id = hello.id;
	made.pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, made.fd, 0);
	EQ(made.pool == MAP_FAILED, 0);
	list = (const struct kdbus_item_list *)(made.pool + hello.offset);
	EQ(hello.items_size, 40);
	EQ(list->size, 40);
	EQ(list->items[0].type, KDBUS_ITEM_BLOOM_PARAMETER);
	EQ(list->items[0].bloom_parameter.n_hash, 8);
	return made;
}

CASE(a_message_tells_who_sent_it)
{
	struct connection alice, bob;
	struct kdbus_cmd_recv recv = { .size = sizeof(recv) };
	struct kdbus_cmd_send send = { .size = sizeof(send) };
	struct buffer buffer;
	struct kdbus_msg *message;
	const struct kdbus_msg *received;
	const struct kdbus_item *item;

	make_bus();
	alice = hello();
	bob = hello();
	message = begin(&buffer, sizeof(*message));
	message->dst_id = bob.id;
	message->payload_type = KDBUS_PAYLOAD_DBUS;
	message->cookie = 1;
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, (__u64[]){ 6, (uintptr_t)"hello" }, 16);
	send.msg_address = (uintptr_t)buffer.words;
	EQ(command(alice.fd, KDBUS_CMD_SEND, &send), 0);
	EQ(command(bob.fd, KDBUS_CMD_RECV, &recv), 0);
	received = (const struct kdbus_msg *)(bob.pool + recv.msg.offset);
	item = received->items;
	EQ(item->type, KDBUS_ITEM_PAYLOAD_OFF);
	SAME((const char *)received + item->vec.offset, "hello");
	item = (const struct kdbus_item *)((const char *)item + 32);
	EQ(item->type, KDBUS_ITEM_CREDS);
	EQ(item->size, 16 + 32);
	EQ(item->creds.euid, geteuid());
	EQ(item->creds.egid, getegid());
}

CASE(who_is_there)
{
	struct kdbus_cmd_info info = { .size = sizeof(info), .flags = KDBUS_ATTACH_CREDS };
	struct connection alice;
	const struct kdbus_info *answer;

	make_bus();
	alice = hello();
	info.id = alice.id;
	EQ(sizeof(info), 48);
	EQ(command(alice.fd, KDBUS_CMD_CONN_INFO, &info), 0);
	answer = (const struct kdbus_info *)(alice.pool + info.offset);
	EQ(answer->id, alice.id);
	EQ(answer->items[0].type, KDBUS_ITEM_CREDS);
	EQ(answer->items[0].creds.uid, getuid());
}

CASE(a_name_that_is_queued)
{
	struct connection alice, bob;
	struct buffer buffer;
	struct kdbus_cmd *name;

	make_bus();
	alice = hello();
	bob = hello();
	for (int turn = 0; turn < 2; turn++) {
		name = begin(&buffer, sizeof(*name));
		name->flags = KDBUS_NAME_QUEUE;
		add(&buffer, KDBUS_ITEM_NAME, "org.example.Queued", 19);
		EQ(command(turn ? bob.fd : alice.fd, KDBUS_CMD_NAME_ACQUIRE, name), 0);
		EQ(name->flags, turn ? KDBUS_NAME_QUEUE | KDBUS_NAME_IN_QUEUE : KDBUS_NAME_QUEUE);
		EQ(name->return_flags, 0);
	}
}
