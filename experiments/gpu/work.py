"""The options of the command, and what each of its parts is handed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.common.cli import UserError

# Of a part: all of it was done; its time ran out, and the next call goes on; it ended by itself; it cannot be had here.
State = Literal["done", "cut", "failed", "skipped"]
SECONDS_BETWEEN_RECORDS = 1.0


@dataclass(frozen=True)
class GpuConfig:
    """What to do, and where.

    Attributes:
        device: cuda, or cpu, on which the same is tried in small sizes.
        parts: Of correctness, benchmark, memory, train and tests (the test suite), those to do, separated by commas.
        quick: Small sizes; on a CPU they are always small.
        minutes: How long all parts together may take.
        only: Workloads of the benchmark by name, separated by commas, with * for any text.
        dataset: cifar10, or digits, which comes with scikit-learn; by default digits in small sizes, else cifar10.
        epochs: Passes over the training part; by default as many as fit, at most those of the configuration.
        data_root: Where data sets lie; by default the environment variable CONVKAN_DATA, or ./data.
        out: Folder for everything.
    """

    device: Literal["cuda", "cpu"] = "cuda" if torch.cuda.is_available() else "cpu"
    parts: str = "correctness,benchmark,memory,train"
    quick: bool = False
    minutes: float = 8.0
    only: str = "*"
    dataset: Literal["cifar10", "digits"] | None = None
    epochs: int | None = None
    data_root: str | None = None
    out: str = "runs/gpu"

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device must be there, got cuda: torch sees no GPU here; --device cpu tries all on the CPU")
        if not self.minutes > 0:
            raise UserError(f"minutes must be positive, got {self.minutes}")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"epochs must be at least 1, got {self.epochs}")

    @property
    def small(self) -> bool:
        """Whether sizes are small."""
        return self.quick or self.device == "cpu"


@dataclass
class Work:
    """What a part is handed.

    Attributes:
        config: The options.
        folder: Where everything goes.
        found: What the part found, earlier calls included; it is filled here, in terms of JSON.
        deadline: When the part is to end, by ``time.monotonic``.
        write: Writes the record, ``found`` and all.
    """

    config: GpuConfig
    folder: Path
    found: dict[str, Any]
    deadline: float
    write: Callable[[], None]
    _written: float = 0.0

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    def note(self) -> None:
        """Write the record, unless it was written a moment ago; it is written at the end of the part anyway."""
        if time.monotonic() - self._written > SECONDS_BETWEEN_RECORDS:
            self.write()
            self._written = time.monotonic()


@dataclass(frozen=True)
class Outcome:
    """How a part ended.

    Attributes:
        state: See ``State``.
        summary: What came out, in a line.
        failures: What was found to be wrong, a line each.
    """

    state: State
    summary: str
    failures: tuple[str, ...] = ()
