// SPDX-License-Identifier: GPL-2.0-or-later
//
// The hot path: SEND, RECV and FREE of lent connections, see flow.c.
//
// Each of the three first finds out whether it can serve the call, reading all that it needs from the target once, and
// only then changes anything. A call is the broker's (result 0) as soon as anything is unusual: a size other than that
// of the bare structure, an unknown flag, an item that is neither a plain vector, nor a sealed memfd, nor a
// destination, nor the filter of a signal, a receiver that is not lent, no flow, a full pool, an address that cannot
// be read or written. What differs between revisions of kdbus is data that the connection's revision points at.
// What the broker then reads is what it decides on. That a sender's user has no room left in a queue is decided here:
// whoever is refused tries again, and would keep from being served here what makes room.
//
// Crossings into the kernel per call: the notification and its answer, one kcmp(2) to be sure of the descriptor,
// one process_vm_readv(2) for the command, and for a SEND also the message where the last one of this descriptor was;
// another for the payload; one process_vm_writev(2) if results differ from what stands there; where metadata or
// credentials matter, those of evidence.c. A receiver is woken, before the sender is answered, if its queue was empty;
// and its descriptor made unreadable when the queue is empty again.

#include "hot_path.h"
#include "shelf.h"

#include <errno.h>
#include <unistd.h>

// A RECV after which nothing waits any more needs a duplicate of the descriptor, to make it unreadable.
static int empties_queue(const struct flow_connection *connection)
{
    return connection->readable && connection->message_count <= 1;
}

static int serve_recv(struct kdbus_engine *engine, const struct kdbus_notification *call, struct flow_binding *binding)
{
    struct flow_connection *connection = binding->connection;
    int socket;
    int result;

    if (empties_queue(connection)) {
        // The duplicate also proves that the descriptor is the connection's.
        socket = hot_duplicate(engine, connection, binding);
        if (socket < 0)
            return 0;
        engine->flight.socket = socket;
        result = hot_recv(engine, call, binding, socket);
        close(socket);
        return result;
    }
    if (kdbus_same_file_as(engine->self, (int)call->pid, (int)call->arguments[0], connection->epoll,
                           connection->target) != 1)
        return 0;
    return hot_recv(engine, call, binding, -1);
}

int flow_serve(struct kdbus_engine *engine, const struct kdbus_notification *call)
{
    uint32_t descriptor = (uint32_t)call->arguments[0];
    struct flow_binding *binding;
    struct flow_connection *connection;
    int result;

    engine->flight = (struct flight){.socket = -1};
    if (call->architecture != OWN_ARCHITECTURE || call->number != SYS_ioctl || call->arguments[2] & 7)
        return 0;
    if ((uint32_t)call->arguments[1] == SHELF_SETTLE && descriptor == UINT32_MAX) {
        // Somebody has closed a handle, and nothing has hung up: it was not the last descriptor of it.
        kdbus_listener_respond(engine->listener, call->id, 0, EBADF);
        return 1;
    }
    binding = flow_find_binding(engine, (uint64_t)call->pid << 32 | descriptor);
    connection = binding ? binding->connection : NULL;
    if (!connection || !flow_is_lent(engine, connection))
        return 0;
    flow_ring_begin(engine);
    if ((uint32_t)call->arguments[1] == connection->revision->recv) {
        shelf_close(engine, connection);
        result = serve_recv(engine, call, binding);
        if (result)
            shelf_open(engine, connection);
        return result;
    }
    if (kdbus_same_file_as(engine->self, (int)call->pid, (int)descriptor, connection->epoll, connection->target) != 1)
        return 0;
    if ((uint32_t)call->arguments[1] == connection->revision->send)
        return hot_send(engine, call, binding);
    if ((uint32_t)call->arguments[1] == connection->revision->free) {
        shelf_collect(engine, connection);
        return hot_free(engine, call, connection);
    }
    return 0;
}
