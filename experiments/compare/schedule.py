"""The runs that a suite asks for, each worked out anew from the suite and from what is done already."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from convkan.training import ImageData
from convkan.training.folders import find_parts, list_pictures
from experiments.common.cli import UserError
from experiments.common.records import write_record
from experiments.common.train_config import TrainConfig
from experiments.compare.budget import Times, solve_epochs
from experiments.compare.jobs import Job
from experiments.compare.matching import Step, matched_options
from experiments.compare.search import best_of, split, trials_of
from experiments.compare.suite import Entry, Suite


@dataclass(frozen=True)
class Schedule:
    """A suite's runs, with sizes matched.

    Attributes:
        suite: The suite.
        folder: Where its runs are kept.
        data_root: Where data sets lie.
        home: Where the suite lies, and the folders of images it names.
    """

    suite: Suite
    folder: Path
    data_root: str | None
    home: Path = Path()

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
            jobs.append(Job(f"{entry.name} on {dataset}, trial {number}", folder, options, *self._images(dataset)))
        return jobs

    def best_settings(self, dataset: str, entry: Entry) -> dict[str, Any]:
        """What the trials found best on the validation part; nothing without a search."""
        jobs = self.trial_jobs(dataset, entry)
        if not jobs:
            return {}
        measure = self.suite.chosen_by(entry)
        accuracies = [-math.inf if job.has_diverged else job.record()[measure] for job in jobs]
        if max(accuracies) == -math.inf:
            raise UserError(
                f"all trials of {entry.name} on {dataset} diverged: search.space needs lower learning rates"
            )
        return best_of(trials_of(self.suite, entry), accuracies)

    def final_jobs(self, dataset: str, entry: Entry) -> list[Job]:
        """One run a seed, with the settings found best, and the epochs that times ask for.

        Raises:
            UserError: Entries are to train for equal times, and theirs have not been measured.
        """
        options = self._final_options(dataset, entry)
        if self._is_timed:
            options["epochs"] = self.epochs(dataset)[entry.name]
        return [
            Job(
                f"{entry.name} on {dataset}, seed {seed}",
                self.folder / f"{dataset}-{entry.slug}-seed{seed}",
                options | {"seed": seed, "test": self.suite.test},
                *self._images(dataset),
            )
            for seed in self.suite.seeds
        ]

    def _final_options(self, dataset: str, entry: Entry) -> dict[str, Any]:
        return self._options(dataset, entry, self.best_settings(dataset, entry), {})

    @property
    def _is_timed(self) -> bool:
        return self.suite.match is not None and self.suite.match.time

    def measure(self, dataset: str, processes: int, report: Callable[[str], None]) -> list[str]:
        """Time the steps of all entries, where the suite wants equal times and has not measured them yet.

        Args:
            dataset: On this data set.
            processes: Runs at a time, which share the processors.
            report: Told what is measured now.

        Returns:
            Why the times may be wrong, a line each.
        """
        if not self._is_timed:
            return []
        given = {
            "threads": max(1, (os.cpu_count() or 1) // processes),
            "data_root": self._folder_of(dataset) or self.data_root,
        }
        return self._times(dataset).measure(self._timed_runs(dataset), given, report)

    def epochs(self, dataset: str) -> dict[str, int]:
        """How many epochs each entry trains on a data set, so that all train for as long."""
        assert self.suite.match is not None
        if dataset not in self._solved:
            runs = self._timed_runs(dataset)
            own = {name: int(options.get("epochs", TrainConfig.epochs)) for name, options in runs.items()}
            times = self._times(dataset).of(runs)
            self._solved[dataset] = solve_epochs(self.suite.match, self.suite.entries, times, own)
        return self._solved[dataset]

    def timings(self, dataset: str) -> list[dict[str, Any]]:
        """For the report: each entry's step times, epochs and seconds; nothing where times are not made equal."""
        if not self._is_timed:
            return []
        times, epochs = self._times(dataset).of(self._timed_runs(dataset)), self.epochs(dataset)
        return [
            {"dataset": dataset, "entry": name, **asdict(found), "step_milliseconds": found.milliseconds}
            | {"spread": found.spread, "epochs": epochs[name], "seconds": epochs[name] * found.epoch_seconds}
            for name, found in times.items()
        ]

    def has_times(self, dataset: str) -> bool:
        """Whether the runs on a data set can begin: trials are done, and times measured where they are made equal."""
        if not self._is_timed:
            return True
        trials = [job for entry in self.suite.entries for job in self.trial_jobs(dataset, entry)]
        if not all(job.is_done or job.has_diverged for job in trials):
            return False
        return not self._times(dataset).missing(self._timed_runs(dataset))

    @cached_property
    def _solved(self) -> dict[str, dict[str, int]]:
        """Epochs by data set, as far as they have been worked out."""
        return {}

    def _timed_runs(self, dataset: str) -> dict[str, dict[str, Any]]:
        return {entry.name: self._final_options(dataset, entry) for entry in self.suite.entries}

    def _times(self, dataset: str) -> Times:
        return Times(self.folder / "times" / f"{dataset}.json")

    def _folder_of(self, dataset: str) -> str | None:
        """Where the images lie, if the suite names a folder of them so."""
        folder = self.suite.folders.get(dataset)
        return None if folder is None else str((self.home / Path(folder).expanduser()).resolve())

    def _images(self, dataset: str) -> tuple[str | None, str | None]:
        """Where the images lie, and what tells whether they are others; nothing of a registered data set."""
        return self._folder_of(dataset), self._states.get(dataset)

    @cached_property
    def _states(self) -> dict[str, str]:
        """The state of each folder of images, once for all runs: it takes a look at every file."""
        used = {dataset: self._folder_of(dataset) for dataset in self.suite.datasets}
        return {dataset: state_of(Path(folder)) for dataset, folder in used.items() if folder is not None}

    def _options(self, dataset: str, entry: Entry, settings: dict[str, Any], budget: dict[str, Any]) -> dict[str, Any]:
        """Those of the training script."""
        of_training, of_model = split(settings, entry)
        of_training = {**self.suite.recipe, **entry.recipe, **of_training, **budget}
        return {
            "dataset": "folder" if dataset in self.suite.folders else dataset,
            "model": entry.model,
            "model_options": self._matched(dataset, entry.model, {**entry.options, **of_model}, of_training),
            **of_training,
        }

    def _matched(
        self, dataset: str, model: str, options: dict[str, Any], of_training: dict[str, Any]
    ) -> dict[str, Any]:
        """``matched_options``, worked out once: measured times differ from one measurement to the next."""
        match = self.suite.match
        kind, root = "folder" if dataset in self.suite.folders else dataset, self._folder_of(dataset) or self.data_root
        shape, classes = images_of(kind, root, of_training.get("image_size"))
        path = self.folder / "widths.json"
        known: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        size = {"by": match.size, "target": match.target} if match and match.size else None
        what: list[Any] = [model, options, shape, len(classes), size]
        step = Step.of(of_training)
        if match and match.size == "step_time":
            what.append(asdict(step))
        key = json.dumps(what)
        if key not in known:
            known[key] = matched_options(model, options, match, shape, len(classes), step)
            write_record(path, known)
        return known[key]


def state_of(root: Path) -> str:
    """Where a folder of images lies, and a digest of the names and sizes of its pictures.

    Raises:
        DataError: There are no pictures, or in folders that can be read in two ways.
    """
    digest = hashlib.sha256()
    for part, folder in find_parts(root)[0].items():
        for label, pictures in list_pictures(folder)[0].items():
            for path in pictures:
                what = [part, label, path.relative_to(folder).as_posix(), path.stat().st_size]
                digest.update(json.dumps(what).encode())
    return f"{root} {digest.hexdigest()[:12]}"


@cache
def images_of(dataset: str, data_root: str | None, image_size: int | None) -> tuple[tuple[int, int, int], list[str]]:
    """The shape of the images that a run of this size sees, and the names of their classes."""
    data = ImageData(dataset, data_root=data_root, image_size=image_size)
    data.setup()
    return data.image_shape, data.class_names
