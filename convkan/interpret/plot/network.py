"""The graph of a small dense net, with the learned function on every edge."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from convkan.interpret.curves import Curves, curves
from convkan.interpret.edges import edges_of, kan_layers, layer_inputs
from convkan.interpret.plot.style import BLUE, ORANGE, new_figure
from convkan.nn import KANLinear, Multiplication

MOST_NODES = 12
MOST_SAMPLES = 2000
LEAST_SHADE = 0.06
BOX = 0.8  # of the room of a curve
BELOW = 0.6  # how far factors are below their products


def plot_network(
    model: nn.Module,
    *,
    x: Float[Tensor, "points inputs"] | None = None,
    importance: Sequence[Float[Tensor, "out in"]] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Nodes in rows, inputs below, and between two rows a box for each edge with its curve.

    Edges fade with their importance; those that are masked are left out; those that compute a named function are
    drawn in another colour. Nodes that multiply (``convkan.nn.Multiplication``) are crosses over their factors. Of a
    row with more than ``MOST_NODES`` nodes the most important are drawn, and the row says of how many. After the
    picture of the KAN paper (Liu et al., arXiv 2404.19756, fig. 2.4).

    Args:
        model: A ``KANLinear``, or a sequence of them; other modules between are not drawn.
        x: Inputs of the model: curves are then drawn where the inputs of each edge are, and fade by how much they vary.
        importance: How much each edge of each layer matters; by default its standard deviation, over its inputs if they
            are given, else over its grid.
        input_names: Of the first row.
        output_names: Of the last.
        title: What the net is.

    Raises:
        ValueError: The model has no dense KAN layer, or its layers do not follow each other.
    """
    named = {name: layer for name, layer in kan_layers(model).items() if isinstance(layer, KANLinear)}
    layers = list(named.values())
    if not layers:
        raise ValueError("model must have a KANLinear layer, and has none")
    joints = _joints(model)
    given = {} if x is None else layer_inputs(model, x)
    seen = [given[name].flatten(0, -2) if name in given else None for name in named]
    sampled = [curves(layer, 61, _reach(some), x=some) for layer, some in zip(layers, seen, strict=True)]
    scores = (
        list(importance)
        if importance is not None
        else [_variation(layer, found, some) for layer, found, some in zip(layers, sampled, seen, strict=True)]
    )
    shown = _shown(layers, joints, scores)
    ends = [joint.sources(nodes) for joint, nodes in zip(joints, shown[1:], strict=True)]
    widest = max(
        max(len(below) * len(above) for below, above in zip(shown, ends, strict=False)),
        2 * max(len(nodes) for nodes in (*shown, *ends)),
    )
    figure = new_figure((min(16.0, max(4.0, 0.75 * widest + 1)), 2.3 * len(layers) + 1.2))
    axis = figure.subplots()
    places = [_spread(len(nodes), widest) for nodes in shown]
    for level, (layer, found, score) in enumerate(zip(layers, sampled, scores, strict=True)):
        start = Row(shown[level], places[level], 3 * level)
        end = Row(ends[level], _spread(len(ends[level]), widest), 3 * level + 3)
        if ends[level] != shown[level + 1]:
            end = end.under(shown[level + 1], places[level + 1], joints[level], axis)
        _draw_layer(axis, layer, found, score, start, end, widest)
    for level, (nodes, across) in enumerate(zip(shown, places, strict=True)):
        axis.plot(across, [3 * level] * len(nodes), "o", color="black", ms=5, zorder=5)
        whole = layers[0].in_features if level == 0 else joints[level - 1].nodes
        if len(nodes) < whole:
            axis.text(widest, 3 * level, f"{len(nodes)} of {whole} nodes", fontsize=7, ha="right", va="bottom")
    _name(axis, shown[0], places[0], -0.25, "top", input_names, "x")
    _name(axis, shown[-1], places[-1], 3 * len(layers) + 0.25, "bottom", output_names, "y")
    axis.set_xlim(-0.3, widest + 0.3)
    axis.set_ylim(-0.8, 3 * len(layers) + 0.8)
    axis.set_axis_off()
    if title:
        axis.set_title(title, fontsize=9)
    return figure


