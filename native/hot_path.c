// SPDX-License-Identifier: GPL-2.0-or-later
//
// The hot path: SEND, RECV and FREE of lent connections, see flow.c.
//
// Each of the three first finds out whether it can serve the call, reading all that it needs from the target once, and
// only then changes anything. A call is the broker's (result 0) as soon as anything is unusual: a size other than that
// of the bare structure, an unknown flag, an item that is neither a plain vector, nor a sealed memfd, nor a
// destination, a receiver that is not lent, no flow, a full queue or pool, an address that cannot be read or written.
// What the broker then reads is what it decides on.
//
// Crossings into the kernel per call: the notification and its answer, one kcmp(2) to be sure of the descriptor,
// one process_vm_readv(2) for the command, and for a SEND also the message where the last one of this descriptor was;
// another for the payload; one process_vm_writev(2) if results differ from what stands there. A receiver is woken,
// before the sender is answered, if its queue was empty; and its descriptor made unreadable when the queue is empty again.

#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

// Numbers of version 3 (broker/revision3.py), and offsets in words of 64 bits. A test compares them.
#define CMD_SEND 0xc0489530U
#define CMD_RECV 0xc0489531U
#define CMD_FREE 0x40289532U
#define FLAG_KERNEL (1ULL << 63)
#define SEND_SYNC_REPLY 1ULL
#define RECV_FLAGS 7ULL
#define MSG_EXPECT_REPLY 1ULL
#define MSG_NO_AUTO_START 2ULL
#define MSG_FLAGS 7ULL
#define ITEM_PAYLOAD_VEC 1
#define ITEM_PAYLOAD_OFF 2
#define ITEM_PAYLOAD_MEMFD 3
#define ITEM_DST_NAME 9
#define DST_BROADCAST UINT64_MAX

enum { SEND_SIZE, SEND_FLAGS, SEND_KERNEL_FLAGS, SEND_KERNEL_MSG_FLAGS, SEND_RETURN_FLAGS, SEND_ADDRESS, SEND_REPLY };
enum { RECV_SIZE, RECV_FLAGS_WORD, RECV_KERNEL_FLAGS, RECV_RETURN_FLAGS, RECV_PRIORITY, RECV_DROPPED, RECV_MSG };
enum { FREE_SIZE, FREE_OFFSET, FREE_FLAGS, FREE_KERNEL_FLAGS, FREE_RETURN_FLAGS };
enum { MSG_SIZE, MSG_FLAGS_WORD, MSG_PRIORITY, MSG_DST, MSG_SRC, MSG_TYPE, MSG_COOKIE, MSG_TIMEOUT, MSG_WORDS };

#if defined(__x86_64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "the hot path knows the architectures x86-64 and AArch64"
#endif

#define SEND_BYTES 72
#define RECV_BYTES 72
#define FREE_BYTES 40
#define HEADER_BYTES 64
#define ITEM_HEADER 16
#define VEC_ITEM 32
#define MEMFD_ITEM 40
#define RETURN_INCOMPLETE_FDS 1ULL
#define FORESEEN_BYTES 192 // of a message: header, a name, a vector

// A message as it was read, and what its items say.
struct outgoing {
    uint64_t words[LENT_MESSAGE_SIZE / 8];
    struct iovec remote[LENT_PARTS]; // of the vectors among the parts
    uint32_t vector_count;
    struct flow_part parts[LENT_PARTS]; // `file` is the sender's number until fetch_files
    uint32_t part_count;
    uint64_t payload_size;
    uint32_t name_size;
    char name[LENT_NAME];
    struct iovec foreseen; // where `payload` was read, together with the message; no length if it was not
    char payload[LENT_SHORT];
};

