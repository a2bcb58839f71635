// SPDX-License-Identifier: GPL-2.0-or-later
//
// The receiver's side of shelves (shelf.h, shelf.c): RECV and FREE of plain messages inside the process that receives.
//
// It runs in somebody else's program, between its ioctl(2) and the kernel, and may not be noticed. So:
//
// - It keeps no descriptor, touches no signal handler, allocates nothing but two mappings, and makes raw system calls,
//   which are no cancellation points and leave errno alone.
// - Whatever is not plainly served here traps, with the command as it was.
// - A number is proved to be the connection's by the cookie of its socket, in each call: the program may have closed
//   it, and got the number again for something else.
// - Memory of the program that cannot be read or written is EFAULT, not a crash: the kernel is made to look at it
//   first. rt_sigprocmask(2) with an operation that does not exist reads it and does nothing; the cookie is written to
//   where a result will stand.
// - A signal handler may run at any moment, call ioctl(2) itself, and never return. What it finds is a message that has
//   been received, with all results written, or one that has not. Only while the last message is taken, which takes two
//   steps, signals are blocked.
// - What another has closed by now must show, the end of the bus for one: the supervisor sees to that before each call
//   that traps, and else in its own time, as when a process ends, or closes by itself (shelves.c). So that there is no
//   message is answered here just once after each that was taken here, as whoever takes what there is goes to sleep
//   then; who asks again has a reason.
// - After fork(2) the child knows nothing any more, and begins anew: what is known lies in memory that is wiped then,
//   and shelves are not inherited.
//
// The last message takes a byte out of the socket. Another thread might close the descriptor just before, and something
// else, with data of its own, have the number then: so close(2) and the like wait for the moment that this takes
// (shelves.c).

#include "taking.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define SIGNALS_SIZE 8
#define NO_OPERATION (-1)

// -- what the kernel is asked -----------------------------------------------------------------------------------------

static uintptr_t page_of(const void *address)
{
    return (uintptr_t)address & ~(PAGE_SIZE - 1);
}

// Beside what the stack has at the moment they can, else the kernel knows.
int taking_can_read(const uint64_t *word)
{
    const char here = 0;

    return page_of(word) == page_of(&here) ||
           kdbus_trapped(SYS_rt_sigprocmask, NO_OPERATION, (long)word, 0, SIGNALS_SIZE, 0, 0) == -EINVAL;
}

int taking_write_cookie(int descriptor, uint64_t *word)
{
    uint32_t size = sizeof(*word);

    return !kdbus_trapped(SYS_getsockopt, descriptor, SOL_SOCKET, SO_COOKIE, (long)word, (long)&size, 0);
}

static int crosses_page(const uint64_t *command, uint32_t words)
{
    return page_of(command) != page_of(command + words - 1);
}

// Whether the command can be read, has its bare size and no flags.
static int is_bare(const uint64_t *command, uint32_t words, uint32_t flags)
{
    return !((uintptr_t)command & 7) && taking_can_read(command) &&
           (!crosses_page(command, words) || taking_can_read(command + words - 1)) && command[0] == 8 * words &&
           !command[flags];
}

// Whether the descriptor is the connection, and the word can be written, which then holds anything.
static int is_connection(const struct known *known, int descriptor, uint64_t *word)
{
    return taking_write_cookie(descriptor, word) && *(volatile uint64_t *)word == known->cookie;
}

static void restore(volatile uint64_t *word, uint64_t before)
{
    if (*word != before)
        *word = before;
}

// -- RECV -------------------------------------------------------------------------------------------------------------

// What the command held before, where results are written to.
struct results {
    uint64_t return_flags;
    uint64_t dropped;
    uint64_t message[3];
};

static struct results read_results(const struct shelf_layout *layout, const uint64_t *command)
{
    const uint64_t *message = command + layout->recv_message;

    return (struct results){
        command[layout->recv_return_flags], command[layout->recv_dropped], {message[0], message[1], message[2]}};
}

static void write_results(const struct shelf_layout *layout, uint64_t *command, struct results results)
{
    // Before the message is taken, or a signal handler that does not return would lose it.
    volatile uint64_t *words = command;

    words[layout->recv_return_flags] = results.return_flags;
    words[layout->recv_dropped] = results.dropped;
    for (int i = 0; i < 3; i++)
        words[layout->recv_message + (uint32_t)i] = results.message[i];
}

