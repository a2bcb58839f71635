// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Custom endpoints: further doors to a bus, with a policy of their own. Those who come through one are shown what the
 * policy grants and nothing else.
 */
#include "e2e.h"

#include <dirent.h>
#include <sys/inotify.h>

#define NAME "org.example.Shown"
#define HIDDEN "org.example.Hidden"

struct door {
	int fd;
	char path[256];
};

static void door_path(struct door *door, const struct bus *bus, const char *name)
{
	snprintf(door->path, sizeof(door->path), "%s/%u-%s", bus->folder, geteuid(), name);
}

/* ENDPOINT_MAKE of "<uid>-<name>" with an entry for everybody (unless `access` is negative) for `granted`. */
static int try_door(struct door *door, const struct bus *bus, const char *name, __u64 flags, const char *granted,
		    int access)
{
	struct buffer buffer;
	struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));

	door_path(door, bus, name);
	door->fd = open(bus->path, O_RDWR | O_CLOEXEC);
	CHECK(door->fd >= 0);
	make->flags = flags;
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, door->path + strlen(bus->folder) + 1);
	add_string(&buffer, KDBUS_ITEM_NAME, granted);
	if (granted && access >= 0)
		add_access(&buffer, KDBUS_POLICY_ACCESS_WORLD, (__u64)access, 0);
	return command(door->fd, KDBUS_CMD_ENDPOINT_MAKE, make);
}

static struct door new_door(const struct bus *bus, const char *granted, int access)
{
	struct door door;

	EQ(try_door(&door, bus, "door", 0, granted, access), 0);
	return door;
}

/* ENDPOINT_UPDATE: everybody may do `access` to `granted`; nobody anything without. */
static int update_door(const struct door *door, const char *granted, int access)
{
	struct buffer buffer;
	struct kdbus_cmd_update *update = begin(&buffer, sizeof(*update));

	add_string(&buffer, KDBUS_ITEM_NAME, granted);
	if (granted)
		add_access(&buffer, KDBUS_POLICY_ACCESS_WORLD, (__u64)access, 0);
	return command(door->fd, KDBUS_CMD_ENDPOINT_UPDATE, update);
}

static int knows(const struct connection *connection, __u64 id, const char *name)
{
	struct buffer buffer;
	struct kdbus_cmd_info *info = begin(&buffer, sizeof(*info));
	int result;

	info->id = id;
	add_string(&buffer, KDBUS_ITEM_NAME, name);
	result = command(connection->fd, KDBUS_CMD_CONN_INFO, info);
	if (!result)
		EQ(release(connection, info->offset), 0);
	return result;
}

CASE(the_node)
{
	struct bus bus = new_bus(0);
	struct { __u64 flags; mode_t mode; } kinds[] = {
		{ 0, 0600 }, { KDBUS_MAKE_ACCESS_GROUP, 0660 }, { KDBUS_MAKE_ACCESS_WORLD, 0666 },
		{ KDBUS_MAKE_ACCESS_GROUP | KDBUS_MAKE_ACCESS_WORLD, 0666 },
	};

	for (size_t i = 0; i < 4; i++) {
		struct door door;
		struct stat status;

		EQ(try_door(&door, &bus, "door", kinds[i].flags, NULL, 0), 0);
		CHECK(!stat(door.path, &status));
		EQ(status.st_mode, S_IFREG | kinds[i].mode);
		EQ(status.st_uid, geteuid());
		EQ(status.st_gid, getegid());
		CHECK(!close(door.fd));
		/* The last close takes the node away; the next call of ours sees that. */
		EQ(open(door.path, O_RDWR), -1);
		EQ(errno, ENOENT);
		EQ(stat(door.path, &status), -1);
	}
}

