// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Runs a program in new mount and process namespaces, with "user" as first argument also in a new user namespace whose
 * first 200000 users and groups are those outside; there is a /proc of its own there, and a new kdbusfs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(int result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "in_namespaces: %s: %s\n", what, strerror(errno));
		_exit(125);
	}
}

static void write_map(pid_t child, const char *name)
{
	static const char map[] = "0 0 200000";
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", child, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	check(fd, path);
	check((int)write(fd, map, sizeof(map) - 1), path);
	close(fd);
}

int main(int argc, char **argv)
{
	int user = argc > 2 && !strcmp(argv[1], "user"), status, gate[2];
	unsigned long flags = SIGCHLD | CLONE_NEWNS | CLONE_NEWPID | (user ? CLONE_NEWUSER : 0);
	pid_t child;
	char byte;

	check(pipe(gate), "pipe");
	child = (pid_t)syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
	check(child, "clone");
	if (!child) {
		close(gate[1]);
		check((int)read(gate[0], &byte, 1), "waiting for the maps");
		close(gate[0]);
		check(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL), "making mounts slaves");
		check(mount("proc", "/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL), "mounting proc");
		check(mount("kdbusfs", "/sys/fs/kdbus", "kdbusfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL),
		      "mounting kdbusfs");
		check(execv(argv[1 + user], argv + 1 + user), argv[1 + user]);
	}
	if (user) {
		write_map(child, "uid_map");
		write_map(child, "gid_map");
	}
	close(gate[0]);
	close(gate[1]);
	check(waitpid(child, &status, 0), "waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
