// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Shows all messages on a bus.
 *
 *     monitor [BUS [MESSAGES]]        defaults: <uid>-sample, until the bus ends
 *
 * A monitor gets a copy of every message, whoever it is for, and of every notification; it cannot send, needs no
 * matches, and nobody can see it. Only the user who made the bus (or a privileged one) may be a monitor. Copies that
 * find no room, in its pool or its queue of 256, are lost, so read quickly.
 */
#include "common.h"

static const char *const names[] = {
	[KDBUS_ITEM_NAME_ADD - _KDBUS_ITEM_KERNEL_BASE] = "name acquired",
	[KDBUS_ITEM_NAME_REMOVE - _KDBUS_ITEM_KERNEL_BASE] = "name released",
	[KDBUS_ITEM_NAME_CHANGE - _KDBUS_ITEM_KERNEL_BASE] = "name changed owner",
	[KDBUS_ITEM_ID_ADD - _KDBUS_ITEM_KERNEL_BASE] = "joined",
	[KDBUS_ITEM_ID_REMOVE - _KDBUS_ITEM_KERNEL_BASE] = "left",
	[KDBUS_ITEM_REPLY_TIMEOUT - _KDBUS_ITEM_KERNEL_BASE] = "reply timed out",
	[KDBUS_ITEM_REPLY_DEAD - _KDBUS_ITEM_KERNEL_BASE] = "replier died",
};

static void show_notification(const struct kdbus_item *item, const struct kdbus_msg *message)
{
	const char *what = names[item->type - _KDBUS_ITEM_KERNEL_BASE];

	switch (item->type) {
	case KDBUS_ITEM_ID_ADD:
	case KDBUS_ITEM_ID_REMOVE:
		if (content_size(item) >= sizeof(item->id_change))
			printf("notification: %llu %s\n", item->id_change.id, what);
		break;
	case KDBUS_ITEM_REPLY_TIMEOUT:
	case KDBUS_ITEM_REPLY_DEAD:
		printf("notification: %s: to %llu, cookie %llu\n", what, message->dst_id, message->cookie_reply);
		break;
	default:
		if (content_size(item) >= sizeof(item->name_change)) {
			const char *name = item_string(item, sizeof(item->name_change));

			printf("notification: %s: %s, %llu -> %llu\n", what, name ? name : "-",
			       item->name_change.old_id.id, item->name_change.new_id.id);
		}
	}
}

static void show_message(const struct peer *peer, const struct kdbus_msg *message)
{
	const char *kind = message->flags & KDBUS_MSG_EXPECT_REPLY ? "request" :
			   message->flags & KDBUS_MSG_SIGNAL	   ? "signal" :
			   message->cookie_reply		   ? "reply" :
								     "message";
	const struct kdbus_item *item;
	char text[256], destination[256] = "all";

	if (message->dst_id != KDBUS_DST_ID_BROADCAST)
		snprintf(destination, sizeof(destination), "%llu", message->dst_id);
	FOR_EACH_ITEM(item, message)
		if (item->type == KDBUS_ITEM_DST_NAME && item_string(item, 0))
			snprintf(destination, sizeof(destination), "%s", item_string(item, 0));

	printf("%s: %llu -> %s, cookie %llu", kind, message->src_id, destination, message->cookie);
	if (message->payload_type == PAYLOAD_TEXT) {
		copy_payload(peer, message, text, sizeof(text));
		printf(": %s", text);
	}
	putchar('\n');
}

static void show(const struct peer *peer, const struct kdbus_msg *message)
{
	const struct kdbus_item *item;

	if (message->src_id != KDBUS_SRC_ID_KERNEL) {
		show_message(peer, message);
		return;
	}
	FOR_EACH_ITEM(item, message)
		if (item->type >= _KDBUS_ITEM_KERNEL_BASE && item->type <= KDBUS_ITEM_REPLY_DEAD)
			show_notification(item, message);
}

int main(int argc, char **argv)
{
	const char *bus = argc > 1 ? argv[1] : bus_name("sample");
	unsigned long left = ULONG_MAX;
	char *rest = "";
	struct peer peer;

	setlinebuf(stdout);
	if (argc > 2)
		left = strtoul(argv[2], &rest, 10);
	if (argc > 3 || *rest)
		fail("usage: monitor [BUS [MESSAGES]]");
	/* Descriptors come with copies of messages, too. */
	peer = connect_to_bus(bus, KDBUS_HELLO_MONITOR | KDBUS_HELLO_ACCEPT_FD, 0);
	printf("monitoring %s\n", bus);

	while (left > 0) {
		const struct kdbus_msg *message;

		wait_for_message(&peer, FOREVER);
		message = receive(&peer);
		if (message) {
			show(&peer, message);
			release(&peer, message);
			left--;
		} else if (errno == ECONNRESET) {
			break;		/* the bus has ended */
		}
		if (count_lost(&peer))
			printf("messages were lost\n");
	}
	disconnect(&peer);
	return EXIT_SUCCESS;
}
