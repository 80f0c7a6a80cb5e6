"""What a comparison's record says, in words."""

from typing import Any

import pandas as pd

from experiments.compare.advice import FEW, advice_of
from experiments.compare.pairs import SAME, Pair, compare_pairs
from experiments.compare.suite import Suite, suite_of
from experiments.compare.tables import runs_of, summarize

LONGEST_LIST = 4  # of what KANs win


def verdict(record: dict[str, Any]) -> list[str]:
    """What a reader should take away from a comparison, line by line."""
    suite, runs = suite_of(record), runs_of(record)
    return verdict_of(suite, runs, summarize(suite, runs), compare_pairs(suite, runs))


def verdict_of(suite: Suite, runs: pd.DataFrame, rows: pd.DataFrame, pairs: list[Pair]) -> list[str]:
    """What a reader should take away: what to do, then losses of KANs first."""
    lines = advice_of(suite, runs, pairs)
    decided = [pair for pair in pairs if pair.p is not None]
    against_cnns = [pair.first not in suite.plain and pair.second in suite.plain for pair in decided]
    others = [pair.sentence() for pair, counts in zip(decided, against_cnns, strict=True) if not counts]
    undecided = [pair.sentence() for pair in pairs if pair.p is None]
    pairs = [pair for pair, counts in zip(decided, against_cnns, strict=True) if counts]
    for winner, text in (
        ("second", "The CNN wins {count} of {total} comparisons: {names}."),
        ("neither", "{count} of {total} cannot be told apart: {names}."),
        ("first", "The KAN wins {count} of {total}: {names}."),
    ):
        found = [pair for pair in pairs if pair.verdict == winner]
        if found:
            names = [
                f"{pair.first} against {pair.second} on {pair.dataset} "
                f"({', '.join([f'{100 * pair.difference.mean:+.2f} points', *_costs(pair)])})"
                for pair in found
            ]
            if winner == "first" and len(names) > LONGEST_LIST:  # what KANs do not win is told in full
                names[LONGEST_LIST - 1 :] = [f"and {len(names) - LONGEST_LIST + 1} others"]
            lines.append(text.format(count=len(found), total=len(pairs), names="; ".join(names)))
        if winner == "second":
            lines += sizes_of(runs, pairs, suite.plain)
    lines += [*others, *undecided, *power_of(decided, runs)]
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
    if fewest < FEW:
        lines.append(f"Only {fewest} seed{'s' if fewest > 1 else ''} for some entries: take differences with care.")
    return lines


def _costs(pair: Pair) -> list[str]:
    return ([f"at equal {' and '.join(pair.equal())}"] if pair.equal() else []) + pair.unequal()


def power_of(pairs: list[Pair], runs: pd.DataFrame) -> list[str]:
    """How small a difference could have been found, on each data set."""
    lines = []
    for dataset in dict.fromkeys(pair.dataset for pair in pairs):
        found = [pair for pair in pairs if pair.dataset == dataset]
        points = sorted(100 * pair.difference.detectable for pair in found if pair.difference.detectable is not None)
        if not points:
            continue
        seeds = sorted({pair.seeds for pair in found})
        ends = list(dict.fromkeys(f"{end:.2f}" for end in (points[0], points[-1])))
        lines.append(
            f"On {dataset}, {' or '.join(map(str, seeds))} seeds find a difference of {' to '.join(ends)} points four "
            "times in five; a smaller one may be there and not be seen."
        )
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
        if not ratios or max(*ratios, *(1 / ratio for ratio in ratios)) < 1 + SAME:
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
            over = [p for p in pairs if p.dataset == dataset and p.second in short and p.verdict == "first"]
            if over:
                lines.append(
                    f"On {dataset}, {len(over)} of the wins are over CNNs short of their published accuracy, which a "
                    "better recipe might make smaller."
                )
    return lines
