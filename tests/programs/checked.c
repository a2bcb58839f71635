// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Programs that `kdbus check` has something to say about: above each case stand the rules, other than notes, that find
 * something in it. All cases pass: what is wrong with them cannot be seen from inside.
 */
#include "e2e.h"

/* A connection that holds nothing: what HELLO left in the pool is given back. */
static struct connection clean(const struct bus *bus)
{
	struct connection connection = hello(bus->path);

	EQ(release(&connection, connection.hello.offset), 0);
	return connection;
}

/* none */
CASE(well_behaved)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus), two = clean(&bus);
	const struct kdbus_msg *message;

	EQ(SEND(&one, .to = two.id, .cookie = 7, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = in_ms(PATIENCE)), 0);
	message = receive(&two);
	EQ(SEND(&two, .to = message->src_id, .reply_to = message->cookie), 0);
	done(&two, message);
	done(&one, receive(&one));
}

/* slice-leak */
CASE(never_frees)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus), two = clean(&bus);

	for (int i = 0; i < 5; i++) {
		EQ(SEND(&one, .to = two.id), 0);
		receive(&two);
	}
}

static void wait_to_be_killed(int ready)
{
	EQ(write(ready, "", 1), 1);
	pause();
}

static void kill_once_it_waits(pid_t child, int ready)
{
	int status;
	char byte;

	EQ(read(ready, &byte, 1), 1);
	EQ(kill(child, SIGKILL), 0);
	EQ(waitpid(child, &status, 0), child);
}

/* slice-leak */
CASE(killed_before_it_frees)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus);
	int ready[2];
	pid_t child;

	EQ(pipe(ready), 0);
	child = fork();
	if (!child) {
		struct connection two = clean(&bus);

		EQ(SEND(&one, .to = two.id), 0);
		receive(&two);
		wait_to_be_killed(ready[1]);
	}
	kill_once_it_waits(child, ready[0]);
}

/* none */
CASE(its_child_frees)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus), two = clean(&bus);
	const struct kdbus_msg *message;

	EQ(SEND(&one, .to = two.id), 0);
	message = receive(&two);
	IN_CHILD
		done(&two, message);
}

/* none */
CASE(leaves_a_child)
{
	struct bus bus = new_bus(0);
	int ready[2];
	char byte;

	EQ(pipe(ready), 0);
	if (!fork()) {
		struct connection one = clean(&bus);

		EQ(SEND(&one, .to = one.id), 0);
		receive(&one);
		EQ(write(ready[1], "", 1), 1);
		wait_for(one.fd, POLLHUP);	/* until there is no kdbus any more */
		_exit(0);
	}
	EQ(read(ready[0], &byte, 1), 1);
}

/* unanswered-request */
CASE(forgets_to_reply)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus), two = clean(&bus);

	EQ(SEND(&one, .to = two.id, .cookie = 7, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = in_ms(PATIENCE)), 0);
	done(&two, receive(&two));
	close(two.fd);
	done(&one, await_message(&one));	/* which says so */
}

/* unread-messages */
CASE(does_not_read)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus), two = clean(&bus);

	EQ(SEND(&one, .to = two.id), 0);
}

/* lost-messages */
CASE(reads_too_late)
{
	__u64 everything[BLOOM_SIZE / 8] = {};
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus), two = clean(&bus);
	struct buffer buffer;
	int result;

	begin(&buffer, sizeof(struct kdbus_cmd_match));
	add(&buffer, KDBUS_ITEM_BLOOM_MASK, everything, sizeof(everything));
	EQ(command(two.fd, KDBUS_CMD_MATCH_ADD, buffer.words), 0);
	for (int i = 0; i < 300; i++)
		EQ(SEND(&one, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL), 0);
	EQ(receive_code(&two, 0), -EOVERFLOW);
	do
		result = receive_code(&two, 0);
	while (!result);
	EQ(result, -EAGAIN);
}

