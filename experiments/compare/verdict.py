"""What a comparison's record says, in words."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.common.records import unpacked
from experiments.common.statistics import Difference, paired_bootstrap
from experiments.compare.suite import Suite, suite_of
from experiments.compare.tables import median_seconds, runs_of, summarize

SAME_SIZE = 0.1  # sizes that differ by less are called equal
LONGEST_LIST = 4  # of what KANs win


@dataclass(frozen=True)
class Pair:
    """A KAN and the CNN it is held against, on one data set."""

    dataset: str
    first: str
    second: str
    seeds: int
    difference: Difference

    def sentence(self) -> str:
        """The comparison in words."""
        d = self.difference
        points = f"{abs(100 * d.mean):.2f} points"
        interval = f"95 % interval {100 * d.low:+.2f} to {100 * d.high:+.2f}"
        match d.verdict:
            case "first":
                return f"On {self.dataset}, **{self.first} beats {self.second}** by {points} ({interval})."
            case "second":
                return f"On {self.dataset}, **{self.second} beats {self.first}** by {points} ({interval})."
        ahead = self.first if d.mean > 0 else self.second
        found = f"{ahead} is {points} ahead, within chance" if round(100 * d.mean, 2) else "both are as accurate"
        return f"On {self.dataset}, {self.first} and {self.second} cannot be told apart: {found} ({interval})."


def verdict(record: dict[str, Any]) -> list[str]:
    """What a reader should take away from a comparison, line by line."""
    suite, runs = suite_of(record), runs_of(record)
    return verdict_of(suite, runs, summarize(suite, runs), compare_pairs(suite, runs))


def compare_pairs(suite: Suite, runs: pd.DataFrame) -> list[Pair]:
    """The paired bootstrap of each pair on each data set where both have runs."""
    pairs = []
    for dataset in suite.datasets:
        correct = {
            entry: correct_answers(group)
            for entry, group in runs[runs["dataset"] == dataset].groupby("entry", sort=False)
            if "test_correct" in group and group["test_correct"].notna().all()
        }
        for entry, rival in suite.pairs():
            if entry.name in correct and rival.name in correct:
                first, second = correct[entry.name], correct[rival.name]
                difference = paired_bootstrap(first, second)
                pairs.append(Pair(dataset, entry.name, rival.name, min(len(first), len(second)), difference))
    return pairs


def verdict_of(suite: Suite, runs: pd.DataFrame, rows: pd.DataFrame, pairs: list[Pair]) -> list[str]:
    """What a reader should take away, losses of KANs first."""
    against_cnns = [pair.first not in suite.plain and pair.second in suite.plain for pair in pairs]
    lines = [pair.sentence() for pair, counts in zip(pairs, against_cnns, strict=True) if not counts]
    pairs = [pair for pair, counts in zip(pairs, against_cnns, strict=True) if counts]
    seconds = {name: median_seconds(group) for name, group in runs.groupby(["dataset", "entry"])}
    for winner, text in (
        ("second", "The CNN wins {count} of {total} comparisons: {names}."),
        ("neither", "{count} of {total} cannot be told apart: {names}."),
        ("first", "The KAN wins {count} of {total}: {names}."),
    ):
        found = [pair for pair in pairs if pair.difference.verdict == winner]
        if found:
            names = [
                f"{pair.first} against {pair.second} on {pair.dataset} ({100 * pair.difference.mean:+.2f} points, "
                f"{seconds[pair.dataset, pair.first] / seconds[pair.dataset, pair.second]:.1f} times the time an epoch)"
                for pair in found
            ]
            if winner == "first" and len(names) > LONGEST_LIST:  # what KANs do not win is told in full
                names[LONGEST_LIST - 1 :] = [f"and {len(names) - LONGEST_LIST + 1} others"]
            lines.append(text.format(count=len(found), total=len(pairs), names="; ".join(names)))
        if winner == "second":
            lines += sizes_of(runs, pairs, suite.plain)
    lines += published_of(suite, runs, pairs)
    where = "test" if suite.judged_on == "test" else "validation"
    for dataset, group in runs.groupby("dataset", sort=False):
        means = group.groupby("entry", sort=False)[["val_accuracy", "accuracy"]].mean()
        best = means["val_accuracy"].idxmax()
        [cost] = rows.loc[(rows["data"] == dataset) & (rows["entry"] == best), "s/epoch"]
        lines.append(
            f"On {dataset}, validation favours {best}: {100 * means.loc[best, 'accuracy']:.2f} % on the {where} set, "
            f"{cost} s an epoch."
        )
    fewest = int(rows["seeds"].min())
    if fewest < 3:
        lines.append(f"Only {fewest} seed{'s' if fewest > 1 else ''} for some entries: take differences with care.")
    return lines


def sizes_of(runs: pd.DataFrame, pairs: list[Pair], plain: set[str]) -> list[str]:
    """Where pairs do not have equally many parameters: how many, and which KANs a CNN of no more equals."""
    lines = []
    for dataset, group in runs.groupby("dataset", sort=False):
        means = group.groupby("entry", sort=False)[["parameters", "accuracy"]].mean()
        ratios = [
            means.loc[pair.first, "parameters"] / means.loc[pair.second, "parameters"]
            for pair in pairs
            if pair.dataset == dataset
        ]
        if not ratios or max(*ratios, *(1 / ratio for ratio in ratios)) < 1 + SAME_SIZE:
            continue
        cnns, kans = means[means.index.isin(plain)], means[~means.index.isin(plain)]
        rivals = [
            cnns[(cnns["parameters"] <= size) & (cnns["accuracy"] >= accuracy)] for size, accuracy in kans.to_numpy()
        ]
        better = [found["accuracy"].idxmax() for found in rivals if len(found)]
        named = "; ".join(
            f"{name}, {cnns.loc[name, 'parameters']:,.0f} parameters, {100 * cnns.loc[name, 'accuracy']:.2f} %"
            for name in dict.fromkeys(better)
        )
        lines.append(
            f"On {dataset}, pairs do not have equally many parameters: KANs have {min(ratios):.1f} to "
            f"{max(ratios):.1f} times those of their CNNs. {len(better)} of {len(kans)} KANs are equalled or beaten "
            f"by a CNN of no more parameters{f' ({named})' if named else ''}."
        )
    return lines


def published_of(suite: Suite, runs: pd.DataFrame, pairs: list[Pair]) -> list[str]:
    """How many entries reach the accuracy published for them, which do not, and which wins over those to distrust."""
    if suite.judged_on != "test":
        return []
    published = {entry.name: entry.published.get("accuracy") for entry in suite.entries}
    lines = []
    for dataset, group in runs.groupby("dataset", sort=False):
        means = 100 * group.groupby("entry", sort=False)["accuracy"].mean()
        gains = {name: round(mean - published[name], 2) for name, mean in means.items() if published[name] is not None}
        if gains:
            short = {name: gain for name, gain in gains.items() if gain < 0}
            line = f"On {dataset}, {len(gains) - len(short)} of {len(gains)} reach the accuracy published for them"
            if short:
                line += "; short of it: " + ", ".join(f"{name} ({gain:+.2f} points)" for name, gain in short.items())
            lines.append(f"{line}.")
            over = [p for p in pairs if p.dataset == dataset and p.second in short and p.difference.verdict == "first"]
            if over:
                lines.append(
                    f"On {dataset}, {len(over)} of the wins are over CNNs short of their published accuracy, which a "
                    "better recipe might make smaller."
                )
    return lines


def correct_answers(group: pd.DataFrame) -> np.ndarray:
    """Whether each test image was right, for each of an entry's runs: (seeds, images)."""
    count = int(np.sum(group["confusion"].iloc[0]))
    return np.stack([unpacked(text, count) for text in group["test_correct"]])
