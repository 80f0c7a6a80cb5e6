"""Write the README's tables from committed records: ``python -m experiments.summarize [--check]``.

Records are the ``result.json`` files of runs, kept in ``experiments/results``, and ``benchmark/benchmark.json``
there. With ``--check`` nothing is written, and the exit status says whether the tables are up to date.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmark.report import ratio_table
from experiments.cli import UserError, parse, run

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
    config = parse(SummaryConfig, (__doc__ or "").splitlines()[0])
    readme = ROOT / "README.md"
    text = readme.read_text()
    updated = text
    for name, table in (("results", results_table(RESULTS)), ("benchmark", benchmark_table(RESULTS / "benchmark"))):
        begin, end = f"<!-- {name}: python -m experiments.summarize -->", f"<!-- end of {name} -->"
        before, found_begin, rest = updated.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found_begin and found_end):
            raise UserError(f"README.md must mark where the table goes with {begin!r} and, below it, {end!r}")
        updated = f"{before}{begin}\n{table}\n{end}{after}"
    if config.check and updated != text:
        raise UserError("README.md's tables are not what the records say: python -m experiments.summarize")
    if not config.check:
        readme.write_text(updated)
        print(f"the tables in {readme} are up to date")


def benchmark_table(folder: Path) -> str:
    """The ratios of the committed benchmark."""
    path = folder / "benchmark.json"
    return ratio_table(json.loads(path.read_text())) if path.exists() else "No record yet."


def results_table(folder: Path) -> str:
    """A Markdown table with a row for each record."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
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


if __name__ == "__main__":
    run(main)
