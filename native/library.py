# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled helper, and how its results become exceptions.

C functions return -errno. Turning that into an `OSError` happens here and nowhere else, in two steps on purpose: the
caller compares with zero itself and calls `failure` only then, because the text that explains an error costs more than
the system call that it is about, and hot paths must not pay for it when all is well.

Alternatives: cffi's `ffi.errno` saves errno around each call, at a price on each call, and cannot tell which of two
system calls failed; an exception class of our own would tell callers nothing that errno does not.
"""

from __future__ import annotations

import os

try:
    from native._helper import ffi, lib
except ModuleNotFoundError as error:  # pragma: no cover - only in a tree that was not built
    if error.name != "native._helper":
        raise
    raise ImportError(
        "the native helper is not built for this Python: build it in place with `python native/build.py`, "
        "or install the project with pip"
    ) from error

__all__ = ["failure", "ffi", "lib", "path_bytes"]


def failure(result: int, attempt: str) -> OSError:
    """The exception for a negative `result`; `attempt` says what was tried, on what.

    The class is the one that Python has for the errno (`PermissionError`, `ProcessLookupError`, ...).
    """
    number = -result
    return OSError(number, f"{attempt}: {os.strerror(number)}")


def path_bytes(path: str | bytes) -> bytes:
    """`path` as the kernel wants it. Raises ValueError for a zero byte, which would cut it short unseen."""
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError(f"embedded zero byte in {path!r}")
    return encoded
