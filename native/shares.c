// SPDX-License-Identifier: GPL-2.0-or-later
//
// Whose call is next, when several wait.
//
// The kernel hands out trapped calls in the order in which they came. A process with a thousand threads that call
// without pause would get a thousand turns for each turn of a process with one, and who calls now and then would wait
// for all of them. So when more than one call waits, all are received and wait here, and the next one is chosen: users
// take turns first, then the processes of a user, then the threads of a process.
//
// Turns are of equal time, not of equal numbers of calls, as one call may take a thousand times as long as another.
// What a call takes is known only afterwards, so each user and each process has an account of what it has used, and the
// one that has used least is next (start-time fair queueing: P. Goyal, H. M. Vin, H. Cheng, 1996). Who comes, or comes
// back after having paid, starts at the account of the one who is being served: time in which nothing was asked for
// is not saved up, and a call that has just come waits for the present one of others, not for all that they have asked
// for. Who has used more than that keeps the account until the others have caught up, or nobody waits any more.
//
// The threads of a process just queue: each has one call at a time, and is behind the others when it calls again.
//
// A single call is charged a millisecond at most. Where two hundred take turns of ten microseconds, who once had to
// wait for something slow would pay for it with seconds otherwise; and most of what is slow is so once.
//
// One thing comes before turns: a call whose success depends on somebody else's, as a SEND that a full queue refuses
// does on its receiver. It would try again and again, and each time be in the way of who makes room. So its receiver is
// favoured: the next call of that process is served first, once for each refusal, and charged to nobody.
//
// Accounts stand in lists in order of what was used. One that was charged moves on from the end of its list, one that
// is new from the beginning; either is mostly near its place. Lists are as long as there are users, or processes of one
// user, that call at the same time; SHARES_ROOM of both at most, and those who have not paid yet.
//
// The user is the real one: whoever starts a program that changes its identity is charged for it. Users and processes
// of threads are remembered for a second, as looking takes longer than serving a call; a thread number that is
// another's by then charges the wrong account for as long.

#include "shares.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAVOURS 16 // at a time
#define MOST_CHARGED 1000000ULL // ns, for one call
#define OWNERS 4096 // threads whose owners are remembered
#define OWNER_NS 1000000000ULL

struct waiting_call {
    struct waiting_call *next;
    struct kdbus_notification notification;
    int listener;
};

struct share;

// Accounts in order of what they have used.
struct line {
    struct share *first;
    struct share *last;
    uint64_t now; // what the one served last had used before
};

// The account of a user, or of a process of that user.
struct share {
    struct share *previous;
    struct share *next;
    struct share *user; // NULL for that of a user
    uint64_t key;
    uint64_t used;
    size_t waiting;      // calls
    struct line line;    // a user's processes
    struct waiting_call *first; // a process's calls
    struct waiting_call *last;
};

struct favour {
    uint64_t user;
    uint64_t process;
};

struct owner {
    uint32_t thread;
    uint64_t looked_ns;
    uint64_t user;
    uint64_t process;
};

struct kdbus_shares {
    struct line users;
    size_t waiting;
    struct share *served; // the process whose call was chosen last, and has not been charged
    struct favour favours[FAVOURS];
    size_t favour_count;
    struct owner owners[OWNERS];
};

static void unlink_share(struct line *line, struct share *share)
{
    *(share->previous ? &share->previous->next : &line->first) = share->next;
    *(share->next ? &share->next->previous : &line->last) = share->previous;
}

// `previous`: NULL to be the first.
static void link_share(struct line *line, struct share *previous, struct share *share)
{
    share->previous = previous;
    share->next = previous ? previous->next : line->first;
    *(share->previous ? &share->previous->next : &line->first) = share;
    *(share->next ? &share->next->previous : &line->last) = share;
}

static void charge(struct line *line, struct share *share, uint64_t cost)
{
    struct share *previous;

    unlink_share(line, share);
    share->used += cost;
    for (previous = line->last; previous && previous->used > share->used; previous = previous->previous)
        ;
    link_share(line, previous, share);
}

