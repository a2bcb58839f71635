// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Namespaces: users and processes are shown as the receiver's namespaces number them, and what means nothing there is
 * left out; policy counts the users behind the numbers; nodes are found through bind mounts and chroots.
 */
#include "e2e.h"

#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>

#define NAME "org.example.Name"
#define PARAMETER "/sys/module/kdbus/parameters/attach_flags_mask"
#define OVERFLOW 65534

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	CHECK(fd >= 0);
	EQ(write(fd, text, strlen(text)), strlen(text));
	CHECK(!close(fd));
}

static void tell_everything(void)
{
	FILE *file = fopen(PARAMETER, "w");

	CHECK(file);
	CHECK(fprintf(file, "%llu", (unsigned long long)_KDBUS_ATTACH_ALL) > 0);
	CHECK(!fclose(file));
}

/* A child in new namespaces, which goes on when its maps are there ("inside outside count"; NULL: none is made). */
static pid_t start_in_namespaces(unsigned long flags, const char *map)
{
	char path[64];
	int mapped = new_event();
	pid_t child;

	fflush(stdout);
	child = (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
	if (child < 0)
		skip("namespaces are not allowed here");
	if (!child) {
		CHECK(!prctl(PR_SET_PDEATHSIG, SIGKILL));
		await(mapped);
		return 0;
	}
	if (map) {
		snprintf(path, sizeof(path), "/proc/%d/uid_map", child);
		write_file(path, map);
		snprintf(path, sizeof(path), "/proc/%d/gid_map", child);
		write_file(path, map);
	}
	post(mapped);
	return child;
}

/* Becomes a user of the namespace, with all capabilities in it if that is root. */
static void become_inside(unsigned int id)
{
	CHECK(!setgroups(0, NULL));
	CHECK(!setresgid(id, id, id));
	CHECK(!setresuid(id, id, id));
}

ROOT_CASE(users_are_translated)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection outside = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_CREDS | KDBUS_ATTACH_AUXGROUPS);
	struct connection holder = special(bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, KDBUS_POLICY_TALK);
	pid_t child;

	CHECK(!setgroups(2, (gid_t[]) { 100005, 6 }));
	EQ(acquire(&outside, NAME, 0), 0);
	child = start_in_namespaces(CLONE_NEWUSER, "0 100000 1000");
	if (!child) {
		struct connection inside;
		const struct kdbus_msg *message;
		const struct kdbus_item *groups;

		become_inside(0);
		inside = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, _KDBUS_ATTACH_ALL);
		EQ(SEND(&inside, .name = NAME, .cookie = inside.id), 0);
		message = await_message(&inside);
		/* Root outside is nobody inside. */
		EQ(get(message, KDBUS_ITEM_CREDS)->creds.uid, OVERFLOW);
		EQ(get(message, KDBUS_ITEM_CREDS)->creds.fsgid, OVERFLOW);
		groups = get(message, KDBUS_ITEM_AUXGROUPS);
		/* The kernel keeps groups sorted. */
		EQ(groups->data32[0], OVERFLOW);
		EQ(groups->data32[1], 5);
		done(&inside, message);
		/* Of my own kind I see the numbers that I know. */
		EQ(SEND(&inside, .to = inside.id), 0);
		EQ(get(receive(&inside), KDBUS_ITEM_CREDS)->creds.uid, 0);
		finish_child(0);
	}
	{
		const struct kdbus_msg *message = await_message(&outside);

		EQ(get(message, KDBUS_ITEM_CREDS)->creds.uid, 100000);
		EQ(get(message, KDBUS_ITEM_CREDS)->creds.sgid, 100000);
		EQ(get(message, KDBUS_ITEM_AUXGROUPS)->size, HEADER);
		EQ(SEND(&outside, .to = message->cookie), 0);
	}
	join(child);
	CHECK(!close(holder.fd));
}

