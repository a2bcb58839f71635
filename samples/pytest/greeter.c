// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A small service, to be tested: it greets whoever tells it a name.
 *
 *     greeter BUS
 *
 * Which word to greet with, it asks another service. Where that fails, it is "Hello". It ends when the bus does.
 *
 * Built with the header of the final revision: cc -I"$(kdbus include-dir)" greeter.c -o greeter
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/kdbus.h>

#define GREETER "org.example.Greeter"
#define LANGUAGE "org.example.Language"

/* The bus does not look at it, and peers agree on one. This is ours. */
#define PAYLOAD_TEXT 0x5478744772656574ULL

#define POOL_SIZE (1024 * 1024)
#define SECOND 1000000000ULL
#define HEADER offsetof(struct kdbus_item, data)
#define ALIGN8(size) (((size) + 7) & ~(__u64)7)

struct peer {
	int descriptor;
	const char *pool;	/* POOL_SIZE bytes, which only the bus writes */
};

/* A command or a message with its items, each at a multiple of 8 bytes. Its first word is the size of the whole. */
struct buffer {
	__u64 words[128];
};

static void fail(const char *what, const char *which)
{
	fprintf(stderr, "greeter: cannot %s %s: %s\n", what, which, strerror(errno));
	exit(EXIT_FAILURE);
}

static void *begin(struct buffer *buffer, size_t size)
{
	memset(buffer, 0, sizeof(*buffer));
	buffer->words[0] = size;
	return buffer->words;
}

static void add(struct buffer *buffer, __u64 type, const void *content, size_t size)
{
	__u64 header[2] = { HEADER + size, type };
	char *item = (char *)buffer->words + buffer->words[0];

	if (size > sizeof(*buffer) || ALIGN8(header[0]) > sizeof(*buffer) - buffer->words[0]) {
		errno = EMSGSIZE;
		fail("put together", "a command");
	}
	memcpy(item, header, sizeof(header));
	memcpy(item + sizeof(header), content, size);
	buffer->words[0] += ALIGN8(header[0]);
}

static void add_payload(struct buffer *buffer, const char *text)
{
	struct kdbus_vec vec = { .size = strlen(text), .address = (__u64)(uintptr_t)text };

	add(buffer, KDBUS_ITEM_PAYLOAD_VEC, &vec, sizeof(vec));
}

static void give_back(const struct peer *peer, __u64 offset)
{
	struct kdbus_cmd_free command = { .size = sizeof(command), .offset = offset };

	if (ioctl(peer->descriptor, KDBUS_CMD_FREE, &command) < 0)
		fail("free", "a part of the pool");
}

/* Becomes a member of the bus. */
static struct peer connect_to(const char *bus)
{
	struct kdbus_cmd_hello hello = {
		.size = sizeof(hello), .attach_flags_send = _KDBUS_ATTACH_ALL, .pool_size = POOL_SIZE,
	};
	struct peer peer;
	char path[256];

	snprintf(path, sizeof(path), "/sys/fs/kdbus/%s/bus", bus);
	peer.descriptor = open(path, O_RDWR | O_CLOEXEC);
	if (peer.descriptor < 0)
		fail("open", path);
	if (ioctl(peer.descriptor, KDBUS_CMD_HELLO, &hello) < 0)
		fail("say hello to", path);
	peer.pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, peer.descriptor, 0);
	if (peer.pool == MAP_FAILED)
		fail("map the pool of", path);
	give_back(&peer, hello.offset);
	return peer;
}

static void acquire(const struct peer *peer, const char *name)
{
	struct buffer buffer;
	struct kdbus_cmd *command = begin(&buffer, sizeof(*command));

	add(&buffer, KDBUS_ITEM_NAME, name, strlen(name) + 1);
	if (ioctl(peer->descriptor, KDBUS_CMD_NAME_ACQUIRE, command) < 0)
		fail("acquire the name", name);
}

