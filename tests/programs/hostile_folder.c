// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * In path mode: puts a pipe and a link into the folder of nodes, and opens them. Whoever opens the pipe for reading
 * waits for a writer; nobody may be made to wait but this process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT "/sys/fs/kdbus"

int main(void)
{
	int folder = open(ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat status;

	if (folder < 0 || fchmod(folder, 0755) || mknodat(folder, "pipe", S_IFIFO | 0666, 0) ||
	    symlinkat("/etc/hostname", folder, "link")) {
		perror("hostile_folder");
		return 1;
	}
	if (open(ROOT "/pipe", O_RDONLY) >= 0 || open(ROOT "/pipe", O_RDWR) >= 0 || open(ROOT "/pipe", O_PATH) >= 0) {
		puts("the pipe was opened");
		return 1;
	}
	if (open(ROOT "/link", O_RDWR | O_NOFOLLOW) >= 0) {
		puts("the link was opened");
		return 1;
	}
	if (fchmod(folder, 0555) || stat(ROOT "/control", &status) || open(ROOT "/control", O_RDWR) < 0) {
		perror("hostile_folder: control");
		return 1;
	}
	puts("served");
	return 0;
}
