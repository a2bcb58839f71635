// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Trees of processes: threads, vfork, exec, sudden ends, stops, pid namespaces, changed users. Each case checks that
 * the bus goes on as it should, and that messages tell the truth about who sent them.
 */
#include "e2e.h"

#include <linux/capability.h>
#include <sched.h>

/* A case that only makes sense as a part of others, or of tests from outside. */
#define PART CASE

/* ---- threads ---- */

#define THREADS 8
#define ROUNDS 100

struct crowd {
	struct connection connection;
	__u64 index;
};

static void *send_to_oneself(void *argument)
{
	const struct crowd *member = argument;
	struct connection connection = member->connection;

	for (__u64 round = 0; round < ROUNDS; round++) {
		const struct kdbus_msg *message;
		int result = SEND(&connection, .to = connection.id, .cookie = member->index * ROUNDS + round);

		EQ(result, 0);
		message = receive(&connection);		/* of whichever thread; nobody waits in vain */
		GE(THREADS * ROUNDS - 1, message->cookie);
		SAME(text_of(&connection, message), TEXT);
		done(&connection, message);
	}
	return NULL;
}

CASE(threads_share_a_connection)
{
	struct bus bus = new_bus(0);
	struct connection connection = hello(bus.path);
	struct crowd members[THREADS];
	pthread_t threads[THREADS];

	for (__u64 i = 0; i < THREADS; i++) {
		members[i] = (struct crowd) { connection, i };
		CHECK(!pthread_create(&threads[i], NULL, send_to_oneself, &members[i]));
	}
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_join(threads[i], NULL));
	EQ(receive_code(&connection, 0), -EAGAIN);
}

static void *open_and_end(void *argument)
{
	struct connection connection = hello(((struct bus *)argument)->path);

	EQ(SEND(&connection, .to = connection.id, .cookie = 1), 0);
	EQ(receive_code(&connection, 0), 0);
	CHECK(!close(connection.fd));
	CHECK(!munmap((void *)connection.pool, POOL_SIZE));
	return NULL;
}

CASE(threads_connect_at_once)
{
	struct bus bus = new_bus(0);
	pthread_t threads[THREADS];

	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < THREADS; i++)
			CHECK(!pthread_create(&threads[i], NULL, open_and_end, &bus));
		for (int i = 0; i < THREADS; i++)
			CHECK(!pthread_join(threads[i], NULL));
	}
}

/* A thread with descriptors of its own: the same number is another connection there. */
static void *use_own_table(void *argument)
{
	struct bus *bus = argument;
	struct connection own;

	CHECK(!unshare(CLONE_FILES));
	for (int fd = 3; fd < 64; fd++)
		if (fd != bus->fd)
			close(fd);
	own = hello(bus->path);
	EQ(SEND(&own, .to = own.id, .cookie = 1), 0);
	EQ(await_message(&own)->src_id, own.id);
	return NULL;
}

