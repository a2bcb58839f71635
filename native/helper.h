// SPDX-License-Identifier: GPL-2.0-or-later
//
// The native helper: everything that needs a system call Python does not offer, or bytes moved without a detour.
//
// One convention holds for every function: a result of zero or more is success, a negative one is -errno as the
// kernel numbers it. There is no global state, nothing is printed, nothing is allocated that outlives the call
// except what `struct kdbus_pool` names. So each function may run in any thread at any time.
//
// The part between the two `cdef` markers is read twice: by the compiler, and by build.py, which hands it to cffi.
// It therefore holds plain declarations only, no preprocessor lines, and is the one place where they stand.

#ifndef KDBUS_NATIVE_HELPER_H
#define KDBUS_NATIVE_HELPER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/kcmp.h>
#include <linux/memfd.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

_Static_assert(sizeof(void *) == 8, "only 64-bit machines: addresses of targets are passed as pointers");

// What kernels of today know and the headers of Debian 12 (6.1) or Ubuntu 24.04 (6.8) do not yet name.

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV // 5.19
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP // 6.6
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS // 6.6
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, uint64_t)
#endif
#ifndef PIDFD_THREAD // 6.9
#define PIDFD_THREAD O_EXCL
#endif
#ifndef MFD_NOEXEC_SEAL // 6.3
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE // hidden by libc's fcntl.h before glibc 2.36
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MOUNT_ATTR_NOSYMFOLLOW // 5.14
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#ifndef MOVE_MOUNT_SET_GROUP // 5.15
#define MOVE_MOUNT_SET_GROUP 0x00000100
#endif
#ifndef MOVE_MOUNT_BENEATH // 6.5
#define MOVE_MOUNT_BENEATH 0x00000200
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

// Mount flags that libc also defines, differently written: see mount(2) and umount(2).
#ifndef MNT_FORCE
#define MNT_FORCE 1
#endif
#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif
#ifndef MNT_EXPIRE
#define MNT_EXPIRE 4
#endif
#ifndef UMOUNT_NOFOLLOW
#define UMOUNT_NOFOLLOW 8
#endif

// cdef begin

// -- notification.c: the supervisor's end of a seccomp filter ------------------------------------------------------

// One trapped call, as `struct seccomp_notif` holds it.
struct kdbus_notification {
    uint64_t id;
    uint32_t pid;
    uint32_t flags;
    int32_t number;
    uint32_t architecture;
    uint64_t instruction_pointer;
    uint64_t arguments[6];
};

// Checks that `listener` is a notification descriptor and switches synchronous wake-up on: 1 with it, 0 where the
// kernel has none.
int kdbus_listener_prepare(int listener);

// Which calls of a listener the supervisor has received, in memory that it shares with the caretaker.
struct kdbus_received {
    uint64_t first; // ids; 0 is none
    uint64_t newest;
};

// Waits up to `timeout_ns` (negative: without limit) for a trapped call: 1 with `notification` filled, 0 when there
// is none, 2 when there can be none any more (the last target is gone), -EINTR when a signal came first. The id is
// noted in `received`, unless that is NULL.
int kdbus_listener_receive(int listener, struct kdbus_received *received, int64_t timeout_ns,
                           struct kdbus_notification *notification);

// Answers: `value`, or -`error` if `error` is not 0. -ENOENT when nobody waits for the answer any more.
int kdbus_listener_respond(int listener, uint64_t id, int64_t value, int32_t error);

// Answers: let the kernel do it.
int kdbus_listener_continue(int listener, uint64_t id);

// Gives the target a duplicate of `descriptor`, at the number `at` (-1: the lowest free one), with the descriptor
// flags `flags` (O_CLOEXEC or 0). Returns the number in the target.
int kdbus_listener_add_descriptor(int listener, uint64_t id, int descriptor, int at, uint32_t flags);

// 1 while the target still waits for the answer, else 0.
int kdbus_listener_is_valid(int listener, uint64_t id);

// -- caretaker.c: who answers when the supervisor has ended ----------------------------------------------------------

// A system call of an architecture (AUDIT_ARCH_*).
struct kdbus_call {
    uint32_t architecture;
    int32_t number;
};

// Forks the caretaker of `listener`, which must be the only thread's doing: `calls` (8 at most) are kdbus's own.
// Returns its process id, with `*received` (never unmapped) for all that receives from this listener.
int kdbus_start_caretaker(int listener, const struct kdbus_call *calls, size_t count, struct kdbus_received **received);

