// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A small harness for end-to-end tests: real programs that use kdbus by its public API alone. This part is the same for
 * all revisions; e2e.h has helpers for version 3, final.h those for the final revision.
 *
 * A program is a list of cases, each a function that is run in a process of its own. What it expects is said with EQ,
 * NE and CHECK; the first expectation that fails prints the place and both values, and ends the case. The program
 * prints one line per case as TAP does, and exits with 1 if any failed:
 *
 *     ./activator                 all cases
 *     ./activator NAME...         these cases
 *
 * All functions return 0 or a count on success and -errno on failure, so that an expectation can name the errno. What
 * has to work for a case to mean anything is checked in the helpers themselves, which end the case when it does not.
 *
 * A child process is expected to end with status 0; IN_CHILD runs a block in one and waits for it. Nothing sleeps: what
 * has to be waited for is waited for with poll(2), for up to PATIENCE.
 */
#ifndef CASES_H
#define CASES_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/kdbus.h>

#define ROOT "/sys/fs/kdbus"
#define POOL_SIZE (16UL << 20)
#define PATIENCE 30000			/* ms */
#define SECOND 1000000000ULL		/* ns */
#define SKIPPED 77			/* exit status of a case that cannot be run here */
#define BLOOM_SIZE 64			/* bytes, on buses made by make_bus */
#define TEXT "A message of 23 bytes."	/* with its NUL: no multiple of 8 */
#define NOBODY 65534
#define SOMEBODY 65533
#define FOREVER (~0ULL >> 1)		/* as a deadline */

#define HEADER offsetof(struct kdbus_item, data)
#define ALIGN8(size) (((size) + 7) & ~(__u64)7)
#define NEXT(item) ((struct kdbus_item *)((char *)(item) + ALIGN8((item)->size)))

/* ---- expectations ---- */

__attribute__((noreturn))
static inline void give_up(void)
{
	fflush(stdout);
	_exit(1);
}

/* "EPERM", in C libraries that know such names; elsewhere a sentence. */
static inline const char *error_name(int error)
{
#ifdef __GLIBC__
	return strerrorname_np(error);
#else
	return strerror(error);
#endif
}

static inline const char *describe(long long value)
{
	static _Thread_local char texts[2][64];
	static _Thread_local int turn;
	const char *name = value < 0 && value > -4096 ? error_name((int)-value) : NULL;
	char *text = texts[turn ^= 1];

	snprintf(text, sizeof(texts[0]), "%lld (0x%llx%s%s)", value, (unsigned long long)value, name ? ", -" : "",
		 name ? name : "");
	return text;
}

