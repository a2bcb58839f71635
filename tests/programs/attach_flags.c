// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Metadata: which of the fourteen kinds reach a receiver (sender, receiver, bus and module parameter have a say), and
 * that what they tell is true, at the moment of sending or, for CONN_INFO and BUS_CREATOR_INFO, of HELLO and BUS_MAKE.
 *
 * Only root may write the module parameter, which by default lets half of the kinds through.
 */
#include "e2e.h"

#define PARAMETER "/sys/module/kdbus/parameters/attach_flags_mask"
#define NAME "org.example.Named"
#define DESCRIPTION "described"
#define DEFAULT_MASK 0x281fULL

static unsigned long long read_parameter(void)
{
	FILE *file = fopen(PARAMETER, "r");
	unsigned long long value;

	CHECK(file);
	EQ(fscanf(file, "%llu", &value), 1);
	CHECK(!fclose(file));
	return value;
}

static void write_parameter(unsigned long long value)
{
	FILE *file = fopen(PARAMETER, "w");

	CHECK(file);
	CHECK(fprintf(file, "%llu", value) > 0);
	CHECK(!fclose(file));
}

/* The item of an attach flag. */
static __u64 item_of(int bit)
{
	return _KDBUS_ITEM_ATTACH_BASE + (__u64)bit;
}

/* A file of /proc/self, "" if it cannot be read, without what follows a newline. */
static const char *proc_file(const char *name, char *text, size_t size)
{
	char path[64];
	int fd;
	ssize_t length = 0;

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	fd = open(path, O_RDONLY);
	if (fd >= 0) {
		length = read(fd, text, size - 1);
		close(fd);
	}
	text[length > 0 ? length : 0] = 0;
	text[strcspn(text, "\n")] = 0;
	return text;
}

/* The kinds that this machine can tell about a process that owns a name and has a description. */
static __u64 available(void)
{
	char text[256];
	__u64 flags = _KDBUS_ATTACH_ALL;

	if (!*proc_file("attr/current", text, sizeof(text)))
		flags &= ~KDBUS_ATTACH_SECLABEL;
	if (!*proc_file("loginuid", text, sizeof(text)))
		flags &= ~KDBUS_ATTACH_AUDIT;
	if (!*proc_file("cgroup", text, sizeof(text)))
		flags &= ~KDBUS_ATTACH_CGROUP;
	return flags;
}

/* The kinds whose items are in the range. */
static __u64 kinds_in(const void *first, const void *end)
{
	__u64 kinds = 0;

	for (int bit = 0; bit < 14; bit++)
		if (nth_item(first, end, item_of(bit), 0))
			kinds |= 1ULL << bit;
	return kinds;
}

static __u64 kinds_of(const struct kdbus_msg *message)
{
	return kinds_in(message->items, (const char *)message + message->size);
}

static struct connection described(const char *path, __u64 send, __u64 receive)
{
	struct connection connection;
	struct buffer buffer;
	struct kdbus_cmd_hello *hello = begin_hello(&buffer, 0);

	hello->attach_flags_send = send;
	hello->attach_flags_recv = receive;
	add_string(&buffer, KDBUS_ITEM_CONN_DESCRIPTION, DESCRIPTION);
	EQ(try_hello(&connection, path, &buffer), 0);
	return connection;
}

/* CONN_INFO by id, or by name if that is 0, or BUS_CREATOR_INFO. */
static int info(const struct connection *connection, unsigned long request, __u64 id, const char *name, __u64 flags,
		const struct kdbus_info **result)
{
	struct buffer buffer;
	struct kdbus_cmd_info *info = begin(&buffer, sizeof(*info));
	int code;

	info->id = id;
	info->flags = flags;
	add_string(&buffer, KDBUS_ITEM_NAME, name);
	code = command(connection->fd, request, info);
	if (code < 0)
		return code;
	*result = (const void *)(connection->pool + info->offset);
	EQ(info->info_size, ALIGN8((*result)->size));
	return 0;
}

