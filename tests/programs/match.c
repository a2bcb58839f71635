// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Matches: which broadcasts, signals and notifications reach a connection. All rules of a match have to hold, and one
 * match is enough.
 */
#include "e2e.h"

#define NAME "org.example.Name"
#define OTHER "org.example.Other"
#define ANY KDBUS_MATCH_ID_ANY
#define MANY 300
#define SIGNALS_TO_MANY 30

static int broadcast(const struct connection *sender, __u64 cookie)
{
	return SEND(sender, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL, .cookie = cookie);
}

static int broadcast_bloom(const struct connection *sender, __u64 cookie, const void *bloom, __u64 generation)
{
	return SEND(sender, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL, .cookie = cookie, .bloom = bloom,
		    .generation = generation);
}

/* A mask or filter with the bits `first` to `last` set. */
static const unsigned char *bits(unsigned char *bytes, int first, int last)
{
	memset(bytes, 0, BLOOM_SIZE);
	for (int bit = first; bit <= last; bit++)
		bytes[bit / 8] |= (unsigned char)(1 << bit % 8);
	return bytes;
}

CASE(without_a_match_nothing_comes)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path), other;

	EQ(broadcast(&sender, 1), 0);
	other = hello(bus.path);
	EQ(acquire(&other, NAME, 0), 0);
	EQ(byebye(&other), 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(an_empty_match_fits_everything)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct buffer buffer;

	begin_match(&buffer, 1, 0);
	EQ(match_command(&receiver, &buffer), 0);
	EQ(broadcast(&sender, 1), 0);
	EQ(receive(&receiver)->cookie, 1);
	EQ(acquire(&sender, NAME, 0), 0);
	CHECK(find(receive(&receiver), KDBUS_ITEM_NAME_ADD));
	EQ(remove_match(&receiver, 1), 0);
	EQ(broadcast(&sender, 2), 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(nobody_gets_its_own_broadcasts)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);

	EQ(match_everything(&sender), 0);
	EQ(match_everything(&receiver), 0);
	EQ(broadcast(&sender, 1), 0);
	EQ(receive_code(&sender, 0), -EAGAIN);
	EQ(receive_code(&receiver, 0), 0);
}

/* Each of many receivers takes its turn after each signal. */
CASE(a_signal_to_many)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), *receivers = calloc(MANY, sizeof(*receivers));

	CHECK(receivers);
	for (int i = 0; i < MANY; i++) {
		receivers[i] = hello(bus.path);
		EQ(match_everything(&receivers[i]), 0);
	}
	for (__u64 cookie = 1; cookie <= SIGNALS_TO_MANY; cookie++) {
		EQ(broadcast(&sender, cookie), 0);
		for (int i = 0; i < MANY; i++) {
			const struct kdbus_msg *message = receive(&receivers[i]);

			EQ(message->cookie, cookie);
			EQ(message->src_id, sender.id);
			done(&receivers[i], message);
		}
	}
	free(receivers);
}

static int signal_to(const struct connection *sender, const struct connection *receiver, __u64 cookie)
{
	return SEND(sender, .to = receiver->id, .flags = KDBUS_MSG_SIGNAL, .cookie = cookie, .payload = &cookie,
		    .size = sizeof(cookie));
}

/* Who asked for it gets it; what is known of one receiver says nothing about another, and nothing about later. */
CASE(a_signal_to_one)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path), other = hello(bus.path);

	EQ(match_everything(&receiver), 0);
	for (int round = 0; round < 3; round++) {
		EQ(signal_to(&sender, &other, 1), -EPERM);
		EQ(receive_code(&other, 0), -EAGAIN);
		for (__u64 cookie = 1; cookie <= 200; cookie++) {
			EQ(signal_to(&sender, &receiver, cookie), 0);
			const struct kdbus_msg *message = receive(&receiver);

			EQ(message->cookie, cookie);
			EQ(message->src_id, sender.id);
			EQ(message->dst_id, receiver.id);
			done(&receiver, message);
			EQ(receive_code(&receiver, 0), -EAGAIN);
		}
		EQ(broadcast(&sender, 1000), 0);
		done(&receiver, receive(&receiver));
		EQ(receive_code(&other, 0), -EAGAIN);
		EQ(remove_match(&receiver, 1), 0);
		EQ(signal_to(&sender, &receiver, 1), -EPERM);
		EQ(match_everything(&receiver), 0);
	}
	/* And as many as its queue has room for. */
	for (__u64 cookie = 1; !signal_to(&sender, &receiver, cookie); cookie++)
		GE(10000, cookie);
	EQ(signal_to(&sender, &receiver, 1), -ENOBUFS);
}

