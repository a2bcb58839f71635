// SPDX-License-Identifier: GPL-2.0-or-later
//
// An errand: one thing that the broker wants of a target's memory, or of a file, and that may stall.

#ifndef KDBUS_NATIVE_ERRAND_H
#define KDBUS_NATIVE_ERRAND_H

#include "deputy.h"

enum errand_kind { READ, READ_PIECES, READ_STRING, WRITE, COPY, OPEN, READ_LINK, READ_FILE, CLOSE };

struct errand {
    enum errand_kind kind;
    int pid; // or the descriptor of a folder, or of what is to be closed
    const char *path;
    uint64_t resolve; // of openat2(2)
    const struct kdbus_identity *wanted; // whom it is done as; NULL for whoever this process is
    const struct kdbus_identity *saved;
    const struct kdbus_piece *pieces;
    size_t count;
    struct kdbus_pool *pool;
    void *buffer;
    uint64_t address; // or offset
    size_t size;
    int64_t result;
};

// Does it here and now, for as long as it takes; `result`: what there is to say, or -errno.
void errand_run(struct errand *errand);

// Has it done by a deputy, or by whoever calls where there can be none. Returns its result; -EINPROGRESS: a deputy was
// left behind with it.
int64_t deputies_do_errand(struct kdbus_deputies *deputies, const struct errand *errand);

#endif