// -- memory.c: the memory of another process -----------------------------------------------------------------------

struct kdbus_piece {
    uint64_t address;
    uint64_t size;
};

// All pieces, one after the other, into `buffer`. -EFAULT unless every byte could be read; -ERANGE if they are more
// than `capacity` bytes.
int kdbus_memory_read_pieces(int pid, const struct kdbus_piece *pieces, size_t count, void *buffer, size_t capacity);

int kdbus_memory_read(int pid, uint64_t address, void *buffer, size_t size);

int kdbus_memory_write(int pid, uint64_t address, const void *data, size_t size);

// A zero-terminated string of at most `limit` bytes including the zero; returns its length without.
// -ENAMETOOLONG if there is no zero among them.
int64_t kdbus_memory_read_string(int pid, uint64_t address, void *buffer, size_t limit);

// -- pool.c: the memory that a receiver maps -----------------------------------------------------------------------

struct kdbus_pool {
    void *memory;             // writable mapping of the whole pool, only in this process
    uint64_t size;            // bytes
    uint64_t usable;          // bytes from the beginning in which slices may lie; who limits them raises it as needed
    int read_only_descriptor; // what targets map; -1 where somebody else keeps it
};

int kdbus_pool_create(const char *name, uint64_t size, struct kdbus_pool *pool);

void kdbus_pool_destroy(struct kdbus_pool *pool);

// Like kdbus_memory_read_pieces into the pool at `offset`; a piece at address 0 is that many zeros.
int kdbus_pool_copy_from_process(const struct kdbus_pool *pool, int pid, uint64_t offset,
                                 const struct kdbus_piece *pieces, size_t count);

// -- keeper.c: descriptors in a table of their own --------------------------------------------------------------------

struct kdbus_keeper;

int kdbus_keeper_create(struct kdbus_keeper **made);

// Closes all that is kept.
void kdbus_keeper_destroy(struct kdbus_keeper *keeper);

// The number under which the file of `descriptor` is kept from now on.
int kdbus_keeper_keep(const struct kdbus_keeper *keeper, int descriptor);

// A duplicate of what is kept as `number`.
int kdbus_keeper_fetch(const struct kdbus_keeper *keeper, int number);

// Closes what is kept as `number`, soon.
int kdbus_keeper_drop(const struct kdbus_keeper *keeper, int number);

// -- deputy.c: threads that touch the memory of targets, and may be left behind with it ------------------------------

struct kdbus_deputies;
struct kdbus_identity;

// NULL with errno set when there is no memory or descriptor.
struct kdbus_deputies *kdbus_deputies_create(void);
void kdbus_deputies_destroy(struct kdbus_deputies *deputies);

// Readable when somebody who was left behind is back.
int kdbus_deputies_fileno(const struct kdbus_deputies *deputies);

// Whether somebody was left behind of whom kdbus_deputies_next has not told.
int kdbus_deputies_away(const struct kdbus_deputies *deputies);

// The number of whoever was left behind last.
uint64_t kdbus_deputies_ticket(const struct kdbus_deputies *deputies);

// Somebody who is back: 1 with its number, and 0 or -errno for what it was left in; 0 if there is none.
int kdbus_deputies_next(struct kdbus_deputies *deputies, uint64_t *ticket, int *result);

// -- errand.c: what deputies do for the broker ----------------------------------------------------------------------

// The functions of memory.c and pool.c, by a deputy. -EINPROGRESS: it was left behind, and what it was given has to
// stay until it is back; but the pool has moved.
int kdbus_deputies_read(struct kdbus_deputies *deputies, int pid, uint64_t address, void *buffer, size_t size);
int kdbus_deputies_read_pieces(struct kdbus_deputies *deputies, int pid, const struct kdbus_piece *pieces, size_t count,
                               void *buffer, size_t capacity);
int64_t kdbus_deputies_read_string(struct kdbus_deputies *deputies, int pid, uint64_t address, void *buffer,
                                   size_t limit);
int kdbus_deputies_write(struct kdbus_deputies *deputies, int pid, uint64_t address, const void *data, size_t size);
int kdbus_deputies_copy(struct kdbus_deputies *deputies, struct kdbus_pool *pool, int pid, uint64_t offset,
                        const struct kdbus_piece *pieces, size_t count);

