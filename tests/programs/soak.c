// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The soak: many connections, random traffic, processes that come, end and are killed, for as long as asked; at the end
 * every message must be accounted for. Run by tests/soak.py under `kdbus run`.
 *
 *     soak SEED MEMBERS
 *
 * reads lines from stdin: each number is for how many milliseconds to go on, after which all members end and the
 * balance is told in one line of `key=value`; at the end of stdin the program ends.
 *
 * The parent says HELLO for each member, forks the member, and keeps a duplicate of the connection. So when a member
 * has ended, in whatever way, its queue is still there: mostly the parent takes out what is left and counts it, and
 * leaves with BYEBYE, which succeeds only with an empty queue; sometimes it just closes, and what was queued is lost
 * with it.
 *
 * How a message is counted exactly once although both ends may be killed at any moment. Memory that all share has for
 * each life of a member:
 *
 * - what it sent: a log of receivers, and a state `2 * n + busy`. The receiver is written to place n and busy is set
 *   before the SEND; n is increased and busy cleared, in a single store, when it has succeeded. A life that was killed
 *   while it was busy leaves one message in doubt; it was sent if somebody has seen its number;
 * - what it received: a state of the same kind. A message is looked at first (PEEK), its cookie is written down, and
 *   only then it is received. A life that was killed while it was busy has received that message if it is not the first
 *   in the queue any more. Half of the members are *quick*: they do not look first, so that their calls are served
 *   natively, and talk mostly to each other; they are not killed, but end of their own accord.
 *
 * Cookies say which life sent the message, and as which of its numbers; so a message that nobody sent shows at once,
 * and one that comes twice shows in the balance of its receiver. Broadcasts, notifications and synchronous calls are
 * there as well, as a disturbance; they are not part of the balance.
 *
 * A member that ends of its own accord has freed all that it was given, and then its pool must be a single free piece:
 * a payload of half its size must fit (in the final revision, which allows no more, of a sixth less some metadata).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kdbus.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MEMBERS 64		/* at the same time, at most */
#define LIVES 20000		/* in one stretch, at most */
#define LOG 4000		/* messages that a life may send */
#define POOL (128UL << 10)
#define LARGEST 3000		/* bytes of payload */
#define COUNTED 0x6b616f736b616f73ULL	/* payload_type of what is part of the balance */
#define LOOSE 0x65736f6f6c656164ULL
#define CONNECTIONS_PER_USER 1024
#define ALIGN8(size) (((size) + 7) & ~7ULL)
#define NOBODY UINT32_MAX

#ifdef KDBUS_FLAG_NEGOTIATE	/* the final revision, for receivers that serve themselves */
typedef struct kdbus_cmd make_command, name_command;
#define PAYLOAD_IN_MESSAGE 1
#define ROOM (POOL / 6 - 8192)	/* a third of half a pool is the most, metadata included */
#else
typedef struct kdbus_cmd_make make_command;
typedef struct kdbus_cmd_name name_command;
#define PAYLOAD_IN_MESSAGE 0
#define ROOM (POOL / 2)
#endif

struct life {
	_Atomic uint64_t sent, received;	/* 2 * count + busy */
	_Atomic uint64_t pending;	/* cookie of what is being received */
	_Atomic uint64_t seen;		/* highest number of this life's messages that was received, plus 1 */
	_Atomic uint64_t refused;	/* SENDs that failed */
	uint64_t id;			/* of the connection */
	uint32_t sent_to;		/* messages for this life's connection */
	uint32_t doubtful;		/* of these, how many may or may not have been sent */
	uint32_t drained;		/* taken out by the parent */
	bool closed;			/* with whatever was queued */
	bool quick;
	uint32_t log[LOG];		/* life that the message was for */
};

struct ground {
	_Atomic uint32_t now[MEMBERS];	/* life that a place has at the moment */
	_Atomic bool stop;
	_Atomic uint64_t calls;
	char path[128];
	struct life lives[LIVES];
};

struct place {
	pid_t pid;
	int fd, handle;
	const unsigned char *pool;
};

static struct ground *ground;
static struct place places[MEMBERS];
static unsigned int members;
static uint64_t state;
static uint32_t lives;
static uint64_t killed, ended_well;
static char payload[LARGEST + 256];

#define NEED(condition) do {									\
	if (!(condition)) {									\
		fprintf(stderr, "soak: %s:%d: %s (%m)\n", __FILE__, __LINE__, #condition);	\
		_exit(2);									\
	}											\
} while (0)

