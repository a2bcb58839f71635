// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * All that programs do with a bus, under a timer whose handler was installed without SA_RESTART: kdbus says EINTR of
 * none of it. Nor does the supervisor to programs with the preloaded library.
 */
#include "e2e.h"

#include <signal.h>
#include <sys/time.h>

#define PERIOD_US 300
#define SIGNALS 1500
#define WAITS 20

static volatile sig_atomic_t signals;

static void count(int number)
{
	(void)number;
	signals++;
}

static void start_timer(void)
{
	struct sigaction action = { .sa_handler = count };
	struct itimerval timer = { { 0, PERIOD_US }, { 0, PERIOD_US } };

	CHECK(!sigaction(SIGALRM, &action, NULL));
	CHECK(!setitimer(ITIMER_REAL, &timer, NULL));
}

static void stop_timer(void)
{
	CHECK(!setitimer(ITIMER_REAL, &(struct itimerval) {}, NULL));
}

CASE(no_call_is_broken_off)
{
	struct bus bus = new_bus(0);

	signals = 0;
	start_timer();
	while (signals < SIGNALS) {
		struct connection connection = hello(bus.path);
		const struct kdbus_msg *message;

		for (__u64 cookie = 1; cookie < 20; cookie++) {
			EQ(SEND(&connection, .to = connection.id, .cookie = cookie), 0);
			message = receive(&connection);
			EQ(message->cookie, cookie);
			done(&connection, message);
			EQ(acquire(&connection, "org.example.Name", 0), 0);
			EQ(release_name(&connection, "org.example.Name"), 0);
		}
		EQ(byebye(&connection), 0);
		close(connection.fd);
		munmap((void *)connection.pool, POOL_SIZE);
	}
	stop_timer();
}

/* Bad memory is not looked at, however often a signal comes. */
CASE(a_bad_address_stays_one)
{
	struct bus bus = new_bus(0);
	struct connection connection = hello(bus.path);
	char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(page != MAP_FAILED);
	signals = 0;
	start_timer();
	while (signals < SIGNALS / 3) {
		int result = command(connection.fd, KDBUS_CMD_SEND, page);

		CHECK(result == -EFAULT || result == -EINTR);
		result = command(connection.fd, KDBUS_CMD_SEND, page + 4);
		CHECK(result == -EFAULT || result == -EINTR);
	}
	stop_timer();
}

/* Who waits for a reply is broken off, as by the kernel. */
CASE(a_send_that_waits_is_broken_off)
{
	struct bus bus = new_bus(0);
	struct connection caller = hello(bus.path), callee = hello(bus.path);

	start_timer();
	for (__u64 cookie = 1; cookie <= WAITS; cookie++) {
		struct letter letter = { .to = callee.id, .cookie = cookie, .flags = KDBUS_MSG_EXPECT_REPLY,
					 .deadline = in_ms(PATIENCE) };
		struct buffer message;

		write_letter(&letter, &message);
		EQ(send_buffer(&caller, &message, KDBUS_SEND_SYNC_REPLY, 0, NULL), -EINTR);
	}
	stop_timer();
}

/* Without a timer: what says EINTR here says it on purpose. */
CASE(goodbye)
{
	struct bus bus = new_bus(0);
	struct connection connection = hello(bus.path);

	EQ(byebye(&connection), 0);
}