// Of files, which may stall as well; as `wanted`, if that is not NULL, by who otherwise has the identity `saved`.
// A descriptor that nobody waits for any more is closed.
int kdbus_deputies_open(struct kdbus_deputies *deputies, int directory, const char *path, uint64_t flags,
                        uint64_t resolve, const struct kdbus_identity *wanted, const struct kdbus_identity *saved);
int64_t kdbus_deputies_read_link(struct kdbus_deputies *deputies, int directory, const char *path, void *buffer,
                                 size_t size);
int64_t kdbus_deputies_read_file(struct kdbus_deputies *deputies, const char *path, void *buffer, size_t size);

// Closes a file that a target has made, which may stall (FUSE, sockets that linger). There are no errors.
int kdbus_deputies_close(struct kdbus_deputies *deputies, int descriptor);

// -- identity.c: which file a descriptor of another process is -----------------------------------------------------

// 1 if `descriptor` of the thread `pid` is the file that was registered in `epoll` under the number `target`.
int kdbus_same_file(int pid, int descriptor, int epoll, int target);

// 1 if `epoll` still has an entry for `target`.
int kdbus_epoll_holds(int epoll, int target);

int kdbus_pidfd_open(int pid, unsigned int flags);
int kdbus_pidfd_getfd(int pidfd, int descriptor);
int kdbus_socket_cookie(int descriptor, uint64_t *cookie);

// Empties the receive queue of the socket behind `descriptor` of the thread `pid`: 1 if it is the socket `cookie`,
// 0 if it is something else, which is then *stranger, to be closed, or -1.
int kdbus_drain(int pid, int descriptor, uint64_t cookie, int *stranger);

// -- namespace.c: namespaces, mounts and path lookup ---------------------------------------------------------------

int kdbus_unshare(int flags);
int kdbus_setns(int descriptor, int flags);
int kdbus_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
int kdbus_umount2(const char *target, int flags);
int kdbus_open_tree(int directory, const char *path, unsigned int flags);
int kdbus_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned int flags);
int kdbus_openat2(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);

// What is known of a file without asking whoever serves it (AT_STATX_DONT_SYNC): device, inode, mode and links.
struct kdbus_status {
    uint64_t device;
    uint64_t inode;
    uint32_t mode;
    uint32_t links;
};

int kdbus_known_status(int directory, const char *path, int flags, struct kdbus_status *status);
int kdbus_fsopen(const char *type, unsigned int flags);
int kdbus_fsconfig(int descriptor, unsigned int command, const char *key, const char *value, int auxiliary);
int kdbus_fsmount(int descriptor, unsigned int flags, unsigned int attributes);

// -- credentials.c: acting for a moment with the file system identity of somebody else ------------------------------

struct kdbus_identity {
    uint32_t fsuid;
    uint32_t fsgid;
    uint64_t effective;   // capabilities, one bit each
    int keep_effective;   // 1: leave the capabilities to what setfsuid(2) makes of them
    uint32_t *groups;     // of the caller
    size_t group_count;   // how many there are
    size_t group_room;    // how many fit
    int dumpable;         // PR_GET_DUMPABLE, filled when an identity is saved
    int parent_signal;    // PR_GET_PDEATHSIG, filled when an identity is saved
};

int kdbus_group_count(void);

// Fills `identity` from the calling thread. -ERANGE when `group_room` is too small.
int kdbus_identity_save(struct kdbus_identity *identity);

// Gives the calling thread, and no other, `wanted`; on failure `saved` is in force again, except after
// -ENOTRECOVERABLE.
int kdbus_identity_borrow(const struct kdbus_identity *wanted, const struct kdbus_identity *saved);

// Gives the calling thread what kdbus_identity_save found, after it has borrowed `borrowed`.
int kdbus_identity_restore(const struct kdbus_identity *saved, const struct kdbus_identity *borrowed);

// -- evidence.c: whether what is known of a thread still reads the same ---------------------------------------------

// 1 if everything in `evidence` (its layout is that of interposer/target/evidence.py) is found again, else 0.
// `directory`: an open /proc/TID; `status`: the file of that name in it.
int kdbus_evidence_holds(int directory, int status, const char *evidence, size_t size);

// -- shares.c: whose call is next, when several wait ---------------------------------------------------------------

struct kdbus_shares;

// NULL when there is no memory.
struct kdbus_shares *kdbus_shares_create(void);
void kdbus_shares_destroy(struct kdbus_shares *shares);

