// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Pages that do not come before somebody says so (userfaultfd(2)), and calls of a thread of its own that wait for one.
 * To be included behind the helpers of a revision.
 */
#ifndef WITHHELD_H
#define WITHHELD_H

#include <linux/userfaultfd.h>
#include <sys/syscall.h>

#define PAGE 4096
#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define PROTECTED UFFDIO_REGISTER_MODE_WP

struct page {
	int fd;
	char *memory;
	char content[PAGE];	/* what it is served with */
};

/* A page that is MISSING, or PROTECTED with what it has then: then only who writes waits. */
static inline void withhold(struct page *page, __u64 mode)
{
	struct uffdio_register range = { .range = { (uintptr_t)page->memory, PAGE }, .mode = mode };
	struct uffdio_writeprotect protect = { range.range, UFFDIO_WRITEPROTECT_MODE_WP };
	struct uffdio_api api = { .api = UFFD_API };

	page->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (page->fd < 0)
		skip("userfaultfd(2) is not allowed here");
	EQ(ioctl(page->fd, UFFDIO_API, &api), 0);
	EQ(ioctl(page->fd, UFFDIO_REGISTER, &range), 0);
	if (mode == PROTECTED)
		EQ(ioctl(page->fd, UFFDIO_WRITEPROTECT, &protect), 0);
}

static inline struct page new_page(__u64 mode)
{
	struct page page = {};

	page.memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page.memory != MAP_FAILED);
	if (mode == PROTECTED)
		*page.memory = 0;
	else
		withhold(&page, mode);
	return page;
}

/* Somebody waits for it. */
static inline void await_stall(const struct page *page)
{
	struct uffd_msg message;

	CHECK(wait_for(page->fd, POLLIN) & POLLIN);
	EQ(read(page->fd, &message, sizeof(message)), sizeof(message));
	EQ(message.event, UFFD_EVENT_PAGEFAULT);
}

static inline void serve(const struct page *page)
{
	struct uffdio_copy copy = { (uintptr_t)page->memory, (uintptr_t)page->content, PAGE, 0, 0 };

	EQ(ioctl(page->fd, UFFDIO_COPY, &copy), 0);
}

static inline void allow(const struct page *page)
{
	struct uffdio_writeprotect protect = { { (uintptr_t)page->memory, PAGE }, 0 };

	EQ(ioctl(page->fd, UFFDIO_WRITEPROTECT, &protect), 0);
}

struct call {
	pthread_t thread;
	int fd, result;
	unsigned long request;
	void *argument;
};

static inline void *make_call(void *argument)
{
	struct call *call = argument;

	call->result = command(call->fd, call->request, call->argument);
	return NULL;
}

static inline void start_call(struct call *call, int fd, unsigned long request, void *argument)
{
	*call = (struct call) { .fd = fd, .request = request, .argument = argument };
	CHECK(!pthread_create(&call->thread, NULL, make_call, call));
}

static inline int result_of(struct call *call)
{
	CHECK(!pthread_join(call->thread, NULL));
	return call->result;
}

#endif
