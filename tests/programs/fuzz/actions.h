// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What an actor does: mostly sensible commands, so that there is something to spoil, and what must be true afterwards.
 *
 * Of an exclusive connection it is known what must happen: what was given out can be freed just once; a descriptor that
 * polls readable has something to receive; who has left stays out.
 */
#ifndef FUZZ_ACTIONS_H
#define FUZZ_ACTIONS_H

#include "commands.h"
#include "pool.h"

/* One command in so many is spoiled. */
#define SPOILED (self->meeting->busy ? 40U : 6U)

static inline void make_name(char *text, size_t size)
{
	static const char *const odd[] = { "", "a", ".a.b", "a..b", "org.fuzz.*", "org.fuzz.n 1", "1.2", "org.fuzz.n1." };

	if (one_in(30))
		snprintf(text, size, "%s", odd[any(8)]);
	else
		snprintf(text, size, "org.fuzz.n%u", any(6));
}

static inline void after_call(struct peer *peer, const char *what, int result, bool steady)
{
	if (!steady)
		peer->uncertain = true;
	if (!peer->exclusive)
		return;
	/* A command that is none of a connection's: in the final revision that comes first. */
	if (IS_FINAL && result == -EBADFD && !strcmp(what, commands[ENDPOINT_UPDATE].name))
		return;
	if (peer->ended && result != -ECONNRESET && result != -EINTR)
		found("%s: %d from a connection that had ended", what, result);
	if (result == -ECONNRESET && strcmp(what, "SEND"))
		peer->ended = true;
}

/* ---- connections ---- */

static inline struct peer *some_peer(void)
{
	for (unsigned int tries = 8; tries; tries--) {
		struct peer *peer = &self->peers[any(PEERS)];

		if (peer->fd >= 0)
			return peer;
	}
	return NULL;
}

static inline void close_peer(struct peer *peer)
{
	if (peer->pool)
		munmap((void *)(uintptr_t)peer->pool, peer->pool_size);
	close(peer->fd);
	*peer = (struct peer) { .fd = -1 };
}

static inline int open_node(const char *path)
{
	static const int flags[] = { O_RDWR, O_RDONLY, O_WRONLY, O_RDWR | O_NONBLOCK, O_PATH, O_RDWR | O_NOFOLLOW,
				     O_RDWR | O_CREAT, O_RDWR | O_DIRECTORY, O_RDWR | O_TRUNC };
	static const int errors[] = { ENOENT, ENOTDIR, EINTR, EACCES, EMFILE, ESHUTDOWN, EEXIST, EISDIR, 0 };
	int fd = open(path, (one_in(SPOILED) ? flags[any(9)] : O_RDWR) | O_CLOEXEC, 0);
	int error = fd < 0 ? -errno : 0;

	note("open", fd, error, 0, NULL, 0);
	if (error && !is_among(-error, errors))
		found("open of %s failed with %s", path, strerrorname_np(-error));
	return fd;
}

static inline void map_pool(struct peer *peer)
{
	void *pool = mmap(NULL, peer->pool_size, PROT_READ, MAP_SHARED, peer->fd, 0);

	note("mmap", peer->fd, pool == MAP_FAILED ? -errno : 0, 0, &peer->pool_size, 1);
	if (pool != MAP_FAILED)
		peer->pool = pool;
	else if (errno != ENOMEM && errno != EMFILE && errno != EINTR && errno != EAGAIN)
		found("mmap of a pool failed with %s", strerrorname_np(errno));
}

static inline void draft_hello(struct draft *draft)
{
	static const uint64_t sizes[] = { PAGE, 2 * PAGE, 4 * PAGE, 16 * PAGE, 64 * PAGE };
	struct kdbus_cmd_hello *hello = begin(draft, sizeof(*hello));
	char name[64];

	hello->flags = (one_in(3) ? 0 : KDBUS_HELLO_ACCEPT_FD) | (one_in(SPOILED) ? 1ULL << any(4) : 0);
	hello->attach_flags_send = one_in(20) ? random64() : _KDBUS_ATTACH_ALL;
	if (!self->meeting->busy && one_in(2))
		hello->attach_flags_recv = random64() & (one_in(4) ? ~0ULL : _KDBUS_ATTACH_ALL);
	hello->pool_size = one_in(40) ? odd_number() : sizes[any(5)];
	if (one_in(8))
		add_string(draft, KDBUS_ITEM_CONN_DESCRIPTION, "fuzz");
	if (hello->flags & (KDBUS_HELLO_ACTIVATOR | KDBUS_HELLO_POLICY_HOLDER) && !one_in(10)) {
		struct kdbus_policy_access access = { .type = 1 + any(3), .access = any(3), .id = any(3) };

		make_name(name, sizeof(name));
		add_string(draft, KDBUS_ITEM_NAME, name);
		if (one_in(2))
			add(draft, KDBUS_ITEM_POLICY_ACCESS, &access, sizeof(access));
	}
	if (one_in(40))
		add(draft, KDBUS_ITEM_CREDS + any(2), NULL, one_in(2) ? 24 : 32);
}

