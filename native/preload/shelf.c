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
// - After fork(2) the child knows nothing any more, and begins anew: what is known lies in memory that is wiped then,
//   and shelves are not inherited.
//
// The last message takes a byte out of the socket. Another thread might close the descriptor just before, and something
// else, with data of its own, have the number then: so this is done only in a process that has one thread, as far as
// the C library knows; with several, that call traps.

#include "preload.h"

#include "../shelf.h"

#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

#define KDBUS_MAGIC 0x9500
#define KNOWN 256 // descriptors
#define SIGNALS_SIZE 8
#define NO_OPERATION (-1)

extern char __libc_single_threaded __attribute__((weak));

// A descriptor for which it was asked. `users`: calls that look at it, and keep it from becoming another's.
struct known {
    uint32_t users;
    uint32_t busy;
    int descriptor;
    uint64_t cookie;
    struct shelf *shelf; // NULL: there is none for it
    struct shelf_layout layout;
};

struct table {
    struct known known[KNOWN];
    uint32_t nowhere; // it was asked, and nobody has a shelf here
};

static struct table *table; // NULL: nothing is served here, in this process and its children

// -- what the kernel is asked -----------------------------------------------------------------------------------------

static long trap(int descriptor, unsigned long request, void *argument)
{
    return kdbus_trapped(SYS_ioctl, descriptor, (long)request, (long)argument, 0, 0, 0);
}

// Whether the kernel can read 8 bytes there.
static int can_read(const uint64_t *word)
{
    return kdbus_trapped(SYS_rt_sigprocmask, NO_OPERATION, (long)word, 0, SIGNALS_SIZE, 0, 0) == -EINVAL;
}

// Writes the cookie of the descriptor's socket there; 0 if that cannot be.
static int write_cookie(int descriptor, uint64_t *word)
{
    uint32_t size = sizeof(*word);

    return !kdbus_trapped(SYS_getsockopt, descriptor, SOL_SOCKET, SO_COOKIE, (long)word, (long)&size, 0);
}

static int crosses_page(const uint64_t *command, uint32_t words)
{
    return ((uintptr_t)command & (PAGE_SIZE - 1)) + 8UL * words > PAGE_SIZE;
}

// Whether the command can be read, has its bare size and no flags.
static int is_bare(const uint64_t *command, uint32_t words, uint32_t flags)
{
    return !((uintptr_t)command & 7) && can_read(command) &&
           (!crosses_page(command, words) || can_read(command + words - 1)) && command[0] == 8 * words &&
           !command[flags];
}

