// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who has made a call: HELLO on the node "control", which is refused, by innermost() of middle() of outermost() of
 * main(). middle() has its room from alloca(3), so its frame is found by a register.
 *
 *     stacks               at once
 *     stacks wait          prints "ready", and waits for a line on stdin
 */
#include <alloca.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kdbus.h>

static int control;

__attribute__((noipa)) static int innermost(int size)
{
	__u64 command[16] = { sizeof(command) };
	int result;

	command[1] = (__u64)size;
	result = ioctl(control, KDBUS_CMD_HELLO, command);
	return result + (int)command[2] + size;
}

__attribute__((noipa)) static int middle(int size)
{
	char *room = alloca((size_t)size);

	memset(room, size, (size_t)size);
	return innermost(room[size / 2]) + room[1];
}

__attribute__((noipa)) static int outermost(int size)
{
	return middle(size + 17) * 3;
}

int main(int argc, char **argv)
{
	char line[8];

	(void)argv;
	control = open("/sys/fs/kdbus/control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return 1;
	if (argc > 1) {
		puts("ready");
		fflush(stdout);
		if (!fgets(line, sizeof(line), stdin))
			return 1;
	}
	return outermost(40) == 1;
}
