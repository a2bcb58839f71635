// SPDX-License-Identifier: GPL-2.0-or-later
//
// The calls of a program that has nothing to do with kdbus. Usage:
//
//     storm SECONDS FILE
//
// FILE is opened for reading, opened for reading and writing, and looked at with stat. The second kind is what a
// kdbus program opens its nodes with, so that a supervisor wants to see it.

#define _GNU_SOURCE
#include "measure.h"

#include <fcntl.h>
#include <sys/stat.h>

static void open_with(const char *path, int flags)
{
    int descriptor = open(path, flags | O_CLOEXEC);

    if (descriptor < 0)
        fail_errno("open the file");
    close(descriptor);
}

static void open_read_only(void *context)
{
    open_with(context, O_RDONLY);
}

static void open_read_write(void *context)
{
    open_with(context, O_RDWR);
}

static void look(void *context)
{
    struct stat status;

    if (stat(context, &status))
        fail_errno("stat the file");
}

int main(int argc, char **argv)
{
    double seconds;

    if (argc != 3)
        fail("usage: storm SECONDS FILE");
    seconds = parse_seconds(argv[1]);
    measure("open and close, read-only", seconds, open_read_only, argv[2]);
    measure("open and close, read-write", seconds, open_read_write, argv[2]);
    measure("stat", seconds, look, argv[2]);
    return EXIT_SUCCESS;
}