static inline void connect_peer(struct peer *peer, bool exclusive)
{
	static _Thread_local struct draft draft;
	struct kdbus_cmd_hello *hello = (void *)draft.words;
	unsigned int endpoint = self->meeting->busy ? 0 : one_in(8) ? BUSES : any(BUSES);
	struct meeting *meeting = self->meeting;
	uint64_t pool_size;
	bool steady;
	int fd = open_node(meeting->path[endpoint]), result;

	if (fd < 0)
		return;
	draft_hello(&draft);
	if (one_in(SPOILED))
		spoil(&draft, &commands[HELLO], sizeof(*hello));
	pool_size = hello->pool_size;
	result = issue(fd, HELLO, &draft, &steady);
	if (result || !steady) {
		close(fd);
		return;
	}
	if (!hello->id || hello->bus_flags & ~3ULL)
		found("HELLO: id %llu, bus_flags %#llx", (unsigned long long)hello->id, (unsigned long long)hello->bus_flags);
	*peer = (struct peer) { .fd = fd, .bus = endpoint % BUSES, .id = hello->id, .flags = hello->flags,
				.pool_size = pool_size, .exclusive = exclusive };
	if (peer->id > meeting->highest_id[peer->bus])
		meeting->highest_id[peer->bus] = peer->id;
	if (pool_size <= 64 * PAGE && !one_in(8))
		map_pool(peer);
	check_list(peer, "HELLO", hello->offset, hello->items_size, IS_FINAL ? 0 : 8, true);
}

static inline void bye(struct peer *peer)
{
	uint64_t empty[] = { 24, 0, 0 }; /* version 3 does not look at it */
	int result = ioctl(peer->fd, KDBUS_CMD_BYEBYE, one_in(SPOILED) ? odd_number() : (uintptr_t)empty) < 0 ? -errno : 0;
	const int over = IS_FINAL ? ECONNRESET : EALREADY;
	struct pollfd entry = { .fd = peer->fd, .events = POLLIN };

	self->steps++;
	note("BYEBYE", peer->fd, result, 0, NULL, 0);
	if (result && !is_among(-result, ERRORS(over, EBUSY, EOPNOTSUPP, ENOTTY, EINTR)) &&
	    !(IS_FINAL && is_among(-result, any_may_fail)))
		found("BYEBYE failed with %s", strerrorname_np(-result));
	if (peer->exclusive && result && peer->ended && !is_among(-result, ERRORS(over, EOPNOTSUPP, EINTR)))
		found("BYEBYE of an ended connection failed with %s", strerrorname_np(-result));
	if (result && result != -over)
		return;
	if (peer->exclusive && !result && peer->ended)
		found("BYEBYE succeeded twice");
	peer->ended = true;
	if (peer->exclusive && (poll(&entry, 1, 0) != 1 || !(entry.revents & POLLHUP)))
		found("no POLLHUP after BYEBYE: %#x", (unsigned int)entry.revents);
}

/* ---- messages ---- */

/* Payload in steady memory that follows the pattern; false if it is anything else. */
static inline bool add_vectors(struct draft *draft, uint64_t cookie)
{
	uint64_t position = 0;
	bool pure = true;

	for (unsigned int count = one_in(8 * SPOILED) ? any(200) : any(4); count; count--) {
		struct kdbus_vec vec = { .size = one_in(8) ? 1 + any(9000) : 1 + any(200) };
		char *start = self->payload + position;

		if (one_in(10 * SPOILED))
			vec.size = odd_number();
		if (one_in(4 * SPOILED)) { /* zeros, of which a receiver may see some */
			pure = false;
		} else if (one_in(4 * SPOILED)) {
			vec.address = place("odd", 4, 1).address;
			pure = false;
		} else if (vec.size <= 10000 && position + vec.size <= PAYLOAD_PAGES * PAGE) {
			for (uint64_t i = 0; i < vec.size; i++)
				start[i] = (char)pattern(cookie, position + i);
			vec.address = (uintptr_t)start;
			position += vec.size;
		} else {
			vec.address = (uintptr_t)self->payload + any(PAYLOAD_PAGES * PAGE);
			pure = false;
		}
		add(draft, KDBUS_ITEM_PAYLOAD_VEC, &vec, sizeof(vec));
	}
	return pure;
}

