// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Policy on the default endpoint of a bus: what privilege and the same user give for nothing, and what the entries of
 * policy holders add to that, for users without privileges.
 */
#include "e2e.h"

#define NAME "org.example.Name"
#define OTHER "org.example.Other"

/* CONN_UPDATE of a policy holder: one name (NULL: none) with up to two entries of {type, access, id}. */
static int update_policy(const struct connection *holder, const char *name, int count, const __u64 entries[][3])
{
	struct buffer buffer;
	struct kdbus_cmd_update *update = begin(&buffer, sizeof(*update));

	add_string(&buffer, KDBUS_ITEM_NAME, name);
	for (int i = 0; i < count; i++)
		add_access(&buffer, entries[i][0], entries[i][1], entries[i][2]);
	return command(holder->fd, KDBUS_CMD_CONN_UPDATE, update);
}

static int set_policy(const struct connection *holder, const char *name, __u64 type, __u64 access, __u64 id)
{
	const __u64 entry[1][3] = { { type, access, id } };

	return update_policy(holder, name, 1, entry);
}

static struct connection policy_holder(const struct bus *bus, const char *name, int access)
{
	return special(bus->path, KDBUS_HELLO_POLICY_HOLDER, name, access);
}

ROOT_CASE(without_entries)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection service = hello(bus.path);

	EQ(acquire(&service, NAME, 0), 0);
	AS(NOBODY) {
		struct connection first = hello(bus.path), second = hello(bus.path);

		EQ(acquire(&first, OTHER, 0), -EPERM);
		EQ(SEND(&first, .name = NAME), -EPERM);
		EQ(SEND(&first, .to = service.id), -EPERM);
		EQ(SEND(&first, .to = service.id, .cookie = 1, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), -EPERM);
		/* To connections of the same user everybody may talk. */
		EQ(SEND(&first, .to = second.id), 0);
		/* Nothing is hidden on the default endpoint. */
		EQ(listed(&first, KDBUS_NAME_LIST_NAMES, service.id, NAME), 1);
		EQ(release_name(&first, NAME), -ESRCH);
	}
	EQ(receive_code(&service, 0), -EAGAIN);
}

ROOT_CASE(the_privileged_may_everything)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection root = hello(bus.path);
	int ready = new_event();
	pid_t child = start_child();

	if (!child) {
		struct connection peer;

		become(NOBODY, NOBODY);
		peer = hello(bus.path);
		EQ(peer.id, root.id + 1);
		post(ready);
		EQ(await_message(&peer)->src_id, root.id);
		finish_child(0);
	}
	await(ready);
	EQ(SEND(&root, .to = root.id + 1), 0);
	EQ(acquire(&root, NAME, 0), 0);
	join(child);
}

ROOT_CASE(privilege_belongs_to_the_open_file)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	int opened_by_root = open(bus.path, O_RDWR);
	struct buffer buffer;

	AS(NOBODY) {
		struct connection late = { .fd = opened_by_root };

		/* Root opened it, so it is privileged whoever says HELLO. */
		begin_hello(&buffer, KDBUS_HELLO_POLICY_HOLDER);
		add_string(&buffer, KDBUS_ITEM_NAME, NAME);
		EQ(command(late.fd, KDBUS_CMD_HELLO, buffer.words), 0);
	}
	AS(NOBODY) {
		int own = open(bus.path, O_RDWR);

		begin_hello(&buffer, KDBUS_HELLO_POLICY_HOLDER);
		add_string(&buffer, KDBUS_ITEM_NAME, OTHER);
		EQ(command(own, KDBUS_CMD_HELLO, buffer.words), -EPERM);
	}
	/* CAP_IPC_OWNER is what counts of root's powers, besides the uid of who made the bus. */
	IN_CHILD {
		CHECK(!prctl(PR_SET_KEEPCAPS, 1));
		CHECK(!setresuid(NOBODY, NOBODY, NOBODY));
		{
			struct { unsigned int version; int pid; } header = { 0x20080522, 0 };
			struct { unsigned int effective, permitted, inheritable; } data[2] = { { 1 << 15, 1 << 15, 0 } };

			CHECK(!syscall(SYS_capset, &header, data));
		}
		policy_holder(&bus, "org.example.Third", KDBUS_POLICY_TALK);
	}
}