CASE(a_thread_with_its_own_descriptors)
{
	struct bus bus = new_bus(0);
	struct connection connection = hello(bus.path);
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, use_own_table, &bus));
	CHECK(!pthread_join(thread, NULL));
	EQ(SEND(&connection, .to = connection.id, .cookie = 1), 0);
	EQ(await_message(&connection)->src_id, connection.id);
	EQ(listed(&connection, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
}

/* ---- waiting calls that end otherwise ---- */

struct waiter {
	struct connection connection;
	__u64 to;
	int result;
};

static int call(const struct connection *connection, __u64 to)
{
	struct kdbus_cmd_send left;

	return SEND(connection, .to = to, .cookie = 1, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = in_ms(PATIENCE),
		    .send_flags = KDBUS_SEND_SYNC_REPLY, .result = &left);
}

static void *wait_for_reply(void *argument)
{
	struct waiter *waiter = argument;

	waiter->result = call(&waiter->connection, waiter->to);
	return NULL;
}

static int answer(const struct connection *service, const struct kdbus_msg *message)
{
	int result = SEND(service, .to = message->src_id, .reply_to = message->cookie, .cookie = 2);

	done(service, message);
	return result;
}

CASE(exit_group_while_a_thread_waits)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path);
	const struct kdbus_msg *message;
	int go = new_event(), status;
	pid_t child = start_child();

	if (!child) {
		struct waiter waiter = { .connection = hello(bus.path), .to = service.id };
		pthread_t thread;

		CHECK(!pthread_create(&thread, NULL, wait_for_reply, &waiter));
		await(go);
		syscall(SYS_exit_group, 7);
	}
	message = await_message(&service);
	post(go);
	EQ(waitpid(child, &status, 0), child);
	EQ(WEXITSTATUS(status), 7);
	EQ(answer(&service, message), -ENXIO);
	EQ(listed(&service, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
}

CASE(killed_while_it_waits)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path);
	const struct kdbus_msg *message;
	int status;
	pid_t child = start_child();

	if (!child) {
		struct connection own = hello(bus.path);

		call(&own, service.id);
		_exit(1);
	}
	message = await_message(&service);
	CHECK(!kill(child, SIGKILL));
	EQ(waitpid(child, &status, 0), child);
	EQ(WTERMSIG(status), SIGKILL);
	EQ(answer(&service, message), -ENXIO);
}

static void *become_another_program(void *argument)
{
	await(*(int *)argument);
	execl("/bin/sh", "sh", "-c", "exit 7", (char *)NULL);
	return NULL;
}

CASE(exec_from_a_thread_while_the_first_waits)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path);
	const struct kdbus_msg *message;
	int go = new_event(), status;
	pid_t child = start_child();

	if (!child) {
		struct connection own = hello(bus.path);
		pthread_t thread;

		CHECK(!pthread_create(&thread, NULL, become_another_program, &go));
		call(&own, service.id);
		_exit(1);
	}
	message = await_message(&service);
	post(go);
	EQ(waitpid(child, &status, 0), child);
	EQ(WEXITSTATUS(status), 7);
	EQ(answer(&service, message), -ENXIO);
}

PART(part_use_stdin)
{
	struct connection connection = { .fd = 0 };

	if (!getenv("E2E_PART"))
		skip("this is a part of other cases");
	connection.pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, 0, 0);
	CHECK(connection.pool != MAP_FAILED);
	EQ(answer(&connection, await_message(&connection)), 0);
}

static void *exec_with_connection(void *argument)
{
	CHECK(dup2(*(int *)argument, 0) == 0);
	CHECK(!setenv("E2E_PART", "1", 1));
	execl("/proc/self/exe", "trees", "part_use_stdin", (char *)NULL);
	return NULL;
}

