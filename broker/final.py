# SPDX-License-Identifier: GPL-2.0-or-later
"""The final revision (August 2015): its commands, and what it means by them.

`FINAL` is the whole of it; what each property means is in `broker.behaviour`. Version 4 (systemd 220) has the same
numbers and layouts, so its programs are served by it as well, with one concession: BUS_MAKE takes the item
ATTACH_FLAGS_RECV, which they send, and does not look at it. Reference: final-revision.md.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from broker import errors, item, limits, metadata
from broker.behaviour import Behaviour
from broker.command import WHOLE, Command, ItemRule
from broker.connection_kind import ANY_KIND, ONLY_ORDINARY, RECEIVERS
from broker.grant import Visible
from broker.inbox import OneSlice
from broker.info import claims_list
from broker.message_form import read_message
from broker.negotiation import admit
from broker.quota import ShareQuota
from broker.receive import receive_telling_losses
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import FINAL as REVISION
from kdbus.abi.revision import Kind

_ONE = ItemRule()
_MANY = ItemRule(repeats=True)
_NEEDED = ItemRule(required=True)
_RETURN_FLAGS = ("return_flags",)
_MAKE_FLAGS = abi.MAKE_ACCESS_GROUP | abi.MAKE_ACCESS_WORLD


def _command(
    name: str,
    struct: str,
    items: Mapping[int, ItemRule] | None = None,
    *,
    flags: int = 0,
    kinds: frozenset[str] = ANY_KIND,
    write_back: tuple[str, ...] = _RETURN_FLAGS,
) -> tuple[int, Command]:
    layout = REVISION.structs[struct]
    return REVISION.requests[name], Command(
        name,
        layout,
        limits.LARGE_COMMAND_SIZE,
        flags=flags,
        kinds=kinds,
        write_back=write_back,
        items=items or {},
        stores_return_flags=True,
    )


COMMANDS: dict[int, Command] = dict(
    (
        _command(
            "BUS_MAKE",
            "kdbus_cmd",
            {
                Kind.MAKE_NAME: _NEEDED,
                Kind.BLOOM_PARAMETER: _NEEDED,
                Kind.ATTACH_FLAGS_SEND: _ONE,
                Kind.ATTACH_FLAGS_RECV: _ONE,
            },
            flags=_MAKE_FLAGS,
        ),
        _command("ENDPOINT_MAKE", "kdbus_cmd", {Kind.MAKE_NAME: _NEEDED}, flags=_MAKE_FLAGS),
        _command("ENDPOINT_UPDATE", "kdbus_cmd", {Kind.NAME: _MANY, Kind.POLICY_ACCESS: _MANY}),
        _command(
            "HELLO",
            "kdbus_cmd_hello",
            {
                Kind.NAME: _ONE,
                Kind.CREDS: _ONE,
                Kind.PIDS: _ONE,
                Kind.SECLABEL: _ONE,
                Kind.CONN_DESCRIPTION: _ONE,
                Kind.POLICY_ACCESS: _MANY,
            },
            flags=abi.HELLO_ACCEPT_FD | abi.HELLO_ACTIVATOR | abi.HELLO_POLICY_HOLDER | abi.HELLO_MONITOR,
            write_back=(WHOLE,),
        ),
        _command(
            "UPDATE",
            "kdbus_cmd",
            {
                Kind.ATTACH_FLAGS_SEND: _ONE,
                Kind.ATTACH_FLAGS_RECV: _ONE,
                Kind.NAME: _MANY,
                Kind.POLICY_ACCESS: _MANY,
            },
        ),
        _command("BYEBYE", "kdbus_cmd", kinds=ONLY_ORDINARY),
        _command("FREE", "kdbus_cmd_free", kinds=RECEIVERS),
        _command("CONN_INFO", "kdbus_cmd_info", {Kind.NAME: _ONE}, write_back=("offset", "info_size", "return_flags")),
        _command("BUS_CREATOR_INFO", "kdbus_cmd_info", write_back=("offset", "info_size", "return_flags")),
        _command(
            "LIST",
            "kdbus_cmd_list",
            flags=abi.LIST_UNIQUE | abi.LIST_NAMES | abi.LIST_ACTIVATORS | abi.LIST_QUEUED,
            write_back=("offset", "list_size", "return_flags"),
        ),
        _command("SEND", "kdbus_cmd_send", {Kind.CANCEL_FD: _ONE}, flags=abi.SEND_SYNC_REPLY, kinds=ONLY_ORDINARY),
        _command(
            "RECV",
            "kdbus_cmd_recv",
            flags=abi.RECV_PEEK | abi.RECV_DROP | abi.RECV_USE_PRIORITY,
            kinds=RECEIVERS,
            write_back=("dropped_msgs", "msg", "return_flags"),
        ),
        _command(
            "NAME_ACQUIRE",
            "kdbus_cmd",
            {Kind.NAME: _NEEDED},
            flags=abi.NAME_REPLACE_EXISTING | abi.NAME_ALLOW_REPLACEMENT | abi.NAME_QUEUE,
            kinds=ONLY_ORDINARY,
        ),
        _command("NAME_RELEASE", "kdbus_cmd", {Kind.NAME: _NEEDED}, kinds=ONLY_ORDINARY),
        _command(
            "MATCH_ADD",
            "kdbus_cmd_match",
            dict.fromkeys(
                (
                    Kind.BLOOM_MASK,
                    Kind.NAME,
                    Kind.ID,
                    Kind.DST_ID,
                    Kind.NAME_ADD,
                    Kind.NAME_REMOVE,
                    Kind.NAME_CHANGE,
                    Kind.ID_ADD,
                    Kind.ID_REMOVE,
                ),
                _MANY,
            ),
            flags=abi.MATCH_REPLACE,
            kinds=ONLY_ORDINARY,
        ),
        _command("MATCH_REMOVE", "kdbus_cmd_match", kinds=ONLY_ORDINARY),
    )
)
"""Every command by its request number."""

_ERRNOS: dict[type[errors.KdbusError], int] = {
    errors.WrongState: errno.EBADFD,
    errors.BadPoolSize: errno.EINVAL,
    errors.MissingItem: errno.EINVAL,
    errors.AlreadyDisconnected: errno.ECONNRESET,
    errors.NoMessageOfPriority: errno.EAGAIN,
    errors.PoolFull: errno.EXFULL,
    errors.NoSuchMatch: errno.EBADSLT,
    errors.ReplyNotExpected: errno.EBADSLT,
    errors.NotNameOwner: errno.EADDRINUSE,
    errors.BeyondFile: errno.EFAULT,
}

FINAL = Behaviour(
    revision=REVISION,
    commands=COMMANDS,
    errnos=_ERRNOS,
    item_checks=item.FINAL_CHECKS,
    admit=admit,
    read_message=read_message,
    receive=receive_telling_losses,
    list_names=claims_list,
    inbox=OneSlice(),
    grant=Visible(),
    export=metadata.export,
    read_attach_flags=metadata.sanitize_attach_flags,
    write_attach_flags=int,
    new_quota=ShareQuota,
    names_before_privilege=True,
    update_by_kind=True,
    numbers_before_state=True,
    identity_of_opener=True,
    results_as_list=False,
    returns_required_flags=False,
    empty_is_pool_size=True,
    writes_empty_reply=True,
    silent_unicast_signals=True,
    calls_begin_with_time=True,
    name_beats_id=True,
    one_claim_per_name=True,
    stored_name_flags=abi.NAME_ALLOW_REPLACEMENT | abi.NAME_QUEUE | abi.NAME_ACTIVATOR,
    matches_per_connection=4096,
    names_per_connection=limits.NAMES_PER_CONNECTION,
    connections_per_user=limits.CONNECTIONS_PER_USER,
    replies_need_requests=True,
    timer_ends_calls=False,
    answer_member="reply",
    sends_claims=False,
    endpoints_hide=False,
    creator_has_name=True,
    keeps_padding=True,
    needs_all_files=False,
    peek_hands_out=True,
    monitors_match=False,
    files_if_accepted=True,
    own_broadcasts=True,
    hears_ids_everywhere=True,
    claim_states=True,
    notifications_are_signals=True,
    replies_are_signals=False,
    pads_notifications=False,
    keeps_order=True,
    timestamp_first=False,
    losses_wake=True,
    ids_of_domain=True,
    requires_metadata=False,
    tells_of_maker=None,
)
