// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A client: finds a service by its name, calls it, waits for the reply with poll.
 *
 *     client [BUS [TEXT]]             defaults: <uid>-sample, "hello from the client"
 *
 * The service may be started later. Two things have to appear before it can be called: its bus, which is a file, and
 * its name, of which the bus sends a notification. For either the rule is: first ask to be told, then look, or it may
 * appear in between and be missed.
 */
#include "common.h"

#define COOKIE 1	/* any number but 0; only one request is under way */

/* Wants to be told when somebody becomes owner of the name. */
static void match_new_owner(const struct peer *peer, const char *name)
{
	struct kdbus_notify_name_change change = {
		.old_id.id = KDBUS_MATCH_ID_ANY,
		.new_id.id = KDBUS_MATCH_ID_ANY,
	};
	char content[sizeof(change) + 256] = "";
	size_t length = strlen(name) + 1;

	if (length > sizeof(content) - sizeof(change))
		fail("the name is too long: %s", name);
	memcpy(content, &change, sizeof(change));
	memcpy(content + sizeof(change), name, length);
	add_match(peer, KDBUS_ITEM_NAME_ADD, content, sizeof(change) + length);
}

/* Waits for that notification, unless the deadline passes. */
static void wait_for_owner(struct peer *peer, const char *name, __u64 deadline)
{
	for (;;) {
		const struct kdbus_msg *message;
		bool appeared;

		if (!wait_for_message(peer, deadline))
			fail("nobody acquired the name %s within %llu seconds", name, PATIENCE / SECOND);
		message = receive(peer);
		if (!message && errno == ECONNRESET)
			fail("the bus is gone");
		appeared = count_lost(peer);	/* what was lost may have been it: try */
		if (message) {
			appeared |= !!find_item(message, KDBUS_ITEM_NAME_ADD, sizeof(struct kdbus_notify_name_change));
			release(peer, message);
		}
		if (appeared)
			return;
	}
}

/* Sends the request to whoever owns the name. Returns 0, or -1 with errno. */
static int request(const struct peer *peer, const char *name, const char *text, __u64 deadline)
{
	struct buffer buffer;
	struct kdbus_msg *message = begin_message(&buffer, KDBUS_DST_ID_NAME, COOKIE);

	message->flags = KDBUS_MSG_EXPECT_REPLY;
	message->timeout_ns = deadline;
	add_string(&buffer, KDBUS_ITEM_DST_NAME, name);
	add_payload(&buffer, text, strlen(text) + 1);
	return send_message(peer, &buffer);
}

/* Waits for the reply. It always comes to an end: if the service dies or takes too long, the bus says so. */
static const struct kdbus_msg *wait_for_reply(struct peer *peer)
{
	for (;;) {
		const struct kdbus_msg *message;

		wait_for_message(peer, FOREVER);
		message = receive(peer);
		if (!message && errno == ECONNRESET)
			fail("the bus is gone");
		if (!message)
			continue;
		if (message->src_id != KDBUS_SRC_ID_KERNEL && message->cookie_reply == COOKIE)
			return message;
		if (find_item(message, KDBUS_ITEM_REPLY_TIMEOUT, 0))
			fail("%s did not reply within %llu seconds", SERVICE_NAME, PATIENCE / SECOND);
		if (find_item(message, KDBUS_ITEM_REPLY_DEAD, 0))
			fail("%s ended without a reply", SERVICE_NAME);
		release(peer, message);		/* a late notification of the name, say */
	}
}

int main(int argc, char **argv)
{
	const char *bus = argc > 1 ? argv[1] : bus_name("sample");
	const char *text = argc > 2 ? argv[2] : "hello from the client";
	const struct kdbus_msg *reply;
	struct peer peer;
	char answer[4096];
	__u64 deadline;

	setlinebuf(stdout);
	if (argc > 3)
		fail("usage: client [BUS [TEXT]]");

	peer = connect_to_bus(bus, 0, 0);
	match_new_owner(&peer, SERVICE_NAME);
	deadline = now_ns() + PATIENCE;
	while (request(&peer, SERVICE_NAME, text, deadline) < 0) {
		if (errno != ESRCH)	/* ESRCH: nobody owns the name */
			fail("cannot call %s: %s", SERVICE_NAME, strerror(errno));
		wait_for_owner(&peer, SERVICE_NAME, deadline);
	}

	reply = wait_for_reply(&peer);
	copy_payload(&peer, reply, answer, sizeof(answer));
	printf("reply from connection %llu: %s\n", reply->src_id, answer);
	release(&peer, reply);
	disconnect(&peer);
	return EXIT_SUCCESS;
}
