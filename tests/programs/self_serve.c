// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Receivers that serve themselves (`kdbus run --self-serve`) must not be able to tell: whatever a program does between
 * and around its calls, it gets each message once, in order, is woken for each, and fails as it would otherwise. Each
 * case holds with all calls trapped as well.
 */
#include "final.h"
#include "supervisor.h"

#include <setjmp.h>
#include <sys/resource.h>
#include <sys/time.h>

enum { WARM_UP = 60 };

static struct connection alice, bob;

static __u64 offset_in(const struct connection *connection, const struct kdbus_msg *message)
{
	return (__u64)((const char *)message - connection->pool);
}

/* The next message, at once; its cookie, and it is freed. -errno if there is none. */
static int take_one(int fd, const char *pool)
{
	struct kdbus_cmd_recv recv = { .size = sizeof(recv) };
	struct kdbus_cmd_free give_back = { .size = sizeof(give_back) };
	int result = command(fd, KDBUS_CMD_RECV, &recv);

	if (result)
		return result;
	result = (int)((const struct kdbus_msg *)(pool + recv.msg.offset))->cookie;
	give_back.offset = recv.msg.offset;
	EQ(command(fd, KDBUS_CMD_FREE, &give_back), 0);
	return result;
}

static void send_to_bob(__u64 cookie)
{
	EQ(send_text(&alice, bob.id, TEXT, cookie), 0);
}

/* Two connections, busy for long enough to be served in the fastest way that there is. Returns the bus's descriptor. */
static int begin_traffic(void)
{
	int bus = make_bus(0);

	alice = hello();
	bob = hello();
	for (int i = 0; i < WARM_UP; i++) {
		send_to_bob(1);
		EQ(wait_for(bob.fd, POLLIN) & POLLIN, POLLIN);
		EQ(take_one(bob.fd, bob.pool), 1);
		EQ(take_one(bob.fd, bob.pool), -EAGAIN);
	}
	return bus;
}

/* All in order, each announced, and freed in another order. */
CASE(order_and_readiness)
{
	struct kdbus_cmd_recv recv;

	begin_traffic();
	for (int round = 0; round < 300; round++) {
		__u64 offsets[7];
		int count = 1 + round % 7;

		EQ(readiness(bob.fd) & POLLIN, 0);
		for (int i = 0; i < count; i++) {
			send_to_bob((__u64)i);
			EQ(readiness(bob.fd) & POLLIN, POLLIN);
		}
		for (int i = 0; i < count; i++) {
			const struct kdbus_msg *message = get_message(&bob);

			EQ(message->cookie, (__u64)i);
			EQ(message->src_id, alice.id);
			SAME(text_of(message), TEXT);
			offsets[i] = offset_in(&bob, message);
			EQ(readiness(bob.fd) & POLLIN, i == count - 1 ? 0 : POLLIN);
		}
		EQ(receive(&bob, &recv, 0), -EAGAIN);
		EQ(recv.dropped_msgs, 0);
		EQ(recv.msg.offset, POOL_SIZE);
		for (int i = 0; i < count; i++) {
			EQ(free_offset(&bob, offsets[(i * 3 + round) % count]), (i * 3 + round) / count * 0);
			if (count % 3 == 0)
				break;
		}
		for (int i = 0; i < count; i++) {
			int result = free_offset(&bob, offsets[i]);

			if (count % 3)
				EQ(result, -ENXIO);
			else
				EQ(result, i == round % count ? -ENXIO : 0);
		}
	}
}

/* Edge-triggered: a message that comes to an empty queue is an edge, each time. */
CASE(edges)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int set;

	begin_traffic();
	set = epoll_create1(0);
	EQ(epoll_ctl(set, EPOLL_CTL_ADD, bob.fd, &event), 0);
	GE(epoll_wait(set, &event, 1, 0), 0);
	for (int round = 0; round < 200; round++) {
		send_to_bob(3);
		EQ(epoll_wait(set, &event, 1, PATIENCE), 1);
		EQ(event.events & EPOLLIN, EPOLLIN);
		EQ(take_one(bob.fd, bob.pool), 3);
		if (round % 2)
			EQ(take_one(bob.fd, bob.pool), -EAGAIN);
		EQ(epoll_wait(set, &event, 1, 0), 0);
	}
}

