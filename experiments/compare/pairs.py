"""Two entries beside each other: which is more accurate, whether that is chance, and what both cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from experiments.common.records import unpacked
from experiments.common.statistics import LEVEL, Difference, Winner, compare, holm, winner
from experiments.compare.suite import Suite

SAME = 0.1  # costs that differ by less are called equal
NAMES = {"parameters": "parameters", "multiply_adds": "multiply-adds", "training_seconds": "training time"}
LEAST_TOLD = 1e-3  # a smaller p is told as being so


@dataclass(frozen=True)
class Pair:
    """A model and the one it is held against, mostly a KAN and a CNN, on one data set.

    Attributes:
        dataset: The data set.
        first: Name of an entry.
        second: Name of the one that it is held against.
        seeds: Runs of the one that has fewer.
        difference: Of their accuracies.
        p: The p-value of the difference, corrected for the number of pairs; None from one seed.
        pairs: How many pairs it is corrected for.
        ratios: For each cost by its column, the first's as a multiple of the second's.
    """

    dataset: str
    first: str
    second: str
    seeds: int
    difference: Difference
    p: float | None = None
    pairs: int = 1
    ratios: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Winner:
        """Who is better, if that is hardly chance, all pairs considered."""
        return winner(self.difference.mean, self.p)

    def equal(self) -> list[str]:
        """The names of the costs in which both are equal."""
        return [NAMES[cost] for cost, ratio in self.ratios.items() if is_same(ratio)]

    def unequal(self) -> list[str]:
        """In words, the costs in which they are not."""
        return [
            f"{ratio:.1f} times the {NAMES[cost]}" if ratio >= 0.95 else f"{ratio:.2f} times the {NAMES[cost]}"
            for cost, ratio in self.ratios.items()
            if not is_same(ratio)
        ]

    def conditions(self) -> str:
        """What was equal, and what was not."""
        equal = f"at equal {' and '.join(self.equal())}" if self.equal() else ""
        unequal = f"{self.first} with {' and '.join(self.unequal())}" if self.unequal() else ""
        return ", ".join(part for part in (equal, unequal) if part)

    def evidence(self) -> str:
        """The interval, and how likely chance is."""
        d = self.difference
        interval = f"95 % interval {100 * d.low:+.2f} to {100 * d.high:+.2f}"
        if d.p is None or self.p is None:
            return f"{interval} over images alone"
        corrected = f", with {self.pairs} pairs {_p(self.p)}" if self.pairs > 1 else ""
        return f"{interval}, p {_p(d.p)}{corrected}"

    def sentence(self) -> str:
        """The comparison in words."""
        points = f"{abs(100 * self.difference.mean):.2f} points"
        where = ", ".join(filter(None, [f"On {self.dataset}", self.conditions()]))
        if self.p is None:
            ahead = f"{100 * self.difference.mean:+.2f} points"
            return f"{where}: {self.first} − {self.second} {ahead}; one seed decides nothing ({self.evidence()})."
        match self.verdict:
            case "first":
                return f"{where}: **{self.first} beats {self.second}** by {points} ({self.evidence()})."
            case "second":
                return f"{where}: **{self.second} beats {self.first}** by {points} ({self.evidence()})."
        ahead = self.first if self.difference.mean > 0 else self.second
        even = not round(100 * self.difference.mean, 2)
        found = "both are as accurate" if even else f"{ahead} is {points} ahead, within chance"
        return f"{where}: {self.first} and {self.second} cannot be told apart: {found} ({self.evidence()})."


def is_same(ratio: float) -> bool:
    """Whether costs of this ratio are called equal."""
    return max(ratio, 1 / ratio) < 1 + SAME


def compare_pairs(suite: Suite, runs: pd.DataFrame) -> list[Pair]:
    """Each pair on each data set where answers to single images are known; what the first loses comes first."""
    chosen = [
        (dataset, entry.name, rival.name, group)
        for dataset in suite.datasets
        for entry, rival in suite.pairs()
        if has_answers(group := runs[runs["dataset"] == dataset], (entry.name, rival.name), suite.judged_on)
    ]
    also = ["multiply_adds"] if suite.match and suite.match.size == "multiply_adds" else []
    # Holm's strictest step is that of the smallest p.
    level = LEVEL / max(1, len(chosen))
    found = [pair_of(*names, suite.judged_on, level, also) for names in chosen]
    pairs = [pair for pair in found if pair is not None]
    corrected = holm([pair.p for pair in pairs])
    pairs = [replace(pair, p=p, pairs=len(pairs)) for pair, p in zip(pairs, corrected, strict=True)]
    order = ("second", "neither", "first")
    return sorted(
        pairs,
        key=lambda pair: (suite.datasets.index(pair.dataset), order.index(pair.verdict), pair.difference.mean),
    )


def pair_of(
    dataset: str,
    first: str,
    second: str,
    runs: pd.DataFrame,
    part: str,
    level: float = LEVEL,
    also: Sequence[str] = (),
) -> Pair | None:
    """Two entries beside each other, by themselves; None where answers to single images are not known.

    Args:
        dataset: On this data set.
        first: Name of one entry.
        second: Name of the other.
        runs: The runs on the data set.
        part: "test" or "val".
        level: At which the smallest detectable difference is told.
        also: Costs to compare, besides parameters and training time.
    """
    if not has_answers(runs, (first, second), part):
        return None
    sides = [runs[runs["entry"] == name] for name in (first, second)]
    answers = [correct_answers(side, part) for side in sides]
    difference = compare(answers[0], answers[1], level)
    ratios = cost_ratios(sides[0], sides[1], also)
    return Pair(dataset, first, second, min(map(len, answers)), difference, difference.p, 1, ratios)


def has_answers(runs: pd.DataFrame, entries: Sequence[str], part: str) -> bool:
    """Whether it is known of all runs of these entries which images they got right."""
    if f"{part}_correct" not in runs:
        return False
    known = [runs.loc[runs["entry"] == entry, f"{part}_correct"] for entry in entries]
    return all(len(answers) > 0 and answers.notna().all() for answers in known)


def cost_ratios(first: pd.DataFrame, second: pd.DataFrame, also: Sequence[str] = ()) -> dict[str, float]:
    """Costs of an entry's runs as multiples of another's, medians over seeds."""
    costs = [cost for cost in ("parameters", *also, "training_seconds") if cost in first and cost in second]
    medians = {cost: (float(first[cost].median()), float(second[cost].median())) for cost in costs}
    return {cost: one / other for cost, (one, other) in medians.items() if one > 0 and other > 0}


def correct_answers(group: pd.DataFrame, part: str = "test") -> np.ndarray:
    """Whether each image of a part was right, for each of an entry's runs: (seeds, images)."""
    run: dict[str, Any] = group.iloc[0].to_dict()
    count = int(np.sum(run["confusion"])) if part == "test" else int(run["val_images"])
    return np.stack([unpacked(text, count) for text in group[f"{part}_correct"]])


def _p(value: float) -> str:
    return f"below {LEAST_TOLD}" if value < LEAST_TOLD else f"{value:.2g}"
