# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of a domain with its last mount (`interposer.traps.mounts`)."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from interposer.handles.handles import HandleTable
from interposer.target.budget import Budgets
from interposer.traps.answering import Answering
from interposer.traps.mounts import Mounts


def test_what_was_closed_before_the_last_mount_went_is_closed_not_hung_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that ends may do both between the look at what is closed and the one at what is mounted."""
    told: list[str] = []
    handles = HandleTable(lambda _: told.append("closed"), Budgets())
    handle, theirs = handles.prepare(os.getuid(), nonblocking=False)
    handles.add(handle)
    device = tmp_path.stat().st_dev
    files = SimpleNamespace(device=device, close=lambda: None)
    domain = SimpleNamespace(deactivate=lambda: told.append("ended"))
    common = SimpleNamespace(handles=handles, domains=[SimpleNamespace(domain=domain, files=files)])
    mounts = Mounts(cast(Answering, SimpleNamespace(listener=None, common=common)), lambda _ids, _files: pytest.fail())
    try:
        assert not handles.collect()
        theirs.close()
        monkeypatch.setattr(mounts._watch, "collect", lambda: {device})
        mounts.collect()
        assert told == ["closed", "ended"] and common.domains == []
    finally:
        mounts.close()
        handles.close()
