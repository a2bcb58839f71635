// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who is on a bus, and under which names.
 *
 *     name-list [BUS]                 default: <uid>-sample
 *
 * Prints one line for each name that a connection owns or waits for, and one for each connection without any.
 */
#include "common.h"

static void show(const struct kdbus_name_info *entry, __u64 own_id)
{
	const struct kdbus_item *item;
	const char *name = NULL;
	__u64 flags = 0;

	FOR_EACH_ITEM(item, entry)
		if (item->type == KDBUS_ITEM_OWNED_NAME && content_size(item) >= sizeof(item->name)) {
			name = item_string(item, sizeof(item->name));
			flags = item->name.flags;
		}
	printf("%llu %s%s%s%s%s\n", entry->owner_id, name ? name : "-",
	       flags & KDBUS_NAME_IN_QUEUE ? " (waiting)" : "",
	       flags & KDBUS_NAME_ALLOW_REPLACEMENT ? " (replaceable)" : "",
	       entry->conn_flags & KDBUS_HELLO_ACTIVATOR ? " (activator)" : "",
	       entry->owner_id == own_id ? " (this program)" : "");
}

int main(int argc, char **argv)
{
	const char *bus = argc > 1 ? argv[1] : bus_name("sample");
	struct kdbus_cmd_name_list command = {
		.size = sizeof(command),
		.flags = KDBUS_NAME_LIST_UNIQUE | KDBUS_NAME_LIST_NAMES | KDBUS_NAME_LIST_ACTIVATORS |
			 KDBUS_NAME_LIST_QUEUED,
	};
	const struct kdbus_name_info *entry;
	const struct kdbus_name_list *list;
	const char *end;
	struct peer peer;

	if (argc > 2)
		fail("usage: name-list [BUS]");
	peer = connect_to_bus(bus, 0, 0);
	if (ioctl(peer.descriptor, KDBUS_CMD_NAME_LIST, &command) < 0)
		fail("cannot list names: %s", strerror(errno));

	list = (const struct kdbus_name_list *)(peer.pool + command.offset);
	if (!in_pool(command.offset, sizeof(*list)) || !in_pool(command.offset, list->size))
		fail("the list does not lie within the pool");
	end = (const char *)list + list->size;
	for (entry = list->names; end - (const char *)entry >= (ptrdiff_t)sizeof(*entry);
	     entry = (const struct kdbus_name_info *)((const char *)entry + ALIGN8(entry->size))) {
		if (entry->size < sizeof(*entry) || entry->size > (__u64)(end - (const char *)entry))
			fail("an entry does not lie within the list");
		show(entry, peer.id);
	}
	free_slice(&peer, command.offset);
	disconnect(&peer);
	return EXIT_SUCCESS;
}
