# SPDX-License-Identifier: GPL-2.0-or-later
"""What is distributed and installed: complete, in nobody's way, and deaf to the Python environment of its user.

The distributions are built as pip would build them, the wheel from the unpacked source distribution, and the wheel is
installed into a virtual environment that borrows the dependencies of this one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from interposer import help
from share.completion import completion
from share.manual import manual
from tests.project.test_imports import PACKAGES

PROJECT = Path(__file__).resolve().parents[2]
_BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
_PATIENCE_S = 120
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _build(kind: str, source: Path, target: Path) -> tuple[Path, str]:
    """Build the distribution; its file, and what was said on stderr."""
    command = [sys.executable, "-c", _BUILD, kind, str(target)]
    built = subprocess.run(command, cwd=source, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return target / built.stdout.splitlines()[-1], built.stderr


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    file, _ = _build("build_sdist", PROJECT, folder)
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
    return folder / file.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file, said = _build("build_wheel", unpacked, tmp_path_factory.mktemp("wheel"))
    assert "warning" not in said.lower(), said
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `kdbus` of a virtual environment that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], env=_ENVIRONMENT, check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Folders that are named so are searched, but their own .pth files are not: this project's is not found there.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "kdbus"


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_source_distribution_is_complete(unpacked: Path) -> None:
    built = {"build", "__pycache__", ".hypothesis"}
    kept = {
        name
        for top in ("benchmarks", "docs", "samples", "scripts", "share", "tests", *PACKAGES)
        for name in (f"{top}/{file}" for file in _files(PROJECT / top))
        if not built & set(Path(name).parts) and not name.endswith((".so", ".o", "_helper.c"))
    }
    assert {"samples/Makefile", "native/helper.h", "tests/support/e2e.py", "tests/programs/e2e.h"} <= kept
    assert kept <= _files(unpacked)
    assert {"bootstrap", "setup.py", "pyproject.toml", ".ci/run", "LICENSE", "README.md"} <= _files(unpacked)
    assert os.access(unpacked / "bootstrap", os.X_OK)
    assert not {name for name in _files(unpacked) if name.endswith((".so", ".pyc"))}


def test_wheel_collides_with_nobody(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top.partition("-")[0] for top in tops} == {"kdbus", "kdbus_interposer", "pytest_kdbus"}
    assert not [name for name in names if name.endswith((".c", "helper.h", "native/build.py"))]
    application = {name.split("/")[2] for name in names if name.startswith("kdbus/_application/")}
    assert application == set(PACKAGES) - {"kdbus", "pytest_kdbus"}
    if os.uname().machine == "x86_64":
        assert "kdbus/_application/native/preload/kdbus-before-libasan.so" in names
    assert {"2", "3", "219", "4", "final"} == {name.split("/")[-3] for name in names if name.endswith("kdbus.h")}
    assert {name for name in _files(PROJECT / "interposer") if name.endswith(".json")} <= {
        name.removeprefix("kdbus/_application/interposer/") for name in names
    }


def test_manual_and_completion_are_installed(installed: Path) -> None:
    shared = installed.parent.parent / "share"
    for path, text in {**manual(), **completion()}.items():
        assert (shared / path).read_text() == text
    assert {f"man/man1/kdbus-{name}.1" for name in help.PAGES} <= _files(shared)


def test_plugin_is_found_by_pytest(installed: Path, tmp_path: Path) -> None:
    """Installed as it is, in an environment that has nothing else of this project."""
    (tmp_path / "test_it.py").write_text("def test_it(kdbus):\n    assert kdbus.run(['true']).status == 0\n")
    python = str(installed.parent / "python")
    command = [python, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    ended = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    assert "1 passed" in ended.stdout or "no kdbus here" in ended.stdout, ended.stdout + ended.stderr


def test_wheel_is_for_all_versions(wheel: Path) -> None:
    if sysconfig.get_config_var("Py_GIL_DISABLED") or hasattr(sys, "gettotalrefcount"):
        pytest.skip("this Python has no stable ABI")
    assert "-cp311-abi3-" in wheel.name


def test_library_is_installed_whole(installed: Path) -> None:
    code = """if True:
        import importlib, pkgutil, kdbus
        for name in kdbus.__all__:
            getattr(kdbus, name)
        for module in pkgutil.walk_packages(kdbus.__path__, "kdbus."):
            if "_application" not in module.name:
                importlib.import_module(module.name)
                print(module.name)
        """
    command = [str(installed.parent / "python"), "-I", "-c", code]
    ended = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    files = [file.removesuffix(".py") for file in _files(PROJECT / "kdbus") if file.endswith(".py")]
    there = {"kdbus." + file.removesuffix("/__init__").replace("/", ".") for file in files if file != "__init__"}
    assert (ended.stderr, set(ended.stdout.split())) == ("", there)


def _run(installed: Path, folder: Path, given: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The environment of a program that `kdbus run` was given `given` for; it has called kdbus, too."""
    code = "import os; os.open('/dev/null', os.O_RDWR)"
    script = f'{sys.executable} -ISc "{code}" && exec env -0'
    ended = subprocess.run(
        [installed, "run", "--", "sh", "-c", script],
        cwd=folder,
        env=given,
        capture_output=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    # What the shell adds.
    entries = dict(entry.split(b"=", 1) for entry in ended.stdout.split(b"\0") if entry)
    return {name: value for name, value in entries.items() if name not in (b"PWD", b"_", b"SHLVL", b"OLDPWD")}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {b"PYTHONPATH": b"."},
        {b"PYTHONPATH": b".", b"LC_ALL": b"C"},
        {b"PYTHONPATH": b".", b"LC_CTYPE": b"C"},
        {b"PYTHONSAFEPATH": b"1"},
        {b"PYTHONWARNINGS": b"error"},
        {b"PYTHONHOME": os.fsencode(sys.base_prefix)},
        {b"PYTHONOPTIMIZE": b"2", b"PYTHONUTF8": b"0", b"LC_ALL": b"POSIX"},
        {b"LC_ALL": b"xx_YY.unknown", b"ODD": b"\xff\n="},
    ],
    ids=lambda variables: b",".join(variables).decode() or "none",
)
def test_environment_is_the_programs(installed: Path, tmp_path: Path, variables: dict[bytes, bytes]) -> None:
    for name in ("broker", "interposer", "kdbus", "native", "trio", "cffi", "errno", "socket"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the program was imported')\n")
    given = {b"PATH": os.fsencode(os.environ["PATH"]), **variables}
    assert _run(installed, tmp_path, given) == given


def test_modules_beside_the_command_are_not_imported(installed: Path, tmp_path: Path) -> None:
    stranger = installed.parent / "broker.py"
    stranger.write_text("raise SystemExit('imported')\n")
    try:
        assert _run(installed, tmp_path, {b"PATH": os.fsencode(os.environ["PATH"])})
    finally:
        stranger.unlink()


def test_arguments_are_handed_on_byte_by_byte(installed: Path, tmp_path: Path) -> None:
    words = [b"\xff\xfe", "\u00e9".encode(), b"", b"-x"]
    for variables in ({b"LC_ALL": b"C"}, {b"LC_ALL": b"POSIX", b"PYTHONPATH": b"."}, {b"PYTHONUTF8": b"0"}):
        command = [os.fsencode(installed), b"run", b"printf", b"%s\\n", *words]
        environment = {b"PATH": os.fsencode(os.environ["PATH"]), **variables}
        ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True)
        assert ended.stdout.split(b"\n")[:-1] == words


