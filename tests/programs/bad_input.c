// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Bad input: pointers that lead nowhere, memory that ends or may not be written, sizes that lie, requests and
 * descriptors of the wrong kind. Each yields the kernel's errno, and changes nothing.
 */
#include "e2e.h"

#define PAGE 4096UL
#define NAME "org.example.Name"

/* The commands with an argument, on a connection. */
static const struct {
	unsigned long request;
	size_t size, limit;
	bool flags_late;		/* `flags` is not the second member */
} commands[] = {
	{ KDBUS_CMD_SEND, sizeof(struct kdbus_cmd_send), 32768, false },
	{ KDBUS_CMD_RECV, sizeof(struct kdbus_cmd_recv), 32768, false },
	{ KDBUS_CMD_FREE, sizeof(struct kdbus_cmd_free), 8192, true },
	{ KDBUS_CMD_NAME_ACQUIRE, sizeof(struct kdbus_cmd_name), sizeof(struct kdbus_cmd_name) + 272, false },
	{ KDBUS_CMD_NAME_RELEASE, sizeof(struct kdbus_cmd_name), sizeof(struct kdbus_cmd_name) + 272, false },
	{ KDBUS_CMD_NAME_LIST, sizeof(struct kdbus_cmd_name_list), 8192, false },
	{ KDBUS_CMD_CONN_INFO, sizeof(struct kdbus_cmd_info), sizeof(struct kdbus_cmd_info) + 256, false },
	{ KDBUS_CMD_BUS_CREATOR_INFO, sizeof(struct kdbus_cmd_info), sizeof(struct kdbus_cmd_info) + 256, false },
	{ KDBUS_CMD_CONN_UPDATE, sizeof(struct kdbus_cmd_update), 32768, false },
	{ KDBUS_CMD_MATCH_ADD, sizeof(struct kdbus_cmd_match), 32768, true },
	{ KDBUS_CMD_MATCH_REMOVE, sizeof(struct kdbus_cmd_match), sizeof(struct kdbus_cmd_match), true },
};
#define COMMANDS (sizeof(commands) / sizeof(*commands))

/* Pages of which the first `count` may be used as `protection` says, and the next not at all. */
static char *pages(size_t count, int protection)
{
	char *memory = mmap(NULL, (count + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(memory != MAP_FAILED);
	CHECK(!mprotect(memory, count * PAGE, protection));
	CHECK(!mprotect(memory + count * PAGE, PAGE, PROT_NONE));
	return memory;
}

/* That a connection still does what it should. */
static void check_sound(const struct connection *connection)
{
	EQ(SEND(connection, .to = connection->id, .cookie = 4711), 0);
	EQ(receive(connection)->cookie, 4711);
	EQ(receive_code(connection, 0), -EAGAIN);
}

static unsigned long wild(int n)
{
	static char bytes[64] __attribute__((aligned(8)));
	const unsigned long places[] = {
		0, 1, 8, 4096, (uintptr_t)bytes + 1, (uintptr_t)bytes + 4, 0x7ffffffff000UL, 0x7ffffffffff8UL,
		0x800000000000UL, 0xffff800000000000UL, 0xffffffff80000000UL, ~7UL, ~0UL,
		(uintptr_t)pages(1, PROT_NONE), (uintptr_t)pages(1, PROT_READ | PROT_WRITE) + PAGE,
	};

	return n < (int)(sizeof(places) / sizeof(*places)) ? places[n] : 0;
}
#define WILD 15

CASE(wild_pointers)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);
	int control = open_control(), fresh = open(bus.path, O_RDWR);

	for (int n = 0; n < WILD; n++) {
		void *place = (void *)wild(n);

		for (size_t i = 0; i < COMMANDS; i++)
			EQ(command(peer.fd, commands[i].request, place), -EFAULT);
		EQ(command(control, KDBUS_CMD_BUS_MAKE, place), -EFAULT);
		EQ(command(fresh, KDBUS_CMD_HELLO, place), -EFAULT);
		EQ(command(fresh, KDBUS_CMD_ENDPOINT_MAKE, place), -EFAULT);
	}
	check_sound(&peer);
}

