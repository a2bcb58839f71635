# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connections are lent (`interposer.supervisor.flows`), and whether that is worth it now.

Lending costs something for each connection, and for each message, reply and flow that goes with it, and for the pieces
of its pool; used or not. That is its *weight*: handing out one unit and taking it back costs about an eighth of what a
call saves that is served natively. So two things are decided here, from what has been used and from what lending has
been worth.

*Which*: those that were used lately, by a call that the broker served, or natively while lent, counted in uses of all
of them. A small fixed number would be a cliff: where one more connection takes turns, hardly any call would find both
of its ends lent. The bound is there because whoever needs the broker next waits until everything is back.

*When*: lending is wasted if the broker is needed again at once. If that happens several times in a row, it is tried
ever more rarely, until it pays again; in the end so rarely that all attempts together cost no more than the calls
themselves. That must grow with the weight: after a fixed number of calls, each call would bear the more of it the
more connections there are, and the pauses would be too short for all who take turns to come to be known as used,
which is when lending them pays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

MOST = 4096
"""Weight that is lent at most, that of the connections used last."""
_IDLE = 512
"""A connection is no longer lent when, without it, so many times as many uses were noted as there are connections: had
all taken turns, each would have been used so often. Lendings do not tell: one that ends at once uses nobody, and where
most do, all who take turns would be forgotten before their turn comes."""
_WORTH_IT = 2
"""Calls that have to be served before the broker is needed again, for lending to have paid; and one more for each
`PER_CALL` of weight."""
PER_CALL = 8
_LONGEST_PAUSE = 16
"""How many calls the broker serves at most before lending is tried again, unless the weight asks for more."""


class Busy:
    """The connections that were used lately, by numbers of whoever asks. What is chosen is `lent`, as far as
    it can be, and then `returned`, or `refused`."""

    def __init__(self) -> None:
        self._idle: dict[int, int] = {}
        """How many uses had been noted when each was used last; the last ones used last."""
        self._uses = 0
        self._weights: dict[int, int] = {}
        """Of those that were chosen last."""
        self._weight = 0
        """Of what was lent last."""
        self._pause = 0
        self._skip = 0

    def __len__(self) -> int:
        return len(self._idle)

    def used(self, number: int) -> None:
        """A call was served on that connection."""
        self._idle.pop(number, None)
        self._uses += 1
        self._idle[number] = self._uses
        if len(self._idle) > MOST:
            del self._idle[next(iter(self._idle))]

    def forget(self, number: int) -> None:
        """There is no such connection any more."""
        self._idle.pop(number, None)

    def is_due(self) -> bool:
        """Whether to lend now that the broker has served a call; asked once for each."""
        if not self._idle:
            return False
        if self._skip:
            self._skip -= 1
            return False
        return True

    def choose(self, waiting: Callable[[int], int]) -> list[int]:
        """Those to be lent, the last ones used first; who has been idle for too long is forgotten.

        `waiting`: the weight of what goes with a connection; where that is too much, it is left out.
        """
        room = MOST
        self._weights = {}
        oldest = self._uses - _IDLE * len(self._idle)
        for number, last in reversed(list(self._idle.items())):
            if last < oldest:
                del self._idle[number]
                continue
            weight = 1 + waiting(number)
            if weight <= room:
                room -= weight
                self._weights[number] = weight
        return list(self._weights)

    def lent(self, numbers: Iterable[int], flows: int) -> None:
        """Of those that were chosen, these are going to be lent, with so many flows between them."""
        self._weight = flows + sum(self._weights[number] for number in numbers)

    def returned(self, served: int) -> None:
        """What was lent is back, and so many calls were served meanwhile; none if nothing could be lent."""
        paid = served >= _WORTH_IT + self._weight // PER_CALL
        self._pause = 0 if paid else min(2 * self._pause + 1, self._longest_pause())
        self._skip = self._pause

    def refused(self) -> None:
        """What was going to be lent cannot be, for a reason that will last."""
        self._skip = self._longest_pause()

    def _longest_pause(self) -> int:
        return max(_LONGEST_PAUSE, self._weight // PER_CALL)
