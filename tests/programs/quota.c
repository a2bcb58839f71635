// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Limits: the n-th bus, connection, name and message gets the errno, and not the one before.
 */
#include "e2e.h"

#include <sched.h>

#define NAME "org.example.Name"

CASE(the_17th_bus)
{
	struct bus buses[17];

	for (int i = 0; i < 17; i++) {
		char name[16];

		snprintf(name, sizeof(name), "number%d", i);
		buses[i].fd = open_control();
		EQ(try_bus(&buses[i], name, 0, 0, 0), i < 16 ? 0 : -EMFILE);
		EQ(access(buses[i].path, F_OK), i < 16 ? 0 : -1);
	}
	/* Failing used nothing up: the handle is good for another try as soon as a bus has gone. */
	CHECK(!close(buses[3].fd));
	EQ(try_bus(&buses[16], "another", 0, 0, 0), 0);
}

CASE(names_of_buses)
{
	struct bus bus = { .fd = open_control() }, other = { .fd = open_control() };
	struct buffer buffer;
	struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));
	char name[80];

	EQ(try_bus(&bus, "with/slash", 0, 0, 0), -EINVAL);
	EQ(try_bus(&bus, "trailing-", 0, 0, 0), -EINVAL);
	EQ(try_bus(&bus, "trailing.", 0, 0, 0), -EINVAL);
	EQ(try_bus(&bus, "sp ace", 0, 0, 0), -EINVAL);
	memset(name, 'a', sizeof(name));
	name[62] = 0;
	EQ(try_bus(&bus, name, 0, 0, 0), -ENAMETOOLONG);
	EQ(try_bus(&bus, "unknown-flags", 4, 0, 0), -EINVAL);
	add(&buffer, KDBUS_ITEM_BLOOM_PARAMETER, &(struct kdbus_bloom_parameter) { 64, 1 }, 16);
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, "777-of-another-user");
	EQ(command(bus.fd, KDBUS_CMD_BUS_MAKE, make), -EINVAL);
	/* "<uid>-" and the rest make 63 characters. */
	name[61 - snprintf(NULL, 0, "%u", geteuid()) + 1] = 0;
	EQ(try_bus(&bus, name, 0, 0, 0), 0);
	EQ(strlen(bus.name), 63);
	EQ(try_bus(&other, name, 0, 0, 0), -EEXIST);
	EQ(try_bus(&bus, "second", 0, 0, 0), -EBADFD);
}

CASE(bloom_parameters)
{
	static const struct { __u64 size, hashes; int result; } cases[] = {
		{ 0, 1, -EINVAL }, { 4, 1, -EINVAL }, { 12, 1, -EINVAL }, { 4104, 1, -EINVAL }, { 64, 0, -EINVAL },
		{ ~7ULL, 1, -EINVAL }, { 8, 1, 0 }, { 4096, 1ULL << 40, 0 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int fd = open_control();
		struct buffer buffer;
		struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));
		char name[32];

		snprintf(name, sizeof(name), "%u-bloom", geteuid());
		add_string(&buffer, KDBUS_ITEM_MAKE_NAME, name);
		EQ(command(fd, KDBUS_CMD_BUS_MAKE, make), -EBADMSG);
		add(&buffer, KDBUS_ITEM_BLOOM_PARAMETER,
		    &(struct kdbus_bloom_parameter) { cases[i].size, cases[i].hashes }, 16);
		EQ(command(fd, KDBUS_CMD_BUS_MAKE, make), cases[i].result);
		CHECK(!close(fd));
	}
}

