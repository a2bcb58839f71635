// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Payload: copied once, in any number of pieces and sizes up to the limits; and how messages lie in the pool.
 */
#include "e2e.h"

#define LARGEST (2UL << 20)

/* Bytes that differ from place to place and from seed to seed. */
static void fill(unsigned char *bytes, size_t size, unsigned int seed)
{
	unsigned int state = seed * 2654435761U + 1;

	for (size_t i = 0; i < size; i++) {
		state = state * 1664525 + 1013904223;
		bytes[i] = (unsigned char)(state >> 24);
	}
}

CASE(sizes_of_one_vector)
{
	static const size_t sizes[] = { 1, 2, 7, 8, 9, 4095, 4096, 4097, 65535, 65536, 1000001, LARGEST - 1, LARGEST };
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	unsigned char *payload = malloc(LARGEST + 1);

	CHECK(payload);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		const struct kdbus_msg *message;
		const struct kdbus_item *item;

		fill(payload, sizes[i], (unsigned int)i);
		EQ(SEND(&sender, .to = receiver.id, .payload = payload, .size = sizes[i]), 0);
		message = receive(&receiver);
		item = get(message, KDBUS_ITEM_PAYLOAD_OFF);
		EQ(item->size, HEADER + 16);
		EQ(item->vec.size, sizes[i]);
		EQ(item->vec.offset % 8, 0);
		CHECK(!memcmp(receiver.pool + item->vec.offset, payload, sizes[i]));
		EQ(message->size, sizeof(*message) + item->size);
		done(&receiver, message);
	}
	EQ(SEND(&sender, .to = receiver.id, .payload = payload, .size = LARGEST + 1), -EMSGSIZE);
	EQ(SEND(&sender, .to = receiver.id, .payload = payload, .size = ~0UL), -EMSGSIZE);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(many_small_vectors)
{
	enum { COUNT = 127 };
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	const struct kdbus_item *item;
	const struct kdbus_msg *message;
	struct buffer buffer;
	unsigned char payload[COUNT * 4];

	fill(payload, sizeof(payload), 1);
	write_letter(&(struct letter) { .name = "org.example.Name", .bare = true }, &buffer);
	EQ(acquire(&receiver, "org.example.Name", 0), 0);
	for (size_t i = 0; i < COUNT; i++) {
		struct kdbus_vec vector = { .size = i % 3 + 1, .address = (uintptr_t)(payload + 4 * i) };

		add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, &vector, 16);
	}
	/* With the name that makes 128 items. */
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), 0);
	message = receive(&receiver);
	item = message->items;
	for (size_t i = 0; i < COUNT; i++) {
		item = NEXT(item);
		EQ(item->type, KDBUS_ITEM_PAYLOAD_OFF);
		EQ(item->vec.size, i % 3 + 1);
		CHECK(!memcmp(receiver.pool + item->vec.offset, payload + 4 * i, i % 3 + 1));
	}
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, &(struct kdbus_vec) { .size = 1, .address = (uintptr_t)payload }, 16);
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), -E2BIG);
}

CASE(vectors_follow_each_other_without_gaps)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	const struct kdbus_item *first, *second;
	struct buffer buffer;

	write_letter(&(struct letter) { .to = receiver.id, .payload = "abc", .size = 3 }, &buffer);
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, &(struct kdbus_vec) { .size = 5, .address = (uintptr_t)"defgh" }, 16);
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), 0);
	first = get(receive(&receiver), KDBUS_ITEM_PAYLOAD_OFF);
	second = NEXT(first);
	EQ(second->vec.offset, first->vec.offset + 3);
	CHECK(!memcmp(receiver.pool + first->vec.offset, "abcdefgh", 8));
}

