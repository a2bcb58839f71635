// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * poll(2), epoll(7) and select(2) on connections: readable while a message is queued, writable always, hung up with an
 * error when the connection has ended.
 */
#include "e2e.h"

#include <sys/select.h>

#define HUNG_UP (POLLHUP | POLLERR)

static int new_epoll(int fd, unsigned int events)
{
	struct epoll_event event = { .events = events };
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	CHECK(epoll >= 0);
	CHECK(!epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	return epoll;
}

/* The events that an epoll set reports now, 0 for none. */
static unsigned int events(int epoll)
{
	struct epoll_event event = {};

	GE(epoll_wait(epoll, &event, 1, 0), 0);
	return event.events;
}

static void drain(const struct connection *connection)
{
	while (!receive_code(connection, 0))
		;
}

CASE(readable_while_messages_wait)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);

	for (int round = 0; round < 20; round++) {
		EQ(readiness(receiver.fd), POLLOUT);
		for (int i = 0; i < 3; i++)
			EQ(SEND(&sender, .to = receiver.id), 0);
		for (int i = 0; i < 3; i++) {
			EQ(readiness(receiver.fd), POLLOUT | POLLIN);
			EQ(receive_code(&receiver, 0), 0);
		}
	}
	EQ(readiness(receiver.fd), POLLOUT);
	EQ(readiness(sender.fd), POLLOUT);
}

CASE(each_way_of_emptying_the_queue)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct kdbus_cmd_recv recv = { .flags = KDBUS_RECV_USE_PRIORITY, .priority = 5 };

	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(receive_code(&receiver, KDBUS_RECV_PEEK), 0);
	EQ(readiness(receiver.fd), POLLOUT | POLLIN);
	EQ(receive_code(&receiver, KDBUS_RECV_DROP), 0);
	EQ(readiness(receiver.fd), POLLOUT);
	EQ(SEND(&sender, .to = receiver.id, .priority = 6), 0);
	EQ(receive_into(&receiver, &recv), -ENOMSG);
	EQ(readiness(receiver.fd), POLLOUT | POLLIN);
	recv.priority = 6;
	EQ(receive_into(&receiver, &recv), 0);
	EQ(readiness(receiver.fd), POLLOUT);
}

CASE(level_triggered_epoll)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	int epoll = new_epoll(receiver.fd, EPOLLIN);

	EQ(events(epoll), 0);
	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(events(epoll), EPOLLIN);
	EQ(events(epoll), EPOLLIN);
	EQ(receive_code(&receiver, 0), 0);
	EQ(events(epoll), EPOLLIN);
	EQ(receive_code(&receiver, 0), 0);
	EQ(events(epoll), 0);
}

CASE(edge_triggered_epoll)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	int epoll = new_epoll(receiver.fd, EPOLLIN | EPOLLET);

	for (int round = 0; round < 5; round++) {
		EQ(events(epoll), 0);
		/* One that has read until EAGAIN is told of the next message. Others may come without a further edge. */
		EQ(SEND(&sender, .to = receiver.id), 0);
		EQ(events(epoll), EPOLLIN);
		for (int i = 0; i < 3; i++)
			EQ(SEND(&sender, .to = receiver.id), 0);
		drain(&receiver);
	}
}

CASE(one_shot_epoll)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT };
	int epoll = new_epoll(receiver.fd, EPOLLIN | EPOLLONESHOT);

	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(events(epoll), EPOLLIN);
	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(events(epoll), 0);
	CHECK(!epoll_ctl(epoll, EPOLL_CTL_MOD, receiver.fd, &event));
	EQ(events(epoll), EPOLLIN);
}

CASE(select_and_ppoll)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct timeval none = {};
	fd_set set;

	FD_ZERO(&set);
	FD_SET(receiver.fd, &set);
	EQ(select(receiver.fd + 1, &set, NULL, NULL, &none), 0);
	EQ(SEND(&sender, .to = receiver.id), 0);
	FD_SET(receiver.fd, &set);
	EQ(select(receiver.fd + 1, &set, NULL, NULL, &none), 1);
}

CASE(duplicates_and_children_see_the_same)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path), duplicate = receiver;

	duplicate.fd = fcntl(receiver.fd, F_DUPFD, 200);
	EQ(duplicate.fd, 200);
	EQ(SEND(&sender, .to = receiver.id, .cookie = 1), 0);
	EQ(readiness(duplicate.fd), POLLOUT | POLLIN);
	IN_CHILD {
		EQ(readiness(receiver.fd), POLLOUT | POLLIN);
		EQ(receive(&receiver)->cookie, 1);
		EQ(readiness(receiver.fd), POLLOUT);
	}
	EQ(readiness(receiver.fd), POLLOUT);
	EQ(readiness(duplicate.fd), POLLOUT);
	EQ(SEND(&sender, .to = receiver.id, .cookie = 2), 0);
	CHECK(!close(receiver.fd));
	EQ(receive(&duplicate)->cookie, 2);
	EQ(readiness(duplicate.fd), POLLOUT);
	EQ(SEND(&sender, .to = duplicate.id), 0);
	CHECK(!close(duplicate.fd));
	EQ(SEND(&sender, .to = duplicate.id), -ENXIO);
}

