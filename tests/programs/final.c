// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The final revision of kdbus, as a program of its time meets it: what it asks, how it connects, and how messages,
 * names, losses and notifications look. The helpers (final.h) are to this revision what e2e.h is to version 3.
 */
#include "final.h"

CASE(probe)
{
	struct kdbus_cmd cmd = { .size = sizeof(cmd), .flags = KDBUS_FLAG_NEGOTIATE };
	int fd = open_control();

	EQ(command(fd, KDBUS_CMD_BUS_MAKE, &cmd), 0);
	EQ(cmd.flags, KDBUS_MAKE_ACCESS_GROUP | KDBUS_MAKE_ACCESS_WORLD);
	cmd.flags = 1 << 20;
	EQ(command(fd, KDBUS_CMD_BUS_MAKE, &cmd), -EINVAL);
	EQ(command(fd, KDBUS_CMD_SEND, &cmd), -EBADFD);
	EQ(command(fd, _IOW(KDBUS_IOCTL_MAGIC, 0xff, struct kdbus_cmd), &cmd), -ENOTTY);
	cmd.size = 33000;
	EQ(command(fd, KDBUS_CMD_BUS_MAKE, &cmd), -EMSGSIZE);
}

CASE(message)
{
	struct connection alice, bob;
	const struct kdbus_msg *message;
	struct kdbus_cmd_recv recv;

	make_bus(0);
	alice = hello();
	bob = hello();
	EQ(receive(&bob, &recv, 0), -EAGAIN);
	EQ(recv.msg.offset, POOL_SIZE);
	EQ(recv.dropped_msgs, 0);
	EQ(send_text(&alice, bob.id, TEXT, 7), 0);
	message = get_message(&bob);
	EQ(message->src_id, alice.id);
	EQ(message->cookie, 7);
	EQ(message->size, sizeof(*message) + 32);
	SAME(text_of(message), TEXT);
	EQ(free_offset(&bob, (const char *)message - bob.pool), 0);
	EQ(free_offset(&bob, (const char *)message - bob.pool), -ENXIO);
	EQ(free_offset(&bob, POOL_SIZE), 0);
	EQ(readiness(bob.fd) & POLLIN, 0);
}

CASE(order_of_items)
{
	struct connection alice, bob;
	const struct kdbus_msg *message;
	const struct kdbus_item *item;
	struct kdbus_cmd_send send;
	struct buffer buffer;
	__u64 result;

	make_bus(0);
	alice = hello();
	bob = hello();
	EQ(acquire(&bob, "org.example.Bob", 0, &result), 0);
	EQ(result, KDBUS_NAME_PRIMARY | KDBUS_NAME_ACQUIRED);
	begin_message(&buffer, 0, 0, 1);
	add_vector(&buffer, "first", 5);
	add_string(&buffer, KDBUS_ITEM_DST_NAME, "org.example.Bob");
	add_vector(&buffer, NULL, 9);
	add_vector(&buffer, "last", 5);
	EQ(send_buffer(&alice, &buffer, 0, &send), 0);
	EQ(send.reply.offset, POOL_SIZE);
	message = get_message(&bob);
	item = message->items;
	EQ(item->type, KDBUS_ITEM_PAYLOAD_OFF);
	item = NEXT(item);
	EQ(item->type, KDBUS_ITEM_DST_NAME);
	SAME(item->str, "org.example.Bob");
	item = NEXT(item);
	EQ(item->vec.size, 9);
	EQ(item->vec.offset, ~0ULL);
	item = NEXT(item);
	EQ(item->vec.offset % 8, (5 + 9) % 8);
	SAME((const char *)message + item->vec.offset, "last");
}

