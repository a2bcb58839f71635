// SPDX-License-Identifier: GPL-2.0-or-later
//
// The page at a fixed address, how it comes there, and what the supervisor says about the tree of processes.
//
// The page is one of this library's own, and is moved with mremap(2): it stays a mapping of the file, so neither
// a kernel that refuses to make memory executable stands in the way, nor is there code that nobody knows where it comes
// from. Nothing is put where something is already: a program that has the address in use goes on trapped.
//
// A program with one of the sanitisers that watch what the C library does goes on trapped, too: its run-time library
// has wrappers of the same functions, which must not be passed by.

#include "preload.h"

#include <sys/mman.h>
#include <sys/stat.h>

stub *kdbus_stub;
const volatile struct state *kdbus_state;

extern int *__errno_location(void) __attribute__((weak));
extern void *dlsym(void *handle, const char *name) __attribute__((weak));
extern void __asan_init(void) __attribute__((weak));
extern void __hwasan_init(void) __attribute__((weak));
extern void __msan_init(void) __attribute__((weak));
extern void __tsan_init(void) __attribute__((weak));

// A page of its own: the call, with its number and six arguments as a C function has them.
__asm__(".pushsection .text.stub, \"ax\", @progbits\n"
        ".balign 4096\n"
        ".hidden kdbus_stub_page\n"
        ".globl kdbus_stub_page\n"
        "kdbus_stub_page:\n"
        "    endbr64\n"
        "    mov %rdi, %rax\n"
        "    mov %rsi, %rdi\n"
        "    mov %rdx, %rsi\n"
        "    mov %rcx, %rdx\n"
        "    mov %r8, %r10\n"
        "    mov %r9, %r8\n"
        "    mov 8(%rsp), %r9\n"
        "    syscall\n"
        "    ret\n"
        ".balign 4096, 0xcc\n"
        ".popsection\n");
extern char kdbus_stub_page[] __attribute__((visibility("hidden")));

long kdbus_trapped(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

long kdbus_unbroken(long number, long a, long b, long c, long d, long e, long f)
{
    long result;

    do {
        result = kdbus_trapped(number, a, b, c, d, e, f);
    } while (kdbus_broken_off(result));
    return result;
}

long kdbus_result(long result)
{
    if (result >= 0 || result < -4095)
        return result;
    if (__errno_location)
        *__errno_location() = (int)-result;
    return -1;
}

void *kdbus_next(const char *name)
{
    return dlsym ? dlsym((void *)-1L /* RTLD_NEXT */, name) : NULL;
}

// The state, or NULL if nobody answers; false if it is not known which of the two.
static bool map_state(void)
{
    long file, mapped;

    do {
        file = kdbus_trapped(SYS_openat, AT_FDCWD, (long)STATE_PATH, O_RDWR | O_CLOEXEC, 0, 0, 0);
    } while (file == -EINTR);
    if (file < 0)
        return file == -ENOENT || file == -ENOTDIR;
    mapped = untrapped(SYS_mmap, (long)STATE_ADDRESS, PAGE_SIZE, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
    kdbus_trapped(SYS_close, file, 0, 0, 0, 0, 0);
    if (mapped != (long)STATE_ADDRESS)
        return false;
    kdbus_state = (const volatile struct state *)STATE_ADDRESS;
    return true;
}

__attribute__((constructor)) static void start(void)
{
    long place;

    if (!__errno_location || __asan_init || __hwasan_init || __msan_init || __tsan_init)
        return;
    // Taken first, as mremap(2) puts the page wherever it is told.
    place = kdbus_trapped(SYS_mmap, (long)STUB_ADDRESS, PAGE_SIZE, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (place != (long)STUB_ADDRESS) {
        if (place > 0) // A kernel before 4.17 takes the address as a wish.
            kdbus_trapped(SYS_munmap, place, PAGE_SIZE, 0, 0, 0, 0);
        return;
    }
    place = kdbus_trapped(SYS_mremap, (long)kdbus_stub_page, PAGE_SIZE, PAGE_SIZE,
                          MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, (long)STUB_ADDRESS, 0);
    if (place != (long)STUB_ADDRESS)
        return;
    kdbus_stub = (stub *)STUB_ADDRESS;
    if (!map_state())
        kdbus_stub = NULL;
}