static inline int make_memfd(uint64_t size, unsigned int seals)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && (ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, seals)))
		abort();
	return fd;
}

/* Descriptors for one message, up to two, and then to be closed. */
static inline unsigned int add_descriptors(struct draft *draft, int *opened)
{
	unsigned int count = 0;

	if (one_in(2 * SPOILED)) {
		struct kdbus_memfd item = { .start = any(3), .size = 1 + any(64) };
		bool sealed = !one_in(6);

		item.fd = make_memfd(100, sealed ? F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE : F_SEAL_WRITE);
		if (item.fd >= 0)
			opened[count++] = item.fd;
		if (one_in(20))
			item.fd = (int)odd_number();
		add(draft, KDBUS_ITEM_PAYLOAD_MEMFD, &item, sizeof(item));
	}
	if (one_in(2 * SPOILED)) {
		int fds[4];
		unsigned int number = any(5);
		struct peer *peer = some_peer();

		opened[count] = eventfd(0, EFD_CLOEXEC);
		for (unsigned int i = 0; i < number; i++)
			fds[i] = one_in(20) ? (int)odd_number() : one_in(20) && peer ? peer->fd : opened[count];
		count += opened[count] >= 0;
		add(draft, KDBUS_ITEM_FDS, fds, 4 * number);
	}
	return count;
}

static inline uint64_t new_cookie(int bus)
{
	return TAG(bus) | (uint64_t)self->worker << 48 | (uint64_t)self->number << 44 | ++self->serial;
}

static inline uint64_t some_id(const struct peer *peer)
{
	const struct peer *known = &self->peers[any(PEERS)];

	if (self->meeting->busy && known->id && !one_in(40))
		return known->id;
	return one_in(4) ? peer->id : 1 + any((uint32_t)self->meeting->highest_id[peer->bus] + 2);
}

static const struct command as_message = { .flags_word = 1 };

/* The message itself; its payload is marked if the receiver can recompute it. */
static inline unsigned int draft_message(struct peer *peer, struct draft *draft, struct kdbus_cmd_send *command,
					 int *opened)
{
	struct kdbus_msg *message = begin(draft, sizeof(*message));
	uint64_t filter[16] = { 0 };
	unsigned int count;
	char name[64];
	bool pure;

	message->cookie = new_cookie(peer->bus);
	message->dst_id = some_id(peer);
	message->priority = (int64_t)any(5) - 2;
	if (one_in(10))
		message->src_id = peer->id;
	switch (any(10)) {
	case 0 ... 1:
		message->flags = KDBUS_MSG_EXPECT_REPLY;
		message->timeout_ns = now_ns() + any(40) * 1000000ULL;
		if (one_in(SPOILED / 2))
			command->flags = KDBUS_SEND_SYNC_REPLY;
		else if (self->meeting->busy)
			message->timeout_ns += 1000000000000;
		break;
	case 2 ... 5:
		if (peer->asked_count) {
			struct request *request = &peer->asked[--peer->asked_count];

			message->dst_id = request->by;
			message->cookie_reply = request->cookie;
		}
		break;
	case 6:
		if (self->meeting->busy && !one_in(3))
			break;
		message->flags = KDBUS_MSG_SIGNAL;
		if (self->meeting->busy) /* the same ones again and again, which are served natively */
			filter[1] = any(2);
		add(draft, KDBUS_ITEM_BLOOM_FILTER, self->meeting->busy ? filter : NULL, one_in(20) ? any(100) : 8 + 64);
		if (!one_in(6))
			message->dst_id = KDBUS_DST_ID_BROADCAST;
		break;
	default:
		break;
	}
	if (message->dst_id != KDBUS_DST_ID_BROADCAST && one_in(SPOILED)) {
		make_name(name, sizeof(name));
		add_string(draft, KDBUS_ITEM_DST_NAME, name);
		message->dst_id = one_in(3) ? message->dst_id : KDBUS_DST_ID_NAME;
		message->flags |= one_in(3) ? KDBUS_MSG_NO_AUTO_START : 0;
	}
	pure = add_vectors(draft, message->cookie);
	count = add_descriptors(draft, opened);
	message->payload_type = pure ? PAYLOAD_PATTERN : PAYLOAD_ANYTHING;
	return count;
}

