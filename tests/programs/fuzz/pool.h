// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What must be true of a pool, whatever was sent: what is given out is aligned, lies within the pool, does not overlap
 * what has been given out before, is well-formed, does not change until it is freed, and belongs to this bus.
 *
 * Payload that was sent from steady memory is marked by its type, and follows a pattern that depends on the message's
 * cookie alone, so that the receiver can recompute it. The cookie names the bus, too. The mark is taken away after the
 * message's own SEND, as the memory of its payload is used again.
 */
#ifndef FUZZ_POOL_H
#define FUZZ_POOL_H

#include "actor.h"

#define PAYLOAD_PATTERN 0x7a7a7a7a66757a7aULL	/* payload_type of messages that can be recomputed */
#define PAYLOAD_ANYTHING 0x6c69776c6c69776cULL
#define TAG(bus) (((uint64_t)(bus) + 1) << 56)

static inline unsigned char pattern(uint64_t cookie, uint64_t position)
{
	return (unsigned char)(mix(cookie + position / 64) >> (position % 8 * 8)) ^ (unsigned char)position;
}

static inline uint64_t sum_of(const unsigned char *bytes, uint64_t size)
{
	uint64_t sum = size;

	for (uint64_t i = 0; i < size; i++)
		sum = (sum ^ bytes[i]) * 0x100000001b3ULL;
	return sum;
}

static inline uint64_t sum_slice(const struct peer *peer, const struct slice *slice)
{
	uint64_t sum = 0;

	if (peer->pool)
		sum = sum_of(peer->pool + slice->offset, slice->size) ^
		      mix(sum_of(peer->pool + slice->from, slice->to - slice->from));
	return sum;
}

static inline bool overlap(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end)
{
	return a < b_end && b < a_end;
}

/* Something was given out: keep it, after it has been compared with all the rest. */
static inline void keep(struct peer *peer, struct slice slice, const char *what)
{
	uint64_t end = slice.offset + slice.size;

	if (peer->exclusive && overlap(slice.offset, end, slice.from, slice.to))
		found("%s: payload at %#llx within its own message at %#llx", what, (unsigned long long)slice.from,
		      (unsigned long long)slice.offset);
	for (unsigned int i = 0; peer->exclusive && i < peer->kept_count; i++) {
		const struct slice *other = &peer->kept[i];
		uint64_t other_end = other->offset + other->size;

		if (overlap(slice.offset, end, other->offset, other_end) ||
		    overlap(slice.offset, end, other->from, other->to) ||
		    overlap(slice.from, slice.to, other->offset, other_end) ||
		    (!other->peeked && !slice.peeked && overlap(slice.from, slice.to, other->from, other->to)))
			found("%s: %#llx of %#llx bytes (payload %#llx to %#llx) overlaps %#llx of %#llx (payload %#llx to %#llx)",
			      what, (unsigned long long)slice.offset, (unsigned long long)slice.size,
			      (unsigned long long)slice.from, (unsigned long long)slice.to, (unsigned long long)other->offset,
			      (unsigned long long)other->size, (unsigned long long)other->from, (unsigned long long)other->to);
	}
	slice.sum = sum_slice(peer, &slice);
	NEED(peer->kept_count < KEPT);
	peer->kept[peer->kept_count++] = slice;
}

static inline void check_place(const struct peer *peer, const char *what, uint64_t offset, uint64_t size,
			       uint64_t least)
{
	if (offset % 8 || size < least || size > peer->pool_size || offset > peer->pool_size - size)
		found("%s: gave out %#llx bytes at %#llx of a pool of %#llx", what, (unsigned long long)size,
		      (unsigned long long)offset, (unsigned long long)peer->pool_size);
}

/* The next item of a list that must be well-formed, NULL at its end. */
static inline const struct kdbus_item *next_item(const char *what, const unsigned char *list, uint64_t size,
						 uint64_t *at)
{
	const struct kdbus_item *item = (const void *)(list + *at);

	if (*at == size)
		return NULL;
	if (size - *at < 16 || item->size < 16 || item->size > size - *at)
		found("%s: an item of %llu bytes in a list with %llu left", what,
		      (unsigned long long)(size - *at < 16 ? 0 : item->size), (unsigned long long)(size - *at));
	*at += ALIGN8(item->size);
	if (*at > size)
		*at = size;
	return item;
}

