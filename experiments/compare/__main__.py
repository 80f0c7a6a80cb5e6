"""Compare models fairly: ``python -m experiments.compare --suite FILE.yaml``.

A suite names models, data sets and seeds, and how sizes are made equal and hyper-parameters chosen. Every run is one of
``experiments.train``; those that are done are not done again. It ends with a report: Markdown, one HTML page, figures,
and its figures as CSV and LaTeX.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import TaskID

from experiments.common.cli import GOES_ON, parse, run
from experiments.common.folders import claimed
from experiments.common.progress import StudyProgress
from experiments.common.records import write_record
from experiments.compare.gathering import gather
from experiments.compare.jobs import Job, run_jobs
from experiments.compare.report import write_report
from experiments.compare.schedule import Schedule
from experiments.compare.search import check_search
from experiments.compare.suite import load_suite

DEFAULT_SUITE = Path(__file__).parents[1] / "configs" / "compare" / "digits.yaml"


@dataclass(frozen=True)
class CompareConfig:
    """What to compare, and with what resources.

    Attributes:
        suite: The YAML file; by default a small one on digits.
        processes: Runs at a time.
        gpus: GPUs to spread them over.
        runs_root: Where suites keep their runs.
        data_root: Where data sets lie; by default the environment variable CONVKAN_DATA, or ./data.
        out: Folder for the report; by default ``report`` within the suite's.
        report_only: Report on what is done, and run nothing.
    """

    suite: str = str(DEFAULT_SUITE)
    processes: int = 1
    gpus: int = torch.cuda.device_count()
    runs_root: str = "runs/compare"
    data_root: str | None = None
    out: str | None = None
    report_only: bool = False

    def __post_init__(self) -> None:
        if self.processes < 1 or self.gpus < 0:
            raise ValueError(f"processes must be at least 1 and gpus 0, got {self.processes} and {self.gpus}")


def main() -> None:
    """Search, train, test and report."""
    config = parse(CompareConfig, __doc__)
    suite = load_suite(Path(config.suite))
    check_search(suite)
    home = Path(config.suite).parent
    schedule = Schedule(suite, Path(config.runs_root) / suite.name, config.data_root, home)
    cells = [(dataset, entry) for dataset in suite.datasets for entry in suite.entries]
    if not config.report_only:
        with claimed(schedule.folder), StudyProgress("epochs") as progress:
            if suite.search is not None:
                _run("trials", [job for cell in cells for job in schedule.trial_jobs(*cell)], config, progress, True)
            _measure(schedule, config.processes, progress)
            # Seed by seed, so that a comparison cut short has something to say of every entry.
            by_seed = zip(*(schedule.final_jobs(*cell) for cell in cells), strict=True)
            _run("final runs", [job for jobs in by_seed for job in jobs], config, progress)
    record = gather(schedule, cells)
    folder = Path(config.out) if config.out else schedule.folder / "report"
    write_record(folder / "suite.json", record)
    for line in write_report(record, folder):
        print(line)
    files = "report.md, report.html, figures, results.csv, results.tex"
    print(f"report in {folder}: {files}; all of it in {folder / 'suite.json'}")


def _measure(schedule: Schedule, processes: int, progress: StudyProgress) -> None:
    """Measure the times that epochs follow from, where a suite wants equal times."""
    match = schedule.suite.match
    if match is None or not match.time:
        return
    task = progress.add_task("times", total=len(schedule.suite.datasets))
    for dataset in schedule.suite.datasets:
        doubts = schedule.measure(dataset, processes, lambda now: progress.update(task, description=f"times: {now}"))
        for line in doubts:
            print(f"warning: on {dataset}: {line}")
        progress.update(task, advance=1, description="times")
        epochs = ", ".join(f"{name} {count}" for name, count in schedule.epochs(dataset).items())
        print(f"epochs on {dataset} for equal times: {epochs}")


def _run(what: str, jobs: list[Job], config: CompareConfig, progress: StudyProgress, may_diverge: bool = False) -> None:
    jobs = list({job.folder: job for job in jobs}.values())  # trials may be shared
    task: TaskID = progress.add_task(what, total=sum(job.epochs for job in jobs))

    def report(epochs: int, now: str) -> None:
        progress.update(task, completed=epochs, description=f"{what}: {now}")

    run_jobs(jobs, config.processes, config.gpus, config.data_root, report, may_diverge)
    progress.update(task, completed=sum(job.epochs for job in jobs), description=what)


if __name__ == "__main__":
    run(main, GOES_ON)
