# SPDX-License-Identifier: GPL-2.0-or-later
"""The direction of imports, over every file of the project's packages.

    kdbus.abi <- broker <- interposer -> native, tracing -> kdbus.abi
    interposer -> bridge -> kdbus

and nothing else. Inside `interposer`, the rooms stand on floors (`FLOORS`), and a room imports only those below it.

The broker, the tables and D-Bus's codecs are pure: they may use only those modules of the standard library that
compute, none that reads a clock, a file, the environment or chance, and none of the builtins that would lead around
that. The list says what is allowed, not what is forbidden, so that a module nobody thought of is refused.

Two further borders are checked here: one module alone knows python-ptrace, and `native` alone its C extension.

The syntax tree is read and not `sys.modules`, so imports inside functions and under TYPE_CHECKING count as well.
Weakness: an import by a computed name goes unseen in `native` and `interposer`; the broker lacks the means for one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("bridge", "broker", "interposer", "kdbus", "native", "pytest_kdbus", "tracing")

MAY_IMPORT = {
    "kdbus": {"kdbus"},
    "bridge": {"bridge", "kdbus"},
    "broker": {"broker", "kdbus"},
    "native": {"native"},
    "pytest_kdbus": {"pytest_kdbus", "kdbus"},
    "tracing": {"tracing", "kdbus"},
    "interposer": {"interposer", "bridge", "broker", "kdbus", "native", "tracing"},
}

FLOORS = (
    "target",
    "nodes",
    "injection",
    "handles",
    "launch",
    "traps",
    "watching",
    "checking",
    "replaying",
    "supervisor",
    "shared_domain",
)
"""The rooms of `interposer`, from the ground up. A module outside of them is a word to all (errors, options), or the
command line."""

COMMON = ("errors", "heeded", "itself", "lasting", "options", "report", "shortage")
"""Modules of `interposer` that every room may import; they import only each other."""

PURE_MODULES = frozenset(
    {
        "__future__",
        "abc",
        "bisect",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "enum",
        "errno",
        "functools",
        "heapq",
        "itertools",
        "math",
        "operator",
        "re",
        "stat",
        "string",
        "struct",
        "types",
        "typing",
        "weakref",
    }
)
"""What the broker may use of the standard library: `errno` and `stat` are tables of numbers."""

CODECS = frozenset({"inspect", "reprlib", "siphash24", "xml"})
"""What `kdbus.dbus` may use besides: hashing and parsing, made by others, a bounded repr for its errors, and the names
of a function's parameters."""

DBUS_GROUND = tuple(f"kdbus.{name}" for name in ("abi", "dbus", "flags", "matches", "values"))
"""What of `kdbus` the pure modules of `kdbus.dbus` may import."""

DBUS_FACES = ("kdbus.dbus.blocking", "kdbus.dbus.transport", "kdbus.dbus.trio")
"""The modules of `kdbus.dbus` that use connections."""


def is_pure_dbus(module: str) -> bool:
    """Whether a module is of the part of `kdbus.dbus` that only computes."""
    return module.startswith("kdbus.dbus") and module not in DBUS_FACES


IMPURE_BUILTINS = frozenset({"__import__", "breakpoint", "compile", "eval", "exec", "input", "open", "print"})


