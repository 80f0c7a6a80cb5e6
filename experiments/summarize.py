"""Write the pages' tables from committed records: ``python -m experiments.summarize [--check]``.

Records are kept in ``experiments/results``: the ``result.json`` files of runs, ``NAME/NAME.json`` of the benchmark and
of the experiments on functions, ``benchmark/panel.json``, and ``compare/SUITE/suite.json`` of comparisons. With
``--check`` nothing is written, and the exit status says whether the tables are up to date.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from convkan.models import list_weights
from convkan.training import write_text
from experiments import (
    bases,
    chebyshev,
    continual,
    deletion,
    deployment,
    equations,
    feynman,
    fit,
    loading,
    pde,
    prune,
    recovery,
    small_nets,
    special,
    symbolic,
)
from experiments.benchmark import panel_report
from experiments.benchmark.report import headline_table, ratio_table
from experiments.common.cli import UserError, parse, run
from experiments.compare.scoreboard import scoreboard
from experiments.compare.tables import short_table
from experiments.compare.verdict import verdict

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"


@dataclass(frozen=True)
class SummaryConfig:
    """What to do.

    Attributes:
        check: Only say whether the tables are up to date.
    """

    check: bool = False


def main() -> None:
    """Bring the tables up to date, or check that they are."""
    config = parse(SummaryConfig, __doc__)
    for page, tables in TABLES.items():
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        updated = filled(text, page, {name: table_of(RESULTS) for name, table_of in tables.items()})
        if config.check and updated != text:
            raise UserError(f"the tables of {page} are not what the records say: python -m experiments.summarize")
        if not config.check:
            write_text(path, updated)
            print(f"the tables of {path} are up to date")


def filled(text: str, page: str, tables: dict[str, str]) -> str:
    """A page with each table between its marks.

    Raises:
        UserError: The page does not say where a table goes.
    """
    for name, table in tables.items():
        begin, end = f"<!-- {name}: python -m experiments.summarize -->", f"<!-- end of {name} -->"
        before, found_begin, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found_begin and found_end):
            raise UserError(f"{page} must mark where the table goes with {begin!r} and, below it, {end!r}")
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def table_of_record(
    name: str, table_of: Callable[[dict[str, Any]], str], folder: Path, inside: str | None = None
) -> str:
    """What ``table_of`` makes of the record ``NAME/NAME.json``, or of one of another name in that folder."""
    path = folder / (inside or name) / f"{name}.json"
    return table_of(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else "No record yet."


def speed_in_short(folder: Path) -> str:
    """The benchmark's ratios that say most, and in how many rows of the panel ours is the fastest."""
    table = table_of_record("benchmark", headline_table, folder)
    panel = folder / "benchmark" / "panel.json"
    if not panel.exists():
        return table
    won = panel_report.won_in_short(json.loads(panel.read_text(encoding="utf-8")))
    return f"{table}\n\n{won}"


def panel_table(folder: Path) -> str:
    """What of the panel was won and which bars are met; its tables and its picture, where they are."""
    table = table_of_record("panel", panel_report.summary, folder, inside="benchmark")
    more = {"panel.md": "[All rows]({})", "panel.png": "![The panel: time of ours beside others]({})"}
    links = [link.format(f"benchmark/{name}") for name, link in more.items() if (folder / "benchmark" / name).exists()]
    return "\n\n".join([table, *links])


def comparisons(folder: Path) -> str:
    """The verdict of each committed comparison, its table, and a link to its report."""
    lines = []
    for path, record in comparison_records(folder):
        report = path.with_name("report.md").relative_to(folder)
        lines += [f"[{record['suite']['title']}]({report}):", "", *(f"- {line}" for line in verdict(record)), ""]
        lines += [*short_table(record).markdown(), ""]
    return "\n".join(lines).rstrip() or "No record yet."


def comparisons_in_short(folder: Path) -> str:
    """A row for each committed comparison, with a link to its report."""
    return scoreboard(
        {
            f"[{record['suite']['name']}]({path.with_name('report.md').relative_to(ROOT)})": record
            for path, record in comparison_records(folder)
        }
    )


def comparison_records(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Each committed comparison's record, and where it is."""
    paths = sorted(folder.glob("compare/*/suite.json"))
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def results_table(folder: Path) -> str:
    """A Markdown table with a row for each record."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    if not records:
        return "No records yet.\n"
    rows = [
        "| data | model | parameters | multiply-adds | epochs | test | validation | s/epoch | of it input | seed |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for record in sorted(records, key=lambda record: (record["config"]["dataset"], record["parameters"])):
        config = record["config"]
        rows.append(
            f"| {config['dataset']} | `{config['model']}` | {record['parameters']:,} | {record['multiply_adds']:,} "
            f"| {record['epochs']} | {record['test_accuracy']:.2%} | {record['val_accuracy']:.2%} "
            f"| {record['seconds_per_epoch']:.1f} | {record['input_seconds_per_epoch']:.2f} | {record['seed']} |"
        )
    return "\n".join(rows)


def weights_table(folder: Path) -> str:
    """A Markdown table of the trained models in the package, from the records that lie in their files."""
    rows = [
        "| model | weights | parameters | epochs | test | validation |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for weights in list_weights():
        record = weights.record()
        rows.append(
            f"| `{weights.model}` | `{weights.name}` | {record['parameters']:,} | {record['epochs']} "
            f"| {record['test_accuracy']:.2%} | {record['val_accuracy']:.2%} |"
        )
    return "\n".join(rows)


# For each page, its tables by name.
TABLES: dict[str, dict[str, Callable[[Path], str]]] = {
    "README.md": {
        "scoreboard": comparisons_in_short,
        "speed": speed_in_short,
    },
    "experiments/results/README.md": {
        "weights": weights_table,
        "results": results_table,
        "benchmark": partial(table_of_record, "benchmark", ratio_table),
        "panel": panel_table,
        "fit": partial(table_of_record, "fit", fit.markdown),
        "fit_exp_sin": partial(table_of_record, "fit_exp_sin", fit.markdown, inside="fit"),
        "fit_large": partial(table_of_record, "fit_large", fit.markdown, inside="fit"),
        "special": partial(table_of_record, "special", special.markdown),
        "feynman": partial(table_of_record, "feynman", feynman.summary),
        "recovery": partial(table_of_record, "recovery", recovery.summary),
        "pde": partial(table_of_record, "pde", pde.markdown),
        "equations": partial(table_of_record, "equations", equations.markdown),
        "continual": partial(table_of_record, "continual", continual.markdown),
        "chebyshev": partial(table_of_record, "chebyshev", chebyshev.markdown),
        "symbolic": partial(table_of_record, "symbolic", symbolic.markdown),
        "deletion": partial(table_of_record, "deletion", deletion.markdown),
        "prune": partial(table_of_record, "prune", prune.markdown),
        "small_nets": partial(table_of_record, "small_nets", small_nets.markdown),
        "comparisons": comparisons,
    },
    "docs/training.md": {
        "loading": partial(table_of_record, "loading", loading.markdown),
    },
    "docs/bases.md": {
        "bases": partial(table_of_record, "bases", bases.markdown),
    },
    "docs/export.md": {
        "deployment": partial(table_of_record, "deployment", deployment.markdown, inside="export"),
    },
}

if __name__ == "__main__":
    run(main)
