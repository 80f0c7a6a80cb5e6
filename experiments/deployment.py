"""What exported classifiers cost: ``python -m experiments.deployment``.

The trained models of the package in every form that an export may have, beside their plain twins: accuracy, size, and
the time a batch takes in ONNX Runtime and in torch. Twins have fresh weights, which cost the same as trained ones.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from convkan.export import ImageClassifier, export_classifier, load_exported, lowered, quantize_classifier
from convkan.export.classifier import raw_images
from convkan.interpret.plot import BLUE, new_figure
from convkan.models import Weights, create_model, list_weights, load_classifier, model_options, twin
from experiments.common.classifiers import data_behind, find_weights, training_images
from experiments.common.cli import GOES_ON, check_positive, run
from experiments.common.study import Cell, Study, Work

BATCHES = (1, 64)
BAR = 1.3
MARKERS = "os^Dv"  # of models in pictures
# What is written: of which network, in which form, whether in integers.
CONTENDERS = {
    "twin": ("twin", "layers", False),
    "twin, int8": ("twin", "layers", True),
    "layers": ("kan", "layers", False),
    "pieces": ("kan", "pieces", False),
    "lines": ("kan", "lines", False),
    "steps": ("kan", "steps", False),
    "steps, int8": ("kan", "steps", True),
}


@dataclass(frozen=True)
class DeploymentConfig:
    """What to measure.

    Attributes:
        weights: Weights of the package; all of them by default.
        contenders: Of those above.
        samples: Training images that say how far tables reach and what can be rounded.
        tested: Test images; 0 for none.
        rounds: Times that every contender is timed; the fastest counts.
        seconds: No contender is timed for longer.
        threads: CPU threads.
        data_root: Where data sets lie; by default the environment variable CONVKAN_DATA, or ./data.
        out: Folder for the files, the record, the table and the picture.
        quick: A version of a minute.
    """

    weights: tuple[str, ...] = tuple(f"{entry.model}-{entry.name}" for entry in list_weights())
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    samples: int = 256
    tested: int = 10000
    rounds: int = 15
    seconds: float = 10.0
    threads: int = 1
    data_root: str | None = None
    out: str = "runs/deployment"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "samples", "rounds", "threads")
        unknown = sorted({*self.contenders} - {*CONTENDERS})
        if unknown:
            raise ValueError(f"contenders must be among {', '.join(CONTENDERS)}; got {', '.join(unknown)}")


def writing(work: Work[DeploymentConfig]) -> Iterator[Cell]:
    """A file of every contender, its size and its accuracy."""
    for name in work.config.weights:
        for contender in work.config.contenders:
            done = partial(write, name, contender, work.config)
            yield Cell(f"{name}, {contender}: writing", done, ("models", name, contender))


def timing(work: Work[DeploymentConfig]) -> Iterator[Cell]:
    """What all files of a model take, one after the other in every round."""
    for name in work.config.weights:
        for engine in ("onnx", "torch"):
            done = partial(timed, name, engine, work.config)
            yield Cell(f"{name}: timing {engine}", done, ("milliseconds", name, engine))


def networks(weights: Weights) -> dict[str, nn.Module]:
    """The trained model and its plain twin, of the same options as far as it has them."""
    model, description = load_classifier(weights.path)
    other = twin(weights.model)
    known = model_options(other)
    options = {name: value for name, value in description.options.items() if name in known}
    torch.manual_seed(0)
    plain = create_model(other, len(description.class_names), description.in_channels, **options)
    return {"kan": model, "twin": plain.eval()}


def path_of(name: str, contender: str, config: DeploymentConfig) -> Path:
    """The file of a contender."""
    return Path(config.out) / f"{name}-{contender.replace(', ', '-')}.onnx"


def write(name: str, contender: str, config: DeploymentConfig) -> dict[str, Any]:
    """Write a contender's file; its size, its check and its accuracy."""
    which, form, int8 = CONTENDERS[contender]
    weights = find_weights(None, name)
    model, description = networks(weights)[which], weights.description()
    data = data_behind(weights, config.data_root)
    batches = training_images(data, description, config.samples).split(64)
    path = path_of(name, contender, config)
    started = time.perf_counter()
    found = export_classifier(model, description, path, form=form, batches=batches)  # type: ignore[arg-type]
    if int8:
        found = quantize_classifier(path, model, batches)
    seconds = time.perf_counter() - started
    details = asdict(found)
    result = {key: details[key] for key in ("difference", "change", "agreement")}
    result |= {"bytes": path.stat().st_size, "seconds": seconds}
    if config.tested and which == "kan" and form != "layers":
        # Of the model as it is in torch, too, on the same images.
        pixels, labels = data.test.pixels[: config.tested], data.test.labels[: config.tested]
        file, whole = load_exported(path, config.threads), ImageClassifier(model, description).eval()
        result |= {"accuracy": accuracy(file, pixels, labels), "accuracy_of_model": accuracy(whole, pixels, labels)}
    return result


