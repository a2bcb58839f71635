// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who acts in the fuzzer: a thread with its own random numbers, its own memory of all kinds, and its own view of the
 * connections that it uses. What it did last is kept, to be told when something is found.
 *
 * An actor's connections are *exclusive* (nobody else uses them, so their state is known exactly) or *shared* with
 * other threads and processes (so just what is true whatever the others do can be checked).
 */
#ifndef FUZZ_ACTOR_H
#define FUZZ_ACTOR_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/kdbus.h>

#define PAGE 4096UL
#define ALIGN8(size) (((size) + 7) & ~7ULL)
#define PEERS 4
#define KEPT 48
#define ASKED 16
#define TRAIL 24
#define BUSES 2
#define FOUND 3 // exit status of a process that has found something

/* A part of a pool that was given out and not freed yet. */
struct slice {
	uint64_t offset, size;
	uint64_t from, to;	/* the payload, which may lie elsewhere; from == to: none */
	uint64_t sum;		/* of all its bytes */
	bool peeked;		/* other slices may have the same payload */
};

struct request {
	uint64_t by, cookie;
};

struct peer {
	int fd;			/* -1: this place is free */
	int bus;
	uint64_t id, flags, pool_size;
	const unsigned char *pool;
	bool exclusive;
	bool ended;		/* it has said so; it must stay so */
	bool uncertain;		/* a result may have been lost on its way: slices may be given out that nobody knows of */
	struct slice kept[KEPT];
	unsigned int kept_count;
	struct request asked[ASKED];
	unsigned int asked_count;
};

struct deed {
	const char *what;
	int fd, result;
	uint64_t place;
	uint64_t words[5];
};

/* What the processes of a round share. */
struct meeting {
	char path[BUSES + 1][128];	/* endpoints; the last is a custom one of the first bus */
	_Atomic uint64_t highest_id[BUSES];
	_Atomic uint64_t steps;
	int pass[2];			/* descriptors are passed through it */
	bool calls_break_off;		/* a signal may come between a message and its descriptors (interposer/traps/exactly_once.py) */
	bool busy;			/* few connections with much to say, so that they are served natively */
};

struct actor {
	uint64_t state;
	uint64_t seed;
	unsigned int worker, number, serial;
	_Atomic unsigned int steps;
	_Atomic bool finished;
	pthread_t thread;
	struct meeting *meeting;
	struct peer peers[PEERS];
	const struct peer *about;	/* whom it is busy with */
	int descriptors;		/* that this actor has open besides */
	bool lost_descriptors;		/* some may have been installed that nobody knows of */
	char *plain, *edge[2], *read_only, *flicker, *hot, *payload;
	struct deed trail[TRAIL];
	unsigned int deeds;
};

static _Thread_local struct actor *self;

/* ---- random numbers ---- */

static inline uint64_t mix(uint64_t value)
{
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
	return value ^ (value >> 31);
}

static inline uint64_t random64(void)
{
	self->state += 0x9e3779b97f4a7c15ULL;
	return mix(self->state);
}

static inline uint32_t any(uint32_t below)
{
	return (uint32_t)(random64() >> 32) % below;
}

static inline bool one_in(uint32_t times)
{
	return any(times) == 0;
}

/* A number of the kind that mistakes are made with. */
static inline uint64_t odd_number(void)
{
	static const uint64_t numbers[] = {
		0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 23, 24, 31, 32, 40, 63, 64, 65, 72, 127, 128, 255, 256, 4095, 4096, 4097,
		8191, 8192, 8193, 32767, 32768, 32769, 65535, 65536, 1 << 20, 2 << 20, (2 << 20) + 1, 0x7fffffff, 0x80000000,
		0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000, 0xfffffffffffff000, 0xfffffffffffffff0,
		0xfffffffffffffff7, 0xfffffffffffffff8, 0xfffffffffffffffe, 0xffffffffffffffff,
	};
	uint64_t number = numbers[any(sizeof(numbers) / sizeof(*numbers))];

	return one_in(4) ? number + any(17) - 8 : one_in(8) ? random64() : number;
}

static inline uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- findings ---- */

/* Tells what is wrong, on what kind of connection, and what this actor did last, and ends the process. */
__attribute__((noreturn, format(printf, 1, 2)))
static inline void found(const char *format, ...)
{
	static char text[TRAIL * 200 + 1000];
	size_t used;
	va_list arguments;
	unsigned int first = self->deeds > TRAIL ? self->deeds - TRAIL : 0;

	used = (size_t)snprintf(text, sizeof(text), "fuzz: FOUND by worker %u.%u, step %u, seed %llu: ", self->worker,
				self->number, (unsigned int)self->steps, (unsigned long long)self->seed);
	va_start(arguments, format);
	used += (size_t)vsnprintf(text + used, 800, format, arguments);
	va_end(arguments);
	used += (size_t)snprintf(text + used, 120, "\nfuzz: it was busy with %s; what it did last:\n",
				 !self->about || self->about->fd < 0 ? "no connection"
				 : self->about->exclusive	     ? "an exclusive connection"
								     : "a shared connection");
	for (unsigned int i = first; i < self->deeds; i++) {
		const struct deed *deed = &self->trail[i % TRAIL];

		used += (size_t)snprintf(text + used, sizeof(text) - used,
					 "fuzz:   %s fd %d at %#llx: %s; %#llx %#llx %#llx %#llx %#llx\n", deed->what, deed->fd,
					 (unsigned long long)deed->place, deed->result ? strerrorname_np(-deed->result) : "0",
					 (unsigned long long)deed->words[0], (unsigned long long)deed->words[1],
					 (unsigned long long)deed->words[2], (unsigned long long)deed->words[3],
					 (unsigned long long)deed->words[4]);
	}
	if (write(STDERR_FILENO, text, used) < 0)
		abort();
	_exit(FOUND);
}

static inline void note(const char *what, int fd, int result, uint64_t place, const uint64_t *words, size_t count)
{
	struct deed *deed = &self->trail[self->deeds++ % TRAIL];

	*deed = (struct deed) { .what = what, .fd = fd, .result = result, .place = place };
	memcpy(deed->words, words, (count < 5 ? count : 5) * sizeof(*words));
}

/* What the fuzzer itself cannot do without. */
#define NEED(condition) do {									\
	if (!(condition)) {									\
		fprintf(stderr, "fuzz: cannot go on: %s:%d: %s (%m)\n", __FILE__, __LINE__, #condition);	\
		_exit(2);									\
	}											\
} while (0)

#endif
