"""From the record of a comparison to a report that says who won."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Template

from convkan.models import twin
from convkan.training import write_atomically
from experiments.compare import figures
from experiments.compare.statistics import Difference, paired_bootstrap
from experiments.compare.templates import HTML, MARKDOWN
from experiments.records import unpacked

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
        return (
            f"On {self.dataset}, {self.first} and {self.second} cannot be told apart: {ahead} is {points} ahead, "
            f"within chance ({interval})."
        )


@dataclass(frozen=True)
class Table:
    """Cells as text, with the names of columns."""

    columns: list[str]
    rows: list[list[str]]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Table":
        """A frame as text, without columns that are empty throughout."""
        kept = [column for column in frame.columns if (frame[column].astype(str) != "").any()]
        return cls(kept, [[str(value) for value in row] for row in frame[kept].itertuples(index=False)])

    def markdown(self) -> list[str]:
        """Lines of a Markdown table, numbers to the right."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        return [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)]


def write_report(record: dict[str, Any], folder: Path) -> list[str]:
    """Write ``report.md``, ``report.html`` and the figures into ``folder``.

    Args:
        record: What ``experiments.compare`` gathered.
        folder: Where to.

    Returns:
        The verdict, line by line.
    """
    runs = runs_of(record)
    rows = summarize(record, runs)
    pairs = compare_pairs(record, runs)
    verdict = verdict_of(record, runs, rows, pairs)
    drawn = figures.draw_all(record, runs, folder)
    context = {
        "title": record["suite"]["title"],
        "verdict": verdict,
        "tables": {name: Table.of(part) for name, part in rows.groupby("data", sort=False)},
        "pairs": [pair.sentence() for pair in pairs],
        "searches": search_rows(record),
        "protocol": protocol_of(record),
        "figures": drawn,
    }
    _write(folder / "report.md", MARKDOWN, context, lambda path: path.name)
    _write(folder / "report.html", HTML, context, _inlined)
    return verdict


def verdict(record: dict[str, Any]) -> list[str]:
    """What a reader should take away from a comparison, line by line."""
    runs = runs_of(record)
    return verdict_of(record, runs, summarize(record, runs), compare_pairs(record, runs))


def runs_of(record: dict[str, Any]) -> pd.DataFrame:
    """The runs, each with the ``accuracy`` that it is judged by: on the test set if it was touched, else validation."""
    runs = pd.DataFrame(record["runs"])
    return runs.assign(accuracy=runs[f"{part_of(record)}_accuracy"])


def part_of(record: dict[str, Any]) -> str:
    """The part of the data that a comparison is judged on: "test" or "val"."""
    return "test" if record["suite"].get("test", True) else "val"


