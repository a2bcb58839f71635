// SPDX-License-Identifier: GPL-2.0-or-later
//
// realpath(3), which asks of each component of a path whether it is a link: a compiler calls it hundreds of times.
//
// Only what is frequent is here: a path of ordinary length that exists, or of which a component does not. All else is
// left to the C library, trapped.

#include "preload.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST 1024
#define MOST_LINKS 40

extern __typeof__(malloc) malloc __attribute__((weak));

struct walk {
    char to[LONGEST];   // where it has come to, without a slash at the end; "" is the root
    char rest[LONGEST]; // what is still to go
    size_t length;
    int links;
    bool missing; // the component that it has come to does not exist, which is all that there is to say
};

static bool is_folder(const struct walk *walk)
{
    struct stat status;

    return !walk->length || (!untrapped(SYS_newfstatat, AT_FDCWD, (long)walk->to, (long)&status, 0, 0, 0) &&
                             S_ISDIR(status.st_mode));
}

// Goes up to the folder above.
static void up(struct walk *walk)
{
    while (walk->length && walk->to[--walk->length] != '/')
        ;
    walk->to[walk->length] = 0;
}

// Puts the contents of a link before the rest, from `rest` on.
static bool follow(struct walk *walk, const char *link, size_t length, const char *rest)
{
    size_t remaining = strlen(rest);

    if (++walk->links > MOST_LINKS || length + 1 + remaining >= LONGEST)
        return false;
    memmove(walk->rest + length + 1, rest, remaining + 1);
    memcpy(walk->rest, link, length);
    walk->rest[length] = '/';
    if (link[0] == '/')
        walk->to[walk->length = 0] = 0;
    else
        up(walk);
    return true;
}

// Goes one component further; false if that is not for this file. `rest` is behind it.
static bool down(struct walk *walk, const char *name, size_t size, const char **rest)
{
    char link[LONGEST];
    long length;

    if (walk->length + 1 + size >= LONGEST)
        return false;
    walk->to[walk->length++] = '/';
    memcpy(walk->to + walk->length, name, size);
    walk->length += size;
    walk->to[walk->length] = 0;
    length = untrapped(SYS_readlink, (long)walk->to, (long)link, sizeof(link), 0, 0, 0);
    walk->missing = length == -ENOENT && !kdbus_is_ours(walk->to + walk->length - size);
    if (length < 0)
        return length == -EINVAL;
    if (!length || length == sizeof(link) || link[length - 1] == '/' || !follow(walk, link, (size_t)length, *rest))
        return false;
    *rest = walk->rest;
    return true;
}

static bool resolve(struct walk *walk, const char *path)
{
    size_t length = strnlen(path, LONGEST);
    const char *rest = walk->rest;

    walk->missing = false;
    if (!length || length == LONGEST || !kdbus_try_untrapped(AT_FDCWD, path))
        return false;
    memcpy(walk->rest, path, length + 1);
    walk->length = 0;
    walk->links = 0;
    walk->to[0] = 0;
    if (path[0] != '/') {
        long here = untrapped(SYS_getcwd, (long)walk->to, LONGEST, 0, 0, 0, 0);

        if (here <= 1 || walk->to[0] != '/')
            return false;
        // With the zero; the root has nothing but its slash.
        walk->length = here == 2 ? 0 : (size_t)here - 1;
        walk->to[walk->length] = 0;
    }
    for (;;) {
        const char *name;
        size_t size;

        while (*rest == '/')
            rest++;
        if (!*rest)
            break;
        name = rest;
        while (*rest && *rest != '/')
            rest++;
        size = (size_t)(rest - name);
        if (size <= 2 && !memcmp(name, "..", size)) {
            if (!is_folder(walk))
                return false;
            if (size == 2)
                up(walk);
        } else if (!down(walk, name, size, &rest)) {
            return false;
        }
    }
    if (path[length - 1] == '/' && !is_folder(walk))
        return false;
    if (!walk->length)
        memcpy(walk->to, "/", (walk->length = 1) + 1);
    return true;
}

// NULL with `known` if there is none and errno says so; NULL without it if the C library has to be asked.
static char *resolved(const char *path, char *into, bool *known)
{
    struct walk walk;
    bool found;

    *known = false;
    if (!path || !kdbus_stub || !malloc)
        return NULL;
    found = resolve(&walk, path);
    *known = found || walk.missing;
    if (!*known)
        return NULL;
    // The GNU C library also says how far it has come.
    if (!into && found)
        into = malloc(walk.length + 1);
    if (into)
        memcpy(into, walk.to, walk.length + 1);
    if (!found)
        kdbus_result(-ENOENT);
    return found ? into : NULL;
}

EXPORTED char *realpath(const char *path, char *into)
{
    char *(*next)(const char *, char *);
    bool known;
    char *found = resolved(path, into, &known);

    if (known)
        return found;
    next = kdbus_next("realpath");
    if (next)
        return next(path, into);
    kdbus_result(-ENOSYS);
    return NULL;
}

char *__realpath_chk(const char *path, char *into, size_t room);

EXPORTED char *__realpath_chk(const char *path, char *into, size_t room)
{
    char *(*next)(const char *, char *, size_t);
    bool known = false;
    char *found = room >= PATH_MAX ? resolved(path, into, &known) : NULL;

    if (known)
        return found;
    next = kdbus_next("__realpath_chk");
    return next ? next(path, into, room) : realpath(path, into);
}

EXPORTED char *canonicalize_file_name(const char *path)
{
    return realpath(path, NULL);
}
