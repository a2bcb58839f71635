// SPDX-License-Identifier: GPL-2.0-or-later
//
// mmap(2) of what can be a pool, as the filter sees it: shared, from a file, not writable, in whole pages.
//
// A pool is mapped through a handle, which is a socket or a pipe, or a node that was opened untrapped and is not a
// handle yet. Any other file is mapped untrapped. One is not told by another's number: a descriptor that is closed and
// used again between the look at it and the call is so by another thread of this very program, which then has
// no reason to expect either.

#include "preload.h"

#include <sys/mman.h>

static bool may_be_pool(size_t length, int protection, int flags, int file)
{
    struct stat status;
    int type = flags & MAP_TYPE;

    if ((type != MAP_SHARED && type != MAP_SHARED_VALIDATE) || flags & MAP_ANONYMOUS || protection & PROT_WRITE ||
        length % PAGE_SIZE)
        return false;
    return (kdbus_state && kdbus_state->mounted) || kdbus_trapped(SYS_fstat, file, (long)&status, 0, 0, 0, 0) ||
           S_ISSOCK(status.st_mode) || S_ISFIFO(status.st_mode) || (kdbus_state && kdbus_is_node(&status));
}

static void *map(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
    long where = (long)address;

    return (void *)kdbus_result(
        kdbus_stub && !may_be_pool(length, protection, flags, file)
            ? untrapped(SYS_mmap, where, (long)length, protection, flags, file, offset)
            : kdbus_unbroken(SYS_mmap, where, (long)length, protection, flags, file, offset));
}

#define MMAP(name)                                                                                                     \
    EXPORTED void *name(void *address, size_t length, int protection, int flags, int file, off_t offset)               \
    {                                                                                                                  \
        /* Kept, as allocators call this. */                                                                           \
        static void *(*next)(void *, size_t, int, int, int, off_t);                                                    \
                                                                                                                       \
        if (!kdbus_stub && !next)                                                                                      \
            next = kdbus_next(#name);                                                                                  \
        return !kdbus_stub && next                                                                                     \
                   ? next(address, length, protection, flags, file, offset)                                            \
                   : map(address, length, protection, flags, file, offset);                                            \
    }

MMAP(mmap)
MMAP(mmap64)
