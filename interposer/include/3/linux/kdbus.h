/* SPDX-License-Identifier: GPL-2.0-or-later WITH Linux-syscall-note */
/*
 * linux/kdbus.h: the programming interface of kdbus, version 3 of the patches (January 2015).
 *
 * Names, numbers and layouts are those of the original, so that programs of the time compile without a change; the
 * words are new. Where documentation and source of the original disagree, the comments here follow the source, because
 * that is what programs met.
 *
 * A walk through it, in the order in which a program meets things:
 *
 *   open /sys/fs/kdbus/control, KDBUS_CMD_BUS_MAKE      a bus appears as /sys/fs/kdbus/<uid>-<name>/bus and lives
 *                                                       until that descriptor is closed
 *   open .../bus, KDBUS_CMD_HELLO, mmap                 the descriptor is a connection with an id; its pool (read-only)
 *                                                       is where everything that it receives is stored
 *   KDBUS_CMD_NAME_ACQUIRE                              the connection can be found by a name such as org.example.Clock
 *   KDBUS_CMD_SEND                                      struct kdbus_msg, with items that carry or describe the payload
 *   poll for POLLIN, KDBUS_CMD_RECV                     yields the offset of a struct kdbus_msg in the pool
 *   KDBUS_CMD_FREE                                      gives that part of the pool back
 *
 * Common to all command structs: `size` counts the struct and all its items; the struct has to be aligned to 8 bytes;
 * `flags` is the caller's wish, and an unknown bit is refused with EINVAL; `kernel_flags` is written back by each call
 * and holds all bits that would have been accepted, plus KDBUS_FLAG_KERNEL; `return_flags` tells about the outcome.
 *
 * The include guard has the original's name on purpose: a program that brings its own copy of the header along may
 * include both.
 */
#ifndef _KDBUS_UAPI_H_
#define _KDBUS_UAPI_H_

/* Arrays without a size and enumerators of 64 bits are part of the interface: -pedantic is not to warn of them. */
#pragma GCC system_header

#include <linux/ioctl.h>
#include <linux/types.h>

/* Second byte of every request number. */
#define KDBUS_IOCTL_MAGIC		0x95

/* Set in each `kernel_flags`: tells a mask that was written back from one that was left alone. */
#define KDBUS_FLAG_KERNEL		(1ULL << 63)

/* Special connection ids. Real ones count from 1 on each bus and are never used again. */
#define KDBUS_SRC_ID_KERNEL		(0)		/* src_id of a notification: nobody's message */
#define KDBUS_DST_ID_NAME		(0)		/* dst_id: look at KDBUS_ITEM_DST_NAME instead */
#define KDBUS_DST_ID_BROADCAST		(~0ULL)		/* dst_id: everybody who has a match for it */
#define KDBUS_MATCH_ID_ANY		(~0ULL)		/* in a match: whichever connection it is */

/* ------------------------------------------------------------------------------------------------------------------
 * Items: typed records that follow a struct. Each starts at a multiple of 8 bytes; its own `size` counts the header of
 * 16 bytes and the content, but not the padding that follows.
 */

enum kdbus_item_type {
	_KDBUS_ITEM_NULL,
	_KDBUS_ITEM_USER_BASE,

	/* Payload. Pieces keep their order; a receiver should read them as one stream. */
	KDBUS_ITEM_PAYLOAD_VEC = _KDBUS_ITEM_USER_BASE,	/* sent: memory of the sender; vec */
	KDBUS_ITEM_PAYLOAD_OFF,				/* received: the same bytes in the pool; vec */
	KDBUS_ITEM_PAYLOAD_MEMFD,			/* both ways: a sealed memfd, not copied; memfd */
	KDBUS_ITEM_FDS,					/* both ways: open descriptors; fds */

	KDBUS_ITEM_CANCEL_FD,				/* with SEND: readable ends a synchronous call; fds[0] */