CASE(bloom_masks)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	unsigned char mask[BLOOM_SIZE], filter[BLOOM_SIZE];

	EQ(add_match(&receiver, 1, 0, KDBUS_ITEM_BLOOM_MASK, bits(mask, 100, 103), BLOOM_SIZE), 0);
	EQ(broadcast_bloom(&sender, 1, bits(filter, 100, 103), 0), 0);
	EQ(broadcast_bloom(&sender, 2, bits(filter, 100, 102), 0), 0);
	EQ(broadcast_bloom(&sender, 3, bits(filter, 0, 511), 0), 0);
	EQ(broadcast_bloom(&sender, 4, bits(filter, 0, 99), 0), 0);
	EQ(broadcast(&sender, 5), 0);
	EQ(receive(&receiver)->cookie, 1);
	EQ(receive(&receiver)->cookie, 3);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	/* A mask without bits is in every filter. */
	EQ(add_match(&receiver, 2, 0, KDBUS_ITEM_BLOOM_MASK, bits(mask, 1, 0), BLOOM_SIZE), 0);
	EQ(broadcast(&sender, 6), 0);
	EQ(receive(&receiver)->cookie, 6);
}

CASE(bloom_generations)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	unsigned char masks[3][BLOOM_SIZE], filter[BLOOM_SIZE];

	for (int generation = 0; generation < 3; generation++)
		bits(masks[generation], generation, generation);
	EQ(add_match(&receiver, 1, 0, KDBUS_ITEM_BLOOM_MASK, masks, sizeof(masks)), 0);
	for (__u64 generation = 0; generation < 5; generation++) {
		int counts = generation < 3 ? (int)generation : 2;	/* the last stands for all later ones */

		for (int bit = 0; bit < 3; bit++) {
			EQ(broadcast_bloom(&sender, 1, bits(filter, bit, bit), generation), 0);
			EQ(receive_code(&receiver, 0), bit == counts ? 0 : -EAGAIN);
		}
	}
	EQ(broadcast_bloom(&sender, 1, bits(filter, 2, 2), ~0ULL), 0);
	EQ(receive_code(&receiver, 0), 0);
}

CASE(sizes_of_blooms)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	unsigned char mask[2 * BLOOM_SIZE] = {};
	static const size_t wrong[] = { 0, 8, BLOOM_SIZE - 8, BLOOM_SIZE - 1, BLOOM_SIZE + 1, BLOOM_SIZE + 8 };
	struct buffer message;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		EQ(add_match(&receiver, 1, 0, KDBUS_ITEM_BLOOM_MASK, mask, wrong[i]), -EDOM);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		write_letter(&(struct letter) { .to = receiver.id }, &message);
		((struct kdbus_msg *)message.words)->flags = KDBUS_MSG_SIGNAL;
		add(&message, KDBUS_ITEM_BLOOM_FILTER, NULL, 8 + wrong[i]);
		EQ(send_buffer(&sender, &message, 0, 0, NULL), wrong[i] % 8 ? -EFAULT : -EDOM);
	}
	write_letter(&(struct letter) { .to = receiver.id }, &message);
	add(&message, KDBUS_ITEM_BLOOM_FILTER, NULL, 7);
	EQ(send_buffer(&sender, &message, 0, 0, NULL), -EINVAL);
	write_letter(&(struct letter) { .to = receiver.id, .flags = KDBUS_MSG_SIGNAL }, &message);
	add(&message, KDBUS_ITEM_BLOOM_FILTER, NULL, 8 + BLOOM_SIZE);
	EQ(send_buffer(&sender, &message, 0, 0, NULL), -EEXIST);
	/* A filter makes a signal, and a signal needs one. */
	EQ(SEND(&sender, .to = receiver.id, .bloom = mask), -EBADMSG);
	write_letter(&(struct letter) { .to = receiver.id }, &message);
	((struct kdbus_msg *)message.words)->flags = KDBUS_MSG_SIGNAL;
	EQ(send_buffer(&sender, &message, 0, 0, NULL), -EBADMSG);
}

