# SPDX-License-Identifier: GPL-2.0-or-later
"""How namespaces number users, groups and processes: real namespaces where the machine allows them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.interfaces import INVALID_ID
from interposer.target.ids import ThreadFolder, ThreadIds, UserNamespaces, overflow_id, own_namespace, parse_map
from native.namespace import CLONE_NEWPID, CLONE_NEWUSER, unshare
from tests.support.targets import fork, held_child


@pytest.fixture
def namespaces() -> Iterator[UserNamespaces]:
    held = UserNamespaces()
    yield held
    held.close()


def folder_of(pid: int) -> ThreadFolder:
    return ThreadFolder(pid, lambda: True)


def ids_of(pid: int, namespaces: UserNamespaces) -> ThreadIds:
    return ThreadIds(folder_of(pid), namespaces)


def new_user_namespace() -> None:
    unshare(CLONE_NEWUSER)


def write_maps(pid: int, users: str, groups: str) -> None:
    """Needs root, except for a map of one's own id alone."""
    try:
        Path(f"/proc/{pid}/setgroups").write_text("deny")
        Path(f"/proc/{pid}/uid_map").write_text(users)
        Path(f"/proc/{pid}/gid_map").write_text(groups)
    except PermissionError as error:
        pytest.skip(f"not allowed here: {error}")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_own_namespaces_are_identities(namespaces: UserNamespaces) -> None:
    ids = ids_of(os.getpid(), namespaces)
    assert ids.user_namespace == os.stat("/proc/self/ns/user").st_ino == own_namespace(b"user")
    assert ids.pid_namespace == os.stat("/proc/self/ns/pid").st_ino == own_namespace(b"pid")
    assert ids.from_uid(os.getuid()) == ids.make_uid(os.getuid()) == os.getuid()
    assert ids.from_gid(os.getgid()) == ids.make_gid(os.getgid()) == os.getgid()
    assert ids.from_uid(INVALID_ID) is None and ids.make_gid(INVALID_ID) is None
    assert len(namespaces) == 0


def test_overflow_ids_are_the_kernels(namespaces: UserNamespaces) -> None:
    ids = ids_of(os.getpid(), namespaces)
    assert ids.overflow_uid == int(Path("/proc/sys/kernel/overflowuid").read_text()) == overflow_id("uid")
    assert ids.overflow_gid == int(Path("/proc/sys/kernel/overflowgid").read_text()) == overflow_id("gid")


def test_map_of_own_namespace_names_existing_ids_only() -> None:
    # What an ordinary user's namespace shows of itself: the second column is in its parent's ids.
    assert parse_map(b"         0       1000          1\n", own=True) == ((0, 0, 1),)


def test_map_of_another_namespace_leaves_out_what_has_no_name() -> None:
    text = b"0 100000 10\n10 4294967295 5\n20 7 1\n"
    assert parse_map(text, own=False) == ((0, 100000, 10), (20, 7, 1))


def test_own_id_in_another_namespace(namespaces: UserNamespaces) -> None:
    with held_child(new_user_namespace) as child:
        write_maps(child, f"5 {os.geteuid()} 1", f"6 {os.getegid()} 1")
        ids = ids_of(child, namespaces)
        assert ids.user_namespace == os.stat(f"/proc/{child}/ns/user").st_ino != own_namespace(b"user")
        assert (ids.from_uid(os.geteuid()), ids.from_gid(os.getegid())) == (5, 6)
        assert (ids.make_uid(5), ids.make_gid(6)) == (os.geteuid(), os.getegid())
        assert ids.from_uid(os.geteuid() + 1) is None and ids.make_uid(6) is None and ids.make_uid(4) is None


def test_map_of_several_extents(namespaces: UserNamespaces) -> None:
    with held_child(new_user_namespace) as child:
        write_maps(child, "0 100000 10\n10 300000 5\n", "0 200000 1\n")
        ids = ids_of(child, namespaces)
        assert [ids.from_uid(uid) for uid in (99999, 100000, 100009, 100010, 300004, 300005)] == [
            None, 0, 9, None, 14, None,
        ]  # fmt: skip
        assert [ids.make_uid(uid) for uid in (0, 9, 10, 14, 15)] == [100000, 100009, 300000, 300004, None]
        assert (ids.from_gid(200000), ids.make_gid(1)) == (0, None)


