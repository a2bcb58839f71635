// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What only 32-bit x86 programs can do: system calls by `int 0x80` instead of the vDSO, the mmap of old, whose
 * arguments lie in memory. To be built with -m32.
 */
#include "e2e.h"

#ifndef __i386__
#error "this is about programs of 32 bits"
#endif

static struct connection say_hello(const struct bus *bus)
{
	struct connection connection = { .fd = open(bus->path, O_RDWR | O_CLOEXEC) };
	struct buffer buffer;
	struct kdbus_cmd_hello *hello = begin_hello(&buffer, 0);

	CHECK(connection.fd >= 0);
	EQ(command(connection.fd, KDBUS_CMD_HELLO, hello), 0);
	connection.id = hello->id;
	connection.hello = *hello;
	return connection;
}

static void use(struct connection *connection, const void *mapped)
{
	const struct kdbus_msg *message;

	connection->pool = mapped;
	EQ(SEND(connection, .to = connection->id, .cookie = 1), 0);
	message = receive(connection);
	SAME(text_of(connection, message), TEXT);
	done(connection, message);
}

CASE(the_mmap_of_old)
{
	struct bus bus = new_bus(0);
	struct connection connection = say_hello(&bus);
	unsigned long arguments[] = { 0, POOL_SIZE, PROT_READ, MAP_SHARED, (unsigned long)connection.fd, 0 };
	long result = syscall(SYS_mmap, arguments);

	CHECK(result != -1);
	use(&connection, (const void *)result);
	arguments[2] = PROT_READ | PROT_WRITE;
	EQ(syscall(SYS_mmap, arguments), -1);
	EQ(errno, EPERM);
	arguments[3] = MAP_PRIVATE | MAP_ANONYMOUS;
	arguments[4] = (unsigned long)-1;
	CHECK(syscall(SYS_mmap, arguments) != -1);
	EQ(syscall(SYS_mmap, (void *)1), -1);
	EQ(errno, EFAULT);
}

static long interrupt80(long number, long a, long b, long c, long d, long e)
{
	long result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
	return result;
}

/* The sixth argument is in ebp, which the compiler does not give away. */
static long map_by_interrupt(int fd)
{
	long result;

	__asm__ volatile("push %%ebp\n\txor %%ebp, %%ebp\n\tint $0x80\n\tpop %%ebp"
			 : "=a"(result)
			 : "a"(SYS_mmap2), "b"(0), "c"(POOL_SIZE), "d"(PROT_READ), "S"(MAP_SHARED), "D"(fd)
			 : "memory");
	return result;
}

CASE(calls_by_interrupt)
{
	struct bus bus = new_bus(0);
	struct connection connection = { .fd = (int)interrupt80(SYS_open, (long)bus.path, O_RDWR, 0, 0, 0) };
	struct buffer buffer;
	struct kdbus_cmd_hello *hello = begin_hello(&buffer, 0);
	long pool;

	GE(connection.fd, 0);
	EQ(interrupt80(SYS_ioctl, connection.fd, (long)KDBUS_CMD_HELLO, (long)hello, 0, 0), 0);
	connection.id = hello->id;
	EQ(interrupt80(SYS_ioctl, connection.fd, (long)KDBUS_CMD_HELLO, (long)hello, 0, 0), -ENOTTY);
	pool = map_by_interrupt(connection.fd);
	CHECK((unsigned long)pool < -4095UL);
	use(&connection, (const void *)pool);
}

/* Many mappings: the stack of the vDSO, registers and signals must be as they were. */
CASE(mapped_again_and_again)
{
	struct bus bus = new_bus(0);
	struct connection connection = say_hello(&bus);

	for (int i = 0; i < 50; i++) {
		void *pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, connection.fd, 0);

		CHECK(pool != MAP_FAILED);
		use(&connection, pool);
		CHECK(!munmap(pool, POOL_SIZE));
	}
	EQ(mmap(NULL, POOL_SIZE + 4096, PROT_READ, MAP_SHARED, connection.fd, 0) == MAP_FAILED, 1);
}
