# SPDX-License-Identifier: GPL-2.0-or-later
"""What a revision means, beyond its numbers and layouts: one value for each, so that no rule asks which it is.

Every connection has the `Behaviour` that its first command spoke; so have a bus and an endpoint, from whoever made
them. A rule asks the behaviour whose matter it is, and never two of them:

- the *caller's* says how a command is read, in which order it is checked, which errno it gets and what is written back;
- the *receiver's* says how a message lies in its pool, what may fill its queue, which metadata it gets, how
  notifications look, how it learns of losses and whether it hears itself;
- the *bus's* counts ids and messages and says which metadata must be sent.

Most of what differs is a property with a name. Three things are algorithms, hence objects: the inbox (`broker.inbox`),
the quota (`broker.quota`) and the grant of metadata (`broker.grant`). The revisions themselves are written down in
`broker.version3` and `broker.final`, of which `broker.version2` and `broker.revision219` change what differs; one more
would be one more module like those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import KdbusError
from broker.item import Checks
from kdbus.abi.revision import Revision

if TYPE_CHECKING:
    from broker.command import Command, Invocation
    from broker.connection import Connection
    from broker.grant import Grant
    from broker.inbox import Inbox
    from broker.interfaces import Caller, File, Ids
    from broker.message import Message
    from broker.metadata import ConnectionMetadata, ProcessMetadata
    from broker.quota import Quota


@dataclass(frozen=True, slots=True, eq=False)
class Behaviour:
    """One revision."""

    revision: Revision
    commands: Mapping[int, Command]
    """Every command by its request number."""
    errnos: Mapping[type[KdbusError], int]
    """Errno numbers that differ from version 3's."""
    item_checks: Checks
    admit: Callable[[Command, Behaviour, Caller, int], Invocation]
    """Reads and checks the argument at an address in the caller's memory."""
    read_message: Callable[[Connection, Invocation], tuple[Message, File | None]]
    """The message that a SEND points at, and the file of its CANCEL_FD."""
    receive: Callable[[Connection, Invocation], None]
    """RECV."""
    list_names: Callable[[Connection, Invocation], None]
    """LIST, or NAME_LIST."""
    inbox: Inbox
    grant: Grant
    new_quota: Callable[[int], Quota]
    """The quota of a queue whose pool has that many bytes."""
    export: Callable[[ProcessMetadata, ConnectionMetadata, Ids, int, Behaviour, bool], bytes]
    """The items that tell of a process and a connection what the KDBUS_ATTACH_* flags ask for, for a reader of that
    behaviour with such namespaces; whether capabilities of another user namespace are empty sets, or missing."""
    read_attach_flags: Callable[[int], int]
    """KDBUS_ATTACH_* of a program as version 3 numbers them. Raises BadArgument for unknown ones."""
    write_attach_flags: Callable[[int], int]
    """The reverse of it."""

    @property
    def send_command(self) -> Command:
        """SEND."""
        return self.commands[self.revision.requests["SEND"]]

    @property
    def message_is_command(self) -> bool:
        """SEND has the message itself; else its command points at it."""
        return "msg_address" not in self.send_command.struct.members

    # The caller's.
    names_before_privilege: bool
    """HELLO looks at names before it asks for privilege, and at claimed identities after."""
    update_by_kind: bool
    """UPDATE looks at what to send, then at what to receive, then at policy, in whichever order the items stand."""
    numbers_before_state: bool
    """A number that is no command is ENOTTY, and one that is none of a connection EBADFD, whatever has become of the
    handle; a dead endpoint takes no policy, and makes nothing, whatever it is asked for."""
    identity_of_opener: bool
    """A connection has the credentials of who opened its file, not of who called HELLO."""
    results_as_list: bool
    """HELLO's result begins with a word that has its size."""
    returns_required_flags: bool
    """HELLO overwrites the caller's attach flags with those that the bus requires."""
    empty_is_pool_size: bool
    """An offset of nothing is the pool's size, which may be freed; else it is 0, which may not."""
    writes_empty_reply: bool
    """SEND without a synchronous reply writes that there is none."""
    silent_unicast_signals: bool
    """A unicast signal that its receiver does not want, may not get or cannot take is dropped without a word."""
    calls_begin_with_time: bool
    """A synchronous SEND looks first for the call that it resumes, and then whether its deadline has passed."""
    name_beats_id: bool
    """CONN_INFO looks at a name even if an id is given."""
    one_claim_per_name: bool
    """Asking again for a name changes the claim to it, instead of failing or adding a second one; a replaced owner
    that waits is the next, and an activator gives up only messages to its name."""
    stored_name_flags: int
    """What of the flags of NAME_ACQUIRE a claim keeps."""
    matches_per_connection: int
    names_per_connection: int
    connections_per_user: int
    replies_need_requests: bool
    """Nobody may reply who was not asked; else a reply that is not expected is a message like any other."""
    timer_ends_calls: bool
    """The deadline of a synchronous SEND is an unsigned number, and only its passing ends the call."""
    answer_member: str
    """Where SEND tells of the answer to a synchronous call: its offset, then its size and return flags if there is
    room."""
    sends_claims: bool
    """Messages of a connection that has claimed an identity tell of that one."""
    endpoints_hide: bool
    """What the policy of a custom endpoint keeps from being seen or talked to does not exist (ENOENT)."""
    creator_has_name: bool
    """BUS_CREATOR_INFO tells the name of the bus."""
    keeps_padding: bool
    """What stands between the items of a message is delivered as it was sent."""

    # The receiver's.
    needs_all_files: bool
    """A message whose descriptors cannot all be installed is lost (EMFILE)."""
    peek_hands_out: bool
    """What was peeked at may be freed."""
    monitors_match: bool
    """A monitor gets only those broadcasts that it has a match for, and unicast messages once they were delivered; its
    coming and going is told to all."""
    files_if_accepted: bool
    """Without ACCEPT_FD no descriptor is installed, not even of a memfd."""
    own_broadcasts: bool
    """A connection gets its own broadcasts, if it wants them."""
    hears_ids_everywhere: bool
    """Notifications about connections reach custom endpoints."""
    claim_states: bool
    """Flags of a name say whether its claim is the first (PRIMARY)."""
    notifications_are_signals: bool
    """Broadcast notifications have the flag SIGNAL."""
    replies_are_signals: bool
    """So have those that a reply will not come."""
    pads_notifications: bool
    """The size of a notification's item is rounded up to a multiple of 8 bytes."""
    keeps_order: bool
    """A message in one slice has the items that were sent, in their order, and its size says where the last one ends;
    else destination, payload and descriptors, as in two slices, and its size is rounded up."""
    timestamp_first: bool
    """Metadata begin with the time; else they end with it."""
    losses_wake: bool
    """A first loss makes a connection readable."""

    # The bus's.
    ids_of_domain: bool
    """Connections take their ids from the domain's counter of buses; messages are counted by the bus."""
    requires_metadata: bool
    """BUS_MAKE says which metadata every connection must send."""
    tells_of_maker: int | None
    """KDBUS_ATTACH_* of what BUS_CREATOR_INFO may tell, if BUS_MAKE does not say it."""
