"""Prune a trained run and train it a little more: ``python -m experiments.prune --run RUNDIR``.

Importance is measured on training images. Then (a) half of the edges are masked, and (b) a third of the channels are
removed, each followed by a short training in the run's own recipe, beside as much training of the unpruned model.
"""

import statistics
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from convkan.interpret import importance, prune_channels, prune_edges
from convkan.models import Description, example_input, load_classifier, model_options
from convkan.models.blocks import channels_at
from convkan.models.images import normalize
from convkan.training import Classifier, ImageData, save_classifier, write_atomically
from convkan.training.parts import Images
from experiments.common.cli import UserError, parse, run
from experiments.common.counting import count_multiply_adds, count_parameters
from experiments.common.records import environment, write_record
from experiments.common.study import settings_of
from experiments.common.train_config import TrainConfig, data_for, stored_config
from experiments.common.trainer import best_checkpoint, build_trainer, fit, silence_lightning

BATCH = 64  # images at a time, in measuring importance and time


@dataclass(frozen=True)
class PruneConfig:
    """What to prune, and how much.

    Attributes:
        run: Folder of a finished run of experiments.train.
        edges: Share of the edges to mask.
        channels: Share of the channels to remove.
        epochs: Passes over the training part after pruning.
        learning_rate: Highest learning rate of these; by default the run's own.
        sparsify_epochs: Passes before pruning, with a penalty on coefficients.
        penalty: Weight of the mean absolute coefficient in the loss of these passes.
        images: Training images to measure importance on.
        repeats: Times that inference is timed, the models taking turns.
        threads: CPU threads.
        out: Folder for the record, the table and the models; by default RUN/pruned.
        quick: A few seconds' version: few images and repeats.
    """

    run: str
    edges: float = 0.5
    channels: float = 1 / 3
    epochs: int = 1
    learning_rate: float | None = None
    sparsify_epochs: int = 0
    penalty: float = 1.0
    images: int = 1280
    repeats: int = 30
    threads: int = 1
    out: str | None = None
    quick: bool = False


def main() -> None:
    """Prune, train, record."""
    prune(parse(PruneConfig, __doc__))


def prune(config: PruneConfig) -> dict[str, Any]:
    """All of it; returns the record that is also in ``prune.json``."""
    silence_lightning()
    torch.set_num_threads(config.threads)
    if config.quick:
        config = replace(config, images=128, repeats=3, epochs=1)
    source = Path(config.run)
    out = Path(config.out) if config.out else source / "pruned"
    for name in ("edges", "channels"):
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"{name} must lie in [0, 1), got {getattr(config, name)}")
    trained = stored_config(source)
    model, description = load_classifier(source / "model.safetensors")
    data = data_for(description, trained, trained.seed + 1)  # another order of the images than the run had
    recipe = replace(
        trained,
        epochs=config.epochs,
        learning_rate=config.learning_rate or trained.learning_rate,
        adapt_every=0,
        refine={},
        early_stopping=None,
        threads=config.threads,
        devices=1,
        num_nodes=1,
        strategy="auto",
    )
    rows: dict[str, dict[str, Any]] = {"trained": figures(model, data, description)}
    print_row("trained", rows["trained"])
    models = {"trained": model}
    if config.sparsify_epochs:
        sparse = replace(recipe, epochs=config.sparsify_epochs, coefficient_penalty=config.penalty)
        model = retrained(model, data, sparse, out / "sparsified")
        rows["sparsified"] = figures(model, data, description)
        print_row("sparsified", rows["sparsified"])
    scores = importance(model, measured_on(data, config.images))
    edgewise = deepcopy(model)
    alive = prune_edges(edgewise, scores, share=config.edges)
    candidates = {
        "unpruned, trained on": model,
        "edges": edgewise,
        "channels": prune_channels(model, scores, config.channels),
    }
    for name, candidate in candidates.items():
        stages = {} if candidate is model else steps_of(candidate, data, config.images)
        models[name] = retrained(candidate, data, recipe, out / name.split(",")[0])
        rows[name] = {**stages, **figures(models[name], data, description)}
        print_row(name, rows[name])
    rows["edges"]["alive"] = alive
    for name, seconds in times(models, description, config.repeats).items():
        rows[name]["milliseconds"] = 1000 * seconds / BATCH
    saved = {
        name: save(out / f"{name}.safetensors", models[name], description, config) for name in ("edges", "channels")
    }
    record = {
        "config": settings_of(config),
        "dataset": trained.dataset,
        "model": trained.model,
        "model_options": description.options,
        "rows": rows,
        "saved": saved,
        **environment(torch.device("cpu")),
    }
    write_atomically(out / "prune.md", lambda partial: partial.write_text(markdown(record) + "\n", encoding="utf-8"))
    write_record(out / "prune.json", record)
    print(f"{markdown(record)}\nresults are in {out}")
    return record


