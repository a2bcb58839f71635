// SPDX-License-Identifier: GPL-2.0-or-later
//
// For which descriptors there is a shelf (shelf.h), and the calls that make use of it; and ioctl(2) in general.
//
// kdbus says EINTR of a SEND that waits for its reply, and of nothing else. So any other call that says it was broken
// off before the supervisor received it, has done nothing, and is made once more.
//
// A RECV or FREE on a descriptor of which nothing is known is made as ever. If it succeeds, the descriptor may be
// a connection, and its shelf is asked for, once: not by who merely sends, a child perhaps that shares the connection
// with who receives, as the one who has asked last has the shelf. What is known stands under the number, and is worth
// nothing without the cookie. A duplicate has no shelf of its own while the first one is open.
//
// close(2) and the other calls by which a number becomes something else's wait until no byte is being taken out of
// a socket, which is two system calls long (taking.c), and for a few milliseconds at most: a process that shares this
// memory may have been killed meanwhile. What the C library closes by itself, as fclose(3) does, does not wait.
//
// When a handle was closed, whoever receives is to know at once, as with kdbus itself: so a call that traps follows, as
// the supervisor sees to what was closed before each of those. Handles are told by who made their sockets. Whoever puts
// something else in a handle's place with dup2(2) mostly has it elsewhere as well, and need not wait.

#include "taking.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define KDBUS_MAGIC 0x9500
// SEND's number, in version 2 and 3, and since; where its command, or message, has its flags, and the one without which
// none waits for a reply.
#define SEND_BEFORE 0x30
#define SEND_SINCE 0x90
#define SEND_FLAGS 1
#define SEND_MAY_WAIT 1
#define KNOWN 256 // descriptors
#define LOOKS 100 // whether a byte is being taken
#define PAUSE_NS 20000

// Wiped in a child, but not in one that shares its memory.
struct table {
    uint32_t nowhere; // it was asked, and nobody has a shelf here
    uint32_t any;     // there is one
    uint32_t taking;  // threads that take a byte out of a socket
    uint32_t closing; // threads that close descriptors
    struct known known[KNOWN];
};

// As SO_PEERCRED says it of each handle, once one is known; children know it as well.
struct maker {
    uint32_t known;
    struct ucred ids;
};

static struct maker maker;
static struct table *table; // NULL: nothing is served here, in this process and its children
static int (*next_close)(int);
static int (*next_dup2)(int, int);
static int (*next_dup3)(int, int, int);
static int (*next_close_range)(unsigned int, unsigned int, int);

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
    long file = taking_trap(descriptor, SHELF_ASK, NULL);

    if (file < 0 && file != -EOPNOTSUPP) {
        table->nowhere = file == -ENOTTY;
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
    table->any = 1;
    if (is_sound(&known->layout, cookie))
        known->shelf = shelf;
    else
        kdbus_trapped(SYS_munmap, (long)shelf, sizeof(struct shelf), 0, 0, 0, 0);
}

// Whether the descriptor that has this place still is what it was.
static int is_in_use(const struct known *known)
{
    uint64_t cookie;

    return known->cookie && taking_write_cookie(known->descriptor, &cookie) && cookie == known->cookie;
}

// Whether the same connection has a shelf by way of another descriptor.
static int is_elsewhere(uint64_t cookie)
{
    for (int i = 0; i < KNOWN; i++)
        if (table->known[i].shelf && table->known[i].cookie == cookie && is_in_use(&table->known[i]))
            return 1;
    return 0;
}

