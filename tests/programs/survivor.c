// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A program whose supervisor fails. Says "ready", and then what it meets:
 *
 *     survivor open_         waits for the end of its stdin; then opens the control node, and uses what it got
 *     survivor left_         leaves a daemon, which waits for the end of its stdin; then does what programs do
 *     survivor wait_         waits in a synchronous SEND that nobody answers
 *     survivor poll_         waits for its connection to hang up
 *     survivor commands      issues a command many times, and says when the result changes
 *     survivor serve         uses everything once: the supervisor is fine, or fails with an errno
 */
#include "e2e.h"

/* Not to be run like the cases of other programs: each needs something that its test prepares. */
#define PART(name) CASE(name)

static void say(const char *what)
{
	puts(what);
	fflush(stdout);
}

static void say_result(const char *what, int result)
{
	printf("%s %s\n", what, result < 0 ? strerrorname_np(-result) : "ok");
	fflush(stdout);
}

PART(open_)
{
	char byte;
	int fd;

	say("ready");
	EQ(read(0, &byte, 1), 0);
	fd = open(ROOT "/control", O_RDWR);
	say_result("open", fd < 0 ? -errno : 0);
	if (fd >= 0)
		say_result("command", command(fd, KDBUS_CMD_BYEBYE, NULL));
}

PART(left_)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path);
	struct stat status;
	char byte;
	int fd;

	if (fork()) {
		say("ready");
		_exit(0);
	}
	setsid();
	EQ(read(0, &byte, 1), 0);
	fd = open("/proc/self/exe", O_RDONLY);
	CHECK(fd >= 0);
	say_result("map", mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -errno : 0);
	say_result("open", open("/dev/null", O_RDWR) < 0 ? -errno : 0);
	say_result("stat", stat("/dev/null", &status) ? -errno : 0);
	say_result("command", command(one.fd, KDBUS_CMD_BYEBYE, NULL));
	_exit(0);
}

PART(wait_)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path), other = hello(bus.path);

	say("ready");
	say_result("send", SEND(&one, .to = other.id, .cookie = 1, .deadline = FOREVER, .flags = KDBUS_MSG_EXPECT_REPLY,
				.send_flags = KDBUS_SEND_SYNC_REPLY));
}

PART(poll_)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path);

	say("ready");
	CHECK(wait_for(one.fd, POLLIN) & POLLHUP);
	say_result("hung up", command(one.fd, KDBUS_CMD_BYEBYE, NULL));
}

PART(commands)
{
	struct kdbus_cmd_make make = { .size = sizeof(make) };
	int fd = open_control(), last = 0;

	for (int i = 0; i < 50; i++) {
		int result = command(fd, KDBUS_CMD_BUS_MAKE, &make);

		if (result != last)
			say_result("command", result);
		last = result;
	}
}

PART(serve)
{
	struct bus bus = { .fd = open(ROOT "/control", O_RDWR | O_CLOEXEC) };
	struct connection one;
	struct buffer buffer;
	int result = bus.fd < 0 ? -errno : try_bus(&bus, "survivor", 0, 0, 0);

	if (!result)
		result = try_hello(&one, bus.path, (begin_hello(&buffer, 0), &buffer));
	if (!result)
		result = SEND(&one, .to = one.id);
	if (!result)
		result = receive_code(&one, 0);
	say_result("served", result);
}
