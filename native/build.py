# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds the extension module `native._helper` from the C files of this folder, with cffi in API mode.

Used in two ways:

* by setuptools, through ``cffi_modules = ["native/build.py:ffibuilder"]``: then this file is executed (not imported)
  with the project's folder as working directory, and `ffibuilder` is taken from it;
* directly, ``python native/build.py``: compiles in place, so that the tree can be used without installing it. Object
  files stay in ``build/native`` below the project's folder (coverage data of the C code appear there as well).

API mode is used, not ABI mode, because the compiler then checks every structure and every constant against the kernel's
headers of the machine; a hand-written extension module would check them too, but needs ten times as much code around
each function. The declarations are not written twice: cffi gets the marked part of ``helper.h``.

What is missing on a machine is looked for before anything is compiled, by asking the preprocessor for one header after
the other, since a compiler's own complaint about `Python.h` tells no newcomer what to install. The names of
packages are those of Debian and Ubuntu; elsewhere they are similar enough to be found.

Environment variables: ``CC`` chooses the compiler; ``KDBUS_WERROR=1`` turns on ``-Wall -Wextra -Werror``;
``KDBUS_CFLAGS`` holds further flags for compiling and linking, separated as in a shell (``-fsanitize=address``,
``--coverage -O0``).

The same way builds the library that is preloaded into programs (``native/preload/preload.h``), which is no extension
of Python's and is linked with nothing; on machines for which there is none, nothing.

Weakness: changes of flags are not noticed by setuptools, which compiles again only when a source is newer; the direct
way always compiles everything, in about three seconds.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

try:
    from cffi import FFI
except ImportError:
    raise SystemExit("kdbus: building the native helper needs cffi: install it with `pip install cffi`") from None

SOURCES = (
    "notification.c",
    "caretaker.c",
    "memory.c",
    "pool.c",
    "keeper.c",
    "deputy.c",
    "errand.c",
    "identity.c",
    "namespace.c",
    "credentials.c",
    "seccomp.c",
    "seize.c",
    "lent_pool.c",
    "flow_table.c",
    "flow_state.c",
    "flow.c",
    "evidence.c",
    "origin.c",
    "names.c",
    "quota.c",
    "waiting.c",
    "caller.c",
    "outgoing.c",
    "incoming.c",
    "whole.c",
    "shelf.c",
    "hot_send.c",
    "hot_signal.c",
    "hot_receive.c",
    "hot_path.c",
    "hot_stall.c",
    "shares.c",
    "ring.c",
    "loop.c",
)

PRELOADED = "kdbus-before-libasan.so"
"""The preloaded library. gcc's AddressSanitizer refuses programs in which another library comes before its own, and
recognises that by `libasan.so` in its path; where it is at work the library does nothing."""

