// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A synchronous call: SEND does not return before the reply is there.
 *
 *     sync-call
 *
 * It saves the caller poll and RECV: SEND itself puts the reply into the caller's pool and says where. A thread plays
 * the service; it cannot tell this call from any other, and replies as always. A second call shows what happens when
 * no reply comes: SEND fails with ETIMEDOUT when the timeout passes, and a reply that comes later is refused.
 */
#include "common.h"

#include <pthread.h>

#define QUESTION 1
#define RIDDLE 2

/* Calls `destination`, and waits. Returns the reply, to be released, or NULL with errno. */
static const struct kdbus_msg *call(struct peer *peer, __u64 destination, __u64 cookie, const char *text, __u64 timeout)
{
	struct buffer buffer;
	struct kdbus_msg *message = begin_message(&buffer, destination, cookie);
	struct kdbus_cmd_send command = {
		.size = sizeof(command),
		.flags = KDBUS_SEND_SYNC_REPLY,
		.msg_address = (__u64)(uintptr_t)message,
	};

	message->flags = KDBUS_MSG_EXPECT_REPLY;
	message->timeout_ns = now_ns() + timeout;
	add_payload(&buffer, text, strlen(text) + 1);
	if (ioctl(peer->descriptor, KDBUS_CMD_SEND, &command) < 0)
		return NULL;
	peer->received = command.reply;
	return message_at(peer, command.reply.offset);
}

static int reply(const struct peer *peer, __u64 destination, __u64 cookie, const char *text)
{
	struct buffer buffer;
	struct kdbus_msg *message = begin_message(&buffer, destination, cookie);

	message->cookie_reply = cookie;
	add_payload(&buffer, text, strlen(text) + 1);
	return send_message(peer, &buffer);
}

/* The service: one question that it answers, one that it does not. */
static void *serve(void *argument)
{
	struct peer *peer = argument;

	for (int i = 0; i < 2; i++) {
		const struct kdbus_msg *message;
		char text[256];

		if (!wait_for_message(peer, now_ns() + PATIENCE))
			fail("no request came");
		message = receive(peer);
		if (!message)
			fail("the service cannot receive: %s", strerror(errno));
		copy_payload(peer, message, text, sizeof(text));
		printf("service was asked: %s\n", text);
		if (message->cookie == QUESTION && reply(peer, message->src_id, QUESTION, "forty-two") < 0)
			fail("the service cannot reply: %s", strerror(errno));
		release(peer, message);
	}
	return NULL;
}

int main(void)
{
	const char *bus = bus_name("sync-call");
	const struct kdbus_msg *answer;
	struct peer service, caller;
	pthread_t thread;
	char text[256];
	int error;

	setlinebuf(stdout);
	make_bus(bus);
	service = connect_to_bus(bus, 0, 0);
	caller = connect_to_bus(bus, 0, 0);
	if (pthread_create(&thread, NULL, serve, &service) != 0)
		fail("cannot start a thread");

	answer = call(&caller, service.id, QUESTION, "what is six times seven?", PATIENCE);
	if (!answer)
		fail("the call failed: %s", strerror(errno));
	copy_payload(&caller, answer, text, sizeof(text));
	printf("caller was told: %s\n", text);
	release(&caller, answer);

	answer = call(&caller, service.id, RIDDLE, "what have I got in my pocket?", SECOND / 2);
	error = errno;
	if (answer)
		fail("there was an answer where none was sent");
	pthread_join(thread, NULL);
	printf("caller was told nothing: %s\n", strerror(error));

	if (reply(&service, caller.id, RIDDLE, "a ring") == 0)
		fail("a late reply was accepted");
	printf("service was too late: %s\n", strerror(errno));

	disconnect(&caller);
	disconnect(&service);
	return EXIT_SUCCESS;
}
