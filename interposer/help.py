# SPDX-License-Identifier: GPL-2.0-or-later
"""What `kdbus help`, and `--help` behind each subcommand, print: an overview, and one page for each subcommand.

A module of its own, imported when a page is asked for, since `kdbus run` should read nothing that it does not need. The
pages are plain text and not made from the tables of options: what there is to say of an option is not in them. A test
holds that each page names each option of its subcommand.
"""

from __future__ import annotations

from collections.abc import Mapping

OVERVIEW = """\
kdbus runs programs written for kdbus on an ordinary Linux kernel.

usage: kdbus run [OPTIONS] [--] PROGRAM [ARGUMENTS...]
       kdbus serve --socket PATH [OPTIONS]
       kdbus doctor [--json]
       kdbus include-dir [--revision R]
       kdbus help [SUBCOMMAND]

  run          run PROGRAM, and all that it starts, with a kdbus of its own at /sys/fs/kdbus
  serve        keep a kdbus that programs join with `kdbus run --domain PATH`
  doctor       tell whether that works here, how, and what would make it better
  include-dir  print the folder of linux/kdbus.h, to build kdbus programs with
  help         print this, or the page of a subcommand, as `kdbus SUBCOMMAND --help` does

  -h, --help     print this
  -V, --version  print the version
"""

_RUN = """\
Run PROGRAM, and all that it starts, with a kdbus at /sys/fs/kdbus.

usage: kdbus run [OPTIONS] [--] PROGRAM [ARGUMENTS...]

  --domain PATH  join the kdbus of `kdbus serve --socket PATH`, instead of having one of its own
  --wait SECONDS
                 with --domain: wait so long for the server to come up
  --mode MODE    `mount`: show /sys/fs/kdbus in a mount namespace; `path`: answer calls that name a path in it, which
                 is slower and needs no privileges; without this option, the first of the two that can be had, also
                 with --domain, whose programs may differ in this
  --linger       stay until the last process that PROGRAM has started has ended, daemons among them
  --make-bus NAME
                 have a bus from the start, as long as the kdbus lives, which programs of the time expect the system to
                 have made (may be repeated): `system` is 0-system, open to all users, `user` is UID-user, and any other
                 name gets the user's id in front. Such as: kdbus run --make-bus system --make-bus user --
                 busctl --address=kernel:path=/sys/fs/kdbus/0-system/bus list
  --revision R   take every program to speak that revision of kdbus: 3, 219, 4 or final; without this option it is
                 recognised, but 219 only late (docs/revisions.md)
  --statistics   tell on stderr, at the end, how many calls were served, and how, and
                 which revisions of kdbus were spoken
  --no-flows     serve every call in the broker, none natively: slower, to compare and to debug
  -v, --verbose  tell on stderr if PROGRAM is run without a supervisor of its own, as an outer `kdbus run` serves it
  -h, --help     print this

Options end at the first word that is none, so PROGRAM's own need no `--`. `kdbus run` ends as PROGRAM does: with its
exit status, or by the same signal. Its own failures: 127 PROGRAM is not found, 126 it cannot be executed, 125 all else.
"""

_SERVE = """\
Keep a kdbus, until SIGTERM, SIGINT or SIGHUP, that programs join with `kdbus run --domain PATH -- PROGRAM`.

usage: kdbus serve --socket PATH [OPTIONS]

  --socket PATH  where to listen; the socket is there when the kdbus is ready to be joined; not needed where a service
                 manager passes one (LISTEN_FDS, with ListenSequentialPacket= in the unit)
  --ready-fd N   write a newline to descriptor N, and close it, when the kdbus is ready to be joined; a service manager
                 is told by sd_notify(3), and a terminal by a line
  --make-bus NAME
                 have a bus from the start, as long as the kdbus lives, which programs of the time expect the system to
                 have made (may be repeated): `system` is 0-system, open to all users, `user` is UID-user, and any other
                 name gets the user's id in front
  --revision R   take every program to speak that revision of kdbus: 3, 219, 4 or final; without this option it is
                 recognised, but 219 only late (docs/revisions.md)
  --statistics   tell on stderr, at the end, how many calls were served, and how, and
                 which revisions of kdbus were spoken
  --no-flows     serve every call in the broker, none natively: slower, to compare and to debug
  -h, --help     print this

A server that root starts serves all users, an ordinary user's serves that user. Who joins trusts the server.
"""

_DOCTOR = """\
Try what `kdbus run` and `kdbus serve` need of this kernel and container; tell what is missing, and what to do.

usage: kdbus doctor [--json]

  --json         print one JSON object: `schema` (2), `findings`, and the verdict in `ok`, `mode` and `reason`
  -h, --help     print this

Ends with 0 if `kdbus run` can work here, else with 1; with 125 if that could not be found out, or printed.
"""

_INCLUDE_DIR = """\
Print the folder of linux/kdbus.h, to build kdbus programs with: cc -I"$(kdbus include-dir)" program.c

usage: kdbus include-dir [--revision R]

  --revision R   whose header: `final`, the last revision (August 2015), which is the default; `4` (March 2015, systemd
                 220); `219` (February 2015, systemd 219); `3` (January 2015); `2` (November 2014). Programs that are
                 built with `219` or `2` are not served by `kdbus run` yet
  -h, --help     print this
"""

PAGES: Mapping[str, str] = {"run": _RUN, "serve": _SERVE, "doctor": _DOCTOR, "include-dir": _INCLUDE_DIR}
"""By subcommand, its page."""