/* Sends a descriptor through a unix socket, or takes one from there. */
static void pass(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = {}, byte = 0;
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	*header = (struct cmsghdr) { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	EQ(sendmsg(socket, &message, 0), 1);
}

static int take(int socket)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	int fd;

	EQ(recvmsg(socket, &message, 0), 1);
	CHECK(CMSG_FIRSTHDR(&message));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

CASE(connections_travel_through_sockets)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path), taken;
	int pair[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	pass(pair[0], receiver.fd);
	CHECK(!close(receiver.fd));
	/* Nobody holds it but the message that is under way. */
	EQ(SEND(&sender, .to = receiver.id, .cookie = 1), 0);
	IN_CHILD {
		taken = receiver;
		taken.fd = take(pair[1]);
		EQ(readiness(taken.fd), POLLOUT | POLLIN);
		EQ(receive(&taken)->cookie, 1);
		EQ(SEND(&taken, .to = sender.id, .cookie = 2), 0);
		pass(pair[0], taken.fd);
	}
	EQ(receive(&sender)->src_id, receiver.id);
	EQ(SEND(&sender, .to = receiver.id), 0);
	CHECK(!close(pair[0]));
	CHECK(!close(pair[1]));
	EQ(SEND(&sender, .to = receiver.id), -ENXIO);
}

CASE(connections_survive_exec)
{
	const char *given = getenv("E2E_DESCRIPTOR");
	struct connection connection;
	struct bus bus;

	if (given) {
		struct kdbus_cmd_recv recv = { .size = sizeof(recv) };

		connection.fd = atoi(given);
		EQ(readiness(connection.fd), POLLOUT | POLLIN);
		EQ(command(connection.fd, KDBUS_CMD_RECV, &recv), 0);
		/* The mapping is gone with the old program, and can be made again. */
		connection.pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, connection.fd, 0);
		CHECK(connection.pool != MAP_FAILED);
		EQ(((const struct kdbus_msg *)(connection.pool + recv.msg.offset))->cookie, 3);
		return;
	}
	bus = new_bus(0);
	connection = hello(bus.path);
	EQ(SEND(&connection, .to = connection.id, .cookie = 3), 0);
	CHECK(!fcntl(connection.fd, F_SETFD, 0));
	IN_CHILD {
		char number[16];

		snprintf(number, sizeof(number), "%d", connection.fd);
		CHECK(!setenv("E2E_DESCRIPTOR", number, 1));
		CHECK(dup2(open("/dev/null", O_WRONLY), 1) == 1);
		execl("/proc/self/exe", "readiness", "connections_survive_exec", NULL);
	}
	EQ(receive_code(&connection, 0), -EAGAIN);
	EQ(readiness(connection.fd), POLLOUT);
}

CASE(after_byebye)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);
	int level = new_epoll(peer.fd, EPOLLIN), edge = new_epoll(peer.fd, EPOLLIN | EPOLLET);

	EQ(byebye(&peer), 0);
	EQ(readiness(peer.fd) & HUNG_UP, HUNG_UP);
	EQ(events(level) & (EPOLLHUP | EPOLLERR), EPOLLHUP | EPOLLERR);
	EQ(events(edge) & (EPOLLHUP | EPOLLERR), EPOLLHUP | EPOLLERR);
	EQ(byebye(&peer), -EALREADY);
	EQ(SEND(&peer, .to = 1), -ECONNRESET);
	EQ(receive_code(&peer, 0), -ECONNRESET);
	EQ(release(&peer, peer.hello.offset), -ECONNRESET);
	EQ(acquire(&peer, "org.example.Name", 0), -ECONNRESET);
	EQ(match_everything(&peer), -ECONNRESET);
}

static void *wait_for_hang_up(void *argument)
{
	struct pollfd entry = { .fd = *(int *)argument, .events = POLLIN };

	EQ(poll(&entry, 1, PATIENCE), 1);
	EQ(entry.revents & HUNG_UP, HUNG_UP);
	return NULL;
}

CASE(who_polls_is_woken_by_byebye)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		CHECK(!pthread_create(&threads[i], NULL, wait_for_hang_up, &peer.fd));
	EQ(byebye(&peer), 0);
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_join(threads[i], NULL));
}

CASE(byebye_with_messages)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);

	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(byebye(&receiver), -EBUSY);
	EQ(readiness(receiver.fd), POLLOUT | POLLIN);
	EQ(receive_code(&receiver, 0), 0);
	EQ(byebye(&receiver), 0);
	EQ(SEND(&sender, .to = receiver.id), -ENXIO);
}

CASE(flags_of_the_descriptor)
{
	struct bus bus = new_bus(0);
	int plain = open(bus.path, O_RDWR), fancy = open(bus.path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct kdbus_cmd_recv recv = { .size = sizeof(recv) };
	struct connection peer = hello(bus.path);

	EQ(fcntl(plain, F_GETFD), 0);
	EQ(fcntl(fancy, F_GETFD), FD_CLOEXEC);
	EQ(fcntl(plain, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR);
	EQ(fcntl(fancy, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR | O_NONBLOCK);
	/* RECV does not block in either case. */
	EQ(command(peer.fd, KDBUS_CMD_RECV, &recv), -EAGAIN);
}

CASE(shutdown_fakes_no_hang_up)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);

	/* A handle is no socket to the program; what shutdown(2) says of it is not the point. */
	shutdown(receiver.fd, SHUT_RDWR);
	EQ(SEND(&sender, .to = receiver.id, .cookie = 1), 0);
	EQ(receive(&receiver)->cookie, 1);
}