def test_runs_without_being_installed(wheel: Path, tmp_path: Path) -> None:
    """By pipx, which fetches what the wheel needs from the package index."""
    if importlib.util.find_spec("pipx") is None:
        pytest.skip("pipx is not installed")
    environment = {**_ENVIRONMENT, "PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    pipx = [sys.executable, "-m", "pipx", "run", "--spec", str(wheel), "kdbus", "run", "--", "ls", "/sys/fs/kdbus"]
    try:
        ended = subprocess.run(
            pipx,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"pipx has not got what it needs within {_PATIENCE_S} s: a slow package index")
    if ended.returncode and not _is_fetched("trio", tmp_path):
        pytest.skip("no package index can be reached")
    assert (ended.returncode, ended.stdout) == (0, "control\n"), ended.stderr


def _is_fetched(name: str, folder: Path) -> bool:
    """Whether pip can have that from the package index now."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--no-cache-dir", name]
    try:
        ended = subprocess.run(pip, cwd=folder, env=_ENVIRONMENT, capture_output=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0


TYPED = """
import kdbus
from kdbus.dbus import service
from kdbus.dbus.blocking import connect
from kdbus.dbus.message import Message, method_call
from pytest_kdbus.domain import Domain

@service.interface("org.example.Typed")
class Typed:
    @service.method("s", "s")
    def Echo(self, text: str) -> str:
        return text

def greet(bus: str) -> bytes:
    with kdbus.connect(bus, attach_receive=kdbus.Attach.ALL) as connection:
        with connection.receive(timeout=1) as message:
            names: tuple[kdbus.OwnedName, ...] = message.metadata.names
            return bytes(message.payload) + str(names).encode()

def ask(bus: str) -> Message:
    with connect(bus) as connection:
        connection.objects.add("/", Typed())
        return connection.call(method_call("a.b", "/", "a.b", "C"))

def test_it(kdbus: Domain) -> None:
    kdbus.fake("org.example.X", {"Ask": lambda word: ("s", word)})
    status: int = kdbus.run(["true"]).status
    assert status == 0
"""
"""What a user's program may look like; the errors are appended."""
WRONG = ("greet(1)", "Typed().Echo(1)", "kdbus.connect('x', attach_recv=1)", "ask('x').nonsense")


def test_library_and_plugin_are_typed(installed: Path, tmp_path: Path) -> None:
    """mypy finds the types where the wheel is installed, and tells what is wrong with their use."""
    file = tmp_path / "typed.py"
    file.write_text(TYPED + "\n".join(WRONG) + "\n")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--python-executable"]
    command = [*mypy, str(installed.parent / "python"), str(file)]
    ended = subprocess.run(
        command, cwd=tmp_path, env=_ENVIRONMENT, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    told = [int(line.split(":")[1]) for line in ended.stdout.splitlines() if ": error: " in line]
    first = len(TYPED.splitlines()) + 1
    assert told == list(range(first, first + len(WRONG))), ended.stdout + ended.stderr
