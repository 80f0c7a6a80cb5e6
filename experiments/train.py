"""Train an image classifier: ``python -m experiments.train [--dataset NAME] [--model NAME] …``.

Bare, it trains a small KAN on the digits that come with scikit-learn, in under a minute. Everything a run leaves is in
``runs/NAME``: its configuration, record, weights, logs and pictures. A killed run goes on with ``--resume runs/NAME``,
and a finished one with ``--resume runs/NAME --epochs N``.
"""

import math
import os
import statistics
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from torch import Tensor, nn

from convkan.files import remove_partial
from convkan.grid import spline_layers
from convkan.interpret.plot import plot_confusion, plot_edges, plot_learning_curves
from convkan.models import Description, example_input, freeze_body, model_options
from convkan.nn import KANLayer
from convkan.training import (
    Classifier,
    History,
    TrainingDivergedError,
    WatchCoverage,
    naming,
    recalls,
    save_classifier,
    write_atomically,
    write_text,
)
from experiments.common.answers import ValidationAnswers
from experiments.common.beginning import begin
from experiments.common.cli import UserError, given, parse, run
from experiments.common.counting import (
    count_multiply_adds,
    count_parameters,
    count_step_memory_bytes,
    peak_memory_bytes,
)
from experiments.common.fine_tuning import (
    at_size_of_weights,
    go_on_with_weights,
    note_description,
    with_absolute_weights,
)
from experiments.common.folders import claimed, is_used, new_folder, tidy
from experiments.common.parent import end_with_parent
from experiments.common.ranks import (
    as_started,
    is_begun_again,
    naming_lost_processes,
    rank,
    tell_name,
    told_name,
)
from experiments.common.records import DIVERGED, environment, packed, published, write_record
from experiments.common.resuming import earlier_record, read_checkpoint, resume_run
from experiments.common.run_data import check_data, note_data
from experiments.common.train_config import TrainConfig, data_of
from experiments.common.trainer import (
    best_checkpoint,
    build_trainer,
    fit,
    grid_callbacks,
    interruptible,
    silence_lightning,
)

RUN_NAME_VARIABLE = "CONVKAN_RUN_NAME"
JUDGED = ("val_accuracy", "val_balanced_accuracy")  # what the record keeps of the best epoch
GOING_ON = "python -m experiments.train --resume"


def main() -> None:
    """Train, test and record one run."""
    end_with_parent()
    config, options = parse(TrainConfig, __doc__), given(sys.argv[1:])
    if config.run_name is not None and is_begun_again(Path(config.runs_root, config.run_name)):
        config, options = replace(config, resume=str(Path(config.runs_root, config.run_name))), {"resume"}
    with tidy(Path(config.runs_root)):
        checkpoint = None
        if config.resume is None:
            config, folder = start(as_started(config))
        else:
            config, folder, checkpoint = resume_run(config, options)
            config = as_started(replace(config, resume=str(folder)))
        try:
            # One process a device: the first claims the folder for all.
            with nullcontext() if rank() else claimed(folder), naming(folder):
                if not rank():
                    remove_partial(folder)
                train(replace(config, resume=None), folder, checkpoint)
        except KeyboardInterrupt:
            resumable = (folder / "config.yaml").exists()
            raise KeyboardInterrupt(f"go on with: {GOING_ON} {folder}" if resumable else "") from None


def start(config: TrainConfig) -> tuple[TrainConfig, Path]:
    """The folder of a new run, made for it alone, and the configuration with its name filled in.

    Raises:
        UserError: There is one of this name.
    """
    config.recipe()  # checked before anything is left on disk
    config = with_absolute_weights(at_size_of_weights(config))
    root = Path(config.runs_root)
    if config.run_name is not None and not is_below(config.run_name):
        raise UserError(f"run_name must be that of a folder within runs_root, got {config.run_name!r}")
    if rank():  # one process a device: all belong to one run, that of the first
        folder = root / (os.environ.get(RUN_NAME_VARIABLE) or told_name())
    elif config.run_name is None:
        folder = new_folder(root, f"{config.dataset}-{config.model}")
    else:
        folder = root / config.run_name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if is_used(folder):
                raise UserError(
                    f"run_name must be new, and {folder} exists: choose another name, or go on with --resume {folder}"
                ) from None
    name = str(folder.relative_to(root))
    if config.devices * config.num_nodes > 1 and not rank():
        tell_name(name)
        os.environ[RUN_NAME_VARIABLE] = name
    return replace(config, run_name=name), folder


def is_below(name: str) -> bool:
    """Whether a folder of this name lies within the one that it is joined to."""
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts and name.isprintable()


def train(config: TrainConfig, folder: Path, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train a model, test its best epoch once, and leave everything in ``folder``.

    Args:
        config: The configuration.
        folder: Where everything goes.
        checkpoint: Go on from here.

    Returns:
        The record that is also in ``folder/result.json``.
    """
    silence_lightning()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    L.seed_everything(config.seed, verbose=False)
    data = data_of(config, config.seed)
    before = earlier_record(folder)
    gone_on = None if checkpoint is None else go_on_with_weights(folder, data)
    model, description = gone_on or begin(config, data)
    check_data(folder, data)  # whose classes are in the model's order by now
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    processes = config.devices * config.num_nodes
    steps = config.epochs * -(-len(data.train) // (config.batch_size * processes))
    watch = WatchCoverage(config.off_grid_warning)
    answers = ValidationAnswers()
    more = [*grid_callbacks(config, steps), watch, *([] if config.test else [answers])]
    trainer, history = build_trainer(config, folder, more)
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
        if config.weights is not None:
            note_description(folder, description)
        print(f"in {folder}; if it is stopped, go on with: {GOING_ON} {folder}")
    if config.freeze_body:
        freeze_body(model)
    if config.compile:
        model.compile()
    (folder / DIVERGED).unlink(missing_ok=True)
    try:
        with naming_lost_processes(folder, processes):
            fit(trainer, classifier, data, checkpoint)
    except TrainingDivergedError as error:
        write_text(folder / DIVERGED, f"{error}\n")
        raise

    best = read_checkpoint(Path(best_checkpoint(trainer)))
    classifier.load_state_dict(best["state_dict"])
    if config.test:  # of the weights alone: with a path, Lightning would take up the callbacks of that epoch, too
        with interruptible(), naming_lost_processes(folder, processes):
            [test] = trainer.test(classifier, datamodule=data, verbose=False)
        confusion = classifier.test_confusion.compute()  # on every device: it gathers
        record |= {**test, "confusion": confusion.tolist(), "test_recall": recall_of(confusion, data.class_names)}
        record["test_correct"] = packed(classifier.test_correct.compute() > 0)  # in the order of the test part
    elif best["epoch"] in answers.by_epoch:  # not those of a run that began before they were kept
        record |= {"val_correct": answers.by_epoch[best["epoch"]], "val_images": len(data.val)}
    if config.refine and "grid_size" in model_options(config.model):
        description = with_final_grid_size(description, model)
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
        save_classifier(folder / "model.safetensors", model, description, published(record))
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


def with_final_grid_size(description: Description, model: nn.Module) -> Description:
    """The description of a model whose grids were refined, all to one size."""
    [size] = {layer.basis.grid_size for layer in spline_layers(model).values()}  # type: ignore[attr-defined]
    return replace(description, options=description.options | {"grid_size": size})


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


if __name__ == "__main__":
    run(main)
