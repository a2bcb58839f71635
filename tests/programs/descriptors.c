// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Passing descriptors: KDBUS_ITEM_FDS and sealed memfds. What is passed is the open file itself; it is held by the
 * message until the last receiver has taken or lost it.
 */
#include "e2e.h"

#include <sys/un.h>

#define MOST 253

/* RECV into `recv`, which must succeed with these return flags. */
static const struct kdbus_msg *receive_flagged(const struct connection *connection, __u64 flags, __u64 return_flags)
{
	struct kdbus_cmd_recv recv = { .flags = flags };

	EQ(receive_into(connection, &recv), 0);
	EQ(recv.msg.return_flags, return_flags);
	return (const void *)(connection->pool + recv.msg.offset);
}

static unsigned int count_of(const struct kdbus_item *item)
{
	return (unsigned int)((item->size - HEADER) / sizeof(int));
}

static bool same_file(int left, int right)
{
	struct stat a, b;

	CHECK(!fstat(left, &a));
	CHECK(!fstat(right, &b));
	return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Whether the only write ends of a pipe that are left are gone by now. */
static bool abandoned(int read_end)
{
	return readiness(read_end) & POLLHUP;
}

static int sealed_memfd(const char *content, size_t size, int seals)
{
	int fd = memfd_create("payload", MFD_ALLOW_SEALING | MFD_CLOEXEC);

	CHECK(fd >= 0);
	EQ(pwrite(fd, content, size, 0), size);
	CHECK(!fcntl(fd, F_ADD_SEALS, seals));
	return fd;
}

#define ALL_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)

CASE(a_pipe_and_a_file)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	int fds[3];
	const struct kdbus_item *item;
	char byte = 0;

	CHECK(!pipe(fds));
	fds[2] = open("/proc/self/exe", O_RDONLY);
	EQ(SEND(&sender, .to = receiver.id, .fds = fds, .fd_count = 3), 0);
	item = get(receive(&receiver), KDBUS_ITEM_FDS);
	EQ(item->size, HEADER + 3 * sizeof(int));
	for (int i = 0; i < 3; i++) {
		NE(item->fds[i], fds[i]);
		CHECK(same_file(item->fds[i], fds[i]));
		EQ(fcntl(item->fds[i], F_GETFD), FD_CLOEXEC);
	}
	EQ(fcntl(item->fds[0], F_GETFL), fcntl(fds[0], F_GETFL));
	EQ(write(fds[1], "x", 1), 1);
	EQ(read(item->fds[0], &byte, 1), 1);
	EQ(byte, 'x');
	/* The open file is the same, and so is its offset. */
	EQ(lseek(fds[2], 100, SEEK_SET), 100);
	EQ(lseek(item->fds[2], 0, SEEK_CUR), 100);
}

CASE(the_sender_may_close_its_own)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	int fds[2], passed;
	char byte;

	CHECK(!pipe(fds));
	EQ(write(fds[1], "x", 1), 1);
	EQ(SEND(&sender, .to = receiver.id, .fds = fds, .fd_count = 1), 0);
	CHECK(!close(fds[0]));
	CHECK(!close(sender.fd));
	passed = get(receive(&receiver), KDBUS_ITEM_FDS)->fds[0];
	EQ(read(passed, &byte, 1), 1);
}

CASE(as_many_as_allowed)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	int fds[MOST + 1];
	const struct kdbus_item *item;

	fds[0] = open("/dev/null", O_RDWR);
	CHECK(fds[0] >= 0);
	for (int i = 1; i <= MOST; i++)
		fds[i] = fds[0];
	EQ(SEND(&sender, .to = receiver.id, .fds = fds, .fd_count = MOST + 1), -EMFILE);
	EQ(SEND(&sender, .to = receiver.id, .fds = fds, .fd_count = MOST), 0);
	item = get(receive(&receiver), KDBUS_ITEM_FDS);
	EQ(count_of(item), MOST);
	for (int i = 0; i < MOST; i++)
		CHECK(same_file(item->fds[i], fds[0]));
}