CASE(the_nodes_of_a_bus)
{
	struct { __u64 flags; mode_t folder, node; } kinds[] = {
		{ 0, 0500, 0600 }, { KDBUS_MAKE_ACCESS_GROUP, 0550, 0660 }, { KDBUS_MAKE_ACCESS_WORLD, 0555, 0666 },
	};

	for (size_t i = 0; i < 3; i++) {
		struct bus bus = new_bus(kinds[i].flags);
		struct dirent *entry;
		struct stat status;
		DIR *folder;
		int entries = 0;

		CHECK(!stat(bus.folder, &status));
		EQ(status.st_mode, S_IFDIR | kinds[i].folder);
		CHECK(!stat(bus.path, &status));
		EQ(status.st_mode, S_IFREG | kinds[i].node);
		CHECK((folder = opendir(bus.folder)));
		while ((entry = readdir(folder)))
			if (entry->d_name[0] != '.') {
				SAME(entry->d_name, "bus");
				EQ(entry->d_type, DT_REG);
				entries++;
			}
		EQ(entries, 1);
		CHECK(!closedir(folder));
		CHECK(!close(bus.fd));
		EQ(open(bus.path, O_RDWR), -1);
		EQ(errno, ENOENT);
		EQ(stat(bus.folder, &status), -1);
	}
}

CASE(names_of_endpoints)
{
	struct bus bus = new_bus(0);
	struct door door, other;
	struct buffer buffer;
	struct kdbus_cmd_make *make;
	int fd = open(bus.path, O_RDWR | O_CLOEXEC);

	EQ(try_door(&door, &bus, "door", 0, NULL, 0), 0);
	EQ(try_door(&other, &bus, "door", 0, NULL, 0), -EEXIST);
	/* The handle of the one that failed is still good for another try. */
	make = begin(&buffer, sizeof(*make));
	EQ(command(fd, KDBUS_CMD_ENDPOINT_MAKE, make), -EBADMSG);
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, "bus");
	EQ(command(fd, KDBUS_CMD_ENDPOINT_MAKE, make), -EINVAL);
	begin(&buffer, sizeof(*make));
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, "4294967-door");
	EQ(command(fd, KDBUS_CMD_ENDPOINT_MAKE, make), -EINVAL);
	begin(&buffer, sizeof(*make));
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, "0-with/slash");
	EQ(command(fd, KDBUS_CMD_ENDPOINT_MAKE, make), -EINVAL);
	begin(&buffer, sizeof(*make));
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, strrchr(door.path, '/') + 1);
	add_string(&buffer, KDBUS_ITEM_MAKE_NAME, strrchr(door.path, '/') + 1);
	EQ(command(fd, KDBUS_CMD_ENDPOINT_MAKE, make), -EEXIST);
	begin(&buffer, sizeof(*make));
	add(&buffer, KDBUS_ITEM_MAKE_NAME, NULL, 65);
	EQ(command(fd, KDBUS_CMD_ENDPOINT_MAKE, make), -ENAMETOOLONG);
	begin(&buffer, sizeof(*make));
	make->flags = 4;
	EQ(command(fd, KDBUS_CMD_ENDPOINT_MAKE, make), -EINVAL);
	EQ(make->kernel_flags, KDBUS_MAKE_ACCESS_GROUP | KDBUS_MAKE_ACCESS_WORLD | KDBUS_FLAG_KERNEL);
}

CASE(a_handle_is_one_thing_for_good)
{
	struct bus bus = new_bus(0);
	struct door door = new_door(&bus, NULL, 0);
	struct connection peer = hello(bus.path);
	struct buffer buffer;

	begin_hello(&buffer, 0);
	EQ(command(door.fd, KDBUS_CMD_HELLO, buffer.words), -ENOTTY);
	EQ(command(door.fd, KDBUS_CMD_ENDPOINT_MAKE, buffer.words), -ENOTTY);
	EQ(command(door.fd, KDBUS_CMD_BYEBYE, NULL), -ENOTTY);
	EQ(command(peer.fd, KDBUS_CMD_HELLO, buffer.words), -ENOTTY);
	EQ(command(peer.fd, KDBUS_CMD_ENDPOINT_UPDATE, buffer.words), -ENOTTY);
	EQ(command(bus.fd, KDBUS_CMD_HELLO, buffer.words), -ENOTTY);
	EQ(mmap(NULL, 4096, PROT_READ, MAP_SHARED, door.fd, 0) == MAP_FAILED ? errno : 0, EPERM);
}

