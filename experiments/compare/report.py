"""From the record of a comparison to a report that says who won."""

import base64
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

from convkan.training import write_text
from experiments.common.pages import render
from experiments.compare import figures
from experiments.compare.exports import csv_of, latex_of
from experiments.compare.pairs import compare_pairs
from experiments.compare.suite import Suite, suite_of
from experiments.compare.tables import Table, entry_rows, runs_of, search_rows, summarize
from experiments.compare.timing import StepTimes
from experiments.compare.verdict import verdict_of


def write_report(record: dict[str, Any], folder: Path) -> list[str]:
    """Write ``report.md``, ``report.html``, the figures, ``results.csv`` and ``results.tex`` into ``folder``.

    Args:
        record: What ``experiments.compare`` gathered.
        folder: Where to.

    Returns:
        The verdict, line by line.
    """
    suite, runs = suite_of(record), runs_of(record)
    drawn = figures.draw_all(suite, runs, compare_pairs(suite, runs), record["classes"], folder)
    context = context_of(record)
    for template, place in (("report.md.j2", lambda path: path.name), ("report.html.j2", _inlined)):
        shown = [{"source": place(path), "caption": caption} for path, caption in drawn]
        write_text(folder / template.removesuffix(".j2"), render(template, context | {"figures": shown}))
    write_text(folder / "results.csv", csv_of(record))
    write_text(folder / "results.tex", latex_of(record))
    verdict: list[str] = context["verdict"]
    return verdict


def context_of(record: dict[str, Any]) -> dict[str, Any]:
    """What the templates of a report fill in, but for its figures."""
    suite, runs = suite_of(record), runs_of(record)
    rows = summarize(suite, runs)
    pairs = compare_pairs(suite, runs)
    return {
        "title": suite.title,
        "verdict": verdict_of(suite, runs, rows, pairs),
        "tables": {name: Table.of(part) for name, part in rows.groupby("data", sort=False)},
        "pairs": [pair.sentence() for pair in pairs],
        "entries": entry_rows(suite),
        "searches": search_rows(record),
        "protocol": protocol_of(suite, record["runs"], record.get("timings", [])),
    }


def protocol_of(suite: Suite, runs: list[dict[str, Any]], timings: list[dict[str, Any]]) -> list[str]:
    """How the figures came about."""
    seeds = sorted({run["seed"] for run in runs})
    touched = "was touched once for each final run" if suite.judged_on == "test" else "was not touched"
    lines = [
        f"Seeds {', '.join(map(str, seeds))}; the validation split chose the epoch, the test set {touched}.",
        "Common to all: " + ", ".join(f"{key} {value}" for key, value in suite.recipe.items()) + ".",
    ]
    if suite.match and suite.match.size:
        lines.append(f"Widths chosen for {suite.match.target:,} {suite.match.size.replace('_', ' ')}.")
    lines += equal_times_of(timings, runs)
    if suite.search:
        search = suite.search
        by = "" if all(suite.chosen_by(entry) == "val_accuracy" for entry in suite.entries) else "by balanced accuracy "
        lines.append(
            f"Hyper-parameters: {search.trials} trials for each entry and data set, {search.epochs} epochs on "
            f"{search.train_fraction:.0%} of the training part, the best on validation {by}taken; "
            f"space: {', '.join(search.space)}."
        )
    lines.append(
        "± is the standard deviation over seeds. Balanced accuracy, the mean of the classes' recalls, is told where it "
        "differs from accuracy; winners are those in accuracy. Intervals are over seeds, with Student's t, and over "
        "the images that both sides answered; p-values are corrected for the number of pairs after Holm, and a winner "
        "is named at 5 %. Costs within 10 % are called equal; training time is that of all epochs. Seconds are medians "
        "over epochs, with the first and the last grid where grids grow. Memory is what a training step keeps from its "
        "forward pass for its backward pass, weights aside."
    )
    device = ", ".join(sorted({run["device"] for run in runs}))
    threads = ", ".join(sorted({str(run["threads"]) for run in runs}))
    commits = ", ".join(sorted({str(run["git_commit"])[:12] for run in runs}))
    lines.append(f"On {device}, {threads} thread(s) a run; commit {commits}.")
    return lines


def equal_times_of(timings: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[str]:
    """How epochs were chosen for equal times, how long the runs took, and what there is to doubt about it."""
    lines = []
    for dataset in dict.fromkeys(found["dataset"] for found in timings):
        rows = [found for found in timings if found["dataset"] == dataset]
        listed = "; ".join(
            f"{row['entry']} {row['epochs']} epochs of {row['steps_per_epoch']:,} steps of "
            f"{row['step_milliseconds']:.3g} ms, {row['seconds']:.3g} s"
            for row in rows
        )
        spread = max(row["spread"] for row in rows)
        lines.append(
            f"Epochs on {dataset} chosen for equal training times, by steps timed in turn before the runs (medians of "
            f"{len(rows[0]['rounds'])} rounds, which differ by up to {spread:.0%}): {listed}. "
            "Fractions of an epoch are rounded up for CNNs and down for KANs; schedules end with the last epoch."
        )
        took = ", ".join(f"{row['entry']} {_took(runs, dataset, row['entry']):.3g} s" for row in rows)
        lines.append(f"On {dataset}, the epochs of a run themselves took, in the median of seeds: {took}.")
        for row in rows:
            times = StepTimes(row["rounds"], row["steps_per_epoch"], row["others"], row["device"])
            lines += times.doubts(f"{row['entry']} on {dataset}")
    return lines


def _took(runs: list[dict[str, Any]], dataset: str, entry: str) -> float:
    """Seconds of a run's epochs, the median over seeds."""
    chosen = [run for run in runs if (run["dataset"], run["entry"]) == (dataset, entry)]
    return median([sum(run["history"]["epoch_seconds"]) for run in chosen] or [nan])


def _inlined(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
