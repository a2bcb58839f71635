# SPDX-License-Identifier: GPL-2.0-or-later
"""The private folder of path mode: where the nodes of a program's kdbus are files while it runs.

Below a new folder that nobody but its owner may enter:

    kdbus/                          what the program finds at /sys/fs/kdbus
    module/parameters/attach_flags_mask    what it finds below /sys/module/kdbus

Nothing ever goes through the outer folder by name: the supervisor works on descriptors of `kdbus` and `module`, and
a program that may enter those gets descriptors of them, too. So the outer folder can be closed to all others, even
when the program's processes become other users.

The folder stands on a tmpfs if there is one: XDG_RUNTIME_DIR, then /dev/shm, then TMPDIR, then /tmp.

It is gone at the end, however the end comes: a child, the janitor, waits until the last descriptor of a pipe that only
the supervisor holds is closed, and removes it. It is in a session of its own, so that what kills the supervisor's
process group spares it. Alternatives: removal by the supervisor, which does not happen when it is killed; removal at
the next start, which may be never.

Owners and modes are those of kdbusfs as far as the user may set them.

Weakness: whatever kills the janitor as well (the end of a container, say) leaves the folder behind, unless its file
system ends with it.
"""

from __future__ import annotations

import errno
import os
import signal
import tempfile
from contextlib import suppress
from typing import NoReturn

from interposer.errors import FILE_SIZE_ADVICE, PrivateFolderUnavailable
from interposer.launch.view import CONTROL_MODE, DEFAULT_ATTACH_FLAGS_MASK, KDBUS_DIRECTORY_MODE, MASK_FILE, MASK_MODE

_PREFIX = "kdbus-"


class PrivateFolder:
    """One folder and its janitor. `kdbus` and `module` are descriptors (close-on-exec) of the two inner folders."""

    def __init__(self) -> None:
        """To be made by a process of one thread. Raises `PrivateFolderUnavailable`."""
        self.path = _make()
        try:
            reading, self._alive = os.pipe2(os.O_CLOEXEC)
            self._janitor = os.fork()
            if self._janitor == 0:
                _be_janitor(self.path, reading)
            os.close(reading)
            self.kdbus = _make_kdbus(self.path)
            self.module = _make_module(self.path)
        except OSError as error:
            _remove(self.path)
            advice = FILE_SIZE_ADVICE if error.errno == errno.EFBIG else "let TMPDIR name another place"
            reason = os.strerror(error.errno or 0)
            raise PrivateFolderUnavailable(f"filling the private folder {self.path}", reason, advice) from error

    def remove(self) -> None:
        """Remove the folder, and wait until that is done. The two descriptors are the caller's."""
        os.close(self._alive)
        with suppress(ChildProcessError):
            os.waitpid(self._janitor, 0)


def _candidates() -> list[str]:
    named = [os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm", os.environ.get("TMPDIR"), "/tmp"]
    return list(dict.fromkeys(folder for folder in named if folder and os.path.isabs(folder)))


def _make() -> str:
    tried = []
    for folder in _candidates():
        try:
            return tempfile.mkdtemp(prefix=_PREFIX, dir=folder)
        except OSError as error:
            tried.append(f"{folder}: {os.strerror(error.errno or 0)}")
    raise PrivateFolderUnavailable(
        "making a private folder for the program's kdbus nodes", ", ".join(tried), "let TMPDIR name a place for it"
    )


def _make_kdbus(folder: str) -> int:
    path = os.path.join(folder, "kdbus")
    os.mkdir(path, 0o700)
    _create(os.path.join(path, "control"), CONTROL_MODE, b"")
    os.chmod(path, KDBUS_DIRECTORY_MODE)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _make_module(folder: str) -> int:
    path = os.path.join(folder, "module")
    parameters = os.path.join(path, "parameters")
    os.makedirs(parameters, 0o700)
    # It is only root who may change the mask.
    unwritable = 0 if os.geteuid() == 0 else 0o222
    _create(os.path.join(parameters, MASK_FILE), MASK_MODE & ~unwritable, b"%d\n" % DEFAULT_ATTACH_FLAGS_MASK)
    for each in (parameters, path):
        os.chmod(each, 0o755 & ~unwritable)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _create(path: str, mode: int, content: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _be_janitor(folder: str, alive: int) -> NoReturn:
    """The janitor's whole life. It keeps nothing of what it inherits, least of all the other end of the pipe."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.chdir("/")
        os.dup2(alive, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") > 0 else 1 << 16)
        os.read(0, 1)
        _remove(folder)
    finally:
        os._exit(0)


def _remove(folder: str) -> None:
    """Remove it with all that is in it, read-only folders included, however deep they lie in one another.

    What lies deeper is moved up and then looked at in turn, as neither a path nor a chain of calls can be as long as a
    program can make its folders deep. What cannot be removed stays, with what it lies in.
    """
    with suppress(OSError):
        top = _open_folder(folder)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(folder)


def _empty(top: int) -> None:
    """Remove what is in an open folder."""
    waiting = os.listdir(top)
    moved = 0
    while waiting:
        name = waiting.pop()
        with suppress(OSError):
            found = _open_folder(name, top)
            try:
                for inner in os.listdir(found):
                    if not _unlink(inner, found):
                        moved += 1
                        waiting += _move(inner, found, f"{_PREFIX}{moved}", top)
            finally:
                os.close(found)
            os.rmdir(name, dir_fd=top)


def _open_folder(path: str, parent: int | None = None) -> int:
    """A descriptor of a folder that its owner may read and change from now on; nothing is done to what is no folder."""
    place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{place}", 0o700)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)


def _unlink(name: str, folder: int) -> bool:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return False
    return True


def _move(name: str, folder: int, new_name: str, to: int) -> list[str]:
    """The new name, if it is a folder and could be moved; that takes permission to change the folder itself."""
    try:
        os.close(_open_folder(name, folder))
        os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=to)
    except OSError:
        return []
    return [new_name]
