// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What all samples share. Read it before the samples themselves: it holds the steps that every kdbus program takes.
 *
 *     make_bus            a new bus; it lives as long as the descriptor that is returned
 *     connect_to_bus      open the bus's node, say HELLO, map the pool
 *     wait_for_message    poll until a message is queued
 *     receive, release    RECV a message into the pool; FREE it after use
 *     copy_payload        the bytes of a message
 *     send_message        SEND a message that was put together with begin and add_item
 *
 * Two habits are worth copying. A command or message is built in a zeroed buffer, its items each at a multiple of
 * 8 bytes, and its first member always holds the size of the whole. And nothing that was received is used before its
 * size has been compared with what is left: first the message within the pool, then the item within the message, then
 * the payload within the pool.
 *
 * Errors end the program: that is right for a sample, not for a service.
 *
 * The samples are written for the final revision of kdbus, and build for version 4, which has the same header but for
 * some constants. With the header of version 3 they are programs of that: what is different stands in one place below.
 */
#ifndef SAMPLES_COMMON_H
#define SAMPLES_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/kdbus.h>

#define MOUNT_POINT "/sys/fs/kdbus"
#define SERVICE_NAME "org.example.Sample"

/* The bus does not look at the payload type, unless it is KDBUS_PAYLOAD_KERNEL. Peers agree on one; this is ours. */
#define PAYLOAD_TEXT 0x53616d706c655478ULL

#define POOL_SIZE (1024 * 1024)
#define SECOND 1000000000ULL
#define PATIENCE (30 * SECOND)	/* for whatever should happen soon */
#define FOREVER (~0ULL >> 1)	/* as a deadline */

#ifdef KDBUS_FLAG_NEGOTIATE
typedef struct kdbus_cmd make_command, name_command;
#define PAYLOAD_IN_MESSAGE true		/* offsets of payload count from the message */
#define HELLO_ITEMS_AT 0
#else
/* Version 3: each command has a structure of its own. Results of HELLO begin with their size. */
typedef struct kdbus_cmd_make make_command;
typedef struct kdbus_cmd_name name_command;
#define PAYLOAD_IN_MESSAGE false	/* they count from the pool */
#define HELLO_ITEMS_AT offsetof(struct kdbus_item_list, items)
#endif

#define ITEM_HEADER_SIZE offsetof(struct kdbus_item, data)
#define ALIGN8(size) (((size) + 7) & ~(__u64)7)

/* ---- errors ---- */

__attribute__((noreturn, format(printf, 1, 2)))
static inline void fail(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(EXIT_FAILURE);
}

/* After a failed open of what every kdbus file system has. */
__attribute__((noreturn))
static inline void fail_without_kdbus(const char *path)
{
	if (errno != ENOENT && errno != ENOTDIR)
		fail("cannot open %s: %s", path, strerror(errno));
	fail("there is no kdbus here: cannot open %s: %s\n"
	     "Run me under it: kdbus run -- %s", path, strerror(errno), program_invocation_name);
}

/* ---- time ---- */

/* Now, as kdbus counts it: CLOCK_MONOTONIC in nanoseconds. Timeouts of requests are such points in time. */
static inline __u64 now_ns(void)
{
	struct timespec time;

	if (clock_gettime(CLOCK_MONOTONIC, &time) < 0)
		fail("cannot read the clock: %s", strerror(errno));
	return (__u64)time.tv_sec * SECOND + (__u64)time.tv_nsec;
}

/* Waits until `descriptor` can be read. False if the deadline passed before. A hang-up counts as readable: whoever
 * reads next gets the error. */
static inline bool wait_readable(int descriptor, __u64 deadline)
{
	struct pollfd entry = { .fd = descriptor, .events = POLLIN };

	for (;;) {
		__u64 now = now_ns();
		__u64 left = now < deadline ? deadline - now : 0;
		struct timespec timeout = { .tv_sec = (time_t)(left / SECOND), .tv_nsec = (long)(left % SECOND) };
		int ready = ppoll(&entry, 1, &timeout, NULL);

		if (ready > 0)
			return true;
		if (ready == 0)
			return false;
		if (errno != EINTR)
			fail("cannot poll: %s", strerror(errno));
	}
}

