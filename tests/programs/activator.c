// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Activators and policy holders: connections that are no peers. Messages to a name wait with its activator, move to the
 * implementer that takes the name, and come back with it.
 */
#include "e2e.h"

#define NAME "org.example.Service"

static struct connection activator(const struct bus *bus)
{
	return special(bus->path, KDBUS_HELLO_ACTIVATOR | KDBUS_HELLO_ACCEPT_FD, NAME, KDBUS_POLICY_TALK);
}

CASE(messages_move_to_the_implementer)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), client = hello(bus.path), service = hello(bus.path);

	EQ(readiness(starter.fd), POLLOUT);
	for (__u64 cookie = 1; cookie <= 3; cookie++)
		EQ(SEND(&client, .name = NAME, .cookie = cookie), 0);
	EQ(readiness(starter.fd), POLLOUT | POLLIN);
	EQ(readiness(service.fd), POLLOUT);
	EQ(acquire(&service, NAME, 0), 0);
	EQ(readiness(starter.fd), POLLOUT);
	EQ(readiness(service.fd), POLLOUT | POLLIN);
	for (__u64 cookie = 1; cookie <= 3; cookie++) {
		const struct kdbus_msg *message = receive(&service);

		EQ(message->cookie, cookie);
		EQ(message->src_id, client.id);
		EQ(message->dst_id, KDBUS_DST_ID_NAME);
		SAME(text_of(&service, message), TEXT);
		SAME(get(message, KDBUS_ITEM_DST_NAME)->str, NAME);
		done(&service, message);
	}
	EQ(receive_code(&service, 0), -EAGAIN);
	EQ(receive_code(&starter, 0), -EAGAIN);
	EQ(SEND(&client, .name = NAME, .cookie = 4), 0);
	EQ(receive(&service)->cookie, 4);
}

CASE(the_name_returns_to_the_activator)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), client = hello(bus.path), service = hello(bus.path);

	for (int round = 0; round < 3; round++) {
		EQ(acquire(&service, NAME, 0), 0);
		EQ(listed(&client, KDBUS_NAME_LIST_NAMES, service.id, NAME), 1);
		EQ(SEND(&client, .name = NAME, .cookie = 1), 0);
		EQ(receive_code(&starter, 0), -EAGAIN);
		EQ(receive_code(&service, 0), 0);
		EQ(release_name(&service, NAME), 0);
		EQ(listed(&client, KDBUS_NAME_LIST_NAMES, service.id, NAME), 0);
		EQ(listed(&client, KDBUS_NAME_LIST_ACTIVATORS, starter.id, NAME), 1);
		EQ(SEND(&client, .name = NAME, .cookie = 2), 0);
		EQ(receive_code(&starter, 0), 0);
	}
}

CASE(unread_messages_return_to_the_activator)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), client = hello(bus.path), service = hello(bus.path);

	EQ(acquire(&service, NAME, 0), 0);
	EQ(SEND(&client, .name = NAME, .cookie = 1), 0);
	EQ(SEND(&client, .to = service.id, .cookie = 2), 0);
	EQ(release_name(&service, NAME), 0);
	EQ(receive(&starter)->cookie, 1);
	EQ(receive_code(&starter, 0), -EAGAIN);
	EQ(receive(&service)->cookie, 2);
	EQ(receive_code(&service, 0), -EAGAIN);
}

CASE(the_end_of_the_implementer_returns_the_name)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), client = hello(bus.path), service = hello(bus.path);

	EQ(acquire(&service, NAME, 0), 0);
	EQ(SEND(&client, .name = NAME, .cookie = 1), 0);
	EQ(close(service.fd), 0);
	CHECK(wait_for(starter.fd, POLLIN) & POLLIN);
	EQ(receive(&starter)->cookie, 1);
	EQ(SEND(&client, .name = NAME, .cookie = 2), 0);
	EQ(receive(&starter)->cookie, 2);
}

CASE(waiting_owners_come_before_the_activator)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), first = hello(bus.path), second = hello(bus.path);
	__u64 flags = KDBUS_NAME_QUEUE;

	EQ(acquire(&first, NAME, 0), 0);
	EQ(name_command(&second, KDBUS_CMD_NAME_ACQUIRE, NAME, &flags), 0);
	EQ(flags, KDBUS_NAME_QUEUE | KDBUS_NAME_IN_QUEUE);
	EQ(listed(&first, KDBUS_NAME_LIST_QUEUED, second.id, NAME), 1);
	EQ(release_name(&first, NAME), 0);
	EQ(listed(&first, KDBUS_NAME_LIST_NAMES, second.id, NAME), 1);
	EQ(release_name(&second, NAME), 0);
	EQ(listed(&first, KDBUS_NAME_LIST_ACTIVATORS, starter.id, NAME), 1);
}