	/* Signals. */
	KDBUS_ITEM_BLOOM_PARAMETER,			/* BUS_MAKE, and the answer to HELLO; bloom_parameter */
	KDBUS_ITEM_BLOOM_FILTER,			/* in a signal: what it is about; bloom_filter */
	KDBUS_ITEM_BLOOM_MASK,				/* in a match: what is wanted; data64 */

	KDBUS_ITEM_DST_NAME,				/* in a message: the receiver's name; str */
	KDBUS_ITEM_MAKE_NAME,				/* of a bus or endpoint to make; str */
	KDBUS_ITEM_ATTACH_FLAGS_SEND,			/* KDBUS_ATTACH_*; data64[0] */
	KDBUS_ITEM_ATTACH_FLAGS_RECV,			/* KDBUS_ATTACH_*; data64[0] */
	KDBUS_ITEM_ID,					/* in a match: the sender; id */
	KDBUS_ITEM_NAME,				/* a well-known name, in commands; str */

	/* Metadata, in the order of the KDBUS_ATTACH_* bits: bit n asks for type 0x1000 + n. */
	_KDBUS_ITEM_ATTACH_BASE = 0x1000,
	KDBUS_ITEM_TIMESTAMP = _KDBUS_ITEM_ATTACH_BASE,	/* timestamp */
	KDBUS_ITEM_CREDS,				/* creds */
	KDBUS_ITEM_PIDS,				/* pids */
	KDBUS_ITEM_AUXGROUPS,				/* supplementary groups; data32 */
	KDBUS_ITEM_OWNED_NAME,				/* one for each name the sender owns; name */
	KDBUS_ITEM_TID_COMM,				/* thread's name; str. The sender can choose it freely, */
	KDBUS_ITEM_PID_COMM,				/* process's name; str. as with this one, */
	KDBUS_ITEM_EXE,					/* path of the executable; str. this one */
	KDBUS_ITEM_CMDLINE,				/* command line; str. and this one: never decide by them */
	KDBUS_ITEM_CGROUP,				/* control group's path; str */
	KDBUS_ITEM_CAPS,				/* caps */
	KDBUS_ITEM_SECLABEL,				/* label of the security module; str */
	KDBUS_ITEM_AUDIT,				/* audit */
	KDBUS_ITEM_CONN_DESCRIPTION,			/* what the connection called itself at HELLO; str */

	/* Policy: each KDBUS_ITEM_NAME is followed by the accesses that it grants. */
	_KDBUS_ITEM_POLICY_BASE = 0x2000,
	KDBUS_ITEM_POLICY_ACCESS = _KDBUS_ITEM_POLICY_BASE,	/* policy_access */

	/* Notifications: first item of a message from KDBUS_SRC_ID_KERNEL; in a match: what is wanted. */
	_KDBUS_ITEM_KERNEL_BASE = 0x8000,
	KDBUS_ITEM_NAME_ADD = _KDBUS_ITEM_KERNEL_BASE,	/* a name has an owner now; name_change */
	KDBUS_ITEM_NAME_REMOVE,				/* a name has no owner any more; name_change */
	KDBUS_ITEM_NAME_CHANGE,				/* a name went from one to another; name_change */
	KDBUS_ITEM_ID_ADD,				/* a connection joined; id_change */
	KDBUS_ITEM_ID_REMOVE,				/* a connection left; id_change */
	KDBUS_ITEM_REPLY_TIMEOUT,			/* no reply in time; empty, see the message's cookie_reply */
	KDBUS_ITEM_REPLY_DEAD,				/* who was to reply is gone; likewise */
};

/* A piece of payload. Sending: an address of 0 stands for `size` zeros. Receiving: offset from the start of the pool
 * (not of the message), or ~0 for zeros that are not stored. */
struct kdbus_vec {
	__u64 size;
	union {
		__u64 address;
		__u64 offset;
	};
};

/* A part of a memfd with all four seals SHRINK, GROW, WRITE and SEAL. At RECV, `fd` is a new descriptor of the
 * receiver's, close-on-exec, to be closed by it; -1 after RECV with KDBUS_RECV_PEEK. */
