// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who is on a bus, and under which names.
 *
 *     name-list [BUS]                 default: <uid>-sample
 *
 * Prints one line for each name that a connection owns or waits for, and one for each connection without any.
 */
#include "common.h"

#ifdef KDBUS_FLAG_NEGOTIATE
/* Entries, one after the other. */
typedef struct kdbus_info list_entry;
#define OWNER(entry) ((entry)->id)
#define FLAGS(entry) ((entry)->flags)
#define ENTRIES_AT 0
#else
/* Version 3: the size of all entries comes before them, and they have a structure of their own. */
typedef struct kdbus_name_info list_entry;
#define OWNER(entry) ((entry)->owner_id)
#define FLAGS(entry) ((entry)->conn_flags)
#define ENTRIES_AT offsetof(struct kdbus_name_list, names)
#define kdbus_cmd_list kdbus_cmd_name_list
#define KDBUS_CMD_LIST KDBUS_CMD_NAME_LIST
#define KDBUS_LIST_UNIQUE KDBUS_NAME_LIST_UNIQUE
#define KDBUS_LIST_NAMES KDBUS_NAME_LIST_NAMES
#define KDBUS_LIST_ACTIVATORS KDBUS_NAME_LIST_ACTIVATORS
#define KDBUS_LIST_QUEUED KDBUS_NAME_LIST_QUEUED
#endif

static void show(const list_entry *entry, __u64 own_id)
{
	const struct kdbus_item *item;
	const char *name = NULL;
	__u64 flags = 0;

	FOR_EACH_ITEM(item, entry)
		if (item->type == KDBUS_ITEM_OWNED_NAME && content_size(item) >= sizeof(item->name)) {
			name = item_string(item, sizeof(item->name));
			flags = item->name.flags;
		}
	printf("%llu %s%s%s%s%s\n", OWNER(entry), name ? name : "-",
	       flags & KDBUS_NAME_IN_QUEUE ? " (waiting)" : "",
	       flags & KDBUS_NAME_ALLOW_REPLACEMENT ? " (replaceable)" : "",
	       FLAGS(entry) & KDBUS_HELLO_ACTIVATOR ? " (activator)" : "",
	       OWNER(entry) == own_id ? " (this program)" : "");
}

int main(int argc, char **argv)
{
	const char *bus = argc > 1 ? argv[1] : bus_name("sample");
	struct kdbus_cmd_list command = {
		.size = sizeof(command),
		.flags = KDBUS_LIST_UNIQUE | KDBUS_LIST_NAMES | KDBUS_LIST_ACTIVATORS | KDBUS_LIST_QUEUED,
	};
	const list_entry *entry;
	const char *list, *end;
	struct peer peer;

	if (argc > 2)
		fail("usage: name-list [BUS]");
	peer = connect_to_bus(bus, 0, 0);
	if (ioctl(peer.descriptor, KDBUS_CMD_LIST, &command) < 0)
		fail("cannot list names: %s", strerror(errno));

	if (!in_pool(command.offset, command.list_size))
		fail("the list does not lie within the pool");
	list = peer.pool + command.offset;
	end = list + command.list_size;
	for (entry = (const list_entry *)(list + ENTRIES_AT); end - (const char *)entry >= (ptrdiff_t)sizeof(*entry);
	     entry = (const list_entry *)((const char *)entry + ALIGN8(entry->size))) {
		if (entry->size < sizeof(*entry) || entry->size > (__u64)(end - (const char *)entry))
			fail("an entry does not lie within the list");
		show(entry, peer.id);
	}
	free_slice(&peer, command.offset);
	disconnect(&peer);
	return EXIT_SUCCESS;
}
