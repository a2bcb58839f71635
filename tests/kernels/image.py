# SPDX-License-Identifier: GPL-2.0-or-later
"""The first root file system of an emulated machine: a cpio archive with busybox, some modules, and a script.

The script loads what reaches the shared folders, makes the root of the machine at hand (read-only) and a tmpfs one
writable tree, mounts what an init mounts, and hands over to the job in the shared folder `/run/job`. What it prints
goes to the console. When the job has ended, the machine is switched off.

Modules come as files out of a kernel package, in which `modules.dep` is missing: it is made at installation. Each
module says itself what it depends on.
"""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
JOB = "/run/job"
"""The folder of the job on the emulated machine. It has `job`, a program."""

_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)\0")

_INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in {modules}; do insmod "/modules/$module" || echo "init: $module could not be loaded"; done
share="trans=virtio,version=9p2000.L,msize=262144"
mount -t 9p -o "$share,ro,cache=loose,access=client" root /lower || poweroff -f
mount -t tmpfs -o mode=755 upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /root || poweroff -f
cd /root
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t securityfs securityfs sys/kernel/security
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm
mount -t devpts -o ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
ip link set lo up
mkdir -p .{job}
mount -t 9p -o "$share,rw,cache=none" job .{job} || poweroff -f
hostname emulated
# Not changed by chroot alone, which would forbid user namespaces.
mount --move . /
chroot . {job}/job </dev/null 2>&1
echo "init: the job has ended with status $?"
sync
poweroff -f
"""


def build(busybox: Path, kernel: Path, target: Path, *, modules: tuple[str, ...] = MODULES) -> None:
    """Write the archive to `target`.

    `busybox`: a static one for that processor; `kernel`: where a kernel's package was unpacked.
    """
    files = {path.name.partition(".")[0].replace("-", "_"): path for path in kernel.rglob("*.ko*")}
    loaded: dict[str, bytes] = {}
    for name in modules:
        _load(name, files, loaded)
    order = " ".join(f"{name}.ko" for name in loaded)
    script = _INIT.format(modules=order, job=JOB)
    entries: list[tuple[str, int, bytes]] = [
        (name, 0o040755, b"") for name in ("bin", "dev", "lower", "modules", "proc", "root", "upper")
    ]
    entries += [("bin/busybox", 0o100755, busybox.read_bytes()), ("init", 0o100755, script.encode())]
    entries += [(f"modules/{name}.ko", 0o100644, data) for name, data in loaded.items()]
    target.write_bytes(b"".join(_archive(entries)))


def _load(name: str, files: dict[str, Path], loaded: dict[str, bytes]) -> None:
    """Add the module `name` to `loaded`, behind what it depends on. What has no file is part of the kernel itself."""
    if name in loaded or name not in files:
        return
    data = _plain(files[name])
    found = _DEPENDS.search(data)
    for needed in found[1].decode().split(",") if found and found[1] else ():
        _load(needed.replace("-", "_"), files, loaded)
    loaded[name] = data


def _plain(path: Path) -> bytes:
    """A module's content, which packages compress in different ways."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        zstd = shutil.which("zstd")
        if zstd is None:
            raise FileNotFoundError(f"{path.name} is compressed by zstd: apt-get install zstd")
        return subprocess.run([zstd, "-dcq", str(path)], check=True, capture_output=True).stdout
    return path.read_bytes()


def _archive(entries: list[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """What the kernel unpacks: cpio's "newc" (its Documentation/driver-api/early-userspace/buffer-format.rst)."""
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        yield _padded(header + path)
        yield _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
