"""All that a comparison's report says, gathered from the folders of its runs."""

from dataclasses import asdict
from typing import Any

import pandas as pd
import torch

from experiments.common.cli import UserError
from experiments.common.records import environment
from experiments.compare.schedule import Schedule, images_of
from experiments.compare.search import trials_of
from experiments.compare.suite import Entry

# What of a run's record the comparison keeps.
COMPARED = (
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
    "val_correct",
    "val_images",
    "git_commit",
    "device",
    "threads",
)


def gather(schedule: Schedule, cells: list[tuple[str, Entry]]) -> dict[str, Any]:
    """Everything the report says, as data."""
    results: list[dict[str, Any]] = []
    classes: dict[str, list[str]] = {}
    searches: list[dict[str, Any]] = []
    for dataset, entry in cells:
        trials = schedule.trial_jobs(dataset, entry)
        if any(not (job.is_done or job.has_diverged) for job in trials) or not schedule.has_times(dataset):
            continue
        for settings, job in zip(trials_of(schedule.suite, entry) if trials else [], trials, strict=True):
            found: dict[str, Any] = {"dataset": dataset, "entry": entry.name, "settings": settings}
            for measure in dict.fromkeys(("val_accuracy", schedule.suite.chosen_by(entry))):
                found[measure] = None if job.has_diverged else job.record()[measure]
            searches.append(found)
        for seed, job in zip(schedule.suite.seeds, schedule.final_jobs(dataset, entry), strict=True):
            if job.is_done:
                job.check()
                stored = job.record()
                names = _classes_of(stored, schedule.data_root)
                if classes.setdefault(dataset, names) != names:
                    raise UserError(
                        f"the runs on {dataset} must have the same classes in the same order: {job.folder} has "
                        f"{', '.join(names)}, others {', '.join(classes[dataset])}"
                    )
                results.append(
                    {"dataset": dataset, "entry": entry.name, "seed": seed, "options": job.options}
                    | {key: stored[key] for key in COMPARED if key in stored}
                    | {"history": pd.read_csv(job.folder / "history.csv").round(5).to_dict("list")}
                )
    if not results:
        raise UserError(f"nothing to report: no run in {schedule.folder} is finished")
    return {
        "suite": asdict(schedule.suite),
        **environment(torch.device("cpu")),
        "classes": classes,
        "searches": searches,
        "timings": [
            timing
            for dataset in dict.fromkeys(run["dataset"] for run in results)
            for timing in schedule.timings(dataset)
        ],
        "runs": results,
    }


def _classes_of(stored: dict[str, Any], data_root: str | None) -> list[str]:
    """The classes that a run was judged on, in the order of its figures."""
    if "images" in stored:
        return list(stored["images"]["test"])
    config = stored["config"]  # of a record from before it told
    return images_of(config["dataset"], data_root, config.get("image_size"))[1]
