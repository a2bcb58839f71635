// SPDX-License-Identifier: GPL-2.0-or-later
//
// Opening: open(2), openat(2), creat(2), under all the names that C libraries have for them.
//
// They are points at which a thread can be cancelled, also while they wait, for a pipe's other end for instance. So
// they are made as the C library makes them, with cancellation let in meanwhile where there is more than one thread.
// Weakness: cancelled in that very moment, the thread's handlers of pthread_cleanup_push run, but the destructors of
// C++ objects do not, as nothing describes the page's frame to whoever unwinds the stack.

#include "preload.h"

#include <pthread.h>
#include <stdarg.h>

extern char __libc_single_threaded __attribute__((weak));
extern __typeof__(pthread_setcanceltype) pthread_setcanceltype __attribute__((weak));

// What may open a node that is a real file: that of mount mode, or of a kdbusfs that a program has mounted.
static bool opens_node(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY && !(flags & (O_CREAT | O_PATH | O_DIRECTORY));
}

// Whether it is known before that the call has to be trapped. An open that empties the file cannot be made twice.
static bool has_to_be_trapped(int directory, const char *path, int flags)
{
    if (kdbus_state && opens_node(flags) && (kdbus_state->mounted || (kdbus_state->real && flags & O_TRUNC)))
        return true;
    return !kdbus_try_untrapped(directory, path);
}

// Whether a node of mount mode was opened; it is closed again, as it has to be opened trapped.
static bool was_node(long file, int flags)
{
    struct stat status;

    if (!kdbus_state || !kdbus_state->real || !opens_node(flags) ||
        kdbus_trapped(SYS_fstat, file, (long)&status, 0, 0, 0, 0) || !kdbus_is_node(&status))
        return false;
    kdbus_trapped(SYS_close, file, 0, 0, 0, 0, 0);
    return true;
}

long kdbus_open(int directory, const char *path, int flags, mode_t mode)
{
    if (!has_to_be_trapped(directory, path, flags)) {
        long result = untrapped(SYS_openat, directory, (long)path, flags, mode, 0, 0);
        int error;

        if (result >= 0 && !was_node(result, flags))
            return result;
        if (result >= 0)
            return kdbus_unbroken(SYS_openat, directory, (long)path, flags, mode, 0, 0);
        error = (int)-result;
        // What cannot be made in /sys/fs is for the supervisor to say.
        if (flags & O_CREAT && (error == EACCES || error == EROFS || error == EPERM))
            error = ENOENT;
        if (!kdbus_may_lead_here(directory, path, error))
            return result;
        return kdbus_unbroken(SYS_openat, directory, (long)path, flags, mode, 0, 0);
    }
    // It may lead to a pipe, and wait for its other end.
    return kdbus_trapped(SYS_openat, directory, (long)path, flags, mode, 0, 0);
}

static int open_at(int directory, const char *path, int flags, mode_t mode)
{
    bool threads = (!&__libc_single_threaded || !__libc_single_threaded) && pthread_setcanceltype;
    int before = 0;
    long result;

    if (threads)
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &before);
    result = kdbus_open(directory, path, flags, mode);
    if (threads)
        pthread_setcanceltype(before, NULL);
    return (int)kdbus_result(result);
}

static bool needs_mode(int flags)
{
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
}

static mode_t given_mode(int flags, va_list rest)
{
    return needs_mode(flags) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                                                                                     \
    EXPORTED int name(const char *path, int flags, ...)                                                                \
    {                                                                                                                  \
        int (*next)(const char *, int, ...) = kdbus_stub ? NULL : kdbus_next(#name);                                   \
        va_list rest;                                                                                                  \
        mode_t mode;                                                                                                   \
                                                                                                                       \
        va_start(rest, flags);                                                                                         \
        mode = given_mode(flags, rest);                                                                                \
        va_end(rest);                                                                                                  \
        return next ? next(path, flags, mode) : open_at(AT_FDCWD, path, flags, mode);                                  \
    }

#define OPENAT(name)                                                                                                   \
    EXPORTED int name(int directory, const char *path, int flags, ...)                                                 \
    {                                                                                                                  \
        int (*next)(int, const char *, int, ...) = kdbus_stub ? NULL : kdbus_next(#name);                              \
        va_list rest;                                                                                                  \
        mode_t mode;                                                                                                   \
                                                                                                                       \
        va_start(rest, flags);                                                                                         \
        mode = given_mode(flags, rest);                                                                                \
        va_end(rest);                                                                                                  \
        return next ? next(directory, path, flags, mode) : open_at(directory, path, flags, mode);                      \
    }

#define CREAT(name)                                                                                                    \
    EXPORTED int name(const char *path, mode_t mode)                                                                   \
    {                                                                                                                  \
        int (*next)(const char *, mode_t) = kdbus_stub ? NULL : kdbus_next(#name);                                     \
                                                                                                                       \
        return next ? next(path, mode) : open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);                  \
    }

// What programs call that were compiled with _FORTIFY_SOURCE. Where a mode is missing, the C library ends the program.
#define OPEN_2(name)                                                                                                   \
    EXPORTED int name(const char *path, int flags)                                                                     \
    {                                                                                                                  \
        int (*next)(const char *, int) = kdbus_stub && !needs_mode(flags) ? NULL : kdbus_next(#name);                  \
                                                                                                                       \
        return next ? next(path, flags) : open_at(AT_FDCWD, path, flags, 0);                                           \
    }

#define OPENAT_2(name)                                                                                                 \
    EXPORTED int name(int directory, const char *path, int flags)                                                      \
    {                                                                                                                  \
        int (*next)(int, const char *, int) = kdbus_stub && !needs_mode(flags) ? NULL : kdbus_next(#name);             \
                                                                                                                       \
        return next ? next(directory, path, flags) : open_at(directory, path, flags, 0);                               \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
CREAT(creat)
CREAT(creat64)
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int directory, const char *path, int flags);
int __openat64_2(int directory, const char *path, int flags);

OPEN_2(__open_2)
OPEN_2(__open64_2)
OPENAT_2(__openat_2)
OPENAT_2(__openat64_2)
