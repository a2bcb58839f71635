// SPDX-License-Identifier: GPL-2.0-or-later
//
// Acting for a moment with the file system identity of somebody else, see credentials(7) and setfsuid(2). Raw system
// calls throughout: libc's setgroups changes all threads of the process, which is the opposite of what is wanted.

#include "helper.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

// Never a valid id, so setting it changes nothing and tells the present one: the only way to ask.
#define ASK ((uint32_t)-1)

static uint32_t set_fsuid(uint32_t uid)
{
    return (uint32_t)syscall(SYS_setfsuid, uid);
}

static uint32_t set_fsgid(uint32_t gid)
{
    return (uint32_t)syscall(SYS_setfsgid, gid);
}

struct capability_sets {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct halves[_LINUX_CAPABILITY_U32S_3];
};

static int get_capabilities(struct capability_sets *sets)
{
    memset(sets, 0, sizeof(*sets));
    sets->header.version = _LINUX_CAPABILITY_VERSION_3;
    return syscall(SYS_capget, &sets->header, sets->halves) ? -errno : 0;
}

static uint64_t effective_of(const struct capability_sets *sets)
{
    return (uint64_t)sets->halves[1].effective << 32 | sets->halves[0].effective;
}

// The effective set becomes `effective`, as far as it is permitted.
static int set_effective(uint64_t effective)
{
    struct capability_sets sets;
    int result = get_capabilities(&sets);

    if (result < 0)
        return result;
    effective &= (uint64_t)sets.halves[1].permitted << 32 | sets.halves[0].permitted;
    if (effective_of(&sets) == effective)
        return 0;
    sets.halves[0].effective = (uint32_t)effective;
    sets.halves[1].effective = (uint32_t)(effective >> 32);
    return syscall(SYS_capset, &sets.header, sets.halves) ? -errno : 0;
}

static int same_groups(const struct kdbus_identity *a, const struct kdbus_identity *b)
{
    return a->group_count == b->group_count &&
           (a->group_count == 0 || !memcmp(a->groups, b->groups, a->group_count * sizeof(*a->groups)));
}

static int set_groups(const struct kdbus_identity *wanted)
{
    return syscall(SYS_setgroups, wanted->group_count, wanted->groups) ? -errno : 0;
}

static int set_file_ids(const struct kdbus_identity *wanted)
{
    set_fsgid(wanted->fsgid);
    if (set_fsgid(ASK) != wanted->fsgid)
        return -EPERM;
    set_fsuid(wanted->fsuid);
    if (set_fsuid(ASK) != wanted->fsuid)
        return -EPERM;
    return 0;
}

int kdbus_group_count(void)
{
    long count = syscall(SYS_getgroups, 0, NULL);

    return count < 0 ? -errno : (int)count;
}

int kdbus_identity_save(struct kdbus_identity *identity)
{
    struct capability_sets sets;
    long count;
    int result = get_capabilities(&sets);

    if (result < 0)
        return result;
    // A size of 0 would ask for the number only, and be taken for "no groups".
    count = syscall(SYS_getgroups, 0, NULL);
    if (count < 0)
        return -errno;
    if ((size_t)count > identity->group_room)
        return -ERANGE;
    if (count && syscall(SYS_getgroups, count, identity->groups) != count)
        return -ERANGE; // another call of this thread cannot have come between
    identity->group_count = (size_t)count;
    identity->fsuid = set_fsuid(ASK);
    identity->fsgid = set_fsgid(ASK);
    identity->effective = effective_of(&sets);
    identity->keep_effective = 0;
    identity->dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
    if (identity->dumpable < 0)
        return -errno;
    if (prctl(PR_GET_PDEATHSIG, &identity->parent_signal, 0, 0, 0))
        return -errno;
    return 0;
}

// What the kernel takes away from whoever changes these ids, although nothing is gained by it here: the process becomes
// undumpable (its /proc files belong to root, nobody may trace it) and forgets its parent death signal.
static int undo_side_effects(const struct kdbus_identity *saved)
{
    if (saved->dumpable == 1 && prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
        return -errno;
    if (saved->parent_signal && prctl(PR_SET_PDEATHSIG, saved->parent_signal, 0, 0, 0))
        return -errno;
    return 0;
}

int kdbus_identity_restore(const struct kdbus_identity *saved, const struct kdbus_identity *borrowed)
{
    // First the capabilities, which the rest needs; and again at the end, as setfsuid changes them.
    int result = set_effective(saved->effective);

    if (result == 0)
        result = set_file_ids(saved);
    if (result == 0 && !same_groups(saved, borrowed))
        result = set_groups(saved);
    if (result == 0)
        result = set_effective(saved->effective);
    return result < 0 ? result : undo_side_effects(saved);
}

int kdbus_identity_borrow(const struct kdbus_identity *wanted, const struct kdbus_identity *saved)
{
    int result;

    // Groups only where they differ: so an ordinary user may borrow what it is already.
    if (!same_groups(wanted, saved)) {
        result = set_groups(wanted);
        if (result < 0)
            return result;
    }
    result = set_file_ids(wanted);
    if (result == 0 && !wanted->keep_effective)
        result = set_effective(wanted->effective);
    if (result < 0 && kdbus_identity_restore(saved, wanted) < 0)
        return -ENOTRECOVERABLE;
    return result;
}
