// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Hostile programs: each case does what a program would do to crash, stop or mislead whoever serves it, or to reach
 * others through it, and then looks whether those others are still served as if nothing had happened.
 *
 * Races are run a fixed number of rounds. HOSTILE_KILLS in the environment says how many processes die at random
 * moments.
 */
#include "e2e.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define PAGE 4096
#define CANARY 0xc5

static void still_served(const struct connection *connection)
{
	EQ(SEND(connection, .to = connection->id), 0);
	SAME(text_of(connection, await_message(connection)), TEXT);
	EQ(receive_code(connection, 0), -EAGAIN);
}

static pthread_t start(void *(*run)(void *), void *argument)
{
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, run, argument));
	return thread;
}

/* ---- names that look like facts ---- */

CASE(a_thread_name_that_claims_to_be_root)
{
	struct bus bus = new_bus(0);
	struct connection own = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_CREDS);
	const struct kdbus_msg *message;
	struct kdbus_creds creds;

	prctl(PR_SET_NAME, "\rUid:\t9\t9\t9\t9");
	EQ(SEND(&own, .to = own.id, .cookie = 1), 0);
	message = await_message(&own);
	creds = get(message, KDBUS_ITEM_CREDS)->creds;
	EQ(creds.uid, getuid());
	EQ(creds.euid, geteuid());
	still_served(&own);
}

/* ---- memory that changes while it is read ---- */

struct changing {
	volatile bool stop;
	volatile __u64 *words;
	size_t count;
};

static void *keep_changing(void *argument)
{
	static const __u64 values[] = { 0, 1, 8, 24, 63, 64, 65, 72, 96, 4096, 1 << 20, 1ULL << 32, 1ULL << 63, ~0ULL };
	struct changing *changing = argument;

	for (unsigned int i = 0; !changing->stop; i++) {
		size_t at = i * 7 % changing->count;
		__u64 before = changing->words[at];

		changing->words[at] = values[i * 13 % (sizeof(values) / sizeof(*values))];
		changing->words[at] = before;
	}
	return NULL;
}

CASE(memory_that_changes_while_it_is_read)
{
	struct bus bus = new_bus(0);
	struct connection victim = hello(bus.path), sender = hello(bus.path);
	struct buffer message;
	struct kdbus_msg *msg = begin(&message, sizeof(*msg));
	struct kdbus_cmd_send send = { .size = sizeof(send), .msg_address = (uintptr_t)msg };
	struct kdbus_vec vector = { .size = sizeof(TEXT), .address = (uintptr_t)TEXT };
	struct changing changing = { .words = message.words };
	pthread_t thread;

	msg->dst_id = sender.id;
	msg->src_id = sender.id;
	msg->payload_type = KDBUS_PAYLOAD_DBUS;
	add(&message, KDBUS_ITEM_PAYLOAD_VEC, &vector, 16);
	changing.count = message.words[0] / 8;
	thread = start(keep_changing, &changing);
	for (int i = 0; i < 1500; i++) {
		command(sender.fd, KDBUS_CMD_SEND, &send);
		while (!receive_code(&sender, KDBUS_RECV_DROP))
			;
	}
	changing.stop = true;
	pthread_join(thread, NULL);
	/* For a moment, a message may have been addressed to it. */
	while (!receive_code(&victim, KDBUS_RECV_DROP))
		;
	still_served(&victim);
	while (!receive_code(&sender, KDBUS_RECV_DROP))
		;
	still_served(&sender);
}

/* ---- descriptors that change their meaning between the trap and the answer ---- */

struct swapping {
	volatile bool stop;
	int number, others[3];
};

static void *keep_swapping(void *argument)
{
	struct swapping *swapping = argument;

	for (unsigned int i = 0; !swapping->stop; i++) {
		dup2(swapping->others[i % 3], swapping->number);
		if (i % 5 == 0)
			close(swapping->number);
	}
	return NULL;
}