CASE(an_activator_may_come_later)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path), starter;

	EQ(acquire(&service, NAME, 0), 0);
	starter = activator(&bus);
	EQ(listed(&service, KDBUS_NAME_LIST_NAMES, service.id, NAME), 1);
	EQ(listed(&service, KDBUS_NAME_LIST_ACTIVATORS, starter.id, NAME), 1);
	EQ(release_name(&service, NAME), 0);
	EQ(SEND(&service, .name = NAME, .cookie = 1), 0);
	EQ(receive(&starter)->cookie, 1);
}

CASE(one_activator_for_a_name)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), other;

	/* The second one fails over its policy: there is an entry for the name already. */
	EQ(try_special(&other, bus.path, KDBUS_HELLO_ACTIVATOR, NAME, KDBUS_POLICY_TALK), -EEXIST);
	EQ(try_special(&other, bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, KDBUS_POLICY_TALK), -EEXIST);
	EQ(close(starter.fd), 0);
	starter = activator(&bus);
}

CASE(no_auto_start)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), client = hello(bus.path), service = hello(bus.path);

	EQ(SEND(&client, .name = NAME, .flags = KDBUS_MSG_NO_AUTO_START), -EADDRNOTAVAIL);
	EQ(receive_code(&starter, 0), -EAGAIN);
	EQ(acquire(&service, NAME, 0), 0);
	EQ(SEND(&client, .name = NAME, .flags = KDBUS_MSG_NO_AUTO_START, .cookie = 1), 0);
	EQ(receive(&service)->cookie, 1);
}

CASE(nobody_addresses_an_activator_by_id)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), client = hello(bus.path), service = hello(bus.path);

	EQ(SEND(&client, .to = starter.id), -ENXIO);
	EQ(SEND(&client, .name = NAME, .to = starter.id, .cookie = 1), 0);
	EQ(receive(&starter)->cookie, 1);
	EQ(SEND(&client, .name = NAME, .to = client.id), -EREMCHG);
	EQ(acquire(&service, NAME, 0), 0);
	EQ(SEND(&client, .name = NAME, .to = starter.id), -EREMCHG);
	EQ(SEND(&client, .name = NAME, .to = service.id), 0);
}

CASE(peek_and_drop_in_the_activator)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), client = hello(bus.path);
	struct kdbus_cmd_recv recv = { .flags = KDBUS_RECV_PEEK };
	const struct kdbus_msg *message;

	EQ(SEND(&client, .name = NAME, .cookie = 7, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), 0);
	for (int round = 0; round < 2; round++) {
		EQ(receive_into(&starter, &recv), 0);
		message = (const void *)(starter.pool + recv.msg.offset);
		EQ(message->src_id, client.id);
		EQ(message->cookie, 7);
		EQ(release(&starter, recv.msg.offset), 0);
		CHECK(readiness(starter.fd) & POLLIN);
	}
	EQ(receive_code(&starter, KDBUS_RECV_DROP), 0);
	EQ(readiness(starter.fd), POLLOUT);
	message = receive(&client);
	EQ(message->src_id, KDBUS_SRC_ID_KERNEL);
	EQ(message->cookie_reply, 7);
	CHECK(find(message, KDBUS_ITEM_REPLY_DEAD));
}

CASE(a_request_moves_with_its_reply)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), client = hello(bus.path), service = hello(bus.path);

	EQ(SEND(&client, .name = NAME, .cookie = 7, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), 0);
	EQ(SEND(&service, .to = client.id, .reply_to = 7), -EPERM);
	EQ(acquire(&service, NAME, 0), 0);
	EQ(receive(&service)->cookie, 7);
	EQ(SEND(&service, .to = client.id, .reply_to = 7, .cookie = 8), 0);
	EQ(receive(&client)->cookie_reply, 7);
	EQ(SEND(&service, .to = client.id, .reply_to = 7), -EPERM);
	EQ(readiness(starter.fd), POLLOUT);
}

