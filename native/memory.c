// SPDX-License-Identifier: GPL-2.0-or-later
//
// Reading and writing the memory of another process, see process_vm_readv(2). One call for all pieces is what makes
// it cheap; the calls stop at the first bad byte and say how far they came, so a short result is followed by a second
// call that names the reason, and by nothing else.

#include "helper.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/uio.h>

// Where a reader of pieces stands: in pieces[index], `done` bytes into it.
struct position {
    size_t index;
    uint64_t done;
};

static void skip_empty(struct position *position, const struct kdbus_piece *pieces, size_t count)
{
    while (position->index < count && position->done == pieces[position->index].size) {
        position->index++;
        position->done = 0;
    }
}

static void advance(struct position *position, const struct kdbus_piece *pieces, size_t count, uint64_t bytes)
{
    skip_empty(position, pieces, count);
    while (bytes && position->index < count) {
        uint64_t left = pieces[position->index].size - position->done;
        uint64_t step = bytes < left ? bytes : left;

        position->done += step;
        bytes -= step;
        skip_empty(position, pieces, count);
    }
}

int kdbus_memory_read_pieces(int pid, const struct kdbus_piece *pieces, size_t count, void *buffer, size_t capacity)
{
    struct position position = {0, 0};
    struct iovec remote[IOV_MAX];
    char *next = buffer;
    uint64_t total = 0;

    // The kernel fails a whole call for one absurd length, so the sum is checked here, without overflow.
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].size > capacity - total)
            return -ERANGE;
        total += pieces[i].size;
    }
    skip_empty(&position, pieces, count);
    while (position.index < count) {
        struct iovec local = {.iov_base = next, .iov_len = 0};
        size_t used = 0;
        ssize_t copied;

        for (size_t i = position.index; i < count && used < IOV_MAX; i++, used++) {
            uint64_t done = i == position.index ? position.done : 0;

            remote[used].iov_base = (void *)(uintptr_t)(pieces[i].address + done);
            remote[used].iov_len = pieces[i].size - done;
            local.iov_len += remote[used].iov_len;
        }
        copied = process_vm_readv(pid, &local, 1, remote, used, 0);
        if (copied < 0)
            return -errno;
        if (copied == 0)
            return -EFAULT;
        next += copied;
        advance(&position, pieces, count, (uint64_t)copied);
    }
    return 0;
}

int kdbus_memory_read(int pid, uint64_t address, void *buffer, size_t size)
{
    struct kdbus_piece piece = {.address = address, .size = size};

    return kdbus_memory_read_pieces(pid, &piece, 1, buffer, size);
}

int kdbus_memory_write(int pid, uint64_t address, const void *data, size_t size)
{
    const char *next = data;

    while (size) {
        struct iovec local = {.iov_base = (void *)next, .iov_len = size};
        struct iovec remote = {.iov_base = (void *)(uintptr_t)address, .iov_len = size};
        ssize_t copied = process_vm_writev(pid, &local, 1, &remote, 1, 0);

        if (copied < 0)
            return -errno;
        if (copied == 0)
            return -EFAULT;
        next += copied;
        address += (uint64_t)copied;
        size -= (size_t)copied;
    }
    return 0;
}

int64_t kdbus_memory_read_string(int pid, uint64_t address, void *buffer, size_t limit)
{
    // The smallest page there is: what lies behind the end of a page need not be readable, and need not be read.
    const size_t page = 4096;
    size_t length = 0;

    while (length < limit) {
        size_t step = page - (size_t)((address + length) % page);
        char *start = (char *)buffer + length;
        const char *end;
        int result;

        if (step > limit - length)
            step = limit - length;
        result = kdbus_memory_read(pid, address + length, start, step);
        if (result < 0)
            return result;
        end = memchr(start, 0, step);
        if (end)
            return end - (char *)buffer;
        length += step;
    }
    return -ENAMETOOLONG;
}