static const void *end_of(const struct kdbus_info *info)
{
	return (const char *)info + info->size;
}

static int update(const struct connection *connection, __u64 type, __u64 flags)
{
	struct buffer buffer;
	struct kdbus_cmd_update *update = begin(&buffer, sizeof(*update));

	add_u64(&buffer, type, flags);
	return command(connection->fd, KDBUS_CMD_CONN_UPDATE, update);
}

CASE(the_default_of_the_module_parameter)
{
	struct bus bus = new_bus(0);
	struct connection sender = described(bus.path, _KDBUS_ATTACH_ALL, 0);
	struct connection receiver = hello_with(bus.path, 0, 0, _KDBUS_ATTACH_ALL);

	EQ(read_parameter(), DEFAULT_MASK);
	EQ(acquire(&sender, NAME, 0), 0);
	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(kinds_of(receive(&receiver)), DEFAULT_MASK & available());
}

ROOT_CASE(each_kind_alone)
{
	struct bus bus = new_bus(0);
	struct connection sender = described(bus.path, _KDBUS_ATTACH_ALL, 0);
	__u64 known = available();

	write_parameter(_KDBUS_ATTACH_ALL);
	EQ(acquire(&sender, NAME, 0), 0);
	for (int bit = 0; bit < 14; bit++) {
		__u64 flag = 1ULL << bit;
		struct connection picky = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, flag);
		struct connection open = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, _KDBUS_ATTACH_ALL);

		EQ(SEND(&sender, .to = picky.id), 0);
		EQ(kinds_of(receive(&picky)), flag & known);
		EQ(update(&sender, KDBUS_ITEM_ATTACH_FLAGS_SEND, flag), 0);
		EQ(SEND(&sender, .to = open.id), 0);
		EQ(kinds_of(receive(&open)), flag & known);
		EQ(update(&sender, KDBUS_ITEM_ATTACH_FLAGS_SEND, _KDBUS_ATTACH_ALL), 0);
		CHECK(!close(picky.fd));
		CHECK(!close(open.fd));
	}
}

ROOT_CASE(all_kinds_in_the_order_of_the_kernel)
{
	static const __u64 order[] = {
		KDBUS_ITEM_PAYLOAD_OFF, KDBUS_ITEM_CREDS, KDBUS_ITEM_PIDS, KDBUS_ITEM_AUXGROUPS, KDBUS_ITEM_TID_COMM,
		KDBUS_ITEM_PID_COMM, KDBUS_ITEM_EXE, KDBUS_ITEM_CMDLINE, KDBUS_ITEM_CGROUP, KDBUS_ITEM_CAPS,
		KDBUS_ITEM_SECLABEL, KDBUS_ITEM_AUDIT, KDBUS_ITEM_OWNED_NAME, KDBUS_ITEM_CONN_DESCRIPTION,
		KDBUS_ITEM_TIMESTAMP,
	};
	struct bus bus = new_bus(0);
	struct connection sender = described(bus.path, _KDBUS_ATTACH_ANY, 0);
	struct connection receiver = hello_with(bus.path, 0, 0, _KDBUS_ATTACH_ANY);
	const struct kdbus_item *previous = NULL;
	const struct kdbus_msg *message;

	write_parameter(_KDBUS_ATTACH_ALL);
	EQ(acquire(&sender, NAME, 0), 0);
	EQ(SEND(&sender, .to = receiver.id), 0);
	message = receive(&receiver);
	EQ(kinds_of(message), available());
	for (size_t i = 0; i < sizeof(order) / sizeof(*order); i++) {
		const struct kdbus_item *item = find(message, order[i]);

		CHECK(!item || item > previous);
		previous = item ? item : previous;
	}
	/* Whoever asks for nothing gets nothing. */
	EQ(update(&receiver, KDBUS_ITEM_ATTACH_FLAGS_RECV, 0), 0);
	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(kinds_of(receive(&receiver)), 0);
}