static uint32_t any(uint32_t below)
{
	state = state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(state >> 33) % below;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int call(int fd, unsigned long request, void *argument)
{
	int result;

	do {
		result = ioctl(fd, request, argument) < 0 ? -errno : 0;
		ground->calls++;
	} while (result == -EINTR);
	return result;
}

/* ---- one member ---- */

static int fd;
static const unsigned char *pool;
static uint32_t self;
static bool quick;

static uint64_t cookie_of(uint32_t life, uint64_t number)
{
	return (uint64_t)(life + 1) << 32 | number;
}

static void release(uint64_t offset)
{
	struct kdbus_cmd_free command = { .size = sizeof(command), .offset = offset };

	NEED(call(fd, KDBUS_CMD_FREE, &command) == 0);
}

struct letter {
	struct kdbus_msg head;
	uint64_t items[64];
} __attribute__((aligned(8)));

static struct kdbus_item *last_item(struct letter *letter)
{
	return (struct kdbus_item *)((char *)letter + ALIGN8(letter->head.size));
}

static void finish_item(struct letter *letter, struct kdbus_item *item, uint64_t type, uint64_t size)
{
	item->type = type;
	item->size = 16 + size;
	letter->head.size = ALIGN8(letter->head.size) + item->size;
}

static void write_letter(struct letter *letter, uint64_t type, uint64_t destination, uint64_t cookie)
{
	uint32_t size = any(8) ? any(200) : any(LARGEST);

	memset(letter, 0, sizeof(*letter));
	letter->head = (struct kdbus_msg) { .size = sizeof(letter->head), .dst_id = destination, .payload_type = type,
					    .cookie = cookie };
	for (uint32_t pieces = any(3); pieces && size; pieces--) {
		struct kdbus_item *item = last_item(letter);

		item->vec.size = size;
		item->vec.address = (uintptr_t)payload + cookie % 256;
		finish_item(letter, item, KDBUS_ITEM_PAYLOAD_VEC, sizeof(item->vec));
	}
}

/* 0 or -errno; `extra`, -1 for none, is a descriptor to pass on. */
static int send_letter(struct letter *letter, uint64_t flags, int extra)
{
	struct kdbus_cmd_send command = { .size = sizeof(command), .flags = flags, .msg_address = (uintptr_t)letter };
	int result;

	if (extra >= 0) {
		struct kdbus_item *item = last_item(letter);

		item->fds[0] = extra;
		finish_item(letter, item, KDBUS_ITEM_FDS, sizeof(int));
	}
	result = call(fd, KDBUS_CMD_SEND, &command);
	if (!result && flags & KDBUS_SEND_SYNC_REPLY)
		release(command.reply.offset);
	return result;
}

static unsigned int quick_members(void)
{
	return (members + 1) / 2;
}

static void send_counted(void)
{
	struct life *life = &ground->lives[self];
	uint64_t number = life->sent / 2;
	uint32_t to = ground->now[any(quick && any(20) ? quick_members() : members)];
	struct letter letter;
	int extra = -1;

	if (to == NOBODY)
		return;
	write_letter(&letter, COUNTED, ground->lives[to].id, cookie_of(self, number));
	/* Who waits for a reply of somebody slow is not served natively. */
	if (any(4) == 0 && !quick && !ground->lives[to].quick) {
		letter.head.flags = KDBUS_MSG_EXPECT_REPLY;
		letter.head.timeout_ns = now_ns() + (any(8) ? 1000000000000 : any(3000000));
	}
	if (any(quick ? 200 : 20) == 0)
		extra = eventfd(0, EFD_CLOEXEC);
	life->log[number] = to;
	life->sent = 2 * number + 1;
	switch (send_letter(&letter, 0, extra)) {
	case 0:
		life->sent = 2 * (number + 1);
		break;
	default:
		life->sent = 2 * number;
		life->refused++;
	}
	if (extra >= 0)
		close(extra);
}

static void send_loose(void)
{
	uint32_t to = ground->now[any(members)];
	struct letter letter;
	struct kdbus_item *item;
	int result;

	if (to == NOBODY || (ground->lives[to].quick && any(10)))
		return;
	write_letter(&letter, LOOSE, ground->lives[to].id, 1 + any(100));
	if (any(3) == 0) {
		letter.head.dst_id = KDBUS_DST_ID_BROADCAST;
		letter.head.flags = KDBUS_MSG_SIGNAL;
		item = last_item(&letter);
		finish_item(&letter, item, KDBUS_ITEM_BLOOM_FILTER, 8 + 64);
		result = send_letter(&letter, 0, -1);
	} else {
		letter.head.flags = KDBUS_MSG_EXPECT_REPLY;
		letter.head.timeout_ns = now_ns() + any(3000000);
		result = send_letter(&letter, any(2) ? KDBUS_SEND_SYNC_REPLY : 0, -1);
	}
	NEED(result != -EINVAL && result != -EFAULT && result != -EIO);
}

static void answer(uint64_t to, uint64_t cookie)
{
	struct letter letter;

	write_letter(&letter, LOOSE, to, 1);
	letter.head.cookie_reply = cookie;
	send_letter(&letter, 0, -1);
}

/* What came: descriptors are closed, payload is what was sent, and the sender has got as far as its number. */
static void look_at(const struct kdbus_msg *message, const unsigned char *from)
{
	const char *position = (const char *)message->items, *end = (const char *)message + message->size;
	uint64_t number = message->cookie & UINT32_MAX;
	struct life *sender;

	if (PAYLOAD_IN_MESSAGE)
		from = (const unsigned char *)message;
	while (position < end) {
		const struct kdbus_item *item = (const void *)position;

		if (item->type == KDBUS_ITEM_FDS && item->fds[0] >= 0)
			close(item->fds[0]);
		if (item->type == KDBUS_ITEM_PAYLOAD_OFF && message->payload_type == COUNTED)
			NEED(!memcmp(from + item->vec.offset, payload + message->cookie % 256, item->vec.size));
		position += ALIGN8(item->size);
	}
	if (message->payload_type != COUNTED)
		return;
	NEED(message->cookie >> 32 && message->cookie >> 32 <= LIVES);
	sender = &ground->lives[(message->cookie >> 32) - 1];
	NEED(sender->id == message->src_id);
	NEED(number < LOG && number <= sender->sent / 2);
	for (uint64_t seen = sender->seen; number + 1 > seen;)
		if (atomic_compare_exchange_weak(&sender->seen, &seen, number + 1))
			break;
}

static int take(int from, uint64_t flags, struct kdbus_msg_info *info)
{
	struct kdbus_cmd_recv command = { .size = sizeof(command), .flags = flags };
	int result;

	do
		result = call(from, KDBUS_CMD_RECV, &command);
	while (result == -EOVERFLOW);
	*info = command.msg;
	return result;
}

/* What was received: it is answered if somebody waits for that, and given back. */
static void use(const struct kdbus_msg_info *info)
{
	const struct kdbus_msg *message = (const void *)(pool + info->offset);

	look_at(message, pool);
	if (message->flags & KDBUS_MSG_EXPECT_REPLY && any(3))
		answer(message->src_id, message->cookie);
	release(info->offset);
}

/* The next message, by somebody who is not killed; false if there is none. */
static bool receive_quickly(void)
{
	struct life *life = &ground->lives[self];
	struct kdbus_msg_info info;
	int result = take(fd, 0, &info);

	if (result == -EAGAIN)
		return false;
	NEED(!result);
	if (((const struct kdbus_msg *)(const void *)(pool + info.offset))->payload_type == COUNTED)
		life->received += 2;
	use(&info);
	return true;
}

/* The next message; false if there is none. Looked at first, so that it is known what is being received. */
static bool receive_carefully(void)
{
	struct life *life = &ground->lives[self];
	struct kdbus_msg_info peeked, info;
	const struct kdbus_msg *message;
	uint64_t count = life->received / 2;
	bool counted;
	int result = take(fd, KDBUS_RECV_PEEK, &peeked);

	if (result == -EAGAIN || result == -ENOBUFS)
		return false;
	NEED(!result);
	message = (const void *)(pool + peeked.offset);
	counted = message->payload_type == COUNTED;
	if (counted) {
		life->pending = message->cookie;
		life->received = 2 * count + 1;
	}
	if (any(10) == 0) {
		NEED(!take(fd, KDBUS_RECV_DROP, &info));
	} else {
		result = take(fd, 0, &info);
		if (result == -ENOBUFS) { /* no room for another header beside the one that was looked at */
			life->received = 2 * count;
			release(peeked.offset);
			return false;
		}
		NEED(!result);
	}
	if (counted)
		life->received = 2 * (count + 1);
	if (info.msg_size)
		use(&info);
	else if (counted)
		look_at(message, pool);
	if (!PAYLOAD_IN_MESSAGE || !info.msg_size) /* else it was the same slice */
		release(peeked.offset);
	return true;
}

static bool receive(void)
{
	return quick ? receive_quickly() : receive_carefully();
}

static void change_something(void)
{
	struct {
		struct kdbus_cmd_match head;
		uint64_t size, type;
		uint64_t mask[8];
	} match = { { .size = sizeof(match), .cookie = any(4) }, 16 + 64, KDBUS_ITEM_BLOOM_MASK, { 0 } };
	struct {
		name_command head;
		uint64_t size, type;
		char name[24];
	} name = { { .size = sizeof(name), .flags = any(8) }, 16 + 24, KDBUS_ITEM_NAME, "" };

	snprintf(name.name, sizeof(name.name), "org.soak.number.n%06u", any(5));
	name.size = 16 + strlen(name.name) + 1;
	switch (any(4)) {
	case 0:
		call(fd, KDBUS_CMD_MATCH_ADD, &match);
		break;
	case 1:
		match.head.size = sizeof(match.head);
		call(fd, KDBUS_CMD_MATCH_REMOVE, &match);
		break;
	case 2:
		call(fd, KDBUS_CMD_NAME_ACQUIRE, &name);
		break;
	default:
		name.head.flags = 0;
		call(fd, KDBUS_CMD_NAME_RELEASE, &name);
	}
}

/* All that was given out is free again: as much of the pool as may be fits in one message. */
static void check_pool(void)
{
	static char room[ROOM];
	struct letter letter;
	struct kdbus_item *item;
	int result;

	memset(&letter, 0, sizeof(letter));
	letter.head = (struct kdbus_msg) { .size = sizeof(letter.head), .dst_id = ground->lives[self].id,
					   .payload_type = LOOSE };
	item = last_item(&letter);
	item->vec.size = sizeof(room);
	item->vec.address = (uintptr_t)room;
	finish_item(&letter, item, KDBUS_ITEM_PAYLOAD_VEC, sizeof(item->vec));
	result = send_letter(&letter, 0, -1);
	/* Somebody else may have sent something meanwhile: then that is received, and it is tried again. */
	while ((result == -EXFULL || result == -ENOBUFS) && receive())
		result = send_letter(&letter, 0, -1);
	NEED(!result);
	while (receive())
		;
}

__attribute__((noreturn))
static void live(uint64_t seed)
{
	struct life *life = &ground->lives[self];
	struct pollfd entry = { .fd = fd, .events = POLLIN };
	uint32_t steps = 200 + any(4000);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	state = seed;
	quick = life->quick;
	while (steps-- && !ground->stop && life->sent / 2 < LOG) {
		uint32_t what = any(100);

		if (!quick && any(4) == 0) /* what the quick ones do is worth more */
			NEED(poll(&entry, 1, (int)any(30)) >= 0);
		if (what < 45 || (quick && what < 53 && any(10)))
			send_counted();
		else if (what < 50)
			send_loose();
		else if (what < 53)
			change_something();
		else if (what < 60)
			NEED(poll(&entry, 1, (int)any(3)) >= 0);
		else
			receive();
	}
	while (receive())
		;
	check_pool();
	_exit(0);
}

/* ---- the parent ---- */

static void start(unsigned int where)
{
	struct place *place = &places[where];
	struct kdbus_cmd_hello hello = { .size = sizeof(hello), .flags = KDBUS_HELLO_ACCEPT_FD,
					 .attach_flags_send = _KDBUS_ATTACH_ALL, .pool_size = POOL,
					 .attach_flags_recv = where % 4 < 2 ? 0 : _KDBUS_ATTACH_ALL };
	uint64_t seed = state + lives * 0x9e3779b97f4a7c15ULL;

	NEED(lives < LIVES);
	fd = open(ground->path, O_RDWR | O_CLOEXEC);
	NEED(fd >= 0 && !call(fd, KDBUS_CMD_HELLO, &hello));
	pool = mmap(NULL, POOL, PROT_READ, MAP_SHARED, fd, 0);
	NEED(pool != MAP_FAILED);
	release(hello.offset);
	self = lives++;
	ground->lives[self].id = hello.id;
	ground->lives[self].quick = where < quick_members();
	place->fd = fd;
	place->pool = pool;
	fflush(NULL);
	place->pid = fork();
	NEED(place->pid >= 0);
	if (!place->pid)
		live(seed);
	place->handle = (int)syscall(SYS_pidfd_open, place->pid, 0);
	NEED(place->handle >= 0);
	ground->now[where] = self;
}

/* Whoever was killed while it received may have got the message, or not. */
static void settle_receiving(struct life *life, const struct kdbus_msg *first)
{
	if (!(life->received & 1))
		return;
	if (first && first->payload_type == COUNTED && first->cookie == life->pending)
		life->received &= ~1ULL;
	else {
		uint64_t sender = (life->pending >> 32) - 1, number = life->pending & UINT32_MAX;

		life->received += 1;
		if (ground->lives[sender].seen < number + 1)
			ground->lives[sender].seen = number + 1;
	}
}

static int leave(int from)
{
#ifdef KDBUS_FLAG_NEGOTIATE
	struct kdbus_cmd command = { .size = sizeof(command) };

	return call(from, KDBUS_CMD_BYEBYE, &command);
#else
	return call(from, KDBUS_CMD_BYEBYE, NULL);
#endif
}

/* What is left in the queue of a life that has ended. Its pool may be full of what it was given. */
static void drain(struct place *place, struct life *life)
{
	struct kdbus_msg_info info;
	struct kdbus_cmd_free command = { .size = sizeof(command) };
	bool first = true;

	for (;;) {
		int result = take(place->fd, 0, &info);
		const struct kdbus_msg *message = (const void *)(place->pool + info.offset);

		if (result == -EAGAIN) {
			if (first)
				settle_receiving(life, NULL);
			first = false;
			result = leave(place->fd);
			if (!result)
				return;
			NEED(result == -EBUSY);
			continue;
		}
		NEED(!result);
		if (first)
			settle_receiving(life, message);
		first = false;
		look_at(message, place->pool);
		life->drained += message->payload_type == COUNTED;
		command.offset = info.offset;
		NEED(!call(place->fd, KDBUS_CMD_FREE, &command));
	}
}

static void bury(unsigned int where)
{
	struct place *place = &places[where];
	struct life *life = &ground->lives[ground->now[where]];
	int status;

	NEED(waitpid(place->pid, &status, 0) == place->pid);
	NEED(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
	ended_well += WIFEXITED(status);
	ground->now[where] = NOBODY;
	if (any(4) || ground->stop)
		drain(place, life);
	else
		life->closed = true;
	close(place->fd);
	close(place->handle);
	munmap((void *)(uintptr_t)place->pool, POOL);
	place->pid = 0;
}

static void make_bus(int control)
{
	struct {
		make_command head;
		uint64_t bloom_size, bloom_type;
		struct kdbus_bloom_parameter bloom;
		uint64_t name_size, name_type;
		char name[64];
	} make = { .bloom_size = 32, .bloom_type = KDBUS_ITEM_BLOOM_PARAMETER, .bloom = { 64, 1 } };

	snprintf(make.name, sizeof(make.name), "%u-soak", getuid());
	make.name_type = KDBUS_ITEM_MAKE_NAME;
	make.name_size = 16 + strlen(make.name) + 1;
	make.head.size = sizeof(make.head) + make.bloom_size + make.name_size;
	NEED(!ioctl(control, KDBUS_CMD_BUS_MAKE, &make));
	snprintf(ground->path, sizeof(ground->path), "/sys/fs/kdbus/%s/bus", make.name);
}

/* Some milliseconds of life and death. */
static void go_on(uint64_t until)
{
	struct pollfd entries[MEMBERS];

	while (now_ns() < until && lives < LIVES - members) {
		for (unsigned int i = 0; i < members; i++)
			entries[i] = (struct pollfd) { .fd = places[i].handle, .events = POLLIN };
		NEED(poll(entries, members, 5) >= 0);
		for (unsigned int i = 0; i < members; i++)
			if (entries[i].revents) {
				bury(i);
				start(i);
			}
		if (members > 1 && any(8) == 0) {
			unsigned int victim = quick_members() + any(members - quick_members());

			killed++;
			NEED(!kill(places[victim].pid, SIGKILL));
		}
	}
}

/* ---- the balance ---- */

static void count_logs(void)
{
	for (uint32_t i = 0; i < lives; i++) {
		struct life *life = &ground->lives[i];
		uint64_t number = life->sent / 2;

		for (uint64_t k = 0; k < number; k++)
			ground->lives[life->log[k]].sent_to++;
		if (life->sent & 1) { /* killed while it sent */
			struct life *to = &ground->lives[life->log[number]];

			if (life->seen > number)
				to->sent_to++;
			else if (to->closed)
				to->doubtful++;
		}
	}
}

static void tell_balance(void)
{
	uint64_t sent = 0, refused = 0, received = 0, drained = 0, lost = 0, doubtful = 0, wrong = 0;

	count_logs();
	for (uint32_t i = 0; i < lives; i++) {
		struct life *life = &ground->lives[i];
		int64_t left = (int64_t)life->sent_to - (int64_t)(life->received / 2) - life->drained;
		int64_t most = life->closed ? 256 : 0;
		/* A closed queue may have held what was in doubt, at both ends. */
		int64_t least = life->closed ? -(int64_t)life->doubtful : 0;
		uint64_t busy = life->closed && life->received & 1;

		sent += life->sent_to;
		refused += life->refused;
		received += life->received / 2;
		drained += life->drained;
		doubtful += life->doubtful + busy;
		if (left < least || left > most) {
			wrong++;
			fprintf(stderr, "soak: life %u: %u sent to it, %llu received by it, %u left over: %lld are missing\n", i,
				life->sent_to, (unsigned long long)life->received / 2, life->drained, (long long)left);
		}
		lost += (uint64_t)(left > 0 ? left : 0);
	}
	printf("sent=%llu refused=%llu received=%llu left=%llu lost=%llu doubtful=%llu wrong=%llu lives=%u killed=%llu "
	       "ended=%llu calls=%llu\n", (unsigned long long)sent, (unsigned long long)refused,
	       (unsigned long long)received, (unsigned long long)drained, (unsigned long long)lost,
	       (unsigned long long)doubtful, (unsigned long long)wrong, lives, (unsigned long long)killed,
	       (unsigned long long)ended_well, (unsigned long long)ground->calls);
	fflush(stdout);
}

/* Nothing that has ended counts any more: a user may have as many connections as ever, and not one more. */
static void check_share(void)
{
	int bus = open("/sys/fs/kdbus/control", O_RDWR | O_CLOEXEC), fds[CONNECTIONS_PER_USER + 1];

	make_bus(bus);
	for (unsigned int i = 0; i <= CONNECTIONS_PER_USER; i++) {
		struct kdbus_cmd_hello hello = { .size = sizeof(hello), .pool_size = 4096 };

		fds[i] = open(ground->path, O_RDWR | O_CLOEXEC);
		NEED(fds[i] >= 0);
		if (i < CONNECTIONS_PER_USER)
			NEED(!call(fds[i], KDBUS_CMD_HELLO, &hello));
		else
			NEED(call(fds[i], KDBUS_CMD_HELLO, &hello) == -EMFILE);
	}
	for (unsigned int i = 0; i <= CONNECTIONS_PER_USER; i++)
		close(fds[i]);
	close(bus);
}

/* One stretch: everything begins, goes on for a while, ends, and is counted. */
static void stretch(int control, uint64_t milliseconds)
{
	int bus = open("/sys/fs/kdbus/control", O_RDWR | O_CLOEXEC);

	ground = mmap(NULL, sizeof(*ground), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	NEED(ground != MAP_FAILED && bus >= 0);
	lives = 0;
	killed = ended_well = 0;
	make_bus(bus);
	for (unsigned int i = 0; i < members; i++)
		ground->now[i] = NOBODY;
	for (unsigned int i = 0; i < members; i++)
		start(i);
	go_on(now_ns() + milliseconds * 1000000);
	ground->stop = true;
	for (unsigned int i = 0; i < members; i++)
		bury(i);
	close(bus);
	check_share();
	/* An open makes the supervisor look at handles that it has hung up itself, any call at those that are closed. */
	close(open("/sys/fs/kdbus/control", O_RDWR | O_CLOEXEC));
	ioctl(control, KDBUS_CMD_FREE, 0);
	tell_balance();
	munmap(ground, sizeof(*ground));
}

int main(int argc, char **argv)
{
	char line[64];
	int control = open("/sys/fs/kdbus/control", O_RDWR | O_CLOEXEC);

	if (argc != 3 || control < 0)
		return 2;
	ioctl(control, KDBUS_CMD_FREE, 0);
	state = strtoull(argv[1], NULL, 10);
	members = (unsigned int)strtoul(argv[2], NULL, 10);
	if (!members || members > MEMBERS)
		return 2;
	for (size_t i = 0; i < sizeof(payload); i++)
		payload[i] = (char)(i * 7 + i / 251);
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		stretch(control, strtoull(line, NULL, 10));
	return 0;
}