CONSTANTS = """
    SECCOMP_FILTER_FLAG_TSYNC SECCOMP_FILTER_FLAG_LOG SECCOMP_FILTER_FLAG_SPEC_ALLOW SECCOMP_FILTER_FLAG_NEW_LISTENER
    SECCOMP_FILTER_FLAG_TSYNC_ESRCH SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    SECCOMP_RET_KILL_PROCESS SECCOMP_RET_KILL_THREAD SECCOMP_RET_TRAP SECCOMP_RET_ERRNO SECCOMP_RET_USER_NOTIF
    SECCOMP_RET_TRACE SECCOMP_RET_LOG SECCOMP_RET_ALLOW
    BPF_LD BPF_ALU BPF_JMP BPF_RET BPF_W BPF_ABS BPF_AND BPF_JA BPF_JEQ BPF_JGT BPF_JGE BPF_JSET BPF_K BPF_MAXINSNS
    AUDIT_ARCH_X86_64 AUDIT_ARCH_I386 AUDIT_ARCH_AARCH64 AUDIT_ARCH_ARM AUDIT_ARCH_RISCV64
    CLONE_NEWCGROUP CLONE_NEWIPC CLONE_NEWNET CLONE_NEWNS CLONE_NEWPID CLONE_NEWTIME CLONE_NEWUSER CLONE_NEWUTS
    CLONE_FS CLONE_FILES
    MS_RDONLY MS_NOSUID MS_NODEV MS_NOEXEC MS_SYNCHRONOUS MS_REMOUNT MS_NOSYMFOLLOW MS_NOATIME MS_BIND MS_MOVE MS_REC
    MS_SILENT MS_UNBINDABLE MS_PRIVATE MS_SLAVE MS_SHARED MS_RELATIME
    MNT_FORCE MNT_DETACH MNT_EXPIRE UMOUNT_NOFOLLOW
    OPEN_TREE_CLONE OPEN_TREE_CLOEXEC AT_RECURSIVE AT_EMPTY_PATH AT_FDCWD AT_NO_AUTOMOUNT AT_SYMLINK_NOFOLLOW
    MOVE_MOUNT_F_SYMLINKS MOVE_MOUNT_F_AUTOMOUNTS MOVE_MOUNT_F_EMPTY_PATH
    MOVE_MOUNT_T_SYMLINKS MOVE_MOUNT_T_AUTOMOUNTS MOVE_MOUNT_T_EMPTY_PATH MOVE_MOUNT_SET_GROUP MOVE_MOUNT_BENEATH
    RESOLVE_BENEATH RESOLVE_IN_ROOT RESOLVE_NO_MAGICLINKS RESOLVE_NO_SYMLINKS RESOLVE_NO_XDEV RESOLVE_CACHED
    FSOPEN_CLOEXEC FSMOUNT_CLOEXEC
    FSCONFIG_SET_FLAG FSCONFIG_SET_STRING FSCONFIG_SET_BINARY FSCONFIG_SET_PATH FSCONFIG_SET_PATH_EMPTY
    FSCONFIG_SET_FD FSCONFIG_CMD_CREATE FSCONFIG_CMD_RECONFIGURE
    MOUNT_ATTR_RDONLY MOUNT_ATTR_NOSUID MOUNT_ATTR_NODEV MOUNT_ATTR_NOEXEC MOUNT_ATTR_NOATIME MOUNT_ATTR_STRICTATIME
    MOUNT_ATTR_NODIRATIME MOUNT_ATTR_NOSYMFOLLOW
    PIDFD_THREAD
""".split()
"""Constants of the kernel's headers that the Python face offers; their values come from the compiler."""

BASE_FLAGS = ("-std=gnu11", "-O2", "-pthread")
WARNING_FLAGS = ("-Wall", "-Wextra", "-Werror")

REQUIREMENTS = (
    ("stdio.h", "libc6-dev", "the C library's headers"),
    ("linux/seccomp.h", "linux-libc-dev", "the kernel's headers for programs"),
    ("Python.h", "python3-dev", "Python's headers"),
)
"""(header, Debian package, what to call it), in the order in which they are looked for."""


