"""How entries look: each keeps its colour and mark in all pictures of a report."""

from dataclasses import dataclass
from typing import Any

from convkan.interpret.plot import BLUE, GREEN, ORANGE
from experiments.compare.suite import Suite

# Told apart by colour-blind readers, neighbours far apart, each with a contrast of at least 3 : 1 to white.
COLORS = (BLUE, ORANGE, GREEN, "#AA4499", "#000000", "#9A6A00", "#882255", "#2A8AB8")
MARKERS = "osD^vP*X"


@dataclass(frozen=True)
class Style:
    """An entry's colour and mark; those of plain networks are open, and their lines dashed."""

    color: str
    marker: str
    plain: bool

    @property
    def points(self) -> dict[str, Any]:
        """Options of matplotlib for single points."""
        filling = "white" if self.plain else self.color
        return {"color": self.color, "marker": self.marker, "markerfacecolor": filling, "linestyle": "none"}

    @property
    def line(self) -> dict[str, Any]:
        """Options of matplotlib for a line with a mark here and there."""
        return self.points | {"linestyle": "--" if self.plain else "-", "markersize": 4, "linewidth": 1.5}


def styles_of(suite: Suite) -> dict[str, Style]:
    """The style of each entry by its name."""
    return {
        # With more entries than colours, the next round gives each colour another mark.
        entry.name: Style(
            COLORS[index % len(COLORS)],
            MARKERS[(index + index // len(COLORS)) % len(MARKERS)],
            entry.is_plain,
        )
        for index, entry in enumerate(suite.entries)
    }
