# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of errno numbers, as the kernel's headers and strace have them.

Python's own table has one name for each number, and where there are two not the one that people look for (ENOTSUP for
what kdbus calls EOPNOTSUPP), lacks one that kdbus uses, and does not have the number that waiting calls end with.
"""

from __future__ import annotations

import errno
from typing import Final

NAMES: Final = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP", 124: "EMEDIUMTYPE", 512: "ERESTARTSYS"}
NUMBERS: Final = {
    **{name: number for number, name in NAMES.items()},
    "ENOTSUP": errno.EOPNOTSUPP, "EWOULDBLOCK": errno.EAGAIN, "EDEADLOCK": errno.EDEADLK,
}
"""With all names that a number has."""
OF_KDBUS: Final = (
    *"E2BIG EADDRINUSE EADDRNOTAVAIL EAGAIN EALREADY EBADF EBADFD EBADMSG EBADSLT EBUSY ECANCELED ECOMM".split(),
    *"ECONNREFUSED ECONNRESET EDESTADDRREQ EDOM EEXIST EFAULT EINVAL EMEDIUMTYPE EMFILE EMLINK EMSGSIZE".split(),
    *"ENAMETOOLONG ENFILE ENOBUFS ENODEV ENOENT ENOMEM ENOMSG ENOTTY ENOTUNIQ ENXIO EOPNOTSUPP EOVERFLOW".split(),
    *"EPERM EPIPE EREMCHG EREMOTEIO ERESTARTSYS ESHUTDOWN ESRCH ETIMEDOUT ETXTBSY EXFULL".split(),
)
"""Those that calls on kdbus fail with."""


def errno_name(number: int) -> str:
    """ "ENOBUFS"; the number of one without name."""
    return NAMES.get(number, str(number))
