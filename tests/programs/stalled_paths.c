// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Paths and files that do not come: their file system is served by a child of this program (FUSE, fuse(4)), which does
 * not answer before all calls of another process have been served. If those waited for it, nobody would ever go on. The
 * child uses no such file itself, so its end ends all waiting.
 */
#include "e2e.h"
#include "pairs.h"

#include <linux/fuse.h>
#include <sys/mount.h>

#define PAGE 4096
#define ROOM (1 << 17)
#define FOLDER "/mnt"
#define FILE_NAME "file"
#define FILE_PATH FOLDER "/" FILE_NAME
#define FILE_NODE 2

static struct server {
	int fd, held, go;
	__u32 hold;	/* the kind of request that is not answered until `go`; 0 for none */
	int passed;	/* so many of them are, before */
	char content[PAGE];
} *server;	/* shared with the child */

static void answer(__u64 unique, int error, const void *data, size_t size)
{
	struct fuse_out_header header = { (__u32)(sizeof(header) + size), error, unique };
	char reply[sizeof(header) + PAGE];

	memcpy(reply, &header, sizeof(header));
	if (size)
		memcpy(reply + sizeof(header), data, size);
	CHECK(write(server->fd, reply, sizeof(header) + size) >= 0 || errno == ENOENT);
}

static struct fuse_attr attributes(__u64 node)
{
	return (struct fuse_attr) { .ino = node, .size = PAGE, .blocks = 8, .nlink = 1, .blksize = PAGE,
				    .mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0777 };
}

/* Nothing may be kept by the kernel: no name and no attribute is valid for any time. */
static void serve_request(const struct fuse_in_header *request)
{
	struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
				      .max_readahead = PAGE, .max_write = PAGE };
	struct fuse_entry_out entry = { .nodeid = FILE_NODE, .attr = attributes(FILE_NODE) };
	struct fuse_attr_out status = { .attr = attributes(request->nodeid) };
	struct fuse_open_out opened = { .fh = 1 };
	struct fuse_poll_out polled = {};

	switch (request->opcode) {
	case FUSE_INIT:
		answer(request->unique, 0, &init, sizeof(init));
		break;
	case FUSE_LOOKUP:
		if (same_text((const char *)(request + 1), FILE_NAME))
			answer(request->unique, 0, &entry, sizeof(entry));
		else
			answer(request->unique, -ENOENT, NULL, 0);
		break;
	case FUSE_GETATTR:
		answer(request->unique, 0, &status, sizeof(status));
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		answer(request->unique, 0, &opened, sizeof(opened));
		break;
	case FUSE_READ:
		answer(request->unique, 0, server->content, PAGE);
		break;
	case FUSE_POLL:
		answer(request->unique, 0, &polled, sizeof(polled));
		break;
	case FUSE_FLUSH:
		answer(request->unique, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		answer(request->unique, -ENOSYS, NULL, 0);
	}
}

static void serve_files(void)
{
	char room[ROOM];

	while (read(server->fd, room, ROOM) > 0) {
		const struct fuse_in_header *request = (const void *)room;

		if (__atomic_load_n(&server->hold, __ATOMIC_SEQ_CST) == request->opcode && !server->passed--) {
			post(server->held);
			await(server->go);
			__atomic_store_n(&server->hold, 0, __ATOMIC_SEQ_CST);
		}
		serve_request(request);
	}
}

static void begin_files(void)
{
	char options[96];

	server = mmap(NULL, sizeof(*server), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(server != MAP_FAILED);
	server->held = new_event();
	server->go = new_event();
	server->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (server->fd < 0)
		skip("/dev/fuse cannot be opened here");
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=%u,group_id=%u", server->fd, getuid(), getgid());
	/* In a namespace of its own, which ends with this process, however that ends. */
	EQ(unshare(CLONE_NEWNS), 0);
	EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	if (mount("stalled", FOLDER, "fuse", MS_NOSUID | MS_NODEV, options))
		skip("a FUSE file system cannot be mounted here");
	if (!start_child()) {
		serve_files();
		finish_child(0);
	}
	close(server->fd);
}

static void hold(__u32 kind)
{
	__atomic_store_n(&server->hold, kind, __ATOMIC_SEQ_CST);
}

struct act {
	pthread_t thread;
	int (*body)(void *);
	void *argument;
	int result;
};

static void *run_act(void *argument)
{
	struct act *act = argument;

	act->result = act->body(act->argument);
	return NULL;
}

/* What `body` does meets a request of that kind, and others do not notice. Returns what it has come to. */
static int act_against(__u32 kind, int (*body)(void *), void *argument)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	struct act act = { .body = body, .argument = argument };

	make_known(&pair);
	hold(kind);
	CHECK(!pthread_create(&act.thread, NULL, run_act, &act));
	await(server->held);
	others_go_on(&bus, &pair);
	post(server->go);
	CHECK(!pthread_join(act.thread, NULL));
	return act.result;
}

