"""Train an image classifier: ``python -m experiments.train [--dataset NAME] [--model NAME] …``.

Bare, it trains a small KAN on the digits that come with scikit-learn, in under a minute. Everything a run leaves is in
``runs/NAME``: its configuration, record, weights, logs and pictures. A killed run goes on with ``--resume runs/NAME``.
"""

import logging
import os
import pickle
import statistics
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from convkan.interpret.plot import plot_confusion, plot_edges, plot_learning_curves
from convkan.models import Description, example_input, model_options, suggested_learning_rate
from convkan.nn import KANLayer
from convkan.training import (
    AdaptGrids,
    AtomicCheckpointIO,
    Classifier,
    History,
    ImageData,
    Recipe,
    RefineGrids,
    WatchCoverage,
    checkpoints,
    save_classifier,
    write_atomically,
)
from convkan.training.data import Augmentation, Scaling
from experiments.cli import UserError, parse, run
from experiments.records import (
    count_multiply_adds,
    count_parameters,
    environment,
    packed,
    peak_memory_bytes,
    write_record,
)

RUN_NAME_VARIABLE = "CONVKAN_RUN_NAME"

# Lightning's advice that does not apply, and torch's own notices: each is a line of noise in front of the results.
QUIET = (
    ".*does not have many workers.*",  # images come from memory; worker processes would only cost
    ".*number of training batches.*smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",  # as it must when a run is resumed
    ".*treespec.*is deprecated.*",
    ".*jit.script.*is deprecated.*",
)


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how.

    Attributes:
        dataset: digits, mnist, fashion_mnist, cifar10, cifar100, or folder (a folder of images for each class).
        model: A name in convkan.models.list_models().
        model_options: The model's own options, as --model_options.NAME VALUE.
        epochs: Passes over the training part.
        batch_size: Images a step.
        optimizer: adamw, adam or sgd.
        learning_rate: Highest learning rate; by default the model's own.
        momentum: For sgd.
        schedule: cosine, one_cycle or constant.
        warmup_epochs: Epochs of linear warm-up.
        weight_decay: Decay of all weights but biases and normalisation.
        coefficient_decay: Decay of spline coefficients, if it differs.
        base_decay: Decay of base weights, if it differs.
        coefficient_penalty: Weight of the mean absolute coefficient in the loss.
        adapt_every: Steps between adaptations of the grids to the data; 0 for none.
        adapt_until: The last step at which grids are adapted; by default half of all.
        adapt_eps: Share of equally spaced knots in adapted grids.
        refine: For epochs, counted from 0, the grid size from then on: {3: 10, 6: 20}.
        off_grid_warning: Warn if a larger share than this of a layer's inputs lies off its grid.
        label_smoothing: Probability spread over all classes.
        gradient_clip: Largest norm of the gradient; 0 does not clip.
        augment: standard (shifts, and flips where they keep the class), none, or auto: none for MNIST and
            Fashion-MNIST, standard for the others.
        scaling: Of images: standard (mean 0 and standard deviation 1 in each channel) or symmetric (to [-1, 1]).
        val_fraction: Share of the training images held out for validation.
        train_fraction: Share of the rest to train on.
        test: Test the best epoch at the end. Searches leave it out, since a test set is to be touched once.
        image_size: Side to which images of dataset folder are scaled.
        early_stopping: Stop after this many epochs without a better validation accuracy.
        precision: Lightning's name for it: 32-true, bf16-mixed, 16-mixed, 64-true, …
        compile: Compile the model; the first steps then take minutes.
        channels_last: Keep weights, and so activations, with channels innermost: on CPUs up to twice as fast, with
            the same results up to rounding.
        accelerator: auto, cpu, gpu, …
        devices: How many.
        strategy: Lightning's name for how devices share the work.
        threads: CPU threads; by default torch's choice.
        num_workers: Loader processes.
        seed: Seed of weights, order, augmentation and dropout.
        data_root: Where data sets lie; by default the environment variable CONVKAN_DATA, or ./data.
        runs_root: Where runs are kept.
        run_name: Name of this run; by default data set, model and time.
        resume: Folder of a run to go on with, in its own configuration.
    """

    dataset: str = "digits"
    model: str = "kan_cnn"
    model_options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 20
    batch_size: int = 32
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float | None = None
    momentum: float = 0.9
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    warmup_epochs: float = 0.3
    weight_decay: float = 0.02
    coefficient_decay: float | None = None
    base_decay: float | None = None
    coefficient_penalty: float = 0.0
    adapt_every: int = 0
    adapt_until: int | None = None
    adapt_eps: float = 0.05
    refine: dict[int, int] = field(default_factory=dict)
    off_grid_warning: float = 0.3
    label_smoothing: float = 0.0
    gradient_clip: float = 0.0
    augment: Augmentation = "auto"
    scaling: Scaling = "standard"
    val_fraction: float = 0.1
    train_fraction: float = 1.0
    test: bool = True
    image_size: int | None = None
    early_stopping: int | None = None
    precision: str = "32-true"
    compile: bool = False
    channels_last: bool = True
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    threads: int | None = None
    num_workers: int = 0
    seed: int = 0
    data_root: str | None = None
    runs_root: str = "runs"
    run_name: str | None = None
    resume: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "devices", "threads", "early_stopping"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must lie in [0, 2^31), got {self.seed}")
        if self.adapt_every < 0 or not 0 <= self.adapt_eps <= 1:
            raise ValueError(
                "adapt_every must not be negative and adapt_eps lie in [0, 1], "
                f"got {self.adapt_every} and {self.adapt_eps}"
            )
        if not self.gradient_clip >= 0:
            raise ValueError(f"gradient_clip must not be negative, got {self.gradient_clip}")

    def recipe(self) -> Recipe:
        """The part that says how to optimise."""
        chosen = {name: getattr(self, name) for name in Recipe.__dataclass_fields__}
        if self.learning_rate is None:
            chosen["learning_rate"] = suggested_learning_rate(self.model)
        return Recipe(**chosen)


def main() -> None:
    """Train, test and record one run."""
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
    try:
        stored = yaml.safe_load((folder / "config.yaml").read_text())
        config = TrainConfig(**stored)
    except (OSError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{folder} is not the folder of a run: {error}") from error
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
    channels, height, width = data.image_shape
    options = dict(config.model_options)
    if "image_size" in model_options(config.model):
        options.setdefault("image_size", [height, width])
    description = Description(config.model, channels, (height, width), data.class_names, data.mean, data.std, options)
    model = description.create()
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    record: dict[str, Any] = {
        "parameters": count_parameters(model),
        "multiply_adds": count_multiply_adds(model, example_input(description)),
        "config": asdict(config),
        "seed": config.seed,
    }
    steps = config.epochs * -(-len(data.train) // config.batch_size)
    watch = WatchCoverage(config.off_grid_warning)
    trainer, history = build_trainer(config, folder, [*grid_callbacks(config, steps), watch])
    device = trainer.strategy.root_device
    record |= environment(device)
    classifier = Classifier(model, len(data.class_names), config.recipe(), config.seed)
    if trainer.is_global_zero:
        stored = yaml.safe_dump(asdict(config), sort_keys=False)
        write_atomically(folder / "config.yaml", lambda partial: partial.write_text(stored))
        print(
            f"{config.model} on {config.dataset}: {record['parameters']:,} parameters, "
            f"{record['multiply_adds']:,} multiply-adds an image, "
            f"{len(data.train)} training, {len(data.val)} validation, {len(data.test)} test images"
        )
        print(f"in {folder}; if it is stopped, go on with: python -m experiments.train --resume {folder}")
    if config.compile:
        model.compile()
    fit(trainer, classifier, data, checkpoint)

    if config.test:
        [test] = trainer.test(classifier, datamodule=data, ckpt_path="best", weights_only=True, verbose=False)
        record |= {**test, "confusion": classifier.test_confusion.compute().tolist()}  # on every device: it gathers
        if trainer.world_size == 1:  # several share the images out in another order
            record["test_correct"] = packed(classifier.test_correct.compute() > 0)
    best = torch.load(best_checkpoint(trainer), weights_only=True, map_location="cpu")
    classifier.load_state_dict(best["state_dict"])
    record |= {
        # Again: grids may have grown.
        "parameters": count_parameters(model),
        "multiply_adds": count_multiply_adds(rebuilt(model, description), example_input(description)),
        "val_accuracy": history.rows[best["epoch"]]["val_accuracy"],
        "best_epoch": best["epoch"] + 1,
        "epochs": len(history.rows),
        "seconds_per_epoch": statistics.median([row["epoch_seconds"] for row in history.rows]),
        "input_seconds_per_epoch": statistics.median([row["input_seconds"] for row in history.rows]),
        "peak_memory_bytes": peak_memory_bytes(device),
        "off_grid": watch.off_grid,
    }
    if trainer.is_global_zero:
        save_classifier(folder / "model.safetensors", model, description)
        draw(folder, model, history, record.get("confusion"), data.class_names)
        write_record(folder / "result.json", record)  # last: its presence says that the run is finished
        tested = f"test accuracy {record['test_accuracy']:.2%}, " if config.test else ""
        print(
            f"{tested}validation {record['val_accuracy']:.2%} "
            f"(epoch {record['best_epoch']}), {record['parameters']:,} parameters, "
            f"{record['seconds_per_epoch']:.2f} s per epoch ({record['input_seconds_per_epoch']:.2f} s of it input)\n"
            f"results are in {folder}"
        )
    return record


def rebuilt(model: nn.Module, description: Description) -> nn.Module:
    """The same network on the CPU in single precision, whatever training made of it."""
    fresh = description.create()
    fresh.load_state_dict(model.state_dict())
    return fresh


def data_of(config: TrainConfig, seed: int) -> ImageData:
    """The images of a run, read and split; the order in which it sees them follows from ``seed``."""
    data = ImageData(
        config.dataset,
        data_root=config.data_root,
        batch_size=config.batch_size,
        val_fraction=config.val_fraction,
        train_fraction=config.train_fraction,
        augment=config.augment,
        scaling=config.scaling,
        image_size=config.image_size,
        num_workers=config.num_workers,
        seed=seed,
    )
    data.setup()
    return data


def build_trainer(config: TrainConfig, folder: Path, more: list[Callback]) -> tuple[L.Trainer, History]:
    """Lightning's trainer with our callbacks and logs."""
    history = History(folder / "history.csv")
    callbacks: list[Callback] = [*more, history, checkpoints(folder / "checkpoints")]
    if config.early_stopping is not None:
        callbacks.append(EarlyStopping("val_accuracy", mode="max", patience=config.early_stopping))
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
