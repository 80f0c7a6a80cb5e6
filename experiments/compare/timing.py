"""How long training steps take, of several runs in turn, so that whatever else the machine does slows all alike."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from convkan.models import freeze_body
from convkan.training import Classifier
from experiments.common.beginning import begin
from experiments.common.train_config import TrainConfig, data_of
from experiments.common.trainer import interruptible, silence_lightning

ROUNDS = 5
WARM_UP = 3  # steps of each round that do not count: caches are cold, kernels may be compiled
MOST_STEPS = 40  # of a round
ROUND_SECONDS = 3.0  # about which a round takes, whatever a step does
LARGE_SPREAD = 0.1  # between rounds, in shares of the median
MOST_LOAD = 0.1  # of the machine, by others


@dataclass(frozen=True)
class StepTimes:
    """How long a training step of one run takes, its input included.

    Attributes:
        rounds: The median of each round, in milliseconds.
        steps_per_epoch: Steps of an epoch.
        others: The share of the processors that other processes kept busy meanwhile; None where none can tell.
        device: What computed.
    """

    rounds: list[float]
    steps_per_epoch: int
    others: float | None
    device: str

    @property
    def milliseconds(self) -> float:
        """The median over rounds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """How far rounds lie apart, as a share of their median."""
        return (max(self.rounds) - min(self.rounds)) / self.milliseconds

    @property
    def epoch_seconds(self) -> float:
        """The steps of an epoch."""
        return self.milliseconds * self.steps_per_epoch / 1000

    def doubts(self, name: str) -> list[str]:
        """Why the times of ``name`` may not be those of a machine that does nothing else, a line each."""
        lines = []
        if self.others is not None and self.others > MOST_LOAD:
            lines.append(
                f"Times of {name} were measured while others kept {self.others:.0%} of the processors busy: on an idle "
                "machine they may be others."
            )
        if self.spread > LARGE_SPREAD:
            lines.append(f"Times of {name} differ by {self.spread:.0%} between rounds of measurement.")
        return lines


def time_steps(
    runs: Mapping[str, TrainConfig], report: Callable[[str], None] = lambda now: None
) -> dict[str, StepTimes]:
    """Measure steps of runs as they will be: with their data, model, recipe and device, under Lightning.

    Each round goes through all runs, so that none has a quieter machine than the others.

    Args:
        runs: By what to call them, their configurations.
        report: Told what is measured now.
    """
    silence_lightning()
    threads = torch.get_num_threads()
    subjects = {}
    times: dict[str, list[float]] = {name: [] for name in runs}
    with OtherLoad() as load:
        try:
            for name, config in runs.items():
                report(f"steps of {name}, warm-up")
                subjects[name] = _Subject(config)
            for number in range(ROUNDS):
                for name, subject in subjects.items():
                    report(f"steps of {name}, round {number + 1} of {ROUNDS}")
                    times[name].append(1000 * statistics.median(subject.steps()))
        finally:
            torch.set_num_threads(threads)
    return {
        name: StepTimes(times[name], subject.steps_per_epoch, load.share, subject.device)
        for name, subject in subjects.items()
    }


class _Subject:
    """One run, of which some steps are taken now and then."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.data = data_of(config, config.seed)
        model, _ = begin(config, self.data)
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        if config.freeze_body:
            freeze_body(model)
        if config.compile:
            model.compile()
        self.classifier = Classifier(
            model, len(self.data.class_names), config.recipe(), config.seed, self.data.train.labels
        )
        self.steps_per_epoch = len(self.data.train_dataloader())
        self.device = ""
        self.count = 1
        first = statistics.median(self.steps())  # which also compiles what is to be compiled
        self.count = max(3, min(MOST_STEPS, round(ROUND_SECONDS / first)))

    def steps(self) -> list[float]:
        """Seconds of so many steps."""
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        clock = _StepClock()
        trainer = L.Trainer(
            accelerator=self.config.accelerator,
            devices=1,
            precision=self.config.precision,  # type: ignore[arg-type]
            max_steps=WARM_UP + self.count,
            max_epochs=-1,
            limit_val_batches=0,
            gradient_clip_val=self.config.gradient_clip or None,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            reload_dataloaders_every_n_epochs=1,
        )
        with interruptible():
            trainer.fit(self.classifier, datamodule=self.data)
        device = trainer.strategy.root_device
        self.device = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return clock.seconds[WARM_UP:]


class _StepClock(Callback):
    """Notes the seconds of each step, with the wait for its batch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._end = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter()
        self.seconds.append(now - self._end)
        self._end = now


class OtherLoad:
    """Within a ``with`` block, how busy processes but this one, and those it waited for, keep the machine.

    Attributes:
        share: Of all processors, afterwards; None on systems without ``/proc/stat``.
    """

    share: float | None = None

    def __enter__(self) -> Self:
        self._start, self._own, self._busy = time.perf_counter(), _own_seconds(), _busy_seconds()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wall, own, busy = time.perf_counter() - self._start, _own_seconds() - self._own, _busy_seconds()
        if busy is not None and self._busy is not None and wall > 0:
            self.share = min(1.0, max(0.0, (busy - self._busy - own) / (wall * (os.cpu_count() or 1))))


def _own_seconds() -> float:
    """What this process and its loaders' workers, which have ended, have worked so far."""
    return sum(os.times()[:4])


def _busy_seconds() -> float | None:
    """What all processors together have worked so far."""
    try:
        user, nice, system, *_ = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
        return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
