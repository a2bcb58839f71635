// SPDX-License-Identifier: GPL-2.0-or-later
//
// What all programs of the benchmarks share: how they fail, how they take the time, how they tell a result.
//
// A program is told how many seconds a figure may take. It spends a sixth of them on warming up, and cuts the rest into
// five slices: each yields one figure, the mean over all operations that fit into it, and at least one does. A slice
// and not an operation, since what happens once in a while (a collection of garbage, a full buffer) belongs to the
// price; five of them, since the spread between them tells whether something else disturbed the run.
//
// Output, one line for each slice: what was measured, a tab, nanoseconds for one operation.

#ifndef BENCHMARKS_MEASURE_H
#define BENCHMARKS_MEASURE_H

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLICES 5

__attribute__((noreturn, format(printf, 1, 2))) static inline void fail(const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(EXIT_FAILURE);
}

__attribute__((noreturn)) static inline void fail_errno(const char *attempt)
{
    fail("cannot %s: %s", attempt, strerror(errno));
}

static inline uint64_t now_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static inline uint64_t parse_number(const char *text, uint64_t least, uint64_t most)
{
    char *end;
    unsigned long long number;

    errno = 0;
    number = strtoull(text, &end, 10);
    if (errno || end == text || *end || number < least || number > most)
        fail("%s is not a number from %llu to %llu", text, (unsigned long long)least, (unsigned long long)most);
    return number;
}

static inline double parse_seconds(const char *text)
{
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end || !(seconds > 0 && seconds <= 3600))
        fail("%s is not a number of seconds up to 3600", text);
    return seconds;
}

static inline void report(const char *what, double nanoseconds)
{
    printf("%s\t%.1f\n", what, nanoseconds);
    fflush(stdout);
}

// Lets others work for so long.
static inline void pass_time(double seconds)
{
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};

    while (nanosleep(&time, &time) && errno == EINTR)
        ;
}

// Repeats an operation for `seconds`, at least once. Returns the nanoseconds of one, and tells how often it was done.
static inline double repeat(double seconds, void (*operation)(void *), void *context, uint64_t *number)
{
    uint64_t start = now_ns();
    uint64_t end = start + (uint64_t)(seconds * 1e9);
    uint64_t now;

    *number = 0;
    do {
        operation(context);
        ++*number;
        now = now_ns();
    } while (now < end);
    return (double)(now - start) / (double)*number;
}

// Measures one operation as described above.
static inline void measure(const char *what, double seconds, void (*operation)(void *), void *context)
{
    uint64_t number;

    repeat(seconds / (SLICES + 1), operation, context, &number);
    for (int i = 0; i < SLICES; i++)
        report(what, repeat(seconds / (SLICES + 1), operation, context, &number));
}

// One step of an operation that is measured step by step: `spent` is what the operation itself adds up.
struct part {
    const char *what;
    uint64_t spent;  // ns
};

// Measures an operation that adds to the `spent` of its parts how long each took. Reading the clock between them costs
// some tens of nanoseconds.
static inline void measure_parts(struct part *parts, size_t count, double seconds, void (*operation)(void *),
                                 void *context)
{
    uint64_t number;

    repeat(seconds / (SLICES + 1), operation, context, &number);
    for (int i = 0; i < SLICES; i++) {
        for (size_t j = 0; j < count; j++)
            parts[j].spent = 0;
        repeat(seconds / (SLICES + 1), operation, context, &number);
        for (size_t j = 0; j < count; j++)
            report(parts[j].what, (double)parts[j].spent / (double)number);
    }
}

// A child of this process dies with it. To be said again after a change of credentials, which cancels it.
static inline void die_with_parent(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_FAILURE);
}

// fork(2), in the way described above.
static inline pid_t fork_child(void)
{
    pid_t parent = getpid();
    pid_t child = fork();

    if (child < 0)
        fail_errno("fork");
    if (child == 0)
        die_with_parent(parent);
    return child;
}

static inline void helper_ended(int signal)
{
    static const char text[] = "a helper of the benchmark ended before its time\n";
    ssize_t written = write(STDERR_FILENO, text, sizeof(text) - 1);

    (void)written;
    (void)signal;
    _exit(EXIT_FAILURE);
}

// A child without an end of its own, such as a service. If it ends nevertheless, this process fails instead of
// waiting for it.
static inline pid_t fork_helper(void)
{
    pid_t child;

    signal(SIGCHLD, helper_ended);
    child = fork_child();
    if (child == 0)
        signal(SIGCHLD, SIG_DFL);
    return child;
}

// Ends helpers, all of them: from now on nobody watches whether one ends.
static inline void end_helpers(const pid_t *children, size_t count)
{
    signal(SIGCHLD, SIG_DFL);
    for (size_t i = 0; i < count; i++)
        kill(children[i], SIGKILL);
    for (size_t i = 0; i < count; i++)
        waitpid(children[i], NULL, 0);
}

// As many descriptors as this process may have: one connection is one descriptor.
static inline void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit))
        fail_errno("get the limit of descriptors");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        fail_errno("raise the limit of descriptors");
}

// All or nothing: what a helper and its parent tell each other through pipes is short.
static inline void write_all(int descriptor, const void *data, size_t size)
{
    const char *position = data;

    while (size) {
        ssize_t written = write(descriptor, position, size);

        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            fail_errno("write");
        position += written;
        size -= (size_t)written;
    }
}

static inline void read_all(int descriptor, void *data, size_t size)
{
    char *position = data;

    while (size) {
        ssize_t got = read(descriptor, position, size);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            fail_errno("read");
        if (got == 0)
            fail("the other end is gone");
        position += got;
        size -= (size_t)got;
    }
}

#endif