ROOT_CASE(the_module_parameter_counts_at_once)
{
	struct bus bus = new_bus(0);
	struct connection sender = described(bus.path, _KDBUS_ATTACH_ALL, 0);
	struct connection receiver = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, _KDBUS_ATTACH_ALL);
	const struct kdbus_info *result;

	EQ(acquire(&sender, NAME, 0), 0);
	for (int bit = 0; bit < 14; bit++) {
		write_parameter(1ULL << bit);
		EQ(read_parameter(), 1ULL << bit);
		EQ(SEND(&sender, .to = receiver.id), 0);
		EQ(kinds_of(receive(&receiver)), 1ULL << bit & available());
		EQ(info(&receiver, KDBUS_CMD_CONN_INFO, sender.id, NULL, _KDBUS_ATTACH_ALL, &result), 0);
		/* Of a connection there is no timestamp. */
		EQ(kinds_in(result->items, end_of(result)), 1ULL << bit & available() & ~KDBUS_ATTACH_TIMESTAMP);
	}
	/* It is applied when a message is received, not when it is sent. */
	write_parameter(0);
	EQ(SEND(&sender, .to = receiver.id), 0);
	write_parameter(KDBUS_ATTACH_PIDS);
	EQ(kinds_of(receive(&receiver)), KDBUS_ATTACH_PIDS);
	write_parameter(DEFAULT_MASK);
}

/* In sysfs what is written is the value: nothing of a longer one that stood there stays behind (kernel/params.c). */
ROOT_CASE(a_shorter_value_of_the_module_parameter)
{
	static const struct { const char *text; __u64 value; } writes[] = {
		{ "16383\n", 16383 }, { "0", 0 }, { "0x3fff", 16383 }, { "17", 17 }, { "5\n", 5 }, { "10271", 10271 }, { "9", 9 },
	};
	struct bus bus = new_bus(0);
	struct connection sender = described(bus.path, _KDBUS_ATTACH_ALL, 0);
	struct connection receiver = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, _KDBUS_ATTACH_ALL);

	EQ(acquire(&sender, NAME, 0), 0);
	for (size_t i = 0; i < sizeof(writes) / sizeof(*writes); i++) {
		ssize_t length = (ssize_t)strlen(writes[i].text);
		int fd = open(PARAMETER, O_WRONLY | O_CLOEXEC);
		char text[32] = {};

		CHECK(fd >= 0);
		EQ(write(fd, writes[i].text, (size_t)length), length);
		EQ(SEND(&sender, .to = receiver.id), 0);
		EQ(kinds_of(receive(&receiver)), writes[i].value & available());
		close(fd);
		fd = open(PARAMETER, O_RDONLY | O_CLOEXEC);
		GE(read(fd, text, sizeof(text) - 1), 1);
		EQ(strtoull(text, NULL, 0), writes[i].value);
		close(fd);
	}
	/* Who may not write it empties nothing. */
	AS(NOBODY)
		EQ(open(PARAMETER, O_WRONLY | O_CLOEXEC) < 0 ? -errno : 0, -EACCES);
	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(kinds_of(receive(&receiver)), 9);
	EQ(read_parameter(), 9);
	write_parameter(DEFAULT_MASK);
}

ROOT_CASE(only_root_may_write_the_module_parameter)
{
	struct stat status;

	write_parameter(DEFAULT_MASK);
	CHECK(!stat(PARAMETER, &status));
	EQ(status.st_mode, S_IFREG | 0644);
	EQ(status.st_uid, 0);
	AS(NOBODY) {
		CHECK(!fopen(PARAMETER, "w"));
		EQ(errno, EACCES);
		EQ(read_parameter(), DEFAULT_MASK);
	}
}

