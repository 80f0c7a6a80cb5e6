"""The kernel atlas: every learned function of a layer at a glance."""

from dataclasses import dataclass
from math import prod

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn

from convkan.deprecation import old_arguments
from convkan.interpret.curves import Curves, curves
from convkan.interpret.edges import edges_of
from convkan.interpret.plot.style import BLUE, IMPORTANCE, new_figure

MOST_OUTPUTS, MOST_INPUTS = 12, 10
STRAIGHT = 0.98  # R² of a line, from which on a curve counts as straight
CELL = 0.86  # of the room of a curve
HISTOGRAM = 0.9  # height, in such rooms
GAP = 0.35  # between blocks, in cells
POINTS = 41


@dataclass(frozen=True)
class Layout:
    """Where blocks are, in units of a curve's room: outputs in rows and inputs in columns, or the other way around.

    Attributes:
        outputs: The output channels that are drawn.
        inputs: The input channels that are drawn.
        taps: Rows and columns of a block.
        turned: Outputs are in columns: for layers with few inputs, which would make a tower.
    """

    outputs: list[int]
    inputs: list[int]
    taps: tuple[int, int]
    turned: bool

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of all blocks."""
        across, down = (self.outputs, self.inputs) if self.turned else (self.inputs, self.outputs)
        return len(across) * (self.taps[1] + GAP), len(down) * (self.taps[0] + GAP)

    def corner(self, i: int, j: int) -> tuple[float, float]:
        """Left and top of the block of the i-th output and the j-th input."""
        column, row = (i, j) if self.turned else (j, i)
        return column * (self.taps[1] + GAP), row * (self.taps[0] + GAP)

    def histogram(self, j: int) -> tuple[float, float, float]:
        """Left, bottom and width of the histogram of the j-th input: above its column, or right of its row."""
        left, top = self.corner(len(self.outputs) if self.turned else 0, j)
        return left, top + HISTOGRAM if self.turned else -GAP, float(self.taps[1])


@old_arguments(names={"data": "x"})
def plot_atlas(
    layer: nn.Module,
    *,
    x: Tensor | None = None,
    importance: Float[Tensor, "out in_per_group *kernel"] | None = None,
    title: str = "",
) -> Figure:
    """Blocks of small curves, one block for each pair of output and input channel, in each one curve a tap.

    All curves share one scale. Their colour is their importance; those that are nearly straight, as the weights of an
    ordinary layer are, are drawn thin and dashed. With inputs there is a histogram of each channel's inputs, and the
    share off the grid. Of more than ``MOST_OUTPUTS`` outputs or ``MOST_INPUTS`` inputs the most important are drawn,
    and the title says of how many.

    Args:
        layer: Any KAN layer.
        x: Inputs, as the layer is called with, for histograms and straightness.
        importance: How much each edge matters; by default the standard deviation of its curve.
        title: What the layer is.
    """
    edges = edges_of(layer)
    found = curves(layer, POINTS, x=x)
    weight = (found.total.float().std(dim=2) if importance is None else importance.float()).detach().cpu()
    outputs = _most(weight.flatten(1).sum(1), MOST_OUTPUTS)
    inputs = _most(weight[outputs].reshape(len(outputs), weight.shape[1], -1).sum((0, 2)), MOST_INPUTS)
    kernel = weight.shape[2:]
    layout = Layout(outputs, inputs, (prod(kernel[:-1]), kernel[-1] if kernel else 1), 2 * len(inputs) < len(outputs))
    with_histogram = found.counts is not None and edges.groups == 1
    wide, high = layout.size
    wide += (layout.taps[1] + GAP) * (with_histogram and layout.turned)
    above = (HISTOGRAM + GAP + 0.35) * (with_histogram and not layout.turned)
    cell = min(0.42, 11 / wide)
    figure = new_figure((max(4.5, cell * wide + 1.6), max(2.2, cell * (high + above) + 1.2)))
    axis = figure.subplots()
    scale = _scale(found, layout)
    most = float(weight.max().clamp_min(1e-30))
    colors = matplotlib.colormaps[IMPORTANCE]
    bent, straight = _lines(found, weight / most, layout, scale)
    for (segments, shades), style, width in ((bent, "solid", 1.1), (straight, (0, (1.5, 1.0)), 0.7)):
        shade = colors(0.12 + 0.88 * np.array(shades))
        axis.add_collection(LineCollection(segments, colors=shade, linestyles=style, linewidths=width))
    if with_histogram:
        _histograms(axis, found, layout)
    _frame(axis, layout, (wide, high, above), edges.groups)
    bar = figure.colorbar(ScalarMappable(Normalize(0, most), colors), ax=axis, fraction=0.03, pad=0.01, aspect=15)
    bar.set_label("importance" if importance is not None else "standard deviation of φ", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    shown = f"{len(outputs)} of {len(weight)} outputs × {len(inputs)} of {weight.shape[1]} inputs"
    share = (found.straightness > STRAIGHT)[edges.alive].double().mean().nan_to_num(1.0).item()
    figure.suptitle(
        f"{title}  {shown}\nevery curve spans φ = ±{scale:.2g} about its middle, and the channel's grid; "
        f"{share:.0%} of all edges that are not zero nearly straight (dashed)",
        fontsize=7,
    )
    return figure


def _most(weight: Float[Tensor, " channels"], at_most: int) -> list[int]:
    chosen: list[int] = weight.topk(min(at_most, len(weight))).indices.sort().values.tolist()
    return chosen


def _scale(found: Curves, layout: Layout) -> float:
    """What nearly all curves stay within, less their middle."""
    values = found.total[layout.outputs][:, layout.inputs].float()
    off = (values - values.mean(2, keepdim=True)).abs()
    return float(torch.quantile(off.flatten()[: 2**24], 0.995).clamp_min(1e-12))


Lines = tuple[list[np.ndarray], list[float]]


def _lines(found: Curves, shade: Tensor, layout: Layout, scale: float) -> tuple[Lines, Lines]:
    """The curves, each about its own middle, as polylines with their shades: bent ones and straight ones."""
    middle = found.total.mean(2, keepdim=True)
    values = (found.total - middle).float().cpu().reshape(*found.total.shape[:3], -1)
    straightness, shade = (v.reshape(*v.shape[:2], -1).float().cpu() for v in (found.straightness, shade))
    across = np.linspace(-0.5, 0.5, values.shape[2]) * CELL
    kinds: tuple[Lines, Lines] = (([], []), ([], []))
    for i, output in enumerate(layout.outputs):
        for j, input_ in enumerate(layout.inputs):
            left, top = layout.corner(i, j)
            for tap in range(values.shape[3]):
                row, column = divmod(tap, layout.taps[1])
                height = (values[output, input_, :, tap].numpy() / scale).clip(-1, 1) * CELL / 2
                segments, shades = kinds[int(straightness[output, input_, tap] > STRAIGHT)]
                segments.append(np.stack([left + column + 0.5 + across, top + row + 0.5 - height], axis=1))
                shades.append(float(shade[output, input_, tap]))
    return kinds


def _histograms(axis: Axes, found: Curves, layout: Layout) -> None:
    """How often inputs lie where on the grid, and the share off it."""
    assert found.counts is not None
    for j, input_ in enumerate(layout.inputs):
        counts = found.counts[input_].float()
        left, bottom, width = layout.histogram(j)
        tops = bottom - HISTOGRAM * (counts / counts.max().clamp_min(1)).numpy()
        places = np.linspace(left, left + width, len(counts) + 1)
        axis.stairs(tops, places, baseline=bottom, fill=True, color=BLUE, alpha=0.55, linewidth=0)
        if found.off_grid is not None:
            text = f"inputs, {found.off_grid[input_].item():.0%} off"
            middle = left + width / 2
            if layout.turned:
                axis.text(middle, bottom + 0.08, text, ha="center", va="top", fontsize=5)
            else:
                axis.text(middle, bottom - HISTOGRAM - 0.08, text, ha="center", va="bottom", fontsize=5)


def _frame(axis: Axes, layout: Layout, size: tuple[float, float, float], groups: int) -> None:
    """Boxes, and names of rows and columns."""
    (rows, columns), (wide, high, above) = layout.taps, size
    boxes = []
    for i in range(len(layout.outputs)):
        for j in range(len(layout.inputs)):
            left, top = layout.corner(i, j)
            right, bottom = left + columns, top + rows
            boxes.append(np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]))
    axis.add_collection(LineCollection(boxes, colors="0.8", linewidths=0.6))
    axis.set_xlim(-0.1, wide)
    axis.set_ylim(high, -above - 0.1)
    axis.set_aspect("equal")
    of_inputs = "input channel" if groups == 1 else "input channel within its group"
    named = [(layout.inputs, of_inputs), (layout.outputs, "output channel")]
    across, down = named[::-1] if layout.turned else named
    axis.set_xticks(
        [k * (columns + GAP) + columns / 2 for k in range(len(across[0]))], [str(n) for n in across[0]], fontsize=6
    )
    axis.set_yticks([k * (rows + GAP) + rows / 2 for k in range(len(down[0]))], [str(n) for n in down[0]], fontsize=6)
    axis.tick_params(length=0)
    axis.set_xlabel(across[1], fontsize=7)
    axis.set_ylabel(down[1], fontsize=7)
    for spine in axis.spines.values():
        spine.set_visible(False)