ROOT_CASE(who_made_the_bus_is_privileged)
{
	IN_CHILD {
		struct bus bus;
		struct connection service;

		become(NOBODY, NOBODY);
		bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
		service = hello(bus.path);
		EQ(acquire(&service, NAME, 0), 0);
		policy_holder(&bus, NAME, KDBUS_POLICY_TALK);
	}
}

ROOT_CASE(talk_and_own)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection service = hello(bus.path), holder = policy_holder(&bus, NAME, KDBUS_POLICY_SEE);
	struct { __u64 access; int talk, own; } levels[] = {
		{ KDBUS_POLICY_SEE, -EPERM, -EPERM }, { KDBUS_POLICY_TALK, 0, -EPERM }, { KDBUS_POLICY_OWN, 0, 0 },
	};

	for (size_t i = 0; i < 3; i++) {
		EQ(set_policy(&holder, NAME, KDBUS_POLICY_ACCESS_WORLD, levels[i].access, 0), 0);
		EQ(acquire(&service, NAME, 0), 0);
		AS(NOBODY) {
			struct connection client = hello(bus.path);

			EQ(SEND(&client, .name = NAME), levels[i].talk);
			EQ(SEND(&client, .to = service.id), levels[i].talk);
			EQ(acquire(&client, OTHER, 0), -EPERM);
			EQ(acquire(&client, NAME, 0), levels[i].own ? -EPERM : -EEXIST);
		}
		EQ(release_name(&service, NAME), 0);
		AS(NOBODY) {
			struct connection client = hello(bus.path);

			EQ(SEND(&client, .to = service.id), -EPERM);
			EQ(acquire(&client, NAME, 0), levels[i].own);
		}
		while (!receive_code(&service, 0))
			;
	}
}

ROOT_CASE(users_groups_and_the_world)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection service = hello(bus.path), holder = policy_holder(&bus, NAME, -1);
	const __u64 both[][3] = { { KDBUS_POLICY_ACCESS_USER, KDBUS_POLICY_TALK, NOBODY },
				  { KDBUS_POLICY_ACCESS_WORLD, KDBUS_POLICY_SEE, 0 } };

	EQ(acquire(&service, NAME, 0), 0);
	EQ(set_policy(&holder, NAME, KDBUS_POLICY_ACCESS_USER, KDBUS_POLICY_TALK, NOBODY), 0);
	AS(NOBODY) {
		struct connection client = hello(bus.path);

		EQ(SEND(&client, .name = NAME), 0);
	}
	AS(SOMEBODY) {
		struct connection client = hello(bus.path);

		EQ(SEND(&client, .name = NAME), -EPERM);
	}
	EQ(set_policy(&holder, NAME, KDBUS_POLICY_ACCESS_GROUP, KDBUS_POLICY_TALK, SOMEBODY), 0);
	AS(NOBODY) {
		struct connection client = hello(bus.path);

		EQ(SEND(&client, .name = NAME), -EPERM);
	}
	IN_CHILD {
		struct connection client;

		CHECK(!setgroups(2, (gid_t[]) { 9, SOMEBODY }));
		CHECK(!setresgid(7, 7, 7));
		CHECK(!setresuid(7, 7, 7));
		client = hello(bus.path);
		EQ(SEND(&client, .name = NAME), 0);
	}
	/* The best of all entries counts. */
	EQ(update_policy(&holder, NAME, 2, both), 0);
	AS(NOBODY) {
		struct connection client = hello(bus.path);

		EQ(SEND(&client, .name = NAME), 0);
		EQ(acquire(&client, NAME, 0), -EPERM);
	}
}

