"""Train an image classifier: ``python -m experiments.train [--dataset NAME] [--model NAME] …``.

Bare, it trains a small KAN on the digits that come with scikit-learn, in under a minute. Everything a run leaves is in
``runs/NAME``: its configuration, record, weights, logs and pictures. A killed run goes on with ``--resume runs/NAME``,
and a finished one with ``--resume runs/NAME --epochs N``.
"""

import logging
import math
import os
import pickle
import signal
import statistics
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
    FollowSchedule,
    History,
    ImageData,
    RefineGrids,
    TrainingDivergedError,
    WatchCoverage,
    checkpoints,
    early_stopping,
    naming,
    recalls,
    save_classifier,
    write_atomically,
    write_text,
)
from experiments.cli import UserError, given, parse, run
from experiments.folders import claimed, new_folder, tidy
from experiments.parent import end_with_parent
from experiments.records import (
    DIVERGED,
    count_multiply_adds,
    count_parameters,
    count_step_memory_bytes,
    environment,
    packed,
    peak_memory_bytes,
    read_record,
    write_record,
)
from experiments.run_data import check_data, note_data
from experiments.train_config import TrainConfig, data_of, stored_config

RUN_NAME_VARIABLE = "CONVKAN_RUN_NAME"
JUDGED = ("val_accuracy", "val_balanced_accuracy")  # what the record keeps of the best epoch
GOING_ON = "python -m experiments.train --resume"
# What may be given with it.
RESUMING = ("resume", "epochs", "on_resume", "data_root")

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
    config = parse(TrainConfig, __doc__)
    with tidy(Path(config.runs_root)):
        if config.resume is None:
            config, folder = start(config)
            checkpoint = None
        else:
            config, folder, checkpoint = take_up(config)
        is_helper = int(os.environ.get("LOCAL_RANK", "0")) > 0  # one process a device: the first claims it for all
        try:
            with nullcontext() if is_helper else claimed(folder), naming(folder):
                train(config, folder, checkpoint)
        except KeyboardInterrupt:
            resumable = (folder / "config.yaml").exists()
            raise KeyboardInterrupt(f"go on with: {GOING_ON} {folder}" if resumable else "") from None


def start(config: TrainConfig) -> tuple[TrainConfig, Path]:
    """The folder of a new run, made for it alone, and the configuration with its name filled in.

    Raises:
        UserError: There is one of this name.
    """
    config.recipe()  # checked before anything is left on disk
    root = Path(config.runs_root)
    if config.run_name is not None and not is_below(config.run_name):
        raise UserError(f"run_name must be that of a folder within runs_root, got {config.run_name!r}")
    started_by_another = os.environ.get(RUN_NAME_VARIABLE)  # one process a device: all belong to one run
    if started_by_another:
        folder = root / started_by_another
    elif config.run_name is None:
        folder = new_folder(root, f"{config.dataset}-{config.model}")
    else:
        folder = root / config.run_name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise UserError(
                f"run_name must be new, and {folder} exists: choose another name, or go on with --resume {folder}"
            ) from None
    name = str(folder.relative_to(root))
    if config.devices > 1:
        os.environ[RUN_NAME_VARIABLE] = name
    return replace(config, run_name=name), folder


def is_below(name: str) -> bool:
    """Whether a folder of this name lies within the one that it is joined to."""
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts and name.isprintable()


def take_up(config: TrainConfig) -> tuple[TrainConfig, Path, Path | None]:
    """The configuration and last checkpoint of a run that is to go on.

    Raises:
        UserError: It is finished and given no more epochs, or options come with it that a run cannot change.
    """
    folder, options = Path(str(config.resume)), given(sys.argv[1:])
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
    checkpoint = folder / "checkpoints" / "last.ckpt"
    done = epochs_done(checkpoint) if checkpoint.exists() else 0
    if "epochs" in options and config.epochs <= done:
        raise UserError(f"epochs must be more than the {done} that {folder} has done, got {config.epochs}")
    if "epochs" in options:
        stored = replace(stored, epochs=config.epochs, continued=stored.continued | {done: config.on_resume})
    elif is_finished(folder, stored):
        raise UserError(
            f"{folder} is finished: its results are in {folder / 'result.json'}; with --epochs it trains longer"
        )
    return stored, folder, checkpoint if done else None


def epochs_done(checkpoint: Path) -> int:
    """How many epochs of training are in a checkpoint.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return int(torch.load(checkpoint, weights_only=True, map_location="cpu")["epoch"]) + 1
    except (EOFError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{checkpoint} is not a readable checkpoint: {error}") from error


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
    before = earlier_record(folder)
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
        write_text(folder / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
        print(
            f"{config.model} on {config.dataset}: {count_parameters(model):,} parameters, "
            f"{count_multiply_adds(model, example_input(description)):,} multiply-adds an image, "
            f"{len(data.train)} training, {len(data.val)} validation, {len(data.test)} test images"
        )
        for note in data.notes:
            print(note)
        note_data(folder, data)
        print(f"in {folder}; if it is stopped, go on with: {GOING_ON} {folder}")
    if config.compile:
        model.compile()
    (folder / DIVERGED).unlink(missing_ok=True)
    try:
        fit(trainer, classifier, data, checkpoint)
    except TrainingDivergedError as error:
        write_text(folder / DIVERGED, f"{error}\n")
        raise

    best = torch.load(best_checkpoint(trainer), weights_only=True, map_location="cpu")
    classifier.load_state_dict(best["state_dict"])
    if config.test:  # of the weights alone: with a path, Lightning would take up the callbacks of that epoch, too
        with interruptible():
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
        "compile_seconds": sum(row.get("compile_seconds", 0.0) for row in history.rows),
        "input_seconds_per_epoch": statistics.median([row["input_seconds"] for row in history.rows]),
        "step_memory_bytes": count_step_memory_bytes(
            trained, example_input(description).repeat(config.batch_size, 1, 1, 1)
        ),
        "peak_memory_bytes": peak_memory_bytes(device),
        "off_grid": watch.off_grid,
    }
    if before:  # the run was given more epochs: its test set has been seen by those who did
        kept = {key: before[key] for key in before if key in ("epochs", "best_epoch") or key.endswith("accuracy")}
        record["earlier"] = [*before.get("earlier", []), kept]
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
    by = config.chosen_by
    callbacks: list[Callback] = [FollowSchedule(), *more, history, *checkpoints(folder / "checkpoints", first, by)]
    if config.early_stopping is not None:
        callbacks.append(early_stopping(config.early_stopping, first, config.continued, by))
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
            enable_progress_bar=sys.stderr is not None and sys.stderr.isatty(),  # none without a console
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
