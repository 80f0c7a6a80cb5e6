"""What all pictures share."""

from typing import Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
AMBER, SKY, PURPLE, YELLOW, BLACK = "#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#000000"
# For series without a meaning of their own, neighbours far apart.
PALETTE = (BLUE, AMBER, GREEN, PURPLE, SKY, ORANGE, YELLOW, BLACK)
IMPORTANCE = "viridis_r"  # dark: important
SIGNED = "PuOr"


LONGEST = 28  # of a name, in characters: a longer one would leave no room for what is drawn


def plain(text: str) -> str:
    """A text in which a dollar is a dollar, and begins no formula."""
    return text.replace("$", r"\$")


def label(name: str) -> str:
    """A name as it stands beside a picture: in one line, and its beginning if it is long."""
    name = " ".join(name.split())
    return plain(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…")


def new_figure(
    size: tuple[float, float], *, layout: Literal["constrained"] | None = "constrained", dpi: float = 140
) -> Figure:
    """A figure outside pyplot's global state, which would keep every figure and open windows."""
    figure = Figure(figsize=size, layout=layout, dpi=dpi)
    FigureCanvasAgg(figure)
    return figure