ROOT_CASE(capabilities_stay_in_their_namespace)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection outside = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_CAPS);
	struct connection holder = special(bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, KDBUS_POLICY_TALK);
	pid_t child;

	tell_everything();
	EQ(acquire(&outside, NAME, 0), 0);
	child = start_in_namespaces(CLONE_NEWUSER, "0 0 1");
	if (!child) {
		struct connection inside = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_CAPS | KDBUS_ATTACH_CREDS);
		const struct kdbus_msg *message;

		EQ(SEND(&inside, .to = inside.id), 0);
		message = receive(&inside);
		CHECK(find(message, KDBUS_ITEM_CAPS));
		EQ(SEND(&inside, .name = NAME, .cookie = inside.id), 0);
		message = await_message(&inside);
		CHECK(!find(message, KDBUS_ITEM_CAPS));
		EQ(get(message, KDBUS_ITEM_CREDS)->creds.uid, 0);
		finish_child(0);
	}
	{
		const struct kdbus_msg *message = await_message(&outside);

		CHECK(!find(message, KDBUS_ITEM_CAPS));
		EQ(SEND(&outside, .to = message->cookie), 0);
	}
	join(child);
	CHECK(!close(holder.fd));
}

ROOT_CASE(capabilities_inside_give_no_privilege)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	pid_t child = start_in_namespaces(CLONE_NEWUSER, "0 100000 10");

	if (!child) {
		struct connection refused, inside;

		become_inside(0);
		inside = hello(bus.path);
		EQ(acquire(&inside, NAME, 0), -EPERM);
		EQ(try_special(&refused, bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, KDBUS_POLICY_OWN), -EPERM);
		EQ(try_special(&refused, bus.path, KDBUS_HELLO_MONITOR, NULL, -1), -EPERM);
		finish_child(0);
	}
	join(child);
	/* Root is root, also when it sits in a user namespace of its own: it made the bus. */
	child = start_in_namespaces(CLONE_NEWUSER, "0 0 1");
	if (!child) {
		struct connection inside = hello(bus.path);

		EQ(acquire(&inside, NAME, 0), 0);
		finish_child(0);
	}
	join(child);
}

ROOT_CASE(buses_are_named_after_the_user_outside)
{
	pid_t child = start_in_namespaces(CLONE_NEWUSER, "0 100000 10");

	if (!child) {
		struct bus bus = { .fd = open_control() };
		struct stat status;
		struct kdbus_bloom_parameter bloom = { 64, 1 };
		struct buffer buffer;
		struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));

		become_inside(0);
		/* The domain belongs to the namespace outside. */
		EQ(try_bus(&bus, "bus", 0, 0, 0), -EINVAL);
		add(&buffer, KDBUS_ITEM_BLOOM_PARAMETER, &bloom, sizeof(bloom));
		add_string(&buffer, KDBUS_ITEM_MAKE_NAME, "100000-bus");
		EQ(command(bus.fd, KDBUS_CMD_BUS_MAKE, make), 0);
		CHECK(!stat(ROOT "/100000-bus/bus", &status));
		EQ(status.st_uid, 0);
		hello(ROOT "/100000-bus/bus");
		finish_child(0);
	}
	join(child);
}

ROOT_CASE(policy_counts_the_users_behind_the_numbers)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection service = hello(bus.path), holder;
	struct buffer buffer;
	pid_t child;

	begin_hello(&buffer, KDBUS_HELLO_POLICY_HOLDER);
	add_string(&buffer, KDBUS_ITEM_NAME, NAME);
	add_access(&buffer, KDBUS_POLICY_ACCESS_USER, KDBUS_POLICY_TALK, 100007);
	EQ(try_hello(&holder, bus.path, &buffer), 0);
	EQ(acquire(&service, NAME, 0), 0);
	child = start_in_namespaces(CLONE_NEWUSER, "0 100000 10");
	if (!child) {
		IN_CHILD {
			struct connection client;

			become_inside(7);
			client = hello(bus.path);
			EQ(SEND(&client, .name = NAME), 0);
		}
		IN_CHILD {
			struct connection client;

			become_inside(8);
			client = hello(bus.path);
			EQ(SEND(&client, .name = NAME), -EPERM);
		}
		finish_child(0);
	}
	join(child);
	AS(100007) {
		struct connection client = hello(bus.path);

		EQ(SEND(&client, .name = NAME), 0);
	}
}

