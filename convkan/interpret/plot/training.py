"""How a training went, and what a classifier confuses."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from torch import Tensor

from convkan.interpret.plot.style import BLUE, ORANGE, label, new_figure


def plot_learning_curves(rows: Sequence[dict[str, float]]) -> Figure:
    """Loss and accuracy by epoch, training and validation.

    Args:
        rows: One an epoch, with ``epoch`` and ``{train,val}_{loss,accuracy}``.
    """
    figure = new_figure((8, 3.4))
    epochs = [row["epoch"] for row in rows]
    for axis, name, unit in zip(figure.subplots(1, 2), ("loss", "accuracy"), (1, 100), strict=True):
        for part, color in (("train", BLUE), ("val", ORANGE)):
            title = {"train": "training", "val": "validation"}[part]
            axis.plot(
                epochs,
                [unit * row[f"{part}_{name}"] for row in rows],
                color=color,
                label=title,
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

    Beside each true class stands its recall; their mean is the balanced accuracy in the title.

    Args:
        matrix: The counts.
        class_names: A name for each class.
    """
    counts = matrix.cpu().numpy()
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    recall = np.diagonal(shares)[totals > 0]
    few, class_names = len(class_names) <= 20, [label(name) for name in class_names]
    side = max(4.5, 0.42 * min(len(class_names), 30) + 1.6)
    figure = new_figure((side + 0.8, side))
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if few:
        axis.set_xticks(range(len(class_names)), class_names, rotation=60, ha="right", rotation_mode="anchor")
        labels = [
            f"{name}  {share:.0%}" if total else name
            for name, share, total in zip(class_names, np.diagonal(shares), totals, strict=True)
        ]
        axis.set_yticks(range(len(class_names)), labels)
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                color = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=color)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class, and its share that is right" if few else "true class")
    accuracy, balanced = np.trace(counts) / max(counts.sum(), 1), recall.mean() if len(recall) else 0.0
    axis.set_title(f"test accuracy {accuracy:.2%}, balanced {balanced:.2%}", fontsize=10)
    figure.colorbar(image, ax=axis, label="share of the true class", fraction=0.046)
    return figure
