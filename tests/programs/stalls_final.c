// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Memory that does not come (see stalls.c), in the final revision, whose messages are written as a whole when they are
 * sent.
 */
#include "final.h"
#include "withheld.h"

#define ROUNDS 50

static struct connection alice, bob, carol;

static void pass(const struct connection *from, const struct connection *to)
{
	struct kdbus_cmd_recv recv;

	EQ(send_text(from, to->id, TEXT, 1), 0);
	EQ(receive(to, &recv, 0), 0);
	EQ(free_offset(to, recv.msg.offset), 0);
}

static void set_up(void)
{
	make_bus(0);
	alice = hello();
	bob = hello();
	carol = hello();
	for (int i = 0; i < ROUNDS; i++) {
		pass(&alice, &bob);
		pass(&carol, &bob);
	}
}

/* Another process sends to the same receiver, whose pool is not spoiled by what comes later. */
static void others_go_on(void)
{
	pid_t child = start_child();

	if (!child) {
		for (int i = 0; i < ROUNDS; i++)
			pass(&carol, &bob);
		EQ(send_text(&carol, bob.id, "early", 2), 0);
		finish_child(0);
	}
	join(child);
}

static void expect_text(const char *text)
{
	const struct kdbus_msg *message = get_message(&bob);

	SAME(text_of(message), text);
	EQ(free_offset(&bob, (__u64)((const char *)message - bob.pool)), 0);
}

static void send_in(struct call *call, struct kdbus_cmd_send *send, const void *message)
{
	*send = (struct kdbus_cmd_send) { .size = sizeof(*send), .msg_address = (uintptr_t)message };
	start_call(call, alice.fd, KDBUS_CMD_SEND, send);
}

ROOT_CASE(a_payload_that_does_not_come)
{
	struct page page = new_page(MISSING);
	struct kdbus_cmd_send send;
	struct buffer buffer;
	struct call call;

	set_up();
	begin_message(&buffer, bob.id, 0, 7);
	add_vector(&buffer, page.memory, PAGE);
	strcpy(page.content, "late");
	send_in(&call, &send, buffer.words);
	await_stall(&page);
	others_go_on();
	serve(&page);
	EQ(result_of(&call), 0);
	expect_text("early");
	expect_text("late");
}

ROOT_CASE(a_message_that_does_not_come)
{
	struct page page = new_page(MISSING);
	struct kdbus_cmd_send send;
	struct buffer buffer;
	struct call call;

	set_up();
	begin_message(&buffer, bob.id, 0, 7);
	add_vector(&buffer, "late", 5);
	memcpy(page.content, buffer.words, *(__u64 *)buffer.words);
	send_in(&call, &send, page.memory);
	await_stall(&page);
	others_go_on();
	serve(&page);
	EQ(result_of(&call), 0);
	expect_text("early");
	expect_text("late");
}

ROOT_CASE(results_of_recv_that_cannot_be_written_yet)
{
	struct page page = new_page(PROTECTED);
	struct kdbus_cmd_recv *recv = (void *)page.memory;
	struct call call;

	set_up();
	EQ(send_text(&alice, bob.id, TEXT, 7), 0);
	*recv = (struct kdbus_cmd_recv) { .size = sizeof(*recv) };
	withhold(&page, PROTECTED);
	start_call(&call, bob.fd, KDBUS_CMD_RECV, recv);
	await_stall(&page);
	pass(&bob, &carol);
	allow(&page);
	EQ(result_of(&call), 0);
	SAME(text_of((const void *)(bob.pool + recv->msg.offset)), TEXT);
	EQ(free_offset(&bob, recv->msg.offset), 0);
}