ROOT_CASE(the_threads_credentials_count_at_each_call)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection service = hello(bus.path), holder = policy_holder(&bus, NAME, -1);

	EQ(acquire(&service, NAME, 0), 0);
	EQ(set_policy(&holder, NAME, KDBUS_POLICY_ACCESS_USER, KDBUS_POLICY_TALK, NOBODY), 0);
	IN_CHILD {
		struct connection client, peer;

		CHECK(!setresuid(SOMEBODY, SOMEBODY, NOBODY));
		client = hello(bus.path);
		peer = hello(bus.path);
		EQ(SEND(&client, .name = NAME), -EPERM);
		CHECK(!setresuid(-1, NOBODY, -1));
		EQ(SEND(&client, .name = NAME), 0);
		/* The same user: my effective uid against the other's real one when it said HELLO. */
		EQ(SEND(&client, .to = peer.id), -EPERM);
		CHECK(!setresuid(-1, SOMEBODY, -1));
		EQ(SEND(&client, .to = peer.id), 0);
	}
}

ROOT_CASE(any_name_of_the_receiver_will_do)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection service = hello(bus.path), holder = policy_holder(&bus, NAME, KDBUS_POLICY_TALK);

	EQ(acquire(&service, NAME, 0), 0);
	EQ(acquire(&service, OTHER, 0), 0);
	AS(NOBODY) {
		struct connection client = hello(bus.path);

		EQ(SEND(&client, .name = OTHER), 0);
		EQ(SEND(&client, .to = service.id), 0);
	}
	CHECK(!close(holder.fd));
	AS(NOBODY) {
		struct connection client = hello(bus.path);

		EQ(SEND(&client, .name = OTHER), -EPERM);
	}
}

ROOT_CASE(a_reply_needs_no_permission)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection client = hello(bus.path);
	pid_t child = start_child();

	if (!child) {
		struct connection service;
		const struct kdbus_msg *message;

		become(NOBODY, NOBODY);
		service = hello(bus.path);
		EQ(SEND(&service, .to = client.id, .cookie = 1), -EPERM);
		EQ(match_id(&service, 1, KDBUS_ITEM_ID_ADD, KDBUS_MATCH_ID_ANY), 0);
		message = await_message(&service);
		EQ(message->cookie, 7);
		EQ(SEND(&service, .to = client.id, .reply_to = 7, .cookie = 2), 0);
		EQ(SEND(&service, .to = client.id, .cookie = 3), -EPERM);
		finish_child(0);
	}
	{
		/* The other one comes when it comes. */
		int result;

		do
			result = SEND(&client, .to = client.id + 1, .cookie = 7, .flags = KDBUS_MSG_EXPECT_REPLY,
				      .deadline = FOREVER);
		while (result == -ENXIO && !sched_yield());
		EQ(result, 0);
	}
	EQ(await_message(&client)->cookie, 2);
	join(child);
}

ROOT_CASE(wildcards)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection wild = policy_holder(&bus, "org.example.*", KDBUS_POLICY_OWN);
	struct connection exact = policy_holder(&bus, "org.example.Closed", KDBUS_POLICY_TALK);

	AS(NOBODY) {
		struct connection peer = hello(bus.path);

		EQ(acquire(&peer, "org.example.One", 0), 0);
		EQ(acquire(&peer, "org.example.Two", 0), 0);
		/* An entry of its own comes before the wildcard, and a wildcard stands for one element. */
		EQ(acquire(&peer, "org.example.Closed", 0), -EPERM);
		EQ(acquire(&peer, "org.example.One.Deep", 0), -EPERM);
		EQ(acquire(&peer, "org.example", 0), -EPERM);
	}
	CHECK(!close(exact.fd));
	CHECK(!close(wild.fd));
}

