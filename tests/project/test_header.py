# SPDX-License-Identifier: GPL-2.0-or-later
"""The project's linux/kdbus.h says exactly what the ABI says.

A program is compiled against the header, so every name, number, size, offset and type counts. What a header declares
is found in two steps: pycparser lists the names in the preprocessed text (a name that is missing on one side must show,
so no list of names stands here), and a generated C program, compiled with the header itself, prints their values. The
result is compared with two others: the broker's layout tables, always, and the original header, where it is at hand:
below the folder that the environment variable KDBUS_REFERENCE names, or next to the repository.

Alternatives: a list of names in this file would need to be kept complete by hand, and debug information read with
pahole would need a tool that not every machine has. pycparser comes with cffi, which the project needs anyway.

Weakness: values come from the compiler of this machine. The layouts hold no type whose size depends on the
architecture, which the tables (plain numbers) confirm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from pycparser import c_ast, c_generator, c_parser  # type: ignore[import-untyped]

from kdbus.abi import final, revision2, revision3, revision4, revision219

REPOSITORY = Path(__file__).resolve().parents[2]
INCLUDES = REPOSITORY / "interposer" / "include"
INCLUDE = INCLUDES / "3"
"""Of the revision that the original header is compared with."""
TABLES = {"2": revision2, "3": revision3, "219": revision219, "4": revision4, "final": final}
REVISIONS = list(TABLES)
HEADER = Path("linux") / "kdbus.h"
TIMEOUT = 60

# pycparser reads plain C: what the kernel's type headers use beyond it is taken away before.
PLAIN_C = ["-D__attribute__(x)=", "-D__extension__=", "-D__signed__=signed", "-U__SIZEOF_INT128__"]


def reference_include() -> Path | None:
    """The folder that holds the original's linux/kdbus.h, if it is at hand."""
    given = os.environ.get("KDBUS_REFERENCE")
    root = Path(given) if given else REPOSITORY.parent / "shared" / "reference" / "kdbus-v3"
    include = root / "include" / "uapi"
    if (include / HEADER).is_file():
        return include
    if given:
        pytest.fail(f"KDBUS_REFERENCE={given} holds no include/uapi/linux/kdbus.h")
    return None


@dataclass(frozen=True)
class Member:
    offset: int
    size: int
    declaration: str


@dataclass(frozen=True)
class Interface:
    """What a header declares."""

    macros: dict[str, int]
    enumerations: dict[str, dict[str, int]]
    """Tag -> enumerator -> value."""
    sizes: dict[str, int]
    alignments: dict[str, int]
    members: dict[str, dict[str, Member]]
    """Struct -> member -> place; those of anonymous unions count as the struct's own."""

    def numbers(self) -> dict[str, int]:
        """All macros and enumerators."""
        result = dict(self.macros)
        for enumerators in self.enumerations.values():
            result.update(enumerators)
        return result


