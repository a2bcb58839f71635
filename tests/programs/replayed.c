// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Two sides that `kdbus replay` plays against each other. Both revisions' headers will do.
 *
 *     replayed shop BUS PRICE N       owns org.example.Shop, says that it is open, answers N requests with
 *                                     "TEXT costs PRICE", then tells everybody that it is closed
 *     replayed buyer BUS TEXT...      asks for each, synchronously, and waits to be told that the shop is closed
 */
#include "common.h"

#define SHOP "org.example.Shop"

static char filter[64];

static void shop(const char *bus, const char *price, int requests)
{
	struct peer peer = connect_to_bus(bus, 0, 0);
	struct buffer buffer;
	char text[256], answer[512];
	const struct kdbus_msg *request;
	struct kdbus_msg *message;
	struct {
		__u64 generation;
		char data[sizeof(filter)];
	} bloom = { 0, "" };

	name_command *command = begin(&buffer, sizeof(*command));

	add_string(&buffer, KDBUS_ITEM_NAME, SHOP);
	if (ioctl(peer.descriptor, KDBUS_CMD_NAME_ACQUIRE, command) < 0)
		fail("cannot acquire the name: %s", strerror(errno));
	printf("open\n");
	for (int i = 0; i < requests; i++) {
		wait_for_message(&peer, FOREVER);
		request = receive(&peer);
		if (!request)
			fail("no request: %s", strerror(errno));
		copy_payload(&peer, request, text, sizeof(text));
		snprintf(answer, sizeof(answer), "%s costs %s", text, price);
		message = begin_message(&buffer, request->src_id, 100 + i);
		message->cookie_reply = request->cookie;
		add_payload(&buffer, answer, strlen(answer) + 1);
		release(&peer, request);
		if (send_message(&peer, &buffer) < 0)
			fail("cannot answer: %s", strerror(errno));
	}
	message = begin_message(&buffer, KDBUS_DST_ID_BROADCAST, 200);
	message->flags = KDBUS_MSG_SIGNAL;
	add_item(&buffer, KDBUS_ITEM_BLOOM_FILTER, &bloom, sizeof(bloom));
	add_payload(&buffer, "closed", 7);
	if (send_message(&peer, &buffer) < 0)
		fail("cannot tell: %s", strerror(errno));
	disconnect(&peer);
}

static void buyer(const char *bus, char **wishes)
{
	struct peer peer = connect_to_bus(bus, 0, 0);
	struct buffer buffer;
	char text[512];
	const struct kdbus_msg *message;

	add_match(&peer, KDBUS_ITEM_BLOOM_MASK, filter, sizeof(filter));
	for (__u64 cookie = 1; *wishes; wishes++, cookie++) {
		struct kdbus_cmd_send send = { .size = sizeof(send), .flags = KDBUS_SEND_SYNC_REPLY };
		struct kdbus_msg *request = begin_message(&buffer, KDBUS_DST_ID_NAME, cookie);

		request->flags = KDBUS_MSG_EXPECT_REPLY;
		request->timeout_ns = now_ns() + PATIENCE;
		add_string(&buffer, KDBUS_ITEM_DST_NAME, SHOP);
		add_payload(&buffer, *wishes, strlen(*wishes) + 1);
		send.msg_address = (__u64)(uintptr_t)buffer.words;
		if (ioctl(peer.descriptor, KDBUS_CMD_SEND, &send) < 0)
			fail("cannot ask for %s: %s", *wishes, strerror(errno));
		peer.received = send.reply;
		message = message_at(&peer, send.reply.offset);
		copy_payload(&peer, message, text, sizeof(text));
		release(&peer, message);
		printf("%s\n", text);
	}
	wait_for_message(&peer, FOREVER);
	message = receive(&peer);
	if (!message)
		fail("nothing was told: %s", strerror(errno));
	copy_payload(&peer, message, text, sizeof(text));
	printf("%s\n", text);
	release(&peer, message);
	disconnect(&peer);
}

int main(int argc, char **argv)
{
	setlinebuf(stdout);
	if (argc == 5 && !strcmp(argv[1], "shop"))
		shop(argv[2], argv[3], atoi(argv[4]));
	else if (argc > 2 && !strcmp(argv[1], "buyer"))
		buyer(argv[2], argv + 3);
	else
		fail("usage: replayed shop BUS PRICE N, or replayed buyer BUS TEXT...");
	return EXIT_SUCCESS;
}