CASE(wild_pointers_inside)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);

	for (int n = 0; n < WILD; n++) {
		struct kdbus_cmd_send send = { .size = sizeof(send), .msg_address = wild(n) };
		struct kdbus_vec vector = { .size = 5000, .address = wild(n) };
		struct buffer message;

		EQ(command(peer.fd, KDBUS_CMD_SEND, &send), -EFAULT);
		/* A null vector means zeros; the bytes that are not aligned can be read, but not so many of them. */
		if (!vector.address || n == 4 || n == 5)
			continue;
		write_letter(&(struct letter) { .to = peer.id, .bare = true }, &message);
		add(&message, KDBUS_ITEM_PAYLOAD_VEC, &vector, 16);
		EQ(send_buffer(&peer, &message, 0, 0, NULL), -EFAULT);
		/* A good vector before it does not help. */
		write_letter(&(struct letter) { .to = peer.id }, &message);
		add(&message, KDBUS_ITEM_PAYLOAD_VEC, &vector, 16);
		EQ(send_buffer(&peer, &message, 0, 0, NULL), -EFAULT);
	}
	check_sound(&peer);
}

CASE(payload_at_the_end_of_memory)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);
	char *memory = pages(4, PROT_READ | PROT_WRITE);

	memset(memory, 'x', 4 * PAGE);
	EQ(SEND(&peer, .to = peer.id, .payload = memory, .size = 4 * PAGE), 0);
	EQ(receive_code(&peer, 0), 0);
	EQ(SEND(&peer, .to = peer.id, .payload = memory + 1, .size = 4 * PAGE), -EFAULT);
	EQ(SEND(&peer, .to = peer.id, .payload = memory + 4 * PAGE - 1, .size = 2), -EFAULT);
	EQ(SEND(&peer, .to = peer.id, .payload = memory + 4 * PAGE - 1, .size = 1), 0);
	EQ(receive_code(&peer, 0), 0);
	/* What may not be read cannot be sent; what may only be read can. */
	CHECK(!mprotect(memory + PAGE, PAGE, PROT_NONE));
	EQ(SEND(&peer, .to = peer.id, .payload = memory, .size = 4 * PAGE), -EFAULT);
	CHECK(!mprotect(memory + PAGE, PAGE, PROT_READ));
	EQ(SEND(&peer, .to = peer.id, .payload = memory, .size = 4 * PAGE), 0);
	EQ(receive_code(&peer, 0), 0);
	check_sound(&peer);
}

CASE(commands_at_the_end_of_memory)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);
	char *end = pages(1, PROT_READ | PROT_WRITE) + PAGE;

	for (size_t i = 0; i < COMMANDS; i++)
		for (size_t visible = 8; visible < commands[i].size; visible += 8) {
			memset(end - visible, 0, visible);
			*(__u64 *)(end - visible) = commands[i].size;
			EQ(command(peer.fd, commands[i].request, end - visible), -EFAULT);
		}
	/* The whole fixed part is there, but the size promises more. */
	for (size_t i = 0; i < COMMANDS - 1; i++) {
		memset(end - commands[i].size, 0, commands[i].size);
		*(__u64 *)(end - commands[i].size) = commands[i].size + 24;
		EQ(command(peer.fd, commands[i].request, end - commands[i].size), -EFAULT);
	}
	/* A message likewise. */
	for (size_t visible = 8; visible < sizeof(struct kdbus_msg); visible += 8) {
		struct kdbus_cmd_send send = { .size = sizeof(send), .msg_address = (uintptr_t)(end - visible) };

		memset(end - visible, 0, visible);
		*(__u64 *)(end - visible) = sizeof(struct kdbus_msg);
		EQ(command(peer.fd, KDBUS_CMD_SEND, &send), -EFAULT);
	}
	check_sound(&peer);
}

