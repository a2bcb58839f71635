// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Large payload without copying: a sealed memfd.
 *
 *     memfd
 *
 * The sender writes its data into a memfd and seals it; from then on nobody, not even the sender, can change it, and
 * the receiver may read it in place. The bus insists on the seals: an unsealed memfd is refused with ETXTBSY, and what
 * is no memfd at all with EMEDIUMTYPE. What is not payload but a file to work with is passed as in pass-fd.c.
 *
 * The sender is a child process; a piece of ordinary payload goes ahead of the memfd, and the order is kept.
 */
#include "common.h"

#include <sys/wait.h>

#define WORDS 20000

static int try_to_send(const struct peer *peer, __u64 destination, int descriptor, size_t size)
{
	static const char title[] = "squares";
	struct kdbus_memfd memfd = { .fd = descriptor, .start = 0, .size = size };
	struct buffer buffer;

	begin_message(&buffer, destination, 1);
	add_payload(&buffer, title, sizeof(title));
	add_item(&buffer, KDBUS_ITEM_PAYLOAD_MEMFD, &memfd, sizeof(memfd));
	return send_message(peer, &buffer);
}

static void send_squares(const char *bus, __u64 destination)
{
	struct peer peer = connect_to_bus(bus, 0, 0);
	int descriptor = memfd_create("squares", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	FILE *file = descriptor < 0 ? NULL : fdopen(dup(descriptor), "w");
	long size;

	if (!file)
		fail("cannot make a memfd: %s", strerror(errno));
	for (unsigned long i = 0; i < WORDS; i++)
		fprintf(file, "%lu\n", i * i);
	size = ftell(file);
	if (size < 0 || fclose(file) != 0)
		fail("cannot write into the memfd: %s", strerror(errno));

	if (try_to_send(&peer, destination, descriptor, (size_t)size) == 0)
		fail("an unsealed memfd was accepted");
	printf("sender: unsealed: %s\n", strerror(errno));

	if (fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		fail("cannot seal the memfd: %s", strerror(errno));
	if (try_to_send(&peer, destination, descriptor, (size_t)size) < 0)
		fail("cannot send the memfd: %s", strerror(errno));
	printf("sender: sealed: sent %ld bytes\n", size);
	close(descriptor);
	disconnect(&peer);
}

static void show(const struct peer *peer, const struct kdbus_msg *message)
{
	const struct kdbus_item *item;

	FOR_EACH_ITEM(item, message) {
		if (item->type == KDBUS_ITEM_PAYLOAD_OFF && content_size(item) >= sizeof(item->vec)) {
			printf("receiver: in the pool: %.*s\n", (int)item->vec.size,
			       piece_at(peer, message, &item->vec));
		} else if (item->type == KDBUS_ITEM_PAYLOAD_MEMFD && content_size(item) >= sizeof(item->memfd)) {
			const struct kdbus_memfd *memfd = &item->memfd;
			const char *data = mmap(NULL, memfd->size, PROT_READ, MAP_PRIVATE, memfd->fd,
						(off_t)memfd->start);
			unsigned long lines = 0;

			if (data == MAP_FAILED)
				fail("cannot map the memfd: %s", strerror(errno));
			for (__u64 i = 0; i < memfd->size; i++)
				lines += data[i] == '\n';
			printf("receiver: in a memfd: %llu bytes, %lu lines\n", memfd->size, lines);
			munmap((void *)data, memfd->size);
			if (write(memfd->fd, "?", 1) >= 0)
				fail("the memfd can be written");
			printf("receiver: writing to it: %s\n", strerror(errno));
		}
	}
}

int main(void)
{
	const char *bus = bus_name("memfd");
	const struct kdbus_msg *message;
	struct peer peer;
	pid_t child;
	int status;

	setlinebuf(stdout);
	make_bus(bus);
	/* Who does not accept descriptors gets none of memfds either, but for version 3. */
	peer = connect_to_bus(bus, KDBUS_HELLO_ACCEPT_FD, 0);
	child = fork();
	if (child < 0)
		fail("cannot fork: %s", strerror(errno));
	if (child == 0) {
		send_squares(bus, peer.id);
		return EXIT_SUCCESS;
	}
	if (waitpid(child, &status, 0) < 0 || status != 0)
		fail("the sender failed");

	/* The sender is gone; its message is not. */
	message = receive(&peer);
	if (!message)
		fail("cannot receive: %s", strerror(errno));
	show(&peer, message);
	release(&peer, message);
	disconnect(&peer);
	return EXIT_SUCCESS;
}