static inline void send_message(struct peer *peer)
{
	static _Thread_local struct draft draft, message;
	struct kdbus_cmd_send *command = begin(&draft, sizeof(*command));
	struct kdbus_msg *head = (void *)message.words;
	struct pollfd entry = { .fd = peer->fd, .events = POLLIN };
	int opened[4], cancel = -1, result;
	unsigned int count = draft_message(peer, &message, command, opened);
	struct placing placing;
	bool steady, lands_here;
	uint64_t destination = head->dst_id;

	if (one_in(SPOILED)) {
		spoil(&message, NULL, sizeof(*head));
		/* Bit for bit it may still be a good message, with another cookie or payload. */
		if (head->payload_type == PAYLOAD_PATTERN)
			head->payload_type = PAYLOAD_ANYTHING;
	}
	lands_here = destination == head->dst_id && destination == peer->id;
	placing = place(message.words, message.size, 1);
	if (!placing.steady && placing.address >= (uintptr_t)self->hot &&
	    placing.address < (uintptr_t)self->hot + HOT_PAGES * PAGE)
		((struct kdbus_msg *)(uintptr_t)placing.address)->payload_type = PAYLOAD_ANYTHING;
	command->msg_address = placing.address;
	if (command->flags && one_in(4)) {
		cancel = eventfd(one_in(4), EFD_CLOEXEC);
		add(&draft, KDBUS_ITEM_CANCEL_FD, &cancel, sizeof(cancel));
	}
	if (one_in(SPOILED))
		spoil(&draft, &commands[SEND], sizeof(*command));
	result = issue(peer->fd, SEND, &draft, &steady);
	after_call(peer, "SEND", result, steady);
	if (placing.steady && !(IS_FINAL && negotiates(&as_message, &message)))
		compare("the message", &placing, message.words, 0);
	/* The command of a later SEND may point here, if it is spoiled or changes, when the payload is of another message. */
	change_word(&placing, offsetof(struct kdbus_msg, payload_type), PAYLOAD_ANYTHING);
	if (result && command->flags & KDBUS_SEND_SYNC_REPLY)
		peer->uncertain = true;
	if (!result && steady && command->flags & KDBUS_SEND_SYNC_REPLY) {
		const struct kdbus_msg *reply = check_message(peer, "reply", &command->reply, false);

		if (reply && !message.spoiled && placing.steady && reply->cookie_reply != head->cookie)
			found("the reply to %#llx answers %#llx", (unsigned long long)head->cookie,
			      (unsigned long long)reply->cookie_reply);
	} else if (!result && peer->exclusive && lands_here && steady && placing.steady && !message.spoiled &&
		   !(head->flags & KDBUS_MSG_SIGNAL) && !head->cookie_reply &&
		   (poll(&entry, 1, 0) != 1 || !(entry.revents & POLLIN))) {
		found("no POLLIN after a message to oneself: %#x", (unsigned int)entry.revents);
	}
	while (count)
		close(opened[--count]);
	if (cancel >= 0)
		close(cancel);
}

static inline void release(struct peer *peer, unsigned int number);

