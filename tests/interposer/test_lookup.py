# SPDX-License-Identifier: GPL-2.0-or-later
"""Where paths lead, for this process as the target: all spellings, and nothing that leads elsewhere."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from interposer.nodes.lookup import Lookup
from interposer.nodes.resolve import AT_FDCWD
from tests.support.children import in_child

pytestmark = [
    pytest.mark.skipif(not Path("/sys/fs").is_dir(), reason="there is no /sys"),
    pytest.mark.skipif(Path("/sys/fs/kdbus").exists(), reason="this machine has kdbus already"),
]


class Folder:
    """A private folder with a control node and one bus, and its lookup."""

    def __init__(self, path: Path) -> None:
        self.kdbus, self.module = path / "kdbus", path / "module"
        (self.kdbus / "0-bus").mkdir(parents=True)
        (self.module / "parameters").mkdir(parents=True)
        for file in (self.kdbus / "control", self.kdbus / "0-bus/bus", self.module / "parameters/attach_flags_mask"):
            file.touch()
        nodes = [self.kdbus / "control", self.kdbus / "0-bus", self.kdbus / "0-bus/bus"]
        known = {(status.st_dev, status.st_ino) for status in map(os.stat, nodes)}
        self.descriptors = [os.open(each, os.O_RDONLY) for each in (self.kdbus, self.module)]
        self.lookup = Lookup(self.descriptors[0], self.descriptors[1], lambda device, inode: (device, inode) in known)

    def find(self, path: str, directory: int = AT_FDCWD, *, follow: bool = True) -> Path | int | None:
        """What the path leads to, or why it leads to nothing there (errno); None: elsewhere."""
        thread, name = threading.get_native_id(), os.fsencode(path)
        if self.lookup.leads_elsewhere(thread, directory, name, follow=follow):
            return None
        found = self.lookup.locate(thread, directory, name, nullcontext(), follow=follow)
        if found is None:
            return None
        if found.descriptor < 0:
            return found.error
        try:
            return Path(os.readlink(f"/proc/self/fd/{found.descriptor}"))
        finally:
            found.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path / "private")
    yield made
    for descriptor in made.descriptors:
        os.close(descriptor)


@pytest.mark.parametrize(
    "path",
    [
        "/sys/fs/kdbus/control",
        "//sys/./fs//kdbus/control",
        "/sys/fs/../fs/kdbus/../kdbus/control",
        "/sys/fs/kdbus/0-bus/../control",
        "/proc/../sys/fs/kdbus/control",
        "/sys/module/../fs/kdbus/control",
        "/sys/module/kdbus/../../fs/kdbus/control",
    ],
)
def test_spellings(path: str, folder: Folder) -> None:
    assert folder.find(path) == folder.kdbus / "control"


def test_folders_and_parameters(folder: Folder) -> None:
    assert folder.find("/sys/fs/kdbus") == folder.find("/sys/fs/kdbus/.") == folder.kdbus
    assert folder.find("/sys/fs/kdbus/0-bus/") == folder.kdbus / "0-bus"
    assert folder.find("/sys/module/kdbus/parameters") == folder.module / "parameters"


@pytest.mark.parametrize(
    "path",
    ["/", "/etc/passwd", "/etc/absent", "/absent/x/y", "/sys/fs", "/sys/kdbus", "/kdbus", "/sys/fs/kdbusx", "", "."],
)
def test_elsewhere(path: str, folder: Folder) -> None:
    assert folder.find(path) is None
    folder.lookup.entered = True
    assert folder.find(path) is None


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/sys/fs/kdbus/absent", errno.ENOENT),
        ("/sys/fs/kdbus/absent/bus", errno.ENOENT),
        ("/sys/fs/kdbus/control/", errno.ENOTDIR),
        ("/sys/fs/kdbus/control/x", errno.ENOTDIR),
        ("/sys/fs/kdbus/0-bus/../../absent", errno.ENOENT),
    ],
)
def test_missing(path: str, number: int, folder: Folder) -> None:
    assert folder.find(path) == number


def test_only_the_last_component_can_be_created(folder: Folder) -> None:
    for path, creatable in ((b"/sys/fs/kdbus/new", True), (b"/sys/fs/kdbus/new/er", False)):
        found = folder.lookup.locate(threading.get_native_id(), AT_FDCWD, path, nullcontext(), follow=True)
        assert found is not None and found.creatable == creatable


def test_out_again(folder: Folder) -> None:
    assert folder.find("/sys/fs/kdbus/..") == Path("/sys/fs")
    assert folder.find("/sys/fs/kdbus/0-bus/../../..") == Path("/sys")
    assert folder.find("/sys/module/kdbus/../../../..") == Path("/")


def test_symbolic_links(folder: Folder, tmp_path: Path) -> None:
    link, chain, relative = tmp_path / "link", tmp_path / "chain", tmp_path / "relative"
    link.symlink_to("/sys/fs/kdbus")
    chain.symlink_to(link)
    relative.symlink_to("../" * 40 + "sys/fs/kdbus/control")
    assert folder.find(f"{link}/control") == folder.find(f"{chain}/control") == folder.kdbus / "control"
    assert folder.find(str(relative)) == folder.kdbus / "control"
    assert folder.find(str(chain)) == folder.kdbus
    assert folder.find(str(chain), follow=False) is None
    assert folder.find(f"{chain}/", follow=False) == folder.kdbus


def test_links_that_lead_in_circles_are_the_kernels(folder: Folder, tmp_path: Path) -> None:
    for name, target in (("a", "b"), ("b", "a"), ("nowhere", "/absent/x")):
        (tmp_path / name).symlink_to(target)
    assert folder.find(str(tmp_path / "a")) is folder.find(str(tmp_path / "nowhere/y")) is None


def test_relative_to_descriptors(folder: Folder) -> None:
    sys = os.open("/sys", os.O_RDONLY)
    assert folder.find("fs/kdbus/control", sys) == folder.kdbus / "control"
    assert folder.find("../sys/fs/kdbus/control", sys) == folder.kdbus / "control"
    assert folder.find("kdbus/control", sys) is None
    os.close(sys)
    own = folder.descriptors[0]
    assert folder.find("control", own) is None, "nobody can have a descriptor yet"
    folder.lookup.entered = True
    assert folder.find("control", own) == folder.kdbus / "control"
    assert folder.find("absent", own) == errno.ENOENT
    assert folder.find("..", own) == Path("/sys/fs")
    assert folder.find("../kdbus/0-bus/bus", own) == folder.kdbus / "0-bus/bus"
    bus = os.open(folder.kdbus / "0-bus", os.O_RDONLY)
    assert folder.find("../control", bus) == folder.kdbus / "control"
    assert folder.find("../..", bus) == Path("/sys/fs")
    os.close(bus)
    assert folder.find("control", 12345) is None


def test_relative_to_the_working_folder(folder: Folder) -> None:
    def body() -> list[object]:
        os.chdir("/sys")
        found: list[object] = [folder.find("fs/kdbus/control"), folder.find("control")]
        folder.lookup.entered = True
        os.chdir(folder.kdbus)
        return [*found, folder.find("control"), folder.find("../../module/kdbus/parameters")]

    control = folder.kdbus / "control"
    assert in_child(body) == [control, None, control, folder.module / "parameters"]


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
@pytest.mark.parametrize("present", [(), ("sys",), ("sys/fs",), ("sys/fs", "sys/module")])
def test_root_with_missing_folders(present: tuple[str, ...], folder: Folder, tmp_path: Path) -> None:
    """A chroot in which some of /sys is missing; seen from outside, as the supervisor is."""
    root = tmp_path / "root"
    for name in ("etc", *present):
        (root / name).mkdir(parents=True, exist_ok=True)

    def in_root(paths: list[str]) -> list[object]:
        reading, writing = os.pipe()
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.chroot(root)
            os.chdir("/etc")
            os.write(told, b"x")
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        os.read(ready, 1)
        try:
            found: list[object] = []
            for path in map(os.fsencode, paths):
                if folder.lookup.leads_elsewhere(child, AT_FDCWD, path, follow=True):
                    found.append(None)
                    continue
                located = folder.lookup.locate(child, AT_FDCWD, path, nullcontext(), follow=True)
                found.append(located and (located.error or Path(os.readlink(f"/proc/self/fd/{located.descriptor}"))))
                if located:
                    located.close()
            return found
        finally:
            for descriptor in (writing, ready, told):
                os.close(descriptor)
            os.waitpid(child, 0)

    paths = [
        "/sys/fs/kdbus/control",
        "../sys/fs/kdbus/control",
        "/sys/module/kdbus/parameters",
        "/sys/fs/x",
        "/fs/kdbus",
    ]
    control = folder.kdbus / "control"
    assert in_root(paths) == [control, control, folder.module / "parameters", None, None]


def test_nothing_stays_open(folder: Folder, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    (tmp_path / "link").symlink_to("/sys/fs/kdbus/absent")
    for path in ("/sys/fs/kdbus", "/sys/fs/kdbus/../..", "/etc/absent", "/sys/kdbus/x", f"{tmp_path}/link", "absent/x"):
        folder.find(path)
    assert os.listdir("/proc/self/fd") == before
