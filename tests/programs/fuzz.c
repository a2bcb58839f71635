// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A structure-aware fuzzer of kdbus, to be run under `kdbus run`; tests/fuzz.py starts it and watches the supervisor.
 *
 *     fuzz SEED STEPS [OTHER]
 *
 * OTHER: the same program built for another revision of kdbus or for 32 bits, for buses on which both are used.
 *
 * reads numbers of rounds from stdin, one per line, and plays them one after the other: two buses, a custom endpoint,
 * three worker processes of two threads each; or, in every other round on average, a single worker with few
 * connections, which then are served natively. Every thread issues STEPS calls or a few more. All that is chosen
 * follows from SEED, the round, and the thread; how the threads interleave does not.
 *
 * While the threads act, another one in each process changes memory that is being read, takes pages away, and sends
 * signals; the parent kills a worker now and then, and a bus may end. A round ends when all its processes have, and
 * what they had open is closed; then the parent reports it:
 *
 *     round NUMBER: CALLS calls
 *
 * A finding is told on stderr (`fuzz: FOUND ...`), and ends the program with status 1.
 */
#include "fuzz/actions.h"

#define WORKERS 3
#define ACTORS 2
#define PATIENCE_NS 60000000000ULL

static struct actor actors[ACTORS];

/* ---- descriptors of this process ---- */

static int open_descriptors(void)
{
	int count = 0;

	for (int i = 0; i < 512; i++)
		count += fcntl(i, F_GETFD) >= 0;
	return count;
}

/* ---- what involves other processes ---- */

