// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Domains by mount: mount(2) of type "kdbusfs" makes one, and its last umount ends it.
 *
 * Each case begins in a mount namespace of its own, in which /tmp is an empty tmpfs, so that nothing is left behind. An
 * ordinary user gets a user namespace with it, and is root there.
 */
#include "e2e.h"
#include "supervisor.h"

#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#define HERE "/tmp/bus"
#define THERE "/tmp/other"

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	CHECK(fd >= 0);
	EQ(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static void map_own_user(uid_t uid, gid_t gid)
{
	char text[64];

	write_file("/proc/self/setgroups", "deny");
	snprintf(text, sizeof(text), "0 %u 1", uid);
	write_file("/proc/self/uid_map", text);
	snprintf(text, sizeof(text), "0 %u 1", gid);
	write_file("/proc/self/gid_map", text);
}

static void new_mounts(void)
{
	CHECK(!mount("none", "/tmp", "tmpfs", 0, "mode=755"));
	CHECK(!mkdir(HERE, 0755));
	CHECK(!mkdir(THERE, 0755));
}

static void new_namespaces(bool user)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();

	CHECK(!unshare(CLONE_NEWNS | (user ? CLONE_NEWUSER : 0)));
	if (user)
		map_own_user(uid, gid);
	CHECK(!mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	new_mounts();
}

static void begin_case(void)
{
	new_namespaces(geteuid() != 0);
}

static int try_mount_at(const char *place)
{
	return mount("kdbusfs", place, "kdbusfs", 0, NULL) ? -errno : 0;
}

static int try_unmount(const char *place, int flags)
{
	return umount2(place, flags) ? -errno : 0;
}

static int open_below(const char *folder, const char *name)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* A bus of the domain at `folder`, open to everybody. */
static struct bus bus_at(const char *folder)
{
	struct bus bus = { .fd = open_below(folder, "control") };

	GE(bus.fd, 0);
	EQ(try_bus(&bus, "mounted", KDBUS_MAKE_ACCESS_WORLD, 0, _KDBUS_ATTACH_ALL), 0);
	snprintf(bus.folder, sizeof(bus.folder), "%s/%s", folder, bus.name);
	snprintf(bus.path, sizeof(bus.path), "%s/bus", bus.folder);
	return bus;
}

static int make_bus_by(int fd)
{
	struct bus bus = { .fd = fd };

	return try_bus(&bus, "late", 0, 0, 0);
}

static void expect_alive(const struct connection *connection)
{
	EQ(readiness(connection->fd) & (POLLHUP | POLLERR), 0);
	EQ(SEND(connection, .to = connection->id, .cookie = 1), 0);
	EQ(receive_code(connection, 0), 0);
}

static void expect_dead(const struct connection *connection)
{
	EQ(readiness(connection->fd) & (POLLHUP | POLLERR), POLLHUP | POLLERR);
	EQ(SEND(connection, .to = connection->id, .cookie = 1), -ECONNRESET);
}

CASE(a_mount_is_a_domain)
{
	struct stat status;
	struct statvfs flags;
	struct bus bus;
	struct connection one;

	begin_case();
	EQ(mount("kdbusfs", HERE, "kdbusfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL), 0);
	CHECK(!stat(HERE, &status));
	EQ(status.st_mode, S_IFDIR | 0555);
	CHECK(!stat(HERE "/control", &status));
	EQ(status.st_mode, S_IFREG | 0666);
	CHECK(!statvfs(HERE, &flags));
	EQ(flags.f_flag & (ST_NOSUID | ST_NOEXEC | ST_NODEV | ST_RDONLY), ST_NOSUID | ST_NOEXEC | ST_NODEV);
	bus = bus_at(HERE);
	CHECK(!stat(bus.path, &status));
	one = hello(bus.path);
	expect_alive(&one);
}

CASE(the_type_alone_decides)
{
	begin_case();
	EQ(mount(NULL, HERE, "kdbusfs", MS_MGC_VAL, NULL), 0);
	EQ(mount("", THERE, "kdbusfs", 0, "options=ignored"), 0);
	GE(open_below(HERE, "control"), 0);
	GE(open_below(THERE, "control"), 0);
	EQ(mount("kdbusfs", HERE, "kdbusfs2", 0, NULL) ? -errno : 0, -ENODEV);
	EQ(mount("kdbusfs", HERE, "kdbus", 0, NULL) ? -errno : 0, -ENODEV);
}

/* That of a message which the connection sends to itself. */
static __u64 next_sequence_number(const struct connection *connection)
{
	const struct kdbus_msg *message;
	__u64 number;

	EQ(SEND(connection, .to = connection->id, .cookie = 1), 0);
	message = receive(connection);
	number = get(message, KDBUS_ITEM_TIMESTAMP)->timestamp.seqnum;
	done(connection, message);
	return number;
}

/* The kernels that had kdbus had no such call. mount(8) tries it first, and takes mount(2) if there is none. */
CASE(the_new_calls_do_not_know_it)
{
	int context;

	begin_case();
	EQ(syscall(SYS_fsopen, "kdbusfs", 0) < 0 ? -errno : 0, -ENOSYS);
	EQ(try_mount_at(HERE), 0);
	/* All other types are the kernel's. */
	context = (int)syscall(SYS_fsopen, "tmpfs", 0);
	CHECK(context >= 0);
	EQ(syscall(SYS_fsopen, "kdbusfs2", 0) < 0 ? -errno : 0, -ENODEV);
	EQ(syscall(SYS_fsopen, NULL, 0) < 0 ? -errno : 0, -EFAULT);
}

CASE(domains_are_separate)
{
	struct bus first, second;
	struct connection one, two;
	struct stat status;
	char path[256];
	__u64 first_number, second_number;

	begin_case();
	EQ(try_mount_at(HERE), 0);
	EQ(try_mount_at(THERE), 0);
	first = bus_at(HERE);
	second = bus_at(THERE);
	SAME(first.name, second.name);
	snprintf(path, sizeof(path), ROOT "/%s", first.name);
	CHECK(stat(path, &status) && errno == ENOENT);
	one = hello_with(first.path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_TIMESTAMP);
	two = hello_with(second.path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_TIMESTAMP);
	EQ(one.id, 1);
	EQ(two.id, 1);
	first_number = next_sequence_number(&one);
	second_number = next_sequence_number(&two);
	EQ(second_number, first_number);
	EQ(next_sequence_number(&one), first_number + 1);
	EQ(next_sequence_number(&two), second_number + 1);
	EQ(try_unmount(HERE, 0), 0);
	expect_dead(&one);
	expect_alive(&two);
}

static void end_by(int flags)
{
	struct bus bus;
	struct connection one;
	struct stat status;
	int control, endpoint;
	struct buffer buffer;

	begin_case();
	EQ(try_mount_at(HERE), 0);
	bus = bus_at(HERE);
	one = hello(bus.path);
	control = open_below(HERE, "control");
	endpoint = open_below(bus.folder, "bus");
	GE(control, 0);
	GE(endpoint, 0);
	expect_alive(&one);
	EQ(try_unmount(HERE, flags), 0);
	expect_dead(&one);
	EQ(make_bus_by(control), -ESHUTDOWN);
	EQ(command(endpoint, KDBUS_CMD_HELLO, begin_hello(&buffer, 0)), -ESHUTDOWN);
	CHECK(stat(HERE "/control", &status) && errno == ENOENT);
	EQ(try_unmount(HERE, flags), -EINVAL);
}

CASE(umount_ends_the_domain)
{
	end_by(0);
}

CASE(detaching_ends_the_domain)
{
	end_by(MNT_DETACH);
}

CASE(a_sleeping_poller_hears_of_the_umount)
{
	struct bus bus;
	struct connection one;
	int ready = new_event();
	pid_t poller;

	begin_case();
	EQ(try_mount_at(HERE), 0);
	bus = bus_at(HERE);
	one = hello(bus.path);
	poller = start_child();
	if (!poller) {
		post(ready);
		CHECK(wait_for(one.fd, POLLIN) & POLLHUP);
		finish_child(0);
	}
	await(ready);
	EQ(try_unmount(HERE, MNT_DETACH), 0);
	join(poller);
}

CASE(a_busy_one_stays)
{
	struct bus bus;
	struct connection one;

	begin_case();
	EQ(try_mount_at(HERE), 0);
	bus = bus_at(HERE);
	one = hello(bus.path);
	CHECK(!chdir(HERE));
	EQ(try_unmount(HERE, 0), -EBUSY);
	expect_alive(&one);
	CHECK(!chdir("/"));
	EQ(try_unmount(HERE, 0), 0);
	expect_dead(&one);
}

CASE(a_bind_mount_keeps_it)
{
	struct bus bus;
	struct connection one;

	begin_case();
	EQ(try_mount_at(HERE), 0);
	CHECK(!mount(HERE, THERE, NULL, MS_BIND, NULL));
	bus = bus_at(HERE);
	one = hello(bus.path);
	EQ(try_unmount(HERE, 0), 0);
	expect_alive(&one);
	GE(open_below(THERE, "control"), 0);
	EQ(try_unmount(THERE, MNT_DETACH), 0);
	expect_dead(&one);
}

CASE(a_bind_mount_of_a_bus_keeps_it)
{
	struct bus bus;
	struct connection one, two;

	begin_case();
	EQ(try_mount_at(HERE), 0);
	bus = bus_at(HERE);
	CHECK(!mount(bus.folder, THERE, NULL, MS_BIND, NULL));
	one = hello(bus.path);
	EQ(try_unmount(HERE, 0), 0);
	two = hello(THERE "/bus");
	expect_alive(&one);
	EQ(try_unmount(THERE, 0), 0);
	expect_dead(&one);
	expect_dead(&two);
}

CASE(a_moved_one_stays)
{
	struct bus bus;
	struct connection one;

	begin_case();
	EQ(try_mount_at(HERE), 0);
	bus = bus_at(HERE);
	one = hello(bus.path);
	CHECK(!mount(HERE, THERE, NULL, MS_MOVE, NULL));
	expect_alive(&one);
	EQ(try_unmount(HERE, 0), -EINVAL);
	expect_alive(&one);
	EQ(try_unmount(THERE, 0), 0);
	expect_dead(&one);
}

CASE(another_namespace_keeps_it)
{
	struct bus bus;
	struct connection one;
	int copied = new_event(), unmounted = new_event();
	pid_t child;

	begin_case();
	EQ(try_mount_at(HERE), 0);
	bus = bus_at(HERE);
	one = hello(bus.path);
	child = start_child();
	if (!child) {
		struct connection two;

		CHECK(!unshare(CLONE_NEWNS));
		post(copied);
		await(unmounted);
		two = hello(bus.path);
		expect_alive(&two);
		finish_child(0);
	}
	await(copied);
	EQ(try_unmount(HERE, 0), 0);
	expect_alive(&one);
	post(unmounted);
	join(child);
	CHECK(wait_for(one.fd, 0) & POLLHUP);
	expect_dead(&one);
}

/* The first process of the namespace is gone; the one that is left is in a chroot from which the mount is not seen. */
CASE(any_process_of_the_namespace_keeps_it)
{
	int answers[2], unseen = new_event(), go = new_event();
	char answer = 0;
	pid_t child;

	begin_case();
	CHECK(!pipe2(answers, O_CLOEXEC));
	child = start_child();
	if (!child) {
		struct bus bus;
		pid_t other;

		CHECK(!unshare(CLONE_NEWNS));
		EQ(try_mount_at(HERE), 0);
		bus = bus_at(HERE);
		other = fork();
		CHECK(other >= 0);
		if (other) {
			await(unseen);
			finish_child(0);
		}
		CHECK(!chroot(THERE) && !chdir("/"));
		post(unseen);
		await(go);
		/* A handle that made a bus makes no other; were the domain dead, it would say so first. */
		answer = make_bus_by(bus.fd) == -EBADFD ? '+' : '-';
		_exit(write(answers[1], &answer, 1) != 1);
	}
	close(answers[1]);
	join(child);
	post(go);
	EQ(read(answers[0], &answer, 1), 1);
	EQ(answer, '+');
}

CASE(the_end_of_the_last_namespace_ends_it)
{
	int pair[2], received;
	char control[CMSG_SPACE(sizeof(int))], byte = 0;
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *header = (void *)control;
	pid_t child;

	begin_case();
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	child = start_child();
	if (!child) {
		struct bus bus;
		struct connection one;

		CHECK(!unshare(CLONE_NEWNS));
		EQ(try_mount_at(HERE), 0);
		bus = bus_at(HERE);
		one = hello(bus.path);
		*header = (struct cmsghdr) { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET,
					     .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(header), &one.fd, sizeof(int));
		EQ(sendmsg(pair[1], &message, 0), 1);
		/* The bus shall outlive this process: its handle goes over as well. */
		memcpy(CMSG_DATA(header), &bus.fd, sizeof(int));
		EQ(sendmsg(pair[1], &message, 0), 1);
		expect_alive(&one);
		EQ(read(pair[1], &byte, 1), 1);
		finish_child(0);
	}
	EQ(recvmsg(pair[0], &message, 0), 1);
	memcpy(&received, CMSG_DATA(header), sizeof(int));
	message.msg_controllen = sizeof(control);
	EQ(recvmsg(pair[0], &message, 0), 1);
	EQ(readiness(received) & POLLHUP, 0);
	EQ(write(pair[0], &byte, 1), 1);
	join(child);
	CHECK(wait_for(received, 0) & POLLHUP);
}

/* No umount at all: who removes the mount point, in a namespace where it is none, detaches what is mounted there. */
CASE(removing_the_mount_point_ends_it)
{
	struct bus bus;
	struct connection one;
	int copied = new_event(), mounted = new_event();
	pid_t child;

	begin_case();
	child = start_child();
	if (!child) {
		CHECK(!unshare(CLONE_NEWNS));
		post(copied);
		await(mounted);
		CHECK(!rmdir(HERE));
		finish_child(0);
	}
	await(copied);
	EQ(try_mount_at(HERE), 0);
	bus = bus_at(HERE);
	one = hello(bus.path);
	expect_alive(&one);
	post(mounted);
	join(child);
	CHECK(wait_for(one.fd, 0) & POLLHUP);
	expect_dead(&one);
}

CASE(paths_are_the_callers)
{
	char path[64];
	int folder;

	begin_case();
	CHECK(!symlink("/tmp/bus", "/tmp/link"));
	CHECK(!mkdir("/tmp/root", 0755) && !mkdir("/tmp/root/tmp", 0755) && !mkdir("/tmp/root" HERE, 0755));
	EQ(try_mount_at("/tmp/link"), 0);
	GE(open_below(HERE, "control"), 0);
	EQ(try_unmount(HERE, 0), 0);
	CHECK(!chdir("/tmp"));
	EQ(try_mount_at("bus"), 0);
	GE(open_below(HERE, "control"), 0);
	EQ(try_unmount("/tmp/link", UMOUNT_NOFOLLOW), -EINVAL);
	GE(open_below(HERE, "control"), 0);
	EQ(try_unmount("/tmp/link", 0), 0);
	folder = open(HERE, O_PATH | O_CLOEXEC);
	CHECK(folder >= 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", folder);
	EQ(try_mount_at(path), 0);
	GE(open_below(HERE, "control"), 0);
	close(folder);
	EQ(try_unmount(HERE, 0), 0);
	CHECK(!chroot("/tmp/root") && !chdir("/"));
	EQ(try_mount_at(HERE), 0);
	GE(open_below(HERE, "control"), 0);
	EQ(try_unmount(HERE, 0), 0);
	EQ(try_mount_at("tmp/../tmp/bus"), 0);
	GE(open_below(HERE, "control"), 0);
}

CASE(errors_are_those_of_mount)
{
	char name[PATH_MAX + 1];
	int file;

	begin_case();
	file = open("/tmp/file", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	CHECK(file >= 0);
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	EQ(try_mount_at("/tmp/absent"), -ENOENT);
	EQ(try_mount_at(""), -ENOENT);
	EQ(try_mount_at("/tmp/file"), -ENOTDIR);
	EQ(try_mount_at("/tmp/file/below"), -ENOTDIR);
	EQ(try_mount_at(name), -ENAMETOOLONG);
	EQ(try_mount_at((const char *)1), -EFAULT);
	EQ(mount((const char *)1, HERE, "kdbusfs", 0, NULL) ? -errno : 0, -EFAULT);
	EQ(mount("kdbusfs", HERE, "kdbusfs", 0, (const void *)1) ? -errno : 0, -EFAULT);
	EQ(mount("kdbusfs", HERE, (const char *)1, 0, NULL) ? -errno : 0, -EFAULT);
	EQ(mount(name, HERE, "kdbusfs", 0, NULL) ? -errno : 0, -EINVAL);
	CHECK(!symlink("/tmp/loop", "/tmp/loop"));
	EQ(try_mount_at("/tmp/loop"), -ELOOP);
	EQ(open_below(HERE, "control"), -ENOENT);
}

CASE(mounting_needs_the_privilege)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = {};

	begin_case();
	EQ(syscall(SYS_capset, &header, none), 0);
	EQ(try_mount_at("/tmp/absent"), -ENOENT);
	EQ(try_mount_at(HERE), -EPERM);
	EQ(open_below(HERE, "control"), -ENOENT);
}

CASE(read_only)
{
	struct statvfs flags;

	begin_case();
	EQ(mount("kdbusfs", HERE, "kdbusfs", MS_RDONLY | MS_NOEXEC, NULL), 0);
	CHECK(!statvfs(HERE, &flags));
	EQ(flags.f_flag & (ST_RDONLY | ST_NOEXEC), ST_RDONLY | ST_NOEXEC);
	EQ(open_below(HERE, "control"), -EROFS);
	EQ(mount(NULL, HERE, NULL, MS_REMOUNT | MS_BIND, NULL), 0);
	hello(bus_at(HERE).path);
	CHECK(!statvfs(HERE, &flags));
	EQ(flags.f_flag & (ST_RDONLY | ST_NOEXEC), 0);
}

/* The domain numbers users as the user namespace of its mounter does. */
CASE(it_belongs_to_the_mounters_user_namespace)
{
	struct kdbus_bloom_parameter bloom = { .size = BLOOM_SIZE, .n_hash = 1 };
	uid_t outside = geteuid();
	char names[2][32];
	int expected[2] = { 0, outside ? -EINVAL : 0 };

	new_namespaces(true);
	EQ(geteuid(), 0);
	EQ(try_mount_at(HERE), 0);
	snprintf(names[0], sizeof(names[0]), "0-here");
	snprintf(names[1], sizeof(names[1]), "%u-here%s", outside, outside ? "" : "-too");
	for (int i = 0; i < 2; i++) {
		struct buffer buffer;
		struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));
		int control = open_below(HERE, "control");

		GE(control, 0);
		add(&buffer, KDBUS_ITEM_BLOOM_PARAMETER, &bloom, sizeof(bloom));
		add_string(&buffer, KDBUS_ITEM_MAKE_NAME, names[i]);
		EQ(command(control, KDBUS_CMD_BUS_MAKE, make), expected[i]);
	}
}

/* ENDPOINT_MAKE needs a privileged handle: CAP_IPC_OWNER towards the domain's user namespace. */
static int make_endpoint_on(const struct bus *bus)
{
	struct buffer buffer;
	struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));
	char name[32];
	int fd = open_below(bus->folder, "bus");

	GE(fd, 0);
	snprintf(name, sizeof(name), "%u-door", geteuid());
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, name);
	return command(fd, KDBUS_CMD_ENDPOINT_MAKE, make);
}