/* Where the command lies decides nothing but whether it can be read and written. */
CASE(bad_addresses)
{
	char *pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kdbus_cmd_recv *recv;

	CHECK(pages != MAP_FAILED);
	begin_traffic();
	EQ(mprotect(pages + 4096, 4096, PROT_NONE), 0);
	for (int round = 0; round < 20; round++) {
		EQ(command(bob.fd, KDBUS_CMD_RECV, NULL), -EFAULT);
		EQ(command(bob.fd, KDBUS_CMD_FREE, NULL), -EFAULT);
		EQ(command(bob.fd, KDBUS_CMD_RECV, pages + 4096), -EFAULT);
		EQ(command(bob.fd, KDBUS_CMD_FREE, pages + 4096), -EFAULT);
		*(__u64 *)(pages + 4096 - 8) = sizeof(*recv);
		EQ(command(bob.fd, KDBUS_CMD_RECV, pages + 4096 - 8), -EFAULT);
		recv = (struct kdbus_cmd_recv *)(pages + 4096 - 32);
		recv->size = sizeof(*recv);
		EQ(command(bob.fd, KDBUS_CMD_RECV, recv), -EFAULT);
		EQ(recv->size, sizeof(*recv));
	}
	EQ(mprotect(pages + 4096, 4096, PROT_READ | PROT_WRITE), 0);
	for (int start = 4096 - 72; start <= 4096; start += 8) {
		recv = (struct kdbus_cmd_recv *)(pages + start);
		*recv = (struct kdbus_cmd_recv) { .size = sizeof(*recv) };
		send_to_bob((__u64)start);
		EQ(command(bob.fd, KDBUS_CMD_RECV, recv), 0);
		EQ(((const struct kdbus_msg *)(bob.pool + recv->msg.offset))->cookie, (__u64)start);
		EQ(free_offset(&bob, recv->msg.offset), 0);
		EQ(readiness(bob.fd) & POLLIN, 0);
	}
}

/* What is written where, when nothing comes of it. */
CASE(commands_as_they_were)
{
	const struct kdbus_cmd_recv odd = {
		.size = sizeof(odd), .flags = 1 << 20, .return_flags = 11, .priority = 12, .dropped_msgs = 13,
		.msg = { .offset = 14, .msg_size = 15, .return_flags = 16 },
	};
	struct kdbus_cmd_recv recv;
	struct kdbus_cmd_free give_back;

	begin_traffic();
	send_to_bob(5);
	for (int round = 0; round < 20; round++) {
		recv = odd;
		EQ(command(bob.fd, KDBUS_CMD_RECV, &recv), -EINVAL);
		EQ(recv.msg.offset, 14);
		EQ(recv.msg.msg_size, 15);
		EQ(recv.msg.return_flags, 16);
		EQ(recv.dropped_msgs, 13);
		give_back = (struct kdbus_cmd_free) { .size = sizeof(give_back), .flags = 1 << 20, .return_flags = 3 };
		EQ(command(bob.fd, KDBUS_CMD_FREE, &give_back), -EINVAL);
		give_back = (struct kdbus_cmd_free) { .size = sizeof(give_back), .offset = 4096, .return_flags = 3 };
		EQ(command(bob.fd, KDBUS_CMD_FREE, &give_back), -ENXIO);
		give_back = (struct kdbus_cmd_free) { .size = sizeof(give_back), .offset = 1, .return_flags = 3 };
		EQ(command(bob.fd, KDBUS_CMD_FREE, &give_back), -ENXIO);
	}
	EQ(take_one(bob.fd, bob.pool), 5);
}

/* A number that was the connection's is something else's now: that is not touched. */
CASE(number_reused)
{
	struct kdbus_cmd_recv recv = { .size = sizeof(recv) };
	struct kdbus_cmd_free give_back = { .size = sizeof(give_back) };
	int ends[2], saved, number;
	char text[8];

	begin_traffic();
	number = bob.fd;
	send_to_bob(1);
	send_to_bob(2);
	EQ(take_one(number, bob.pool), 1);
	saved = dup(number);
	EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	EQ(write(ends[1], "precious", 8), 8);
	EQ(dup2(ends[0], number), number);
	EQ(command(number, KDBUS_CMD_RECV, &recv), -ENOTTY);
	EQ(command(number, KDBUS_CMD_FREE, &give_back), -ENOTTY);
	EQ(recv.msg.offset, 0);
	EQ(read(number, text, 8), 8);
	EQ(memcmp(text, "precious", 8), 0);
	EQ(dup2(alice.fd, number), number);
	EQ(take_one(number, bob.pool), -EAGAIN);
	EQ(dup2(saved, number), number);
	EQ(take_one(number, bob.pool), 2);
	close(number);
	EQ(command(number, KDBUS_CMD_RECV, &recv), -EBADF);
	send_to_bob(3);
	EQ(take_one(saved, bob.pool), 3);
}

/* The number under which bob is received from, what else it is by turns, and bob under a number that stays. */
static int shifting, precious, others_end, kept;
static int exchange_count;

static void prepare_exchange(void)
{
	int ends[2];

	begin_traffic();
	EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	precious = ends[0];
	others_end = ends[1];
	EQ(write(others_end, "precious", 8), 8);
	shifting = bob.fd;
	kept = dup(bob.fd);
	CHECK(kept >= 0);
}

