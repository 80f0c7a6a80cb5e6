"""Pictures. The only module that imports matplotlib."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from convkan.interpret.curves import curves
from convkan.nn import KANLayer

# Okabe and Ito's colours, told apart by colour-blind readers too.
TRAIN_COLOR, VAL_COLOR = "#0072B2", "#D55E00"
MOST_OUTPUTS, MOST_INPUTS = 8, 6


def plot_edges(layer: KANLayer, title: str = "") -> Figure:
    """The learned φ of a layer's edges: one small plot for each pair of output and input, one curve a tap.

    At most ``MOST_OUTPUTS`` × ``MOST_INPUTS`` plots are drawn, those with the largest mean |φ|, and the title says
    how many there are.

    Args:
        layer: Any KAN layer.
        title: What the layer is.
    """
    sampled = curves(layer)
    x, values = sampled.x, sampled.total
    x, values = (
        x.float().cpu(),
        values.float().cpu().flatten(3) if values.ndim > 3 else values[..., None].float().cpu(),
    )
    out_channels, per_group = values.shape[:2]
    size = values.abs().mean(dim=(2, 3))
    outputs = size.sum(1).topk(min(MOST_OUTPUTS, out_channels)).indices.sort().values
    inputs = size[outputs].sum(0).topk(min(MOST_INPUTS, per_group)).indices.sort().values
    rows, columns = len(outputs), len(inputs)
    if columns == 1:  # one input: lay its outputs out as a block
        columns = min(4, rows)
        rows = -(-rows // columns)
    figure = _figure((1.9 * columns + 0.6, 1.5 * rows + 1.0))
    axes = figure.subplots(rows, columns, squeeze=False)
    taps = values.shape[3]
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, taps))
    group_size = out_channels // (len(x) // per_group)
    for axis, (output, input_) in zip(axes.flat, ((o.item(), i.item()) for o in outputs for i in inputs), strict=False):
        channel = (output // group_size) * per_group + input_
        for tap in range(taps):
            axis.plot(x[channel], values[output, input_, :, tap], color=colors[tap], linewidth=0.9)
        axis.axhline(0, color="0.8", linewidth=0.6, zorder=0)
        axis.set_title(f"in {channel} → out {output}", fontsize=7)
        axis.tick_params(labelsize=6)
    for axis in list(axes.flat)[len(outputs) * len(inputs) :]:
        axis.set_visible(False)
    shown = f"{len(outputs) * len(inputs)} of {out_channels * per_group} channel pairs"
    curve = f", a curve for each of {taps} taps (dark: first)" if taps > 1 else ""
    figure.suptitle(f"{title}  φ(x): {shown}{curve}".strip(), fontsize=9)
    figure.supxlabel("x", fontsize=8)
    figure.supylabel("φ(x)", fontsize=8)
    return figure


def plot_learning_curves(rows: Sequence[dict[str, float]]) -> Figure:
    """Loss and accuracy by epoch, training and validation.

    Args:
        rows: One an epoch, with ``epoch`` and ``{train,val}_{loss,accuracy}``.
    """
    figure = _figure((8, 3.4))
    epochs = [row["epoch"] for row in rows]
    for axis, name, unit in zip(figure.subplots(1, 2), ("loss", "accuracy"), (1, 100), strict=True):
        for part, color in (("train", TRAIN_COLOR), ("val", VAL_COLOR)):
            label = {"train": "training", "val": "validation"}[part]
            axis.plot(
                epochs,
                [unit * row[f"{part}_{name}"] for row in rows],
                color=color,
                label=label,
                marker=".",
                markersize=4,
            )
        axis.set_xlabel("epoch")
        axis.set_ylabel(name if unit == 1 else f"{name} (%)")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def plot_confusion(matrix: Int[Tensor, "classes classes"], class_names: Sequence[str]) -> Figure:
    """Counts of predicted (column) against true class (row), coloured by the share of the row.

    Args:
        matrix: The counts.
        class_names: A name for each class.
    """
    counts = matrix.cpu().numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = len(class_names) <= 20
    side = max(4.5, 0.42 * min(len(class_names), 30) + 1.6)
    figure = _figure((side + 0.8, side))
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if few:
        axis.set_xticks(range(len(class_names)), class_names, rotation=60, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(class_names)), class_names)
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                color = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=color)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    axis.set_title(f"test accuracy {np.trace(counts) / max(counts.sum(), 1):.2%}", fontsize=10)
    figure.colorbar(image, ax=axis, label="share of the true class", fraction=0.046)
    return figure


def _figure(size: tuple[float, float]) -> Figure:
    """A figure outside pyplot's global state, which would keep every figure and open windows."""
    figure = Figure(figsize=size, layout="constrained", dpi=140)
    FigureCanvasAgg(figure)
    return figure
