# SPDX-License-Identifier: GPL-2.0-or-later
"""The library that is preloaded: programs that have nothing to do with kdbus cannot tell it is there.

`tests/programs/spared.c` makes every call that names a path; what it says must not depend on who answers: the kernel
outside of `kdbus run`, the kernel by way of the library, or the supervisor.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native.preloaded import library
from tests.end_to_end.test_path_mode import cases, check, compiled
from tests.support.compiling import compile_program
from tests.support.users import User, current_user

LIBRARY = library()

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="there is no preloaded library for this machine")

Folder = Callable[[User], Path]


WITH = [["--mode", "path"], ["--mode", "mount", "--preload"]]
"""The options with which the library is there."""


def run_in(user: User, *command: str, preload: bool = True) -> list[str]:
    """The command that runs `command` in path mode."""
    return user.kdbus("run", "--mode", "path", *([] if preload else ["--no-preload"]), "--", *command)


@pytest.fixture(scope="module")
def program(open_folder: Path) -> Path:
    return compile_program("spared", open_folder, "-O2")


@pytest.fixture
def folder(open_folder: Path) -> Iterator[Folder]:
    """Makes the folder that the program works in, which is the user's."""
    place = open_folder / "spared-folder"

    def make(user: User) -> Path:
        if place.exists():
            (place / "secret").chmod(0o700)
            shutil.rmtree(place)
        (place / "inner").mkdir(parents=True)
        for name in ("file", "inner/file"):
            (place / name).write_text("hello\n")
        links = {"link": "file", "folder-link": "inner", "slash-link": "inner/", "dangling": "absent"}
        links |= {"dangling-deep": "dangling/x", "loop": "loop", "absolute": str(place / "inner")}
        for name, to in links.items():
            (place / name).symlink_to(to)
        (place / "secret").mkdir(0)
        if user.identity is not None:
            for path in (place, *place.rglob("*")):
                os.chown(path, user.identity, user.identity, follow_symlinks=False)
        return place

    yield make
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize("options", WITH)
def test_calls_are_not_trapped(user: User, options: list[str], program: Path, folder: Folder) -> None:
    outcome = user.run(user.kdbus("run", *options, "--", str(program), str(folder(user)), "spared"))
    assert (outcome.status, outcome.output) == (0, "done\n")


def test_calls_are_trapped_without_it(user: User, program: Path, folder: Folder) -> None:
    """So the test above can fail."""
    outcome = user.run(run_in(user, str(program), str(folder(user)), "spared", preload=False))
    assert outcome.output.count("not spared: ") > 50


def outcomes(output: str) -> list[str]:
    """What a call said, each with its path in front."""
    said: list[str] = []
    path = ""
    for line in output.splitlines():
        if line.startswith("--- "):
            path = line
        else:
            said.append(f"{path}: {line}")
    return said


@pytest.mark.parametrize("options", WITH)
def test_calls_say_what_they_say_outside(user: User, options: list[str], program: Path, folder: Folder) -> None:
    def said(*, inside: bool) -> list[str]:
        command = [str(program), str(folder(user)), "outcomes"]
        outcome = user.run(user.kdbus("run", *options, "--", *command) if inside else command)
        assert outcome.status == 0, outcome.output
        return [line for line in outcomes(outcome.output) if "/sys/fs/" not in line]

    outside = said(inside=False)
    assert len(outside) > 2500
    assert said(inside=True) == outside


def test_calls_say_the_same_trapped(user: User, program: Path, folder: Folder) -> None:
    """Below the mount point as well. creat(2) under its own number is not trapped."""

    def said(*, preload: bool) -> list[str]:
        outcome = user.run(run_in(user, str(program), str(folder(user)), "outcomes", preload=preload))
        assert outcome.status == 0, outcome.output
        return [line for line in outcomes(outcome.output) if "creat" not in line]

    assert said(preload=True) == said(preload=False)


@pytest.mark.parametrize("options", WITH)
def test_no_call_is_broken_off(user: User, options: list[str], program: Path, folder: Folder) -> None:
    outcome = user.run(user.kdbus("run", *options, "--", str(program), str(folder(user)), "timer"))
    assert (outcome.status, outcome.output) == (0, "0 failed\n")


SCRIPTS = {
    "find": "find . -name '*.h' -o -type l | sort; find missing; ls -lR . | grep -v total",
    "python": """PYTHON -c 'import os, json, glob, tempfile
for name in sorted(glob.glob("**", recursive=True)): print(name, os.path.isdir(name), os.path.realpath(name))
print(os.getcwd(), json.__name__)
with tempfile.TemporaryDirectory() as made: print(os.listdir(made), os.path.exists(made + "/x"))
print(os.path.exists(made))'
""",
    "build": """make -s && ls && ./main && make && touch two.h && make -n; gcc -c none.c; gcc -c broken.c
make clean && ls""",
    "shell": """cd inner && pwd -P && cd .. && [ -e main.c ] && [ ! -e none ] && echo *.c
test -L ../x || readlink -f inner/..; cat none; : >main.c/x""",
}
"""What it prints must not depend on the library. `PYTHON`: an interpreter."""


