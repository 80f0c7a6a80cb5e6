"""Runs that go on: with what configuration, from which checkpoint, and whether there is anything left to do."""

import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.common.cli import UserError
from experiments.common.ranks import rank
from experiments.common.records import read_record
from experiments.common.train_config import TrainConfig, stored_config

# What reading a file raises that is no checkpoint, or no longer one.
DAMAGE = (
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
CHECKPOINTS = ("last.ckpt", "previous.ckpt")  # the later first
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
    checkpoint, done = latest_checkpoint(folder / "checkpoints")
    if "epochs" in options and config.epochs <= done:
        raise UserError(f"epochs must be more than the {done} that {folder} has done, got {config.epochs}")
    if "epochs" in options:
        stored = replace(stored, epochs=config.epochs, continued=stored.continued | {done: config.on_resume})
    elif is_finished(folder, stored):
        raise UserError(
            f"{folder} is finished: its results are in {folder / 'result.json'}; with --epochs it trains longer"
        )
    return stored, folder, checkpoint


def latest_checkpoint(folder: Path) -> tuple[Path | None, int]:
    """The last checkpoint that can be read, and how many epochs of training are in it; None, and 0, without any.

    Raises:
        UserError: There are some, and none can be read.
    """
    damage: UserError | None = None
    for name in CHECKPOINTS:
        path = folder / name
        try:
            done = int(read_checkpoint(path)["epoch"]) + 1 if path.exists() else 0
        except UserError as error:
            damage = damage or error
            continue
        if done and damage and not rank():
            print(f"{damage}: going on from the one before it, {name}, of epoch {done}", flush=True)
        if done:
            return path, done
    if damage is not None:
        raise UserError(f"{damage}; remove {folder} to begin anew") from damage
    return None, 0


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU. Nothing in it is run.

    Raises:
        UserError: It cannot be read, or is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look whether parts are as they were written
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"its part {damaged} has been damaged")
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if not {"epoch", "state_dict"} <= set(checkpoint):
            raise ValueError("it holds no epoch of training")
    except DAMAGE as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is not a readable checkpoint ({reason})") from error
    return checkpoint


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
