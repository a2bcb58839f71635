# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects that own one descriptor: closed by hand, at the end of a `with` block, or with the object."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self


class OwnsDescriptor:
    """The descriptor is `_descriptor`, -1 before there is one and after it was closed."""

    _descriptor: int = -1

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
