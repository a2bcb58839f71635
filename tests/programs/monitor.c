// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Monitors: they get a copy of everything, before the receivers do, and nobody sees them.
 */
#include "e2e.h"

#define NAME "org.example.Name"

static struct connection monitor(const struct bus *bus)
{
	return hello_with(bus->path, KDBUS_HELLO_MONITOR | KDBUS_HELLO_ACCEPT_FD, _KDBUS_ATTACH_ALL, 0);
}

CASE(everything_is_seen)
{
	struct bus bus = new_bus(0);
	struct connection watch = monitor(&bus), sender = hello(bus.path), receiver = hello(bus.path);
	const struct kdbus_msg *message;

	EQ(get(receive(&watch), KDBUS_ITEM_ID_ADD)->id_change.id, sender.id);
	EQ(get(receive(&watch), KDBUS_ITEM_ID_ADD)->id_change.id, receiver.id);
	EQ(acquire(&receiver, NAME, 0), 0);
	SAME(get(receive(&watch), KDBUS_ITEM_NAME_ADD)->name_change.name, NAME);
	EQ(SEND(&sender, .to = receiver.id, .cookie = 1), 0);
	EQ(SEND(&sender, .name = NAME, .cookie = 2, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), 0);
	EQ(SEND(&receiver, .to = sender.id, .cookie = 3, .reply_to = 2), 0);
	EQ(SEND(&sender, .to = KDBUS_DST_ID_BROADCAST, .cookie = 4, .flags = KDBUS_MSG_SIGNAL), 0);
	for (__u64 cookie = 1; cookie <= 4; cookie++) {
		message = receive(&watch);
		EQ(message->cookie, cookie);
		EQ(message->src_id, cookie == 3 ? receiver.id : sender.id);
		SAME(text_of(&watch, message), TEXT);
	}
	EQ(message->dst_id, KDBUS_DST_ID_BROADCAST);
	EQ(message->flags, KDBUS_MSG_SIGNAL);
	EQ(receive(&receiver)->cookie, 1);
	EQ(receive(&receiver)->cookie, 2);
	EQ(byebye(&receiver), 0);
	CHECK(find(receive(&watch), KDBUS_ITEM_NAME_REMOVE));
	CHECK(find(receive(&watch), KDBUS_ITEM_ID_REMOVE));
	EQ(receive_code(&watch, 0), -EAGAIN);
}

CASE(nobody_sees_a_monitor)
{
	struct bus bus = new_bus(0);
	struct connection peer = hello(bus.path), watch;

	EQ(match_id(&peer, 1, KDBUS_ITEM_ID_ADD, KDBUS_MATCH_ID_ANY), 0);
	EQ(match_id(&peer, 1, KDBUS_ITEM_ID_REMOVE, KDBUS_MATCH_ID_ANY), 0);
	watch = monitor(&bus);
	EQ(SEND(&peer, .to = watch.id), -ENXIO);
	EQ(receive_code(&peer, 0), -EAGAIN);
	CHECK(!close(watch.fd));
	EQ(receive_code(&peer, 0), -EAGAIN);
}

CASE(what_a_monitor_may_not_do)
{
	struct bus bus = new_bus(0);
	struct connection watch = monitor(&bus), peer = hello(bus.path);

	EQ(SEND(&watch, .to = peer.id), -EOPNOTSUPP);
	EQ(acquire(&watch, NAME, 0), -EOPNOTSUPP);
	EQ(release_name(&watch, NAME), -EOPNOTSUPP);
	EQ(match_everything(&watch), -EOPNOTSUPP);
	EQ(remove_match(&watch, 1), -EOPNOTSUPP);
	EQ(byebye(&watch), -EOPNOTSUPP);
	EQ(release(&watch, watch.hello.offset), 0);
	EQ(listed(&watch, KDBUS_NAME_LIST_UNIQUE, peer.id, ""), 1);
}

CASE(messages_that_are_not_delivered)
{
	struct bus bus = new_bus(0);
	struct connection watch = monitor(&bus), sender = hello(bus.path);
	struct connection receiver = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, 0);
	int fds[2];

	CHECK(!pipe(fds));
	for (int i = 0; i < 2; i++)
		EQ(receive_code(&watch, 0), 0);
	/* Without a receiver there is nothing to see, with one that cannot take it there is. */
	EQ(SEND(&sender, .to = 99), -ENXIO);
	EQ(receive_code(&watch, 0), -EAGAIN);
	EQ(SEND(&sender, .to = receiver.id, .cookie = 7, .fds = fds, .fd_count = 1), -ECOMM);
	EQ(receive(&watch)->cookie, 7);
}

