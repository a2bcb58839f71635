// SPDX-License-Identifier: GPL-2.0-or-later
//
// Evidence: whether what was once read about a thread still reads the same. What it is good for, what has to be in it,
// and its layout are explained in interposer/target/evidence.py; nothing here knows what any of it means.
//
// An open /proc/TID belongs to the thread that had the number when it was opened: once that has ended, nothing can be
// read through it any more.

#include "helper.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { LINK = 1, CONTENT, STATUS, ROOT, PARAMETER };

#define LONGEST 16384 // limit of all evidence together (interposer/target/evidence.py)

static int link_is(int directory, const char *name, const char *expected, size_t size)
{
    char target[LONGEST];
    ssize_t length = readlinkat(directory, name, target, sizeof(target));

    return length >= 0 && (size_t)length == size && !memcmp(target, expected, size);
}

// One byte more is asked for than is expected, so that more is noticed.
static int content_is(int directory, const char *name, const char *expected, size_t size)
{
    char content[LONGEST + 1];
    int file = openat(directory, name, O_RDONLY | O_CLOEXEC);
    ssize_t length;

    if (file < 0)
        return 0;
    length = read(file, content, size + 1);
    close(file);
    return length >= 0 && (size_t)length == size && !memcmp(content, expected, size);
}

// Each of the expected lines is there, in their order; other lines may stand in between.
static int status_has(int status, const char *expected, size_t size)
{
    char text[LONGEST];
    ssize_t length = pread(status, text + 1, sizeof(text) - 1, 0);
    const char *rest = text;
    const char *end;

    if (length <= 0 || (size_t)length == sizeof(text) - 1)
        return 0;
    text[0] = '\n'; // so that every line has one before it
    end = text + 1 + length;
    while (size) {
        const char *stop = memchr(expected, '\n', size);
        size_t line = stop ? (size_t)(stop - expected) + 1 : size;
        const char *found = memmem(rest, (size_t)(end - rest), expected, line);

        while (found && found[-1] != '\n')
            found = memmem(found + 1, (size_t)(end - found - 1), expected, line);
        if (!found)
            return 0;
        rest = found + line - 1;
        expected += line;
        size -= line;
    }
    return 1;
}

static int root_is(int directory, const char *name, const char *expected, size_t size)
{
    struct statx found;
    struct {
        uint64_t device, inode, mount;
    } root;

    if (size != sizeof(root) || statx(directory, name, 0, STATX_INO | STATX_MNT_ID, &found) ||
        !(found.stx_mask & STATX_MNT_ID))
        return 0;
    memcpy(&root, expected, sizeof(root));
    return root.device == makedev(found.stx_dev_major, found.stx_dev_minor) && root.inode == found.stx_ino &&
           root.mount == found.stx_mnt_id;
}

static int parameter_is(const char *expected, size_t size)
{
    char content[LONGEST + 1];
    ssize_t length;
    int32_t file;

    if (size < sizeof(file))
        return 0;
    memcpy(&file, expected, sizeof(file));
    size -= sizeof(file);
    length = pread(file, content, size + 1, 0);
    return length >= 0 && (size_t)length == size && !memcmp(content, expected + sizeof(file), size);
}

int kdbus_evidence_holds(int directory, int status, const char *evidence, size_t size)
{
    if (size > LONGEST)
        return 0;
    while (size) {
        struct {
            uint32_t kind;
            uint32_t name; // bytes of it, its zero included
            uint32_t found; // bytes of what was found
        } head;
        const char *name = evidence + sizeof(head);
        const char *found;
        int holds = 0;

        if (size < sizeof(head))
            return 0;
        memcpy(&head, evidence, sizeof(head));
        size -= sizeof(head);
        if (!head.name || head.name > size || name[head.name - 1] || head.found > size - head.name)
            return 0;
        found = name + head.name;
        if (head.kind == LINK)
            holds = link_is(directory, name, found, head.found);
        else if (head.kind == CONTENT)
            holds = content_is(directory, name, found, head.found);
        else if (head.kind == STATUS)
            holds = status_has(status, found, head.found);
        else if (head.kind == ROOT)
            holds = root_is(directory, name, found, head.found);
        else if (head.kind == PARAMETER)
            holds = parameter_is(found, head.found);
        if (!holds)
            return 0;
        evidence = found + head.found;
        size -= head.name + head.found;
    }
    return 1;
}
