// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Notifications: messages from the bus itself, their form, and their order among each other and among messages.
 */
#include "e2e.h"

#define NAME "org.example.Name"
#define ANY KDBUS_MATCH_ID_ANY

static void match_all_notifications(const struct connection *connection)
{
	static const __u64 names[] = { KDBUS_ITEM_NAME_ADD, KDBUS_ITEM_NAME_REMOVE, KDBUS_ITEM_NAME_CHANGE };

	for (int i = 0; i < 3; i++)
		EQ(match_name(connection, 1, names[i], ANY, ANY, NULL), 0);
	EQ(match_id(connection, 1, KDBUS_ITEM_ID_ADD, ANY), 0);
	EQ(match_id(connection, 1, KDBUS_ITEM_ID_REMOVE, ANY), 0);
}

/* The next message must be the notification with that one item. */
static const struct kdbus_item *expect(const struct connection *connection, __u64 type)
{
	const struct kdbus_msg *message = receive(connection);

	EQ(message->src_id, KDBUS_SRC_ID_KERNEL);
	EQ(message->payload_type, KDBUS_PAYLOAD_KERNEL);
	EQ(message->flags, 0);
	EQ(message->priority, 0);
	EQ(message->cookie, 0);
	EQ(message->items[0].type, type);
	return message->items;
}

CASE(their_form)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello_with(bus.path, 0, 0, KDBUS_ATTACH_TIMESTAMP | KDBUS_ATTACH_CREDS);
	struct connection peer = hello(bus.path);
	const struct kdbus_msg *message;
	__u64 before;

	match_all_notifications(&receiver);
	before = clock_ns(CLOCK_MONOTONIC);
	EQ(acquire(&peer, NAME, 0), 0);
	message = receive(&receiver);
	EQ(message->dst_id, KDBUS_DST_ID_BROADCAST);
	/* Unlike other items, the one of a notification has a size rounded up to 8. */
	EQ(message->items[0].size, HEADER + ALIGN8(sizeof(struct kdbus_notify_name_change) + sizeof(NAME)));
	GE(get(message, KDBUS_ITEM_TIMESTAMP)->timestamp.monotonic_ns, before);
	GE(clock_ns(CLOCK_MONOTONIC), get(message, KDBUS_ITEM_TIMESTAMP)->timestamp.monotonic_ns);
	/* The bus has no credentials. */
	CHECK(!find(message, KDBUS_ITEM_CREDS));
	EQ((const char *)NEXT(get(message, KDBUS_ITEM_TIMESTAMP)) - (const char *)message, message->size);
}

CASE(sequence_numbers_rise)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello_with(bus.path, 0, 0, KDBUS_ATTACH_TIMESTAMP), peer = hello(bus.path);
	__u64 last = 0, last_ns = 0;

	match_all_notifications(&receiver);
	EQ(match_everything(&receiver), 0);
	EQ(acquire(&peer, NAME, 0), 0);
	EQ(SEND(&peer, .to = receiver.id), 0);
	EQ(SEND(&peer, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL), 0);
	EQ(release_name(&peer, NAME), 0);
	EQ(SEND(&peer, .to = receiver.id), 0);
	for (int i = 0; i < 5; i++) {
		const struct kdbus_timestamp *stamp = &get(receive(&receiver), KDBUS_ITEM_TIMESTAMP)->timestamp;

		EQ(stamp->seqnum, i ? last + 1 : stamp->seqnum);
		GE(stamp->monotonic_ns, last_ns);
		last = stamp->seqnum;
		last_ns = stamp->monotonic_ns;
	}
	NE(last, 0);
}