static int open_it(void *path)
{
	return open(path, O_RDWR | O_CLOEXEC);
}

ROOT_CASE(a_path_that_does_not_come)
{
	begin_files();
	GE(act_against(FUSE_LOOKUP, open_it, (void *)FILE_PATH), 0);
}

static int look_twice(void *path)
{
	struct stat status;

	EQ(stat(path, &status), -1);
	EQ(errno, ENOENT);
	return stat(path, &status);
}

/* Where something could be of which the kernel does not know: the path is looked at again, step by step. */
ROOT_CASE(a_path_that_does_not_come_the_second_time)
{
	begin_files();
	server->passed = 1;
	EQ(act_against(FUSE_LOOKUP, look_twice, (void *)(FOLDER "/kdbus")), -1);
}

ROOT_CASE(a_relative_path_that_does_not_come)
{
	begin_files();
	EQ(chdir(FOLDER), 0);
	GE(act_against(FUSE_LOOKUP, open_it, (void *)FILE_NAME), 0);
}

static int send_from_file(void *argument)
{
	struct connection *connection = argument;
	int file = open(FILE_PATH, O_RDONLY | O_CLOEXEC);
	char *memory = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
	struct kdbus_cmd_send send = { .size = sizeof(send), .msg_address = (uintptr_t)memory };

	CHECK(memory != MAP_FAILED);
	close(file);	/* or a child that inherits it waits for the server at its end */
	return command(connection->fd, KDBUS_CMD_SEND, &send);
}

ROOT_CASE(a_message_in_a_file_that_does_not_come)
{
	struct connection connection;
	struct buffer message;
	struct bus bus;

	begin_files();
	bus = (struct bus) { .fd = open_control() };
	EQ(try_bus(&bus, "file", 0, 0, _KDBUS_ATTACH_ALL), 0);
	connection = hello(bus.path);
	write_letter(&(struct letter) { .to = connection.id }, &message);
	memcpy(server->content, message.words, *(__u64 *)message.words);
	EQ(act_against(FUSE_READ, send_from_file, &connection), 0);
	EQ(receive_code(&connection, 0), 0);
}

/* What a descriptor is open on is found out without asking: with a server that answers nothing, all of this ends. */
ROOT_CASE(files_whose_status_does_not_come)
{
	struct bus bus = new_bus(0);
	struct pair pair;
	char *memory;
	int file;

	begin_files();
	pair = new_pair(&bus);
	file = open(FILE_PATH, O_RDWR | O_CLOEXEC);
	GE(file, 0);
	hold(FUSE_GETATTR);
	memory = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0);
	CHECK(memory != MAP_FAILED);
	others_go_on(&bus, &pair);
	munmap(memory, PAGE);
	hold(0);
	close(file);
}

static int send_and_drop(void *argument)
{
	const struct connection *connection = argument;
	int file = open(FILE_PATH, O_RDWR | O_CLOEXEC);

	GE(file, 0);
	EQ(SEND(connection, .to = connection->id, .fds = &file, .fd_count = 1), 0);
	close(file);
	return receive_code(connection, KDBUS_RECV_DROP);
}

/* Each close of a file is told to its server, and waits for it: of a message's file as well, if nobody takes it. */
ROOT_CASE(a_file_whose_close_does_not_come)
{
	struct connection connection;
	struct bus bus;

	begin_files();
	bus = (struct bus) { .fd = open_control() };
	EQ(try_bus(&bus, "close", 0, 0, _KDBUS_ATTACH_ALL), 0);
	connection = hello(bus.path);
	server->passed = 1;
	EQ(act_against(FUSE_FLUSH, send_and_drop, &connection), 0);
}