CASE(descriptors_that_are_swapped_meanwhile)
{
	struct bus bus = new_bus(0);
	struct connection first = hello(bus.path), second = hello(bus.path), victim = hello(bus.path);
	struct swapping swapping = { .number = 100, .others = { first.fd, second.fd, open("/dev/null", O_RDWR) } };
	pthread_t thread = start(keep_swapping, &swapping);
	struct connection swapped = first;

	swapped.fd = swapping.number;
	for (int i = 0; i < 1500; i++) {
		SEND(&swapped, .to = victim.id);
		receive_code(&swapped, 0);
		mmap(NULL, PAGE, PROT_READ, MAP_SHARED, swapped.fd, 0);
		while (!receive_code(&victim, KDBUS_RECV_DROP))
			;
	}
	swapping.stop = true;
	pthread_join(thread, NULL);
	close(swapping.number);
	still_served(&first);
	still_served(&second);
	still_served(&victim);
}

/* ---- what is written, and where ---- */

/* A command in the middle of two pages of canaries. */
static void check_frame(int fd, unsigned long request, const void *command_, size_t size)
{
	unsigned char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t start = PAGE - 32;

	CHECK(pages != MAP_FAILED);
	memset(pages, CANARY, 2 * PAGE);
	memcpy(pages + start, command_, size);
	command(fd, request, pages + start);
	for (size_t i = 0; i < 2 * PAGE; i++)
		if (i < start || i >= start + size)
			EQ(pages[i], CANARY);
	munmap(pages, 2 * PAGE);
}

CASE(nothing_is_written_outside_of_the_arguments)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path);
	struct buffer buffer, message;

	for (__u64 flags = 0; flags < 5; flags++) {
		struct kdbus_cmd_recv recv = { .size = sizeof(recv), .flags = flags };
		struct kdbus_cmd_free free = { .size = sizeof(free), .flags = flags, .offset = 8 * flags };
		struct kdbus_cmd_name_list list = { .size = sizeof(list), .flags = flags };
		struct kdbus_cmd_info info = { .size = sizeof(info), .flags = flags, .id = one.id };
		struct kdbus_cmd_update update = { .size = sizeof(update), .flags = flags };
		struct kdbus_cmd_match match = { .size = sizeof(match), .flags = flags };
		struct kdbus_cmd_name *name = begin(&buffer, sizeof(*name));
		struct kdbus_msg *msg = begin(&message, sizeof(*msg));
		struct kdbus_cmd_send send = { .size = sizeof(send), .flags = flags, .msg_address = (uintptr_t)msg };

		msg->dst_id = one.id;
		msg->payload_type = KDBUS_PAYLOAD_DBUS;
		name->flags = flags;
		add_string(&buffer, KDBUS_ITEM_NAME, "com.example.canary");
		check_frame(one.fd, KDBUS_CMD_SEND, &send, sizeof(send));
		check_frame(one.fd, KDBUS_CMD_RECV, &recv, sizeof(recv));
		check_frame(one.fd, KDBUS_CMD_FREE, &free, sizeof(free));
		check_frame(one.fd, KDBUS_CMD_NAME_LIST, &list, sizeof(list));
		check_frame(one.fd, KDBUS_CMD_CONN_INFO, &info, sizeof(info));
		check_frame(one.fd, KDBUS_CMD_CONN_UPDATE, &update, sizeof(update));
		check_frame(one.fd, KDBUS_CMD_MATCH_ADD, &match, sizeof(match));
		check_frame(one.fd, KDBUS_CMD_NAME_ACQUIRE, buffer.words, buffer.words[0]);
	}
}

CASE(nothing_is_written_to_the_pools_of_others)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path), bystander = hello(bus.path);
	size_t size = 1 << 20;
	char *before = malloc(size), *own = malloc(size);
	void *hole = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(before && own && hole != MAP_FAILED && !munmap((char *)hole + PAGE, PAGE));
	memset(hole, CANARY, PAGE);
	memcpy(before, bystander.pool, size);
	memcpy(own, sender.pool, size);
	for (int i = 0; i < 200; i++) {
		struct buffer message;
		struct kdbus_msg *msg = begin(&message, sizeof(*msg));
		/* Every second payload ends in memory that cannot be read. */
		struct kdbus_vec vector = { .size = i % 2 ? PAGE + 8 : PAGE, .address = (uintptr_t)hole };

		msg->dst_id = receiver.id;
		msg->payload_type = KDBUS_PAYLOAD_DBUS;
		add(&message, KDBUS_ITEM_PAYLOAD_VEC, &vector, 16);
		EQ(send_buffer(&sender, &message, 0, 0, NULL), i % 2 ? -EFAULT : 0);
		if (i % 2 == 0)
			EQ(receive_code(&receiver, KDBUS_RECV_DROP), 0);
	}
	CHECK(!memcmp(before, bystander.pool, size));
	CHECK(!memcmp(own, sender.pool, size));
	still_served(&bystander);
}

