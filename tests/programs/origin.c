// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What messages tell about their sender when they are served natively: the truth at the moment of sending and of
 * receiving, however often the same has been true before.
 */
#include "e2e.h"

#include <sched.h>
#include <sys/wait.h>

#define ROUNDS 30 /* after which nobody but the native side serves them, if it may */
#define EVERYTHING _KDBUS_ATTACH_ALL
#define NAME "org.example.Origin"

static struct connection curious(const struct bus *bus)
{
	return hello_with(bus->path, 0, EVERYTHING, EVERYTHING);
}

static void ask_for_everything(void)
{
	int file = open("/sys/module/kdbus/parameters/attach_flags_mask", O_WRONLY | O_CLOEXEC);

	CHECK(file >= 0);
	EQ(write(file, "0xffff", 6), 6);
	close(file);
}

/* One message: a copy, that lasts until the next one. */
static const struct kdbus_msg *pass(const struct connection *from, const struct connection *to)
{
	static _Thread_local __u64 copy[8192];
	const struct kdbus_msg *message;

	EQ(SEND(from, .to = to->id, .cookie = 1), 0);
	message = await_message(to);
	GE(sizeof(copy), message->size);
	memcpy(copy, message, message->size);
	done(to, message);
	return (const struct kdbus_msg *)copy;
}

static const struct kdbus_msg *pass_often(const struct connection *from, const struct connection *to)
{
	const struct kdbus_msg *message = NULL;

	for (int i = 0; i < ROUNDS; i++)
		message = pass(from, to);
	return message;
}

CASE(the_name_of_the_thread)
{
	struct bus bus = new_bus(0);
	struct connection own = hello(bus.path), peer = curious(&bus);
	const struct kdbus_item *name;

	for (int i = 0; i < 3; i++) {
		CHECK(!prctl(PR_SET_NAME, i % 2 ? "odd" : "even"));
		name = find(pass_often(&own, &peer), KDBUS_ITEM_TID_COMM);
		if (name) /* the module parameter may forbid it */
			SAME(name->str, i % 2 ? "odd" : "even");
	}
}

ROOT_CASE(ids_groups_and_capabilities)
{
	struct bus bus = new_bus(0);
	struct connection own = hello(bus.path), peer = curious(&bus);
	const struct kdbus_msg *message;
	gid_t groups[] = { 7, 8 };

	ask_for_everything();
	message = pass_often(&own, &peer);
	EQ(get(message, KDBUS_ITEM_CREDS)->creds.euid, 0);
	CHECK(!setgroups(2, groups));
	message = pass_often(&own, &peer);
	EQ(get(message, KDBUS_ITEM_AUXGROUPS)->size, HEADER + sizeof(groups));
	CHECK(!memcmp(get(message, KDBUS_ITEM_AUXGROUPS)->data32, groups, sizeof(groups)));
	CHECK(!setresuid(0, NOBODY, 0));
	message = pass(&own, &peer);
	EQ(get(message, KDBUS_ITEM_CREDS)->creds.uid, 0);
	EQ(get(message, KDBUS_ITEM_CREDS)->creds.euid, NOBODY);
	CHECK(!setresuid(0, 0, 0));
	EQ(get(pass(&own, &peer), KDBUS_ITEM_CREDS)->creds.euid, 0);
}

static void *call_again(void *argument)
{
	struct connection **pair = argument;
	const struct kdbus_msg *message = pass_often(pair[0], pair[1]);

	EQ(get(message, KDBUS_ITEM_PIDS)->pids.tid, gettid());
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.pid, getpid());
	return NULL;
}

CASE(one_thread_after_the_other)
{
	struct bus bus = new_bus(0);
	struct connection own = hello(bus.path), peer = curious(&bus);
	struct connection *pair[] = { &own, &peer };

	for (int i = 0; i < 20; i++) {
		pthread_t thread;

		CHECK(!pthread_create(&thread, NULL, call_again, pair));
		CHECK(!pthread_join(thread, NULL));
		EQ(get(pass(&own, &peer), KDBUS_ITEM_PIDS)->pids.tid, gettid());
	}
}