/* The thread that executes takes over the number of the first, which has used the connection before. */
CASE(exec_from_a_thread_keeps_the_connection)
{
	struct bus bus = new_bus(0);
	struct connection client = hello(bus.path), service = hello(bus.path);
	int go = new_event();
	pid_t child;

	child = start_child();
	if (!child) {
		pthread_t thread;

		EQ(listed(&service, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 2);
		CHECK(!pthread_create(&thread, NULL, exec_with_connection, &service.fd));
		await(go);
	}
	EQ(call(&client, service.id), 0);
	join(child);
}

CASE(vfork_and_exec)
{
	struct bus bus = new_bus(0);
	struct connection client = hello(bus.path), service = hello(bus.path);
	char *const arguments[] = { "trees", "part_use_stdin", NULL };
	char *const environment[] = { "E2E_PART=1", NULL };
	pid_t child = vfork();

	if (!child) {
		if (dup2(service.fd, 0))
			_exit(1);
		execve("/proc/self/exe", arguments, environment);
		_exit(1);
	}
	CHECK(child > 0);
	EQ(call(&client, service.id), 0);
	join(child);
}

/* The child runs in the parent's memory, while the parent stands still. */
CASE(vfork_and_call)
{
	struct bus bus = new_bus(0);
	struct connection connection = hello(bus.path);
	volatile int result = 1;
	struct buffer message;
	pid_t child;

	write_letter(&(struct letter) { .to = connection.id, .cookie = 1 }, &message);
	child = vfork();
	if (!child) {
		result = send_buffer(&connection, &message, 0, 0, NULL);
		_exit(0);
	}
	join(child);
	EQ(result, 0);
	EQ(await_message(&connection)->cookie, 1);
}

/* ---- stops ---- */

static void await_state(pid_t child, int option, bool (*is)(int))
{
	int status;

	EQ(waitpid(child, &status, option), child);
	CHECK(is(status));
}

static bool is_stopped(int status)
{
	return WIFSTOPPED(status);
}

static bool is_continued(int status)
{
	return WIFCONTINUED(status);
}

static void stop_while_waiting(int signal)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path);
	const struct kdbus_msg *message;
	pid_t child = start_child();

	if (!child) {
		struct connection own = hello(bus.path);

		CHECK(!setpgid(0, 0));
		EQ(call(&own, service.id), 0);
		EQ(call(&own, service.id), 0);
		finish_child(0);
	}
	message = await_message(&service);
	for (int round = 0; round < 3; round++) {
		CHECK(!kill(child, signal));
		await_state(child, WUNTRACED, is_stopped);
		CHECK(!kill(child, SIGCONT));
		await_state(child, WCONTINUED, is_continued);
	}
	EQ(answer(&service, message), 0);
	message = await_message(&service);
	CHECK(!kill(child, signal));
	await_state(child, WUNTRACED, is_stopped);
	EQ(answer(&service, message), 0);		/* it is told when it goes on */
	CHECK(!kill(child, SIGCONT));
	join(child);
	EQ(receive_code(&service, 0), -EAGAIN);		/* no request came twice */
}

CASE(stopped_while_it_waits)
{
	stop_while_waiting(SIGSTOP);
}

CASE(stopped_from_the_terminal_while_it_waits)
{
	stop_while_waiting(SIGTSTP);
}

CASE(stopped_while_it_does_not_wait)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	pid_t child = start_child();

	if (!child) {
		for (__u64 cookie = 1; cookie <= 20; cookie++)
			EQ(await_message(&receiver)->cookie, cookie);
		finish_child(0);
	}
	for (__u64 cookie = 1; cookie <= 20; cookie++) {
		if (cookie % 4 == 0) {
			CHECK(!kill(child, SIGSTOP));
			await_state(child, WUNTRACED, is_stopped);
		}
		EQ(SEND(&sender, .to = receiver.id, .cookie = cookie), 0);
		if (cookie % 4 == 2)
			CHECK(!kill(child, SIGCONT));
	}
	CHECK(!kill(child, SIGCONT));
	join(child);
}

/* ---- who one is ---- */

static void expect_sender(const struct kdbus_msg *message, pid_t process, uid_t uid)
{
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.pid, process);
	EQ(get(message, KDBUS_ITEM_CREDS)->creds.euid, uid);
}

static struct connection curious(const struct bus *bus)
{
	return hello_with(bus->path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_PIDS | KDBUS_ATTACH_CREDS);
}

/* PID 1 of a pid namespace, in which it has children of its own. */
static void in_new_pid_namespace(int flags)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection outside = curious(&bus);
	const struct kdbus_msg *message;
	int numbers[2];
	pid_t helper, inner = 0;

	CHECK(!pipe2(numbers, O_CLOEXEC));
	helper = start_child();
	if (!helper) {
		pid_t first;

		if (unshare(flags))
			skip("pid namespaces cannot be had here");
		first = fork();
		CHECK(first >= 0);
		if (!first) {
			struct connection own = curious(&bus);

			EQ(getpid(), 1);
			EQ(SEND(&own, .to = outside.id, .cookie = 1), 0);
			EQ(SEND(&own, .to = own.id, .cookie = 1), 0);
			expect_sender(receive(&own), 1, geteuid());
			IN_CHILD {
				struct connection deeper = hello(bus.path);

				EQ(getpid(), 2);
				EQ(SEND(&deeper, .to = own.id, .cookie = 2), 0);
			}
			expect_sender(await_message(&own), 2, geteuid());
			finish_child(0);
		}
		EQ(write(numbers[1], &first, sizeof(first)), (int)sizeof(first));
		join(first);
		finish_child(0);
	}
	CHECK(!close(numbers[1]));
	if (read(numbers[0], &inner, sizeof(inner)) != sizeof(inner)) {
		int status;

		EQ(waitpid(helper, &status, 0), helper);
		EQ(WEXITSTATUS(status), SKIPPED);
		skip("pid namespaces cannot be had here");
	}
	message = await_message(&outside);
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.pid, inner);
	join(helper);
}