static inline bool is_string(const struct kdbus_item *item)
{
	return item->size > 16 && memchr(item->str, 0, item->size - 16) == item->str + item->size - 17;
}

/* What RECV with descriptors has installed, or must not have installed, is closed again. */
static inline void close_received(const char *what, int fd, bool installed)
{
	if (!installed && fd != -1)
		found("%s: descriptor %d in a message that was only looked at", what, fd);
	if (fd >= 0) {
		int flags = fcntl(fd, F_GETFD);

		if (flags < 0)
			found("%s: descriptor %d was announced, but not installed", what, fd);
		if (!(flags & FD_CLOEXEC))
			found("%s: descriptor %d is not close-on-exec", what, fd);
		close(fd);
	} else if (installed && fd != -EMFILE && fd != -1 && !(fd == -ENOENT && self->meeting->calls_break_off)) {
		found("%s: descriptor %d is neither one nor EMFILE", what, fd);
	}
}

struct walk {
	const struct peer *peer;
	const struct kdbus_msg *message;
	const char *what;
	bool installed;
	struct slice *slice;
	uint64_t position;	/* in the payload */
	int missing;		/* descriptors that could not be installed */
};

/* In the final revision it lies in the message's own slice, behind the message, and is counted from there. */
static inline void check_payload(struct walk *walk, const struct kdbus_vec *vec)
{
	const struct peer *peer = walk->peer;
	const unsigned char *start = IS_FINAL ? (const unsigned char *)walk->message : peer->pool;
	uint64_t room = IS_FINAL ? walk->slice->size : peer->pool_size;

	if (vec->offset != UINT64_MAX) {
		if (vec->size > room || vec->offset > room - vec->size ||
		    (IS_FINAL && vec->offset < ALIGN8(walk->message->size)))
			found("%s: payload of %#llx bytes at %#llx", walk->what, (unsigned long long)vec->size,
			      (unsigned long long)vec->offset);
		if (walk->slice->from == walk->slice->to)
			walk->slice->from = walk->slice->to = vec->offset;
		if (vec->offset < walk->slice->to)
			found("%s: payload goes back to %#llx", walk->what, (unsigned long long)vec->offset);
		walk->slice->to = vec->offset + vec->size;
		for (uint64_t i = 0; walk->message->payload_type == PAYLOAD_PATTERN && i < vec->size; i++)
			if (start[vec->offset + i] != pattern(walk->message->cookie, walk->position + i))
				found("%s: byte %llu of the payload is not what was sent", walk->what,
				      (unsigned long long)(walk->position + i));
	}
	walk->position += vec->size;
}

static inline void check_item(struct walk *walk, const struct kdbus_item *item)
{
	switch (item->type) {
	case KDBUS_ITEM_PAYLOAD_OFF:
		if (item->size != 32 || !item->vec.size)
			found("%s: payload item of %llu bytes", walk->what, (unsigned long long)item->size);
		check_payload(walk, &item->vec);
		break;
	case KDBUS_ITEM_PAYLOAD_MEMFD:
		if (item->size != 40)
			found("%s: memfd item of %llu bytes", walk->what, (unsigned long long)item->size);
		close_received(walk->what, item->memfd.fd, walk->installed);
		walk->missing += item->memfd.fd < 0;
		break;
	case KDBUS_ITEM_FDS:
		for (uint64_t i = 0; i < (item->size - 16) / 4; i++) {
			close_received(walk->what, item->fds[i], walk->installed);
			walk->missing += item->fds[i] < 0;
		}
		break;
	case KDBUS_ITEM_DST_NAME:
	case KDBUS_ITEM_TID_COMM:
	case KDBUS_ITEM_PID_COMM:
	case KDBUS_ITEM_EXE:
	case KDBUS_ITEM_CGROUP:
	case KDBUS_ITEM_SECLABEL:
	case KDBUS_ITEM_CONN_DESCRIPTION:
		if (!is_string(item))
			found("%s: item %#llx is no string", walk->what, (unsigned long long)item->type);
		break;
	case KDBUS_ITEM_BLOOM_FILTER:
		if (!IS_FINAL)
			found("%s: a filter in a message", walk->what);
		break;
	case KDBUS_ITEM_CMDLINE:
	case KDBUS_ITEM_TIMESTAMP:
	case KDBUS_ITEM_CREDS:
	case KDBUS_ITEM_PIDS:
	case KDBUS_ITEM_AUXGROUPS:
	case KDBUS_ITEM_OWNED_NAME:
	case KDBUS_ITEM_CAPS:
	case KDBUS_ITEM_AUDIT:
		break;
	case KDBUS_ITEM_NAME_ADD ... KDBUS_ITEM_REPLY_DEAD:
		if (walk->message->src_id != KDBUS_SRC_ID_KERNEL)
			found("%s: a notification from %llu", walk->what, (unsigned long long)walk->message->src_id);
		break;
	default:
		found("%s: item of type %#llx in a message", walk->what, (unsigned long long)item->type);
	}
}

