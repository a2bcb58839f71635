// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * When connections, buses and endpoints end: with the last close of the last duplicate of their descriptor, wherever
 * that is, and not before. Each case holds a second connection, which looks whether the first is still on the bus.
 */
#include "e2e.h"
#include "supervisor.h"

#include <dirent.h>
#include <sys/un.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

/* A case that only makes sense as a part of others: run by them, after an exec. */
#define PART CASE

struct scene {
	struct bus bus;
	struct connection watcher, subject;
};

static struct scene new_scene(void)
{
	struct scene scene = { .bus = new_bus(0) };

	scene.watcher = hello(scene.bus.path);
	scene.subject = hello(scene.bus.path);
	return scene;
}

static int presence(const struct scene *scene)
{
	return listed(&scene->watcher, KDBUS_NAME_LIST_UNIQUE, scene->subject.id, NULL);
}

/* That the subject can still be talked to, through `fd`. */
static void talk(const struct scene *scene, int fd)
{
	struct connection subject = scene->subject;
	static __u64 cookie;

	subject.fd = fd;
	EQ(presence(scene), 1);
	EQ(SEND(&scene->watcher, .to = subject.id, .cookie = ++cookie), 0);
	CHECK(wait_for(fd, POLLIN) & POLLIN);
	EQ(receive_code(&subject, 0), 0);
	EQ(readiness(fd), POLLOUT);
	EQ(SEND(&subject, .to = scene->watcher.id, .cookie = ++cookie), 0);
	EQ(receive_code(&scene->watcher, 0), 0);
}

static void send_descriptor(int socket, int fd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec byte = { "d", 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	EQ(sendmsg(socket, &message, MSG_NOSIGNAL), 1);
}

static int receive_descriptor(int socket)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	char byte;
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int fd;

	EQ(recvmsg(socket, &message, 0), 1);
	CHECK(CMSG_FIRSTHDR(&message));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static void new_pair(int pair[2])
{
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
}

CASE(close_ends_it)
{
	struct scene scene = new_scene();

	talk(&scene, scene.subject.fd);
	CHECK(!close(scene.subject.fd));
	EQ(presence(&scene), 0);
	EQ(SEND(&scene.watcher, .to = scene.subject.id, .cookie = 1), -ENXIO);
}

CASE(the_mapped_pool_does_not_keep_it)
{
	struct scene scene = new_scene();

	CHECK(!close(scene.subject.fd));
	EQ(presence(&scene), 0);
	GE(*(const volatile char *)scene.subject.pool, -128);
}

CASE(fork_holds_it)
{
	struct scene scene = new_scene();
	int go = new_event();
	pid_t child = start_child();

	if (!child) {
		await(go);
		talk(&scene, scene.subject.fd);
		finish_child(0);
	}
	CHECK(!close(scene.subject.fd));
	EQ(presence(&scene), 1);
	post(go);
	join(child);
	EQ(presence(&scene), 0);
}

CASE(duplicates_hold_it)
{
	struct scene scene = new_scene();
	int second = dup(scene.subject.fd), third = fcntl(second, F_DUPFD_CLOEXEC, 200);

	CHECK(second >= 0 && third >= 200);
	CHECK(!close(scene.subject.fd));
	talk(&scene, second);
	talk(&scene, third);
	CHECK(!close(second));
	talk(&scene, third);
	CHECK(!close(third));
	EQ(presence(&scene), 0);
}

CASE(dup2_over_it_ends_it)
{
	struct scene scene = new_scene();

	EQ(dup2(scene.bus.fd, scene.subject.fd), scene.subject.fd);
	EQ(presence(&scene), 0);
	EQ(command(scene.subject.fd, KDBUS_CMD_BYEBYE, NULL), -ENOTTY);
}

CASE(dup2_of_another_connection_over_it)
{
	struct scene scene = new_scene();
	struct connection other = hello(scene.bus.path);

	EQ(dup3(other.fd, scene.subject.fd, O_CLOEXEC), scene.subject.fd);
	EQ(presence(&scene), 0);
	CHECK(!close(other.fd));
	scene.subject.id = other.id;
	scene.subject.pool = other.pool;
	talk(&scene, scene.subject.fd);
}

CASE(close_range_ends_it)
{
	struct scene scene = new_scene();
	unsigned int fd = (unsigned int)scene.subject.fd;

	if (syscall(SYS_close_range, fd, fd, 0) && errno == ENOSYS)
		skip("there is no close_range here");
	EQ(presence(&scene), 0);
}

/* Becomes another program, which runs one case with `socket` as its stdin. */
static pid_t start_program(int socket, const char *case_name, int argument)
{
	pid_t child = start_child();
	char number[16];

	if (child)
		return child;
	CHECK(dup2(socket, 0) == 0);
	snprintf(number, sizeof(number), "%d", argument);
	CHECK(!setenv("E2E_ARGUMENT", number, 1));
	execl("/proc/self/exe", "lifetimes", case_name, (char *)NULL);
	_exit(126);
}

/* Run by other cases only, after an exec. */
static int inherited_argument(void)
{
	const char *text = getenv("E2E_ARGUMENT");

	if (!text)
		skip("this is a part of other cases");
	return atoi(text);
}

PART(part_say_hello_and_wait)
{
	char byte;

	inherited_argument();
	EQ(write(0, "r", 1), 1);
	EQ(read(0, &byte, 1), 0);
}

CASE(exec_closes_it)
{
	struct scene scene = new_scene();
	int pair[2];
	pid_t child;
	char byte;

	new_pair(pair);
	child = start_program(pair[0], "part_say_hello_and_wait", 0);
	CHECK(!close(scene.subject.fd));
	EQ(read(pair[1], &byte, 1), 1);
	EQ(presence(&scene), 0);
	CHECK(!close(pair[0]) && !close(pair[1]));
	join(child);
}

PART(part_use_inherited_connection)
{
	struct connection connection = { .fd = inherited_argument() };
	const struct kdbus_msg *message;

	EQ(mmap(NULL, 2 * POOL_SIZE, PROT_READ, MAP_SHARED, connection.fd, 0) == MAP_FAILED, 1);
	connection.pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, connection.fd, 0);
	CHECK(connection.pool != MAP_FAILED);
	message = await_message(&connection);
	SAME(text_of(&connection, message), TEXT);
	EQ(SEND(&connection, .to = message->src_id, .cookie = message->cookie + 1), 0);
	done(&connection, message);
}