static void exchange(int unused)
{
	(void)unused;
	if (dup2(__atomic_add_fetch(&exchange_count, 1, __ATOMIC_SEQ_CST) % 2 ? precious : kept, shifting) < 0)
		abort();
}

static void *exchange_on(void *stop)
{
	while (!__atomic_load_n((int *)stop, __ATOMIC_SEQ_CST))
		exchange(0);
	return NULL;
}

/* Receives under that number until it was exchanged often; nothing is lost, and what is precious is there. */
static void receive_meanwhile(void)
{
	int sent = 0, received = 0;
	char text[9] = "";

	while (__atomic_load_n(&exchange_count, __ATOMIC_SEQ_CST) < 1500 || received < 1500) {
		struct kdbus_cmd_recv recv = { .size = sizeof(recv) };
		int result;

		if (sent == received) {
			send_to_bob((__u64)sent++);
			if (sent % 3 == 0)
				send_to_bob((__u64)sent++);
		}
		result = command(shifting, KDBUS_CMD_RECV, &recv);
		if (result == -ENOTTY)
			continue;
		EQ(result, 0);
		EQ(((const struct kdbus_msg *)(bob.pool + recv.msg.offset))->cookie, (__u64)received);
		received++;
		bob.fd = kept;
		EQ(free_offset(&bob, recv.msg.offset), 0);
	}
	EQ(recv(precious, text, 8, MSG_DONTWAIT), 8);
	SAME(text, "precious");
	EQ(readiness(kept) & POLLIN, sent == received ? 0 : POLLIN);
}

CASE(number_exchanged_by_a_handler)
{
	struct sigaction action = { .sa_handler = exchange, .sa_flags = SA_RESTART };
	struct itimerval often = { { 0, 200 }, { 0, 200 } };

	prepare_exchange();
	CHECK(!sigaction(SIGALRM, &action, NULL));
	CHECK(!setitimer(ITIMER_REAL, &often, NULL));
	receive_meanwhile();
}

CASE(number_exchanged_by_a_thread)
{
	pthread_t thread;
	int stop = 0;

	prepare_exchange();
	EQ(pthread_create(&thread, NULL, exchange_on, &stop), 0);
	receive_meanwhile();
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	EQ(pthread_join(thread, NULL), 0);
}

/* Other connections under the number of one that was closed. */
CASE(connections_one_after_the_other)
{
	begin_traffic();
	for (int round = 0; round < 20; round++) {
		close(bob.fd);
		bob = hello();
		for (int i = 0; i < 10; i++) {
			send_to_bob(4);
			send_to_bob(5);
			EQ(take_one(bob.fd, bob.pool), 4);
			EQ(take_one(bob.fd, bob.pool), 5);
			EQ(take_one(bob.fd, bob.pool), -EAGAIN);
			EQ(readiness(bob.fd) & POLLIN, 0);
		}
	}
}

/* Takes what there is; how many, and `seen` says which. */
static int take_all(int fd, const char *pool, unsigned char *seen)
{
	int count = 0;

	for (;;) {
		int cookie = take_one(fd, pool);

		if (cookie == -EAGAIN)
			return count;
		GE(cookie, 0);
		__atomic_add_fetch(&seen[cookie], 1, __ATOMIC_SEQ_CST);
		count++;
	}
}

static unsigned char *shared_memory(void)
{
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(memory != MAP_FAILED);
	return memory;
}

/* Parent and child receive on the same connection, by turns and at once: each message comes once. */
CASE(after_fork)
{
	unsigned char *seen = shared_memory();

	begin_traffic();
	for (int round = 0; round < 8; round++) {
		pid_t child;

		memset(seen, 0, 4096);
		for (int i = 0; i < 40; i++)
			send_to_bob((__u64)i);
		child = start_child();
		take_all(bob.fd, bob.pool, seen);
		if (!child)
			finish_child(0);
		join(child);
		for (int i = 0; i < 40; i++)
			EQ(seen[i], 1);
		EQ(readiness(bob.fd) & POLLIN, 0);
		IN_CHILD {
			for (int i = 0; i < 20; i++) {
				send_to_bob(7);
				EQ(readiness(bob.fd) & POLLIN, POLLIN);
				EQ(take_one(bob.fd, bob.pool), 7);
				EQ(readiness(bob.fd) & POLLIN, 0);
			}
			send_to_bob(8);
		}
		EQ(readiness(bob.fd) & POLLIN, POLLIN);
		EQ(take_one(bob.fd, bob.pool), 8);
	}
}

static int receive_in_shared_memory(void *unused)
{
	(void)unused;
	for (int i = 0; i < 2; i++)
		if (take_one(bob.fd, bob.pool) != 6)
			return 1;
	return take_one(bob.fd, bob.pool) != -EAGAIN;
}

