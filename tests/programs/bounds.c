// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Uses up what the supervisor has, as far as it goes. To be run with a small RLIMIT_NOFILE of the supervisor (its hard
 * limit), except for the cases about memory.
 *
 *     bounds opens           opens without HELLO, until they fail; then gives them back, and starts again
 *     bounds dead            the same with connections whose bus has ended
 *     bounds files           messages that carry descriptors
 *     bounds memfds          the same with memfds, to several receivers
 *     bounds connections     400 of them, whose pools are mapped twice, and each of which sends and receives
 *     bounds users           root takes what it gets; another user still gets something
 *     bounds memory          fills pools and never gives anything back
 *     bounds mounts          mounts domains, until that fails
 */
#include "e2e.h"

#include <sys/mount.h>

/* Not to be run like the cases of other programs: each needs something that its test prepares. */
#define PART(name) CASE(name)

#define MOST 8192
#define RECEIVERS 8

static int opened[MOST];

static int take_all(const char *path)
{
	int count = 0;

	while (count < MOST && (opened[count] = open(path, O_RDWR | O_CLOEXEC)) >= 0)
		count++;
	EQ(errno, ENFILE);
	return count;
}

static void give_back(int count)
{
	while (count--)
		close(opened[count]);
}

PART(opens)
{
	struct bus bus = new_bus(0);
	int first, second;

	first = take_all(bus.path);
	GE(first, 16);
	/* Failing costs nothing, however often. */
	for (int i = 0; i < 1000; i++)
		EQ(open(bus.path, O_RDWR | O_CLOEXEC), -1);
	give_back(first);
	second = take_all(bus.path);
	EQ(first, second);
	give_back(second);
	hello(bus.path);
}

PART(dead)
{
	struct bus bus;
	int first = 0, second;

	for (int round = 0; round < 2; round++) {
		bus = new_bus(0);
		second = take_all(bus.path);
		close(bus.fd);
		/* They are of no use any more, and count as long as they are open: there is room for what was just closed. */
		opened[second] = open_control();
		EQ(open(ROOT "/control", O_RDWR | O_CLOEXEC), -1);
		EQ(errno, ENFILE);
		give_back(second + 1);
		if (!round)
			first = second;
	}
	EQ(first, second);
	bus = new_bus(0);
	hello(bus.path);
}

#define CONNECTIONS 400

/* To be run with 1024 descriptors: less than one and a half for each. */
PART(connections)
{
	struct connection *all = calloc(CONNECTIONS, sizeof(*all));
	struct bus bus = new_bus(0);

	CHECK(all);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < CONNECTIONS; i++)
			all[i] = hello(bus.path);
		/* What a connection was given first is not needed for what it does later. */
		for (int i = 0; i < CONNECTIONS; i++) {
			char *again = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, all[i].fd, 0);

			CHECK(again != MAP_FAILED);
			EQ(SEND(&all[CONNECTIONS - 1 - i], .to = all[i].id, .payload = "content", .size = 8), 0);
			CHECK(!memcmp(again, all[i].pool, 4096));
			EQ(receive_code(&all[i], 0), 0);
			CHECK(!memcmp(again, all[i].pool, 4096));
			CHECK(!munmap(again, POOL_SIZE));
		}
		/* Each is still the one that it was, and a closed one is nobody any more. */
		for (int i = 0; i < CONNECTIONS; i += 2)
			CHECK(!close(all[i].fd));
		for (int i = 1; i < CONNECTIONS; i += 2) {
			EQ(SEND(&all[i], .to = all[i - 1].id), -ENXIO);
			EQ(SEND(&all[i], .to = all[CONNECTIONS - i].id), 0);
		}
		for (int i = 1; i < CONNECTIONS; i += 2)
			CHECK(!close(all[i].fd));
		for (int i = 0; i < CONNECTIONS; i++)
			CHECK(!munmap((void *)all[i].pool, POOL_SIZE));
	}
	free(all);
}

PART(files)
{
	struct bus bus = new_bus(0);
	int fds[253], result = 0, sent = 0;

	for (int i = 0; i < 253; i++)
		fds[i] = i % 3;
	struct connection sender = hello(bus.path), receiver = hello(bus.path);

	while (!(result = SEND(&sender, .to = receiver.id, .fds = fds, .fd_count = 100)))
		sent++;
	EQ(result, -ENFILE);
	GE(sent, 1);
	/* What has been received is the receiver's. */
	for (int i = 0; i < sent; i++) {
		const struct kdbus_msg *message = receive(&receiver);
		const int *received = get(message, KDBUS_ITEM_FDS)->fds;

		for (int j = 0; j < 100; j++)
			CHECK(!close(received[j]));
		done(&receiver, message);
	}
	EQ(SEND(&sender, .to = receiver.id, .fds = fds, .fd_count = 100), 0);
}

