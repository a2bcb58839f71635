// SPDX-License-Identifier: GPL-2.0-or-later
//
// Namespaces, mounts and path lookup: system calls that Python does not offer, or only from 3.12 on. They are thin on
// purpose; libc's own wrappers are not used because their headers quarrel with the kernel's linux/mount.h.

#include "helper.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int outcome(long result)
{
    return result < 0 ? -errno : (int)result;
}

int kdbus_unshare(int flags)
{
    return outcome(syscall(SYS_unshare, flags));
}

int kdbus_setns(int descriptor, int flags)
{
    return outcome(syscall(SYS_setns, descriptor, flags));
}

int kdbus_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
    return outcome(syscall(SYS_mount, source, target, type, flags, data));
}

int kdbus_umount2(const char *target, int flags)
{
    return outcome(syscall(SYS_umount2, target, flags));
}

int kdbus_open_tree(int directory, const char *path, unsigned int flags)
{
    return outcome(syscall(SYS_open_tree, directory, path, flags));
}

int kdbus_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned int flags)
{
    return outcome(syscall(SYS_move_mount, from, from_path, to, to_path, flags));
}

int kdbus_openat2(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};

    return outcome(syscall(SYS_openat2, directory, path, &how, sizeof(how)));
}

int kdbus_known_status(int directory, const char *path, int flags, struct kdbus_status *status)
{
    struct statx found;

    if (statx(directory, path, flags | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_MODE | STATX_INO | STATX_NLINK, &found))
        return -errno;
    status->device = makedev(found.stx_dev_major, found.stx_dev_minor);
    status->inode = found.stx_ino;
    status->mode = found.stx_mode;
    status->links = found.stx_nlink;
    return 0;
}

int kdbus_fsopen(const char *type, unsigned int flags)
{
    return outcome(syscall(SYS_fsopen, type, flags));
}

int kdbus_fsconfig(int descriptor, unsigned int command, const char *key, const char *value, int auxiliary)
{
    return outcome(syscall(SYS_fsconfig, descriptor, command, key, value, auxiliary));
}

int kdbus_fsmount(int descriptor, unsigned int flags, unsigned int attributes)
{
    return outcome(syscall(SYS_fsmount, descriptor, flags, attributes));
}