CASE(exec_keeps_it_without_close_on_exec)
{
	struct scene scene = new_scene();
	pid_t child;

	CHECK(!fcntl(scene.subject.fd, F_SETFD, 0));
	child = start_program(0, "part_use_inherited_connection", scene.subject.fd);
	CHECK(!close(scene.subject.fd));
	EQ(SEND(&scene.watcher, .to = scene.subject.id, .cookie = 7), 0);
	EQ(await_message(&scene.watcher)->cookie, 8);
	join(child);
	EQ(presence(&scene), 0);
}

CASE(a_message_under_way_holds_it)
{
	struct scene scene = new_scene();
	int pair[2], fd;

	new_pair(pair);
	send_descriptor(pair[0], scene.subject.fd);
	CHECK(!close(scene.subject.fd));
	EQ(presence(&scene), 1);
	IN_CHILD {
		fd = receive_descriptor(pair[1]);
		talk(&scene, fd);
	}
	EQ(presence(&scene), 0);
}

CASE(a_message_that_is_never_received)
{
	struct scene scene = new_scene();
	int pair[2];

	new_pair(pair);
	send_descriptor(pair[0], scene.subject.fd);
	CHECK(!close(scene.subject.fd));
	CHECK(!close(pair[0]));
	EQ(presence(&scene), 1);
	CHECK(!close(pair[1]));
	EQ(presence(&scene), 0);
}

