# SPDX-License-Identifier: GPL-2.0-or-later
"""The one circle of modules: in the broker, of types alone (`broker.connection` says why), and no larger than it is.

At run time nothing is imported in a circle, not in the broker and not elsewhere; what stands under TYPE_CHECKING is not
imported then.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set

import pytest

from tests.project.test_imports import PACKAGES, imported_modules, modules_of

KNOT = frozenset(
    f"broker.{name}"
    for name in (
        "access", "behaviour", "bus", "command", "connection", "delivery", "domain", "endpoint", "grant", "inbox",
        "match", "message", "names", "notify", "queue", "reply", "subscribers", "tap",
    )
)  # fmt: skip


def circles(imports: Mapping[str, Set[str]]) -> set[str]:
    """The modules that import themselves by way of others."""
    found = set()
    for module in imports:
        seen: set[str] = set()
        ahead = [*imports[module]]
        while ahead:
            if (name := ahead.pop()) not in seen:
                seen.add(name)
                ahead += imports[name]
        if module in seen:
            found.add(module)
    return found


def _imports_of(package: str, *, types: bool) -> dict[str, set[str]]:
    """Which modules of `package` each of them imports when it is loaded; `types`: also those that it names as types."""
    modules = dict(modules_of(package))
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        source = path.read_text()
        source = source if types else _loaded(source)
        names = (name for _, name in imported_modules(source, module, path.name == "__init__.py"))
        found[module] = set(_known(names, modules)) - {module}
    return found


def _known(names: Iterator[str], modules: Mapping[str, object]) -> Iterator[str]:
    """The modules that are meant: `a.b.c` may be one, or something in `a.b`."""
    for name in names:
        if name in modules:
            yield name
        elif (parent := name.rpartition(".")[0]) in modules:
            yield parent


def _loaded(source: str) -> str:
    """What is run when the module is loaded, as far as it matters here: no types, no functions."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.If)]
    return ast.unparse(tree)


def test_the_circle_of_types_is_the_one_that_is_known() -> None:
    assert circles(_imports_of("broker", types=True)) == KNOT


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_loaded_in_a_circle(package: str) -> None:
    imports = _imports_of(package, types=False)
    # A package's own file may collect what its modules have.
    assert circles({name: found - {package} for name, found in imports.items()}) == set()


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"b", "c"}
    assert "if" not in _loaded("if TYPE_CHECKING:\n    import x\nimport y") and "y" in _loaded("import y")