CASE(by_the_senders_id)
{
	struct bus bus = new_bus(0);
	struct connection senders[2] = { hello(bus.path), hello(bus.path) }, receiver = hello(bus.path);

	EQ(add_match(&receiver, 1, 0, KDBUS_ITEM_ID, &senders[1].id, sizeof(__u64)), 0);
	EQ(broadcast(&senders[0], 1), 0);
	EQ(broadcast(&senders[1], 2), 0);
	EQ(receive(&receiver)->src_id, senders[1].id);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(by_the_senders_name)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path), waiting = hello(bus.path);

	EQ(add_match(&receiver, 1, 0, KDBUS_ITEM_NAME, NAME, sizeof(NAME)), 0);
	EQ(broadcast(&sender, 1), 0);
	EQ(acquire(&sender, NAME, 0), 0);
	EQ(acquire(&waiting, NAME, KDBUS_NAME_QUEUE), 0);
	EQ(broadcast(&sender, 2), 0);
	EQ(broadcast(&waiting, 3), 0);
	EQ(release_name(&sender, NAME), 0);
	EQ(broadcast(&sender, 4), 0);
	EQ(broadcast(&waiting, 5), 0);
	EQ(receive(&receiver)->cookie, 2);
	EQ(receive(&receiver)->cookie, 5);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	EQ(add_match(&receiver, 1, 0, KDBUS_ITEM_NAME, "nodots", sizeof("nodots")), -EINVAL);
	EQ(add_match(&receiver, 1, 0, KDBUS_ITEM_NAME, "org.*", sizeof("org.*")), -EINVAL);
}

