// SPDX-License-Identifier: GPL-2.0-or-later
//
// docker_profile PROGRAM [ARGUMENTS...]
//
// Runs a program under a seccomp filter that forbids what Docker's default profile forbids to a container without
// further capabilities, as far as it matters to kdbus: comparing and fetching descriptors of other processes,
// namespaces and mounts. All of it fails with EPERM, but clone3, whose arguments a filter cannot see: that is ENOSYS,
// as there.

#include <errno.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define DENY(number, error)                                                                                            \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))

int main(int count, char **arguments)
{
    struct sock_filter filter[] = {
        LOAD(nr),
        DENY(SYS_kcmp, EPERM),
        DENY(SYS_pidfd_getfd, EPERM),
        DENY(SYS_mount, EPERM),
        DENY(SYS_umount2, EPERM),
        DENY(SYS_unshare, EPERM),
        DENY(SYS_setns, EPERM),
        DENY(SYS_open_tree, EPERM),
        DENY(SYS_move_mount, EPERM),
        DENY(SYS_fsopen, EPERM),
        DENY(SYS_fsconfig, EPERM),
        DENY(SYS_fsmount, EPERM),
        DENY(SYS_pivot_root, EPERM),
        DENY(SYS_clone3, ENOSYS),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
        LOAD(args[0]),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]), .filter = filter};

    if (count < 2) {
        fprintf(stderr, "usage: %s PROGRAM [ARGUMENTS...]\n", arguments[0]);
        return 2;
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0)) {
        perror("docker_profile: installing the filter");
        return 1;
    }
    execvp(arguments[1], arguments + 1);
    perror(arguments[1]);
    return 127;
}
