// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The supervisor as a case sees it from below: the parent of the program, whose child runs the case.
 */
#ifndef SUPERVISOR_H
#define SUPERVISOR_H

#include "cases.h"

#include <sched.h>

static inline pid_t supervisor(void)
{
	char path[64], text[512] = "";
	int parent = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", getppid());
	file = fopen(path, "re");
	CHECK(file && fgets(text, sizeof(text), file));
	fclose(file);
	EQ(sscanf(strrchr(text, ')'), ") %*c %d", &parent), 1);
	return parent;
}

/* Wait until it has its event loop, with descriptors of its own: from then on it catches SIGCHLD. */
static inline void await_loop(void)
{
	unsigned long long caught = 0;
	char path[64], line[256];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", supervisor());
	while (!(caught >> (SIGCHLD - 1) & 1)) {
		sched_yield();
		file = fopen(path, "re");
		CHECK(file);
		while (fgets(line, sizeof(line), file))
			sscanf(line, "SigCgt: %llx", &caught);
		fclose(file);
	}
}

#endif
