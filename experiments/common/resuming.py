"""Runs that go on: with what configuration, from which checkpoint, and whether there is anything left to do."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.common.cli import UserError
from experiments.common.records import read_record
from experiments.common.train_config import TrainConfig, stored_config

# What may be given with --resume.
RESUMING = ("resume", "epochs", "on_resume", "data_root")


def resume_run(config: TrainConfig, options: set[str]) -> tuple[TrainConfig, Path, Path | None]:
    """The configuration, the folder and the last checkpoint, if there is one, of a run that is to go on.

    Args:
        config: What the command line says.
        options: Which of it the user gave.

    Raises:
        UserError: It is finished and given no more epochs, or options come with it that a run cannot change.
    """
    folder = Path(str(config.resume))
    others = sorted(options.difference(RESUMING))
    if others:
        raise UserError(
            "--resume takes the run's own configuration; of it --epochs may be changed, and --on_resume says how, and "
            f"--data_root, where its images lie now: got {', '.join('--' + name for name in others)}"
        )
    if "on_resume" in options and "epochs" not in options:
        raise UserError("on_resume must come with --epochs: it says how the schedule goes on with another number")
    stored = stored_config(folder)
    if "data_root" in options:
        stored = replace(stored, data_root=config.data_root)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    done = epochs_done(checkpoint) if checkpoint.exists() else 0
    if "epochs" in options and config.epochs <= done:
        raise UserError(f"epochs must be more than the {done} that {folder} has done, got {config.epochs}")
    if "epochs" in options:
        stored = replace(stored, epochs=config.epochs, continued=stored.continued | {done: config.on_resume})
    elif is_finished(folder, stored):
        raise UserError(
            f"{folder} is finished: its results are in {folder / 'result.json'}; with --epochs it trains longer"
        )
    return stored, folder, checkpoint if done else None


def epochs_done(checkpoint: Path) -> int:
    """How many epochs of training are in a checkpoint.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return int(torch.load(checkpoint, weights_only=True, map_location="cpu")["epoch"]) + 1
    except (EOFError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{checkpoint} is not a readable checkpoint: {error}") from error


def earlier_record(folder: Path) -> dict[str, Any]:
    """The record in the folder of a run, which may be of fewer epochs than it is to have; empty without one.

    Raises:
        UserError: It cannot be read.
    """
    path = folder / "result.json"
    return read_record(path) if path.exists() else {}


def is_finished(folder: Path, config: TrainConfig) -> bool:
    """Whether the record in ``folder`` is of all epochs that the run is to have."""
    recorded = earlier_record(folder).get("config")
    continued = {str(epoch): how for epoch, how in config.continued.items()}
    return recorded is not None and recorded["epochs"] == config.epochs and recorded.get("continued", {}) == continued