CASE(a_life_in_order)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello(bus.path), peer;

	match_all_notifications(&receiver);
	peer = hello(bus.path);
	EQ(acquire(&peer, "org.example.One", 0), 0);
	EQ(acquire(&peer, "org.example.Two", 0), 0);
	EQ(SEND(&peer, .to = receiver.id, .cookie = 5), 0);
	EQ(byebye(&peer), 0);
	EQ(expect(&receiver, KDBUS_ITEM_ID_ADD)->id_change.id, peer.id);
	SAME(expect(&receiver, KDBUS_ITEM_NAME_ADD)->name_change.name, "org.example.One");
	SAME(expect(&receiver, KDBUS_ITEM_NAME_ADD)->name_change.name, "org.example.Two");
	EQ(receive(&receiver)->cookie, 5);
	/* Names go before the connection, in the order in which they came. */
	SAME(expect(&receiver, KDBUS_ITEM_NAME_REMOVE)->name_change.name, "org.example.One");
	SAME(expect(&receiver, KDBUS_ITEM_NAME_REMOVE)->name_change.name, "org.example.Two");
	EQ(expect(&receiver, KDBUS_ITEM_ID_REMOVE)->id_change.id, peer.id);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(an_activators_life)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello(bus.path), starter, service = hello(bus.path);
	const struct kdbus_notify_name_change *change;

	match_all_notifications(&receiver);
	starter = special(bus.path, KDBUS_HELLO_ACTIVATOR, NAME, KDBUS_POLICY_TALK);
	EQ(expect(&receiver, KDBUS_ITEM_ID_ADD)->id_change.flags, KDBUS_HELLO_ACTIVATOR);
	EQ(expect(&receiver, KDBUS_ITEM_NAME_ADD)->name_change.new_id.flags, KDBUS_NAME_ACTIVATOR);
	EQ(acquire(&service, NAME, 0), 0);
	change = &expect(&receiver, KDBUS_ITEM_NAME_CHANGE)->name_change;
	EQ(change->old_id.id, starter.id);
	EQ(change->old_id.flags, KDBUS_NAME_ACTIVATOR);
	EQ(change->new_id.id, service.id);
	EQ(change->new_id.flags, 0);
	EQ(release_name(&service, NAME), 0);
	change = &expect(&receiver, KDBUS_ITEM_NAME_CHANGE)->name_change;
	EQ(change->new_id.id, starter.id);
	EQ(change->new_id.flags, KDBUS_NAME_ACTIVATOR);
	CHECK(!close(starter.fd));
	wait_for(receiver.fd, POLLIN);
	EQ(expect(&receiver, KDBUS_ITEM_NAME_REMOVE)->name_change.old_id.id, starter.id);
	EQ(expect(&receiver, KDBUS_ITEM_ID_REMOVE)->id_change.id, starter.id);
	/* A policy holder is a connection like others here. */
	starter = special(bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, KDBUS_POLICY_TALK);
	EQ(expect(&receiver, KDBUS_ITEM_ID_ADD)->id_change.flags, KDBUS_HELLO_POLICY_HOLDER);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(the_queue_of_a_name)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello(bus.path), peers[3];
	const struct kdbus_notify_name_change *change;

	for (int i = 0; i < 3; i++) {
		peers[i] = hello(bus.path);
		EQ(acquire(&peers[i], NAME, KDBUS_NAME_QUEUE), 0);
	}
	match_all_notifications(&receiver);
	EQ(release_name(&peers[0], NAME), 0);
	change = &expect(&receiver, KDBUS_ITEM_NAME_CHANGE)->name_change;
	EQ(change->old_id.id, peers[0].id);
	EQ(change->new_id.id, peers[1].id);
	EQ(change->new_id.flags, KDBUS_NAME_QUEUE);
	EQ(release_name(&peers[2], NAME), 0);
	EQ(byebye(&peers[1]), 0);
	EQ(expect(&receiver, KDBUS_ITEM_NAME_REMOVE)->name_change.old_id.id, peers[1].id);
	EQ(expect(&receiver, KDBUS_ITEM_ID_REMOVE)->id_change.id, peers[1].id);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(who_replaces_and_who_is_replaced)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello(bus.path), first = hello(bus.path), second = hello(bus.path);

	EQ(acquire(&first, NAME, KDBUS_NAME_ALLOW_REPLACEMENT | KDBUS_NAME_QUEUE), 0);
	match_all_notifications(&receiver);
	EQ(acquire(&second, NAME, 0), -EEXIST);
	EQ(acquire(&second, NAME, KDBUS_NAME_REPLACE_EXISTING), 0);
	EQ(expect(&receiver, KDBUS_ITEM_NAME_CHANGE)->name_change.new_id.id, second.id);
	/* The one that was replaced had asked for queuing, so it gets the name back. */
	EQ(listed(&receiver, KDBUS_NAME_LIST_QUEUED, first.id, NAME), 1);
	EQ(acquire(&second, NAME, 0), -EALREADY);
	EQ(release_name(&second, NAME), 0);
	EQ(expect(&receiver, KDBUS_ITEM_NAME_CHANGE)->name_change.new_id.id, first.id);
	EQ(release_name(&second, NAME), -ESRCH);
	EQ(release_name(&first, NAME), 0);
	CHECK(expect(&receiver, KDBUS_ITEM_NAME_REMOVE));
	EQ(release_name(&first, NAME), -ESRCH);
}