CASE(nobody_makes_doors_from_inside)
{
	struct bus bus = new_bus(0);
	struct door door = new_door(&bus, NAME, KDBUS_POLICY_OWN);
	struct buffer buffer;
	struct kdbus_cmd_make *make = begin(&buffer, sizeof(*make));
	int fd = open(door.path, O_RDWR | O_CLOEXEC);
	struct connection refused;

	/* Nobody is privileged on a custom endpoint, whoever it is. */
	CHECK(fd >= 0);
	EQ(command(fd, KDBUS_CMD_ENDPOINT_MAKE, make), -EPERM);
	EQ(try_special(&refused, door.path, KDBUS_HELLO_ACTIVATOR, NAME, -1), -EPERM);
	EQ(try_special(&refused, door.path, KDBUS_HELLO_POLICY_HOLDER, NAME, -1), -EPERM);
	EQ(try_special(&refused, door.path, KDBUS_HELLO_MONITOR, NULL, -1), -EOPNOTSUPP);
}

CASE(seeing_names)
{
	struct bus bus = new_bus(0);
	struct door door = new_door(&bus, NULL, 0);
	struct connection service = hello(bus.path), guest = hello(door.path);

	EQ(acquire(&service, NAME, 0), 0);
	EQ(acquire(&service, HIDDEN, 0), 0);
	EQ(knows(&guest, 0, NAME), -ESRCH);
	EQ(knows(&guest, service.id, NULL), -ENXIO);
	EQ(knows(&guest, guest.id, NULL), -ENXIO);
	EQ(listed(&guest, KDBUS_NAME_LIST_NAMES, 0, NULL), 0);
	/* A list entry without a name is shown to all. */
	EQ(listed(&guest, KDBUS_NAME_LIST_UNIQUE, 0, ""), 2);
	EQ(update_door(&door, NAME, KDBUS_POLICY_SEE), 0);
	EQ(knows(&guest, 0, NAME), 0);
	EQ(knows(&guest, 0, HIDDEN), -ESRCH);
	EQ(knows(&guest, service.id, NULL), 0);
	EQ(listed(&guest, KDBUS_NAME_LIST_NAMES, 0, NULL), 1);
	EQ(listed(&guest, KDBUS_NAME_LIST_NAMES, service.id, NAME), 1);
	EQ(SEND(&guest, .name = NAME), -EPERM);
	EQ(SEND(&guest, .to = service.id), -EPERM);
	EQ(release_name(&service, NAME), 0);
	EQ(knows(&guest, service.id, NULL), -ENXIO);
}

CASE(talking)
{
	struct bus bus = new_bus(0);
	struct door door = new_door(&bus, NAME, KDBUS_POLICY_TALK);
	struct connection service = hello(bus.path), guest = hello(door.path);

	EQ(acquire(&service, HIDDEN, 0), 0);
	EQ(SEND(&guest, .to = service.id), -EPERM);
	EQ(SEND(&guest, .name = HIDDEN), -EPERM);
	EQ(SEND(&guest, .name = NAME), -ESRCH);
	EQ(acquire(&service, NAME, 0), 0);
	EQ(SEND(&guest, .to = service.id, .cookie = 1), 0);
	EQ(SEND(&guest, .name = NAME, .cookie = 2), 0);
	/* The connection has the granted name, so any of its names will do. */
	EQ(SEND(&guest, .name = HIDDEN, .cookie = 3), 0);
	EQ(SEND(&guest, .name = NAME, .cookie = 4, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), 0);
	for (__u64 cookie = 1; cookie <= 4; cookie++)
		EQ(receive(&service)->cookie, cookie);
	EQ(SEND(&service, .to = guest.id, .reply_to = 4), 0);
	EQ(receive(&guest)->cookie_reply, 4);
	/* Nobody needs the endpoint's leave to talk to those behind it. */
	EQ(SEND(&service, .to = guest.id), 0);
	EQ(update_door(&door, NULL, 0), 0);
	EQ(SEND(&guest, .name = NAME), -EPERM);
}

CASE(owning)
{
	struct bus bus = new_bus(0);
	struct door door = new_door(&bus, NAME, KDBUS_POLICY_TALK);
	struct connection guest = hello(door.path);
	struct connection holder;

	EQ(acquire(&guest, NAME, 0), -EPERM);
	EQ(update_door(&door, NAME, KDBUS_POLICY_OWN), 0);
	/* The endpoint's policy is not enough: on it nobody is privileged, and the bus has to grant it, too. */
	EQ(acquire(&guest, NAME, 0), -EPERM);
	holder = special(bus.path, KDBUS_HELLO_POLICY_HOLDER, NAME, KDBUS_POLICY_OWN);
	EQ(acquire(&guest, HIDDEN, 0), -EPERM);
	EQ(acquire(&guest, NAME, 0), 0);
	/* What it owns it keeps. */
	EQ(update_door(&door, NULL, 0), 0);
	EQ(close(holder.fd), 0);
	EQ(release_name(&guest, NAME), 0);
	EQ(acquire(&guest, NAME, 0), -EPERM);
}