static inline void receive(struct peer *peer)
{
	static _Thread_local struct draft draft;
	struct kdbus_cmd_recv *command = begin(&draft, sizeof(*command));
	struct pollfd entry = { .fd = peer->fd, .events = POLLIN };
	const struct kdbus_msg *message;
	bool steady, readable;
	int result;

	if (peer->kept_count > KEPT - 3)
		release(peer, any(peer->kept_count));
	readable = poll(&entry, 1, 0) == 1 && entry.revents & POLLIN;
	if (readable && entry.revents & POLLHUP)
		readable = false;
	command->flags = one_in(2 * SPOILED) ? any(8) : 0;
	command->priority = (int64_t)any(5) - 2;
	if (one_in(3 * SPOILED))
		spoil(&draft, &commands[RECV], sizeof(*command));
	result = issue(peer->fd, RECV, &draft, &steady);
	after_call(peer, "RECV", result, steady);
	if (!steady)
		self->lost_descriptors = true;
	/* In the final revision a loss makes it readable, too, and nothing urgent enough is EAGAIN. */
	if (result == -EAGAIN && readable && peer->exclusive && !(peer->flags & KDBUS_HELLO_ACTIVATOR) &&
	    !(IS_FINAL && (!steady || command->return_flags & DROPPED_MSGS || command->flags & KDBUS_RECV_USE_PRIORITY)))
		found("RECV: nothing there, though poll said so");
	if (result == -EOVERFLOW && steady && !command->dropped_msgs)
		found("RECV: EOVERFLOW without a number");
	if (result || !steady || command->flags & KDBUS_RECV_DROP)
		return;
	message = check_message(peer, "RECV", &command->msg, command->flags & KDBUS_RECV_PEEK);
	if (message && message->flags & KDBUS_MSG_EXPECT_REPLY && !(command->flags & KDBUS_RECV_PEEK) &&
	    peer->asked_count < ASKED)
		peer->asked[peer->asked_count++] = (struct request) { message->src_id, message->cookie };
}

/* ---- pools ---- */

static inline int free_offset(struct peer *peer, uint64_t offset, bool *plain)
{
	static _Thread_local struct draft draft;
	struct kdbus_cmd_free *command = begin(&draft, sizeof(*command));
	bool steady;
	int result;

	command->offset = offset;
	*plain = !one_in(3 * SPOILED);
	if (!*plain)
		spoil(&draft, &commands[FREE], sizeof(*command));
	result = issue(peer->fd, FREE, &draft, &steady);
	after_call(peer, "FREE", result, true);
	*plain = *plain && steady;
	return result;
}

/* A FREE whose command was not what it was meant to be may have freed whatever is kept. */
static inline void freed_anything(struct peer *peer, int result)
{
	peer->uncertain = true;
	if (!result)
		peer->kept_count = 0;
}

/* Gives back what was received: it must still be what it was, and there just once. */
static inline void release(struct peer *peer, unsigned int number)
{
	struct slice slice = peer->kept[number];
	bool plain;
	int result;

	if (peer->exclusive && sum_slice(peer, &slice) != slice.sum)
		found("the message at %#llx has changed", (unsigned long long)slice.offset);
	result = free_offset(peer, slice.offset, &plain);
	if (result == -EINTR)
		return;
	if (result && plain && peer->exclusive && result != -ECONNRESET &&
	    !(result == -EOPNOTSUPP && peer->flags & KDBUS_HELLO_POLICY_HOLDER))
		found("FREE of %#llx: %s", (unsigned long long)slice.offset, strerrorname_np(-result));
	peer->kept[number] = peer->kept[--peer->kept_count];
	if (!plain) { /* freed or not, nobody knows */
		freed_anything(peer, result);
		return;
	}
	if (!peer->exclusive || result || !one_in(4))
		return;
	result = free_offset(peer, slice.offset, &plain);
	if (!plain)
		freed_anything(peer, result);
	else if (!result && !peer->uncertain)
		found("FREE of %#llx succeeded twice", (unsigned long long)slice.offset);
}

static inline void release_something(struct peer *peer)
{
	uint64_t offset = one_in(2) ? odd_number() : random64() % peer->pool_size & ~7ULL;
	bool plain, known = false;
	int result;

	if (peer->kept_count && !one_in(SPOILED)) {
		release(peer, any(peer->kept_count));
		return;
	}
	if (!peer->exclusive)
		offset |= 1;
	known = IS_FINAL && offset == peer->pool_size; /* stands for nothing, which may be freed */
	for (unsigned int i = 0; i < peer->kept_count; i++)
		known |= peer->kept[i].offset == offset;
	if (known || peer->uncertain)
		return;
	result = free_offset(peer, offset, &plain);
	if (!result && plain)
		found("FREE of %#llx, which was never given out", (unsigned long long)offset);
	if (!plain)
		freed_anything(peer, result);
}

/* ---- all the rest ---- */