CASE(descriptors)
{
	struct connection alice, bob;
	const struct kdbus_msg *message;
	struct kdbus_cmd_recv recv;
	struct kdbus_cmd_send send;
	struct buffer buffer;
	int ends[2];

	make_bus(0);
	alice = hello();
	bob = hello();
	EQ(pipe(ends), 0);
	begin_message(&buffer, bob.id, 0, 1);
	add(&buffer, KDBUS_ITEM_FDS, &ends[1], sizeof(int));
	EQ(send_buffer(&alice, &buffer, 0, &send), 0);
	EQ(receive(&bob, &recv, KDBUS_RECV_PEEK), 0);
	message = (const struct kdbus_msg *)(bob.pool + recv.msg.offset);
	EQ(item_of(message, KDBUS_ITEM_FDS)->fds[0], -1);
	message = get_message(&bob);
	GE(item_of(message, KDBUS_ITEM_FDS)->fds[0], 0);
	EQ(write(item_of(message, KDBUS_ITEM_FDS)->fds[0], "x", 1), 1);
	EQ(wait_for(ends[0], POLLIN), POLLIN);
}

CASE(synchronous_call)
{
	struct connection alice, bob;
	struct kdbus_cmd_send send;
	struct buffer buffer;
	const struct kdbus_msg *answer;
	pid_t child;

	make_bus(0);
	alice = hello();
	bob = hello();
	child = start_child();
	if (!child) {
		const struct kdbus_msg *request = get_message(&bob);
		struct kdbus_cmd_send reply;
		struct buffer answered;

		SAME(text_of(request), "question");
		begin_message(&answered, alice.id, 0, 2);
		((struct kdbus_msg *)answered.words)->cookie_reply = request->cookie;
		add_vector(&answered, "answer", 7);
		EQ(send_buffer(&bob, &answered, 0, &reply), 0);
		EQ(send_buffer(&bob, &answered, 0, &reply), -EBADSLT);
		finish_child(0);
	}
	begin_message(&buffer, bob.id, KDBUS_MSG_EXPECT_REPLY, 9);
	((struct kdbus_msg *)buffer.words)->timeout_ns = 1;
	add_vector(&buffer, "question", 9);
	EQ(send_buffer(&alice, &buffer, KDBUS_SEND_SYNC_REPLY, &send), -ETIMEDOUT);
	((struct kdbus_msg *)buffer.words)->timeout_ns = in_ms(PATIENCE);
	EQ(send_buffer(&alice, &buffer, KDBUS_SEND_SYNC_REPLY, &send), 0);
	answer = (const struct kdbus_msg *)(alice.pool + send.reply.offset);
	SAME(text_of(answer), "answer");
	EQ(free_offset(&alice, send.reply.offset), 0);
	join(child);
}