static int call_with_cancel_file(const struct connection *connection, int file)
{
	return SEND(connection, .to = connection->id, .cookie = 1, .flags = KDBUS_MSG_EXPECT_REPLY,
		    .deadline = in_ms(PATIENCE), .send_flags = KDBUS_SEND_SYNC_REPLY, .cancel = file);
}

/* Whether such a file can be read, its server is asked, which does not answer; likewise for a set with it. */
ROOT_CASE(cancel_files_whose_state_does_not_come)
{
	struct epoll_event wanted = { .events = EPOLLIN };
	int file, set = epoll_create1(EPOLL_CLOEXEC);
	struct bus bus = new_bus(0);
	struct connection connection;

	begin_files();
	connection = hello(bus.path);
	file = open(FILE_PATH, O_RDWR | O_CLOEXEC);
	GE(file, 0);
	EQ(epoll_ctl(set, EPOLL_CTL_ADD, file, &wanted), 0);
	hold(FUSE_POLL);
	EQ(call_with_cancel_file(&connection, file), -EINVAL);
	EQ(call_with_cancel_file(&connection, set), -EINVAL);
	hold(0);
	close(set);
	close(file);
}

static int mount_there(void *path)
{
	return mount("kdbus", path, "kdbusfs", 0, NULL) ? -errno : 0;
}

ROOT_CASE(a_place_to_mount_at_that_does_not_come)
{
	begin_files();
	EQ(act_against(FUSE_LOOKUP, mount_there, (void *)FILE_PATH), -ENOTDIR);
}

static int unmount_there(void *path)
{
	return umount2(path, 0) ? -errno : 0;
}

ROOT_CASE(a_place_to_unmount_that_does_not_come)
{
	begin_files();
	EQ(act_against(FUSE_LOOKUP, unmount_there, (void *)FILE_PATH), -EINVAL);
}

/* Who waits for such a place is killed: what was begun for it ends, and others mount. */
ROOT_CASE(a_caller_that_is_killed_before_its_place_comes)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	pid_t child;

	begin_files();
	hold(FUSE_LOOKUP);
	child = start_child();
	if (!child) {
		mount_there((void *)FILE_PATH);
		finish_child(1);
	}
	await(server->held);
	EQ(kill(child, SIGKILL), 0);
	EQ(waitpid(child, NULL, 0), child);
	others_go_on(&bus, &pair);
	EQ(mount("kdbus", "/tmp", "kdbusfs", 0, NULL), 0);
	EQ(umount2("/tmp", 0), 0);
	post(server->go);
}

static int execute_it(void *path)
{
	execl(path, path, NULL);
	return -errno;
}

struct mapping {
	int fd, go;
};

static int map_pool(void *argument)
{
	struct mapping *mapping = argument;
	void *memory;

	await(mapping->go);
	memory = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, mapping->fd, 0);
	return memory == MAP_FAILED ? -errno : 0;
}

/* While a thread executes a program nobody can begin to trace its process; and a pool is mapped with ptrace(2). */
ROOT_CASE(a_pool_that_is_mapped_while_a_program_does_not_come)
{
	struct act executing = { .body = execute_it, .argument = (void *)FILE_PATH };
	struct act mapping = { .body = map_pool };
	struct mapping mapped;
	struct bus bus;

	begin_files();
	bus = (struct bus) { .fd = open_control() };
	EQ(try_bus(&bus, "mapped", 0, 0, _KDBUS_ATTACH_ALL), 0);
	mapped = (struct mapping) { hello(bus.path).fd, new_event() };
	mapping.argument = &mapped;
	/* Before, as no thread can be made meanwhile. */
	CHECK(!pthread_create(&mapping.thread, NULL, run_act, &mapping));
	hold(FUSE_READ);
	CHECK(!pthread_create(&executing.thread, NULL, run_act, &executing));
	await(server->held);
	post(mapped.go);
	CHECK(!pthread_join(mapping.thread, NULL));
	EQ(mapping.result, 0);
	post(server->go);
	CHECK(!pthread_join(executing.thread, NULL));
	EQ(executing.result, -ENOEXEC);
}
