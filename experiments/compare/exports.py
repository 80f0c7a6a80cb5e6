"""What a comparison found, for other programs: a row a run as CSV, a table of means in LaTeX."""

import json
from typing import Any

import pandas as pd

from experiments.compare.suite import suite_of
from experiments.compare.tables import median_seconds, runs_of

COLUMNS = (
    *("dataset", "entry", "model", "kind", "model_options", "seed", "parameters", "multiply_adds", "judged_on"),
    *("test_accuracy", "test_balanced_accuracy", "val_accuracy", "val_balanced_accuracy", "best_epoch", "epochs"),
    *("seconds_per_epoch", "compile_seconds", "input_seconds_per_epoch", "step_memory_bytes", "peak_memory_bytes"),
    *("device", "threads", "git_commit"),
)
DOCUMENT = r"""% {title}
% It compiles on its own. In a paper: \usepackage{{booktabs,standalone}}, and \input this file.
\documentclass[border=4pt]{{standalone}}
\usepackage[T1]{{fontenc}}
\usepackage{{booktabs}}
\begin{{document}}
\begin{{tabular}}{{{columns}}}
\toprule
{head} \\
\midrule
{body}
\bottomrule
\end{{tabular}}
\end{{document}}
"""
ESCAPES = str.maketrans(
    {character: rf"\{character}" for character in "{}$&#_%"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "`": r"\textasciigrave{}", "−": "$-$"}
)


def csv_of(record: dict[str, Any]) -> str:
    """A row for each data set, entry and seed; accuracies as shares of 1, times in seconds, memory in bytes."""
    suite, runs = suite_of(record), pd.DataFrame(record["runs"])
    models = {entry.name: entry.model for entry in suite.entries}
    runs = runs.assign(
        model=runs["entry"].map(models),
        kind=["CNN" if name in suite.plain else "KAN" for name in runs["entry"]],
        model_options=[json.dumps(options["model_options"]) for options in runs["options"]],
        judged_on=suite.judged_on,
    )
    text: str = runs[[column for column in COLUMNS if column in runs]].to_csv(index=False, lineterminator="\n")
    return text


def latex_of(record: dict[str, Any]) -> str:
    """A row for each data set and entry: sizes, accuracy in percent as mean ± standard deviation over seeds, time."""
    suite, runs = suite_of(record), runs_of(record)
    head = ["Model", "Parameters", "MACs", f"{'Test' if suite.test else 'Validation'} accuracy (%)", "s/epoch"]
    rows = []
    for (dataset, name), group in runs.groupby(["dataset", "entry"], sort=False):
        sizes = [_range(group[key]) for key in ("parameters", "multiply_adds")]
        row = [escaped(name), *sizes, _spread(100 * group["accuracy"]), f"{median_seconds(group):.1f}"]
        rows.append(([escaped(str(dataset))], row))
    several = runs["dataset"].nunique() > 1
    lines = [" & ".join([*(data if several else []), *row]) + r" \\" for data, row in rows]
    return DOCUMENT.format(
        title=" ".join(suite.title.split()),
        columns=("l" if several else "") + "lrrrr",
        head=" & ".join(map(escaped, ["Data", *head] if several else head)),
        body="\n".join(lines),
    )


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return " ".join(text.split()).translate(ESCAPES).replace("--", "-{}-")


def _spread(percent: pd.Series) -> str:
    deviation = rf" \pm {percent.std():.2f}" if len(percent) > 1 else ""
    return f"${percent.mean():.2f}{deviation}$"


def _range(counts: pd.Series) -> str:
    """A count, or its range where seeds disagree."""
    ends = sorted({int(counts.min()), int(counts.max())})
    return "--".join(f"{count:,}".replace(",", r"\,") for count in ends)
