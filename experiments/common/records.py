"""The record that a run leaves behind: what ran, where, and what came out."""

import base64
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from convkan.training import write_text
from experiments.common.cli import UserError

DIVERGED = "diverged.txt"  # what a run leaves in place of a record if its loss became infinite
# What of a run's record goes with its weights.
PUBLISHED = (
    "test_accuracy",
    "val_accuracy",
    "parameters",
    "multiply_adds",
    "epochs",
    "best_epoch",
    "seed",
    "git_commit",
)
PACKAGES = ("convkan-vision", "torch", "torchvision", "lightning", "torchmetrics", "numpy")


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, in one step.

    Raises:
        OSError: It cannot be written.
    """
    write_text(path, json.dumps(record, indent=2) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """A record that ``write_record`` wrote.

    Raises:
        UserError: It is missing, or cannot be read.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable record: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is not a readable record: it must be a mapping, got {type(record).__name__}")
    return record


def published(record: dict[str, Any]) -> dict[str, Any]:
    """What of a run's record goes with its weights, and what data they have seen."""
    return {key: record[key] for key in PUBLISHED if key in record} | {"dataset": record["config"]["dataset"]}


def packed(flags: Bool[Tensor, " count"]) -> str:
    """Booleans as text, six of them a character; see ``unpacked``."""
    return base64.b64encode(np.packbits(flags.cpu().numpy()).tobytes()).decode()


def unpacked(text: str, count: int) -> Bool[np.ndarray, " count"]:
    """The booleans that ``packed`` wrote."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8), count=count).astype(bool)


def environment(device: torch.device) -> dict[str, Any]:
    """The commit and package versions of this process, and the device it computes on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"
    return {
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES},
        "device": name,
        "threads": torch.get_num_threads(),
    }


def git_commit() -> str | None:
    """The commit of the code, with "+" if it was changed since; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