ROOT_CASE(pid_one_of_a_namespace)
{
	if (geteuid())
		skip("this takes root");
	in_new_pid_namespace(CLONE_NEWPID);
}

CASE(pid_one_of_a_namespace_of_an_ordinary_user)
{
	struct bus bus = new_bus(0);
	struct connection outside = hello(bus.path);
	const struct kdbus_msg *message;
	int status;
	pid_t child = start_child();

	if (!child) {
		pid_t first;

		if (unshare(CLONE_NEWUSER | CLONE_NEWPID))
			skip("user namespaces cannot be had here");
		first = fork();
		if (!first) {
			EQ(getpid(), 1);
			/* opened and connected before: an unmapped user may open no node of the bus */
			EQ(SEND(&outside, .to = outside.id, .cookie = 1), 0);
			finish_child(0);
		}
		join(first);
		finish_child(0);
	}
	EQ(waitpid(child, &status, 0), child);
	if (WEXITSTATUS(status) == SKIPPED)
		skip("user namespaces cannot be had here");
	EQ(status, 0);
	message = await_message(&outside);
	EQ(message->cookie, 1);
}

ROOT_CASE(another_user_after_connecting)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection watcher = curious(&bus);

	if (geteuid())
		skip("this takes root");
	IN_CHILD {
		struct connection own = hello(bus.path);

		EQ(SEND(&own, .to = watcher.id, .cookie = 1), 0);
		become(NOBODY, NOBODY);
		EQ(SEND(&own, .to = watcher.id, .cookie = 2), 0);	/* privileged is who opened it */
		EQ(SEND(&own, .to = own.id, .cookie = 3), 0);
		CHECK(wait_for(own.fd, POLLIN) & POLLIN);
		EQ(receive_code(&own, 0), 0);
		EQ(readiness(own.fd), POLLOUT);
	}
	EQ(get(await_message(&watcher), KDBUS_ITEM_CREDS)->creds.euid, 0);
	EQ(get(await_message(&watcher), KDBUS_ITEM_CREDS)->creds.euid, NOBODY);
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = {};

	CHECK(!syscall(SYS_capset, &header, none));
}

static void use_the_bus(const struct bus *bus, const struct connection *watcher)
{
	struct connection own = hello(bus->path);

	EQ(acquire(&own, "org.example.Dropped", 0), 0);
	EQ(SEND(&own, .to = watcher->id, .cookie = 1), 0);
	EQ(SEND(&own, .to = own.id, .cookie = 1), 0);
	CHECK(wait_for(own.fd, POLLIN) & POLLIN);
	EQ(receive_code(&own, 0), 0);
	EQ(readiness(own.fd), POLLOUT);
}

CASE(without_capabilities)
{
	struct bus bus = new_bus(0);
	struct connection watcher = curious(&bus);

	IN_CHILD {
		drop_capabilities();
		use_the_bus(&bus, &watcher);
	}
	EQ(await_message(&watcher)->cookie, 1);
}

/* A process that others may not inspect: the supervisor has to, all the same. */
CASE(undumpable)
{
	struct bus bus = new_bus(0);
	struct connection watcher = curious(&bus);
	pid_t child = start_child();

	if (!child) {
		CHECK(!prctl(PR_SET_DUMPABLE, 0));
		use_the_bus(&bus, &watcher);
		finish_child(0);
	}
	join(child);
	expect_sender(await_message(&watcher), child, geteuid());
}

