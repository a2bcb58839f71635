// SPDX-License-Identifier: GPL-2.0-or-later
//
// A conversation of several connections in one thread, invented from a seed and told in full: every call with its
// result, its errno and what it left in memory, and every message with all its bytes. Two runs with the same seed must
// tell the same, however the calls are served.
//
// usage: traffic SEED STEPS [metadata]
//
// With "metadata" the receivers ask for it, each for kinds of its own, and what there is to tell changes now and then. What
// differs from run to run (process numbers, times) is looked at, and told as what it should be.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <linux/kdbus.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PEERS 4
#define POOL (64 * 1024)
#define KEPT 24
#define HEADER 16 // of an item
#define DESK 1024 // words

struct peer {
    int fd;
    uint64_t id;
    unsigned char *pool;
    uint64_t kept[KEPT]; // offsets to be freed some time
    int kept_count;
    uint64_t asked_by[KEPT]; // requests that may be answered
    uint64_t asked_cookie[KEPT];
    int asked_count;
};

static struct peer peers[PEERS];
static uint64_t state;
static char payload[96 * 1024];
static uint64_t *desk; // where commands, messages and short payload lie; what comes behind cannot be read
static char path[128];
static int memfds[3]; // of 4096 bytes; the last one is not sealed
static int with_metadata;

static uint32_t any(uint32_t below)
{
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(state >> 33) % below;
}

static void tell(const char *what, int peer, int result, const void *command, size_t size)
{
    int error = result < 0 ? errno : 0;
    const unsigned char *byte = command;

    printf("%s %d: %d %d", what, peer, result, error);
    for (size_t i = 0; i < size; i++)
        printf("%s%02x", i % 8 ? "" : " ", byte[i]);
    printf("\n");
}

static int call(const char *what, struct peer *peer, unsigned long request, void *command, size_t size, size_t hidden)
{
    int result = ioctl(peer->fd, request, command);
    int error = errno;

    // What differs from run to run (deadlines, addresses) is in the first `hidden` bytes behind the flags.
    tell(what, (int)(peer - peers), result, (char *)command + hidden, size - hidden);
    errno = error;
    return result;
}

static void hello(struct peer *peer)
{
    struct kdbus_cmd_hello hello = {
        .size = sizeof(hello), .flags = KDBUS_HELLO_ACCEPT_FD, .attach_flags_send = _KDBUS_ATTACH_ALL, .pool_size = POOL};

    memset(peer, 0, sizeof(*peer));
    if (with_metadata)
        hello.attach_flags_recv = peer - peers < 2 ? _KDBUS_ATTACH_ALL : any(_KDBUS_ATTACH_ALL + 1);
    peer->fd = open(path, O_RDWR | O_CLOEXEC);
    if (peer->fd < 0 || ioctl(peer->fd, KDBUS_CMD_HELLO, &hello))
        exit(2);
    peer->id = hello.id;
    peer->pool = mmap(NULL, POOL, PROT_READ, MAP_SHARED, peer->fd, 0);
    if (peer->pool == MAP_FAILED)
        exit(2);
    peer->kept[peer->kept_count++] = hello.offset;
}

static void make_bus(void)
{
    struct {
        struct kdbus_cmd_make head;
        uint64_t bloom_size, bloom_type;
        struct kdbus_bloom_parameter bloom;
        uint64_t name_size, name_type;
        char name[64];
    } make = {.bloom_size = 32, .bloom_type = KDBUS_ITEM_BLOOM_PARAMETER, .bloom = {64, 1}};
    int control = open("/sys/fs/kdbus/control", O_RDWR | O_CLOEXEC);

    snprintf(make.name, sizeof(make.name), "%u-traffic", getuid());
    make.name_type = KDBUS_ITEM_MAKE_NAME;
    make.name_size = HEADER + strlen(make.name) + 1;
    make.head.size = sizeof(make.head) + make.bloom_size + make.name_size;
    if (control < 0 || ioctl(control, KDBUS_CMD_BUS_MAKE, &make))
        exit(2);
    snprintf(path, sizeof(path), "/sys/fs/kdbus/%s/bus", make.name);
}

