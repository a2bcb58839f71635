# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/revision-tables.md says what the tables of the revisions say, all of it."""

from __future__ import annotations

from kdbus.abi.revision import Kind
from tests.support.revision_tables import TABLES, document
from tests.support.users import PROJECT

DOCUMENT = PROJECT / "docs" / "revision-tables.md"


def test_the_document_is_up_to_date() -> None:
    found = DOCUMENT.read_text(encoding="utf-8").splitlines()
    assert found == document().splitlines(), "make it anew: python -m tests.support.revision_tables"


def test_every_item_and_flag_has_a_row() -> None:
    rows = {line.split(" | ")[0].removeprefix("| ") for line in document().splitlines() if line.startswith("| ")}
    constants = {name for table in TABLES.values() for name in table.CONSTANTS if not name.startswith("_")}
    assert rows >= {name.removeprefix("KDBUS_") for name in constants}
    assert rows >= {f"ITEM_{kind.name}" for kind in Kind}
