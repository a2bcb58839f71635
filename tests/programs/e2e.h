// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the cases of version 3 have in common (see cases.h): making buses and connections, sending and receiving.
 */
#ifndef E2E_H
#define E2E_H

#include "cases.h"

/* BUS_MAKE, with the name "<uid>-<name>". */
static inline int try_bus(struct bus *bus, const char *name, __u64 flags, __u64 required, __u64 owner)
{
	struct kdbus_bloom_parameter bloom = { .size = BLOOM_SIZE, .n_hash = 1 };
	struct buffer buffer;
	struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));

	snprintf(bus->name, sizeof(bus->name), "%u-%s", geteuid(), name);
	snprintf(bus->folder, sizeof(bus->folder), ROOT "/%s", bus->name);
	snprintf(bus->path, sizeof(bus->path), "%s/bus", bus->folder);
	make->flags = flags;
	add(&buffer, KDBUS_ITEM_BLOOM_PARAMETER, &bloom, sizeof(bloom));
	add_u64(&buffer, KDBUS_ITEM_ATTACH_FLAGS_RECV, required);
	add_u64(&buffer, KDBUS_ITEM_ATTACH_FLAGS_SEND, owner);
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, bus->name);
	return command(bus->fd, KDBUS_CMD_BUS_MAKE, make);
}

/* A bus of this process, closed to others unless `flags` say otherwise. */
static inline struct bus new_bus(__u64 flags)
{
	struct bus bus = { .fd = open_control() };
	char name[32];

	snprintf(name, sizeof(name), "e2e.%d", getpid());
	EQ(try_bus(&bus, name, flags, 0, _KDBUS_ATTACH_ALL), 0);
	return bus;
}

struct connection {
	int fd;
	__u64 id;
	const char *pool;
	struct kdbus_cmd_hello hello;	/* as it came back */
};

/* HELLO with what `buffer` holds. */
static inline int try_hello(struct connection *connection, const char *path, struct buffer *buffer)
{
	int result;

	memset(connection, 0, sizeof(*connection));
	connection->fd = open(path, O_RDWR | O_CLOEXEC);
	if (connection->fd < 0)
		return -errno;
	result = command(connection->fd, KDBUS_CMD_HELLO, buffer->words);
	memcpy(&connection->hello, buffer->words, sizeof(connection->hello));
	if (result < 0) {
		close(connection->fd);
		return result;
	}
	connection->id = connection->hello.id;
	connection->pool = mmap(NULL, connection->hello.pool_size, PROT_READ, MAP_SHARED, connection->fd, 0);
	CHECK(connection->pool != MAP_FAILED);
	return 0;
}

static inline struct kdbus_cmd_hello *begin_hello(struct buffer *buffer, __u64 flags)
{
	struct kdbus_cmd_hello *hello = begin(buffer, sizeof(*hello));

	hello->flags = flags;
	hello->attach_flags_send = _KDBUS_ATTACH_ALL;
	hello->pool_size = POOL_SIZE;
	return hello;
}

static inline struct connection hello_with(const char *path, __u64 flags, __u64 send, __u64 receive)
{
	struct connection connection;
	struct buffer buffer;
	struct kdbus_cmd_hello *hello = begin_hello(&buffer, flags);

	hello->attach_flags_send = send;
	hello->attach_flags_recv = receive;
	EQ(try_hello(&connection, path, &buffer), 0);
	return connection;
}

/* An ordinary connection that accepts descriptors, lets out all metadata and asks for none. */
static inline struct connection hello(const char *path)
{
	return hello_with(path, KDBUS_HELLO_ACCEPT_FD, _KDBUS_ATTACH_ALL, 0);
}

/* An activator or policy holder of `name`, with an access entry for everybody unless `access` is negative. */
static inline int try_special(struct connection *connection, const char *path, __u64 flags, const char *name,
			      int access)
{
	struct buffer buffer;

	begin_hello(&buffer, flags);
	add_string(&buffer, KDBUS_ITEM_NAME, name);
	if (access >= 0)
		add_access(&buffer, KDBUS_POLICY_ACCESS_WORLD, (__u64)access, 0);
	return try_hello(connection, path, &buffer);
}

static inline struct connection special(const char *path, __u64 flags, const char *name, int access)
{
	struct connection connection;

	EQ(try_special(&connection, path, flags, name, access), 0);
	return connection;
}

static inline int byebye(const struct connection *connection)
{
	return command(connection->fd, KDBUS_CMD_BYEBYE, NULL);
}

static inline int release(const struct connection *connection, __u64 offset)
{
	struct kdbus_cmd_free free = { .size = sizeof(free), .offset = offset };

	return command(connection->fd, KDBUS_CMD_FREE, &free);
}

/* ---- names ---- */

static inline int name_command(const struct connection *connection, unsigned long request, const char *name,
			       __u64 *flags)
{
	struct buffer buffer;
	struct kdbus_cmd_name *name_command = begin(&buffer, sizeof(*name_command));
	int result;

	name_command->flags = *flags;
	add_string(&buffer, KDBUS_ITEM_NAME, name);
	result = command(connection->fd, request, name_command);
	*flags = name_command->flags;
	return result;
}