CASE(bad_policies)
{
	struct bus bus = new_bus(0);
	struct door door = new_door(&bus, NAME, KDBUS_POLICY_SEE), other;
	struct connection service = hello(bus.path), guest = hello(door.path);
	struct buffer buffer;
	struct kdbus_cmd_update *update = begin(&buffer, sizeof(*update));

	EQ(acquire(&service, NAME, 0), 0);
	add_access(&buffer, KDBUS_POLICY_ACCESS_WORLD, KDBUS_POLICY_SEE, 0);
	EQ(command(door.fd, KDBUS_CMD_ENDPOINT_UPDATE, update), -EINVAL);
	begin(&buffer, sizeof(*update));
	add_string(&buffer, KDBUS_ITEM_NAME, NAME);
	add_string(&buffer, KDBUS_ITEM_NAME, NAME);
	EQ(command(door.fd, KDBUS_CMD_ENDPOINT_UPDATE, update), -EEXIST);
	begin(&buffer, sizeof(*update));
	add_string(&buffer, KDBUS_ITEM_NAME, "nodots");
	EQ(command(door.fd, KDBUS_CMD_ENDPOINT_UPDATE, update), -EINVAL);
	EQ(update_door(&door, NAME, 3), -EINVAL);
	begin(&buffer, sizeof(*update));
	add_string(&buffer, KDBUS_ITEM_NAME, NAME);
	add_access(&buffer, 0, KDBUS_POLICY_SEE, 0);
	EQ(command(door.fd, KDBUS_CMD_ENDPOINT_UPDATE, update), -EINVAL);
	begin(&buffer, sizeof(*update));
	update->flags = 1;
	EQ(command(door.fd, KDBUS_CMD_ENDPOINT_UPDATE, update), -EINVAL);
	EQ(update->kernel_flags, KDBUS_FLAG_KERNEL);
	/* None of that has changed anything. */
	EQ(knows(&guest, 0, NAME), 0);
	EQ(try_door(&other, &bus, "other", 0, "nodots", 0), -EINVAL);
	EQ(open(other.path, O_RDWR), -1);
	EQ(errno, ENOENT);
	/* Many names in one command are fine. */
	begin(&buffer, sizeof(*update));
	update->flags = 0;
	for (int i = 0; i < 100; i++) {
		char name[32];

		snprintf(name, sizeof(name), "org.example.n%d", i);
		add_string(&buffer, KDBUS_ITEM_NAME, name);
		add_access(&buffer, KDBUS_POLICY_ACCESS_USER, KDBUS_POLICY_OWN, geteuid());
		add_access(&buffer, KDBUS_POLICY_ACCESS_GROUP, KDBUS_POLICY_TALK, getegid());
	}
	update->flags = 0;
	EQ(command(door.fd, KDBUS_CMD_ENDPOINT_UPDATE, update), 0);
	EQ(knows(&guest, 0, NAME), -ESRCH);
}

CASE(notifications_are_filtered)
{
	struct bus bus = new_bus(0);
	struct door door = new_door(&bus, NAME, KDBUS_POLICY_SEE);
	struct connection guest = hello(door.path), service = hello(bus.path), other;
	const struct kdbus_msg *message;

	EQ(match_name(&guest, 1, KDBUS_ITEM_NAME_ADD, KDBUS_MATCH_ID_ANY, KDBUS_MATCH_ID_ANY, NULL), 0);
	EQ(match_name(&guest, 1, KDBUS_ITEM_NAME_REMOVE, KDBUS_MATCH_ID_ANY, KDBUS_MATCH_ID_ANY, NULL), 0);
	EQ(match_id(&guest, 1, KDBUS_ITEM_ID_ADD, KDBUS_MATCH_ID_ANY), 0);
	EQ(match_id(&guest, 1, KDBUS_ITEM_ID_REMOVE, KDBUS_MATCH_ID_ANY), 0);
	EQ(acquire(&service, HIDDEN, 0), 0);
	other = hello(bus.path);
	EQ(byebye(&other), 0);
	EQ(receive_code(&guest, 0), -EAGAIN);
	EQ(acquire(&service, NAME, 0), 0);
	message = receive(&guest);
	SAME(get(message, KDBUS_ITEM_NAME_ADD)->name_change.name, NAME);
	EQ(release_name(&service, HIDDEN), 0);
	EQ(release_name(&service, NAME), 0);
	message = receive(&guest);
	SAME(get(message, KDBUS_ITEM_NAME_REMOVE)->name_change.name, NAME);
	EQ(receive_code(&guest, 0), -EAGAIN);
}

