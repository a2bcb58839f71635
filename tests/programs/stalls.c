// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Memory that does not come: a thread's call points to a page that userfaultfd(2) does not serve before all calls of
 * another process have been. If those waited for it, nobody would ever go on.
 */
#include "e2e.h"
#include "pairs.h"
#include "withheld.h"

struct scene {
	struct bus bus;
	struct pair pair, others;
	struct buffer message;
	struct call call;
};

static void set_up(struct scene *scene)
{
	scene->bus = new_bus(0);
	scene->pair = new_pair(&scene->bus);
	scene->others = new_pair(&scene->bus);
	make_known(&scene->pair);
	make_known(&scene->others);
}

static void expect_text(const struct scene *scene, const char *text)
{
	const struct kdbus_msg *message = receive(&scene->pair.service);

	CHECK(same_text(text_of(&scene->pair.service, message), text));
	done(&scene->pair.service, message);
	EQ(receive_code(&scene->pair.service, 0), -EAGAIN);
}

ROOT_CASE(a_command_that_does_not_come)
{
	struct page page = new_page(MISSING);
	struct scene scene;

	set_up(&scene);
	write_letter(&(struct letter) { .to = scene.pair.service.id }, &scene.message);
	*(struct kdbus_cmd_send *)page.content = (struct kdbus_cmd_send) {
		.size = sizeof(struct kdbus_cmd_send), .msg_address = (uintptr_t)scene.message.words
	};
	start_call(&scene.call, scene.pair.client.fd, KDBUS_CMD_SEND, page.memory);
	await_stall(&page);
	others_go_on(&scene.bus, &scene.others);
	EQ(receive_code(&scene.pair.service, 0), -EAGAIN);
	serve(&page);
	EQ(result_of(&scene.call), 0);
	expect_text(&scene, TEXT);
}

static void send_from(struct scene *scene, struct kdbus_cmd_send *send, const void *message)
{
	*send = (struct kdbus_cmd_send) { .size = sizeof(*send), .msg_address = (uintptr_t)message };
	start_call(&scene->call, scene->pair.client.fd, KDBUS_CMD_SEND, send);
}

/* The message lies in the page, and is delivered once that has come. */
static void send_late(struct page *page)
{
	struct kdbus_cmd_send send;
	struct scene scene;

	set_up(&scene);
	write_letter(&(struct letter) { .to = scene.pair.service.id }, &scene.message);
	memcpy(page->content, scene.message.words, *(__u64 *)scene.message.words);
	send_from(&scene, &send, page->memory);
	await_stall(page);
	others_go_on(&scene.bus, &scene.others);
	serve(page);
	EQ(result_of(&scene.call), 0);
	expect_text(&scene, TEXT);
}

ROOT_CASE(a_message_that_does_not_come)
{
	struct page page = new_page(MISSING);

	send_late(&page);
}

ROOT_CASE(a_message_in_shared_memory_that_does_not_come)
{
	int file = (int)syscall(SYS_memfd_create, "shared", MFD_CLOEXEC);
	struct page page = {};

	EQ(ftruncate(file, PAGE), 0);
	page.memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(page.memory != MAP_FAILED);
	withhold(&page, MISSING);
	send_late(&page);
}

static void write_payload(struct scene *scene, const struct page *page)
{
	write_letter(&(struct letter) { .to = scene->pair.service.id, .payload = page->memory, .size = PAGE },
		     &scene->message);
}

ROOT_CASE(a_payload_that_does_not_come)
{
	struct page page = new_page(MISSING);
	struct kdbus_cmd_send send;
	struct scene scene;

	set_up(&scene);
	write_payload(&scene, &page);
	strcpy(page.content, "late");
	send_from(&scene, &send, scene.message.words);
	await_stall(&page);
	others_go_on(&scene.bus, &scene.others);
	/* The receiver's pool is not spoiled by what comes. */
	pass(&scene.pair);
	EQ(SEND(&scene.others.client, .to = scene.pair.service.id), 0);
	serve(&page);
	EQ(result_of(&scene.call), 0);
	done(&scene.pair.service, receive(&scene.pair.service));
	expect_text(&scene, "late");
}

ROOT_CASE(a_receiver_that_ends_while_the_payload_does_not_come)
{
	struct page page = new_page(MISSING);
	struct kdbus_cmd_send send;
	struct scene scene;

	set_up(&scene);
	write_payload(&scene, &page);
	send_from(&scene, &send, scene.message.words);
	await_stall(&page);
	EQ(byebye(&scene.pair.service), 0);
	others_go_on(&scene.bus, &scene.others);
	serve(&page);
	EQ(result_of(&scene.call), -ENXIO);
}