/* A child that only sends on the connection, and duplicates, take nothing away from who receives. */
CASE(others_that_send)
{
	int copy;

	begin_traffic();
	copy = dup(bob.fd);
	for (int i = 0; i < 200; i++) {
		struct connection same = bob;

		if (i % 20 == 0) {
			IN_CHILD {
				EQ(send_text(&bob, alice.id, TEXT, 1), 0);
				EQ(send_text(&bob, bob.id, TEXT, 2), 0);
			}
		} else {
			send_to_bob(2);
		}
		same.fd = copy;
		EQ(send_text(&same, alice.id, TEXT, 1), 0);
		if (i % 10 == 9) {
			send_to_bob(3);
			EQ(take_one(copy, bob.pool), 2);
			EQ(take_one(copy, bob.pool), 3);
		} else {
			EQ(take_one(bob.fd, bob.pool), 2);
		}
		while (take_one(alice.fd, alice.pool) >= 0)
			;
		EQ(readiness(bob.fd) & POLLIN, 0);
	}
}

/* A child that shares the memory and not the descriptors, as vfork(2) and posix_spawn(3) make them. */
CASE(clone_with_shared_memory)
{
	static char stack[65536] __attribute__((aligned(16)));
	int status;

	begin_traffic();
	for (int round = 0; round < 20; round++) {
		pid_t child;

		send_to_bob(6);
		send_to_bob(6);
		child = clone(receive_in_shared_memory, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
		CHECK(child > 0);
		EQ(waitpid(child, &status, 0), child);
		EQ(status, 0);
		send_to_bob(9);
		EQ(take_one(bob.fd, bob.pool), 9);
		EQ(readiness(bob.fd) & POLLIN, 0);
	}
}

/* What `after_exec` goes on with. */
CASE(before_exec)
{
	char number[16];

	EQ(fcntl(begin_traffic(), F_SETFD, 0), 0);
	EQ(fcntl(bob.fd, F_SETFD, 0), 0);
	EQ(fcntl(alice.fd, F_SETFD, 0), 0);
	send_to_bob(1);
	send_to_bob(2);
	EQ(take_one(bob.fd, bob.pool), 1);
	snprintf(number, sizeof(number), "%d %d", bob.fd, alice.fd);
	CHECK(!setenv("INHERITED", number, 1));
	snprintf(number, sizeof(number), "%llu", (unsigned long long)bob.id);
	CHECK(!setenv("INHERITED_ID", number, 1));
	fflush(stdout);
	execl("/proc/self/exe", "self_serve", "after_exec", NULL);
	give_up();
}

CASE(after_exec)
{
	if (!getenv("INHERITED"))
		return;
	CHECK(sscanf(getenv("INHERITED"), "%d %d", &bob.fd, &alice.fd) == 2);
	bob.id = strtoull(getenv("INHERITED_ID"), NULL, 10);
	bob.pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, bob.fd, 0);
	CHECK(bob.pool != MAP_FAILED);
	EQ(take_one(bob.fd, bob.pool), 2);
	for (int i = 0; i < 100; i++) {
		send_to_bob(3);
		EQ(take_one(bob.fd, bob.pool), 3);
		EQ(readiness(bob.fd) & POLLIN, 0);
	}
}

enum { THREADS = 4, PER_ROUND = 60 };
static unsigned char *seen_by_threads;
static int received_by_threads;
static int stop_threads;

static void *receive_in_thread(void *unused)
{
	struct pollfd entries[2] = { { .fd = bob.fd, .events = POLLIN }, { .fd = stop_threads, .events = POLLIN } };

	(void)unused;
	for (;;) {
		GE(poll(entries, 2, PATIENCE), 1);
		if (entries[1].revents)
			return NULL;
		__atomic_add_fetch(&received_by_threads, take_all(bob.fd, bob.pool, seen_by_threads), __ATOMIC_SEQ_CST);
	}
}

/* Threads that are woken by the same message; one of them gets it, and none is forgotten. */
CASE(threads)
{
	pthread_t threads[THREADS];

	seen_by_threads = shared_memory();
	begin_traffic();
	stop_threads = new_event();
	for (int i = 0; i < THREADS; i++)
		EQ(pthread_create(&threads[i], NULL, receive_in_thread, NULL), 0);
	for (int round = 0; round < 20; round++) {
		memset(seen_by_threads, 0, 4096);
		__atomic_store_n(&received_by_threads, 0, __ATOMIC_SEQ_CST);
		for (int i = 0; i < PER_ROUND; i++)
			send_to_bob((__u64)i);
		while (__atomic_load_n(&received_by_threads, __ATOMIC_SEQ_CST) < PER_ROUND)
			sched_yield();
		for (int i = 0; i < PER_ROUND; i++)
			EQ(seen_by_threads[i], 1);
	}
	post(stop_threads);
	for (int i = 0; i < THREADS; i++)
		EQ(pthread_join(threads[i], NULL), 0);
	EQ(readiness(bob.fd) & POLLIN, 0);
}