CASE(a_bus_requires_metadata)
{
	struct bus bus = { .fd = open_control() };
	struct connection connection, monitor;
	struct buffer buffer;
	__u64 required = KDBUS_ATTACH_CREDS | KDBUS_ATTACH_PIDS;

	EQ(try_bus(&bus, "requiring", 0, required, 0), 0);
	begin_hello(&buffer, 0)->attach_flags_send = 0;
	EQ(try_hello(&connection, bus.path, &buffer), -ECONNREFUSED);
	begin_hello(&buffer, 0)->attach_flags_send = KDBUS_ATTACH_CREDS;
	EQ(try_hello(&connection, bus.path, &buffer), -ECONNREFUSED);
	begin_hello(&buffer, KDBUS_HELLO_MONITOR)->attach_flags_send = KDBUS_ATTACH_PIDS;
	EQ(try_hello(&monitor, bus.path, &buffer), -ECONNREFUSED);
	begin_hello(&buffer, 0)->attach_flags_send = required;
	EQ(try_hello(&connection, bus.path, &buffer), 0);
	EQ(connection.hello.attach_flags_send, required | KDBUS_FLAG_KERNEL);
	EQ(update(&connection, KDBUS_ITEM_ATTACH_FLAGS_SEND, KDBUS_ATTACH_PIDS), -EINVAL);
	EQ(update(&connection, KDBUS_ITEM_ATTACH_FLAGS_SEND, required | KDBUS_ATTACH_EXE), 0);
	EQ(update(&connection, KDBUS_ITEM_ATTACH_FLAGS_SEND, _KDBUS_ATTACH_ANY), 0);
	EQ(update(&connection, KDBUS_ITEM_ATTACH_FLAGS_RECV, 0), 0);
}

CASE(a_bus_that_requires_everything)
{
	struct bus bus = { .fd = open_control() };
	struct connection connection;
	struct buffer buffer;

	EQ(try_bus(&bus, "requiring", 0, _KDBUS_ATTACH_ANY, _KDBUS_ATTACH_ANY), 0);
	for (int bit = 0; bit < 14; bit++) {
		begin_hello(&buffer, 0)->attach_flags_send = _KDBUS_ATTACH_ALL & ~(1ULL << bit);
		EQ(try_hello(&connection, bus.path, &buffer), -ECONNREFUSED);
	}
	begin_hello(&buffer, 0);
	EQ(try_hello(&connection, bus.path, &buffer), 0);
	EQ(connection.hello.attach_flags_send, _KDBUS_ATTACH_ALL | KDBUS_FLAG_KERNEL);
}

CASE(unknown_kinds_are_refused)
{
	struct bus bus = { .fd = open_control() };
	struct connection connection;
	struct buffer buffer;
	__u64 unknown = 1ULL << 14;

	EQ(try_bus(&bus, "unknown", 0, unknown, 0), -EINVAL);
	EQ(try_bus(&bus, "unknown", 0, 0, unknown), -EINVAL);
	EQ(try_bus(&bus, "unknown", 0, 0, 0), 0);
	begin_hello(&buffer, 0)->attach_flags_send = unknown;
	EQ(try_hello(&connection, bus.path, &buffer), -EINVAL);
	begin_hello(&buffer, 0)->attach_flags_recv = unknown;
	EQ(try_hello(&connection, bus.path, &buffer), -EINVAL);
	connection = hello(bus.path);
	EQ(update(&connection, KDBUS_ITEM_ATTACH_FLAGS_SEND, unknown), -EINVAL);
	EQ(update(&connection, KDBUS_ITEM_ATTACH_FLAGS_RECV, unknown), -EINVAL);
	EQ(update(&connection, KDBUS_ITEM_DST_NAME, unknown), -EINVAL);
}

