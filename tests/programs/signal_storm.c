// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sends under a storm of signals, counted at both ends. Every thread that takes part has timers of its own that fire
 * every millisecond; some handlers restart calls, some do not, some threads block the signals.
 *
 * SEND, RECV and FREE may fail with EINTR where a handler does not restart, and have then done nothing; anything else
 * that is not success is a failure, the kernel's own 512 above all.
 *
 * STORM_COUNT in the environment: how many messages per thread.
 */
#include "e2e.h"

#define SENDERS 4
#define CREDIT 4			/* messages under way per sender: together, less than any limit of the bus */

enum { RESTARTS = 1, INTERRUPTS = 2 };	/* which signals a thread lets in */

struct party {
	const struct bus *bus;
	int signals;
	__u64 index, to, count;
	__u64 interrupted;
	int credit, caught;		/* events: a message was taken; a handler has run */
	struct connection connection;
	pthread_t thread;
};

static _Thread_local struct party *self;
static _Thread_local bool wants_caught;

static void handle(int signal)
{
	eventfd_t one = 1;
	int saved = errno;

	(void)signal;
	if (self && wants_caught) {
		wants_caught = false;
		if (write(self->caught, &one, sizeof(one)) != sizeof(one))
			abort();
	}
	errno = saved;
}

static __u64 storm_count(void)
{
	const char *text = getenv("STORM_COUNT");

	return text ? strtoull(text, NULL, 10) : 300;
}

static void install_handlers(void)
{
	struct sigaction interrupt = { .sa_handler = handle }, restart = { .sa_handler = handle, .sa_flags = SA_RESTART };

	CHECK(!sigaction(SIGUSR1, &interrupt, NULL));
	CHECK(!sigaction(SIGUSR2, &restart, NULL));
}

static void start_timer(int signal)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = signal };
	struct itimerspec often = { .it_interval.tv_nsec = 1000000, .it_value.tv_nsec = 1000000 };
	timer_t timer;

	event._sigev_un._tid = gettid();
	CHECK(!timer_create(CLOCK_MONOTONIC, &event, &timer));
	CHECK(!timer_settime(timer, 0, &often, NULL));
}

static void join_the_storm(struct party *party)
{
	sigset_t blocked;

	self = party;
	sigemptyset(&blocked);
	if (!(party->signals & INTERRUPTS))
		sigaddset(&blocked, SIGUSR1);
	if (!(party->signals & RESTARTS))
		sigaddset(&blocked, SIGUSR2);
	CHECK(!pthread_sigmask(SIG_SETMASK, &blocked, NULL));
	start_timer(SIGUSR1);
	start_timer(SIGUSR2);
}

/* A call that says EINTR has done nothing, and may say so only to whom the handler does not restart calls. */
static int persist(struct party *party, int fd, unsigned long request, void *argument)
{
	int result;

	for (;;) {
		result = command(fd, request, argument);
		if (result != -EINTR)
			return result;
		CHECK(party->signals & INTERRUPTS);
		party->interrupted++;
	}
}

static void await_credit(int event)
{
	struct pollfd entry = { .fd = event, .events = POLLIN };
	eventfd_t value;

	for (;;) {
		int ready = poll(&entry, 1, PATIENCE);

		CHECK(ready == 1 || errno == EINTR);
		if (ready == 1)
			break;
	}
	CHECK(!eventfd_read(event, &value));
}

static struct connection say_hello(struct party *party)
{
	struct connection connection;
	struct buffer buffer;
	struct kdbus_cmd_hello *hello = begin_hello(&buffer, 0);

	do {
		connection.fd = open(party->bus->path, O_RDWR | O_CLOEXEC);
	} while (connection.fd < 0 && errno == EINTR);
	CHECK(connection.fd >= 0);
	EQ(persist(party, connection.fd, KDBUS_CMD_HELLO, hello), 0);
	connection.id = hello->id;
	do {
		connection.pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, connection.fd, 0);
	} while (connection.pool == MAP_FAILED && errno == EINTR);
	CHECK(connection.pool != MAP_FAILED);
	EQ(persist(party, connection.fd, KDBUS_CMD_FREE,
		   &(struct kdbus_cmd_free) { .size = sizeof(struct kdbus_cmd_free), .offset = hello->offset }), 0);
	return connection;
}

static void send_once(struct party *party, __u64 cookie, __u64 flags, __u64 reply_to, __u64 to, __u64 send_flags,
		      struct kdbus_cmd_send *result)
{
	struct letter letter = { .to = to, .cookie = cookie, .flags = flags, .reply_to = reply_to, .payload = &cookie,
				 .size = sizeof(cookie) };
	struct kdbus_cmd_send send = { .size = sizeof(send), .flags = send_flags };
	struct buffer message;

	if (flags & KDBUS_MSG_EXPECT_REPLY)
		letter.deadline = in_ms(PATIENCE);
	write_letter(&letter, &message);
	send.msg_address = (uintptr_t)message.words;
	EQ(persist(party, party->connection.fd, KDBUS_CMD_SEND, &send), 0);
	*result = send;
}

static const struct kdbus_msg *take(struct party *party)
{
	struct kdbus_cmd_recv recv = { .size = sizeof(recv) };
	int result;

	for (;;) {
		struct pollfd entry = { .fd = party->connection.fd, .events = POLLIN };
		int ready = poll(&entry, 1, PATIENCE);

		if (ready < 0) {
			EQ(errno, EINTR);
			continue;
		}
		EQ(ready, 1);
		result = persist(party, party->connection.fd, KDBUS_CMD_RECV, &recv);
		if (result != -EAGAIN)
			break;
	}
	EQ(result, 0);
	return (const void *)(party->connection.pool + recv.msg.offset);
}