static void send_descriptor(int fd)
{
	union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = { 0 };
	struct iovec byte = { "x", 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(head), &fd, sizeof(int));
	sendmsg(self->meeting->pass[0], &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int receive_descriptor(void)
{
	union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
	char byte;
	struct iovec buffer = { &byte, 1 };
	struct msghdr message = { .msg_iov = &buffer, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int fd = -1;

	if (recvmsg(self->meeting->pass[1], &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	return fd;
}

/* A handle travels to another process, or arrives: from then on it is shared. */
static void pass(struct peer *peer)
{
	int fd;

	if (!peer->exclusive)
		send_descriptor(peer->fd);
	fd = receive_descriptor();
	for (unsigned int i = 0; fd >= 0 && i < PEERS; i++)
		if (self->peers[i].fd < 0) {
			self->peers[i] = (struct peer) { .fd = fd, .pool_size = 64 * PAGE, .uncertain = true };
			/* Of which bus, and how large its pool is, is not known here, so its messages are not looked at. */
			self->peers[i].bus = -1;
			return;
		}
	if (fd >= 0)
		close(fd);
}

/* A child uses what it has inherited, if that is shared, and something of its own; and ends in one way or another. */
static void fork_child(void)
{
	pid_t child = fork();
	struct peer *peer;

	NEED(child >= 0);
	if (child) {
		while (waitpid(child, NULL, 0) < 0)
			NEED(errno == EINTR);
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	self->state ^= 0x5555;
	for (unsigned int i = any(6); i; i--) {
		peer = some_peer();
		if (one_in(3))
			connect_peer(&self->peers[any(PEERS)], true);
		else if (peer && !peer->exclusive && peer->bus >= 0)
			one_in(2) ? send_message(peer) : receive(peer);
		else if (peer)
			close(peer->fd);
	}
	if (one_in(3))
		kill(getpid(), SIGKILL);
	if (one_in(4))
		execl("/bin/true", "true", (char *)NULL);
	_exit(0);
}

/* The same handle under another number; what was there goes. */
static void duplicate(struct peer *peer)
{
	struct peer *other = &self->peers[any(PEERS)];
	int number;

	if (one_in(2)) {
		number = fcntl(peer->fd, F_DUPFD_CLOEXEC, any(30));
		if (number < 0)
			return;
		close(peer->fd);
		peer->fd = number;
	} else if (other != peer && other->fd >= 0) {
		number = other->fd;
		NEED(dup3(peer->fd, number, O_CLOEXEC) == number);
		if (other->pool)
			munmap((void *)(uintptr_t)other->pool, other->pool_size);
		*other = (struct peer) { .fd = -1 };
		close(peer->fd);
		peer->fd = number;
	}
}

static void look(struct peer *peer)
{
	struct pollfd entry = { .fd = peer->fd, .events = (short)any(64) };
	bool ended;

	NEED(poll(&entry, 1, one_in(8) ? (int)any(3) : 0) >= 0 || errno == EINTR);
	ended = entry.revents & POLLHUP;
	if (peer->exclusive && peer->ended && !ended && !(peer->flags & KDBUS_HELLO_MONITOR))
		found("a connection that has ended polls %#x", (unsigned int)entry.revents);
}

/* ---- one thread ---- */

static void step(void)
{
	struct peer *peer = some_peer();
	struct peer *place = &self->peers[any(self->meeting->busy ? PEERS / 2 : PEERS)];

	self->meeting->steps++;
	self->about = peer;
	if (place->fd < 0 || !peer) {
		if (place->fd < 0)
			connect_peer(place, !one_in(4));
		return;
	}
	if (peer->bus < 0) { /* somebody else's, of which nothing is known */
		if (one_in(4))
			close_peer(peer);
		else if (one_in(2))
			look(peer);
		else
			map_something(peer);
		return;
	}
	switch (any(self->meeting->busy && !one_in(40) ? 74 : 100)) {
	case 0 ... 22: send_message(peer); break;
	case 23 ... 37: self->meeting->busy ? receive(peer) : send_message(peer); break;
	case 38 ... 61: receive(peer); break;
	case 62 ... 73: release_something(peer); break;
	case 74 ... 77: ask_for_name(peer); break;
	case 78 ... 81: ask(peer); break;
	case 82 ... 85: match_command(peer); break;
	case 86 ... 87: update_peer(peer); break;
	case 88 ... 89: make_something(); break;
	case 90: nonsense(); break;
	case 91: map_something(peer); break;
	case 92 ... 93: look(peer); break;
	case 94: duplicate(peer); break;
	case 95: pass(peer); break;
	case 96: bye(peer); break;
	case 97: if (one_in(3)) fork_child(); break;
	default: close_peer(peer);
	}
}

static void *act(void *argument)
{
	unsigned int steps = *(unsigned int *)argument;

	self = argument = NULL;
	for (unsigned int i = 0; i < ACTORS; i++)
		if (pthread_equal(actors[i].thread, pthread_self()))
			self = &actors[i];
	NEED(self);
	while (self->steps < steps && self->deeds < 4 * steps)
		step();
	for (unsigned int i = 0; i < PEERS; i++) {
		struct peer *peer = &self->peers[i];

		self->about = peer;
		for (unsigned int k = 0; peer->exclusive && peer->bus >= 0 && k < peer->kept_count; k++)
			if (sum_slice(peer, &peer->kept[k]) != peer->kept[k].sum)
				found("the message at %#llx has changed", (unsigned long long)peer->kept[k].offset);
		if (peer->fd >= 0)
			close_peer(peer);
	}
	self->finished = true;
	return NULL;
}

/* ---- one process ---- */

static void interrupt(int number)
{
	(void)number;
}

/* A crash of the fuzzer: memory that it had is not there, or no longer. */
static void crashed(int number, siginfo_t *info, void *context)
{
	(void)context;
	if (!self)
		self = &actors[0];
	found("signal %d at %p (plain %p, hot %p, payload %p)", number, info->si_addr, (void *)self->plain,
	      (void *)self->hot, (void *)self->payload);
}

/* Until the actors have finished: disturb their memory and them. Who does not get on is interrupted. */
static void disturb_all(uint64_t random, bool signals)
{
	unsigned int seen[ACTORS] = { 0 }, stuck[ACTORS] = { 0 };
	struct timespec pause = { .tv_nsec = 400000 };

	for (;;) {
		unsigned int finished = 0;

		for (unsigned int i = 0; i < ACTORS; i++) {
			struct actor *actor = &actors[i];

			random = mix(random + 1);
			disturb(actor, random);
			stuck[i] = seen[i] == actor->steps ? stuck[i] + 1 : 0;
			seen[i] = actor->steps;
			finished += actor->finished;
			if (!actor->finished && ((signals && random % 16 == 0) || stuck[i] > 100))
				pthread_kill(actor->thread, stuck[i] > 100 || random % 32 ? SIGUSR1 : SIGUSR2);
		}
		if (finished == ACTORS)
			return;
		nanosleep(&pause, NULL);
	}
}

__attribute__((noreturn))
static void work(struct meeting *meeting, uint64_t seed, unsigned int worker, unsigned int steps)
{
	struct sigaction breaks = { .sa_handler = interrupt }, restarts = { .sa_handler = interrupt, .sa_flags = SA_RESTART };
	struct sigaction crash = { .sa_sigaction = crashed, .sa_flags = SA_SIGINFO };
	struct rlimit few = { .rlim_cur = 64, .rlim_max = 512 };
	int before;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	NEED(!sigaction(SIGUSR1, &breaks, NULL) && !sigaction(SIGUSR2, &restarts, NULL));
	NEED(!sigaction(SIGSEGV, &crash, NULL) && !sigaction(SIGBUS, &crash, NULL));
	if (mix(seed) % 4 == 0)
		NEED(!setrlimit(RLIMIT_NOFILE, &few));
	before = open_descriptors();
	for (unsigned int i = 0; i < ACTORS; i++) {
		struct actor *actor = &actors[i];

		*actor = (struct actor) { .seed = seed, .state = mix(seed + i + 1), .worker = worker, .number = i,
					  .meeting = meeting };
		for (unsigned int k = 0; k < PEERS; k++)
			actor->peers[k].fd = -1;
		make_memory(actor);
	}
	for (unsigned int i = 0; i < ACTORS; i++)
		NEED(!pthread_create(&actors[i].thread, NULL, act, &steps));
	disturb_all(seed, mix(seed + 7) % 2);
	self = &actors[0];
	for (unsigned int i = 0; i < ACTORS; i++) {
		NEED(!pthread_join(actors[i].thread, NULL));
		drop_memory(&actors[i]);
	}
	if (!actors[0].lost_descriptors && !actors[1].lost_descriptors && open_descriptors() != before)
		found("%d descriptors are open at the end, %d were at the beginning", open_descriptors(), before);
	_exit(0);
}

/* ---- one round ---- */

static int must_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	NEED(fd >= 0);
	return fd;
}

static int new_bus(struct meeting *meeting, unsigned int number, uint64_t seed)
{
	static struct draft draft;
	struct kdbus_bloom_parameter bloom = { .size = 64, .n_hash = 1 };
	make_command *make = begin(&draft, sizeof(*make));
	int fd = must_open("/sys/fs/kdbus/control");
	char name[64];

	snprintf(name, sizeof(name), "%u-fuzz%u", getuid(), number);
	snprintf(meeting->path[number], sizeof(meeting->path[number]), "/sys/fs/kdbus/%s/bus", name);
	make->flags = KDBUS_MAKE_ACCESS_WORLD;
	add(&draft, KDBUS_ITEM_BLOOM_PARAMETER, &bloom, sizeof(bloom));
	add_word(&draft, KDBUS_ITEM_ATTACH_FLAGS_RECV, mix(seed + number) % 3 ? 0 : KDBUS_ATTACH_CREDS);
	add_string(&draft, KDBUS_ITEM_MAKE_NAME, name);
	NEED(!ioctl(fd, KDBUS_CMD_BUS_MAKE, make));
	return fd;
}

static int new_endpoint(struct meeting *meeting)
{
	static struct draft draft;
	struct kdbus_policy_access access = { .type = KDBUS_POLICY_ACCESS_WORLD, .access = KDBUS_POLICY_OWN };
	make_command *make = begin(&draft, sizeof(*make));
	int fd = must_open(meeting->path[0]);
	char name[64];

	make->flags = KDBUS_MAKE_ACCESS_WORLD;
	snprintf(name, sizeof(name), "%u-narrow", getuid());
	add_string(&draft, KDBUS_ITEM_MAKE_NAME, name);
	NEED(!ioctl(fd, KDBUS_CMD_ENDPOINT_MAKE, make));
	begin(&draft, sizeof(update_command));
	add_string(&draft, KDBUS_ITEM_NAME, "org.fuzz.n1");
	add(&draft, KDBUS_ITEM_POLICY_ACCESS, &access, sizeof(access));
	NEED(!ioctl(fd, KDBUS_CMD_ENDPOINT_UPDATE, draft.words));
	snprintf(meeting->path[BUSES], sizeof(meeting->path[BUSES]), "%.*s/%s",
		 (int)(strrchr(meeting->path[0], '/') - meeting->path[0]), meeting->path[0], name);
	return fd;
}

/* Waits for a worker; false if it has found something or does not come to an end. */
static bool is_well(pid_t worker, uint64_t deadline)
{
	int handle = (int)syscall(SYS_pidfd_open, worker, 0), status;
	struct pollfd entry = { .fd = handle, .events = POLLIN };
	uint64_t now = now_ns();

	NEED(handle >= 0);
	if (poll(&entry, 1, deadline > now ? (int)((deadline - now) / 1000000) : 0) != 1) {
		fprintf(stderr, "fuzz: FOUND: worker %d does not come to an end\n", (int)worker);
		kill(worker, SIGKILL);
		waitpid(worker, &status, 0);
		return false;
	}
	close(handle);
	NEED(waitpid(worker, &status, 0) == worker);
	if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
		fprintf(stderr, "fuzz: FOUND: worker %d died of signal %d\n", (int)worker, WTERMSIG(status));
	return WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0;
}

/*
 * Waits for the children of workers that were killed, which are ours then and end a little later: until then they have
 * open what the worker had. Who has been waited for has nothing open any more.
 */
static bool are_gone(uint64_t deadline)
{
	struct timespec pause = { .tv_nsec = 1000000 };
	pid_t child;

	while ((child = waitpid(-1, NULL, WNOHANG)) >= 0) {
		if (!child && now_ns() >= deadline) {
			fprintf(stderr, "fuzz: FOUND: a worker's child does not come to an end\n");
			return false;
		}
		if (!child)
			nanosleep(&pause, NULL);
	}
	NEED(errno == ECHILD);
	return true;
}

static bool is_running(pid_t worker)
{
	siginfo_t info = { 0 };

	NEED(!waitid(P_PID, (id_t)worker, &info, WEXITED | WNOHANG | WNOWAIT));
	return !info.si_pid;
}

/* Waits until so many steps were made; false if that does not happen any more. */
static bool await_steps(const struct meeting *meeting, uint64_t steps, const pid_t *workers,
			unsigned int count, uint64_t deadline)
{
	struct timespec pause = { .tv_nsec = 1000000 };

	while (meeting->steps < steps) {
		bool running = false;

		for (unsigned int i = 0; i < count; i++)
			running |= is_running(workers[i]);
		if (!running || now_ns() >= deadline)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

/* Whether the supervisor serves calls as it must where signals end their waits. */
static bool calls_break_off(void)
{
	const char *guarantee = getenv("KDBUS_EXACTLY_ONCE");

	return guarantee && (!strcmp(guarantee, "held") || !strcmp(guarantee, "remembered"));
}

/* The program built otherwise, which every second worker becomes; NULL for none. */
static const char *other;
static int meeting_file;

static __attribute__((noreturn)) void become_other(struct meeting *meeting, uint64_t seed, unsigned int number,
						   unsigned int steps)
{
	char words[4][24];

	NEED(!fcntl(meeting->pass[0], F_SETFD, 0) && !fcntl(meeting->pass[1], F_SETFD, 0));
	snprintf(words[0], sizeof(words[0]), "%d", meeting_file);
	snprintf(words[1], sizeof(words[1]), "%llu", (unsigned long long)seed);
	snprintf(words[2], sizeof(words[2]), "%u", number);
	snprintf(words[3], sizeof(words[3]), "%u", steps);
	execl(other, other, "--work", words[0], words[1], words[2], words[3], NULL);
	NEED(!"it can be executed");
	abort();
}

/* A worker of the program that was built otherwise. */
static __attribute__((noreturn)) void work_for_other(char **words)
{
	struct meeting *meeting = mmap(NULL, sizeof(*meeting), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(words[0]), 0);

	NEED(meeting != MAP_FAILED);
	close(atoi(words[0]));
	NEED(!fcntl(meeting->pass[0], F_SETFD, FD_CLOEXEC) && !fcntl(meeting->pass[1], F_SETFD, FD_CLOEXEC));
	work(meeting, strtoull(words[1], NULL, 10), (unsigned int)atoi(words[2]), (unsigned int)atoi(words[3]));
}

static bool play(struct meeting *meeting, uint64_t seed, unsigned int steps)
{
	int bus[BUSES], endpoint;
	pid_t workers[WORKERS];
	unsigned int count = seed % 2 ? (other ? 2 : 1) : WORKERS;
	uint64_t deadline, all = ACTORS * count * (uint64_t)steps, kill_at = mix(seed + 1) % (2 * all);
	bool well = true;

	memset(meeting, 0, sizeof(*meeting));
	meeting->busy = seed % 2;
	meeting->calls_break_off = calls_break_off();
	NEED(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, meeting->pass));
	for (unsigned int i = 0; i < BUSES; i++)
		bus[i] = new_bus(meeting, i, seed);
	endpoint = new_endpoint(meeting);
	for (unsigned int i = 0; i < count; i++) {
		fflush(NULL);
		workers[i] = fork();
		NEED(workers[i] >= 0);
		if (!workers[i]) {
			close(STDIN_FILENO);
			if (other && i % 2)
				become_other(meeting, mix(seed + 100 * (i + 1)), i, steps);
			work(meeting, mix(seed + 100 * (i + 1)), i, steps);
		}
	}
	deadline = now_ns() + PATIENCE_NS;
	/* In half of the rounds somebody dies in the middle, and sometimes a bus or the endpoint. */
	if (kill_at < all && await_steps(meeting, kill_at, workers, count, deadline)) {
		kill(workers[mix(seed + 2) % count], SIGKILL);
		if (mix(seed + 3) % 4 == 0)
			close(bus[1]), bus[1] = -1;
		if (mix(seed + 4) % 4 == 0)
			close(endpoint), endpoint = -1;
	}
	for (unsigned int i = 0; i < count; i++)
		well = is_well(workers[i], deadline) && well;
	well = are_gone(deadline) && well;
	for (unsigned int i = 0; i < BUSES; i++)
		if (bus[i] >= 0)
			close(bus[i]);
	if (endpoint >= 0)
		close(endpoint);
	close(meeting->pass[0]);
	close(meeting->pass[1]);
	return well;
}

int main(int argc, char **argv)
{
	struct meeting *meeting;
	uint64_t seed;
	unsigned int steps;
	char line[64];
	int control;

	if (argc == 6 && !strcmp(argv[1], "--work"))
		work_for_other(argv + 2);
	if (argc != 3 && argc != 4)
		return 2;
	other = argv[3];
	meeting_file = memfd_create("meeting", 0);
	NEED(meeting_file >= 0 && !ftruncate(meeting_file, sizeof(*meeting)));
	meeting = mmap(NULL, sizeof(*meeting), PROT_READ | PROT_WRITE, MAP_SHARED, meeting_file, 0);
	NEED(meeting != MAP_FAILED);
	seed = strtoull(argv[1], NULL, 10);
	steps = (unsigned int)strtoul(argv[2], NULL, 10);
	NEED(!prctl(PR_SET_CHILD_SUBREAPER, 1));
	control = must_open("/sys/fs/kdbus/control");
	ioctl(control, KDBUS_CMD_FREE, 0);
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t round = strtoull(line, NULL, 10);

		if (!play(meeting, mix(seed ^ mix(round)), steps))
			return 1;
		/* An open makes the supervisor look at handles that it has hung up itself, any call at those that are closed. */
		close(must_open("/sys/fs/kdbus/control"));
		ioctl(control, KDBUS_CMD_FREE, 0);
		printf("round %llu: %llu calls\n", (unsigned long long)round, (unsigned long long)meeting->steps);
		fflush(stdout);
	}
	return 0;
}
