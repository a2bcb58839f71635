// SPDX-License-Identifier: GPL-2.0-or-later
//
// PTRACE_SEIZE that does not wait for ever. While a thread of a process is in the middle of execve(2), the kernel lets
// nobody begin to trace that process; and execve reads the program, from a file system whose server (FUSE) may take its
// time. A signal breaks off that wait, but the kernel then begins it again. So who comes from a timer's signal to find
// this thread at the call, about to begin, puts it behind the call. The timer goes off again and again, as the first
// time may be before the call is reached.

#include "helper.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define ALARM (SIGRTMAX - 1)

extern const char kdbus_seize_call[] __attribute__((visibility("hidden")));
extern const char kdbus_seize_called[] __attribute__((visibility("hidden")));

static void leave_call(int signal, siginfo_t *info, void *context)
{
    mcontext_t *machine = &((ucontext_t *)context)->uc_mcontext;

    (void)signal;
    (void)info;
#if defined(__x86_64__)
    if ((const char *)machine->gregs[REG_RIP] == kdbus_seize_call) {
        machine->gregs[REG_RIP] = (greg_t)kdbus_seize_called;
        machine->gregs[REG_RAX] = -ETIMEDOUT;
    }
#else
    if ((const char *)machine->pc == kdbus_seize_call) {
        machine->pc = (uintptr_t)kdbus_seize_called;
        machine->regs[0] = (unsigned long long)-ETIMEDOUT;
    }
#endif
}

// The one place of the call, not to be copied by the compiler.
__attribute__((noinline, noclone)) static long seize(long pid, long options)
{
#if defined(__x86_64__)
    register long fourth __asm__("r10") = options;
    long result = SYS_ptrace;

    __asm__ volatile("kdbus_seize_call: syscall\n"
                     "kdbus_seize_called:\n"
                     : "+a"(result)
                     : "D"((long)PTRACE_SEIZE), "S"(pid), "d"(0L), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
#else
    register long number __asm__("x8") = SYS_ptrace;
    register long first __asm__("x0") = PTRACE_SEIZE;
    register long second __asm__("x1") = pid;
    register long third __asm__("x2") = 0;
    register long fourth __asm__("x3") = options;

    __asm__ volatile("kdbus_seize_call: svc #0\n"
                     "kdbus_seize_called:\n"
                     : "+r"(first)
                     : "r"(number), "r"(second), "r"(third), "r"(fourth)
                     : "memory");
    return first;
#endif
}

int kdbus_seize(int pid, uint64_t options, uint32_t patience_ns)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = ALARM};
    const struct itimerspec interval = {{.tv_nsec = patience_ns}, {.tv_nsec = patience_ns}};
    struct sigaction action = {.sa_sigaction = leave_call, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigaction before;
    sigset_t alarm_only, mask;
    timer_t timer;
    int result;

    if (patience_ns >= 1000000000U)
        return -EINVAL;
    event.sigev_notify_thread_id = (int)syscall(SYS_gettid);
    sigemptyset(&action.sa_mask);
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, ALARM);
    if (timer_create(CLOCK_MONOTONIC, &event, &timer))
        return -errno;
    if (sigaction(ALARM, &action, &before)) {
        result = -errno;
        timer_delete(timer);
        return result;
    }
    pthread_sigmask(SIG_UNBLOCK, &alarm_only, &mask);
    result = timer_settime(timer, 0, &interval, NULL) ? -errno : (int)seize(pid, (long)options);
    timer_delete(timer);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    sigaction(ALARM, &before, NULL);
    return result;
}
