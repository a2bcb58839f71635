# SPDX-License-Identifier: GPL-2.0-or-later
"""Access: how policy databases, privilege and endpoints decide what a connection may do.

Own a name:
    a custom endpoint's database must grant OWN; then a privileged connection may, and any other if the bus's database
    grants OWN.
Talk to a connection:
    a custom endpoint's database must grant TALK on some name that the other owns; then a privileged connection may,
    and one whose effective user is the other's real user; any other if the bus's database grants TALK on some name
    that the other owns.
See a name or connection:
    everything, except on a custom endpoint: there, names that its database grants SEE on, and connections with such a
    name.
Get a notification:
    about a name, who may see the name; about connections coming and going, only those on the default endpoint, as a
    connection has no names when it comes and when it goes; in the final revision all.

*Privileged* is decided when the endpoint is opened (`broker.handle`). Credentials are those of the calling thread if
it is the one that acts, and those that the connection had at HELLO if somebody else acts towards it. Reference:
`kdbus_conn_policy_*` in connection.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from broker.interfaces import Credentials
from kdbus.abi import revision3 as abi

if TYPE_CHECKING:
    from broker.connection import Connection
    from broker.message import About
    from broker.policy import PolicyDatabase


def _on_any_name(database: PolicyDatabase, who: Credentials, whom: Connection, access: int) -> bool:
    return any(database.query(who, name) >= access for name in whom.names)


def refused_by(connection: Connection, who: Credentials, names: Iterable[bytes], access: int) -> str:
    """Whose policy keeps `connection`, acting as `who`, from that access to all of `names`: "endpoint X" or "bus Y"."""
    endpoint = connection.endpoint
    if endpoint.has_policy and all(endpoint.policy.query(who, name) < access for name in names):
        return f"endpoint {endpoint.name}"
    return f"bus {connection.bus.name}"


def may_own(connection: Connection, who: Credentials, name: bytes) -> bool:
    """Whether `connection`, acting with the credentials `who`, may own `name`."""
    endpoint = connection.endpoint
    if endpoint.has_policy and endpoint.policy.query(who, name) < abi.POLICY_OWN:
        return False
    return connection.privileged or connection.bus.policy.query(who, name) >= abi.POLICY_OWN


def may_talk(connection: Connection, who: Credentials, to: Connection) -> bool:
    """Whether `connection`, acting with the credentials `who`, may send to `to`."""
    if not endpoint_lets_talk(connection, who, to):
        return False
    if connection.privileged or who.euid == to.credentials.uid:
        return True
    return _on_any_name(connection.bus.policy, who, to, abi.POLICY_TALK)


def endpoint_lets_talk(connection: Connection, who: Credentials, to: Connection) -> bool:
    """Whether the policy of its endpoint lets `connection`, acting with the credentials `who`, send to `to`."""
    endpoint = connection.endpoint
    return not endpoint.has_policy or _on_any_name(endpoint.policy, who, to, abi.POLICY_TALK)


def may_see_name(connection: Connection, who: Credentials, name: bytes) -> bool:
    """Whether `connection`, acting with the credentials `who`, may know that `name` exists."""
    endpoint = connection.endpoint
    return not endpoint.has_policy or endpoint.policy.query(who, name) >= abi.POLICY_SEE


def may_see(connection: Connection, who: Credentials, whom: Connection) -> bool:
    """Whether `connection`, acting with the credentials `who`, may know that `whom` exists."""
    endpoint = connection.endpoint
    return not endpoint.has_policy or _on_any_name(endpoint.policy, who, whom, abi.POLICY_SEE)


def may_see_notification(connection: Connection, about: About) -> bool:
    """Whether a broadcast notification may reach `connection`."""
    if about.name is not None:
        return may_see_name(connection, connection.credentials, about.name)
    return connection.behaviour.hears_ids_everywhere or not connection.endpoint.has_policy