ROOT_CASE(the_1025th_connection)
{
	enum { MOST = 1024 };
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct rlimit limit = { 2 * MOST, 2 * MOST };
	struct connection last;
	struct buffer buffer;
	int first = -1;

	/* Who raises the limit of the children may not be allowed to. */
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		skip("no more than the usual number of open files is allowed");
	for (int i = 0; i < MOST; i++) {
		int fd = open(bus.path, O_RDWR);

		CHECK(fd >= 0);
		begin_hello(&buffer, 0)->pool_size = 4096;
		EQ(command(fd, KDBUS_CMD_HELLO, buffer.words), 0);
		first = first < 0 ? fd : first;
	}
	begin_hello(&buffer, 0)->pool_size = 4096;
	EQ(try_hello(&last, bus.path, &buffer), -EMFILE);
	/* The user counts, not the bus or the process; another user may still come. */
	IN_CHILD {
		struct bus other = new_bus(0);

		begin_hello(&buffer, 0)->pool_size = 4096;
		EQ(try_hello(&last, other.path, &buffer), -EMFILE);
	}
	AS(NOBODY)
		hello(bus.path);
	/* Those who come through a custom endpoint are not counted for their user. */
	{
		struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));
		int door = open(bus.path, O_RDWR);

		add_string(&buffer, KDBUS_ITEM_MAKE_NAME, "0-door");
		EQ(command(door, KDBUS_CMD_ENDPOINT_MAKE, make), 0);
		snprintf(bus.path, sizeof(bus.path), "%s/0-door", bus.folder);
		begin_hello(&buffer, 0)->pool_size = 4096;
		EQ(try_hello(&last, bus.path, &buffer), 0);
		snprintf(bus.path, sizeof(bus.path), "%s/bus", bus.folder);
	}
	/* BYEBYE is not enough, only the last close relieves the budget. */
	EQ(command(first, KDBUS_CMD_BYEBYE, NULL), 0);
	begin_hello(&buffer, 0)->pool_size = 4096;
	EQ(try_hello(&last, bus.path, &buffer), -EMFILE);
	CHECK(!close(first));
	begin_hello(&buffer, 0)->pool_size = 4096;
	EQ(try_hello(&last, bus.path, &buffer), 0);
}

CASE(the_33rd_message_of_one_user)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), second = hello(bus.path), receiver = hello(bus.path);

	for (int i = 0; i < 32; i++)
		EQ(SEND(i % 2 ? &sender : &second, .to = receiver.id, .cookie = (__u64)i), 0);
	EQ(SEND(&sender, .to = receiver.id), -ENOBUFS);
	EQ(SEND(&second, .to = receiver.id), -ENOBUFS);
	/* The first 16 were free. Taking one of them gives no charge back, though it makes room in the queue. */
	for (__u64 i = 0; i < 16; i++) {
		EQ(receive(&receiver)->cookie, i);
		EQ(SEND(&sender, .to = receiver.id), -ENOBUFS);
	}
	/* The next one gives a charge back, and leaves 15: so there is a free place again, and one that is charged. */
	EQ(receive(&receiver)->cookie, 16);
	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(SEND(&sender, .to = receiver.id), -ENOBUFS);
}

#define CLIENTS 40
#define CALLS_OF_A_CLIENT 20

/*
 * More clients than the queue takes, each with a process of its own: all come through, each call is answered once, and
 * nothing but ENOBUFS is said to those who have to try again.
 */
CASE(more_clients_than_the_queue_takes)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path);
	pid_t children[CLIENTS];
	int answered = 0;

	for (int i = 0; i < CLIENTS; i++) {
		children[i] = start_child();
		if (children[i])
			continue;
		struct connection client = hello(bus.path);

		for (__u64 cookie = 1; cookie <= CALLS_OF_A_CLIENT; cookie++) {
			const struct kdbus_msg *message;
			int result;

			while ((result = SEND(&client, .to = service.id, .cookie = cookie, .deadline = FOREVER,
					      .flags = KDBUS_MSG_EXPECT_REPLY)) == -ENOBUFS)
				sched_yield();
			EQ(result, 0);
			message = await_message(&client);
			EQ(message->cookie_reply, cookie);
			done(&client, message);
			EQ(receive_code(&client, 0), -EAGAIN);
		}
		finish_child(0);
	}
	while (answered < CLIENTS * CALLS_OF_A_CLIENT) {
		const struct kdbus_msg *message = await_message(&service);
		__u64 from = message->src_id, cookie = message->cookie;

		done(&service, message);
		EQ(SEND(&service, .to = from, .reply_to = cookie), 0);
		answered++;
	}
	for (int i = 0; i < CLIENTS; i++)
		join(children[i]);
	EQ(receive_code(&service, 0), -EAGAIN);
}