// Whether the descriptor is the connection, and the word can be written, which then holds anything.
static int is_connection(const struct known *known, int descriptor, uint64_t *word)
{
    return write_cookie(descriptor, word) && *(volatile uint64_t *)word == known->cookie;
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

// Takes the last message, for which the results have been written, and what pollers see. 0 if it is still there.
static int take_last(const struct known *known, int descriptor, uint64_t head)
{
    const uint64_t all = UINT64_MAX;
    uint64_t before;
    uint64_t cookie;
    char discarded[64];
    int taken;

    if (!&__libc_single_threaded || !__libc_single_threaded)
        return 0;
    if (kdbus_trapped(SYS_rt_sigprocmask, SIG_BLOCK, (long)&all, (long)&before, SIGNALS_SIZE, 0, 0))
        return 0;
    taken = is_connection(known, descriptor, &cookie);
    // A byte that has not come yet would be left over.
    taken = taken &&
            kdbus_trapped(SYS_recvfrom, descriptor, (long)discarded, sizeof(discarded), MSG_DONTWAIT, 0, 0) > 0;
    if (taken) {
        taken = take(known->shelf, head, SHELF_OPEN);
        if (!taken)
            trap(descriptor, SHELF_SETTLE, NULL);
    }
    kdbus_trapped(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, SIGNALS_SIZE, 0, 0);
    return taken;
}

// 1 if the RECV was served, with its result.
static int receive(const struct known *known, int descriptor, uint64_t *command, long *result)
{
    const struct shelf_layout *layout = &known->layout;
    struct shelf *shelf = known->shelf;
    struct results before;

    if (!is_bare(command, layout->recv_words, layout->recv_flags))
        return 0;
    before = read_results(layout, command);
    if (crosses_page(command, layout->recv_words) &&
        !is_connection(known, descriptor, command + layout->recv_return_flags))
        goto give_up;
    if (!is_connection(known, descriptor, command + layout->recv_message + 2))
        goto give_up;
    for (;;) {
        uint64_t head = __atomic_load_n(&shelf->head, __ATOMIC_ACQUIRE);
        const struct shelf_place *place = &shelf->places[shelf_taken(head) % SHELF_PLACES];
        uint64_t word = __atomic_load_n(&place->word, __ATOMIC_ACQUIRE);
        uint64_t size = __atomic_load_n(&place->size, __ATOMIC_RELAXED);

        if (!(head & SHELF_OPEN) || shelf_ready(head) > SHELF_PLACES)
            break;
        if (!shelf_ready(head)) {
            if (head & (SHELF_READABLE | SHELF_MORE))
                break;
            write_results(layout, command, (struct results){0, 0, {layout->empty_offset, 0, 0}});
            *result = -EAGAIN;
            return 1;
        }
        if ((word & SHELF_STATE) != SHELF_LIVE && head == __atomic_load_n(&shelf->head, __ATOMIC_ACQUIRE))
            break;
        write_results(layout, command, (struct results){0, 0, {word & ~SHELF_STATE, size, 0}});
        *result = 0;
        if (shelf_ready(head) == 1 && !(head & SHELF_MORE)) {
            if (take_last(known, descriptor, head))
                return 1;
            break;
        }
        if (take(shelf, head, head & SHELF_FLAGS))
            return 1;
    }
give_up:
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

static int release(const struct known *known, int descriptor, uint64_t *command, long *result)
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

// -- what is known of descriptors -------------------------------------------------------------------------------------

static struct known *look(int descriptor)
{
    struct known *known = table ? &table->known[(uint32_t)descriptor % KNOWN] : NULL;

    if (!known)
        return NULL;
    __atomic_add_fetch(&known->users, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&known->busy, __ATOMIC_SEQ_CST))
        return known;
    __atomic_sub_fetch(&known->users, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void leave(struct known *known)
{
    __atomic_sub_fetch(&known->users, 1, __ATOMIC_SEQ_CST);
}

// Whether calls on the descriptor may be served by means of its shelf.
static int is_shelved(const struct known *known, int descriptor)
{
    return known->shelf && known->descriptor == descriptor;
}

// Maps the shelf behind a descriptor; NULL if that cannot be.
static struct shelf *map(long file)
{
    long memory = kdbus_trapped(SYS_mmap, 0, sizeof(struct shelf), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

    if (memory < 0 && memory > -4096)
        return NULL;
    kdbus_trapped(SYS_madvise, memory, sizeof(struct shelf), MADV_DONTDUMP, 0, 0, 0);
    if (!kdbus_trapped(SYS_madvise, memory, sizeof(struct shelf), MADV_DONTFORK, 0, 0, 0))
        return (struct shelf *)memory;
    kdbus_trapped(SYS_munmap, memory, sizeof(struct shelf), 0, 0, 0, 0);
    return NULL;
}

static int is_sound(const struct shelf_layout *layout, uint64_t cookie)
{
    return layout->cookie == cookie && layout->recv_words <= 16 && layout->recv_flags < layout->recv_words &&
           layout->recv_return_flags < layout->recv_words && layout->recv_dropped < layout->recv_words &&
           layout->recv_message + 2 < layout->recv_words && layout->free_words <= 16 &&
           layout->free_flags < layout->free_words && layout->free_return_flags < layout->free_words &&
           layout->free_offset < layout->free_words;
}

// A call on the descriptor has just been served, and nothing is known about it: ask for its shelf.
static void ask(struct known *known, int descriptor, uint64_t cookie)
{
    struct shelf *shelf = NULL;
    long file = trap(descriptor, SHELF_ASK, NULL);

    if (file == -ENOTCONN)
        return;
    if (file < 0 && file != -EOPNOTSUPP) {
        table->nowhere = 1;
        return;
    }
    if (file >= 0) {
        shelf = map(file);
        kdbus_trapped(SYS_close, file, 0, 0, 0, 0, 0);
    }
    if (known->shelf)
        kdbus_trapped(SYS_munmap, (long)known->shelf, sizeof(struct shelf), 0, 0, 0, 0);
    known->shelf = NULL;
    known->descriptor = descriptor;
    known->cookie = cookie;
    if (!shelf)
        return;
    known->layout = shelf->layout;
    if (is_sound(&known->layout, cookie))
        known->shelf = shelf;
    else
        kdbus_trapped(SYS_munmap, (long)shelf, sizeof(struct shelf), 0, 0, 0, 0);
}

// Whether the descriptor that has this place still is what it was.
static int is_in_use(const struct known *known)
{
    uint64_t cookie;

    return known->cookie && write_cookie(known->descriptor, &cookie) && cookie == known->cookie;
}

// Asks for the descriptor's shelf unless that was done already, or another one is in use in its place.
static void get_to_know(int descriptor)
{
    struct known *known = table ? &table->known[(uint32_t)descriptor % KNOWN] : NULL;
    uint32_t nobody = 0;
    uint64_t cookie;

    if (!known || table->nowhere || descriptor < 0 || !write_cookie(descriptor, &cookie) ||
        (known->descriptor == descriptor && known->cookie == cookie))
        return;
    if (!__atomic_compare_exchange_n(&known->busy, &nobody, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return;
    if (!__atomic_load_n(&known->users, __ATOMIC_SEQ_CST) && !is_in_use(known))
        ask(known, descriptor, cookie);
    __atomic_store_n(&known->busy, 0, __ATOMIC_SEQ_CST);
}

__attribute__((constructor)) static void prepare(void)
{
    long memory = kdbus_trapped(SYS_mmap, 0, sizeof(struct table), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory < 0 && memory > -4096)
        return;
    if (kdbus_trapped(SYS_madvise, memory, sizeof(struct table), MADV_WIPEONFORK, 0, 0, 0))
        kdbus_trapped(SYS_munmap, memory, sizeof(struct table), 0, 0, 0, 0);
    else
        table = (struct table *)memory;
}

static long serve(int descriptor, unsigned long request, void *argument)
{
    struct known *known = look(descriptor);
    long result = 0;
    int served = 0;

    if (known && is_shelved(known, descriptor)) {
        if ((uint32_t)request == known->layout.recv)
            served = receive(known, descriptor, argument, &result);
        else if ((uint32_t)request == known->layout.free)
            served = release(known, descriptor, argument, &result);
    }
    if (known)
        leave(known);
    if (served)
        return result;
    result = trap(descriptor, request, argument);
    if (!result)
        get_to_know(descriptor);
    return result;
}

EXPORTED int ioctl(int descriptor, unsigned long request, ...)
{
    void *argument;
    va_list arguments;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    if (!kdbus_stub) {
        int (*next)(int, unsigned long, void *) = (int (*)(int, unsigned long, void *))kdbus_next("ioctl");

        if (next)
            return next(descriptor, request, argument);
    }
    if ((request & 0xff00) == KDBUS_MAGIC)
        return (int)kdbus_result(serve(descriptor, request, argument));
    return (int)kdbus_result(trap(descriptor, request, argument));
}