static inline void ask_for_name(struct peer *peer)
{
	static _Thread_local struct draft draft;
	name_command *command = begin(&draft, sizeof(*command));
	unsigned int which = one_in(3) ? NAME_RELEASE : NAME_ACQUIRE;
	char name[64];
	bool steady;

	make_name(name, sizeof(name));
	add_string(&draft, KDBUS_ITEM_NAME, name);
	command->flags = which == NAME_ACQUIRE ? any(8) : 0;
	if (one_in(SPOILED))
		spoil(&draft, &commands[which], sizeof(*command));
	after_call(peer, commands[which].name, issue(peer->fd, which, &draft, &steady), true);
}

static inline void ask(struct peer *peer)
{
	static _Thread_local struct draft draft;
	unsigned int which = NAME_LIST + any(3);
	struct kdbus_cmd_info *command = begin(&draft, which == NAME_LIST ? sizeof(list_command)
									  : sizeof(*command));
	const list_command *list = (const void *)command;
	bool steady;
	int result;
	char name[64];

	if (peer->kept_count > KEPT - 3)
		release(peer, any(peer->kept_count));
	command->flags = random64() & commands[which].flags;
	if (which != NAME_LIST)
		ask_about(command, random64() & _KDBUS_ATTACH_ALL);
	if (which == CONN_INFO && one_in(3)) {
		make_name(name, sizeof(name));
		add_string(&draft, KDBUS_ITEM_NAME, name);
	} else if (which == CONN_INFO) {
		command->id = some_id(peer);
	}
	if (one_in(SPOILED))
		spoil(&draft, &commands[which], commands[which].size);
	result = issue(peer->fd, which, &draft, &steady);
	after_call(peer, commands[which].name, result, steady);
	if (result || !steady)
		return;
	if (which == NAME_LIST)
		check_list(peer, "NAME_LIST", list->offset, list->list_size, IS_FINAL ? 0 : 8, false);
	else
		check_list(peer, commands[which].name, command->offset, command->info_size, sizeof(struct kdbus_info), true);
}

static inline void match_command(struct peer *peer)
{
	static _Thread_local struct draft draft;
	struct kdbus_cmd_match *command = begin(&draft, sizeof(*command));
	unsigned int which = one_in(3) ? MATCH_REMOVE : MATCH_ADD;
	struct kdbus_notify_id_change change = { .id = KDBUS_MATCH_ID_ANY };
	uint64_t mask[8] = { 0 };
	char name[64];
	bool steady;

	command->cookie = any(8);
	if (which == MATCH_ADD) {
		command->flags = any(2);
		switch (any(5)) {
		case 0:
			add(&draft, KDBUS_ITEM_ID_ADD + any(2), &change, sizeof(change));
			break;
		case 1:
			make_name(name, sizeof(name));
			add_string(&draft, KDBUS_ITEM_NAME, name);
			break;
		case 2:
			add_word(&draft, KDBUS_ITEM_ID, some_id(peer));
			break;
		case 3:
			add(&draft, KDBUS_ITEM_NAME_ADD + any(3), NULL, 32);
			break;
		default:
			mask[any(8)] = 1ULL << any(64);
			add(&draft, KDBUS_ITEM_BLOOM_MASK, one_in(2) ? mask : memset(mask, 0, sizeof(mask)), sizeof(mask));
		}
	}
	if (one_in(SPOILED))
		spoil(&draft, &commands[which], sizeof(*command));
	after_call(peer, commands[which].name, issue(peer->fd, which, &draft, &steady), true);
}

static inline void update_peer(struct peer *peer)
{
	static _Thread_local struct draft draft;
	unsigned int which = one_in(8) ? ENDPOINT_UPDATE : CONN_UPDATE;
	struct kdbus_policy_access access = { .type = 1 + any(3), .access = any(3), .id = any(3) };
	bool steady;
	char name[64];

	begin(&draft, sizeof(update_command));
	if (one_in(2))
		add_word(&draft, KDBUS_ITEM_ATTACH_FLAGS_SEND, _KDBUS_ATTACH_ALL);
	if (one_in(2))
		add_word(&draft, KDBUS_ITEM_ATTACH_FLAGS_RECV, random64() & _KDBUS_ATTACH_ALL);
	if (peer->flags & KDBUS_HELLO_POLICY_HOLDER || one_in(8)) {
		make_name(name, sizeof(name));
		add_string(&draft, KDBUS_ITEM_NAME, name);
		add(&draft, KDBUS_ITEM_POLICY_ACCESS, &access, sizeof(access));
	}
	if (one_in(SPOILED))
		spoil(&draft, &commands[which], sizeof(update_command));
	after_call(peer, commands[which].name, issue(peer->fd, which, &draft, &steady), which == CONN_UPDATE);
}