ROOT_CASE(what_is_told_about_the_bus_creator)
{
	write_parameter(_KDBUS_ATTACH_ALL);
	for (int bit = 0; bit <= 14; bit++) {
		/* The creator lets out one kind, and at last all of them. */
		__u64 owner = bit < 14 ? 1ULL << bit : _KDBUS_ATTACH_ALL;
		__u64 about_connections = KDBUS_ATTACH_TIMESTAMP | KDBUS_ATTACH_NAMES | KDBUS_ATTACH_CONN_DESCRIPTION;
		struct bus bus = { .fd = open_control() };
		const struct kdbus_info *result;
		struct connection peer;

		EQ(try_bus(&bus, "created", KDBUS_MAKE_ACCESS_WORLD, 0, owner), 0);
		peer = hello(bus.path);
		EQ(info(&peer, KDBUS_CMD_BUS_CREATOR_INFO, 0, NULL, _KDBUS_ATTACH_ALL, &result), 0);
		EQ(kinds_in(result->items, end_of(result)), owner & available() & ~about_connections);
		SAME(get_in(result->items, end_of(result), KDBUS_ITEM_MAKE_NAME)->str, bus.name);
		EQ(result->flags, KDBUS_MAKE_ACCESS_WORLD);
		NE(result->id, 0);
		EQ(info(&peer, KDBUS_CMD_BUS_CREATOR_INFO, 0, NULL, 0, &result), 0);
		EQ(kinds_in(result->items, end_of(result)), 0);
		EQ(info(&peer, KDBUS_CMD_BUS_CREATOR_INFO, 0, NULL, 1ULL << 14, &result), -EINVAL);
		CHECK(!close(bus.fd));
		CHECK(!close(peer.fd));
	}
	write_parameter(DEFAULT_MASK);
}

static void check_ids(const struct kdbus_creds *creds)
{
	uid_t uid, euid, suid;
	gid_t gid, egid, sgid;

	CHECK(!getresuid(&uid, &euid, &suid));
	CHECK(!getresgid(&gid, &egid, &sgid));
	EQ(creds->uid, uid);
	EQ(creds->euid, euid);
	EQ(creds->suid, suid);
	EQ(creds->fsuid, euid);
	EQ(creds->gid, gid);
	EQ(creds->egid, egid);
	EQ(creds->sgid, sgid);
	EQ(creds->fsgid, egid);
}

ROOT_CASE(the_truth_about_the_sending_thread)
{
	struct bus bus = new_bus(0);
	struct connection sender = described(bus.path, _KDBUS_ATTACH_ALL, 0);
	struct connection receiver = hello_with(bus.path, 0, 0, _KDBUS_ATTACH_ALL);
	char text[4096];
	const struct kdbus_msg *message;
	const struct kdbus_item *item;
	gid_t groups[3] = { 5, 6, 70000 };
	__u64 before, before_real;
	ssize_t length;

	write_parameter(_KDBUS_ATTACH_ALL);
	CHECK(!setgroups(3, groups));
	CHECK(!prctl(PR_SET_NAME, "renamed (x) 1 2"));
	EQ(acquire(&sender, NAME, KDBUS_NAME_ALLOW_REPLACEMENT), 0);
	EQ(acquire(&sender, "org.example.Second", 0), 0);
	before = clock_ns(CLOCK_MONOTONIC);
	before_real = clock_ns(CLOCK_REALTIME);
	EQ(SEND(&sender, .to = receiver.id), 0);
	message = receive(&receiver);

	check_ids(&get(message, KDBUS_ITEM_CREDS)->creds);
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.pid, getpid());
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.tid, gettid());
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.ppid, getppid());
	item = get(message, KDBUS_ITEM_AUXGROUPS);
	EQ(item->size, HEADER + sizeof(groups));
	CHECK(!memcmp(item->data32, groups, sizeof(groups)));
	SAME(get(message, KDBUS_ITEM_TID_COMM)->str, "renamed (x) 1 2");
	SAME(get(message, KDBUS_ITEM_PID_COMM)->str, "renamed (x) 1 2");
	length = readlink("/proc/self/exe", text, sizeof(text) - 1);
	GE(length, 1);
	text[length] = 0;
	SAME(get(message, KDBUS_ITEM_EXE)->str, text);
	/* Only the first of the arguments, as they are separated by NULs. */
	SAME(get(message, KDBUS_ITEM_CMDLINE)->str, proc_file("cmdline", text, sizeof(text)));
	if (find(message, KDBUS_ITEM_AUDIT)) {
		EQ(get(message, KDBUS_ITEM_AUDIT)->audit.loginuid, strtoul(proc_file("loginuid", text, 16), NULL, 10));
		EQ(get(message, KDBUS_ITEM_AUDIT)->audit.sessionid, strtoul(proc_file("sessionid", text, 16), NULL, 10));
	}
	if (find(message, KDBUS_ITEM_SECLABEL))
		SAME(get(message, KDBUS_ITEM_SECLABEL)->str, proc_file("attr/current", text, sizeof(text)));
	SAME(get(message, KDBUS_ITEM_CONN_DESCRIPTION)->str, DESCRIPTION);
	item = get(message, KDBUS_ITEM_OWNED_NAME);
	SAME(item->name.name, NAME);
	EQ(item->name.flags, KDBUS_NAME_ALLOW_REPLACEMENT);
	SAME(NEXT(item)->name.name, "org.example.Second");
	item = get(message, KDBUS_ITEM_TIMESTAMP);
	GE(item->timestamp.monotonic_ns, before);
	GE(clock_ns(CLOCK_MONOTONIC), item->timestamp.monotonic_ns);
	GE(item->timestamp.realtime_ns, before_real);
	GE(clock_ns(CLOCK_REALTIME), item->timestamp.realtime_ns);
}