CASE(all_rules_of_a_match_hold)
{
	struct bus bus = new_bus(0);
	struct connection senders[2] = { hello(bus.path), hello(bus.path) }, receiver = hello(bus.path);
	unsigned char mask[BLOOM_SIZE], filter[BLOOM_SIZE];
	struct buffer buffer;

	EQ(acquire(&senders[0], NAME, 0), 0);
	begin_match(&buffer, 1, 0);
	add_string(&buffer, KDBUS_ITEM_NAME, NAME);
	add(&buffer, KDBUS_ITEM_BLOOM_MASK, bits(mask, 5, 5), BLOOM_SIZE);
	add_u64(&buffer, KDBUS_ITEM_ID, senders[0].id);
	EQ(match_command(&receiver, &buffer), 0);
	EQ(broadcast_bloom(&senders[0], 1, bits(filter, 6, 6), 0), 0);
	EQ(broadcast_bloom(&senders[1], 2, bits(filter, 5, 5), 0), 0);
	EQ(broadcast_bloom(&senders[0], 3, bits(filter, 5, 6), 0), 0);
	EQ(receive(&receiver)->cookie, 3);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	/* Rules about messages and about notifications exclude each other. */
	begin_match(&buffer, 2, 0);
	add_u64(&buffer, KDBUS_ITEM_ID, ANY);
	add(&buffer, KDBUS_ITEM_ID_ADD, &(struct kdbus_notify_id_change) { .id = ANY }, 16);
	EQ(match_command(&receiver, &buffer), 0);
	EQ(remove_match(&receiver, 1), 0);
	EQ(broadcast(&senders[0], 4), 0);
	hello(bus.path);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(any_match_is_enough_and_one_copy_comes)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);

	for (__u64 cookie = 1; cookie <= 3; cookie++)
		EQ(add_match(&receiver, cookie, 0, KDBUS_ITEM_ID, &sender.id, sizeof(__u64)), 0);
	EQ(broadcast(&sender, 1), 0);
	EQ(receive_code(&receiver, 0), 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(replace_and_remove)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);

	EQ(remove_match(&receiver, 7), -ENOENT);
	EQ(add_match(&receiver, 7, KDBUS_MATCH_REPLACE, KDBUS_ITEM_ID, &sender.id, 8), 0);
	EQ(broadcast(&sender, 1), 0);
	EQ(receive_code(&receiver, 0), 0);
	/* Without REPLACE a second match of that cookie stands beside the first. */
	EQ(add_match(&receiver, 7, 0, KDBUS_ITEM_ID, &receiver.id, 8), 0);
	EQ(broadcast(&sender, 2), 0);
	EQ(receive_code(&receiver, 0), 0);
	EQ(add_match(&receiver, 7, KDBUS_MATCH_REPLACE, KDBUS_ITEM_ID, &receiver.id, 8), 0);
	EQ(broadcast(&sender, 3), 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	EQ(match_id(&receiver, 7, KDBUS_ITEM_ID_ADD, ANY), 0);
	hello(bus.path);
	EQ(receive_code(&receiver, 0), 0);
	/* One REMOVE takes all of a cookie. */
	EQ(remove_match(&receiver, 7), 0);
	EQ(remove_match(&receiver, 7), -ENOENT);
	hello(bus.path);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	EQ(add_match(&receiver, 7, 2, KDBUS_ITEM_ID, &sender.id, 8), -EINVAL);
	EQ(add_match(&receiver, 7, 0, KDBUS_ITEM_CREDS, &(struct kdbus_creds) {}, sizeof(struct kdbus_creds)), -EINVAL);
	EQ(add_match(&receiver, 7, 0, KDBUS_ITEM_ID, &sender.id, 4), -EINVAL);
}

CASE(the_257th_match)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);

	for (__u64 cookie = 0; cookie < 256; cookie++)
		EQ(add_match(&receiver, cookie, 0, KDBUS_ITEM_ID, &sender.id, 8), 0);
	EQ(add_match(&receiver, 256, 0, KDBUS_ITEM_ID, &sender.id, 8), -EMFILE);
	EQ(add_match(&receiver, 255, KDBUS_MATCH_REPLACE, KDBUS_ITEM_ID, &sender.id, 8), 0);
	EQ(remove_match(&receiver, 100), 0);
	EQ(add_match(&receiver, 256, 0, KDBUS_ITEM_ID, &sender.id, 8), 0);
	EQ(add_match(&receiver, 257, 0, KDBUS_ITEM_ID, &sender.id, 8), -EMFILE);
}

CASE(unicast_signals_need_a_match)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);

	EQ(SEND(&sender, .to = receiver.id, .flags = KDBUS_MSG_SIGNAL), -EPERM);
	EQ(match_everything(&receiver), 0);
	EQ(SEND(&sender, .to = receiver.id, .flags = KDBUS_MSG_SIGNAL, .cookie = 5), 0);
	EQ(receive(&receiver)->flags, KDBUS_MSG_SIGNAL);
	EQ(acquire(&receiver, NAME, 0), 0);
	EQ(SEND(&sender, .name = NAME, .flags = KDBUS_MSG_SIGNAL, .cookie = 6), 0);
	EQ(receive(&receiver)->cookie, 6);
}