static sigjmp_buf out_of_it;
static volatile sig_atomic_t may_jump;

static void jump(int signal)
{
	(void)signal;
	if (may_jump)
		siglongjmp(out_of_it, 1);
}

/* A handler that never returns leaves a message received, with its results stored, or not received. */
CASE(handlers_that_do_not_return)
{
	struct sigaction action = { .sa_handler = jump, .sa_flags = SA_RESTART };
	struct itimerval often = { { 0, 300 }, { 0, 300 } };
	static struct kdbus_cmd_recv recv;
	static volatile __u64 next_sent, next_expected;

	begin_traffic();
	CHECK(!sigaction(SIGALRM, &action, NULL));
	CHECK(!setitimer(ITIMER_REAL, &often, NULL));
	while (next_expected < 1500) {
		int jumped;

		may_jump = 0;
		if (next_sent == next_expected) {
			send_to_bob(next_sent++);
			if (next_sent % 3 == 0)
				send_to_bob(next_sent++);
			EQ(readiness(bob.fd) & POLLIN, POLLIN);
		}
		recv = (struct kdbus_cmd_recv) { .size = sizeof(recv) };
		jumped = sigsetjmp(out_of_it, 1);
		if (!jumped) {
			int result;

			may_jump = 1;
			result = command(bob.fd, KDBUS_CMD_RECV, &recv);
			may_jump = 0;
			CHECK(result == 0 || result == -EINTR);
		}
		may_jump = 0;
		if (!recv.msg.msg_size)
			continue;
		/* If it was left before it was taken, the results may be there already, but the message is as well. */
		EQ(((const struct kdbus_msg *)(bob.pool + recv.msg.offset))->cookie, next_expected);
		if (free_offset(&bob, recv.msg.offset) == 0)
			next_expected++;
		EQ(readiness(bob.fd) & POLLIN, next_expected == next_sent ? 0 : POLLIN);
	}
	often = (struct itimerval) { 0 };
	CHECK(!setitimer(ITIMER_REAL, &often, NULL));
}

static volatile sig_atomic_t handled;

static void receive_in_handler(int signal)
{
	int saved = errno;

	(void)signal;
	if (take_one(bob.fd, bob.pool) > 0)
		handled++;
	errno = saved;
}

/* A handler that receives while the program does. */
CASE(handlers_that_receive)
{
	struct sigaction action = { .sa_handler = receive_in_handler, .sa_flags = SA_RESTART };
	struct itimerval often = { { 0, 300 }, { 0, 300 } };
	int received = 0;

	begin_traffic();
	CHECK(!sigaction(SIGALRM, &action, NULL));
	CHECK(!setitimer(ITIMER_REAL, &often, NULL));
	for (int sent = 0; sent < 1500; sent++) {
		send_to_bob(1);
		if (sent % 2)
			send_to_bob(1), sent++;
		for (;;) {
			int result = take_one(bob.fd, bob.pool);

			if (result == -EAGAIN)
				break;
			EQ(result, 1);
			received++;
		}
		EQ(received + handled, sent + 1);
	}
	often = (struct itimerval) { 0 };
	CHECK(!setitimer(ITIMER_REAL, &often, NULL));
	EQ(readiness(bob.fd) & POLLIN, 0);
}

static void send_pipe(__u64 cookie)
{
	struct kdbus_cmd_send send;
	struct buffer buffer;
	int ends[2];

	EQ(pipe(ends), 0);
	begin_message(&buffer, bob.id, 0, cookie);
	add(&buffer, KDBUS_ITEM_FDS, &ends[0], sizeof(int));
	EQ(send_buffer(&alice, &buffer, 0, &send), 0);
	close(ends[0]);
	close(ends[1]);
}

static void send_memfd(__u64 cookie)
{
	struct kdbus_memfd memory = { .fd = memfd_create("test", MFD_ALLOW_SEALING), .size = 4 };
	struct kdbus_cmd_send send;
	struct buffer buffer;

	EQ(write(memory.fd, "text", 4), 4);
	EQ(fcntl(memory.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL), 0);
	begin_message(&buffer, bob.id, 0, cookie);
	add(&buffer, KDBUS_ITEM_PAYLOAD_MEMFD, &memory, sizeof(memory));
	EQ(send_buffer(&alice, &buffer, 0, &send), 0);
	close(memory.fd);
}

