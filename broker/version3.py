# SPDX-License-Identifier: GPL-2.0-or-later
"""Version 3 (January 2015): its commands, and what it means by them.

`VERSION3` is the whole of it; what each property means is in `broker.behaviour`. Reference: ipc/kdbus/handle.c and
limits.h.
"""

from __future__ import annotations

from broker import command, item, limits, metadata
from broker.behaviour import Behaviour
from broker.command import WHOLE, WHOLE_WITH_ITEMS, Command
from broker.connection_kind import MONITOR, ONLY_ORDINARY, ORDINARY, POLICY_HOLDER, RECEIVERS
from broker.grant import Agreed
from broker.inbox import TwoSlices
from broker.info import name_list
from broker.quota import QueueQuota
from broker.receive import receive
from broker.send import read_message
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64, Struct
from kdbus.abi.revision import VERSION3 as REVISION

_NAMES = {"UPDATE": "CONN_UPDATE", "LIST": "NAME_LIST"}
"""Commands that were renamed later, with their names of this revision."""


def _command(name: str, struct: str, maximum: int = limits.LARGE_COMMAND_SIZE, **rest: object) -> tuple[int, Command]:
    return REVISION.requests[_NAMES.get(name, name)], Command(name, abi.STRUCTS[struct], maximum, **rest)  # type: ignore[arg-type]


_NAME_COMMAND_SIZE = abi.STRUCTS["kdbus_cmd_name"].size + item.HEADER_SIZE + limits.NAME_LENGTH + 1
_INFO_COMMAND_SIZE = abi.STRUCTS["kdbus_cmd_info"].size + limits.NAME_LENGTH + 1
_MAKE_FLAGS = abi.MAKE_ACCESS_GROUP | abi.MAKE_ACCESS_WORLD

COMMANDS: dict[int, Command] = dict(
    (
        _command("BUS_MAKE", "kdbus_cmd_make", flags=_MAKE_FLAGS),
        _command("ENDPOINT_MAKE", "kdbus_cmd_make", flags=_MAKE_FLAGS, clears_return_flags=True),
        _command(
            "HELLO",
            "kdbus_cmd_hello",
            flags=abi.HELLO_ACCEPT_FD | abi.HELLO_ACTIVATOR | abi.HELLO_POLICY_HOLDER | abi.HELLO_MONITOR,
            write_back=(WHOLE,),
        ),
        _command(
            "SEND",
            "kdbus_cmd_send",
            flags=abi.SEND_SYNC_REPLY,
            kinds=ONLY_ORDINARY,
            write_back=("return_flags",),
        ),
        _command(
            "RECV",
            "kdbus_cmd_recv",
            flags=abi.RECV_PEEK | abi.RECV_DROP | abi.RECV_USE_PRIORITY,
            kinds=RECEIVERS,
            write_back=("dropped_msgs", "msg", "return_flags"),
        ),
        _command(
            "FREE",
            "kdbus_cmd_free",
            limits.COMMAND_SIZE,
            kinds=RECEIVERS,
            write_back=("return_flags",),
        ),
        _command(
            "NAME_ACQUIRE",
            "kdbus_cmd_name",
            _NAME_COMMAND_SIZE,
            flags=abi.NAME_REPLACE_EXISTING | abi.NAME_ALLOW_REPLACEMENT | abi.NAME_QUEUE,
            kinds=ONLY_ORDINARY,
            clears_return_flags=True,
            write_back=(WHOLE_WITH_ITEMS,),
        ),
        _command(
            "NAME_RELEASE",
            "kdbus_cmd_name",
            _NAME_COMMAND_SIZE,
            kinds=ONLY_ORDINARY,
            clears_return_flags=True,
        ),
        _command(
            "LIST",
            "kdbus_cmd_name_list",
            limits.COMMAND_SIZE,
            flags=abi.LIST_UNIQUE | abi.LIST_NAMES | abi.LIST_ACTIVATORS | abi.LIST_QUEUED,
            write_back=("offset", "list_size", "return_flags"),
        ),
        _command(
            "CONN_INFO",
            "kdbus_cmd_info",
            _INFO_COMMAND_SIZE,
            flags=abi.ATTACH_ALL,
            write_back=("offset", "info_size", "return_flags"),
        ),
        _command(
            "BUS_CREATOR_INFO",
            "kdbus_cmd_info",
            _INFO_COMMAND_SIZE,
            flags=abi.ATTACH_ALL,
            write_back=("offset", "info_size", "return_flags"),
        ),
        _command(
            "UPDATE",
            "kdbus_cmd_update",
            kinds=frozenset((ORDINARY, POLICY_HOLDER, MONITOR)),
            write_back=("return_flags",),
        ),
        _command("ENDPOINT_UPDATE", "kdbus_cmd_update", write_back=("return_flags",)),
        _command(
            "MATCH_ADD",
            "kdbus_cmd_match",
            flags=abi.MATCH_REPLACE,
            kinds=ONLY_ORDINARY,
            write_back=("return_flags",),
        ),
        _command(
            "MATCH_REMOVE",
            "kdbus_cmd_match",
            abi.STRUCTS["kdbus_cmd_match"].size,
            kinds=ONLY_ORDINARY,
            write_back=("return_flags",),
        ),
        (abi.REQUESTS["KDBUS_CMD_BYEBYE"], Command("BYEBYE", Struct("", 0, ""), 0, kinds=ONLY_ORDINARY)),
    )
)
"""Every command by its request number."""

VERSION3 = Behaviour(
    revision=REVISION,
    commands=COMMANDS,
    errnos={},
    item_checks=item.VERSION3_CHECKS,
    admit=command.receive,
    read_message=read_message,
    receive=receive,
    list_names=name_list,
    inbox=TwoSlices(),
    grant=Agreed(),
    export=metadata.export,
    read_attach_flags=metadata.sanitize_attach_flags,
    write_attach_flags=int,
    new_quota=lambda pool_size: QueueQuota(),
    names_before_privilege=False,
    update_by_kind=False,
    numbers_before_state=False,
    identity_of_opener=False,
    results_as_list=True,
    returns_required_flags=True,
    empty_is_pool_size=False,
    writes_empty_reply=False,
    silent_unicast_signals=False,
    calls_begin_with_time=False,
    name_beats_id=False,
    one_claim_per_name=False,
    stored_name_flags=U64,
    matches_per_connection=limits.MATCHES_PER_CONNECTION,
    names_per_connection=limits.NAMES_PER_CONNECTION,
    connections_per_user=limits.CONNECTIONS_PER_USER,
    replies_need_requests=True,
    timer_ends_calls=False,
    answer_member="reply",
    sends_claims=False,
    endpoints_hide=False,
    creator_has_name=True,
    keeps_padding=False,
    needs_all_files=False,
    peek_hands_out=True,
    monitors_match=False,
    files_if_accepted=False,
    own_broadcasts=False,
    hears_ids_everywhere=False,
    claim_states=False,
    notifications_are_signals=False,
    replies_are_signals=False,
    pads_notifications=True,
    keeps_order=False,
    timestamp_first=False,
    losses_wake=False,
    ids_of_domain=False,
    requires_metadata=True,
    tells_of_maker=None,
)
