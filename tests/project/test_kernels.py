# SPDX-License-Identifier: GPL-2.0-or-later
"""What `python -m tests.kernels` does before it boots a machine, without downloading anything."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels import __main__ as command
from tests.kernels import image
from tests.kernels.inside import RUNS
from tests.kernels.packages import PackageError
from tests.support.compiling import WRITTEN_FOR
from tests.support.e2e import cases_of

KERNELS = {"7.3.4-1~bpo13+1": "c", "6.12.117-1": "b", "6.1.176-1": "a"}


@pytest.mark.parametrize(
    ("wanted", "found"), [("newest", "7.3.4-1~bpo13+1"), ("6.1", "6.1.176-1"), ("6.12.117-1", "6.12.117-1")]
)
def test_a_kernel_is_found_by_how_its_version_begins(wanted: str, found: str) -> None:
    assert command.choose(wanted, KERNELS) == found


def test_a_kernel_that_is_not_there() -> None:
    with pytest.raises(PackageError, match=r"no kernel 5\.10 .*6\.12\.117-1"):
        command.choose("5.10", KERNELS)


def test_every_program_has_cases_for_its_user() -> None:
    for run in RUNS:
        assert cases_of(run.program, run.user), run
        assert run.revision == WRITTEN_FOR.get(run.program, "3"), run


def test_the_archive_has_modules_behind_what_they_need(tmp_path: Path) -> None:
    modules = tmp_path / "kernel" / "lib" / "modules"
    modules.mkdir(parents=True)
    (modules / "first.ko.xz").write_bytes(lzma.compress(b"\x7fELF\0license=GPL\0depends=\0"))
    (modules / "needed-first.ko").write_bytes(b"\x7fELF\0depends=first\0")
    (modules / "second.ko").write_bytes(b"\x7fELF\0depends=needed_first,first,part_of_the_kernel\0")
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"busy")
    archive = tmp_path / "first.cpio"
    image.build(busybox, tmp_path / "kernel", archive, modules=("second", "missing"))
    files = dict(_files(archive.read_bytes()))
    assert files["bin/busybox"] == (0o100755, b"busy")
    assert files["modules/first.ko"][1].startswith(b"\x7fELF")
    mode, script = files["init"]
    assert mode == 0o100755 and b"for module in first.ko needed_first.ko second.ko;" in script


def _files(archive: bytes) -> Iterator[tuple[str, tuple[int, bytes]]]:
    """Name, mode and content of what is in a cpio archive, as the kernel's documentation describes it."""
    at = 0
    while archive[at : at + 6] == b"070701":
        fields = [int(archive[at + 6 + 8 * place :][:8], 16) for place in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 :][: length - 1].decode()
        content = at + 110 + length + -(110 + length) % 4
        yield name, (mode, archive[content : content + size])
        at = content + size + -size % 4
    assert name == "TRAILER!!!" and at == len(archive)