/* Buses and endpoints of one's own, for a moment. */
static inline void make_something(void)
{
	static _Thread_local struct draft draft;
	struct kdbus_bloom_parameter bloom = { .size = one_in(10) ? odd_number() : 64, .n_hash = 1 };
	bool endpoint = one_in(2), steady;
	int fd = open_node(endpoint ? self->meeting->path[0] : "/sys/fs/kdbus/control");
	make_command *make = begin(&draft, sizeof(*make));
	char name[80];

	if (fd < 0)
		return;
	make->flags = any(4);
	snprintf(name, sizeof(name), "%u-x%u", getuid(), any(3));
	if (!endpoint)
		add(&draft, KDBUS_ITEM_BLOOM_PARAMETER, &bloom, sizeof(bloom));
	add_string(&draft, KDBUS_ITEM_MAKE_NAME, one_in(20) ? "nonsense" : name);
	if (one_in(SPOILED))
		spoil(&draft, &commands[BUS_MAKE], sizeof(*make));
	issue(fd, endpoint ? ENDPOINT_MAKE : BUS_MAKE, &draft, &steady);
	if (endpoint && one_in(2)) {
		begin(&draft, sizeof(update_command));
		add_string(&draft, KDBUS_ITEM_NAME, "org.fuzz.*");
		issue(fd, ENDPOINT_UPDATE, &draft, &steady);
	}
	close(fd);
}

/* Any command on any handle, and requests that do not exist. */
static inline void nonsense(void)
{
	static _Thread_local struct draft draft;
	struct peer *peer = some_peer();
	unsigned int which = any(COMMANDS);
	int fd = peer && one_in(2) ? peer->fd : open_node(one_in(2) ? "/sys/fs/kdbus/control" : self->meeting->path[0]);
	bool steady;

	if (fd < 0)
		return;
	if (one_in(3)) {
		unsigned long request = _IOC(any(4), KDBUS_IOCTL_MAGIC, any(256), any(2) ? 72 : any(16384));
		int result = ioctl(fd, request, (uintptr_t)self->plain) < 0 ? -errno : 0;

		note("unknown request", fd, result, request, NULL, 0);
		if (result && !is_among(-result, any_may_fail) &&
		    !is_among(-result, ERRORS(EBUSY, EALREADY, EAGAIN, ENOMSG, EOVERFLOW, ENOBUFS, EXFULL)))
			found("request %#lx failed with %s", request, strerrorname_np(-result));
	} else {
		begin(&draft, commands[which].size);
		for (unsigned int items = any(4); items; items--)
			add_anything(&draft);
		spoil(&draft, &commands[which], commands[which].size);
		issue(fd, which, &draft, &steady);
	}
	if (!peer || fd != peer->fd) {
		close(fd);
		return;
	}
	/* It may have been anything: a message may be lost, a slice given out. */
	peer->uncertain = true;
	self->lost_descriptors = true;
	if (peer->exclusive) { /* BYEBYE, FREE of something: start again with another one */
		close_peer(peer);
	}
}

static inline void map_something(struct peer *peer)
{
	static const int protections[] = { PROT_READ, PROT_READ, PROT_NONE, PROT_READ | PROT_WRITE, PROT_WRITE, PROT_EXEC };
	uint64_t size = one_in(3) ? (odd_number() & 0xffffff) + 1 : peer->pool_size;
	int protection = protections[any(6)];
	void *memory = mmap(NULL, size, protection, one_in(6) ? MAP_PRIVATE : MAP_SHARED, peer->fd, one_in(8) ? PAGE : 0);
	int error = memory == MAP_FAILED ? -errno : 0;

	self->steps++;
	note("mmap something", peer->fd, error, (uintptr_t)memory, &size, 1);
	if (error && !is_among(-error, ERRORS(EPERM, EFAULT, ENODEV, EACCES, EINVAL, ENOMEM, EBADF, EMFILE, EINTR, EAGAIN)))
		found("mmap failed with %s", strerrorname_np(-error));
	if (!error && protection & PROT_WRITE)
		found("a pool was mapped writable");
	if (!error && mprotect(memory, size, PROT_READ | PROT_WRITE) == 0)
		found("the mapping of a pool was made writable");
	if (!error)
		munmap(memory, size);
}

#endif