static inline int acquire(const struct connection *connection, const char *name, __u64 flags)
{
	return name_command(connection, KDBUS_CMD_NAME_ACQUIRE, name, &flags);
}

static inline int release_name(const struct connection *connection, const char *name)
{
	__u64 flags = 0;

	return name_command(connection, KDBUS_CMD_NAME_RELEASE, name, &flags);
}

/* How many entries NAME_LIST has of that owner (0: any) and name (NULL: any, "": those without a name). */
static inline int listed(const struct connection *connection, __u64 flags, __u64 owner, const char *name)
{
	struct kdbus_cmd_name_list list = { .size = sizeof(list), .flags = flags };
	const char *position, *end;
	int count = 0;

	EQ(command(connection->fd, KDBUS_CMD_NAME_LIST, &list), 0);
	position = connection->pool + list.offset;
	end = position + *(const __u64 *)position;
	EQ(ALIGN8(end - position), list.list_size);
	for (position += sizeof(__u64); position < end;) {
		const struct kdbus_name_info *info = (const void *)position;
		const char *found = info->size > sizeof(*info) ? info->items[0].name.name : "";

		count += (!owner || info->owner_id == owner) && (!name || same_text(name, found));
		position += ALIGN8(info->size);
	}
	EQ(release(connection, list.offset), 0);
	return count;
}

/* ---- messages ---- */

/* What to send; everything that is not set is left out or zero. Without `payload` and `bare` it carries TEXT. */
struct letter {
	__u64 to;			/* id, KDBUS_DST_ID_BROADCAST; 0 with a name */
	const char *name;
	__u64 cookie, flags, deadline, reply_to, from, type;
	__s64 priority;
	const void *payload;
	size_t size;
	bool bare;
	const int *fds;
	unsigned int fd_count;
	const struct kdbus_memfd *memfd;
	const void *bloom;		/* BLOOM_SIZE bytes; zeros for signals without */
	__u64 generation;
	__u64 send_flags;
	int cancel;			/* descriptor, with `send_flags` */
	struct kdbus_cmd_send *result;	/* where the command is left, as it came back */
};

static inline void write_letter(const struct letter *letter, struct buffer *buffer)
{
	struct kdbus_msg *message = begin(buffer, sizeof(*message));
	struct kdbus_vec vector = { .size = letter->size, .address = (uintptr_t)letter->payload };

	message->flags = letter->flags;
	message->priority = letter->priority;
	message->dst_id = letter->name && !letter->to ? KDBUS_DST_ID_NAME : letter->to;
	message->src_id = letter->from;
	message->payload_type = letter->type ? letter->type : KDBUS_PAYLOAD_DBUS;
	message->cookie = letter->cookie;
	message->timeout_ns = letter->deadline ? letter->deadline : letter->reply_to;
	add_string(buffer, KDBUS_ITEM_DST_NAME, letter->name);
	if (!letter->payload)
		vector = (struct kdbus_vec) { .size = sizeof(TEXT), .address = (uintptr_t)TEXT };
	if (!letter->bare)
		add(buffer, KDBUS_ITEM_PAYLOAD_VEC, &vector, 16);
	if (letter->memfd)
		add(buffer, KDBUS_ITEM_PAYLOAD_MEMFD, letter->memfd, sizeof(*letter->memfd));
	if (letter->fd_count)
		add(buffer, KDBUS_ITEM_FDS, letter->fds, letter->fd_count * sizeof(int));
	if (letter->flags & KDBUS_MSG_SIGNAL || letter->bloom) {
		char *filter = add(buffer, KDBUS_ITEM_BLOOM_FILTER, NULL, sizeof(__u64) + BLOOM_SIZE);

		memcpy(filter, &letter->generation, sizeof(__u64));
		if (letter->bloom)
			memcpy(filter + sizeof(__u64), letter->bloom, BLOOM_SIZE);
	}
}

static inline int send_buffer(const struct connection *connection, struct buffer *message, __u64 flags, int cancel,
			      struct kdbus_cmd_send *left)
{
	struct buffer buffer;
	struct kdbus_cmd_send *send = begin(&buffer, sizeof(*send));
	int result;

	send->flags = flags;
	send->msg_address = (uintptr_t)message->words;
	if (cancel)
		add(&buffer, KDBUS_ITEM_CANCEL_FD, &cancel, sizeof(cancel));
	result = command(connection->fd, KDBUS_CMD_SEND, send);
	if (left)
		memcpy(left, send, sizeof(*send));
	return result;
}

static inline int send_letter(const struct connection *connection, const struct letter *letter)
{
	struct buffer message;

	write_letter(letter, &message);
	return send_buffer(connection, &message, letter->send_flags, letter->cancel, letter->result);
}