/* ---- death in the middle of everything ---- */

static void do_everything(const char *path)
{
	for (;;) {
		struct connection one = hello(path), other = hello(path);

		acquire(&one, "com.example.mortal", KDBUS_NAME_QUEUE);
		match_everything(&one);
		for (int i = 0; i < 8; i++) {
			SEND(&one, .to = other.id);
			receive_code(&other, 0);
		}
		munmap((void *)one.pool, one.hello.pool_size);
		munmap((void *)other.pool, other.hello.pool_size);
		close(one.fd);
		close(other.fd);
	}
}

CASE(killed_at_any_moment)
{
	struct bus bus = new_bus(0);
	struct connection witness = hello(bus.path);
	const char *wanted = getenv("HOSTILE_KILLS");
	int kills = wanted ? atoi(wanted) : 40;
	unsigned int seed = 1;

	for (int i = 0; i < kills; i++) {
		int pipe_[2];
		pid_t child;
		int calls = rand_r(&seed) % 40;

		CHECK(!pipe(pipe_));
		child = start_child();
		if (!child) {
			do_everything(bus.path);
			_exit(1);
		}
		/* However fast the machine is: the moment is counted in calls of our own, which take turns with the child's. */
		while (calls--)
			still_served(&witness);
		CHECK(!kill(child, SIGKILL));
		EQ(waitpid(child, NULL, 0), child);
		close(pipe_[0]);
		close(pipe_[1]);
	}
	still_served(&witness);
	/* Nothing is left of all those: one connection, and no name. */
	EQ(listed(&witness, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
	EQ(listed(&witness, KDBUS_NAME_LIST_NAMES, 0, NULL), 0);
}

/* ---- what could be made without end ---- */

CASE(places_in_the_queue_of_a_name)
{
	struct bus bus = new_bus(0);
	struct connection owner = hello(bus.path), waiting = hello(bus.path), third = hello(bus.path);
	int places = 0, result;

	EQ(acquire(&owner, "com.example.name", 0), 0);
	while (!(result = acquire(&waiting, "com.example.name", KDBUS_NAME_QUEUE)))
		places++;
	EQ(result, -E2BIG);
	EQ(places, 256);
	EQ(acquire(&third, "com.example.name", KDBUS_NAME_QUEUE), 0);
	/* Giving one up makes room for one. */
	EQ(release_name(&waiting, "com.example.name"), 0);
	EQ(acquire(&waiting, "com.example.name", KDBUS_NAME_QUEUE), 0);
	EQ(acquire(&waiting, "com.example.name", KDBUS_NAME_QUEUE), -E2BIG);
	EQ(release_name(&owner, "com.example.name"), 0);
	EQ(listed(&third, KDBUS_NAME_LIST_NAMES, waiting.id, "com.example.name"), 1);
	close(waiting.fd);
	EQ(listed(&third, KDBUS_NAME_LIST_NAMES, third.id, "com.example.name"), 1);
}

CASE(rules_in_matches)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path), other = hello(bus.path);
	int added = 0, result = 0;

	while (!result) {
		struct buffer buffer;

		begin_match(&buffer, 1, 0);
		for (int i = 0; i < 512; i++)
			add_u64(&buffer, KDBUS_ITEM_ID, KDBUS_MATCH_ID_ANY);
		result = match_command(&one, &buffer);
		added += !result;
	}
	EQ(result, -EMFILE);
	EQ(added, 4096 / 512);
	EQ(match_everything(&other), 0);
}