static __u64 status_set(const char *name)
{
	FILE *file = fopen("/proc/self/status", "r");
	char line[4096];
	__u64 set = 0;

	CHECK(file);
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)))
			set = strtoull(line + strlen(name), NULL, 16);
	fclose(file);
	return set;
}

ROOT_CASE(capabilities)
{
	static const char *const names[] = { "CapInh:", "CapPrm:", "CapEff:", "CapBnd:" };
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path);
	struct connection receiver = hello_with(bus.path, 0, 0, KDBUS_ATTACH_CAPS);
	const struct kdbus_item *item;
	unsigned int words;

	write_parameter(_KDBUS_ATTACH_ALL);
	CHECK(!prctl(PR_CAPBSET_DROP, 3, 0, 0, 0));
	EQ(SEND(&sender, .to = receiver.id), 0);
	item = get(receive(&receiver), KDBUS_ITEM_CAPS);
	GE(item->caps.last_cap, 37);
	words = item->caps.last_cap / 32 + 1;
	EQ(item->size, HEADER + sizeof(__u32) + 4 * words * sizeof(__u32));
	for (unsigned int set = 0; set < 4; set++)
		for (unsigned int word = 0; word < words; word++)
			EQ(item->caps.caps[set * words + word], (__u32)(status_set(names[set]) >> 32 * word));
}

static void *send_from_thread(void *argument)
{
	const struct connection *pair = argument;

	CHECK(!prctl(PR_SET_NAME, "worker"));
	EQ(SEND(&pair[0], .to = pair[1].id, .cookie = (__u64)gettid()), 0);
	return NULL;
}

ROOT_CASE(another_thread_sends)
{
	struct bus bus = new_bus(0);
	struct connection pair[2] = { hello(bus.path), hello_with(bus.path, 0, 0, _KDBUS_ATTACH_ALL) };
	const struct kdbus_msg *message;
	pthread_t thread;

	write_parameter(_KDBUS_ATTACH_ALL);
	CHECK(!prctl(PR_SET_NAME, "leader"));
	CHECK(!pthread_create(&thread, NULL, send_from_thread, pair));
	CHECK(!pthread_join(thread, NULL));
	message = receive(&pair[1]);
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.pid, getpid());
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.tid, message->cookie);
	NE(message->cookie, getpid());
	SAME(get(message, KDBUS_ITEM_TID_COMM)->str, "worker");
	SAME(get(message, KDBUS_ITEM_PID_COMM)->str, "leader");
}

