// SPDX-License-Identifier: GPL-2.0-or-later
//
// A target that maps a descriptor which the kernel cannot map (a socket), and checks that nothing but the result of the
// call has changed: descriptors, signal mask, signal handlers. Every way to use it is a mode, the first argument.
//
//     maps COUNT THREADS   each thread maps and unmaps COUNT times, and compares the content
//     fails                maps with arguments that the kernel refuses, and at the limit of open files
//     once                 maps once
//     thread               maps once, in a second thread
//     replaced             maps once; meanwhile a second thread waits for a byte of stdin, then executes `quit`
//     quit                 waits for the end of standard input
//
// Prints one line per thing that went wrong, and exits with 0 if nothing did, 7 after `quit`.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIZE 8192
#define FULL 64

static atomic_int failures;
static atomic_int handled;
static int handle = -1;
static int rounds = 1;

static void count(int signal_number)
{
    (void)signal_number;
    atomic_fetch_add(&handled, 1);
}

static void expect(int holds, const char *what)
{
    if (holds)
        return;
    atomic_fetch_add(&failures, 1);
    printf("%s (%s)\n", what, strerror(errno));
    fflush(stdout);
}

static int open_descriptors(void)
{
    int found = 0;

    for (int i = 0; i < 256; i++)
        found += fcntl(i, F_GETFD) >= 0;
    return found;
}

static void *map(void *unused)
{
    sigset_t before;
    sigset_t after;

    (void)unused;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    for (int i = 0; i < rounds; i++) {
        char *memory = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, handle, 0);

        expect(memory != MAP_FAILED, "mmap failed");
        if (memory == MAP_FAILED)
            continue;
        expect(memcmp(memory, "hello", 5) == 0, "wrong content");
        munmap(memory, SIZE);
    }
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int i = 1; i < NSIG; i++)
        expect(sigismember(&before, i) == sigismember(&after, i), "the signal mask changed");
    return NULL;
}

static void fail(void)
{
    int used = open_descriptors();
    int fillers[FULL];
    int count_of_fillers = 0;
    struct rlimit limit;
    long result;

    result = syscall(SYS_mmap, NULL, SIZE, PROT_READ, MAP_SHARED, handle, 1L);
    expect(result == -1 && errno == EINVAL, "an unaligned offset is not EINVAL");
    expect(open_descriptors() == used, "descriptors leaked");

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = FULL;
    expect(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit failed");
    while (count_of_fillers < FULL && (fillers[count_of_fillers] = dup(handle)) >= 0)
        count_of_fillers++;
    result = syscall(SYS_mmap, NULL, SIZE, PROT_READ, MAP_SHARED, handle, 0L);
    expect(result == -1 && errno == EMFILE, "no room for a descriptor is not EMFILE");
    while (count_of_fillers)
        close(fillers[--count_of_fillers]);
}

// What read(2) says of standard input: 1 for a byte, 0 at its end.
static ssize_t read_byte(void)
{
    ssize_t length;
    char byte;

    do
        length = read(0, &byte, 1);
    while (length < 0 && errno == EINTR);
    return length;
}

static void *replace(void *program)
{
    expect(read_byte() == 1, "no byte came");
    execl(program, program, "quit", (char *)NULL);
    expect(0, "exec failed");
    return NULL;
}

int main(int count_of_arguments, char **arguments)
{
    const char *mode = count_of_arguments > 1 ? arguments[1] : "";
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
    pthread_t threads[16];
    int extra = 0;
    int pair[2];
    int used;

    if (!strcmp(mode, "quit"))
        return read_byte() == 0 ? 7 : 2;
    if (sigaction(SIGUSR1, &action, NULL) || sigaction(SIGTRAP, &action, NULL))
        return 2;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return 2;
    handle = pair[0];
    used = open_descriptors();

    if (!strcmp(mode, "maps") && count_of_arguments == 4) {
        rounds = atoi(arguments[2]);
        extra = atoi(arguments[3]) - 1;
    }
    if (!strcmp(mode, "thread"))
        extra = 1;
    for (int i = 0; i < extra && i < 16; i++)
        if (pthread_create(&threads[i], NULL, map, NULL))
            return 2;
    if (!strcmp(mode, "replaced") && pthread_create(&threads[0], NULL, replace, arguments[0]))
        return 2;
    if (!strcmp(mode, "fails"))
        fail();
    else if (strcmp(mode, "thread"))
        map(NULL);
    for (int i = 0; i < extra && i < 16; i++)
        pthread_join(threads[i], NULL);

    expect(open_descriptors() == used, "the number of descriptors changed");
    handled = 0;
    raise(SIGTRAP);
    expect(handled >= 1, "the handler of SIGTRAP is lost");
    return failures ? 1 : 0;
}
