// SPDX-License-Identifier: GPL-2.0-or-later
//
// A target that makes one trapped call, an ioctl of magic 0x95, with facts about itself in the argument, and exits with
// what the call returned. Modes, the first argument:
//
//     plain     from its only thread
//     thread    from a second thread with a descriptor table of its own (unshare(2), CLONE_FILES)
//     full      with as many descriptors open as it may have

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define REQUEST 0x40009501

struct facts {
    char text[16];
    uint64_t own_address;  // where this structure is
    uint64_t read_only;    // a page that may only be read
    uint64_t unmapped;     // a page that is not there; the page before it may be written
    uint64_t memory_file;  // descriptor of a memfd
    uint64_t path_only;    // descriptor opened with O_PATH
    uint64_t written;      // for the supervisor to write
};

static int result;

static void *call(void *own_table)
{
    const long page = sysconf(_SC_PAGESIZE);
    struct facts facts = {.text = "hello, caller"};
    void *read_only = mmap(NULL, (size_t)page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *pages = mmap(NULL, 2 * (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    // Nothing may be mapped after this, as it would fill the gap.
    if (read_only == MAP_FAILED || pages == MAP_FAILED || munmap(pages + page, (size_t)page))
        _exit(100);
    if (own_table && unshare(CLONE_FILES))
        _exit(101);
    facts.own_address = (uintptr_t)&facts;
    facts.read_only = (uintptr_t)read_only;
    facts.unmapped = (uintptr_t)(pages + page);
    facts.memory_file = (uint64_t)memfd_create("of the caller", MFD_ALLOW_SEALING);
    facts.path_only = (uint64_t)open("/", O_PATH | O_DIRECTORY);
    result = ioctl(0, REQUEST, &facts);
    if (facts.written)
        result = (int)facts.written;
    return NULL;
}

int main(int count, char **arguments)
{
    const char *mode = count > 1 ? arguments[1] : "";
    pthread_t thread;

    if (!strcmp(mode, "thread")) {
        if (pthread_create(&thread, NULL, call, "own"))
            return 102;
        pthread_join(thread, NULL);
        return result;
    }
    if (!strcmp(mode, "full")) {
        struct rlimit limit = {.rlim_cur = 64, .rlim_max = 64};
        int copy;

        if (setrlimit(RLIMIT_NOFILE, &limit))
            return 103;
        while ((copy = dup(0)) >= 0)
            ;
        // Two are needed by the call itself.
        close(62);
        close(63);
    }
    call(NULL);
    return result;
}