// A call waits for its turn. -ENOMEM: it does not.
int kdbus_shares_put(struct kdbus_shares *shares, uint64_t user, uint64_t process, int listener,
                     const struct kdbus_notification *notification);

// Whose turn it is: 1 with `notification` and `listener` filled, 0 when no call waits.
int kdbus_shares_next(struct kdbus_shares *shares, struct kdbus_notification *notification, int *listener);

// The next call of that process is served first, and charged to nobody.
void kdbus_shares_favour(struct kdbus_shares *shares, uint64_t user, uint64_t process);

// What the call that was handed out last has taken, in ns; once, before the next one.
void kdbus_shares_charge(struct kdbus_shares *shares, uint64_t cost);

// A call of this listener, out of turn: 1 with `notification` filled, 0 when none waits.
int kdbus_shares_take(struct kdbus_shares *shares, int listener, struct kdbus_notification *notification);

// -- flow.c: connections that are served without the broker ----------------------------------------------------------

struct kdbus_engine;

// What the engine has to know of a revision of the ABI (broker/flow.py makes it of the revision's tables): numbers of
// requests, and of each the size and the members that count, as words of 64 bits; numbers of items; and what the
// revision means by them. A word that a structure does not have is 0.
struct kdbus_flow_revision {
    uint32_t send, send_words, send_flags, send_kernel_flags, send_return_flags, send_address, send_reply;
    uint32_t recv, recv_words, recv_flags, recv_kernel_flags, recv_return_flags, recv_priority;
    uint32_t recv_dropped, recv_message;
    uint32_t free, free_words, free_flags, free_kernel_flags, free_return_flags, free_offset;
    uint32_t item_vector, item_offset, item_memfd, item_name, item_filter, item_timestamp;
    int whole;              // a message is one slice
    int keeps_order;        // with the items that were sent, in their order; else they are made anew
    int keeps_padding;      // what stands between the items of a message is delivered
    int takes_half;         // what is put into a pool may be half of what is left of it
    int shares_memory;      // a quota is of the pool's memory, else of messages
    int writes_no_message;  // RECV without a message stores that there is none
    int writes_empty_reply; // a SEND that does not wait writes that there is no reply
    int empty_is_pool_size; // the offset that stands for nothing
    int message_is_command; // SEND has the message itself, with flags of its own and those that are known
    int only_offsets;       // results are the offset alone, and RECV and FREE do not say how large they are
    int needs_all_files;    // a message is lost if not all its descriptors can be installed
    int timestamp_first;    // of metadata, else it is the last
};

// What the engine has to know of a connection for as long as it exists.
struct kdbus_flow_connection {
    uint32_t revision; // number that kdbus_engine_speak has returned
    int accepts_files; // 0: no descriptor is installed, not even of a memfd
    uint64_t id;     // on its bus
    uint64_t bus;    // any number that is the bus's own
    uint64_t user;   // any number that is the accounted user's own
    uint32_t counter; // of messages: index below 16
    int ours;        // our end of the handle's sockets
    int epoll;       // set that holds the target's end
    int target;      // as that number
    uint64_t cookie; // of the target's end
    struct kdbus_pool *pool;
};

// The broker's answer for plain messages from one connection to another.
struct kdbus_flow_facts {
    uint32_t source;       // index
    uint32_t destination;  // index
    uint64_t attach_flags; // metadata that the messages carry
    uint64_t credentials;  // number of those that the sender must have, 0 for any
    int talks;             // 0: only replies
};

// Whose a well-known name is.
struct kdbus_name_facts {
    uint32_t connection; // index
    uint64_t facts;      // number of the names that it has, and its description
    uint64_t name_id;    // which acquisition of the name that is
};

// The broker's answer for plain signals of one connection to one destination, an id or that for all, with one filter,
// its generation before it.
struct kdbus_signal_facts {
    uint32_t source;       // index
    uint32_t count;        // of those who get it
    uint64_t destination;
    uint64_t attach_flags; // metadata that the message carries
    size_t filter_size;    // bytes
};

// That messages of a thread on a connection are of an origin.
struct kdbus_origin_facts {
    uint32_t connection;       // index
    uint32_t thread;
    uint64_t attach_flags;     // for messages that carry this
    uint64_t connection_facts; // number of the names and the description that the connection had
    uint64_t credentials;      // number of those that the thread had
    uint64_t origin;           // number, 0 for nothing but perhaps a timestamp
    int has_timestamp;
};

