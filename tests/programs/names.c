// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Messages to well-known names: whoever has a name at the moment gets them, whether calls are served by the broker or
 * natively, and natively by whichever of its many names a connection is addressed.
 */
#include "e2e.h"

#define NAME "org.example.Moves"
#define MANY 100
#define ROUNDS 20
#define CALLS 20

static int send_to_name(const struct connection *from, const char *name, __u64 id, __u64 cookie)
{
	return SEND(from, .to = id, .name = name, .cookie = cookie);
}

static void expect(const struct connection *receiver, __u64 cookie)
{
	const struct kdbus_msg *message = receive(receiver);

	EQ(message->cookie, cookie);
	done(receiver, message);
}

static void expect_for(const struct connection *owner, const char *name, __u64 cookie)
{
	const struct kdbus_msg *message = receive(owner);

	EQ(message->cookie, cookie);
	CHECK(!strcmp(get(message, KDBUS_ITEM_DST_NAME)->str, name));
	done(owner, message);
}

CASE(any_of_many_names)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), owner = hello(bus.path);
	char name[64];

	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), NAME "%d", i);
		EQ(acquire(&owner, name, 0), 0);
	}
	for (__u64 cookie = 1; cookie <= 4 * MANY; cookie++) {
		snprintf(name, sizeof(name), NAME "%d", (int)(cookie * 37 % MANY));
		EQ(send_to_name(&sender, name, 0, cookie), 0);
		expect_for(&owner, name, cookie);
	}
	EQ(send_to_name(&sender, NAME, 0, 1), -ESRCH);
}

CASE(a_name_that_changes_hands)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), owners[2] = { hello(bus.path), hello(bus.path) };
	__u64 cookie = 0;

	for (int round = 0; round < ROUNDS; round++) {
		struct connection *owner = &owners[round % 2], *other = &owners[!(round % 2)];

		EQ(acquire(owner, NAME, KDBUS_NAME_REPLACE_EXISTING | KDBUS_NAME_ALLOW_REPLACEMENT), 0);
		for (int i = 0; i < CALLS; i++) {
			EQ(send_to_name(&sender, NAME, 0, ++cookie), 0);
			expect_for(owner, NAME, cookie);
			EQ(send_to_name(&sender, NAME, owner->id, ++cookie), 0);
			expect_for(owner, NAME, cookie);
			EQ(send_to_name(&sender, NAME, other->id, ++cookie), -EREMCHG);
			/* Both are known as receivers. */
			EQ(SEND(&sender, .to = other->id, .cookie = ++cookie), 0);
			expect(other, cookie);
		}
	}
}

CASE(a_name_that_is_given_up)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), owner = hello(bus.path);
	__u64 cookie = 0;

	for (int round = 0; round < ROUNDS; round++) {
		EQ(acquire(&owner, NAME, 0), 0);
		for (int i = 0; i < CALLS; i++) {
			EQ(send_to_name(&sender, NAME, 0, ++cookie), 0);
			expect_for(&owner, NAME, cookie);
		}
		EQ(release_name(&owner, NAME), 0);
		for (int i = 0; i < CALLS; i++) {
			EQ(SEND(&sender, .to = owner.id, .cookie = ++cookie), 0);
			expect(&owner, cookie);
			EQ(send_to_name(&sender, NAME, 0, cookie), -ESRCH);
		}
	}
}

CASE(the_same_name_on_two_buses)
{
	struct bus buses[2] = { new_bus(0), { .fd = open_control() } };
	struct connection senders[2], owners[2];
	char name[32];

	snprintf(name, sizeof(name), "%u-another", geteuid());
	EQ(try_bus(&buses[1], name, 0, 0, _KDBUS_ATTACH_ALL), 0);
	for (int i = 0; i < 2; i++) {
		senders[i] = hello(buses[i].path);
		owners[i] = hello(buses[i].path);
		EQ(acquire(&owners[i], NAME, 0), 0);
	}
	for (__u64 cookie = 1; cookie <= CALLS * ROUNDS; cookie++) {
		for (int i = 0; i < 2; i++)
			EQ(send_to_name(&senders[i], NAME, 0, 2 * cookie + i), 0);
		for (int i = 0; i < 2; i++)
			expect_for(&owners[i], NAME, 2 * cookie + i);
	}
}