def compiler_command() -> list[str]:
    """The C compiler as setuptools will call it: `CC` from the environment, else the one Python was built with."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def missing_requirement() -> str | None:
    """One line that says what is missing on this machine and which package has it; None if nothing is missing."""
    compiler = compiler_command()
    if shutil.which(compiler[0]) is None:
        return (
            f"kdbus: cannot build the native helper: there is no C compiler `{compiler[0]}`; "
            "install the package gcc (Debian, Ubuntu: `apt install gcc`)"
        )
    paths = sysconfig.get_paths()
    includes = [f"-I{paths[name]}" for name in ("include", "platinclude")]
    for header, package, name in REQUIREMENTS:
        attempt = subprocess.run(
            [*compiler, *includes, "-E", "-x", "c", "-o", os.devnull, "-"],
            input=f"#include <{header}>\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if attempt.returncode != 0:
            return (
                f"kdbus: cannot build the native helper: {name} are not there ({header}, for {sys.executable}); "
                f"install the package {package} (Debian, Ubuntu: `apt install {package}`)"
            )
    return None


def declarations(header: str) -> str:
    """The part of `helper.h` that cffi reads, and the constants."""
    begin, end = "// cdef begin\n", "// cdef end\n"
    body = header[header.index(begin) + len(begin) : header.index(end)]
    return body + "".join(f"#define {name} ...\n" for name in CONSTANTS)


def make_builder(folder: Path, module: str = "native._helper") -> FFI:
    """The cffi builder of `module` from the sources in `folder` (setuptools wants them relative to the working folder).

    Python goes by the last part of the name; setuptools puts the file where the whole name leads.
    """
    extra = shlex.split(os.environ.get("KDBUS_CFLAGS", ""))
    warnings = WARNING_FLAGS if os.environ.get("KDBUS_WERROR") == "1" else ()
    builder = FFI()
    builder.cdef(declarations((folder / "helper.h").read_text(encoding="ascii")))
    builder.set_source(
        module,
        '#include "helper.h"\n',
        sources=[str(folder / name) for name in SOURCES],
        include_dirs=[str(folder)],
        depends=[
            str(folder / f"{name}.h")
            for name in ("helper", "deputy", "errand", "flow", "hot_path", "shelf", "shares")
        ],
        extra_compile_args=[*BASE_FLAGS, *warnings, *extra],
        extra_link_args=["-pthread", *extra],
    )
    return builder


PRELOADED_FLAGS = (
    *("-fPIC", "-shared", "-nostdlib", "-fvisibility=hidden", "-fno-stack-protector", "-U_FORTIFY_SOURCE"),
    *("-Wl,-z,relro", "-Wl,-z,noexecstack", "-Wl,-soname,kdbus-preload.so"),
)
"""It must not need anything of the library that it is put before, and is not instrumented (`KDBUS_CFLAGS`) as it is in
programs that are not."""


def build_preloaded(folder: Path, to: Path) -> Path | None:
    """Compile `native/preload` into `to` (a folder like `native`, where it is looked for); its path.

    None where there is none for this machine. Raises SystemExit if it cannot be compiled.
    """
    if os.uname().machine != "x86_64":
        return None
    target = to / "preload" / PRELOADED
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new")
    warnings = WARNING_FLAGS if os.environ.get("KDBUS_WERROR") == "1" else ()
    sources = sorted(str(path) for path in (folder / "preload").glob("*.c"))
    command = [*compiler_command(), *BASE_FLAGS, *warnings, *PRELOADED_FLAGS, *sources, "-o", str(fresh)]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(f"kdbus: cannot build the preloaded library: {shlex.join(command)} failed")
    fresh.rename(target)
    return target


def module_suffix() -> str:
    """How the extension module's file name ends, the same as setuptools chooses for it.

    Python prefers a file with its exact version in the name to one for all versions, so if the two ways of building
    chose different names, a stale file of one would hide a fresh one of the other.
    """
    special = hasattr(sys, "gettotalrefcount") or sysconfig.get_config_var("Py_GIL_DISABLED")
    return str(sysconfig.get_config_var("EXT_SUFFIX")) if special else ".abi3.so"


def build_in_place(folder: Path) -> Path:
    """Compiles into `folder` itself and returns the path of the extension module."""
    work = folder.parent / "build" / "native"
    work.mkdir(parents=True, exist_ok=True)
    built = Path(make_builder(folder).compile(tmpdir=str(work)))
    module = folder / ("_helper" + module_suffix())
    # Written beside and renamed: a process that has the old one mapped keeps it whole.
    fresh = module.with_suffix(".new")
    shutil.copyfile(built, fresh)
    shutil.copymode(built, fresh)
    fresh.rename(module)
    return module


def main() -> None:
    """Compiles in place; ends the process with one line on stderr when that cannot be."""
    folder = Path(__file__).resolve().parent
    try:
        module = build_in_place(folder)
    except ModuleNotFoundError as error:
        # From Python 3.12 on there is no distutils of its own, and a virtual environment has no setuptools either.
        if error.name not in ("setuptools", "distutils"):
            raise
        raise SystemExit(
            "kdbus: building the native helper needs setuptools: install it with `pip install setuptools`"
        ) from None
    print(f"built {module}")
    preloaded = build_preloaded(folder, folder)
    if preloaded is not None:
        print(f"built {preloaded}")


_missing = missing_requirement() if __name__ in ("__main__", "__cffi__") else None
if _missing is not None:
    raise SystemExit(_missing)
if __name__ == "__main__":
    main()
elif __name__ == "__cffi__":
    # The private folder that setup.py installs the application into.
    ffibuilder = make_builder(
        Path(os.path.relpath(Path(__file__).resolve().parent)), "kdbus._application.native._helper"
    )