CASE(null_vectors)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	const struct kdbus_item *item;
	struct buffer buffer;

	write_letter(&(struct letter) { .to = receiver.id, .payload = "abc", .size = 3 }, &buffer);
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, &(struct kdbus_vec) { .size = 13 }, 16);
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, &(struct kdbus_vec) { .size = 2, .address = (uintptr_t)"de" }, 16);
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), 0);
	item = get(receive(&receiver), KDBUS_ITEM_PAYLOAD_OFF);
	CHECK(!memcmp(receiver.pool + item->vec.offset, "abc\0\0\0\0\0de", 10));
	item = NEXT(item);
	EQ(item->vec.size, 13);
	EQ(item->vec.offset, ~0ULL);
	item = NEXT(item);
	EQ(item->vec.size, 2);
	CHECK(!memcmp(receiver.pool + item->vec.offset, "de", 2));
	/* Zeros count against the limit of payload, too. */
	write_letter(&(struct letter) { .to = receiver.id, .bare = true }, &buffer);
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, &(struct kdbus_vec) { .size = LARGEST }, 16);
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), 0);
	EQ(receive_code(&receiver, 0), 0);
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, &(struct kdbus_vec) { .size = 1 }, 16);
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), -EMSGSIZE);
}

CASE(no_payload_at_all)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	const struct kdbus_msg *message;

	EQ(SEND(&sender, .to = receiver.id, .bare = true, .cookie = 0x123456789abcdefULL, .type = 0x4242, .priority = -5), 0);
	message = receive(&receiver);
	EQ(message->size, sizeof(*message));
	EQ(message->cookie, 0x123456789abcdefULL);
	EQ(message->payload_type, 0x4242);
	EQ(message->priority, -5);
	EQ(message->dst_id, receiver.id);
	EQ(message->src_id, sender.id);
	EQ(message->timeout_ns, 0);
}

CASE(what_messages_may_not_be)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct buffer buffer;
	struct kdbus_msg *message = (void *)buffer.words;

	EQ(SEND(&sender, .to = receiver.id, .from = receiver.id), -EINVAL);
	EQ(SEND(&sender, .to = receiver.id, .from = sender.id), 0);
	EQ(SEND(&sender, .to = 99), -ENXIO);
	EQ(SEND(&sender, .to = KDBUS_DST_ID_NAME), -EDESTADDRREQ);
	EQ(SEND(&sender, .name = "org.example.Nobody"), -ESRCH);
	EQ(SEND(&sender, .name = "org.example.Nobody", .to = receiver.id), -ESRCH);
	write_letter(&(struct letter) { .to = receiver.id }, &buffer);
	message->payload_type = KDBUS_PAYLOAD_KERNEL;
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), -EINVAL);
	write_letter(&(struct letter) { .to = receiver.id }, &buffer);
	add_u64(&buffer, KDBUS_ITEM_ID, 1);
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), -EINVAL);
	write_letter(&(struct letter) { .name = "a.b", .to = receiver.id }, &buffer);
	add_string(&buffer, KDBUS_ITEM_DST_NAME, "a.b");
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), -EEXIST);
	write_letter(&(struct letter) { .to = receiver.id, .bare = true }, &buffer);
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, &(struct kdbus_vec) { .size = 0, .address = 8 }, 16);
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), -EINVAL);
	write_letter(&(struct letter) { .to = receiver.id, .bare = true }, &buffer);
	add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, NULL, 8);
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), -EINVAL);
	message->size = 8192 + 8;
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), -EINVAL);
	message->size = sizeof(*message) - 8;
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), -EINVAL);
	EQ(receive(&receiver)->src_id, sender.id);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(flags_that_come_back)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct kdbus_cmd_send left;
	__u64 known = KDBUS_MSG_EXPECT_REPLY | KDBUS_MSG_NO_AUTO_START | KDBUS_MSG_SIGNAL;

	EQ(SEND(&sender, .to = receiver.id, .result = &left), 0);
	EQ(left.kernel_flags, KDBUS_SEND_SYNC_REPLY | KDBUS_FLAG_KERNEL);
	EQ(left.kernel_msg_flags, known | KDBUS_FLAG_KERNEL);
	EQ(left.return_flags, 0);
	/* Of unknown flags the program learns which ones are known. */
	EQ(SEND(&sender, .to = receiver.id, .send_flags = 1ULL << 40, .result = &left), -EINVAL);
	EQ(left.kernel_flags, KDBUS_SEND_SYNC_REPLY | KDBUS_FLAG_KERNEL);
	EQ(left.kernel_msg_flags, 0);
	EQ(SEND(&sender, .to = receiver.id, .flags = KDBUS_FLAG_KERNEL, .result = &left), -EINVAL);
	EQ(left.kernel_msg_flags, known | KDBUS_FLAG_KERNEL);
}

