# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples in docs/dbus.md run, one after another, as a reader would type them."""

from __future__ import annotations

import re

from tests.support.users import PROJECT


def test_examples_run() -> None:
    text = (PROJECT / "docs/dbus.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert examples
    known: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "docs/dbus.md", "exec"), known)