/* Messages that are not plain between those that are: the order stays, and pollers know. */
CASE(mixed_messages)
{
	begin_traffic();
	for (int round = 0; round < 60; round++) {
		for (int i = 0; i < 8; i++) {
			int kind = (round + i * i) % 5;

			if (kind == 1)
				send_memfd((__u64)i);
			else if (kind == 3 && round % 8 == 0)
				send_pipe((__u64)i);
			else
				send_to_bob((__u64)i);
		}
		for (int i = 0; i < 8; i++) {
			const struct kdbus_msg *message = get_message(&bob);
			const struct kdbus_item *item = item_of(message, KDBUS_ITEM_PAYLOAD_MEMFD);

			EQ(message->cookie, (__u64)i);
			if (item)
				EQ(close(item->memfd.fd), 0);
			item = item_of(message, KDBUS_ITEM_FDS);
			if (item)
				EQ(close(item->fds[0]), 0);
			EQ(readiness(bob.fd) & POLLIN, i == 7 ? 0 : POLLIN);
			EQ(free_offset(&bob, offset_in(&bob, message)), 0);
		}
	}
}

/* RECV with flags between those without. */
CASE(flags_of_receiving)
{
	struct kdbus_cmd_recv recv;

	begin_traffic();
	for (int round = 0; round < 40; round++) {
		for (int i = 0; i < 6; i++)
			send_to_bob((__u64)i);
		EQ(take_one(bob.fd, bob.pool), 0);
		EQ(receive(&bob, &recv, KDBUS_RECV_PEEK), 0);
		EQ(((const struct kdbus_msg *)(bob.pool + recv.msg.offset))->cookie, 1);
		EQ(free_offset(&bob, recv.msg.offset), 0);
		EQ(take_one(bob.fd, bob.pool), 1);
		EQ(receive(&bob, &recv, KDBUS_RECV_DROP), 0);
		EQ(take_one(bob.fd, bob.pool), 3);
		EQ(receive(&bob, &recv, KDBUS_RECV_USE_PRIORITY), 0);
		EQ(free_offset(&bob, recv.msg.offset), 0);
		EQ(readiness(bob.fd) & POLLIN, POLLIN);
		EQ(take_one(bob.fd, bob.pool), 5);
		EQ(readiness(bob.fd) & POLLIN, 0);
	}
}

/* What a sender may have in the queue is the same however it is emptied, and so is the room in the pool. */
CASE(quota_and_pool)
{
	int filled[6] = { 0 };
	__u64 first = 0;

	make_bus(0);
	alice = hello();
	bob = connect_with(KDBUS_HELLO_ACCEPT_FD, 65536, 0);
	for (int i = 0; i < WARM_UP; i++) {
		send_to_bob(1);
		EQ(take_one(bob.fd, bob.pool), 1);
	}
	for (int round = 0; round < 6; round++) {
		const struct kdbus_msg *message;
		int result;

		while ((result = send_text(&alice, bob.id, TEXT, 1)) == 0)
			filled[round]++;
		EQ(result, -ENOBUFS);
		for (int i = 0; i < filled[round]; i++)
			EQ(take_one(bob.fd, bob.pool), 1);
		EQ(filled[round], filled[0]);
		EQ(take_one(bob.fd, bob.pool), -EAGAIN);
		send_to_bob(2);
		message = get_message(&bob);
		if (!round)
			first = offset_in(&bob, message);
		EQ(offset_in(&bob, message), first);
		EQ(free_offset(&bob, first), 0);
	}
}

/* Of pieces of the same size, the one that was freed first is used first. */
CASE(room_in_the_order_in_which_it_was_freed)
{
	static const int order[][3] = { { 1, 3, 5 }, { 5, 3, 1 }, { 3, 1, 5 }, { 5, 1, 3 } };

	begin_traffic();
	for (unsigned int round = 0; round < 40; round++) {
		__u64 offsets[7];

		for (int i = 0; i < 7; i++)
			send_to_bob((__u64)i);
		for (int i = 0; i < 7; i++)
			offsets[i] = offset_in(&bob, get_message(&bob));
		for (int i = 0; i < 3; i++)
			EQ(free_offset(&bob, offsets[order[round % 4][i]]), 0);
		for (int i = 0; i < 3; i++) {
			send_to_bob(9);
			EQ(offset_in(&bob, get_message(&bob)), offsets[order[round % 4][i]]);
		}
		for (int i = 0; i < 7; i++)
			EQ(free_offset(&bob, offsets[i]), 0);
	}
}