ROOT_CASE(policy_from_inside)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection service = hello(bus.path);
	int privileged = open(bus.path, O_RDWR), another = open(bus.path, O_RDWR), ready = new_event(), checked = new_event();
	pid_t child;

	EQ(acquire(&service, NAME, 0), 0);
	child = start_in_namespaces(CLONE_NEWUSER, "0 100000 10");
	if (!child) {
		struct buffer buffer;

		/* Opened outside, so it is privileged; the numbers are those of who says HELLO. */
		become_inside(0);
		begin_hello(&buffer, KDBUS_HELLO_POLICY_HOLDER);
		add_string(&buffer, KDBUS_ITEM_NAME, NAME);
		add_access(&buffer, KDBUS_POLICY_ACCESS_USER, KDBUS_POLICY_TALK, 11);
		EQ(command(privileged, KDBUS_CMD_HELLO, buffer.words), -EINVAL);
		begin_hello(&buffer, KDBUS_HELLO_POLICY_HOLDER);
		add_string(&buffer, KDBUS_ITEM_NAME, NAME);
		add_access(&buffer, KDBUS_POLICY_ACCESS_USER, KDBUS_POLICY_TALK, 7);
		EQ(command(privileged, KDBUS_CMD_HELLO, buffer.words), 0);
		/* Claimed users have to be mapped, too. */
		begin_hello(&buffer, 0);
		add(&buffer, KDBUS_ITEM_CREDS, &(struct kdbus_creds) { .uid = 11 }, sizeof(struct kdbus_creds));
		EQ(command(another, KDBUS_CMD_HELLO, buffer.words), -EINVAL);
		begin_hello(&buffer, 0);
		add(&buffer, KDBUS_ITEM_CREDS, &(struct kdbus_creds) { .uid = 3 }, sizeof(struct kdbus_creds));
		EQ(command(another, KDBUS_CMD_HELLO, buffer.words), 0);
		post(ready);
		await(checked);
		finish_child(0);
	}
	await(ready);
	AS(100007) {
		struct connection client = hello(bus.path);

		EQ(SEND(&client, .name = NAME), 0);
	}
	AS(7) {
		struct connection client = hello(bus.path);

		EQ(SEND(&client, .name = NAME), -EPERM);
	}
	post(checked);
	join(child);
}

ROOT_CASE(processes_are_translated)
{
	struct bus bus = new_bus(0);
	struct connection outside = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_PIDS);
	const struct kdbus_msg *message;
	pid_t child = start_in_namespaces(CLONE_NEWPID, NULL);

	if (!child) {
		struct connection inside = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_PIDS);
		const struct kdbus_pids *pids;

		EQ(getpid(), 1);
		EQ(SEND(&inside, .to = inside.id), 0);
		pids = &get(receive(&inside), KDBUS_ITEM_PIDS)->pids;
		EQ(pids->pid, 1);
		EQ(pids->tid, 1);
		EQ(pids->ppid, 0);
		EQ(SEND(&inside, .to = outside.id, .cookie = inside.id), 0);
		/* Who is outside cannot be seen from inside. */
		pids = &get(await_message(&inside), KDBUS_ITEM_PIDS)->pids;
		EQ(pids->pid, 0);
		EQ(pids->tid, 0);
		EQ(pids->ppid, 0);
		/* A child of mine can be, as it can from outside. */
		IN_CHILD {
			struct connection grandchild = hello(bus.path);

			EQ(SEND(&grandchild, .to = inside.id, .cookie = (__u64)getpid()), 0);
			EQ(SEND(&grandchild, .to = outside.id), 0);
		}
		message = receive(&inside);
		EQ(get(message, KDBUS_ITEM_PIDS)->pids.pid, message->cookie);
		EQ(get(message, KDBUS_ITEM_PIDS)->pids.ppid, 1);
		finish_child(0);
	}
	message = await_message(&outside);
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.pid, child);
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.tid, child);
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.ppid, getpid());
	EQ(SEND(&outside, .to = message->cookie), 0);
	message = await_message(&outside);
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.ppid, child);
	join(child);
}

