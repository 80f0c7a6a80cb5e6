"""Epochs by which all entries train for as long, from measured times of their steps."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any

from experiments.common.cli import UserError
from experiments.common.records import write_record
from experiments.common.train_config import TrainConfig
from experiments.compare.suite import Entry, Match
from experiments.compare.timing import StepTimes, time_steps

SLACK = 1e-6  # of an epoch, so that rounding of floats makes none


@dataclass(frozen=True)
class Timed:
    """An entry's times, and of what they are.

    Attributes:
        options: The run's options, but for the number of its epochs, which its steps do not depend on.
        times: How long its steps take.
    """

    options: dict[str, Any]
    times: StepTimes


class Times:
    """Measured times of a data set's entries, kept in a file.

    What has been measured once stays: another measurement would give other epochs to runs that are half done.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self._known = {name: Timed(found["options"], StepTimes(**found["times"])) for name, found in stored.items()}

    def missing(self, runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Those of the entries' options that have not been timed."""
        return {
            name: options
            for name, options in runs.items()
            if name not in self._known or self._known[name].options != timed_options(options)
        }

    def measure(
        self, runs: dict[str, dict[str, Any]], defaults: dict[str, Any], report: Callable[[str], None]
    ) -> list[str]:
        """Time what has not been timed, all of it in turn, and keep it in one step; returns doubts, a line each.

        Args:
            runs: By the names of entries, options of the training script.
            defaults: Those that runs are given besides, unless they have their own.
            report: Told what is measured now.
        """
        missing = self.missing(runs)
        if not missing:
            return []
        found = time_steps({name: TrainConfig(**defaults | options) for name, options in missing.items()}, report)
        self._known |= {name: Timed(timed_options(missing[name]), times) for name, times in found.items()}
        write_record(self.path, {name: asdict(timed) for name, timed in self._known.items()})
        return [line for name, times in found.items() for line in times.doubts(name)]

    def of(self, runs: dict[str, dict[str, Any]]) -> dict[str, StepTimes]:
        """The times of entries with these options.

        Raises:
            UserError: One has not been timed.
        """
        missing = self.missing(runs)
        if missing:
            raise UserError(f"{self.path} must have times of {', '.join(missing)}: run the suite first")
        return {name: self._known[name].times for name in runs}


def timed_options(options: dict[str, Any]) -> dict[str, Any]:
    """What a step's time depends on, as JSON has it."""
    plain: dict[str, Any] = json.loads(
        json.dumps({k: v for k, v in options.items() if k not in ("epochs", "data_root")})
    )
    return plain


def solve_epochs(
    match: Match, entries: list[Entry], times: dict[str, StepTimes], own: dict[str, int]
) -> dict[str, int]:
    """Epochs by which each entry trains for the time that ``match`` says.

    What is no whole number is rounded up for plain networks and down for others, so that rounding never favours a KAN.

    Args:
        match: With ``seconds``, or without, where the time is that of the entry which takes longest for its own epochs.
        entries: The entries.
        times: Times of their steps.
        own: Epochs of their own recipes.
    """
    seconds = match.seconds or max(own[entry.name] * times[entry.name].epoch_seconds for entry in entries)
    epochs = {}
    for entry in entries:
        exact = seconds / times[entry.name].epoch_seconds
        epochs[entry.name] = max(1, ceil(exact - SLACK) if entry.is_plain else floor(exact + SLACK))
    return epochs
