// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who is watched. Makes the bus UID-watched, prints "ready" once all is as said, and ends with its stdin:
 *
 *     watched queue      a receiver (connection 1) in whose queue wait 3 messages of connection 2, 1 of connection 3,
 *                        8 bytes each
 *     watched forger     a connection of a process whose name and command line try to be orders to a terminal
 *     watched many N     N connections
 *     watched talk       connection 2, "client", calls org.example.Watched, "service", once for each line on stdin, and
 *                        is answered; prints "answered" each time
 */
#define main unused_main
#include "e2e.h"
#undef main

#include <sys/prctl.h>

#define NAME "org.example.Watched"

static void say(const char *line)
{
	puts(line);
	fflush(stdout);
}

static void until_end(void)
{
	char line[64];

	say("ready");
	while (fgets(line, sizeof(line), stdin))
		;
}

static int queue(const char *path)
{
	struct connection receiver = hello(path), first = hello(path), second = hello(path);

	for (__u64 i = 1; i <= 3; i++)
		EQ(SEND(&first, .to = receiver.id, .cookie = i, .payload = "12345678", .size = 8), 0);
	EQ(SEND(&second, .to = receiver.id, .cookie = 1, .payload = "12345678", .size = 8), 0);
	until_end();
	return 0;
}

static int forger(const char *path, char *argument)
{
	CHECK(!prctl(PR_SET_NAME, "\033[2J\nBUS  9"));
	/* What /proc shows as the command line. */
	memset(argument, 0, strlen(argument));
	strcpy(argument, "\033]0;owned\a\r\n\xff\xe2\x80\xae");
	hello(path);
	until_end();
	return 0;
}

static int many(const char *path, int count)
{
	for (int i = 0; i < count; i++)
		hello(path);
	until_end();
	return 0;
}

static int talk(const char *path)
{
	struct connection service = hello(path), client = hello(path);
	const struct kdbus_msg *message;
	char line[64];

	EQ(acquire(&service, NAME, 0), 0);
	say("ready");
	for (__u64 cookie = 1; fgets(line, sizeof(line), stdin); cookie++) {
		EQ(SEND(&client, .name = NAME, .cookie = cookie, .flags = KDBUS_MSG_EXPECT_REPLY,
			.deadline = in_ms(PATIENCE), .payload = "question", .size = 9), 0);
		message = receive(&service);
		EQ(SEND(&service, .to = client.id, .reply_to = message->cookie, .cookie = 100 + cookie,
			.payload = "answer", .size = 7), 0);
		done(&service, message);
		message = receive(&client);
		done(&client, message);
		say("answered");
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	struct bus bus = { .fd = open_control() };

	EQ(try_bus(&bus, "watched", 0, 0, 0), 0);
	if (!strcmp(what, "queue"))
		return queue(bus.path);
	if (!strcmp(what, "forger"))
		return forger(bus.path, argv[0]);
	if (!strcmp(what, "many"))
		return many(bus.path, atoi(argv[2]));
	if (!strcmp(what, "talk"))
		return talk(bus.path);
	(void)last_case_;
	return 2;
}
