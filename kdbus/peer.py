# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection without waiting: every command, on a device, for the two faces to stand on.

`kdbus.blocking` and `kdbus.trio` add the waiting: for messages, and for replies. Nothing here blocks, but for
a synchronous call (`_call_synchronously`), which the bus itself lets wait.
"""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Self, TypedDict, TypeVar, Unpack

from kdbus import negotiation
from kdbus.commands import Command, Commands, Place
from kdbus.errors import Error, Malformed
from kdbus.flags import BROADCAST, PAYLOAD_DBUS, Attach, HelloFlag, ListFlag, MessageFlag, NameFlag, ReceiveFlag
from kdbus.matches import MatchRule
from kdbus.message import BloomFilter, Outgoing, descriptors_in, read
from kdbus.pool import Pool
from kdbus.received import Descriptor, Message
from kdbus.sending import Options, Payload, pieces
from kdbus.system import Device, in_memory
from kdbus.values import Credentials, Info, Listed, Pids, Policy

POOL_SIZE: Final = 16 << 20
"""Bytes of a pool, if nothing else is said. Only what is used of it takes memory."""
CALL_TIMEOUT: Final = 25.0
"""Seconds that a reply may take, if nothing else is said: what D-Bus libraries took."""
_FOREVER_NS: Final = 1 << 62

_T = TypeVar("_T")


class HelloOptions(TypedDict, total=False):
    """How to connect; what each means is told by `Peer`."""

    flags: HelloFlag
    pool_size: int
    attach_send: Attach
    attach_receive: Attach
    description: str | None
    policies: Iterable[Policy]
    creds: Credentials | None
    pids: Pids | None
    seclabel: str | None


class Peer:
    """A connection to a bus. All its commands raise Error, of the class that fits.

    `id` is its number on the bus, `bus_id` 16 bytes that are the bus's own, `bus_flags` those it was made with, `bloom`
    the parameters of its filters. `lost` counts the messages that were lost so far.
    """

    def __init__(
        self,
        device: Device,
        commands: Commands,
        *,
        flags: HelloFlag = HelloFlag.ACCEPT_FD,
        pool_size: int = POOL_SIZE,
        attach_send: Attach = Attach.ALL,
        attach_receive: Attach = Attach.NONE,
        description: str | None = None,
        policies: Iterable[Policy] = (),
        creds: Credentials | None = None,
        pids: Pids | None = None,
        seclabel: str | None = None,
    ) -> None:
        """HELLO on a device that is an endpoint, which is closed if that fails.

        `attach_send`: what messages may tell of their sender; `attach_receive`: what is wanted of others. `policies`:
        an activator's or policy holder's name with its rules. `creds`, `pids` and `seclabel` are claimed instead of the
        real ones, which only the bus's owner may do. `pool_size` is a multiple of the page size.
        """
        self.lost = 0
        self._device = device
        self._commands = commands
        self._cookies = itertools.count(1)
        self._match_cookies = itertools.count(1)
        try:
            hello = commands.hello(
                flags,
                pool_size,
                attach_send,
                attach_receive,
                description=description,
                policies=policies,
                creds=creds,
                pids=pids,
                seclabel=seclabel,
            )
            device.run(hello)
            result = commands.read_hello(hello)
            self._pool = Pool(device, commands, pool_size)
            self.id = result.id
            self.bus_id = result.bus_id
            self.bus_flags = result.bus_flags
            # What is not known yet does not change how the result is found and freed.
            self._commands = self._result(result.offset, result.size, "HELLO", commands.settled, free=False)
            self.bloom = self._result(result.offset, result.size, "HELLO", self._commands.read_bloom)
            self.revision = self._commands.revision
        except BaseException:
            device.close()
            raise

    # ---- messages

    def send(
        self, destination: int | str, *payload: Payload, timeout: float | None = None, **options: Unpack[Options]
    ) -> int:
        """Send to an id or a name; returns the message's cookie. It is in the receiver's queue, or on its way to an
        activator, afterwards.

        With `timeout`, in seconds, a reply is expected until then: it comes as a message whose `reply_to` is the
        cookie, or else a notification does (ReplyTimeout, ReplyDead).
        """
        flags, last_word = MessageFlag.NONE, 0
        if timeout is not None:
            flags, last_word = MessageFlag.EXPECT_REPLY, deadline_ns(timeout)
        return self._send(destination, payload, flags, last_word, options)

    def reply(self, request: Message, *payload: Payload, **options: Unpack[Options]) -> int:
        """Reply to a request; returns the cookie. Raises Error (EBADSLT, or Denied in version 3) if nobody waits for it
        any more."""
        return self.answer(request.sender, request.cookie, *payload, **options)

    def answer(self, requester: int, request: int, *payload: Payload, **options: Unpack[Options]) -> int:
        """As `reply`, by the id of who asked, and the cookie of the request."""
        return self._send(requester, payload, MessageFlag.NONE, request, options)

    def signal(
        self,
        *payload: Payload,
        bloom: BloomFilter | bytes,
        destination: int | str = BROADCAST,
        **options: Unpack[Options],
    ) -> int:
        """Send to all whose matches fit the filter, or to one receiver if its matches do; returns the cookie."""
        filter_ = bloom if isinstance(bloom, BloomFilter) else BloomFilter(bloom)
        return self._send(destination, payload, MessageFlag.SIGNAL, 0, options, filter_)

    def receive_nowait(self, *, peek: bool = False, priority: int | None = None) -> Message | None:
        """The next message, or None if there is none.

        `priority`: only one that is at least so urgent (priority at most that number). `peek`: it stays in the queue,
        and no descriptors come with it. Raises Malformed for a message that contradicts itself; its part of the pool is
        given back and its descriptors are closed.
        """
        flags = ReceiveFlag.PEEK if peek else ReceiveFlag.NONE
        with self._pool.receiving():
            command, lost = self._receive(flags, priority)
            if command is None:
                return None
            return self._message(command.place("msg"), "RECV", lost=lost, peeked=peek)

    def drop_nowait(self, priority: int | None = None) -> bool:
        """Throw the next message away; whoever expects a reply is told. False: there was none. (The final revision
        cannot choose by priority: Error, EINVAL.)"""
        return self._receive(ReceiveFlag.DROP, priority)[0] is not None

    # ---- names and information

    def acquire_name(self, name: str, flags: NameFlag = NameFlag.NONE) -> bool:
        """Acquire a name: True if it is ours now (or was), False if it is another's and we wait for it (QUEUE), or,
        asked again without QUEUE, no longer do. Raises Exists or Denied."""
        command = self._commands.name_acquire(name, flags)
        try:
            self._device.run(command, name)
        except Error as error:
            if error.errno != errno.EALREADY:
                raise
            return True
        return self._commands.is_held(command)

    def release_name(self, name: str) -> None:
        """Give up a name, or the wait for it. Raises NotFound, or Error (EADDRINUSE) if it is another's."""
        self._device.run(self._commands.name_release(name), name)

    def list_names(self, flags: ListFlag = ListFlag.UNIQUE | ListFlag.NAMES) -> list[Listed]:
        """Connections, names, activators and waiting ones, as the flags say."""
        command = self._commands.list_names(flags)
        self._device.run(command)
        return self._result(command["offset"], command["list_size"], "LIST", self._commands.read_list)

    def info(self, whom: int | str, attach: Attach = Attach.ALL) -> Info:
        """About a connection, by id or name. Raises NotFound."""
        command = self._commands.connection_info(whom, attach)
        self._device.run(command, str(whom))
        return self._info(command)

    def creator_info(self, attach: Attach = Attach.ALL) -> Info:
        """About the bus and its maker."""
        command = self._commands.creator_info(attach)
        self._device.run(command)
        return self._info(command)

    # ---- matches and settings

    def add_match(self, *rules: MatchRule, cookie: int | None = None, replace: bool = False) -> int:
        """Want signals and notifications that fit all the rules; returns the cookie to remove it by. Without rules,
        everything fits. Several matches may have one cookie; `replace`: instead of those."""
        number = next(self._match_cookies) if cookie is None else cookie
        self._device.run(self._commands.match_add(number, rules, replace=replace))
        return number

    def remove_match(self, cookie: int) -> None:
        """Remove all matches of that cookie. Raises Error (EBADSLT; ENOENT in version 3) if there are none."""
        self._device.run(self._commands.match_remove(cookie), f"cookie {cookie}")

    def update(
        self,
        *,
        attach_send: Attach | None = None,
        attach_receive: Attach | None = None,
        policies: Iterable[Policy] = (),
    ) -> None:
        """Change what was given at the beginning: what is not given stays. Policies are a policy holder's."""
        self._device.run(self._commands.update(attach_send, attach_receive, policies))

    def supported(self, command: str) -> negotiation.Supported:
        """Which flags and items a command of connections takes ("SEND", "RECV"...), or a message ("message"). It is
        asked without any effect. ValueError: version 3 cannot be asked."""
        of_message = command == negotiation.MESSAGE
        asked = negotiation.ask(self.revision, "SEND" if of_message else command)
        layout, data = asked.layout, asked.data
        if of_message:
            layout, data = self.revision.structs["kdbus_msg"], negotiation.ask_message(self.revision)
        held, address = in_memory(data)
        if of_message:
            asked["msg_address"] = address
        self._device.run(asked, command)
        del held
        assert layout is not None
        return negotiation.answer(self.revision, layout, data)

    # ---- the end

    def byebye(self) -> None:
        """End the connection if nothing is queued, so that no message is lost; else Error (EBUSY). What is left then is
        `close`."""
        self._device.run(self._commands.byebye())

    def close(self) -> None:
        """End the connection: queued messages are gone, and requesters are told. Views of the pool stay readable.
        Idempotent."""
        self._pool.close()
        self._device.close()

    def fileno(self) -> int:
        """The descriptor, for poll: readable when a message is queued; with POLLHUP, the connection has ended."""
        return self._device.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- inside

    def _send(
        self,
        destination: int | str,
        payload: Sequence[Payload],
        flags: MessageFlag,
        last_word: int,
        options: Options,
        bloom: BloomFilter | None = None,
    ) -> int:
        cookie, _ = self._issue(destination, payload, flags, last_word, options, bloom=bloom)
        return cookie

    def _call_synchronously(
        self,
        destination: int | str,
        payload: Sequence[Payload],
        timeout: float,
        options: Options,
        cancel_fd: int | None,
    ) -> Message:
        """Send a request and wait for its reply, in the kernel."""
        _, command = self._issue(
            destination,
            payload,
            MessageFlag.EXPECT_REPLY,
            deadline_ns(timeout),
            options,
            synchronous=True,
            cancel_fd=cancel_fd,
        )
        return self._message(command.place("reply"), "SEND")

    def _issue(
        self,
        destination: int | str,
        payload: Sequence[Payload],
        flags: MessageFlag,
        last_word: int,
        options: Options,
        *,
        bloom: BloomFilter | None = None,
        synchronous: bool = False,
        cancel_fd: int | None = None,
    ) -> tuple[int, Command]:
        cookie = options.get("cookie") or next(self._cookies)
        parts, held = pieces(payload)
        outgoing = Outgoing(
            destination,
            parts,
            cookie,
            int(flags) | int(options.get("flags", 0)),
            last_word,
            options.get("payload_type", PAYLOAD_DBUS),
            options.get("priority", 0),
            options.get("descriptors", ()),
            bloom,
            options.get("owner", 0),
        )
        message, address = in_memory(outgoing.build(self.revision))
        held.append(message)
        command = self._commands.send(address, synchronous=synchronous, cancel_fd=cancel_fd)
        self._device.run(command, "to everybody" if destination == BROADCAST else str(destination))
        # What the bus copied while the command ran had to stay in memory so long.
        held.clear()
        return cookie, command

    def _receive(self, flags: ReceiveFlag, priority: int | None) -> tuple[Command | None, int]:
        """Issue RECV: the command, or None if nothing is queued, and how many messages were lost before it."""
        lost = 0
        if priority is not None:
            flags |= ReceiveFlag.USE_PRIORITY
        while True:
            command = self._commands.receive(flags, priority or 0)
            told = False
            try:
                self._device.run(command)
            except Error as error:
                told = error.errno == errno.EOVERFLOW and self._commands.dialect.lost_is_error
                if not told and error.errno not in (errno.EAGAIN, errno.ENOMSG):
                    raise
                found = None
            else:
                found = command
            if told or not self._commands.dialect.lost_is_error:
                lost += command["dropped_msgs"]
                self.lost += command["dropped_msgs"]
            if not told:
                return found, lost

    def _message(self, place: Place, command: str, *, lost: int = 0, peeked: bool = False) -> Message:
        """The message at a place that was just given out. If it lies, it is freed and Malformed raised."""
        part = self._pool.take(place.offset)
        try:
            content = read(self._commands.dialect, self._pool.whole, place.offset, place.size, command)
        except Malformed:
            if not peeked:
                for number in descriptors_in(self.revision, self._pool.whole, place.offset):
                    Descriptor(number).close()
            # Not left to the exception, whose traceback holds this frame.
            del part
            raise
        return Message(content, part, lost=lost, incomplete=place.incomplete, peeked=peeked)

    def _info(self, command: Command) -> Info:
        def parse(data: memoryview) -> Info:
            return self._commands.read_info(data, command.name)

        return self._result(command["offset"], command["info_size"], command.name, parse)

    def _result(
        self, offset: int, size: int, command: str, parse: Callable[[memoryview], _T], *, free: bool = True
    ) -> _T:
        """What `parse` makes of a result in the pool, which is freed."""
        try:
            self._pool.check(offset, size, command)
            return parse(self._pool.whole[offset : offset + size])
        finally:
            if size and free:
                self._pool.free(offset)


def deadline_ns(timeout: float) -> int:
    """That many seconds from now, as the bus counts time (CLOCK_MONOTONIC, in ns)."""
    return time.monotonic_ns() + int(min(max(timeout * 1e9, 0), _FOREVER_NS))