def compile_with(include: Path, *arguments: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run gcc on `text`, which includes the header from `include`."""
    command = ["gcc", f"-I{include}", *arguments, "-"]
    result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert result.returncode == 0, result.stderr
    return result


def declared_members(struct: c_ast.Struct) -> Iterator[tuple[str, str]]:
    """(name, declaration as C text) of each member, through anonymous unions."""
    for declaration in struct.decls:
        if declaration.name is None:
            yield from declared_members(declaration.type)
        else:
            yield declaration.name, c_generator.CGenerator().visit(declaration)


def read_interface(include: Path, folder: Path) -> Interface:
    """Everything that linux/kdbus.h below `include` declares; `folder` is for temporary files."""
    source = "#include <linux/kdbus.h>\n"
    macros = []
    for line in compile_with(include, "-E", "-dM", "-xc", text=source).stdout.splitlines():
        name, _, value = line.removeprefix("#define ").partition(" ")
        if name.startswith(("KDBUS_", "_KDBUS_")) and value:
            macros.append(name)
    enumerations: dict[str, list[str]] = {}
    structs: dict[str, dict[str, str]] = {}
    for node in c_parser.CParser().parse(compile_with(include, "-E", "-P", "-xc", *PLAIN_C, text=source).stdout):
        kind = getattr(node, "type", None)
        if isinstance(kind, c_ast.Enum) and kind.name.startswith("kdbus_"):
            enumerations[kind.name] = [enumerator.name for enumerator in kind.values]
        elif isinstance(kind, c_ast.Struct) and kind.name.startswith("kdbus_"):
            structs[kind.name] = dict(declared_members(kind))

    questions = [(f"number {name}", name) for name in macros]
    questions += [(f"number {name}", name) for names in enumerations.values() for name in names]
    for struct, members in structs.items():
        questions.append((f"size {struct}", f"sizeof(struct {struct})"))
        questions.append((f"alignment {struct}", f"_Alignof(struct {struct})"))
        for name in members:
            questions.append((f"offset {struct} {name}", f"offsetof(struct {struct}, {name})"))
            questions.append((f"size {struct} {name}", f"sizeof(((struct {struct} *)0)->{name})"))
    lines = [f'\tprintf("{label} %llu\\n", (unsigned long long)({value}));' for label, value in questions]
    program = "\n".join(
        ["#include <stdio.h>", "#include <stddef.h>", source, "int main(void)", "{", *lines, "\treturn 0;", "}", ""]
    )
    executable = folder / "print-interface"
    compile_with(include, "-std=gnu11", "-xc", f"-o{executable}", text=program)
    output = subprocess.run([executable], capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout
    answers = {label: int(value) for label, _, value in (line.rpartition(" ") for line in output.splitlines())}

    return Interface(
        macros={name: answers[f"number {name}"] for name in macros},
        enumerations={tag: {name: answers[f"number {name}"] for name in names} for tag, names in enumerations.items()},
        sizes={struct: answers[f"size {struct}"] for struct in structs},
        alignments={struct: answers[f"alignment {struct}"] for struct in structs},
        members={
            struct: {
                name: Member(answers[f"offset {struct} {name}"], answers[f"size {struct} {name}"], declaration)
                for name, declaration in members.items()
            }
            for struct, members in structs.items()
        },
    )


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Interface:
    return read_interface(INCLUDE, tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Interface:
    include = reference_include()
    if include is None:
        pytest.skip("the original header is not at hand (set KDBUS_REFERENCE to the folder that holds its include/)")
    return read_interface(include, tmp_path_factory.mktemp("reference"))


def test_is_not_empty(ours: Interface) -> None:
    """So that no comparison below succeeds because nothing was found."""
    assert len(ours.numbers()) > 100
    assert len(ours.enumerations["kdbus_ioctl_type"]) == 16
    assert ours.members["kdbus_msg"]["cookie_reply"] == Member(56, 8, "__u64 cookie_reply")


def test_macros_and_enumerations_are_those_of_the_reference(ours: Interface, reference: Interface) -> None:
    assert ours.macros == reference.macros
    assert ours.enumerations == reference.enumerations


def test_structs_are_those_of_the_reference(ours: Interface, reference: Interface) -> None:
    assert ours.sizes == reference.sizes
    assert ours.alignments == reference.alignments
    assert ours.members == reference.members


def test_members_stand_in_the_order_of_the_reference(ours: Interface, reference: Interface) -> None:
    """Programs may initialize structs by position. Members of unions may stand in any order but the first."""
    for struct, members in reference.members.items():
        if struct != "kdbus_item":
            assert list(ours.members[struct]) == list(members), struct
    assert list(ours.members["kdbus_item"])[:3] == list(reference.members["kdbus_item"])[:3]


@pytest.fixture(scope="module", params=REVISIONS)
def declared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Interface, ModuleType]:
    """A revision's header, and its tables."""
    return read_interface(INCLUDES / request.param, tmp_path_factory.mktemp("declared")), TABLES[request.param]


def test_every_revision_has_a_header() -> None:
    assert {path.name for path in INCLUDES.iterdir()} == set(REVISIONS)


def test_tables_have_the_same_numbers(declared: tuple[Interface, ModuleType]) -> None:
    header, tables = declared
    numbers = {**tables.CONSTANTS, **tables.REQUESTS}
    assert len(numbers) == len(tables.CONSTANTS) + len(tables.REQUESTS)

    def public(names: dict[str, int]) -> dict[str, int]:
        return {name: value for name, value in names.items() if name[0] != "_" and name != "KDBUS_IOCTL_MAGIC"}

    assert public(numbers) == public(header.numbers())
    # The private ones need not be known, but if so, then right.
    assert {**header.numbers(), **numbers} == header.numbers()


def test_tables_tell_requests_from_other_numbers(declared: tuple[Interface, ModuleType]) -> None:
    header, tables = declared
    assert header.enumerations["kdbus_ioctl_type"] == tables.REQUESTS


def test_tables_have_the_same_structs(declared: tuple[Interface, ModuleType]) -> None:
    header, tables = declared
    assert {name: struct.size for name, struct in tables.STRUCTS.items()} == header.sizes
    for name, struct in tables.STRUCTS.items():
        known = {field.name: (field.offset, field.size) for field in struct.fields}
        assert known == {key: (member.offset, member.size) for key, member in header.members[name].items()}, name


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("standard", ["c99", "c11", "gnu89", "gnu99", "gnu11", "gnu17"])
def test_compiles_as_c_without_warnings(revision: str, standard: str) -> None:
    text = "#include <linux/kdbus.h>\n#include <linux/kdbus.h>\nstruct kdbus_msg message;\n"
    strict = ["-Wall", "-Wextra", "-Werror", *(["-pedantic"] if standard != "gnu89" else [])]
    compile_with(INCLUDES / revision, f"-std={standard}", *strict, "-fsyntax-only", "-xc", text=text)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler (package g++)")
@pytest.mark.parametrize("revision", REVISIONS)
def test_compiles_as_cpp_without_warnings(revision: str) -> None:
    text = "#include <linux/kdbus.h>\nkdbus_msg message;\n"
    strict = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
    compile_with(INCLUDES / revision, "-std=c++17", *strict, "-fsyntax-only", "-xc++", text=text)


@pytest.mark.parametrize("first_is_ours", [True, False])
def test_stands_beside_a_copy_of_the_original(first_is_ours: bool) -> None:
    """A program that brings its own copy along may include both."""
    include = reference_include()
    if include is None:
        pytest.skip("the original header is not at hand (set KDBUS_REFERENCE to the folder that holds its include/)")
    headers = [include / HEADER, INCLUDE / HEADER]
    if first_is_ours:
        headers.reverse()
    text = "".join(f'#include "{header}"\n' for header in headers)
    compile_with(INCLUDE, "-fsyntax-only", "-xc", text=text)