#define COMPARE(left, operator, right) do {								\
	long long left_ = (long long)(left), right_ = (long long)(right);				\
	if (!(left_ operator right_)) {									\
		printf("# %s:%d: expected %s " #operator " %s\n#   left:  %s\n#   right: %s\n",		\
		       __FILE__, __LINE__, #left, #right, describe(left_), describe(right_));		\
		give_up();										\
	}												\
} while (0)
#define EQ(left, right) COMPARE(left, ==, right)
#define NE(left, right) COMPARE(left, !=, right)
#define GE(left, right) COMPARE(left, >=, right)
#define CHECK(condition) do {										\
	if (!(condition)) {										\
		printf("# %s:%d: expected %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);	\
		give_up();										\
	}												\
} while (0)
/* Not inlined, as compilers that see the text at the end of a structure as an array of no elements complain. */
__attribute__((noinline, unused))
static bool same_text(const char *left, const char *right)
{
	return !strcmp(left, right);
}

#define SAME(left, right) do {										\
	const char *left_ = (left), *right_ = (right);							\
	if (!same_text(left_, right_)) {								\
		printf("# %s:%d: expected %s equal to %s\n#   left:  \"%s\"\n#   right: \"%s\"\n",	\
		       __FILE__, __LINE__, #left, #right, left_, right_);				\
		give_up();										\
	}												\
} while (0)

__attribute__((noreturn))
static inline void skip(const char *reason)
{
	printf("# skipped: %s\n", reason);
	fflush(stdout);
	_exit(SKIPPED);
}

/* ---- processes ---- */

static inline void join(pid_t child)
{
	int status;

	EQ(waitpid(child, &status, 0), child);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		printf("# a child ended with wait status 0x%x\n", (unsigned int)status);
		give_up();
	}
}

static inline pid_t start_child(void)
{
	pid_t child;

	fflush(stdout);
	child = fork();
	CHECK(child >= 0);
	if (!child)
		CHECK(!prctl(PR_SET_PDEATHSIG, SIGKILL));
	return child;
}

static inline pid_t finish_child(pid_t child)
{
	if (!child) {
		fflush(stdout);
		_exit(0);
	}
	join(child);
	return -1;
}

/* Runs the block that follows in a child, and waits for its end. */
#define IN_CHILD for (pid_t child_ = start_child(); child_ != -1; child_ = finish_child(child_)) if (!child_)

static inline void become(uid_t uid, gid_t gid)
{
	CHECK(!setgroups(0, NULL));
	CHECK(!setresgid(gid, gid, gid));
	CHECK(!setresuid(uid, uid, uid));
}

/* The same in a child that has become another user, without privileges. */
#define AS(uid) IN_CHILD for (bool once_ = (become(uid, uid), true); once_; once_ = false)

/* ---- one-off events between threads and processes ---- */

static inline int new_event(void)
{
	int event = eventfd(0, EFD_SEMAPHORE);

	CHECK(event >= 0);
	return event;
}

static inline void post(int event)
{
	CHECK(!eventfd_write(event, 1));
}

static inline void await(int event)
{
	struct pollfd entry = { .fd = event, .events = POLLIN };
	eventfd_t value;

	EQ(poll(&entry, 1, PATIENCE), 1);
	CHECK(!eventfd_read(event, &value));
}

/* ---- time and readiness ---- */

static inline __u64 clock_ns(clockid_t clock)
{
	struct timespec time;

	CHECK(!clock_gettime(clock, &time));
	return (__u64)time.tv_sec * SECOND + (__u64)time.tv_nsec;
}

static inline __u64 in_ms(__u64 milliseconds)
{
	return clock_ns(CLOCK_MONOTONIC) + milliseconds * 1000000;
}

/* What poll(2) says at once, asked for everything. */
static inline int readiness(int fd)
{
	struct pollfd entry = { .fd = fd, .events = POLLIN | POLLOUT | POLLPRI };

	GE(poll(&entry, 1, 0), 0);
	return entry.revents;
}

static inline int wait_for(int fd, short events)
{
	struct pollfd entry = { .fd = fd, .events = events };

	EQ(poll(&entry, 1, PATIENCE), 1);
	return entry.revents;
}

/* ---- commands ---- */

/* A command or message in the making; `words[0]` is its size. */
struct buffer {
	__u64 words[4096] __attribute__((aligned(8)));
};

static inline void *begin(struct buffer *buffer, size_t size)
{
	memset(buffer->words, 0, size);
	buffer->words[0] = size;
	return buffer->words;
}

/* Appends an item of `size` bytes; NULL stands for zeros. Returns the place of its content. */
static inline void *add(struct buffer *buffer, __u64 type, const void *content, size_t size)
{
	__u64 header[2] = { HEADER + size, type };
	char *item = (char *)buffer->words + ALIGN8(buffer->words[0]);

	CHECK(item + HEADER + ALIGN8(size) <= (char *)(buffer + 1));
	memset(item, 0, HEADER + ALIGN8(size));
	memcpy(item, header, HEADER);
	if (content)
		memcpy(item + HEADER, content, size);
	buffer->words[0] = (__u64)(item - (char *)buffer->words) + HEADER + size;
	return item + HEADER;
}

static inline void add_string(struct buffer *buffer, __u64 type, const char *string)
{
	if (string)
		add(buffer, type, string, strlen(string) + 1);
}

static inline void add_u64(struct buffer *buffer, __u64 type, __u64 value)
{
	add(buffer, type, &value, sizeof(value));
}

static inline void add_access(struct buffer *buffer, __u64 type, __u64 access, __u64 id)
{
	struct kdbus_policy_access entry = { .type = type, .access = access, .id = id };

	add(buffer, KDBUS_ITEM_POLICY_ACCESS, &entry, sizeof(entry));
}

/* ioctl(2) with -errno for an error. */
static inline int command(int fd, unsigned long request, void *argument)
{
	return ioctl(fd, request, argument) < 0 ? -errno : 0;
}

/* ---- buses and connections ---- */

struct bus {
	int fd;
	char name[100], folder[160], path[192];
};

static inline int open_control(void)
{
	int fd = open(ROOT "/control", O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	return fd;
}

/* ---- cases ---- */

struct test_case {
	const char *name;
	void (*run)(void);
	struct test_case *next;
};

static struct test_case *cases_, **last_case_ = &cases_;

/* Begins a case. Those of ROOT_CASE need a caller with root's privileges. */
#define CASE(case_name)											\
	static void case_name(void);									\
	__attribute__((constructor)) static void register_##case_name(void)				\
	{												\
		static struct test_case entry = { #case_name, case_name, NULL };			\
		*last_case_ = &entry;									\
		last_case_ = &entry.next;								\
	}												\
	static void case_name(void)
#define ROOT_CASE(case_name) CASE(case_name)

static inline bool run_case(const struct test_case *test, int number)
{
	pid_t child = start_child();
	int status;

	if (!child) {
		test->run();
		finish_child(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
		printf("ok %d - %s # SKIP\n", number, test->name);
		return true;
	}
	if (WIFSIGNALED(status))
		printf("# died of signal %d\n", WTERMSIG(status));
	printf("%sok %d - %s\n", status ? "not " : "", number, test->name);
	return !status;
}

int main(int argc, char **argv)
{
	int number = 0, failed = 0;

	for (const struct test_case *test = cases_; test; test = test->next) {
		bool wanted = argc == 1;

		for (int i = 1; i < argc; i++)
			wanted = wanted || !strcmp(argv[i], test->name);
		if (wanted)
			failed += !run_case(test, ++number);
	}
	printf("1..%d\n", number);
	return failed || !number;
}

#endif