ROOT_CASE(entries_have_one_owner)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection first = policy_holder(&bus, NAME, KDBUS_POLICY_OWN), second;
	const __u64 none[1][3] = { { 0 } };

	EQ(try_special(&second, bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, KDBUS_POLICY_OWN), -EEXIST);
	second = policy_holder(&bus, OTHER, KDBUS_POLICY_OWN);
	EQ(set_policy(&second, NAME, KDBUS_POLICY_ACCESS_WORLD, KDBUS_POLICY_OWN, 0), -EEXIST);
	/* What failed has left the old entry. */
	AS(NOBODY) {
		struct connection peer = hello(bus.path);

		EQ(acquire(&peer, OTHER, 0), 0);
	}
	EQ(set_policy(&first, "org.example.Third", KDBUS_POLICY_ACCESS_WORLD, KDBUS_POLICY_OWN, 0), 0);
	EQ(set_policy(&second, NAME, KDBUS_POLICY_ACCESS_WORLD, KDBUS_POLICY_OWN, 0), 0);
	AS(NOBODY) {
		struct connection peer = hello(bus.path);

		EQ(acquire(&peer, NAME, 0), 0);
		EQ(acquire(&peer, OTHER, 0), -EPERM);
	}
	CHECK(!close(second.fd));
	AS(NOBODY) {
		struct connection peer = hello(bus.path);

		EQ(acquire(&peer, NAME, 0), -EPERM);
	}
	/* A command without items changes nothing. */
	EQ(update_policy(&first, NULL, 0, none), 0);
	AS(NOBODY) {
		struct connection peer = hello(bus.path);

		EQ(acquire(&peer, "org.example.Third", 0), 0);
	}
}

CASE(bad_policies)
{
	struct bus bus = new_bus(0);
	struct connection holder = policy_holder(&bus, NAME, KDBUS_POLICY_OWN), peer = hello(bus.path);
	struct buffer buffer;
	const __u64 entry[1][3] = { { KDBUS_POLICY_ACCESS_WORLD, KDBUS_POLICY_SEE, 0 } };

	EQ(update_policy(&holder, NULL, 1, entry), -EINVAL);
	EQ(set_policy(&holder, NAME, KDBUS_POLICY_ACCESS_WORLD, 3, 0), -EINVAL);
	EQ(set_policy(&holder, NAME, 0, KDBUS_POLICY_SEE, 0), -EINVAL);
	EQ(set_policy(&holder, NAME, 4, KDBUS_POLICY_SEE, 0), -EINVAL);
	EQ(set_policy(&holder, "nodots", KDBUS_POLICY_ACCESS_WORLD, KDBUS_POLICY_SEE, 0), -EINVAL);
	EQ(set_policy(&holder, NAME, KDBUS_POLICY_ACCESS_USER, KDBUS_POLICY_SEE, ~0U), -EINVAL);
	EQ(set_policy(&holder, NAME, KDBUS_POLICY_ACCESS_GROUP, KDBUS_POLICY_SEE, ~0U), -EINVAL);
	begin(&buffer, sizeof(struct kdbus_cmd_update));
	add_string(&buffer, KDBUS_ITEM_NAME, NAME);
	add_string(&buffer, KDBUS_ITEM_NAME, OTHER);
	EQ(command(holder.fd, KDBUS_CMD_CONN_UPDATE, buffer.words), -E2BIG);
	EQ(set_policy(&peer, NAME, KDBUS_POLICY_ACCESS_WORLD, KDBUS_POLICY_SEE, 0), -EOPNOTSUPP);
	begin(&buffer, sizeof(struct kdbus_cmd_update));
	add_u64(&buffer, KDBUS_ITEM_ATTACH_FLAGS_RECV, 0);
	EQ(command(holder.fd, KDBUS_CMD_CONN_UPDATE, buffer.words), -EOPNOTSUPP);
	begin(&buffer, sizeof(struct kdbus_cmd_update));
	add_u64(&buffer, KDBUS_ITEM_ATTACH_FLAGS_SEND, 0);
	EQ(command(holder.fd, KDBUS_CMD_CONN_UPDATE, buffer.words), -EOPNOTSUPP);
}

ROOT_CASE(broadcasts_between_users)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection listening = hello(bus.path);

	EQ(match_everything(&listening), 0);
	/* A privileged receiver hears everybody; others hear their own user. */
	AS(NOBODY) {
		struct connection sender = hello(bus.path), own = hello(bus.path);

		EQ(match_everything(&own), 0);
		EQ(SEND(&sender, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL, .cookie = 4), 0);
		EQ(receive(&own)->cookie, 4);
		EQ(SEND(&listening, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL), 0);
		EQ(receive_code(&own, 0), -EAGAIN);
	}
	EQ(receive(&listening)->cookie, 4);
}