/* Answers to synchronous calls, and asynchronous ones; both ends free what they got. */
CASE(calls)
{
	enum { CALLS = 150 };
	pid_t child;

	begin_traffic();
	child = start_child();
	if (!child) {
		for (int i = 0; i < 2 * CALLS; i++) {
			const struct kdbus_msg *request = get_message(&bob);
			struct kdbus_cmd_send send;
			struct buffer buffer;

			begin_message(&buffer, request->src_id, 0, request->cookie);
			((struct kdbus_msg *)buffer.words)->cookie_reply = request->cookie;
			add_vector(&buffer, text_of(request), sizeof(TEXT));
			EQ(send_buffer(&bob, &buffer, 0, &send), 0);
			EQ(free_offset(&bob, offset_in(&bob, request)), 0);
		}
		finish_child(0);
	}
	for (int i = 1; i <= 2 * CALLS; i++) {
		const struct kdbus_msg *answer;
		struct kdbus_cmd_send send;
		struct buffer buffer;

		begin_message(&buffer, bob.id, KDBUS_MSG_EXPECT_REPLY, (__u64)i);
		((struct kdbus_msg *)buffer.words)->timeout_ns = in_ms(PATIENCE);
		add_vector(&buffer, TEXT, sizeof(TEXT));
		EQ(send_buffer(&alice, &buffer, i % 2 ? KDBUS_SEND_SYNC_REPLY : 0, &send), 0);
		if (i % 2)
			answer = (const struct kdbus_msg *)(alice.pool + send.reply.offset);
		else
			answer = get_message(&alice);
		EQ(answer->cookie_reply, (__u64)i);
		SAME(text_of(answer), TEXT);
		EQ(free_offset(&alice, offset_in(&alice, answer)), 0);
		EQ(free_offset(&alice, offset_in(&alice, answer)), -ENXIO);
	}
	join(child);
}

/* A receiver that is killed in the middle, and those that come after it on the same connection. */
CASE(killed_at_any_moment)
{
	struct timespec moment = { 0, 0 };

	begin_traffic();
	for (int round = 0; round < 40; round++) {
		pid_t child = start_child();
		struct kdbus_cmd_recv recv;
		int status;

		if (!child) {
			for (;;)
				take_one(bob.fd, bob.pool);
		}
		for (int i = 0; i < 30; i++) {
			int result = send_text(&alice, bob.id, TEXT, 2);

			CHECK(result == 0 || result == -ENOBUFS);
		}
		moment.tv_nsec = round * 7919 % 1000 * 1000;
		nanosleep(&moment, NULL);
		CHECK(!kill(child, SIGKILL));
		EQ(waitpid(child, &status, 0), child);
		while (receive(&bob, &recv, 0) == 0)
			EQ(free_offset(&bob, recv.msg.offset), 0);
		for (int i = 0; i < 10; i++) {
			send_to_bob(3);
			EQ(take_one(bob.fd, bob.pool), 3);
			EQ(take_one(bob.fd, bob.pool), -EAGAIN);
		}
		EQ(readiness(bob.fd) & POLLIN, 0);
	}
}

/* The end of a connection, and of its bus. */
CASE(the_end)
{
	struct kdbus_cmd bye = { .size = sizeof(bye) };
	struct kdbus_cmd_recv recv;
	int bus;

	bus = make_bus(0);
	alice = hello();
	bob = hello();
	for (int i = 0; i < WARM_UP; i++) {
		send_to_bob(1);
		EQ(take_one(bob.fd, bob.pool), 1);
	}
	send_to_bob(1);
	EQ(command(bob.fd, KDBUS_CMD_BYEBYE, &bye), -EBUSY);
	EQ(take_one(bob.fd, bob.pool), 1);
	EQ(command(bob.fd, KDBUS_CMD_BYEBYE, &bye), 0);
	EQ(receive(&bob, &recv, 0), -ECONNRESET);
	EQ(send_text(&alice, bob.id, TEXT, 1), -ENXIO);
	close(bus);
	EQ(receive(&alice, &recv, 0), -ECONNRESET);
	EQ(readiness(alice.fd) & POLLHUP, POLLHUP);
}

/* The thread that is about to make calls while the supervisor is stopped, 0 before; and whether they are over. */
static pid_t caller;
static int calls_are_over;

static char state_of(pid_t thread)
{
	char path[64], text[512] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread);
	file = fopen(path, "re");
	CHECK(file && fgets(text, sizeof(text), file));
	fclose(file);
	return strrchr(text, ')')[2];
}

static void *continue_supervisor(void *unused)
{
	pid_t thread;

	while (!(thread = __atomic_load_n(&caller, __ATOMIC_SEQ_CST)))
		sched_yield();
	while (!__atomic_load_n(&calls_are_over, __ATOMIC_SEQ_CST) && state_of(thread) != 'S')
		sched_yield();
	CHECK(!kill(supervisor(), SIGCONT));
	return unused;
}

/*
 * What RECV says right after `bus` was closed for the last time, by ourselves or with the end of `child`, if the
 * supervisor has no time to see to it before something waits for it.
 */