static void acquire(struct peer *peer)
{
    struct {
        struct kdbus_cmd_name head;
        uint64_t size, type;
        char name[32];
    } name = {.type = KDBUS_ITEM_NAME};

    snprintf(name.name, sizeof(name.name), "org.example.Peer%d", (int)(peer - peers));
    name.size = HEADER + strlen(name.name) + 1;
    name.head.size = sizeof(name.head) + name.size;
    call(any(2) ? "acquire" : "acquire again", peer, KDBUS_CMD_NAME_ACQUIRE, &name, name.head.size, 0);
}

static uint64_t *put_vector(uint64_t *word, const void *address, uint64_t size)
{
    *word++ = 32;
    *word++ = KDBUS_ITEM_PAYLOAD_VEC;
    *word++ = size;
    *word++ = (uint64_t)(uintptr_t)address;
    return word;
}

static void make_desk(void)
{
    desk = mmap(NULL, DESK * 8 + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (desk == MAP_FAILED || mprotect(desk + DESK, 4096, PROT_NONE))
        exit(2);
}

static void make_memfds(void)
{
    for (int i = 0; i < 3; i++) {
        memfds[i] = memfd_create("traffic", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (memfds[i] < 0 || write(memfds[i], payload, 4096) != 4096)
            exit(2);
        if (i < 2 && fcntl(memfds[i], F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE))
            exit(2);
    }
}

static uint64_t *put_memfd(uint64_t *word)
{
    *word++ = 40;
    *word++ = KDBUS_ITEM_PAYLOAD_MEMFD;
    *word++ = any(64); // start
    *word++ = any(100) ? any(4000) & ~7u : any(8000);
    *word++ = any(100) ? (uint32_t)memfds[any(2)] : any(2) ? (uint32_t)memfds[2] : 900;
    return word;
}

// Where command, message and short payload lie, in words: in any order, close to each other or not, across the end of a
// page, and with the payload within the message.
static const struct {
    uint32_t command, message, payload;
} places[] = {{502, 300, 512}, {0, 512, 512},   {700, 512, 400}, {200, 209, 20},
              {140, 0, 150},   {508, 600, 400}, {780, 800, 700}};
#define LAST (sizeof(places) / sizeof(*places) - 1) // the message ends with the desk

// Mostly the last one, as the addresses of the last message are tried first.
static uint32_t next_place(void)
{
    static uint32_t place;

    if (any(40) == 0)
        place = any(sizeof(places) / sizeof(*places));
    return place;
}

// A vector of short payload that lies near the message, mostly as long as the last one.
static uint64_t *put_nearby(uint64_t *word, uint32_t place, const struct kdbus_msg *message)
{
    uint32_t size = any(4) ? 40 : any(400) + 1;

    if (places[place].payload != places[place].message)
        return put_vector(word, memcpy(desk + places[place].payload, payload + any(64), size), size);
    // What comes later in the message differs from run to run.
    return put_vector(word, message, size < offsetof(struct kdbus_msg, timeout_ns) ? size : 8);
}

static void send_message(struct peer *from)
{
    struct peer *to = &peers[any(12) ? any(2) : any(PEERS)];
    uint32_t place = next_place();
    uint64_t *words = desk + places[place].message;
    struct kdbus_msg *message = (struct kdbus_msg *)words;
    struct kdbus_cmd_send *command = (struct kdbus_cmd_send *)(desk + places[place].command);
    uint64_t *word = words + sizeof(*message) / 8;
    uint32_t kind = any(40) ? any(12) : 12 + any(4);

    memset(desk, 0, DESK * 8);
    command->size = sizeof(*command);
    command->return_flags = any(2);
    command->msg_address = (uintptr_t)message;
    message->payload_type = KDBUS_PAYLOAD_DBUS;
    message->dst_id = to->id;
    message->cookie = any(1000) + 1;
    message->priority = (int64_t)any(3) - 1;
    message->flags = any(8) ? 0 : KDBUS_MSG_NO_AUTO_START;
    if (kind < 6) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        message->flags |= KDBUS_MSG_EXPECT_REPLY;
        message->timeout_ns = (uint64_t)(now.tv_sec + 1000) * 1000000000; // never within this run
    } else if (kind < 12 && from->asked_count) {
        int which = (int)any((uint32_t)from->asked_count);

        message->dst_id = from->asked_by[which];
        message->cookie_reply = from->asked_cookie[which];
        from->asked_count--;
        from->asked_by[which] = from->asked_by[from->asked_count];
        from->asked_cookie[which] = from->asked_cookie[from->asked_count];
    } else if (kind == 12) {
        message->cookie_reply = 77; // nobody asked
    } else if (kind == 13) {
        message->dst_id = 1000; // nobody there
    } else if (kind == 14) {
        command->flags = 64;
    } else if (kind == 15) {
        message->payload_type = 0;
    }
    if (any(3) == 0) {
        *word++ = HEADER + 18;
        *word++ = KDBUS_ITEM_DST_NAME;
        snprintf((char *)word, 24, "org.example.Peer%d", (int)(to - peers));
        word += 3;
        if (any(2))
            message->dst_id = 0;
    }
    if (any(4))
        word = put_nearby(word, place, message);
    for (uint32_t vectors = any(3) ? 0 : any(4); vectors; vectors--) {
        uint32_t size = any(400) ? any(600) + 1 : any(sizeof(payload) - 64) + 1;

        word = put_vector(word, any(150) ? payload + any(64) : any(2) ? NULL : (void *)8, size);
    }
    for (uint32_t files = any(3) ? 0 : any(3); files; files--)
        word = put_memfd(word);
    message->size = (uint64_t)((char *)word - (char *)words);
    if (place == LAST) {
        uint64_t *end = desk + DESK - (word - words);

        message = memmove(end, words, (size_t)(word - words) * 8);
        command->msg_address = (uintptr_t)message;
    }
    if (any(200) == 0)
        message->size -= any(9);
    call("send", from, KDBUS_CMD_SEND, command, 40, 16);
}

// The message's items with what differs from run to run made equal, if it is right.
static void tell_items(int peer, const struct kdbus_msg *message)
{
    static uint64_t copy[16 * 1024];
    uint64_t *word = copy;
    uint64_t *end = copy + (message->size - sizeof(*message) + 7) / 8;
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    memcpy(copy, message + 1, message->size - sizeof(*message));
    for (; word < end; word += (word[0] + 7) / 8) {
        if (word[1] == KDBUS_ITEM_TIMESTAMP) {
            uint64_t latest = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;

            word[3] = word[3] <= latest && word[3] + 300000000000 > latest;
            word[4] = word[4] > 1500000000000000000; // some time after 2017
        } else if (word[1] == KDBUS_ITEM_PIDS) {
            word[2] = word[2] == (uint64_t)getpid();
            word[3] = word[3] == (uint64_t)getpid();
            word[4] = word[4] == (uint64_t)getppid();
        }
    }
    tell(" items", peer, 0, copy, message->size - sizeof(*message));
}

// The payload that lies in the pool.
static void tell_payload(const struct peer *peer, const struct kdbus_msg *message)
{
    const uint64_t *word = (const uint64_t *)(message + 1);
    const uint64_t *end = (const uint64_t *)((const char *)message + message->size);

    for (; word < end; word += (word[0] + 7) / 8)
        if (word[1] == KDBUS_ITEM_PAYLOAD_OFF && word[3] <= POOL && word[2] <= POOL - word[3])
            tell(" payload", (int)(peer - peers), 0, peer->pool + word[3], word[2]);
}

// Numbers that a message was given are told with its items, so they have to be the same in each run.
static void close_files(const struct kdbus_msg *message)
{
    const uint64_t *word = (const uint64_t *)(message + 1);
    const uint64_t *end = (const uint64_t *)((const char *)message + message->size);

    for (; word < end; word += (word[0] + 7) / 8)
        if (word[1] == KDBUS_ITEM_PAYLOAD_MEMFD)
            close((int)word[4]);
}

static void receive(struct peer *peer)
{
    struct kdbus_cmd_recv command = {.size = sizeof(command), .return_flags = any(2), .dropped_msgs = any(2)};
    const struct kdbus_msg *message;

    if (peer->kept_count == KEPT)
        return;
    command.flags = any(40) ? 0 : any(8);
    command.priority = (int64_t)any(3) - 1;
    if (call("recv", peer, KDBUS_CMD_RECV, &command, sizeof(command), 0) || command.flags & KDBUS_RECV_DROP)
        return;
    message = (const struct kdbus_msg *)(peer->pool + command.msg.offset);
    if (message->flags & KDBUS_MSG_EXPECT_REPLY) {
        uint64_t copy[8];

        memcpy(copy, message, sizeof(copy));
        copy[7] = 0; // the deadline
        tell(" request", (int)(peer - peers), 0, copy, sizeof(copy));
        if (peer->asked_count < KEPT && !(command.flags & KDBUS_RECV_PEEK)) {
            peer->asked_by[peer->asked_count] = message->src_id;
            peer->asked_cookie[peer->asked_count++] = message->cookie;
        }
    } else {
        tell(" message", (int)(peer - peers), 0, message, sizeof(*message));
    }
    tell_items((int)(peer - peers), message);
    tell_payload(peer, message);
    close_files(message);
    peer->kept[peer->kept_count++] = command.msg.offset;
}

static void release(struct peer *peer)
{
    struct kdbus_cmd_free command = {.size = sizeof(command), .return_flags = any(2)};
    uint32_t which;

    if (!peer->kept_count && any(10))
        return;
    if (!peer->kept_count || any(200) == 0) {
        command.offset = any(POOL) & ~7u;
        command.flags = any(2);
        call("free nothing", peer, KDBUS_CMD_FREE, &command, sizeof(command), 0);
        return;
    }
    which = any((uint32_t)peer->kept_count);
    command.offset = peer->kept[which];
    peer->kept[which] = peer->kept[--peer->kept_count];
    call("free", peer, KDBUS_CMD_FREE, &command, sizeof(command), 0);
}

static void set_mask(const char *mask)
{
    int file = open("/sys/module/kdbus/parameters/attach_flags_mask", O_WRONLY | O_TRUNC | O_CLOEXEC);

    printf("mask %s: %d\n", mask, file >= 0 && write(file, mask, strlen(mask)) > 0);
    close(file);
}

// Something that messages tell about their sender, or that their receivers want to know.
static void change(struct peer *peer)
{
    static const char *const names[] = {"one", "two words", "\n", "\rUid:\t9\t9\t9\t9"};
    static const char *const masks[] = {"0xffffffffffff", "0x0", "19"};
    struct {
        struct kdbus_cmd_update head;
        uint64_t size, type, flags;
    } update = {.size = 24, .type = KDBUS_ITEM_ATTACH_FLAGS_RECV, .flags = _KDBUS_ATTACH_ALL};

    if (any(2))
        update.flags = any(_KDBUS_ATTACH_ALL + 1);
    switch (any(4)) {
    case 0:
        printf("name: %d\n", prctl(PR_SET_NAME, names[any(4)]));
        break;
    case 1:
        printf("group: %d\n", setegid(any(3)));
        break;
    case 2:
        update.head.size = sizeof(update);
        call("update", peer, KDBUS_CMD_CONN_UPDATE, &update, sizeof(update), 0);
        break;
    default:
        set_mask(masks[any(3)]);
        set_mask(masks[0]);
        if (any(3) == 0)
            set_mask(masks[any(3)]);
    }
}

// Goes, with all that waits for it, and comes back as somebody else.
static void reconnect(struct peer *peer)
{
    munmap(peer->pool, POOL);
    close(peer->fd);
    hello(peer);
    acquire(peer);
}

// Sees what the two who talk most say next.
static void eavesdrop(void)
{
    struct kdbus_cmd_hello hello = {
        .size = sizeof(hello), .flags = KDBUS_HELLO_MONITOR, .attach_flags_send = _KDBUS_ATTACH_ALL, .pool_size = POOL};
    int monitor = open(path, O_RDWR | O_CLOEXEC);

    tell("monitor", PEERS, ioctl(monitor, KDBUS_CMD_HELLO, &hello), &hello.id, sizeof(hello.id));
    for (int calls = 8; calls; calls--) {
        send_message(&peers[any(2)]);
        receive(&peers[any(2)]);
    }
    close(monitor);
}

static void allow_descriptors(rlim_t count)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit))
        exit(2);
    limit.rlim_cur = count;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        exit(2);
}

