// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Calls that name a path at or below /sys/fs/kdbus, in all the ways in which a path can: they have to say the same in
 * path mode, where the supervisor answers them, as in mount mode, where the kernel does.
 */
#include "e2e.h"

#include <dirent.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define CONTROL ROOT "/control"
#ifndef SYS_newfstatat
#define SYS_newfstatat SYS_fstatat64
#endif

#define MASK "/sys/module/kdbus/parameters/attach_flags_mask"

/* What a call returned, or the negative errno. */
#define OUTCOME(call) ({ long long result_ = (call); result_ < 0 ? -errno : result_; })

static struct stat status_of(const char *path)
{
	struct stat status;

	memset(&status, 0xa5, sizeof(status));
	EQ(stat(path, &status), 0);
	return status;
}

static void is_same(const struct stat *left, const struct stat *right)
{
	EQ(left->st_dev, right->st_dev);
	EQ(left->st_ino, right->st_ino);
	EQ(left->st_mode, right->st_mode);
	EQ(left->st_nlink, right->st_nlink);
	EQ(left->st_uid, right->st_uid);
	EQ(left->st_gid, right->st_gid);
	EQ(left->st_size, right->st_size);
	EQ(left->st_blksize, right->st_blksize);
	EQ(left->st_blocks, right->st_blocks);
	EQ(left->st_mtim.tv_sec, right->st_mtim.tv_sec);
	EQ(left->st_mtim.tv_nsec, right->st_mtim.tv_nsec);
	EQ(left->st_ctim.tv_nsec, right->st_ctim.tv_nsec);
}

static int open_folder(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	CHECK(fd >= 0);
	return fd;
}

/* Only a handle of the control node knows this command: it finds that the name is missing. */
static void is_control(int fd)
{
	struct buffer buffer;

	CHECK(fd >= 0);
	EQ(command(fd, KDBUS_CMD_BUS_MAKE, begin(&buffer, sizeof(struct kdbus_cmd_make))), -EBADMSG);
	close(fd);
}

static char link_path[] = "/tmp/kdbus-link-XXXXXX";

static void make_link(const char *target)
{
	strcpy(link_path, "/tmp/kdbus-link-XXXXXX");
	CHECK(mkdtemp(link_path));
	EQ(rmdir(link_path), 0);
	EQ(symlink(target, link_path), 0);
}