/* ---- building commands and messages ---- */

/* Room for one command or message with its items. */
struct buffer {
	__u64 words[1024];
	size_t used;
};

/* Starts a command or message whose fixed part has `size` bytes. Returns it, all zero but for its size. */
static inline void *begin(struct buffer *buffer, size_t size)
{
	memset(buffer, 0, sizeof(*buffer));
	buffer->words[0] = buffer->used = size;
	return buffer->words;
}

/* Appends an item with `size` bytes of content; `content` may be NULL for zeros. Returns the place of the content. */
static inline void *add_item(struct buffer *buffer, __u64 type, const void *content, size_t size)
{
	__u64 header[2] = { ITEM_HEADER_SIZE + size, type };
	char *item = (char *)buffer->words + buffer->used;

	if (size > sizeof(buffer->words) || ALIGN8(header[0]) > sizeof(buffer->words) - buffer->used)
		fail("an item of %zu bytes does not fit any more", size);
	memcpy(item, header, sizeof(header));
	if (content)
		memcpy(item + sizeof(header), content, size);
	buffer->used += ALIGN8(header[0]);
	buffer->words[0] = buffer->used;
	return item + sizeof(header);
}

static inline void add_string(struct buffer *buffer, __u64 type, const char *string)
{
	add_item(buffer, type, string, strlen(string) + 1);
}

/* Payload by reference: the bus copies it straight to the receiver's pool while SEND runs. */
static inline void add_payload(struct buffer *buffer, const void *data, size_t size)
{
	struct kdbus_vec vec = { .size = size, .address = (__u64)(uintptr_t)data };

	add_item(buffer, KDBUS_ITEM_PAYLOAD_VEC, &vec, sizeof(vec));
}

/* ---- reading items ---- */

/* Whether a whole item stands between `item` and `end`. */
static inline bool item_fits(const struct kdbus_item *item, const char *end)
{
	ptrdiff_t left = end - (const char *)item;

	return left >= (ptrdiff_t)ITEM_HEADER_SIZE && item->size >= ITEM_HEADER_SIZE && item->size <= (__u64)left;
}

static inline const struct kdbus_item *next_item(const struct kdbus_item *item)
{
	return (const struct kdbus_item *)((const char *)item + ALIGN8(item->size));
}

/* Every item of a struct that has members `size` and `items`, such as a message. */
#define FOR_EACH_ITEM(item, container)                                                             \
	FOR_EACH_ITEM_UNTIL(item, (container)->items, (const char *)(container) + (container)->size)

#define FOR_EACH_ITEM_UNTIL(item, first, end) \
	for ((item) = (first); item_fits((item), (end)); (item) = next_item(item))

static inline __u64 content_size(const struct kdbus_item *item)
{
	return item->size - ITEM_HEADER_SIZE;
}

/* The string that stands `skip` bytes into an item's content, NULL if it does not end within the item. */
static inline const char *item_string(const struct kdbus_item *item, size_t skip)
{
	const char *string = (const char *)item + ITEM_HEADER_SIZE + skip;

	if (content_size(item) <= skip || !memchr(string, 0, content_size(item) - skip))
		return NULL;
	return string;
}

/* The first item of that type if it has at least `size` bytes of content, NULL otherwise. */
static inline const struct kdbus_item *find_item(const struct kdbus_msg *message, __u64 type, __u64 size)
{
	const struct kdbus_item *item;

	FOR_EACH_ITEM(item, message)
		if (item->type == type)
			return content_size(item) >= size ? item : NULL;
	return NULL;
}

/* ---- buses ---- */

/* "<uid>-<suffix>": the name of a bus has to start with the number of the user who makes it. */
static inline const char *bus_name(const char *suffix)
{
	static char name[64];

	if (snprintf(name, sizeof(name), "%u-%s", geteuid(), suffix) >= (int)sizeof(name))
		fail("the name of the bus is too long: %s", suffix);
	return name;
}