ROOT_CASE(privilege_is_that_of_the_mounters_user_namespace)
{
	int made = new_event(), done_with = new_event();
	pid_t child;

	begin_case();
	EQ(try_mount_at(HERE), 0);
	child = start_child();
	if (!child) {
		become(NOBODY, NOBODY);
		bus_at(HERE);
		post(made);
		await(done_with);
		finish_child(0);
	}
	await(made);
	IN_CHILD {
		struct bus outside = {}, inside;
		int maps = new_event(), written = new_event();
		pid_t parent = getpid(), writer = start_child();

		if (!writer) {
			char path[64];

			await(maps);
			snprintf(path, sizeof(path), "/proc/%d/uid_map", parent);
			write_file(path, "0 0 65535");
			snprintf(path, sizeof(path), "/proc/%d/gid_map", parent);
			write_file(path, "0 0 65535");
			post(written);
			finish_child(0);
		}
		CHECK(!unshare(CLONE_NEWUSER | CLONE_NEWNS));
		post(maps);
		await(written);
		join(writer);
		snprintf(outside.folder, sizeof(outside.folder), HERE "/%u-mounted", NOBODY);
		EQ(make_endpoint_on(&outside), -EPERM);
		EQ(try_mount_at(THERE), 0);
		IN_CHILD {
			int taken = new_event(), over = new_event();
			pid_t maker = start_child();

			if (!maker) {
				CHECK(!setresuid(SOMEBODY, SOMEBODY, SOMEBODY));
				bus_at(THERE);
				post(taken);
				await(over);
				finish_child(0);
			}
			await(taken);
			snprintf(inside.folder, sizeof(inside.folder), THERE "/%u-mounted", SOMEBODY);
			EQ(make_endpoint_on(&inside), 0);
			post(over);
			join(maker);
		}
	}
	post(done_with);
	join(child);
}

