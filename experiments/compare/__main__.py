"""Compare models fairly: ``python -m experiments.compare --suite FILE.yaml``.

A suite names models, data sets and seeds, and how sizes are made equal and hyper-parameters chosen. Every run is one of
``experiments.train``; those that are done are not done again. It ends with a report: Markdown, one HTML page, figures.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.progress import TaskID

from convkan.training import ImageData
from experiments.cli import GOES_ON, UserError, parse, run
from experiments.compare.jobs import Job, run_jobs
from experiments.compare.matching import Step, matched_options
from experiments.compare.report import write_report
from experiments.compare.search import best_of, check_search, split, trials_of
from experiments.compare.suite import Entry, Suite, load_suite
from experiments.folders import claimed
from experiments.progress import StudyProgress
from experiments.records import environment, read_record, write_record

DEFAULT_SUITE = Path(__file__).parents[1] / "configs" / "compare" / "digits.yaml"
# What of a run's record the comparison keeps.
KEPT = (
    "parameters",
    "multiply_adds",
    "test_accuracy",
    "val_accuracy",
    "test_balanced_accuracy",
    "val_balanced_accuracy",
    "best_epoch",
    "epochs",
    "seconds_per_epoch",
    "compile_seconds",
    "input_seconds_per_epoch",
    "step_memory_bytes",
    "peak_memory_bytes",
    "confusion",
    "test_correct",
    "git_commit",
    "device",
    "threads",
)


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


@dataclass(frozen=True)
class Plan:
    """A suite's runs, with sizes matched.

    Attributes:
        suite: The suite.
        folder: Where its runs are kept.
        data_root: Where data sets lie.
    """

    suite: Suite
    folder: Path
    data_root: str | None

    def trial_jobs(self, dataset: str, entry: Entry) -> list[Job]:
        """The trials of an entry's hyper-parameters. Entries that do not differ within a trial share its run."""
        search = self.suite.search
        if search is None:
            return []
        budget = {"epochs": search.epochs, "train_fraction": search.train_fraction, "test": False}
        jobs = []
        for number, settings in enumerate(trials_of(self.suite, entry)):
            options = self._options(dataset, entry, settings, budget)
            if options.get("refine"):
                options["refine"] = {epoch: size for epoch, size in options["refine"].items() if epoch < search.epochs}
            digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]
            folder = self.folder / "trials" / f"{dataset}-{entry.model}-{digest}"
            jobs.append(Job(f"{entry.name} on {dataset}, trial {number}", folder, options))
        return jobs

    def best_settings(self, dataset: str, entry: Entry) -> dict[str, Any]:
        """What the trials found best on the validation part; nothing without a search."""
        jobs = self.trial_jobs(dataset, entry)
        if not jobs:
            return {}
        accuracies = [-math.inf if job.has_diverged else _record(job)["val_accuracy"] for job in jobs]
        if max(accuracies) == -math.inf:
            raise UserError(
                f"all trials of {entry.name} on {dataset} diverged: search.space needs lower learning rates"
            )
        return best_of(trials_of(self.suite, entry), accuracies)

    def final_jobs(self, dataset: str, entry: Entry) -> list[Job]:
        """One run a seed, with the settings found best."""
        settings = self.best_settings(dataset, entry)
        return [
            Job(
                f"{entry.name} on {dataset}, seed {seed}",
                self.folder / f"{dataset}-{entry.slug}-seed{seed}",
                self._options(dataset, entry, settings, {"seed": seed, "test": self.suite.test}),
            )
            for seed in self.suite.seeds
        ]

    def _options(self, dataset: str, entry: Entry, settings: dict[str, Any], budget: dict[str, Any]) -> dict[str, Any]:
        """Those of the training script."""
        of_training, of_model = split(settings, entry)
        of_training = {**self.suite.recipe, **entry.recipe, **of_training, **budget}
        return {
            "dataset": dataset,
            "model": entry.model,
            "model_options": self._matched(dataset, entry.model, {**entry.options, **of_model}, of_training),
            **of_training,
        }

    def _matched(
        self, dataset: str, model: str, options: dict[str, Any], of_training: dict[str, Any]
    ) -> dict[str, Any]:
        """``matched_options``, worked out once: measured times differ from one measurement to the next."""
        match = self.suite.match
        shape, classes = _images(dataset, self.data_root, of_training.get("image_size"))
        path = self.folder / "widths.json"
        known: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        what: list[Any] = [model, options, shape, len(classes), asdict(match) if match else None]
        step = Step.of(of_training)
        if match and match.by == "step_time":
            what.append(asdict(step))
        key = json.dumps(what)
        if key not in known:
            known[key] = matched_options(model, options, match, shape, len(classes), step)
            write_record(path, known)
        return known[key]


