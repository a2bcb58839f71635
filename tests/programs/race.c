// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Several threads and processes at once, on one connection and on many. What counts is that each call has one of the
 * results that some order of the calls would give.
 */
#include "e2e.h"

#define NAME "org.example.Name"

enum { THREADS = 8, ROUNDS = 25 };

/* Threads that begin together and each do one thing. */
struct crew {
	pthread_barrier_t start;
	struct connection connection;
	__u64 cookie, destination;
	int results[THREADS];
};

struct member {
	struct crew *crew;
	int number;
	int (*act)(struct crew *crew, int number);
	pthread_t thread;
};

static void *serve(void *argument)
{
	struct member *member = argument;

	pthread_barrier_wait(&member->crew->start);
	member->crew->results[member->number] = member->act(member->crew, member->number);
	return NULL;
}

/* Runs `act` in all threads at once; those with an odd number run `other`, if it is given. */
static void run_crew(struct crew *crew, int (*act)(struct crew *, int), int (*other)(struct crew *, int))
{
	struct member members[THREADS];

	CHECK(!pthread_barrier_init(&crew->start, NULL, THREADS));
	for (int i = 0; i < THREADS; i++) {
		members[i] = (struct member) { crew, i, other && i % 2 ? other : act, 0 };
		CHECK(!pthread_create(&members[i].thread, NULL, serve, &members[i]));
	}
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_join(members[i].thread, NULL));
	CHECK(!pthread_barrier_destroy(&crew->start));
}

static int count(const struct crew *crew, int result)
{
	int found = 0;

	for (int i = 0; i < THREADS; i++)
		found += crew->results[i] == result;
	return found;
}

static int leave(struct crew *crew, int number)
{
	(void)number;
	return byebye(&crew->connection);
}

static int unmatch(struct crew *crew, int number)
{
	(void)number;
	return remove_match(&crew->connection, crew->cookie);
}

CASE(one_byebye_wins)
{
	struct bus bus = new_bus(0);
	struct crew crew = {};

	for (int round = 0; round < ROUNDS; round++) {
		crew.connection = hello(bus.path);
		run_crew(&crew, leave, NULL);
		EQ(count(&crew, 0), 1);
		EQ(count(&crew, -EALREADY), THREADS - 1);
		EQ(readiness(crew.connection.fd) & (POLLHUP | POLLERR), POLLHUP | POLLERR);
		CHECK(!close(crew.connection.fd));
	}
}

CASE(byebye_against_match_remove)
{
	struct bus bus = new_bus(0);
	struct crew crew = {};

	for (int round = 0; round < ROUNDS; round++) {
		int removed, absent, reset;

		crew.connection = hello(bus.path);
		crew.cookie = (__u64)round;
		EQ(match_id(&crew.connection, crew.cookie, KDBUS_ITEM_ID_ADD, KDBUS_MATCH_ID_ANY), 0);
		run_crew(&crew, leave, unmatch);
		EQ(count(&crew, -EALREADY), THREADS / 2 - 1);
		removed = crew.results[1] == 0 || crew.results[3] == 0 || crew.results[5] == 0 || crew.results[7] == 0;
		absent = count(&crew, -ENOENT);
		reset = count(&crew, -ECONNRESET);
		EQ(removed + absent + reset, THREADS / 2);
		CHECK(!close(crew.connection.fd));
	}
}

static int take_name(struct crew *crew, int number)
{
	(void)number;
	return acquire(&crew->connection, NAME, 0);
}

static int give_name(struct crew *crew, int number)
{
	(void)number;
	return release_name(&crew->connection, NAME);
}

CASE(names_taken_and_given)
{
	struct bus bus = new_bus(0);
	struct crew crew = { .connection = hello(bus.path) };

	for (int round = 0; round < ROUNDS; round++) {
		int owned = listed(&crew.connection, KDBUS_NAME_LIST_NAMES, 0, NAME), taken = 0, given = 0;

		run_crew(&crew, take_name, give_name);
		for (int i = 0; i < THREADS; i++) {
			CHECK(!crew.results[i] || crew.results[i] == (i % 2 ? -ESRCH : -EALREADY));
			taken += !(i % 2) && !crew.results[i];
			given += i % 2 && !crew.results[i];
		}
		EQ(listed(&crew.connection, KDBUS_NAME_LIST_NAMES, 0, NAME), owned + taken - given);
	}
}

static int send_one(struct crew *crew, int number)
{
	return SEND(&crew->connection, .to = crew->destination, .cookie = (__u64)number + 1);
}

CASE(messages_from_many_threads)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello(bus.path);
	struct crew crew = { .connection = hello(bus.path), .destination = receiver.id };

	for (int round = 0; round < ROUNDS; round++) {
		unsigned int seen = 0;

		run_crew(&crew, send_one, NULL);
		EQ(count(&crew, 0), THREADS);
		for (int i = 0; i < THREADS; i++) {
			const struct kdbus_msg *message = receive(&receiver);

			seen |= 1U << message->cookie;
			SAME(text_of(&receiver, message), TEXT);
			done(&receiver, message);
		}
		EQ(seen, (1U << (THREADS + 1)) - 2);
	}
}

static int receive_one(struct crew *crew, int number)
{
	(void)number;
	return receive_code(&crew->connection, 0);
}

