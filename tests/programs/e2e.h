// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A small harness for end-to-end tests: real programs that use kdbus by its public API alone.
 *
 * A program is a list of cases, each a function that is run in a process of its own. What it expects is said with EQ, NE
 * and CHECK; the first expectation that fails prints the place and both values, and ends the case. The program prints
 * one line per case as TAP does, and exits with 1 if any failed:
 *
 *     ./activator                 all cases
 *     ./activator NAME...         these cases
 *
 * All functions return 0 or a count on success and -errno on failure, so that an expectation can name the errno. What
 * has to work for a case to mean anything is checked in the helpers themselves, which end the case when it does not.
 *
 * A child process is expected to end with status 0; IN_CHILD runs a block in one and waits for it. Nothing sleeps: what
 * has to be waited for is waited for with poll(2), for up to PATIENCE.
 */
#ifndef E2E_H
#define E2E_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/kdbus.h>

#define ROOT "/sys/fs/kdbus"
#define POOL_SIZE (16UL << 20)
#define PATIENCE 30000			/* ms */
#define SECOND 1000000000ULL		/* ns */
#define SKIPPED 77			/* exit status of a case that cannot be run here */
#define BLOOM_SIZE 64			/* bytes, on buses made by make_bus */
#define TEXT "A message of 23 bytes."	/* with its NUL: no multiple of 8 */
#define NOBODY 65534
#define SOMEBODY 65533
#define FOREVER (~0ULL >> 1)		/* as a deadline */

#define HEADER offsetof(struct kdbus_item, data)
#define ALIGN8(size) (((size) + 7) & ~(__u64)7)
#define NEXT(item) ((struct kdbus_item *)((char *)(item) + ALIGN8((item)->size)))

/* ---- expectations ---- */

__attribute__((noreturn))
static inline void give_up(void)
{
	fflush(stdout);
	_exit(1);
}

static inline const char *describe(long long value)
{
	static _Thread_local char texts[2][64];
	static _Thread_local int turn;
	const char *name = value < 0 && value > -4096 ? strerrorname_np((int)-value) : NULL;
	char *text = texts[turn ^= 1];

	snprintf(text, sizeof(texts[0]), "%lld (0x%llx%s%s)", value, (unsigned long long)value, name ? ", -" : "",
		 name ? name : "");
	return text;
}

