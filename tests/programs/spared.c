// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A program that has nothing to do with kdbus and makes every call that names a path, by every name that the C library
 * has for it. Takes the path of a folder of its own, and what to do:
 *
 *     spared     forbids all such calls but those from the page of the preloaded library, with a filter of its own, and
 *                tells which of its calls come from elsewhere
 *     outcomes   tells what the calls say: about what exists, what does not, bad addresses and arguments
 *     timer      opens, looks, maps and asks for a second while a timer interrupts it each half millisecond; tells how
 *                often a call failed
 */
#define _GNU_SOURCE
#define _LARGEFILE64_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define STUB 0x550000000000UL
#define FORBIDDEN EXDEV			/* what none of these calls says otherwise */
#define CHECKED(call) do { if ((call) < 0) { perror(#call); exit(2); } } while (0)

int __xstat(int version, const char *path, struct stat *status);
int __lxstat(int version, const char *path, struct stat *status);
int __fxstatat(int version, int directory, const char *path, struct stat *status, int flags);
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int directory, const char *path, int flags);
ssize_t __readlink_chk(const char *path, char *buffer, size_t size, size_t room);
ssize_t __readlinkat_chk(int directory, const char *path, char *buffer, size_t size, size_t room);
char *__realpath_chk(const char *path, char *into, size_t room);

static int closed(int fd)
{
	return fd < 0 ? -1 : close(fd);
}

static int ended(FILE *stream)
{
	return stream ? fclose(stream) : -1;
}

static int left(DIR *folder)
{
	return folder ? closedir(folder) : -1;
}

static int some(const void *found)
{
	return found ? 0 : -1;
}

/*
 * Each call, with a path. `RESULT` is told: zero or more is success; descriptors are closed, and told as zero.
 */
#define CALLS(CALL) \
	CALL(open, closed(open(path, O_RDONLY))) \
	CALL(open_rdwr, closed(open(path, O_RDWR | O_CLOEXEC))) \
	CALL(open_write, closed(open(path, O_WRONLY))) \
	CALL(open_path, closed(open(path, O_PATH))) \
	CALL(open_nofollow, closed(open(path, O_RDONLY | O_NOFOLLOW))) \
	CALL(open_folder, closed(open(path, O_RDONLY | O_DIRECTORY))) \
	CALL(open_create, closed(open(path, O_RDWR | O_CREAT, 0600))) \
	CALL(open_exclusive, closed(open(path, O_RDWR | O_CREAT | O_EXCL, 0600))) \
	CALL(open_odd, closed(open(path, O_TMPFILE & ~O_DIRECTORY))) \
	CALL(open_temporary, closed(open(path, O_TMPFILE | O_RDWR, 0600))) \
	CALL(open64, closed(open64(path, O_RDONLY))) \
	CALL(openat, closed(openat(AT_FDCWD, path, O_RDONLY))) \
	CALL(openat_folder, closed(openat(folder, path, O_RDONLY))) \
	CALL(openat_bad, closed(openat(1000000, path, O_RDONLY))) \
	CALL(openat64, closed(openat64(folder, path, O_RDONLY))) \
	CALL(creat, closed(creat(path, 0600))) \
	CALL(creat64, closed(creat64(path, 0600))) \
	CALL(open_2, closed(__open_2(path, O_RDONLY))) \
	CALL(open64_2, closed(__open64_2(path, O_RDONLY))) \
	CALL(openat_2, closed(__openat_2(folder, path, O_RDONLY))) \
	CALL(stat, stat(path, &status)) \
	CALL(stat64, stat64(path, (struct stat64 *)&status)) \
	CALL(lstat, lstat(path, &status)) \
	CALL(lstat64, lstat64(path, (struct stat64 *)&status)) \
	CALL(fstatat, fstatat(folder, path, &status, 0)) \
	CALL(fstatat_nofollow, fstatat(AT_FDCWD, path, &status, AT_SYMLINK_NOFOLLOW)) \
	CALL(fstatat_empty, fstatat(folder, path, &status, AT_EMPTY_PATH)) \
	CALL(fstatat_flags, fstatat(folder, path, &status, 1 << 30)) \
	CALL(fstatat_bad, fstatat(1000000, path, &status, 0)) \
	CALL(fstatat64, fstatat64(folder, path, (struct stat64 *)&status, 0)) \
	CALL(stat_nowhere, stat(path, nowhere)) \
	CALL(xstat, __xstat(1, path, &status)) \
	CALL(xstat_version, __xstat(7, path, &status)) \
	CALL(lxstat, __lxstat(1, path, &status)) \
	CALL(fxstatat, __fxstatat(1, folder, path, &status, 0)) \
	CALL(statx, statx(folder, path, 0, STATX_BASIC_STATS, &extended)) \
	CALL(statx_flags, statx(folder, path, 0x7000, STATX_BASIC_STATS, &extended)) \
	CALL(access, access(path, R_OK)) \
	CALL(access_execute, access(path, X_OK)) \
	CALL(access_mode, access(path, 64)) \
	CALL(faccessat, faccessat(folder, path, W_OK, 0)) \
	CALL(faccessat_effective, faccessat(folder, path, R_OK, AT_EACCESS)) \
	CALL(faccessat_flags, faccessat(folder, path, R_OK, 1 << 30)) \
	CALL(readlink, readlink(path, buffer, sizeof(buffer))) \
	CALL(readlink_small, readlink(path, buffer, 1)) \
	CALL(readlink_none, readlink(path, buffer, 0)) \
	CALL(readlink_nowhere, readlink(path, nowhere, 10)) \
	CALL(readlinkat, readlinkat(folder, path, buffer, sizeof(buffer))) \
	CALL(readlink_chk, __readlink_chk(path, buffer, sizeof(buffer), sizeof(buffer))) \
	CALL(readlinkat_chk, __readlinkat_chk(folder, path, buffer, sizeof(buffer), sizeof(buffer))) \
	CALL(statfs, statfs(path, &system)) \
	CALL(statfs64, statfs64(path, (struct statfs64 *)&system)) \
	CALL(inotify_add_watch, inotify_add_watch(watch, path, IN_CREATE) < 0 ? -1 : 0) \
	CALL(inotify_bad, inotify_add_watch(-1, path, IN_CREATE)) \
	CALL(inotify_folder, inotify_add_watch(watch, path, IN_ONLYDIR | IN_CREATE) < 0 ? -1 : 0) \
	CALL(getxattr, getxattr(path, "user.none", buffer, sizeof(buffer))) \
	CALL(lgetxattr, lgetxattr(path, "user.none", buffer, sizeof(buffer))) \
	CALL(listxattr, listxattr(path, buffer, sizeof(buffer))) \
	CALL(llistxattr, llistxattr(path, buffer, sizeof(buffer)))