/* The first 16 were free: that they are taken gives no charge back, so the sender is refused again and again. */
CASE(refused_over_and_over)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);

	for (int i = 0; i < 32; i++)
		EQ(SEND(&sender, .to = receiver.id), 0);
	for (int round = 0; round < 16; round++) {
		for (int i = 0; i < 40; i++)
			EQ(SEND(&sender, .to = receiver.id), -ENOBUFS);
		done(&receiver, receive(&receiver));
	}
	EQ(SEND(&sender, .to = receiver.id), -ENOBUFS);
	done(&receiver, receive(&receiver));
	EQ(SEND(&sender, .to = receiver.id), 0);
}

CASE(a_drained_queue_starts_anew)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 32; i++)
			EQ(SEND(&sender, .to = receiver.id), 0);
		EQ(SEND(&sender, .to = receiver.id), -ENOBUFS);
		for (int i = 0; i < 32; i++)
			EQ(receive_code(&receiver, i % 2 ? KDBUS_RECV_DROP : 0), 0);
		EQ(receive_code(&receiver, 0), -EAGAIN);
	}
}

ROOT_CASE(the_257th_message)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection receiver = hello(bus.path);
	struct connection holder = special(bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, KDBUS_POLICY_TALK);

	EQ(acquire(&receiver, NAME, 0), 0);
	/* 16 free ones, and 16 of each of 15 users. */
	for (uid_t user = 0; user < 15; user++)
		AS(1000 + user) {
			struct connection sender = hello(bus.path);

			for (int i = 0; i < (user ? 16 : 32); i++)
				EQ(SEND(&sender, .name = NAME), 0);
			EQ(SEND(&sender, .name = NAME), -ENOBUFS);
		}
	AS(2000) {
		struct connection sender = hello(bus.path);

		EQ(SEND(&sender, .name = NAME), -ENOBUFS);
	}
	for (int i = 0; i < 256; i++)
		EQ(receive_code(&receiver, 0), 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	CHECK(!close(holder.fd));
}

CASE(the_257th_name)
{
	struct bus bus = new_bus(0);
	struct connection owner = hello(bus.path), other = hello(bus.path);
	char name[64];

	EQ(acquire(&other, NAME, 0), 0);
	for (int i = 0; i < 256; i++) {
		snprintf(name, sizeof(name), "org.example.n%d", i);
		EQ(acquire(&owner, name, 0), 0);
	}
	EQ(acquire(&owner, "org.example.more", 0), -E2BIG);
	EQ(acquire(&owner, NAME, KDBUS_NAME_QUEUE), -E2BIG);
	EQ(listed(&other, KDBUS_NAME_LIST_NAMES, owner.id, NULL), 256);
	EQ(release_name(&owner, "org.example.n7"), 0);
	EQ(acquire(&owner, "org.example.more", 0), 0);
	EQ(acquire(&owner, "org.example.more2", 0), -E2BIG);
}

