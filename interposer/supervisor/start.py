# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus run` from its program's first trapped call to the program's end.

A program waits for its first call until the supervisor is loaded, and then makes some ten calls in a row before it has
sent a message: it opens nodes, makes or joins a bus, maps its pool. Serving those takes no event loop. So they are
served before there is one: as long as they follow one another, and then beside the import of trio, which takes more
time than all our own modules do. That import is a hundred modules, and before each the calls that wait are served
(`_ServesBetween`). A program that ends meanwhile never needs the loop.

What is left to the loop: signals other than those that the command line hands on, stops, who watches, and the end of
processes that were left behind. `_MOST_NS` later at the latest it begins.

Alternatives: importing trio in a second thread, of which all that forks and imports here would have to beware; before
the program is executed, which delays programs that never use kdbus; serving without any loop, which would be one of
our own.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType

from interposer.lasting import lasting_objects
from interposer.launch.launch import Launched, Mode
from interposer.nodes.filesystem import NodeFiles
from interposer.options import RunOptions
from interposer.supervisor.supervisor import Supervisor
from interposer.target.budget import use_descriptors
from interposer.traps.answering import MountedDomain
from interposer.traps.module_parameter import AttachFlagsMask
from interposer.watching import places
from native.notification import Listener

_PAUSE_NS = 20_000_000
"""When nothing has come for so long, the program waits for something else, and there is time."""
_MOST_NS = 1_000_000_000
_FOLLOWS_NS = 1_000_000
"""How soon a call follows that belongs to the one before."""


def run(launched: Launched, options: RunOptions) -> int:
    """Serve `launched` until its program ends; returns the status as wait(2) gives it.

    The calling process may open many files from now on.
    """
    use_descriptors()
    mask = AttachFlagsMask(launched.parameters_directory)
    module = os.fstat(launched.parameters_directory).st_dev
    os.close(launched.parameters_directory)
    supervisor = Supervisor(options, mask, probe=launched.waits_killable)
    place = places.make()
    try:
        _add(supervisor, launched, options, module)
        # Who lingers also does what a signal asks for that comes after the program's end, and only the loop hears it.
        status = None if options.linger else serve_first_calls(supervisor, launched.pid)
        if status is None:
            meanwhile = nullcontext() if options.linger else serving_between_imports(supervisor)
            with lasting_objects(), meanwhile:
                from interposer.supervisor import control, loop
            about = {"serves": "run", "command": launched.command, "program": launched.pid, "mode": launched.mode.value}
            watched = control.Control(supervisor, about, place)
            status = loop.serve_program(supervisor, launched.pid, watched, linger=options.linger)
        if not options.linger:
            supervisor.tell_who_is_left()
        return status
    finally:
        if place is not None:
            place.close()
        supervisor.close()
        mask.close()


def _add(supervisor: Supervisor, launched: Launched, options: RunOptions, module: int) -> None:
    """Have the program's tree served, and its domain made. `module`: the device of /sys/module/kdbus."""
    files = NodeFiles(launched.kdbus_directory, (("control",),))
    mounted = MountedDomain(supervisor.domains.new(files), files)
    supervisor.domains.mounted.append(mounted)
    received = None if launched.caretaker is None else launched.caretaker.received
    listener = Listener(launched.listener, received)
    tree = supervisor.add(listener, waits_killable=launched.waits_killable, faults=options.faults)
    if launched.mode is Mode.MOUNT:
        tree.mounts.follow(mounted, launched.pid)
        if launched.spared:
            tree.spare_opens(files, module)
    else:
        tree.show_folder(files, launched.kdbus_directory, launched.module_directory)
    if options.buses:
        supervisor.domains.make_buses(mounted.domain, options.buses)
        launched.execute()
        launched.check_executed()


def serve_first_calls(supervisor: Supervisor, pid: int) -> int | None:
    """Serve until nothing has come for a while; the wait status of our child `pid` if it ends before that."""
    ended, others = os.pidfd_open(pid), select.epoll()
    try:
        others.register(ended, select.EPOLLIN)
        others.register(supervisor.news_fileno(), select.EPOLLIN)
        supervisor.attend(others.fileno())
        stop = time.monotonic_ns() + _MOST_NS
        while (now := time.monotonic_ns()) < stop:
            if supervisor.wait_natively(now + _PAUSE_NS):
                supervisor.serve_turn()
            news = [descriptor for descriptor, _ in others.poll(0)]
            if supervisor.news_fileno() in news:
                supervisor.housekeep(news=True)
            if ended in news:
                supervisor.settle()
                return os.waitpid(pid, 0)[1]
            if not news and time.monotonic_ns() - now >= _PAUSE_NS:
                return None
        return None
    finally:
        supervisor.attend(-1)
        others.close()
        os.close(ended)


class _ServesBetween:
    """A finder of modules (`sys.meta_path`) that finds none, and has the calls that wait served before others look."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._serving = False

    def find_spec(
        self, _name: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if not self._serving:
            self._serving = True  # what serving imports is no occasion to serve
            try:
                self._supervisor.serve_what_waits(_FOLLOWS_NS)
            finally:
                self._serving = False
        return None


@contextmanager
def serving_between_imports(supervisor: Supervisor) -> Iterator[None]:
    """Before each module that is imported within it, calls that wait are served."""
    finder = _ServesBetween(supervisor)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
