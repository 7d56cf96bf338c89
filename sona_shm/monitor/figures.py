"""Ages, rates, series and the text of others, written for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_BARS: Final = "▁▂▃▄▅▆▇█"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


def plain(text: str) -> str:
    """Text of other processes, without anything that a terminal would obey.

    Examples
    --------
    >>> plain("a" + chr(27) + "[31m")
    'a?[31m'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def age(seconds: float) -> str:
    """A length of time in at most eight letters.

    Examples
    --------
    >>> age(0.25), age(59.0), age(3700.0), age(90_000.0)
    ('0.2 s', '59 s', '62 min', '25 h')
    """
    for limit, unit, letters in ((100, 1, "s"), (6_000, 60, "min"), (360_000, 3_600, "h")):
        if seconds < limit:
            digits = 1 if unit == 1 and seconds < 10 else 0
            return f"{max(0.0, seconds) / unit:.{digits}f} {letters}"
    return f"{seconds / 86_400:,.0f} d"


def per_second(rate: float | None) -> str:
    """A rate; a dash where it is not known.

    Examples
    --------
    >>> per_second(1234.4), per_second(0.25), per_second(None)
    ('1,234/s', '0.2/s', '-')
    """
    if rate is None:
        return "-"
    return f"{rate:,.0f}/s" if rate >= 10 or rate == 0 else f"{rate:.1f}/s"


def sparkline(values: Sequence[float], width: int, low: float | None = None) -> str:
    """The last `width` values as bars, from `low` (or the least of them) to the largest.

    What is not finite has no bar: a stray write may make any figure of what an engine holds.

    Examples
    --------
    >>> sparkline([0.0, 1.0, 2.0], width=2, low=0.0), sparkline([1.0, float("nan"), 2.0], width=3)
    ('▅█', '▁ █')
    """
    shown = values[-width:] if width > 0 else []
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return " " * len(shown)
    bottom = min(finite) if low is None else low
    span = max(finite) - bottom
    return "".join(_step(value - bottom, span) for value in shown)


def _step(height: float, span: float) -> str:
    if not math.isfinite(height):
        return " "
    top = len(_BARS) - 1
    return _BARS[min(top, max(0, round(height / span * top)))] if span > 0 else _BARS[0]


def bar(share: float, width: int) -> str:
    """A bar whose length is a share, from 0 to 1, of the width.

    Examples
    --------
    >>> bar(0.5, width=5)
    '██▌  '
    """
    whole, eighths = divmod(round(share * width * 8), 8)
    return ("█" * whole + _EIGHTHS[eighths])[:width].ljust(width)