def imported_modules(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line number and full name of every module that `source`, the text of `module`, imports.

    Relative names are resolved. `from a import b` yields `a.b`, which covers `b` being a submodule.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def may_climb(module: str, name: str) -> bool:
    """Whether `module` may import `name`, both of `interposer`: downwards, within its room, or what is common."""
    importer, imported = module.split(".")[1:], name.split(".")[1:]
    if not imported or imported[0] in COMMON:
        return True
    if importer and importer[0] in FLOORS:
        return imported[0] in FLOORS[: FLOORS.index(importer[0]) + 1]
    return not importer or importer[0] not in COMMON


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What in `source`, the text of `module`, goes against the borders; one line each, empty if all is well."""
    package = module.partition(".")[0]
    found = []
    for line, name in imported_modules(source, module, is_package):
        top = name.partition(".")[0]
        if top in (*PACKAGES, "tests", "samples"):
            allowed = top in MAY_IMPORT[package] and (top != "interposer" or may_climb(module, name))
            if (package in ("broker", "tracing") and top == "kdbus") or module.startswith("kdbus.abi"):
                plain = ("kdbus.abi", "kdbus.dbus") if package == "tracing" else "kdbus.abi"
                allowed = allowed and name.startswith(plain)
            if is_pure_dbus(module):
                allowed = allowed and name.startswith(DBUS_GROUND) and not name.startswith(DBUS_FACES)
        elif is_pure_dbus(module):
            allowed = top in PURE_MODULES | CODECS
        elif package == "broker" or module.startswith("kdbus.abi"):
            allowed = top in PURE_MODULES
        else:
            allowed = True
        if name.startswith("native._helper") and package != "native":
            allowed = False
        if not allowed:
            found.append(f"{module}:{line}: {package} must not import {name}")
    if package == "broker" or is_pure_dbus(module):
        found += [
            f"{module}:{node.lineno}: {package} must not use {node.id}()"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Name) and node.id in IMPURE_BUILTINS
        ]
    return found


def modules_of(package: str) -> list[tuple[str, Path]]:
    """Name and file of every module below `package`."""
    result = []
    for path in sorted((PROJECT / package).rglob("*.py")):
        parts = path.relative_to(PROJECT).with_suffix("").parts
        result.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return result


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    modules = modules_of(package)
    assert (package, PROJECT / package / "__init__.py") in modules
    found = []
    for module, path in modules:
        found += violations(path.read_text(), module, path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_one_module_knows_python_ptrace() -> None:
    users = [
        module
        for package in PACKAGES
        for module, path in modules_of(package)
        if any(
            name.partition(".")[0] == "ptrace"
            for _, name in imported_modules(path.read_text(), module, path.name == "__init__.py")
        )
    ]
    assert len(users) == 1 and users[0].startswith("interposer."), users


def test_allowed_modules_are_of_the_standard_library() -> None:
    assert PURE_MODULES.issubset(sys.stdlib_module_names)
    assert not PURE_MODULES & CODECS


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("broker.bus", "import interposer"),
        ("broker.bus", "from native.pool import Pool"),
        ("broker.bus", "from native import pool"),
        ("broker.bus", "import os"),
        ("broker.bus", "import os.path"),
        ("broker.bus", "from time import monotonic_ns"),
        ("broker.bus", "import struct, socket"),
        ("broker.bus", "import trio"),
        ("broker.bus", "def f() -> None:\n    import select"),
        ("broker.bus", "if TYPE_CHECKING:\n    from interposer import loop"),
        ("broker.bus", "from .. import native"),
        ("broker.bus", "from ..interposer.loop import Loop"),
        ("broker.bus", "import importlib"),
        ("broker.bus", "data = open('/proc/self/status')"),
        ("broker.bus", "__import__('os')"),
        ("native.pool", "from broker.interfaces import PoolMemory"),
        ("native.pool", "import interposer.loop"),
        ("pytest_kdbus.domain", "from tracing.record import Record"),
        ("interposer.loop", "from native._helper import lib"),
        ("interposer.loop", "from native import _helper"),
        ("interposer.loop", "import tests.support.users"),
        ("broker.bus", "import kdbus.client"),
        ("kdbus.abi.layout", "from broker.errors import BadItem"),
        ("kdbus.abi.layout", "import kdbus.client"),
        ("kdbus.abi.layout", "import os"),
        ("kdbus.dbus.names", "import socket"),
        ("kdbus.dbus.names", "import kdbus.client"),
        ("kdbus.dbus.names", "from kdbus.dbus.blocking import connect"),
        ("interposer.target.ids", "from interposer.nodes.resolve import resolve"),
        ("interposer.launch.launch", "from interposer.supervisor import tree"),
        ("interposer.errors", "from interposer.launch.launch import Mode"),
    ],
)
def test_violation_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("broker.bus", "import struct\nfrom collections.abc import Sequence\nfrom .names import Registry"),
        ("broker.bus", "from . import queue"),
        ("broker.bus", "from broker.names import Registry"),
        ("native.pool", "import os, mmap\nfrom native._helper import ffi, lib\nfrom . import _helper"),
        ("interposer.loop", "import os, trio\nfrom broker.bus import Bus\nfrom native.memory import read"),
    ],
)
def test_allowed_imports_pass(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_relative_imports_resolve_from_modules_and_packages() -> None:
    from_module = list(imported_modules("from . import a\nfrom .b import c\nfrom .. import d", "p.q.module", False))
    assert from_module == [(1, "p.q.a"), (2, "p.q.b.c"), (3, "p.d")]
    assert list(imported_modules("from . import a\nfrom .b import c", "p.q", True)) == [(1, "p.q.a"), (2, "p.q.b.c")]