ROOT_CASE(a_broadcast_that_does_not_come)
{
	struct page page = new_page(MISSING);
	struct kdbus_cmd_send send;
	struct scene scene;

	set_up(&scene);
	EQ(match_everything(&scene.pair.service), 0);
	EQ(match_everything(&scene.others.service), 0);
	for (int i = 0; i < ROUNDS; i++) {
		EQ(SEND(&scene.pair.client, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL), 0);
		done(&scene.pair.service, receive(&scene.pair.service));
		done(&scene.others.service, receive(&scene.others.service));
	}
	write_letter(&(struct letter) { .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL,
					.payload = page.memory, .size = PAGE }, &scene.message);
	strcpy(page.content, "late");
	send_from(&scene, &send, scene.message.words);
	await_stall(&page);
	EQ(receive_code(&scene.others.service, 0), -EAGAIN);
	serve(&page);
	EQ(result_of(&scene.call), 0);
	expect_text(&scene, "late");
	EQ(receive_code(&scene.others.service, 0), 0);
	EQ(receive_code(&scene.others.service, 0), -EAGAIN);
}

ROOT_CASE(results_of_recv_that_cannot_be_written_yet)
{
	struct page page = new_page(PROTECTED);
	struct kdbus_cmd_recv *recv = (void *)page.memory;
	const struct kdbus_msg *message;
	struct scene scene;

	set_up(&scene);
	EQ(SEND(&scene.pair.client, .to = scene.pair.service.id, .cookie = 7), 0);
	recv->size = sizeof(*recv);
	withhold(&page, PROTECTED);
	start_call(&scene.call, scene.pair.service.fd, KDBUS_CMD_RECV, recv);
	await_stall(&page);
	others_go_on(&scene.bus, &scene.others);
	allow(&page);
	EQ(result_of(&scene.call), 0);
	message = (const void *)(scene.pair.service.pool + recv->msg.offset);
	EQ(message->cookie, 7);
	done(&scene.pair.service, message);
	EQ(receive_code(&scene.pair.service, 0), -EAGAIN);
}

ROOT_CASE(results_of_send_that_cannot_be_written_yet)
{
	struct page page = new_page(PROTECTED);
	struct kdbus_cmd_send *send = (void *)page.memory;
	struct scene scene;

	set_up(&scene);
	write_letter(&(struct letter) { .to = scene.pair.service.id }, &scene.message);
	*send = (struct kdbus_cmd_send) { .size = sizeof(*send), .msg_address = (uintptr_t)scene.message.words,
					  .return_flags = 1 };
	withhold(&page, PROTECTED);
	start_call(&scene.call, scene.pair.client.fd, KDBUS_CMD_SEND, send);
	await_stall(&page);
	others_go_on(&scene.bus, &scene.others);
	allow(&page);
	EQ(result_of(&scene.call), 0);
	EQ(send->return_flags, 0);
	expect_text(&scene, TEXT);
}

ROOT_CASE(results_of_hello_that_cannot_be_written_yet)
{
	struct page page = new_page(PROTECTED);
	struct kdbus_cmd_hello *command = (void *)page.memory;
	struct scene scene;
	int fd;

	set_up(&scene);
	fd = open(scene.bus.path, O_RDWR | O_CLOEXEC);
	*command = (struct kdbus_cmd_hello) { .size = sizeof(*command), .pool_size = POOL_SIZE };
	withhold(&page, PROTECTED);
	start_call(&scene.call, fd, KDBUS_CMD_HELLO, command);
	await_stall(&page);
	others_go_on(&scene.bus, &scene.others);
	allow(&page);
	EQ(result_of(&scene.call), 0);
	EQ(listed(&scene.others.client, KDBUS_NAME_LIST_UNIQUE, command->id, NULL), 1);
}

