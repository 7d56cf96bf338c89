"""Learning curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def draw_curves(figures: dict[str, Any], path: Path) -> None:
    """Mean reward up to each request, a panel for each stream; needs the main table's figures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, panels = pyplot.subplots(1, len(figures), figsize=(3.6 * len(figures), 3.2))
    for panel, (name, found) in zip(np.atleast_1d(panels), figures.items(), strict=True):
        for bound, style in (("offline bound", ":"), ("best single", "--"), ("random", "-.")):
            panel.axhline(found[bound], color="0.6", linestyle=style, linewidth=1, label=bound)
        for router, row in found["routers"].items():
            share = np.linspace(0.0, 1.0, len(row["curve"]))
            panel.plot(share[3:], row["curve"][3:], label=router, linewidth=1.6)
        panel.set_title(name)
        panel.set_xlabel("share of the pass")
        panel.spines[["top", "right"]].set_visible(False)
    panels = np.atleast_1d(panels)
    panels[0].set_ylabel("mean reward so far")
    panels[-1].legend(frameon=False, fontsize=8)
    drawing.tight_layout()
    drawing.savefig(path, dpi=150)
