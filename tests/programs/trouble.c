// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Programs in trouble, for whoever traces them to find out why. Each case meets one failure that people ask about, and
 * passes if it meets it; the same source is compiled for version 3 and, with FINAL, for the final revision.
 */
#include "cases.h"

#ifdef FINAL
typedef struct kdbus_cmd make_command;
typedef struct kdbus_cmd name_command;
#else
typedef struct kdbus_cmd_make make_command;
typedef struct kdbus_cmd_name name_command;
#endif

static char bus_path[256];

static int new_bus(void)
{
	struct kdbus_bloom_parameter bloom = { .size = BLOOM_SIZE, .n_hash = 8 };
	struct buffer buffer;
	make_command *make = begin(&buffer, sizeof(*make));
	char name[64];
	int fd = open_control();

	snprintf(name, sizeof(name), "%u-trouble", geteuid());
	snprintf(bus_path, sizeof(bus_path), ROOT "/%s/bus", name);
	add(&buffer, KDBUS_ITEM_BLOOM_PARAMETER, &bloom, sizeof(bloom));
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, name);
	EQ(command(fd, KDBUS_CMD_BUS_MAKE, make), 0);
	return fd;
}

static int connection(__u64 *id)
{
	struct kdbus_cmd_hello hello = {
		.size = sizeof(hello),
		.flags = KDBUS_HELLO_ACCEPT_FD,
		.attach_flags_send = _KDBUS_ATTACH_ALL,
		.pool_size = 1 << 20,
	};
	int fd = open(bus_path, O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	EQ(command(fd, KDBUS_CMD_HELLO, &hello), 0);
	CHECK(mmap(NULL, hello.pool_size, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED);
	*id = hello.id;
	return fd;
}

static int acquire(int fd, const char *name)
{
	struct buffer buffer;
	name_command *acquire = begin(&buffer, sizeof(*acquire));

	add_string(&buffer, KDBUS_ITEM_NAME, name);
	return command(fd, KDBUS_CMD_NAME_ACQUIRE, acquire);
}

/* SEND of "hello"; with a cookie, a request that may take `ms`. */
static int say(int fd, __u64 to, const char *name, __u64 cookie, __u64 ms, __u64 send_flags)
{
	__u64 vector[2] = { 5, (uintptr_t)"hello" };
	struct buffer buffer;
	struct kdbus_msg *message = begin(&buffer, sizeof(*message));
	struct kdbus_cmd_send send = { .size = sizeof(send), .flags = send_flags, .msg_address = (uintptr_t)message };

	message->dst_id = to;
	message->payload_type = KDBUS_PAYLOAD_DBUS;
	message->cookie = cookie;
	if (ms) {
		message->flags = KDBUS_MSG_EXPECT_REPLY;
		message->timeout_ns = in_ms(ms);
	}
	add_string(&buffer, KDBUS_ITEM_DST_NAME, name);
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, vector, sizeof(vector));
	return command(fd, KDBUS_CMD_SEND, &send);
}

/* A service has a name, reads its request, and forgets to reply. */
CASE(silent_service)
{
	struct kdbus_cmd_recv recv = { .size = sizeof(recv) };
	__u64 service_id, client_id;
	int bus = new_bus(), service = connection(&service_id), client = connection(&client_id);

	EQ(acquire(service, "org.example.Silent"), 0);
	EQ(say(client, KDBUS_DST_ID_NAME, "org.example.Silent", 7, 20000, 0), 0);
	EQ(command(service, KDBUS_CMD_RECV, &recv), 0);
	EQ(say(client, KDBUS_DST_ID_NAME, "org.example.Silent", 8, 300, KDBUS_SEND_SYNC_REPLY), -ETIMEDOUT);
	close(client);
	close(service);
	close(bus);
}

/* A service that ends, and neither reads nor replies. */
CASE(lazy_service)
{
	__u64 service_id, client_id;
	int bus = new_bus(), service = connection(&service_id), client = connection(&client_id);

	EQ(acquire(service, "org.example.Lazy"), 0);
	EQ(say(client, KDBUS_DST_ID_NAME, "org.example.Lazy", 9, 20000, 0), 0);
	close(service);
	close(client);
	close(bus);
}

/* A client that is killed while it waits for a reply. */
CASE(killed_in_call)
{
	struct kdbus_notify_id_change anybody = { .id = KDBUS_MATCH_ID_ANY };
	struct kdbus_cmd_recv recv = { .size = sizeof(recv) };
	struct buffer buffer;
	struct kdbus_cmd_match *match;
	__u64 service_id, client_id;
	int bus = new_bus(), service = connection(&service_id);
	pid_t client = fork();

	CHECK(client >= 0);
	if (!client) {
		say(connection(&client_id), service_id, NULL, 7, 20000, KDBUS_SEND_SYNC_REPLY);
		give_up();
	}
	CHECK(wait_for(service, POLLIN));
	EQ(command(service, KDBUS_CMD_RECV, &recv), 0);
	match = begin(&buffer, sizeof(*match));
	add(&buffer, KDBUS_ITEM_ID_REMOVE, &anybody, sizeof(anybody));
	EQ(command(service, KDBUS_CMD_MATCH_ADD, match), 0);
	EQ(kill(client, SIGKILL), 0);
	EQ(waitpid(client, NULL, 0), client);
	CHECK(wait_for(service, POLLIN));
	close(service);
	close(bus);
}

/* One whose queue nobody reads. */
CASE(full_queue)
{
	__u64 reader_id, chatter_id;
	int bus = new_bus(), reader = connection(&reader_id), chatter = connection(&chatter_id);
	int result = 0;

	EQ(acquire(chatter, "org.example.Chatter"), 0);
	for (int i = 0; i < 300 && !result; i++)
		result = say(chatter, reader_id, NULL, 0, 0, 0);
	EQ(result, -ENOBUFS);
	close(chatter);
	close(reader);
	close(bus);
}

/* A match whose second rule has a mask of the wrong size. */
CASE(bad_match)
{
	struct buffer buffer;
	struct kdbus_cmd_match *match = begin(&buffer, sizeof(*match));
	__u64 id;
	int bus = new_bus(), fd = connection(&id);

	match->cookie = 3;
	add_string(&buffer, KDBUS_ITEM_NAME, "org.example.Sender");
	add(&buffer, KDBUS_ITEM_BLOOM_MASK, NULL, BLOOM_SIZE - 8);
	EQ(command(fd, KDBUS_CMD_MATCH_ADD, match), -EDOM);
	close(fd);
	close(bus);
}

/* A name that somebody else has. */
CASE(taken_name)
{
	__u64 first_id, second_id;
	int bus = new_bus(), first = connection(&first_id), second = connection(&second_id);

	EQ(acquire(first, "org.example.Taken"), 0);
	EQ(acquire(second, "org.example.Taken"), -EEXIST);
	close(second);
	close(first);
	close(bus);
}

/* Payload and name of a message try to look like lines of a trace. */
CASE(forger)
{
	static const char forged[] = "\n[pid     1] SEND(3) = 0\n\033[31m";
	__u64 vector[2] = { sizeof(forged) - 1, (uintptr_t)forged }, id;
	int bus = new_bus(), fd = connection(&id);
	struct buffer buffer;
	struct kdbus_msg *message = begin(&buffer, sizeof(*message));
	struct kdbus_cmd_send send = { .size = sizeof(send), .msg_address = (uintptr_t)message };

	message->payload_type = KDBUS_PAYLOAD_DBUS;
	add_string(&buffer, KDBUS_ITEM_DST_NAME, "no\nname");
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, vector, sizeof(vector));
	EQ(command(fd, KDBUS_CMD_SEND, &send), -EINVAL);
	close(fd);
	close(bus);
}