ROOT_CASE(another_process_sends_through_an_inherited_descriptor)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path);
	struct connection receiver = hello_with(bus.path, 0, 0, KDBUS_ATTACH_CREDS | KDBUS_ATTACH_PIDS);
	const struct kdbus_info *result;
	const struct kdbus_msg *message;

	AS(NOBODY)
		EQ(SEND(&sender, .to = receiver.id, .cookie = (__u64)getpid()), 0);
	message = receive(&receiver);
	EQ(get(message, KDBUS_ITEM_CREDS)->creds.euid, NOBODY);
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.pid, message->cookie);
	EQ(get(message, KDBUS_ITEM_PIDS)->pids.ppid, getpid());
	/* CONN_INFO tells who said HELLO. */
	EQ(info(&receiver, KDBUS_CMD_CONN_INFO, sender.id, NULL, _KDBUS_ATTACH_ALL, &result), 0);
	EQ(get_in(result->items, end_of(result), KDBUS_ITEM_CREDS)->creds.euid, 0);
	EQ(get_in(result->items, end_of(result), KDBUS_ITEM_PIDS)->pids.pid, getpid());
}

ROOT_CASE(connection_info_is_of_hello)
{
	struct bus bus = new_bus(0);
	struct connection asking = hello(bus.path), described_one;
	const struct kdbus_info *result;

	write_parameter(_KDBUS_ATTACH_ALL);
	CHECK(!prctl(PR_SET_NAME, "first"));
	described_one = described(bus.path, _KDBUS_ATTACH_ALL, 0);
	CHECK(!prctl(PR_SET_NAME, "second"));
	EQ(acquire(&described_one, NAME, 0), 0);
	EQ(info(&asking, KDBUS_CMD_CONN_INFO, 0, NAME, _KDBUS_ATTACH_ALL, &result), 0);
	EQ(result->id, described_one.id);
	EQ(result->flags, 0);
	EQ(kinds_in(result->items, end_of(result)), available() & ~KDBUS_ATTACH_TIMESTAMP);
	SAME(get_in(result->items, end_of(result), KDBUS_ITEM_TID_COMM)->str, "first");
	SAME(get_in(result->items, end_of(result), KDBUS_ITEM_OWNED_NAME)->name.name, NAME);
	/* The connection's own flags count, as they are now. */
	EQ(update(&described_one, KDBUS_ITEM_ATTACH_FLAGS_SEND, KDBUS_ATTACH_NAMES), 0);
	EQ(info(&asking, KDBUS_CMD_CONN_INFO, described_one.id, NULL, _KDBUS_ATTACH_ALL, &result), 0);
	EQ(kinds_in(result->items, end_of(result)), KDBUS_ATTACH_NAMES);
	EQ(info(&asking, KDBUS_CMD_CONN_INFO, described_one.id, NULL, KDBUS_ATTACH_CREDS, &result), 0);
	EQ(kinds_in(result->items, end_of(result)), 0);
}

CASE(connection_info_of_nobody)
{
	struct bus bus = new_bus(0);
	struct connection asking = hello(bus.path);
	const struct kdbus_info *result;

	EQ(info(&asking, KDBUS_CMD_CONN_INFO, 1000, NULL, 0, &result), -ENXIO);
	EQ(info(&asking, KDBUS_CMD_CONN_INFO, 0, NAME, 0, &result), -ESRCH);
	EQ(info(&asking, KDBUS_CMD_CONN_INFO, 0, "nodots", 0, &result), -EINVAL);
	EQ(info(&asking, KDBUS_CMD_CONN_INFO, 0, NULL, 0, &result), -EINVAL);
	EQ(info(&asking, KDBUS_CMD_CONN_INFO, asking.id, NULL, 1ULL << 14, &result), -EINVAL);
	EQ(info(&asking, KDBUS_CMD_CONN_INFO, asking.id, NULL, 0, &result), 0);
	EQ(result->size, sizeof(*result));
	/* An id is enough; a name beside it is not looked at. */
	EQ(info(&asking, KDBUS_CMD_CONN_INFO, asking.id, NAME, 0, &result), 0);
}
