// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Signals and bloom filters: one sender, three receivers, each with its own interest.
 *
 *     broadcast
 *
 * A signal is sent to nobody in particular; it reaches the connections that have a match for it. The bus does not
 * understand what a signal is about. Sender and receivers turn topics into bits, in a way that they agree on: the
 * sender puts the bits of all the signal's topics into its filter, a receiver puts those that it insists on into its
 * mask, and the bus delivers where the filter has all bits of the mask. Different topics may share bits, so that a
 * receiver may get what it did not ask for, but never misses what it did ask for.
 *
 * All four connections live in this one process. When SEND returns, the signal is in the queues of all who get it, so
 * that an empty queue afterwards means: not delivered.
 */
#include "common.h"

#define RECEIVERS 3

/* FNV-1a, 64 bits: simple, and good enough to spread topics. */
static __u64 hash(const char *text)
{
	__u64 value = 0xcbf29ce484222325ULL;

	for (; *text; text++)
		value = (value ^ (unsigned char)*text) * 0x100000001b3ULL;
	return value;
}

/* Sets the bits of one topic. The bus's parameters say how many there are and how many to set; the positions come from
 * two halves of one hash. */
static void add_topic(const struct kdbus_bloom_parameter *bloom, __u64 *bits, const char *topic)
{
	__u64 value = hash(topic);
	__u64 first = value & 0xffffffff, step = value >> 32 | 1;

	for (__u64 i = 0; i < bloom->n_hash; i++) {
		__u64 position = (first + i * step) % (bloom->size * 8);

		bits[position / 64] |= 1ULL << position % 64;
	}
}

static __u64 *new_bits(const struct kdbus_bloom_parameter *bloom)
{
	__u64 *bits = calloc(1, bloom->size);

	if (!bits)
		fail("out of memory");
	return bits;
}

/* Wants all signals about the topic; NULL stands for all signals (an empty mask fits every filter). */
static void subscribe(const struct peer *peer, const char *topic)
{
	__u64 *mask = new_bits(&peer->bloom);

	if (topic)
		add_topic(&peer->bloom, mask, topic);
	add_match(peer, KDBUS_ITEM_BLOOM_MASK, mask, peer->bloom.size);
	free(mask);
}

static void publish(const struct peer *peer, const char *topic, const char *text)
{
	struct buffer buffer;
	struct kdbus_msg *signal = begin_message(&buffer, KDBUS_DST_ID_BROADCAST, 1);
	struct kdbus_bloom_filter filter = { .generation = 0 };
	__u64 *bits = new_bits(&peer->bloom);
	char *item;

	signal->flags = KDBUS_MSG_SIGNAL;
	add_payload(&buffer, text, strlen(text) + 1);
	add_topic(&peer->bloom, bits, topic);
	item = add_item(&buffer, KDBUS_ITEM_BLOOM_FILTER, NULL, sizeof(filter) + peer->bloom.size);
	memcpy(item, &filter, sizeof(filter));
	memcpy(item + sizeof(filter), bits, peer->bloom.size);
	free(bits);
	if (send_message(peer, &buffer) < 0)
		fail("cannot send a signal: %s", strerror(errno));
}

int main(void)
{
	static const char *const topics[RECEIVERS] = { "weather", "sports", NULL };
	const char *bus = bus_name("broadcast");
	struct peer sender, receivers[RECEIVERS];

	setlinebuf(stdout);
	make_bus(bus);
	sender = connect_to_bus(bus, 0, 0);
	for (int i = 0; i < RECEIVERS; i++) {
		receivers[i] = connect_to_bus(bus, 0, 0);
		subscribe(&receivers[i], topics[i]);
	}

	publish(&sender, "weather", "rain is coming");
	publish(&sender, "sports", "two to one");
	publish(&sender, "weather", "it rains");

	for (int i = 0; i < RECEIVERS; i++) {
		const char *topic = topics[i] ? topics[i] : "everything";
		const struct kdbus_msg *message;
		char text[256];

		while ((message = receive(&receivers[i]))) {
			copy_payload(&receivers[i], message, text, sizeof(text));
			printf("%s: %s\n", topic, text);
			release(&receivers[i], message);
		}
		if (errno != EAGAIN)
			fail("the subscriber of %s cannot receive: %s", topic, strerror(errno));
		disconnect(&receivers[i]);
	}
	disconnect(&sender);
	return EXIT_SUCCESS;
}
