// SPDX-License-Identifier: GPL-2.0-or-later
//
// Of the hot path alone: what is the same in all revisions of the ABI (a test compares it with the tables), and a
// message on its way.

#ifndef KDBUS_HOT_PATH_H
#define KDBUS_HOT_PATH_H

#include "flow.h"

#include <linux/audit.h>
#include <sys/uio.h>

#define FLAG_KERNEL (1ULL << 63)
#define SEND_SYNC_REPLY 1ULL
#define RECV_FLAGS 7ULL
#define MSG_EXPECT_REPLY 1ULL
#define MSG_NO_AUTO_START 2ULL
#define MSG_SIGNAL 4ULL
#define MSG_FLAGS 7ULL
#define DST_BROADCAST UINT64_MAX

// Words of a message that is its own command, up to those from which on it has what others have from MSG_PRIORITY on.
enum { COMMAND_FLAGS_WORD = 1, COMMAND_KERNEL_FLAGS_WORD, COMMAND_PRIORITY };

// Flags of a message that is its own command.
#define COMMAND_EXPECT_REPLY 1ULL
#define COMMAND_SYNC_REPLY 2ULL
#define COMMAND_NO_AUTO_START 4ULL
#define COMMAND_FLAGS 7ULL

// Words of struct kdbus_msg.
enum { MSG_SIZE, MSG_FLAGS_WORD, MSG_PRIORITY, MSG_DST, MSG_SRC, MSG_TYPE, MSG_COOKIE, MSG_TIMEOUT, MSG_WORDS };

// Words of struct kdbus_msg_info, which says where a received message lies.
enum { INFO_OFFSET, INFO_SIZE, INFO_RETURN_FLAGS, INFO_WORDS };

#if defined(__x86_64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "the hot path knows the architectures x86-64 and AArch64"
#endif

#define PAGE 4096 // the smallest that there is
#define COMMAND_BYTES (8 * LENT_COMMAND)
#define HEADER_BYTES 64
#define COMMAND_HEADER_BYTES 72 // of a message that is its own command
#define ITEM_HEADER 16
#define VEC_ITEM 32
#define MEMFD_ITEM 40
#define STARTLESS_MEMFD_ITEM 32 // in a message that is its own command
#define TIMESTAMP_ITEM 40
#define RETURN_INCOMPLETE_FDS 1ULL
#define FORESEEN_BYTES 192 // of a message: header, a name, a vector
#define FORESEEN_PIECES 3  // the command, the message, its payload
#define FORESEEN_GAP 512   // between pieces that are read as one
#define FORESEEN_ROOM (COMMAND_BYTES + FORESEEN_BYTES + LENT_SHORT + (FORESEEN_PIECES - 1) * FORESEEN_GAP)

// A message as it was read, in the form of those that a command points at, and what its items say.
struct outgoing {
    const struct kdbus_flow_revision *revision; // of the sender
    struct deputy *deputy; // who reads it
    struct lent_slice *filling; // by a copy that is under way, NULL for none
    struct flow_connection *filled; // whose slice that is
    uint64_t flags; // of the command, as SEND_SYNC_REPLY
    uint64_t items_end; // without the padding of the last one, from the start of the message
    uint64_t words[LENT_MESSAGE_SIZE / 8];
    struct iovec remote[LENT_PARTS]; // of the vectors among the parts
    uint32_t vector_count;
    struct flow_part parts[LENT_PARTS]; // `file` is the sender's number until outgoing_fetch_files
    uint32_t part_count;
    uint64_t payload_size;
    const char *copy; // where it has been copied to already, NULL before
    const char *filter; // of a signal, in `words`, NULL for none
    size_t filter_size;
    uint32_t name_size;
    char name[LENT_NAME];
    struct iovec foreseen; // where `payload` was read, together with the message; no length if it was not
    char payload[LENT_SHORT];
};

// caller.c
int hot_read(struct kdbus_engine *engine, uint32_t pid, uint64_t address, void *buffer, size_t size);
int hot_write_back(struct kdbus_engine *engine, uint32_t pid, uint64_t address, const uint64_t *seen, size_t first,
                   const uint64_t *words, size_t count);
void hot_overwrite_word(struct kdbus_engine *engine, uint32_t pid, uint64_t address, size_t place, uint64_t word);
int hot_fetch(struct kdbus_engine *engine, struct flow_binding *binding, int descriptor);
int hot_duplicate(struct kdbus_engine *engine, const struct flow_connection *connection, struct flow_binding *binding);
void hot_wake(struct flow_connection *connection);
void hot_clear_readable(struct flow_connection *connection, int socket);

// incoming.c
int incoming_has_metadata(const struct flow_entry *entry);
size_t incoming_size(const struct flow_entry *entry);
uint64_t *incoming_write_items(const struct kdbus_flow_revision *receiver, const struct flow_entry *entry,
                               uint64_t payload_at, uint64_t *word);
