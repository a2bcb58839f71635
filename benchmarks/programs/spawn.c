// SPDX-License-Identifier: GPL-2.0-or-later
//
// How long a command takes, from its start to its end. Usage:
//
//     spawn WHAT SECONDS COMMAND...
//
// WHAT names the figures. The command gets /dev/null for stdin and stdout, and has to succeed.

#define _GNU_SOURCE
#include "measure.h"

#include <fcntl.h>
#include <spawn.h>

extern char **environ;

static posix_spawn_file_actions_t actions;

static void run(void *context)
{
    char **command = context;
    int error;
    int status;
    pid_t child;

    error = posix_spawnp(&child, command[0], &actions, NULL, command, environ);
    if (error)
        fail("cannot start %s: %s", command[0], strerror(error));
    if (waitpid(child, &status, 0) < 0 || status)
        fail("%s ended with wait status %d", command[0], status);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        fail("usage: spawn WHAT SECONDS COMMAND...");
    if (posix_spawn_file_actions_init(&actions) ||
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0) ||
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0))
        fail("cannot prepare the command's descriptors");
    measure(argv[1], parse_seconds(argv[2]), run, argv + 3);
    return EXIT_SUCCESS;
}