/* Those that look at the path themselves, so that it has to be one. */
#define CALLS_WITH_PATH(CALL) \
	CALL(opendir, left(opendir(path))) \
	CALL(fopen, ended(fopen(path, "r"))) \
	CALL(fopen_update, ended(fopen(path, "r+be"))) \
	CALL(fopen_append, told(fopen(path, "a"))) \
	CALL(fopen_append_update, told(fopen(path, "a+"))) \
	CALL(fopen_exclusive, ended(fopen(path, "wx"))) \
	CALL(fopen_mode, ended(fopen(path, "q"))) \
	CALL(fopen64, ended(fopen64(path, "r"))) \
	CALL(realpath, real(realpath(path, buffer), buffer)) \
	CALL(realpath_allocated, allocated(realpath(path, NULL))) \
	CALL(realpath_chk, some(__realpath_chk(path, buffer, sizeof(buffer)))) \
	CALL(canonicalize, allocated(canonicalize_file_name(path))) \
	CALL(chdir, back(chdir(path))) \
	CALL(getcwd, there(path, buffer, sizeof(buffer))) \
	CALL(getcwd_small, there(path, buffer, 5)) \
	CALL(getcwd_allocated, there(path, NULL, 0)) \
	CALL(getcwd_none, there(path, buffer, 0))

static char start[PATH_MAX];
static int folder, watch, file;
static void *volatile nowhere;

static int mapped(void *memory)
{
	return memory == MAP_FAILED ? -1 : munmap(memory, 4096);
}

static int told(FILE *stream)
{
	int position = stream ? (int)ftell(stream) : -1;

	if (stream)
		fclose(stream);
	return position;
}

static int real(const char *found, const char *buffer)
{
	if (found)
		printf("[%s] ", found);
	else if (errno == ENOENT)
		printf("[%s missing] ", buffer);
	return some(found);
}

static int allocated(char *found)
{
	int result = some(found);

	if (found)
		printf("[%s] ", found);
	free(found);
	return result;
}

static int back(int result)
{
	int error = errno;

	CHECKED(fchdir(folder));
	errno = error;
	return result;
}

static int there(const char *path, char *buffer, size_t size)
{
	char *found;
	int error;

	if (chdir(path))
		return -1;
	found = getcwd(buffer, size);
	error = errno;
	if (found)
		printf("[%s] ", found);
	if (!buffer)
		free(found);
	CHECKED(fchdir(folder));
	errno = error;
	return some(found);
}

static void tell(const char *name, long result)
{
	if (result < 0)
		printf("%s: %s\n", name, strerrorname_np(errno));
	else
		printf("%s: %ld\n", name, result);
}

static void outcomes(const char *path)
{
	char buffer[PATH_MAX] = "";
	struct stat status;
	struct statx extended;
	struct statfs system;

#define CALL(name, result) errno = 0; tell(#name, result);
	CALLS(CALL)
#undef CALL
}

static void outcomes_with_path(const char *path)
{
	char buffer[PATH_MAX] = "";

#define CALL(name, result) errno = 0; tell(#name, result);
	CALLS_WITH_PATH(CALL)
#undef CALL
}

static int is_forbidden(long result)
{
	return result < 0 && errno == FORBIDDEN;
}