CASE(receivers_share_a_queue)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path);
	struct crew crew = { .connection = hello(bus.path) };

	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < THREADS / 2; i++)
			EQ(SEND(&sender, .to = crew.connection.id), 0);
		run_crew(&crew, receive_one, NULL);
		EQ(count(&crew, 0), THREADS / 2);
		EQ(count(&crew, -EAGAIN), THREADS / 2);
		EQ(readiness(crew.connection.fd), POLLOUT);
	}
}

static int hello_again(struct crew *crew, int number)
{
	struct buffer buffer;

	(void)number;
	begin_hello(&buffer, 0);
	return command(crew->connection.fd, KDBUS_CMD_HELLO, buffer.words);
}

CASE(one_hello_wins)
{
	struct bus bus = new_bus(0);
	struct crew crew = {};

	for (int round = 0; round < ROUNDS; round++) {
		crew.connection.fd = open(bus.path, O_RDWR);
		run_crew(&crew, hello_again, NULL);
		EQ(count(&crew, 0), 1);
		EQ(count(&crew, -ENOTTY) + count(&crew, -EBADFD), THREADS - 1);
		CHECK(!close(crew.connection.fd));
	}
}

static int call_one(struct crew *crew, int number)
{
	return SEND(&crew->connection, .to = crew->destination, .cookie = (__u64)number + 1,
		    .flags = KDBUS_MSG_EXPECT_REPLY, .send_flags = KDBUS_SEND_SYNC_REPLY, .deadline = in_ms(PATIENCE));
}

static int leave_once_called(struct crew *crew, int number)
{
	(void)number;
	/* A call may be about to be made, or waiting, or not. */
	return byebye(&crew->connection);
}

CASE(byebye_against_synchronous_calls)
{
	struct bus bus = new_bus(0);

	for (int round = 0; round < ROUNDS; round++) {
		struct connection service = hello(bus.path);
		struct crew crew = { .connection = hello(bus.path), .destination = service.id };

		run_crew(&crew, call_one, leave_once_called);
		EQ(count(&crew, 0), 1);
		EQ(count(&crew, -EALREADY), THREADS / 2 - 1);
		EQ(count(&crew, -ECONNRESET), THREADS / 2);
		CHECK(!close(crew.connection.fd));
		CHECK(!close(service.fd));
	}
}

static int open_and_close(struct crew *crew, int number)
{
	(void)number;
	for (int i = 0; i < 10; i++) {
		struct connection connection = hello((const char *)(uintptr_t)crew->cookie);
		int result = SEND(&connection, .to = crew->destination);

		CHECK(!munmap((void *)(uintptr_t)connection.pool, POOL_SIZE));
		CHECK(!close(connection.fd));
		if (result && result != -ENOBUFS)
			return result;
	}
	return 0;
}

CASE(descriptor_numbers_are_reused)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello(bus.path);
	struct crew crew = { .destination = receiver.id, .cookie = (uintptr_t)bus.path };
	int received = 0;

	run_crew(&crew, open_and_close, NULL);
	EQ(count(&crew, 0), THREADS);
	while (!receive_code(&receiver, 0))
		received++;
	EQ(received, 32);
	EQ(listed(&receiver, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
}

CASE(many_processes)
{
	enum { CHILDREN = 12, MESSAGES = 20 };
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path);
	pid_t children[CHILDREN];
	int served = 0;

	for (int i = 0; i < CHILDREN; i++) {
		children[i] = start_child();
		if (children[i])
			continue;
		{
			struct connection client = hello(bus.path);

			for (__u64 cookie = 1; cookie <= MESSAGES; cookie++)
				EQ(SEND(&client, .to = service.id, .cookie = cookie, .flags = KDBUS_MSG_EXPECT_REPLY,
					.send_flags = KDBUS_SEND_SYNC_REPLY, .deadline = in_ms(PATIENCE)), 0);
		}
		finish_child(0);
	}
	while (served < CHILDREN * MESSAGES) {
		const struct kdbus_msg *message = await_message(&service);

		EQ(SEND(&service, .to = message->src_id, .reply_to = message->cookie), 0);
		done(&service, message);
		served++;
	}
	for (int i = 0; i < CHILDREN; i++)
		join(children[i]);
}

CASE(killed_at_any_moment)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path);

	EQ(match_id(&service, 1, KDBUS_ITEM_ID_REMOVE, KDBUS_MATCH_ID_ANY), 0);
	for (int round = 0; round < ROUNDS; round++) {
		int status;
		bool gone = false;
		pid_t child = start_child();

		if (!child) {
			struct connection client = hello(bus.path);

			for (__u64 cookie = 1;; cookie++)
				SEND(&client, .to = service.id, .cookie = cookie);
		}
		/* After its first message; it is in the middle of whatever it does then. */
		done(&service, await_message(&service));
		CHECK(!kill(child, SIGKILL));
		EQ(waitpid(child, &status, 0), child);
		while (!gone) {
			const struct kdbus_msg *message;
			struct kdbus_cmd_recv recv = {};
			int result;

			wait_for(service.fd, POLLIN);
			result = receive_into(&service, &recv);
			if (result == -EOVERFLOW)
				continue;
			EQ(result, 0);
			message = (const void *)(service.pool + recv.msg.offset);
			gone = find(message, KDBUS_ITEM_ID_REMOVE) != NULL;
			done(&service, message);
		}
	}
	EQ(listed(&service, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
}
