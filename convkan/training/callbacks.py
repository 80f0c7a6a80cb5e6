"""What is noted while training goes on."""

import csv
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from convkan.training.classifier import Classifier
from convkan.training.files import write_atomically


class History(Callback):
    """One row of figures an epoch, kept across resumption, written to ``history.csv`` and printed with the time left.

    Each row has the epoch (from 1), ``{train,val}_{loss,accuracy}``, ``val_balanced_accuracy`` if the module logs it,
    the learning rate, and three durations in
    seconds: ``epoch_seconds`` (training part of the epoch), of it ``input_seconds`` waiting for batches and in the
    loop between steps, and ``total_seconds`` with validation.

    Args:
        path: The CSV file.

    Attributes:
        rows: The epochs so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """The rows, for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of a checkpoint."""
        self.rows = list(state_dict["rows"])

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clocks."""
        self._epoch_start = self._step_end = time.perf_counter()
        self._input_seconds = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time since the last step as input."""
        self._input_seconds += time.perf_counter() - self._step_end

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note when the step ended."""
        self._step_end = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add this epoch's row."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if isinstance(pl_module, Classifier):  # whose own figures of this epoch are logged after this hook
            metrics |= {name: float(pl_module.metrics[name].compute()) for name in ("train_loss", "train_accuracy")}
        row = {
            "epoch": trainer.current_epoch + 1,
            **{name: metrics[name] for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")},
            **{name: metrics[name] for name in ("val_balanced_accuracy",) if name in metrics},
            "learning_rate": trainer.optimizers[0].param_groups[-1]["lr"],  # coefficients, which may differ, come first
            "epoch_seconds": self._step_end - self._epoch_start,
            "input_seconds": self._input_seconds,
            "total_seconds": time.perf_counter() - self._epoch_start,
        }
        self.rows.append(row)
        self._publish(trainer, row)

    @rank_zero_only
    def _publish(self, trainer: L.Trainer, row: dict[str, float]) -> None:
        def write(partial: Path) -> None:
            with partial.open("w", newline="") as file:
                table = csv.DictWriter(file, fieldnames=list(row))
                table.writeheader()
                table.writerows(self.rows)

        write_atomically(self.path, write)
        max_epochs = trainer.max_epochs or 0
        remaining = (max_epochs - row["epoch"]) * row["total_seconds"]
        line = (
            f"epoch {row['epoch']:.0f}/{max_epochs}  train loss {row['train_loss']:.4f}  "
            f"val accuracy {row['val_accuracy']:.2%}  {row['total_seconds']:.1f} s  "
            f"left {_clock(remaining)}"
        )
        bar = trainer.progress_bar_callback
        if bar is None:
            print(line, flush=True)
        else:
            bar.print(line)


def checkpoints(folder: Path, first_epoch: int = 0, by: str = "val_accuracy") -> list[Callback]:
    """Callbacks that keep ``best-*.ckpt``, of the best epoch, and ``last.ckpt``, of the last finished one.

    Args:
        folder: Where they are kept.
        first_epoch: The first epoch, counted from 0, that may be the best: where grids grow, the one from which the
            model is as it is meant to be.
        by: The logged figure that is highest in the best epoch.
    """
    return [_Best(folder, first_epoch, by), _Last(folder)]


def early_stopping(patience: int, first_epoch: int = 0, by: str = "val_accuracy") -> Callback:
    """A callback that stops training after ``patience`` epochs without a better one.

    Args:
        patience: That many.
        first_epoch: The first epoch, counted from 0, that counts.
        by: The logged figure that is higher in a better epoch.
    """
    return _EarlyStopping(patience, first_epoch, by)


class _Best(ModelCheckpoint):
    def __init__(self, folder: Path, first_epoch: int, by: str) -> None:
        super().__init__(
            dirpath=folder,
            filename="best-{epoch}",
            monitor=by,
            mode="max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.first_epoch = first_epoch

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        return trainer.current_epoch >= self.first_epoch and super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if not Path(self.best_model_path).is_file():  # a better epoch replaced it, and was lost before it was the last
            self.best_model_path = self.kth_best_model_path = ""
            self.best_model_score, self.best_k_models = None, {}


class _Last(ModelCheckpoint):
    """Every epoch: ``save_last`` of the callback above would leave out those that are not the best."""

    def __init__(self, folder: Path) -> None:
        super().__init__(dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)


class _EarlyStopping(EarlyStopping):
    def __init__(self, patience: int, first_epoch: int, by: str) -> None:
        super().__init__(by, mode="max", patience=patience, check_on_train_epoch_end=True)
        self.first_epoch = first_epoch

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:  # it had stopped, and was taken up again
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch >= self.first_epoch:
            super().on_train_epoch_end(trainer, pl_module)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