ROOT_CASE(the_first_domain_ends_in_the_same_way)
{
	struct bus bus;
	struct connection one;
	struct stat status;

	/* In the namespace of the program itself, whose last mount this is as soon as this process leaves it. */
	bus = new_bus(0);
	one = hello(bus.path);
	EQ(try_unmount(ROOT, 0), 0);
	expect_dead(&one);
	CHECK(stat(ROOT "/control", &status) && errno == ENOENT);
	EQ(try_mount_at(ROOT), 0);
	one = hello(new_bus(0).path);
	expect_alive(&one);
}

/* Not even a call of those that are served natively. */
CASE(a_call_after_an_unmount)
{
	begin_case();
	for (int round = 0; round < 20; round++) {
		struct connection one, two;
		struct bus bus;

		if (round)
			new_mounts();
		EQ(try_mount_at(HERE), 0);
		bus = bus_at(HERE);
		one = hello(bus.path);
		two = hello(bus.path);
		for (__u64 cookie = 1; cookie <= 100; cookie++) {
			EQ(SEND(&one, .to = two.id, .cookie = cookie), 0);
			done(&two, receive(&two));
		}
		/* What the kdbusfs is mounted on. */
		EQ(try_unmount("/tmp", MNT_DETACH), 0);
		EQ(SEND(&one, .to = two.id, .cookie = 101), -ECONNRESET);
		close(one.fd);
		close(two.fd);
		close(bus.fd);
	}
}

