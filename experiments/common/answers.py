"""Which images of the validation part are right, epoch by epoch."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from convkan.training import Classifier
from experiments.common.records import packed


class ValidationAnswers(Callback):
    """Keeps which images of the validation part were right after each epoch, also across resumption.

    Attributes:
        by_epoch: For each epoch, counted from 0, a flag an image, as ``experiments.common.records.packed`` writes them.
    """

    def __init__(self) -> None:
        self.by_epoch: dict[int, str] = {}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note them, of weights as they were validated."""
        assert isinstance(pl_module, Classifier)
        self.by_epoch[trainer.current_epoch] = packed(pl_module.val_correct.compute() > 0)

    def state_dict(self) -> dict[str, Any]:
        """The answers so far, for the checkpoint."""
        return {"by_epoch": self.by_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up those of a checkpoint."""
        self.by_epoch = dict(state_dict["by_epoch"])