struct kdbus_memfd {
	__u64 start;
	__u64 size;
	int fd;
	__u32 __pad;
};

/* Chosen once per bus: bytes of each filter (a multiple of 8) and hash functions to use. All members have to use
 * the same hash functions for it to work; the bus itself never hashes. */
struct kdbus_bloom_parameter {
	__u64 size;
	__u64 n_hash;
};

/* Bits of a signal. It passes a mask if it has every bit of the mask; among several generations of a mask the one
 * of the same number is taken, or the last. */
struct kdbus_bloom_filter {
	__u64 generation;
	__u64 data[0];
};

/* A well-known name with KDBUS_NAME_* flags. */
struct kdbus_name {
	__u64 flags;
	char name[0];
};

/* User and group ids of a sender, as the receiver's user namespace numbers them. */
struct kdbus_creds {
	__u32 uid;
	__u32 euid;
	__u32 suid;
	__u32 fsuid;
	__u32 gid;
	__u32 egid;
	__u32 sgid;
	__u32 fsgid;
};

/* Process, thread and parent of a sender, as the receiver's pid namespace numbers them. */
struct kdbus_pids {
	__u64 pid;
	__u64 tid;
	__u64 ppid;
};

/* Four sets, one after the other: inheritable, permitted, effective, bounding; each has last_cap / 32 + 1 words. */
struct kdbus_caps {
	__u32 last_cap;
	__u32 caps[0];
};

struct kdbus_audit {
	__u32 sessionid;
	__u32 loginuid;
};

/* When a message was sent; `seqnum` orders all messages of a domain. */
struct kdbus_timestamp {
	__u64 seqnum;
	__u64 monotonic_ns;
	__u64 realtime_ns;
};

/* A connection that came or went, with its KDBUS_HELLO_* flags; within a name change, the KDBUS_NAME_* flags. */
struct kdbus_notify_id_change {
	__u64 id;
	__u64 flags;
};

/* Former and new owner; the id is 0 where there is none. In a match: KDBUS_MATCH_ID_ANY, and without `name` any. */
struct kdbus_notify_name_change {
	struct kdbus_notify_id_change old_id;
	struct kdbus_notify_id_change new_id;
	char name[0];
};

enum kdbus_policy_access_type {
	_KDBUS_POLICY_ACCESS_NULL,
	KDBUS_POLICY_ACCESS_USER,	/* the user `id` */
	KDBUS_POLICY_ACCESS_GROUP,	/* the group `id` */
	KDBUS_POLICY_ACCESS_WORLD,	/* everybody */
};

/* Each one includes those before it. */
enum kdbus_policy_type {
	KDBUS_POLICY_SEE = 0,		/* the name is visible */
	KDBUS_POLICY_TALK,		/* its owner may be sent messages */
	KDBUS_POLICY_OWN,		/* it may be acquired */
};

struct kdbus_policy_access {
	__u64 type;			/* KDBUS_POLICY_ACCESS_* */
	__u64 access;			/* KDBUS_POLICY_SEE, TALK or OWN */
	__u64 id;			/* uid or gid */
};

struct kdbus_item {
	__u64 size;
	__u64 type;
	union {
		/* untyped content */
		__u8 data[0];
		__u32 data32[0];
		__u64 data64[0];
		char str[0];

		/* by type, as named above */
		__u64 id;
		struct kdbus_vec vec;
		struct kdbus_memfd memfd;
		int fds[0];
		struct kdbus_bloom_parameter bloom_parameter;
		struct kdbus_bloom_filter bloom_filter;
		struct kdbus_name name;
		struct kdbus_creds creds;
		struct kdbus_pids pids;
		struct kdbus_caps caps;
		struct kdbus_audit audit;
		struct kdbus_timestamp timestamp;
		struct kdbus_notify_id_change id_change;
		struct kdbus_notify_name_change name_change;
		struct kdbus_policy_access policy_access;
	};
};

/* What HELLO leaves in the pool. */
struct kdbus_item_list {
	__u64 size;
	struct kdbus_item items[0];
};