/*
 * Results are stored when a command has succeeded; one that fails leaves in them what the program had there. Most calls
 * are ordinary ones, after which the next may be served natively.
 */
CASE(results_of_commands_that_fail)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	char *pages = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kdbus_cmd_recv *split = (void *)(pages + 4096 - offsetof(struct kdbus_cmd_recv, dropped_msgs));
	struct buffer message;

	CHECK(pages != MAP_FAILED);
	CHECK(!mprotect(pages + 4096, 4096, PROT_READ));
	for (int round = 0; round < 5; round++) {
		struct kdbus_cmd_send send = { .size = sizeof(send), .return_flags = 7, .reply = { 8, 9, 10 } };
		struct kdbus_cmd_recv recv = { .size = sizeof(recv), .return_flags = 7, .dropped_msgs = 8, .msg = { 9, 10, 11 } };
		struct kdbus_cmd_free free = { .size = sizeof(free), .offset = 8 * 4096, .return_flags = 7 };

		for (__u64 cookie = 1; cookie <= 20; cookie++) {
			EQ(SEND(&sender, .to = receiver.id, .cookie = cookie), 0);
			EQ(receive_code(&receiver, 0), 0);
		}
		/* Two pieces, of which the second cannot be read. */
		write_letter(&(struct letter) { .to = receiver.id }, &message);
		add(&message, KDBUS_ITEM_PAYLOAD_VEC, &(struct kdbus_vec) { .size = 24, .address = 8 }, 16);
		send.msg_address = (uintptr_t)message.words;
		EQ(command(sender.fd, KDBUS_CMD_SEND, &send), -EFAULT);
		EQ(send.return_flags, 7);
		EQ(send.reply.offset, 8);
		EQ(command(receiver.fd, KDBUS_CMD_RECV, &recv), -EAGAIN);
		EQ(recv.return_flags, 7);
		EQ(recv.dropped_msgs, 8);
		EQ(recv.msg.offset, 9);
		EQ(command(receiver.fd, KDBUS_CMD_FREE, &free), -ENXIO);
		EQ(free.return_flags, 7);

		write_letter(&(struct letter) { .to = receiver.id }, &message);
		EQ(command(sender.fd, KDBUS_CMD_SEND, &send), 0);
		EQ(send.return_flags, 0);
		EQ(send.reply.offset, 8);
		EQ(command(receiver.fd, KDBUS_CMD_RECV, &recv), 0);
		EQ(recv.return_flags, 0);
		EQ(recv.dropped_msgs, 0);
		free.offset = recv.msg.offset;
		EQ(command(receiver.fd, KDBUS_CMD_FREE, &free), 0);
		EQ(free.return_flags, 0);

		/* The other results come first: if they cannot be stored, this one is not. */
		EQ(SEND(&sender, .to = receiver.id), 0);
		split->size = sizeof(*split);
		split->return_flags = 7;
		EQ(command(receiver.fd, KDBUS_CMD_RECV, split), -EFAULT);
		EQ(split->return_flags, 7);
		EQ(release(&receiver, recv.msg.offset), 0);
	}
}

/* Opening and mapping them is no reason for the broker to look at anything. */
CASE(files_elsewhere_between_calls)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	int memory = memfd_create("elsewhere", 0);

	CHECK(!ftruncate(memory, 4096));
	for (__u64 cookie = 1; cookie <= 200; cookie++) {
		void *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
		int number = open(cookie % 2 ? "/dev/null" : "/dev/absent", cookie % 3 ? O_RDWR : O_WRONLY);

		EQ(number >= 0, cookie % 2);
		CHECK(!munmap(mapped, 4096));
		EQ(SEND(&sender, .to = receiver.id, .cookie = cookie), 0);
		EQ(receive(&receiver)->cookie, cookie);
		/* One that leads here in between. */
		if (cookie == 100)
			close(open(bus.path, O_RDWR));
		close(number);
	}
}

