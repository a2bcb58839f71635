// SPDX-License-Identifier: GPL-2.0-or-later
//
// Deputies: threads that touch what may stall, in the supervisor's stead.
//
// A page of a target may be served by a process (userfaultfd, FUSE), or come from a disk that does not answer. Whoever
// copies from it or to it waits in the kernel, and only SIGKILL ends that. So the thread that everybody depends on
// never does it: it hands what is to be done to a deputy, and waits for it. When the deputy sleeps in the same copy for
// two ticks, it is left behind, with that copy; a new one takes its place, and nothing that the old one was about to do
// is done by it: whoever gave it the work takes that back, and once the copy is over, its thread ends.
//
// The flow engine runs as a whole in a deputy, as handing over each copy would cost three times the copy; so a copy
// there costs two atomic operations on a counter: odd while the deputy is away. What the broker copies is handed over
// one by one. There is no clock and no system call in a copy: it is who waits that looks at the counter, every few
// milliseconds, as long as it moves, and without a tick when it has rested; then the next copy rings.
//
// A deputy that does not run for lack of a processor is not left behind: its state has to say that it sleeps.
//
// Alternatives: a process that shares this memory could be killed alone, but libc must not be used in one; looking
// first whether a page is there (/proc/PID/pagemap) proves nothing, as other threads of the target may take it away
// again, and costs as much as the copy; and a copier for each copy, as said.
//
// Weaknesses: where memory is so short that a pool cannot be moved away from a copy that was left behind, that is
// waited for. A wait for a FUSE server that has begun to serve the page is ended by nothing but the server, so the end
// of this process waits with it.

#include "errand.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define TICK_NS 5000000L
#define QUIET_TICKS 2 // without a step, after which nobody ticks
#define STACK_BYTES (256U << 10)
#define LEFT_BEHIND (1ULL << 63) // in `steps`

enum { NOTHING, WORK, END };

struct deputy {
    pthread_t thread;
    pid_t id;
    int processor; // that it is bound to, -1 for any
    uint64_t ticket; // 0 before it is left behind
    struct deputy *next; // of those left behind
    int returned; // the eventfd of all

    _Atomic uint32_t order; // futex: what to do
    _Atomic uint32_t bell;  // futex: rings for who waits
    _Atomic uint32_t over;
    _Atomic uint32_t unwatched; // nobody ticks: the next step rings
    _Atomic uint32_t released;  // futex: what was left may be left
    _Atomic uint32_t ended;     // futex
    _Atomic uint64_t steps;
    uint64_t own_steps; // the same, as far as the deputy knows

    void (*act)(struct deputy *self, void *argument);
    void *argument;
    jmp_buf out;
    int result; // of the copy in which it was left behind
    struct errand errand;
    void *sink;
    size_t sink_size;
};

struct kdbus_deputies {
    struct deputy *present; // for the engine
    struct deputy *copier;  // for errands
    struct deputy *left; // behind
    uint64_t last_ticket;
    int returned; // eventfd: one of them is back
};