CASE(an_empty_list)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct buffer message;

	write_letter(&(struct letter) { .to = receiver.id }, &message);
	add(&message, KDBUS_ITEM_FDS, NULL, 0);
	EQ(send_buffer(&sender, &message, 0, 0, NULL), 0);
	CHECK(!find(receive(&receiver), KDBUS_ITEM_FDS));
	add(&message, KDBUS_ITEM_FDS, NULL, 0);
	EQ(send_buffer(&sender, &message, 0, 0, NULL), -EEXIST);
	write_letter(&(struct letter) { .to = receiver.id }, &message);
	add(&message, KDBUS_ITEM_FDS, NULL, 6);
	EQ(send_buffer(&sender, &message, 0, 0, NULL), -EINVAL);
}

CASE(those_that_are_refused)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	int pair[2], own = dup(sender.fd), unused = open(bus.path, O_RDWR), read_only = open(bus.path, O_RDONLY);
	int unix_socket = socket(AF_UNIX, SOCK_DGRAM, 0), bad = -1, closed = dup(0);
	struct buffer message;

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	CHECK(!close(closed));
	EQ(SEND(&sender, .to = receiver.id, .fds = pair, .fd_count = 2), -EOPNOTSUPP);
	EQ(SEND(&sender, .to = receiver.id, .fds = &unix_socket, .fd_count = 1), -EOPNOTSUPP);
	EQ(SEND(&sender, .to = receiver.id, .fds = &sender.fd, .fd_count = 1), -EOPNOTSUPP);
	EQ(SEND(&sender, .to = receiver.id, .fds = &receiver.fd, .fd_count = 1), -EOPNOTSUPP);
	EQ(SEND(&sender, .to = receiver.id, .fds = &own, .fd_count = 1), -EOPNOTSUPP);
	EQ(SEND(&sender, .to = receiver.id, .fds = &unused, .fd_count = 1), -EOPNOTSUPP);
	EQ(SEND(&sender, .to = receiver.id, .fds = &read_only, .fd_count = 1), -EOPNOTSUPP);
	EQ(SEND(&sender, .to = receiver.id, .fds = &bad, .fd_count = 1), -EBADF);
	EQ(SEND(&sender, .to = receiver.id, .fds = &closed, .fd_count = 1), -EBADF);
	write_letter(&(struct letter) { .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL }, &message);
	add(&message, KDBUS_ITEM_FDS, &bad, sizeof(bad));
	EQ(send_buffer(&sender, &message, 0, 0, NULL), -ENOTUNIQ);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	/* What is no unix socket carries no descriptors, so it may pass. */
	unix_socket = socket(AF_INET, SOCK_DGRAM, 0);
	if (unix_socket >= 0)
		EQ(SEND(&sender, .to = receiver.id, .fds = &unix_socket, .fd_count = 1), 0);
}

CASE(a_control_handle_may_pass)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct bus second = { .fd = open_control() };

	EQ(SEND(&sender, .to = receiver.id, .fds = &second.fd, .fd_count = 1), 0);
	CHECK(!close(second.fd));
	second.fd = get(receive(&receiver), KDBUS_ITEM_FDS)->fds[0];
	EQ(try_bus(&second, "second", 0, 0, 0), 0);
	CHECK(!access(second.path, F_OK));
}

CASE(receivers_that_accept_none)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path);
	struct connection receiver = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, 0);
	int fds[2], memfd = sealed_memfd("memory", 7, ALL_SEALS);
	struct kdbus_memfd part = { .size = 7, .fd = memfd };

	CHECK(!pipe(fds));
	EQ(SEND(&sender, .to = receiver.id, .fds = fds, .fd_count = 2), -ECOMM);
	CHECK(!close(fds[1]));
	CHECK(abandoned(fds[0]));
	EQ(receive_code(&receiver, 0), -EAGAIN);
	/* It may refuse descriptors, but not memfds: these are payload. */
	EQ(SEND(&sender, .to = receiver.id, .memfd = &part), 0);
	GE(get(receive(&receiver), KDBUS_ITEM_PAYLOAD_MEMFD)->memfd.fd, 0);
	/* A reply is refused in the same way. */
	EQ(SEND(&receiver, .to = sender.id, .cookie = 9, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), 0);
	EQ(receive_code(&sender, 0), 0);
	EQ(SEND(&sender, .to = receiver.id, .reply_to = 9, .fds = fds, .fd_count = 1), -ECOMM);
}

