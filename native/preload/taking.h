// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the two files of the receiver's side of shelves share: taking.c, which takes and frees, and shelves.c, which
// knows of which descriptors.

#ifndef KDBUS_TAKING_H
#define KDBUS_TAKING_H

#include "preload.h"

#include "../shelf.h"

// A descriptor for which it was asked. `users`: calls that look at it, and keep it from becoming another's.
struct known {
    uint32_t users;
    uint32_t busy;
    uint32_t took; // whether a message was taken since it was said that there is none
    int descriptor;
    uint64_t cookie;
    struct shelf *shelf; // NULL: there is none for it
    struct shelf_layout layout;
};

// 1 if the RECV, or the FREE, of that connection was served, with its result.
int taking_receive(struct known *known, int descriptor, uint64_t *command, long *result);
int taking_free(const struct known *known, int descriptor, uint64_t *command, long *result);

// Writes the cookie of the descriptor's socket there; 0 if that cannot be.
int taking_write_cookie(int descriptor, uint64_t *word);

// Whether 8 bytes can be read there.
int taking_can_read(const uint64_t *word);

// Whether a byte may be taken out of a descriptor, which nobody closes until `shelves_end_byte`. Signals are blocked.
int shelves_begin_byte(void);
void shelves_end_byte(void);

// ioctl(2) as the kernel or the supervisor serves it; -errno.
static inline long taking_trap(int descriptor, unsigned long request, void *argument)
{
    return kdbus_trapped(SYS_ioctl, descriptor, (long)request, (long)argument, 0, 0, 0);
}

#endif