CASE(sizes_that_lie)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);
	struct buffer buffer;

	for (size_t i = 0; i < COMMANDS; i++) {
		const __u64 small[] = { 0, 1, 7, 8, 16, commands[i].size - 8, commands[i].size - 1 };
		const __u64 large[] = { commands[i].limit + 1, commands[i].limit + 8, 1ULL << 31, 1ULL << 32, 1ULL << 63, ~0ULL };

		memset(&buffer, 0, sizeof(buffer));
		for (size_t j = 0; j < sizeof(small) / sizeof(*small); j++) {
			buffer.words[0] = small[j];
			EQ(command(peer.fd, commands[i].request, buffer.words), -EINVAL);
		}
		for (size_t j = 0; j < sizeof(large) / sizeof(*large); j++) {
			buffer.words[0] = large[j];
			EQ(command(peer.fd, commands[i].request, buffer.words), -EMSGSIZE);
		}
	}
	check_sound(&peer);
}

CASE(items_that_lie)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);
	static const __u64 sizes[] = { 0, 1, 8, 15, 25, 32, 4096, 1ULL << 63, ~0ULL, ~7ULL, ~15ULL };
	struct buffer buffer;

	for (size_t i = 0; i < COMMANDS; i++) {
		if (commands[i].request == KDBUS_CMD_MATCH_REMOVE)
			continue;	/* has no room for items */
		for (size_t j = 0; j < sizeof(sizes) / sizeof(*sizes); j++) {
			memset(&buffer, 0, sizeof(buffer));
			buffer.words[0] = commands[i].size + 24;
			if (commands[i].request == KDBUS_CMD_SEND)
				((struct kdbus_cmd_send *)buffer.words)->msg_address = 8;
			buffer.words[commands[i].size / 8] = sizes[j];
			buffer.words[commands[i].size / 8 + 1] = KDBUS_ITEM_ID;
			EQ(command(peer.fd, commands[i].request, buffer.words), -EINVAL);
		}
		/* Bytes behind the last item that are no item. */
		memset(&buffer, 0, sizeof(buffer));
		buffer.words[0] = commands[i].size + 8;
		buffer.words[commands[i].size / 8] = 8;
		EQ(command(peer.fd, commands[i].request, buffer.words), -EINVAL);
	}
	for (size_t j = 0; j < sizeof(sizes) / sizeof(*sizes); j++) {
		write_letter(&(struct letter) { .to = peer.id, .bare = true }, &buffer);
		buffer.words[0] += 24;
		buffer.words[sizeof(struct kdbus_msg) / 8] = sizes[j];
		buffer.words[sizeof(struct kdbus_msg) / 8 + 1] = KDBUS_ITEM_ID;
		buffer.words[sizeof(struct kdbus_msg) / 8 + 2] = 0;
		EQ(send_buffer(&peer, &buffer, 0, 0, NULL), -EINVAL);
	}
	check_sound(&peer);
}

CASE(commands_that_take_no_items)
{
	static const unsigned long none[] = { KDBUS_CMD_FREE, KDBUS_CMD_NAME_LIST };
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);
	struct buffer buffer;

	for (int i = 0; i < 2; i++) {
		begin(&buffer, i ? sizeof(struct kdbus_cmd_name_list) : sizeof(struct kdbus_cmd_free));
		add_string(&buffer, KDBUS_ITEM_NAME, NAME);
		EQ(command(peer.fd, none[i], buffer.words), -EINVAL);
	}
	begin(&buffer, sizeof(struct kdbus_cmd_match));
	add_string(&buffer, KDBUS_ITEM_NAME, NAME);
	EQ(command(peer.fd, KDBUS_CMD_MATCH_REMOVE, buffer.words), -EMSGSIZE);
}

