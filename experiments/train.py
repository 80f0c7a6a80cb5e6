"""Train an image classifier: ``python -m experiments.train [--dataset NAME] [--model NAME] …``.

Bare, it trains a small KAN on the digits that come with scikit-learn, in under a minute. Everything a run leaves is in
``runs/NAME``: its configuration, record, weights, logs and pictures. A killed run goes on with ``--resume runs/NAME``.
"""

import logging
import math
import os
import pickle
import statistics
import sys
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn

from convkan.grid import spline_layers
from convkan.interpret.plot import plot_confusion, plot_edges, plot_learning_curves
from convkan.models import Description, example_input, model_options
from convkan.nn import KANLayer
from convkan.training import (
    AdaptGrids,
    AtomicCheckpointIO,
    Classifier,
    History,
    ImageData,
    RefineGrids,
    WatchCoverage,
    checkpoints,
    early_stopping,
    recalls,
    save_classifier,
    write_atomically,
)
from experiments.cli import UserError, parse, run
from experiments.parent import end_with_parent
from experiments.records import (
    count_multiply_adds,
    count_parameters,
    count_step_memory_bytes,
    environment,
    packed,
    peak_memory_bytes,
    write_record,
)
from experiments.run_data import check_data, note_data
from experiments.train_config import TrainConfig, data_of, stored_config

RUN_NAME_VARIABLE = "CONVKAN_RUN_NAME"
JUDGED = ("val_accuracy", "val_balanced_accuracy")  # what the record keeps of the best epoch

# Lightning's advice that does not apply, and torch's own notices: each is a line of noise in front of the results.
QUIET = (
    ".*does not have many workers.*",  # images come from memory; worker processes would only cost
    ".*number of training batches.*smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",  # as it must when a run is resumed
    ".*treespec.*is deprecated.*",
    ".*jit.script.*is deprecated.*",
)


def main() -> None:
    """Train, test and record one run."""
    end_with_parent()
    config = parse(TrainConfig, (__doc__ or "").splitlines()[0])
    if config.resume is None:
        config, folder = start(config)
        checkpoint = None
    else:
        config, folder, checkpoint = take_up(config)
    train(config, folder, checkpoint)


def start(config: TrainConfig) -> tuple[TrainConfig, Path]:
    """The folder of a new run, and the configuration with its name filled in."""
    started_by_another = os.environ.get(RUN_NAME_VARIABLE)  # one process a device: all belong to one run
    name = started_by_another or config.run_name or f"{config.dataset}-{config.model}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(config.runs_root) / name
    if folder.exists() and not started_by_another:
        raise UserError(
            f"run_name must be new, and {folder} exists: choose another name, or go on with --resume {folder}"
        )
    config.recipe()  # checked before anything is left on disk
    if config.devices > 1:
        os.environ[RUN_NAME_VARIABLE] = name
    return replace(config, run_name=name), folder


