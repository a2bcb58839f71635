// SPDX-License-Identifier: GPL-2.0-or-later
//
// What there is to do for the broker that may stall: the calls that it makes, and what a deputy does for each of them.
// Who does it, and what becomes of it when it stalls, is deputy.c's.

#include "errand.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

// As much as there is, up to `size` bytes.
static int64_t read_file(const char *path, char *buffer, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    int64_t result = file < 0 ? -errno : 1;

    while (result > 0 && length < size) {
        result = read(file, buffer + length, size - length);
        if (result > 0)
            length += (size_t)result;
        else if (result < 0)
            result = -errno;
    }
    if (file >= 0)
        close(file);
    return result < 0 ? result : (int64_t)length;
}

static int64_t open_as(const struct errand *errand)
{
    int result = errand->wanted ? kdbus_identity_borrow(errand->wanted, errand->saved) : 0;

    if (result < 0)
        return result;
    result = kdbus_openat2(errand->pid, errand->path, errand->address, 0, errand->resolve);
    if (errand->wanted && kdbus_identity_restore(errand->saved, errand->wanted) < 0) {
        if (result >= 0)
            close(result);
        return -ENOTRECOVERABLE;
    }
    return result;
}

void errand_run(struct errand *errand)
{
    int64_t result = -EINVAL;

    switch (errand->kind) {
    case READ:
        result = kdbus_memory_read(errand->pid, errand->address, errand->buffer, errand->size);
        break;
    case READ_PIECES:
        result = kdbus_memory_read_pieces(errand->pid, errand->pieces, errand->count, errand->buffer, errand->size);
        break;
    case READ_STRING:
        result = kdbus_memory_read_string(errand->pid, errand->address, errand->buffer, errand->size);
        break;
    case WRITE:
        result = kdbus_memory_write(errand->pid, errand->address, errand->buffer, errand->size);
        break;
    case COPY:
        result = kdbus_pool_copy_from_process(errand->pool, errand->pid, errand->address, errand->pieces,
                                              errand->count);
        break;
    case OPEN:
        result = open_as(errand);
        break;
    case READ_LINK:
        result = readlinkat(errand->pid, errand->path, errand->buffer, errand->size);
        result = result < 0 ? -errno : result;
        break;
    case READ_FILE:
        result = read_file(errand->path, errand->buffer, errand->size);
        break;
    case CLOSE:
        // Whatever it says, the descriptor is closed.
        close(errand->pid);
        result = 0;
        break;
    }
    errand->result = result;
}

int kdbus_deputies_read(struct kdbus_deputies *deputies, int pid, uint64_t address, void *buffer, size_t size)
{
    struct errand errand = {.kind = READ, .pid = pid, .address = address, .buffer = buffer, .size = size};

    return (int)deputies_do_errand(deputies, &errand);
}

int kdbus_deputies_read_pieces(struct kdbus_deputies *deputies, int pid, const struct kdbus_piece *pieces, size_t count,
                               void *buffer, size_t capacity)
{
    struct errand errand = {
        .kind = READ_PIECES, .pid = pid, .pieces = pieces, .count = count, .buffer = buffer, .size = capacity};

    return (int)deputies_do_errand(deputies, &errand);
}

int64_t kdbus_deputies_read_string(struct kdbus_deputies *deputies, int pid, uint64_t address, void *buffer,
                                   size_t limit)
{
    struct errand errand = {.kind = READ_STRING, .pid = pid, .address = address, .buffer = buffer, .size = limit};

    return deputies_do_errand(deputies, &errand);
}

int kdbus_deputies_write(struct kdbus_deputies *deputies, int pid, uint64_t address, const void *data, size_t size)
{
    struct errand errand = {.kind = WRITE, .pid = pid, .address = address, .buffer = (void *)data, .size = size};

    return (int)deputies_do_errand(deputies, &errand);
}

int kdbus_deputies_copy(struct kdbus_deputies *deputies, struct kdbus_pool *pool, int pid, uint64_t offset,
                        const struct kdbus_piece *pieces, size_t count)
{
    struct errand errand = {
        .kind = COPY, .pid = pid, .pieces = pieces, .count = count, .pool = pool, .address = offset};

    return (int)deputies_do_errand(deputies, &errand);
}

int kdbus_deputies_open(struct kdbus_deputies *deputies, int directory, const char *path, uint64_t flags,
                        uint64_t resolve, const struct kdbus_identity *wanted, const struct kdbus_identity *saved)
{
    struct errand errand = {.kind = OPEN, .pid = directory, .path = path, .address = flags, .resolve = resolve};

    errand.wanted = wanted;
    errand.saved = saved;

    return (int)deputies_do_errand(deputies, &errand);
}

int64_t kdbus_deputies_read_link(struct kdbus_deputies *deputies, int directory, const char *path, void *buffer,
                                 size_t size)
{
    struct errand errand = {.kind = READ_LINK, .pid = directory, .path = path, .buffer = buffer, .size = size};

    return deputies_do_errand(deputies, &errand);
}

int64_t kdbus_deputies_read_file(struct kdbus_deputies *deputies, const char *path, void *buffer, size_t size)
{
    struct errand errand = {.kind = READ_FILE, .path = path, .buffer = buffer, .size = size};

    return deputies_do_errand(deputies, &errand);
}

int kdbus_deputies_close(struct kdbus_deputies *deputies, int descriptor)
{
    struct errand errand = {.kind = CLOSE, .pid = descriptor};

    return (int)deputies_do_errand(deputies, &errand);
}