CASE(commands_in_memory_that_may_not_be_written)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);
	char *memory = pages(1, PROT_READ | PROT_WRITE);
	int control = open_control(), fresh = open(bus.path, O_RDWR);

	for (size_t i = 0; i < COMMANDS; i++) {
		CHECK(!mprotect(memory, PAGE, PROT_READ | PROT_WRITE));
		memset(memory, 0, PAGE);
		*(__u64 *)memory = commands[i].size;
		CHECK(!mprotect(memory, PAGE, PROT_READ));
		EQ(command(peer.fd, commands[i].request, memory), -EFAULT);
	}
	CHECK(!mprotect(memory, PAGE, PROT_READ | PROT_WRITE));
	begin((void *)memory, sizeof(struct kdbus_cmd_hello));
	((struct kdbus_cmd_hello *)memory)->pool_size = PAGE;
	CHECK(!mprotect(memory, PAGE, PROT_READ));
	EQ(command(fresh, KDBUS_CMD_HELLO, memory), -EFAULT);
	EQ(command(fresh, KDBUS_CMD_ENDPOINT_MAKE, memory), -EFAULT);
	EQ(command(control, KDBUS_CMD_BUS_MAKE, memory), -EFAULT);
	EQ(listed(&peer, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
	check_sound(&peer);
}

/* Memory whose first page may be written and whose second may only be read; a place `offset` bytes before that. */
static void *before_read_only(size_t offset)
{
	char *memory = pages(2, PROT_READ | PROT_WRITE);

	return memory + PAGE - offset;
}

static void protect_behind(void *place)
{
	char *second = (char *)(((uintptr_t)place + PAGE) & ~(PAGE - 1));

	CHECK(!mprotect(second, PAGE, PROT_READ));
}

CASE(results_that_cannot_be_written)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path), watch = hello(bus.path);
	struct kdbus_cmd_hello *hello_command = before_read_only(offsetof(struct kdbus_cmd_hello, return_flags));
	struct kdbus_cmd_recv *recv = before_read_only(offsetof(struct kdbus_cmd_recv, return_flags));
	struct kdbus_cmd_name_list *list = before_read_only(offsetof(struct kdbus_cmd_name_list, return_flags));
	struct kdbus_cmd_free *free_command = before_read_only(offsetof(struct kdbus_cmd_free, return_flags));
	int fresh = open(bus.path, O_RDWR);

	/* The flags can be written, what the command returns cannot. A connection is undone again. */
	EQ(match_id(&watch, 1, KDBUS_ITEM_ID_REMOVE, KDBUS_MATCH_ID_ANY), 0);
	hello_command->size = sizeof(*hello_command);
	hello_command->pool_size = PAGE;
	protect_behind(hello_command);
	EQ(command(fresh, KDBUS_CMD_HELLO, hello_command), -EFAULT);
	EQ(listed(&peer, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 2);
	CHECK(find(receive(&watch), KDBUS_ITEM_ID_REMOVE));
	/* A message is taken from the queue all the same. */
	EQ(SEND(&peer, .to = peer.id, .cookie = 1), 0);
	EQ(SEND(&peer, .to = peer.id, .cookie = 2), 0);
	recv->size = sizeof(*recv);
	protect_behind(recv);
	EQ(command(peer.fd, KDBUS_CMD_RECV, recv), -EFAULT);
	EQ(receive(&peer)->cookie, 2);
	list->size = sizeof(*list);
	protect_behind(list);
	EQ(command(peer.fd, KDBUS_CMD_NAME_LIST, list), -EFAULT);
	free_command->size = sizeof(*free_command);
	free_command->offset = peer.hello.offset;
	protect_behind(free_command);
	EQ(command(peer.fd, KDBUS_CMD_FREE, free_command), -EFAULT);
	EQ(release(&peer, peer.hello.offset), -ENXIO);
	check_sound(&peer);
}

CASE(flags_are_written_even_if_others_are_wrong)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);

	for (size_t i = 0; i < COMMANDS; i++) {
		size_t flags = commands[i].flags_late ? 2 : 1;
		struct buffer buffer = {};

		buffer.words[0] = commands[i].size;
		buffer.words[flags] = 1ULL << 50;
		buffer.words[flags + 1] = 12345;
		EQ(command(peer.fd, commands[i].request, buffer.words), -EINVAL);
		EQ(buffer.words[flags + 1] & KDBUS_FLAG_KERNEL, KDBUS_FLAG_KERNEL);
		EQ(buffer.words[flags + 1] & 1ULL << 50, 0);
		buffer.words[flags] = KDBUS_FLAG_KERNEL;
		EQ(command(peer.fd, commands[i].request, buffer.words), -EINVAL);
	}
}

