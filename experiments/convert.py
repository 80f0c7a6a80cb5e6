"""A network of torchvision as it is, and with its activations learnable: ``python -m experiments.convert``.

All start as the same function, of which ``convkan.convert`` makes sure, and are trained the same: each at the best of
the same learning rates, chosen on the validation part with another seed; the test part is seen once a run. Learnable
activations have one function for each ReLU of the network, or one for each of its channels.
"""

import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
import torch
from matplotlib.figure import Figure
from torch import nn
from torchvision import models

from convkan import convert
from convkan.interpret.plot import BLUE, GREY, ORANGE, new_figure
from convkan.models.images import normalize
from convkan.training import Classifier, ImageData
from experiments.common.cli import GOES_ON, check_positive, run
from experiments.common.counting import count_parameters
from experiments.common.study import Cell, Study, Work
from experiments.common.train_config import TrainConfig, data_of
from experiments.common.trainer import best_checkpoint, build_trainer, fit, silence_lightning

NETWORKS = ("plain", "shared", "per channel")
COLOURS = {"plain": GREY, "shared": BLUE, "per channel": ORANGE}
CALIBRATION = 256  # training images that grids are set on


@dataclass(frozen=True)
class ConvertConfig:
    """What to train, and how.

    Attributes:
        dataset: As of experiments.train.
        model: A network of torchvision.models.
        epochs: Passes over the training part.
        batch_size: Images a step.
        rates: Learning rates to choose from.
        seeds: Runs of each network.
        train_fraction: Share of the training part to train on.
        threads: CPU threads.
        data_root: Where data sets lie; by default the environment variable CONVKAN_DATA, or ./data.
        out: Folder for the record, the table and the picture.
        quick: A few seconds' version.
    """

    dataset: str = "cifar10"
    model: str = "resnet18"
    epochs: int = 5
    batch_size: int = 128
    rates: tuple[float, ...] = (1e-3, 3e-3)
    seeds: int = 3
    train_fraction: float = 1.0
    threads: int = 1
    data_root: str | None = None
    out: str = "runs/convert"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "batch_size", "seeds")


def network(name: str, config: ConvertConfig, data: ImageData, seed: int) -> nn.Module:
    """One of the networks; with the same seed, all of them are the same function."""
    torch.manual_seed(seed)
    plain: nn.Module = getattr(models, config.model)(num_classes=len(data.class_names))
    channels = data.image_shape[0]
    key, first = next(found for found in plain.named_modules() if isinstance(found[1], nn.Conv2d))
    assert isinstance(first, nn.Conv2d)
    if channels != first.in_channels:
        window: Any = {"kernel_size": first.kernel_size, "stride": first.stride, "padding": first.padding}
        plain.set_submodule(key, nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **window))
    if name != "plain":
        images = data.train.pixels[:CALIBRATION]
        batches = [normalize(images, data.mean, data.std)]
        plain = convert(plain, batches=batches, per_channel=name == "per channel")
    return plain.to(memory_format=torch.channels_last)


def train(name: str, rate: float, seed: int, config: ConvertConfig, test: bool) -> dict[str, Any]:
    """One training; of its epochs, the one that is best in validation."""
    silence_lightning()
    recipe = TrainConfig(
        dataset=config.dataset,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=rate,
        train_fraction=config.train_fraction,
        accelerator="cpu",
        data_root=config.data_root,
        seed=seed,
    )
    L.seed_everything(seed, verbose=False)
    data = data_of(recipe, seed)
    model = network(name, config, data, seed)
    classifier = Classifier(model, len(data.class_names), recipe.recipe(), seed, data.train.labels)
    folder = Path(config.out) / "training"
    shutil.rmtree(folder, ignore_errors=True)  # of one that was stopped
    trainer, history = build_trainer(recipe, folder, [])
    fit(trainer, classifier, data, None)
    best = torch.load(best_checkpoint(trainer), weights_only=True, map_location="cpu")
    found = {
        "val_accuracy": history.rows[best["epoch"]]["val_accuracy"],
        "seconds_per_epoch": statistics.median([row["epoch_seconds"] for row in history.rows]),
        "parameters": count_parameters(model),
    }
    if test:
        classifier.load_state_dict(best["state_dict"])
        [tested] = trainer.test(classifier, datamodule=data, verbose=False)
        found["test_accuracy"] = tested["test_accuracy"]
    shutil.rmtree(folder, ignore_errors=True)
    return found


def tuning(work: Work[ConvertConfig]) -> Iterator[Cell]:
    """A training of each network at each rate, without the test part."""
    config = work.config
    for name, rate in product(NETWORKS, config.rates):
        yield Cell(f"{name}, rate {rate:g}", partial(train, name, rate, 0, config, False), ("tuning", name, str(rate)))


def best_rate(name: str, record: dict[str, Any]) -> float:
    """The rate with which a network was best in validation."""
    found = record["tuning"][name]
    return float(max(found, key=lambda rate: found[rate]["val_accuracy"]))


def runs(work: Work[ConvertConfig]) -> Iterator[Cell]:
    """The trainings that count; the networks take turns, for equal luck with what else the machine does."""
    config = work.config
    for seed, name in product(range(config.seeds), NETWORKS):
        rate = best_rate(name, work.record)
        yield Cell(f"{name}, seed {seed}", partial(train, name, rate, seed + 1, config, True), ("runs", name, seed))


def markdown(record: dict[str, Any]) -> str:
    """A row for each network."""
    lines = [
        "| activations | rate | test accuracy, mean (of seeds) | beside plain, points | seconds an epoch "
        "| beside plain | parameters |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    plain = {key: _mean(record, "plain", key) for key in ("test_accuracy", "seconds_per_epoch")}
    for name, found in record["runs"].items():
        accuracy, seconds = _mean(record, name, "test_accuracy"), _mean(record, name, "seconds_per_epoch")
        each = ", ".join(f"{one['test_accuracy']:.2%}" for one in found)
        lines.append(
            f"| {name} | {best_rate(name, record):g} | {accuracy:.2%} ({each}) "
            f"| {100 * (accuracy - plain['test_accuracy']):+.2f} | {seconds:.1f} "
            f"| {seconds / plain['seconds_per_epoch']:.2f} | {found[0]['parameters']:,} |"
        )
    config = record["config"]
    lines += ["", f"torchvision's {config['model']} on {config['dataset']}, epochs: {config['epochs']}."]
    return "\n".join(lines)


def draw(record: dict[str, Any]) -> Figure:
    """Accuracy against time, a point for each run."""
    figure = new_figure((5, 3))
    axis = figure.subplots()
    for name, found in record["runs"].items():
        places = [[one[key] for one in found] for key in ("seconds_per_epoch", "test_accuracy")]
        axis.plot(*places, "o", color=COLOURS[name], label=name)
    axis.set_xlabel("seconds an epoch")
    axis.set_ylabel("test accuracy")
    axis.legend()
    return figure


def _mean(record: dict[str, Any], name: str, key: str) -> float:
    return statistics.fmean(one[key] for one in record["runs"][name])


STUDY = Study(
    name="convert",
    description=__doc__,
    config=ConvertConfig,
    quick={
        "dataset": "digits",
        "model": "shufflenet_v2_x0_5",
        "epochs": 1,
        "rates": (1e-3,),
        "seeds": 1,
        "train_fraction": 0.2,
    },
    stages=(tuning, runs),
    table=markdown,
    draw=draw,
)


def main() -> None:
    """Train, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