@torch.no_grad()
def accuracy(classify: Callable[[Tensor], Tensor], pixels: Tensor, labels: Tensor) -> float:
    """The share of images that are classified rightly."""
    answers = torch.cat([classify(part).argmax(1) for part in pixels.split(250)])
    return (answers == labels).double().mean().item()


def timed(name: str, engine: str, config: DeploymentConfig) -> dict[str, dict[str, float]]:
    """The least time of a batch, in milliseconds, by contender and batch size."""
    weights = find_weights(None, name)
    description, both = weights.description(), networks(weights)
    batches = training_images(data_behind(weights, config.data_root), description, max(config.samples, max(BATCHES)))
    images = raw_images(batches, description)
    runs: dict[str, Callable[[Tensor], Tensor]] = {}
    for contender in config.contenders:
        which, form, int8 = CONTENDERS[contender]
        if engine == "onnx":
            runs[contender] = load_exported(path_of(name, contender, config), config.threads)
        elif not int8:
            network = lowered(both[which], form, [batches])  # type: ignore[arg-type]
            runs[contender] = ImageClassifier(network, description).eval()
    return {str(size): fastest(runs, images[:size], config) for size in BATCHES}


@torch.no_grad()
def fastest(runs: dict[str, Callable[[Tensor], Tensor]], images: Tensor, config: DeploymentConfig) -> dict[str, float]:
    """The least milliseconds of each, all of them once a round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(config.rounds + 1):  # of which the first warms up
        for name, call in runs.items():
            if sum(seconds[name]) < config.seconds:
                started = time.perf_counter()
                call(images)
                seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * min(found[1:] or found) for name, found in seconds.items()}


def markdown(record: dict[str, Any]) -> str:
    """A row for each contender of each model: accuracy, sizes and times, and how many times the twin's these are."""
    heads = [f"{engine}, batch of {size}" for engine in ("ONNX Runtime", "torch") for size in BATCHES]
    lines = [f"| model | form | accuracy | kB | {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (2 + len(heads))]
    for name, contenders in record["models"].items():
        for contender, found in contenders.items():
            right = f"{found['accuracy']:.2%}" if "accuracy" in found else ""
            times = [
                _beside(record["milliseconds"].get(name, {}).get(engine, {}).get(str(size), {}), contender)
                for engine in ("onnx", "torch")
                for size in BATCHES
            ]
            lines.append(f"| {name} | {contender} | {right} | {found['bytes'] / 1000:.0f} | {' | '.join(times)} |")
    return "\n".join([*lines, "", bars(record)])


def bars(record: dict[str, Any]) -> str:
    """In how many cases a form takes no more than ``BAR`` times what its twin does in ONNX Runtime."""
    ratios: dict[str, list[float]] = {}
    for by_engine in record["milliseconds"].values():
        for times in by_engine["onnx"].values():
            for contender, value in times.items():
                if "twin" in times and CONTENDERS[contender][0] == "kan":
                    ratios.setdefault(contender, []).append(value / times["twin"])
    met = [f"{name} in {sum(r <= BAR for r in found)} of {len(found)}" for name, found in ratios.items()]
    what = f"At most {BAR:g} times the time of the float32 twin in ONNX Runtime, models and batch sizes together"
    return f"{what}: {', '.join(met)}."


def _beside(times: dict[str, float], contender: str) -> str:
    if contender not in times:
        return ""
    ratio = f", {times[contender] / times['twin']:.2f} ×" if "twin" in times else ""
    return f"{times[contender]:.2f} ms{ratio}"


def draw(record: dict[str, Any]) -> Figure:
    """How many times their twin's the times of files are, in ONNX Runtime."""
    figure = new_figure((8, 2.2 + 0.5 * len(record["models"])))
    axes = figure.subplots(1, len(BATCHES), sharey=True)
    for axis, size in zip(axes, BATCHES, strict=True):
        for (name, times), marker in zip(record["milliseconds"].items(), cycle(MARKERS)):
            of_size = times["onnx"][str(size)]
            base = of_size.get("twin", min(of_size.values()))
            ratios = [value / base for value in of_size.values()]
            axis.plot(ratios, list(of_size), marker, color=BLUE, markerfacecolor="none", label=name)
        axis.axvline(1, color="0.7", linewidth=1)
        axis.set_xlim(left=0)
        axis.set_xlabel("time in ONNX Runtime, in twins")
        axis.set_title(f"batch of {size}")
    axes[0].legend(fontsize=8)
    return figure


STUDY = Study(
    name="deployment",
    description=__doc__,
    config=DeploymentConfig,
    quick={
        "weights": ("kan_mobilenet-fashion_mnist",),
        "contenders": ("twin", "steps"),
        "tested": 500,
        "rounds": 3,
    },
    stages=(writing, timing),
    table=markdown,
    draw=draw,
)


def main() -> None:
    """Write, measure, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
