// SPDX-License-Identifier: GPL-2.0-or-later
//
// The library that `kdbus run` preloads into dynamic programs, so that calls which have nothing to do with kdbus are
// not trapped.
//
// A seccomp filter sees the instruction pointer. One page of this library, with a system call in it (stub.c), is moved
// to an address that the filter knows, and what is called from there is the kernel's at once. Which calls these may be
// is decided here, in the program itself: it alone can look at a path without stopping. The interposer is no sandbox,
// so nothing is lost if a program uses that page for something else; it only misses kdbus.
//
// Rules for all files of this folder:
//
// - The library is in every dynamic program, so it needs nothing: it is linked with no other library, and what it uses
//   of the C library is found weakly, by name alone, whichever C library of whatever version that is. It starts
//   no thread, catches no signal, allocates nothing but what the wrapped function itself returns.
// - Its data are written once, by the constructor; wrappers of system calls may be called in signal handlers and after
//   vfork.
// - A wrapper looks at no memory of its caller that the kernel has not read before: a bad address is EFAULT, no crash.
// - In doubt a call is trapped. Where the page is not there, the next definition of the function is called.

#ifndef KDBUS_PRELOAD_H
#define KDBUS_PRELOAD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>

#define EXPORTED __attribute__((visibility("default")))

// Where the page is, and behind it the state. `interposer/launch/filter.py` knows the same address. It lies below
// where the kernel puts programs and above where they put things themselves, and none of gcc's and clang's sanitisers
// needs that place.
#define STUB_ADDRESS 0x550000000000UL
#define PAGE_SIZE 4096UL
#define STATE_ADDRESS (STUB_ADDRESS + PAGE_SIZE)

// What the supervisor answers an open of this path with, for writing, as such opens are trapped in all modes: a memfd
// with a `struct state`, readable. `interposer/traps/preloaded.py` has the other side.
#define STATE_PATH "/sys/module/kdbus/preload"

struct state {
    uint32_t entered; // whether anybody may hold a folder of the private folder
    uint32_t mounted; // whether a program has mounted a kdbusfs of its own, whose nodes are real files
    uint32_t real;    // mount mode: the nodes are real files, and no call but opens and mappings is trapped
    uint32_t shelves; // whether receivers may serve themselves (shelves.c)
    uint64_t kdbus;   // the devices that /sys/fs/kdbus and /sys/module/kdbus are on, as st_dev has them
    uint64_t module;
    uint32_t repeats; // whether a call that a signal breaks off has not been received, and may be made once more
};

typedef long stub(long number, long, long, long, long, long, long);

// The page, where it could be put; NULL until then and where it could not.
extern stub *kdbus_stub;

// NULL if there is no supervisor: then nothing is a node.
extern const volatile struct state *kdbus_state;

// The next definition of a function behind this library's, as in dlsym(RTLD_NEXT); NULL if there is none.
void *kdbus_next(const char *name);

// A call that is the kernel's at once, and one that is trapped if the filter says so; both return -errno.
static inline long untrapped(long number, long a, long b, long c, long d, long e, long f)
{
    return kdbus_stub(number, a, b, c, d, e, f);
}

long kdbus_trapped(long number, long a, long b, long c, long d, long e, long f);

// A trapped call that nobody expects to say EINTR: as often as a signal breaks it off before it is received, which only
// the trap makes possible. Not for one that may wait, which is broken off in its own right.
long kdbus_unbroken(long number, long a, long b, long c, long d, long e, long f);

// Whether a call that has said EINTR has done nothing, and may be made once more.
static inline bool kdbus_broken_off(long result)
{
    return result == -EINTR && kdbus_state && kdbus_state->repeats;
}

// -1 with errno, as C libraries have it, for a result of the kernel.
long kdbus_result(long result);

// Whether a path call may be made untrapped, and what it says be believed unless it fails as `kdbus_may_lead_here`
// says. `path` was not looked at yet.
bool kdbus_try_untrapped(int directory, const char *path);

// Whether a file of that status is a node, or one of those that stand beside them.
bool kdbus_is_node(const struct stat *status);

// Whether it is the name of a component that the supervisor answers for where it does not exist.
bool kdbus_is_ours(const char *name);

// Whether a path that the kernel did not find (`error`: a positive errno) may be there for the supervisor.
bool kdbus_may_lead_here(int directory, const char *path, int error);

// A call with a path, untrapped where that is right, else trapped; -errno. The six arguments are the kernel's.
long kdbus_path_call(int directory, const char *path, long number, long a, long b, long c, long d, long e);

// openat(2) in the same way.
long kdbus_open(int directory, const char *path, int flags, mode_t mode);

#endif
