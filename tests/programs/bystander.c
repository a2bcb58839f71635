// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A program that has nothing to do with kdbus. Takes the path of a file of at least two pages that it may write, and
 * what to do with it:
 *
 *     map      maps it writable, shared; and read-only, shared, but not in whole pages
 *     write    opens it with O_WRONLY
 *     both     opens it with O_RDWR
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int map(int fd, size_t length, int protection)
{
	void *memory = mmap(NULL, length, protection, MAP_SHARED, fd, 0);

	return memory == MAP_FAILED ? -1 : munmap(memory, length);
}

int main(int argc, char **argv)
{
	int fd;

	if (argc != 3)
		return 2;
	if (!strcmp(argv[2], "map")) {
		/* Made, not just opened: that is never trapped. */
		fd = open(argv[1], O_RDWR | O_CREAT, 0666);
		if (fd < 0)
			return fail("open");
		if (map(fd, 4096, PROT_READ | PROT_WRITE) || map(fd, 4096, PROT_WRITE) || map(fd, 4097, PROT_READ))
			return fail("mmap");
	} else {
		fd = open(argv[1], strcmp(argv[2], "write") ? O_RDWR : O_WRONLY);
		if (fd < 0)
			return fail("open");
	}
	close(fd);
	puts("done");
	return 0;
}
