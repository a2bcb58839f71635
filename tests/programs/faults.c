// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Programs that meet faults which were injected from outside: `kdbus run --inject`, with what test_faults.py gives each
 * case. The program itself knows nothing of that, it only sees what it would see of a real fault.
 */
#include "e2e.h"

/* SEND:errno=ENOBUFS:every=4 */
CASE(every_fourth_send_fails)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path), two = hello(bus.path);

	for (int i = 1; i <= 8; i++)
		EQ(SEND(&one, .to = two.id, .cookie = i), i % 4 ? 0 : -ENOBUFS);
	for (int i = 1; i <= 8; i++) {
		const struct kdbus_msg *message;

		if (i % 4 == 0)
			continue;
		message = receive(&two);
		EQ(message->cookie, i);
		done(&two, message);
	}
	EQ(receive_code(&two, 0), -EAGAIN);
	/* Another process counts for itself. */
	IN_CHILD {
		EQ(SEND(&one, .to = two.id), 0);
		EQ(SEND(&one, .to = two.id), 0);
		EQ(SEND(&one, .to = two.id), 0);
		EQ(SEND(&one, .to = two.id), -ENOBUFS);
	}
}

/* NAME_ACQUIRE,NAME_RELEASE:errno=ENOMEM:when=2 */
CASE(one_call_of_two_commands)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path);

	EQ(acquire(&one, "org.example.A", 0), 0);
	EQ(release_name(&one, "org.example.A"), -ENOMEM);
	EQ(release_name(&one, "org.example.A"), 0);
}

/* SEND:errno=ECONNRESET:name=org.example.Service */
CASE(only_who_owns_the_name)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path), two = hello(bus.path);

	EQ(acquire(&two, "org.example.Service", 0), 0);
	EQ(SEND(&one, .to = two.id), 0);
	EQ(SEND(&two, .to = one.id), -ECONNRESET);
}

/* SEND:errno=EIO:process=!harmless */
CASE(only_who_is_not_called_harmless)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path);

	EQ(SEND(&one, .to = one.id), -EIO);
	EQ(prctl(PR_SET_NAME, "harmless"), 0);
	EQ(SEND(&one, .to = one.id), 0);
}

/* RECV:delay=200ms:first=1 */
CASE(a_call_is_late)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path), two = hello(bus.path);
	struct timespec before, after;
	pid_t child;

	clock_gettime(CLOCK_MONOTONIC, &before);
	child = fork();
	if (!child) {
		/* It is served when the delay is over, so it gets what was sent meanwhile. */
		EQ(receive_code(&two, 0), 0);
		clock_gettime(CLOCK_MONOTONIC, &after);
		GE((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000, 199);
		fflush(stdout);
		_exit(0);
	}
	EQ(SEND(&one, .to = two.id), 0);
	join(child);
}

/* RECV:lost:when=2 */
CASE(a_broadcast_is_lost)
{
	__u64 everything[BLOOM_SIZE / 8] = {};
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path), two = hello(bus.path);
	struct kdbus_cmd_recv recv = {};
	struct buffer buffer;

	begin(&buffer, sizeof(struct kdbus_cmd_match));
	add(&buffer, KDBUS_ITEM_BLOOM_MASK, everything, sizeof(everything));
	EQ(command(two.fd, KDBUS_CMD_MATCH_ADD, buffer.words), 0);
	EQ(SEND(&one, .to = two.id), 0);
	for (int i = 1; i <= 3; i++)
		EQ(SEND(&one, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL, .cookie = i), 0);
	EQ(receive_code(&two, 0), 0);		/* no broadcast, so it does not count */
	EQ(receive_code(&two, 0), 0);
	EQ(receive_into(&two, &recv), -EOVERFLOW);
	EQ(recv.dropped_msgs, 1);
	EQ(receive(&two)->cookie, 3);
	EQ(receive_code(&two, 0), -EAGAIN);
}

/* RECV:incomplete:when=2 */
CASE(descriptors_are_missing)
{
	int pair[2];
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path), two = hello(bus.path);

	EQ(pipe(pair), 0);
	EQ(SEND(&one, .to = two.id), 0);	/* without descriptors, so it does not count */
	for (int i = 0; i < 3; i++)
		EQ(SEND(&one, .to = two.id, .fds = pair, .fd_count = 2), 0);
	EQ(receive_code(&two, 0), 0);
	for (int i = 1; i <= 3; i++) {
		struct kdbus_cmd_recv recv = {};
		const struct kdbus_item *fds;

		EQ(receive_into(&two, &recv), 0);
		EQ(recv.msg.return_flags, i == 2 ? KDBUS_RECV_RETURN_INCOMPLETE_FDS : 0);
		fds = get((const void *)(two.pool + recv.msg.offset), KDBUS_ITEM_FDS);
		EQ(fds->fds[0] < 0, i == 2);
		EQ(fds->fds[1] < 0, i == 2);
	}
}

/* RECV:die:name=org.example.Service */
CASE(a_service_dies_of_a_request)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path);
	int ready[2], status;
	pid_t child;
	char byte;

	EQ(pipe(ready), 0);
	child = fork();
	if (!child) {
		struct connection service = hello(bus.path);

		EQ(acquire(&service, "org.example.Service", 0), 0);
		EQ(write(ready[1], "", 1), 1);
		done(&service, await_message(&service));	/* no request, so it lives */
		await_message(&service);
		printf("# the service has survived its request\n");
		fflush(stdout);
		_exit(1);
	}
	EQ(read(ready[0], &byte, 1), 1);
	EQ(SEND(&one, .name = "org.example.Service"), 0);
	EQ(SEND(&one, .name = "org.example.Service", .cookie = 1, .flags = KDBUS_MSG_EXPECT_REPLY,
		.deadline = in_ms(PATIENCE), .send_flags = KDBUS_SEND_SYNC_REPLY), -EPIPE);
	EQ(waitpid(child, &status, 0), child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}