def summarize(record: dict[str, Any], runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each data set and entry: mean and standard deviation over seeds, sizes, costs, published figures."""
    published = {entry["name"]: entry["published"] for entry in record["suite"]["entries"]}
    models = {entry["name"]: entry["model"] for entry in record["suite"]["entries"]}
    rows = []
    tested = part_of(record) == "test"
    for (dataset, entry), group in runs.groupby(["dataset", "entry"], sort=False):
        accuracy = 100 * group["accuracy"]
        judged = f"{accuracy.mean():.2f}" + (f" ± {accuracy.std():.2f}" if len(group) > 1 else "")
        row = {
            "data": dataset,
            "entry": entry,
            "kind": "CNN" if twin(models[entry]) == models[entry] else "KAN",
            "width": group["options"].iloc[0]["model_options"].get("width", ""),
            "parameters": _of_seeds(group["parameters"]),
            "multiply-adds": _of_seeds(group["multiply_adds"]),
            "test %": judged if tested else "",
            "validation %": f"{100 * group['val_accuracy'].mean():.2f}" if tested else judged,
            "seeds": len(group),
            "s/epoch": _seconds(group),
            "peak MB": f"{group['peak_memory_bytes'].max() / 1e6:.0f}",
        }
        rows.append(row | {f"published {key}": value for key, value in published[entry].items()})
    return pd.DataFrame(rows).astype(object).fillna("")


def compare_pairs(record: dict[str, Any], runs: pd.DataFrame) -> list[Pair]:
    """The paired bootstrap of each pair on each data set where both have runs."""
    entries = record["suite"]["entries"]
    plain = [entry["name"] for entry in entries if twin(entry["model"]) == entry["model"]]
    pairs = []
    for dataset in record["suite"]["datasets"]:
        correct = {
            entry: _correct(group)
            for entry, group in runs[runs["dataset"] == dataset].groupby("entry", sort=False)
            if "test_correct" in group and group["test_correct"].notna().all()
        }
        for entry in entries:
            rivals = entry["against"] if entry["against"] is not None else plain if entry["name"] not in plain else []
            for rival in rivals:
                if entry["name"] in correct and rival in correct:
                    first, second = correct[entry["name"]], correct[rival]
                    difference = paired_bootstrap(first, second)
                    pairs.append(Pair(dataset, entry["name"], rival, min(len(first), len(second)), difference))
    return pairs


def verdict_of(record: dict[str, Any], runs: pd.DataFrame, rows: pd.DataFrame, pairs: list[Pair]) -> list[str]:
    """What a reader should take away, losses of KANs first."""
    plain = {entry["name"] for entry in record["suite"]["entries"] if twin(entry["model"]) == entry["model"]}
    lines = [pair.sentence() for pair in pairs if pair.second not in plain]
    pairs = [pair for pair in pairs if pair.second in plain]
    for winner, text in (
        ("second", "The CNN wins {count} of {total} comparisons: {names}."),
        ("neither", "{count} of {total} cannot be told apart: {names}."),
        ("first", "The KAN wins {count} of {total}: {names}."),
    ):
        found = [pair for pair in pairs if pair.difference.verdict == winner]
        if found:
            names = [
                f"{pair.first} against {pair.second} on {pair.dataset} ({100 * pair.difference.mean:+.2f} points)"
                for pair in found
            ]
            if winner == "first" and len(names) > LONGEST_LIST:  # what KANs do not win is told in full
                names[LONGEST_LIST - 1 :] = [f"and {len(names) - LONGEST_LIST + 1} others"]
            lines.append(text.format(count=len(found), total=len(pairs), names="; ".join(names)))
        if winner == "second":
            lines += sizes_of(runs, pairs, plain)
    lines += published_of(record, runs)
    where = "test" if part_of(record) == "test" else "validation"
    for dataset, group in runs.groupby("dataset", sort=False):
        means = group.groupby("entry", sort=False)[["val_accuracy", "accuracy", "seconds_per_epoch"]].mean()
        best = means["val_accuracy"].idxmax()
        lines.append(
            f"On {dataset}, validation favours {best}: {100 * means.loc[best, 'accuracy']:.2f} % on the {where} set, "
            f"{means.loc[best, 'seconds_per_epoch']:.1f} s an epoch."
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


def published_table(record: dict[str, Any]) -> Table | None:
    """Test accuracies and costs beside the figures published for them; None if there are none."""
    rows = summarize(record, runs_of(record))
    published = [column for column in rows.columns if column.startswith("published ")]
    if not published or part_of(record) != "test":
        return None
    found = rows[(rows[published].astype(str) != "").any(axis=1)]
    return Table.of(found[["entry", "parameters", "test %", published[0], "s/epoch", *published[1:]]])


def published_of(record: dict[str, Any], runs: pd.DataFrame) -> list[str]:
    """How many entries reach the accuracy published for them, and which do not."""
    if part_of(record) != "test":
        return []
    published = {entry["name"]: entry["published"].get("accuracy") for entry in record["suite"]["entries"]}
    lines = []
    for dataset, group in runs.groupby("dataset", sort=False):
        means = 100 * group.groupby("entry", sort=False)["accuracy"].mean()
        gains = {name: mean - published[name] for name, mean in means.items() if published[name] is not None}
        if gains:
            short = ", ".join(f"{name} ({gain:+.2f} points)" for name, gain in gains.items() if gain < 0)
            reached = sum(gain >= 0 for gain in gains.values())
            lines.append(
                f"On {dataset}, {reached} of {len(gains)} reach the accuracy published for them"
                + (f"; short of it: {short}." if short else ".")
            )
    return lines


def protocol_of(record: dict[str, Any]) -> list[str]:
    """How the figures came about."""
    suite = record["suite"]
    touched = "was touched once for each final run" if part_of(record) == "test" else "was not touched"
    lines = [
        f"Seeds {', '.join(map(str, suite['seeds']))}; the validation split chose the epoch, the test set {touched}.",
        "Common to all: " + ", ".join(f"{key} {value}" for key, value in suite["recipe"].items()) + ".",
    ]
    if suite["match"]:
        lines.append(f"Widths chosen for {suite['match']['target']:,} {suite['match']['by'].replace('_', ' ')}.")
    if suite["search"]:
        search = suite["search"]
        lines.append(
            f"Hyper-parameters: {search['trials']} trials for each entry and data set, {search['epochs']} epochs on "
            f"{search['train_fraction']:.0%} of the training part, the best on validation taken; "
            f"space: {', '.join(search['space'])}."
        )
    lines.append(
        "± is the standard deviation over seeds. Intervals are of a paired bootstrap over images and seeds. Seconds "
        "are medians over epochs, with the first and the last grid where grids grow; peak memory is that of the whole "
        "process."
    )
    device = ", ".join(sorted({run["device"] for run in record["runs"]}))
    threads = ", ".join(sorted({str(run["threads"]) for run in record["runs"]}))
    commits = ", ".join(sorted({str(run["git_commit"])[:12] for run in record["runs"]}))
    lines.append(f"On {device}, {threads} thread(s) a run; commit {commits}.")
    return lines


def search_rows(record: dict[str, Any]) -> "Table | None":
    """The best trial of each entry."""
    if not record["searches"]:
        return None
    frame = pd.DataFrame(record["searches"])
    rows = []
    for (dataset, entry), group in frame.groupby(["dataset", "entry"], sort=False):
        best = group.loc[group["val_accuracy"].idxmax()]
        rows.append(
            {
                "data": dataset,
                "entry": entry,
                "trials": len(group),
                "worst %": f"{100 * group['val_accuracy'].min():.2f}",
                "best %": f"{100 * best['val_accuracy']:.2f}",
                "chosen": ", ".join(f"{key} {value}" for key, value in best["settings"].items()),
            }
        )
    return Table.of(pd.DataFrame(rows))


def _of_seeds(counts: pd.Series) -> str:
    """A count, or its range if seeds disagree, as they may where a run chooses sizes."""
    low, high = counts.min(), counts.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _seconds(group: pd.DataFrame) -> str:
    """The median of an epoch; where grids grow, those with the first and with the last grid."""
    epochs = pd.concat([pd.DataFrame(history) for history in group["history"]])
    growth = [epoch for epoch in group["options"].iloc[0].get("refine", {}) if int(epoch) < epochs["epoch"].max()]
    stage = sum((epochs["epoch"] > int(epoch)).astype(int) for epoch in growth)
    medians = epochs["epoch_seconds"].groupby(stage if growth else epochs["epoch"] > 0).median()
    return " → ".join(f"{seconds:.1f}" for seconds in dict.fromkeys([medians.iloc[0], medians.iloc[-1]]))


def _correct(group: pd.DataFrame) -> np.ndarray:
    count = int(np.sum(group["confusion"].iloc[0]))
    return np.stack([unpacked(text, count) for text in group["test_correct"]])


def _write(path: Path, template: str, context: dict[str, Any], place: Callable[[Path], str]) -> None:
    shown = [{"source": place(figure), "caption": caption} for figure, caption in context["figures"]]
    text = Template(template, trim_blocks=True, lstrip_blocks=True).render(**{**context, "figures": shown})
    write_atomically(path, lambda partial: partial.write_text(text))


def _inlined(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
