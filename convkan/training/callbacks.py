"""What is noted while training goes on."""

import csv
import math
import statistics
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.utilities import rank_zero_only
from torch.optim.lr_scheduler import LambdaLR

from convkan.files import write_atomically
from convkan.optim import set_rates
from convkan.training.classifier import Classifier
from convkan.training.compiling import CompileWatch

FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
# Between lines within an epoch, where there is no bar.
LINE_SECONDS = 30.0
COMPILING = (
    "what the layers compute is being compiled, which takes from seconds to minutes: once, since later runs find it "
    "in a cache"
)


class History(Callback):
    """One row of figures an epoch, kept across resumption, written to ``history.csv`` and printed with the time left.

    Each row has the epoch (from 1), ``{train,val}_{loss,accuracy}`` (NaN for what the module does not log, and for an
    epoch without validation), ``val_balanced_accuracy`` if the module logs it,
    the learning rate, and durations in seconds: ``epoch_seconds`` (the training part of the epoch, in steady steps), of
    it ``input_seconds`` waiting for batches and in the loop between steps, ``compile_seconds``, by which the first
    step, and those in which torch compiled something, took longer than the others, and which it compiled in validation,
    and ``total_seconds``: all of it.

    Long epochs are reported on now and then where there is no bar, and compilation before it begins.

    Args:
        path: The CSV file.

    Attributes:
        rows: The epochs so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._compilations = CompileWatch(lambda: self._say(COMPILING))
        self._trainer: L.Trainer | None = None
        self._has_stepped = self._has_validated = False
        self._last_line = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """The rows, for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of a checkpoint."""
        self.rows = list(state_dict["rows"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Watch the compiler."""
        self._trainer = trainer
        self._compilations.start()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Watch it no longer."""
        self._compilations.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Watch it no longer."""
        self._compilations.stop()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clocks."""
        self._epoch_start = self._step_end = self._last_line = time.perf_counter()
        self._input_seconds = 0.0
        self._steps: list[float] = []
        self._slow_steps: list[float] = []
        self._compiled = self._compilations.count
        self._has_validated = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that this epoch has figures of validation; those of an earlier one stay where Lightning keeps them."""
        self._has_validated = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time since the last step as input."""
        self._input_seconds += time.perf_counter() - self._step_end

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note how long the step took, with its input, and tell how far the epoch is."""
        now = time.perf_counter()
        compiled = self._compilations.count > self._compiled or not self._has_stepped
        (self._slow_steps if compiled else self._steps).append(now - self._step_end)
        self._step_end, self._compiled, self._has_stepped = now, self._compilations.count, True
        self._compiled_in_steps = self._compilations.seconds
        if trainer.progress_bar_callback is None and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            self._say(self._within_epoch(trainer, batch_idx + 1))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add this epoch's row."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if isinstance(pl_module, Classifier):  # whose own figures of this epoch are logged after this hook
            metrics |= {name: float(pl_module.metrics[name].compute()) for name in ("train_loss", "train_accuracy")}
        if not self._has_validated:
            metrics = {name: math.nan if name.startswith("val_") else value for name, value in metrics.items()}
        row = {
            "epoch": trainer.current_epoch + 1,
            **{name: metrics.get(name, math.nan) for name in FIGURES},
            **{name: metrics[name] for name in ("val_balanced_accuracy",) if name in metrics},
            "learning_rate": trainer.optimizers[0].param_groups[-1]["lr"],  # coefficients, which may differ, come first
            "epoch_seconds": self._step_end - self._epoch_start - self._lost_in_steps(),
            "input_seconds": self._input_seconds,
            "compile_seconds": self._lost_in_steps() + self._compilations.seconds - self._compiled_in_steps,
            "total_seconds": time.perf_counter() - self._epoch_start,
        }
        self.rows.append(row)
        self._publish(trainer, row)

    @rank_zero_only
    def _publish(self, trainer: L.Trainer, row: dict[str, float]) -> None:
        def write(partial: Path) -> None:
            with partial.open("w", newline="", encoding="utf-8") as file:
                columns = dict.fromkeys(name for row in self.rows for name in row)  # an epoch may lack some
                table = csv.DictWriter(file, fieldnames=list(columns), restval=math.nan)
                table.writeheader()
                table.writerows(self.rows)

        write_atomically(self.path, write)
        max_epochs = trainer.max_epochs or 0
        remaining = (max_epochs - row["epoch"]) * (row["total_seconds"] - row["compile_seconds"])
        parts = [f"epoch {row['epoch']:.0f}" + (f"/{max_epochs}" if max_epochs > 0 else "")]
        parts.append(f"train loss {row['train_loss']:.4f}")
        if self._has_validated:
            parts.append(f"val accuracy {row['val_accuracy']:.2%}")
        parts.append(f"{row['total_seconds']:.1f} s")
        if max_epochs > 0:
            parts.append(f"left {clock(remaining)}")
        self._say("  ".join(parts))

    def _lost_in_steps(self) -> float:
        """By how much this epoch's slow steps took longer than steady ones; 0 where there are none to compare with."""
        if not self._steps:
            return 0.0
        steady = statistics.median(self._steps)
        return sum(max(0.0, seconds - steady) for seconds in self._slow_steps)

    def _within_epoch(self, trainer: L.Trainer, done: int) -> str:
        """How far an epoch is, and when all will be done, as far as can be told."""
        steps, epoch, epochs = int(trainer.num_training_batches), trainer.current_epoch, trainer.max_epochs or 0
        pace = statistics.mean(self._steps or self._slow_steps)
        whole = pace * steps
        if self.rows:
            whole = self.rows[-1]["total_seconds"] - self.rows[-1].get("compile_seconds", 0.0)
        left = pace * (steps - done) + whole * (epochs - epoch - 1)
        return f"epoch {epoch + 1}/{epochs}  step {done}/{steps}  left {clock(left)}"

    @rank_zero_only
    def _say(self, line: str) -> None:
        bar = self._trainer.progress_bar_callback if self._trainer is not None else None
        if bar is None:
            print(line, flush=True)
        else:
            bar.print(line)


class FollowSchedule(Callback):
    """At the start of training, also where it is taken up, sets the learning rates to what their schedule says.

    A checkpoint brings the rates of the schedule that it was trained by, which another number of epochs changes.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set them."""
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, LambdaLR):
                set_rates(config.scheduler)


def early_stopping(
    patience: int, first_epoch: int = 0, anew: Collection[int] = (), by: str = "val_accuracy"
) -> Callback:
    """A callback that stops training after ``patience`` epochs without a better one.

    Args:
        patience: That many.
        first_epoch: The first epoch, counted from 0, that counts.
        anew: Epochs, counted from 0, from which patience begins anew.
        by: The logged figure that is higher in a better epoch.
    """
    return _EarlyStopping(patience, first_epoch, anew, by)


class _EarlyStopping(EarlyStopping):
    def __init__(self, patience: int, first_epoch: int, anew: Collection[int], by: str) -> None:
        super().__init__(by, mode="max", patience=patience, check_on_train_epoch_end=True)
        self.first_epoch, self.anew, self._has_validated = first_epoch, anew, False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch in self.anew:
            self.wait_count = 0
        if self.wait_count >= self.patience:  # it had stopped, and was taken up again
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._has_validated = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._has_validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch >= self.first_epoch and self._has_validated:
            super().on_train_epoch_end(trainer, pl_module)


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds.

    Example:
        >>> clock(59.7), clock(3725)
        ('1:00', '1:02:05')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