CASE(processes_that_share_a_connection)
{
	struct bus bus = new_bus(0);
	struct connection own = hello(bus.path), peer = curious(&bus);

	for (int i = 0; i < 10; i++) {
		EQ(get(pass(&own, &peer), KDBUS_ITEM_PIDS)->pids.pid, getpid());
		IN_CHILD {
			struct connection fresh = curious(&bus);

			EQ(get(pass_often(&own, &fresh), KDBUS_ITEM_PIDS)->pids.ppid, getppid());
			EQ(get(pass(&own, &fresh), KDBUS_ITEM_PIDS)->pids.pid, getpid());
		}
	}
}

CASE(the_parent_ends)
{
	struct bus bus = new_bus(0);
	struct connection own = hello(bus.path);
	int told = new_event(), ended = new_event(), over = new_event();

	CHECK(!prctl(PR_SET_CHILD_SUBREAPER, 1));
	IN_CHILD {
		if (!fork()) {
			struct connection peer = curious(&bus);

			EQ(get(pass_often(&own, &peer), KDBUS_ITEM_PIDS)->pids.ppid, getppid());
			post(told);
			await(ended);
			EQ(get(pass(&own, &peer), KDBUS_ITEM_PIDS)->pids.ppid, getppid());
			post(over);
			fflush(stdout);
			_exit(0);
		}
		await(told);
	}
	post(ended);
	await(over);
	EQ(wait(NULL) > 0, 1);
}

/* In a program of its own, which has the two connections open. */
CASE(part_another_program)
{
	struct connection own = { 0 }, peer = { 0 };
	const struct kdbus_msg *message;

	if (!getenv("E2E_OWN"))
		skip("this is a part of another case");
	own.fd = atoi(getenv("E2E_OWN"));
	peer.fd = atoi(getenv("E2E_PEER"));
	peer.id = strtoull(getenv("E2E_ID"), NULL, 10);
	peer.pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, peer.fd, 0);
	CHECK(peer.pool != MAP_FAILED);
	message = pass(&own, &peer);
	SAME(get(message, KDBUS_ITEM_CMDLINE)->str, "another");
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.pid, getpid());
}

ROOT_CASE(another_program_is_executed)
{
	struct bus bus = new_bus(0);
	struct connection own = hello(bus.path), peer = curious(&bus);
	char text[3][32];

	ask_for_everything();
	CHECK(!fcntl(own.fd, F_SETFD, 0) && !fcntl(peer.fd, F_SETFD, 0));
	snprintf(text[0], sizeof(text[0]), "%d", own.fd);
	snprintf(text[1], sizeof(text[1]), "%d", peer.fd);
	snprintf(text[2], sizeof(text[2]), "%llu", (unsigned long long)peer.id);
	CHECK(!setenv("E2E_OWN", text[0], 1) && !setenv("E2E_PEER", text[1], 1) && !setenv("E2E_ID", text[2], 1));
	IN_CHILD {
		CHECK(strcmp(get(pass_often(&own, &peer), KDBUS_ITEM_CMDLINE)->str, "another"));
		execl("/proc/self/exe", "another", "part_another_program", NULL);
		CHECK(!"executed");
	}
}

/* ---- the receiver's point of view ---- */

ROOT_CASE(the_receiver_enters_a_user_namespace)
{
	struct bus bus = new_bus(0);
	struct connection own = hello(bus.path);

	ask_for_everything();
	IN_CHILD {
		struct connection peer = curious(&bus);
		const struct kdbus_msg *message = pass_often(&own, &peer);

		EQ(get(message, KDBUS_ITEM_CREDS)->creds.uid, 0);
		CHECK(find(message, KDBUS_ITEM_CAPS));
		EQ(SEND(&own, .to = peer.id, .cookie = 2), 0);
		if (unshare(CLONE_NEWUSER))
			skip("there are no user namespaces");
		/* Sent before, received now, in a namespace where nobody has a name; and then sent from there. */
		message = await_message(&peer);
		EQ(get(message, KDBUS_ITEM_CREDS)->creds.uid, 65534);
		CHECK(!find(message, KDBUS_ITEM_CAPS));
		message = pass_often(&own, &peer);
		EQ(get(message, KDBUS_ITEM_CREDS)->creds.uid, 65534);
		CHECK(find(message, KDBUS_ITEM_CAPS));
	}
}