/* Makes a bus. It ends when the descriptor that is returned is closed, at the latest when the program ends. */
static inline int make_bus(const char *name)
{
	/* 64 bytes of bloom filter are plenty; 8 would be the least. Who sends signals sees these numbers at HELLO. */
	struct kdbus_bloom_parameter bloom = { .size = 64, .n_hash = 4 };
	struct buffer buffer;
	make_command *make = begin(&buffer, sizeof(*make));
	int control = open(MOUNT_POINT "/control", O_RDWR | O_CLOEXEC);

	if (control < 0)
		fail_without_kdbus(MOUNT_POINT "/control");
	add_item(&buffer, KDBUS_ITEM_BLOOM_PARAMETER, &bloom, sizeof(bloom));
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, name);
	if (ioctl(control, KDBUS_CMD_BUS_MAKE, make) < 0)
		fail("cannot make the bus %s: %s%s", name, strerror(errno),
		     errno == EEXIST ? "\nSomebody else has made it; end that program or choose another name." : "");
	return control;
}

/* Watches a folder. Through its descriptor, so that it is the same folder that open(2) leads to. False if there is no
 * such folder. */
static inline bool watch_folder(int events, const char *path)
{
	char link[64];
	int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (folder < 0)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", folder);
	if (inotify_add_watch(events, link, IN_CREATE | IN_MOVED_TO | IN_ATTRIB) < 0)
		fail("cannot watch %s: %s", path, strerror(errno));
	close(folder);
	return true;
}

/* Opens the node of a bus, which may appear later. inotify wakes us up when something appears; the kernel's own
 * kdbusfs raised no such events for buses, so that a look once a second stands by. */
static inline int open_bus(const char *name)
{
	__u64 deadline = now_ns() + PATIENCE;
	char folder[PATH_MAX], node[PATH_MAX + sizeof("/bus")], event[4096];
	int events = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	bool told = false;
	int descriptor;

	if (events < 0)
		fail("cannot use inotify: %s", strerror(errno));
	if (snprintf(folder, sizeof(folder), MOUNT_POINT "/%s", name) >= (int)sizeof(folder))
		fail("the name of the bus is too long: %s", name);
	snprintf(node, sizeof(node), "%s/bus", folder);

	if (!watch_folder(events, MOUNT_POINT))
		fail_without_kdbus(MOUNT_POINT);
	for (;;) {
		/* Watch first, then look: what appears in between is seen or announced. */
		watch_folder(events, folder);
		descriptor = open(node, O_RDWR | O_CLOEXEC);
		if (descriptor >= 0)
			break;
		/* ESHUTDOWN: it is still there, but about to go; another may follow */
		if (errno != ENOENT && errno != ESHUTDOWN)
			fail("cannot open %s: %s", node, strerror(errno));
		if (!told)
			fprintf(stderr, "%s: waiting for the bus %s\n", program_invocation_short_name, name);
		told = true;
		wait_readable(events, now_ns() + SECOND);
		while (read(events, event, sizeof(event)) > 0)
			;
		if (now_ns() >= deadline)
			fail("no bus %s appeared within %llu seconds; is a service running, and inside the same\n"
			     "kdbus run? For example: kdbus run -- sh -c './service & ./client; wait'", name,
			     PATIENCE / SECOND);
	}
	close(events);
	return descriptor;
}

/* ---- connections ---- */

struct peer {
	int descriptor;
	__u64 id;
	const char *pool;			/* POOL_SIZE bytes, read-only */
	struct kdbus_bloom_parameter bloom;
	struct kdbus_msg_info received;		/* of the latest RECV */
	__u64 lost;				/* messages that found no room, until somebody looks */
};