def _reach(x: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Where the inputs of each channel lie; None to draw its grid."""
    if x is None:
        return None
    low, high = x.amin(0), x.amax(0)
    return torch.where(low < high, low, low - 1), torch.where(low < high, high, high + 1)


@torch.no_grad()
def _variation(layer: KANLinear, found: Curves, x: Tensor | None) -> Float[Tensor, "out in"]:
    """The standard deviation of each edge."""
    values = found.total if x is None else edges_of(layer).at(x[:MOST_SAMPLES])
    return values.double().std(dim=2)


@dataclass(frozen=True)
class Joint:
    """What a layer's outputs become before the next layer: the same nodes, or sums and products.

    Attributes:
        nodes: Their number.
        products: What multiplies, or None.
    """

    nodes: int
    products: Multiplication | None

    def sources(self, nodes: Sequence[int]) -> list[int]:
        """The outputs that some nodes are made of."""
        if self.products is None:
            return list(nodes)
        return [source for node in nodes for source in self.products.sources(node)]


@dataclass(frozen=True)
class Row:
    """Nodes beside each other: which, where from left to right, and how high."""

    nodes: list[int]
    places: np.ndarray
    height: float

    def under(self, nodes: list[int], places: np.ndarray, joint: Joint, axis: Axes) -> "Row":
        """The row below that of the nodes it is joined to, with the lines between both drawn."""
        lower = self.height - BELOW
        where = dict(zip(self.nodes, self.places, strict=True))
        for node, place in zip(nodes, places, strict=True):
            sources = [where[source] for source in joint.sources([node])]
            for source in sources:
                axis.plot([source, place], [lower, self.height], color="black", lw=0.9)
            axis.plot(sources, [lower] * len(sources), "o", color="black", ms=3, zorder=5)
            if len(sources) > 1:
                axis.plot([place], [self.height], "X", color=ORANGE, ms=11, zorder=4)
        return Row(self.nodes, self.places, lower)


def _joints(model: nn.Module) -> list[Joint]:
    """What stands behind each dense layer of a model; raises ValueError unless its layers follow each other."""
    steps = [module for module in model.modules() if isinstance(module, KANLinear | Multiplication)]
    for before, after in pairwise(steps):
        if before.out_features != after.in_features:
            raise ValueError(
                f"the model's KANLinear layers must follow each other, got {before.out_features} outputs before "
                f"{after.in_features} inputs"
            )
    found: list[Joint] = []
    for step in steps:
        if isinstance(step, KANLinear):
            found.append(Joint(step.out_features, None))
        elif not found or found[-1].products is not None:
            raise ValueError("each Multiplication of the model must follow a KANLinear layer of its own")
        else:
            found[-1] = Joint(step.out_features, step)
    return found


def _shown(layers: list[KANLinear], joints: list[Joint], scores: Sequence[Tensor]) -> list[list[int]]:
    """The nodes of each row that are drawn: inputs of the first layer, then what each layer's outputs become."""
    weights = [scores[0].sum(0).detach().cpu()]
    for joint, score in zip(joints, scores, strict=True):
        outputs = score.sum(1).detach().cpu()
        weights.append(torch.stack([outputs[joint.sources([node])].sum() for node in range(joint.nodes)]))
    return [sorted(weight.topk(min(MOST_NODES, len(weight))).indices.tolist()) for weight in weights]


def _spread(count: int, width: float) -> np.ndarray:
    return (np.arange(count) + 0.5) * width / count


def _draw_layer(axis: Axes, layer: KANLinear, found: Curves, score: Tensor, start: Row, end: Row, width: float) -> None:
    """The edges from one row to the next: a line to the box, the curve in it, a line on."""
    edges = [(i, o) for i in range(len(start.nodes)) for o in range(len(end.nodes))]
    boxes = _spread(len(edges), width)
    side = min(0.9, BOX * width / len(edges)) / 2
    middle, most = start.height + 1.5, score.max().item() or 1.0
    named = set() if layer.symbolic is None else {tuple(edge) for edge in layer.symbolic.edges.tolist()}
    for (i, o), centre in zip(edges, boxes, strict=True):
        input_, output = start.nodes[i], end.nodes[o]
        is_named = (output, input_) in named
        if layer.edge_mask is not None and not layer.edge_mask[output, input_] and not is_named:
            continue
        shade = max(LEAST_SHADE, float(np.tanh(3 * score[output, input_].item() / most)))
        color = ORANGE if is_named else BLUE
        axis.plot([start.places[i], centre], [start.height, middle - side], color="black", alpha=shade, lw=0.9)
        axis.plot([centre, end.places[o]], [middle + side, end.height], color="black", alpha=shade, lw=0.9)
        values = found.total[output, input_].double().cpu().numpy()
        values = values - (values.max() + values.min()) / 2
        height = values / (np.abs(values).max() or 1.0) * side * 0.8
        across = np.linspace(-side, side, len(values)) * 0.85
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * side
        axis.plot(centre + corners[:, 0], middle + corners[:, 1], color="black", alpha=shade, lw=0.6)
        axis.plot(centre + across, middle + height, color=color, alpha=max(shade, 0.15), lw=1.5)


def _name(
    axis: Axes,
    nodes: list[int],
    across: np.ndarray,
    height: float,
    align: str,
    names: Sequence[str] | None,
    letter: str,
) -> None:
    for node, place in zip(nodes, across, strict=True):
        text = names[node] if names is not None else f"${letter}_{{{node + 1}}}$"
        axis.text(place, height, text, ha="center", va=align, fontsize=9)
