// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the flow engine needs of the threads of deputy.c, besides what helper.h declares.

#ifndef KDBUS_NATIVE_DEPUTY_H
#define KDBUS_NATIVE_DEPUTY_H

#include "helper.h"

#include <sys/types.h>
#include <sys/uio.h>

struct deputy;

// Has `act` done by a deputy: 0 when it is over, or -EINPROGRESS when the deputy was left behind in the middle of a
// copy; then it is at rest until deputy_release, after which it never comes back to `act`. Another negative number:
// there is no deputy, and `act` was not called. A signal that comes meanwhile is told through `interrupt`, an eventfd,
// unless that is negative.
int deputies_do(struct kdbus_deputies *deputies, void (*act)(struct deputy *self, void *argument), void *argument,
                int interrupt);

// The deputy that was left behind last may go its way. `sink`: memory that it may still write into, which is unmapped
// once it is back; NULL for none. Unless it may be left `alone`, its copy is waited for.
void deputies_release(struct kdbus_deputies *deputies, void *sink, size_t size, int alone);

// Around whatever may take as long as a target likes; in between, nothing is touched that others use as well. `self`
// may be NULL: whoever calls is no deputy. deputy_is_back does not return to a deputy that was left behind, of whose
// copy it keeps `result`.
void deputy_leaves(struct deputy *self);
void deputy_is_back(struct deputy *self, int result);

// process_vm_readv(2) and process_vm_writev(2) of a deputy: whether all bytes were copied.
int deputy_read(struct deputy *self, uint32_t pid, const struct iovec *local, size_t local_count,
                const struct iovec *remote, size_t remote_count);
int deputy_write(struct deputy *self, uint32_t pid, const struct iovec *local, size_t local_count,
                 const struct iovec *remote, size_t remote_count);

// close(2) of any file of a target, which may stall.
void deputy_close(struct deputy *self, int descriptor);

// The pool's memory moves elsewhere, and what writes to where it was does so into nowhere: that is `*sink`, which has
// the pool's size. 0, or -errno, and nothing has changed.
int pool_move_away(struct kdbus_pool *pool, void **sink);

#endif