CASE(descriptors_move_only_to_who_accepts_them)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), client = hello(bus.path);
	struct connection service = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, 0);
	struct kdbus_cmd_recv recv = {};
	int fds[2];

	CHECK(!pipe(fds));
	EQ(SEND(&client, .name = NAME, .cookie = 1, .fds = fds, .fd_count = 2), 0);
	EQ(SEND(&client, .name = NAME, .cookie = 2), 0);
	EQ(acquire(&service, NAME, 0), 0);
	EQ(receive_into(&service, &recv), -EOVERFLOW);
	EQ(recv.dropped_msgs, 1);
	EQ(receive(&service)->cookie, 2);
	EQ(receive_code(&starter, 0), -EAGAIN);
	/* The message that was lost held the last write end but ours. */
	CHECK(!close(fds[1]));
	CHECK(wait_for(fds[0], POLLIN) & POLLHUP);
}

CASE(what_an_activator_may_not_do)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), peer = hello(bus.path);
	struct kdbus_cmd_update update = { .size = sizeof(update) };
	struct kdbus_cmd_recv recv = { .size = sizeof(recv) };

	EQ(SEND(&starter, .to = peer.id), -EOPNOTSUPP);
	EQ(acquire(&starter, "org.example.Other", 0), -EOPNOTSUPP);
	EQ(release_name(&starter, NAME), -EOPNOTSUPP);
	EQ(match_everything(&starter), -EOPNOTSUPP);
	EQ(remove_match(&starter, 1), -EOPNOTSUPP);
	EQ(byebye(&starter), -EOPNOTSUPP);
	EQ(command(starter.fd, KDBUS_CMD_CONN_UPDATE, &update), -EOPNOTSUPP);
	EQ(command(starter.fd, KDBUS_CMD_RECV, &recv), -EAGAIN);
	EQ(release(&starter, starter.hello.offset), 0);
	EQ(listed(&starter, KDBUS_NAME_LIST_UNIQUE, peer.id, ""), 1);
}

CASE(what_a_policy_holder_may_not_do)
{
	struct bus bus = new_bus(0);
	struct connection holder = special(bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, KDBUS_POLICY_TALK);
	struct connection peer = hello(bus.path);
	struct kdbus_cmd_recv recv = { .size = sizeof(recv) };

	EQ(SEND(&peer, .to = holder.id), -ENXIO);
	EQ(SEND(&peer, .name = NAME), -ESRCH);
	EQ(SEND(&holder, .to = peer.id), -EOPNOTSUPP);
	EQ(acquire(&holder, NAME, 0), -EOPNOTSUPP);
	EQ(match_everything(&holder), -EOPNOTSUPP);
	EQ(byebye(&holder), -EOPNOTSUPP);
	EQ(command(holder.fd, KDBUS_CMD_RECV, &recv), -EOPNOTSUPP);
	EQ(release(&holder, holder.hello.offset), -EOPNOTSUPP);
	EQ(acquire(&peer, NAME, 0), 0);
}

CASE(name_list_flags)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), service = hello(bus.path), waiting = hello(bus.path);

	/* An activator shows only among activators, with its name and as owner. */
	EQ(listed(&service, KDBUS_NAME_LIST_NAMES, 0, NULL), 0);
	EQ(listed(&service, KDBUS_NAME_LIST_UNIQUE, 0, NULL), 2);
	EQ(listed(&service, KDBUS_NAME_LIST_UNIQUE, starter.id, NULL), 0);
	EQ(listed(&service, KDBUS_NAME_LIST_ACTIVATORS, 0, NULL), 1);
	EQ(listed(&service, KDBUS_NAME_LIST_ACTIVATORS, starter.id, NAME), 1);
	EQ(listed(&service, KDBUS_NAME_LIST_UNIQUE | KDBUS_NAME_LIST_ACTIVATORS, 0, NULL), 3);
	EQ(acquire(&service, NAME, 0), 0);
	EQ(acquire(&waiting, NAME, KDBUS_NAME_QUEUE), 0);
	EQ(listed(&service, KDBUS_NAME_LIST_NAMES, service.id, NAME), 1);
	EQ(listed(&service, KDBUS_NAME_LIST_NAMES, 0, NULL), 1);
	/* Once somebody has taken the name, the activator shows beside the owner. */
	EQ(listed(&service, KDBUS_NAME_LIST_ACTIVATORS, starter.id, NAME), 1);
	EQ(listed(&service, KDBUS_NAME_LIST_ACTIVATORS, 0, NULL), 1);
	EQ(listed(&service, KDBUS_NAME_LIST_NAMES | KDBUS_NAME_LIST_ACTIVATORS, 0, NAME), 2);
	EQ(listed(&service, KDBUS_NAME_LIST_QUEUED, 0, NULL), 1);
	EQ(listed(&service, KDBUS_NAME_LIST_QUEUED, waiting.id, NAME), 1);
	EQ(listed(&service, 0, 0, NULL), 0);
	/* UNIQUE adds those that the other flags have not shown. */
	EQ(listed(&service, KDBUS_NAME_LIST_UNIQUE | KDBUS_NAME_LIST_NAMES, 0, NULL), 2);
	EQ(listed(&service, KDBUS_NAME_LIST_UNIQUE | KDBUS_NAME_LIST_NAMES, waiting.id, ""), 1);
	EQ(close(starter.fd), 0);
	EQ(listed(&service, KDBUS_NAME_LIST_ACTIVATORS, 0, NULL), 0);
	EQ(listed(&service, KDBUS_NAME_LIST_NAMES, service.id, NAME), 1);
}