CASE(what_broadcasts_may_not_be)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path);

	EQ(SEND(&sender, .to = KDBUS_DST_ID_BROADCAST), -EBADMSG);
	EQ(SEND(&sender, .to = KDBUS_DST_ID_BROADCAST, .name = NAME, .flags = KDBUS_MSG_SIGNAL), -EBADMSG);
	EQ(SEND(&sender, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL, .reply_to = 4), -ENOTUNIQ);
	EQ(SEND(&sender, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_EXPECT_REPLY, .cookie = 1, .deadline = FOREVER),
	   -ENOTUNIQ);
	EQ(SEND(&sender, .to = KDBUS_DST_ID_BROADCAST, .cookie = 1, .deadline = FOREVER,
		.flags = KDBUS_MSG_EXPECT_REPLY | KDBUS_MSG_SIGNAL), -ENOTUNIQ);
	EQ(SEND(&sender, .to = sender.id, .cookie = 1, .deadline = FOREVER,
		.flags = KDBUS_MSG_EXPECT_REPLY | KDBUS_MSG_SIGNAL), -EINVAL);
}

CASE(lost_broadcasts_are_counted)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct kdbus_cmd_recv recv = {};

	EQ(match_everything(&receiver), 0);
	/* 16 are free, 16 are charged to the user, the other 8 are lost. */
	for (__u64 cookie = 1; cookie <= 40; cookie++)
		EQ(broadcast(&sender, cookie), 0);
	EQ(receive_into(&receiver, &recv), -EOVERFLOW);
	EQ(recv.dropped_msgs, 8);
	EQ(recv.msg.offset, 0);
	for (__u64 cookie = 1; cookie <= 32; cookie++)
		EQ(receive(&receiver)->cookie, cookie);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(drop_comes_before_the_count_of_lost_ones)
{
	struct bus bus = new_bus(0);
	struct connection sender = hello(bus.path), receiver = hello(bus.path);
	struct kdbus_cmd_recv recv = { .flags = KDBUS_RECV_PEEK };

	EQ(match_everything(&receiver), 0);
	for (__u64 cookie = 1; cookie <= 33; cookie++)
		EQ(broadcast(&sender, cookie), 0);
	EQ(receive_code(&receiver, KDBUS_RECV_DROP), 0);
	EQ(receive_into(&receiver, &recv), -EOVERFLOW);
	EQ(recv.dropped_msgs, 1);
	EQ(receive(&receiver)->cookie, 2);
}

CASE(ids_coming_and_going)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello(bus.path), first, second;
	const struct kdbus_msg *message;

	EQ(match_id(&receiver, 1, KDBUS_ITEM_ID_ADD, receiver.id + 2), 0);
	EQ(match_id(&receiver, 1, KDBUS_ITEM_ID_REMOVE, receiver.id + 1), 0);
	first = hello_with(bus.path, 0, 0, 0);
	second = hello_with(bus.path, KDBUS_HELLO_ACCEPT_FD, 0, 0);
	EQ(byebye(&second), 0);
	EQ(byebye(&first), 0);
	message = receive(&receiver);
	EQ(get(message, KDBUS_ITEM_ID_ADD)->id_change.id, second.id);
	EQ(get(message, KDBUS_ITEM_ID_ADD)->id_change.flags, KDBUS_HELLO_ACCEPT_FD);
	EQ(get(message, KDBUS_ITEM_ID_ADD)->size, HEADER + 16);
	message = receive(&receiver);
	EQ(get(message, KDBUS_ITEM_ID_REMOVE)->id_change.id, first.id);
	EQ(get(message, KDBUS_ITEM_ID_REMOVE)->id_change.flags, 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	EQ(match_id(&receiver, 2, KDBUS_ITEM_ID_REMOVE, ANY), 0);
	CHECK(!close(hello(bus.path).fd));
	CHECK(find(await_message(&receiver), KDBUS_ITEM_ID_REMOVE));
}