/* ------------------------------------------------------------------------------------------------------------------
 * Buses and endpoints
 */

/* Who may open the node, besides its owner. */
enum kdbus_make_flags {
	KDBUS_MAKE_ACCESS_GROUP	= 1ULL << 0,
	KDBUS_MAKE_ACCESS_WORLD	= 1ULL << 1,
};

/* KDBUS_CMD_BUS_MAKE, on the control node, with items MAKE_NAME ("<uid>-<anything>"), BLOOM_PARAMETER and, if wanted,
 * ATTACH_FLAGS_RECV (what every connection must be willing to send) and ATTACH_FLAGS_SEND (what members may learn about
 * the bus's creator). KDBUS_CMD_ENDPOINT_MAKE, on a fresh opening of the bus's node by a privileged user, with
 * MAKE_NAME
 * and policy items. Either lasts as long as the descriptor. */
struct kdbus_cmd_make {
	__u64 size;
	__u64 flags;			/* KDBUS_MAKE_* */
	__u64 kernel_flags;
	__u64 return_flags;
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

/* ------------------------------------------------------------------------------------------------------------------
 * Connections
 */

/* At most one of the last three, which only privileged users of the bus may have. */
enum kdbus_hello_flags {
	KDBUS_HELLO_ACCEPT_FD		= 1ULL << 0,	/* without it, senders of descriptors get ECOMM */
	KDBUS_HELLO_ACTIVATOR		= 1ULL << 1,	/* holds a name until its real owner has been started */
	KDBUS_HELLO_POLICY_HOLDER	= 1ULL << 2,	/* only brings policy for a name */
	KDBUS_HELLO_MONITOR		= 1ULL << 3,	/* gets a copy of everything and cannot be seen */
};

/* Metadata to send, to be given, or to be asked for. What is attached to a message is what both ends agreed to. */
enum kdbus_attach_flags {
	KDBUS_ATTACH_TIMESTAMP		= 1ULL << 0,
	KDBUS_ATTACH_CREDS		= 1ULL << 1,
	KDBUS_ATTACH_PIDS		= 1ULL << 2,
	KDBUS_ATTACH_AUXGROUPS		= 1ULL << 3,
	KDBUS_ATTACH_NAMES		= 1ULL << 4,
	KDBUS_ATTACH_TID_COMM		= 1ULL << 5,
	KDBUS_ATTACH_PID_COMM		= 1ULL << 6,
	KDBUS_ATTACH_EXE		= 1ULL << 7,
	KDBUS_ATTACH_CMDLINE		= 1ULL << 8,
	KDBUS_ATTACH_CGROUP		= 1ULL << 9,
	KDBUS_ATTACH_CAPS		= 1ULL << 10,
	KDBUS_ATTACH_SECLABEL		= 1ULL << 11,
	KDBUS_ATTACH_AUDIT		= 1ULL << 12,
	KDBUS_ATTACH_CONN_DESCRIPTION	= 1ULL << 13,
	_KDBUS_ATTACH_ALL		= (1ULL << 14) - 1,	/* all that exist */
	_KDBUS_ATTACH_ANY		= ~0ULL			/* and all that may come */
};

/* KDBUS_CMD_HELLO, on an opening of the bus's or an endpoint's node, with an optional item CONN_DESCRIPTION, NAME and
 * policy for activators and policy holders, and CREDS, PIDS or SECLABEL for privileged users who speak for another. */
struct kdbus_cmd_hello {
	__u64 size;
	__u64 flags;			/* KDBUS_HELLO_* */
	__u64 kernel_flags;
	__u64 return_flags;
	__u64 attach_flags_send;	/* KDBUS_ATTACH_*; comes back as what the bus demands, with KDBUS_FLAG_KERNEL */
	__u64 attach_flags_recv;	/* KDBUS_ATTACH_* */
	__u64 bus_flags;		/* out: flags of BUS_MAKE */
	__u64 id;			/* out: id of this connection */
	__u64 pool_size;		/* bytes, a multiple of the page size */
	__u64 offset;			/* out: struct kdbus_item_list in the pool with BLOOM_PARAMETER; to be freed */
	__u64 items_size;		/* out: its size */
	__u8 id128[16];			/* out: id of the bus, unique in the world */
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

/* KDBUS_CMD_CONN_UPDATE, with ATTACH_FLAGS_SEND, ATTACH_FLAGS_RECV, or new policy of a policy holder;
 * KDBUS_CMD_ENDPOINT_UPDATE, on the descriptor that made the endpoint, with new policy. */
struct kdbus_cmd_update {
	__u64 size;
	__u64 flags;			/* none */
	__u64 kernel_flags;
	__u64 return_flags;
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

/* KDBUS_CMD_CONN_INFO: who a connection is, by `id`, or if that is 0 by an item NAME. KDBUS_CMD_BUS_CREATOR_INFO: who
 * made this bus. */
struct kdbus_cmd_info {
	__u64 size;
	__u64 flags;			/* KDBUS_ATTACH_*: what is to be told */
	__u64 kernel_flags;
	__u64 return_flags;
	__u64 id;
	__u64 offset;			/* out: struct kdbus_info in the pool; to be freed */
	__u64 info_size;		/* out: its size */
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

/* The answer of both. */
struct kdbus_info {
	__u64 size;
	__u64 id;			/* of the connection or the bus */
	__u64 flags;			/* of HELLO or BUS_MAKE */
	struct kdbus_item items[0];
};

/* KDBUS_CMD_FREE: gives back what another command left in the pool. The item array has to be empty. */
struct kdbus_cmd_free {
	__u64 size;
	__u64 offset;			/* as that command returned it */
	__u64 flags;			/* none */
	__u64 kernel_flags;
	__u64 return_flags;
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

/* ------------------------------------------------------------------------------------------------------------------
 * Messages
 */

enum kdbus_msg_flags {
	KDBUS_MSG_EXPECT_REPLY	= 1ULL << 0,	/* a request: needs a cookie and a timeout */
	KDBUS_MSG_NO_AUTO_START	= 1ULL << 1,	/* EADDRNOTAVAIL rather than queueing with an activator */
	KDBUS_MSG_SIGNAL	= 1ULL << 2,	/* passes the receiver's matches; needs a bloom filter */
};

/* How the payload is to be understood, for peers alone: the bus accepts every number but KERNEL. */
enum kdbus_payload_type {
	KDBUS_PAYLOAD_KERNEL,				/* a notification, without payload */
	KDBUS_PAYLOAD_DBUS = 0x4442757344427573ULL,	/* "DBusDBus": marshalled D-Bus */
};

/* A message, as it is sent and as it lies in the receiver's pool. */
struct kdbus_msg {
	__u64 size;			/* with all items, without the payload that they point to */
	__u64 flags;			/* KDBUS_MSG_* */
	__s64 priority;			/* lower ones can be received first */
	__u64 dst_id;
	__u64 src_id;			/* sending: 0, or the own id */
	__u64 payload_type;		/* KDBUS_PAYLOAD_*, or any other number */
	__u64 cookie;			/* the sender's, to recognize the message by */
	union {
		__u64 timeout_ns;	/* of a request: CLOCK_MONOTONIC in ns when waiting ends; not a duration */
		__u64 cookie_reply;	/* of a reply: the request's cookie */
	};
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

/* Where a message was put. */
struct kdbus_msg_info {
	__u64 offset;			/* struct kdbus_msg in the pool; to be freed */
	__u64 msg_size;			/* bytes from there on */
	__u64 return_flags;		/* KDBUS_RECV_RETURN_* */
};

enum kdbus_send_flags {
	KDBUS_SEND_SYNC_REPLY	= 1ULL << 0,	/* with EXPECT_REPLY: block until the reply is there */
};

/* KDBUS_CMD_SEND. The only item allowed is CANCEL_FD. */
struct kdbus_cmd_send {
	__u64 size;
	__u64 flags;			/* KDBUS_SEND_* */
	__u64 kernel_flags;
	__u64 kernel_msg_flags;		/* out: as kernel_flags, for the flags of the message */
	__u64 return_flags;
	__u64 msg_address;		/* of a struct kdbus_msg */
	struct kdbus_msg_info reply;	/* out: with KDBUS_SEND_SYNC_REPLY */
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

enum kdbus_recv_flags {
	KDBUS_RECV_PEEK		= 1ULL << 0,	/* look only: it stays queued, no descriptors are installed */
	KDBUS_RECV_DROP		= 1ULL << 1,	/* throw the next one away unseen */
	KDBUS_RECV_USE_PRIORITY	= 1ULL << 2,	/* only one of `priority` or lower; ENOMSG if there is none */
};

enum kdbus_recv_return_flags {
	KDBUS_RECV_RETURN_INCOMPLETE_FDS	= 1ULL << 0,	/* descriptors are missing: negative in the items */
};

/* KDBUS_CMD_RECV. EAGAIN: nothing is queued. EOVERFLOW: broadcasts were lost, nothing was received, try again. */
struct kdbus_cmd_recv {
	__u64 size;
	__u64 flags;			/* KDBUS_RECV_* */
	__u64 kernel_flags;
	__u64 return_flags;
	__s64 priority;			/* with KDBUS_RECV_USE_PRIORITY */
	__u64 dropped_msgs;		/* out, with EOVERFLOW: how many since the last time */
	struct kdbus_msg_info msg;	/* out, but msg.offset has to be 0 before */
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

/* ------------------------------------------------------------------------------------------------------------------
 * Names
 */

enum kdbus_name_flags {
	KDBUS_NAME_REPLACE_EXISTING	= 1ULL << 0,	/* take it from an owner that allows it */
	KDBUS_NAME_ALLOW_REPLACEMENT	= 1ULL << 1,	/* let others take it */
	KDBUS_NAME_QUEUE		= 1ULL << 2,	/* if it is taken, wait in line instead of EEXIST */
	KDBUS_NAME_IN_QUEUE		= 1ULL << 3,	/* out only: not owner yet, but in line */
	KDBUS_NAME_ACTIVATOR		= 1ULL << 4,	/* out only: an activator holds it */
};

/* KDBUS_CMD_NAME_ACQUIRE and KDBUS_CMD_NAME_RELEASE, with one item NAME. A name is two or more parts with dots between,
 * each of letters, digits, '_' and '-' and not starting with a digit; 255 characters at most. */
struct kdbus_cmd_name {
	__u64 size;
	__u64 flags;			/* KDBUS_NAME_*; ACQUIRE may return KDBUS_NAME_IN_QUEUE here; none for RELEASE */
	__u64 kernel_flags;
	__u64 return_flags;
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

enum kdbus_name_list_flags {
	KDBUS_NAME_LIST_UNIQUE		= 1ULL << 0,	/* connections without a name of the kinds below, too */
	KDBUS_NAME_LIST_NAMES		= 1ULL << 1,	/* owned names */
	KDBUS_NAME_LIST_ACTIVATORS	= 1ULL << 2,	/* activators and what they hold */
	KDBUS_NAME_LIST_QUEUED		= 1ULL << 3,	/* names that a connection waits for */
};

/* KDBUS_CMD_NAME_LIST. The item array has to be empty. */
struct kdbus_cmd_name_list {
	__u64 size;
	__u64 flags;			/* KDBUS_NAME_LIST_* */
	__u64 kernel_flags;
	__u64 return_flags;
	__u64 offset;			/* out: struct kdbus_name_list in the pool; to be freed */
	__u64 list_size;		/* out: its size */
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

/* One entry: a connection with one item OWNED_NAME, or without any. The next one starts `size` bytes further. */
struct kdbus_name_info {
	__u64 size;
	__u64 conn_flags;		/* KDBUS_HELLO_* */
	__u64 owner_id;
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

struct kdbus_name_list {
	__u64 size;
	struct kdbus_name_info names[0];
};

/* ------------------------------------------------------------------------------------------------------------------
 * Matches: which broadcasts and notifications a connection wants. Without one, none.
 */

enum kdbus_cmd_match_flags {
	KDBUS_MATCH_REPLACE	= 1ULL << 0,	/* instead of what has the same cookie */
};

/* KDBUS_CMD_MATCH_ADD: a message has to satisfy all items of one match. For those of others: BLOOM_MASK, NAME (of the
 * sender), ID (of the sender); for notifications: NAME_ADD, NAME_REMOVE, NAME_CHANGE, ID_ADD, ID_REMOVE.
 * KDBUS_CMD_MATCH_REMOVE: removes all with that cookie; no items. */
struct kdbus_cmd_match {
	__u64 size;
	__u64 cookie;			/* chosen by the caller */
	__u64 flags;			/* KDBUS_MATCH_* */
	__u64 kernel_flags;
	__u64 return_flags;
	struct kdbus_item items[0];
} __attribute__((aligned(8)));

/* ------------------------------------------------------------------------------------------------------------------
 * Requests
 */

enum kdbus_ioctl_type {
	/* on the control node */
	KDBUS_CMD_BUS_MAKE		= _IOW(KDBUS_IOCTL_MAGIC, 0x00, struct kdbus_cmd_make),