static uint64_t align8(uint64_t size)
{
    return (size + 7) & ~7ULL;
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int read_exactly(uint32_t pid, uint64_t address, void *buffer, size_t size)
{
    struct iovec local = {buffer, size};
    struct iovec remote = {(void *)address, size};

    return process_vm_readv((pid_t)pid, &local, 1, &remote, 1, 0) == (ssize_t)size;
}

// `count` words at word number `first` of the structure at `address`, unless they stand there already.
static int write_back(uint32_t pid, uint64_t address, const uint64_t *seen, size_t first, const uint64_t *words,
                      size_t count)
{
    struct iovec local = {(void *)words, 8 * count};
    struct iovec remote = {(void *)(address + 8 * first), 8 * count};

    if (!memcmp(seen + first, words, 8 * count))
        return 1;
    return process_vm_writev((pid_t)pid, &local, 1, &remote, 1, 0) == (ssize_t)(8 * count);
}

// -- waking -------------------------------------------------------------------------------------------------------------

static void wake(struct flow_connection *connection)
{
    if (!connection->readable && send(connection->ours, "m", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
        connection->readable = 1;
}

// A duplicate of a descriptor of the binding's thread, or -errno.
static int fetch(struct kdbus_engine *engine, struct flow_binding *binding, int descriptor)
{
    int copy = binding->pidfd < 0 ? -ESRCH : kdbus_pidfd_getfd(binding->pidfd, descriptor);

    if (copy == -ESRCH) { // no pidfd yet, or the number is another thread's by now
        flow_forget_pidfd(engine, binding);
        if (engine->pidfds >= LENT_PIDFDS)
            flow_forget_pidfds(engine); // those in use come back
        binding->pidfd = kdbus_pidfd_open((int)(binding->key >> 32), PIDFD_THREAD);
        if (binding->pidfd < 0) {
            binding->pidfd = -1;
            return -ESRCH;
        }
        engine->pidfds++;
        copy = kdbus_pidfd_getfd(binding->pidfd, descriptor);
    }
    return copy;
}

// A duplicate of the descriptor of the call, proved to be the connection's by the number that its socket has; -1 if it is
// not, or cannot be had.
static int duplicate(struct kdbus_engine *engine, const struct flow_connection *connection,
                     struct flow_binding *binding)
{
    int socket = fetch(engine, binding, (int)(uint32_t)binding->key);
    uint64_t cookie = 0;

    if (socket >= 0 && (kdbus_socket_cookie(socket, &cookie) < 0 || cookie != connection->cookie)) {
        close(socket);
        return -1;
    }
    return socket < 0 ? -1 : socket;
}

// The queue is empty: take the byte back, through a duplicate of the descriptor of the call that emptied it. There is
// never more than one, so one attempt takes all.
static void calm(struct flow_connection *connection, int socket)
{
    char discarded[64];

    if (connection->readable && (recv(socket, discarded, sizeof(discarded), MSG_DONTWAIT) > 0 || errno == EAGAIN))
        connection->readable = 0;
}

// -- SEND ---------------------------------------------------------------------------------------------------------------

// Command and message, and a short payload, in one crossing if they are where they were the last time.
static int read_command_and_message(const struct kdbus_notification *call, struct flow_binding *binding,
                                    uint64_t *command, struct outgoing *out)
{
    struct iovec local[3] = {{command, SEND_BYTES}, {out->words, FORESEEN_BYTES}, {out->payload, 0}};
    struct iovec remote[3] = {{(void *)call->arguments[2], SEND_BYTES}, {NULL, FORESEEN_BYTES}, binding->payload};
    size_t count = binding->message_address ? 2 + !!binding->payload.iov_len : 1;
    uint64_t size;
    ssize_t got;

    remote[1].iov_base = (void *)binding->message_address;
    local[2].iov_len = binding->payload.iov_len;
    got = process_vm_readv((pid_t)call->pid, local, count, remote, count, 0);
    if (got < SEND_BYTES || command[SEND_SIZE] != SEND_BYTES || command[SEND_ADDRESS] & 7)
        return 0;
    got -= SEND_BYTES;
    out->foreseen.iov_len = 0;
    if (got == (ssize_t)(FORESEEN_BYTES + local[2].iov_len))
        out->foreseen = binding->payload;
    if (command[SEND_ADDRESS] == binding->message_address && got >= HEADER_BYTES &&
        out->words[MSG_SIZE] <= (uint64_t)(got < FORESEEN_BYTES ? got : FORESEEN_BYTES))
        return out->words[MSG_SIZE] >= HEADER_BYTES;
    out->foreseen.iov_len = 0;
    if (!command[SEND_ADDRESS] || !read_exactly(call->pid, command[SEND_ADDRESS], &size, sizeof(size)))
        return 0;
    if (size < HEADER_BYTES || size > sizeof(out->words) ||
        !read_exactly(call->pid, command[SEND_ADDRESS], out->words, size))
        return 0;
    binding->message_address = command[SEND_ADDRESS];
    return out->words[MSG_SIZE] == size;
}

// What to read together with the next message.
static void foresee_payload(struct flow_binding *binding, const struct outgoing *out)
{
    if (out->vector_count == 1 && out->payload_size <= LENT_SHORT)
        binding->payload = out->remote[0];
    else
        binding->payload.iov_len = 0;
}

static int parse_items(struct outgoing *out)
{
    const char *data = (const char *)out->words;
    uint64_t end = out->words[MSG_SIZE];
    uint64_t position = HEADER_BYTES;

    out->part_count = 0;
    out->vector_count = 0;
    out->payload_size = 0;
    out->name_size = 0;
    out->name[0] = 0;
    while (position < end) {
        uint64_t size;
        uint64_t type;

        if (end - position < ITEM_HEADER)
            return 0;
        memcpy(&size, data + position, 8);
        memcpy(&type, data + position + 8, 8);
        if (size < ITEM_HEADER || size > end - position)
            return 0;
        if (type == ITEM_PAYLOAD_VEC && size == VEC_ITEM && out->part_count < LENT_PARTS) {
            uint64_t vector[2];

            memcpy(vector, data + position + ITEM_HEADER, sizeof(vector));
            if (!vector[0] || !vector[1] || vector[0] > LENT_PAYLOAD - out->payload_size)
                return 0;
            out->remote[out->vector_count++] = (struct iovec){(void *)vector[1], vector[0]};
            out->parts[out->part_count++] = (struct flow_part){vector[0], out->payload_size, -1};
            out->payload_size += vector[0];
        } else if (type == ITEM_PAYLOAD_MEMFD && size == MEMFD_ITEM && out->part_count < LENT_PARTS) {
            uint64_t memfd[3]; // start, size, descriptor

            memcpy(memfd, data + position + ITEM_HEADER, sizeof(memfd));
            if (!memfd[1] || memfd[1] & 7 || (int32_t)memfd[2] < 0)
                return 0;
            out->parts[out->part_count++] = (struct flow_part){memfd[1], memfd[0], (int32_t)memfd[2]};
        } else if (type == ITEM_DST_NAME && !out->name_size && size > ITEM_HEADER && size - ITEM_HEADER < LENT_NAME) {
            out->name_size = (uint32_t)(size - ITEM_HEADER);
            memcpy(out->name, data + position + ITEM_HEADER, out->name_size);
            if (strnlen(out->name, out->name_size) != out->name_size - 1)
                return 0;
        } else {
            return 0;
        }
        position += align8(size);
    }
    return position == align8(end);
}

// The flags, ids and deadlines that go together (broker/message.py), in the cases that are served here.
static int is_plain(const struct flow_connection *source, const uint64_t *command, const struct outgoing *out)
{
    const uint64_t *message = out->words;
    int expects = message[MSG_FLAGS_WORD] & MSG_EXPECT_REPLY;

    if (command[SEND_FLAGS] & ~SEND_SYNC_REPLY || message[MSG_FLAGS_WORD] & ~(MSG_EXPECT_REPLY | MSG_NO_AUTO_START))
        return 0;
    if (!message[MSG_TYPE] || message[MSG_DST] == DST_BROADCAST || (!message[MSG_DST] && !out->name_size))
        return 0;
    if (message[MSG_SRC] && message[MSG_SRC] != source->id)
        return 0;
    if (expects)
        return message[MSG_COOKIE] && message[MSG_TIMEOUT] > now_ns() && message[MSG_TIMEOUT] <= INT64_MAX;
    return !(command[SEND_FLAGS] & SEND_SYNC_REPLY);
}

static struct flow_reply *find_reply(struct kdbus_engine *engine, const struct flow_connection *requester,
                                     const struct flow_connection *replier, uint64_t cookie)
{
    for (struct flow_reply *reply = engine->last_in_list; reply; reply = reply->previous)
        if (reply->linked && reply->requester == requester && reply->replier == replier && reply->cookie == cookie)
            return reply;
    return NULL;
}

// Index of the charge that a message of `user` costs, -1 for none, -2 if the broker has to decide.
static int find_charge(const struct flow_connection *receiver, uint64_t user)
{
    int unused = -2;

    if (receiver->message_count < LENT_UNACCOUNTED)
        return -1;
    for (int i = 0; i < LENT_USERS; i++) {
        if (receiver->charges[i].count && receiver->charges[i].user == user)
            return receiver->charges[i].count < LENT_PER_USER ? i : -2;
        if (!receiver->charges[i].count && unused < 0)
            unused = i;
    }
    return unused;
}

static int copy_payload(const struct kdbus_notification *call, const struct outgoing *out, struct lent_pool *pool,
                        const struct lent_slice *slice)
{
    struct iovec local = {(char *)pool->memory.memory + slice->offset, out->payload_size};

    if (out->foreseen.iov_len == out->payload_size && out->vector_count == 1 &&
        out->foreseen.iov_base == out->remote[0].iov_base) {
        memcpy(local.iov_base, out->payload, out->payload_size);
        return 1;
    }
    return process_vm_readv((pid_t)call->pid, &local, 1, out->remote, out->vector_count, 0) ==
           (ssize_t)out->payload_size;
}

// A slice with the payload, NULL where there is none; `*failed` where the broker has to look.
static struct lent_slice *take_payload(const struct kdbus_notification *call, const struct outgoing *out,
                                       struct flow_connection *receiver, int *failed)
{
    uint64_t remaining = receiver->pool.memory.size - receiver->pool.busy;
    struct lent_slice *slice;

    *failed = 0;
    if (!out->payload_size)
        return NULL;
    slice = out->payload_size < remaining && out->payload_size > remaining / 2
                ? NULL
                : lent_pool_allocate(&receiver->pool, out->payload_size);
    if (slice && !copy_payload(call, out, &receiver->pool, slice)) {
        lent_pool_undo(&receiver->pool, slice);
        slice = NULL;
    }
    *failed = !slice;
    return slice;
}

// Whether the file may be passed as a memfd: sealed altogether, and as long as the part says (broker/message.py).
static int is_sealed(int file, const struct flow_part *part)
{
    const int all = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    int seals = fcntl(file, F_GET_SEALS); // fails for O_PATH, and for what is no memfd
    struct stat status;

    return seals >= 0 && (seals & all) == all && !fstat(file, &status) && part->start <= UINT64_MAX - part->size &&
           part->start + part->size <= (uint64_t)status.st_size;
}

static void close_files(struct outgoing *out, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (out->parts[i].file >= 0)
            close(out->parts[i].file);
}

// Replaces the sender's descriptor numbers by duplicates of ours. 0 if one of them is not a memfd to be passed.
static int fetch_files(struct kdbus_engine *engine, struct flow_binding *binding, struct outgoing *out)
{
    for (uint32_t i = 0; i < out->part_count; i++) {
        struct flow_part *part = &out->parts[i];
        int copy;

        if (part->file < 0)
            continue;
        copy = fetch(engine, binding, part->file);
        if (copy < 0 || !is_sealed(copy, part)) {
            if (copy >= 0)
                close(copy);
            close_files(out, i);
            return 0;
        }
        part->file = copy;
    }
    return 1;
}

static void fill_entry(struct flow_entry *entry, const struct flow_connection *source, const struct outgoing *out)
{
    memcpy(entry->header, out->words, sizeof(entry->header));
    entry->header[MSG_SRC] = source->id;
    entry->part_count = out->part_count;
    memcpy(entry->parts, out->parts, out->part_count * sizeof(*out->parts));
    entry->name_size = out->name_size;
    memcpy(entry->name, out->name, out->name_size);
    entry->user = -1;
}

static size_t message_size(const struct flow_entry *entry)
{
    size_t size = HEADER_BYTES + (entry->name_size ? align8(ITEM_HEADER + entry->name_size) : 0);

    for (uint32_t i = 0; i < entry->part_count; i++)
        size += entry->parts[i].file < 0 ? VEC_ITEM : MEMFD_ITEM;
    return size;
}

// Gives the caller of `call`, from `listener`, the memfds of the message in `slice`, whose items have to be told the numbers.
static uint64_t install_files(int listener, uint64_t call, const struct lent_pool *pool,
                              const struct lent_slice *slice, const struct flow_entry *entry)
{
    uint64_t *word = (uint64_t *)((char *)pool->memory.memory + slice->offset) + MSG_WORDS;
    uint64_t flags = 0;

    if (entry->name_size)
        word += align8(ITEM_HEADER + entry->name_size) / 8;
    for (uint32_t i = 0; i < entry->part_count; i++) {
        int number;

        if (entry->parts[i].file < 0) {
            word += VEC_ITEM / 8;
            continue;
        }
        number = kdbus_listener_add_descriptor(listener, call, entry->parts[i].file, -1, O_CLOEXEC);
        if (number < 0)
            flags = RETURN_INCOMPLETE_FDS;
        word[4] = (uint32_t)number;
        word += MEMFD_ITEM / 8;
    }
    return flags;
}

// Header and items, as broker/queue.py writes them, into a slice that holds the payload's.
static struct lent_slice *write_message(struct flow_connection *receiver, const struct flow_entry *entry)
{
    uint64_t offset = entry->payload ? entry->payload->offset : 0;
    size_t size = message_size(entry);
    struct lent_slice *slice = lent_pool_allocate(&receiver->pool, size);
    uint64_t *word;

    if (!slice)
        return NULL;
    if (entry->payload) {
        entry->payload->holders++;
        slice->child = entry->payload;
    }
    word = (uint64_t *)((char *)receiver->pool.memory.memory + slice->offset);
    memcpy(word, entry->header, HEADER_BYTES);
    word[MSG_SIZE] = size;
    word += MSG_WORDS;
    if (entry->name_size) {
        size_t padded = align8(entry->name_size);

        *word++ = ITEM_HEADER + entry->name_size;
        *word++ = ITEM_DST_NAME;
        memset(word, 0, padded);
        memcpy(word, entry->name, entry->name_size);
        word += padded / 8;
    }
    for (uint32_t i = 0; i < entry->part_count; i++) {
        if (entry->parts[i].file >= 0) {
            *word++ = MEMFD_ITEM;
            *word++ = ITEM_PAYLOAD_MEMFD;
            *word++ = entry->parts[i].start;
            *word++ = entry->parts[i].size;
            *word++ = UINT32_MAX; // until it is installed
            continue;
        }
        *word++ = VEC_ITEM;
        *word++ = ITEM_PAYLOAD_OFF;
        *word++ = entry->parts[i].size;
        // Zeros that are not stored have no place.
        *word++ = entry->parts[i].start == UINT64_MAX ? UINT64_MAX : entry->parts[i].start + offset;
    }
    return slice;
}

// The answer to a waiting call: into its pool, its command, and out of its wait. 0 if that cannot be.
static int finish_wait(struct flow_reply *reply, const struct flow_entry *entry)
{
    struct flow_connection *requester = reply->requester;
    uint64_t caller = reply->caller.id;
    struct lent_slice *slice;
    uint64_t results[3];

    if (kdbus_listener_is_valid(reply->listener, caller) != 1)
        return 0;
    slice = write_message(requester, entry);
    if (!slice)
        return 0;
    results[0] = slice->offset;
    results[1] = slice->size;
    results[2] = 0;
    if (!write_back(reply->caller.pid, reply->caller.arguments[2], reply->command, SEND_REPLY, results, 3)) {
        lent_pool_undo(&requester->pool, slice);
        return 0;
    }
    results[2] = install_files(reply->listener, caller, &requester->pool, slice, entry);
    if (results[2])
        write_back(reply->caller.pid, reply->caller.arguments[2], reply->command, SEND_REPLY, results, 3);
    slice->published = 1;
    slice->holders--;
    requester->dirty = 1;
    // Whether it is still there to hear the answer is no longer anybody's business.
    kdbus_listener_respond(reply->listener, caller, 0, 0);
    return 1;
}

static int serve_send(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_binding *binding)
{
    const uint64_t expected[] = {SEND_SYNC_REPLY | FLAG_KERNEL, MSG_FLAGS | FLAG_KERNEL, 0};
    struct flow_connection *source = binding->connection;
    struct flow_connection *receiver;
    struct flow_reply *answered = NULL;
    struct flow_reply *reply = NULL;
    struct flow_entry *entry;
    const struct flow *flow;
    struct outgoing out;
    uint64_t command[9];
    int expects;
    int failed;
    int charge;

    if (!read_command_and_message(call, binding, command, &out) || !parse_items(&out) ||
        !is_plain(source, command, &out))
        return 0;
    foresee_payload(binding, &out);
    expects = out.words[MSG_FLAGS_WORD] & MSG_EXPECT_REPLY;
    flow = flow_find(engine, source, out.words[MSG_DST], out.name);
    if (!flow || !flow_is_lent(engine, flow->destination))
        return 0;
    receiver = flow->destination;
    if (!expects && out.words[MSG_TIMEOUT]) {
        answered = find_reply(engine, receiver, source, out.words[MSG_TIMEOUT]);
        if (!answered || (answered->sync && !answered->waiting))
            return 0;
    }
    if (expects && source->request_count >= LENT_REQUESTS)
        return 0;
    charge = answered && answered->sync ? -1 : find_charge(receiver, source->user);
    if (charge < -1 || receiver->message_count >= LENT_MESSAGES)
        return 0;
    if (!write_back(call->pid, call->arguments[2], command, SEND_KERNEL_FLAGS, expected, 3))
        return 0;

    if (!fetch_files(engine, binding, &out))
        return 0;
    entry = calloc(1, sizeof(*entry));
    if (!entry) {
        close_files(&out, out.part_count);
        return -ENOMEM;
    }
    fill_entry(entry, source, &out);
    entry->payload = take_payload(call, &out, receiver, &failed);
    if (failed) {
        flow_close_files(entry);
        free(entry);
        return 0;
    }
    if (answered && answered->sync) {
        int finished = finish_wait(answered, entry);

        if (entry->payload && finished)
            lent_pool_release(&receiver->pool, entry->payload);
        else if (entry->payload)
            lent_pool_undo(&receiver->pool, entry->payload);
        flow_close_files(entry);
        free(entry);
        if (!finished)
            return 0;
        answered->waiting = 0;
        flow_unlink_reply(engine, answered);
        flow_drop_reply(engine, answered); // the waiting call's
        engine->sequences[source->domain]++;
        source->dirty = 1;
        kdbus_listener_respond(engine->listener, call->id, 0, 0);
        return 1;
    }
    if (expects) {
        reply = flow_new_reply(engine);
        if (!reply) {
            if (entry->payload)
                lent_pool_undo(&receiver->pool, entry->payload);
            flow_close_files(entry);
            free(entry);
            return -ENOMEM;
        }
        reply->requester = source;
        reply->replier = receiver;
        reply->cookie = out.words[MSG_COOKIE];
        reply->deadline_ns = out.words[MSG_TIMEOUT];
        reply->name_id = flow->name_id;
        reply->linked = 1;
        reply->sync = command[SEND_FLAGS] & SEND_SYNC_REPLY;
        reply->holders = 2; // the link, and the entry
        source->request_count++;
        source->dirty = 1;
        entry->reply = reply;
        if (reply->sync) {
            reply->waiting = 1;
            reply->holders++;
            reply->caller = *call;
            reply->listener = engine->listener;
            reply->look_ns = now_ns() + LENT_PATIENCE_NS;
            memcpy(reply->command, command, sizeof(reply->command));
            memcpy(reply->command + SEND_KERNEL_FLAGS, expected, sizeof(expected));
        }
    }
    if (answered)
        flow_unlink_reply(engine, answered);
    entry->sequence = ++engine->sequences[source->domain];
    entry->name_id = flow->name_id;
    if (charge >= 0) {
        receiver->charges[charge].user = source->user;
        receiver->charges[charge].count++;
        entry->user = charge;
    }
    if (receiver->last)
        receiver->last->next = entry;
    else
        receiver->first = entry;
    receiver->last = entry;
    receiver->message_count++;
    receiver->dirty = 1;
    source->dirty = 1; // the sequence number goes with it
    wake(receiver);
    if (!reply || !reply->sync)
        kdbus_listener_respond(engine->listener, call->id, 0, 0);
    return 1;
}

// -- RECV and FREE ------------------------------------------------------------------------------------------------------

// `socket`: see empties_queue.
static int serve_recv(struct kdbus_engine *engine, const struct kdbus_notification *call,
                      struct flow_connection *receiver, int socket)
{
    struct flow_entry *entry = receiver->first;
    uint64_t command[RECV_BYTES / 8];
    uint64_t results[RECV_BYTES / 8];
    struct lent_slice *slice;

    if (!read_exactly(call->pid, call->arguments[2], command, RECV_BYTES))
        return 0;
    if (command[RECV_SIZE] != RECV_BYTES || command[RECV_FLAGS_WORD])
        return 0;
    memcpy(results, command, sizeof(results));
    results[RECV_KERNEL_FLAGS] = RECV_FLAGS | FLAG_KERNEL;
    if (!entry) {
        if (!write_back(call->pid, call->arguments[2], command, RECV_KERNEL_FLAGS, results + RECV_KERNEL_FLAGS, 1))
            return 0;
        calm(receiver, socket);
        kdbus_listener_respond(engine->listener, call->id, 0, EAGAIN);
        return 1;
    }
    slice = write_message(receiver, entry);
    if (!slice)
        return 0;
    results[RECV_RETURN_FLAGS] = 0;
    results[RECV_DROPPED] = 0;
    results[RECV_MSG] = slice->offset;
    results[RECV_MSG + 1] = slice->size;
    results[RECV_MSG + 2] = 0;
    {
        // The priority in between belongs to the caller.
        struct iovec local[2] = {{results + RECV_KERNEL_FLAGS, 16}, {results + RECV_DROPPED, 32}};
        struct iovec remote[2] = {{(void *)(call->arguments[2] + 8 * RECV_KERNEL_FLAGS), 16},
                                  {(void *)(call->arguments[2] + 8 * RECV_DROPPED), 32}};

        if (process_vm_writev((pid_t)call->pid, local, 2, remote, 2, 0) != 48) {
            lent_pool_undo(&receiver->pool, slice);
            return 0;
        }
    }
    results[RECV_MSG + 2] = install_files(engine->listener, call->id, &receiver->pool, slice, entry);
    if (results[RECV_MSG + 2])
        write_back(call->pid, call->arguments[2], command, RECV_MSG, results + RECV_MSG, 3);
    slice->published = 1;
    slice->holders--;
    receiver->first = entry->next;
    if (!receiver->first)
        receiver->last = NULL;
    receiver->message_count--;
    receiver->dirty = 1;
    if (entry->user >= 0)
        receiver->charges[entry->user].count--;
    if (entry->payload)
        lent_pool_release(&receiver->pool, entry->payload);
    if (entry->reply)
        flow_drop_reply(engine, entry->reply);
    flow_close_files(entry);
    free(entry);
    if (!receiver->first)
        calm(receiver, socket);
    kdbus_listener_respond(engine->listener, call->id, 0, 0);
    return 1;
}

static int serve_free(struct kdbus_engine *engine, const struct kdbus_notification *call,
                      struct flow_connection *owner)
{
    const uint64_t expected[] = {FLAG_KERNEL, 0};
    uint64_t command[FREE_BYTES / 8];
    struct lent_slice *slice;

    if (!read_exactly(call->pid, call->arguments[2], command, FREE_BYTES))
        return 0;
    if (command[FREE_SIZE] != FREE_BYTES || command[FREE_FLAGS])
        return 0;
    slice = lent_pool_find(&owner->pool, command[FREE_OFFSET]);
    if (!slice || !slice->published)
        return 0;
    if (!write_back(call->pid, call->arguments[2], command, FREE_KERNEL_FLAGS, expected, 2))
        return 0;
    lent_pool_unpublish(&owner->pool, slice);
    owner->dirty = 1;
    kdbus_listener_respond(engine->listener, call->id, 0, 0);
    return 1;
}

// A RECV after which nothing waits any more needs a duplicate of the descriptor, to make it unreadable.
static int empties_queue(const struct kdbus_notification *call, const struct flow_connection *connection)
{
    return (uint32_t)call->arguments[1] == CMD_RECV && connection->readable && connection->message_count <= 1;
}

int flow_serve(struct kdbus_engine *engine, const struct kdbus_notification *call)
{
    uint32_t descriptor = (uint32_t)call->arguments[0];
    struct flow_binding *binding;
    struct flow_connection *connection;
    int socket;
    int result;

    if (call->architecture != OWN_ARCHITECTURE || call->number != SYS_ioctl || call->arguments[2] & 7)
        return 0;
    binding = flow_find_binding(engine, (uint64_t)call->pid << 32 | descriptor);
    connection = binding ? binding->connection : NULL;
    if (!connection || !flow_is_lent(engine, connection))
        return 0;
    if (empties_queue(call, connection)) {
        // The duplicate also proves that the descriptor is the connection's.
        socket = duplicate(engine, connection, binding);
        if (socket < 0)
            return 0;
        result = serve_recv(engine, call, connection, socket);
        close(socket);
        return result;
    }
    if (kdbus_same_file_as(engine->self, (int)call->pid, (int)descriptor, connection->epoll, connection->target) != 1)
        return 0;
    switch ((uint32_t)call->arguments[1]) {
    case CMD_SEND:
        return serve_send(engine, call, binding);
    case CMD_RECV:
        return serve_recv(engine, call, connection, -1);
    case CMD_FREE:
        return serve_free(engine, call, connection);
    default:
        return 0;
    }
}