static struct share *find(const struct line *line, uint64_t key)
{
    for (struct share *share = line->first; share; share = share->next)
        if (share->key == key)
            return share;
    return NULL;
}

// The account `key`, opened if there is none; NULL if there is no memory.
static struct share *obtain(struct line *line, struct share *user, uint64_t key)
{
    struct share *previous = NULL;
    struct share *share = find(line, key);

    if (share)
        return share;
    share = calloc(1, sizeof(*share));
    if (!share)
        return NULL;
    share->user = user;
    share->key = key;
    share->used = line->now;
    for (struct share *next = line->first; next && next->used <= share->used; next = next->next)
        previous = next;
    link_share(line, previous, share);
    return share;
}

static void close_accounts(struct line *line)
{
    while (line->first) {
        struct share *share = line->first;

        close_accounts(&share->line); // of users and processes: never deeper
        while (share->first) {
            struct waiting_call *call = share->first;

            share->first = call->next;
            free(call);
        }
        unlink_share(line, share);
        free(share);
    }
    line->now = 0;
}

// Who has used least of those with calls. Who has used less and has none is forgotten: coming back is beginning anew.
static struct share *foremost(struct line *line)
{
    while (line->first && !line->first->waiting) {
        struct share *share = line->first;

        close_accounts(&share->line);
        unlink_share(line, share);
        free(share);
    }
    return line->first;
}

struct kdbus_shares *kdbus_shares_create(void)
{
    return calloc(1, sizeof(struct kdbus_shares));
}

void kdbus_shares_destroy(struct kdbus_shares *shares)
{
    if (shares)
        close_accounts(&shares->users);
    free(shares);
}

size_t shares_waiting(const struct kdbus_shares *shares)
{
    return shares->waiting;
}

int kdbus_shares_put(struct kdbus_shares *shares, uint64_t user, uint64_t process, int listener,
                     const struct kdbus_notification *notification)
{
    struct share *of_user = obtain(&shares->users, NULL, user);
    struct share *share = of_user ? obtain(&of_user->line, of_user, process) : NULL;
    struct waiting_call *call = share ? malloc(sizeof(*call)) : NULL;

    if (!call)
        return -ENOMEM;
    *call = (struct waiting_call){.notification = *notification, .listener = listener};
    *(share->last ? &share->last->next : &share->first) = call;
    share->last = call;
    share->waiting++;
    of_user->waiting++;
    shares->waiting++;
    return 0;
}

static void take_call(struct kdbus_shares *shares, struct share *process, struct waiting_call *previous,
                      struct kdbus_notification *notification, int *listener)
{
    struct waiting_call *call = previous ? previous->next : process->first;

    *(previous ? &previous->next : &process->first) = call->next;
    if (!call->next)
        process->last = previous;
    process->waiting--;
    process->user->waiting--;
    shares->waiting--;
    *notification = call->notification;
    *listener = call->listener;
    free(call);
}

// The next call of that process is served first. Of too many such processes, those favoured first are forgotten.
void kdbus_shares_favour(struct kdbus_shares *shares, uint64_t user, uint64_t process)
{
    for (size_t i = 0; i < shares->favour_count; i++)
        if (shares->favours[i].user == user && shares->favours[i].process == process)
            return;
    if (shares->favour_count == FAVOURS)
        memmove(shares->favours, shares->favours + 1, --shares->favour_count * sizeof(*shares->favours));
    shares->favours[shares->favour_count++] = (struct favour){user, process};
}

// A process that is favoured and has a call; it no longer is then.
static struct share *favoured(struct kdbus_shares *shares)
{
    for (size_t i = 0; i < shares->favour_count; i++) {
        struct share *user = find(&shares->users, shares->favours[i].user);
        struct share *process = user ? find(&user->line, shares->favours[i].process) : NULL;

        if (process && process->waiting) {
            shares->favour_count--;
            memmove(shares->favours + i, shares->favours + i + 1,
                    (shares->favour_count - i) * sizeof(*shares->favours));
            return process;
        }
    }
    return NULL;
}

