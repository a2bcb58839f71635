// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a program that is traced by another one notices: nothing, once it has made its next call after mmap. Run it
 * under strace or gdb, and without, too.
 */
#include "e2e.h"

/* HELLO, mmap and FREE, as programs do it: the answer to HELLO is read from the pool and given back. */
static struct connection connect_and_read(const struct bus *bus)
{
	struct connection connection = hello(bus->path);
	const __u64 *answer = (const void *)(connection.pool + connection.hello.offset);

	GE(answer[0], 16);
	GE(answer[1], 16);
	EQ(release(&connection, connection.hello.offset), 0);
	return connection;
}

static void expect_quiet(const struct connection *connection)
{
	EQ(readiness(connection->fd), POLLOUT);
	EQ(receive_code(connection, 0), -EAGAIN);
}

CASE(the_pool_is_read_and_the_handle_polls)
{
	struct bus bus = new_bus(0);
	struct connection connection = connect_and_read(&bus);
	struct epoll_event event = { .events = EPOLLIN };
	int set = epoll_create1(EPOLL_CLOEXEC);

	expect_quiet(&connection);
	CHECK(!epoll_ctl(set, EPOLL_CTL_ADD, connection.fd, &event));
	EQ(epoll_wait(set, &event, 1, 0), 0);
	for (__u64 cookie = 1; cookie <= 3; cookie++) {
		const struct kdbus_msg *message;

		EQ(SEND(&connection, .to = connection.id, .cookie = cookie), 0);
		EQ(epoll_wait(set, &event, 1, PATIENCE), 1);
		message = receive(&connection);
		EQ(message->cookie, cookie);
		SAME(text_of(&connection, message), TEXT);
		done(&connection, message);
		expect_quiet(&connection);
	}
	EQ(fcntl(connection.fd, F_GETFD), FD_CLOEXEC);
}

CASE(the_pool_cannot_be_written)
{
	struct bus bus = new_bus(0);
	struct connection connection = connect_and_read(&bus);

	EQ(mprotect((void *)connection.pool, POOL_SIZE, PROT_READ | PROT_WRITE), -1);
	EQ(mmap(NULL, POOL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, connection.fd, 0) == MAP_FAILED, 1);
}

/* The first call after mmap puts the handle back, and then waits; signals that come meanwhile interrupt it. */
static void nothing(int signal)
{
	(void)signal;
}

static int caught;

static void tell(int signal)
{
	eventfd_t one = 1;

	(void)signal;
	if (write(caught, &one, sizeof(one)) != sizeof(one))
		abort();
}

static void wait_right_after_mapping(int flags)
{
	struct sigaction action = { .sa_handler = tell, .sa_flags = flags };
	struct bus bus = new_bus(0);
	struct connection service = connect_and_read(&bus);
	const struct kdbus_msg *message;
	pid_t child;

	signal(SIGCHLD, nothing);
	caught = new_event();
	child = start_child();
	if (!child) {
		struct connection own;
		struct kdbus_cmd_send left;
		struct letter letter = { .to = service.id, .cookie = 1, .flags = KDBUS_MSG_EXPECT_REPLY,
					 .deadline = in_ms(PATIENCE), .send_flags = KDBUS_SEND_SYNC_REPLY, .result = &left };
		int result;

		CHECK(!sigaction(SIGUSR1, &action, NULL));
		own = hello(bus.path);
		result = send_letter(&own, &letter);
		if (!(flags & SA_RESTART)) {
			EQ(result, -EINTR);
			result = send_letter(&own, &letter);
		}
		EQ(result, 0);
		expect_quiet(&own);
		finish_child(0);
	}
	CHECK(wait_for(service.fd, POLLIN) & POLLIN);
	message = receive(&service);
	/* Long enough for the supervisor to look at the waiting call several times. */
	for (__u64 deadline = in_ms(50); in_ms(0) < deadline;)
		EQ(receive_code(&service, 0), -EAGAIN);
	CHECK(!kill(child, SIGUSR1));
	await(caught);
	EQ(SEND(&service, .to = message->src_id, .reply_to = message->cookie), 0);
	done(&service, message);
	join(child);
	expect_quiet(&service);
}

CASE(interrupted_right_after_mapping)
{
	wait_right_after_mapping(0);
}

CASE(restarted_right_after_mapping)
{
	wait_right_after_mapping(SA_RESTART);
}

/* A duplicate of what stands there for a moment becomes the handle when it is used. */
CASE(duplicated_right_after_mapping)
{
	struct bus bus = new_bus(0);
	struct connection connection = hello(bus.path), duplicate = connection;

	duplicate.fd = dup(connection.fd);
	EQ(release(&connection, connection.hello.offset), 0);
	EQ(receive_code(&duplicate, 0), -EAGAIN);
	expect_quiet(&duplicate);
	CHECK(!close(connection.fd));
	EQ(listed(&duplicate, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
}

/* Nobody makes a next call: the end has to be noticed all the same. */
CASE(killed_right_after_mapping)
{
	struct bus bus = new_bus(0);
	struct connection watcher = connect_and_read(&bus);
	int mapped = new_event(), status;
	pid_t child = start_child();

	if (!child) {
		hello(bus.path);
		post(mapped);
		for (;;)
			pause();
	}
	await(mapped);
	EQ(match_id(&watcher, 1, KDBUS_ITEM_ID_REMOVE, KDBUS_MATCH_ID_ANY), 0);
	CHECK(!kill(child, SIGKILL));
	CHECK(wait_for(watcher.fd, POLLIN) & POLLIN);
	EQ(receive(&watcher)->src_id, KDBUS_SRC_ID_KERNEL);
	EQ(waitpid(child, &status, 0), child);
}

CASE(closed_right_after_mapping)
{
	struct bus bus = new_bus(0);
	struct connection watcher = connect_and_read(&bus), other = hello(bus.path);

	CHECK(!close(other.fd));
	EQ(listed(&watcher, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
}