CASE(broadcasts_are_filtered)
{
	struct bus bus = new_bus(0);
	struct door door = new_door(&bus, NAME, KDBUS_POLICY_TALK);
	struct connection guest = hello(door.path), service = hello(bus.path);

	/* A receiver gets the broadcasts of those to whom it may talk. */
	EQ(match_everything(&guest), 0);
	EQ(SEND(&service, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL, .cookie = 1), 0);
	EQ(receive_code(&guest, 0), -EAGAIN);
	EQ(SEND(&service, .to = guest.id, .flags = KDBUS_MSG_SIGNAL), -EPERM);
	EQ(acquire(&service, NAME, 0), 0);
	EQ(SEND(&service, .to = KDBUS_DST_ID_BROADCAST, .flags = KDBUS_MSG_SIGNAL, .cookie = 2), 0);
	EQ(receive(&guest)->cookie, 2);
	EQ(SEND(&service, .to = guest.id, .flags = KDBUS_MSG_SIGNAL, .cookie = 3), 0);
	EQ(receive(&guest)->cookie, 3);
}

CASE(its_end_disconnects_those_who_came_through)
{
	struct bus bus = new_bus(0);
	struct door door = new_door(&bus, NULL, 0);
	struct connection guest = hello(door.path), peer = hello(bus.path);
	int duplicate = dup(door.fd), waiting = open(door.path, O_RDWR | O_CLOEXEC);
	struct buffer buffer;

	EQ(match_id(&peer, 1, KDBUS_ITEM_ID_REMOVE, guest.id), 0);
	CHECK(!close(door.fd));
	EQ(receive_code(&guest, 0), -EAGAIN);
	CHECK(!close(duplicate));
	EQ(wait_for(guest.fd, POLLIN) & (POLLHUP | POLLERR), POLLHUP | POLLERR);
	EQ(receive_code(&guest, 0), -ECONNRESET);
	EQ(byebye(&guest), -EALREADY);
	EQ(get(await_message(&peer), KDBUS_ITEM_ID_REMOVE)->id_change.id, guest.id);
	begin_hello(&buffer, 0);
	EQ(command(waiting, KDBUS_CMD_HELLO, buffer.words), -ESHUTDOWN);
	EQ(receive_code(&peer, 0), -EAGAIN);
}

CASE(the_end_of_the_bus_ends_everything)
{
	struct bus bus = new_bus(0);
	struct door door = new_door(&bus, NULL, 0);
	struct connection guest = hello(door.path), peer = hello(bus.path);
	int handle = open(bus.path, O_RDWR | O_CLOEXEC);
	struct buffer buffer;

	CHECK(!close(bus.fd));
	EQ(wait_for(guest.fd, POLLIN) & (POLLHUP | POLLERR), POLLHUP | POLLERR);
	EQ(wait_for(peer.fd, POLLIN) & (POLLHUP | POLLERR), POLLHUP | POLLERR);
	EQ(receive_code(&peer, 0), -ECONNRESET);
	begin_hello(&buffer, 0);
	EQ(command(handle, KDBUS_CMD_HELLO, buffer.words), -ESHUTDOWN);
	EQ(open(door.path, O_RDWR), -1);
	EQ(errno, ENOENT);
	/* What is in the pool stays readable. */
	EQ(((const struct kdbus_item_list *)(peer.pool + peer.hello.offset))->items[0].type, KDBUS_ITEM_BLOOM_PARAMETER);
}

CASE(inotify_sees_the_nodes)
{
	struct bus bus = new_bus(0);
	char events[4096];
	struct inotify_event *event = (void *)events;
	int watch = inotify_init1(IN_CLOEXEC);
	struct door door;

	CHECK(inotify_add_watch(watch, bus.folder, IN_CREATE | IN_MOVED_TO | IN_DELETE) >= 0);
	door = new_door(&bus, NULL, 0);
	wait_for(watch, POLLIN);
	GE(read(watch, events, sizeof(events)), sizeof(*event));
	SAME(event->name, strrchr(door.path, '/') + 1);
	CHECK(!close(door.fd));
	wait_for(watch, POLLIN);
	GE(read(watch, events, sizeof(events)), sizeof(*event));
	EQ(event->mask & IN_DELETE, IN_DELETE);
}

