# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of February 2015 that systemd 219 was built for, on its way from version 3 to version 4.

`REVISION219` is the whole of it: requests, parser and most rules are the final revision's already; quota, metadata,
names and what is said of losses are still version 3's. A message lies in one slice, but its items are made anew.

All but two of its requests have the numbers of the final revision, HELLO among them: so a program is taken for one of
the final revision until it asks about a connection or a bus with the shorter structure. What it has received by then
it has received as the final revision has it; `kdbus run --revision 219` says from the start what it speaks.

Where this state is not known in a point, it is as version 4, and where that is not known, as the final revision.
Reference: final-revision.md, 5.2 and 5.4.
"""

from __future__ import annotations

from dataclasses import replace

from broker import errors, item, limits
from broker.command import Command
from broker.final import COMMANDS as FINAL_COMMANDS
from broker.final import FINAL
from broker.grant import Agreed
from broker.inbox import OneSliceOfHalf
from broker.quota import QueueQuota
from broker.receive import receive
from broker.send import read_message
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import REVISION219 as REVISION
from kdbus.abi.revision import Kind


def _changed(command: Command) -> Command:
    command = replace(command, struct=REVISION.structs[command.struct.name])
    if command.name == "NAME_ACQUIRE":
        return replace(command, write_back=("flags", "return_flags"))
    if command.name in ("CONN_INFO", "BUS_CREATOR_INFO"):
        return replace(command, flags=abi.ATTACH_ALL)
    return command


COMMANDS: dict[int, Command] = {
    REVISION.requests[command.name]: _changed(command) for command in FINAL_COMMANDS.values()
}
"""Every command by its request number."""

_ERRNOS: dict[type[errors.KdbusError], int] = {
    error: number
    for error, number in FINAL.errnos.items()
    if error not in (errors.NoMessageOfPriority, errors.ReplyNotExpected, errors.BeyondFile)
}

REVISION219 = replace(
    FINAL,
    revision=REVISION,
    commands=COMMANDS,
    errnos=_ERRNOS,
    item_checks={
        **item.FINAL_CHECKS,
        **{kind: item.VERSION3_CHECKS[kind] for kind in (Kind.CREDS, Kind.AUXGROUPS)},
    },
    read_message=read_message,
    receive=receive,
    inbox=OneSliceOfHalf(),
    grant=Agreed(),
    new_quota=lambda pool_size: QueueQuota(),
    identity_of_opener=False,
    results_as_list=True,
    one_claim_per_name=False,
    matches_per_connection=limits.MATCHES_PER_CONNECTION,
    keeps_padding=False,
    own_broadcasts=False,
    hears_ids_everywhere=False,
    claim_states=False,
    replies_are_signals=True,
    pads_notifications=True,
    keeps_order=False,
    losses_wake=False,
    ids_of_domain=False,
    requires_metadata=True,
)
