"""The functions of a layer's edges, one small plot for each pair of channels."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from convkan.interpret.curves import curves
from convkan.interpret.plot.style import new_figure
from convkan.nn import KANLayer

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
    figure = new_figure((1.9 * columns + 0.6, 1.5 * rows + 1.0))
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