// That a thread is shown certain items of messages of an origin.
struct kdbus_export_facts {
    uint32_t connection; // index of the receiver
    uint32_t thread; // 0 where it does not depend on who receives
    uint64_t attach_flags; // that the receiver asked for; of the flow, where it does not depend on who receives
    uint64_t origin;
    int shows_timestamp;
    uint64_t items_end; // bytes of the items without the padding of the last
};

// NULL when there is no memory. `hang_ups`, which stays the caller's, is readable when a handle has hung up. Of threads
// whose calls are served, `descriptors` are held at most.
struct kdbus_engine *kdbus_engine_create(int hang_ups, size_t descriptors);
void kdbus_engine_destroy(struct kdbus_engine *engine);

// Returns the number of the revision from now on, or -ENOSPC.
int kdbus_engine_speak(struct kdbus_engine *engine, const struct kdbus_flow_revision *revision);

// Returns the connection's index.
int64_t kdbus_engine_add_connection(struct kdbus_engine *engine, const struct kdbus_flow_connection *facts);
int kdbus_engine_remove_connection(struct kdbus_engine *engine, uint32_t index);
int kdbus_engine_bind(struct kdbus_engine *engine, uint32_t index, uint32_t thread, uint32_t descriptor);
int kdbus_engine_lend(struct kdbus_engine *engine, const uint64_t *words, size_t count);
int kdbus_engine_allow(struct kdbus_engine *engine, const struct kdbus_flow_facts *facts);
int kdbus_engine_learn_name(struct kdbus_engine *engine, const struct kdbus_name_facts *facts, const char *name);
int kdbus_engine_forget_names(struct kdbus_engine *engine);
// `receivers`: indices, in the order of their ids; `attach_flags`: what each of them is shown at most.
int kdbus_engine_allow_signal(struct kdbus_engine *engine, const struct kdbus_signal_facts *facts, const char *filter,
                              const uint32_t *receivers, const uint64_t *attach_flags);
int kdbus_engine_learn_origin(struct kdbus_engine *engine, const struct kdbus_origin_facts *facts, const char *evidence,
                              size_t evidence_size);
int kdbus_engine_learn_export(struct kdbus_engine *engine, const struct kdbus_export_facts *facts, const char *items,
                              size_t items_size, const char *evidence, size_t evidence_size);
int kdbus_engine_forget_origins(struct kdbus_engine *engine);
void kdbus_engine_allow_files(struct kdbus_engine *engine, uint64_t count);
int64_t kdbus_engine_recall(struct kdbus_engine *engine, const uint64_t **words);
uint64_t kdbus_engine_deadline(const struct kdbus_engine *engine);
void kdbus_engine_look(struct kdbus_engine *engine, uint64_t now_ns);
int kdbus_engine_listen(struct kdbus_engine *engine, const int *listeners, struct kdbus_received *const *received,
                        size_t count);
void kdbus_engine_charge(struct kdbus_engine *engine, uint64_t cost);
void kdbus_engine_favour(struct kdbus_engine *engine, uint32_t thread);
int kdbus_engine_put(struct kdbus_engine *engine, int listener, const struct kdbus_notification *notification);
int kdbus_engine_take(struct kdbus_engine *engine, int listener, struct kdbus_notification *notification);
void kdbus_engine_attend(struct kdbus_engine *engine, int descriptor);
int kdbus_engine_run(struct kdbus_engine *engine, uint64_t stop_ns, uint64_t turn_ns,
                     struct kdbus_notification *notification, int *listener);

// What a call has been left in.
enum kdbus_stall_kind {
    STALL_CALL,   // it has had no effect, and is to be served once the copy is over
    STALL_ANSWER, // it has succeeded, which is to be answered then, or EFAULT if the copy has failed
    STALL_OTHER,  // its caller, who waits for a reply, has not got the results; the broker serves the reply
    STALL_NOBODY, // the copy has nothing to do with it: it is to be served
};

struct kdbus_stall {
    uint64_t ticket;
    uint64_t user; // whose call it is, all ones for nobody
    struct kdbus_notification call;
    int listener;
    int kind; // enum kdbus_stall_kind
};

// What was said by the last kdbus_engine_run that has left a deputy behind.
void kdbus_engine_stall(const struct kdbus_engine *engine, struct kdbus_stall *stall);
uint64_t kdbus_engine_user(struct kdbus_engine *engine, int listener, const struct kdbus_notification *call);

