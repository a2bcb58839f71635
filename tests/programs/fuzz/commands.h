// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Commands: their tables, how one is made up and spoiled, and how it is issued and judged.
 *
 * `may_fail` lists the errors that the documentation and the source of version 3 name for a command, besides those of
 * all commands. Another one, an EIO of the supervisor's above all, is a finding.
 */
#ifndef FUZZ_COMMANDS_H
#define FUZZ_COMMANDS_H

#include "memory.h"

#define COMMAND_BYTES (36 * 1024)
#define WORD(struct, member) (1ULL << offsetof(struct, member) / 8)

struct command {
	const char *name;
	unsigned long request;
	size_t size;		/* of the structure */
	uint64_t flags;		/* that it knows */
	unsigned int flags_word, kernel_flags_word;
	uint64_t results;	/* a bit for each word that may be written */
	const int *may_fail;
	bool keeps_kernel_flags; /* in the end all is written back as it was */
};

enum { BUS_MAKE, ENDPOINT_MAKE, HELLO, SEND, RECV, FREE, NAME_ACQUIRE, NAME_RELEASE, NAME_LIST, CONN_INFO, CREATOR_INFO,
       CONN_UPDATE, ENDPOINT_UPDATE, MATCH_ADD, MATCH_REMOVE, COMMANDS };

#define ERRORS(...) (const int[]) { __VA_ARGS__ __VA_OPT__(,) 0 }

