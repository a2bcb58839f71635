// SPDX-License-Identifier: GPL-2.0-or-later
//
// The memory of one pool: a memfd that this process writes through a mapping made before the file was sealed, and
// that nobody can write in any other way, see memfd_create(2) and fcntl(2), F_SEAL_FUTURE_WRITE.

#include "deputy.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int kdbus_memory_file(const char *name)
{
    // Kernels before 6.3 do not know the flag; later ones complain about its absence, or refuse (vm.memfd_noexec).
    int file = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_NOEXEC_SEAL);

    if (file < 0 && errno == EINVAL)
        file = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return file < 0 ? -errno : file;
}

static int open_read_only(int file)
{
    char path[sizeof("/proc/self/fd/-2147483648")];
    int descriptor;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    descriptor = open(path, O_RDONLY | O_CLOEXEC);
    return descriptor < 0 ? -errno : descriptor;
}

int kdbus_pool_create(const char *name, uint64_t size, struct kdbus_pool *pool)
{
    const int seals = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
    void *memory = MAP_FAILED;
    int descriptor;
    int result;
    int file;

    if (size == 0 || size > LONG_MAX)
        return -EINVAL;
    file = kdbus_memory_file(name);
    if (file < 0)
        return file;
    if (ftruncate(file, (off_t)size))
        goto failed;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED)
        goto failed;
    if (fcntl(file, F_ADD_SEALS, seals))
        goto failed;
    descriptor = open_read_only(file);
    if (descriptor < 0) {
        errno = -descriptor;
        goto failed;
    }
    close(file);
    pool->memory = memory;
    pool->size = size;
    pool->usable = size;
    pool->read_only_descriptor = descriptor;
    return 0;

failed:
    result = -errno;
    if (memory != MAP_FAILED)
        munmap(memory, size);
    close(file);
    return result;
}

void kdbus_pool_destroy(struct kdbus_pool *pool)
{
    if (!pool->memory)
        return;
    munmap(pool->memory, pool->size);
    if (pool->read_only_descriptor >= 0)
        close(pool->read_only_descriptor);
    pool->memory = NULL;
    pool->size = 0;
    pool->read_only_descriptor = -1;
}

int pool_move_away(struct kdbus_pool *pool, void **sink)
{
    const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    void *old = pool->memory;
    void *moved = mremap(old, pool->size, pool->size, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

    // Before 5.13, no file's memory stays mapped meanwhile; nobody else maps anything in between.
    if (moved == MAP_FAILED && errno == EINVAL) {
        void *place = mmap(NULL, pool->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        moved = place == MAP_FAILED ? place : mremap(old, pool->size, pool->size, MREMAP_MAYMOVE | MREMAP_FIXED, place);
        if (moved == MAP_FAILED && place != MAP_FAILED)
            munmap(place, pool->size);
    }
    if (moved == MAP_FAILED)
        return -errno;
    if (mmap(old, pool->size, PROT_READ | PROT_WRITE, anonymous, -1, 0) == MAP_FAILED) {
        int result = -errno;

        munmap(moved, pool->size);
        return result;
    }
    pool->memory = moved;
    *sink = old;
    return 0;
}

int kdbus_pool_copy_from_process(const struct kdbus_pool *pool, int pid, uint64_t offset,
                                 const struct kdbus_piece *pieces, size_t count)
{
    size_t room;
    char *next;

    if (!pool->memory)
        return -EBADF;
    if (offset > pool->size)
        return -ERANGE;
    next = (char *)pool->memory + offset;
    room = pool->size - offset;
    while (count) {
        uint64_t size = 0;
        size_t run = 0;
        int result;

        // As many pieces as one call can take: up to the next one that is zeros.
        for (; run < count && pieces[run].address; run++) {
            if (pieces[run].size > room - size)
                return -ERANGE;
            size += pieces[run].size;
        }
        if (run) {
            result = kdbus_memory_read_pieces(pid, pieces, run, next, room);
            if (result < 0)
                return result;
        } else {
            run = 1;
            size = pieces[0].size;
            if (size > room)
                return -ERANGE;
            memset(next, 0, size);
        }
        next += size;
        room -= size;
        pieces += run;
        count -= run;
    }
    return 0;
}
