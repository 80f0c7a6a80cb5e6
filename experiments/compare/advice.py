"""What to do, by what a comparison found: a sentence for each data set."""

from dataclasses import replace

import pandas as pd

from experiments.common.statistics import LEVEL, choices
from experiments.compare.pairs import Pair, cost_ratios, is_same, pair_of
from experiments.compare.suite import Suite

FEW = 3  # seeds, fewer than which tell little


def advice_of(suite: Suite, runs: pd.DataFrame, pairs: list[Pair]) -> list[str]:
    """For each data set on which a KAN and a CNN were trained, which to take: the best of each side by validation.

    Where they are no pair of the suite's, their p-value is corrected for the choice among all, and for data sets.

    Args:
        suite: The comparison.
        runs: Its runs.
        pairs: What was found of its pairs.
    """
    lines = []
    for dataset, group in runs.groupby("dataset", sort=False):
        means = group.groupby("entry", sort=False)["val_accuracy"].mean()
        kans, cnns = means[~means.index.isin(suite.plain)], means[means.index.isin(suite.plain)]
        if len(kans) and len(cnns):
            kan, cnn = str(kans.idxmax()), str(cnns.idxmax())
            pair = next((p for p in pairs if (p.dataset, p.first, p.second) == (dataset, kan, cnn)), None)
            count = choices(len(kans), len(cnns)) * runs["dataset"].nunique()
            if pair is None and (found := pair_of(str(dataset), kan, cnn, group, suite.judged_on, LEVEL / count)):
                pair = replace(found, p=None if found.p is None else min(1.0, found.p * count))
            lines.append(f"To act on it: on {dataset}, {_choice(kan, cnn, pair, group)}")
    return lines


def _choice(kan: str, cnn: str, pair: Pair | None, runs: pd.DataFrame) -> str:
    sides = [runs[runs["entry"] == name] for name in (kan, cnn)]
    times = cost_ratios(sides[0], sides[1]).get("training_seconds", 1.0)
    slower, faster = (not is_same(times) and cost > 1 for cost in (times, 1 / times))
    price = (
        f"{times:.{1 if times > 1 else 2}f} times the training time" if not is_same(times) else "equal training time"
    )
    if pair is None:
        return (
            f"take {cnn} until there is more: of it and {kan}, the best by validation, the record has no answers to "
            "single images by which to tell them apart."
        )
    if pair.p is None or pair.difference.detectable is None:
        return f"one seed decides nothing between {kan} and {cnn}: run at least {FEW}."
    if pair.verdict == "second":
        return f"take {cnn}: it is more accurate than {kan}, the best KAN, which takes {price}."
    if pair.verdict == "neither":
        seen = f"{100 * pair.difference.detectable:.2f} points"
        if pair.seeds < FEW:
            found = f"{pair.seeds} seeds find no difference between {kan} and {cnn}"
            return f"{found} (one of {seen} would be seen): run more."
        if slower:
            return (
                f"take {cnn}: {kan}, the best KAN, takes {price}, and no gain was found (one of {seen} would be seen)."
            )
        if faster:
            return f"take {kan}: it takes {price} of {cnn}, and no loss was found (one of {seen} would be seen)."
        return f"take either: {kan} and {cnn} are as accurate as can be told (a difference of {seen} would be seen)."
    gain = f"{100 * pair.difference.mean:.2f} points more than {cnn}"
    if slower:
        return (
            f"take {kan} if {gain} are worth {price}; whether {cnn} does as well in that time is for a suite with "
            "match by time to say."
        )
    return f"take {kan}: {gain}, at {price}."
