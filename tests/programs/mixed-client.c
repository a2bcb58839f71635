// SPDX-License-Identifier: GPL-2.0-or-later
/* A client of the final revision: calls the connection of that id on that bus, once or as often as is said, and prints
 * its last answer. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include <linux/kdbus.h>

#define POOL_SIZE (1UL << 20)

int main(int argc, char **argv)
{
	static const char text[] = "hello from final";
	struct {
		struct kdbus_msg message;
		__u64 vector[4];
	} sent = {
		.message = { .flags = KDBUS_MSG_EXPECT_REPLY, .cookie = 1 },
		.vector = { 32, KDBUS_ITEM_PAYLOAD_VEC, sizeof(text), (__u64)(uintptr_t)text },
	};
	struct kdbus_cmd_hello hello = { .size = sizeof(hello), .pool_size = POOL_SIZE };
	struct kdbus_cmd_send send = { .size = sizeof(send), .flags = KDBUS_SEND_SYNC_REPLY };
	const struct kdbus_msg *reply;
	struct timespec now;
	const char *pool;
	long calls = argc > 3 ? strtol(argv[3], NULL, 10) : 1;
	int fd;

	if (argc < 3 || (fd = open(argv[1], O_RDWR | O_CLOEXEC)) < 0 || ioctl(fd, KDBUS_CMD_HELLO, &hello) < 0)
		return 1;
	pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	clock_gettime(CLOCK_MONOTONIC, &now);
	sent.message.size = sizeof(sent);
	sent.message.dst_id = strtoull(argv[2], NULL, 10);
	sent.message.payload_type = KDBUS_PAYLOAD_DBUS;
	sent.message.timeout_ns = (__u64)(now.tv_sec + 30) * 1000000000;
	send.msg_address = (__u64)(uintptr_t)&sent;
	for (; calls; calls--, sent.message.cookie++)
		if (pool == MAP_FAILED || ioctl(fd, KDBUS_CMD_SEND, &send) < 0)
			return 2;
	reply = (const struct kdbus_msg *)(pool + send.reply.offset);
	printf("client: %s\n", (const char *)reply + reply->items[0].vec.offset);
	return reply->items[0].type == KDBUS_ITEM_PAYLOAD_OFF ? 0 : 3;
}
