// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A service of version 3 that answers the call of a client of another revision: the program that CLIENT names in the
 * environment, which gets the bus's path and the service's id as arguments.
 */
#include "e2e.h"

#include <ctype.h>

CASE(serves_another_revision)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path);
	const struct kdbus_msg *request;
	const char *client = getenv("CLIENT");
	char id[32], text[64];
	pid_t child = start_child();

	if (!child) {
		snprintf(id, sizeof(id), "%llu", (unsigned long long)service.id);
		execl(client, client, bus.path, id, NULL);
		give_up();
	}
	request = await_message(&service);
	snprintf(text, sizeof(text), "%s", text_of(&service, request));
	CHECK(!strncmp(text, "hello from ", 11));
	for (char *letter = text; *letter; letter++)
		*letter = (char)toupper(*letter);
	EQ(SEND(&service, .to = request->src_id, .payload = text, .size = strlen(text) + 1, .reply_to = request->cookie), 0);
	join(child);
}