/* Who replies does not wait for the memory of who asked. */
ROOT_CASE(a_reply_that_cannot_be_written_yet)
{
	struct page page = new_page(PROTECTED);
	struct kdbus_cmd_send *send = (void *)page.memory;
	const struct kdbus_msg *message;
	struct scene scene;

	set_up(&scene);
	for (__u64 cookie = 1; cookie <= ROUNDS + 1; cookie++) {
		bool is_last = cookie == ROUNDS + 1;

		write_letter(&(struct letter) { .to = scene.pair.service.id, .flags = KDBUS_MSG_EXPECT_REPLY,
						.cookie = cookie, .deadline = FOREVER }, &scene.message);
		*send = (struct kdbus_cmd_send) { .size = sizeof(*send), .flags = KDBUS_SEND_SYNC_REPLY,
						  .msg_address = (uintptr_t)scene.message.words };
		start_call(&scene.call, scene.pair.client.fd, KDBUS_CMD_SEND, send);
		message = await_message(&scene.pair.service);
		if (is_last)
			withhold(&page, PROTECTED);
		EQ(SEND(&scene.pair.service, .to = scene.pair.client.id, .reply_to = cookie), 0);
		done(&scene.pair.service, message);
		if (is_last) {
			await_stall(&page);
			others_go_on(&scene.bus, &scene.others);
			pass(&scene.others);
			EQ(SEND(&scene.pair.service, .to = scene.others.client.id), 0);
			EQ(receive_code(&scene.others.client, 0), 0);
			allow(&page);
		}
		EQ(result_of(&scene.call), 0);
		EQ(send->return_flags, 0);
		message = (const void *)(scene.pair.client.pool + send->reply.offset);
		EQ(message->cookie_reply, cookie);
		done(&scene.pair.client, message);
	}
}

/* Many at once: as long as they are not more than the bound, their user's other processes do not notice. */
#define MANY 15

ROOT_CASE(many_calls_that_do_not_come)
{
	struct call calls[MANY];
	struct page pages[MANY];
	struct scene scene;

	set_up(&scene);
	write_letter(&(struct letter) { .to = scene.pair.service.id }, &scene.message);
	for (int i = 0; i < MANY; i++) {
		pages[i] = new_page(MISSING);
		*(struct kdbus_cmd_send *)pages[i].content = (struct kdbus_cmd_send) {
			.size = sizeof(struct kdbus_cmd_send), .msg_address = (uintptr_t)scene.message.words
		};
		start_call(&calls[i], scene.pair.client.fd, KDBUS_CMD_SEND, pages[i].memory);
		await_stall(&pages[i]);
		others_go_on(&scene.bus, &scene.others);
	}
	for (int i = 0; i < MANY; i++) {
		serve(&pages[i]);
		EQ(result_of(&calls[i]), 0);
		expect_text(&scene, TEXT);
	}
}

/* More than the bound: the rest waits, and all are served in the end. */
#define TOO_MANY 40
#define BOUND 16

static int stalled(const struct page *pages)
{
	int count = 0;

	for (int i = 0; i < TOO_MANY; i++)
		count += readiness(pages[i].fd) & POLLIN;
	return count;
}

ROOT_CASE(more_calls_than_may_be_stuck)
{
	struct call calls[TOO_MANY];
	struct page pages[TOO_MANY];
	struct scene scene;

	set_up(&scene);
	for (int i = 0; i < TOO_MANY; i++) {
		pages[i] = new_page(MISSING);
		*(struct kdbus_cmd_free *)pages[i].content = (struct kdbus_cmd_free) {
			.size = sizeof(struct kdbus_cmd_free), .offset = 4
		};
	}
	for (int i = 0; i < TOO_MANY; i++)
		start_call(&calls[i], scene.pair.client.fd, KDBUS_CMD_FREE, pages[i].memory);
	while (stalled(pages) < BOUND)
		sched_yield();
	for (int i = 0; i < TOO_MANY; i++)
		serve(&pages[i]);
	for (int i = 0; i < TOO_MANY; i++)
		EQ(result_of(&calls[i]), -ENXIO);
	others_go_on(&scene.bus, &scene.others);
}

/* Who is killed meanwhile is gone, though its memory still does not come. */
ROOT_CASE(killed_while_memory_does_not_come)
{
	int ready = new_event();
	struct scene scene;
	pid_t child;

	set_up(&scene);
	child = start_child();
	if (!child) {
		struct connection mine = hello(scene.bus.path);
		struct page page = new_page(MISSING);
		struct call call;

		start_call(&call, mine.fd, KDBUS_CMD_SEND, page.memory);
		await_stall(&page);
		post(ready);
		pause();
	}
	await(ready);
	EQ(listed(&scene.others.client, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 5);
	EQ(kill(child, SIGKILL), 0);
	EQ(waitpid(child, NULL, 0), child);
	others_go_on(&scene.bus, &scene.others);
	while (listed(&scene.others.client, KDBUS_NAME_LIST_UNIQUE, 0, NULL) != 4)
		sched_yield();
}
