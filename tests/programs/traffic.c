// SPDX-License-Identifier: GPL-2.0-or-later
//
// A conversation of several connections in one thread, invented from a seed and told in full: every call with its
// result, its errno and what it left in memory, and every message with all its bytes. Two runs with the same seed must
// tell the same, however the calls are served.
//
// usage: traffic REVISION SEED STEPS [metadata]
//
// REVISION is 2, 3, 219, final, mixed for peers of 3 and final on one bus, mixed-2 for those of 2 and final, or
// mixed-219 for peers of final, some of which turn out to be of 219 some time. With 219 alone, somebody else has to say
// so.
//
// With "metadata" the receivers ask for it, each for kinds of its own, and what there is to tell changes now and then.
// What differs from run to run (process numbers, times) is looked at, and told as what it should be.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
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

#include "dialects.h"

#define PEERS 4
#define POOL (64 * 1024)
#define KEPT 24
#define HEADER 16 // of an item
#define DESK 1024 // words

struct peer {
    const struct dialect *speaks;
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
static const char *revision; // that is spoken
static int few_files; // a memfd that waits for who speaks version 2 keeps that one's calls with the broker
static int turns; // who speaks the final revision may turn out to speak 219

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

static const struct dialect *dialect_of(const struct peer *peer)
{
    int odd = (peer - peers) & 1;

    if (!strcmp(revision, "mixed"))
        return &dialects[odd ? DIALECT_FINAL : DIALECT_3];
    if (!strcmp(revision, "2") || (!strcmp(revision, "mixed-2") && !odd))
        return &dialects[DIALECT_2];
    return &dialects[strcmp(revision, "3") ? DIALECT_FINAL : DIALECT_3];
}

// A HELLO with those flags, on `fd`; what it left is in `words`.
static int say_hello(const struct dialect *speaks, int fd, uint64_t flags, uint64_t wanted, uint64_t *words)
{
    memset(words, 0, 8 * speaks->hello_at.words);
    words[0] = 8 * speaks->hello_at.words;
    words[1] = flags;
    words[speaks->hello_at.send_mask] = speaks->attach_all;
    words[speaks->hello_at.recv_mask] = wanted;
    words[speaks->hello_at.pool_size] = POOL;
    return ioctl(fd, speaks->hello, words);
}

static void hello(struct peer *peer)
{
    const struct dialect *speaks = dialect_of(peer);
    uint64_t wanted = 0;
    uint64_t words[16];

    memset(peer, 0, sizeof(*peer));
    peer->speaks = speaks;
    if (with_metadata)
        wanted = peer - peers < 2 ? speaks->attach_all : any((uint32_t)speaks->attach_all + 1);
    peer->fd = open(path, O_RDWR | O_CLOEXEC);
    if (peer->fd < 0 || say_hello(speaks, peer->fd, peer - peers == 3 && any(2) ? 0 : ACCEPT_FD, wanted, words))
        exit(2);
    peer->id = words[speaks->hello_at.id];
    peer->pool = mmap(NULL, POOL, PROT_READ, MAP_SHARED, peer->fd, 0);
    if (peer->pool == MAP_FAILED)
        exit(2);
    if (speaks->hello_at.offset)
        peer->kept[peer->kept_count++] = words[speaks->hello_at.offset];
}

// An item of that many bytes of text, its zero included. Returns where the next one goes.
static uint64_t *put_text(uint64_t *word, uint64_t type, const char *text)
{
    size_t size = strlen(text) + 1;

    *word++ = HEADER + size;
    *word++ = type;
    memcpy(word, text, size);
    return word + (size + 7) / 8;
}

static void make_bus(void)
{
    const struct dialect *speaks = dialect_of(&peers[0]);
    uint64_t words[32] = {0};
    uint64_t *word = words + speaks->head;
    int control = open("/sys/fs/kdbus/control", O_RDWR | O_CLOEXEC);
    char name[32];

    memcpy(word, (uint64_t[]){32, speaks->item.bloom_parameter, 64, 1}, 32);
    snprintf(name, sizeof(name), "%u-traffic", getuid());
    word = put_text(word + 4, speaks->item.make_name, name);
    words[0] = (uint64_t)((char *)word - (char *)words);
    if (control < 0 || ioctl(control, speaks->bus_make, words))
        exit(2);
    snprintf(path, sizeof(path), "/sys/fs/kdbus/%s/bus", name);
}

static void acquire(struct peer *peer)
{
    uint64_t words[16] = {0};
    uint64_t *end;
    char name[32];

    snprintf(name, sizeof(name), "org.example.Peer%d", (int)(peer - peers));
    end = put_text(words + peer->speaks->head, peer->speaks->item.name, name);
    words[0] = (uint64_t)((char *)end - (char *)words);
    call(any(2) ? "acquire" : "acquire again", peer, peer->speaks->name_acquire, words, words[0], 0);
}

static uint64_t *put_vector(const struct peer *from, uint64_t *word, const void *address, uint64_t size)
{
    *word++ = 32;
    *word++ = from->speaks->item.vector;
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

static uint64_t *put_memfd(const struct peer *from, uint64_t *word)
{
    *word++ = 40;
    *word++ = from->speaks->item.memfd;
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
static uint64_t *put_nearby(const struct peer *from, uint64_t *word, uint32_t place, const uint64_t *message)
{
    uint32_t size = any(4) ? 40 : any(400) + 1;

    if (places[place].payload != places[place].message)
        return put_vector(from, word, memcpy(desk + places[place].payload, payload + any(64), size), size);
    // What comes later in the message differs from run to run.
    return put_vector(from, word, message, size < 8 * MSG_TIMEOUT ? size : 8);
}

// What a SEND left in its command, but for the address.
static void send_command(struct peer *from, uint64_t *command)
{
    const struct dialect *speaks = from->speaks;
    uint32_t first = speaks->send_at.kernel_flags ? speaks->send_at.kernel_flags : speaks->send_at.return_flags;

    call("send", from, speaks->send, command, 8 * speaks->send_at.address, 8 * first);
    tell(" reply", (int)(from - peers), 0, command + speaks->send_at.reply, 24);
}

// The same message for version 2, at `place`, with the flags of its command.
static void convert(const struct peer *from, const uint64_t *message, uint64_t flags, uint64_t *place)
{
    const uint64_t *end = message + (message[MSG_SIZE] + 7) / 8;
    const uint64_t *item = message + MSG_WORDS;
    uint64_t *word = place + MSG_WORDS + 1;

    place[MSG_FLAGS] = (message[MSG_FLAGS] & EXPECT_REPLY ? EXPECT_REPLY_2 : 0) |
                       (message[MSG_FLAGS] & NO_AUTO_START ? NO_AUTO_START_2 : 0) | (flags & 1 ? SYNC_REPLY_2 : 0) |
                       (flags & ~1ULL);
    place[2] = any(1000) == 0; // `kernel_flags`
    memcpy(place + 3, message + MSG_PRIORITY, 8 * (MSG_WORDS - MSG_PRIORITY));
    while (item < end) {
        uint64_t words = item + 2 > end || item[0] < HEADER || item[0] > 8 * (uint64_t)(end - item)
                             ? (uint64_t)(end - item)
                             : (item[0] + 7) / 8;

        if (words == 5 && item[1] == from->speaks->item.memfd) {
            memcpy(word, (uint64_t[]){32, item[1], item[3], item[4]}, 32);
            word += 4;
        } else {
            memcpy(word, item, 8 * words);
            word += words;
        }
        item += words;
    }
    place[MSG_SIZE] = 8 * (uint64_t)(word - place) - (-message[MSG_SIZE] & 7);
}

static void send_it(struct peer *from, uint64_t *command)
{
    static uint64_t converted[2 * DESK];
    const struct dialect *speaks = from->speaks;

    if (speaks->more_words) {
        uint64_t *place = converted + any(512);

        convert(from, (const uint64_t *)(uintptr_t)command[speaks->send_at.address], command[1], place);
        call("send", from, speaks->send, place, 8 * MSG_TIMEOUT, 0);
        return;
    }
    send_command(from, command);
}

static void send_message(struct peer *from)
{
    const struct dialect *speaks = from->speaks;
    struct peer *to = &peers[any(12) ? any(2) : any(PEERS)];
    uint32_t place = next_place();
    uint64_t *message = desk + places[place].message;
    uint64_t *command = desk + places[place].command;
    uint64_t *word = message + MSG_WORDS;
    uint32_t kind = any(40) ? any(12) : 12 + any(4);

    memset(desk, 0, DESK * 8);
    command[0] = 8 * speaks->send_at.words;
    command[speaks->send_at.return_flags] = any(2);
    command[speaks->send_at.address] = (uintptr_t)message;
    message[MSG_TYPE] = PAYLOAD_DBUS;
    message[MSG_DST] = to->id;
    message[MSG_COOKIE] = any(1000) + 1;
    message[MSG_PRIORITY] = (uint64_t)((int64_t)any(3) - 1);
    message[MSG_FLAGS] = any(8) ? 0 : NO_AUTO_START;
    if (kind < 6) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        message[MSG_FLAGS] |= EXPECT_REPLY;
        message[MSG_TIMEOUT] = (uint64_t)(now.tv_sec + 1000) * 1000000000; // never within this run
    } else if (kind < 12 && from->asked_count) {
        int which = (int)any((uint32_t)from->asked_count);

        message[MSG_DST] = from->asked_by[which];
        message[MSG_TIMEOUT] = from->asked_cookie[which];
        from->asked_count--;
        from->asked_by[which] = from->asked_by[from->asked_count];
        from->asked_cookie[which] = from->asked_cookie[from->asked_count];
    } else if (kind == 12) {
        message[MSG_TIMEOUT] = 77; // nobody asked
    } else if (kind == 13) {
        message[MSG_DST] = 1000; // nobody there
    } else if (kind == 14) {
        command[1] = 64;
    } else if (kind == 15) {
        message[MSG_TYPE] = 0;
    }
    if (any(3) == 0) {
        char name[32];

        snprintf(name, sizeof(name), "org.example.Peer%d", (int)(to - peers));
        word = put_text(word, speaks->item.dst_name, name);
        ((char *)word)[-1] = any(2) ? 'x' : 0; // padding
        if (any(2))
            message[MSG_DST] = 0;
    }
    if (any(4))
        word = put_nearby(from, word, place, message);
    for (uint32_t vectors = any(3) ? 0 : any(4); vectors; vectors--) {
        uint32_t size = any(400) ? any(600) + 1 : any(sizeof(payload) - 64) + 1;

        word = put_vector(from, word, any(150) ? payload + any(64) : any(2) ? NULL : (void *)8, size);
    }
    for (uint32_t files = any(few_files ? 150 : 3) ? 0 : any(3); files; files--)
        word = put_memfd(from, word);
    if (any(6) == 0) { // not first, and without the padding behind it
        char name[32];

        snprintf(name, sizeof(name), "org.example.Peer%d", (int)(to - peers));
        word = put_text(word, speaks->item.dst_name, name);
        message[MSG_SIZE] = (uint64_t)((char *)word - (char *)message) - (any(2) ? 6 : 0);
    } else {
        message[MSG_SIZE] = (uint64_t)((char *)word - (char *)message);
    }
    if (place == LAST) {
        uint64_t *end = desk + DESK - (word - message);

        message = memmove(end, message, (size_t)(word - message) * 8);
        command[speaks->send_at.address] = (uintptr_t)message;
    }
    if (any(200) == 0)
        message[MSG_SIZE] -= any(9);
    send_it(from, command);
}

// A topic is one bit of the bloom filter; who asks for none gets all of them.
#define BLOOM_SIZE 64
enum { TOPICS = 3 };

static void subscribe(struct peer *peer)
{
    const struct dialect *speaks = peer->speaks;
    uint64_t words[32] = {0};
    uint64_t *item = words + speaks->match_words;

    words[speaks->match_cookie] = any(3);
    if (any(4) == 0) {
        words[0] = 8 * speaks->match_words;
        call("unsubscribe", peer, speaks->match_remove, words, words[0], 0);
        return;
    }
    item[0] = HEADER + BLOOM_SIZE;
    item[1] = speaks->item.mask;
    item[2] = any(4) ? 1ULL << any(TOPICS) : 0;
    words[0] = 8 * speaks->match_words + item[0];
    call("subscribe", peer, speaks->match_add, words, words[0], 0);
}

// To all who want it, or to one of them; mostly with a vector of payload, now and then with what signals must not have.
static void send_signal(struct peer *from)
{
    const struct dialect *speaks = from->speaks;
    uint32_t place = next_place();
    uint64_t *message = desk + places[place].message;
    uint64_t *command = desk + places[place].command;
    uint64_t *word = message + MSG_WORDS;
    uint32_t odd = any(40);
    int to_one = any(3) == 0;

    if (place == LAST || place == 5) // where there is no room for a filter
        return;
    memset(desk, 0, DESK * 8);
    command[0] = 8 * speaks->send_at.words;
    command[1] = odd == 0;
    command[speaks->send_at.address] = (uintptr_t)message;
    message[MSG_TYPE] = PAYLOAD_DBUS;
    message[MSG_DST] = odd == 1 ? from->id : to_one ? peers[any(2)].id : UINT64_MAX;
    message[MSG_COOKIE] = any(1000);
    message[MSG_FLAGS] = odd == 2 ? 0 : SIGNAL;
    message[MSG_TIMEOUT] = odd == 3;
    if (odd != 4) {
        *word++ = HEADER + 8 + BLOOM_SIZE;
        *word++ = speaks->item.filter;
        *word++ = any(30) == 0; // generation
        *word = 1ULL << any(TOPICS);
        word += BLOOM_SIZE / 8;
    }
    if (any(4))
        word = put_vector(from, word, payload + any(64), any(400) + 1);
    if (any(few_files ? 200 : 10) == 0)
        word = put_memfd(from, word);
    if (any(100) == 0)
        word = put_vector(from, word, (void *)8, 8);
    message[MSG_SIZE] = (uint64_t)((char *)word - (char *)message);
    send_it(from, command);
}

static const uint64_t *items_of(const struct peer *peer, const uint64_t *message)
{
    return message + MSG_WORDS + peer->speaks->more_words;
}

// The message's items with what differs from run to run made equal, if it is right.
static void tell_items(const struct peer *peer, const uint64_t *message)
{
    static uint64_t copy[16 * 1024];
    uint64_t size = message[MSG_SIZE] - 8 * (uint64_t)(items_of(peer, message) - message);
    uint64_t *word = copy;
    uint64_t *end = copy + (size + 7) / 8;
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    memcpy(copy, items_of(peer, message), size);
    for (; word < end; word += (word[0] + 7) / 8) {
        if (word[1] == ITEM_TIMESTAMP) {
            uint64_t latest = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;

            word[3] = word[3] <= latest && word[3] + 300000000000 > latest;
            word[4] = word[4] > 1500000000000000000; // some time after 2017
        } else if (word[1] == ITEM_CREDS && word[0] == CREDS_SIZE_2) {
            word[4] = word[4] == (uint64_t)getpid();
            word[5] = word[5] == (uint64_t)getpid();
            word[6] = word[6] != 0;
        } else if (word[1] == peer->speaks->item_pids) {
            word[2] = word[2] == (uint64_t)getpid();
            word[3] = word[3] == (uint64_t)getpid();
            word[4] = word[4] == (uint64_t)getppid();
        }
    }
    tell(" items", (int)(peer - peers), 0, copy, size);
}

// The payload that lies in the pool.
static void tell_payload(const struct peer *peer, const uint64_t *message)
{
    uint64_t base = peer->speaks->relative ? (uint64_t)((const char *)message - (const char *)peer->pool) : 0;
    const uint64_t *end = message + (message[MSG_SIZE] + 7) / 8;

    for (const uint64_t *word = items_of(peer, message); word < end; word += (word[0] + 7) / 8)
        if (word[1] == peer->speaks->item.offset && word[3] <= POOL && base + word[3] + word[2] <= POOL)
            tell(" payload", (int)(peer - peers), 0, peer->pool + base + word[3], word[2]);
}

// Numbers that a message was given are told with its items, so they have to be the same in each run.
static void close_files(const struct peer *peer, const uint64_t *message)
{
    const uint64_t *end = message + (message[MSG_SIZE] + 7) / 8;

    for (const uint64_t *word = items_of(peer, message); word < end; word += (word[0] + 7) / 8)
        if (word[1] == peer->speaks->item.memfd)
            close((int)word[4 - peer->speaks->more_words]);
}

static void receive(struct peer *peer)
{
    const struct dialect *speaks = peer->speaks;
    uint64_t command[16] = {8 * speaks->recv_at.words};
    const uint64_t *message;
    uint64_t flags;
    uint64_t copy[MSG_WORDS + 1];
    uint32_t more = speaks->more_words;
    size_t header = 8 * (MSG_WORDS + more);

    if (peer->kept_count == KEPT)
        return;
    command[speaks->recv_at.return_flags] = any(2);
    // What version 2 has there must be 0.
    command[speaks->recv_at.dropped] = more && any(20) ? 0 : any(2);
    flags = command[speaks->recv_at.flags] = any(40) ? 0 : any(8);
    command[speaks->recv_at.priority] = (uint64_t)((int64_t)any(3) - 1);
    if (call("recv", peer, speaks->recv, command, 8 * speaks->recv_at.words, 0) || flags & RECV_DROP)
        return;
    message = (const uint64_t *)(peer->pool + command[speaks->recv_at.message]);
    memcpy(copy, message, header);
    if (copy[MSG_FLAGS] & EXPECT_REPLY) {
        copy[MSG_TIMEOUT + more] = 0; // the deadline
        tell(" request", (int)(peer - peers), 0, copy, header);
        if (peer->asked_count < KEPT && !(flags & RECV_PEEK)) {
            peer->asked_by[peer->asked_count] = message[MSG_SRC + more];
            peer->asked_cookie[peer->asked_count++] = message[MSG_COOKIE + more];
        }
    } else {
        tell(" message", (int)(peer - peers), 0, copy, header);
    }
    tell_items(peer, message);
    tell_payload(peer, message);
    close_files(peer, message);
    peer->kept[peer->kept_count++] = command[speaks->recv_at.message];
}

static void give_back(struct peer *peer, const char *what, uint64_t offset, uint64_t flags)
{
    const struct dialect *speaks = peer->speaks;
    uint64_t command[8] = {8 * speaks->free_at.words};

    command[speaks->free_at.return_flags] = any(2);
    command[speaks->free_at.offset] = offset;
    command[speaks->free_at.flags] = flags;
    call(what, peer, speaks->release, command, 8 * speaks->free_at.words, 0);
}

static void release(struct peer *peer)
{
    uint32_t which;

    if (!peer->kept_count && any(10))
        return;
    if (!peer->kept_count || any(200) == 0) {
        give_back(peer, "free nothing", any(4) ? any(POOL) & ~7u : POOL, any(2));
        return;
    }
    which = any((uint32_t)peer->kept_count);
    give_back(peer, "free", peer->kept[which], 0);
    peer->kept[which] = peer->kept[--peer->kept_count];
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
    const uint64_t all = peer->speaks->attach_all;
    const uint64_t items[] = {24, peer->speaks->item.attach_flags_recv, any(2) ? any((uint32_t)all + 1) : all};
    uint64_t update[8] = {8 * peer->speaks->head + sizeof(items)};

    memcpy(update + peer->speaks->head, items, sizeof(items));
    switch (any(4)) {
    case 0:
        printf("name: %d\n", prctl(PR_SET_NAME, names[any(4)]));
        break;
    case 1:
        printf("group: %d\n", setegid(any(3)));
        break;
    case 2:
        call("update", peer, peer->speaks->update, update, update[0], 0);
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

// It has spoken 219 all the time.
static void turn_out(struct peer *peer)
{
    uint64_t words[6] = {sizeof(words), 0, 0, peer->id, 0, 0};

    if (peer->kept_count == KEPT)
        return;
    if (!call("info", peer, CONN_INFO_219, words, sizeof(words), 0))
        give_back(peer, "free", words[4], 0);
}

// Sees what the two who talk most say next.
static void eavesdrop(void)
{
    const struct dialect *speaks = dialect_of(&peers[any(2)]);
    int monitor = open(path, O_RDWR | O_CLOEXEC);
    uint64_t words[16];
    int result = say_hello(speaks, monitor, MONITOR, 0, words);

    tell("monitor", PEERS, result, words + speaks->hello_at.id, 8);
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
    const struct dialect *speaks = to->speaks;
    uint64_t message[MSG_WORDS + 5] = {sizeof(message)};
    uint64_t send[16] = {8 * from->speaks->send_at.words};
    uint64_t command[16] = {speaks->recv_at.flags ? 8 * speaks->recv_at.words : 0};

    send[from->speaks->send_at.address] = (uintptr_t)message;
    message[MSG_DST] = to->id;
    message[MSG_TYPE] = PAYLOAD_DBUS;
    memcpy(message + MSG_WORDS, (uint64_t[]){40, from->speaks->item.memfd, 0, 8, (uint32_t)memfds[0]}, 40);
    allow_descriptors(1); // none that is free
    for (int calls = 6; calls; calls--) {
        send_it(from, send);
        while (!call("recv", to, speaks->recv, command, 8 * speaks->recv_at.words, 0))
            give_back(to, "free", command[speaks->recv_at.message], 0);
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

    if (argc != 4 && argc != 5)
        return 2;
    with_metadata = argc == 5;
    revision = argv[1];
    turns = !strcmp(revision, "mixed-219");
    few_files = !strcmp(revision, "2") || !strcmp(revision, "mixed-2");
    state = strtoull(argv[2], NULL, 10) + 1;
    steps = strtol(argv[3], NULL, 10);
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
        else if (turns && any(150) == 0)
            turn_out(&peers[any(2) * 2]); // the others stay
        else if (any(80) == 0)
            subscribe(peer);
        else if (any(14) == 0)
            send_signal(peer);
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
