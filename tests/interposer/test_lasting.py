# SPDX-License-Identifier: GPL-2.0-or-later
"""The collector of cyclic garbage and what lasts (`interposer.lasting`)."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from interposer.lasting import lasting_objects


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def _is_looked_at(wanted: object) -> bool:
    return any(each is wanted for each in gc.get_objects())


def test_what_lasts_is_not_looked_at() -> None:
    with lasting_objects():
        assert not gc.isenabled()
        lasting: list[object] = []
    assert gc.isenabled()
    later: list[object] = []
    assert not _is_looked_at(lasting)
    assert _is_looked_at(later)


def test_failed_import_leaves_the_collector_at_work() -> None:
    with pytest.raises(ImportError), lasting_objects():
        raise ImportError
    assert gc.isenabled()