CASE(messages_to_oneself)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path), other = hello(bus.path);
	int sent = 0, result;

	while (!(result = SEND(&one, .to = one.id)))
		sent++;
	EQ(result, -ENOBUFS);
	GE(256, sent);
	still_served(&other);
	while (sent--)
		EQ(receive_code(&one, KDBUS_RECV_DROP), 0);
	still_served(&one);
}

CASE(notifications_that_nobody_reads)
{
	struct bus bus = new_bus(0);
	struct connection listening = hello(bus.path), other = hello(bus.path);
	int received = 0, result;

	EQ(match_id(&listening, 1, KDBUS_ITEM_ID_ADD, KDBUS_MATCH_ID_ANY), 0);
	for (int i = 0; i < 300; i++)
		close(hello(bus.path).fd);
	while (!(result = receive_code(&listening, KDBUS_RECV_DROP)) || result == -EOVERFLOW)
		received += !result;
	EQ(result, -EAGAIN);
	EQ(received, 256);
	still_served(&other);
}

CASE(pools_of_a_size_that_nobody_has)
{
	struct bus bus = new_bus(0);
	struct connection one, other = hello(bus.path);
	struct buffer buffer;
	int refused = 0;

	for (int shift = 30; shift < 63 && !refused; shift++) {
		int fd = open(bus.path, O_RDWR | O_CLOEXEC);
		struct kdbus_cmd_hello *hello_ = begin_hello(&buffer, 0);

		hello_->pool_size = 1ULL << shift;
		CHECK(fd >= 0);
		refused = command(fd, KDBUS_CMD_HELLO, hello_);
	}
	EQ(refused, -ENOMEM);
	begin_hello(&buffer, 0);
	EQ(try_hello(&one, bus.path, &buffer), 0);
	still_served(&one);
	still_served(&other);
}

/* ---- the supervisor's loop ---- */

struct shutting {
	volatile bool stop;
	int fd;
};

static void *keep_shutting(void *argument)
{
	struct shutting *shutting = argument;

	while (!shutting->stop)
		shutdown(shutting->fd, SHUT_RDWR);
	return NULL;
}

/* Each shutdown looks like a hang-up to whoever holds the other end. */
CASE(hang_ups_that_are_faked_without_end)
{
	struct bus bus = new_bus(0);
	struct connection faking = hello(bus.path), other = hello(bus.path);
	struct shutting shutting = { .fd = faking.fd };
	pthread_t thread = start(keep_shutting, &shutting);

	for (int i = 0; i < 200; i++)
		still_served(&other);
	shutting.stop = true;
	pthread_join(thread, NULL);
	EQ(listed(&other, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 2);
	still_served(&other);
}

/* A descriptor that the supervisor watches, and that never gets quiet. */
CASE(a_cancel_descriptor_that_has_hung_up)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path), other = hello(bus.path);
	int pipe_[2], ready = new_event();
	pid_t child;

	CHECK(!pipe(pipe_) && !close(pipe_[1]));
	child = start_child();
	if (!child) {
		struct buffer message;
		struct kdbus_msg *msg = begin(&message, sizeof(*msg));

		msg->dst_id = other.id;
		msg->flags = KDBUS_MSG_EXPECT_REPLY;
		msg->cookie = 1;
		msg->timeout_ns = FOREVER;
		msg->payload_type = KDBUS_PAYLOAD_DBUS;
		post(ready);
		send_buffer(&one, &message, KDBUS_SEND_SYNC_REPLY, pipe_[0], NULL);
		finish_child(0);
	}
	await(ready);
	done(&other, await_message(&other));
	for (int i = 0; i < 100; i++)
		still_served(&other);
	CHECK(!kill(child, SIGKILL));
	EQ(waitpid(child, NULL, 0), child);
	still_served(&other);
}

/* ---- fairness: shares are compared, not times ---- */

struct counts {
	volatile unsigned long greedy, modest;
	volatile bool stop;
};

static void keep_calling(int fd, volatile unsigned long *count, volatile bool *stop, unsigned long limit)
{
	struct kdbus_cmd_free free = { .size = sizeof(free), .offset = 8 };

	while (!*stop && *count < limit) {
		command(fd, KDBUS_CMD_FREE, &free);
		++*count;
	}
}