CASE(replies_that_will_never_come)
{
	struct bus bus = new_bus(0);
	struct connection client = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, KDBUS_ATTACH_TIMESTAMP);
	struct connection service = hello(bus.path);
	const struct kdbus_msg *message;

	for (__u64 cookie = 1; cookie <= 3; cookie++)
		EQ(SEND(&client, .to = service.id, .cookie = cookie, .flags = KDBUS_MSG_EXPECT_REPLY,
			.deadline = FOREVER), 0);
	EQ(receive_code(&service, 0), 0);
	EQ(byebye(&service), -EBUSY);
	EQ(receive_code(&service, KDBUS_RECV_DROP), 0);
	message = receive(&client);
	EQ(message->dst_id, client.id);
	EQ(message->cookie_reply, 2);
	EQ(message->items[0].type, KDBUS_ITEM_REPLY_DEAD);
	EQ(message->items[0].size, HEADER);
	EQ(message->size, sizeof(*message) + HEADER + HEADER + sizeof(struct kdbus_timestamp));
	EQ(SEND(&service, .to = client.id, .reply_to = 2), -EPERM);
	EQ(receive_code(&service, 0), 0);
	EQ(byebye(&service), 0);
	/* Of those that were received and never answered, the latest comes first. */
	EQ(receive(&client)->cookie_reply, 3);
	EQ(receive(&client)->cookie_reply, 1);
	EQ(receive_code(&client, 0), -EAGAIN);
}

CASE(waiting_requests_of_who_goes)
{
	struct bus bus = new_bus(0);
	struct connection client = hello(bus.path), service = hello(bus.path);

	EQ(SEND(&client, .to = service.id, .cookie = 1, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), 0);
	EQ(match_id(&client, 1, KDBUS_ITEM_ID_REMOVE, service.id), 0);
	CHECK(!close(service.fd));
	wait_for(client.fd, POLLIN);
	EQ(receive(&client)->cookie_reply, 1);
	/* Who waits in the queue is told twice, as the original does. */
	EQ(receive(&client)->cookie_reply, 1);
	CHECK(find(receive(&client), KDBUS_ITEM_ID_REMOVE));
	EQ(receive_code(&client, 0), -EAGAIN);
}

CASE(replies_that_come_too_late)
{
	struct bus bus = new_bus(0);
	struct connection client = hello(bus.path), service = hello(bus.path);
	__u64 deadline;

	/* Each is told when its own time has come, whatever else is waited for. */
	EQ(SEND(&client, .to = service.id, .cookie = 1, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), 0);
	for (__u64 i = 2; i < 4; i++) {
		const struct kdbus_msg *message;

		deadline = in_ms(20);
		EQ(SEND(&client, .to = service.id, .cookie = i, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = deadline), 0);
		message = await_message(&client);
		GE(in_ms(0), deadline);
		EQ(message->cookie_reply, i);
		EQ(message->items[0].type, KDBUS_ITEM_REPLY_TIMEOUT);
		EQ(message->dst_id, client.id);
		EQ(receive_code(&client, 0), -EAGAIN);
	}
	EQ(SEND(&service, .to = client.id, .reply_to = 2), -EPERM);
	EQ(receive_code(&service, 0), 0);
}

CASE(a_deadline_in_the_past)
{
	struct bus bus = new_bus(0);
	struct connection client = hello(bus.path), service = hello(bus.path);

	EQ(SEND(&client, .to = service.id, .cookie = 1, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = 1), 0);
	CHECK(find(await_message(&client), KDBUS_ITEM_REPLY_TIMEOUT));
	EQ(receive(&service)->cookie, 1);
}

CASE(a_full_queue_gets_no_notification)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello(bus.path), peer = hello(bus.path);
	struct kdbus_cmd_recv recv = {};

	EQ(match_name(&receiver, 1, KDBUS_ITEM_NAME_ADD, ANY, ANY, NULL), 0);
	for (int i = 0; i < 260; i++) {
		EQ(acquire(&peer, NAME, 0), 0);
		EQ(release_name(&peer, NAME), 0);
	}
	EQ(receive_into(&receiver, &recv), -EOVERFLOW);
	EQ(recv.dropped_msgs, 4);
	for (int i = 0; i < 256; i++)
		EQ(receive_code(&receiver, 0), 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}
