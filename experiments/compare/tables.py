"""The tables of a comparison, made of its record."""

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from convkan.models import model_options
from experiments.compare.suite import Suite, suite_of

UNBALANCED = 0.005  # balanced accuracy is told where it differs by more from accuracy


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
        texts = [[cell.replace("|", r"\|") for cell in row] for row in (self.columns, *self.rows)]
        cells = zip(*texts[1:], strict=True)
        rule = ["---:" if all(cell[:1].isdigit() for cell in column if cell) else "---" for column in cells]
        return [f"| {' | '.join(row)} |" for row in (texts[0], rule, *texts[1:])]


def runs_of(record: dict[str, Any]) -> pd.DataFrame:
    """The runs, each with two figures more.

    These are ``accuracy``, by which it is judged: on the test set if it was touched, else validation; and
    ``training_seconds``: as planned, where epochs were chosen for equal times, else the median epoch times how many
    there were, or their sum where grids grow.
    """
    runs = pd.DataFrame(record["runs"])
    planned = {(found["dataset"], found["entry"]): found["seconds"] for found in record.get("timings", [])}
    seconds = [planned.get((run["dataset"], run["entry"]), _training_seconds(run)) for run in record["runs"]]
    return runs.assign(accuracy=runs[f"{suite_of(record).judged_on}_accuracy"], training_seconds=seconds)


def _training_seconds(run: dict[str, Any]) -> float:
    epochs: list[float] = run["history"]["epoch_seconds"]
    return sum(epochs) if run.get("options", {}).get("refine") else len(epochs) * statistics.median(epochs)


def summarize(suite: Suite, runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each data set and entry: mean and standard deviation over seeds, sizes, costs, published figures."""
    rows = []
    tested = suite.judged_on == "test"
    for (dataset, name), group in runs.groupby(["dataset", "entry"], sort=False):
        entry = suite.entry(name)
        accuracy = 100 * group["accuracy"]
        judged = f"{accuracy.mean():.2f}" + (f" ± {accuracy.std():.2f}" if len(group) > 1 else "")
        row = {
            "data": dataset,
            "entry": name,
            "kind": "CNN" if entry.is_plain else "KAN",
            "width": group["options"].iloc[0]["model_options"].get("width", ""),
            "parameters": _of_seeds(group["parameters"]),
            "multiply-adds": _of_seeds(group["multiply_adds"]),
            "test %": judged if tested else "",
            "balanced %": _balanced(group, suite.judged_on),
            "validation %": f"{100 * group['val_accuracy'].mean():.2f}" if tested else judged,
            "validation loss": "" if tested else f"{_losses(group).mean():.3f}",
            "seeds": len(group),
            "s/epoch": _seconds(group),
            "compile s": _compile_seconds(group),
            "step MB": f"{group['step_memory_bytes'].median() / 1e6:.1f}",
        }
        rows.append(row | {f"published {key}": value for key, value in entry.published.items()})
    return pd.DataFrame(rows).astype(object).fillna("")


def short_table(record: dict[str, Any]) -> Table:
    """What a comparison found, in few columns, beside the figures published for its entries if there are any."""
    suite = suite_of(record)
    rows = summarize(suite, runs_of(record))
    published = [column for column in rows.columns if column.startswith("published ")]
    names = ["data", "entry"] if rows["data"].nunique() > 1 else ["entry"]
    if suite.judged_on != "test":
        return Table.of(rows[[*names, "parameters", "validation %", "balanced %", "validation loss", "s/epoch"]])
    first = published[:1]
    return Table.of(rows[[*names, "parameters", "test %", "balanced %", *first, "s/epoch", *published[1:]]])


def entry_rows(suite: Suite) -> Table:
    """What each entry is: its model, with the options that were given, and what of its recipe is its own."""
    rows = [
        {"entry": entry.name, "model": entry.model, "options": _listed(entry.options)}
        | {"recipe of its own": _listed(entry.recipe)}
        for entry in suite.entries
    ]
    return Table.of(pd.DataFrame(rows))


def search_rows(record: dict[str, Any]) -> Table | None:
    """The best trial of each entry, by the accuracy, plain or balanced, that chose it."""
    if not record["searches"]:
        return None
    frame = pd.DataFrame(record["searches"])
    suite = suite_of(record)
    rows = []
    for (dataset, name), group in frame.groupby(["dataset", "entry"], sort=False):
        measure = suite.chosen_by(suite.entry(str(name)))
        if measure not in group or group[measure].isna().all():
            measure = "val_accuracy"  # a record of before others chose
        accuracies = group[measure].astype(float)  # None, here NaN, of a trial that diverged
        best = group.loc[accuracies.idxmax()]
        defaults = model_options(suite.entry(name).model)  # that of a training option which may be None is None
        chosen = {key: value for key, value in best["settings"].items() if value is not None or defaults.get(key)}
        rows.append(
            {
                "data": dataset,
                "entry": name,
                "trials": len(group),
                "worst %": "diverged" if accuracies.isna().any() else f"{100 * accuracies.min():.2f}",
                "best %": f"{100 * best[measure]:.2f}",
                "chosen": _listed(chosen),
            }
        )
    return Table.of(pd.DataFrame(rows))


def _listed(options: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items())


def _of_seeds(counts: pd.Series) -> str:
    """A count, or its range if seeds disagree, as they may where a run chooses sizes."""
    low, high = counts.min(), counts.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _balanced(group: pd.DataFrame, part: str) -> str:
    """The mean over seeds of the mean over classes of recall, where sizes of classes make it another than accuracy."""
    if f"{part}_balanced_accuracy" not in group or group[f"{part}_balanced_accuracy"].isna().any():
        return ""  # a record of before it was noted
    balanced = group[f"{part}_balanced_accuracy"]
    return f"{100 * balanced.mean():.2f}" if (balanced - group["accuracy"]).abs().max() > UNBALANCED else ""


def _losses(group: pd.DataFrame) -> pd.Series:
    """The validation loss of each run's best epoch."""
    return group.apply(lambda run: run["history"]["val_loss"][run["history"]["epoch"].index(run["best_epoch"])], axis=1)


def median_seconds(group: pd.DataFrame) -> float:
    """The median of an epoch over runs."""
    return float(_epochs(group)["epoch_seconds"].median())


def _compile_seconds(group: pd.DataFrame) -> str:
    """The median of what compilation took, where runs say so."""
    seconds = group.get("compile_seconds", pd.Series(dtype=float)).dropna()
    return f"{seconds.median():.1f}" if len(seconds) else ""


def _epochs(group: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(history) for history in group["history"]])


def _seconds(group: pd.DataFrame) -> str:
    """The median of an epoch; where grids grow, those with the first and with the last grid."""
    epochs = _epochs(group)
    growth = sorted(int(epoch) for epoch in group["options"].iloc[0].get("refine", {}))
    medians = epochs["epoch_seconds"].groupby(np.searchsorted(growth, epochs["epoch"])).median()
    return " → ".join(f"{seconds:.1f}" for seconds in medians.iloc[[0, -1] if len(medians) > 1 else [0]])