/* Of the supervisor, once it has looked after all that has been closed: it does so before it serves the next call. */
static int descriptors_of(pid_t process)
{
	char path[64];
	struct stat status;
	int count = 0;

	close(open("/dev/null", O_RDWR | O_CLOEXEC));
	for (int number = 0; number < 1000; number++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", process, number);
		count += !lstat(path, &status);
	}
	return count;
}

static int children_of(pid_t process)
{
	char path[64], text[4096] = "";
	int count = 0, fd;
	ssize_t size;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", process, process);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	size = read(fd, text, sizeof(text) - 1);
	close(fd);
	for (ssize_t i = 0; i < size; i++)
		count += text[i] == ' ';
	return count;
}

/* Neither descriptors nor children stay behind in the supervisor, whose child is this program's main process. */
ROOT_CASE(nothing_stays_behind)
{
	pid_t parent = supervisor();
	int before = 0, children = 0;

	begin_case();
	await_loop();
	for (int round = 0; round < 30; round++) {
		struct bus bus;

		EQ(try_mount_at("/tmp/absent"), -ENOENT);
		EQ(try_mount_at(HERE), 0);
		bus = bus_at(HERE);
		EQ(try_unmount(HERE, 0), 0);
		close(bus.fd);
		if (round == 9) {
			before = descriptors_of(parent);
			children = children_of(parent);
		}
	}
	EQ(descriptors_of(parent), before);
	/* The program and the caretaker. */
	EQ(children_of(parent), children);
}
