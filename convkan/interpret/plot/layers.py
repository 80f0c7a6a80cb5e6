"""How the layers of a model compare."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from convkan.interpret.plot.style import BLUE, GREEN, ORANGE, new_figure


def plot_layers(panels: Mapping[str, Mapping[str, float]]) -> Figure:
    """Bars for each layer, a panel for each figure: the share of inputs off the grid, importance, ….

    Args:
        panels: For the label of each panel, values by layer, in order. A layer that a panel lacks has no bar there.

    Raises:
        ValueError: There is no panel, or no layer.
    """
    names = list(dict.fromkeys(name for values in panels.values() for name in values))
    if not names:
        raise ValueError("panels must hold a layer, got none")
    figure = new_figure((2.9 * len(panels) + 1.2, 0.32 * len(names) + 1.0))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    colors = (ORANGE, BLUE, GREEN)
    for index, (axis, (label, values)) in enumerate(zip(axes, panels.items(), strict=True)):
        heights = [values.get(name, 0.0) for name in names]
        axis.barh(np.arange(len(names)), heights, color=colors[index % len(colors)], height=0.6)
        for place, name in enumerate(names):
            if name in values:
                axis.text(values[name], place, f" {values[name]:.3g}", va="center", fontsize=7)
        axis.set_xlabel(label, fontsize=8)
        axis.margins(x=0.18)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(np.arange(len(names)), names)
    axes[0].invert_yaxis()
    return figure