CASE(status_by_every_call)
{
	struct bus bus = new_bus(0);
	struct stat by_path = status_of(bus.path), other, opened;
	struct statx extended;
	int folder = open_folder(ROOT), fd;

	EQ(by_path.st_uid, geteuid());
	CHECK(S_ISREG(by_path.st_mode));
	EQ(by_path.st_mode & 0777, 0600);
	EQ(lstat(bus.path, &other), 0);
	is_same(&by_path, &other);
	EQ(fstatat(AT_FDCWD, bus.path, &other, AT_SYMLINK_NOFOLLOW), 0);
	is_same(&by_path, &other);
	EQ(fstatat(folder, bus.path + strlen(ROOT) + 1, &other, 0), 0);
	is_same(&by_path, &other);
	EQ(statx(AT_FDCWD, bus.path, AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS, &extended), 0);
	EQ(extended.stx_ino, by_path.st_ino);
	EQ(extended.stx_mode, by_path.st_mode);
	EQ(extended.stx_uid, by_path.st_uid);
	EQ(extended.stx_mtime.tv_nsec, by_path.st_mtim.tv_nsec);
	EQ(makedev(extended.stx_dev_major, extended.stx_dev_minor), by_path.st_dev);
	fd = open(bus.path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	EQ(fstat(fd, &opened), 0);
	is_same(&by_path, &opened);
	other = status_of(ROOT);
	CHECK(S_ISDIR(other.st_mode));
	EQ(other.st_mode & 0777, 0555);
}

CASE(what_is_not_there)
{
	struct stat status;
	char text[64];

	EQ(OUTCOME(stat(ROOT "/absent", &status)), -ENOENT);
	EQ(OUTCOME(stat(ROOT "/absent/bus", &status)), -ENOENT);
	EQ(OUTCOME(stat(CONTROL "/below", &status)), -ENOTDIR);
	EQ(OUTCOME(stat(CONTROL "/", &status)), -ENOTDIR);
	EQ(OUTCOME(open(ROOT "/absent", O_RDWR)), -ENOENT);
	EQ(OUTCOME(open(CONTROL, O_RDONLY | O_DIRECTORY)), -ENOTDIR);
	EQ(OUTCOME(open(ROOT, O_RDWR)), -EISDIR);
	EQ(OUTCOME(open(CONTROL, O_RDWR | O_CREAT | O_EXCL, 0600)), -EEXIST);
	EQ(OUTCOME(access(ROOT "/absent", F_OK)), -ENOENT);
	EQ(OUTCOME(readlink(ROOT "/absent", text, sizeof(text))), -ENOENT);
	EQ(OUTCOME(readlink(CONTROL, text, sizeof(text))), -EINVAL);
	EQ(OUTCOME(chdir(ROOT "/absent")), -ENOENT);
	EQ(OUTCOME(chdir(CONTROL)), -ENOTDIR);
	EQ(OUTCOME(stat("/sys/fs/kdbusx", &status)), -ENOENT);
	EQ(OUTCOME(stat("/sys/kdbus", &status)), -ENOENT);
}

CASE(bad_addresses)
{
	EQ(OUTCOME(syscall(SYS_newfstatat, AT_FDCWD, CONTROL, (void *)16, 0)), -EFAULT);
	EQ(OUTCOME(syscall(SYS_openat, AT_FDCWD, (void *)16, O_RDWR)), -EFAULT);
	EQ(OUTCOME(syscall(SYS_chdir, (void *)16)), -EFAULT);
}

CASE(opened_in_every_way)
{
	struct open_how { __u64 flags, mode, resolve; } how = { .flags = O_RDWR | O_CLOEXEC };
	int folder = open_folder(ROOT), sys = open_folder("/sys"), fd;

	is_control(open(CONTROL, O_RDWR | O_CLOEXEC));
	is_control(openat(folder, "control", O_RDWR | O_CLOEXEC));
	is_control(openat(folder, "../kdbus/control", O_RDWR | O_CLOEXEC));
	is_control(openat(sys, "fs/kdbus/control", O_RDWR | O_CLOEXEC));
	is_control(openat(sys, "../sys/fs/../fs/kdbus/./control", O_RDWR | O_CLOEXEC));
	is_control(syscall(SYS_openat2, AT_FDCWD, CONTROL, &how, sizeof(how)));
	is_control(open("//sys//fs/kdbus///control", O_RDWR | O_CLOEXEC));
	EQ(OUTCOME(openat(sys, CONTROL, O_RDWR | O_PATH | O_DIRECTORY)), -ENOTDIR);
	fd = openat(-1, CONTROL, O_RDWR | O_NONBLOCK);
	CHECK(fd >= 0);
	CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
	CHECK(!(fcntl(fd, F_GETFD) & FD_CLOEXEC));
	close(fd);
	fd = open(CONTROL, O_RDWR | O_CLOEXEC);
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

CASE(opened_as_a_path)
{
	struct stat by_path = status_of(ROOT), other;
	int fd = open(ROOT, O_PATH | O_CLOEXEC), below;

	CHECK(fd >= 0);
	CHECK(fcntl(fd, F_GETFL) & O_PATH);
	EQ(fstat(fd, &other), 0);
	is_same(&by_path, &other);
	is_control(openat(fd, "control", O_RDWR));
	below = openat(fd, "control", O_PATH);
	CHECK(below >= 0);
	EQ(command(below, KDBUS_CMD_BUS_MAKE, NULL), -EBADF);
}

/* Where a path starts. */
enum start { NOWHERE, AT_TOP, AT_SYS, AT_SYS_FS, AT_FOLDER, AT_BUS, STARTS };

static const char *const starts[STARTS] = { NULL, "/", "/sys", "/sys/fs", ROOT, NULL };

#define NO_XDEV 1
#define NO_MAGIC 2
#define NO_LINKS 4
#define BENEATH 8
#define IN_ROOT 16

/* Forms of paths; what comes of each is the kernel's word, as it says it in mount mode. 0: the control node. */
static const struct { enum start from; const char *path; __u64 resolve; int outcome; } forms[] = {
	{ NOWHERE, "/proc/self/root" CONTROL, 0, 0 },
	{ NOWHERE, "/proc/thread-self/root" CONTROL, 0, 0 },
	{ NOWHERE, "/proc/self/task/%t/root" CONTROL, 0, 0 },
	{ NOWHERE, "/proc/%p/root" CONTROL, 0, 0 },
	{ NOWHERE, "/proc/1/../self/root" CONTROL, 0, 0 },
	{ NOWHERE, "/proc/self/../../sys/fs/kdbus/control", 0, 0 },
	{ NOWHERE, "/proc/self/root/proc/self/root" CONTROL, 0, 0 },
	{ NOWHERE, "/proc/self/root/sys/fs/kdbus/absent", 0, -ENOENT },
	{ NOWHERE, "/proc/self/root/sys/fs/kdbus/control/", 0, -ENOTDIR },
	{ AT_TOP, "proc/self/root/sys/fs/kdbus/control", 0, 0 },
	{ NOWHERE, "/proc/self/fd/%d/control", 0, 0 },
	{ NOWHERE, "/dev/fd/%d/control", 0, 0 },
	{ NOWHERE, "/proc/self/fd/%d/../kdbus/control", 0, 0 },
	{ NOWHERE, "/proc/self/fd/%d/absent", 0, -ENOENT },
	{ NOWHERE, "/proc/self/fd/%d/control/x", 0, -ENOTDIR },
	{ NOWHERE, "/proc/self/cwd/fs/kdbus/control", 0, 0 },
	{ NOWHERE, "/proc/self/root" CONTROL, NO_MAGIC, -ELOOP },
	{ NOWHERE, "/proc/self/root" CONTROL, NO_LINKS, -ELOOP },
	{ NOWHERE, "/proc/self/root" CONTROL, BENEATH, -EXDEV },
	{ NOWHERE, CONTROL, NO_XDEV, -EXDEV },
	{ NOWHERE, CONTROL, NO_MAGIC, 0 },
	{ NOWHERE, CONTROL, NO_LINKS, 0 },
	{ NOWHERE, CONTROL, BENEATH, -EXDEV },
	{ NOWHERE, "/sys/fs/kdbus/absent", NO_LINKS, -ENOENT },
	{ AT_SYS_FS, "kdbus/control", 0, 0 },
	{ AT_SYS_FS, "kdbus/control", NO_XDEV, -EXDEV },
	{ AT_SYS_FS, "kdbus", NO_XDEV, -EXDEV },
	{ AT_SYS_FS, "kdbus/control", BENEATH, 0 },
	{ AT_SYS_FS, "kdbus/control", IN_ROOT, 0 },
	{ AT_SYS_FS, "kdbus/control", NO_LINKS, 0 },
	{ AT_SYS_FS, "kdbus/../../fs/kdbus/control", BENEATH, -EXDEV },
	{ AT_SYS_FS, "kdbus/../kdbus/control", BENEATH, 0 },
	{ AT_SYS_FS, "/kdbus/control", IN_ROOT, 0 },
	{ AT_SYS_FS, "../../kdbus/control", IN_ROOT, 0 },
	{ AT_SYS_FS, "/sys/fs/kdbus/control", IN_ROOT, -ENOENT },
	{ AT_SYS, "fs/kdbus/control", BENEATH, 0 },
	{ AT_SYS, "fs/kdbus/../../../sys/fs/kdbus/control", BENEATH, -EXDEV },
	{ AT_SYS, "/fs/kdbus/control", IN_ROOT, 0 },
	{ AT_SYS, "/fs/kdbus/../../../fs/kdbus/control", IN_ROOT, 0 },
	{ AT_SYS, "fs/kdbus/control", IN_ROOT | NO_LINKS, 0 },
	{ AT_TOP, "sys/fs/kdbus/control", BENEATH, 0 },
	{ AT_TOP, "sys/fs/kdbus/control", NO_XDEV, -EXDEV },
	{ AT_FOLDER, "control", NO_XDEV, 0 },
	{ AT_FOLDER, "control", BENEATH, 0 },
	{ AT_FOLDER, "control", IN_ROOT, 0 },
	{ AT_FOLDER, "/control", IN_ROOT, 0 },
	{ AT_FOLDER, "../../control", IN_ROOT, 0 },
	{ AT_FOLDER, "../kdbus/control", 0, 0 },
	{ AT_FOLDER, "../kdbus/control", BENEATH, -EXDEV },
	{ AT_FOLDER, "../kdbus/control", NO_XDEV, -EXDEV },
	{ AT_FOLDER, "..", NO_XDEV, -EXDEV },
	{ AT_FOLDER, "%b/../control", NO_XDEV, 0 },
	{ AT_FOLDER, "%b/../control", BENEATH, 0 },
	{ AT_FOLDER, "%b/../../kdbus/control", BENEATH, -EXDEV },
	{ AT_FOLDER, CONTROL, BENEATH, -EXDEV },
	{ AT_FOLDER, "absent", BENEATH, -ENOENT },
	{ AT_BUS, "../control", 0, 0 },
	{ AT_BUS, "../control", NO_XDEV, 0 },
	{ AT_BUS, "../control", BENEATH, -EXDEV },
	{ AT_BUS, "../control", IN_ROOT, -ENOENT },
	{ NOWHERE, "/sys/fs/kdbus/%b/../control", 0, 0 },
	{ NOWHERE, "/sys/fs/kdbus/./%b/./../control", 0, 0 },
	{ NOWHERE, CONTROL "/", 0, -ENOTDIR },
	{ NOWHERE, CONTROL "/.", 0, -ENOTDIR },
	{ NOWHERE, CONTROL "/..", 0, -ENOTDIR },
	{ NOWHERE, "/sys/fs/kdbus/%b/absent", 0, -ENOENT },
	{ NOWHERE, "/sys/fs/kdbus/%l", 0, -ENAMETOOLONG },
	{ NOWHERE, "/sys/fs/kdbus/%l/control", 0, -ENAMETOOLONG },
};

/* The path of a form, with what is only known now: process, thread, descriptor of the folder, bus, a name too long. */
static void write_form(char *text, size_t size, const char *form, const char *bus, int folder)
{
	size_t used = 0;

	for (; *form && used < size; form++) {
		if (*form != '%') {
			text[used++] = *form;
			continue;
		}
		switch (*++form) {
		case 'p': used += snprintf(text + used, size - used, "%d", getpid()); break;
		case 't': used += snprintf(text + used, size - used, "%d", (int)syscall(SYS_gettid)); break;
		case 'd': used += snprintf(text + used, size - used, "%d", folder); break;
		case 'b': used += snprintf(text + used, size - used, "%s", bus); break;
		case 'l': memset(text + used, 'l', 300); used += 300; break;
		}
	}
	text[used] = 0;
}

CASE(forms_of_paths)
{
	struct open_how { __u64 flags, mode, resolve; } how = { .flags = O_RDWR | O_CLOEXEC };
	struct bus bus = new_bus(0);
	int at[STARTS], fd;
	char text[PATH_MAX];

	for (int i = 0; i < STARTS; i++)
		at[i] = starts[i] ? open_folder(starts[i]) : AT_FDCWD;
	snprintf(text, sizeof(text), "%s/%s", ROOT, bus.name);
	at[AT_BUS] = open_folder(text);
	EQ(chdir("/sys"), 0);
	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		write_form(text, sizeof(text), forms[i].path, bus.name, at[AT_FOLDER]);
		how.resolve = forms[i].resolve;
		/* openat2(2), EAGAIN: somebody has mounted or renamed something meanwhile, so that ".." may be anywhere. */
		do
			fd = syscall(SYS_openat2, at[forms[i].from], text, &how, sizeof(how));
		while (fd < 0 && errno == EAGAIN);
		if ((fd < 0 ? -errno : 0) != forms[i].outcome)
			printf("# form %zu: %s (%llx) of %d: %s instead of %s\n", i, text, how.resolve, (int)forms[i].from,
			       fd < 0 ? strerrorname_np(errno) : "0", strerrorname_np(-forms[i].outcome));
		EQ(fd < 0 ? -errno : 0, forms[i].outcome);
		if (fd >= 0)
			is_control(fd);
	}
	EQ(chdir("/"), 0);
}

CASE(folder_listing)
{
	struct bus bus = new_bus(0);
	DIR *folder = opendir(ROOT);
	int found = 0;

	CHECK(folder);
	for (struct dirent *entry; (entry = readdir(folder)); )
		found += !strcmp(entry->d_name, "control") + 2 * !strcmp(entry->d_name, bus.name);
	EQ(found, 3);
}

CASE(through_symbolic_links)
{
	char text[PATH_MAX];
	struct stat status;
	int fd;

	make_link(ROOT);
	snprintf(text, sizeof(text), "%s/control", link_path);
	is_control(open(text, O_RDWR));
	EQ(lstat(link_path, &status), 0);
	CHECK(S_ISLNK(status.st_mode));
	EQ(stat(link_path, &status), 0);
	CHECK(S_ISDIR(status.st_mode));
	EQ(readlink(link_path, text, sizeof(text)), strlen(ROOT));
	EQ(OUTCOME(open(link_path, O_RDONLY | O_NOFOLLOW)), -ELOOP);
	EQ(unlink(link_path), 0);

	make_link("../sys/fs/kdbus/control");
	is_control(open(link_path, O_RDWR));
	fd = open_folder("/tmp");
	is_control(openat(fd, link_path + strlen("/tmp/"), O_RDWR));
	EQ(unlink(link_path), 0);
	CHECK(open(link_path, O_RDWR) < 0);
}

CASE(allowed_or_not)
{
	EQ(access(CONTROL, R_OK | W_OK), 0);
	EQ(OUTCOME(access(CONTROL, X_OK)), -EACCES);
	EQ(faccessat(AT_FDCWD, ROOT, X_OK, AT_EACCESS), 0);
	EQ(OUTCOME(access(CONTROL, 64)), -EINVAL);
	if (geteuid())
		EQ(OUTCOME(access(ROOT, W_OK)), -EACCES);
	if (geteuid())
		EQ(OUTCOME(open(ROOT "/new", O_RDWR | O_CREAT, 0600)), -EACCES);
}

CASE(working_folder)
{
	struct bus bus = new_bus(0);
	struct stat status;
	char text[PATH_MAX];
	pid_t child;

	EQ(chdir(ROOT), 0);
	SAME(getcwd(text, sizeof(text)), ROOT);
	EQ(OUTCOME(syscall(SYS_getcwd, text, 4)), -ERANGE);
	is_control(open("control", O_RDWR));
	is_control(open("./control", O_RDWR));
	is_control(open("../kdbus/control", O_RDWR));
	EQ(OUTCOME(stat("absent", &status)), -ENOENT);
	EQ(chdir(bus.name), 0);
	EQ(stat("bus", &status), 0);
	CHECK(strstr(getcwd(text, sizeof(text)), bus.name));
	child = start_child();
	if (!child) {
		is_control(open("../control", O_RDWR));
		EQ(chdir(".."), 0);
		SAME(getcwd(text, sizeof(text)), ROOT);
		_exit(0);
	}
	join(child);
	EQ(chdir("../.."), 0);
	SAME(getcwd(text, sizeof(text)), "/sys/fs");
	EQ(stat("kdbus/control", &status), 0);
	EQ(chdir("/"), 0);
	EQ(stat("sys/fs/kdbus/control", &status), 0);
	EQ(OUTCOME(stat("fs/kdbus/control", &status)), -ENOENT);
}

CASE(out_again)
{
	struct stat outside = status_of("/sys/fs"), through = status_of(ROOT "/..");
	int folder = open_folder(ROOT), fd;

	EQ(outside.st_ino, through.st_ino);
	fd = openat(folder, "..", O_RDONLY | O_DIRECTORY);
	CHECK(fd >= 0);
	EQ(fstat(fd, &through), 0);
	EQ(outside.st_ino, through.st_ino);
	EQ(outside.st_dev, through.st_dev);
	EQ(fstatat(folder, "../../..", &through, 0), 0);
	EQ(status_of("/").st_ino, through.st_ino);
}

CASE(module_parameter)
{
	char text[64] = "";
	int fd = open(MASK, O_RDONLY);
	struct stat status;

	CHECK(fd >= 0);
	CHECK(read(fd, text, sizeof(text) - 1) > 0);
	SAME(text, "10271\n");
	EQ(stat("/sys/module/kdbus", &status), 0);
	CHECK(S_ISDIR(status.st_mode));
	EQ(access(MASK, R_OK), 0);
	if (geteuid())
		EQ(OUTCOME(open(MASK, O_WRONLY)), -EACCES);
	EQ(OUTCOME(ioctl(fd, 0x9500, NULL)), -ENOTTY);
	EQ(chdir("/sys/module/kdbus/parameters"), 0);
	EQ(stat("../../kdbus/parameters/attach_flags_mask", &status), 0);
	EQ(stat("../..", &status), 0);
	EQ(status.st_ino, status_of("/sys/module").st_ino);
}

CASE(file_system)
{
	struct statfs status;

	EQ(statfs(ROOT, &status), 0);
	EQ(status.f_bsize, getpagesize());
	EQ(status.f_namelen, 255);
	EQ(OUTCOME(statfs(ROOT "/absent", &status)), -ENOENT);
}

CASE(no_extended_attributes)
{
	char value[64];

	CHECK(syscall(SYS_getxattr, CONTROL, "user.absent", value, sizeof(value)) < 0);
	EQ(syscall(SYS_listxattr, CONTROL, value, sizeof(value)), 0);
}

CASE(watched)
{
	int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), number = inotify_add_watch(watch, ROOT, IN_MOVED_TO | IN_CREATE);
	union { struct inotify_event event; char room[4096]; } buffer;
	struct bus bus;

	CHECK(number >= 0);
	EQ(OUTCOME(inotify_add_watch(watch, CONTROL, IN_CLOSE | IN_ONLYDIR)), -ENOTDIR);
	EQ(OUTCOME(inotify_add_watch(watch, ROOT "/absent", IN_CLOSE)), -ENOENT);
	EQ(OUTCOME(read(watch, &buffer, sizeof(buffer))), -EAGAIN);
	bus = new_bus(0);
	CHECK(read(watch, &buffer, sizeof(buffer)) > 0);
	EQ(buffer.event.wd, number);
	SAME(buffer.event.name, bus.name);
}

CASE(nothing_stays_open)
{
	struct stat status;
	int before = dup(0), after;

	close(before);
	for (int i = 0; i < 20; i++) {
		EQ(chdir(ROOT), 0);
		EQ(stat("control", &status), 0);
		close(open(ROOT, O_PATH));
		close(open(CONTROL, O_RDONLY));
		EQ(OUTCOME(chdir("absent")), -ENOENT);
	}
	after = dup(0);
	EQ(after, before);
}

ROOT_CASE(other_users)
{
	struct bus bus = new_bus(0);
	pid_t child = start_child();

	if (!child) {
		become(1234, 1234);
		EQ(OUTCOME(open(bus.path, O_RDWR)), -EACCES);
		EQ(OUTCOME(access(bus.path, R_OK)), -EACCES);
		is_control(open(CONTROL, O_RDWR));
		EQ(status_of(ROOT).st_uid, 0);
		EQ(OUTCOME(chdir(ROOT)), 0);
		is_control(open("control", O_RDWR));
		_exit(0);
	}
	join(child);
}