// Asks for the descriptor's shelf unless that was done already, or another one is in use in its place.
static void get_to_know(int descriptor)
{
    struct known *known = table ? &table->known[(uint32_t)descriptor % KNOWN] : NULL;
    uint32_t nobody = 0;
    uint64_t cookie;

    if (!known || table->nowhere || descriptor < 0 || !taking_write_cookie(descriptor, &cookie) ||
        (known->descriptor == descriptor && known->cookie == cookie))
        return;
    if (!__atomic_compare_exchange_n(&known->busy, &nobody, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return;
    if (!__atomic_load_n(&known->users, __ATOMIC_SEQ_CST) && !is_in_use(known) && !is_elsewhere(cookie))
        ask(known, descriptor, cookie);
    __atomic_store_n(&known->busy, 0, __ATOMIC_SEQ_CST);
}

// -- taking a byte, and closing ---------------------------------------------------------------------------------------

int shelves_begin_byte(void)
{
    __atomic_add_fetch(&table->taking, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&table->closing, __ATOMIC_SEQ_CST))
        return 1;
    shelves_end_byte();
    return 0;
}

void shelves_end_byte(void)
{
    __atomic_sub_fetch(&table->taking, 1, __ATOMIC_SEQ_CST);
}

// Nobody begins to take a byte until `end_closing`, if that is the result.
static struct table *begin_closing(void)
{
    const struct timespec pause = {0, PAUSE_NS};

    if (!table || !table->any)
        return NULL;
    __atomic_add_fetch(&table->closing, 1, __ATOMIC_SEQ_CST);
    for (int look = 0; look < LOOKS && __atomic_load_n(&table->taking, __ATOMIC_SEQ_CST); look++)
        kdbus_trapped(SYS_nanosleep, (long)&pause, 0, 0, 0, 0, 0);
    return table;
}

static void end_closing(struct table *begun)
{
    if (begun)
        __atomic_sub_fetch(&begun->closing, 1, __ATOMIC_SEQ_CST);
}

static int who_made(int descriptor, struct ucred *ids)
{
    uint32_t size = sizeof(*ids);

    return !kdbus_trapped(SYS_getsockopt, descriptor, SOL_SOCKET, SO_PEERCRED, (long)ids, (long)&size, 0) &&
           size == sizeof(*ids);
}

static int gives_shelves(void)
{
    return kdbus_state && kdbus_state->shelves;
}

// A call on the descriptor, which is a handle, has just been served.
static void learn_maker(int descriptor)
{
    struct ucred ids;

    if (!gives_shelves() || __atomic_load_n(&maker.known, __ATOMIC_ACQUIRE) || !who_made(descriptor, &ids))
        return;
    maker.ids = ids; // the same, whichever thread is first
    __atomic_store_n(&maker.known, 1, __ATOMIC_RELEASE);
}

// Whether the descriptor is a handle, of whatever kind.
static int is_handle(int descriptor)
{
    struct ucred ids;

    return gives_shelves() && __atomic_load_n(&maker.known, __ATOMIC_ACQUIRE) && who_made(descriptor, &ids) &&
           ids.pid == maker.ids.pid && ids.uid == maker.ids.uid && ids.gid == maker.ids.gid;
}

// Handles were closed: has the supervisor see to that.
static void see_to_closed(void)
{
    while (taking_trap(-1, SHELF_SETTLE, NULL) == -EINTR)
        ;
}

EXPORTED int close(int descriptor)
{
    int handle = is_handle(descriptor);
    struct table *begun = begin_closing();
    int result = next_close ? next_close(descriptor)
                            : (int)kdbus_result(kdbus_trapped(SYS_close, descriptor, 0, 0, 0, 0, 0));

    end_closing(begun);
    if (handle)
        see_to_closed();
    return result;
}

EXPORTED int dup2(int descriptor, int number)
{
    struct table *begun = begin_closing();
    int result = next_dup2 ? next_dup2(descriptor, number)
                           : (int)kdbus_result(kdbus_trapped(SYS_dup2, descriptor, number, 0, 0, 0, 0));

    end_closing(begun);
    return result;
}

EXPORTED int dup3(int descriptor, int number, int flags)
{
    struct table *begun = begin_closing();
    int result = next_dup3 ? next_dup3(descriptor, number, flags)
                           : (int)kdbus_result(kdbus_trapped(SYS_dup3, descriptor, number, flags, 0, 0, 0));

    end_closing(begun);
    return result;
}

EXPORTED int close_range(unsigned int first, unsigned int last, int flags)
{
    struct table *begun = begin_closing();
    int result = next_close_range ? next_close_range(first, last, flags)
                                  : (int)kdbus_result(kdbus_trapped(SYS_close_range, first, last, flags, 0, 0, 0));

    end_closing(begun);
    if (gives_shelves() && __atomic_load_n(&maker.known, __ATOMIC_ACQUIRE))
        see_to_closed();
    return result;
}

// -- the calls --------------------------------------------------------------------------------------------------------

__attribute__((constructor)) static void prepare(void)
{
    long memory = kdbus_trapped(SYS_mmap, 0, sizeof(struct table), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    next_close = (int (*)(int))kdbus_next("close");
    next_dup2 = (int (*)(int, int))kdbus_next("dup2");
    next_dup3 = (int (*)(int, int, int))kdbus_next("dup3");
    next_close_range = (int (*)(unsigned int, unsigned int, int))kdbus_next("close_range");
    if (memory < 0 && memory > -4096)
        return;
    if (kdbus_trapped(SYS_madvise, memory, sizeof(struct table), MADV_WIPEONFORK, 0, 0, 0))
        kdbus_trapped(SYS_munmap, memory, sizeof(struct table), 0, 0, 0, 0);
    else
        table = (struct table *)memory;
}

// Whether the call may be one that waits, and says EINTR in its own right.
static int may_wait(unsigned long request, const uint64_t *command)
{
    uint32_t number = (uint8_t)request;

    if (number != SEND_BEFORE && number != SEND_SINCE)
        return 0;
    return (uintptr_t)command & 7 || !taking_can_read(command + SEND_FLAGS) || command[SEND_FLAGS] & SEND_MAY_WAIT;
}

static long trap(int descriptor, unsigned long request, void *argument)
{
    long result;

    do {
        result = taking_trap(descriptor, request, argument);
    } while (kdbus_broken_off(result) && !may_wait(request, argument));
    return result;
}

static long serve(int descriptor, unsigned long request, void *argument)
{
    struct known *known = look(descriptor);
    long result = 0;
    int served = 0;

    if (known && is_shelved(known, descriptor)) {
        if ((uint32_t)request == known->layout.recv)
            served = taking_receive(known, descriptor, argument, &result);
        else if ((uint32_t)request == known->layout.free)
            served = taking_free(known, descriptor, argument, &result);
    }
    if (known)
        leave(known);
    if (served)
        return result;
    result = trap(descriptor, request, argument);
    if (!result)
        learn_maker(descriptor);
    if (!result && ((uint32_t)request == SHELF_RECV || (uint32_t)request == SHELF_FREE))
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
    return (int)kdbus_result(taking_trap(descriptor, request, argument));
}
