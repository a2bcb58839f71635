// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A small service, to be tested: it greets whoever tells it a name.
 *
 *     greeter BUS
 *
 * Which word to greet with, it asks another service. Where that fails, it is "Hello". It ends when the bus does.
 */
#include "../common.h"

#define GREETER "org.example.Greeter"
#define LANGUAGE "org.example.Language"

static void acquire_name(const struct peer *peer, const char *name)
{
	struct buffer buffer;
	name_command *command = begin(&buffer, sizeof(*command));

	add_string(&buffer, KDBUS_ITEM_NAME, name);
	if (ioctl(peer->descriptor, KDBUS_CMD_NAME_ACQUIRE, command) < 0)
		fail("cannot acquire the name %s: %s", name, strerror(errno));
}

/* Asks the other service for the word to greet `who` with. */
static void find_word(struct peer *peer, const char *who, char *word, size_t size)
{
	struct buffer buffer;
	struct kdbus_msg *request = begin_message(&buffer, KDBUS_DST_ID_NAME, 1);
	struct kdbus_cmd_send command = {
		.size = sizeof(command),
		.flags = KDBUS_SEND_SYNC_REPLY,
		.msg_address = (__u64)(uintptr_t)request,
	};
	const struct kdbus_msg *reply;

	request->flags = KDBUS_MSG_EXPECT_REPLY;
	request->timeout_ns = now_ns() + PATIENCE;
	add_string(&buffer, KDBUS_ITEM_DST_NAME, LANGUAGE);
	add_payload(&buffer, who, strlen(who));
	if (ioctl(peer->descriptor, KDBUS_CMD_SEND, &command) < 0) {
		fprintf(stderr, "no word from " LANGUAGE ": %s\n", strerror(errno));
		snprintf(word, size, "Hello");
		return;
	}
	peer->received = command.reply;
	reply = message_at(peer, command.reply.offset);
	copy_payload(peer, reply, word, size);
	release(peer, reply);
}

static void greet(struct peer *peer, const struct kdbus_msg *request)
{
	__u64 from = request->src_id, cookie = request->cookie;
	char who[100], word[100], text[256];
	struct buffer buffer;
	struct kdbus_msg *reply;

	copy_payload(peer, request, who, sizeof(who));
	release(peer, request);
	find_word(peer, who, word, sizeof(word));
	snprintf(text, sizeof(text), "%s, %s!", word, who);
	reply = begin_message(&buffer, from, 2);
	reply->cookie_reply = cookie;
	add_payload(&buffer, text, strlen(text));
	if (send_message(peer, &buffer) < 0)
		fprintf(stderr, "cannot greet %s: %s\n", who, strerror(errno));
}

int main(int argc, char **argv)
{
	struct peer peer;

	if (argc != 2)
		fail("usage: greeter BUS");
	peer = connect_to_bus(argv[1], 0, 0);
	acquire_name(&peer, GREETER);
	for (;;) {
		const struct kdbus_msg *message;

		wait_for_message(&peer, FOREVER);
		message = receive(&peer);
		if (message)
			greet(&peer, message);
		else if (errno == ECONNRESET)
			return EXIT_SUCCESS;
	}
}