/* Deposit("savings", 25) of org.example.Account, called at org.example.Bank, in both versions of D-Bus's format. */
static const char call_1[] =
	"\154\001\000\001\020\000\000\000\007\000\000\000\170\000\000\000\001\001\157\000\024\000\000\000\057"
	"\157\162\147\057\145\170\141\155\160\154\145\057\101\143\143\157\165\156\164\000\000\000\000\002\001"
	"\163\000\023\000\000\000\157\162\147\056\145\170\141\155\160\154\145\056\101\143\143\157\165\156\164"
	"\000\000\000\000\000\003\001\163\000\007\000\000\000\104\145\160\157\163\151\164\000\006\001\163\000"
	"\020\000\000\000\157\162\147\056\145\170\141\155\160\154\145\056\102\141\156\153\000\000\000\000\000"
	"\000\000\000\010\001\147\000\002\163\165\000\007\000\000\000\163\141\166\151\156\147\163\000\031\000"
	"\000\000";
static const char call_2[] =
	"\154\001\000\002\000\000\000\000\007\000\000\000\000\000\000\000\001\000\000\000\000\000\000\000\057"
	"\157\162\147\057\145\170\141\155\160\154\145\057\101\143\143\157\165\156\164\000\000\157\000\003\000"
	"\000\000\000\000\000\000\104\145\160\157\163\151\164\000\000\163\000\000\000\000\000\000\002\000\000"
	"\000\000\000\000\000\157\162\147\056\145\170\141\155\160\154\145\056\101\143\143\157\165\156\164\000"
	"\000\163\000\000\006\000\000\000\000\000\000\000\157\162\147\056\145\170\141\155\160\154\145\056\102"
	"\141\156\153\000\000\163\037\062\126\163\000\163\141\166\151\156\147\163\000\031\000\000\000\010\000"
	"\050\163\165\051\207";

static int send_bytes(int fd, __u64 to, const char *bytes, size_t size, __u64 cookie, __u64 reply_to)
{
	__u64 vector[2] = { size, (uintptr_t)bytes };
	struct buffer buffer;
	struct kdbus_msg *message = begin(&buffer, sizeof(*message));
	struct kdbus_cmd_send send = { .size = sizeof(send), .msg_address = (uintptr_t)message };

	message->dst_id = to;
	message->payload_type = KDBUS_PAYLOAD_DBUS;
	message->cookie = cookie;
	message->flags = reply_to ? 0 : KDBUS_MSG_EXPECT_REPLY;
	message->timeout_ns = reply_to ? reply_to : in_ms(20000);
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, vector, sizeof(vector));
	return command(fd, KDBUS_CMD_SEND, &send);
}

/* Two requests that are D-Bus, and replies that are not. */
CASE(speaks_dbus)
{
	struct kdbus_cmd_recv recv = { .size = sizeof(recv) };
	__u64 bank_id, client_id;
	int bus = new_bus(), bank = connection(&bank_id), client = connection(&client_id);

	EQ(acquire(bank, "org.example.Bank"), 0);
	EQ(send_bytes(client, bank_id, call_1, sizeof(call_1) - 1, 7, 0), 0);
	EQ(send_bytes(client, bank_id, call_2, sizeof(call_2) - 1, 8, 0), 0);
	for (__u64 cookie = 7; cookie <= 8; cookie++) {
		EQ(command(bank, KDBUS_CMD_RECV, &recv), 0);
		EQ(send_bytes(bank, client_id, "thanks", 6, cookie, cookie), 0);
		EQ(command(client, KDBUS_CMD_RECV, &recv), 0);
	}
	close(client);
	close(bank);
	close(bus);
}