/* A message was received: check all of it, keep it, and close its descriptors. */
static inline const struct kdbus_msg *check_message(struct peer *peer, const char *what,
						    const struct kdbus_msg_info *info, bool peeked)
{
	struct slice slice = { .offset = info->offset, .size = info->msg_size, .peeked = peeked };
	bool installed = !peeked && (!IS_FINAL || peer->flags & KDBUS_HELLO_ACCEPT_FD);
	struct walk walk = { .peer = peer, .what = what, .installed = installed, .slice = &slice };
	const struct kdbus_item *item;
	uint64_t at = sizeof(struct kdbus_msg);

	check_place(peer, what, info->offset, info->msg_size, sizeof(struct kdbus_msg));
	if (!peer->pool) {
		self->lost_descriptors = true;
		if (IS_FINAL && peeked)
			peer->uncertain = true;
		else
			keep(peer, slice, what);
		return NULL;
	}
	walk.message = (const void *)(peer->pool + info->offset);
	if (walk.message->size < sizeof(struct kdbus_msg) ||
	    (IS_FINAL ? ALIGN8(walk.message->size) > info->msg_size : ALIGN8(walk.message->size) != info->msg_size))
		found("%s: a message of %llu bytes in %llu", what, (unsigned long long)walk.message->size,
		      (unsigned long long)info->msg_size);
	if (!walk.message->src_id != !walk.message->payload_type)
		found("%s: source %llu, payload type %#llx", what, (unsigned long long)walk.message->src_id,
		      (unsigned long long)walk.message->payload_type);
	if (walk.message->payload_type == PAYLOAD_PATTERN && walk.message->cookie >> 56 != TAG(peer->bus) >> 56)
		found("%s: bus %d got the message with the cookie %#llx", what, peer->bus,
		      (unsigned long long)walk.message->cookie);
	while ((item = next_item(what, (const void *)walk.message, walk.message->size, &at)))
		check_item(&walk, item);
	if (installed && !!walk.missing != !!(info->return_flags & KDBUS_RECV_RETURN_INCOMPLETE_FDS))
		found("%s: %d descriptors are missing, but return_flags are %#llx", what, walk.missing,
		      (unsigned long long)info->return_flags);
	if (IS_FINAL) /* what has been looked at lies in the slice */
		slice.from = slice.to = 0;
	if (IS_FINAL && peeked) /* the very slice that RECV gives out later, or somebody else by then */
		peer->uncertain = true;
	else
		keep(peer, slice, what);
	return walk.message;
}

/* A list of items was given out, after `head` bytes whose first word counts them all; just the items, if that is 0. */
static inline void check_list(struct peer *peer, const char *what, uint64_t offset, uint64_t size, uint64_t head,
			      bool nested)
{
	struct slice slice = { .offset = offset, .size = size };
	uint64_t at = head;

	if (IS_FINAL && !size && offset == peer->pool_size) /* there was nothing to give out */
		return;
	check_place(peer, what, offset, size, head);
	if (peer->pool) {
		const unsigned char *list = peer->pool + offset;
		uint64_t told = head ? *(const uint64_t *)(const void *)list : size;

		if (told < head || ALIGN8(told) != size)
			found("%s: a list that says %llu bytes in %llu", what, (unsigned long long)told, (unsigned long long)size);
		/* The entries of a list of names begin with their size, as items do. */
		while (next_item(what, list, told, &at) && !nested)
			;
	}
	keep(peer, slice, what);
}

#endif