def test_empty_map_is_not_remembered_but_a_written_one_is(namespaces: UserNamespaces) -> None:
    with held_child(new_user_namespace) as child:
        assert ids_of(child, namespaces).from_uid(os.geteuid()) is None
        write_maps(child, f"5 {os.geteuid()} 1", f"6 {os.getegid()} 1")
        assert ids_of(child, namespaces).from_uid(os.geteuid()) == 5

        class Unmapped(ThreadFolder):
            def read(self, name: bytes, limit: int = 0) -> bytes:
                pytest.fail(f"{name!r} is read again")

        assert ThreadIds(Unmapped(child, lambda: True), namespaces).from_uid(os.geteuid()) == 5


def test_namespaces_are_held_up_to_the_limit() -> None:
    namespaces = UserNamespaces(limit=1)
    before = open_descriptors()
    with held_child(new_user_namespace) as first, held_child(new_user_namespace) as second:
        for child in (first, second, first, first):
            assert namespaces.identify(folder_of(child)) == os.stat(f"/proc/{child}/ns/user").st_ino
            assert len(namespaces) == 1
        write_maps(first, f"5 {os.geteuid()} 1", f"6 {os.getegid()} 1")
        ids = ids_of(first, namespaces)
        assert ids.from_uid(os.geteuid()) == 5
        namespaces.identify(folder_of(second))
        # It was let go in the middle of a call, and still gives an answer.
        assert ids.from_gid(os.getegid()) == 6
    namespaces.close()
    assert open_descriptors() == before and len(namespaces) == 0


def test_owner_of_namespaces_below(namespaces: UserNamespaces) -> None:
    def nested() -> None:
        # Only users and groups that a namespace knows may make another one in it.
        unshare(CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        unshare(CLONE_NEWUSER)

    uid, gid = os.geteuid(), os.getegid()
    with held_child(new_user_namespace) as outer, held_child(nested) as inner:
        own = own_namespace(b"user")
        child = namespaces.identify(folder_of(outer))
        grandchild = namespaces.identify(folder_of(inner))
        assert namespaces.owner_below(own, child) == uid
        assert namespaces.owner_below(own, grandchild) == uid
        assert namespaces.owner_below(child, grandchild) is None, "another branch"
        assert namespaces.owner_below(child, own) is None, "not below, but above"
        assert namespaces.owner_below(own, 1) is None, "never met"
        before = open_descriptors()
        namespaces.owner_below(own, grandchild)
        assert open_descriptors() == before


def test_pid_namespace_of_a_child(namespaces: UserNamespaces) -> None:
    def enter() -> int:
        unshare(CLONE_NEWPID)
        return fork(signal.pause)

    with held_child(enter) as child:
        assert ids_of(child, namespaces).pid_namespace == os.stat(f"/proc/{child}/ns/pid").st_ino
        assert ids_of(child, namespaces).pid_namespace != own_namespace(b"pid")
        os.kill(child, signal.SIGKILL)


def test_root_directory_tells_roots_apart(namespaces: UserNamespaces, tmp_path: Path) -> None:
    def change_root() -> None:
        os.chroot(tmp_path)

    own = ids_of(os.getpid(), namespaces).root_directory
    with held_child(change_root) as first, held_child(change_root) as second, held_child(lambda: None) as plain:
        assert ids_of(plain, namespaces).root_directory == own
        assert ids_of(first, namespaces).root_directory == ids_of(second, namespaces).root_directory != own


@pytest.mark.parametrize(
    "access",
    [
        lambda folder: folder.read(b"status"),
        lambda folder: folder.read(b"no such file"),
        lambda folder: folder.link(b"exe"),
        lambda folder: folder.namespace(b"pid"),
        lambda folder: folder.root(),
        lambda folder: folder.open(b"status", os.O_RDONLY),
        lambda folder: folder.open(b"no such file", os.O_RDONLY),
    ],
)
def test_nothing_is_believed_of_a_thread_that_is_gone(access: Callable[[ThreadFolder], object]) -> None:
    before = open_descriptors()
    with pytest.raises(ProcessLookupError):
        access(ThreadFolder(os.getpid(), lambda: False))
    assert open_descriptors() == before


def test_missing_file_of_a_living_thread_is_missing() -> None:
    with pytest.raises(FileNotFoundError):
        folder_of(os.getpid()).read(b"no such file")


def test_a_thread_that_is_ending_is_gone() -> None:
    """A process that has ended and was not reaped has a number, which is its own, and no root any more."""
    zombie = fork(lambda: None)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessLookupError):
        folder_of(zombie).root()
    os.waitpid(zombie, 0)
