# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's packages, without installing any: found and downloaded by apt in folders of ours, and unpacked.

apt gets its own state, sources and cache, so the machine's are neither read (but for the address of its mirror) nor
changed; signatures are checked with Debian's keyring. What was downloaded is kept, and used again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES = ("bullseye", "bookworm", "trixie", "trixie-backports", "sid")
"""Debian's releases that Python 3.11 or newer may be found on, what they get as backports, and what comes next."""
_SECONDS = 900


class PackageError(Exception):
    """What was to be found, downloaded or unpacked, and why it was not."""


class Packages:
    """What Debian's mirror serves for `architecture` (amd64, arm64), through folders below `folder`."""

    def __init__(self, folder: Path, architecture: str, mirror: str | None = None) -> None:
        """`mirror`: the address of an archive; None: where this machine's apt gets Debian's packages."""
        self._state = folder / f"apt-{architecture}"
        self._architecture = architecture
        self._downloads = folder / "packages"
        for each in (self._state / "lists" / "partial", self._state / "archives" / "partial", self._downloads):
            each.mkdir(parents=True, exist_ok=True)
        address = mirror or _mirror()
        sources = "".join(f"deb [signed-by={KEYRING}] {address} {suite} main\n" for suite in SUITES)
        (self._state / "sources.list").write_text(sources)
        (self._state / "preferences").write_text("")

    def update(self) -> None:
        """Fetch the lists of packages. Raises PackageError."""
        self._apt("apt-get", "update", "--quiet")

    def kernels(self) -> dict[str, str]:
        """The package of each kernel, by version, newest first: {"6.1.176-1": "linux-image-6.1.0-50-amd64"}."""
        found = {}
        for record in self._apt("apt-cache", "show", f"linux-image-{self._architecture}").split("\n\n"):
            fields = dict(line.split(": ", 1) for line in record.splitlines() if ": " in line)
            needed = fields.get("Depends", "").replace(",", " ").split()
            if image := next((each for each in needed if each.startswith("linux-image-")), None):
                found[fields["Version"]] = image
        return found

    def parts(self, image: str) -> list[str]:
        """The packages that a kernel's package stands for: itself, or, from 7.x on, one of the kernel and one of its
        modules."""
        record = self._apt("apt-cache", "show", image)
        depends = next(line for line in record.splitlines() if line.startswith("Depends: "))
        needed = re.findall(r"linux-(?:binary|modules)-[^ ,]+", depends)
        return needed or [image]

    def fetch(self, name: str) -> Path:
        """The file of the package `name` (or `name=version`, `name/suite`), downloaded if it is not there yet."""
        known = self._downloads / f"{self._architecture}-{name.replace('/', '_')}.deb"
        if not known.exists():
            with tempfile.TemporaryDirectory(dir=self._downloads) as folder:
                self._apt("apt-get", "download", "--quiet", name, folder=Path(folder))
                (file,) = Path(folder).glob("*.deb")
                file.rename(known)
        return known

    def unpack(self, names: Sequence[str], target: Path) -> Path:
        """Unpack packages into the folder `target`, unless they are there, and give it back."""
        if target.exists():
            return target
        unfinished = target.with_name(f"{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name in names:
            _run(["dpkg-deb", "--extract", str(self.fetch(name)), str(unfinished)])
        unfinished.rename(target)
        return target

    def unpack_all(self, names: Sequence[str], suite: str, target: Path) -> None:
        """Unpack packages of `suite`, with all that they depend on, into the folder `target`, unless it is there."""
        if target.exists():
            return
        folder = self._state / "archives"
        options = ("--download-only", "--yes", "--quiet", "--no-install-recommends", f"--target-release={suite}")
        self._apt("apt-get", "install", *options, *names)
        unfinished = target.with_name(f"{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        # base-files brings the links /bin and /lib, which others count on.
        for file in sorted(folder.glob("*.deb"), key=lambda file: not file.name.startswith("base-files_")):
            _run(["dpkg-deb", "--extract", str(file), str(unfinished)])
            file.unlink()
        unfinished.rename(target)

    def _apt(self, *command: str, folder: Path | None = None) -> str:
        state = self._state
        options = {
            "APT::Architecture": self._architecture,
            "APT::Architectures": self._architecture,
            "APT::Sandbox::User": "root",
            "Dir::State": state,
            "Dir::State::lists": state / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": state,
            "Dir::Etc::sourcelist": state / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": state / "preferences",
            "Dir::Etc::preferencesparts": "/dev/null",
        }
        return _run([*command, *(f"-o{name}={value}" for name, value in options.items())], folder)


def _mirror() -> str:
    """Where this machine's apt gets Debian's main archive."""
    found = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"])
    addresses = [line.rstrip("/") for line in found.splitlines() if line.rstrip("/").endswith("/debian")]
    if not addresses:
        tried = "tried `apt-get indextargets`"
        raise PackageError(f"this machine's apt knows no archive of Debian's ({tried}); name one with --mirror")
    return addresses[0]


def _run(command: list[str], folder: Path | None = None) -> str:
    """Run a command to its end; its stdout. Raises PackageError with what it said."""
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PackageError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise PackageError(f"`{' '.join(command[:4])} ...` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