#define SEND(connection, ...) send_letter(connection, &(struct letter) { __VA_ARGS__ })

static inline int receive_into(const struct connection *connection, struct kdbus_cmd_recv *recv)
{
	recv->size = sizeof(*recv);
	return command(connection->fd, KDBUS_CMD_RECV, recv);
}

/* RECV, whose message is given back at once: for those who only want to know whether there is one. */
static inline int receive_code(const struct connection *connection, __u64 flags)
{
	struct kdbus_cmd_recv recv = { .flags = flags };
	int result = receive_into(connection, &recv);

	if (!result && !(flags & KDBUS_RECV_DROP))
		EQ(release(connection, recv.msg.offset), 0);
	return result;
}

/* The message that RECV must have now; it stays in the pool. */
static inline const struct kdbus_msg *receive(const struct connection *connection)
{
	struct kdbus_cmd_recv recv = {};
	const struct kdbus_msg *message;

	EQ(receive_into(connection, &recv), 0);
	EQ(recv.msg.return_flags, 0);
	message = (const void *)(connection->pool + recv.msg.offset);
	GE(recv.msg.msg_size, message->size);
	return message;
}

/* The next message, as soon as there is one. */
static inline const struct kdbus_msg *await_message(const struct connection *connection)
{
	CHECK(wait_for(connection->fd, POLLIN) & POLLIN);
	return receive(connection);
}

/* Forgets a message of `receive`. */
static inline void done(const struct connection *connection, const struct kdbus_msg *message)
{
	EQ(release(connection, (__u64)((const char *)message - connection->pool)), 0);
}

/* ---- items ---- */

/* The n-th item of that type (0: the first), NULL if there is none; `first` to `end` are whole items. */
static inline const struct kdbus_item *nth_item(const void *first, const void *end, __u64 type, int n)
{
	for (const struct kdbus_item *item = first; (const void *)item < end; item = NEXT(item)) {
		GE(item->size, HEADER);
		if (item->type == type && !n--)
			return item;
	}
	return NULL;
}

static inline const struct kdbus_item *find(const struct kdbus_msg *message, __u64 type)
{
	return nth_item(message->items, (const char *)message + message->size, type, 0);
}

/* The item, which must be there. */
static inline const struct kdbus_item *get_in(const void *first, const void *end, __u64 type)
{
	const struct kdbus_item *item = nth_item(first, end, type, 0);

	if (!item) {
		printf("# there is no item of type 0x%llx\n", (unsigned long long)type);
		give_up();
	}
	return item;
}

static inline const struct kdbus_item *get(const struct kdbus_msg *message, __u64 type)
{
	return get_in(message->items, (const char *)message + message->size, type);
}

/* The bytes of a message's first vector. */
static inline const char *text_of(const struct connection *connection, const struct kdbus_msg *message)
{
	return connection->pool + get(message, KDBUS_ITEM_PAYLOAD_OFF)->vec.offset;
}

/* ---- matches ---- */

static inline int match_command(const struct connection *connection, struct buffer *buffer)
{
	return command(connection->fd, KDBUS_CMD_MATCH_ADD, buffer->words);
}

static inline void begin_match(struct buffer *buffer, __u64 cookie, __u64 flags)
{
	struct kdbus_cmd_match *match = begin(buffer, sizeof(*match));

	match->cookie = cookie;
	match->flags = flags;
}

/* MATCH_ADD with one rule. */
static inline int add_match(const struct connection *connection, __u64 cookie, __u64 flags,
			    __u64 type, const void *rule, size_t size)
{
	struct buffer buffer;

	begin_match(&buffer, cookie, flags);
	add(&buffer, type, rule, size);
	return match_command(connection, &buffer);
}

/* Wants all messages of others. */
static inline int match_everything(const struct connection *connection)
{
	return add_match(connection, 1, 0, KDBUS_ITEM_ID, &(__u64) { KDBUS_MATCH_ID_ANY }, sizeof(__u64));
}

static inline int match_id(const struct connection *connection, __u64 cookie, __u64 type, __u64 id)
{
	struct kdbus_notify_id_change rule = { .id = id };

	return add_match(connection, cookie, 0, type, &rule, sizeof(rule));
}

/* A rule about a name changing hands; NULL for any name. */
static inline int match_name(const struct connection *connection, __u64 cookie, __u64 type, __u64 old, __u64 new,
			     const char *name)
{
	char rule[sizeof(struct kdbus_notify_name_change) + 256] = {};
	struct kdbus_notify_name_change *change = (void *)rule;

	change->old_id.id = old;
	change->new_id.id = new;
	if (name)
		strcpy(change->name, name);
	return add_match(connection, cookie, 0, type, rule, sizeof(*change) + (name ? strlen(name) + 1 : 0));
}

static inline int remove_match(const struct connection *connection, __u64 cookie)
{
	struct kdbus_cmd_match match = { .size = sizeof(match), .cookie = cookie };

	return command(connection->fd, KDBUS_CMD_MATCH_REMOVE, &match);
}

#endif