ROOT_CASE(faked_pids_are_those_of_the_namespace)
{
	struct bus bus = new_bus(0);
	pid_t child = start_in_namespaces(CLONE_NEWPID, NULL);

	if (!child) {
		struct kdbus_pids pids = { .pid = 1, .tid = 1, .ppid = 0 };
		struct connection claimed;
		struct buffer buffer;
		struct kdbus_cmd_info info = { .size = sizeof(info), .flags = KDBUS_ATTACH_PIDS };
		const struct kdbus_info *result;

		begin_hello(&buffer, 0);
		add(&buffer, KDBUS_ITEM_PIDS, &pids, sizeof(pids));
		EQ(try_hello(&claimed, bus.path, &buffer), 0);
		info.id = claimed.id;
		EQ(command(claimed.fd, KDBUS_CMD_CONN_INFO, &info), 0);
		result = (const void *)(claimed.pool + info.offset);
		EQ(get_in(result->items, (const char *)result + result->size, KDBUS_ITEM_PIDS)->pids.pid, 1);
		pids.tid = 4000;
		begin_hello(&buffer, 0);
		add(&buffer, KDBUS_ITEM_PIDS, &pids, sizeof(pids));
		EQ(try_hello(&claimed, bus.path, &buffer), -EINVAL);
		finish_child(0);
	}
	join(child);
}

ROOT_CASE(all_namespaces_at_once)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection outside = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, _KDBUS_ATTACH_ALL);
	struct connection holder = special(bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, KDBUS_POLICY_TALK);
	const struct kdbus_msg *message;
	pid_t child;

	tell_everything();
	EQ(acquire(&outside, NAME, 0), 0);
	child = start_in_namespaces(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS, "0 100000 10");
	if (!child) {
		struct connection inside;

		become_inside(0);
		inside = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, _KDBUS_ATTACH_ALL);
		EQ(SEND(&inside, .name = NAME, .cookie = inside.id), 0);
		message = await_message(&inside);
		EQ(get(message, KDBUS_ITEM_PIDS)->pids.pid, 0);
		EQ(get(message, KDBUS_ITEM_CREDS)->creds.uid, OVERFLOW);
		CHECK(!find(message, KDBUS_ITEM_CAPS));
		/* The same root, though in another mount namespace, is another root. */
		CHECK(!find(message, KDBUS_ITEM_EXE));
		CHECK(find(message, KDBUS_ITEM_CMDLINE));
		finish_child(0);
	}
	message = await_message(&outside);
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.pid, child);
	EQ(get(message, KDBUS_ITEM_CREDS)->creds.uid, 100000);
	CHECK(!find(message, KDBUS_ITEM_CAPS));
	CHECK(!find(message, KDBUS_ITEM_EXE));
	EQ(SEND(&outside, .to = message->cookie), 0);
	join(child);
	CHECK(!close(holder.fd));
}

ROOT_CASE(another_root)
{
	struct bus bus = new_bus(0);
	struct connection outside = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_EXE | KDBUS_ATTACH_CMDLINE);
	const struct kdbus_msg *message;
	char folder[] = "/tmp/kdbus-e2e-XXXXXX", place[64];
	pid_t child;

	tell_everything();
	CHECK(mkdtemp(folder));
	snprintf(place, sizeof(place), "%s/sys", folder);
	CHECK(!mkdir(place, 0755));
	child = start_in_namespaces(CLONE_NEWNS, NULL);
	if (!child) {
		struct connection inside;

		CHECK(!mount("/sys", place, NULL, MS_BIND | MS_REC, NULL));
		CHECK(!chroot(folder));
		CHECK(!chdir("/"));
		/* The path is looked up from the new root. */
		inside = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_EXE);
		EQ(SEND(&inside, .to = outside.id, .cookie = inside.id), 0);
		CHECK(!find(await_message(&inside), KDBUS_ITEM_EXE));
		finish_child(0);
	}
	message = await_message(&outside);
	CHECK(!find(message, KDBUS_ITEM_EXE));
	CHECK(find(message, KDBUS_ITEM_CMDLINE));
	EQ(SEND(&outside, .to = message->cookie), 0);
	join(child);
	CHECK(!rmdir(place));
	CHECK(!rmdir(folder));
}

