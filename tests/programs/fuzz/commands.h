// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Commands: their tables, how one is made up and spoiled, and how it is issued and judged.
 */
#ifndef FUZZ_COMMANDS_H
#define FUZZ_COMMANDS_H

#include "revision.h"

#define COMMAND_BYTES (36 * 1024)
static inline bool is_among(int error, const int *errors)
{
	for (; *errors; errors++)
		if (*errors == error)
			return true;
	return false;
}

/* ---- making one up ---- */

/* A command or message in the making; its first word is its size. */
struct draft {
	uint64_t words[COMMAND_BYTES / 8];
	size_t size;		/* of what is written here */
	bool spoiled;
};

static inline void *begin(struct draft *draft, size_t size)
{
	memset(draft->words, 0, size);
	draft->words[0] = draft->size = size;
	draft->spoiled = false;
	return draft->words;
}

/* Appends an item of `size` bytes, and returns the place of its content; NULL: random content. */
static inline void *add(struct draft *draft, uint64_t type, const void *content, size_t size)
{
	size_t start = ALIGN8(draft->size);
	char *item = (char *)draft->words + start;
	uint64_t header[2] = { 16 + size, type };

	if (size > sizeof(draft->words) || start + 16 + ALIGN8(size) > sizeof(draft->words))
		return draft->words;
	if (content)
		memmove(item + 16, content, size); /* which may be another item, of a size that is wrong */
	else
		for (size_t i = 0; i < size; i++)
			item[16 + i] = (char)random64();
	memcpy(item, header, sizeof(header));
	memset(item + 16 + size, 0, ALIGN8(size) - size);
	draft->size = start + 16 + size;
	draft->words[0] = draft->size;
	return item + 16;
}

static inline void add_string(struct draft *draft, uint64_t type, const char *string)
{
	add(draft, type, string, strlen(string) + 1);
}

static inline void add_word(struct draft *draft, uint64_t type, uint64_t word)
{
	add(draft, type, &word, sizeof(word));
}

/* Any item of a kind that exists, or not, mostly of a size that would be right for one of them. */
static inline void add_anything(struct draft *draft)
{
	static const uint64_t bases[] = { 0, 0x1000, 0x2000, 0x8000 };
	static const size_t sizes[] = { 0, 1, 4, 8, 16, 24, 32, 33, 64, 255 };

	add(draft, one_in(10) ? odd_number() : bases[any(4)] + any(16), NULL, sizes[any(10)]);
}

/* Where the items of a draft begin: at most `limit` of them. */
static inline unsigned int items_of(const struct draft *draft, size_t head, size_t *places, unsigned int limit)
{
	unsigned int count = 0;

	for (size_t at = head; at + 16 <= draft->size && count < limit;) {
		uint64_t size = draft->words[at / 8];

		places[count++] = at;
		if (size < 16 || size > draft->size)
			break;
		at += ALIGN8(size);
	}
	return count;
}

static inline void spoil_items(struct draft *draft, size_t head)
{
	size_t places[128], size;
	unsigned int count = items_of(draft, head, places, 128);
	uint64_t *item;

	if (!count) {
		add_anything(draft);
		return;
	}
	item = draft->words + places[any(count)] / 8;
	size = item[0] > draft->size ? draft->size : ALIGN8(item[0]);
	switch (any(8)) {
	case 0: /* once more */
		if (item[0] >= 16 && (char *)item + size <= (char *)draft->words + draft->size)
			add(draft, item[1], item + 2, item[0] - 16);
		break;
	case 1: /* out it goes */
		if ((char *)item + size <= (char *)draft->words + draft->size) {
			size_t rest = draft->size - (size_t)((char *)item + size - (char *)draft->words);

			memmove(item, (char *)item + size, rest);
			draft->size -= size;
			draft->words[0] = draft->size;
		}
		break;
	case 2: /* ends too early, or goes into the next, or beyond everything */
		item[0] += any(65) - 32;
		break;
	case 3:
		item[0] = odd_number();
		break;
	case 4:
		item[1] = one_in(3) ? odd_number() : any(15);
		break;
	case 5:
		add_anything(draft);
		break;
	case 6: /* very many */
		for (unsigned int copies = any(300); copies && item[0] >= 16 && item[0] < 256; copies--)
			add(draft, item[1], item + 2, item[0] - 16);
		break;
	default:
		item[2] = odd_number();
	}
}

static inline void spoil(struct draft *draft, const struct command *command, size_t head)
{
	draft->spoiled = true;
	for (unsigned int times = 1 + any(3); times; times--) {
		switch (any(10)) {
		case 0:
			draft->words[0] += any(33) - 16;
			break;
		case 1:
			draft->words[0] = odd_number();
			break;
		case 2:
			if (command)
				draft->words[command->flags_word] = one_in(2) ? odd_number() : 1ULL << any(64);
			break;
		case 3 ... 4:
			draft->words[1 + any((uint32_t)(head / 8 - 1))] = odd_number();
			break;
		case 5:
			draft->words[1 + any((uint32_t)(draft->size / 8 - 1))] ^= 1ULL << any(64);
			break;
		default:
			spoil_items(draft, head);
		}
	}
}

/* ---- issuing one ---- */

/* Whether the known flags must have been written: the command got as far as its flags. */
static inline bool flags_were_checked(const struct command *command, const struct draft *draft, int result)
{
	if (!command->kernel_flags_word || draft->words[0] != draft->size || draft->size > 4096)
		return false;
	return result == 0 ? !command->keeps_kernel_flags
			   : result == -EINVAL && (draft->words[command->flags_word] & ~command->flags);
}

/* Whether it asks what is supported, or may look like that: flags and items are written over then. */
static inline bool negotiates(const struct command *command, const struct draft *draft)
{
	for (size_t at = 0; at < draft->size / 8; at++)
		if (draft->words[at] == NEGOTIATE_ITEM)
			return true;
	return draft->words[command->flags_word] & NEGOTIATE_FLAG;
}

/* Places and issues a command; 0 or -errno. With `*steady`, what came back is in the draft, and has been checked. */
static inline int issue(int fd, unsigned int which, struct draft *draft, bool *steady)
{
	const struct command *command = &commands[which];
	struct placing placing = place(draft->words, draft->size, 0);
	const uint64_t *after = (const void *)(uintptr_t)placing.address;
	int result;

	self->steps++;
	result = ioctl(fd, command->request, placing.address) < 0 ? -errno : 0;
	note(command->name, fd, result, placing.address, draft->words, command->size / 8);
	if (result && !is_among(-result, any_may_fail) && !is_among(-result, command->may_fail))
		found("%s failed with %s (%d)", command->name, strerrorname_np(-result), -result);
	*steady = placing.steady;
	if (!placing.steady)
		return result;
	if (IS_FINAL && negotiates(command, draft))
		*steady = false;
	else
		compare(command->name, &placing, draft->words, command->results);
	if (flags_were_checked(command, draft, result) &&
	    after[command->kernel_flags_word] != (command->flags | 1ULL << 63))
		found("%s: kernel_flags are %#llx", command->name, (unsigned long long)after[command->kernel_flags_word]);
	memcpy(draft->words, after, draft->size);
	return result;
}

#endif
