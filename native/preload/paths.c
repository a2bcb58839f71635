// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which calls with a path may be made untrapped: the rules of `interposer/nodes/lookup.py`, seen from inside.
//
// No real file system has an entry /sys/fs/kdbus. So what the kernel finds is no node, whatever way the path takes, and
// a call is made untrapped first. Only what is not found may be there for the supervisor, and is asked for once more,
// trapped; but most of what programs do not find leads nowhere: where the first missing component is neither a symbolic
// link nor one of the names that the supervisor answers for, its answer is known.
//
// This ends where a program holds a folder of the private folder, in which everything is a real file. The supervisor
// tells when it has handed out the first one (`struct state`); from then on relative paths that begin on their devices
// are trapped, and so are paths with magic links of /proc, as far as they name it.
//
// In mount mode nodes are real files, and the kernel finds all there is. Only opens are trapped, and those of nodes
// have to be (opens.c).
//
// Weaknesses, after the first folder was handed out: a symbolic link to /proc/self/cwd or the like is not noticed, and
// leads to a file where it should lead to a node; its first ioctl makes it one.

#include "preload.h"

#include <string.h>

// Longer ones are trapped; this has to fit on the stack of a signal handler.
#define LONGEST_PATH 512

static long status_of(int directory, const char *path, struct stat *status, int flags)
{
    return untrapped(SYS_newfstatat, directory, (long)path, (long)status, flags, 0, 0);
}

bool kdbus_is_node(const struct stat *status)
{
    return status->st_dev == kdbus_state->kdbus || status->st_dev == kdbus_state->module;
}

static bool on_private_device(int directory)
{
    struct stat status;
    long error = directory == AT_FDCWD ? status_of(AT_FDCWD, ".", &status, 0)
                                       : status_of(directory, "", &status, AT_EMPTY_PATH);

    return error || kdbus_is_node(&status);
}

bool kdbus_try_untrapped(int directory, const char *path)
{
    long result;

    if (!kdbus_state || !kdbus_state->entered)
        return true;
    // From here on the path is read, so the kernel has to have read it.
    result = untrapped(SYS_faccessat, AT_FDCWD, (long)path, 0, 0, 0, 0);
    if (result == -EFAULT || result == -ENAMETOOLONG)
        return false;
    if (strstr(path, "proc") || strstr(path, "dev/"))
        return false;
    return path[0] == '/' || !on_private_device(directory);
}

// The length of a path without its last component and the slashes around it; 0 if nothing is left of it.
static size_t parent_of(const char *path, size_t length, size_t *name)
{
    while (length && path[length - 1] == '/')
        length--;
    while (length && path[length - 1] != '/')
        length--;
    *name = length;
    while (length && path[length - 1] == '/')
        length--;
    return length;
}

static bool exists(const char *path)
{
    struct stat status;

    return !status_of(AT_FDCWD, path, &status, 0);
}

bool kdbus_is_ours(const char *name)
{
    if (!strcmp(name, "kdbus"))
        return true;
    // The folders above it are only passed through by name where this root does not have them, as in a chroot.
    return (!strcmp(name, "sys") || !strcmp(name, "fs") || !strcmp(name, "module")) &&
           !(exists("/sys/fs") && exists("/sys/module"));
}

bool kdbus_may_lead_here(int directory, const char *path, int error)
{
    char copy[LONGEST_PATH];
    struct stat status;
    size_t length, name, parent;

    if (!kdbus_state || kdbus_state->real || error != ENOENT)
        return false;
    length = strnlen(path, sizeof(copy));
    if (!length)
        return false;
    if (length == sizeof(copy))
        return true;
    memcpy(copy, path, length + 1);
    // Up to the deepest folder that exists; `name` is what is missing in it.
    while ((parent = parent_of(copy, length, &name))) {
        long missing;
        char slash = copy[parent];

        copy[parent] = 0;
        missing = status_of(directory, copy, &status, 0);
        if (!missing) {
            copy[parent] = slash;
            break;
        }
        if (missing != -ENOENT)
            return false;
        length = parent;
    }
    while (length > name && copy[length - 1] == '/')
        length--;
    copy[length] = 0;
    return kdbus_is_ours(copy + name) || status_of(directory, copy, &status, AT_SYMLINK_NOFOLLOW) != -ENOENT;
}

long kdbus_path_call(int directory, const char *path, long number, long a, long b, long c, long d, long e)
{
    long result;

    if (kdbus_try_untrapped(directory, path)) {
        result = untrapped(number, a, b, c, d, e, 0);
        if (result >= 0 || !kdbus_may_lead_here(directory, path, (int)-result))
            return result;
        return kdbus_unbroken(number, a, b, c, d, e, 0);
    }
    // It may lead anywhere, to a file system that hangs for one, and a signal is to end that.
    return kdbus_trapped(number, a, b, c, d, e, 0);
}
