// SPDX-License-Identifier: GPL-2.0-or-later
//
// Functions of the C library that open something inside themselves, where no wrapper of open(2) sees it: streams,
// folders, and getcwd(3).
//
// The file is opened here, as the C library would, and then made a stream of. Modes of fopen(3) that say more than how
// to open (the character set, `m` for mapping) are left to the C library, trapped.

#include "preload.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern __typeof__(fdopen) fdopen __attribute__((weak));
extern __typeof__(fdopendir) fdopendir __attribute__((weak));
extern __typeof__(malloc) malloc __attribute__((weak));

// The flags of open(2) for a mode of fopen(3), -1 for one that is the C library's.
static int flags_of(const char *mode)
{
    int flags = *mode == 'r' ? O_RDONLY
                : *mode == 'w' ? O_WRONLY | O_CREAT | O_TRUNC
                : *mode == 'a' ? O_WRONLY | O_CREAT | O_APPEND
                               : -1;

    for (mode++; flags >= 0 && *mode; mode++) {
        if (*mode == '+')
            flags = (flags & ~O_ACCMODE) | O_RDWR;
        else if (*mode == 'x')
            flags |= O_EXCL;
        else if (*mode == 'e')
            flags |= O_CLOEXEC;
        else if (*mode != 'b' && *mode != 't')
            flags = -1;
    }
    return flags;
}

static FILE *open_stream(const char *path, const char *mode, int flags)
{
    long file = kdbus_open(AT_FDCWD, path, flags, 0666);
    FILE *stream;

    if (file < 0) {
        kdbus_result(file);
        return NULL;
    }
    // Not done by fdopen(3) where the file appends already.
    if (flags & O_APPEND && (flags & O_ACCMODE) == O_WRONLY)
        kdbus_trapped(SYS_lseek, file, 0, SEEK_END, 0, 0, 0);
    stream = fdopen((int)file, mode);
    if (!stream)
        kdbus_trapped(SYS_close, file, 0, 0, 0, 0, 0);
    return stream;
}

#define FOPEN(name)                                                                                                    \
    EXPORTED FILE *name(const char *path, const char *mode)                                                            \
    {                                                                                                                  \
        int flags = flags_of(mode);                                                                                    \
        FILE *(*next)(const char *, const char *) = kdbus_stub && fdopen && flags >= 0 ? NULL : kdbus_next(#name);     \
                                                                                                                       \
        return next ? next(path, mode) : open_stream(path, mode, flags);                                               \
    }

FOPEN(fopen)
FOPEN(fopen64)

EXPORTED DIR *opendir(const char *path)
{
    DIR *(*next)(const char *) = kdbus_stub && fdopendir ? NULL : kdbus_next("opendir");
    long file;
    DIR *folder;

    if (next)
        return next(path);
    file = kdbus_open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_DIRECTORY | O_CLOEXEC, 0);
    if (file < 0) {
        kdbus_result(file);
        return NULL;
    }
    folder = fdopendir((int)file);
    if (!folder)
        kdbus_trapped(SYS_close, file, 0, 0, 0, 0, 0);
    return folder;
}

// Whether the kernel's answer is the whole truth: it names the private folder to who stands in it.
static bool is_known(const char *folder)
{
    return folder[0] == '/' && !(kdbus_state && kdbus_state->entered && strstr(folder, "kdbus"));
}

static char *other_getcwd(char *buffer, size_t size)
{
    char *(*next)(char *, size_t) = kdbus_next("getcwd");

    if (next)
        return next(buffer, size);
    kdbus_result(-ENOSYS);
    return NULL;
}

EXPORTED char *getcwd(char *buffer, size_t size)
{
    char here[PATH_MAX], *written = buffer ? buffer : here;
    size_t room = buffer ? size : sizeof(here);
    long length = kdbus_stub && room ? untrapped(SYS_getcwd, (long)written, (long)room, 0, 0, 0, 0) : -ENOSYS;

    // Where there is no name, or a long one, the C library knows other ways; and it has the last word on errors.
    if (length <= 0 || !is_known(written) || (!buffer && size && (size_t)length > size))
        return other_getcwd(buffer, size);
    if (buffer)
        return buffer;
    buffer = malloc(size ? size : (size_t)length);
    return buffer ? memcpy(buffer, here, (size_t)length) : NULL;
}
