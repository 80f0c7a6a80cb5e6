"""Do attributions find the pixels that decide? ``python -m experiments.deletion --run RUNDIR``.

Pixels are taken out of test images in the order of their attribution to the predicted class, the most important first,
or put into a black image in that order. The better the order, the faster the probability of that class falls, or rises:
the area under its curve is small for deletion, large for insertion. Source: Petsiuk et al., "RISE" (arXiv 1806.07421),
sec. 4.3; black here instead of their blurred start of insertion, since it is the methods' common baseline too.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor, nn

from convkan.interpret import attribute, gradient_times_input, integrated_gradients
from convkan.interpret.plot import BLUE, GREEN, GREY, ORANGE, SKY, new_figure
from convkan.models import Description, load_classifier
from convkan.models.images import normalize
from experiments.common.cli import GOES_ON, check_positive, run
from experiments.common.statistics import bootstrap_over_images
from experiments.common.study import Cell, Study, Work
from experiments.common.train_config import data_for, stored_config

METHODS = {
    "edges": "rescale rule on edges, 2 steps",
    "edges_1": "rescale rule on edges, 1 step",
    "integrated_gradients": "integrated gradients",
    "gradient_times_input": "gradient × input",
    "random": "random order",
}
OURS, *RIVALS = METHODS
TESTS = ("deletion", "insertion")
# Dashes for those who print in grey.
STYLES = {
    "edges": (BLUE, "-"),
    "edges_1": (SKY, (0, (5, 1))),
    "integrated_gradients": (ORANGE, "--"),
    "gradient_times_input": (GREEN, "-."),
    "random": (GREY, ":"),
}
QUICK_IMAGES = 20


@dataclass(frozen=True)
class DeletionConfig:
    """What to test, and how finely.

    Attributes:
        run: Folder of a finished run of experiments.train.
        images: Test images, drawn at random.
        steps: Steps in which all pixels are deleted.
        path_steps: Points of the integral of integrated gradients.
        batch_size: Images at a time.
        seed: Seed of the draw and of the random order.
        device: Where to compute: cpu, cuda, …
        threads: CPU threads.
        data_root: Where data sets lie; by default where the run found them.
        out: Folder for the record, the table and the picture.
        quick: A few seconds' version: few images and steps.
    """

    run: str
    images: int = 500
    steps: int = 20
    path_steps: int = 32
    batch_size: int = 50
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    data_root: str | None = None
    out: str = "runs/deletion"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "images", "steps", "path_steps", "batch_size", "threads")


def complete(config: DeletionConfig) -> DeletionConfig:
    """The configuration with as many images as there are."""
    _, description = load_classifier(weights_of(config))
    wanted = min(config.images, QUICK_IMAGES) if config.quick else config.images
    return replace(config, images=len(images_of(replace(config, images=wanted), description)))


def about(config: DeletionConfig) -> dict[str, Any]:
    """What was studied: a run of the same name may have other weights."""
    _, description = load_classifier(weights_of(config))
    return {"model": description.model, "weights": hashlib.sha256(weights_of(config).read_bytes()).hexdigest()}


def weights_of(config: DeletionConfig) -> Path:
    """The file of the run's weights."""
    return Path(config.run) / "model.safetensors"


def images_of(config: DeletionConfig, description: Description) -> Float[Tensor, "images channels height width"]:
    """Some test images of the data set that the run was trained on, in random order.

    Raises:
        UserError: The folder is not that of a run.
        DataError: The data cannot be had, or have other classes than the model.
    """
    trained = stored_config(Path(config.run))
    trained = replace(trained, data_root=config.data_root or trained.data_root)
    data = data_for(description, trained, trained.seed)
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randperm(len(data.test), generator=generator)[: config.images]
    return normalize(data.test.pixels[chosen], description.mean, description.std)


def black_image(description: Description) -> Float[Tensor, "channels height width"]:
    """No light anywhere, as the model is given it."""
    pixels = torch.zeros(1, description.in_channels, *description.image_size, dtype=torch.uint8)
    return normalize(pixels, description.mean, description.std)[0]


class Subject:
    """A model, images, and in which order each method takes their pixels.

    Args:
        work: What is studied, and how.
    """

    def __init__(self, work: Work[DeletionConfig]) -> None:
        config, device = work.config, torch.device(work.config.device)
        model, description = load_classifier(weights_of(config))
        self.work, self.model = work, model.to(device)
        self.parts = images_of(config, description).to(device).split(config.batch_size)
        self.black = black_image(description).to(device)
        with torch.no_grad():
            self.predicted = [self.model(part).argmax(1) for part in self.parts]
        self.seconds = dict.fromkeys(METHODS, 0.0)

    @cached_property
    def orders(self) -> dict[str, list[Int[Tensor, "images pixels"]]]:
        """By method, for each batch: its pixels, the most important first."""
        config = self.work.config
        found: dict[str, list[Tensor]] = {}
        for name, method in orders_of(self.parts[0].device, self.black, config.path_steps, config.seed).items():
            found[name] = []
            for part, predicted in zip(self.parts, self.predicted, strict=True):
                start = time.perf_counter()
                scores = method(self.model, part, predicted).flatten(1)
                found[name].append(scores.argsort(dim=1, descending=True, stable=True))
                self.seconds[name] += time.perf_counter() - start
                self.work.advance()
        return found

    def milliseconds(self) -> dict[str, float]:
        """What each method takes for an image."""
        assert self.orders
        return {name: 1e3 * seconds / self.work.config.images for name, seconds in self.seconds.items()}

    def curves(self, test: str) -> dict[str, Float[np.ndarray, "images steps_and_1"]]:
        """The curves of every method in one of the tests."""
        found = {}
        for name, orders in self.orders.items():
            parts = []
            for part, order, predicted in zip(self.parts, orders, self.predicted, strict=True):
                black = self.black.expand_as(part)
                canvas, source = (part, black) if test == "deletion" else (black, part)
                parts.append(curve(self.model, canvas, source, order, predicted, self.work.config.steps))
                self.work.advance()
            found[name] = torch.cat(parts).cpu().numpy()
        return found


