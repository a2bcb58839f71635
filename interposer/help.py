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
       kdbus trace [OPTIONS] [--] PROGRAM [ARGUMENTS...]
       kdbus check [OPTIONS] [--] PROGRAM [ARGUMENTS...]
       kdbus record [-o FILE] [OPTIONS] [--] PROGRAM [ARGUMENTS...]
       kdbus show [OPTIONS] FILE
       kdbus replay [OPTIONS] FILE [--] PROGRAM [ARGUMENTS...]
       kdbus serve --socket PATH [OPTIONS]
       kdbus proxy --bus NAME [--listen unix:path=PATH] [--exec PROGRAM [ARGUMENTS...]]
       kdbus bridge --bus NAME --to ADDRESS [--exec PROGRAM [ARGUMENTS...]]
       kdbus dbus-policy --config FILE [OPTIONS] QUESTION
       kdbus activate --bus NAME --from DIR [--exec PROGRAM [ARGUMENTS...]]
       kdbus doctor [--json]
       kdbus include-dir [--revision R]
       kdbus list | tree | policy [OPTIONS]
       kdbus status [OPTIONS] ID|NAME
       kdbus monitor [OPTIONS]
       kdbus top [OPTIONS]
       kdbus help [SUBCOMMAND]

  run          run PROGRAM, and all that it starts, with a kdbus of its own at /sys/fs/kdbus
  trace        run PROGRAM likewise, and show every call on kdbus with what it says, and why it fails
  record       run PROGRAM likewise, and keep every call in a file
  show         show what was recorded, or convert it for Perfetto and Wireshark
  replay       play recorded peers against PROGRAM, and tell where it does other things than when it was recorded
  check        run PROGRAM likewise, and report leaks, races, failures, and what only one revision has
  serve        keep a kdbus that programs join with `kdbus run --domain PATH`
  proxy        let D-Bus programs speak on a bus of kdbus
  bridge       make a bus of kdbus and the bus of a D-Bus daemon one
  dbus-policy  tell what a configuration of dbus-daemon allows, and which rule says so; turn it into kdbus's policy
  activate     start programs on a bus of kdbus when somebody sends to their names
  doctor       tell whether that works here, how, and what would make it better
  include-dir  print the folder of linux/kdbus.h, to build kdbus programs with
  list         list the connections of a kdbus that runs: ids, processes, names, queues, pools
  tree         show the buses of a kdbus that runs, their endpoints, and who is connected through which
  status       tell all about one connection: who it is, whose messages wait, who owes whom a reply
  policy       list who may own, talk to and see which names
  monitor      show the messages that pass, as they pass
  top          show what happens on a kdbus that runs, live: who sends, who waits, how long replies take
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
  --no-preload   in path mode, leave LD_PRELOAD as it is: there a library stands that makes calls which have nothing to
                 do with kdbus as fast as outside; all calls that name a path are then answered by the supervisor
  --preload      have that library in mount mode as well, for files that are opened to be read and written, and mapped
  --linger       stay until the last process that PROGRAM has started has ended, daemons among them
  --die-with-parent
                 kill PROGRAM, though not what it has started, if this command ends before it, killed for instance;
                 otherwise PROGRAM goes on, with --domain also on the bus
  --make-bus NAME
                 have a bus from the start, as long as the kdbus lives, which programs of the time expect the system to
                 have made (may be repeated): `system` is 0-system, open to all users, `user` is UID-user, and any other
                 name gets the user's id in front. Such as: kdbus run --make-bus system --make-bus user --
                 busctl --address=kernel:path=/sys/fs/kdbus/0-system/bus list
  --activate [BUS=]DIR
                 start programs when somebody sends to their names, as the .service and .busname files in the folder say
                 (may be repeated); BUS is one of --make-bus, if there are several; see `kdbus activate --help`
  --revision R   take every program to speak that revision of kdbus: 2, 3, 219, 4 or final; without this option it
                 is recognised, but 219 only late (docs/revisions.md)
  --statistics   tell on stderr, at the end, how many calls were served, and how, and
                 which revisions of kdbus were spoken
  --no-flows     serve every call in the broker, none natively: slower, to compare and to debug
  --self-serve   let programs of the final revision receive and free plain messages without the supervisor, by a library
                 that they are started with (docs/limits.md): calls take less time
  --no-self-serve
                 do not, whatever else was said
  --trace        show every call on stderr, as `kdbus trace` does; with --trace=FILE in that file
  --explain      show only the calls that fail, with the reason; with --trace=FILE there
  --inject FAULT
                 have calls fail, wait or lose on purpose (may be repeated): COMMAND[,COMMAND...]:WHAT[:WHICH], such as
                 SEND:errno=ENOBUFS:every=3. What:
                   errno=NAME   it fails so, and has no other effect
                   delay=TIME   it is served so much later: 500us, 20ms, 2s
                   lost         of RECV: the broadcast that would be received is lost, and counted
                   incomplete   of RECV: no descriptor of the message can be installed
                   die          its process is killed once it has succeeded; of RECV, once it has brought a request
                 Which, counted for each process: when=N, when=N+, when=N+STEP, every=N, first=N; name=NAME, only
                 those of the connection that owns NAME; process=COMM, only those of such processes, !COMM of others
  -v, --verbose  tell on stderr if PROGRAM is run without a supervisor of its own, as an outer `kdbus run` serves it
  -h, --help     print this