CASE(forms_of_names)
{
	static const char *const bad[] = { "", "a", ".a.b", "a..b", "a.b.", "a.1b", "1a.b", "a.b*", "a.*", "a b.c", "a.b/c" };
	static const char *const good[] = { "a.b", "_a.-b", "-._", "a.b1", "A.B.C" };
	struct bus bus = new_bus(0);
	struct connection owner = hello(bus.path);
	char name[300];

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		EQ(acquire(&owner, bad[i], 0), -EINVAL);
		EQ(release_name(&owner, bad[i]), -EINVAL);
		EQ(SEND(&owner, .name = bad[i]), -EINVAL);
	}
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		EQ(acquire(&owner, good[i], 0), 0);
		EQ(acquire(&owner, good[i], 0), -EALREADY);
		EQ(release_name(&owner, good[i]), 0);
		EQ(release_name(&owner, good[i]), -ESRCH);
	}
	memset(name, 'n', sizeof(name));
	name[1] = '.';
	name[255] = 0;
	EQ(acquire(&owner, name, 0), 0);
	name[255] = 'n';
	name[256] = 0;
	EQ(acquire(&owner, name, 0), -EMSGSIZE);
	EQ(SEND(&owner, .name = name), -EINVAL);
	EQ(acquire(&owner, NULL, 0), -EINVAL);
	EQ(acquire(&owner, NAME, KDBUS_NAME_IN_QUEUE), -EINVAL);
	EQ(acquire(&owner, NAME, KDBUS_NAME_ACTIVATOR), -EINVAL);
}

CASE(no_more_than_half_of_the_pool)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver;
	struct buffer buffer;
	static char payload[65536];

	begin_hello(&buffer, 0)->pool_size = 65536;
	EQ(try_hello(&receiver, bus.path, &buffer), 0);
	EQ(release(&receiver, receiver.hello.offset), 0);
	EQ(SEND(&sender, .to = receiver.id, .payload = payload, .size = 32769), -EXFULL);
	EQ(SEND(&sender, .to = receiver.id, .payload = payload, .size = 65535), -EXFULL);
	/* As much as is free is not "more than half", and then only the pool itself decides. */
	EQ(SEND(&sender, .to = receiver.id, .payload = payload, .size = 65536), 0);
	EQ(SEND(&sender, .to = receiver.id, .payload = payload, .size = 1), -ENOBUFS);
	EQ(receive_code(&receiver, 0), -ENOBUFS);
	EQ(receive_code(&receiver, KDBUS_RECV_DROP), 0);
	EQ(SEND(&sender, .to = receiver.id, .payload = payload, .size = 32768), 0);
	EQ(SEND(&sender, .to = receiver.id, .payload = payload, .size = 16385), -EXFULL);
	EQ(SEND(&sender, .to = receiver.id, .payload = payload, .size = 16384), 0);
	EQ(receive_code(&receiver, 0), 0);
	EQ(receive_code(&receiver, 0), 0);
	/* All is free again, in one piece. */
	EQ(SEND(&sender, .to = receiver.id, .payload = payload, .size = 65536), 0);
}

CASE(sizes_of_pools)
{
	struct bus bus = new_bus(0);
	struct connection connection;
	struct buffer buffer;
	static const struct { __u64 size; int result; } cases[] = {
		{ 0, -EFAULT }, { 1, -EFAULT }, { 4095, -EFAULT }, { 4097, -EFAULT }, { 4096, 0 }, { 1ULL << 32, 0 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		begin_hello(&buffer, 0)->pool_size = cases[i].size;
		EQ(try_hello(&connection, bus.path, &buffer), cases[i].result);
	}
	connection = hello(bus.path);
	EQ(mmap(NULL, POOL_SIZE + 4096, PROT_READ, MAP_SHARED, connection.fd, 0) == MAP_FAILED ? errno : 0, EFAULT);
	/* The kernel's kdbus: EFAULT, EPERM, EPERM. What cannot be a pool is not trapped. */
	EQ(mmap(NULL, POOL_SIZE + 1, PROT_READ, MAP_SHARED, connection.fd, 0) == MAP_FAILED ? errno : 0, ENODEV);
	EQ(mmap(NULL, POOL_SIZE, PROT_WRITE, MAP_SHARED, connection.fd, 0) == MAP_FAILED ? errno : 0, ENODEV);
	EQ(mmap(NULL, POOL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, connection.fd, 0) == MAP_FAILED ? errno : 0, ENODEV);
	CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, connection.fd, 0) != MAP_FAILED);
	EQ(mprotect((void *)(uintptr_t)connection.pool, POOL_SIZE, PROT_READ | PROT_WRITE), -1);
	EQ(errno, EACCES);
}