#define COMPARE(left, operator, right) do {								\
	long long left_ = (long long)(left), right_ = (long long)(right);				\
	if (!(left_ operator right_)) {									\
		printf("# %s:%d: expected %s " #operator " %s\n#   left:  %s\n#   right: %s\n",		\
		       __FILE__, __LINE__, #left, #right, describe(left_), describe(right_));		\
		give_up();										\
	}												\
} while (0)
#define EQ(left, right) COMPARE(left, ==, right)
#define NE(left, right) COMPARE(left, !=, right)
#define GE(left, right) COMPARE(left, >=, right)
#define CHECK(condition) do {										\
	if (!(condition)) {										\
		printf("# %s:%d: expected %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);	\
		give_up();										\
	}												\
} while (0)
/* Not inlined, as compilers that see the text at the end of a structure as an array of no elements complain. */
__attribute__((noinline, unused))
static bool same_text(const char *left, const char *right)
{
	return !strcmp(left, right);
}

#define SAME(left, right) do {										\
	const char *left_ = (left), *right_ = (right);							\
	if (!same_text(left_, right_)) {								\
		printf("# %s:%d: expected %s equal to %s\n#   left:  \"%s\"\n#   right: \"%s\"\n",	\
		       __FILE__, __LINE__, #left, #right, left_, right_);				\
		give_up();										\
	}												\
} while (0)

__attribute__((noreturn))
static inline void skip(const char *reason)
{
	printf("# skipped: %s\n", reason);
	fflush(stdout);
	_exit(SKIPPED);
}

/* ---- processes ---- */

static inline void join(pid_t child)
{
	int status;

	EQ(waitpid(child, &status, 0), child);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		printf("# a child ended with wait status 0x%x\n", (unsigned int)status);
		give_up();
	}
}

static inline pid_t start_child(void)
{
	pid_t child;

	fflush(stdout);
	child = fork();
	CHECK(child >= 0);
	if (!child)
		CHECK(!prctl(PR_SET_PDEATHSIG, SIGKILL));
	return child;
}

static inline pid_t finish_child(pid_t child)
{
	if (!child) {
		fflush(stdout);
		_exit(0);
	}
	join(child);
	return -1;
}

/* Runs the block that follows in a child, and waits for its end. */
#define IN_CHILD for (pid_t child_ = start_child(); child_ != -1; child_ = finish_child(child_)) if (!child_)

static inline void become(uid_t uid, gid_t gid)
{
	CHECK(!setgroups(0, NULL));
	CHECK(!setresgid(gid, gid, gid));
	CHECK(!setresuid(uid, uid, uid));
}

/* The same in a child that has become another user, without privileges. */
#define AS(uid) IN_CHILD for (bool once_ = (become(uid, uid), true); once_; once_ = false)

/* ---- one-off events between threads and processes ---- */

static inline int new_event(void)
{
	int event = eventfd(0, EFD_SEMAPHORE);

	CHECK(event >= 0);
	return event;
}

static inline void post(int event)
{
	CHECK(!eventfd_write(event, 1));
}

static inline void await(int event)
{
	struct pollfd entry = { .fd = event, .events = POLLIN };
	eventfd_t value;

	EQ(poll(&entry, 1, PATIENCE), 1);
	CHECK(!eventfd_read(event, &value));
}

/* ---- time and readiness ---- */

static inline __u64 clock_ns(clockid_t clock)
{
	struct timespec time;

	CHECK(!clock_gettime(clock, &time));
	return (__u64)time.tv_sec * SECOND + (__u64)time.tv_nsec;
}

static inline __u64 in_ms(__u64 milliseconds)
{
	return clock_ns(CLOCK_MONOTONIC) + milliseconds * 1000000;
}

/* What poll(2) says at once, asked for everything. */
static inline int readiness(int fd)
{
	struct pollfd entry = { .fd = fd, .events = POLLIN | POLLOUT | POLLPRI };

	GE(poll(&entry, 1, 0), 0);
	return entry.revents;
}

static inline int wait_for(int fd, short events)
{
	struct pollfd entry = { .fd = fd, .events = events };

	EQ(poll(&entry, 1, PATIENCE), 1);
	return entry.revents;
}

/* ---- commands ---- */

/* A command or message in the making; `words[0]` is its size. */
struct buffer {
	__u64 words[4096] __attribute__((aligned(8)));
};

static inline void *begin(struct buffer *buffer, size_t size)
{
	memset(buffer->words, 0, size);
	buffer->words[0] = size;
	return buffer->words;
}

/* Appends an item of `size` bytes; NULL stands for zeros. Returns the place of its content. */
static inline void *add(struct buffer *buffer, __u64 type, const void *content, size_t size)
{
	__u64 header[2] = { HEADER + size, type };
	char *item = (char *)buffer->words + ALIGN8(buffer->words[0]);

	CHECK(item + HEADER + ALIGN8(size) <= (char *)(buffer + 1));
	memset(item, 0, HEADER + ALIGN8(size));
	memcpy(item, header, HEADER);
	if (content)
		memcpy(item + HEADER, content, size);
	buffer->words[0] = (__u64)(item - (char *)buffer->words) + HEADER + size;
	return item + HEADER;
}

static inline void add_string(struct buffer *buffer, __u64 type, const char *string)
{
	if (string)
		add(buffer, type, string, strlen(string) + 1);
}

static inline void add_u64(struct buffer *buffer, __u64 type, __u64 value)
{
	add(buffer, type, &value, sizeof(value));
}

static inline void add_access(struct buffer *buffer, __u64 type, __u64 access, __u64 id)
{
	struct kdbus_policy_access entry = { .type = type, .access = access, .id = id };

	add(buffer, KDBUS_ITEM_POLICY_ACCESS, &entry, sizeof(entry));
}

/* ioctl(2) with -errno for an error. */
static inline int command(int fd, unsigned long request, void *argument)
{
	return ioctl(fd, request, argument) < 0 ? -errno : 0;
}

/* ---- buses and connections ---- */

struct bus {
	int fd;
	char name[100], folder[160], path[192];
};

static inline int open_control(void)
{
	int fd = open(ROOT "/control", O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	return fd;
}

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
static inline int try_special(struct connection *connection, const char *path, __u64 flags, const char *name, int access)
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

static inline int name_command(const struct connection *connection, unsigned long request, const char *name, __u64 *flags)
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
static inline int add_match(const struct connection *connection, __u64 cookie, __u64 flags, __u64 type, const void *rule,
			    size_t size)
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

/* ---- cases ---- */

struct test_case {
	const char *name;
	void (*run)(void);
	struct test_case *next;
};

static struct test_case *cases_, **last_case_ = &cases_;

/* Begins a case. Those of ROOT_CASE need a caller with root's privileges. */
#define CASE(case_name)											\
	static void case_name(void);									\
	__attribute__((constructor)) static void register_##case_name(void)				\
	{												\
		static struct test_case entry = { #case_name, case_name, NULL };			\
		*last_case_ = &entry;									\
		last_case_ = &entry.next;								\
	}												\
	static void case_name(void)
#define ROOT_CASE(case_name) CASE(case_name)

static inline bool run_case(const struct test_case *test, int number)
{
	pid_t child = start_child();
	int status;

	if (!child) {
		test->run();
		finish_child(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
		printf("ok %d - %s # SKIP\n", number, test->name);
		return true;
	}
	if (WIFSIGNALED(status))
		printf("# died of signal %d\n", WTERMSIG(status));
	printf("%sok %d - %s\n", status ? "not " : "", number, test->name);
	return !status;
}

int main(int argc, char **argv)
{
	int number = 0, failed = 0;

	for (const struct test_case *test = cases_; test; test = test->next) {
		bool wanted = argc == 1;

		for (int i = 1; i < argc; i++)
			wanted = wanted || !strcmp(argv[i], test->name);
		if (wanted)
			failed += !run_case(test, ++number);
	}
	printf("1..%d\n", number);
	return failed || !number;
}

#endif