ROOT_CASE(the_receiver_changes_its_root)
{
	struct bus bus = new_bus(0);
	struct connection own = hello(bus.path);

	ask_for_everything();
	IN_CHILD {
		struct connection peer = curious(&bus);
		const struct kdbus_msg *message = pass_often(&own, &peer);

		CHECK(find(message, KDBUS_ITEM_EXE));
		EQ(SEND(&own, .to = peer.id, .cookie = 2), 0);
		CHECK(!chroot("/proc"));
		CHECK(!find(await_message(&peer), KDBUS_ITEM_EXE));
	}
}

ROOT_CASE(the_module_parameter_is_written)
{
	struct bus bus = new_bus(0);
	struct connection own = hello(bus.path), peer = curious(&bus);
	int file = open("/sys/module/kdbus/parameters/attach_flags_mask", O_WRONLY | O_CLOEXEC);

	CHECK(file >= 0);
	for (int i = 0; i < 3; i++) {
		EQ(pwrite(file, "0x2\n", 4, 0), 4);
		CHECK(!find(pass(&own, &peer), KDBUS_ITEM_TIMESTAMP));
		CHECK(find(pass_often(&own, &peer), KDBUS_ITEM_CREDS));
		EQ(pwrite(file, "0x1\n", 4, 0), 4);
		CHECK(find(pass(&own, &peer), KDBUS_ITEM_TIMESTAMP));
		CHECK(!find(pass_often(&own, &peer), KDBUS_ITEM_CREDS));
	}
}

/* An empty file leaves the value before it in force, which is not always the same. */
ROOT_CASE(the_module_parameter_is_emptied)
{
	struct bus bus = new_bus(0);
	struct connection own = hello(bus.path), peer = curious(&bus);
	static const char *const values[] = { "0xffff\n", "0\n" };

	for (int i = 0; i < 6; i++) {
		int file = open("/sys/module/kdbus/parameters/attach_flags_mask", O_WRONLY | O_TRUNC | O_CLOEXEC);

		CHECK(file >= 0);
		EQ(write(file, values[i % 2], strlen(values[i % 2])), strlen(values[i % 2]));
		close(open("/sys/module/kdbus/parameters/attach_flags_mask", O_WRONLY | O_TRUNC | O_CLOEXEC));
		EQ(!!find(pass(&own, &peer), KDBUS_ITEM_CREDS), i % 2 == 0);
		EQ(!!find(pass_often(&own, &peer), KDBUS_ITEM_CREDS), i % 2 == 0);
		close(file);
	}
	ask_for_everything();
}

CASE(times_are_told_in_order)
{
	struct bus bus = new_bus(0);
	struct connection own = hello(bus.path), peer = curious(&bus);
	struct kdbus_timestamp last = { 0 }, now;

	for (int i = 0; i < 3 * ROUNDS; i++) {
		now = get(pass(&own, &peer), KDBUS_ITEM_TIMESTAMP)->timestamp;
		CHECK(now.seqnum > last.seqnum);
		GE(now.monotonic_ns, last.monotonic_ns);
		GE(clock_ns(CLOCK_MONOTONIC), now.monotonic_ns);
		GE(clock_ns(CLOCK_REALTIME), now.realtime_ns);
		last = now;
	}
}

/* ---- permission ---- */

ROOT_CASE(permission_is_for_who_sends)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection service = hello(bus.path), holder;
	struct buffer buffer;

	begin_hello(&buffer, KDBUS_HELLO_POLICY_HOLDER);
	add_string(&buffer, KDBUS_ITEM_NAME, NAME);
	add_access(&buffer, KDBUS_POLICY_ACCESS_USER, KDBUS_POLICY_TALK, NOBODY);
	EQ(try_hello(&holder, bus.path, &buffer), 0);
	EQ(acquire(&service, NAME, 0), 0);
	IN_CHILD {
		struct connection client;

		CHECK(!setresgid(NOBODY, NOBODY, NOBODY));
		CHECK(!setresuid(NOBODY, NOBODY, 0)); /* may change back */
		client = hello(bus.path);
		pass_often(&client, &service);
		CHECK(!setresuid(-1, 0, -1));
		CHECK(!setresuid(NOBODY, SOMEBODY, 0));
		for (int i = 0; i < ROUNDS; i++)
			EQ(SEND(&client, .to = service.id, .cookie = 1), -EPERM);
		CHECK(!setresuid(-1, 0, -1));
		CHECK(!setresuid(NOBODY, NOBODY, 0));
		pass_often(&client, &service);
	}
}