def main() -> None:
    """Search, train, test and report."""
    config = parse(CompareConfig, __doc__)
    suite = load_suite(Path(config.suite))
    if suite.search is not None:
        check_search(suite.search)
    plan = Plan(suite, Path(config.runs_root) / suite.name, config.data_root)
    cells = [(dataset, entry) for dataset in suite.datasets for entry in suite.entries]
    if not config.report_only:
        with claimed(plan.folder), StudyProgress("epochs") as progress:
            if suite.search is not None:
                _run("trials", [job for cell in cells for job in plan.trial_jobs(*cell)], config, progress, True)
            # Seed by seed, so that a comparison cut short has something to say of every entry.
            by_seed = zip(*(plan.final_jobs(*cell) for cell in cells), strict=True)
            _run("final runs", [job for jobs in by_seed for job in jobs], config, progress)
    record = _gather(plan, cells)
    folder = Path(config.out) if config.out else plan.folder / "report"
    write_record(folder / "suite.json", record)
    for line in write_report(record, folder):
        print(line)
    print(f"report in {folder}: report.md, report.html, figures; all figures in {folder / 'suite.json'}")


def _run(what: str, jobs: list[Job], config: CompareConfig, progress: StudyProgress, may_diverge: bool = False) -> None:
    jobs = list({job.folder: job for job in jobs}.values())  # trials may be shared
    task: TaskID = progress.add_task(what, total=sum(job.epochs for job in jobs))

    def report(epochs: int, now: str) -> None:
        progress.update(task, completed=epochs, description=f"{what}: {now}")

    run_jobs(jobs, config.processes, config.gpus, config.data_root, report, may_diverge)
    progress.update(task, completed=sum(job.epochs for job in jobs), description=what)


def _gather(plan: Plan, cells: list[tuple[str, Entry]]) -> dict[str, Any]:
    """Everything the report says, as data."""
    results: list[dict[str, Any]] = []
    classes: dict[str, list[str]] = {}
    searches: list[dict[str, Any]] = []
    for dataset, entry in cells:
        trials = plan.trial_jobs(dataset, entry)
        if any(not (job.is_done or job.has_diverged) for job in trials):
            continue
        for settings, job in zip(trials_of(plan.suite, entry) if trials else [], trials, strict=True):
            found = {"dataset": dataset, "entry": entry.name, "settings": settings}
            searches.append(found | {"val_accuracy": None if job.has_diverged else _record(job)["val_accuracy"]})
        for seed, job in zip(plan.suite.seeds, plan.final_jobs(dataset, entry), strict=True):
            if job.is_done:
                job.check()
                stored = _record(job)
                names = _classes_of(stored, plan.data_root)
                if classes.setdefault(dataset, names) != names:
                    raise UserError(
                        f"the runs on {dataset} must have the same classes in the same order: {job.folder} has "
                        f"{', '.join(names)}, others {', '.join(classes[dataset])}"
                    )
                results.append(
                    {"dataset": dataset, "entry": entry.name, "seed": seed, "options": job.options}
                    | {key: stored[key] for key in KEPT if key in stored}
                    | {"history": pd.read_csv(job.folder / "history.csv").round(5).to_dict("list")}
                )
    if not results:
        raise UserError(f"nothing to report: no run in {plan.folder} is finished")
    return {
        "suite": asdict(plan.suite),
        **environment(torch.device("cpu")),
        "classes": classes,
        "searches": searches,
        "runs": results,
    }


def _classes_of(stored: dict[str, Any], data_root: str | None) -> list[str]:
    """The classes that a run was judged on, in the order of its figures."""
    if "images" in stored:
        return list(stored["images"]["test"])
    config = stored["config"]  # of a record from before it told
    return _images(config["dataset"], data_root, config.get("image_size"))[1]


@cache
def _images(dataset: str, data_root: str | None, image_size: int | None) -> tuple[tuple[int, int, int], list[str]]:
    """The shape of the images that a run of this size sees, and the names of their classes."""
    data = ImageData(dataset, data_root=data_root, image_size=image_size)
    data.setup()
    return data.image_shape, data.class_names


def _record(job: Job) -> dict[str, Any]:
    return read_record(job.folder / "result.json")


if __name__ == "__main__":
    run(main, GOES_ON)
