// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What is different between the revisions that the fuzzer is built for, by their headers: version 3, and the final one.
 *
 * `may_fail` lists the errors that the documentation and the source name for a command, besides those of all commands.
 * Another one, an EIO of the supervisor's above all, is a finding.
 */
#ifndef FUZZ_REVISION_H
#define FUZZ_REVISION_H

#include "memory.h"

#define WORD(struct, member) (1ULL << offsetof(struct, member) / 8)

struct command {
	const char *name;
	unsigned long request;
	size_t size;		/* of the structure */
	uint64_t flags;		/* that it knows */
	unsigned int flags_word, kernel_flags_word; /* 0: there are no kernel_flags */
	uint64_t results;	/* a bit for each word that may be written */
	const int *may_fail;
	bool keeps_kernel_flags; /* in the end all is written back as it was */
};

enum { BUS_MAKE, ENDPOINT_MAKE, HELLO, SEND, RECV, FREE, NAME_ACQUIRE, NAME_RELEASE, NAME_LIST, CONN_INFO, CREATOR_INFO,
       CONN_UPDATE, ENDPOINT_UPDATE, MATCH_ADD, MATCH_REMOVE, COMMANDS };

#define ERRORS(...) (const int[]) { __VA_ARGS__ __VA_OPT__(,) 0 }
#define SEND_ERRORS EPERM, ENOTUNIQ, E2BIG, EEXIST, EMEDIUMTYPE, EMFILE, EBADMSG, ETXTBSY, ECOMM, EDOM, EDESTADDRREQ, \
		    ESRCH, EADDRNOTAVAIL, ENXIO, ETIMEDOUT, EPIPE, ENOBUFS, EREMCHG, EXFULL, EREMOTEIO, ECANCELED, \
		    EMLINK, ENAMETOOLONG

#ifdef KDBUS_FLAG_NEGOTIATE

#define IS_FINAL true
#define NEGOTIATE_FLAG KDBUS_FLAG_NEGOTIATE
#define NEGOTIATE_ITEM KDBUS_ITEM_NEGOTIATE
#define DROPPED_MSGS KDBUS_RECV_RETURN_DROPPED_MSGS
typedef struct kdbus_cmd make_command, name_command, update_command;
typedef struct kdbus_cmd_list list_command;
#define PLAIN_COMMAND(name, flags, ...) { #name, KDBUS_CMD_##name, sizeof(struct kdbus_cmd), flags, 1, 0, 4, \
					  ERRORS(__VA_ARGS__), false }
#define COMMAND(name, type, flags, results, ...) { #name, KDBUS_CMD_##name, sizeof(struct type), flags, 1, 0, \
						   4 | (results), ERRORS(__VA_ARGS__), false }

static const struct command commands[COMMANDS] = {
	/* EBADMSG: with an item of the number 9, which has no business there, the command is taken for one of version 2. */
	[BUS_MAKE] = PLAIN_COMMAND(BUS_MAKE, 3, EEXIST, EMFILE, ENAMETOOLONG, EBADMSG),
	[ENDPOINT_MAKE] = PLAIN_COMMAND(ENDPOINT_MAKE, 3, EPERM, EEXIST, ENAMETOOLONG, E2BIG, EMFILE, EBADMSG),
	/* ECONNREFUSED: a bus that version 3 has made may require metadata. */
	[HELLO] = COMMAND(HELLO, kdbus_cmd_hello, 15, 0xffe, EPERM, EMFILE, EEXIST, ENOMEM, ENOBUFS, E2BIG, ENAMETOOLONG,
			  EXFULL, ECONNREFUSED),
	[SEND] = COMMAND(SEND, kdbus_cmd_send, 1, 7ULL << offsetof(struct kdbus_cmd_send, reply) / 8, SEND_ERRORS, EBADSLT),
	[RECV] = COMMAND(RECV, kdbus_cmd_recv, 7, 15ULL << offsetof(struct kdbus_cmd_recv, dropped_msgs) / 8, EAGAIN, EXFULL,
			 ENAMETOOLONG),
	[FREE] = COMMAND(FREE, kdbus_cmd_free, 0, 0, ENXIO, ENAMETOOLONG),
	[NAME_ACQUIRE] = PLAIN_COMMAND(NAME_ACQUIRE, 7, EPERM, EEXIST, E2BIG, ENAMETOOLONG),
	[NAME_RELEASE] = PLAIN_COMMAND(NAME_RELEASE, 0, ESRCH, EADDRINUSE, ENAMETOOLONG),
	[NAME_LIST] = COMMAND(LIST, kdbus_cmd_list, 15, 0x18, EXFULL, ENAMETOOLONG),
	[CONN_INFO] = COMMAND(CONN_INFO, kdbus_cmd_info, 0, 0x60, ESRCH, ENXIO, EXFULL, ENAMETOOLONG),
	[CREATOR_INFO] = COMMAND(BUS_CREATOR_INFO, kdbus_cmd_info, 0, 0x60, EXFULL, ENAMETOOLONG),
	[CONN_UPDATE] = PLAIN_COMMAND(UPDATE, 0, E2BIG, EEXIST, ENAMETOOLONG),
	[ENDPOINT_UPDATE] = PLAIN_COMMAND(ENDPOINT_UPDATE, 0, E2BIG, EEXIST, ENAMETOOLONG),
	[MATCH_ADD] = COMMAND(MATCH_ADD, kdbus_cmd_match, 1, 0, EDOM, EMFILE, EEXIST, ENAMETOOLONG),
	[MATCH_REMOVE] = COMMAND(MATCH_REMOVE, kdbus_cmd_match, 0, 0, EBADSLT, ENAMETOOLONG),
};

static inline void ask_about(struct kdbus_cmd_info *command, uint64_t metadata)
{
	command->attach_flags = metadata;
}

#else

#define IS_FINAL false
#define NEGOTIATE_FLAG 0
#define NEGOTIATE_ITEM UINT64_MAX
#define DROPPED_MSGS 0
typedef struct kdbus_cmd_make make_command;
typedef struct kdbus_cmd_name name_command;
typedef struct kdbus_cmd_update update_command;
typedef struct kdbus_cmd_name_list list_command;

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
		   ERRORS(SEND_ERRORS), false },
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

static inline void ask_about(struct kdbus_cmd_info *command, uint64_t metadata)
{
	command->flags = metadata;
}

#endif

/* Bad memory, sizes and items; a handle in another state, of another kind, or at its end; a signal. */
static const int any_may_fail[] = { EFAULT, EINVAL, EMSGSIZE, ENOTTY, EBADF, EBADFD, ESHUTDOWN, ECONNRESET, EOPNOTSUPP,
				    EINTR, 0 };

#endif
