// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A service of version 2 that answers the calls (CALLS of them, or one) of a client of another revision: the program
 * that CLIENT names in the environment, which gets the bus's path, the service's id and the number of calls as
 * arguments.
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
	const char *calls = getenv("CALLS") ? getenv("CALLS") : "1";
	char id[32], text[64];
	pid_t child;

	make_bus();
	service = hello(bus_path);
	child = start_child();
	if (!child) {
		snprintf(id, sizeof(id), "%llu", (unsigned long long)service.id);
		execl(client, client, bus_path, id, calls, NULL);
		give_up();
	}
	for (long left = strtol(calls, NULL, 10); left; left--) {
		request = receive(&service);
		snprintf(text, sizeof(text), "%s", text_of(request));
		for (char *letter = text; *letter; letter++)
			*letter = (char)toupper(*letter);
		answer = begin_message(&buffer, request->src_id, 1, text);
		answer->cookie_reply = request->cookie;
		EQ(command(service.fd, KDBUS_CMD_MSG_SEND, answer), 0);
		EQ(give_back(&service, request), 0);
	}
	join(child);
}