CASE(a_mixture_keeps_its_order)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct kdbus_memfd memfds[2] = { { .start = 2, .size = 3, .fd = sealed_memfd("abcdefg", 8, ALL_SEALS) },
					 { .size = 8, .fd = sealed_memfd("ABCDEFG", 8, ALL_SEALS) } };
	const char *texts[] = { "first", "second one" };
	const struct kdbus_msg *message;
	const struct kdbus_item *item;
	struct buffer buffer;
	char read_back[8];
	int fds[2];

	CHECK(!pipe(fds));
	write_letter(&(struct letter) { .to = receiver.id, .bare = true }, &buffer);
	add(&buffer, KDBUS_ITEM_FDS, fds, sizeof(fds));
	for (int i = 0; i < 2; i++) {
		struct kdbus_vec vector = { .size = strlen(texts[i]), .address = (uintptr_t)texts[i] };

		add(&buffer, KDBUS_ITEM_PAYLOAD_MEMFD, &memfds[i], sizeof(memfds[i]));
		add(&buffer, KDBUS_ITEM_PAYLOAD_VEC, &vector, 16);
	}
	add_string(&buffer, KDBUS_ITEM_DST_NAME, "org.example.Receiver");
	EQ(acquire(&receiver, "org.example.Receiver", 0), 0);
	EQ(send_buffer(&sender, &buffer, 0, 0, NULL), 0);
	message = receive(&receiver);
	/* The name first, then payload in the order sent, descriptors last. */
	item = message->items;
	EQ(item->type, KDBUS_ITEM_DST_NAME);
	for (int i = 0; i < 2; i++) {
		item = NEXT(item);
		EQ(item->type, KDBUS_ITEM_PAYLOAD_MEMFD);
		EQ(item->memfd.start, memfds[i].start);
		EQ(item->memfd.size, memfds[i].size);
		CHECK(same_file(item->memfd.fd, memfds[i].fd));
		EQ(fcntl(item->memfd.fd, F_GETFD), FD_CLOEXEC);
		EQ(fcntl(item->memfd.fd, F_GET_SEALS), ALL_SEALS);
		EQ(pread(item->memfd.fd, read_back, 8, 0), 8);
		item = NEXT(item);
		EQ(item->type, KDBUS_ITEM_PAYLOAD_OFF);
		EQ(item->vec.size, strlen(texts[i]));
		CHECK(!memcmp(receiver.pool + item->vec.offset, texts[i], strlen(texts[i])));
	}
	item = NEXT(item);
	EQ(item->type, KDBUS_ITEM_FDS);
	EQ(count_of(item), 2);
	EQ((const char *)NEXT(item) - (const char *)message, message->size);
}

CASE(memfds_must_be_sealed)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	static const int seals[] = { 0, F_SEAL_SEAL, ALL_SEALS & ~F_SEAL_WRITE, ALL_SEALS & ~F_SEAL_GROW,
				     ALL_SEALS & ~F_SEAL_SHRINK, ALL_SEALS & ~F_SEAL_SEAL };
	struct kdbus_memfd part = { .size = 8 };
	int pipe_ends[2];

	for (size_t i = 0; i < sizeof(seals) / sizeof(*seals); i++) {
		part.fd = sealed_memfd("content", 8, seals[i]);
		EQ(SEND(&sender, .to = receiver.id, .memfd = &part), -ETXTBSY);
	}
	CHECK(!pipe(pipe_ends));
	part.fd = pipe_ends[0];
	EQ(SEND(&sender, .to = receiver.id, .memfd = &part), -EMEDIUMTYPE);
	part.fd = open("/proc/self/exe", O_RDONLY);
	EQ(SEND(&sender, .to = receiver.id, .memfd = &part), -EMEDIUMTYPE);
	part.fd = sender.fd;
	EQ(SEND(&sender, .to = receiver.id, .memfd = &part), -EMEDIUMTYPE);
	part.fd = -1;
	EQ(SEND(&sender, .to = receiver.id, .memfd = &part), -EBADF);
	part.fd = 1000;
	EQ(SEND(&sender, .to = receiver.id, .memfd = &part), -EBADF);
	part.fd = sealed_memfd("content", 8, ALL_SEALS);
	part.start = 1;
	EQ(SEND(&sender, .to = receiver.id, .memfd = &part), -EBADF);
	part.start = ~0ULL;
	EQ(SEND(&sender, .to = receiver.id, .memfd = &part), -EMSGSIZE);
	part.start = 0;
	part.size = 0;
	EQ(SEND(&sender, .to = receiver.id, .memfd = &part), -EINVAL);
	part.size = 8;
	EQ(SEND(&sender, .to = receiver.id, .memfd = &part), 0);
}

