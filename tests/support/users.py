# SPDX-License-Identifier: GPL-2.0-or-later
"""The users that end-to-end tests run programs as.

What an ordinary user may do differs so much from what root may do (namespaces, ptrace, the owners of nodes) that every
end-to-end test deserves both. When the tests run as root, the ordinary user is uid 65534 without any other group.

That user must be able to read the interpreter, the installed packages and this tree. None of it is certain: a
checkout below root's home, a temporary folder of mode 0700 or an interpreter built in root's home are closed to others.
So the imports are tried as that user first; if they fail, the packages and all that they depend on are copied into a
readable folder, and an interpreter of the same version and ABI is looked for in the system's own folders. Weakness:
where there is none, the tests as an ordinary user are skipped, with that reason.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("bridge", "broker", "interposer", "kdbus", "native", "pytest_kdbus", "tracing")
UNPRIVILEGED_ID = 65534
"""User and group id of `nobody` and `nogroup`."""

_TRY_IMPORTS = "import broker, interposer, native, native._helper, trio, cffi, ptrace"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: its exit status (-N: died of signal N) and its stdout and stderr, interleaved."""

    status: int
    output: str


class Becoming(TypedDict):
    """What `subprocess.Popen` takes to run a program as somebody; None: as who we are."""

    user: int | None
    group: int | None
    extra_groups: list[str | int] | None


@dataclass(frozen=True, slots=True)
class User:
    """Somebody to run programs as.

    `identity` is the user and group id to change to, None to stay who we are; `python` is an interpreter that this user
    can run and that finds the project's packages if the variables of `environment` are set.
    """

    name: str
    identity: int | None
    python: str
    environment: Mapping[str, str]

    @property
    def becoming(self) -> Becoming:
        """To be handed to `subprocess.Popen`: as this user, with no groups of ours."""
        groups = None if self.identity is None else list[str | int]()
        return {"user": self.identity, "group": self.identity, "extra_groups": groups}

    def kdbus(self, *arguments: str) -> list[str]:
        """The command that runs `kdbus ARGUMENTS` as this user."""
        return [self.python, "-m", "interposer", *arguments]

    @property
    def trusting(self) -> User:
        """The same user, for whom calls are served natively from the first one on: not only after it has been tried out
        whether this kernel keeps its promise (`interposer.traps.exactly_once`), which short programs do not live to
        see."""
        return replace(self, environment={**self.environment, "KDBUS_EXACTLY_ONCE": "kernel"})

    def run(self, command: Sequence[str], *, seconds: float = 60, folder: str | Path = "/") -> Outcome:
        """Run `command` to its end as this user, with `/dev/null` as its stdin.

        `seconds` bounds the time; then its process group is killed and the test fails, showing the output so far. The
        output goes through a file, so that a process that outlives the command cannot hold the test up.
        """
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=self.environment,
                start_new_session=True,
                **self.becoming,
            )
            try:
                status: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            output.seek(0)
            text = output.read().decode(errors="replace")
        if status is None:
            pytest.fail(
                f"{' '.join(command)} (as {self.name}) had not ended after {seconds} s; output so far:\n{text}",
                pytrace=False,
            )
        return Outcome(status, text)


def current_user() -> User:
    """Whoever runs the tests, with the interpreter and the environment that they run in."""
    return User("root" if os.geteuid() == 0 else "an ordinary user", None, sys.executable, dict(os.environ))


def unprivileged_user(folder: Path) -> User:
    """uid 65534, set up to run the project; skips the test if there is no way. Only root may call this.

    `folder` is readable for everybody; copies of what that user cannot read where it is are put there.
    """
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(PROJECT),
    }
    in_place = User("an ordinary user", UNPRIVILEGED_ID, sys.executable, environment)
    if _can_run(in_place, _TRY_IMPORTS):
        return in_place

    copy = folder / "packages"
    copy.mkdir()
    _copy_packages(copy)
    environment = {**environment, "PYTHONPATH": str(copy)}
    tried = _interpreters()
    reason = "no interpreter"
    for python in tried:
        copied = User("an ordinary user", UNPRIVILEGED_ID, python, environment)
        reason = _why_not(copied, _TRY_IMPORTS)
        if not reason:
            return copied
    abi = sysconfig.get_config_var("SOABI")
    pytest.skip(f"uid {UNPRIVILEGED_ID} cannot run the project: tried {', '.join(tried)} for ABI {abi}; {reason}")


@contextmanager
def readable_folder() -> Iterator[Path]:
    """A new folder with mode 0755, gone afterwards; below /tmp where the usual place is closed to other users."""
    usual = Path(tempfile.gettempdir()).resolve()
    is_open = all(part.stat().st_mode & 0o001 for part in (usual, *usual.parents))
    with tempfile.TemporaryDirectory(prefix="kdbus-tests-", dir=usual if is_open else "/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def _interpreters() -> list[str]:
    """Interpreters that the installed extension modules may fit: this one outside its venv, then the system's."""
    name = "python{}.{}".format(*sys.version_info)
    candidates = [os.path.realpath(sys.executable), f"/usr/local/bin/{name}", f"/usr/bin/{name}"]
    return list(dict.fromkeys(path for path in candidates if os.path.exists(path)))


def _can_run(user: User, code: str) -> bool:
    return not _why_not(user, code)


def _why_not(user: User, code: str) -> str:
    """The last line of what is printed when `code` fails as `user`; nothing if it succeeds."""
    try:
        outcome = user.run([user.python, "-c", code])
    except OSError as error:
        return str(error)
    return "" if outcome.status == 0 else (outcome.output.strip() or f"status {outcome.status}").splitlines()[-1]


def _copy_packages(target: Path) -> None:
    """Copy the project's packages, and those of all distributions that it needs at run time, into `target`."""
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _needed_distributions():
        for file in importlib.metadata.distribution(name).files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                destination = target / file
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), destination)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _needed_distributions() -> set[str]:
    """The names of the distributions that the project needs to run, D-Bus and stacks included, directly or through
    others, and of the library that plays D-Bus programs of today."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    extras = project["optional-dependencies"]
    waiting: list[str] = [*project["dependencies"], *extras["dbus"], *extras["stacks"], "jeepney"]
    while waiting:
        specification, _, marker = waiting.pop().partition(";")
        name = re.split(r"[^A-Za-z0-9._-]", specification.strip(), maxsplit=1)[0]
        if "extra" not in marker and name not in found and _is_installed(name):
            found.add(name)
            waiting += importlib.metadata.requires(name) or []
    return found


def _is_installed(name: str) -> bool:
    """Whether the distribution `name` is there; those that its markers rule out on this machine are not."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