Options end at the first word that is none, so PROGRAM's own need no `--`. `kdbus run` ends as PROGRAM does: with its
exit status, or by the same signal. Its own failures: 127 PROGRAM is not found, 126 it cannot be executed, 125 all else.

examples: kdbus run -- ./program --its-option
          kdbus run --domain /run/kdbus --wait 10 -- ./client
"""

_TRACE = """\
Run PROGRAM, and all that it starts, with a kdbus at /sys/fs/kdbus, and show every call on it: thread, command, what the
descriptor stands for, flags and items by name, the payload, the result, the time it took, and why a failed call failed.

usage: kdbus trace [OPTIONS] [--] PROGRAM [ARGUMENTS...]
       kdbus trace [OPTIONS] -p PID | --domain PATH

  -p, --pid PID  trace the kdbus that runs already of process PID, which is a `kdbus run` or `kdbus serve`, or was
                 started by one, until Ctrl-C
  --domain PATH  the same with that of `kdbus serve --socket PATH`
  -o FILE        write the trace to FILE instead of stderr
  -e KEY=VALUE[,VALUE...]
                 show only what has one of the values; `!` in front of them turns that around; of several -e all must
                 hold. The keys:
                   command     SEND, RECV, ... and open, map, mount, umount, hang-up, close; `command=` may be left out
                   errno       ENOBUFS, ...
                   connection  an id, of who calls or of the other side
                   name        a well-known name, of either side or in an item
                   direction   sent or received
  -Z, -z         show only calls that fail, or only calls that do not
  -s BYTES       so much of payloads and strings but names (32; 4096 with --json)
  -x, -xx        strings that are not printable, or all strings, in hexadecimal
  -y             the well-known names of peers behind their ids
  -t, -tt        the time of day, or that with microseconds
  -ttt           the time as seconds since 1970
  -r             the time since the line before
  -T             how long calls took in nanoseconds instead of microseconds
  -v             members that are zero as well
  -k             below each call the functions that have called each other to make it, the innermost first; of programs
                 for x86-64, and slow; needs `pip install 'kdbus-interposer[stacks]'`
  -c, -C         tables at the end, instead of the trace or behind it: calls, errors and times by command; requests and
                 how long their replies took, by who was asked
  --json         one JSON object per line, as docs/tracing.md describes
  --color WHEN   `auto`, on a terminal (NO_COLOR is heeded), `always` or `never`
  -f             with all that PROGRAM starts, as it is anyway
  -ff            with -o: one file for each process, FILE and a dot and its number
  --mode MODE    as for `kdbus run`
  --linger       as for `kdbus run`
  --make-bus NAME
                 as for `kdbus run`
  --revision R   as for `kdbus run`
  --inject FAULT
                 as for `kdbus run`
  -h, --help     print this