ROOT_CASE(a_bind_mount_shows_the_same_domain)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path);
	char folder[] = "/tmp/kdbus-e2e-XXXXXX";
	pid_t child;

	CHECK(mkdtemp(folder));
	child = start_in_namespaces(CLONE_NEWNS, NULL);
	if (!child) {
		struct connection client;
		char path[256];

		CHECK(!mount(ROOT, folder, NULL, MS_BIND, NULL));
		snprintf(path, sizeof(path), "%s/%s/bus", folder, bus.name);
		client = hello(path);
		EQ(SEND(&client, .to = service.id, .cookie = 5), 0);
		finish_child(0);
	}
	join(child);
	EQ(receive(&service)->cookie, 5);
	CHECK(!rmdir(folder));
}

CASE(ways_to_a_node)
{
	struct bus bus = new_bus(0);
	int root = open("/", O_PATH | O_DIRECTORY), folder = open(bus.folder, O_RDONLY | O_DIRECTORY), node;
	char link[] = "/tmp/kdbus-e2e-XXXXXX", path[256];
	struct buffer buffer;
	int fds[5], fd;

	CHECK(mkdtemp(link));
	snprintf(path, sizeof(path), "%s/link", link);
	CHECK(!symlink(bus.path, path));
	fds[0] = openat(root, bus.path + 1, O_RDWR);
	fds[1] = openat(folder, "bus", O_RDWR);
	fds[2] = open(path, O_RDWR);
	CHECK(!fchdir(folder));
	fds[3] = open("bus", O_RDWR);
	fds[4] = open("../../kdbus/./control/../../kdbus/control", O_RDWR);
	EQ(fds[4], -1);
	EQ(errno, ENOTDIR);
	fds[4] = open(".//bus", O_RDWR | O_NOCTTY | O_LARGEFILE);
	for (int i = 0; i < 5; i++) {
		CHECK(fds[i] >= 0);
		begin_hello(&buffer, 0);
		EQ(command(fds[i], KDBUS_CMD_HELLO, buffer.words), 0);
	}
	/* The last link is not followed if the program says so. */
	EQ(open(path, O_RDWR | O_NOFOLLOW), -1);
	EQ(errno, ELOOP);
	CHECK(!unlink(path));
	CHECK(!rmdir(link));
	/* An O_PATH descriptor is no handle, but leads to one. */
	node = open(bus.path, O_PATH);
	begin_hello(&buffer, 0);
	EQ(command(node, KDBUS_CMD_HELLO, buffer.words), -EBADF);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", node);
	fd = open(path, O_RDWR);
	EQ(command(fd, KDBUS_CMD_HELLO, buffer.words), 0);
}

CASE(ways_of_openat2)
{
	static const __u64 lookups[] = { 0, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV };
	struct bus bus = new_bus(0);
	int folder = open(bus.folder, O_RDONLY | O_DIRECTORY);
	struct open_how how = { .flags = O_RDWR | O_CLOEXEC };
	struct buffer buffer;

	for (size_t i = 0; i < sizeof(lookups) / sizeof(*lookups); i++) {
		int fd;

		how.resolve = lookups[i];
		fd = (int)syscall(SYS_openat2, folder, "bus", &how, sizeof(how));
		CHECK(fd >= 0);
		begin_hello(&buffer, 0);
		EQ(command(fd, KDBUS_CMD_HELLO, buffer.words), 0);
		EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
		EQ(readiness(fd), POLLOUT);
		CHECK(!close(fd));
	}
	how.resolve = RESOLVE_BENEATH;
	EQ(syscall(SYS_openat2, folder, bus.path, &how, sizeof(how)), -1);
	EQ(errno, EXDEV);
	how.resolve = 0;
	how.mode = 0600;
	EQ(syscall(SYS_openat2, folder, "bus", &how, sizeof(how)), -1);
	EQ(errno, EINVAL);
	EQ(syscall(SYS_openat2, folder, "bus", &how, 8), -1);
	EQ(errno, EINVAL);
	EQ(syscall(SYS_openat2, folder, "bus", NULL, sizeof(how)), -1);
	EQ(errno, EFAULT);
}