static void spared(const char *path)
{
	char buffer[PATH_MAX] = "";
	struct stat status;
	struct statx extended;
	struct statfs system;

#define CALL(name, result) errno = 0; if (is_forbidden(result)) printf("not spared: " #name "\n");
	CALLS(CALL)
	/* What they show while they are at it is of no interest. */
	CALL(opendir, left(opendir(path)))
	CALL(fopen, ended(fopen(path, "r")))
	CALL(fopen_append, ended(fopen(path, "a")))
	CALL(realpath, some(realpath(path, buffer)))
	CALL(realpath_missing, some(realpath("missing/file", buffer)))
	CALL(realpath_relative, some(realpath("./inner/../file", buffer)))
	CALL(missing, stat("missing", &status))
	CALL(missing_folder, stat("missing/file", &status))
	CALL(mmap, mapped(mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0)))
	CALL(mmap64, mapped(mmap64(NULL, 4096, PROT_READ, MAP_SHARED, file, 0)))
	CALL(chdir, chdir(".."))
	CALL(fchdir, fchdir(folder))
	CALL(getcwd, some(getcwd(buffer, sizeof(buffer))))
#undef CALL
}

#define FORBID(number) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | FORBIDDEN)

/* Forbids what path mode traps, unless it comes from the page. */
static void forbid(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, STUB >> 32, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (STUB & 0xffffffff) + 4096, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		FORBID(SYS_open), FORBID(SYS_openat), FORBID(SYS_openat2), FORBID(SYS_stat), FORBID(SYS_lstat),
		FORBID(SYS_access), FORBID(SYS_faccessat), FORBID(SYS_faccessat2), FORBID(SYS_readlink),
		FORBID(SYS_readlinkat), FORBID(SYS_getcwd), FORBID(SYS_chdir), FORBID(SYS_statfs),
		FORBID(SYS_inotify_add_watch), FORBID(SYS_getxattr), FORBID(SYS_lgetxattr), FORBID(SYS_listxattr),
		FORBID(SYS_llistxattr),
		/* Shared, and not writable. */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 6),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[3])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, MAP_PRIVATE, 3, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_WRITE, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | FORBIDDEN),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		/* Without AT_EMPTY_PATH only. */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_newfstatat, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[3])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, AT_EMPTY_PATH, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | FORBIDDEN),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_statx, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, AT_EMPTY_PATH, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | FORBIDDEN),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(*filter), filter };

	CHECKED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECKED(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0));
}

static volatile sig_atomic_t signals;

static void count(int number)
{
	(void)number;
	signals++;
}

static int interrupted(void)
{
	struct sigaction action = { .sa_handler = count };
	struct itimerval timer = { { 0, 500 }, { 0, 500 } };
	struct timespec begin, now;
	struct stat status;
	int failed = 0;

	CHECKED(sigaction(SIGALRM, &action, NULL));
	CHECKED(setitimer(ITIMER_REAL, &timer, NULL));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		failed += !!closed(open("file", O_RDWR));
		failed += !!stat("file", &status);
		failed += !!access("file", R_OK);
		failed += !!mapped(mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0));
		failed += !stat("missing", &status) || errno != ENOENT;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9 < 1 || signals < 100);
	return failed;
}

int main(int argc, char **argv)
{
	static const char *const paths[] = {
		"file", "inner", "inner/", "inner/file", "inner/../file", "./inner/./file", "file/", "file/.", "file/..",
		"file/x", "link", "folder-link", "folder-link/", "folder-link/file", "slash-link", "dangling",
		"dangling/x", "dangling-deep", "loop", "missing", "missing/x", "missing/../file", "secret/x",
		"", ".", "..", "/", "//", "///etc//passwd", "/..", "/sys/fs/kdbus", "/sys/fs/kdbus/control",
		"/sys/fs/nothing", "/sys/nothing", "/nothing/sys", "/proc/self/cwd/file", "/proc/self/fd/0",
		"/dev/null", "/dev/fd/0", "absolute/file", "sys/x", "kdbus",
	};
	char big[PATH_MAX + 10];

	if (argc != 3)
		return 2;
	CHECKED(chdir(argv[1]));
	CHECKED(folder = open(".", O_RDONLY | O_DIRECTORY));
	CHECKED(watch = inotify_init());
	CHECKED(file = open("file", O_RDONLY));
	if (!getcwd(start, sizeof(start)))
		return 2;
	if (!strcmp(argv[2], "timer")) {
		printf("%d failed\n", interrupted());
		return 0;
	}
	if (!strcmp(argv[2], "spared")) {
		forbid();
		spared("file");
		puts("done");
		return 0;
	}
	for (size_t each = 0; each < sizeof(paths) / sizeof(*paths); each++) {
		printf("--- %s\n", paths[each]);
		outcomes(paths[each]);
		outcomes_with_path(paths[each]);
		for (const char *made = "missing\0absent\0"; *made; made += strlen(made) + 1)
			unlink(made);
	}
	puts("--- bad addresses");
	outcomes(NULL);
	outcomes((const char *)16);
	memset(big, 'x', sizeof(big));
	puts("--- too long");
	outcomes(big);
	memset(big, '/', sizeof(big));
	big[3000] = 0;
	puts("--- long");
	outcomes(big);
	return 0;
}