@pytest.fixture
def project(open_folder: Path) -> Iterator[Path]:
    """A small project to build."""
    folder = open_folder / "project"
    (folder / "inner").mkdir(parents=True)
    files = {
        "main.c": '#include <stdio.h>\n#include "two.h"\nint main(void) { return printf("%d\\n", two()) < 0; }\n',
        "two.c": '#include "inner/odd.h"\n#include "two.h"\nint two(void) { return ODD + 1; }\n',
        "two.h": "int two(void);\n",
        "inner/odd.h": "#define ODD 1\n",
        "broken.c": '#include "missing.h"\n',
        "Makefile": "main: main.o two.o\n\tgcc -o $@ $^\nmain.o two.o: two.h inner/odd.h\nclean:\n\trm -f main *.o\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    for path in (folder, folder / "inner"):
        path.chmod(0o777)
    for name in files:
        (folder / name).chmod(0o666)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("script", SCRIPTS)
def test_programs_of_every_day(user: User, script: str, project: Path) -> None:
    command = ["sh", "-c", SCRIPTS[script].replace("PYTHON", user.python)]
    outside = user.run(command, folder=project)
    assert len(outside.output) > 50
    for preload in (True, False):
        inside = user.run(run_in(user, *command, preload=preload), folder=project)
        assert (inside.status, inside.output) == (outside.status, outside.output)


@pytest.mark.parametrize("name", ["path_calls", "readiness", "lifetimes", "descriptors", "attach_flags", "mounts"])
def test_kdbus_in_mount_mode(user: User, name: str, open_folder: Path) -> None:
    """Nodes are opened as ever, those of a kdbusfs of the program's own among them. Path mode has tests of its own."""
    command = user.kdbus("run", "--mode", "mount", "--preload", "--", str(compiled(name, open_folder)))
    outcome = user.run([*command, *cases(name, user)])
    check(outcome.output, outcome.status)


@pytest.mark.parametrize("options", WITH)
def test_calls_of_kdbus_are_not_broken_off(user: User, options: list[str], open_folder: Path) -> None:
    command = user.kdbus("run", *options, "--", str(compiled("unbroken", open_folder)))
    outcome = user.run([*command, *cases("unbroken", user)])
    check(outcome.output, outcome.status)


@pytest.mark.parametrize("options", WITH)
def test_an_EINTR_that_is_injected_is_said(user: User, options: list[str], open_folder: Path) -> None:
    program = str(compiled("unbroken", open_folder))
    command = user.kdbus("run", *options, "--inject", "BYEBYE:errno=EINTR", "--", program)
    outcome = user.run([*command, "goodbye"])
    assert (outcome.status, "left:  -4 " in outcome.output) == (1, True), outcome.output


def test_it_is_wanted_or_not(user: User) -> None:
    outcome = user.run(user.kdbus("run", "--preload", "--no-preload", "--", "true"))
    assert (outcome.status, "give one of the two, or none" in outcome.output) == (125, True)


def test_what_is_given_by_LD_PRELOAD_comes_first(user: User, open_folder: Path) -> None:
    own = open_folder / "own.so"
    source = "int access(const char *path, int mode) { (void)path; (void)mode; return 0; }"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(own)]
    subprocess.run(command, input=source, text=True, check=True)
    own.chmod(0o755)
    wrapped = User(user.name, user.identity, user.python, {**user.environment, "LD_PRELOAD": str(own)})
    code = "import os; print(os.environ['LD_PRELOAD'], os.access('/nothing', os.R_OK))"
    outcome = wrapped.run(run_in(wrapped, user.python, "-c", code))
    # The ordinary user's may be a copy.
    assert LIBRARY is not None
    assert re.fullmatch(rf"{own}:/\S+/{Path(LIBRARY).name} True\n", outcome.output)


def test_it_is_not_there_unless_it_is_wanted(user: User) -> None:
    for options in (["--mode", "path", "--no-preload"], ["--mode", "mount"]):
        outcome = user.run(user.kdbus("run", *options, "--", "sh", "-c", "echo ${LD_PRELOAD:-none}"))
        assert outcome.output == f"{user.environment.get('LD_PRELOAD', 'none')}\n"


@pytest.mark.parametrize("flags", [["-static"], ["-m32"], ["-fsanitize=address"], ["-fsanitize=thread"]])
def test_programs_that_go_on_trapped(user: User, flags: list[str], open_folder: Path) -> None:
    """Nobody complains, and kdbus is there."""
    source = "#include <unistd.h>\nint main(void) { return access(\"/sys/fs/kdbus/control\", F_OK); }\n"
    program = open_folder / "odd"
    command = ["gcc", "-x", "c", "-", *flags, "-o", str(program)]
    built = subprocess.run(command, input=source, text=True, check=False, capture_output=True)
    if built.returncode:
        pytest.skip(f"cannot be built here: {built.stderr}")
    try:
        outcome = user.run(run_in(user, str(program)))
        if outcome.status:
            outside = user.run([str(program)])
            assert outcome.output == outside.output
    finally:
        program.unlink()
    assert (outcome.status, outcome.output) == (0, "")


def test_nobody_complains_in_a_chroot(open_folder: Path) -> None:
    """Where the library's path leads nowhere: the supervisor has it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to change the root")
    root = open_folder / "chroot"
    needed = re.findall(r"(/\S+) \(0x", subprocess.check_output(["ldd", "/bin/sh"], text=True))
    for path in ("/bin/sh", *needed):
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path[1:])
    user = current_user()
    script = "[ -e /sys/fs/kdbus/control ] && echo $LD_PRELOAD"
    outcome = user.run(run_in(user, "chroot", str(root), "/bin/sh", "-c", script))
    assert (outcome.status, outcome.output) == (0, f"{LIBRARY}\n")


def test_nobody_complains_as_another_user() -> None:
    """Who may not enter the folder that the library is in."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    user = current_user()
    script = """if True:
        import os, subprocess
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        maps = subprocess.check_output(['cat', '/proc/self/maps'], stderr=subprocess.STDOUT, text=True)
        print('libasan.so' in maps and 'ERROR' not in maps)
        """
    outcome = user.run(run_in(user, user.python, "-c", script))
    assert (outcome.status, outcome.output) == (0, "True\n")
