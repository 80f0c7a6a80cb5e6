"""A trial: one run of the training script, looked on while it trains, and stopped if it is worse than others."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from convkan.training import write_text
from convkan.training.datasets import DATA_ROOT_VARIABLE
from experiments.common.cli import UserError
from experiments.common.folders import claimed
from experiments.common.parent import Child, can_fork, fork_child, release, start_child
from experiments.common.records import DIVERGED, read_record
from experiments.common.spaces import applies, chosen, distribution
from experiments.tune.config import TuneConfig
from experiments.tune.storage import FAILURE

POLL_SECONDS = 0.2
LAST_LINES = 3
FOLDER = "folder"  # of a trial, by the number of the one that it takes up


class TrialFailedError(Exception):
    """A run ended without a record."""


def suggested(trial: optuna.Trial, config: TuneConfig) -> dict[str, Any]:
    """The settings of a trial: the model first, since others may be options of it."""
    settings: dict[str, Any] = {}
    for name in sorted(config.space, key=lambda name: name != "model"):
        model = settings.get("model", config.models[0])
        if applies(name, model):
            choice = config.space[name]
            settings[name] = chosen(choice, _drawn(trial, name, distribution(f"space.{name}", choice)))
    return settings


def _drawn(trial: optuna.Trial, name: str, space: BaseDistribution) -> Any:
    match space:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, space.choices)
        case IntDistribution():
            return trial.suggest_int(name, space.low, space.high, log=space.log)
        case FloatDistribution():
            return trial.suggest_float(name, space.low, space.high, log=space.log)
    raise AssertionError(space)


def run_trial(trial: optuna.Trial, config: TuneConfig, threads: int, begun: int | None) -> float:
    """Train with a trial's settings.

    Args:
        trial: The trial, which is told the accuracy in validation after each epoch.
        config: What is searched.
        threads: Of the processor, unless the recipe says how many.
        begun: The number of the trial that it takes up where a worker that was killed left it; None for a new one.

    Returns:
        The highest accuracy in validation, plain or balanced.

    Raises:
        optuna.TrialPruned: It is worse than others, or its loss became infinite.
        TrialFailedError: Its run failed; the message ends with the last lines of its log.
    """
    options = config.options_of(suggested(trial, config))
    number = trial.number if begun is None else begun
    folder = config.folder / "trials" / f"{number:04d}"
    trial.set_user_attr(FOLDER, folder.name)
    log = config.folder / "logs" / f"{folder.name}.log"
    started = time.perf_counter()
    if not _is_done(folder):
        process = _start(folder, {"threads": threads, **options}, log, config, is_new=begun is None)
        try:
            _look_on(trial, process, folder, config)
        finally:
            process.terminate()
            process.wait()
            if isinstance(process, subprocess.Popen):
                release(process)
    trial.set_user_attr("seconds", round(time.perf_counter() - started, 1))
    if _is_done(folder):
        record = read_record(folder / "result.json")
        trial.set_user_attr("parameters", record["parameters"])
        return float(record[config.chosen_by])
    if (folder / DIVERGED).exists():
        trial.set_user_attr("diverged", True)
        raise optuna.TrialPruned("its loss became infinite")
    last = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
    failure = f"trial {trial.number} failed (status {process.returncode}); {log} ends with: {last or 'nothing'}"
    trial.set_user_attr(FAILURE, failure)
    raise TrialFailedError(failure)


def _look_on(trial: optuna.Trial, process: Child, folder: Path, config: TuneConfig) -> None:
    """Tell the trial of each epoch until its run has ended, or is to be stopped."""
    told = 0
    while True:
        has_ended = process.poll() is not None
        rows = _history(folder)
        for row in rows[told:]:
            trial.report(float(row[config.chosen_by]), step=int(float(row["epoch"])))
        if len(rows) > told and not has_ended and trial.should_prune():
            raise optuna.TrialPruned(f"after {len(rows)} epochs")
        told = len(rows)
        if has_ended:
            return
        time.sleep(POLL_SECONDS)


def _history(folder: Path) -> list[dict[str, str]]:
    try:
        text = (folder / "history.csv").read_text(encoding="utf-8")
    except OSError:  # there is none yet
        return []
    return list(csv.DictReader(text.splitlines()))


def _is_done(folder: Path) -> bool:
    return (folder / "result.json").exists()


def _start(folder: Path, options: dict[str, Any], log: Path, config: TuneConfig, is_new: bool) -> Child:
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    if config.data_root is not None:
        environment[DATA_ROOT_VARIABLE] = config.data_root
    if config.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = str((config.slot or 0) % config.gpus)
    options |= {"test": False, "runs_root": str(folder.parent), "run_name": folder.name}
    command = [sys.executable, "-m", "experiments.train"]
    if (folder / "config.yaml").exists():
        if is_new:
            raise UserError(f"{folder} is of another study of this name: remove it, or choose another --name")
        command += ["--resume", str(folder)]
    else:
        with claimed(folder):  # which removes it if a run was killed before it wrote anything
            pass
        path = config.folder / "configs" / f"{folder.name}.yaml"
        write_text(path, yaml.safe_dump(options, sort_keys=False))
        command += ["--config", str(path)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        if config.gpus or not can_fork():
            return start_child(command, environment, output)
        return fork_child(command, environment, output)
