"""Lightning's trainer as all runs have it."""

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from convkan.models import model_options
from convkan.training import (
    AdaptGrids,
    AtomicCheckpointIO,
    Classifier,
    FollowSchedule,
    History,
    ImageData,
    RefineGrids,
    checkpoints,
    early_stopping,
)
from experiments.common.cli import UserError
from experiments.common.train_config import TrainConfig

# Lightning's advice that does not apply, and torch's own notices: each is a line of noise in front of the results.
QUIET = (
    ".*does not have many workers.*",  # images come from memory; worker processes would only cost
    ".*number of training batches.*smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",  # as it must when a run is resumed
    r".*module\(s\) in eval mode at the start of training.*",  # a frozen body
    ".*treespec.*is deprecated.*",
    ".*jit.script.*is deprecated.*",
)


def build_trainer(config: TrainConfig, folder: Path, more: list[Callback]) -> tuple[L.Trainer, History]:
    """Lightning's trainer with our callbacks and logs."""
    history = History(folder / "history.csv")
    first = first_candidate_epoch(config)
    by = config.chosen_by
    callbacks: list[Callback] = [FollowSchedule(), *more, history, *checkpoints(folder / "checkpoints", first, by)]
    if config.early_stopping is not None:
        callbacks.append(early_stopping(config.early_stopping, first, config.continued, by))
    try:
        trainer = L.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            precision=config.precision,  # type: ignore[arg-type]
            max_epochs=config.epochs,
            gradient_clip_val=config.gradient_clip or None,
            callbacks=callbacks,
            logger=[CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard", version="")],
            plugins=[AtomicCheckpointIO()],
            reload_dataloaders_every_n_epochs=1,  # an epoch's order and augmentation follow from its number
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=sys.stderr is not None and sys.stderr.isatty(),  # none without a console
        )
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    return trainer, history


def first_candidate_epoch(config: TrainConfig) -> int:
    """The first epoch, counted from 0, that may be the best: the one in which grids have come to their last size."""
    if "grid_size" not in model_options(config.model):
        return 0
    return max((epoch for epoch in config.refine if epoch < config.epochs), default=0)


def grid_callbacks(config: TrainConfig, steps: int) -> list[Callback]:
    """What changes grids in a training of so many steps."""
    found: list[Callback] = []
    if config.adapt_every:
        until = max(1, steps // 2) if config.adapt_until is None else config.adapt_until
        found.append(AdaptGrids(config.adapt_every, until, config.adapt_eps))
    if config.refine:
        found.append(RefineGrids(config.refine))
    return found


def fit(trainer: L.Trainer, classifier: Classifier, data: ImageData, checkpoint: Path | None) -> None:
    """Train, from a checkpoint if there is one."""
    with interruptible():
        trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within a ``with`` block, Ctrl-C is the KeyboardInterrupt that Lightning makes an exit with status 1 of."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        if not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def best_checkpoint(trainer: L.Trainer) -> str:
    """Where the best epoch is kept."""
    callback = trainer.checkpoint_callback
    assert isinstance(callback, ModelCheckpoint)
    return callback.best_model_path


def silence_lightning() -> None:
    """Keep Lightning's notices out of the output."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
