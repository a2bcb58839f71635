// SPDX-License-Identifier: GPL-2.0-or-later
//
// Questions: stat(2), access(2), readlink(2) and their kind, and chdir(2).
//
// Each makes the system call that the GNU C library makes of it. Programs of before 2021 ask for stat by the names
// __xstat and so on, with a version of the structure; it has been the same one since there were 64-bit machines.

#include "preload.h"

#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define PASS(type, name, parameters, arguments)                                                                        \
    do {                                                                                                               \
        if (!kdbus_stub) {                                                                                             \
            type(*next) parameters = kdbus_next(#name);                                                                \
            if (next)                                                                                                  \
                return next arguments;                                                                                 \
        }                                                                                                              \
    } while (0)

static int fstat_at(int directory, const char *path, void *status, int flags)
{
    // With AT_EMPTY_PATH it is not trapped, and the path may be anything.
    long result = flags & AT_EMPTY_PATH
                      ? kdbus_trapped(SYS_newfstatat, directory, (long)path, (long)status, flags, 0, 0)
                      : kdbus_path_call(directory, path, SYS_newfstatat, directory, (long)path, (long)status, flags, 0);

    return (int)kdbus_result(result);
}

// A version is one of the kernel's own structure (0) or of this machine's C library (1).
static int versioned(int version, int directory, const char *path, void *status, int flags)
{
    return version == 0 || version == 1 ? fstat_at(directory, path, status, flags) : (int)kdbus_result(-EINVAL);
}

#define STAT(name, structure, flags)                                                                                   \
    EXPORTED int name(const char *path, struct structure *status)                                                      \
    {                                                                                                                  \
        PASS(int, name, (const char *, struct structure *), (path, status));                                           \
        return fstat_at(AT_FDCWD, path, status, flags);                                                                \
    }

#define FSTATAT(name, structure)                                                                                       \
    EXPORTED int name(int directory, const char *path, struct structure *status, int flags)                            \
    {                                                                                                                  \
        PASS(int, name, (int, const char *, struct structure *, int), (directory, path, status, flags));               \
        return fstat_at(directory, path, status, flags);                                                               \
    }

#define XSTAT(name, structure, flags)                                                                                  \
    EXPORTED int name(int version, const char *path, struct structure *status)                                         \
    {                                                                                                                  \
        PASS(int, name, (int, const char *, struct structure *), (version, path, status));                             \
        return versioned(version, AT_FDCWD, path, status, flags);                                                      \
    }

#define FXSTATAT(name, structure)                                                                                      \
    EXPORTED int name(int version, int directory, const char *path, struct structure *status, int flags)               \
    {                                                                                                                  \
        PASS(int, name, (int, int, const char *, struct structure *, int), (version, directory, path, status, flags)); \
        return versioned(version, directory, path, status, flags);                                                     \
    }

int __xstat(int version, const char *path, struct stat *status);
int __xstat64(int version, const char *path, struct stat64 *status);
int __lxstat(int version, const char *path, struct stat *status);
int __lxstat64(int version, const char *path, struct stat64 *status);
int __fxstatat(int version, int directory, const char *path, struct stat *status, int flags);
int __fxstatat64(int version, int directory, const char *path, struct stat64 *status, int flags);

STAT(stat, stat, 0)
STAT(stat64, stat64, 0)
STAT(lstat, stat, AT_SYMLINK_NOFOLLOW)
STAT(lstat64, stat64, AT_SYMLINK_NOFOLLOW)
FSTATAT(fstatat, stat)
FSTATAT(fstatat64, stat64)
XSTAT(__xstat, stat, 0)
XSTAT(__xstat64, stat64, 0)
XSTAT(__lxstat, stat, AT_SYMLINK_NOFOLLOW)
XSTAT(__lxstat64, stat64, AT_SYMLINK_NOFOLLOW)
FXSTATAT(__fxstatat, stat)
FXSTATAT(__fxstatat64, stat64)

EXPORTED int statx(int directory, const char *path, int flags, unsigned mask, struct statx *status)
{
    long result;

    PASS(int, statx, (int, const char *, int, unsigned, struct statx *), (directory, path, flags, mask, status));
    result = flags & AT_EMPTY_PATH
                 ? kdbus_trapped(SYS_statx, directory, (long)path, flags, mask, (long)status, 0)
                 : kdbus_path_call(directory, path, SYS_statx, directory, (long)path, flags, mask, (long)status);
    return (int)kdbus_result(result);
}

EXPORTED int access(const char *path, int mode)
{
    PASS(int, access, (const char *, int), (path, mode));
    return (int)kdbus_result(kdbus_path_call(AT_FDCWD, path, SYS_access, (long)path, mode, 0, 0, 0));
}

EXPORTED int faccessat(int directory, const char *path, int mode, int flags)
{
    int (*next)(int, const char *, int, int) = kdbus_stub ? NULL : kdbus_next("faccessat");
    long result;

    if (next)
        return next(directory, path, mode, flags);
    if (!flags)
        return (int)kdbus_result(kdbus_path_call(directory, path, SYS_faccessat, directory, (long)path, mode, 0, 0));
    result = kdbus_path_call(directory, path, SYS_faccessat2, directory, (long)path, mode, flags, 0);
    // Where the kernel or a container does not have it, the C library knows other ways.
    next = result == -ENOSYS || result == -EPERM ? kdbus_next("faccessat") : NULL;
    return next ? next(directory, path, mode, flags) : (int)kdbus_result(result);
}

static ssize_t read_link(int directory, const char *path, char *buffer, size_t size)
{
    return kdbus_result(
        directory == AT_FDCWD
            ? kdbus_path_call(directory, path, SYS_readlink, (long)path, (long)buffer, (long)size, 0, 0)
            : kdbus_path_call(directory, path, SYS_readlinkat, directory, (long)path, (long)buffer, (long)size, 0));
}

EXPORTED ssize_t readlink(const char *path, char *buffer, size_t size)
{
    PASS(ssize_t, readlink, (const char *, char *, size_t), (path, buffer, size));
    return read_link(AT_FDCWD, path, buffer, size);
}

EXPORTED ssize_t readlinkat(int directory, const char *path, char *buffer, size_t size)
{
    PASS(ssize_t, readlinkat, (int, const char *, char *, size_t), (directory, path, buffer, size));
    return read_link(directory, path, buffer, size);
}

ssize_t __readlink_chk(const char *path, char *buffer, size_t size, size_t room);
ssize_t __readlinkat_chk(int directory, const char *path, char *buffer, size_t size, size_t room);

// Those compiled with _FORTIFY_SOURCE; where the room is too small, the C library ends the program.
EXPORTED ssize_t __readlink_chk(const char *path, char *buffer, size_t size, size_t room)
{
    ssize_t (*next)(const char *, char *, size_t, size_t) =
        kdbus_stub && size <= room ? NULL : kdbus_next("__readlink_chk");

    return next ? next(path, buffer, size, room) : read_link(AT_FDCWD, path, buffer, size);
}

EXPORTED ssize_t __readlinkat_chk(int directory, const char *path, char *buffer, size_t size, size_t room)
{
    ssize_t (*next)(int, const char *, char *, size_t, size_t) =
        kdbus_stub && size <= room ? NULL : kdbus_next("__readlinkat_chk");

    return next ? next(directory, path, buffer, size, room) : read_link(directory, path, buffer, size);
}

EXPORTED int chdir(const char *path)
{
    PASS(int, chdir, (const char *), (path));
    return (int)kdbus_result(kdbus_path_call(AT_FDCWD, path, SYS_chdir, (long)path, 0, 0, 0, 0));
}

#define STATFS(name, structure)                                                                                        \
    EXPORTED int name(const char *path, struct structure *status)                                                      \
    {                                                                                                                  \
        PASS(int, name, (const char *, struct structure *), (path, status));                                           \
        return (int)kdbus_result(kdbus_path_call(AT_FDCWD, path, SYS_statfs, (long)path, (long)status, 0, 0, 0));      \
    }

STATFS(statfs, statfs)
STATFS(statfs64, statfs64)

EXPORTED int inotify_add_watch(int instance, const char *path, uint32_t mask)
{
    PASS(int, inotify_add_watch, (int, const char *, uint32_t), (instance, path, mask));
    return (int)kdbus_result(
        kdbus_path_call(AT_FDCWD, path, SYS_inotify_add_watch, instance, (long)path, mask, 0, 0));
}

#define GETXATTR(name, number)                                                                                         \
    EXPORTED ssize_t name(const char *path, const char *attribute, void *value, size_t size)                           \
    {                                                                                                                  \
        PASS(ssize_t, name, (const char *, const char *, void *, size_t), (path, attribute, value, size));             \
        return kdbus_result(                                                                                           \
            kdbus_path_call(AT_FDCWD, path, number, (long)path, (long)attribute, (long)value, (long)size, 0));         \
    }

#define LISTXATTR(name, number)                                                                                        \
    EXPORTED ssize_t name(const char *path, char *list, size_t size)                                                   \
    {                                                                                                                  \
        PASS(ssize_t, name, (const char *, char *, size_t), (path, list, size));                                       \
        return kdbus_result(kdbus_path_call(AT_FDCWD, path, number, (long)path, (long)list, (long)size, 0, 0));        \
    }

GETXATTR(getxattr, SYS_getxattr)
GETXATTR(lgetxattr, SYS_lgetxattr)
LISTXATTR(listxattr, SYS_listxattr)
LISTXATTR(llistxattr, SYS_llistxattr)