static long futex(_Atomic uint32_t *word, int operation, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

static void ring(_Atomic uint32_t *bell)
{
    atomic_fetch_add(bell, 1);
    futex(bell, FUTEX_WAKE, 1, NULL);
}

void deputy_leaves(struct deputy *self)
{
    if (!self)
        return;
    self->own_steps++;
    atomic_store(&self->steps, self->own_steps);
    if (atomic_load(&self->unwatched)) {
        atomic_store(&self->unwatched, 0);
        ring(&self->bell);
    }
}

void deputy_is_back(struct deputy *self, int result)
{
    uint64_t expected;

    if (!self)
        return;
    expected = self->own_steps++;
    if (atomic_compare_exchange_strong(&self->steps, &expected, self->own_steps))
        return;
    self->result = result;
    longjmp(self->out, 1);
}

typedef ssize_t copy_call(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long,
                          unsigned long);

// Whether all of it was copied by `call`, process_vm_readv(2) or process_vm_writev(2).
static int copy_all(struct deputy *self, copy_call *call, uint32_t pid, const struct iovec *local, size_t local_count,
                    const struct iovec *remote, size_t remote_count)
{
    size_t wanted = 0;
    int whole;

    for (size_t i = 0; i < remote_count; i++)
        wanted += remote[i].iov_len;
    deputy_leaves(self);
    whole = call((pid_t)pid, local, local_count, remote, remote_count, 0) == (ssize_t)wanted;
    deputy_is_back(self, whole ? 0 : -EFAULT);
    return whole;
}

int deputy_read(struct deputy *self, uint32_t pid, const struct iovec *local, size_t local_count,
                const struct iovec *remote, size_t remote_count)
{
    return copy_all(self, process_vm_readv, pid, local, local_count, remote, remote_count);
}

int deputy_write(struct deputy *self, uint32_t pid, const struct iovec *local, size_t local_count,
                 const struct iovec *remote, size_t remote_count)
{
    return copy_all(self, process_vm_writev, pid, local, local_count, remote, remote_count);
}

void deputy_close(struct deputy *self, int descriptor)
{
    deputy_leaves(self);
    close(descriptor);
    deputy_is_back(self, 0);
}

static void *be_deputy(void *argument)
{
    struct deputy *self = argument;
    uint64_t one = 1;
    uint32_t order;

    self->id = (pid_t)syscall(SYS_gettid);
    for (;;) {
        while ((order = atomic_exchange(&self->order, NOTHING)) == NOTHING)
            futex(&self->order, FUTEX_WAIT, NOTHING, NULL);
        if (order == END)
            return NULL;
        if (setjmp(self->out))
            break;
        self->act(self, self->argument);
        atomic_store(&self->over, 1);
        ring(&self->bell);
    }
    while (!atomic_load(&self->released))
        futex(&self->released, FUTEX_WAIT, 0, NULL);
    atomic_store(&self->ended, 1);
    futex(&self->ended, FUTEX_WAKE, 1, NULL);
    if (write(self->returned, &one, sizeof(one)) < 0)
        return NULL; // its counter is full, so it is readable
    return NULL;
}

// A thread that gets no signals. NULL if there can be none.
static struct deputy *start(int returned)
{
    struct deputy *deputy = calloc(1, sizeof(*deputy));
    pthread_attr_t attributes;
    sigset_t all, before;
    int result;

    if (!deputy)
        return NULL;
    deputy->returned = returned;
    deputy->processor = -1;
    result = pthread_attr_init(&attributes);
    if (!result) {
        sigfillset(&all);
        pthread_attr_setstacksize(&attributes, STACK_BYTES);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        result = pthread_create(&deputy->thread, &attributes, be_deputy, deputy);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
    }
    if (result) {
        free(deputy);
        return NULL;
    }
    return deputy;
}

// Whether the thread waits for something, as far as can be told.
static int sleeps(const struct deputy *deputy)
{
    char path[sizeof("/proc/self/task/-2147483648/stat")];
    char text[512];
    const char *end;
    ssize_t size;
    int file;

    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", deputy->id);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    size = read(file, text, sizeof(text) - 1);
    close(file);
    if (size <= 0)
        return 0;
    text[size] = 0;
    end = strrchr(text, ')');
    return end && end[1] == ' ' && (end[2] == 'S' || end[2] == 'D');
}

// Waits until the deputy has done its work. -EINPROGRESS: it is left behind. `seen`: which step is its first.
static int await(struct deputy *deputy, uint64_t seen, int interrupt)
{
    const struct timespec tick = {.tv_nsec = TICK_NS};
    const uint64_t one = 1;
    unsigned int quiet = 0;

    for (;;) {
        uint32_t bell = atomic_load(&deputy->bell);
        uint64_t steps;
        long result;

        if (atomic_load(&deputy->over))
            return 0;
        if (quiet >= QUIET_TICKS) {
            atomic_store(&deputy->unwatched, 1);
            if (atomic_load(&deputy->steps) != seen)
                quiet = 0; // one that was not told to ring
        }
        result = futex(&deputy->bell, FUTEX_WAIT, bell, quiet >= QUIET_TICKS ? NULL : &tick);
        atomic_store(&deputy->unwatched, 0);
        if (result >= 0 || errno == EAGAIN) {
            quiet = 0;
            continue;
        }
        if (errno == EINTR) {
            if (interrupt >= 0 && write(interrupt, &one, sizeof(one)) < 0 && errno != EAGAIN)
                return -errno;
            continue;
        }
        steps = atomic_load(&deputy->steps);
        if (steps != seen) {
            quiet = 0;
            seen = steps;
        } else if (!(steps & 1)) {
            quiet++;
        } else if (sleeps(deputy) && atomic_compare_exchange_strong(&deputy->steps, &steps, steps | LEFT_BEHIND)) {
            return -EINPROGRESS;
        }
    }
}

static int command(struct kdbus_deputies *deputies, struct deputy **place, void (*act)(struct deputy *, void *),
                   void *argument, int interrupt)
{
    struct deputy *deputy = *place;
    uint64_t first;
    int result;

    first = atomic_load(&deputy->steps) + 1;
    deputy->act = act;
    deputy->argument = argument;
    atomic_store(&deputy->over, 0);
    atomic_store(&deputy->order, WORK);
    futex(&deputy->order, FUTEX_WAKE, 1, NULL);
    result = await(deputy, first, interrupt);
    if (result == -EINPROGRESS) {
        deputy->ticket = ++deputies->last_ticket;
        deputy->next = deputies->left;
        deputies->left = deputy;
        *place = NULL;
    }
    return result;
}

static int is_there(const struct kdbus_deputies *deputies, struct deputy **place)
{
    if (!*place)
        *place = start(deputies->returned);
    return *place != NULL;
}

int deputies_do(struct kdbus_deputies *deputies, void (*act)(struct deputy *self, void *argument), void *argument,
                int interrupt)
{
    if (!is_there(deputies, &deputies->present))
        return -EAGAIN;
    return command(deputies, &deputies->present, act, argument, interrupt);
}

// Binds the copier to the processor that this thread runs on: waking it then takes a third of what it takes to wake
// somebody elsewhere.
static void keep_near(struct deputy *copier)
{
    int processor = sched_getcpu();
    cpu_set_t set;

    if (processor < 0 || processor >= CPU_SETSIZE || processor == copier->processor)
        return;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    if (!pthread_setaffinity_np(copier->thread, sizeof(set), &set))
        copier->processor = processor;
}

void deputies_release(struct kdbus_deputies *deputies, void *sink, size_t size, int alone)
{
    struct deputy *deputy = deputies->left;

    deputy->sink = sink;
    deputy->sink_size = size;
    atomic_store(&deputy->released, 1);
    futex(&deputy->released, FUTEX_WAKE, 1, NULL);
    while (!alone && !atomic_load(&deputy->ended))
        futex(&deputy->ended, FUTEX_WAIT, 0, NULL);
}

struct kdbus_deputies *kdbus_deputies_create(void)
{
    struct kdbus_deputies *deputies = calloc(1, sizeof(*deputies));

    if (!deputies)
        return NULL;
    deputies->returned = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (deputies->returned < 0) {
        free(deputies);
        return NULL;
    }
    return deputies;
}

static void bury(struct deputy *deputy)
{
    pthread_join(deputy->thread, NULL);
    if (deputy->errand.kind == OPEN && deputy->errand.result >= 0 && deputy->ticket)
        close((int)deputy->errand.result); // for nobody
    if (deputy->sink)
        munmap(deputy->sink, deputy->sink_size);
    free(deputy);
}

static void dismiss(struct deputy *deputy)
{
    if (!deputy)
        return;
    atomic_store(&deputy->order, END);
    futex(&deputy->order, FUTEX_WAKE, 1, NULL);
    bury(deputy);
}

// Those that are still away keep what they need: they end with the process.
void kdbus_deputies_destroy(struct kdbus_deputies *deputies)
{
    uint64_t ticket;
    int result;

    while (kdbus_deputies_next(deputies, &ticket, &result) == 1)
        continue;
    dismiss(deputies->present);
    dismiss(deputies->copier);
    if (!deputies->left) {
        close(deputies->returned);
        free(deputies);
    }
}

int kdbus_deputies_fileno(const struct kdbus_deputies *deputies)
{
    return deputies->returned;
}

int kdbus_deputies_away(const struct kdbus_deputies *deputies)
{
    return deputies->left != NULL;
}

uint64_t kdbus_deputies_ticket(const struct kdbus_deputies *deputies)
{
    return deputies->last_ticket;
}

int kdbus_deputies_next(struct kdbus_deputies *deputies, uint64_t *ticket, int *result)
{
    uint64_t count;

    if (read(deputies->returned, &count, sizeof(count)) < 0 && errno != EAGAIN)
        return -errno;
    for (struct deputy **place = &deputies->left; *place; place = &(*place)->next) {
        struct deputy *deputy = *place;

        if (!atomic_load(&deputy->ended))
            continue;
        *place = deputy->next;
        *ticket = deputy->ticket;
        *result = deputy->result;
        bury(deputy);
        return 1;
    }
    return 0;
}

static void run_errand(struct deputy *self, void *argument)
{
    struct errand *errand = argument;

    deputy_leaves(self);
    errand_run(errand);
    deputy_is_back(self, errand->result < 0 ? (int)errand->result : 0);
}

int64_t deputies_do_errand(struct kdbus_deputies *deputies, const struct errand *wanted)
{
    struct errand own = *wanted;
    struct errand *errand = &own;
    void *sink = NULL;
    int result;

    if (!is_there(deputies, &deputies->copier)) {
        run_errand(NULL, errand);
        return own.result;
    }
    keep_near(deputies->copier);
    // What it was given must be there for as long as it is.
    errand = &deputies->copier->errand;
    *errand = own;
    result = command(deputies, &deputies->copier, run_errand, errand, -1);
    if (result != -EINPROGRESS) {
        if (!result && errand->result == -ENOTRECOVERABLE)
            deputies->copier = NULL; // it is somebody else now, and does nothing any more
        return result < 0 ? result : errand->result;
    }
    result = errand->kind == COPY ? pool_move_away(errand->pool, &sink) : 0;
    deputies_release(deputies, sink, sink ? errand->pool->size : 0, !result);
    return -EINPROGRESS;
}
