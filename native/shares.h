// SPDX-License-Identifier: GPL-2.0-or-later
//
// What loop.c needs of the calls that wait for their turn, besides what helper.h declares: see shares.c.

#ifndef KDBUS_NATIVE_SHARES_H
#define KDBUS_NATIVE_SHARES_H

#include "helper.h"

// How many calls are received while others wait. The kernel keeps a received call in a list until it is answered, and
// walks that list with each call that is received or answered: some nanoseconds for each call that waits here.
#define SHARES_ROOM 4096

// How many calls wait.
size_t shares_waiting(const struct kdbus_shares *shares);

// Of whom the thread of a waiting call is: 1 with `user` and `process`, 0 if the call is over. Who cannot be looked at
// is nobody's, in a process that all such threads of the listener share.
int shares_owner(struct kdbus_shares *shares, int listener, const struct kdbus_notification *notification,
                 uint64_t now_ns, uint64_t *user, uint64_t *process);

// The next call of the thread's process is served first.
void shares_favour_thread(struct kdbus_shares *shares, uint32_t thread);

#endif
