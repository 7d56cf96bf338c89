"""The screen of ``sona top``; nothing outside this folder knows textual."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from typing import ClassVar, Final

from rich.console import RenderableType
from rich.table import Column, Table
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from sona_shm.monitor import tables
from sona_shm.monitor.figures import sparkline
from sona_shm.monitor.rates import Rates
from sona_shm.top.drawn import Drawn
from sona_shm.watch import Look, Watch

#: Intervals that the bars of traffic and reward reach back, on the widest screen.
_REMEMBERED: Final = 256

_PARTS: Final = (
    "banner",
    "header",
    "trend",
    "routes",
    "lanes",
    "losses",
    "errors",
    "learned",
    "counters",
)
_HELP: Final = """\
A live view that writes nothing to the engine.

q          quit
p, space   pause, go on
s, r       sort lanes by the next column, reverse them
↑ ↓        scroll; also page up, page down, home, end
?          this text; ? or escape closes it

bars       decisions per second and mean reward of each
           interval, the latest at the right
share      part of the recent decisions that chose a route
reward     mean of all its outcomes, cost subtracted
odds       mean probability with which it was chosen
backlog    recorded, but not in a published version yet
retired    what workers did that are gone
red        somebody should look into it
"""


class Help(ModalScreen[None]):
    """What the keys do and what the columns mean."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("question_mark,q,escape", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        """One text, which scrolls where the screen is small."""
        with VerticalScroll():
            yield Static(_HELP, markup=False)


class TopApp(App[None]):
    """The live view of one engine.

    Parameters
    ----------
    watch : Watch
    interval : float
        Seconds between two looks.
    """

    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (130, "-wide")]  # noqa: RUF012  # as textual types it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("q", "quit", "Quit"),
        Binding("p,space", "pause", "Pause", key_display="p"),
        Binding("s", "sort", "Sort lanes"),
        Binding("r", "reverse", "Reverse"),
        Binding("down", "scroll('down')", "Scroll", key_display="↑↓"),
        Binding("up", "scroll('up')", show=False),
        Binding("pagedown", "scroll('page_down')", show=False),
        Binding("pageup", "scroll('page_up')", show=False),
        Binding("home", "scroll('home')", show=False),
        Binding("end", "scroll('end')", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
    ]
    CSS = """
    #banner { display: none; padding: 0 1; text-style: bold; }
    App.-gone #banner, App.-paused #banner { display: block; }
    App.-gone #banner { color: $error; }
    App.-gone #now, App.-gone #body { text-style: dim; }
    #now { height: auto; padding: 0 1; margin-bottom: 1; }
    #trend { height: 1; }
    #body { scrollbar-size-vertical: 1; }
    #columns, #columns > Vertical { height: auto; }
    #columns Drawn { padding: 0 1; margin-bottom: 1; }
    .-wide #columns { layout: horizontal; }
    .-wide #columns > Vertical { width: 1fr; }
    Footer .footer-key--key { color: $foreground; }
    Help { align: center middle; }
    Help VerticalScroll { width: 64; max-width: 100%; height: auto; max-height: 100%; }
    Help VerticalScroll { padding: 0 1; border: round $primary; }
    """

    def __init__(self, watch: Watch, interval: float) -> None:
        super().__init__()
        self.theme = "ansi-dark"  # the terminal's own colours, be it dark or light
        self._watch = watch
        self._interval = interval
        self._found: Look | None = None
        self._rates: Rates | None = None
        self._found_at = ""
        self._paused = False
        self._order = 0
        self._reversed = False
        self._decisions: deque[float] = deque(maxlen=_REMEMBERED)
        self._rewards: deque[float] = deque(maxlen=_REMEMBERED)
        self._part = {name: Drawn(name) for name in _PARTS}
        self._body = VerticalScroll(id="body", can_focus=False)

    def compose(self) -> ComposeResult:
        """Lay out the screen; what matters most never scrolls away."""
        part = self._part
        yield part["banner"]
        yield Vertical(part["header"], part["trend"], id="now")
        with self._body, Vertical(id="columns"):
            yield Vertical(part["routes"], part["lanes"])
            yield Vertical(part["losses"], part["errors"], part["learned"], part["counters"])
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin to look; who is asked to end leaves the terminal as it was."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        self._look()
        self.set_interval(self._interval, self._look)

    # ---- looking and drawing ----

    def _look(self) -> None:
        if self._paused:
            return
        look = self._watch.look()
        self.set_class(look.stats is None, "-gone")
        if look.stats is None:
            then = f"; below, how it was at {self._found_at}" if self._found else ""
            self._part["banner"].show(f"{look.problem}\nwaiting for an engine of that name{then}")
            return
        rates = self._rates = look.rates_since(self._found)
        self._found, self._found_at = look, time.strftime("%H:%M:%S")
        if rates is not None and rates.decisions is not None:
            self._decisions.append(rates.decisions)
        if rates is not None and rates.mean_reward is not None:
            self._rewards.append(rates.mean_reward)
        self._draw()

    def _draw(self) -> None:
        if self._found is None or self._found.stats is None:
            return
        stats, rates = self._found.stats, self._rates
        drawn: dict[str, RenderableType | None] = {
            "header": tables.header(stats, rates),
            "trend": self._trend(),
            "routes": tables.routes(stats),
            "lanes": tables.lanes(stats, tables.LANE_COLUMNS[self._order], self._reversed),
            "losses": tables.losses(stats, rates),
            "errors": tables.errors(stats),
            "learned": tables.learned(stats),
            "counters": tables.counters(stats),
        }
        for name, table in drawn.items():
            self._part[name].display = table is not None
            self._part[name].show(table or "")

    def _trend(self) -> Table:
        width = max(1, (self.size.width - 26) // 2)
        names = Column(style="dim"), Column(style="dim")
        bars = Column(style="blue", width=width), Column(style="blue", width=width)
        grid = Table.grid(names[0], bars[0], names[1], bars[1], padding=(0, 2))
        decisions = sparkline(list(self._decisions), width, low=0.0)
        grid.add_row("decided", decisions, "reward", sparkline(list(self._rewards), width))
        return grid

    # ---- keys ----

    def action_pause(self) -> None:
        """Hold the figures, or let them go on."""
        self._paused = not self._paused
        self.set_class(self._paused, "-paused")
        if self._paused:
            self._part["banner"].show(f"paused at {time.strftime('%H:%M:%S')}; p goes on")
        else:
            self._look()

    def action_sort(self) -> None:
        """Sort lanes by the next column."""
        self._order = (self._order + 1) % len(tables.LANE_COLUMNS)
        self._draw()

    def action_reverse(self) -> None:
        """Reverse the order of the lanes."""
        self._reversed = not self._reversed
        self._draw()

    def action_scroll(self, where: str) -> None:
        """Scroll what does not fit: up, down, page_up, page_down, home or end."""
        getattr(self._body, f"scroll_{where}")(animate=False)

    def action_help(self) -> None:
        """Say what keys and columns mean."""
        self.push_screen(Help())