	/* on a fresh opening of an endpoint: decides what the descriptor is from then on */
	KDBUS_CMD_ENDPOINT_MAKE		= _IOW(KDBUS_IOCTL_MAGIC, 0x10, struct kdbus_cmd_make),
	KDBUS_CMD_HELLO			= _IOWR(KDBUS_IOCTL_MAGIC, 0x20, struct kdbus_cmd_hello),

	/* on a connection */
	KDBUS_CMD_BYEBYE		= _IO(KDBUS_IOCTL_MAGIC, 0x21),	/* leave; EBUSY while messages are queued */
	KDBUS_CMD_SEND			= _IOWR(KDBUS_IOCTL_MAGIC, 0x30, struct kdbus_cmd_send),
	KDBUS_CMD_RECV			= _IOWR(KDBUS_IOCTL_MAGIC, 0x31, struct kdbus_cmd_recv),
	KDBUS_CMD_FREE			= _IOW(KDBUS_IOCTL_MAGIC, 0x32, struct kdbus_cmd_free),
	KDBUS_CMD_NAME_ACQUIRE		= _IOWR(KDBUS_IOCTL_MAGIC, 0x40, struct kdbus_cmd_name),
	KDBUS_CMD_NAME_RELEASE		= _IOW(KDBUS_IOCTL_MAGIC, 0x41, struct kdbus_cmd_name),
	KDBUS_CMD_NAME_LIST		= _IOWR(KDBUS_IOCTL_MAGIC, 0x42, struct kdbus_cmd_name_list),
	KDBUS_CMD_CONN_INFO		= _IOWR(KDBUS_IOCTL_MAGIC, 0x50, struct kdbus_cmd_info),
	KDBUS_CMD_CONN_UPDATE		= _IOW(KDBUS_IOCTL_MAGIC, 0x51, struct kdbus_cmd_update),
	KDBUS_CMD_BUS_CREATOR_INFO	= _IOWR(KDBUS_IOCTL_MAGIC, 0x52, struct kdbus_cmd_info),
	KDBUS_CMD_MATCH_ADD		= _IOW(KDBUS_IOCTL_MAGIC, 0x70, struct kdbus_cmd_match),
	KDBUS_CMD_MATCH_REMOVE		= _IOW(KDBUS_IOCTL_MAGIC, 0x71, struct kdbus_cmd_match),

	/* on the descriptor that made an endpoint */
	KDBUS_CMD_ENDPOINT_UPDATE	= _IOW(KDBUS_IOCTL_MAGIC, 0x61, struct kdbus_cmd_update),
};

#endif /* _KDBUS_UAPI_H_ */