Such as, to see which sends are refused and why, and to see what a service hears and says:

  kdbus trace -Z -e SEND -- ./client
  kdbus trace -y -e name=org.example.Service -o trace.txt -- sh -c './service & ./client; wait'

Times are those that a call took to be served, or that it waited. The trace never holds the program up for more than 10
ms a call: if its reader is slower, records are dropped and counted. Into a file, it is written by a process of its own.
Ends as `kdbus run` does, once all is written.
"""

_RECORD = """\
Run PROGRAM, and all that it starts, with a kdbus at /sys/fs/kdbus, and keep every call on it in a file for
`kdbus show`.

usage: kdbus record [OPTIONS] [--] PROGRAM [ARGUMENTS...]

  -o FILE        the file (kdbus.recording)
  -s BYTES       so much of each payload (65536)
  -k             with the functions that have made each call, as for `kdbus trace`
  -f             with all that PROGRAM starts, as it is anyway
  --mode MODE    as for `kdbus run`
  --linger       as for `kdbus run`
  --make-bus NAME
                 as for `kdbus run`
  --revision R   as for `kdbus run`
  --inject FAULT
                 as for `kdbus run`
  -h, --help     print this

Such as, to see later what two programs said to each other, and how long they took:

  kdbus record -o talk -- sh -c './service & ./client; wait'
  kdbus show -c talk

What is recorded includes whatever the programs say, passwords included. Ends as `kdbus run` does.
"""

_SHOW = """\
Show what `kdbus record` has recorded, as `kdbus trace` would have shown it.

usage: kdbus show [OPTIONS] FILE

  --perfetto     convert it into a timeline for ui.perfetto.dev, with an arrow from each request to its answer
  --pcapng       convert the messages into a capture for Wireshark, which shows those that are D-Bus as D-Bus
  -o OUT         write to OUT instead of standard output
  -e KEY=VALUE[,VALUE...]
                 show, or convert, only what has one of the values, as for `kdbus trace`
  -Z, -z         the same with only calls that fail, or only calls that do not
  -s BYTES       so much of payloads and strings but names (32; 4096 with --json)
  -x, -xx        strings in hexadecimal
  -y, -v         names of peers; members that are zero
  -t, -tt        the time of day
  -ttt, -r       the time as seconds since 1970; the time since the line before
  -T             nanoseconds
  -k             the functions that have made each call, if they were recorded
  -ff            with -o: one file for each process
  -c, -C         tables by command, and by who was asked
  --json         one JSON object per line
  --color WHEN   `auto`, `always` or `never`
  -h, --help     print this

Such as:

  kdbus show -Z kdbus.recording
  kdbus show --pcapng -o talk.pcapng kdbus.recording && wireshark talk.pcapng

Ends with 125 if the recording is damaged or cut off; what is before that is shown.
"""

_REPLAY = """\
Play peers of a recording against PROGRAM: recorded clients against a service, or a recorded service against a client.
Tell, with a diff, where PROGRAM calls otherwise than when it was recorded.