static const struct command commands[COMMANDS] = {
	[BUS_MAKE] = { "BUS_MAKE", KDBUS_CMD_BUS_MAKE, sizeof(struct kdbus_cmd_make), 3, 1, 2,
		       WORD(struct kdbus_cmd_make, kernel_flags) | WORD(struct kdbus_cmd_make, return_flags),
		       ERRORS(EEXIST, EMFILE, EBADMSG, ENAMETOOLONG, EBADFD), false },
	[ENDPOINT_MAKE] = { "ENDPOINT_MAKE", KDBUS_CMD_ENDPOINT_MAKE, sizeof(struct kdbus_cmd_make), 3, 1, 2,
			    WORD(struct kdbus_cmd_make, kernel_flags) | WORD(struct kdbus_cmd_make, return_flags),
			    ERRORS(EPERM, EEXIST, EBADMSG, ENAMETOOLONG, E2BIG), false },
	[HELLO] = { "HELLO", KDBUS_CMD_HELLO, sizeof(struct kdbus_cmd_hello), 15, 1, 2, 0x7ffe,
		    ERRORS(ECONNREFUSED, EPERM, EMFILE, EEXIST, ENOMEM, ENOBUFS, EBADMSG, E2BIG, ENAMETOOLONG), true },
	[SEND] = { "SEND", KDBUS_CMD_SEND, sizeof(struct kdbus_cmd_send), 1, 1, 2,
		   WORD(struct kdbus_cmd_send, kernel_flags) | WORD(struct kdbus_cmd_send, kernel_msg_flags) |
		   WORD(struct kdbus_cmd_send, return_flags) | 7ULL << offsetof(struct kdbus_cmd_send, reply) / 8,
		   ERRORS(EPERM, ENOTUNIQ, E2BIG, EEXIST, EMEDIUMTYPE, EMFILE, EBADMSG, ETXTBSY, ECOMM, EDOM,
			  EDESTADDRREQ, ESRCH, EADDRNOTAVAIL, ENXIO, ETIMEDOUT, EPIPE, ENOBUFS, EREMCHG, EXFULL, EREMOTEIO,
			  ECANCELED, EMLINK, ENAMETOOLONG), false },
	[RECV] = { "RECV", KDBUS_CMD_RECV, sizeof(struct kdbus_cmd_recv), 7, 1, 2,
		   WORD(struct kdbus_cmd_recv, kernel_flags) | WORD(struct kdbus_cmd_recv, return_flags) |
		   15ULL << offsetof(struct kdbus_cmd_recv, dropped_msgs) / 8,
		   ERRORS(EAGAIN, ENOMSG, EOVERFLOW, ENOBUFS, ENAMETOOLONG), false },
	[FREE] = { "FREE", KDBUS_CMD_FREE, sizeof(struct kdbus_cmd_free), 0, 2, 3,
		   WORD(struct kdbus_cmd_free, kernel_flags) | WORD(struct kdbus_cmd_free, return_flags),
		   ERRORS(ENXIO, ENAMETOOLONG), false },
	[NAME_ACQUIRE] = { "NAME_ACQUIRE", KDBUS_CMD_NAME_ACQUIRE, sizeof(struct kdbus_cmd_name), 7, 1, 2, 14,
			   ERRORS(EPERM, EALREADY, EEXIST, E2BIG, ENAMETOOLONG, ENOBUFS), true },
	[NAME_RELEASE] = { "NAME_RELEASE", KDBUS_CMD_NAME_RELEASE, sizeof(struct kdbus_cmd_name), 0, 1, 2, 12,
			   ERRORS(ESRCH, EADDRINUSE, ENAMETOOLONG, ENOBUFS), false },
	[NAME_LIST] = { "NAME_LIST", KDBUS_CMD_NAME_LIST, sizeof(struct kdbus_cmd_name_list), 15, 1, 2, 0x3c,
			ERRORS(ENOBUFS, ENAMETOOLONG), false },
	[CONN_INFO] = { "CONN_INFO", KDBUS_CMD_CONN_INFO, sizeof(struct kdbus_cmd_info), _KDBUS_ATTACH_ALL, 1, 2, 0x6c,
			ERRORS(ESRCH, ENXIO, ENOBUFS, ENAMETOOLONG), false },
	[CREATOR_INFO] = { "BUS_CREATOR_INFO", KDBUS_CMD_BUS_CREATOR_INFO, sizeof(struct kdbus_cmd_info),
			   _KDBUS_ATTACH_ALL, 1, 2, 0x6c, ERRORS(ENOBUFS, ENAMETOOLONG), false },
	[CONN_UPDATE] = { "CONN_UPDATE", KDBUS_CMD_CONN_UPDATE, sizeof(struct kdbus_cmd_update), 0, 1, 2, 12,
			  ERRORS(E2BIG, EEXIST, ECONNREFUSED, ENAMETOOLONG, EBADMSG), false },
	[ENDPOINT_UPDATE] = { "ENDPOINT_UPDATE", KDBUS_CMD_ENDPOINT_UPDATE, sizeof(struct kdbus_cmd_update), 0, 1, 2, 12,
			      ERRORS(E2BIG, EEXIST, ENAMETOOLONG), false },
	[MATCH_ADD] = { "MATCH_ADD", KDBUS_CMD_MATCH_ADD, sizeof(struct kdbus_cmd_match), 1, 2, 3, 24,
			ERRORS(EDOM, EMFILE, EEXIST, ENAMETOOLONG), false },
	[MATCH_REMOVE] = { "MATCH_REMOVE", KDBUS_CMD_MATCH_REMOVE, sizeof(struct kdbus_cmd_match), 0, 2, 3, 24,
			   ERRORS(ENOENT, ENAMETOOLONG), false },
};

/* Bad memory, sizes and items; a handle in another state, of another kind, or at its end; a signal. */
static const int any_may_fail[] = { EFAULT, EINVAL, EMSGSIZE, ENOTTY, EBADF, EBADFD, ESHUTDOWN, ECONNRESET, EOPNOTSUPP,
				    EINTR, 0 };

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
	if (draft->words[0] != draft->size || draft->size > 4096)
		return false;
	return result == 0 ? !command->keeps_kernel_flags
			   : result == -EINVAL && (draft->words[command->flags_word] & ~command->flags);
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
	compare(command->name, &placing, draft->words, command->results);
	if (flags_were_checked(command, draft, result) &&
	    after[command->kernel_flags_word] != (command->flags | KDBUS_FLAG_KERNEL))
		found("%s: kernel_flags are %#llx", command->name, (unsigned long long)after[command->kernel_flags_word]);
	memcpy(draft->words, after, draft->size);
	return result;
}

#endif