def cells(work: Work[DeletionConfig]) -> Iterator[Cell]:
    """Finding the orders, and one for each test."""
    subject = Subject(work)
    steps = len(subject.parts) * len(METHODS)
    yield Cell("orders of pixels", subject.milliseconds, ("milliseconds_per_image",), steps)
    for test in TESTS:
        yield Cell(test, partial(areas_of, subject, test), (test,), steps)


def orders_of(
    device: torch.device, black: Tensor, path_steps: int, seed: int
) -> dict[str, Callable[[nn.Module, Tensor, Tensor], Float[Tensor, "images height width"]]]:
    """What scores the pixels of images, for each method: its attributions summed over channels."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "edges": lambda model, x, target: attribute(model, x, target, baseline=black).values.sum(1),
        "edges_1": lambda model, x, target: attribute(model, x, target, baseline=black, steps=1).values.sum(1),
        "integrated_gradients": lambda model, x, target: integrated_gradients(
            model, x, target, baseline=black, steps=path_steps
        ).values.sum(1),
        "gradient_times_input": lambda model, x, target: gradient_times_input(model, x, target, baseline=black).sum(1),
        "random": lambda model, x, target: torch.rand(len(x), *x.shape[2:], generator=generator).to(device),
    }


@torch.no_grad()
def curve(
    model: nn.Module,
    canvas: Float[Tensor, "images channels height width"],
    source: Float[Tensor, "images channels height width"],
    order: Int[Tensor, "images pixels"],
    predicted: Int[Tensor, " images"],
    steps: int,
) -> Float[Tensor, "images steps_and_1"]:
    """The probability of the predicted class as the pixels of ``source`` replace those of ``canvas``, in order."""
    rank = order.argsort(1).view(-1, 1, *canvas.shape[2:])  # when each pixel's turn comes
    pixels = order.shape[1]
    probabilities = []
    for step in range(steps + 1):
        mixed = torch.where(rank < round(step / steps * pixels), source, canvas)
        probabilities.append(model(mixed).softmax(1).gather(1, predicted.unsqueeze(1)))
    return torch.cat(probabilities, dim=1)


def areas_of(subject: Subject, test: str) -> dict[str, Any]:
    """Mean curves, mean areas, and the differences of our areas to others', with 95 % intervals over images."""
    curves = subject.curves(test)
    areas = {name: area(found) for name, found in curves.items()}
    return {
        "curves": {name: found.mean(0).tolist() for name, found in curves.items()},
        "areas": {name: float(found.mean()) for name, found in areas.items()},
        "differences": {name: asdict(bootstrap_over_images(areas[OURS], areas[name])) for name in RIVALS},
    }


def area(curves: Float[np.ndarray, "images steps_and_1"]) -> Float[np.ndarray, " images"]:
    """The area under each curve over the share of pixels, by the trapezoidal rule."""
    between: np.ndarray = (curves[:, 1:] + curves[:, :-1]).mean(1) / 2
    return between


def markdown(record: dict[str, Any]) -> str:
    """A row for each method: areas, and how ours differ from them."""
    lines = [
        "| order of pixels | deletion ↓ | ours − this | insertion ↑ | ours − this | ms an image |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, title in METHODS.items():
        cells = []
        for test in TESTS:
            found = record[test]["differences"].get(name)
            interval = f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]" if found else ""
            cells += [f"{record[test]['areas'][name]:.4f}", interval]
        lines.append(f"| {title} | {' | '.join(cells)} | {record['milliseconds_per_image'][name]:.1f} |")
    images, folder = record["config"]["images"], Path(record["config"]["run"]).name
    lines += [
        "",
        f"Area under the mean probability of the predicted class, {images} test images of {folder}; in brackets the "
        "95 % interval of a paired bootstrap over images.",
    ]
    return "\n".join(lines)


def draw(record: dict[str, Any]) -> Figure:
    """Both curves of every method."""
    figure = new_figure((9, 3.8))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, test, done in zip(axes, TESTS, ("deleted", "inserted"), strict=True):
        for name, (color, dashes) in STYLES.items():
            values = record[test]["curves"][name]
            label = f"{METHODS[name]}: {record[test]['areas'][name]:.3f}"
            axis.plot(np.linspace(0, 100, len(values)), values, linestyle=dashes, color=color, label=label)
        axis.set_title(f"{test} ({'lower' if test == TESTS[0] else 'higher'} is better)", fontsize=10)
        axis.set_xlabel(f"pixels {done} (%)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, title="area under the curve", title_fontsize=8)
    axes[0].set_ylabel("probability of the predicted class")
    axes[0].set_ylim(0, None)
    return figure


STUDY = Study(
    name="deletion",
    description=__doc__,
    config=DeletionConfig,
    quick={"steps": 5, "path_steps": 4},
    stages=(cells,),
    table=markdown,
    draw=draw,
    complete=complete,
    about=about,
)


def main() -> None:
    """Attribute, delete, insert, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