/* Answers `count` calls of `peer`, a memfd with every third; its descriptors are refused by who does not want any. */
static void answer_calls(const struct connection *service, __u64 peer, int count)
{
	int memfd = memfd_create("answer", MFD_ALLOW_SEALING);

	EQ(write(memfd, "sealed!", 8), 8);
	EQ(fcntl(memfd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
	for (int number = 1; number <= count; number++) {
		const struct kdbus_msg *request = get_message(service);
		struct kdbus_memfd part = { .size = 8, .fd = memfd };
		struct kdbus_cmd_send reply;
		struct buffer answered;

		begin_message(&answered, peer, 0, 2);
		((struct kdbus_msg *)answered.words)->cookie_reply = request->cookie;
		add_vector(&answered, text_of(request), 9);
		if (number % 3 == 0)
			add(&answered, KDBUS_ITEM_PAYLOAD_MEMFD, &part, sizeof(part));
		EQ(free_offset(service, (__u64)((const char *)request - service->pool)), 0);
		EQ(send_buffer(service, &answered, 0, &reply), 0);
		EQ(reply.return_flags, 0);
		EQ(reply.reply.offset, POOL_SIZE);
	}
}

static void many_synchronous_calls(__u64 flags, __u64 wanted)
{
	struct connection alice, bob;
	pid_t child;

	make_bus(0);
	alice = connect_with(flags, POOL_SIZE, wanted);
	bob = hello();
	child = start_child();
	if (!child) {
		answer_calls(&bob, alice.id, 60);
		finish_child(0);
	}
	for (int number = 1; number <= 60; number++) {
		struct kdbus_cmd_send send;
		struct buffer buffer;
		const struct kdbus_msg *answer;
		const struct kdbus_item *memfd;
		char text[9];

		begin_message(&buffer, bob.id, KDBUS_MSG_EXPECT_REPLY, (__u64)number);
		((struct kdbus_msg *)buffer.words)->timeout_ns = in_ms(PATIENCE);
		snprintf(text, sizeof(text), "call %3d", number);
		add_vector(&buffer, text, sizeof(text));
		EQ(send_buffer(&alice, &buffer, KDBUS_SEND_SYNC_REPLY, &send), 0);
		EQ(send.return_flags, 0);
		EQ(send.reply.return_flags, 0);
		answer = (const struct kdbus_msg *)(alice.pool + send.reply.offset);
		EQ(answer->cookie_reply, (__u64)number);
		EQ(send.reply.msg_size, ((answer->size + 7) & ~7ULL) + 16);
		SAME(text_of(answer), text);
		memfd = item_of(answer, KDBUS_ITEM_PAYLOAD_MEMFD);
		EQ(!!memfd, number % 3 == 0);
		if (memfd && flags & KDBUS_HELLO_ACCEPT_FD) {
			EQ(pread(memfd->memfd.fd, text, 8, 0), 8);
			SAME(text, "sealed!");
			close(memfd->memfd.fd);
		} else if (memfd) {
			EQ(memfd->memfd.fd, -1);
		}
		if (wanted)
			EQ(item_of(answer, KDBUS_ITEM_PIDS)->pids.pid, (__u64)child);
		EQ(free_offset(&alice, send.reply.offset), 0);
	}
	join(child);
}

CASE(synchronous_calls)
{
	many_synchronous_calls(KDBUS_HELLO_ACCEPT_FD, 0);
}

CASE(synchronous_calls_with_metadata)
{
	many_synchronous_calls(KDBUS_HELLO_ACCEPT_FD, _KDBUS_ATTACH_ALL);
}

CASE(synchronous_calls_without_descriptors)
{
	many_synchronous_calls(0, 0);
}

/* A signal of two topics by turns; some want both, one wants one of them, one is who sends. */
static void send_signals(__u64 wanted)
{
	enum { LISTENERS = 5, ROUNDS = 40 };
	struct connection listeners[LISTENERS];

	make_bus(0);
	for (int i = 0; i < LISTENERS; i++) {
		__u64 mask[BLOOM_SIZE / 8] = { i == 1 ? 2 : 0 };

		listeners[i] = connect_with(KDBUS_HELLO_ACCEPT_FD, POOL_SIZE, i == 2 ? 0 : wanted);
		EQ(add_match(&listeners[i], 1, KDBUS_ITEM_BLOOM_MASK, mask, sizeof(mask)), 0);
	}
	for (int round = 0; round < ROUNDS; round++) {
		__u64 filter[1 + BLOOM_SIZE / 8] = { 0, round % 2 ? 2 : 1 };
		struct kdbus_cmd_send send;
		struct buffer buffer;
		char text[9];

		begin_message(&buffer, KDBUS_DST_ID_BROADCAST, KDBUS_MSG_SIGNAL, (__u64)round);
		add(&buffer, KDBUS_ITEM_BLOOM_FILTER, filter, sizeof(filter));
		snprintf(text, sizeof(text), "turn %3d", round);
		add_vector(&buffer, text, sizeof(text));
		EQ(send_buffer(&listeners[0], &buffer, 0, &send), 0);
		for (int i = 0; i < LISTENERS; i++) {
			struct kdbus_cmd_recv recv;
			const struct kdbus_msg *message;

			if (i == 1 && round % 2 == 0) {
				EQ(receive(&listeners[i], &recv, 0), -EAGAIN);
				continue;
			}
			message = get_message(&listeners[i]);
			EQ(message->src_id, listeners[0].id);
			EQ(message->dst_id, KDBUS_DST_ID_BROADCAST);
			EQ(message->flags, KDBUS_MSG_SIGNAL);
			EQ(message->cookie, (__u64)round);
			EQ(item_of(message, KDBUS_ITEM_BLOOM_FILTER)->size, 16 + sizeof(filter));
			EQ(item_of(message, KDBUS_ITEM_BLOOM_FILTER)->data64[1], filter[1]);
			SAME(text_of(message), text);
			EQ(!!item_of(message, KDBUS_ITEM_PIDS), i != 2 && wanted);
			if (i != 2 && wanted)
				EQ(item_of(message, KDBUS_ITEM_PIDS)->pids.pid, (__u64)getpid());
			EQ(free_offset(&listeners[i], (__u64)((const char *)message - listeners[i].pool)), 0);
		}
	}
}

CASE(signals_to_many)
{
	send_signals(0);
}

CASE(signals_to_many_with_metadata)
{
	send_signals(_KDBUS_ATTACH_ALL);
}

CASE(losses)
{
	struct connection alice, bob;
	struct kdbus_cmd_recv recv;
	struct kdbus_cmd_send send;
	struct buffer buffer;

	make_bus(0);
	alice = hello();
	bob = connect_with(0, 4096, 0);
	EQ(add_match(&bob, 1, KDBUS_ITEM_ID, &alice.id, sizeof(__u64)), 0);
	begin_message(&buffer, KDBUS_DST_ID_BROADCAST, KDBUS_MSG_SIGNAL, 1);
	add(&buffer, KDBUS_ITEM_BLOOM_FILTER, NULL, 8 + BLOOM_SIZE);
	for (int i = 0; i < 10; i++)
		EQ(send_buffer(&alice, &buffer, 0, &send), 0);
	EQ(receive(&bob, &recv, 0), 0);
	EQ(recv.return_flags, KDBUS_RECV_RETURN_DROPPED_MSGS);
	GE(recv.dropped_msgs, 1);
	EQ(item_of((const struct kdbus_msg *)(bob.pool + recv.msg.offset), KDBUS_ITEM_BLOOM_FILTER)->size, 24 + BLOOM_SIZE);
	while (!receive(&bob, &recv, 0))
		EQ(recv.return_flags, 0);
	EQ(readiness(bob.fd) & POLLIN, 0);
}

CASE(own_broadcast_and_notification)
{
	struct kdbus_notify_id_change anybody = { .id = KDBUS_MATCH_ID_ANY };
	struct connection alice, bob;
	const struct kdbus_msg *message;
	struct kdbus_cmd_send send;
	struct buffer buffer;

	make_bus(0);
	alice = hello();
	EQ(add_match(&alice, 1, KDBUS_ITEM_ID, &alice.id, sizeof(__u64)), 0);
	EQ(add_match(&alice, 2, KDBUS_ITEM_ID_ADD, &anybody, sizeof(anybody)), 0);
	begin_message(&buffer, KDBUS_DST_ID_BROADCAST, KDBUS_MSG_SIGNAL, 1);
	add(&buffer, KDBUS_ITEM_BLOOM_FILTER, NULL, 8 + BLOOM_SIZE);
	EQ(send_buffer(&alice, &buffer, 0, &send), 0);
	EQ(get_message(&alice)->src_id, alice.id);
	bob = hello();
	message = get_message(&alice);
	EQ(message->src_id, KDBUS_SRC_ID_KERNEL);
	EQ(message->flags, KDBUS_MSG_SIGNAL);
	EQ(message->size, 136);
	EQ(item_of(message, KDBUS_ITEM_ID_ADD)->id_change.id, bob.id);
	CHECK(item_of(message, KDBUS_ITEM_TIMESTAMP));
}

CASE(metadata)
{
	struct connection alice, bob;
	const struct kdbus_msg *message;

	make_bus(0);
	alice = hello();
	bob = connect_with(0, POOL_SIZE, KDBUS_ATTACH_CREDS | KDBUS_ATTACH_PIDS | KDBUS_ATTACH_PID_COMM);
	EQ(send_text(&alice, bob.id, TEXT, 1), 0);
	message = get_message(&bob);
	EQ(item_of(message, KDBUS_ITEM_CREDS)->size, 16 + 64);
	EQ(item_of(message, KDBUS_ITEM_CREDS)->creds.uid, getuid());
	EQ(item_of(message, KDBUS_ITEM_PIDS)->pids.pid, getpid());
	SAME(item_of(message, KDBUS_ITEM_PID_COMM)->str, "final");
}

CASE(who_it_is)
{
	struct connection alice = (make_bus(0), hello());
	struct kdbus_cmd_info info = { .size = sizeof(info), .id = alice.id, .attach_flags = _KDBUS_ATTACH_ANY };
	struct kdbus_cmd_list list = { .size = sizeof(list), .flags = KDBUS_LIST_UNIQUE };
	const struct kdbus_info *found;

	EQ(command(alice.fd, KDBUS_CMD_CONN_INFO, &info), 0);
	found = (const struct kdbus_info *)(alice.pool + info.offset);
	EQ(found->id, alice.id);
	EQ(found->items[0].type, KDBUS_ITEM_CREDS);
	info.id = 12345;
	EQ(command(alice.fd, KDBUS_CMD_CONN_INFO, &info), -ENXIO);
	EQ(command(alice.fd, KDBUS_CMD_BUS_CREATOR_INFO, &info), 0);
	EQ(((const struct kdbus_info *)(alice.pool + info.offset))->items[0].type, KDBUS_ITEM_MAKE_NAME);
	EQ(command(alice.fd, KDBUS_CMD_LIST, &list), 0);
	EQ(list.list_size, sizeof(struct kdbus_info));
	EQ(((const struct kdbus_info *)(alice.pool + list.offset))->id, alice.id);
}

CASE(leaving)
{
	struct connection alice = (make_bus(0), hello());
	struct kdbus_cmd cmd = { .size = sizeof(cmd) };

	EQ(send_text(&alice, alice.id, TEXT, 1), 0);
	EQ(command(alice.fd, KDBUS_CMD_BYEBYE, &cmd), -EBUSY);
	get_message(&alice);
	EQ(command(alice.fd, KDBUS_CMD_BYEBYE, &cmd), 0);
	EQ(command(alice.fd, KDBUS_CMD_BYEBYE, &cmd), -ECONNRESET);
	EQ(readiness(alice.fd) & POLLHUP, POLLHUP);
}

CASE(custom_endpoint)
{
	struct buffer buffer;
	struct kdbus_cmd *cmd = begin(&buffer, sizeof(*cmd));
	char name[64];
	int owner;

	make_bus(0);
	owner = open(bus_path, O_RDWR | O_CLOEXEC);
	snprintf(name, sizeof(name), "%u-door", geteuid());
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, name);
	EQ(command(owner, KDBUS_CMD_ENDPOINT_MAKE, cmd), 0);
	cmd = begin(&buffer, sizeof(*cmd));
	add_string(&buffer, KDBUS_ITEM_NAME, "org.example.Bob");
	add_access(&buffer, KDBUS_POLICY_ACCESS_WORLD, KDBUS_POLICY_TALK, 0);
	EQ(command(owner, KDBUS_CMD_ENDPOINT_UPDATE, cmd), 0);
	EQ(command(owner, KDBUS_CMD_HELLO, cmd), -EBADFD);
}
