# SPDX-License-Identifier: GPL-2.0-or-later
"""What Yama's scopes leave of kdbus: run on an emulated machine, as they hold for all of it and 3 cannot be taken back.

    python -m tests.kernels --only yama 6.12

A supervisor reads its programs' memory, fetches their descriptors and traces them, which Yama may forbid towards who is
no descendant (1), without CAP_SYS_PTRACE (2), or altogether (3); see Documentation/admin-guide/LSM/Yama.rst. Whether
that is so depends on who asks, on whether the program has a user namespace of its own, as in mount mode for an ordinary
user, and on whether it is a descendant, which it is of `kdbus run` and not of `kdbus serve`.

One case is run, in which a pool is mapped: `kdbus doctor` tries the same, and the suite the rest.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.users import User

SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
PROGRAM, CASE = "traced", "the_pool_is_read_and_the_handle_polls"
SERVERS = (("root", "root"), ("root", "ordinary"), ("ordinary", "ordinary"))
"""Whose server, and whose program."""
_MODES = ("mount", "path")
_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Confined:
    """What came of `kdbus run`, or of one with a server, under a scope (or a policy, see `labels`): nothing if it
    worked, or what was said."""

    under: str
    what: str
    trouble: str


def scopes(users: dict[str, User], folder: Path) -> Iterator[Confined]:
    """Everything under each scope, the strictest last. `folder` has PROGRAM."""
    for scope in range(4):
        SCOPE.write_text(str(scope))
        under = f"scope {scope}"
        for mode in _MODES:
            run = ("run", "--mode", mode)
            for name, user in users.items():
                yield Confined(under, f"run, {name}, {mode}", trouble_of(user, run, folder))
            for server, program in SERVERS:
                trouble = trouble_with_server(users[server], users[program], run, folder)
                yield Confined(under, f"serve of {server}, {program}, {mode}", trouble)


def trouble_with_server(
    server: User,
    user: User,
    arguments: Sequence[str],
    folder: Path,
    *,
    server_around: Sequence[str] = (),
    around: Sequence[str] = (),
) -> str:
    """As `trouble_of`, in the domain of a server, which is started by `server_around`."""
    with _served(server, server_around) as socket:
        if isinstance(socket, Path):
            return trouble_of(user, [*arguments, "--domain", str(socket)], folder, around=around)
        return socket


def trouble_of(
    user: User, arguments: Sequence[str], folder: Path, *, around: Sequence[str] = (), inside: Sequence[str] = ()
) -> str:
    """What came of the program under `kdbus run`, and nothing if it worked. `around` starts the one, `inside`
    the other."""
    program = [*inside, str(folder / PROGRAM), CASE]
    outcome = user.run([*around, *user.kdbus(*arguments, "--", *program)], seconds=_SECONDS)
    if outcome.status == 0 and f"ok 1 - {CASE}" in outcome.output:
        return ""
    return " ".join(re.findall(r"kdbus: (.*)", outcome.output)) or f"status {outcome.status}: {outcome.output}"


@contextmanager
def _served(user: User, around: Sequence[str]) -> Iterator[Path | str]:
    """The socket of a server of that user's; what was said, where none could be had."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    if user.identity is not None:
        os.chown(place, user.identity, user.identity)
    ready, tell = os.pipe()
    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen(
            [*around, *user.kdbus("serve", "--socket", str(place / "domain"), "--ready-fd", str(tell))],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[tell],
            cwd="/",
            env=user.environment,
            **user.becoming,
        )
        os.close(tell)
        try:
            heard = select.select([ready], [], [], _SECONDS)[0] and os.read(ready, 1)
            output.seek(0)
            yield place / "domain" if heard else output.read().decode().strip() or "it did not get ready"
        finally:
            server.kill()
            server.wait()
            os.close(ready)
            shutil.rmtree(place)