usage: kdbus replay [OPTIONS] FILE [--] PROGRAM [ARGUMENTS...]

  --play WHO[,WHO...]
                 who is played (may be repeated): a well-known name, the id of a connection (or BUS/ID), or the name of
                 a process, for all its connections; without this option all but the process that is called as PROGRAM
                 is. PROGRAM is to be everybody else
  --timing       in recorded time: each played call as long after what came before it as when it was recorded; without
                 this option as soon as what came before it has happened
  --patience SECONDS
                 how long to wait for what PROGRAM did when it was recorded, and for its end (5)
  --mask REGEX   do not compare what fits REGEX (Python's), in a line of the diff (may be repeated)
  --mode MODE    as for `kdbus run`
  --make-bus NAME
                 as for `kdbus run`; buses that were there from the start when it was recorded are so now as well
  --revision R   as for `kdbus run`
  -h, --help     print this

What differs by nature is not compared: ids, cookies, times, addresses, messages of the bus itself, and what PROGRAM
only asks, receives or frees. Peers that have sent memfds or descriptors, or payloads that were not recorded whole,
cannot be played. Such as:

  kdbus record -o talk -- sh -c './service & ./client; wait'
  kdbus replay talk -- ./service
  kdbus replay --play org.example.Service --mask '20[0-9-]+' talk -- ./client

Ends with 1 if PROGRAM has differed and ended with 0, else as `kdbus run` does.
"""

_CHECK = """\
Run PROGRAM, and all that it starts, with a kdbus at /sys/fs/kdbus, and report on stderr what is wrong with its use of
it: leaks, races, lost messages, failures, and what only one revision has.

usage: kdbus check [OPTIONS] [--] PROGRAM [ARGUMENTS...]
       kdbus check --recording FILE [OPTIONS]

  --ignore RULE[,RULE...]
                 do not report these rules (may be repeated)
  --error RULE[,RULE...]
                 take these rules for errors, whatever they usually are (may be repeated)
  --junit FILE   write the report to FILE as JUnit XML as well
  --json FILE    write the report to FILE as JSON as well, with the commands, flags, items and revisions that were used
  --recording FILE
                 run nothing, and look at what `kdbus record` has kept in FILE
  -f             with all that PROGRAM starts, as it is anyway
  --mode MODE    as for `kdbus run`
  --linger       as for `kdbus run`
  --make-bus NAME
                 as for `kdbus run`
  --revision R   as for `kdbus run`
  --inject FAULT
                 as for `kdbus run`
  -h, --help     print this

The rules are slice-leak, an error; unanswered-request, unread-messages, lost-messages, name-race, padding, foreign-item
and descriptors-left, which are warnings; failed-call, errno-differs, answer-differs, one-revision, names-left,
matches-left and not-judged, which are notes.
docs/check.md has an example of each. Such as, to look at two programs, and, in CI, to have leaks and races fail:

  kdbus check -- sh -c './service & ./client; wait'
  kdbus check --error name-race --junit kdbus.xml -- ./run-tests

Ends with 1 if there is an error and PROGRAM has ended with 0, else as `kdbus run` does.
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
  --activate [BUS=]DIR
                 start programs when somebody sends to their names, as the .service and .busname files in the folder say
                 (may be repeated); BUS is one of --make-bus, if there are several; see `kdbus activate --help`
  --revision R   take every program to speak that revision of kdbus: 2, 3, 219, 4 or final; without this option it
                 is recognised, but 219 only late (docs/revisions.md)
  --statistics   tell on stderr, at the end, how many calls were served, and how, and
                 which revisions of kdbus were spoken
  --no-flows     serve every call in the broker, none natively: slower, to compare and to debug
  --self-serve   let programs that were started with that option, too, receive and free plain messages without the
                 server
  --no-self-serve
                 do not, whatever else was said
  -h, --help     print this

A server that root starts serves all users, an ordinary user's serves that user. Who joins trusts the server.

examples: kdbus serve --socket /run/kdbus --make-bus system
          kdbus serve --socket ./domain --ready-fd 4 4<>ready
"""

_PROXY = """\
Let D-Bus programs of today speak on a bus of kdbus, with each other and with programs that speak kdbus.

usage: kdbus proxy --bus NAME [OPTIONS] --listen unix:path=PATH
       kdbus proxy --bus NAME [OPTIONS] --exec PROGRAM [ARGUMENTS...]

  --bus NAME     the bus, as `kdbus run --make-bus NAME` names it: `system` is 0-system, `user` is UID-user, and any
                 other name gets the user's id in front; or the path of an endpoint's node
  --listen ADDRESS
                 where D-Bus programs connect: unix:path=PATH; not needed with --exec, or where a service manager
                 passes a socket (LISTEN_FDS, with ListenStream= in the unit)
  --exec         run the program that follows, with DBUS_SESSION_BUS_ADDRESS in its environment, and end when it ends
  --activate DIR
                 start programs when somebody sends to their names, as the .service and .busname files in the folder say
                 (may be repeated), with DBUS_SESSION_BUS_ADDRESS in their environment; see `kdbus activate --help`
  --config FILE  heed the policies and limits in a configuration file of dbus-daemon, and in those that it includes: who
                 may connect, own which names, send and receive what
  --all-users    serve clients of other users, too, in their names, which the owner of the bus may do; they have the
                 rights that this process has on the bus. With --config, that says which users may connect
  --anonymous    allow the mechanism ANONYMOUS as well; who the client is, the kernel tells in any case
  --ready-fd N   write a newline to descriptor N, and close it, when programs can connect
  -v, --verbose  tell on stderr which clients are cut off, and why
  -h, --help     print this

It is a program that speaks kdbus itself, so it runs where there is one, such as under `kdbus run`. Clients are those of
the same user, and of root, without --all-users. With --exec it ends as PROGRAM does.

examples: kdbus run --make-bus user -- kdbus proxy --bus user --exec busctl --user list
          kdbus run --make-bus user -- kdbus proxy --bus user --listen unix:path=/tmp/bus
"""

_BRIDGE = """\
Make a bus of kdbus, and the bus of a D-Bus daemon that runs, one: who is on either is seen and called from the other.

usage: kdbus bridge --bus NAME --to ADDRESS [OPTIONS]
       kdbus bridge --bus NAME --to ADDRESS [OPTIONS] --exec PROGRAM [ARGUMENTS...]

  --bus NAME     the bus, as `kdbus run --make-bus NAME` names it: `system` is 0-system, `user` is UID-user, and any
                 other name gets the user's id in front; or the path of an endpoint's node
  --to ADDRESS   where the daemon listens: unix:path=PATH or unix:abstract=NAME; `session` is what
                 DBUS_SESSION_BUS_ADDRESS says, `system` the system's bus
  --exec         run the program that follows, when each side has the other's names, and end when it ends
  --all-users    speak for programs of all users; without, only for those of this user and of root. They have the
                 rights of this process on the other side
  --ready-fd N   write a newline to descriptor N, and close it, when each side has the other's names
  -v, --verbose  tell on stderr what is not passed on, and why
  -h, --help     print this

It is a program that speaks kdbus itself, so it runs where there is one, such as under `kdbus run`. The daemon has to
allow it to own the names. It ends with PROGRAM, as that does, or when one of the sides ends.

examples: kdbus run --make-bus user -- kdbus bridge --bus user --to session --exec ./old-service
          kdbus run --domain /run/kdbus -- kdbus bridge --bus system --to system
"""

_DBUS_POLICY = """\
Tell whether a configuration of dbus-daemon allows something, and which rule of which file decides; or what the policy
of kdbus can say of it.

usage: kdbus dbus-policy --config FILE [OPTIONS] connect
       kdbus dbus-policy --config FILE [OPTIONS] own NAME
       kdbus dbus-policy --config FILE [OPTIONS] send KEY=VALUE...
       kdbus dbus-policy --config FILE [OPTIONS] receive KEY=VALUE...
       kdbus dbus-policy --config FILE [--json] kdbus
       kdbus dbus-policy --config FILE --bus NAME [--ready-fd N] hold

  --config FILE  the configuration, which may include others
  --user USER    who asks: a name or an id; without it, you
  --group GROUP  one of the groups that USER is in (may be repeated); without it, those that the system says
  --at-console   USER is at the console of the machine
  --bus NAME     with hold: the bus, as `kdbus run --make-bus NAME` names it, or the path of an endpoint's node
  --ready-fd N   with hold: write a newline to descriptor N, and close it, when the policies hold
  --json         answer as one JSON object
  -h, --help     print this

A message is told by its type (method_call unless said otherwise), destination, sender, path, interface, member and
error, by fds, the number of its descriptors, and by names: those that the other side owns, with commas between them.
Without these, it owns the name that is the destination, or with `receive` the sender. What is not said, the message has
not: a call needs at least path and member.

The exit status is 0 if it is allowed, and 1 if it is denied. `kdbus` prints name, access and whom it is granted to, and
what kdbus cannot say. `hold` brings these policies to a bus, whose owner one has to be, until a signal ends it.

examples: kdbus dbus-policy --config /usr/share/dbus-1/system.conf --user nobody own org.example.Printer
          kdbus dbus-policy --config bus.conf send destination=org.example.Printer path=/ interface=a.b member=Print
          kdbus dbus-policy --config /usr/share/dbus-1/system.conf kdbus
"""

_ACTIVATE = """\
Start programs on a bus of kdbus when somebody sends to their names.

usage: kdbus activate --bus NAME --from DIR [OPTIONS]
       kdbus activate --bus NAME --from DIR [OPTIONS] --exec PROGRAM [ARGUMENTS...]

  --bus NAME     the bus, as `kdbus run --make-bus NAME` names it: `system` is 0-system, `user` is UID-user, and any
                 other name gets the user's id in front; or the path of an endpoint's node
  --from DIR     a folder with D-Bus's .service files, and systemd's .busname units with the .service units that they
                 name (may be repeated); of several files for a name the first counts
  --exec         run the program that follows, and end when it ends
  --ready-fd N   write a newline to descriptor N, and close it, when the names can be called
  -v, --verbose  tell on stderr what is started
  -h, --help     print this

It is a program that speaks kdbus itself, so it runs where there is one, such as under `kdbus run`; --activate of
`kdbus run`, `kdbus serve` and `kdbus proxy` is short for it. The bus has to be of the same user. What a program has not
read when it ends comes back, and starts it again. When it cannot be started, ends with a failure before it has its
name, or does not take it within 25 s, those who wait for a reply get none. What was started ends with this command.

examples: kdbus run --make-bus user -- kdbus activate --bus user --from ./services --exec ./client
          kdbus run --make-bus user --activate ./services -- ./client
"""

_DOCTOR = """\
Try what `kdbus run` and `kdbus serve` need of this kernel and container; tell what is missing, and what to do.

usage: kdbus doctor [--json]

  --json         print one JSON object: `schema` (2), `findings`, and the verdict in `ok`, `mode` and `reason`
  -h, --help     print this

Ends with 0 if `kdbus run` can work here, else with 1; with 125 if that could not be found out, or printed.

examples: kdbus doctor
          kdbus doctor --json | jq -r .mode
"""

_INCLUDE_DIR = """\
Print the folder of linux/kdbus.h, to build kdbus programs with: cc -I"$(kdbus include-dir)" program.c

usage: kdbus include-dir [--revision R]

  --revision R   whose header: `final`, the last revision (August 2015), which is the default; `4` (March 2015, systemd
                 220); `219` (February 2015, systemd 219); `3` (January 2015); `2` (November 2014). Programs that are
                 built with `219` need `kdbus run --revision 219`
  -h, --help     print this

examples: kdbus include-dir
          cc -I"$(kdbus include-dir --revision 3)" program.c
"""

_WHICH = """\
  --domain PATH  that of `kdbus serve --socket PATH`
  -p, --pid PID  that of process PID, which is a `kdbus run` or `kdbus serve`, was started by one, or is connected
"""

_WATCH_OPTIONS = f"""\
{_WHICH}\
  --bus NAME     only what is on that bus
  --json         print one JSON object, of the form that docs/watching.md describes
  -h, --help     print this

Without --domain and -p it is the kdbus that runs; if there are several, they are named. A `kdbus run` can be watched
from its program's first call of kdbus on, by the user whose it is, and by root.
"""

_LIST = f"""\
List the connections of a kdbus that runs.

usage: kdbus list [OPTIONS]

{_WATCH_OPTIONS}
The columns: the bus; the id; the revision of kdbus that is spoken; process and user at HELLO; the messages that wait;
how much of the pool is in use; the names that are owned, or waited for.

examples: kdbus list
          kdbus list --domain /run/kdbus --bus 0-system --json
"""

_TREE = f"""\
Show the buses of a kdbus that runs, their endpoints, and the connections through each.

usage: kdbus tree [OPTIONS]

{_WATCH_OPTIONS}
examples: kdbus tree
          kdbus tree -p $(pidof client)
"""

_STATUS = f"""\
Tell all about one connection, by its id or by a name that it owns: what it is, whose messages wait in its queue, whose
reply it waits for, and to whom it owes one.

usage: kdbus status [OPTIONS] ID|NAME

{_WATCH_OPTIONS}
examples: kdbus status org.example.Sample
          kdbus status --bus 0-system 7
"""

_POLICY = f"""\
List the policies of the buses and custom endpoints of a kdbus that runs: who may own, talk to and see which names.

usage: kdbus policy [OPTIONS]

{_WATCH_OPTIONS}
The columns: the bus; the custom endpoint whose policy it is (`-`: the bus itself); the name; the connection that
brought the entry and takes it along (`-`: whoever made the endpoint); what is granted to whom. What is not granted is
forbidden.

examples: kdbus policy
          kdbus policy --bus 0-system --json
"""

_MONITOR = f"""\
Show the messages that pass on the buses of a kdbus that runs, and those that cannot be sent, with the reason.

usage: kdbus monitor [OPTIONS]

  --from WHO     only from WHO: an id, a name that it owns, or the name of its process
  --to WHO       only to WHO: an id, a name by which it is addressed, or the name of its process
  --with WHO     only from or to WHO
  --kind KINDS   only calls, replies and so on: one or more of call, reply, signal, message and notification, with
                 commas between them
  --failed       only messages whose SEND fails
  --count N      end after N messages
{_WATCH_OPTIONS}
Messages that come faster than they are read are dropped, and counted.

examples: kdbus monitor --with org.example.Sample
          kdbus monitor --bus 0-system --failed --json
"""

_TOP = f"""\
Show what happens on a kdbus that runs, live, on the whole terminal: its connections, how many messages each sends and
gets, how long its replies take, what waits in its queue, and all about the one that is chosen.

usage: kdbus top [OPTIONS]

{_WHICH}\
  --bus NAME     only what is on that bus
  --interval SECONDS
                 ask so often (1)
  --light        do not count messages by connection, nor how long replies take: what is shown is how many messages
                 pass in all
  -h, --help     print this

Keys: arrows choose a connection; m, w, l, p and i order them by messages, by what waits, by latency, by the part of the
pool that is in use and by id; space pauses; q quits.

The columns, besides those of `kdbus list`: messages that are sent and received per second, bytes sent per second, how
long its replies took lately and at most, and how many of its SENDs have failed since this began.

Without --light, each message that passes costs the supervisor some 30 us more while this runs.
It needs the module textual: pip install 'kdbus-interposer[top]'.

examples: kdbus top
          kdbus top --domain /run/kdbus --bus 0-system --light
"""

PAGES: Mapping[str, str] = {
    "run": _RUN,
    "trace": _TRACE,
    "check": _CHECK,
    "record": _RECORD,
    "show": _SHOW,
    "replay": _REPLAY,
    "serve": _SERVE,
    "proxy": _PROXY,
    "bridge": _BRIDGE,
    "dbus-policy": _DBUS_POLICY,
    "activate": _ACTIVATE,
    "doctor": _DOCTOR,
    "include-dir": _INCLUDE_DIR,
    "list": _LIST,
    "tree": _TREE,
    "status": _STATUS,
    "policy": _POLICY,
    "monitor": _MONITOR,
    "top": _TOP,
}
"""By subcommand, its page."""
