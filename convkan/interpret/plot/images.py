"""What a network sees in an image, and where its answer comes from."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from convkan.interpret.plot.style import SIGNED, new_figure, plain

MOST_FEATURES = 16


def plot_contributions(
    images: Float[Tensor, "images channels height width"],
    values: Float[Tensor, "images channels height width"],
    titles: Sequence[str],
) -> Figure:
    """Each image beside what its pixels contribute to a logit, summed over colours: purple for it, orange against.

    Args:
        images: As a reader should see them, in [0, 1].
        values: Contributions, as ``attribute`` gives them.
        titles: One an image.
    """
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure((3.4 * columns, 2.1 * rows + 0.3))
    axes = figure.subplots(rows, 2 * columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (image, value, title) in enumerate(zip(images, values, titles, strict=True)):
        left = axes[index // columns, 2 * (index % columns)]
        right = axes[index // columns, 2 * (index % columns) + 1]
        _show(left, image)
        left.set_title(plain(title), fontsize=7, loc="left")
        signed_map(right, value.sum(0))
    return figure


def plot_features(
    image: Float[Tensor, "channels height width"],
    features: Float[Tensor, "features height width"],
    contributions: Float[Tensor, "features height width"] | None = None,
    title: str = "",
) -> Figure:
    """An image, the feature maps of a layer, and beneath each map what it contributes to the answer.

    At most ``MOST_FEATURES`` maps are drawn: those that contribute, or else vary, most.

    Args:
        image: As a reader should see it, in [0, 1].
        features: The maps.
        contributions: The share of each place of each map in a logit.
        title: What they are.
    """
    size = (features.std(dim=(1, 2)) if contributions is None else contributions.sum(dim=(1, 2)).abs()).detach()
    chosen = sorted(size.topk(min(MOST_FEATURES, len(size))).indices.tolist())
    columns = min(8, len(chosen))
    per_map = 1 if contributions is None else 2
    rows = -(-len(chosen) // columns) * per_map
    figure = new_figure((1.15 * (columns + 1) + 0.3, 1.3 * rows + 0.5))
    axes = figure.subplots(rows, columns + 1, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    _show(axes[0, 0], image)
    axes[0, 0].set_title("image", fontsize=7)
    for index, feature in enumerate(chosen):
        row, column = index // columns * per_map, index % columns + 1
        axes[row, column].imshow(features[feature].detach().float().cpu().numpy(), cmap="cividis")
        axes[row, column].set_title(f"map {feature}", fontsize=7)
        if contributions is not None:
            signed_map(axes[row + 1, column], contributions[feature], contributions[chosen].abs().max().item())
            axes[row + 1, column].set_title(f"Σ {contributions[feature].sum().item():+.2g}", fontsize=7)
    figure.suptitle(f"{title}  {len(chosen)} of {len(features)} maps".strip(), fontsize=8)
    return figure


def signed_map(axis: Axes, values: Float[Tensor, "height width"], largest: float | None = None) -> None:
    """A map on a scale that is white at 0."""
    array = values.detach().float().cpu().numpy()
    limit = largest or float(np.abs(array).max()) or 1.0
    axis.imshow(array, cmap=SIGNED, vmin=-limit, vmax=limit)
    axis.set_axis_off()


def _show(axis: Axes, image: Tensor) -> None:
    array = image.detach().float().cpu().clamp(0, 1).numpy()
    axis.imshow(array[0] if len(array) == 1 else array.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
