"""Write the README's table of results from committed records: ``python -m experiments.summarize [--check]``.

Records are the ``result.json`` files of runs, kept in ``experiments/results``. With ``--check`` nothing is written, and
the exit status says whether the table is up to date.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from experiments.cli import UserError, parse, run

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: python -m experiments.summarize -->", "<!-- end of results -->"


@dataclass(frozen=True)
class SummaryConfig:
    """What to do.

    Attributes:
        check: Only say whether the table is up to date.
    """

    check: bool = False


def main() -> None:
    """Bring the table up to date, or check that it is."""
    config = parse(SummaryConfig, (__doc__ or "").splitlines()[0])
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    updated = f"{before}{BEGIN}\n{results_table(ROOT / 'experiments' / 'results')}\n{END}{after}"
    if config.check and updated != text:
        raise UserError("README.md's table of results is not what the records say: python -m experiments.summarize")
    if not config.check:
        readme.write_text(updated)
        print(f"the table of results in {readme} is up to date")


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