/* A descriptor that holds nothing but itself. It was no socket in the original. */
CASE(it_cannot_be_sent_into_itself)
{
	struct scene scene = new_scene();
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .header = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) } };
	struct iovec byte = { "d", 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };

	memcpy(CMSG_DATA(&control.header), &scene.subject.fd, sizeof(int));
	EQ(sendmsg(scene.subject.fd, &message, MSG_NOSIGNAL), -1);
	talk(&scene, scene.subject.fd);
	CHECK(!close(scene.subject.fd));
	EQ(presence(&scene), 0);
}

CASE(its_owner_is_killed)
{
	struct scene scene = new_scene();
	__u64 id;
	int ready = new_event();
	int report[2];
	pid_t child;
	int status;

	CHECK(!pipe2(report, O_CLOEXEC));
	child = start_child();
	if (!child) {
		struct connection own = hello(scene.bus.path);

		CHECK(write(report[1], &own.id, sizeof(own.id)) == sizeof(own.id));
		EQ(acquire(&own, "org.example.Owner", 0), 0);
		post(ready);
		for (;;)
			pause();
	}
	EQ(read(report[0], &id, sizeof(id)), (int)sizeof(id));
	await(ready);
	EQ(match_id(&scene.watcher, 1, KDBUS_ITEM_ID_REMOVE, KDBUS_MATCH_ID_ANY), 0);
	EQ(listed(&scene.watcher, KDBUS_NAME_LIST_NAMES, id, "org.example.Owner"), 1);
	CHECK(!kill(child, SIGKILL));
	EQ(await_message(&scene.watcher)->src_id, KDBUS_SRC_ID_KERNEL);	/* without a trap of ours in between */
	EQ(waitpid(child, &status, 0), child);
	EQ(listed(&scene.watcher, KDBUS_NAME_LIST_NAMES | KDBUS_NAME_LIST_UNIQUE, id, NULL), 0);
}

CASE(reused_numbers_are_not_mistaken)
{
	struct scene scene = new_scene();
	int number = scene.subject.fd, pair[2];
	struct connection other;

	for (int round = 0; round < 50; round++) {
		CHECK(!close(number));
		EQ(presence(&scene), 0);

		EQ(command(number, KDBUS_CMD_BYEBYE, NULL), -EBADF);
		new_pair(pair);
		EQ(pair[0], number);
		EQ(command(number, KDBUS_CMD_BYEBYE, NULL), -ENOTTY);
		CHECK(!close(pair[0]) && !close(pair[1]));

		EQ(open("/dev/null", O_RDWR | O_CLOEXEC), number);
		EQ(command(number, KDBUS_CMD_BYEBYE, NULL), -ENOTTY);
		CHECK(!close(number));

		other = hello(scene.bus.path);
		EQ(other.fd, number);
		NE(other.id, scene.subject.id);
		CHECK(!munmap((void *)scene.subject.pool, POOL_SIZE));
		scene.subject = other;
		talk(&scene, number);
	}
}

/* The same number in two processes, for different connections. */
CASE(numbers_belong_to_processes)
{
	struct scene scene = new_scene();

	talk(&scene, scene.subject.fd);
	IN_CHILD {
		struct scene inside = scene;

		CHECK(!close(scene.subject.fd));
		inside.subject = hello(scene.bus.path);
		EQ(inside.subject.fd, scene.subject.fd);
		talk(&inside, inside.subject.fd);
	}
	talk(&scene, scene.subject.fd);
}

static void *use_and_end(void *argument)
{
	talk(argument, ((struct scene *)argument)->subject.fd);
	return NULL;
}

/* Threads come and go, their numbers return, and each has used the handle once. */
CASE(many_threads_use_it)
{
	struct scene scene = new_scene();
	pthread_t thread;

	for (int i = 0; i < 300; i++) {
		CHECK(!pthread_create(&thread, NULL, use_and_end, &scene));
		CHECK(!pthread_join(thread, NULL));
	}
}

