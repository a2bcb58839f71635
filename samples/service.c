// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A service: makes a bus, takes a name on it, answers requests.
 *
 *     service [BUS [REQUESTS]]        defaults: <uid>-sample, 1
 *
 * Each answer is the request in capitals. Try it together with the client:
 *
 *     kdbus run -- sh -c './service & ./client; wait'
 *
 * The bus ends with this program, and with the bus all connections, whatever is still queued in them. So after the last
 * answer the service stays until those whom it answered have left: the bus tells by a notification that a connection
 * is gone.
 */
#include "common.h"

#include <ctype.h>

struct service {
	struct peer peer;
	__u64 cookie;		/* of our latest message */
	size_t wanted;		/* requests to answer */
	size_t answered;
	__u64 *clients;		/* whom we answered; 0 once they have left */
};

static void acquire_name(const struct peer *peer, const char *name)
{
	struct buffer buffer;
	name_command *command = begin(&buffer, sizeof(*command));

	add_string(&buffer, KDBUS_ITEM_NAME, name);
	if (ioctl(peer->descriptor, KDBUS_CMD_NAME_ACQUIRE, command) < 0)
		fail("cannot acquire the name %s: %s", name, strerror(errno));
}

static void answer(struct service *service, const struct kdbus_msg *request)
{
	char text[4096];
	size_t length = copy_payload(&service->peer, request, text, sizeof(text));
	struct buffer buffer;
	struct kdbus_msg *reply;

	printf("request from connection %llu: %s\n", request->src_id, text);
	for (size_t i = 0; i < length; i++)
		text[i] = (char)toupper((unsigned char)text[i]);

	/* What makes it a reply is the cookie of the request. The bus refuses replies that nobody waits for. */
	reply = begin_message(&buffer, request->src_id, ++service->cookie);
	reply->cookie_reply = request->cookie;
	add_payload(&buffer, text, length + 1);
	if (send_message(&service->peer, &buffer) < 0) {
		/* The client lost patience or died. That is its business. */
		printf("could not answer connection %llu: %s\n", request->src_id, strerror(errno));
		return;
	}
	service->clients[service->answered++] = request->src_id;
}

/* A connection left: nobody has to wait for it any more. */
static void forget(struct service *service, __u64 id)
{
	for (size_t i = 0; i < service->answered; i++)
		if (service->clients[i] == id)
			service->clients[i] = 0;
}

static bool finished(const struct service *service)
{
	if (service->answered < service->wanted)
		return false;
	for (size_t i = 0; i < service->answered; i++)
		if (service->clients[i] != 0)
			return false;
	return true;
}

static void handle(struct service *service, const struct kdbus_msg *message)
{
	if (message->src_id == KDBUS_SRC_ID_KERNEL) {
		const struct kdbus_item *left =
			find_item(message, KDBUS_ITEM_ID_REMOVE, sizeof(struct kdbus_notify_id_change));

		if (left)
			forget(service, left->id_change.id);
	} else if (message->flags & KDBUS_MSG_EXPECT_REPLY && service->answered < service->wanted) {
		answer(service, message);
	}
}

int main(int argc, char **argv)
{
	const char *bus = argc > 1 ? argv[1] : bus_name("sample");
	struct kdbus_notify_id_change anybody = { .id = KDBUS_MATCH_ID_ANY };
	struct service service = { .wanted = 1 };
	const struct kdbus_msg *message;
	char *rest = "";

	setlinebuf(stdout);
	if (argc > 2)
		service.wanted = strtoul(argv[2], &rest, 10);
	if (argc > 3 || *rest || service.wanted < 1 || service.wanted > 1000000)
		fail("usage: service [BUS [REQUESTS]], with 1 to 1000000 requests");
	service.clients = calloc(service.wanted, sizeof(*service.clients));
	if (!service.clients)
		fail("out of memory");

	make_bus(bus);
	service.peer = connect_to_bus(bus, 0, 0);
	add_match(&service.peer, KDBUS_ITEM_ID_REMOVE, &anybody, sizeof(anybody));
	acquire_name(&service.peer, SERVICE_NAME);
	printf("serving %s on %s\n", SERVICE_NAME, bus);

	while (!finished(&service)) {
		wait_for_message(&service.peer, FOREVER);
		message = receive(&service.peer);
		if (message) {
			handle(&service, message);
			release(&service.peer, message);
		} else if (errno == ECONNRESET) {
			fail("the bus %s is gone", bus);
		}
		if (count_lost(&service.peer)) {
			/* We missed who left, so there is nobody to wait for by name. */
			memset(service.clients, 0, service.answered * sizeof(*service.clients));
		}
	}
	disconnect(&service.peer);
	free(service.clients);
	return EXIT_SUCCESS;
}
