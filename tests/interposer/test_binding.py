# SPDX-License-Identifier: GPL-2.0-or-later
"""Which binding of ptrace(2) is taken: python-ptrace, late, whatever it warns of; and our own where it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.users import PROJECT

_LATE = """
import sys, interposer.injection.injection as injection
early = "ptrace" in sys.modules
injection.prepare()
sys.exit(early or "ptrace" not in sys.modules)
"""
_WHICH = "from interposer.injection.binding import binding; print(type(binding()).__name__)"
_WARNS = """
import warnings
warnings.warn("this will be removed", DeprecationWarning)
class PtraceError(Exception): pass
ptrace = ptrace_getregs = ptrace_setregs = None
"""


def run(code: str, *options: str, path: Path | None = None) -> str:
    """What `code` prints in a Python of its own, whose modules may come from `path` first."""
    first = f"import sys; sys.path[:0] = {[str(each) for each in (path, PROJECT) if each is not None]!r}\n"
    ended = subprocess.run([sys.executable, *options, "-c", first + code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout.strip()


@pytest.fixture
def pretended(tmp_path: Path) -> Path:
    """A folder with the beginnings of a python-ptrace."""
    package = tmp_path / "ptrace" / "binding"
    package.mkdir(parents=True)
    (tmp_path / "ptrace" / "__init__.py").touch()
    (package / "__init__.py").touch()
    return tmp_path


def test_it_is_imported_late() -> None:
    run(_LATE)


def test_python_ptrace_is_what_is_used() -> None:
    assert run(_WHICH) == "_PythonPtrace"


def test_warnings_as_errors_do_not_matter() -> None:
    assert run(_WHICH, "-W", "error") == "_PythonPtrace"


def test_a_deprecated_import_is_none_of_our_business(pretended: Path) -> None:
    (pretended / "ptrace" / "binding" / "func.py").write_text(_WARNS)
    assert run(_WHICH, "-W", "error", path=pretended) == "_PythonPtrace"
    assert run(_WHICH, "-W", "always", path=pretended) == "_PythonPtrace"


@pytest.mark.parametrize("fails", ["import locale; locale.gone()", "from ctypes import gone", "raise OSError"])
def test_what_was_removed_from_python_does_not_end_mappings(pretended: Path, fails: str) -> None:
    (pretended / "ptrace" / "binding" / "func.py").write_text(fails)
    assert run(_WHICH, path=pretended) == "_OwnBinding"


def test_it_may_be_missing_altogether() -> None:
    missing = "sys.modules['ptrace'] = None\n"
    assert run(missing + _WHICH) == "_OwnBinding"
