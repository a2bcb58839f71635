// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Memory of all kinds, to put commands, messages and payload in: plain, just before the end of a mapping, partly behind
 * it, read-only, unmapped, not aligned, coming and going while it is used, and changed while it is read.
 *
 * What is placed in steady memory (plain, or before an end) is compared afterwards: nothing but the members that are
 * meant for results may have changed, and nothing around them.
 */
#ifndef FUZZ_MEMORY_H
#define FUZZ_MEMORY_H

#include "actor.h"

#define PLAIN_PAGES 40UL
#define EDGE_PAGES 16UL
#define HOT_PAGES 16UL
#define FLICKER_PAGES 2UL
#define READ_ONLY_PAGES 16UL
#define PAYLOAD_PAGES 80UL
#define RED_ZONE 64
#define RED 0xa5

struct placing {
	uint64_t address;
	size_t size;		/* bytes that are really there */
	bool steady;		/* readable, writable, aligned, and nobody else's */
};

/* One kind of memory, with nothing before and behind it. */
static inline char *zone(size_t pages, int protection)
{
	char *all = mmap(NULL, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	NEED(all != MAP_FAILED);
	NEED(!mprotect(all + PAGE, pages * PAGE, protection));
	return all + PAGE;
}

static inline void make_memory(struct actor *actor)
{
	actor->plain = zone(PLAIN_PAGES, PROT_READ | PROT_WRITE);
	for (unsigned int part = 0; part < 2; part++)
		actor->edge[part] = zone(EDGE_PAGES, PROT_READ | PROT_WRITE);
	actor->read_only = zone(READ_ONLY_PAGES, PROT_READ);
	actor->flicker = zone(FLICKER_PAGES, PROT_READ | PROT_WRITE);
	actor->hot = zone(HOT_PAGES, PROT_READ | PROT_WRITE);
	actor->payload = zone(PAYLOAD_PAGES, PROT_READ | PROT_WRITE);
}

static inline void drop_memory(struct actor *actor)
{
	const struct { char *zone; size_t pages; } all[] = {
		{ actor->plain, PLAIN_PAGES }, { actor->edge[0], EDGE_PAGES },
		{ actor->edge[1], EDGE_PAGES }, { actor->read_only, READ_ONLY_PAGES },
		{ actor->flicker, FLICKER_PAGES }, { actor->hot, HOT_PAGES }, { actor->payload, PAYLOAD_PAGES },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		munmap(all[i].zone - PAGE, (all[i].pages + 2) * PAGE);
}

/* Something is written to memory that another thread may be taking away at this moment. */
static inline void write_carefully(char *to, const void *from, size_t size)
{
	struct iovec source = { (void *)(uintptr_t)from, size }, target = { to, size };

	NEED(process_vm_writev(getpid(), &source, 1, &target, 1, 0) >= 0 || errno == EFAULT);
}

/* Changes a word of what was put somewhere, whatever has become of that memory; not if it was not put there at all. */
static inline void change_word(const struct placing *placing, size_t offset, uint64_t word)
{
	char *place = (char *)(uintptr_t)placing->address + offset;
	bool read_only = place >= self->read_only && place < self->read_only + READ_ONLY_PAGES * PAGE;
	struct iovec source = { &word, sizeof(word) }, target = { place, sizeof(word) };

	if (offset + sizeof(word) > placing->size)
		return;
	if (read_only)
		NEED(!mprotect(self->read_only, READ_ONLY_PAGES * PAGE, PROT_READ | PROT_WRITE));
	while (process_vm_writev(getpid(), &source, 1, &target, 1, 0) != sizeof(word)) {
		NEED(errno == EFAULT); /* taken away at this moment */
		sched_yield();
	}
	if (read_only)
		NEED(!mprotect(self->read_only, READ_ONLY_PAGES * PAGE, PROT_READ));
}

/* Puts `size` bytes in plain memory; `part` of it, so that several things can be there at once. */
static inline struct placing place_plain(const void *content, size_t size, unsigned int part)
{
	char *start = self->plain + part * (PLAIN_PAGES / 2) * PAGE + 8 * (8 + any(2 * PAGE / 8));

	NEED(size + 3 * PAGE <= PLAIN_PAGES / 2 * PAGE);
	memset(start - RED_ZONE, RED, RED_ZONE);
	memcpy(start, content, size);
	memset(start + size, RED, RED_ZONE);
	return (struct placing) { (uintptr_t)start, size, true };
}

static inline struct placing place(const void *content, size_t size, unsigned int part)
{
	struct placing placing = { .size = size };
	size_t padded = (size + 7) & ~7UL;
	char *start;

	switch (any(self->meeting->busy ? 1000 : 100)) {
	case 0 ... 2: /* just before the end of a mapping */
		start = self->edge[part] + EDGE_PAGES * PAGE - padded;
		memcpy(start, content, size);
		placing.steady = true;
		break;
	case 3 ... 4: /* partly behind it */
		placing.size = 8 * any((uint32_t)(padded / 8));
		start = self->edge[part] + EDGE_PAGES * PAGE - placing.size;
		memcpy(start, content, placing.size);
		break;
	case 5:
		start = self->read_only + 8 * any(PAGE / 8);
		NEED(!mprotect(self->read_only, READ_ONLY_PAGES * PAGE, PROT_READ | PROT_WRITE));
		memcpy(start, content, size);
		NEED(!mprotect(self->read_only, READ_ONLY_PAGES * PAGE, PROT_READ));
		break;
	case 6:
		start = self->edge[part] + EDGE_PAGES * PAGE + 8 * any(256);
		placing.size = 0;
		break;
	case 7: /* where programs have nothing */
		start = (char *)(uintptr_t)(one_in(2) ? 0 : one_in(2) ? 0xffff800000000000 + 8 * any(1000) : odd_number());
		placing.size = 0;
		break;
	case 8:
		start = self->plain + 1 + any(7);
		memcpy(start, content, size < PAGE ? size : PAGE);
		break;
	case 9 ... 11:
		start = self->hot + 8 * any(PAGE / 8);
		memcpy(start, content, size);
		break;
	case 12 ... 13:
		placing.size = size < PAGE ? size : PAGE;
		start = self->flicker + 8 * any(PAGE / 8);
		write_carefully(start, content, placing.size);
		break;
	default:
		return place_plain(content, size, part);
	}
	placing.address = (uintptr_t)start;
	return placing;
}

/* Compares what was put in steady memory with what is there now; `results`: a bit for each word that may differ. */
static inline void compare(const char *what, const struct placing *placing, const void *content, uint64_t results)
{
	const unsigned char *start = (const unsigned char *)(uintptr_t)placing->address;
	const unsigned char *before = content;

	for (size_t i = 0; i < placing->size; i++)
		if (start[i] != before[i] && !(i / 8 < 64 && results >> (i / 8) & 1))
			found("%s: byte %zu was changed from %#x to %#x", what, i, before[i], start[i]);
	if (start - (const unsigned char *)self->plain >= (ptrdiff_t)(PLAIN_PAGES * PAGE) ||
	    start < (const unsigned char *)self->plain)
		return;
	for (size_t i = 1; i <= RED_ZONE; i++)
		if (start[-(ptrdiff_t)i] != RED || start[placing->size + i - 1] != RED)
			found("%s: something was written outside, %zu bytes away", what, i);
}

/* Disturbs an actor's memory for a moment: called by another thread, again and again. */
static inline void disturb(struct actor *actor, uint64_t random)
{
	uint64_t *words = (uint64_t *)actor->hot;

	for (unsigned int i = 0; i < 200; i++) {
		size_t place = mix(random + i) % (2 * PAGE / 8);

		words[place] = i % 3 ? words[place] ^ 1ULL << (i % 64) : mix(random * i) >> (i % 61);
	}
	mprotect(actor->flicker, FLICKER_PAGES * PAGE, PROT_NONE);
	mprotect(actor->flicker + random % FLICKER_PAGES * PAGE, PAGE, PROT_READ);
	mprotect(actor->flicker, FLICKER_PAGES * PAGE, PROT_READ | PROT_WRITE);
}

#endif
