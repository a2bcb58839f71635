// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A service that is started when it is needed, and ends when it is not.
 *
 *     idle [BUS [NAME [SECONDS]]]     defaults: <uid>-user, org.example.Idle, 0 seconds
 *
 * Each answer is the request in capitals. When nothing has come for that long, it says goodbye, which the bus refuses
 * while a message waits: so none is lost. Behind an activator the next message starts it again. With a file
 * org.example.Idle.service in the folder services:
 *
 *     [D-BUS Service]
 *     Name=org.example.Idle
 *     Exec=/path/to/idle
 *
 *     kdbus run --make-bus user --activate services -- ./program-that-calls-it
 */
#include "common.h"

#include <ctype.h>

static void acquire_name(const struct peer *peer, const char *name)
{
	struct buffer buffer;
	name_command *command = begin(&buffer, sizeof(*command));

	add_string(&buffer, KDBUS_ITEM_NAME, name);
	if (ioctl(peer->descriptor, KDBUS_CMD_NAME_ACQUIRE, command) < 0)
		fail("cannot acquire the name %s: %s", name, strerror(errno));
}

static void answer(const struct peer *peer, const struct kdbus_msg *request, __u64 cookie)
{
	struct buffer buffer;
	struct kdbus_msg *reply;
	char text[4096];
	size_t length = copy_payload(peer, request, text, sizeof(text));

	for (size_t i = 0; i < length; i++)
		text[i] = (char)toupper((unsigned char)text[i]);
	reply = begin_message(&buffer, request->src_id, cookie);
	reply->cookie_reply = request->cookie;
	add_payload(&buffer, text, length + 1);
	if (send_message(peer, &buffer) < 0)
		fprintf(stderr, "could not answer connection %llu: %s\n", request->src_id, strerror(errno));
}

/* Ends the connection if no message waits. The name goes with it, to the activator. */
static bool say_goodbye(const struct peer *peer)
{
	/* Version 3 looks at none of it. */
	name_command command = { .size = sizeof(command) };

	if (ioctl(peer->descriptor, KDBUS_CMD_BYEBYE, &command) == 0)
		return true;
	if (errno != EBUSY)
		fail("cannot say goodbye: %s", strerror(errno));
	return false;
}

int main(int argc, char **argv)
{
	const char *bus = argc > 1 ? argv[1] : bus_name("user");
	const char *name = argc > 2 ? argv[2] : "org.example.Idle";
	const struct kdbus_msg *message;
	struct peer peer;
	__u64 cookie = 0, patience;
	char *rest = "";

	setlinebuf(stdout);
	patience = argc > 3 ? strtoul(argv[3], &rest, 10) * SECOND : 0;
	if (argc > 4 || *rest)
		fail("usage: idle [BUS [NAME [SECONDS]]]");
	peer = connect_to_bus(bus, 0, 0);
	acquire_name(&peer, name);
	printf("serving %s\n", name);
	for (;;) {
		/* Without patience the bus alone decides. */
		if ((!patience || !wait_for_message(&peer, now_ns() + patience)) && say_goodbye(&peer))
			break;
		message = receive(&peer);
		if (!message) {
			if (errno == ECONNRESET)
				fail("the bus %s is gone", bus);
			continue;
		}
		if (message->flags & KDBUS_MSG_EXPECT_REPLY)
			answer(&peer, message, ++cookie);
		release(&peer, message);
	}
	disconnect(&peer);
	printf("idle after %llu requests\n", cookie);
	return EXIT_SUCCESS;
}
