"""The pictures of a comparison."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from convkan.interpret.plot import BLUE, GREY, ORANGE, new_figure, style
from convkan.training import write_atomically
from experiments.common.statistics import pareto_front
from experiments.compare.pairs import Pair, is_same
from experiments.compare.styles import COLORS, Style, styles_of
from experiments.compare.suite import Suite

COSTS = {
    "training_seconds": "training time",
    "parameters": "parameters",
    "multiply_adds": "multiply-adds an image",
    "step_memory_bytes": "memory that a training step keeps",
}
UNITS = {"training_seconds": "s", "step_memory_bytes": "B"}  # so that a thousandth is not read as a minute
WIDTH = 11.0  # inches
MOST_CURVES = len(COLORS)
DECADE = 10  # costs further apart than this lie on a logarithmic axis
LEAST_REACH = 0.1  # points on either side of zero, though all pairs be equal
WINNERS = {"first": BLUE, "second": ORANGE, "neither": GREY}

Styles = dict[str, Style]


def draw_all(
    suite: Suite, runs: pd.DataFrame, pairs: list[Pair], classes: dict[str, list[str]], folder: Path
) -> list[tuple[Path, str]]:
    """Draw every figure; returns the files with their captions, the one of differences first."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, figure, caption in _figures(suite, runs, pairs, classes):
        path = folder / f"{name}.png"
        write_atomically(path, partial(figure.savefig, format="png"))
        drawn.append((path, caption))
    return drawn


def _figures(
    suite: Suite, runs: pd.DataFrame, pairs: list[Pair], classes: dict[str, list[str]]
) -> Iterator[tuple[str, Figure, str]]:
    """Name, picture and caption of each."""
    styles = styles_of(suite)
    part = "test" if suite.test else "validation"
    if pairs:
        yield (
            "differences",
            draw_differences(pairs, suite.plain),
            f"Difference in {part} accuracy of each pair with its 95 % interval over seeds and images. Filled where a "
            "winner is named, all pairs considered; open where both cannot be told apart.",
        )
    for dataset, group in runs.groupby("dataset", sort=False):
        shown, equal = costs_of(group)
        same = f" Equal for all, and not drawn: {', '.join(equal)}." if equal else ""
        front = "The line joins those that no cheaper one beats. " if len(styles) > 2 else ""
        if shown:
            yield (
                f"{dataset}-costs",
                draw_costs(group, styles, shown),
                f"{dataset}. {part.capitalize()} accuracy against what it costs: mean and standard deviation over "
                f"seeds. {front}Open marks are CNNs.{same}",
            )
        yield (
            f"{dataset}-curves",
            draw_curves(group, styles),
            f"{dataset}. Validation accuracy by epoch and by time, and training loss by time: mean over seeds, and "
            "from the lowest to the highest of them. Dashed lines are CNNs.",
        )
        if "confusion" in runs:
            yield (
                f"{dataset}-classes",
                draw_classes(group, styles, classes[str(dataset)]),
                f"{dataset}. Recall of each class: the share of its test images that is right, mean over seeds.",
            )