CASE(unknown_requests)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path), gone = hello(bus.path);
	int control = open_control(), fresh = open(bus.path, O_RDWR);
	static const unsigned long requests[] = {
		_IO(0x95, 0), _IO(0x95, 0xff), _IOWR(0x95, 0x30, __u64), _IOW(0x95, 0x20, struct kdbus_cmd_hello),
		_IOWR(0x95, 0x80, struct kdbus_cmd_recv), _IOR(0x95, 0x31, struct kdbus_cmd_recv), 0x9500,
	};
	struct buffer buffer = {};

	EQ(byebye(&gone), 0);
	for (size_t i = 0; i < sizeof(requests) / sizeof(*requests); i++) {
		EQ(command(control, requests[i], &buffer), -ENOTTY);
		EQ(command(bus.fd, requests[i], &buffer), -ENOTTY);
		EQ(command(fresh, requests[i], &buffer), -ENOTTY);
		EQ(command(peer.fd, requests[i], &buffer), -ENOTTY);
		EQ(command(gone.fd, requests[i], &buffer), -ECONNRESET);
		/* The kernel looks at the low half of a request only. */
		EQ(syscall(SYS_ioctl, peer.fd, requests[i] | 1UL << 40, &buffer) < 0 ? -errno : 0, -ENOTTY);
	}
	for (size_t i = 0; i < COMMANDS; i++) {
		EQ(command(control, commands[i].request, &buffer), -ENOTTY);
		EQ(command(fresh, commands[i].request, &buffer), -ENOTTY);
	}
	EQ(command(control, KDBUS_CMD_HELLO, &buffer), -ENOTTY);
	EQ(command(control, KDBUS_CMD_BYEBYE, NULL), -ENOTTY);
	EQ(command(fresh, KDBUS_CMD_BUS_MAKE, &buffer), -ENOTTY);
	EQ(command(fresh, KDBUS_CMD_BYEBYE, NULL), -ENOTTY);
	EQ(command(peer.fd, KDBUS_CMD_BUS_MAKE, &buffer), -ENOTTY);
	check_sound(&peer);
}

CASE(descriptors_of_the_wrong_kind)
{
	int ends[2], pair[2], closed = 900;
	struct buffer buffer = {};

	CHECK(!pipe(ends));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	EQ(dup2(0, closed), closed);
	CHECK(!close(closed));
	{
		const struct { int fd, result; } wrong[] = {
			{ ends[0], -ENOTTY }, { pair[0], -ENOTTY }, { open("/proc/self/exe", O_RDONLY), -ENOTTY },
			{ open("/", O_RDONLY), -ENOTTY }, { open("/dev/null", O_RDWR), -ENOTTY }, { new_event(), -ENOTTY },
			{ open("/", O_PATH), -EBADF }, { memfd_create("m", 0), -ENOTTY },
			{ open(ROOT, O_RDONLY), -ENOTTY }, { closed, -EBADF }, { -1, -EBADF }, { 1 << 30, -EBADF },
		};

		for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
			struct kdbus_cmd_hello *hello = begin_hello(&buffer, 0);

			EQ(command(wrong[i].fd, KDBUS_CMD_HELLO, hello), wrong[i].result);
			EQ(command(wrong[i].fd, KDBUS_CMD_BUS_MAKE, hello), wrong[i].result);
			EQ(command(wrong[i].fd, KDBUS_CMD_BYEBYE, NULL), wrong[i].result);
		}
	}
}