CASE(memfds_in_broadcasts)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receivers[2] = { hello(bus.path), hello(bus.path) };
	struct kdbus_memfd part = { .size = 8, .fd = sealed_memfd("content", 8, ALL_SEALS) };

	for (int i = 0; i < 2; i++)
		EQ(match_everything(&receivers[i]), 0);
	EQ(SEND(&sender, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL, .memfd = &part), 0);
	for (int i = 0; i < 2; i++) {
		int fd = get(receive(&receivers[i]), KDBUS_ITEM_PAYLOAD_MEMFD)->memfd.fd;
		char content[8];

		CHECK(same_file(fd, part.fd));
		EQ(pread(fd, content, 8, 0), 8);
		SAME(content, "content");
	}
}

CASE(peek_installs_nothing)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct kdbus_memfd part = { .size = 8, .fd = sealed_memfd("content", 8, ALL_SEALS) };
	int fds[2], next = dup(0);
	const struct kdbus_msg *message;

	CHECK(!pipe(fds));
	EQ(SEND(&sender, .to = receiver.id, .fds = fds, .fd_count = 2, .memfd = &part), 0);
	message = receive_flagged(&receiver, KDBUS_RECV_PEEK, 0);
	EQ(get(message, KDBUS_ITEM_FDS)->fds[0], -1);
	EQ(get(message, KDBUS_ITEM_FDS)->fds[1], -1);
	EQ(get(message, KDBUS_ITEM_PAYLOAD_MEMFD)->memfd.fd, -1);
	done(&receiver, message);
	CHECK(!close(next));
	EQ(dup(0), next);
	message = receive(&receiver);
	GE(get(message, KDBUS_ITEM_FDS)->fds[0], next + 1);
	CHECK(same_file(get(message, KDBUS_ITEM_FDS)->fds[1], fds[1]));
}

CASE(drop_closes)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	int fds[2];

	CHECK(!pipe(fds));
	EQ(SEND(&sender, .to = receiver.id, .fds = &fds[1], .fd_count = 1), 0);
	CHECK(!close(fds[1]));
	CHECK(!abandoned(fds[0]));
	EQ(receive_code(&receiver, KDBUS_RECV_DROP), 0);
	CHECK(abandoned(fds[0]));
}

CASE(the_end_of_the_receiver_closes)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	int fds[2];

	CHECK(!pipe(fds));
	EQ(SEND(&sender, .to = receiver.id, .fds = &fds[1], .fd_count = 1), 0);
	CHECK(!close(fds[1]));
	CHECK(!close(receiver.fd));
	CHECK(wait_for(fds[0], POLLIN) & POLLHUP);
}

CASE(freeing_the_message_leaves_the_descriptors)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	const struct kdbus_msg *message;
	int fds[2], passed;

	CHECK(!pipe(fds));
	EQ(SEND(&sender, .to = receiver.id, .fds = &fds[1], .fd_count = 1), 0);
	CHECK(!close(fds[1]));
	message = receive(&receiver);
	passed = get(message, KDBUS_ITEM_FDS)->fds[0];
	done(&receiver, message);
	EQ(write(passed, "x", 1), 1);
	CHECK(!close(passed));
	CHECK(abandoned(fds[0]));
}