static int send_memfds(const struct connection *sender, const struct connection *receiver, int fd, int count)
{
	struct kdbus_memfd memfd = { .size = 8, .fd = fd };
	struct buffer buffer;
	struct kdbus_msg *message = begin(&buffer, sizeof(*message));

	message->dst_id = receiver->id;
	message->payload_type = KDBUS_PAYLOAD_DBUS;
	while (count--)
		add(&buffer, KDBUS_ITEM_PAYLOAD_MEMFD, &memfd, sizeof(memfd));
	return send_buffer(sender, &buffer, 0, 0, NULL);
}

/* Sends messages with so many memfds each until there is no more; the number of messages. */
static int send_all(const struct connection *sender, const struct connection *receivers, int fd, int count)
{
	int result = 0, sent = 0;

	for (int i = 0; i < RECEIVERS && result != -ENFILE; i++) {
		while (!(result = send_memfds(sender, &receivers[i], fd, count)))
			sent++;
		CHECK(result == -ENFILE || result == -ENOBUFS);
	}
	EQ(result, -ENFILE);
	return sent;
}

static int receive_all(const struct connection *receiver)
{
	struct kdbus_cmd_recv recv = {};
	int received = 0;

	for (; !receive_into(receiver, &recv); received++) {
		const struct kdbus_msg *message = (const void *)(receiver->pool + recv.msg.offset);

		for (const struct kdbus_item *item = message->items; (const char *)item < (const char *)message + message->size;
		     item = NEXT(item))
			CHECK(!close(item->memfd.fd));
		done(receiver, message);
	}
	return received;
}

PART(memfds)
{
	const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
	struct connection sender, receivers[RECEIVERS];
	int fd = memfd_create("bounds", MFD_CLOEXEC | MFD_ALLOW_SEALING), first = 0;
	struct bus bus = new_bus(0);

	CHECK(fd >= 0 && !ftruncate(fd, 8) && !fcntl(fd, F_ADD_SEALS, seals));
	sender = hello(bus.path);
	for (int i = 0; i < RECEIVERS; i++)
		receivers[i] = hello(bus.path);
	for (int round = 0; round < 3; round++) {
		int sent = send_all(&sender, receivers, fd, 16), received = 0;

		sent += send_all(&sender, receivers, fd, 1);
		/* What waits counts, whoever has served the calls: nothing is left for anything else. */
		EQ(open(bus.path, O_RDWR | O_CLOEXEC), -1);
		EQ(errno, ENFILE);
		for (int i = 0; i < RECEIVERS; i++)
			received += receive_all(&receivers[i]);
		EQ(sent, received);
		EQ(sent, round ? first : sent);
		first = sent;
		/* So that these are served natively, if that is possible. */
		for (int i = 0; i < 100; i++) {
			EQ(SEND(&sender, .to = receivers[i % RECEIVERS].id), 0);
			EQ(receive_code(&receivers[i % RECEIVERS], 0), 0);
		}
	}
}

PART(users)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	int own = take_all(bus.path);

	AS(NOBODY) {
		int others = take_all(bus.path);

		/* Two thirds of what the others leave: of one third. */
		GE(others, own / 3 - 4);
		give_back(others);
		hello(bus.path);
	}
	EQ(open(bus.path, O_RDWR), -1);
}

static bool fill(struct connection *sender, struct connection *receiver, char *payload)
{
	/* Received and never freed: the pool fills up. */
	for (;;) {
		int result = SEND(sender, .to = receiver->id, .payload = payload, .size = 1 << 20);
		struct kdbus_cmd_recv recv = { .size = sizeof(recv) };

		if (result == -ENOBUFS || result == -EXFULL)
			return result == -EXFULL;
		EQ(result, 0);
		EQ(receive_into(receiver, &recv), 0);
	}
}

/* To be run with little memory in the budget; each pool alone is within it. */
PART(memory)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), other = hello(bus.path);
	char *payload = calloc(1, 1 << 20);
	int filled = 0;

	CHECK(payload);
	for (;;) {
		struct connection receiver = hello(bus.path);

		if (!fill(&sender, &receiver, payload))
			break;
		GE(8, ++filled);
	}
	GE(filled, 1);
	EQ(SEND(&sender, .to = other.id), 0);
	EQ(receive_code(&other, 0), 0);
}

PART(mounts)
{
	char path[64], folder[] = "/tmp/kdbus-bounds-XXXXXX";
	int count = 0;

	CHECK(mkdtemp(folder));
	for (;; count++) {
		snprintf(path, sizeof(path), "%s/%d", folder, count);
		CHECK(!mkdir(path, 0700));
		if (mount("kdbusfs", path, "kdbusfs", 0, NULL))
			break;
		GE(300, count);
	}
	EQ(errno, ENOSPC);
	EQ(count, 127);
	for (int i = 0; i <= count; i++) {
		snprintf(path, sizeof(path), "%s/%d", folder, i);
		CHECK(i == count || !umount(path));
		CHECK(!rmdir(path));
	}
	CHECK(!rmdir(folder));
	struct bus bus = new_bus(0);
	hello(bus.path);
}