static void give_back(struct party *party, __u64 offset)
{
	struct kdbus_cmd_free free = { .size = sizeof(free), .offset = offset };

	EQ(persist(party, party->connection.fd, KDBUS_CMD_FREE, &free), 0);
}

static void *send_many(void *argument)
{
	struct party *party = argument;
	struct kdbus_cmd_send left;

	join_the_storm(party);
	party->connection = say_hello(party);
	for (__u64 number = 0; number < party->count; number++) {
		await_credit(party->credit);
		send_once(party, (party->index << 32) + number, 0, 0, party->to, 0, &left);
	}
	return NULL;
}

/* The storm goes on. */
static void nothing_is_left(const struct party *party)
{
	int result;

	do
		result = receive_code(&party->connection, 0);
	while (result == -EINTR);
	EQ(result, -EAGAIN);
}

/* Who receives is in the storm as well: a RECV that took effect twice loses a message, a FREE fails. */
CASE(every_message_arrives_once)
{
	static const int signals[SENDERS] = { INTERRUPTS, RESTARTS, INTERRUPTS | RESTARTS, 0 };
	struct bus bus = new_bus(0);
	struct party receiver = { .bus = &bus, .signals = RESTARTS | INTERRUPTS }, senders[SENDERS];
	__u64 next[SENDERS] = {};

	install_handlers();
	receiver.connection = hello(bus.path);
	for (__u64 i = 0; i < SENDERS; i++) {
		senders[i] = (struct party) { .bus = &bus, .signals = signals[i], .index = i, .to = receiver.connection.id,
					      .count = storm_count(), .credit = eventfd(CREDIT, EFD_SEMAPHORE) };
		CHECK(!pthread_create(&senders[i].thread, NULL, send_many, &senders[i]));
	}
	join_the_storm(&receiver);
	for (__u64 received = 0; received < SENDERS * storm_count(); received++) {
		const struct kdbus_msg *message = take(&receiver);
		__u64 sender = message->cookie >> 32;

		GE(SENDERS - 1, sender);
		EQ(message->cookie & ~0U, next[sender]);
		EQ(*(const __u64 *)text_of(&receiver.connection, message), message->cookie);
		next[sender]++;
		give_back(&receiver, (__u64)((const char *)message - receiver.connection.pool));
		post(senders[sender].credit);
	}
	for (int i = 0; i < SENDERS; i++) {
		CHECK(!pthread_join(senders[i].thread, NULL));
		printf("# sender with signals %d: %llu calls interrupted\n", signals[i], senders[i].interrupted);
	}
	nothing_is_left(&receiver);
}

static void *call_many(void *argument)
{
	struct party *party = argument;
	struct kdbus_cmd_send left;

	join_the_storm(party);
	party->connection = say_hello(party);
	post(party->credit);
	for (__u64 number = 0; number < party->count; number++) {
		__u64 cookie = (party->index << 32) + number + 1;
		const struct kdbus_msg *reply;

		wants_caught = party->signals && number % 8 == 0;
		send_once(party, cookie, KDBUS_MSG_EXPECT_REPLY, 0, party->to, KDBUS_SEND_SYNC_REPLY, &left);
		reply = (const void *)(party->connection.pool + left.reply.offset);
		EQ(reply->cookie_reply, cookie);
		EQ(*(const __u64 *)text_of(&party->connection, reply), cookie);
		give_back(party, left.reply.offset);
	}
	return NULL;
}

/*
 * Callers wait inside SEND. Every eighth request is only answered when a handler has run in its caller, which is what
 * "interruptible" means; the call then goes on waiting, restarted by the kernel or by the program, and its request is
 * not sent again.
 */
CASE(every_call_is_answered_once)
{
	static const int signals[SENDERS] = { INTERRUPTS, RESTARTS, INTERRUPTS | RESTARTS, 0 };
	struct bus bus = new_bus(0);
	struct party service = { .bus = &bus, .signals = RESTARTS | INTERRUPTS }, callers[SENDERS];
	__u64 next[SENDERS] = {}, count = storm_count() / 4;
	struct kdbus_cmd_send left;

	install_handlers();
	service.connection = hello(bus.path);
	for (__u64 i = 0; i < SENDERS; i++) {
		callers[i] = (struct party) { .bus = &bus, .signals = signals[i], .index = i, .to = service.connection.id,
					      .count = count, .credit = new_event(), .caught = new_event() };
		CHECK(!pthread_create(&callers[i].thread, NULL, call_many, &callers[i]));
	}
	join_the_storm(&service);
	for (__u64 received = 0; received < SENDERS * count; received++) {
		const struct kdbus_msg *message = take(&service);
		__u64 caller = message->cookie >> 32, cookie = message->cookie, from = message->src_id;

		GE(SENDERS - 1, caller);
		EQ(cookie & ~0U, next[caller] + 1);
		give_back(&service, (__u64)((const char *)message - service.connection.pool));
		if (signals[caller] && next[caller] % 8 == 0)
			await_credit(callers[caller].caught);
		next[caller]++;
		send_once(&service, cookie, 0, cookie, from, 0, &left);
	}
	for (int i = 0; i < SENDERS; i++) {
		CHECK(!pthread_join(callers[i].thread, NULL));
		printf("# caller with signals %d: %llu calls interrupted\n", signals[i], callers[i].interrupted);
	}
	GE(callers[0].interrupted, 1);
	nothing_is_left(&service);
}