// Receives memfds for which there is no room, always with the same command and mostly into the same place.
static void starve(struct peer *from, struct peer *to)
{
    struct kdbus_cmd_recv command = {.size = sizeof(command)};
    uint64_t words[8 + 5] = {0};
    struct kdbus_msg *message = (struct kdbus_msg *)words;
    struct kdbus_cmd_send send = {.size = sizeof(send), .msg_address = (uintptr_t)message};

    message->size = sizeof(words);
    message->dst_id = to->id;
    message->payload_type = KDBUS_PAYLOAD_DBUS;
    memcpy(words + 8, (uint64_t[]){40, KDBUS_ITEM_PAYLOAD_MEMFD, 0, 8, (uint32_t)memfds[0]}, 40);
    allow_descriptors(1); // none that is free
    for (int calls = 6; calls; calls--) {
        call("send", from, KDBUS_CMD_SEND, &send, 40, 16);
        while (!call("recv", to, KDBUS_CMD_RECV, &command, sizeof(command), 0)) {
            struct kdbus_cmd_free give_back = {.size = sizeof(give_back), .offset = command.msg.offset};

            call("free", to, KDBUS_CMD_FREE, &give_back, sizeof(give_back), 0);
        }
    }
    allow_descriptors(100);
}

static void look(void)
{
    struct pollfd pollers[PEERS];

    for (int i = 0; i < PEERS; i++)
        pollers[i] = (struct pollfd){.fd = peers[i].fd, .events = POLLIN};
    poll(pollers, PEERS, 0);
    printf("readable:");
    for (int i = 0; i < PEERS; i++)
        printf(" %d", !!(pollers[i].revents & POLLIN));
    printf("\n");
}