def measured_on(data: ImageData, images: int) -> Iterator[Tensor]:
    """Batches of some training images."""
    pixels = data.train.pixels
    chosen = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:images]
    for part in chosen.chunk(-(-len(chosen) // BATCH)):  # none of a single image, which cannot be normalised
        yield normalize(pixels[part], data.mean, data.std)


def steps_of(model: nn.Module, data: ImageData, images: int) -> dict[str, Any]:
    """Accuracies right after pruning, and once normalisations have seen what they are given now."""
    right_after = accuracies(model, data)
    again = deepcopy(model)
    update_bn(measured_on(data, images), again)
    return {"right_after": right_after, "normalized": accuracies(again, data)}


def retrained(model: nn.Module, data: ImageData, config: TrainConfig, folder: Path) -> nn.Module:
    """A copy of the model, trained by a configuration; of its epochs the one that is best in validation."""
    L.seed_everything(config.seed, verbose=False)
    classes, recipe = len(data.class_names), config.recipe()
    classifier = Classifier(deepcopy(model).train(), classes, recipe, config.seed, data.train.labels)
    trainer, _ = build_trainer(config, folder, [])
    fit(trainer, classifier, data, None)
    best = torch.load(best_checkpoint(trainer), weights_only=True, map_location="cpu")
    classifier.cpu().load_state_dict(best["state_dict"])
    return classifier.model.eval()


def figures(model: nn.Module, data: ImageData, description: Description) -> dict[str, Any]:
    """Accuracies and sizes of a model."""
    return {
        **accuracies(model, data),
        "parameters": count_parameters(model),
        "nonzero": sum(int(parameter.count_nonzero()) for parameter in model.parameters()),
        "multiply_adds": count_multiply_adds(model, example_input(description)),
    }


def accuracies(model: nn.Module, data: ImageData) -> dict[str, float]:
    """Shares of validation and test images that are classified right."""
    return {"val_accuracy": accuracy(model, data.val, data), "test_accuracy": accuracy(model, data.test, data)}


@torch.no_grad()
def accuracy(model: nn.Module, images: Images, data: ImageData) -> float:
    """The share of images that are classified right."""
    model.eval()
    right = 0
    for part in torch.arange(len(images)).split(250):
        some = images.select(part)
        right += int((model(normalize(some.pixels[:], data.mean, data.std)).argmax(1) == some.labels).sum())
    return right / len(images)


@torch.no_grad()
def times(models: dict[str, nn.Module], description: Description, repeats: int) -> dict[str, float]:
    """Median seconds of a forward pass on a batch, on one thread; the models take turns, for equal luck."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x = example_input(description).expand(BATCH, -1, -1, -1).contiguous()
    x = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 2):
        for name, model in models.items():
            start = time.perf_counter()
            model(x)
            if turn > 1:  # the first ones warm up
                taken[name].append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def save(path: Path, model: nn.Module, description: Description, config: PruneConfig) -> str:
    """Save a model so that ``load_classifier`` can rebuild it, or if it cannot, its weights alone; returns which."""
    for options in (description.options, narrow_options(description, config.channels)):
        if options is None:
            continue
        other = replace(description, options=options)
        try:
            other.create().load_state_dict(model.state_dict())
        except (RuntimeError, ValueError):
            continue
        save_classifier(path, model, other)
        return f"{path.name}: a classifier with options {options}"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, lambda partial: save_file(tensors, partial))
    return f"{path.name}: weights only, as no options of {description.model} make layers of these sizes"


def narrow_options(description: Description, share: float) -> dict[str, Any] | None:
    """The options of a model whose widths are what ``prune_channels`` leaves of them, if there are such options."""
    options = model_options(description.model) | description.options
    if "widths" in options:
        return {**description.options, "widths": [left(width, share) for width in options["widths"]]}
    if "width" in options:
        depths = options["depths"] if "depths" in options else getattr(description.create(), "depths", None)
        if depths is None:
            return None
        stages = len(depths)
        wanted = [left(channels_at(options["width"], stage), share) for stage in range(stages)]
        low = max((channels - 0.5) / 2**stage for stage, channels in enumerate(wanted))
        high = min((channels + 0.5) / 2**stage for stage, channels in enumerate(wanted))
        return {**description.options, "width": (low + high) / 2} if low < high else None
    return None


def left(channels: int, share: float) -> int:
    """Channels that stay, as in ``prune_channels``."""
    return channels - int(share * channels)


def print_row(name: str, row: dict[str, Any]) -> None:
    """What is known of a model, while others are still to come."""
    print(f"{name}: validation {row['val_accuracy']:.2%}, test {row['test_accuracy']:.2%}", flush=True)


def markdown(record: dict[str, Any]) -> str:
    """A table with a row for each model."""
    lines = [
        "| model | parameters | not zero | multiply-adds | ms an image | right after: val / test "
        "| normalised anew: val / test | trained on: val / test |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in record["rows"].items():
        cells = [
            _both(row.get("right_after")),
            _both(row.get("normalized")),
            _both(row),
        ]
        spent = f"{row['milliseconds']:.3f}" if "milliseconds" in row else ""
        lines.append(
            f"| {name} | {row['parameters']:,} | {row['nonzero']:,} | {row['multiply_adds']:,} | {spent} "
            f"| {' | '.join(cells)} |"
        )
    config = record["config"]
    lines += [
        "",
        f"`{record['model']}` on {record['dataset']}: {config['edges']:.0%} of the edges masked, "
        f"{config['channels']:.0%} of the channels removed; epochs of training afterwards: {config['epochs']}. "
        "Masked edges count among parameters and multiply-adds: they are zero, not gone.",
    ]
    return "\n".join(lines)


def _both(row: dict[str, Any] | None) -> str:
    return f"{row['val_accuracy']:.2%} / {row['test_accuracy']:.2%}" if row else ""


if __name__ == "__main__":
    run(main)