/* Gives back a part of the pool. */
static inline void free_slice(const struct peer *peer, __u64 offset)
{
	struct kdbus_cmd_free command = { .size = sizeof(command), .offset = offset };

	if (ioctl(peer->descriptor, KDBUS_CMD_FREE, &command) < 0)
		fail("cannot free what lies at %llu in the pool: %s", offset, strerror(errno));
}

/* Whether `size` bytes from `offset` lie within the pool. */
static inline bool in_pool(__u64 offset, __u64 size)
{
	return offset <= POOL_SIZE && size <= POOL_SIZE - offset;
}

/* Becomes a member of the bus `name`. `flags` are KDBUS_HELLO_*; `metadata` (KDBUS_ATTACH_*) is what messages
 * shall tell about their senders. */
static inline struct peer connect_to_bus(const char *name, __u64 flags, __u64 metadata)
{
	struct peer peer = { .descriptor = open_bus(name) };
	struct buffer buffer;
	struct kdbus_cmd_hello *hello = begin(&buffer, sizeof(*hello));
	const char *answer;
	const struct kdbus_item *item;

	hello->flags = flags;
	hello->attach_flags_send = _KDBUS_ATTACH_ALL;
	hello->attach_flags_recv = metadata;
	hello->pool_size = POOL_SIZE;
	add_string(&buffer, KDBUS_ITEM_CONN_DESCRIPTION, program_invocation_short_name);
	if (ioctl(peer.descriptor, KDBUS_CMD_HELLO, hello) < 0)
		fail("cannot say hello to the bus %s: %s", name, strerror(errno));
	peer.id = hello->id;

	peer.pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, peer.descriptor, 0);
	if (peer.pool == MAP_FAILED)
		fail("cannot map the pool: %s", strerror(errno));

	/* HELLO left items in the pool: the parameters that the bus was made with. */
	answer = peer.pool + hello->offset;
	if (!in_pool(hello->offset, hello->items_size))
		fail("the answer to HELLO does not lie within the pool");
	FOR_EACH_ITEM_UNTIL(item, (const struct kdbus_item *)(answer + HELLO_ITEMS_AT), answer + hello->items_size)
		if (item->type == KDBUS_ITEM_BLOOM_PARAMETER && content_size(item) >= sizeof(peer.bloom))
			peer.bloom = item->bloom_parameter;
	free_slice(&peer, hello->offset);
	return peer;
}

static inline void disconnect(struct peer *peer)
{
	munmap((void *)peer->pool, POOL_SIZE);
	close(peer->descriptor);
}

/* Wants the notifications of one kind: an item of `type` with that content. */
static inline void add_match(const struct peer *peer, __u64 type, const void *content, size_t size)
{
	struct buffer buffer;
	struct kdbus_cmd_match *match = begin(&buffer, sizeof(*match));

	add_item(&buffer, type, content, size);
	if (ioctl(peer->descriptor, KDBUS_CMD_MATCH_ADD, match) < 0)
		fail("cannot add a match: %s", strerror(errno));
}

/* ---- messages ---- */

/* Starts a message. Payload and, for KDBUS_DST_ID_NAME, the name follow as items. */
static inline struct kdbus_msg *begin_message(struct buffer *buffer, __u64 destination, __u64 cookie)
{
	struct kdbus_msg *message = begin(buffer, sizeof(*message));

	message->dst_id = destination;
	message->payload_type = PAYLOAD_TEXT;
	message->cookie = cookie;
	return message;
}

/* Sends, and does not wait: when SEND returns, the message is in the receiver's queue. Returns 0, or -1 with errno. */
static inline int send_message(const struct peer *peer, const struct buffer *buffer)
{
	struct kdbus_cmd_send command = {
		.size = sizeof(command),
		.msg_address = (__u64)(uintptr_t)buffer->words,
	};

	return ioctl(peer->descriptor, KDBUS_CMD_SEND, &command);
}

/* Waits until a message is queued or the connection is cut; false if the deadline passed before. */
static inline bool wait_for_message(const struct peer *peer, __u64 deadline)
{
	return wait_readable(peer->descriptor, deadline);
}

