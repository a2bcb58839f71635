// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is sent: bytes, or sealed memory.

#ifndef BENCHMARKS_SEALED_H
#define BENCHMARKS_SEALED_H

#include "measure.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

// `size` bytes other than zero, so that each page is really there.
static inline char *make_bytes(uint64_t size)
{
    char *data = malloc(size);

    if (!data)
        fail_errno("allocate the payload");
    memset(data, 'k', size);
    return data;
}

// A memfd of `size` bytes with all seals that kdbus asks for. Nobody looks at its content, so its pages are not
// touched: what is measured is the passing on of memory and not its filling.
static inline int make_sealed(uint64_t size)
{
    int memory = memfd_create("benchmark", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (memory < 0 || ftruncate(memory, (off_t)size))
        fail_errno("make a memfd");
    if (fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL))
        fail_errno("seal a memfd");
    return memory;
}

static inline uint64_t sealed_size(int memory)
{
    struct stat status;

    if (fstat(memory, &status))
        fail_errno("get the size of a memfd");
    return (uint64_t)status.st_size;
}

#endif