CASE(duplicated_before_the_first_call)
{
	struct bus bus = new_bus(0);
	struct scene scene = { .bus = bus, .watcher = hello(bus.path) };
	int first = open(bus.path, O_RDWR | O_CLOEXEC), second = dup(first);
	struct buffer buffer;

	CHECK(first >= 0 && second >= 0);
	IN_CHILD
		EQ(command(second, KDBUS_CMD_HELLO, begin_hello(&buffer, 0)), 0);
	EQ(command(first, KDBUS_CMD_HELLO, begin_hello(&buffer, 0)), -ENOTTY);
	scene.subject.fd = first;
	scene.subject.pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, second, 0);
	CHECK(scene.subject.pool != MAP_FAILED);
	EQ(listed(&scene.watcher, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 2);
	EQ(SEND(&scene.watcher, .to = scene.watcher.id + 1, .cookie = 1), 0);
	EQ(await_message(&scene.subject)->cookie, 1);
	CHECK(!close(first));
	EQ(listed(&scene.watcher, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 2);
	CHECK(!close(second));
	EQ(listed(&scene.watcher, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
}

/* Opened with flags by which an open is not recognised as one of a node, and so only at its first call. */
static void open_late(int flags)
{
	struct bus bus = new_bus(0);
	struct scene scene = { .bus = bus, .watcher = hello(bus.path) };
	int first = open(bus.path, flags | O_CLOEXEC, 0), second = dup(first), third = fcntl(first, F_DUPFD, 100);
	int go = new_event(), other = open(bus.path, flags | O_CLOEXEC, 0);
	struct buffer buffer;
	pid_t child;

	CHECK(first >= 0 && second >= 0 && third == 100 && other >= 0);
	child = start_child();
	if (!child) {
		await(go);
		EQ(command(first, KDBUS_CMD_HELLO, begin_hello(&buffer, 0)), -ENOTTY);
		finish_child(0);
	}
	EQ(command(first, KDBUS_CMD_HELLO, begin_hello(&buffer, 0)), 0);
	EQ(fcntl(first, F_GETFD), FD_CLOEXEC);
	EQ(fcntl(third, F_GETFD), 0);
	EQ(readiness(third), POLLOUT);
	EQ(command(second, KDBUS_CMD_HELLO, begin_hello(&buffer, 0)), -ENOTTY);
	EQ(command(other, KDBUS_CMD_HELLO, begin_hello(&buffer, 0)), 0);
	EQ(listed(&scene.watcher, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 3);
	post(go);
	join(child);
	CHECK(!close(first));
	CHECK(!close(second));
	EQ(listed(&scene.watcher, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 3);
	CHECK(!close(third));
	EQ(listed(&scene.watcher, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 2);
}

CASE(opened_with_create)
{
	open_late(O_RDWR | O_CREAT);
}

CASE(opened_read_only)
{
	open_late(O_RDONLY);
}

CASE(a_node_that_has_gone_before_the_first_call)
{
	struct bus bus = new_bus(0);
	int late = open(bus.path, O_RDONLY | O_CLOEXEC);
	struct buffer buffer;

	CHECK(late >= 0);
	CHECK(!close(bus.fd));
	EQ(command(late, KDBUS_CMD_HELLO, begin_hello(&buffer, 0)), -ESHUTDOWN);
	NE(mmap(NULL, 4096, PROT_READ, MAP_SHARED, late, 0) == MAP_FAILED, 0);
}

/* The original's descriptors were no sockets. Whatever this call says, it must not end the connection. */
CASE(shutdown_does_not_end_it)
{
	static const int ways[] = { SHUT_RD, SHUT_WR, SHUT_RDWR };

	for (int i = 0; i < 3; i++) {
		struct scene scene = new_scene();
		int second = dup(scene.subject.fd);

		shutdown(scene.subject.fd, ways[i]);
		EQ(presence(&scene), 1);
		EQ(SEND(&scene.watcher, .to = scene.subject.id, .cookie = 1), 0);
		CHECK(wait_for(scene.subject.fd, POLLIN) & POLLIN);
		EQ(receive_code(&scene.subject, 0), 0);
		EQ(SEND(&scene.subject, .to = scene.watcher.id, .cookie = 1), 0);
		CHECK(!close(scene.subject.fd));
		EQ(presence(&scene), 1);
		CHECK(!close(second));
		EQ(presence(&scene), 0);
		CHECK(!close(scene.watcher.fd) && !close(scene.bus.fd));
	}
}

CASE(a_bus_ends_with_its_maker)
{
	struct scene scene = new_scene();
	int second = dup(scene.bus.fd);

	CHECK(!close(scene.bus.fd));
	talk(&scene, scene.subject.fd);
	CHECK(!close(second));
	CHECK(wait_for(scene.subject.fd, POLLIN) & POLLHUP);
	EQ(receive_code(&scene.subject, 0), -ECONNRESET);
	EQ(access(scene.bus.folder, F_OK), -1);
	EQ(errno, ENOENT);
}

CASE(a_bus_ends_with_its_killed_maker)
{
	char path[160];
	int report[2], status;
	pid_t child;
	struct connection guest;

	CHECK(!pipe2(report, O_CLOEXEC));
	child = start_child();
	if (!child) {
		struct bus bus = new_bus(0);

		CHECK(write(report[1], bus.path, sizeof(bus.path)) == sizeof(bus.path));
		for (;;)
			pause();
	}
	EQ(read(report[0], path, sizeof(path)), (int)sizeof(path));
	guest = hello(path);
	CHECK(!kill(child, SIGKILL));
	CHECK(wait_for(guest.fd, POLLIN) & POLLHUP);
	EQ(waitpid(child, &status, 0), child);
	EQ(open(path, O_RDWR), -1);
	EQ(errno, ENOENT);
}

CASE(an_endpoint_ends_with_its_maker)
{
	struct bus bus = new_bus(0);
	int fd = open(bus.path, O_RDWR | O_CLOEXEC), second;
	struct buffer buffer;
	struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));
	char name[64], path[256];
	struct connection guest;
	int opened;

	snprintf(name, sizeof(name), "%u-custom", geteuid());
	snprintf(path, sizeof(path), "%s/%s", bus.folder, name);
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, name);
	make->flags = KDBUS_MAKE_ACCESS_WORLD;
	EQ(command(fd, KDBUS_CMD_ENDPOINT_MAKE, make), 0);
	guest = hello(path);
	opened = open(path, O_RDWR | O_CLOEXEC);
	CHECK(opened >= 0);
	second = dup(fd);
	CHECK(!close(fd));
	EQ(listed(&guest, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
	CHECK(!close(second));
	CHECK(wait_for(guest.fd, POLLIN) & POLLHUP);
	EQ(command(opened, KDBUS_CMD_HELLO, begin_hello(&buffer, 0)), -ESHUTDOWN);
	EQ(access(path, F_OK), -1);
}

/* How many descriptors the supervisor has. */
static int supervisor_descriptors(void)
{
	char path[64];
	int count = 0;
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/fd", supervisor());
	folder = opendir(path);
	if (!folder)
		return -1;
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

/* One of every ending, again and again: the supervisor must have as many descriptors as before. */
CASE(nothing_is_left_behind)
{
	struct scene scene = new_scene();
	int before = 0, pair[2], status;

	if (supervisor_descriptors() < 0)
		skip("the supervisor's descriptors cannot be counted from here");
	await_loop();
	for (int round = 0; round < 40; round++) {
		struct connection other = hello(scene.bus.path);
		struct bus bus = { .fd = open_control() };
		pid_t child;

		EQ(try_bus(&bus, "left", 0, 0, 0), 0);
		new_pair(pair);
		send_descriptor(pair[0], other.fd);
		EQ(byebye(&other), 0);
		CHECK(!close(other.fd) && !close(pair[0]) && !close(pair[1]));
		CHECK(!munmap((void *)other.pool, POOL_SIZE));
		child = start_child();
		if (!child) {
			other = hello(bus.path);
			EQ(SEND(&other, .to = other.id, .cookie = 1, .fds = &pair[0], .fd_count = 0), 0);
			raise(SIGKILL);
		}
		EQ(waitpid(child, &status, 0), child);
		CHECK(!close(bus.fd));
		EQ(presence(&scene), 1);
		if (round == 10)
			before = supervisor_descriptors();
	}
	GE(before + 2, supervisor_descriptors());	/* it also opens some for a moment; a leak is one a round, at least */
}