static int receive_after_end(int bus, pid_t child, const struct connection *connection)
{
	struct kdbus_cmd_recv recv;
	pthread_t thread;
	int result;

	caller = calls_are_over = 0;
	EQ(pthread_create(&thread, NULL, continue_supervisor, NULL), 0);
	if (child)
		close(bus);
	CHECK(!kill(supervisor(), SIGSTOP));
	if (child) {
		CHECK(!kill(child, SIGKILL));
		CHECK(waitpid(child, NULL, 0) == child);
	}
	__atomic_store_n(&caller, gettid(), __ATOMIC_SEQ_CST);
	if (!child)
		close(bus);
	result = receive(connection, &recv, 0);
	__atomic_store_n(&calls_are_over, 1, __ATOMIC_SEQ_CST);
	EQ(pthread_join(thread, NULL), 0);
	return result;
}

/* What somebody has closed has its effects before the next call, however late the supervisor comes to look at it. */
CASE(what_was_closed_shows_at_once)
{
	for (int round = 0; round < 8; round++) {
		int bus = begin_traffic();
		pid_t child = 0;

		if (round % 4 == 3) {
			child = start_child();
			if (!child)
				for (;;)
					pause();
		} else {
			for (int i = 0; i < round % 4; i++)
				send_to_bob(1);
			if (round % 4)
				EQ(take_one(bob.fd, bob.pool), 1);
		}
		EQ(receive_after_end(bus, child, round < 4 ? &bob : &alice), -ECONNRESET);
		close(alice.fd);
		close(bob.fd);
	}
}

/* A shelf that the preloaded library has mapped in this process; NULL if there is none. `flags`: as smaps has them. */
static void *find_shelf(char flags[static 256])
{
	FILE *file = fopen("/proc/self/smaps", "re");
	char *line = NULL, *found = NULL;
	unsigned long start;
	size_t size = 0;

	CHECK(file);
	while (getline(&line, &size, file) > 0) {
		if (!found && strstr(line, "memfd:kdbus-shelf") && sscanf(line, "%lx-", &start) == 1)
			found = (char *)start;
		else if (found && sscanf(line, "VmFlags: %255[^\n]", flags) == 1)
			break;
	}
	free(line);
	fclose(file);
	return found;
}

enum way { UNMAPPED, FORBIDDEN, READ_ONLY, REPLACED, WAYS };

static void take_away(void *shelf, enum way way)
{
	if (way == UNMAPPED)
		EQ(munmap(shelf, 4096), 0);
	else if (way == REPLACED)
		CHECK(mmap(shelf, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == shelf);
	else
		EQ(mprotect(shelf, 4096, way == FORBIDDEN ? PROT_NONE : PROT_READ), 0);
}

/* Who takes away memory that it does not know ends by a signal, or goes on, and nobody else sees anything of it. */
CASE(memory_that_is_taken_away)
{
	begin_traffic();
	for (int way = 0; way < WAYS; way++) {
		struct connection other = alice, receiver = bob;
		pid_t child = start_child();
		int status;

		if (!child) {
			char flags[256];
			void *shelf;

			begin_traffic();
			shelf = find_shelf(flags);
			if (shelf)
				take_away(shelf, (enum way)way);
			for (int i = 0; i < WARM_UP; i++) {
				send_to_bob(2);
				EQ(take_one(bob.fd, bob.pool), 2);
			}
			finish_child(0);
		}
		alice = other;
		bob = receiver;
		EQ(waitpid(child, &status, 0), child);
		CHECK(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV));
		CHECK(way != REPLACED || status == 0);
		for (int i = 0; i < WARM_UP; i++) {
			send_to_bob(3);
			EQ(take_one(bob.fd, bob.pool), 3);
			EQ(readiness(bob.fd) & POLLIN, 0);
		}
	}
}

/* The memory is in no core dump, and a process that leaves one has ended like any other. */
CASE(core_dumps)
{
	char folder[] = "/tmp/kdbus-core-XXXXXX", command[64];
	const struct rlimit large = { 64 << 20, 64 << 20 };
	pid_t child;
	int status;

	begin_traffic();
	CHECK(mkdtemp(folder));
	child = start_child();
	if (!child) {
		char flags[256] = "";

		begin_traffic();
		if (find_shelf(flags)) {
			CHECK(strstr(flags, " dd"));
			CHECK(strstr(flags, " dc"));
		}
		send_to_bob(1);
		send_to_bob(2);
		EQ(take_one(bob.fd, bob.pool), 1);
		EQ(chdir(folder), 0);
		setrlimit(RLIMIT_CORE, &large);
		abort();
	}
	EQ(waitpid(child, &status, 0), child);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	EQ(system(command), 0);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	for (int i = 0; i < WARM_UP; i++) {
		send_to_bob(3);
		EQ(take_one(bob.fd, bob.pool), 3);
		EQ(readiness(bob.fd) & POLLIN, 0);
	}
}