CASE(a_busy_loop_leaves_others_their_share)
{
	struct bus bus = new_bus(0);
	struct connection greedy = hello(bus.path), modest = hello(bus.path);
	struct counts *counts = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned long before;
	int ready = new_event();
	pid_t child;

	CHECK(counts != MAP_FAILED);
	child = start_child();
	if (!child) {
		post(ready);
		keep_calling(greedy.fd, &counts->greedy, &counts->stop, ~0UL);
		finish_child(0);
	}
	await(ready);
	while (!counts->greedy)
		sched_yield();
	before = counts->greedy;
	keep_calling(modest.fd, &counts->modest, &counts->stop, 2000);
	counts->stop = true;
	/* Both are always ready to call, so each should get half; a quarter leaves room for the scheduler's whims. */
	GE(3 * counts->modest, counts->greedy - before);
	join(child);
}

struct hog {
	int fd;
	struct counts *counts;
};

static void *hog(void *argument)
{
	const struct hog *self = argument;
	struct kdbus_cmd_free free = { .size = sizeof(free), .offset = 8 };

	while (!self->counts->stop) {
		command(self->fd, KDBUS_CMD_FREE, &free);
		__atomic_fetch_add(&self->counts->greedy, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

CASE(a_process_of_many_threads_leaves_others_their_share)
{
	struct bus bus = new_bus(0);
	struct connection greedy = hello(bus.path), modest = hello(bus.path);
	struct counts *counts = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned long before;
	pid_t child;

	CHECK(counts != MAP_FAILED);
	child = start_child();
	if (!child) {
		struct hog self = { greedy.fd, counts };
		pthread_t threads[100];

		for (int i = 0; i < 100; i++)
			CHECK(!pthread_create(&threads[i], NULL, hog, &self));
		for (int i = 0; i < 100; i++)
			pthread_join(threads[i], NULL);
		finish_child(0);
	}
	while (counts->greedy < 1000) /* all of them call by then, or have called */
		sched_yield();
	before = counts->greedy;
	keep_calling(modest.fd, &counts->modest, &counts->stop, 1000);
	counts->stop = true;
	GE(5 * counts->modest, counts->greedy - before);
	join(child);
}

/* ---- the supervisor's own files and process ---- */

static int make_endpoint(const char *path, const char *name)
{
	struct buffer buffer;
	struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));
	int fd = open(path, O_RDWR | O_CLOEXEC);
	int result;

	CHECK(fd >= 0);
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, name);
	result = command(fd, KDBUS_CMD_ENDPOINT_MAKE, make);
	if (result)
		close(fd);
	return result;
}

