"""Do attributions find the pixels that decide? ``python -m experiments.deletion --run RUNDIR``.

Pixels are taken out of test images in the order of their attribution to the predicted class, the most important first,
or put into a black image in that order. The better the order, the faster the probability of that class falls, or rises:
the area under its curve is small for deletion, large for insertion. Source: Petsiuk et al., "RISE" (arXiv 1806.07421),
sec. 4.3; black here instead of their blurred start of insertion, since it is the methods' common baseline too.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from convkan.interpret import attribute, gradient_times_input, integrated_gradients
from convkan.models import Description, load_classifier
from convkan.training import write_atomically
from convkan.training.data import normalize
from experiments.common.cli import parse, run
from experiments.common.records import environment, write_record
from experiments.common.statistics import paired_bootstrap
from experiments.common.train_config import data_of, stored_config

METHODS = {
    "edges": "rescale rule on edges, 2 steps",
    "edges_1": "rescale rule on edges, 1 step",
    "integrated_gradients": "integrated gradients",
    "gradient_times_input": "gradient × input",
    "random": "random order",
}
OURS, *RIVALS = METHODS
TESTS = ("deletion", "insertion")
# Okabe and Ito's colours, told apart by colour-blind readers too; dashes for those who print in grey.
STYLES = {
    "edges": ("#0072B2", "-"),
    "edges_1": ("#56B4E9", (0, (5, 1))),
    "integrated_gradients": ("#D55E00", "--"),
    "gradient_times_input": ("#009E73", "-."),
    "random": ("#777777", ":"),
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
        for name in ("images", "steps", "path_steps", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def main() -> None:
    """Attribute, delete, insert, record and draw."""
    config = parse(DeletionConfig, __doc__)
    torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    model, description = load_classifier(Path(config.run) / "model.safetensors")
    x = images_of(config, description).to(device)
    settings = {key: value for key, value in asdict(config).items() if key not in ("out", "data_root")}
    settings["run"] = Path(config.run).name
    record: dict[str, Any] = {
        "config": {**settings, "images": len(x)},
        "model": description.model,
        **environment(device),
    }
    record |= measure(model.to(device), x, black_image(description).to(device), config)
    folder = Path(config.out)
    path = folder / "deletion.json"
    write_record(path, record)
    table = markdown(record)
    write_atomically(folder / "deletion.md", lambda partial: partial.write_text(table + "\n", encoding="utf-8"))
    draw(record, folder / "deletion.png")
    print(table)
    print(f"record {path}, table {folder / 'deletion.md'}, plot {folder / 'deletion.png'}")


def images_of(config: DeletionConfig, description: Description) -> Float[Tensor, "images channels height width"]:
    """Some test images of the data set that the run was trained on, in random order.

    Raises:
        UserError: The folder is not that of a run.
        DataError: The data cannot be had, or have other classes than the model.
    """
    trained = stored_config(Path(config.run))
    data = data_of(replace(trained, data_root=config.data_root or trained.data_root), trained.seed)
    data.match_classes(description.class_names)
    generator = torch.Generator().manual_seed(config.seed)
    count = min(config.images, QUICK_IMAGES) if config.quick else config.images
    chosen = torch.randperm(len(data.test), generator=generator)[:count]
    return normalize(data.test.pixels[chosen], description.mean, description.std)


def black_image(description: Description) -> Float[Tensor, "channels height width"]:
    """No light anywhere, as the model is given it."""
    pixels = torch.zeros(1, description.in_channels, *description.image_size, dtype=torch.uint8)
    return normalize(pixels, description.mean, description.std)[0]


def measure(model: nn.Module, x: Tensor, black: Tensor, config: DeletionConfig) -> dict[str, Any]:
    """The curves of every method, the areas under them, and how they differ."""
    steps, path_steps = (5, 4) if config.quick else (config.steps, config.path_steps)
    orders = orders_of(x.device, black, path_steps, config.seed)
    curves: dict[tuple[str, str], list[Tensor]] = {(test, name): [] for test in TESTS for name in METHODS}
    seconds = dict.fromkeys(METHODS, 0.0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn()) as progress:
        bar = progress.add_task("images", total=len(x) * len(METHODS))
        for part in x.split(config.batch_size):
            with torch.no_grad():
                predicted = model(part).argmax(1)
            for name, method in orders.items():
                progress.update(bar, description=METHODS[name])
                start = time.perf_counter()
                order = method(model, part, predicted).flatten(1).argsort(dim=1, descending=True, stable=True)
                seconds[name] += time.perf_counter() - start
                for test, canvas, source in ((TESTS[0], part, black.expand_as(part)),
                                             (TESTS[1], black.expand_as(part), part)):  # fmt: skip
                    curves[test, name].append(curve(model, canvas, source, order, predicted, steps))
                progress.advance(bar, len(part))
    joined = {key: torch.cat(parts).cpu().numpy() for key, parts in curves.items()}
    return summary(joined) | {"milliseconds_per_image": {name: 1e3 * s / len(x) for name, s in seconds.items()}}


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


def summary(curves: dict[tuple[str, str], Float[np.ndarray, "images steps_and_1"]]) -> dict[str, Any]:
    """Mean curves, mean areas, and the differences of our areas to others', with 95 % intervals over images."""
    result: dict[str, Any] = {}
    for test in TESTS:
        areas = {name: area(curves[test, name]) for name in METHODS}
        result[test] = {
            "curves": {name: curves[test, name].mean(0).tolist() for name in METHODS},
            "areas": {name: float(found.mean()) for name, found in areas.items()},
            "differences": {
                # It draws images, the same for both; that it was made for right and wrong answers does not matter.
                name: asdict(paired_bootstrap(areas[OURS][None], areas[name][None]))
                for name in RIVALS
            },
        }
    return result


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


def draw(record: dict[str, Any], path: Path) -> None:
    """Both curves of every method."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained", dpi=140)
    FigureCanvasAgg(figure)
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
    write_atomically(path, lambda partial: figure.savefig(partial, format="png"))


if __name__ == "__main__":
    run(main)