CASE(the_end_of_an_activator_ends_its_name)
{
	struct bus bus = new_bus(0);
	struct connection starter = activator(&bus), client = hello(bus.path);

	EQ(SEND(&client, .name = NAME, .cookie = 3, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), 0);
	EQ(close(starter.fd), 0);
	EQ(SEND(&client, .name = NAME), -ESRCH);
	CHECK(find(await_message(&client), KDBUS_ITEM_REPLY_DEAD));
}

CASE(hello_of_special_kinds)
{
	struct bus bus = new_bus(0);
	struct connection refused;
	struct buffer buffer;

	begin_hello(&buffer, KDBUS_HELLO_ACTIVATOR);
	EQ(try_hello(&refused, bus.path, &buffer), -EINVAL);
	begin_hello(&buffer, KDBUS_HELLO_POLICY_HOLDER);
	EQ(try_hello(&refused, bus.path, &buffer), -EINVAL);
	begin_hello(&buffer, 0);
	add_string(&buffer, KDBUS_ITEM_NAME, NAME);
	EQ(try_hello(&refused, bus.path, &buffer), -EINVAL);
	begin_hello(&buffer, KDBUS_HELLO_ACTIVATOR);
	add_string(&buffer, KDBUS_ITEM_NAME, NAME);
	add_string(&buffer, KDBUS_ITEM_NAME, "org.example.Other");
	EQ(try_hello(&refused, bus.path, &buffer), -EINVAL);
	EQ(try_special(&refused, bus.path, KDBUS_HELLO_ACTIVATOR | KDBUS_HELLO_MONITOR, NAME, -1), -EINVAL);
	EQ(try_special(&refused, bus.path, KDBUS_HELLO_ACTIVATOR | KDBUS_HELLO_POLICY_HOLDER, NAME, -1), -EINVAL);
	EQ(try_special(&refused, bus.path, KDBUS_HELLO_ACTIVATOR, "nodots", -1), -EINVAL);
	EQ(try_special(&refused, bus.path, KDBUS_HELLO_ACTIVATOR, NAME, 17), -EINVAL);
}

ROOT_CASE(others_may_not_be_special)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);

	AS(NOBODY) {
		struct connection refused;

		EQ(try_special(&refused, bus.path, KDBUS_HELLO_ACTIVATOR, NAME, -1), -EPERM);
		EQ(try_special(&refused, bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, -1), -EPERM);
		EQ(try_special(&refused, bus.path, KDBUS_HELLO_MONITOR, NULL, -1), -EPERM);
	}
}

ROOT_CASE(the_activators_policy_decides_who_may_talk)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection closed = special(bus.path, KDBUS_HELLO_ACTIVATOR, "org.example.Closed", -1);
	struct connection open = special(bus.path, KDBUS_HELLO_ACTIVATOR, "org.example.Open", KDBUS_POLICY_TALK);
	struct connection owned = special(bus.path, KDBUS_HELLO_ACTIVATOR, "org.example.Owned", KDBUS_POLICY_OWN);

	AS(NOBODY) {
		struct connection client = hello(bus.path);

		EQ(SEND(&client, .name = "org.example.Closed"), -EPERM);
		EQ(SEND(&client, .name = "org.example.Open"), 0);
		EQ(acquire(&client, "org.example.Closed", 0), -EPERM);
		EQ(acquire(&client, "org.example.Open", 0), -EPERM);
		EQ(acquire(&client, "org.example.Owned", 0), 0);
	}
	EQ(receive_code(&closed, 0), -EAGAIN);
	EQ(receive_code(&open, 0), 0);
	EQ(receive_code(&owned, 0), -EAGAIN);
}
