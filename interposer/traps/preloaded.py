# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor's side of the preloaded library (`native/preload/preload.h`): what is answered when it is opened.

*The library itself.* A loader that cannot open what LD_PRELOAD names says so on stderr, in every program that is
started: in a chroot, in another mount namespace, as a user who may not read the folder, or where the library is for
another machine than the program, as one of 64 bits is for one of 32. But in path mode the loader's open is trapped. So
whoever opens the library by the very path that LD_PRELOAD has gets it, wherever that path leads; programs of 32 bits
get an empty one. A descriptor of a file that everybody may have leads nowhere else.

*What it has to know* (`STATE`): whether a folder of the private folder was handed out, on which devices those are,
whether there is a kdbusfs that a program has mounted, whether receivers may serve themselves, and whether what a signal
has broken off may be repeated: not where an error is injected, EINTR perhaps, nor on kernels before 5.19, where a call
that says EINTR may have taken effect (`interposer.traps.exactly_once`). It maps the page,
which is written here before the call is answered that makes the difference; so it is never late.

In mount mode (`kdbus run --preload`) only opens for writing are trapped, so that the loader is on its own.

Weakness: when the supervisor has ended, the loader finds the library by its path or complains.
"""

from __future__ import annotations

import errno
import os
import struct

from interposer.launch.filter import I386
from interposer.launch.preloading import preloadable
from interposer.nodes.resolve import PATH_LIMIT
from interposer.traps.answering import Answering
from interposer.traps.exactly_once import Interrupted
from native import memory
from native.notification import Notification
from native.pool import Pool
from native.preloaded import STATE, STATE_PATH

_PAGE = 4096


class Preloaded:
    """What one supervisor has for the preloaded libraries of its programs."""

    def __init__(
        self, kdbus: int, module: int, *, real: bool = False, shelves: bool = False, repeats: bool = False
    ) -> None:
        """Of the two folders, the devices. `real`: in mount mode, where nodes are real files. `shelves`: receivers may
        serve themselves (`interposer.traps.shelves`). `repeats`: a call that says EINTR has not been received, unless
        it is one that waits. Raises OSError."""
        self._devices = kdbus, module
        self._real = real
        self._shelves = shelves
        self._repeats = repeats
        self._entered = self._mounted = False
        self._state = Pool(b"kdbus-preload", _PAGE)
        self._put()
        self._path = os.fsencode(preloadable() or "")
        self._for_32_bits = -1

    def entered(self) -> None:
        """A program is about to get a folder of the private folder."""
        if not self._entered:
            self._entered = True
            self._put()

    def mounted(self) -> None:
        """A program is about to have mounted a kdbusfs."""
        self._mounted = True
        self._put()

    def _put(self) -> None:
        flags = self._entered, self._mounted, self._real, self._shelves
        self._state.write(0, STATE.pack(*flags, *self._devices, self._repeats))

    def open(self, path: bytes, architecture: int) -> int | None:
        """A descriptor for who opens `path`, the caller's to close; None if it is none of this. Raises OSError.

        `architecture`: AUDIT_ARCH_* of the program. Each gets a file position of its own, as loaders read.
        """
        if path == STATE_PATH:
            return os.dup(self._state.read_only_descriptor)
        if not path or path != self._path:
            return None
        if architecture != I386.audit:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        if self._for_32_bits < 0:
            self._for_32_bits = os.memfd_create("kdbus-preload-32", os.MFD_CLOEXEC)
            os.write(self._for_32_bits, empty_library())
        return os.open(f"/proc/self/fd/{self._for_32_bits}", os.O_RDONLY | os.O_CLOEXEC)

    def serve(self, answering: Answering, call: Notification, address: int, flags: int) -> bool:
        """Serve an open of the path at `address` with `flags`; False, and nothing has happened, if it is another."""
        try:
            name = memory.read_string(call.pid, address, PATH_LIMIT)
            opened = self.open(name, call.architecture)
        except OSError:
            return False
        if opened is None:
            return False

        def give() -> int:
            try:
                return answering.listener.add_descriptor(call.id, opened, close_on_exec=bool(flags & os.O_CLOEXEC))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ESRCH):
                    raise Interrupted from error
                return -(error.errno or errno.EIO)

        try:
            answering.answer(call, give)
        finally:
            os.close(opened)
        return True

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self._state.close()
        if self._for_32_bits >= 0:
            os.close(self._for_32_bits)
            self._for_32_bits = -1


def empty_library() -> bytes:
    """A shared library for 32-bit x86 as elf(5) has it: one segment, and a dynamic section that names no symbol.

    Loaders write into the dynamic section, and take a stack for executable where nothing says that it is not.
    """
    header_size, entry_size, entries = 52, 32, 3
    names_at = header_size + entries * entry_size
    names = b"\0kdbus-preload.so\0\0\0"
    symbols_at = names_at + len(names)
    hash_at = symbols_at + 16
    dynamic_at = hash_at + 16
    dynamic = (
        (14, 1),  # DT_SONAME
        (4, hash_at),  # DT_HASH
        (5, names_at),  # DT_STRTAB
        (6, symbols_at),  # DT_SYMTAB
        (10, len(names)),  # DT_STRSZ
        (11, 16),  # DT_SYMENT
        (0, 0),
    )
    size = dynamic_at + 8 * len(dynamic)
    identity = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9)  # 32 bits, little-endian, version 1
    # ET_DYN, EM_386, version, no entry point, program headers behind this one, no sections
    header = struct.pack("<HHIIIIIHHHHHH", 3, 3, 1, 0, header_size, 0, 0, header_size, entry_size, entries, 0, 0, 0)
    readable, writable = 4, 2
    load = struct.pack("<8I", 1, 0, 0, 0, size, size, readable | writable, _PAGE)
    section = struct.pack("<8I", 2, *3 * [dynamic_at], *2 * [8 * len(dynamic)], readable | writable, 4)
    stack = struct.pack("<8I", 0x6474E551, 0, 0, 0, 0, 0, readable | writable, 16)
    body = names + bytes(16) + struct.pack("<4I", 1, 1, 0, 0)
    return identity + header + load + section + stack + body + b"".join(struct.pack("<2I", *each) for each in dynamic)
