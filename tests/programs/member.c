// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A member of a domain that several programs share:
 *
 *     member serve NAME [ACCESS [plain]]
 *                                make the bus UID-NAME, open to `user`, `group` or `world`; print "ready"; answer each
 *                                request for org.example.Member with "UID PID" of its sender, as the metadata say;
 *                                on hang-up print "hang-up" and end. `plain`: ask for no metadata, answer "plain"
 *     member ask BUS [COUNT]     send COUNT requests to org.example.Member on BUS and print the last answer; if that
 *                                fails, print where and the name of the errno, and end with 3
 *     member hold BUS            connect to BUS, print "connected", and wait for the hang-up as `serve` does
 *     member block BUS           send a request whose answer never comes, after "asking" was printed; print the errno's
 *                                name
 *     member open FILE           after a line on stdin: open FILE for reading and writing, print "opened" or the errno
 *     member list                print the names below /sys/fs/kdbus, with uid and mode
 */
#define main unused_main
#include "e2e.h"
#undef main

#include <dirent.h>

#define SERVICE "org.example.Member"

static void say(const char *line)
{
	puts(line);
	fflush(stdout);
}

static int refused(const char *where, int result)
{
	printf("%s: %s\n", where, strerrorname_np(-result));
	return 3;
}

static void answer(const struct connection *service, const struct kdbus_msg *request)
{
	const struct kdbus_item *creds, *pids;
	char text[100] = "plain";

	if (find(request, KDBUS_ITEM_CREDS)) {
		creds = get(request, KDBUS_ITEM_CREDS);
		pids = get(request, KDBUS_ITEM_PIDS);
		snprintf(text, sizeof(text), "%u %llu", (unsigned int)creds->creds.euid,
			 (unsigned long long)pids->pids.pid);
	}
	/* The sender may have ended meanwhile. */
	SEND(service, .to = request->src_id, .reply_to = request->cookie, .payload = text, .size = strlen(text) + 1);
}

static int serve(const char *name, const char *access, bool plain)
{
	struct bus bus = { .fd = open_control() };
	struct connection holder, service;
	__u64 flags = !strcmp(access, "world") ? KDBUS_MAKE_ACCESS_WORLD :
		      !strcmp(access, "group") ? KDBUS_MAKE_ACCESS_GROUP : 0;

	EQ(try_bus(&bus, name, flags, 0, _KDBUS_ATTACH_ALL), 0);
	holder = special(bus.path, KDBUS_HELLO_POLICY_HOLDER, SERVICE, KDBUS_POLICY_TALK);
	service = hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, plain ? 0 : KDBUS_ATTACH_CREDS | KDBUS_ATTACH_PIDS);
	EQ(acquire(&service, SERVICE, 0), 0);
	say("ready");
	for (;;) {
		short events = wait_for(service.fd, POLLIN);
		struct kdbus_cmd_recv recv = {};
		const struct kdbus_msg *request;

		if (events & (POLLHUP | POLLERR)) {
			say("hang-up");
			CHECK(wait_for(holder.fd, POLLIN) & POLLHUP);
			return 0;
		}
		/* It may fail if the domain ends at this very moment; then there is a hang-up. */
		if (receive_into(&service, &recv))
			continue;
		request = (const void *)(service.pool + recv.msg.offset);
		if (request->flags & KDBUS_MSG_EXPECT_REPLY && !strcmp(text_of(&service, request), "name?"))
			answer(&service, request);
		release(&service, recv.msg.offset);
	}
}

static int send_request(const struct connection *client, const char *question, __u64 cookie, const char **text)
{
	struct kdbus_cmd_send command = {};
	int result = SEND(client, .name = SERVICE, .cookie = cookie, .flags = KDBUS_MSG_EXPECT_REPLY,
			  .deadline = in_ms(PATIENCE), .send_flags = KDBUS_SEND_SYNC_REPLY, .payload = question,
			  .size = strlen(question) + 1, .result = &command);

	if (!result) {
		*text = text_of(client, (const void *)(client->pool + command.reply.offset));
		EQ(release(client, command.reply.offset), 0);
	}
	return result;
}

static int connect_to(struct connection *client, const char *bus)
{
	struct buffer buffer;
	char path[200];

	snprintf(path, sizeof(path), ROOT "/%s/bus", bus);
	begin_hello(&buffer, 0);
	return try_hello(client, path, &buffer);
}

static int ask(const char *bus, int count)
{
	struct connection client;
	const char *text = "";
	int result = connect_to(&client, bus);

	if (result)
		return refused("connect", result);
	for (int i = 1; i <= count; i++) {
		result = send_request(&client, "name?", (__u64)i, &text);
		if (result)
			return refused("send", result);
	}
	say(text);
	return 0;
}

static int hold(const char *bus)
{
	struct connection client;
	int result = connect_to(&client, bus);

	if (result)
		return refused("connect", result);
	say("connected");
	CHECK(wait_for(client.fd, POLLHUP) & POLLHUP);
	say("hang-up");
	return 0;
}

static int block(const char *bus)
{
	struct connection client;
	const char *text;
	int result = connect_to(&client, bus);

	if (result)
		return refused("connect", result);
	say("asking");
	result = send_request(&client, "nothing", 1, &text);
	return refused("send", result);
}

static int open_later(const char *file)
{
	char line[16];
	int fd;

	say("waiting");
	CHECK(fgets(line, sizeof(line), stdin));
	fd = open(file, O_RDWR);
	if (fd < 0)
		return refused("open", -errno);
	say("opened");
	return 0;
}

static int list(void)
{
	struct dirent **entries;
	int count = scandir(ROOT, &entries, NULL, alphasort);

	CHECK(count >= 0);
	for (int i = 0; i < count; i++) {
		char path[600];
		struct stat status;

		if (entries[i]->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), ROOT "/%s", entries[i]->d_name);
		CHECK(!lstat(path, &status));
		printf("%s %u %o\n", entries[i]->d_name, status.st_uid, status.st_mode & 07777);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	const char *argument = argc > 2 ? argv[2] : "";

	if (!strcmp(what, "serve"))
		return serve(argument, argc > 3 ? argv[3] : "user", argc > 4);
	if (!strcmp(what, "ask"))
		return ask(argument, argc > 3 ? atoi(argv[3]) : 1);
	if (!strcmp(what, "hold"))
		return hold(argument);
	if (!strcmp(what, "block"))
		return block(argument);
	if (!strcmp(what, "open"))
		return open_later(argument);
	if (!strcmp(what, "list"))
		return list();
	(void)last_case_;
	return 2;
}
