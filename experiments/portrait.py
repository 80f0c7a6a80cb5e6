"""Draw what a trained model of the package learned: ``python -m experiments.portrait [--output FILE]``.

This is the README's picture: the functions of one variable that each layer of ``kan_vgg`` applies to its channels,
where an ordinary network applies one ReLU.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from convkan import LearnableActivation
from convkan.interpret import curves
from convkan.interpret.plot import GREY, IMPORTANCE, new_figure
from convkan.models import create_model
from convkan.training import write_atomically
from experiments.common.cli import UserError, parse, run

PICTURE = Path(__file__).parents[1] / "docs" / "learned_functions.png"
DOTS_PER_INCH = 115  # sharp at the width of a page, and a small file
PALEST = 0.15  # of the colour map: what is paler is hard to see on white


@dataclass(frozen=True)
class PortraitConfig:
    """What to draw.

    Attributes:
        model: A model of the package.
        weights: The name of its trained weights.
        output: Where the picture goes.
    """

    model: str = "kan_vgg"
    weights: str = "cifar10"
    output: str = str(PICTURE)


def main() -> None:
    """Draw the picture."""
    config = parse(PortraitConfig, __doc__)
    figure = portrait(create_model(config.model, weights=config.weights))
    path = Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: figure.savefig(partial, format="png", dpi=DOTS_PER_INCH))
    print(f"drew {path}")


def portrait(model: nn.Module) -> Figure:
    """A panel for each layer of learnable functions, in it a curve for each channel: the more it bends, the darker.

    Raises:
        UserError: The model has no such layer.
    """
    activations = [module for module in model.modules() if isinstance(module, LearnableActivation)]
    if not activations:
        raise UserError("the model must have learnable activations, got one without")
    figure = new_figure((1.6 * len(activations), 1.9))
    panels = figure.subplots(1, len(activations), sharex=True, squeeze=False)[0]
    for depth, (panel, activation) in enumerate(zip(panels, activations, strict=True), start=1):
        count = _draw(panel, activation)
        panel.set_title(f"layer {depth}: {count} function{'s' if count > 1 else ''}", fontsize=7)
        panel.tick_params(labelsize=6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=6, frameon=False, loc="upper left")
    return figure


def _draw(panel: Axes, activation: LearnableActivation) -> int:
    """The curves of one layer, over ReLU; returns how many."""
    found = curves(activation)
    x, functions = found.x[0], found.total.flatten(0, 1)
    order = found.remainder.flatten(0, 1).std(dim=1).argsort().tolist()
    palette = matplotlib.colormaps[IMPORTANCE]
    for rank, index in enumerate(order, start=1):
        panel.plot(x, functions[index], color=palette(PALEST + (1 - PALEST) * rank / len(order)), linewidth=0.8)
    panel.plot(x, torch.relu(x), color=GREY, linestyle="--", linewidth=1.2, label="ReLU")
    return len(order)


if __name__ == "__main__":
    run(main)