int main(int argc, char **argv)
{
    long steps;

    if (argc != 3 && argc != 4)
        return 2;
    with_metadata = argc == 4;
    state = strtoull(argv[1], NULL, 10) + 1;
    steps = strtol(argv[2], NULL, 10);
    for (size_t i = 0; i < sizeof(payload); i++)
        payload[i] = (char)(i * 7 + i / 251);
    make_desk();
    make_memfds();
    make_bus();
    if (with_metadata)
        set_mask("0xffffffffffff");
    for (int i = 0; i < PEERS; i++)
        hello(&peers[i]);
    for (int i = 0; i < PEERS; i++)
        acquire(&peers[i]);
    while (steps-- > 0) {
        // Two of the peers talk most of the time, so that there is something to repeat.
        struct peer *peer = &peers[any(12) ? any(2) : any(PEERS)];
        uint32_t what = any(200);

        if (with_metadata && any(60) == 0)
            change(peer);
        else if (what < 60)
            send_message(peer);
        else if (what < 130)
            receive(peer);
        else if (what < 189)
            release(peer);
        else if (what < 199)
            look();
        else if (any(3) == 0)
            acquire(peer);
        else if (any(4) == 0)
            reconnect(peer);
        else if (any(4) == 0)
            eavesdrop();
        else if (any(4) == 0)
            starve(&peers[0], &peers[1]);
        else
            for (int burst = 40; burst; burst--) // beyond what is not charged to anybody
                send_message(peer);
    }
    return 0;
}
