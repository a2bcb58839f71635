// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the hot path does with the thread that called, and with the descriptor that it called on: its memory, its
// descriptors, and whether pollers see the descriptor readable.

#include "hot_path.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

int hot_read(struct kdbus_engine *engine, uint32_t pid, uint64_t address, void *buffer, size_t size)
{
    struct iovec local = {buffer, size};
    struct iovec remote = {(void *)address, size};

    return deputy_read(engine->deputy, pid, &local, 1, &remote, 1);
}

// `count` words at word number `first` of the structure at `address`, unless they stand there already.
int hot_write_back(struct kdbus_engine *engine, uint32_t pid, uint64_t address, const uint64_t *seen, size_t first,
                   const uint64_t *words, size_t count)
{
    struct iovec local = {(void *)words, 8 * count};
    struct iovec remote = {(void *)(address + 8 * first), 8 * count};

    if (!memcmp(seen + first, words, 8 * count))
        return 1;
    return deputy_write(engine->deputy, pid, &local, 1, &remote, 1);
}

// One word of the structure at `address`, in place of what was written there before.
void hot_overwrite_word(struct kdbus_engine *engine, uint32_t pid, uint64_t address, size_t place, uint64_t word)
{
    struct iovec local = {&word, sizeof(word)};
    struct iovec remote = {(void *)(address + 8 * place), sizeof(word)};

    deputy_write(engine->deputy, pid, &local, 1, &remote, 1);
}

// A duplicate of a descriptor of the binding's thread, or -errno.
int hot_fetch(struct kdbus_engine *engine, struct flow_binding *binding, int descriptor)
{
    int copy = binding->pidfd < 0 ? -ESRCH : kdbus_pidfd_getfd(binding->pidfd, descriptor);

    if (copy == -ESRCH) { // no pidfd yet, or the number is another thread's by now
        flow_forget_descriptors(engine, binding);
        if (engine->descriptors >= engine->most_descriptors)
            flow_forget_all_descriptors(engine); // those in use come back
        binding->pidfd = kdbus_pidfd_open((int)(binding->key >> 32), PIDFD_THREAD);
        if (binding->pidfd < 0) {
            binding->pidfd = -1;
            return -ESRCH;
        }
        engine->descriptors++;
        copy = kdbus_pidfd_getfd(binding->pidfd, descriptor);
    }
    return copy;
}

void hot_wake(struct flow_connection *connection)
{
    if (!connection->readable && send(connection->ours, "m", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
        connection->readable = 1;
}

// A duplicate of the descriptor of the call, proved to be the connection's by the number that its socket has; -1 if it
// is not, or cannot be had.
int hot_duplicate(struct kdbus_engine *engine, const struct flow_connection *connection,
                  struct flow_binding *binding)
{
    int socket = hot_fetch(engine, binding, (int)(uint32_t)binding->key);
    uint64_t cookie = 0;

    if (socket >= 0 && (kdbus_socket_cookie(socket, &cookie) < 0 || cookie != connection->cookie)) {
        deputy_close(engine->deputy, socket);
        return -1;
    }
    return socket < 0 ? -1 : socket;
}

// The queue is empty: take the byte back, through a duplicate of the descriptor of the call that emptied it. There is
// never more than one, so one attempt takes all.
void hot_clear_readable(struct flow_connection *connection, int socket)
{
    char discarded[64];

    if (connection->readable && (recv(socket, discarded, sizeof(discarded), MSG_DONTWAIT) > 0 || errno == EAGAIN)) {
        connection->readable = 0;
        connection->dirty = LENT_CHANGED; // the broker must not think that pollers need no waking
    }
}
