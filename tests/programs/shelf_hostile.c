// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a receiver may do to the memory that it shares with the supervisor (native/shelf.h): everything. It harms its
 * own connection at most; that is shown by a pair of others, which goes on talking, and by senders, who are answered.
 */
#include "final.h"

#include "shelf.h"

enum { WARM_UP = 60 };

static struct connection alice, bob, carol, dave;
static struct shelf *shelf;

static struct shelf *ask(int fd)
{
	int file = ioctl(fd, SHELF_ASK);
	void *memory;

	GE(file, 0);
	memory = mmap(NULL, sizeof(struct shelf), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(memory != MAP_FAILED);
	EQ(close(file), 0);
	return memory;
}

static int send_to(const struct connection *to, __u64 cookie)
{
	return send_text(&alice, to->id, TEXT, cookie);
}

/* RECV and FREE by calls; the cookie, or -errno. */
static int take_one(const struct connection *connection)
{
	struct kdbus_cmd_recv recv;
	int result = receive(connection, &recv, 0);

	if (result)
		return result;
	result = (int)((const struct kdbus_msg *)(connection->pool + recv.msg.offset))->cookie;
	EQ(free_offset(connection, recv.msg.offset), 0);
	return result;
}

/* Others are served as if nothing had happened. */
static void others_go_on(void)
{
	for (int i = 0; i < 5; i++) {
		EQ(send_text(&carol, dave.id, TEXT, (__u64)i), 0);
		EQ(send_text(&carol, dave.id, TEXT, 50), 0);
		EQ(readiness(dave.fd) & POLLIN, POLLIN);
		EQ(take_one(&dave), i);
		EQ(take_one(&dave), 50);
		EQ(take_one(&dave), -EAGAIN);
		EQ(readiness(dave.fd) & POLLIN, 0);
	}
}

static __u64 head(void)
{
	return __atomic_load_n(&shelf->head, __ATOMIC_SEQ_CST);
}

static void set_head(__u64 value)
{
	__atomic_store_n(&shelf->head, value, __ATOMIC_SEQ_CST);
}

/* Until what is sent to bob lies ready on the shelf; which is empty then. */
static void get_busy(void)
{
	for (int i = 0; i < 40 * WARM_UP; i++) {
		EQ(send_to(&bob, 1), 0);
		if (i >= WARM_UP && head() & SHELF_OPEN && shelf_ready(head()) == 1) {
			EQ(take_one(&bob), 1);
			return;
		}
		EQ(take_one(&bob), 1);
	}
	CHECK(!"nothing was put on the shelf");
}

static void begin_traffic(void)
{
	make_bus(0);
	alice = hello();
	bob = hello();
	carol = hello();
	dave = hello();
	others_go_on();
	shelf = ask(bob.fd);
	get_busy();
	others_go_on();
}

/* Takes the first message as whoever serves itself does; its offset. */
static __u64 take_by_hand(void)
{
	__u64 before = head();
	const struct shelf_place *place = &shelf->places[shelf_taken(before) % SHELF_PLACES];
	__u64 flags = before & SHELF_FLAGS, word = place->word;
	char byte[8];

	CHECK(before & SHELF_OPEN);
	GE(shelf_ready(before), 1);
	EQ(word & SHELF_STATE, SHELF_LIVE);
	if (shelf_ready(before) == 1) {
		EQ(recv(bob.fd, byte, sizeof(byte), MSG_DONTWAIT), 1);
		flags &= ~SHELF_READABLE;
	}
	CHECK(__atomic_compare_exchange_n(&shelf->head, &before,
					  shelf_head(flags, shelf_taken(before) + 1, shelf_put(before)), 0,
					  __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
	return word & ~SHELF_STATE;
}

static void free_by_hand(unsigned int place)
{
	shelf->places[place % SHELF_PLACES].word = ++shelf->serial << 3 | SHELF_FREED;
	__atomic_add_fetch(&shelf->frees, 1, __ATOMIC_SEQ_CST);
}

/* As it is meant: taken in order, freed, and the room is there again. */
CASE(as_it_is_meant)
{
	begin_traffic();
	for (int round = 0; round < 600; round++) {
		unsigned int place = (unsigned int)shelf_taken(head());
		__u64 first, second;

		EQ(send_to(&bob, 10), 0);
		EQ(send_to(&bob, 11), 0);
		EQ(shelf_ready(head()), 2);
		first = take_by_hand();
		EQ(((const struct kdbus_msg *)(bob.pool + first))->cookie, 10);
		EQ(readiness(bob.fd) & POLLIN, POLLIN);
		second = take_by_hand();
		EQ(((const struct kdbus_msg *)(bob.pool + second))->cookie, 11);
		EQ(readiness(bob.fd) & POLLIN, 0);
		free_by_hand(place + 1);
		free_by_hand(place);
		EQ(send_to(&bob, 12), 0);
		EQ(take_by_hand(), first);
		EQ(free_offset(&bob, first), 0);
		EQ(free_offset(&bob, second), -ENXIO);
		if (!(head() & SHELF_OPEN))
			get_busy();
	}
	others_go_on();
}

/* A message that comes when the byte for the one before has been taken is announced when that is told. */
CASE(byte_taken_too_early)
{
	char byte[8];

	begin_traffic();
	for (int round = 0; round < 20; round++) {
		EQ(send_to(&bob, 1), 0);
		EQ(recv(bob.fd, byte, sizeof(byte), MSG_DONTWAIT), 1);
		EQ(send_to(&bob, 2), 0);
		EQ(readiness(bob.fd) & POLLIN, 0);
		EQ(ioctl(bob.fd, SHELF_SETTLE), 0);
		EQ(readiness(bob.fd) & POLLIN, POLLIN);
		EQ(take_one(&bob), 1);
		EQ(readiness(bob.fd) & POLLIN, POLLIN);
		EQ(take_one(&bob), 2);
		EQ(readiness(bob.fd) & POLLIN, 0);
		get_busy();
	}
}

/* Messages that nobody frees: there is room on the shelf for others. */
CASE(held_for_long)
{
	__u64 held[40];

	begin_traffic();
	for (int i = 0; i < 40; i++) {
		EQ(send_to(&bob, (__u64)i), 0);
		held[i] = take_by_hand();
	}
	for (int round = 0; round < 2 * SHELF_PLACES; round++) {
		unsigned int place = (unsigned int)shelf_taken(head());

		EQ(send_to(&bob, 100), 0);
		EQ(((const struct kdbus_msg *)(bob.pool + take_by_hand()))->cookie, 100);
		free_by_hand(place);
	}
	for (int i = 0; i < 40; i++) {
		EQ(((const struct kdbus_msg *)(bob.pool + held[i]))->cookie, (__u64)i);
		EQ(free_offset(&bob, held[i]), 0);
	}
	others_go_on();
}

/* Whoever says that it has taken what does not lie there has taken nothing, and is served by calls from then on. */
static void claim(__u64 taken_more, __u64 put_more)
{
	begin_traffic();
	EQ(send_to(&bob, 1), 0);
	EQ(send_to(&bob, 2), 0);
	set_head(shelf_head(head() & SHELF_FLAGS, shelf_taken(head()) + taken_more, shelf_put(head()) + put_more));
	EQ(send_to(&bob, 3), 0);
	others_go_on();
	EQ(head(), 0);
	for (int i = 1; i <= 3; i++)
		EQ(take_one(&bob), i);
	EQ(take_one(&bob), -EAGAIN);
	for (int i = 0; i < WARM_UP; i++) {
		EQ(send_to(&bob, 4), 0);
		EQ(readiness(bob.fd) & POLLIN, POLLIN);
		EQ(take_one(&bob), 4);
		EQ(readiness(bob.fd) & POLLIN, 0);
		EQ(head(), 0);
	}
	shelf = ask(bob.fd);
	get_busy();
	others_go_on();
}

CASE(more_taken_than_there_are)
{
	claim(3, 0);
}

CASE(taken_backwards)
{
	claim(SHELF_POSITIONS, 0);
}

CASE(more_put_than_there_are)
{
	claim(0, 1);
}

CASE(less_put_than_there_are)
{
	claim(0, SHELF_POSITIONS);
}

/* Freed before it was taken: taken first, then freed; and what is not its own stays as it is. */
CASE(freed_too_early)
{
	unsigned int place;

	begin_traffic();
	place = (unsigned int)shelf_taken(head());
	EQ(send_to(&bob, 1), 0);
	EQ(send_to(&bob, 2), 0);
	free_by_hand(place + 1);
	EQ(send_to(&bob, 3), 0);
	EQ(readiness(bob.fd) & POLLIN, POLLIN);
	others_go_on();
	for (int i = 1; i <= 3; i++)
		EQ(take_one(&bob), i);
	EQ(take_one(&bob), -EAGAIN);
	others_go_on();
}

/* Places in which nothing is, or what was freed already. */
CASE(freed_twice)
{
	begin_traffic();
	for (int round = 0; round < 3; round++) {
		for (unsigned int i = 0; i < SHELF_PLACES; i++)
			free_by_hand(i);
		for (unsigned int i = 0; i < SHELF_HELD; i++)
			shelf->held[i] = ++shelf->serial << 3 | SHELF_FREED;
		EQ(send_to(&bob, 1), 0);
		EQ(send_to(&bob, 2), 0);
		others_go_on();
		EQ(take_one(&bob), 1);
		EQ(take_one(&bob), 2);
	}
}

/* The memory can be written, and that is all. */
CASE(sealed)
{
	char byte = 0;
	int file;

	begin_traffic();
	file = ioctl(bob.fd, SHELF_ASK);
	GE(file, 0);
	CHECK(ftruncate(file, 0) && errno == EPERM);
	CHECK(ftruncate(file, 1 << 20) && errno == EPERM);
	CHECK(fallocate(file, 1 /* FALLOC_FL_KEEP_SIZE */ | 2 /* FALLOC_FL_PUNCH_HOLE */, 0, 4096) == 0);
	CHECK(pwrite(file, &byte, 1, sizeof(struct shelf) + 4096) < 0);
	CHECK(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE) && errno == EPERM);
	for (int i = 0; i < WARM_UP; i++) {
		EQ(send_to(&bob, 1), 0);
		EQ(take_one(&bob), 1);
	}
	others_go_on();
}

/* Who no longer has it, or may not look, has harmed nobody. */
CASE(unmapped_and_protected)
{
	begin_traffic();
	EQ(mprotect(shelf, 4096, PROT_NONE), 0);
	for (int i = 0; i < WARM_UP; i++) {
		EQ(send_to(&bob, 1), 0);
		EQ(take_one(&bob), 1);
	}
	EQ(munmap(shelf, sizeof(*shelf)), 0);
	for (int i = 0; i < WARM_UP; i++) {
		EQ(send_to(&bob, 1), 0);
		EQ(take_one(&bob), 1);
	}
	others_go_on();
}

/* It can be had again and again, but not for ever; what is no connection has none. */
CASE(asked_again)
{
	int control = open_control(), fresh, asked = 0;

	begin_traffic();
	EQ(command(control, SHELF_ASK, NULL), -ENOTCONN);
	fresh = open(bus_path, O_RDWR | O_CLOEXEC);
	EQ(command(fresh, SHELF_ASK, NULL), -ENOTCONN);
	while ((fresh = ioctl(bob.fd, SHELF_ASK)) >= 0) {
		EQ(close(fresh), 0);
		CHECK(++asked < 100);
	}
	EQ(errno, EOPNOTSUPP);
	EQ(send_to(&bob, 1), 0);
	EQ(command(bob.fd, SHELF_SETTLE, NULL), 0);
	EQ(take_one(&bob), 1);
	EQ(command(bob.fd, SHELF_SETTLE, NULL), 0);
	EQ(readiness(bob.fd) & POLLIN, 0);
	others_go_on();
}

static __u64 seed;
static int over;

static __u64 any(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

/* Random words, and such as may be taken for something. */
static void spoil(void)
{
	__u64 now = head(), value = any();
	unsigned int place = (unsigned int)(shelf_taken(now) + any() % 5 - 2) % SHELF_PLACES;

	switch (any() % 10) {
	case 0:
		set_head(value);
		break;
	case 1:
		set_head(value & SHELF_FLAGS ? now ^ (value & SHELF_FLAGS) : now);
		break;
	case 2:
		set_head(shelf_head(now & SHELF_FLAGS, shelf_taken(now) + value % 4 - 1, shelf_put(now)));
		break;
	case 3:
		set_head(shelf_head(SHELF_OPEN | (value & SHELF_READABLE), shelf_taken(now), shelf_put(now)));
		break;
	case 4:
		__atomic_store_n(&shelf->places[place].word, value, __ATOMIC_SEQ_CST);
		break;
	case 5:
		free_by_hand(place);
		break;
	case 6:
		__atomic_store_n(&shelf->places[any() % SHELF_PLACES].word, (value & 4095) << 3 | (value >> 60),
				 __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&shelf->frees, 1, __ATOMIC_SEQ_CST);
		break;
	case 7:
		shelf->held[any() % SHELF_HELD] = ++shelf->serial << 3 | SHELF_FREED;
		shelf->frees = value;
		break;
	case 8:
		((__u64 *)shelf)[value % (sizeof(*shelf) / 8)] = any();
		break;
	default:
		if (now & SHELF_OPEN && shelf_ready(now) > 1)
			__atomic_compare_exchange_n(&shelf->head, &now,
						    shelf_head(now & SHELF_FLAGS, shelf_taken(now) + 1, shelf_put(now)),
						    0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
}

/* At once, or with a little time for the others to go on with what they find. */
static void *spoil_on(void *unused)
{
	struct timespec pause = { 0, 0 };

	(void)unused;
	while (!__atomic_load_n(&over, __ATOMIC_SEQ_CST)) {
		spoil();
		pause.tv_nsec = (long)(any() % 50000);
		if (any() % 2)
			nanosleep(&pause, NULL);
	}
	return NULL;
}

/* While the others talk, and bob is sent messages that it receives, or not. */
CASE(nonsense_while_traffic_runs)
{
	const char *wanted = getenv("SEED");
	pthread_t spoiler;
	__u64 until;

	begin_traffic();
	seed = wanted ? strtoull(wanted, NULL, 10) | 1 : 1;
	until = in_ms(getenv("SECONDS") ? strtoull(getenv("SECONDS"), NULL, 10) * 1000 : 1000);
	EQ(pthread_create(&spoiler, NULL, spoil_on, NULL), 0);
	for (unsigned int i = 0; clock_ns(CLOCK_MONOTONIC) < until; i++) {
		struct kdbus_cmd_recv recv;
		int sent = send_to(&bob, 1), result;

		CHECK(sent == 0 || sent == -ENOBUFS || sent == -EXFULL);
		if (i % 4 == 0) {
			result = receive(&bob, &recv, 0);
			CHECK(result == 0 || result == -EAGAIN);
			if (!result)
				free_offset(&bob, recv.msg.offset);
		}
		if (i % 16 == 0)
			others_go_on();
		if (i % 64 == 0) {
			/* It is broken by now, or the queue is full: begin anew. */
			close(bob.fd);
			munmap((void *)bob.pool, POOL_SIZE);
			bob = hello();
			/* The other thread may still write to the old one. */
			__atomic_store_n(&shelf, ask(bob.fd), __ATOMIC_SEQ_CST);
			for (int busy = 0; busy < WARM_UP && !(head() & SHELF_OPEN); busy++) {
				EQ(send_to(&bob, 1), 0);
				if (!receive(&bob, &recv, 0))
					free_offset(&bob, recv.msg.offset);
			}
		}
	}
	__atomic_store_n(&over, 1, __ATOMIC_SEQ_CST);
	EQ(pthread_join(spoiler, NULL), 0);
	others_go_on();
	close(bob.fd);
	others_go_on();
	bob = hello();
	EQ(send_to(&bob, 5), 0);
	EQ(take_one(&bob), 5);
}

/* The receiver dies in the middle of it. */
CASE(death)
{
	begin_traffic();
	for (int round = 0; round < 10; round++) {
		pid_t child = start_child();

		if (!child) {
			close(bob.fd);
			bob = hello();
			shelf = ask(bob.fd);
			get_busy();
			EQ(send_to(&bob, 1), 0);
			take_by_hand();
			seed = (__u64)round + 1;
			for (int i = 0; i < 100; i++)
				spoil();
			raise(SIGKILL);
		}
		EQ(waitpid(child, NULL, 0), child);
		others_go_on();
	}
}
