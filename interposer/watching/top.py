# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus top`: what happens on a kdbus, live, on the whole terminal.

Above, how many messages pass, now and in the last minutes; then the connections, the busiest first; below, all about
the one that is chosen, as `kdbus status` tells it.

Textual (textual.textualize.io) draws it: an extra, `kdbus-interposer[top]`, which nothing else imports. What it is
given is made printable before, and passed as text, never as markup.

The supervisor is asked in a thread, so that keys are answered while it takes its time.
"""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Footer, Sparkline, Static

from interposer.errors import NothingToWatch, printable
from interposer.watching import wire
from interposer.watching.ask import Watching
from interposer.watching.rates import ORDERS, Rates, Row
from interposer.watching.show import Facts, described, status_of
from interposer.watching.table import Style, size_of, time_of

_COLUMNS = (
    "BUS",
    "ID",
    "REV",
    "PID",
    "COMMAND",
    "QUEUE",
    "POOL",
    "SENT/S",
    "RECV/S",
    "BYTES/S",
    "REPLY",
    "MAX",
    "FAILED",
)
_PLAIN = Style(coloured=False)


class Top(App[None]):
    """The whole of it. `failure`, after its end, says what has ended it, if it was not the user."""

    CSS = """
    #summary { height: 1; padding: 0 1; background: $primary-background; }
    #history { height: 3; margin: 0 1; }
    #connections { height: auto; max-height: 60%; }
    #chosen { height: 1fr; border-top: solid $primary; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False),
        Binding("space", "pause", "Pause"),
        Binding("m", "order('messages')", "by Messages"),
        Binding("w", "order('queue')", "by Waiting"),
        Binding("l", "order('latency')", "by Latency"),
        Binding("p", "order('pool')", "by Pool"),
        Binding("i", "order('id')", "by Id"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, watching: Watching, bus: str | None, interval_s: float, *, light: bool) -> None:
        """`light`: count no messages by connection, which costs time for each."""
        super().__init__()
        self._watching = watching
        self._bus = bus
        self._interval_s = interval_s
        self._light = light
        self._rates = Rates()
        self._facts: Facts | None = None
        self._order = "messages"
        self._paused = False
        self._busy = False
        self.failure: NothingToWatch | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="summary", markup=False)
        yield Sparkline([0], id="history", summary_function=max)
        yield DataTable[Text](id="connections", cursor_type="row", zebra_stripes=True)
        with VerticalScroll(id="chosen"):
            yield Static(id="status", markup=False)
        yield Footer()

    async def on_mount(self) -> None:
        self._table().add_columns(*_COLUMNS, "NAMES")
        self._table().focus()
        self.set_interval(self._interval_s, self._ask)
        await self._ask()

    def _table(self) -> DataTable[Text]:
        found: DataTable[Text] = self.query_one("#connections", DataTable)
        return found

    async def _ask(self) -> None:
        if self._paused or self._busy or self.failure is not None:
            return
        self._busy = True
        try:
            sheets = await asyncio.to_thread(self._watching.ask, wire.FACTS, traffic=not self._light)
            facts = Facts(sheets, self._bus)
        except NothingToWatch as error:
            self.failure = error
            self._summarize()
            return
        finally:
            self._busy = False
        self._facts = facts
        self._rates.update(facts, time.monotonic_ns())
        self._show()

    def _show(self) -> None:
        self._summarize()
        self.query_one("#history", Sparkline).data = list(self._rates.history) or [0]
        table = self._table()
        chosen, top = self._chosen(), table.scroll_y
        table.clear()
        for row in self._rates.ordered(self._order):
            table.add_row(*cells(row), key=f"{row.bus} {row.id}")
        if chosen is not None and chosen in table.rows:
            table.move_cursor(row=table.get_row_index(chosen), scroll=False)
            table.scroll_to(y=top, animate=False)
        self._tell_about_chosen()

    def _chosen(self) -> str | None:
        table = self._table()
        if not table.row_count:
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    def _summarize(self) -> None:
        rates, facts = self._rates, self._facts
        # First what must be seen on however narrow a screen: that what is shown does not change.
        words = [] if self.failure is None else ["it has ended; q ends this"]
        words += ["paused"] if self._paused else []
        words += [] if facts is None else [described(facts.supervisor), f"{len(rates.rows)} connections"]
        if rates.total is not None:
            words.append(f"{rates.total:.0f} messages/s, {max(rates.history):.0f} at most")
        words.append(f"by {self._order}")
        self.query_one("#summary", Static).update(Text("  ".join(words)))

    def _tell_about_chosen(self) -> None:
        chosen, facts = self._chosen(), self._facts
        if chosen is None or facts is None:
            self.query_one("#status", Static).update("")
            return
        bus, _, number = chosen.rpartition(" ")
        self.query_one("#status", Static).update(Text("\n".join(status_of(facts, bus, int(number), _PLAIN))))

    def on_data_table_row_highlighted(self, _event: DataTable.RowHighlighted) -> None:
        self._tell_about_chosen()

    def action_pause(self) -> None:
        """Stop, or go on, asking."""
        self._paused = not self._paused
        self._summarize()

    def action_order(self, order: str) -> None:
        """Order the connections otherwise."""
        assert order in ORDERS
        self._order = order
        self._show()


def cells(row: Row) -> list[Text]:
    """One line of the table."""
    waiting = Text(str(row.waiting), style="yellow" if row.waiting else "", justify="right")
    full = row.pool_used > row.pool_size // 2
    return [
        Text(row.bus),
        _right(row.id),
        Text(row.revision),
        _right(row.pid),
        Text(row.command),
        waiting,
        Text(f"{size_of(row.pool_used)}/{size_of(row.pool_size)}", style="red" if full else "", justify="right"),
        _right(None if row.sent is None else f"{row.sent:.0f}"),
        _right(None if row.received is None else f"{row.received:.0f}"),
        _right(None if row.size is None else size_of(int(row.size))),
        _right(None if row.reply_ns is None else time_of(int(row.reply_ns))),
        _right(None if row.longest_ns is None else time_of(row.longest_ns)),
        Text(str(row.failed), style="red" if row.failed else "", justify="right"),
        Text(row.names, style="green"),
    ]


def _right(value: object) -> Text:
    return Text("-" if value is None else printable(str(value)), justify="right")
