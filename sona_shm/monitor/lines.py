"""Tables of one line a row.

Rich's own tables wrap, measure and pad every cell several times; drawn every second, they took
most of a live view's processor time.  These are for rows that never wrap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

_GAP: Final = "  "


@dataclasses.dataclass(frozen=True, slots=True)
class LineColumn:
    """A column: figures at the right, names (`is_name`) at the left, where they give way.

    Examples
    --------
    >>> LineColumn("count").is_name
    False
    """

    title: str
    is_name: bool = False


class LineTable:
    """Rows of one line each, below a line of titles, of which the first names the table.

    Parameters
    ----------
    columns : sequence of LineColumn
    rows : sequence of sequences of (str or rich.text.Text)
        A cell a column.

    Examples
    --------
    >>> from rich.console import Console
    >>> table = LineTable([LineColumn("route", True), LineColumn("cost")], [("small-one", "1")])
    >>> Console(width=12).print(table)
    route   cost
    small…     1
    """

    def __init__(self, columns: Sequence[LineColumn], rows: Sequence[Sequence[str | Text]]) -> None:
        titles = [
            Text(column.title, "dim bold" if not i else "dim") for i, column in enumerate(columns)
        ]
        self._columns = columns
        self._rows = [titles, *([_text(cell) for cell in row] for row in rows)]
        in_columns = zip(*self._rows, strict=True)
        self._widths: list[int] = [max(cell.cell_len for cell in cells) for cells in in_columns]

    @property
    def width(self) -> int:
        """Columns of the terminal that this takes where nothing gives way.

        Examples
        --------
        >>> LineTable([LineColumn("a"), LineColumn("b")], []).width
        4
        """
        return sum(self._widths) + len(_GAP) * (len(self._widths) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = list(self._widths)
        for i, column in enumerate(self._columns):
            if column.is_name:
                others = self.width - self._widths[i]
                widths[i] = max(1, min(widths[i], options.max_width - others))
        yield Text("\n", no_wrap=True, overflow="crop").join(
            self._line(row, widths) for row in self._rows
        )

    def _line(self, cells: Sequence[Text], widths: Sequence[int]) -> Text:
        drawn = []
        for cell, column, width in zip(cells, self._columns, widths, strict=True):
            copy = cell.copy()
            copy.align("left" if column.is_name else "right", width)
            drawn.append(copy)
        return Text(_GAP).join(drawn)


def _text(cell: str | Text) -> Text:
    text = Text(cell) if isinstance(cell, str) else cell
    text.overflow = "ellipsis"
    return text