ROOT_CASE(who_may_open_nodes)
{
	struct bus closed = { .fd = open_control() }, group = { .fd = open_control() }, world = { .fd = open_control() };
	struct door door;

	EQ(try_bus(&closed, "closed", 0, 0, 0), 0);
	CHECK(!setegid(SOMEBODY));
	EQ(try_bus(&group, "group", KDBUS_MAKE_ACCESS_GROUP, 0, 0), 0);
	CHECK(!setegid(0));
	EQ(try_bus(&world, "world", KDBUS_MAKE_ACCESS_WORLD, 0, 0), 0);
	EQ(try_door(&door, &world, "door", 0, NULL, 0), 0);
	AS(NOBODY) {
		int control = open(ROOT "/control", O_RDWR);

		CHECK(control >= 0);
		EQ(open(closed.path, O_RDWR), -1);
		EQ(errno, EACCES);
		EQ(open(group.path, O_RDWR), -1);
		EQ(errno, EACCES);
		CHECK(open(world.path, O_RDWR) >= 0);
		EQ(open(door.path, O_RDWR), -1);
		EQ(errno, EACCES);
	}
	IN_CHILD {
		become(NOBODY, SOMEBODY);
		CHECK(open(group.path, O_RDWR) >= 0);
		EQ(open(closed.path, O_RDWR), -1);
		EQ(errno, EACCES);
	}
}

ROOT_CASE(others_make_no_endpoints)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);

	AS(NOBODY) {
		struct door door;

		EQ(try_door(&door, &bus, "door", 0, NULL, 0), -EPERM);
	}
	/* But the uid that made the bus may, and the name begins with the effective uid. */
	AS(NOBODY) {
		struct bus own = new_bus(0);
		struct door door;

		EQ(try_door(&door, &own, "door", 0, NULL, 0), 0);
	}
}

ROOT_CASE(policy_by_user_and_group)
{
	struct bus bus = new_bus(KDBUS_MAKE_ACCESS_WORLD);
	struct buffer buffer;
	struct kdbus_cmd_update *update = begin(&buffer, sizeof(*update));
	struct connection service = hello(bus.path);
	struct door door;

	EQ(try_door(&door, &bus, "door", KDBUS_MAKE_ACCESS_WORLD, NULL, 0), 0);
	EQ(acquire(&service, NAME, 0), 0);
	EQ(acquire(&service, HIDDEN, 0), 0);
	add_string(&buffer, KDBUS_ITEM_NAME, NAME);
	add_access(&buffer, KDBUS_POLICY_ACCESS_USER, KDBUS_POLICY_SEE, NOBODY);
	add_string(&buffer, KDBUS_ITEM_NAME, HIDDEN);
	add_access(&buffer, KDBUS_POLICY_ACCESS_GROUP, KDBUS_POLICY_SEE, SOMEBODY);
	EQ(command(door.fd, KDBUS_CMD_ENDPOINT_UPDATE, update), 0);
	AS(NOBODY) {
		struct connection guest = hello(door.path);

		EQ(knows(&guest, 0, NAME), 0);
		EQ(knows(&guest, 0, HIDDEN), -ESRCH);
	}
	AS(SOMEBODY) {
		struct connection guest = hello(door.path);

		EQ(knows(&guest, 0, NAME), -ESRCH);
		EQ(knows(&guest, 0, HIDDEN), 0);
	}
	IN_CHILD {
		struct connection guest;

		CHECK(!setgroups(1, &(gid_t) { SOMEBODY }));
		CHECK(!setresgid(7, 7, 7));
		CHECK(!setresuid(7, 7, 7));
		guest = hello(door.path);
		EQ(knows(&guest, 0, NAME), -ESRCH);
		EQ(knows(&guest, 0, HIDDEN), 0);
	}
	/* Even root. */
	IN_CHILD {
		struct connection guest = hello(door.path);

		EQ(knows(&guest, 0, NAME), -ESRCH);
	}
}