/* Copies the text of the message that lies at `offset` of the pool, and gives that back. */
static void take_text(const struct peer *peer, __u64 offset, char *text, size_t size)
{
	const struct kdbus_msg *message = (const void *)(peer->pool + offset);
	size_t used = 0;

	for (__u64 at = sizeof(*message); at < message->size;) {
		const struct kdbus_item *item = (const void *)((const char *)message + at);

		if (item->type == KDBUS_ITEM_PAYLOAD_OFF && item->vec.offset != ~0ULL) {
			size_t room = size - 1 - used, piece = item->vec.size < room ? item->vec.size : room;

			memcpy(text + used, (const char *)message + item->vec.offset, piece);
			used += piece;
		}
		at += ALIGN8(item->size);
	}
	text[used] = 0;
	give_back(peer, offset);
}

/* Asks the other service for the word to greet `who` with. */
static void find_word(const struct peer *peer, const char *who, char *word, size_t size)
{
	struct timespec now;
	struct buffer buffer;
	struct kdbus_msg *request = begin(&buffer, sizeof(*request));
	struct kdbus_cmd_send command = {
		.size = sizeof(command), .flags = KDBUS_SEND_SYNC_REPLY, .msg_address = (__u64)(uintptr_t)request,
	};

	clock_gettime(CLOCK_MONOTONIC, &now);
	request->flags = KDBUS_MSG_EXPECT_REPLY;
	request->payload_type = PAYLOAD_TEXT;
	request->cookie = 1;
	request->timeout_ns = ((__u64)now.tv_sec + 30) * SECOND;
	add(&buffer, KDBUS_ITEM_DST_NAME, LANGUAGE, sizeof(LANGUAGE));
	add_payload(&buffer, who);
	if (ioctl(peer->descriptor, KDBUS_CMD_SEND, &command) < 0) {
		fprintf(stderr, "no word from " LANGUAGE ": %s\n", strerror(errno));
		snprintf(word, size, "Hello");
		return;
	}
	take_text(peer, command.reply.offset, word, size);
}

/* Answers the request that lies at `offset` of the pool. */
static void greet(const struct peer *peer, __u64 offset)
{
	const struct kdbus_msg *request = (const void *)(peer->pool + offset);
	struct buffer buffer;
	struct kdbus_msg *reply = begin(&buffer, sizeof(*reply));
	struct kdbus_cmd_send command = { .size = sizeof(command), .msg_address = (__u64)(uintptr_t)reply };
	char who[100], word[100], text[256];

	reply->dst_id = request->src_id;
	reply->cookie_reply = request->cookie;
	reply->payload_type = PAYLOAD_TEXT;
	reply->cookie = 2;
	take_text(peer, offset, who, sizeof(who));
	find_word(peer, who, word, sizeof(word));
	snprintf(text, sizeof(text), "%s, %s!", word, who);
	add_payload(&buffer, text);
	if (ioctl(peer->descriptor, KDBUS_CMD_SEND, &command) < 0)
		fprintf(stderr, "cannot greet %s: %s\n", who, strerror(errno));
}

int main(int argc, char **argv)
{
	struct peer peer;

	if (argc != 2) {
		fprintf(stderr, "usage: greeter BUS\n");
		return EXIT_FAILURE;
	}
	peer = connect_to(argv[1]);
	acquire(&peer, GREETER);
	for (;;) {
		struct pollfd ready = { .fd = peer.descriptor, .events = POLLIN };
		struct kdbus_cmd_recv command = { .size = sizeof(command) };

		poll(&ready, 1, -1);
		if (ioctl(peer.descriptor, KDBUS_CMD_RECV, &command) == 0)
			greet(&peer, command.msg.offset);
		else if (errno == ECONNRESET)
			return EXIT_SUCCESS;
		else if (errno != EAGAIN && errno != EINTR)
			fail("receive from", argv[1]);
	}
}
