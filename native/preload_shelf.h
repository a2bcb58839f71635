// SPDX-License-Identifier: GPL-2.0-or-later
//
// What runs inside programs: calls of kdbus that are served without a trap where that is possible, see preload_shelf.c.

#ifndef KDBUS_PRELOAD_SHELF_H
#define KDBUS_PRELOAD_SHELF_H

// The system call ioctl(2) of kdbus's magic number: its result, or -errno.
long shelf_ioctl(int descriptor, unsigned long request, void *argument);

#endif