/* Who owns a bus's folder can change its mode, and put there what the supervisor is about to make. */
CASE(links_and_pipes_where_nodes_will_be)
{
	struct bus bus = new_bus(0);
	char name[64], place[256], outside[64] = "/tmp/kdbus-hostile-XXXXXX";
	int folder = open(bus.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	CHECK(mkdtemp(outside));
	CHECK(folder >= 0 && !fchmod(folder, 0700));
	for (int kind = 0; kind < 4; kind++) {
		char target[128];

		snprintf(name, sizeof(name), "%u-door.%d", geteuid(), kind);
		snprintf(target, sizeof(target), "%s/made", outside);
		if (kind == 0)
			CHECK(!symlinkat(target, folder, name));
		else if (kind == 1)
			CHECK(!mkfifoat(folder, name, 0666));
		else if (kind == 2)
			CHECK(!mkdirat(folder, name, 0700));
		else
			CHECK(!symlinkat(outside, folder, name));
		EQ(make_endpoint(bus.path, name), 0);
		EQ(access(target, F_OK), -1);
		hello(bus.path);
	}
	CHECK(!rmdir(outside));
	/* And a folder in the place of the bus's own. */
	{
		struct stat status;
		char moved[192], file[256];

		snprintf(moved, sizeof(moved), ROOT "/%u-moved", geteuid());
		CHECK(!stat(ROOT, &status));
		if (status.st_uid != geteuid() || chmod(ROOT, 0755) || rename(bus.folder, moved))
			return;
		CHECK(mkdtemp(strcpy(outside, "/tmp/kdbus-hostile-XXXXXX")) && !symlink(outside, bus.folder));
		snprintf(place, sizeof(place), "%s/bus", moved);
		snprintf(name, sizeof(name), "%u-last", geteuid());
		snprintf(file, sizeof(file), "%s/%s", outside, name);
		NE(make_endpoint(place, name), 1);
		EQ(access(file, F_OK), -1);
		CHECK(!rmdir(outside) && !unlink(bus.folder));
		hello(place);
	}
}

/* The folders that the supervisor empties may be filled meanwhile, and deeper than it likes. */
CASE(litter_in_the_folder_of_a_bus_that_ends)
{
	struct bus bus = new_bus(0), other;
	int folder = open(bus.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	CHECK(folder >= 0 && !fchmod(folder, 0700));
	for (int i = 0; i < 1500; i++) {
		int inner;

		CHECK(!mkdirat(folder, "deep", 0700));
		inner = openat(folder, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		CHECK(inner >= 0);
		close(folder);
		folder = inner;
	}
	close(folder);
	close(bus.fd);
	other.fd = open_control();
	EQ(try_bus(&other, "after", 0, 0, _KDBUS_ATTACH_ALL), 0);
	hello(other.path);
}

CASE(nobody_without_more_rights_can_trace_the_supervisor)
{
	pid_t supervisor = getppid();
	char path[64], byte = 0;
	struct iovec ours = { &byte, 1 }, theirs = { (void *)main, 1 };

	/* The program of `kdbus run` is our parent; its parent is the supervisor. */
	{
		FILE *file;
		int parent = 0;
		unsigned long long capabilities = 0;
		char line[256];

		snprintf(path, sizeof(path), "/proc/%d/status", supervisor);
		CHECK(file = fopen(path, "r"));
		while (fgets(line, sizeof(line), file))
			sscanf(line, "PPid: %d", &parent);
		fclose(file);
		supervisor = parent;
		snprintf(path, sizeof(path), "/proc/%d/status", supervisor);
		CHECK(file = fopen(path, "r"));
		while (fgets(line, sizeof(line), file))
			sscanf(line, "CapPrm: %llx", &capabilities);
		fclose(file);
		if (!capabilities)
			skip("the supervisor has no more rights than its targets (path mode)");
	}
	if (!geteuid())
		become(NOBODY, NOBODY);
	EQ(process_vm_readv(supervisor, &ours, 1, &theirs, 1, 0), -1);
	EQ(errno, EPERM);
	EQ(ptrace(PTRACE_SEIZE, supervisor, NULL, NULL), -1);
	EQ(errno, EPERM);
	EQ(syscall(SYS_pidfd_getfd, (int)syscall(SYS_pidfd_open, supervisor, 0), 3, 0), -1);
	EQ(errno, EPERM);
}

static int open_descriptors(void)
{
	int found = 0;

	for (int fd = 0; fd < 1024; fd++)
		found += fcntl(fd, F_GETFD) >= 0;
	return found;
}

CASE(no_descriptor_of_the_supervisor_is_left_with_its_targets)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path);
	int before = open_descriptors();

	for (int i = 0; i < 50; i++) {
		struct connection other = hello(bus.path);

		EQ(open_descriptors(), before + 1);
		still_served(&other);
		EQ(SEND(&one, .to = other.id), 0);
		close(other.fd);
		munmap((void *)other.pool, other.hello.pool_size);
		EQ(open_descriptors(), before);
	}
}

/* ---- what a target can do to itself ---- */

static void install(unsigned int number, unsigned int action)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(code) / sizeof(*code), .filter = code };

	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