/* name-race */
CASE(sends_too_early)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus), two = clean(&bus);

	EQ(SEND(&one, .name = "org.example.Late"), -ESRCH);
	EQ(acquire(&two, "org.example.Late", 0), 0);
	EQ(SEND(&one, .name = "org.example.Late"), 0);
	done(&two, receive(&two));
}

/* padding */
CASE(sends_what_was_on_the_stack)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus), two = clean(&bus);
	struct buffer buffer;
	struct kdbus_item *name;

	EQ(acquire(&two, "org.example.X", 0), 0);
	write_letter(&(struct letter) { .name = "org.example.X" }, &buffer);
	name = (struct kdbus_item *)((char *)buffer.words + sizeof(struct kdbus_msg));
	EQ(name->type, KDBUS_ITEM_DST_NAME);
	CHECK(name->size % 8);
	((char *)name)[name->size] = 'x';
	EQ(send_buffer(&one, &buffer, 0, 0, NULL), 0);
	done(&two, receive(&two));
}

/* foreign-item */
CASE(says_what_nobody_asked)
{
	struct bus bus = new_bus(0);
	struct connection one;
	struct buffer buffer;
	__u64 id = 7;

	begin_hello(&buffer, 0);
	add(&buffer, KDBUS_ITEM_ID, &id, sizeof(id));
	EQ(try_hello(&one, bus.path, &buffer), 0);
	EQ(release(&one, one.hello.offset), 0);
}

/* Receives two descriptors, and closes `closed` of them before the connection. */
static void receive_descriptors(int closed)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus), two = clean(&bus);
	const struct kdbus_msg *message;
	int fds[2];

	EQ(pipe(fds), 0);
	EQ(SEND(&one, .to = two.id, .fds = fds, .fd_count = 2), 0);
	message = receive(&two);
	for (int i = 0; i < closed; i++)
		EQ(close(get(message, KDBUS_ITEM_FDS)->fds[i]), 0);
	done(&two, message);
	EQ(close(two.fd), 0);
	/* The last close has been seen by the time that this is answered. */
	EQ(acquire(&one, "org.example.Other", 0), 0);
}

/* descriptors-left */
CASE(keeps_a_descriptor)
{
	receive_descriptors(1);
}

/* descriptors-left */
CASE(ends_with_a_descriptor)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus);
	int fds[2];

	EQ(pipe(fds), 0);
	IN_CHILD {
		struct connection two = clean(&bus);

		EQ(SEND(&one, .to = two.id, .fds = fds, .fd_count = 2), 0);
		done(&two, receive(&two));
	}
}

/* none */
CASE(killed_with_descriptors)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus);
	int fds[2], ready[2];
	pid_t child;

	EQ(pipe(fds), 0);
	EQ(pipe(ready), 0);
	child = fork();
	if (!child) {
		struct connection two = clean(&bus);

		EQ(SEND(&one, .to = two.id, .fds = fds, .fd_count = 2), 0);
		done(&two, receive(&two));
		wait_to_be_killed(ready[1]);
	}
	kill_once_it_waits(child, ready[0]);
}

/* descriptors-left */
CASE(keeps_a_memfd)
{
	struct bus bus = new_bus(0);
	struct connection one = clean(&bus), two = clean(&bus);
	struct kdbus_memfd memfd = { .size = 5, .fd = memfd_create("kept", MFD_ALLOW_SEALING) };
	const struct kdbus_msg *message;

	EQ(write(memfd.fd, "hello", 5), 5);
	EQ(fcntl(memfd.fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
	for (int i = 0; i < 20; i++) {
		EQ(SEND(&one, .to = two.id, .memfd = &memfd), 0);
		message = receive(&two);
		if (i != 10)
			EQ(close(get(message, KDBUS_ITEM_PAYLOAD_MEMFD)->memfd.fd), 0);
		done(&two, message);
	}
	EQ(close(two.fd), 0);
	EQ(acquire(&one, "org.example.Other", 0), 0);
}

/* none */
CASE(closes_descriptors)
{
	receive_descriptors(2);
}
