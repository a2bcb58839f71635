// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a target is started with: its filter, and the promises that go with it. See seccomp(2) and prctl(2).

#include "helper.h"

#include <errno.h>
#include <sys/prctl.h>
#include <unistd.h>

_Static_assert(sizeof(struct kdbus_instruction) == sizeof(struct sock_filter), "one layout");
_Static_assert(offsetof(struct kdbus_instruction, jump_true) == offsetof(struct sock_filter, jt), "one layout");
_Static_assert(offsetof(struct kdbus_instruction, jump_false) == offsetof(struct sock_filter, jf), "one layout");
_Static_assert(offsetof(struct kdbus_instruction, operand) == offsetof(struct sock_filter, k), "one layout");

int kdbus_install_filter(const struct kdbus_instruction *program, size_t count, unsigned int flags)
{
    struct sock_fprog filter = {.len = (unsigned short)count, .filter = (struct sock_filter *)program};
    long listener;

    if (count == 0 || count > BPF_MAXINSNS)
        return -EINVAL;
    listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags | SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
    return listener < 0 ? -errno : (int)listener;
}

int kdbus_action_available(uint32_t action)
{
    if (!syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action))
        return 1;
    return errno == EOPNOTSUPP ? 0 : -errno;
}

int kdbus_set_no_new_privileges(void)
{
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
}

int kdbus_set_parent_death_signal(int signal)
{
    return prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0) ? -errno : 0;
}