CASE(at_the_limit_of_open_files)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct kdbus_memfd part = { .size = 8, .fd = sealed_memfd("content", 8, ALL_SEALS) };
	struct rlimit limit;
	int fds[4], next;
	const struct kdbus_msg *message;

	CHECK(!pipe(fds) && !pipe(fds + 2));
	EQ(SEND(&sender, .to = receiver.id, .fds = fds, .fd_count = 4, .memfd = &part), 0);
	EQ(SEND(&sender, .to = receiver.id, .fds = fds, .fd_count = 1), 0);
	CHECK(!getrlimit(RLIMIT_NOFILE, &limit));
	next = dup(0);
	CHECK(!close(next));
	/* Room for three: the memfd and two of the four. */
	limit.rlim_cur = (rlim_t)next + 3;
	CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
	message = receive_flagged(&receiver, 0, KDBUS_RECV_RETURN_INCOMPLETE_FDS);
	CHECK(same_file(get(message, KDBUS_ITEM_PAYLOAD_MEMFD)->memfd.fd, part.fd));
	CHECK(same_file(get(message, KDBUS_ITEM_FDS)->fds[0], fds[0]));
	CHECK(same_file(get(message, KDBUS_ITEM_FDS)->fds[1], fds[1]));
	EQ(get(message, KDBUS_ITEM_FDS)->fds[2], -EMFILE);
	EQ(get(message, KDBUS_ITEM_FDS)->fds[3], -EMFILE);
	message = receive_flagged(&receiver, 0, KDBUS_RECV_RETURN_INCOMPLETE_FDS);
	EQ(get(message, KDBUS_ITEM_FDS)->fds[0], -EMFILE);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	/* Opening a node there is EMFILE, too. */
	EQ(open(bus.path, O_RDWR), -1);
	EQ(errno, EMFILE);
}

CASE(descriptors_between_processes)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello(bus.path);
	int fds[2];
	char text[16] = "";

	CHECK(!pipe(fds));
	IN_CHILD {
		struct connection sender = hello(bus.path);
		int inner[2];

		CHECK(!pipe(inner));
		EQ(write(inner[1], "from the child", 15), 15);
		EQ(SEND(&sender, .to = receiver.id, .fds = inner, .fd_count = 1), 0);
	}
	EQ(read(get(receive(&receiver), KDBUS_ITEM_FDS)->fds[0], text, sizeof(text)), 15);
	SAME(text, "from the child");
}

CASE(path_descriptors)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct kdbus_memfd part = { .size = 1, .fd = open("/", O_PATH) };
	struct kdbus_cmd_recv recv = {};
	const struct kdbus_msg *message;

	/* fget refuses them, so they are no memfds; as descriptors they pass. */
	EQ(SEND(&sender, .to = receiver.id, .memfd = &part), -EBADF);
	EQ(SEND(&sender, .to = receiver.id, .fds = &part.fd, .fd_count = 1), 0);
	EQ(receive_into(&receiver, &recv), 0);
	message = (const void *)(receiver.pool + recv.msg.offset);
	if (recv.msg.return_flags) {
		EQ(recv.msg.return_flags, KDBUS_RECV_RETURN_INCOMPLETE_FDS);
		EQ(get(message, KDBUS_ITEM_FDS)->fds[0], -EBADF);
		skip("the kernel installs no O_PATH descriptor in another process: the message is marked as incomplete");
	}
	CHECK(same_file(get(message, KDBUS_ITEM_FDS)->fds[0], part.fd));
	EQ(fcntl(get(message, KDBUS_ITEM_FDS)->fds[0], F_GETFL) & O_PATH, O_PATH);
}

CASE(descriptors_in_synchronous_replies)
{
	struct bus bus = new_bus(0);
	struct connection client = hello(bus.path), service = hello(bus.path);
	struct kdbus_cmd_send result;
	const struct kdbus_msg *message;
	pid_t child = start_child();

	if (!child) {
		int fds[2];

		message = await_message(&service);
		CHECK(!pipe(fds));
		EQ(write(fds[1], "x", 1), 1);
		EQ(SEND(&service, .to = message->src_id, .reply_to = message->cookie, .fds = fds, .fd_count = 1), 0);
		finish_child(0);
	}
	EQ(SEND(&client, .to = service.id, .cookie = 1, .flags = KDBUS_MSG_EXPECT_REPLY,
		.send_flags = KDBUS_SEND_SYNC_REPLY, .deadline = in_ms(PATIENCE), .result = &result), 0);
	join(child);
	EQ(result.reply.return_flags, 0);
	message = (const void *)(client.pool + result.reply.offset);
	EQ(read(get(message, KDBUS_ITEM_FDS)->fds[0], &(char) { 0 }, 1), 1);
}