/* The message at `offset` of the pool. */
static inline const struct kdbus_msg *message_at(const struct peer *peer, __u64 offset)
{
	const struct kdbus_msg *message = (const struct kdbus_msg *)(peer->pool + offset);

	if (!in_pool(offset, sizeof(*message)) || message->size < sizeof(*message) || !in_pool(offset, message->size))
		fail("a message does not lie within the pool");
	return message;
}

/* Takes the next message. NULL with errno EAGAIN: nothing is queued; ECONNRESET: the connection is cut. */
static inline const struct kdbus_msg *receive(struct peer *peer)
{
	struct kdbus_cmd_recv command = { .size = sizeof(command) };
	int result = ioctl(peer->descriptor, KDBUS_CMD_RECV, &command);

	/* Broadcasts that found no room. Their number comes with the next message, or with EAGAIN; in version 3 it comes
	 * alone, as EOVERFLOW. */
	peer->lost += command.dropped_msgs;
	if (result < 0 && errno == EOVERFLOW)
		return receive(peer);
	if (result < 0) {
		if (errno == EAGAIN || errno == ECONNRESET)
			return NULL;
		fail("cannot receive: %s", strerror(errno));
	}
	peer->received = command.msg;
	return message_at(peer, command.msg.offset);
}

/* How many broadcasts have been lost since this was asked for the last time. */
static inline __u64 count_lost(struct peer *peer)
{
	__u64 lost = peer->lost;

	peer->lost = 0;
	return lost;
}

/* A piece of payload that was copied into the pool. */
static inline const char *piece_at(const struct peer *peer, const struct kdbus_msg *message,
				   const struct kdbus_vec *vec)
{
	__u64 base = PAYLOAD_IN_MESSAGE ? (__u64)((const char *)message - peer->pool) : 0;

	if (!in_pool(vec->offset, vec->size) || !in_pool(base + vec->offset, vec->size))
		fail("a payload does not lie within the pool");
	return peer->pool + base + vec->offset;
}

/* Done with a message: closes the descriptors that came with it, then frees it together with its payload. */
static inline void release(const struct peer *peer, const struct kdbus_msg *message)
{
	const struct kdbus_item *item;

	FOR_EACH_ITEM(item, message) {
		if (item->type == KDBUS_ITEM_PAYLOAD_MEMFD && content_size(item) >= sizeof(item->memfd) &&
		    item->memfd.fd >= 0)
			close(item->memfd.fd);
		if (item->type == KDBUS_ITEM_FDS)
			for (size_t i = 0; i < content_size(item) / sizeof(int); i++)
				if (item->fds[i] >= 0)
					close(item->fds[i]);
	}
	free_slice(peer, (__u64)((const char *)message - peer->pool));
}

/* Copies the payload, whichever pieces it came in, to `target`, and ends it with a zero byte. Returns its length; what
 * does not fit in `size` bytes is cut off. */
static inline size_t copy_payload(const struct peer *peer, const struct kdbus_msg *message, char *target, size_t size)
{
	const struct kdbus_item *item;
	size_t used = 0;

	FOR_EACH_ITEM(item, message) {
		size_t room = size - 1 - used;

		if (item->type == KDBUS_ITEM_PAYLOAD_OFF && content_size(item) >= sizeof(item->vec)) {
			size_t piece = item->vec.size < room ? item->vec.size : room;

			if (item->vec.offset == ~0ULL)
				memset(target + used, 0, piece);
			else
				memcpy(target + used, piece_at(peer, message, &item->vec), piece);
			used += piece;
		} else if (item->type == KDBUS_ITEM_PAYLOAD_MEMFD && content_size(item) >= sizeof(item->memfd)) {
			size_t piece = item->memfd.size < room ? item->memfd.size : room;

			if (pread(item->memfd.fd, target + used, piece, (off_t)item->memfd.start) != (ssize_t)piece)
				fail("cannot read a memfd");
			used += piece;
		}
	}
	target[used] = 0;
	return used;
}

#endif