ROOT_CASE(another_user_before_connecting)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD), closed = { .fd = open_control() };
	struct connection watcher = curious(&bus);

	if (geteuid())
		skip("this takes root");
	EQ(try_bus(&closed, "closed", 0, 0, 0), 0);
	AS(NOBODY) {
		struct connection own = hello(bus.path);

		EQ(SEND(&own, .to = watcher.id, .cookie = 1), -EPERM);
		EQ(SEND(&own, .to = own.id, .cookie = 1), 0);
		EQ(await_message(&own)->src_id, own.id);
		EQ(open(closed.path, O_RDWR), -1);
		EQ(errno, EACCES);
	}
}

/* ---- a whole program: used by tests from outside ---- */

static void say(FILE *file, const char *text)
{
	CHECK(fputs(text, file) >= 0);
	CHECK(!fflush(file));
}

/* What the daemon does once the program has ended: goes on, or finds kdbus gone. */
static void outlive(const struct bus *bus, struct connection *connection, FILE *file, const char *plan)
{
	if (plan) {
		struct connection late = hello(bus->path);

		EQ(SEND(connection, .to = connection->id, .cookie = 1), 0);
		EQ(await_message(connection)->cookie, 1);
		EQ(SEND(&late, .to = connection->id, .cookie = 2), 0);
		EQ(await_message(connection)->cookie, 2);
		say(file, "kdbus is there\n");
	}
	if (!plan || !strcmp(plan, "to the end")) {
		CHECK(wait_for(connection->fd, POLLIN) & POLLHUP);
		NE(receive_code(connection, 0), 0);
		say(file, "kdbus is gone\n");
	}
}

/* Its parents end: the case's process, and then the program itself, which nobody but us has to wait for. */
static void be_a_daemon(int program, const char *path, int ready)
{
	struct bus bus = new_bus(0);
	struct connection connection = hello(bus.path);
	FILE *file = fopen(path, "w");

	CHECK(file);
	post(ready);
	CHECK(wait_for(program, POLLIN) & POLLIN);
	outlive(&bus, &connection, file, getenv("E2E_LINGERS"));
	fclose(file);
}

/* Forked twice. It writes what it finds to the file (a named pipe) that E2E_DAEMON names. */
PART(part_daemon)
{
	const char *path = getenv("E2E_DAEMON");
	int program = (int)syscall(SYS_pidfd_open, getppid(), 0), ready = new_event();
	pid_t child;

	if (!path)
		skip("this is a part of tests from outside");
	CHECK(program >= 0);
	fflush(stdout);
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		CHECK(setsid() > 0);
		child = fork();
		CHECK(child >= 0);
		if (!child) {
			be_a_daemon(program, path, ready);
			finish_child(0);
		}
		_exit(0);
	}
	join(child);
	await(ready);
}

/* Says when it waits in a call, and how that went: for tests that stop the program from its terminal. */
PART(part_wait_in_a_call)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path), client = hello(bus.path);
	struct waiter waiter = { .connection = client, .to = service.id };
	const struct kdbus_msg *message;
	pthread_t thread;
	char line[16];

	if (!getenv("E2E_PART"))
		skip("this is a part of tests from outside");
	CHECK(!pthread_create(&thread, NULL, wait_for_reply, &waiter));
	message = await_message(&service);
	say(stdout, "waiting\n");
	CHECK(fgets(line, sizeof(line), stdin));
	EQ(answer(&service, message), 0);
	CHECK(!pthread_join(thread, NULL));
	EQ(waiter.result, 0);
	EQ(receive_code(&service, 0), -EAGAIN);
	say(stdout, "answered\n");
}

/* Who the kernel and the bus say that we are: for tests that start this program as another user's. */
PART(part_say_who)
{
	struct bus bus = new_bus(0);
	struct connection own = curious(&bus);
	struct kdbus_creds creds;

	EQ(SEND(&own, .to = own.id, .cookie = 1), 0);
	creds = get(await_message(&own), KDBUS_ITEM_CREDS)->creds;
	EQ(creds.uid, getuid());
	EQ(creds.euid, geteuid());
	EQ(creds.egid, getegid());
	printf("uid %u, euid %u\n", getuid(), geteuid());
}