def costs_of(runs: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The costs in which entries differ, and the names of those in which all are equal."""
    grouped = runs.groupby("entry", sort=False)
    medians = {cost: grouped[cost].median() for cost in COSTS if cost in runs}
    ends = {cost: (found.min(), found.max()) for cost, found in medians.items()}
    equal = [cost for cost, (low, high) in ends.items() if low == high or (low > 0 and is_same(high / low))]
    return [cost for cost in medians if cost not in equal], [COSTS[cost] for cost in equal]


def draw_differences(pairs: list[Pair], plain: set[str]) -> Figure:
    """A row for each pair, as listed from above: its difference in points, the interval, and what it costs."""
    are_kans_and_cnns = all(pair.first not in plain and pair.second in plain for pair in pairs)
    left, right = ("CNN", "KAN") if are_kans_and_cnns else ("second", "first")
    figure = new_figure((WIDTH, 1.3 + 0.4 * len(pairs)), dpi=110)
    axis = figure.subplots()
    several = len({pair.dataset for pair in pairs}) > 1
    labels = []
    for row, pair in enumerate(pairs):
        found, color = pair.difference, WINNERS[pair.verdict]
        axis.plot([100 * found.low, 100 * found.high], [row, row], color=color, linewidth=2, solid_capstyle="butt")
        filling = "white" if pair.verdict == "neither" else color
        axis.plot(100 * found.mean, row, "o", color=color, markerfacecolor=filling, markersize=8)
        names = f"{style.label(pair.first)} − {style.label(pair.second)}"
        labels.append(f"{style.label(pair.dataset)}: {names}" if several else names)
    axis.axvline(0, color="black", linewidth=1)
    widest = max(100 * max(abs(pair.difference.low), abs(pair.difference.high)) for pair in pairs)
    reach = 1.1 * max(widest, LEAST_REACH)
    axis.set_xlim(-reach, reach)  # losses as visible as wins
    axis.set_ylim(len(pairs) - 0.5, -0.5)
    axis.set_yticks(range(len(pairs)), labels)
    sides = axis.secondary_yaxis("right")
    sides.set_yticks(range(len(pairs)), [", ".join(pair.unequal()) or "equal costs" for pair in pairs], fontsize=8)
    axis.set_xlabel("difference in accuracy, points")
    for place, side, text in ((0, "left", f"← {left} more accurate"), (1, "right", f"{right} more accurate →")):
        axis.text(place, 1.01, text, transform=axis.transAxes, ha=side, va="bottom")
    axis.grid(axis="x", alpha=0.3)
    return figure


def draw_costs(runs: pd.DataFrame, styles: Styles, costs: list[str]) -> Figure:
    """Accuracy against each cost."""
    rows = -(-len(costs) // 2)
    figure = _new_figure(4.4 * rows, WIDTH if len(costs) > 1 else 0.6 * WIDTH)
    axes = figure.subplots(rows, min(2, len(costs)), sharey=True, squeeze=False)
    grouped = runs.groupby("entry", sort=False)
    accuracy = 100 * grouped["accuracy"].mean()
    spread = 100 * grouped["accuracy"].std().fillna(0)
    for axis, cost in zip(axes.flat, costs, strict=False):
        medians = grouped[cost].median()
        for entry in accuracy.index:
            look = styles[entry].points
            axis.errorbar(medians[entry], accuracy[entry], yerr=spread[entry], capsize=3, label=entry, **look)
        front = pareto_front(medians.tolist(), accuracy.tolist())
        if len(medians) > 2:
            axis.plot(medians.iloc[front], accuracy.iloc[front], color=GREY, linewidth=1, zorder=0)
        if medians.max() > DECADE * medians.min():
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
        else:
            axis.set_xlim(0, 1.08 * medians.max())  # from nothing, so that twice as much looks so
            axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(EngFormatter(unit=UNITS.get(cost, "")))
        axis.set_xlabel(COSTS[cost])
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(costs) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy, %")
    _legend(figure, axes[0, 0])
    return figure


def draw_curves(runs: pd.DataFrame, styles: Styles) -> Figure:
    """Learning curves of the entries best on validation, with bands over seeds."""
    figure = _new_figure(4.4)
    axes = figure.subplots(1, 3)
    for entry in _most_accurate(runs):
        group = runs[runs["entry"] == entry]
        histories = pd.concat([pd.DataFrame(history) for history in group["history"]]).groupby("epoch")
        seconds = histories["epoch_seconds"].mean().cumsum()
        seconds = seconds * (group["training_seconds"].median() / seconds.iloc[-1])
        look = styles[entry].line | {"markevery": max(1, len(seconds) // 10)}
        for axis, figures, unit, x in (
            (axes[0], histories["val_accuracy"], 100, seconds.index),
            (axes[1], histories["val_accuracy"], 100, seconds),
            (axes[2], histories["train_loss"], 1, seconds),
        ):
            axis.plot(x, unit * figures.mean(), label=entry, **look)
            low, high = unit * figures.min(), unit * figures.max()
            axis.fill_between(x, low, high, color=styles[entry].color, alpha=0.15, linewidth=0)
    axes[0].set_ylabel("validation accuracy, %")
    axes[1].sharey(axes[0])
    axes[2].set_ylabel("training loss")
    axes[2].set_yscale("log")
    axes[0].set_xlabel("epoch")
    axes[0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axis in axes[1:]:
        axis.set_xlabel("training time")
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(EngFormatter(unit="s"))
    for axis in axes:
        axis.grid(alpha=0.3)
    _legend(figure, axes[0])
    return figure


def draw_classes(runs: pd.DataFrame, styles: Styles, classes: list[str]) -> Figure:
    """Recall of each class by the entries best on validation."""
    figure = _new_figure(4.8)
    axis = figure.subplots()
    entries = _most_accurate(runs)
    for index, entry in enumerate(entries):
        matrices = np.stack([np.array(matrix) for matrix in runs[runs["entry"] == entry]["confusion"]])
        counts = matrices.sum(axis=2)
        shares = 100 * np.diagonal(matrices, axis1=1, axis2=2) / np.where(counts, counts, np.nan)
        places = np.arange(shares.shape[1]) + 0.6 * (index - (len(entries) - 1) / 2) / len(entries)
        axis.plot(places, shares.mean(axis=0), label=entry, **styles[entry].points)
    axis.set_xticks(range(len(classes)), map(style.label, classes), rotation=30, ha="right")
    axis.set_xlim(-0.5, len(classes) - 0.5)
    for boundary in range(1, len(classes)):
        axis.axvline(boundary - 0.5, color=GREY, linewidth=0.5, alpha=0.5)
    axis.set_ylabel("right, %")
    axis.grid(axis="y", alpha=0.3)
    _legend(figure, axis)
    return figure


def _new_figure(height: float, width: float = WIDTH) -> Figure:
    return new_figure((width, height), layout=None, dpi=110)


def _most_accurate(runs: pd.DataFrame) -> list[str]:
    """The entries best on validation, as many as a picture bears, in the suite's order."""
    means = runs.groupby("entry", sort=False)["val_accuracy"].mean()
    best = set(means.nlargest(MOST_CURVES).index)
    return [entry for entry in means.index if entry in best]


def _legend(figure: Figure, axis: Axes) -> None:
    handles, entries = axis.get_legend_handles_labels()
    labels = [style.plain(entry) for entry in entries]
    columns = min(4 if figure.get_figwidth() >= WIDTH else 2, len(labels))
    lines = -(-len(labels) // columns)
    height = 0.22 * lines / figure.get_figheight()
    figure.tight_layout(rect=(0, 0, 1, 1 - height - 0.02))
    figure.legend(handles, labels, loc="upper center", ncols=columns, fontsize=9, frameon=False)
