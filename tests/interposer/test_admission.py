# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may join a server's domain: what is refused, and with which words. Joining itself is in `test_serve.py`."""

from __future__ import annotations

import os
from typing import Any

import pytest

from interposer.errors import DomainUnavailable
from interposer.shared_domain import admission, domain_socket
from interposer.shared_domain.admission import Offered, check
from interposer.shared_domain.domain_socket import Message, Peer
from native import seccomp
from tests.interposer.test_view import NOBODY, become_nobody, needs_root
from tests.support.children import in_child


def offered(process: int, flags: bytes = b"K", folders: tuple[int, ...] = ()) -> Offered:
    """What a launcher offers for `process`."""
    listener = seccomp.install_filter([(seccomp.BPF_RET | seccomp.BPF_K, 0, 0, seccomp.SECCOMP_RET_ALLOW)], 0)
    return Offered(Message(domain_socket.JOIN, flags, [listener, os.pidfd_open(process), *folders]))


def refusal(offer: Offered, user: int) -> str:
    with pytest.raises(DomainUnavailable) as caught:
        check("/somewhere", Peer(1, user, user), offer, shares_mounts=True)
    return str(caught.value)


@needs_root
def test_a_process_of_somebody_else_may_not_be_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = os.getpid()

    def body() -> Any:
        become_nobody()
        seccomp.set_no_new_privileges()
        offer = offered(outside)
        said = {}
        for scope, user in ((None, NOBODY), ("0", NOBODY), ("1", NOBODY), ("2", NOBODY), ("1", 0), ("3", 0)):
            monkeypatch.setattr(admission, "yama_scope", lambda scope=scope: scope)
            said[scope, user] = refusal(offer, user)
        return said

    said = in_child(body)
    for (scope, user), text in said.items():
        assert text.startswith(f"joining the domain at /somewhere as uid {user}: the server (uid {NOBODY}) "), text
        assert f"process {outside}: process_vm_readv(2) says EPERM" in text
        assert ("CAP_SYS_PTRACE" in text) == (scope != "3")
        assert (f"ptrace_scope is {scope}" in text) == (scope in ("1", "2", "3"))
        assert ("until the machine is restarted" in text) == (scope == "3")
        assert ("ptrace_scope to 0" in text) == ((scope, user) == ("1", NOBODY))
        assert ("user namespaces" in text) == (scope in ("1", "2") and user == NOBODY)


def test_nonsense_is_refused() -> None:
    def body() -> Any:
        seccomp.set_no_new_privileges()
        with pytest.raises(ValueError, match="path mode"):
            offered(os.getpid(), b"KPF", (os.open("/", os.O_RDONLY),))
        return True

    def neither() -> Any:
        seccomp.set_no_new_privileges()
        with pytest.raises(ValueError, match="neither"):
            check("/somewhere", Peer(1, os.geteuid(), 0), offered(os.getpid()), shares_mounts=False)
        return True

    assert in_child(body) and in_child(neither)


def test_one_who_has_ended() -> None:
    def body() -> Any:
        child = os.fork()
        if child == 0:
            os._exit(0)
        seccomp.set_no_new_privileges()
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        offer = offered(child)
        os.waitpid(child, 0)
        return refusal(offer, os.geteuid())

    assert "does not see the program's process" in in_child(body)


def test_faults_are_told_apart_from_flags() -> None:
    """Letters in them are no flags."""

    def body() -> Any:
        seccomp.set_no_new_privileges()
        offer = offered(os.getpid(), b"K\0SEND:errno=EPERM\0RECV:lost:name=org.example.FUP")
        return offer.path_mode, offer.waits_killable, [fault.text for fault in offer.faults]

    assert in_child(body) == (False, True, ["SEND:errno=EPERM", "RECV:lost:name=org.example.FUP"])


def test_nonsense_instead_of_faults() -> None:
    def body() -> Any:
        seccomp.set_no_new_privileges()
        with pytest.raises(ValueError):
            offered(os.getpid(), b"K\0SEND")
        return True

    assert in_child(body)
