// SPDX-License-Identifier: GPL-2.0-or-later
/* What a program built for version 2 relies on, with that header. */
#include "version2.h"

CASE(a_message_tells_who_sent_it)
{
	struct connection alice, bob;
	struct buffer buffer;
	const struct kdbus_msg *received;
	const struct kdbus_item *creds;

	make_bus();
	alice = hello(bus_path);
	bob = hello(bus_path);
	EQ(command(alice.fd, KDBUS_CMD_MSG_SEND, begin_message(&buffer, bob.id, 1, TEXT)), 0);
	received = receive(&bob);
	SAME(text_of(received), TEXT);
	EQ(received->src_id, alice.id);
	creds = item_of(received, KDBUS_ITEM_CREDS);
	EQ(creds->size, 16 + 40);
	EQ(creds->creds.uid, getuid());
	EQ(creds->creds.gid, getgid());
	EQ(creds->creds.pid, getpid());
	EQ(creds->creds.tid, gettid());
	/* in ns since the system was started, to a tick; it was started before now */
	NE(creds->creds.starttime, 0);
	GE(clock_ns(CLOCK_BOOTTIME), creds->creds.starttime);
	EQ(give_back(&bob, received), 0);
	EQ(give_back(&bob, received), -ENXIO);
}

CASE(a_descriptor_and_a_memfd_arrive)
{
	struct connection alice, bob;
	struct buffer buffer;
	const struct kdbus_msg *received;
	const struct kdbus_item *item;
	int memfd, event = new_event();
	char text[sizeof(TEXT)];

	make_bus();
	alice = hello(bus_path);
	bob = hello(bus_path);
	memfd = memfd_create("payload", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	EQ(write(memfd, TEXT, sizeof(TEXT)), sizeof(TEXT));
	EQ(fcntl(memfd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
	begin_message(&buffer, bob.id, 1, "x");
	add(&buffer, KDBUS_ITEM_PAYLOAD_MEMFD, &(struct kdbus_memfd){ .size = sizeof(TEXT), .fd = memfd }, 16);
	add(&buffer, KDBUS_ITEM_FDS, &event, sizeof(event));
	EQ(command(alice.fd, KDBUS_CMD_MSG_SEND, buffer.words), 0);
	received = receive(&bob);
	item = item_of(received, KDBUS_ITEM_PAYLOAD_MEMFD);
	EQ(item->size, 16 + 16);
	EQ(item->memfd.size, sizeof(TEXT));
	EQ(pread(item->memfd.fd, text, sizeof(text), 0), sizeof(text));
	SAME(text, TEXT);
	post(item_of(received, KDBUS_ITEM_FDS)->fds[0]);
	await(event);
}

CASE(names_are_listed)
{
	struct connection alice, bob;
	struct buffer buffer;
	struct kdbus_cmd_name *name;
	struct kdbus_cmd_name_list list = { .flags = KDBUS_NAME_LIST_NAMES };
	const struct kdbus_name_list *listed;

	make_bus();
	alice = hello(bus_path);
	bob = hello(bus_path);
	for (int turn = 0; turn < 2; turn++) {
		name = begin(&buffer, sizeof(*name));
		name->flags = KDBUS_NAME_QUEUE;
		add_string(&buffer, KDBUS_ITEM_NAME, "org.example.Queued");
		EQ(command(turn ? bob.fd : alice.fd, KDBUS_CMD_NAME_ACQUIRE, name), 0);
		EQ(name->flags, turn ? KDBUS_NAME_QUEUE | KDBUS_NAME_IN_QUEUE : KDBUS_NAME_QUEUE);
	}
	EQ(command(bob.fd, KDBUS_CMD_NAME_LIST, &list), 0);
	listed = (const struct kdbus_name_list *)(bob.pool + list.offset);
	EQ(listed->names[0].owner_id, alice.id);
	SAME(listed->names[0].items[0].name.name, "org.example.Queued");
	EQ(listed->size, 8 + listed->names[0].size);
	EQ(give_back(&bob, listed), 0);
}

struct call {
	struct connection *connection;
	__u64 to;
	int result, done;
	__u64 offset;
};

static void *make_call(void *argument)
{
	struct call *call = argument;
	struct buffer buffer;
	struct kdbus_msg *message = begin_message(&buffer, call->to, 7, "question");

	message->flags = KDBUS_MSG_EXPECT_REPLY | KDBUS_MSG_SYNC_REPLY;
	message->timeout_ns = in_ms(PATIENCE);
	call->result = command(call->connection->fd, KDBUS_CMD_MSG_SEND, message);
	call->offset = message->offset_reply;
	post(call->done);
	return NULL;
}

/* The request that was answered; it has not been given back. */
static const struct kdbus_msg *answer_call(const struct connection *service)
{
	const struct kdbus_msg *request = receive(service);
	struct buffer buffer;
	struct kdbus_msg *answer;

	EQ(request->flags, KDBUS_MSG_EXPECT_REPLY | KDBUS_MSG_SYNC_REPLY);
	answer = begin_message(&buffer, request->src_id, 1, "answer");
	answer->cookie_reply = request->cookie;
	EQ(command(service->fd, KDBUS_CMD_MSG_SEND, answer), 0);
	return request;
}

CASE(a_call_is_answered)
{
	struct connection alice, bob;
	struct call call = { .connection = &alice, .done = new_event() };
	const struct kdbus_msg *reply;
	pthread_t thread;

	make_bus();
	alice = hello(bus_path);
	bob = hello(bus_path);
	call.to = bob.id;
	CHECK(!pthread_create(&thread, NULL, make_call, &call));
	answer_call(&bob);
	await(call.done);
	CHECK(!pthread_join(thread, NULL));
	EQ(call.result, 0);
	reply = (const struct kdbus_msg *)(alice.pool + call.offset);
	SAME(text_of(reply), "answer");
	EQ(give_back(&alice, reply), 0);
}

CASE(another_thread_cancels_a_call)
{
	struct connection alice, bob;
	struct call call = { .connection = &alice, .done = new_event() };
	struct kdbus_cmd_cancel cancel = { .cookie = 8 };
	pthread_t thread;

	make_bus();
	alice = hello(bus_path);
	bob = hello(bus_path);
	call.to = bob.id;
	CHECK(!pthread_create(&thread, NULL, make_call, &call));
	receive(&bob);
	EQ(command(alice.fd, KDBUS_CMD_MSG_CANCEL, &cancel), -ENOENT);
	cancel.cookie = 7;
	EQ(command(alice.fd, KDBUS_CMD_MSG_CANCEL, &cancel), 0);
	await(call.done);
	CHECK(!pthread_join(thread, NULL));
	EQ(call.result, -ECANCELED);
	EQ(command(alice.fd, KDBUS_CMD_MSG_CANCEL, &cancel), -ENOENT);
}

enum { CALLS = 200 };

static void *make_calls(void *argument)
{
	for (int calls = CALLS; calls; calls--)
		make_call(argument);
	return NULL;
}

CASE(the_last_of_many_calls_is_cancelled)
{
	struct connection alice, bob;
	struct call call = { .connection = &alice, .done = new_event() };
	struct kdbus_cmd_cancel cancel = { .cookie = 7 };
	pthread_t thread;

	make_bus();
	alice = hello(bus_path);
	bob = hello(bus_path);
	call.to = bob.id;
	CHECK(!pthread_create(&thread, NULL, make_calls, &call));
	for (int calls = CALLS - 1; calls; calls--) {
		EQ(give_back(&bob, answer_call(&bob)), 0);
		await(call.done);
	}
	EQ(call.result, 0);
	SAME(text_of((const struct kdbus_msg *)(alice.pool + call.offset)), "answer");
	receive(&bob);
	EQ(command(alice.fd, KDBUS_CMD_MSG_CANCEL, &cancel), 0);
	await(call.done);
	CHECK(!pthread_join(thread, NULL));
	EQ(call.result, -ECANCELED);
}

CASE(a_broadcast_is_known_by_its_filter)
{
	struct connection alice, bob;
	struct buffer buffer;
	struct kdbus_cmd_match *match = begin(&buffer, sizeof(*match));
	const struct kdbus_msg *received;

	make_bus();
	alice = hello(bus_path);
	bob = hello(bus_path);
	memset(add(&buffer, KDBUS_ITEM_BLOOM_MASK, NULL, BLOOM_SIZE), 1, 1);
	EQ(command(bob.fd, KDBUS_CMD_MATCH_ADD, match), 0);
	begin_message(&buffer, KDBUS_DST_ID_BROADCAST, 1, "signal");
	EQ(command(alice.fd, KDBUS_CMD_MSG_SEND, buffer.words), -EBADMSG);
	memset((char *)add(&buffer, KDBUS_ITEM_BLOOM_FILTER, NULL, 8 + BLOOM_SIZE) + 8, 1, 1);
	EQ(command(alice.fd, KDBUS_CMD_MSG_SEND, buffer.words), 0);
	received = receive(&bob);
	SAME(text_of(received), "signal");
	EQ(received->flags, 0);
}