CASE(by_priority)
{
	static const __s64 priorities[] = { 5, -3, 5, 0, -3, 9223372036854775807, -9223372036854775807 - 1 };
	static const __u64 order[] = { 6, 1, 4, 3, 0, 2, 5 };
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct kdbus_cmd_recv recv = { .flags = KDBUS_RECV_USE_PRIORITY, .priority = 9223372036854775807 };

	EQ(receive_into(&receiver, &recv), -EAGAIN);
	for (__u64 i = 0; i < 7; i++)
		EQ(SEND(&sender, .to = receiver.id, .cookie = i, .priority = priorities[i]), 0);
	for (__u64 i = 0; i < 7; i++) {
		recv.priority = priorities[order[i]];
		if (recv.priority > -9223372036854775807 - 1) {
			recv.priority--;
			EQ(receive_into(&receiver, &recv), -ENOMSG);
			recv.priority++;
		}
		EQ(receive_into(&receiver, &recv), 0);
		EQ(((const struct kdbus_msg *)(receiver.pool + recv.msg.offset))->cookie, order[i]);
	}
	/* Without USE_PRIORITY they come in the order of arrival. */
	for (__u64 i = 0; i < 7; i++)
		EQ(SEND(&sender, .to = receiver.id, .cookie = i, .priority = priorities[i]), 0);
	for (__u64 i = 0; i < 7; i++)
		EQ(receive(&receiver)->cookie, i);
}

CASE(receiving_wants_a_clean_command)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct kdbus_cmd_recv recv = { .msg.offset = 8, .dropped_msgs = 5 };

	EQ(SEND(&sender, .to = receiver.id), 0);
	recv.flags = 8;
	EQ(receive_into(&receiver, &recv), -EINVAL);
	EQ(recv.kernel_flags, KDBUS_FLAG_KERNEL | 7);
	recv.flags = 0;
	/* The members that only come back are cleared before anybody looks at them. */
	EQ(receive_into(&receiver, &recv), 0);
	EQ(recv.dropped_msgs, 0);
}

CASE(where_slices_lie)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	const struct kdbus_msg *first, *second;
	__u64 payload;

	/* The bloom parameters come first, then payload, then the message; a freed place is used again. */
	EQ(receiver.hello.offset, 0);
	EQ(SEND(&sender, .to = receiver.id), 0);
	first = receive(&receiver);
	payload = get(first, KDBUS_ITEM_PAYLOAD_OFF)->vec.offset;
	EQ(payload, receiver.hello.items_size);
	EQ((const char *)first - receiver.pool, payload + ALIGN8(sizeof(TEXT)));
	done(&receiver, first);
	EQ(release(&receiver, payload), -ENXIO);
	EQ(release(&receiver, payload + 8), -ENXIO);
	EQ(SEND(&sender, .to = receiver.id), 0);
	second = receive(&receiver);
	EQ(get(second, KDBUS_ITEM_PAYLOAD_OFF)->vec.offset, payload);
	EQ((const char *)second - (const char *)first, 0);
	/* A slice stays as it is until it is freed, whatever else comes. */
	for (int i = 0; i < 30; i++)
		EQ(SEND(&sender, .to = receiver.id, .payload = "noise in the pool", .size = 18), 0);
	SAME(text_of(&receiver, second), TEXT);
	EQ(release(&receiver, POOL_SIZE), -ENXIO);
	EQ(release(&receiver, ~0ULL), -ENXIO);
}

static void *change(void *argument)
{
	volatile unsigned char *byte = argument;

	while (*byte != 'S')
		byte[1]++;
	return NULL;
}

CASE(payload_that_changes_while_it_is_sent)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	static volatile unsigned char bytes[4096];
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, change, (void *)(uintptr_t)bytes));
	for (int i = 0; i < 100; i++) {
		const struct kdbus_msg *message;
		char arrived;

		EQ(SEND(&sender, .to = receiver.id, .payload = (const void *)(uintptr_t)bytes, .size = 4096), 0);
		message = receive(&receiver);
		/* What arrived is a copy: it does not change any more, while the original does. */
		arrived = text_of(&receiver, message)[1];
		for (unsigned char seen = bytes[1]; bytes[1] == seen;)
			sched_yield();
		EQ(text_of(&receiver, message)[1], arrived);
		done(&receiver, message);
	}
	bytes[0] = 'S';
	CHECK(!pthread_join(thread, NULL));
}