def take_up(config: TrainConfig) -> tuple[TrainConfig, Path, Path | None]:
    """The configuration and last checkpoint of an unfinished run."""
    folder = Path(str(config.resume))
    if any(argument.startswith("--") and not argument.startswith("--resume") for argument in sys.argv[1:]):
        raise UserError("--resume takes the run's own configuration: give no other options with it")
    if (folder / "result.json").exists():
        raise UserError(f"{folder} is finished: its results are in {folder / 'result.json'}")
    config = stored_config(folder)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if not checkpoint.exists():
        return config, folder, None
    try:
        torch.load(checkpoint, weights_only=True, map_location="cpu")
    except (EOFError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{checkpoint} is not a readable checkpoint: {error}") from error
    return config, folder, checkpoint


def train(config: TrainConfig, folder: Path, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train a model, test its best epoch once, and leave everything in ``folder``.

    Args:
        config: The configuration.
        folder: Where everything goes.
        checkpoint: Go on from here.

    Returns:
        The record that is also in ``folder/result.json``.
    """
    quieten()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    L.seed_everything(config.seed, verbose=False)
    data = data_of(config, config.seed)
    check_data(folder, data)
    channels, height, width = data.image_shape
    options = dict(config.model_options)
    if "image_size" in model_options(config.model):
        options.setdefault("image_size", [height, width])
    description = Description(config.model, channels, (height, width), data.class_names, data.mean, data.std, options)
    model = description.create()
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    steps = config.epochs * -(-len(data.train) // config.batch_size)
    watch = WatchCoverage(config.off_grid_warning)
    trainer, history = build_trainer(config, folder, [*grid_callbacks(config, steps), watch])
    device = trainer.strategy.root_device
    record: dict[str, Any] = {"config": asdict(config), "seed": config.seed, **environment(device)}
    record["images"] = data.counts()
    classifier = Classifier(model, len(data.class_names), config.recipe(), config.seed, data.train.labels)
    if trainer.is_global_zero:
        stored = yaml.safe_dump(asdict(config), sort_keys=False)
        write_atomically(folder / "config.yaml", lambda partial: partial.write_text(stored))
        print(
            f"{config.model} on {config.dataset}: {count_parameters(model):,} parameters, "
            f"{count_multiply_adds(model, example_input(description)):,} multiply-adds an image, "
            f"{len(data.train)} training, {len(data.val)} validation, {len(data.test)} test images"
        )
        for note in data.notes:
            print(note)
        note_data(folder, data)
        print(f"in {folder}; if it is stopped, go on with: python -m experiments.train --resume {folder}")
    if config.compile:
        model.compile()
    fit(trainer, classifier, data, checkpoint)

    best = torch.load(best_checkpoint(trainer), weights_only=True, map_location="cpu")
    classifier.load_state_dict(best["state_dict"])
    if config.test:  # of the weights alone: with a path, Lightning would take up the callbacks of that epoch, too
        [test] = trainer.test(classifier, datamodule=data, verbose=False)
        confusion = classifier.test_confusion.compute()  # on every device: it gathers
        record |= {**test, "confusion": confusion.tolist(), "test_recall": recall_of(confusion, data.class_names)}
        record["test_correct"] = packed(classifier.test_correct.compute() > 0)  # in the order of the test part
    if config.refine and "grid_size" in model_options(config.model):
        description = as_grown(description, model)
    trained = description.create()  # in single precision, whatever training made of it
    trained.load_state_dict(model.state_dict())
    if classifier.class_weights is not None:
        record["class_weights"] = dict(zip(data.class_names, classifier.class_weights.tolist(), strict=True))
    record |= {
        "parameters": count_parameters(trained),
        "multiply_adds": count_multiply_adds(trained, example_input(description)),
        **{name: figure for name, figure in history.rows[best["epoch"]].items() if name in JUDGED},
        "best_epoch": best["epoch"] + 1,
        "epochs": len(history.rows),
        "seconds_per_epoch": statistics.median([row["epoch_seconds"] for row in history.rows]),
        "input_seconds_per_epoch": statistics.median([row["input_seconds"] for row in history.rows]),
        "step_memory_bytes": count_step_memory_bytes(
            trained, example_input(description).repeat(config.batch_size, 1, 1, 1)
        ),
        "peak_memory_bytes": peak_memory_bytes(device),
        "off_grid": watch.off_grid,
    }
    if trainer.is_global_zero:
        save_classifier(folder / "model.safetensors", model, description)
        draw(folder, model, history, record.get("confusion"), data.class_names)
        write_record(folder / "result.json", record)  # last: its presence says that the run is finished
        tested = ""
        if config.test:
            tested = f"test accuracy {record['test_accuracy']:.2%} (balanced {record['test_balanced_accuracy']:.2%}), "
        print(
            f"{tested}validation {record['val_accuracy']:.2%} "
            f"(epoch {record['best_epoch']}), {record['parameters']:,} parameters, "
            f"{record['seconds_per_epoch']:.2f} s per epoch ({record['input_seconds_per_epoch']:.2f} s of it input)\n"
            f"results are in {folder}"
        )
    return record


def recall_of(confusion: Tensor, class_names: list[str]) -> dict[str, float | None]:
    """The share of each class's images that is classified right; None for a class without any."""
    shares = recalls(confusion).tolist()
    return {name: None if math.isnan(share) else share for name, share in zip(class_names, shares, strict=True)}


def as_grown(description: Description, model: nn.Module) -> Description:
    """The description of a model whose grids were refined, all to one size."""
    [size] = {layer.basis.grid_size for layer in spline_layers(model).values()}  # type: ignore[attr-defined]
    return replace(description, options=description.options | {"grid_size": size})


def build_trainer(config: TrainConfig, folder: Path, more: list[Callback]) -> tuple[L.Trainer, History]:
    """Lightning's trainer with our callbacks and logs."""
    history = History(folder / "history.csv")
    first = first_to_choose(config)
    callbacks: list[Callback] = [*more, history, *checkpoints(folder / "checkpoints", first, config.chosen_by)]
    if config.early_stopping is not None:
        callbacks.append(early_stopping(config.early_stopping, first, config.chosen_by))
    try:
        trainer = L.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
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
            enable_progress_bar=sys.stderr.isatty(),
        )
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    return trainer, history


def first_to_choose(config: TrainConfig) -> int:
    """The first epoch, counted from 0, that may be the best: the one in which grids have come to their last size."""
    if "grid_size" not in model_options(config.model):
        return 0
    return max((epoch for epoch in config.refine if epoch < config.epochs), default=0)


def grid_callbacks(config: TrainConfig, steps: int) -> list[Callback]:
    """What changes grids in a training of so many steps."""
    found: list[Callback] = []
    if config.adapt_every:
        until = config.adapt_until or max(1, steps // 2)
        found.append(AdaptGrids(config.adapt_every, until, config.adapt_eps))
    if config.refine:
        found.append(RefineGrids(config.refine))
    return found


def fit(trainer: L.Trainer, classifier: Classifier, data: ImageData, checkpoint: Path | None) -> None:
    """Train, from a checkpoint if there is one."""
    trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt


def best_checkpoint(trainer: L.Trainer) -> str:
    """Where the best epoch is kept."""
    callback = trainer.checkpoint_callback
    assert isinstance(callback, ModelCheckpoint)
    return callback.best_model_path


def draw(
    folder: Path, model: nn.Module, history: History, confusion: list[list[int]] | None, class_names: list[str]
) -> None:
    """The run's pictures: learning curves, confusion matrix, and the first KAN layer's functions."""
    figures = {"learning_curves": plot_learning_curves(history.rows)}
    if confusion is not None:
        figures["confusion_matrix"] = plot_confusion(torch.tensor(confusion), class_names)
    for name, layer in model.named_modules():
        if isinstance(layer, KANLayer):
            figures["edge_functions"] = plot_edges(layer, f"{type(layer).__name__} {name}")
            break
    for name, figure in figures.items():
        write_atomically(folder / f"{name}.png", figure.savefig)


def quieten() -> None:
    """Keep Lightning's notices out of the output."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)


if __name__ == "__main__":
    run(main)
