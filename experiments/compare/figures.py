"""The pictures of a comparison."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from convkan.interpret.plot import GREY, PALETTE, new_figure, style
from convkan.training import write_atomically
from experiments.common.statistics import pareto_front
from experiments.compare.suite import Suite
from experiments.compare.tables import median_seconds

COSTS = {
    "parameters": "parameters",
    "multiply_adds": "multiply-adds an image",
    "seconds": "time an epoch",
    "step_memory_bytes": "memory that a training step keeps",
}
UNITS = {"seconds": "s", "step_memory_bytes": "B"}  # so that a thousandth is not read as a minute
WIDTH = 11.0  # inches
MARKERS = "osD^vP*X"
MOST_CURVES = len(PALETTE)
DECADE = 10  # costs further apart than this lie on a logarithmic axis


def draw_all(suite: Suite, runs: pd.DataFrame, classes: dict[str, list[str]], folder: Path) -> list[tuple[Path, str]]:
    """Draw every figure of every data set; returns the files with their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    styles = {
        # With more entries than colours, the next round gives each colour another marker.
        entry.name: (
            PALETTE[index % len(PALETTE)],
            MARKERS[(index + index // len(PALETTE)) % len(MARKERS)],
            entry.is_plain,
        )
        for index, entry in enumerate(suite.entries)
    }
    tested = "confusion" in runs
    part = "Test" if tested else "Validation"
    drawn = []
    for dataset, group in runs.groupby("dataset", sort=False):
        for name, draw, caption in (
            ("pareto", _pareto, f"{part} accuracy against cost: mean and standard deviation over seeds. The line joins "
             "those that no cheaper one beats. Open markers are CNNs."),
            ("curves", _curves, "Validation accuracy and training loss by epoch, mean over seeds."),
            ("classes", _classes, "Recall of each class: the share of its test images that is right, mean over seeds."),
        ):  # fmt: skip
            if name == "classes" and not tested:
                continue
            figure = draw(group, styles, classes[dataset])
            path = folder / f"{dataset}-{name}.png"
            write_atomically(path, partial(figure.savefig, format="png"))
            drawn.append((path, f"{dataset}. {caption}"))
    return drawn


def _new_figure(height: float) -> Figure:
    return new_figure((WIDTH, height), layout=None, dpi=110)


def _pareto(runs: pd.DataFrame, styles: dict[str, Any], classes: list[str]) -> Figure:
    figure = _new_figure(8.5)
    axes = figure.subplots(2, 2, sharey=True)
    grouped = runs.groupby("entry", sort=False)
    accuracy = 100 * grouped["accuracy"].mean()
    spread = 100 * grouped["accuracy"].std().fillna(0)
    for axis, (cost, label) in zip(axes.flat, COSTS.items(), strict=True):
        costs = grouped.apply(median_seconds) if cost == "seconds" else grouped[cost].median()
        for entry in accuracy.index:
            color, marker, plain = styles[entry]
            axis.errorbar(
                costs[entry],
                accuracy[entry],
                yerr=spread[entry],
                color=color,
                marker=marker,
                markerfacecolor="white" if plain else color,
                capsize=3,
                linestyle="none",
                label=entry,
            )
        front = pareto_front(costs.tolist(), accuracy.tolist())
        axis.plot(costs.iloc[front], accuracy.iloc[front], color=GREY, linewidth=1, zorder=0)
        if costs.max() > DECADE * costs.min():
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
        else:
            axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(EngFormatter(unit=UNITS.get(cost, "")))
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy, %")
    _legend(figure, axes[0, 0])
    return figure


def _curves(runs: pd.DataFrame, styles: dict[str, Any], classes: list[str]) -> Figure:
    figure = _new_figure(4.8)
    axes = figure.subplots(1, 2)
    for color, entry in zip(PALETTE, _most_accurate(runs), strict=False):
        histories = [pd.DataFrame(history) for history in runs[runs["entry"] == entry]["history"]]
        mean = pd.concat(histories).groupby("epoch").mean()
        *_, plain = styles[entry]
        line = {"color": color, "linestyle": "--" if plain else "-", "label": entry}
        axes[0].plot(mean.index, 100 * mean["val_accuracy"], **line)
        axes[1].plot(mean.index, mean["train_loss"], **line)
    axes[0].set_ylabel("validation accuracy, %")
    axes[1].set_ylabel("training loss")
    axes[1].set_yscale("log")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    _legend(figure, axes[0])
    return figure


def _classes(runs: pd.DataFrame, styles: dict[str, Any], classes: list[str]) -> Figure:
    figure = _new_figure(4.8)
    axis = figure.subplots()
    entries = _most_accurate(runs)
    width = 0.8 / len(entries)
    lowest = 100.0
    for index, entry in enumerate(entries):
        matrices = np.stack([np.array(matrix) for matrix in runs[runs["entry"] == entry]["confusion"]])
        # A class without test images has a bar of no height.
        shares = 100 * np.diagonal(matrices, axis1=1, axis2=2) / np.maximum(matrices.sum(axis=2), 1)
        lowest = min(lowest, shares.mean(axis=0).min())
        color, (*_, plain) = PALETTE[index], styles[entry]
        positions = np.arange(shares.shape[1]) + (index - (len(entries) - 1) / 2) * width
        axis.bar(
            positions,
            shares.mean(axis=0),
            width,
            color="white" if plain else color,
            edgecolor=color,
            label=entry,
        )
    axis.set_xticks(range(len(classes)), map(style.label, classes), rotation=30, ha="right")
    axis.set_ylim(max(0.0, lowest - 5), 100)
    axis.set_ylabel("right, %")
    _legend(figure, axis)
    return figure


def _most_accurate(runs: pd.DataFrame) -> list[str]:
    """The entries best on validation, as many as a picture bears, in the suite's order."""
    means = runs.groupby("entry", sort=False)["val_accuracy"].mean()
    best = set(means.nlargest(MOST_CURVES).index)
    return [entry for entry in means.index if entry in best]


def _legend(figure: Figure, axis: Axes) -> None:
    handles, entries = axis.get_legend_handles_labels()
    labels = [style.plain(entry) for entry in entries]
    columns = min(4, len(labels))
    lines = -(-len(labels) // columns)
    height = 0.22 * lines / figure.get_figheight()
    figure.tight_layout(rect=(0, 0, 1, 1 - height - 0.02))
    figure.legend(handles, labels, loc="upper center", ncols=columns, fontsize=9, frameon=False)