uint64_t incoming_install_files(int listener, uint64_t call, const struct flow_connection *receiver,
                                const struct lent_slice *slice, const struct flow_entry *entry);
void incoming_undo(struct flow_connection *receiver, const struct flow_entry *entry, struct lent_slice *slice);
struct lent_slice *incoming_write(struct flow_connection *receiver, const struct flow_entry *entry,
                                  const struct flow_export *shown);

// whole.c
struct whole {
    uint64_t message_size; // as its header says
    uint64_t metadata_at;  // from the start of the slice, like all that follows
    uint64_t payload_at;
    uint64_t size; // of the slice
};

struct whole whole_measure(const struct outgoing *out, const struct kdbus_flow_revision *receiver,
                           const struct flow_entry *entry, const struct flow_export *shown);
struct lent_slice *whole_write(const struct kdbus_notification *call, struct outgoing *out,
                               struct flow_connection *receiver, struct flow_entry *entry,
                               const struct flow_export *shown, const struct whole *whole);

// A SEND on its way: what was read, what it leads to, and what came of it.
struct sending {
    struct kdbus_engine *engine;
    const struct kdbus_notification *call;
    struct flow_binding *binding;
    const struct kdbus_flow_revision *revision; // of the sender
    struct flow_connection *source;
    struct flow_connection *receiver;
    const struct flow *flow;
    uint64_t name_id; // by which acquisition of a name it is addressed, 0 by id
    const struct flow_origin *origin; // NULL without metadata
    const struct flow_export *shown;  // of that, to a receiver of whole messages
    struct flow_reply *answered;      // the request that this is the reply to, NULL for none
    int expects;
    int charge;
    uint64_t timestamp[2];
    uint64_t sequence; // of the message
    struct flow_entry *entry;
    uint64_t command[LENT_COMMAND];
    struct outgoing out;
};

// hot_send.c and hot_receive.c
int hot_send(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_binding *binding);
int hot_recv(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_binding *binding,
             int socket);
int hot_free(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_connection *owner);
void hot_dequeue(struct kdbus_engine *engine, struct flow_connection *receiver);
int sending_find_origin(struct kdbus_engine *engine, struct sending *send, const struct flow *flow);
int sending_write_flags(const struct sending *send);
void sending_restore_flags(const struct sending *send);
struct flow_entry *sending_new_entry(const struct sending *send);
int sending_place(struct sending *send, struct flow_connection *receiver, struct flow_entry *entry,
                  const struct flow_export *shown, int free_of_charge);
void sending_undo(struct flow_connection *receiver, struct flow_entry *entry);
void sending_enqueue(struct kdbus_engine *engine, struct flow_connection *receiver, struct flow_entry *entry);
void sending_count(struct kdbus_engine *engine, struct sending *send);
void sending_finish(struct kdbus_engine *engine, const struct sending *send);

// hot_signal.c
struct delivery;
int hot_signal(struct kdbus_engine *engine, struct sending *send);
void signal_undo(const struct flow_signal *signal, struct delivery *made, uint32_t count);

// hot_stall.c
int hot_abandon(struct kdbus_engine *engine, const struct kdbus_notification *call);
int stall_holds(struct kdbus_engine *engine, int listener, const struct kdbus_notification *call);

// ring.c
int flow_ring_foresee(struct kdbus_engine *engine, struct sending *send);
void flow_ring_sent(struct kdbus_engine *engine, const struct sending *send);
void flow_ring_failed(struct kdbus_engine *engine, int error);
void flow_ring_waits(struct kdbus_engine *engine, const struct sending *send);
void flow_ring_refused(struct kdbus_engine *engine, const struct sending *send);
void flow_ring_answered(struct kdbus_engine *engine, const struct flow_reply *reply, const uint64_t *results);
void flow_ring_over(struct kdbus_engine *engine, const struct kdbus_notification *call,
                    const struct flow_connection *connection, const uint64_t *before, const uint64_t *after,
                    const struct lent_slice *slice, int error);

// outgoing.c
int outgoing_read(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_binding *binding,
                  uint64_t *command, struct outgoing *out);
void outgoing_foresee(struct flow_binding *binding, const struct outgoing *out);
int outgoing_parse(struct outgoing *out);
int outgoing_is_plain(const struct flow_connection *source, const struct outgoing *out);
int outgoing_copy_payload(const struct kdbus_notification *call, struct outgoing *out, char *place);
struct lent_slice *outgoing_take_payload(const struct kdbus_notification *call, struct outgoing *out,
                                         struct flow_connection *receiver);
void outgoing_close_files(struct outgoing *out, uint32_t count);
int outgoing_fetch_files(struct kdbus_engine *engine, struct flow_binding *binding, struct outgoing *out);

#endif