/* The call that the supervisor has a thread make for it meets the thread's own filters. */
CASE(filters_that_kill_in_the_middle_of_an_injection)
{
	static const unsigned int actions[] = { SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP,
						SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_TRACE };
	struct bus bus = new_bus(0);
	struct connection witness = hello(bus.path);

	for (size_t i = 0; i < sizeof(actions) / sizeof(*actions); i++) {
		pid_t child = start_child();

		if (!child) {
			struct rlimit none = { 0, 0 };
			struct connection one;
			struct buffer buffer;

			CHECK(!setrlimit(RLIMIT_CORE, &none));
			install(SYS_close, actions[i]);
			begin_hello(&buffer, 0);
			try_hello(&one, bus.path, &buffer);
			_exit(0);
		}
		EQ(waitpid(child, NULL, 0), child);
		still_served(&witness);
	}
	EQ(listed(&witness, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
}

CASE(a_target_that_nobody_may_inspect)
{
	struct bus bus = new_bus(0);
	struct connection witness = hello(bus.path);

	IN_CHILD {
		int fd;

		CHECK(!prctl(PR_SET_DUMPABLE, 0));
		fd = open(bus.path, O_RDWR | O_CLOEXEC);
		if (fd >= 0) {
			struct buffer buffer;

			command(fd, KDBUS_CMD_HELLO, begin_hello(&buffer, 0));
			mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
			command(fd, KDBUS_CMD_BYEBYE, NULL);
		}
	}
	still_served(&witness);
}

CASE(a_target_without_free_descriptors)
{
	struct bus bus = new_bus(0);
	struct connection one = hello(bus.path);
	struct rlimit limit;

	CHECK(!getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = (rlim_t)one.fd + 1;
	CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
	for (int i = 0; i < 100; i++) {
		EQ(open(bus.path, O_RDWR | O_CLOEXEC), -1);
		EQ(errno, EMFILE);
		EQ((intptr_t)mmap(NULL, PAGE, PROT_READ, MAP_SHARED, one.fd, 0), -1);
		EQ(errno, EMFILE);
	}
	still_served(&one);
}

/* A handle that travels in its own stand-in would never be closed. */
CASE(a_handle_in_flight_to_itself)
{
	struct bus bus = new_bus(0);
	struct connection witness = hello(bus.path);

	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < 8; i++) {
		struct connection one = hello(bus.path);
		char control[CMSG_SPACE(sizeof(int))] = {}, byte = 0;
		struct iovec data = { &byte, 1 };
		struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
					  .msg_controllen = sizeof(control) };
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);

		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &one.fd, sizeof(int));
		EQ(sendmsg(one.fd, &message, 0), -1);
		close(one.fd);
	}
	EQ(listed(&witness, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
}

/* A connection whose other end reads nothing, with as much under way as there is room for. */
static int lingering_socket(int *peer)
{
	struct linger linger = { .l_onoff = 1, .l_linger = 1000 };
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int own = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char bytes[4096] = {};

	EQ(bind(listening, (struct sockaddr *)&address, length), 0);
	EQ(getsockname(listening, (struct sockaddr *)&address, &length), 0);
	EQ(listen(listening, 1), 0);
	if (connect(own, (struct sockaddr *)&address, length))
		skip("there is no loopback device here");
	*peer = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
	GE(*peer, 0);
	close(listening);
	EQ(setsockopt(own, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	while (send(own, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		continue;
	EQ(errno, EAGAIN);
	return own;
}

/* Who closes such a socket waits for the other end: not the supervisor, when it has the last descriptor. */
CASE(sockets_that_linger_when_they_are_closed)
{
	struct bus bus = new_bus(0);
	struct connection witness = hello(bus.path), own = hello(bus.path), ending;
	int peers[3], sockets[3];

	for (int i = 0; i < 3; i++)
		sockets[i] = lingering_socket(&peers[i]);
	EQ(SEND(&own, .to = own.id, .fds = &sockets[0], .fd_count = 1), 0);
	close(sockets[0]);
	EQ(receive_code(&own, KDBUS_RECV_DROP), 0);
	still_served(&witness);
	ending = hello(bus.path);
	EQ(SEND(&own, .to = ending.id, .fds = &sockets[1], .fd_count = 1), 0);
	close(sockets[1]);
	EQ(SEND(&own, .to = ending.id), 0);
	close(ending.fd);
	still_served(&witness);
	ending = hello(bus.path);
	EQ(SEND(&own, .to = ending.id, .fds = &sockets[2], .fd_count = 1), 0);
	close(sockets[2]);
	EQ(byebye(&ending), -EBUSY);
	EQ(receive_code(&ending, 0), 0);
	still_served(&witness);
}
