// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Passing open descriptors: a child process sends the reading end of a pipe.
 *
 *     pass-fd
 *
 * The receiver has to allow it at HELLO (KDBUS_HELLO_ACCEPT_FD), or senders get ECOMM. It gets new descriptors, with
 * close-on-exec set, when it takes the message, and has to close them. Should it have too many open already, the
 * message comes nevertheless: what could not be installed is negative, and KDBUS_RECV_RETURN_INCOMPLETE_FDS is set.
 */
#include "common.h"

#include <sys/wait.h>

static void send_pipe(const char *bus, __u64 destination)
{
	static const char text[] = "read this", through_pipe[] = "written after the message was sent";
	struct peer peer = connect_to_bus(bus, 0, 0);
	struct buffer buffer;
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		fail("cannot make a pipe: %s", strerror(errno));
	begin_message(&buffer, destination, 1);
	add_payload(&buffer, text, sizeof(text));
	add_item(&buffer, KDBUS_ITEM_FDS, &ends[0], sizeof(ends[0]));
	if (send_message(&peer, &buffer) < 0)
		fail("cannot send a descriptor: %s", strerror(errno));

	/* The message holds the pipe open now, even while nobody has received it. */
	close(ends[0]);
	if (write(ends[1], through_pipe, sizeof(through_pipe)) != sizeof(through_pipe))
		fail("cannot write into the pipe: %s", strerror(errno));
	close(ends[1]);
	disconnect(&peer);
}

static void read_pipe(const struct peer *peer, const struct kdbus_msg *message)
{
	const struct kdbus_item *item = find_item(message, KDBUS_ITEM_FDS, sizeof(int));
	char text[256];
	size_t used = 0;
	ssize_t got;

	copy_payload(peer, message, text, sizeof(text));
	printf("message: %s\n", text);
	if (peer->received.return_flags & KDBUS_RECV_RETURN_INCOMPLETE_FDS)
		fail("no room for another descriptor");
	if (!item)
		fail("the message carries no descriptor");
	if (!(fcntl(item->fds[0], F_GETFD) & FD_CLOEXEC))
		fail("the descriptor would survive an exec");
	while ((got = read(item->fds[0], text + used, sizeof(text) - 1 - used)) > 0)
		used += (size_t)got;
	if (got < 0)
		fail("cannot read from the pipe: %s", strerror(errno));
	text[used] = 0;
	printf("pipe: %s\n", text);
}

int main(void)
{
	const char *bus = bus_name("pass-fd");
	const struct kdbus_msg *message;
	struct peer peer;
	pid_t child;
	int status;

	setlinebuf(stdout);
	make_bus(bus);
	peer = connect_to_bus(bus, KDBUS_HELLO_ACCEPT_FD, 0);
	child = fork();
	if (child < 0)
		fail("cannot fork: %s", strerror(errno));
	if (child == 0) {
		send_pipe(bus, peer.id);
		return EXIT_SUCCESS;
	}
	if (waitpid(child, &status, 0) < 0 || status != 0)
		fail("the sender failed");

	message = receive(&peer);
	if (!message)
		fail("cannot receive: %s", strerror(errno));
	read_pipe(&peer, message);
	release(&peer, message);	/* closes the descriptor as well */
	disconnect(&peer);
	return EXIT_SUCCESS;
}