// From now on (`held`), or no longer, calls of that user are not served: kdbus_engine_run returns 5 with them. -ENOMEM.
int kdbus_engine_hold(struct kdbus_engine *engine, uint64_t user, int held);

// Have the engine run by deputies from now on; NULL: by whoever calls kdbus_engine_run.
void kdbus_engine_employ(struct kdbus_engine *engine, struct kdbus_deputies *deputies);
uint64_t kdbus_engine_served(const struct kdbus_engine *engine);
int kdbus_engine_share(struct kdbus_engine *engine, uint32_t index);
uint64_t kdbus_engine_self_served(const struct kdbus_engine *engine);

// ring.c: what was served, for whoever watches. Each has the argument of the call as it was, and as it is now.
enum {
    KDBUS_CALL_WHOLE,
    KDBUS_CALL_WAITS,
    KDBUS_CALL_RESUMED
};

// What is too much: messages of the user, bytes of all that wait, or bytes of the user and those of the message.
enum {
    KDBUS_REFUSED_COUNT,
    KDBUS_REFUSED_ALL,
    KDBUS_REFUSED_SIZE
};

struct kdbus_refusal {
    uint64_t kind;
    uint64_t used;
    uint64_t limit;
    uint64_t size; // of the message, in bytes; of a count: messages in front that count for nobody
};

struct kdbus_call_record {
    uint64_t start_ns; // CLOCK_MONOTONIC
    uint64_t end_ns;
    uint64_t address; // third argument
    uint64_t peer;    // id of who gets the message, or has sent it; 0 for nobody in particular
    uint64_t data;    // where its bytes begin: of the message, of the payload, and ids of senders
    uint64_t payload_size; // all of it
    uint64_t sequence;     // of the message that was sent
    uint32_t message_kept; // bytes
    uint32_t payload_kept;
    uint32_t senders; // of messages in the queue that is full
    uint32_t kind;
    uint32_t tid;
    uint32_t descriptor;
    uint32_t connection; // index
    uint32_t request;
    uint32_t error;
    uint32_t padding;
    struct kdbus_refusal refusal;
    uint64_t before[9];
    uint64_t after[9];
};

int kdbus_engine_watch(struct kdbus_engine *engine, int64_t payload, size_t most);
size_t kdbus_engine_take_records(struct kdbus_engine *engine, const struct kdbus_call_record **records,
                                 const char **data, size_t *size);

// -- seize.c: tracing a thread of another process ------------------------------------------------------------------

// ptrace(2), PTRACE_SEIZE with PTRACE_O_* `options`, by this thread. 0 or -errno; -ETIMEDOUT if a thread of the same
// process has been in the middle of execve(2) for `patience_ns`, less than a second. Uses the signal SIGRTMAX - 1.
int kdbus_seize(int pid, uint64_t options, uint32_t patience_ns);

// -- seccomp.c: what a target is started with ----------------------------------------------------------------------

struct kdbus_instruction {
    uint16_t code;
    uint8_t jump_true;
    uint8_t jump_false;
    uint32_t operand;
};

// Installs a filter in the calling thread; returns its notification descriptor (close-on-exec).
int kdbus_install_filter(const struct kdbus_instruction *program, size_t count, unsigned int flags);

// 1 if the kernel knows the SECCOMP_RET_* action, else 0.
int kdbus_action_available(uint32_t action);

int kdbus_set_no_new_privileges(void);
int kdbus_set_parent_death_signal(int signal);

// cdef end

// -- for the C files alone ------------------------------------------------------------------------------------------

// Receives the call that waits at a listener which poll(2) has found to be ready; result as of kdbus_listener_receive.
// RECV waits whatever the flags of the descriptor are, so it is only asked when there is something.
int kdbus_listener_take(const struct pollfd *poller, struct kdbus_received *received,
                        struct kdbus_notification *notification);

// Notes that the call `id` has been received; `received` may be NULL.
void kdbus_note_received(struct kdbus_received *received, uint64_t id);

// A new memfd, close-on-exec, to be sealed; or -errno.
int kdbus_memory_file(const char *name);

// As kdbus_same_file, for a caller that knows its own thread id, `self`.
int kdbus_same_file_as(int self, int pid, int descriptor, int epoll, int target);

#endif