int kdbus_shares_next(struct kdbus_shares *shares, struct kdbus_notification *notification, int *listener)
{
    struct share *first = favoured(shares);
    struct share *user = foremost(&shares->users);
    struct share *process = user ? foremost(&user->line) : NULL;

    if (first) {
        shares->served = NULL;
        take_call(shares, first, NULL, notification, listener);
        return 1;
    }
    shares->served = process;
    if (!process)
        return 0;
    shares->users.now = user->used;
    user->line.now = process->used;
    take_call(shares, process, NULL, notification, listener);
    return 1;
}

void kdbus_shares_charge(struct kdbus_shares *shares, uint64_t cost)
{
    struct share *process = shares->served;

    if (cost > MOST_CHARGED)
        cost = MOST_CHARGED;
    shares->served = NULL;
    if (!shares->waiting) {
        close_accounts(&shares->users); // nobody has to wait for anybody
        shares->favour_count = 0;
    } else if (process) {
        charge(&process->user->line, process, cost);
        charge(&shares->users, process->user, cost);
    }
}

int kdbus_shares_take(struct kdbus_shares *shares, int of, struct kdbus_notification *notification)
{
    for (struct share *user = shares->users.first; user; user = user->next) {
        for (struct share *process = user->line.first; process; process = process->next) {
            struct waiting_call *previous = NULL;

            for (struct waiting_call *call = process->first; call; previous = call, call = call->next) {
                if (call->listener == of) {
                    take_call(shares, process, previous, notification, &of);
                    return 1;
                }
            }
        }
    }
    return 0;
}

// The number behind `key` in /proc/TID/status, which begins with a line without one.
static int number_behind(const char *text, const char *key, uint64_t *number)
{
    const char *found = strstr(text, key);

    return found && sscanf(found + strlen(key), "%lu", number) == 1;
}

static int read_owner(uint32_t thread, uint64_t *user, uint64_t *process)
{
    char text[512]; // the lines stand behind that with the name, which is short
    char path[32];
    ssize_t length;
    int status;

    snprintf(path, sizeof(path), "/proc/%u/status", thread);
    status = open(path, O_RDONLY | O_CLOEXEC);
    if (status < 0)
        return 0;
    length = read(status, text, sizeof(text) - 1);
    close(status);
    if (length < 0)
        return 0;
    text[length] = 0;
    return number_behind(text, "\nTgid:\t", process) && number_behind(text, "\nUid:\t", user);
}

int shares_owner(struct kdbus_shares *shares, int listener, const struct kdbus_notification *notification,
                 uint64_t now_ns, uint64_t *user, uint64_t *process)
{
    struct owner *owner = &shares->owners[notification->pid % OWNERS];

    if (!notification->pid || owner->thread != notification->pid || now_ns - owner->looked_ns > OWNER_NS) {
        *owner = (struct owner){notification->pid, now_ns, UINT64_MAX, UINT64_MAX - (uint64_t)listener};
        if (notification->pid && !read_owner(notification->pid, &owner->user, &owner->process))
            *owner = (struct owner){notification->pid, now_ns, UINT64_MAX, UINT64_MAX - (uint64_t)listener};
        if (kdbus_listener_is_valid(listener, notification->id) != 1) {
            owner->thread = 0; // whom that was about is not known
            return 0;
        }
    }
    *user = owner->user;
    *process = owner->process;
    return 1;
}

// Favours the process of a thread whose calls have waited lately; of any other, nobody's turn would be affected.
void shares_favour_thread(struct kdbus_shares *shares, uint32_t thread)
{
    const struct owner *owner = &shares->owners[thread % OWNERS];

    if (thread && owner->thread == thread)
        kdbus_shares_favour(shares, owner->user, owner->process);
}
