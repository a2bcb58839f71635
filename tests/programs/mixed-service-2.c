// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A service of version 2 that answers the call of a client of another revision: the program that CLIENT names in the
 * environment, which gets the bus's path and the service's id as arguments.
 */
#include "version2.h"

#include <ctype.h>

CASE(serves_another_revision)
{
	struct connection service;
	struct buffer buffer;
	const struct kdbus_msg *request;
	struct kdbus_msg *answer;
	const char *client = getenv("CLIENT");
	char id[32], text[64];
	pid_t child;

	make_bus();
	service = hello(bus_path);
	child = start_child();
	if (!child) {
		snprintf(id, sizeof(id), "%llu", (unsigned long long)service.id);
		execl(client, client, bus_path, id, NULL);
		give_up();
	}
	request = receive(&service);
	snprintf(text, sizeof(text), "%s", text_of(request));
	for (char *letter = text; *letter; letter++)
		*letter = (char)toupper(*letter);
	answer = begin_message(&buffer, request->src_id, 1, text);
	answer->cookie_reply = request->cookie;
	EQ(command(service.fd, KDBUS_CMD_MSG_SEND, answer), 0);
	join(child);
}