CASE(descriptors_reach_monitors)
{
	struct bus bus = new_bus(0);
	struct connection watch = monitor(&bus), sender = hello(bus.path), receiver = hello(bus.path);
	struct connection closed = hello_with(bus.path, KDBUS_HELLO_MONITOR, _KDBUS_ATTACH_ALL, 0);
	struct kdbus_cmd_recv recv = {};
	int fds[2];
	char byte;

	CHECK(!pipe(fds));
	for (int i = 0; i < 2; i++)
		EQ(receive_code(&watch, 0), 0);
	EQ(SEND(&sender, .to = receiver.id, .cookie = 1, .fds = fds, .fd_count = 1), 0);
	EQ(write(fds[1], "x", 1), 1);
	EQ(read(get(receive(&watch), KDBUS_ITEM_FDS)->fds[0], &byte, 1), 1);
	/* A monitor that accepts none has lost that message. It is told at its next one. */
	EQ(receive_code(&closed, 0), -EAGAIN);
	EQ(SEND(&sender, .to = receiver.id, .cookie = 2), 0);
	EQ(receive_into(&closed, &recv), -EOVERFLOW);
	EQ(recv.dropped_msgs, 1);
	EQ(receive(&closed)->cookie, 2);
}

CASE(a_full_monitor_hinders_nobody)
{
	struct bus bus = new_bus(0);
	struct connection watch = monitor(&bus), sender = hello(bus.path), receiver = hello(bus.path);

	for (int i = 0; i < 100; i++) {
		EQ(SEND(&sender, .to = receiver.id), 0);
		EQ(receive_code(&receiver, 0), 0);
	}
	EQ(receive_code(&watch, 0), -EOVERFLOW);
	EQ(receive_code(&watch, 0), 0);
}

CASE(metadata_for_monitors)
{
	struct bus bus = new_bus(0);
	struct connection watch = hello_with(bus.path, KDBUS_HELLO_MONITOR, 0, KDBUS_ATTACH_PIDS);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	const struct kdbus_msg *message;

	for (int i = 0; i < 2; i++)
		EQ(receive_code(&watch, 0), 0);
	EQ(SEND(&sender, .to = receiver.id), 0);
	EQ(get(receive(&watch), KDBUS_ITEM_PIDS)->pids.pid, getpid());
	message = receive(&receiver);
	CHECK(!find(message, KDBUS_ITEM_PIDS));
	{
		struct buffer buffer;
		struct kdbus_cmd_update *update = begin(&buffer, sizeof(*update));

		add_u64(&buffer, KDBUS_ITEM_ATTACH_FLAGS_RECV, KDBUS_ATTACH_CREDS);
		EQ(command(watch.fd, KDBUS_CMD_CONN_UPDATE, update), 0);
	}
	EQ(SEND(&sender, .to = receiver.id), 0);
	message = receive(&watch);
	EQ(get(message, KDBUS_ITEM_CREDS)->creds.euid, geteuid());
	CHECK(!find(message, KDBUS_ITEM_PIDS));
}

CASE(replies_to_synchronous_requests)
{
	struct bus bus = new_bus(0);
	struct connection watch = monitor(&bus), client = hello(bus.path), service = hello(bus.path);
	pid_t child = start_child();

	if (!child) {
		const struct kdbus_msg *message = await_message(&service);

		EQ(SEND(&service, .to = client.id, .cookie = 2, .reply_to = message->cookie), 0);
		finish_child(0);
	}
	EQ(SEND(&client, .to = service.id, .cookie = 1, .flags = KDBUS_MSG_EXPECT_REPLY,
		.send_flags = KDBUS_SEND_SYNC_REPLY, .deadline = in_ms(PATIENCE)), 0);
	join(child);
	for (int i = 0; i < 2; i++)
		EQ(receive_code(&watch, 0), 0);
	EQ(receive(&watch)->cookie, 1);
	EQ(receive(&watch)->cookie_reply, 1);
	EQ(receive_code(&watch, 0), -EAGAIN);
}
