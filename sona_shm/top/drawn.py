"""A widget that shows what rich draws."""

from __future__ import annotations

from rich.console import RenderableType
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget


class Drawn(Widget):
    """What rich draws, drawn once a look; textual's own Static draws twice, once for the height.

    Parameters
    ----------
    name : str
        Also its id.
    """

    DEFAULT_CSS = "Drawn { height: auto; }"

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._content: RenderableType = ""
        self._lines: list[Strip] = []
        self._drawn_width = 0

    def show(self, content: RenderableType) -> None:
        """Show something else; what is below moves only if the height is another."""
        height = len(self._lines)
        self._content = content
        self._draw(self._drawn_width)
        self.refresh(layout=len(self._lines) != height)

    def _draw(self, width: int) -> None:
        console = self.app.console
        options = console.options.update(width=width, highlight=False, markup=False)
        lines = console.render_lines(self._content, options, pad=True) if width > 0 else []
        self._lines, self._drawn_width = [Strip(line, width) for line in lines], width

    def get_content_height(self, _container: Size, _viewport: Size, width: int) -> int:
        """Lines that the content takes in this width."""
        if width != self._drawn_width:
            self._draw(width)
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """One line of what was drawn."""
        width = self.content_size.width
        if width != self._drawn_width:
            self._draw(width)
        line = self._lines[y] if y < len(self._lines) else Strip.blank(width)
        return line.apply_style(self.rich_style)