static int take(struct shelf *shelf, uint64_t head, uint64_t flags)
{
    uint64_t next = shelf_head(flags, shelf_taken(head) + 1, shelf_put(head));

    return __atomic_compare_exchange_n(&shelf->head, &head, next, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static int is_last(uint64_t head)
{
    return shelf_ready(head) == 1 && !(head & SHELF_MORE);
}

// Takes the last message, for which the results have been written, and what pollers see; signals are blocked, and
// nobody closes the descriptor. 0 if it is still there.
static int take_last(const struct known *known, int descriptor, uint64_t head)
{
    char discarded[64];

    // A byte that has not come yet would be left over.
    if (kdbus_trapped(SYS_recvfrom, descriptor, (long)discarded, sizeof(discarded), MSG_DONTWAIT, 0, 0) <= 0)
        return 0;
    if (take(known->shelf, head, SHELF_OPEN))
        return 1;
    taking_trap(descriptor, SHELF_SETTLE, NULL);
    return 0;
}

// The RECV of a command that can be read. `may_be_last`: signals are blocked, and so on.
static int try(struct known *known, int descriptor, uint64_t *command, int may_be_last, long *result)
{
    const struct shelf_layout *layout = &known->layout;
    struct shelf *shelf = known->shelf;

    if (crosses_page(command, layout->recv_words) &&
        !is_connection(known, descriptor, command + layout->recv_return_flags))
        return 0;
    if (!is_connection(known, descriptor, command + layout->recv_message + 2))
        return 0;
    for (;;) {
        uint64_t head = __atomic_load_n(&shelf->head, __ATOMIC_ACQUIRE);
        const struct shelf_place *place = &shelf->places[shelf_taken(head) % SHELF_PLACES];
        uint64_t word = __atomic_load_n(&place->word, __ATOMIC_ACQUIRE);
        uint64_t size = __atomic_load_n(&place->size, __ATOMIC_RELAXED);

        if (!(head & SHELF_OPEN) || shelf_ready(head) > SHELF_PLACES)
            return 0;
        if (!shelf_ready(head)) {
            if (head & (SHELF_READABLE | SHELF_MORE) || !__atomic_exchange_n(&known->took, 0, __ATOMIC_RELAXED))
                return 0;
            write_results(layout, command, (struct results){0, 0, {layout->empty_offset, 0, 0}});
            *result = -EAGAIN;
            return 1;
        }
        if ((word & SHELF_STATE) != SHELF_LIVE) {
            if (head == __atomic_load_n(&shelf->head, __ATOMIC_ACQUIRE))
                return 0;
            continue;
        }
        write_results(layout, command, (struct results){0, 0, {word & ~SHELF_STATE, size, 0}});
        *result = 0;
        if (is_last(head) && !(may_be_last && take_last(known, descriptor, head)))
            return 0;
        if (is_last(head) || take(shelf, head, head & SHELF_FLAGS)) {
            __atomic_store_n(&known->took, 1, __ATOMIC_RELAXED);
            return 1;
        }
    }
}

// The same where the message is the last one, as far as can be seen.
static int try_last(struct known *known, int descriptor, uint64_t *command, long *result)
{
    const uint64_t all = UINT64_MAX;
    uint64_t before;
    int taken = 0;

    if (kdbus_trapped(SYS_rt_sigprocmask, SIG_BLOCK, (long)&all, (long)&before, SIGNALS_SIZE, 0, 0))
        return 0;
    if (shelves_begin_byte()) {
        taken = try(known, descriptor, command, 1, result);
        shelves_end_byte();
    }
    kdbus_trapped(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, SIGNALS_SIZE, 0, 0);
    return taken;
}

int taking_receive(struct known *known, int descriptor, uint64_t *command, long *result)
{
    const struct shelf_layout *layout = &known->layout;
    uint64_t head = __atomic_load_n(&known->shelf->head, __ATOMIC_RELAXED);
    struct results before;

    if (!(head & SHELF_OPEN) || !is_bare(command, layout->recv_words, layout->recv_flags))
        return 0;
    before = read_results(layout, command);
    if (is_last(head) ? try_last(known, descriptor, command, result) : try(known, descriptor, command, 0, result))
        return 1;
    // The call that traps is to see the command as it was; what has not been written perhaps cannot be.
    restore(command + layout->recv_return_flags, before.return_flags);
    restore(command + layout->recv_dropped, before.dropped);
    for (int i = 0; i < 3; i++)
        restore(command + layout->recv_message + i, before.message[i]);
    return 0;
}

// -- FREE -------------------------------------------------------------------------------------------------------------

// Frees the slice if `word` stands for it.
static int free_at(struct shelf *shelf, uint64_t *word, uint64_t offset)
{
    uint64_t expected = offset | SHELF_LIVE;
    uint64_t freed;

    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != expected)
        return 0;
    freed = __atomic_add_fetch(&shelf->serial, 1, __ATOMIC_ACQ_REL) << 3 | SHELF_FREED;
    if (!__atomic_compare_exchange_n(word, &expected, freed, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return 0;
    __atomic_add_fetch(&shelf->frees, 1, __ATOMIC_RELEASE);
    return 1;
}

// Frees a slice that was received by means of the shelf. 0 if there is none at `offset`.
static int free_slice(struct shelf *shelf, uint64_t offset)
{
    uint64_t head = __atomic_load_n(&shelf->head, __ATOMIC_ACQUIRE);
    uint64_t ready = shelf_ready(head);

    if (!(head & SHELF_OPEN) || offset & SHELF_STATE || ready > SHELF_PLACES)
        return 0;
    for (uint64_t back = 1; back <= SHELF_PLACES - ready; back++)
        if (free_at(shelf, &shelf->places[(shelf_taken(head) - back) % SHELF_PLACES].word, offset))
            return 1;
    for (int i = 0; i < SHELF_HELD; i++)
        if (free_at(shelf, &shelf->held[i], offset))
            return 1;
    return 0;
}

int taking_free(const struct known *known, int descriptor, uint64_t *command, long *result)
{
    const struct shelf_layout *layout = &known->layout;
    uint64_t *return_flags;
    uint64_t before;

    if (!is_bare(command, layout->free_words, layout->free_flags))
        return 0;
    return_flags = command + layout->free_return_flags;
    before = *return_flags;
    if (is_connection(known, descriptor, return_flags) &&
        free_slice(known->shelf, command[layout->free_offset])) {
        *return_flags = 0;
        *result = 0;
        return 1;
    }
    restore(return_flags, before);
    return 0;
}