CASE(names_coming_going_and_changing)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello(bus.path), first = hello(bus.path), second = hello(bus.path);
	const struct kdbus_notify_name_change *change;

	EQ(match_name(&receiver, 1, KDBUS_ITEM_NAME_ADD, ANY, ANY, NAME), 0);
	EQ(match_name(&receiver, 2, KDBUS_ITEM_NAME_CHANGE, first.id, second.id, NULL), 0);
	EQ(match_name(&receiver, 3, KDBUS_ITEM_NAME_REMOVE, second.id, ANY, NAME), 0);
	EQ(acquire(&first, OTHER, 0), 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	EQ(acquire(&first, NAME, KDBUS_NAME_ALLOW_REPLACEMENT), 0);
	change = &get(receive(&receiver), KDBUS_ITEM_NAME_ADD)->name_change;
	EQ(change->old_id.id, 0);
	EQ(change->old_id.flags, 0);
	EQ(change->new_id.id, first.id);
	EQ(change->new_id.flags, KDBUS_NAME_ALLOW_REPLACEMENT);
	SAME(change->name, NAME);
	EQ(acquire(&second, NAME, KDBUS_NAME_REPLACE_EXISTING), 0);
	change = &get(receive(&receiver), KDBUS_ITEM_NAME_CHANGE)->name_change;
	EQ(change->old_id.id, first.id);
	EQ(change->old_id.flags, KDBUS_NAME_ALLOW_REPLACEMENT);
	EQ(change->new_id.id, second.id);
	EQ(change->new_id.flags, KDBUS_NAME_REPLACE_EXISTING);
	EQ(release_name(&second, NAME), 0);
	change = &get(receive(&receiver), KDBUS_ITEM_NAME_REMOVE)->name_change;
	EQ(change->old_id.id, second.id);
	EQ(change->new_id.id, 0);
	EQ(release_name(&first, OTHER), 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

CASE(ids_narrow_rules_about_names)
{
	struct bus bus = new_bus(0);
	struct connection receiver = hello(bus.path), owner = hello(bus.path), other = hello(bus.path);

	EQ(match_name(&receiver, 1, KDBUS_ITEM_NAME_ADD, ANY, owner.id, NULL), 0);
	EQ(match_name(&receiver, 1, KDBUS_ITEM_NAME_REMOVE, owner.id, ANY, NULL), 0);
	EQ(acquire(&other, OTHER, 0), 0);
	EQ(release_name(&other, OTHER), 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	EQ(acquire(&owner, OTHER, 0), 0);
	EQ(receive_code(&receiver, 0), 0);
	EQ(release_name(&owner, OTHER), 0);
	EQ(receive_code(&receiver, 0), 0);
	/* A new name comes from nobody, which is id 0 and not any. */
	EQ(remove_match(&receiver, 1), 0);
	EQ(match_name(&receiver, 1, KDBUS_ITEM_NAME_ADD, 0, ANY, NULL), 0);
	EQ(match_name(&receiver, 2, KDBUS_ITEM_NAME_ADD, owner.id, ANY, NULL), 0);
	EQ(acquire(&owner, OTHER, 0), 0);
	EQ(receive_code(&receiver, 0), 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
	/* An empty name is a name, which nothing has. */
	EQ(remove_match(&receiver, 1), 0);
	EQ(match_name(&receiver, 1, KDBUS_ITEM_NAME_ADD, 0, ANY, ""), 0);
	EQ(acquire(&owner, NAME, 0), 0);
	EQ(receive_code(&receiver, 0), -EAGAIN);
}

ROOT_CASE(a_receiver_must_be_allowed_to_talk_to_the_sender)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct connection sender = hello(bus.path), holder;
	int connected = new_event(), sent = new_event();
	pid_t child = start_child();

	if (!child) {
		struct connection receiver;

		become(NOBODY, NOBODY);
		receiver = hello(bus.path);
		EQ(match_everything(&receiver), 0);
		post(connected);
		await(sent);
		EQ(receive(&receiver)->cookie, 2);
		EQ(receive_code(&receiver, 0), -EAGAIN);
		finish_child(0);
	}
	await(connected);
	EQ(broadcast(&sender, 1), 0);
	holder = special(bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, KDBUS_POLICY_TALK);
	EQ(acquire(&sender, NAME, 0), 0);
	EQ(broadcast(&sender, 2), 0);
	CHECK(!close(holder.fd));
	/* The next command sees that the policy is gone. */
	EQ(broadcast(&sender, 3), 0);
	post(sent);
	join(child);
}
