"""The epochs of a training that are kept as checkpoints, as Lightning callbacks."""

import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from convkan.files import PARTIAL


def checkpoints(folder: Path, first_epoch: int = 0, by: str = "val_accuracy") -> list[Callback]:
    """Callbacks that keep ``best-*.ckpt``, of the best epoch, ``last.ckpt``, of the last finished one, and that before.

    The last but one, ``previous.ckpt``, is for when the disk has damaged the last.

    Args:
        folder: Where they are kept.
        first_epoch: The first epoch, counted from 0, that may be the best: where grids grow, the one from which the
            model is as it is meant to be.
        by: The logged figure that is highest in the best epoch.
    """
    return [_Best(folder, first_epoch, by), _Last(folder)]


class _Kept(ModelCheckpoint):
    """Goes on with the files in its own folder, which may have been moved or copied since."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return path and str(Path(str(self.dirpath), Path(path).name))

        paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": scores, "dirpath": self.dirpath})


class _Best(_Kept):
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
        # The file of the best epoch is gone if a better one replaced it and was lost before it was the last. With more
        # epochs the grids may grow once more, and those before that may no longer be the best.
        if not Path(self.best_model_path).is_file() or self._best_epoch() < self.first_epoch:
            self.best_model_path = self.kth_best_model_path = ""
            self.best_model_score, self.best_k_models = None, {}

    def _best_epoch(self) -> int:
        return int(Path(self.best_model_path).stem.rpartition("=")[2])


class _Last(_Kept):
    """Every epoch: ``save_last`` of the callback above would leave out those that are not the best."""

    def __init__(self, folder: Path) -> None:
        super().__init__(dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        if trainer.is_global_zero and Path(filepath).is_file():
            _keep(Path(filepath), Path(filepath).with_stem("previous"))
        super()._save_checkpoint(trainer, filepath)


def _keep(path: Path, name: Path) -> None:
    """Give a file that is to be replaced a second name, in place of what has it."""
    link = name.with_name(f"{PARTIAL}{os.getpid()}-{name.name}")
    try:
        link.hardlink_to(path)
        link.replace(name)
    except OSError:  # a file system without links: for a moment there is the older name alone
        path.replace(name)
    finally:
        link.unlink(missing_ok=True)