CASE(closed_and_reused_numbers)
{
	struct bus bus = new_bus(0);
	struct connection first = hello(bus.path), second = hello(bus.path);
	struct kdbus_cmd_recv recv = { .size = sizeof(recv) };
	int number = first.fd, ends[2];

	EQ(SEND(&first, .to = first.id), 0);
	CHECK(!close(number));
	EQ(command(number, KDBUS_CMD_RECV, &recv), -EBADF);
	CHECK(!pipe(ends));
	EQ(ends[0], number);
	EQ(command(number, KDBUS_CMD_RECV, &recv), -ENOTTY);
	EQ(dup2(second.fd, number), number);
	EQ(command(number, KDBUS_CMD_RECV, &recv), -EAGAIN);
	EQ(SEND(&second, .to = second.id, .cookie = 2), 0);
	EQ(command(number, KDBUS_CMD_RECV, &recv), 0);
	EQ(((const struct kdbus_msg *)(second.pool + recv.msg.offset))->cookie, 2);
	/* dup2 over a connection closes it. */
	EQ(dup2(ends[1], second.fd), second.fd);
	second.fd = number;
	check_sound(&second);
	EQ(listed(&second, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 1);
}

static void *lie(void *argument)
{
	volatile __u64 *words = argument;

	/* Sizes, flags and the sizes of items change all the time, between right and wrong. */
	for (unsigned int i = 0; words[100] != 1; i++) {
		words[0] = i % 3 ? words[101] : words[101] + 24;
		words[sizeof(struct kdbus_msg) / 8] = i % 5 ? HEADER + 16 : i;
		words[sizeof(struct kdbus_msg) / 8 + 2] = i % 7 ? 8 : i;
	}
	return NULL;
}

CASE(memory_that_changes_while_it_is_read)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);
	struct kdbus_cmd_send send = { .size = sizeof(send) };
	static struct buffer message;
	pthread_t thread;

	write_letter(&(struct letter) { .to = peer.id, .payload = TEXT, .size = 8 }, &message);
	message.words[101] = message.words[0];
	send.msg_address = (uintptr_t)message.words;
	CHECK(!pthread_create(&thread, NULL, lie, message.words));
	for (int i = 0; i < 500; i++) {
		int result = command(peer.fd, KDBUS_CMD_SEND, &send);

		CHECK(!result || result == -EINVAL || result == -EFAULT || result == -EMSGSIZE || result == -E2BIG);
		while (!receive_code(&peer, 0))
			;
	}
	message.words[100] = 1;
	CHECK(!pthread_join(thread, NULL));
	check_sound(&peer);
}

CASE(mappings)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path);
	int fresh = open(bus.path, O_RDWR), control = open_control(), ends[2];

	CHECK(!pipe(ends));
	EQ(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fresh, 0) == MAP_FAILED ? errno : 0, EPERM);
	EQ(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, control, 0) == MAP_FAILED ? errno : 0, ENODEV);
	EQ(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, ends[0], 0) == MAP_FAILED ? errno : 0, ENODEV);
	EQ(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, 1000, 0) == MAP_FAILED ? errno : 0, EBADF);
	EQ(mmap(NULL, 0, PROT_READ, MAP_SHARED, peer.fd, 0) == MAP_FAILED ? errno : 0, EINVAL);
	EQ(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, peer.fd, 100) == MAP_FAILED ? errno : 0, EINVAL);
	/* Several mappings, at a chosen place, and other files' mappings are the kernel's business. */
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, peer.fd, PAGE) != MAP_FAILED);
	{
		char *place = pages(2, PROT_READ);

		EQ((uintptr_t)mmap(place, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, peer.fd, 0), (uintptr_t)place);
		CHECK(!memcmp(place, peer.pool, PAGE));
	}
	CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd_create("file", 0), 0) != MAP_FAILED);
	/* A pool outlives its connection. */
	CHECK(!close(peer.fd));
	EQ(((const struct kdbus_item_list *)(peer.pool + peer.hello.offset))->items[0].type, KDBUS_ITEM_BLOOM_PARAMETER);
}

CASE(opens_that_are_not_for_reading_and_writing)
{
	struct bus bus = new_bus(0);
	static const int flags[] = { O_RDONLY, O_WRONLY, O_RDWR | O_CREAT, O_RDWR | O_TRUNC, O_RDWR | O_APPEND };
	struct buffer buffer;

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		int fd = open(bus.path, flags[i], 0600);

		/* kdbusfs does not care how its files are opened. */
		CHECK(fd >= 0);
		begin_hello(&buffer, 0);
		EQ(command(fd, KDBUS_CMD_HELLO, buffer.words), 0);
		CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED);
		CHECK(!close(fd));
	}
	EQ(open(bus.path, O_RDWR | O_CREAT | O_EXCL, 0600), -1);
	EQ(errno, EEXIST);
	EQ(open(bus.path, O_RDWR | O_DIRECTORY), -1);
	EQ(errno, ENOTDIR);
	EQ(open(bus.folder, O_RDWR), -1);
	EQ(errno, EISDIR);
}
