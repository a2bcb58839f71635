// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a SEND passes: the command, the message, its items, and what they point at, as the hot path takes it.
//
// Everything is read from the target once, and looked at afterwards. Command, message and payload come with one system
// call when the addresses are those of this descriptor's last message. 0 from any of these functions means that the
// call is the broker's.

#include "hot_path.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

// As process_vm_readv(2) of up to FORESEEN_PIECES pieces, of which those that lie close to each other are read as one:
// each further piece costs a fifth of the call. What lies in between is in the pages of the pieces, as it is shorter
// than a page, so reading it along never makes the call fail.
static ssize_t read_pieces(struct deputy *deputy, pid_t pid, const struct iovec *local, const struct iovec *remote,
                           size_t count)
{
    char room[FORESEEN_ROOM];
    struct iovec whole[FORESEEN_PIECES], runs[FORESEEN_PIECES];
    size_t order[FORESEEN_PIECES], run_of[FORESEEN_PIECES];
    size_t run_count = 0;
    size_t length = 0;
    ssize_t got;

    for (size_t i = 0; i < count; i++) {
        size_t at = i;

        for (; at && (uintptr_t)remote[order[at - 1]].iov_base > (uintptr_t)remote[i].iov_base; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    for (size_t i = 0; i < count; i++) {
        const struct iovec *piece = &remote[order[i]];
        struct iovec *run = run_count ? &runs[run_count - 1] : NULL;
        size_t reach = run ? (size_t)((char *)piece->iov_base - (char *)run->iov_base) : 0;

        if (run && reach <= run->iov_len + FORESEEN_GAP) {
            if (run->iov_len < reach + piece->iov_len)
                run->iov_len = reach + piece->iov_len;
        } else {
            runs[run_count++] = *piece;
        }
        run_of[order[i]] = run_count - 1;
    }
    if (run_count < count) {
        for (size_t i = 0; i < run_count; i++) {
            whole[i] = (struct iovec){room + length, runs[i].iov_len};
            length += runs[i].iov_len;
        }
        if (deputy_read(deputy, (uint32_t)pid, whole, run_count, runs, run_count)) {
            length = 0;
            for (size_t i = 0; i < count; i++) {
                size_t reach = (size_t)((char *)remote[i].iov_base - (char *)runs[run_of[i]].iov_base);

                memcpy(local[i].iov_base, (char *)whole[run_of[i]].iov_base + reach, remote[i].iov_len);
                length += remote[i].iov_len;
            }
            return (ssize_t)length;
        }
    }
    deputy_leaves(deputy);
    got = process_vm_readv(pid, local, count, remote, count, 0);
    deputy_is_back(deputy, 0);
    return got;
}

// Appends an item of `size` bytes, or its unpadded end, to what was read.
static int append_item(struct outgoing *out, uint64_t *end, const uint64_t *item, uint64_t size)
{
    if (size > sizeof(out->words) - *end)
        return 0;
    memcpy((char *)out->words + *end, item, size);
    *end += size;
    return 1;
}

// The items that stand behind the header of a message that is its own command, where a memfd has no start.
static int convert_items(struct outgoing *out, const uint64_t *raw)
{
    uint64_t end = HEADER_BYTES;
    uint64_t position = COMMAND_HEADER_BYTES;

    while (position < raw[MSG_SIZE]) {
        const uint64_t *item = raw + position / 8;
        uint64_t left = raw[MSG_SIZE] - position;
        uint64_t whole = left < ITEM_HEADER || item[0] > left ? left : align8(item[0]);
        int done;

        if (whole < ITEM_HEADER)
            return 0;
        if (item[1] != out->revision->item_memfd)
            done = append_item(out, &end, item, whole < left ? whole : left);
        else if (item[0] != STARTLESS_MEMFD_ITEM || left < STARTLESS_MEMFD_ITEM)
            return 0;
        else
            done = append_item(out, &end, (uint64_t[]){MEMFD_ITEM, item[1], 0, item[2], item[3]}, MEMFD_ITEM);
        if (!done)
            return 0;
        position += whole;
    }
    out->words[MSG_SIZE] = end;
    return 1;
}

// A message that is its own command, from where the call has it.
static int read_own_command(struct kdbus_engine *engine, const struct kdbus_notification *call, uint64_t *command,
                            struct outgoing *out)
{
    uint64_t raw[LENT_MESSAGE_SIZE / 8];
    uint64_t address = call->arguments[2];
    uint64_t size;

    out->foreseen.iov_len = 0;
    if (!hot_read(engine, call->pid, address, &size, sizeof(size)))
        return 0;
    if (size < COMMAND_HEADER_BYTES || size > sizeof(raw) || !hot_read(engine, call->pid, address, raw, size))
        return 0;
    // What the sender has in `kernel_flags` is delivered to its like.
    if (raw[MSG_SIZE] != size || raw[COMMAND_FLAGS_WORD] & ~COMMAND_FLAGS || raw[out->revision->send_kernel_flags])
        return 0;
    memcpy(command, raw, COMMAND_HEADER_BYTES);
    memcpy(out->words + MSG_PRIORITY, raw + COMMAND_PRIORITY, HEADER_BYTES - 8 * MSG_PRIORITY);
    out->words[MSG_FLAGS_WORD] = (raw[COMMAND_FLAGS_WORD] & COMMAND_EXPECT_REPLY ? MSG_EXPECT_REPLY : 0) |
                                 (raw[COMMAND_FLAGS_WORD] & COMMAND_NO_AUTO_START ? MSG_NO_AUTO_START : 0) |
                                 (out->words[MSG_DST] == DST_BROADCAST ? MSG_SIGNAL : 0);
    out->flags = raw[COMMAND_FLAGS_WORD] & COMMAND_SYNC_REPLY ? SEND_SYNC_REPLY : 0;
    return convert_items(out, raw);
}

// Command and message, and a short payload, in one crossing if they are where they were the last time.
int outgoing_read(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_binding *binding,
                  uint64_t *command, struct outgoing *out)
{
    const struct kdbus_flow_revision *revision = binding->connection->revision;
    const size_t command_bytes = 8 * revision->send_words;
    struct iovec local[FORESEEN_PIECES] = {{command, command_bytes}, {out->words, FORESEEN_BYTES}, {out->payload, 0}};
    struct iovec remote[FORESEEN_PIECES] = {
        {(void *)call->arguments[2], command_bytes}, {NULL, FORESEEN_BYTES}, binding->payload};
    size_t count = binding->message_address ? 2 + !!binding->payload.iov_len : 1;
    uint64_t address;
    uint64_t size;
    ssize_t got;

    out->revision = revision;
    out->deputy = engine->deputy;
    if (revision->message_is_command)
        return read_own_command(engine, call, command, out);
    remote[1].iov_base = (void *)binding->message_address;
    local[2].iov_len = binding->payload.iov_len;
    engine->flight.foreseen = count > 1 ? binding : NULL;
    got = read_pieces(out->deputy, (pid_t)call->pid, local, remote, count);
    engine->flight.foreseen = NULL;
    if (got < (ssize_t)command_bytes || command[0] != command_bytes || command[revision->send_address] & 7)
        return 0;
    address = command[revision->send_address];
    out->flags = command[revision->send_flags];
    got -= (ssize_t)command_bytes;
    out->foreseen.iov_len = 0;
    if (got == (ssize_t)(FORESEEN_BYTES + local[2].iov_len))
        out->foreseen = binding->payload;
    if (address == binding->message_address && got >= HEADER_BYTES &&
        out->words[MSG_SIZE] <= (uint64_t)(got < FORESEEN_BYTES ? got : FORESEEN_BYTES))
        return out->words[MSG_SIZE] >= HEADER_BYTES;
    out->foreseen.iov_len = 0;
    if (!address || !hot_read(engine, call->pid, address, &size, sizeof(size)))
        return 0;
    if (size < HEADER_BYTES || size > sizeof(out->words) || !hot_read(engine, call->pid, address, out->words, size))
        return 0;
    binding->message_address = address;
    return out->words[MSG_SIZE] == size;
}

// What to read together with the next message.
void outgoing_foresee(struct flow_binding *binding, const struct outgoing *out)
{
    if (out->vector_count == 1 && out->payload_size <= LENT_SHORT)
        binding->payload = out->remote[0];
    else
        binding->payload.iov_len = 0;
}

// What the items say.
int outgoing_parse(struct outgoing *out)
{
    const struct kdbus_flow_revision *revision = out->revision;
    const char *data = (const char *)out->words;
    uint64_t end = out->words[MSG_SIZE];
    uint64_t position = HEADER_BYTES;

    out->items_end = HEADER_BYTES;
    out->part_count = 0;
    out->vector_count = 0;
    out->payload_size = 0;
    out->copy = NULL;
    out->filter = NULL;
    out->filter_size = 0;
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
        if (type == revision->item_vector && size == VEC_ITEM && out->part_count < LENT_PARTS) {
            uint64_t vector[2];

            memcpy(vector, data + position + ITEM_HEADER, sizeof(vector));
            if (!vector[0] || !vector[1] || vector[0] > LENT_PAYLOAD - out->payload_size)
                return 0;
            out->remote[out->vector_count++] = (struct iovec){(void *)vector[1], vector[0]};
            out->parts[out->part_count++] = (struct flow_part){vector[0], out->payload_size, -1, 0, 0};
            out->payload_size += vector[0];
        } else if (type == revision->item_memfd && size == MEMFD_ITEM && out->part_count < LENT_PARTS) {
            uint64_t memfd[3]; // start, size, descriptor

            memcpy(memfd, data + position + ITEM_HEADER, sizeof(memfd));
            if (!memfd[1] || memfd[1] & 7 || (int32_t)memfd[2] < 0)
                return 0;
            out->parts[out->part_count++] = (struct flow_part){memfd[1], memfd[0], (int32_t)memfd[2], 0, 0};
        } else if (type == revision->item_name && !out->name_size && size > ITEM_HEADER &&
                   size - ITEM_HEADER < LENT_NAME) {
            out->name_size = (uint32_t)(size - ITEM_HEADER);
            memcpy(out->name, data + position + ITEM_HEADER, out->name_size);
            if (strnlen(out->name, out->name_size) != out->name_size - 1)
                return 0;
        } else if (type == revision->item_filter && !out->filter && size >= ITEM_HEADER + sizeof(uint64_t) &&
                   size % sizeof(uint64_t) == 0) {
            out->filter = data + position + ITEM_HEADER;
            out->filter_size = size - ITEM_HEADER;
        } else {
            return 0;
        }
        out->items_end = position + size;
        position += align8(size);
    }
    return position == align8(end);
}

// The flags, ids and deadlines that go together (broker/message.py), in the cases that are served here.
int outgoing_is_plain(const struct flow_connection *source, const struct outgoing *out)
{
    const uint64_t *message = out->words;
    int expects = message[MSG_FLAGS_WORD] & MSG_EXPECT_REPLY;

    if (message[MSG_SRC] && message[MSG_SRC] != source->id)
        return 0;
    if (message[MSG_DST] == DST_BROADCAST || out->filter)
        return message[MSG_FLAGS_WORD] == MSG_SIGNAL && message[MSG_TYPE] && !message[MSG_TIMEOUT] &&
               !out->flags && out->filter && !out->name_size && message[MSG_DST];
    if (out->flags & ~SEND_SYNC_REPLY || message[MSG_FLAGS_WORD] & ~(MSG_EXPECT_REPLY | MSG_NO_AUTO_START))
        return 0;
    if (!message[MSG_TYPE] || (!message[MSG_DST] && !out->name_size))
        return 0;
    if (expects)
        return message[MSG_COOKIE] && message[MSG_TIMEOUT] > flow_now_ns() && message[MSG_TIMEOUT] <= INT64_MAX;
    return !(out->flags & SEND_SYNC_REPLY);
}

// The vectors, one after the other; all receivers get what the first one got. 0 if they cannot be read.
int outgoing_copy_payload(const struct kdbus_notification *call, struct outgoing *out, char *place)
{
    struct iovec local = {place, out->payload_size};

    if (!out->payload_size)
        return 1;
    if (out->copy) {
        memcpy(place, out->copy, out->payload_size);
        return 1;
    }
    out->copy = place;
    if (out->foreseen.iov_len == out->payload_size && out->vector_count == 1 &&
        out->foreseen.iov_base == out->remote[0].iov_base) {
        memcpy(local.iov_base, out->payload, out->payload_size);
        return 1;
    }
    return deputy_read(out->deputy, call->pid, &local, 1, out->remote, out->vector_count);
}

// A slice with the payload, of which there is some; NULL where the broker has to look.
struct lent_slice *outgoing_take_payload(const struct kdbus_notification *call, struct outgoing *out,
                                         struct flow_connection *receiver)
{
    struct lent_slice *slice = lent_pool_allocate(&receiver->pool, out->payload_size);

    out->filling = slice;
    out->filled = receiver;
    if (slice && !outgoing_copy_payload(call, out, (char *)receiver->pool.memory.memory + slice->offset)) {
        lent_pool_undo(&receiver->pool, slice);
        slice = NULL;
    }
    out->filling = NULL;
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

void outgoing_close_files(struct outgoing *out, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (out->parts[i].file >= 0)
            close(out->parts[i].file);
}

// Replaces the sender's descriptor numbers by duplicates of ours. 0 if one of them is not a memfd to be passed, or if
// there have been enough.
int outgoing_fetch_files(struct kdbus_engine *engine, struct flow_binding *binding, struct outgoing *out)
{
    for (uint32_t i = 0; i < out->part_count; i++) {
        struct flow_part *part = &out->parts[i];
        int copy;

        if (part->file < 0)
            continue;
        copy = engine->files_left ? hot_fetch(engine, binding, part->file) : -EMFILE;
        if (copy < 0 || !is_sealed(copy, part)) {
            outgoing_close_files(out, i);
            if (copy >= 0)
                deputy_close(engine->deputy, copy);
            return 0;
        }
        part->file = copy;
        part->sender = binding->connection->index + 1;
        engine->files_left--;
    }
    return 1;
}
