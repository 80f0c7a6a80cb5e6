"""The best CNN beside the best KAN of each comparison, in one table."""

from typing import Any

import pandas as pd

from experiments.common.statistics import choices, compare, winner
from experiments.compare.pairs import correct_answers, cost_ratios
from experiments.compare.suite import suite_of
from experiments.compare.tables import Table, runs_of

LEADERS = {"first": "**KAN**", "second": "**CNN**", "neither": "neither"}


def scoreboard(records: dict[str, dict[str, Any]]) -> str:
    """A row for each comparison and data set, the CNN's wins first; below it, what it leaves out.

    The best of each side is the one with the highest mean validation accuracy, so that the test set chooses nothing.

    Args:
        records: By what to call a comparison (a link, as it may be), its record.
    """
    rows: list[tuple[float, dict[str, str]]] = []
    without_cnn = []
    for name, record in records.items():
        suite = suite_of(record)
        for dataset, runs in runs_of(record).groupby("dataset", sort=False):
            cnns, kans = runs[runs["entry"].isin(suite.plain)], runs[~runs["entry"].isin(suite.plain)]
            if len(cnns) and len(kans):
                rows.append(_row(name, str(dataset), suite.judged_on, cnns, kans))
            else:
                without_cnn.append(name)
    if not rows:
        return "No record yet."
    rows.sort(key=lambda row: row[0])
    lines = Table.of(pd.DataFrame([row for _, row in rows])).markdown()
    lines += [
        "",
        "The best of each side is chosen by validation; in brackets the 95 % interval over seeds and images, for each "
        "row by itself. Who leads is told where that is hardly chance, nor the luck of the best of so many.",
    ]
    if without_cnn:
        lines[-1] += f" Without a CNN: {', '.join(without_cnn)}."
    return "\n".join(lines)


def _row(name: str, dataset: str, part: str, cnns: pd.DataFrame, kans: pd.DataFrame) -> tuple[float, dict[str, str]]:
    """The difference in points, by which rows are sorted, and a row of text."""
    cnn, kan = _best(cnns), _best(kans)
    points = 100 * (kan["accuracy"].mean() - cnn["accuracy"].mean())
    interval, leader = "on the validation part", "not tested"
    if part == "test":
        found = compare(correct_answers(kan), correct_answers(cnn))
        interval = f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
        leader = "one seed"
        if found.p is not None:  # the runs by which the best were chosen are those that are compared
            count = choices(cnns["entry"].nunique(), kans["entry"].nunique())
            leader = LEADERS[winner(found.mean, found.p * count)]
    return points, {
        "comparison": name,
        "data": dataset,
        "best CNN": _cell(cnn, cnns),
        "best KAN": _cell(kan, kans),
        "KAN − CNN, points": f"{points:+.2f} {interval}",
        "training time, KAN / CNN": f"{cost_ratios(kan, cnn)['training_seconds']:.1f}",
        "leads": leader,
    }


def _best(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the entry with the best validation accuracy."""
    return runs[runs["entry"] == runs.groupby("entry", sort=False)["val_accuracy"].mean().idxmax()]


def _cell(runs: pd.DataFrame, rivals: pd.DataFrame) -> str:
    """Accuracy, name and size, and of how many it is the best."""
    count = rivals["entry"].nunique()
    chosen = f" (best of {count})" if count > 1 else ""
    accuracy, parameters = 100 * runs["accuracy"].mean(), runs["parameters"].median()
    return f"{accuracy:.2f} %: {runs['entry'].iloc[0]}{chosen}, {parameters:,.0f} parameters"
