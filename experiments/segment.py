"""Segment digits in made-up scenes with a KAN U-Net and its plain twin: ``python -m experiments.segment``.

The scenes are made up: digits of scikit-learn's (8×8 pixels, drawn by people, packaged with it) enlarged, pasted one
over another at random places and brightnesses, and covered with noise. A pixel's class is that of the digit on top of
it, or the background. Digits of test scenes are in no training scene. The KANs have as many parameters as the plain
network, or fewer: their widths are chosen so.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

from convkan.interpret.plot import new_figure
from convkan.models import create_model, suggested_learning_rate
from convkan.training.datasets import DATASETS
from convkan.training.parts import Images
from experiments.common.cli import GOES_ON, check_positive, run
from experiments.common.counting import count_parameters
from experiments.common.study import Cell, Study, Work

GLYPH = 16  # pixels of a digit's side, once enlarged
INK = 0.35  # of full brightness, from which a pixel of a digit counts as its
CLASSES = 11  # the background, then the digits
NOISE = 0.2
SHOWN = 4  # test scenes in the picture
# What each network is; the plain one's width decides the size of all.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "U-Net": ("unet", {}),
    "KAN U-Net, a function a channel": ("kan_unet", {"kind": "lowrank"}),
    "KAN U-Net, a function an edge": ("kan_unet", {"kind": "full"}),
}
COLOURS = ListedColormap(["black", *(f"C{digit}" for digit in range(10))])


@dataclass(frozen=True)
class SegmentConfig:
    """What to train, and how long.

    Attributes:
        width: Channels of the plain network's first stage.
        train_scenes: Scenes to train on.
        test_scenes: Scenes to test on.
        side: Pixels of a scene's side.
        digits: Digits in a scene.
        epochs: Passes over the training scenes.
        batch_size: Scenes of a step.
        seeds: Runs of each network.
        threads: Threads of the processor.
        out: Folder for the record, the table and the picture.
        quick: A version of seconds.
    """

    width: float = 8.0
    train_scenes: int = 2000
    test_scenes: int = 500
    side: int = 48
    digits: int = 5
    epochs: int = 30
    batch_size: int = 32
    seeds: int = 3
    threads: int = 1
    out: str = "runs/segment"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "train_scenes", "test_scenes", "digits", "epochs", "batch_size", "seeds", "threads")
        if self.side < GLYPH:
            raise ValueError(f"side must be at least {GLYPH}, got {self.side}")


def scenes(images: Images, count: int, side: int, digits: int, seed: int) -> tuple[Tensor, Tensor]:
    """Made-up scenes (count, 1, side, side), and the class of every pixel (count, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    glyphs = F.interpolate(images.pixels[:] / 255, (GLYPH, GLYPH), mode="bilinear").squeeze(1)
    pictures, masks = torch.zeros(count, side, side), torch.zeros(count, side, side, dtype=torch.long)
    chosen = torch.randint(len(images), (count, digits), generator=generator)
    places = torch.randint(side - GLYPH + 1, (count, digits, 2), generator=generator)
    brightness = 0.5 + 0.5 * torch.rand(count, digits, generator=generator)
    for scene in range(count):
        for index, (top, left), bright in zip(
            chosen[scene].tolist(), places[scene].tolist(), brightness[scene], strict=True
        ):
            window = (scene, slice(top, top + GLYPH), slice(left, left + GLYPH))
            ink = glyphs[index] > INK
            pictures[window] = torch.where(ink, bright * glyphs[index], pictures[window])
            masks[window] = torch.where(ink, images.labels[index] + 1, masks[window])
    pictures += NOISE * torch.randn(pictures.shape, generator=generator)
    return pictures.unsqueeze(1), masks


@cache
def data_of(config: SegmentConfig) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training scenes and test scenes."""
    parts = DATASETS["digits"].load(Path(), None)
    return (
        scenes(parts.train, config.train_scenes, config.side, config.digits, seed=0),
        scenes(parts.test, config.test_scenes, config.side, config.digits, seed=1),
    )


def dice(predicted: Tensor, wanted: Tensor) -> list[float]:
    """2·|P ∩ T|/(|P| + |T|) of every class but the background, over all pixels together; 1 for one that is nowhere."""
    found = []
    for label in range(1, CLASSES):
        ours, theirs = predicted == label, wanted == label
        total = int(ours.sum() + theirs.sum())
        found.append(2 * int((ours & theirs).sum()) / total if total else 1.0)
    return found


@cache
def network_of(name: str, width: float) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """A network's model and options: of those that are no larger than the plain one of this width, the widest."""
    model, options = NETWORKS[name]
    if options:
        limit = count_parameters(create_model("unet", CLASSES, width=width))
        widths = torch.arange(width, 1, -0.25).tolist()  # a KAN of a width is larger than the plain one
        sizes = (count_parameters(create_model(model, CLASSES, width=narrow, **options)) for narrow in widths)
        width = next((narrow for narrow, size in zip(widths, sizes, strict=True) if size <= limit), 1.0)
    return model, (*options.items(), ("width", width))


def train(name: str, seed: int, config: SegmentConfig, advance: Callable[[], None]) -> dict[str, Any]:
    """Train one network, and test it; what its record says."""
    torch.manual_seed(seed)
    model_name, options = network_of(name, config.width)
    model = create_model(model_name, CLASSES, **dict(options))
    (x, wanted), (test_x, test_wanted) = data_of(config)
    steps = config.epochs * -(-len(x) // config.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, suggested_learning_rate(model_name), steps)
    started = time.perf_counter()
    for _ in range(config.epochs):
        for batch in torch.randperm(len(x)).split(config.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), wanted[batch]).backward()
            optimizer.step()
            schedule.step()
        advance()
    seconds = time.perf_counter() - started
    predicted = predict(model, test_x, config.batch_size)
    return {
        "parameters": count_parameters(model),
        "options": dict(options),
        "dice": dice(predicted, test_wanted),
        "accuracy": (predicted == test_wanted).double().mean().item(),
        "seconds_per_epoch": seconds / config.epochs,
        "masks": [packed(mask) for mask in predicted[:SHOWN]],
    }


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """The class of every pixel."""
    model.eval()
    return torch.cat([model(batch).argmax(1) for batch in x.split(batch_size)])


def packed(mask: Tensor) -> list[str]:
    """A mask as rows of letters, a for the background."""
    return ["".join(chr(ord("a") + label) for label in row) for row in mask.tolist()]


def unpacked(rows: list[str]) -> Any:
    """The mask again."""
    return np.array([[ord(letter) - ord("a") for letter in row] for row in rows])


def cells(work: Work[SegmentConfig]) -> Iterator[Cell]:
    """One run after another; in the record, a list for each network."""
    for seed in range(work.config.seeds):
        for name in NETWORKS:
            fill = partial(train, name, seed, work.config, work.advance)
            yield Cell(f"{name}, seed {seed}", fill, ("runs", name, seed), work.config.epochs)


def markdown(record: dict[str, Any]) -> str:
    """A row a network: means over seeds, and the spread of Dice."""
    lines = ["| network | parameters | Dice | right pixels | seconds an epoch |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, runs in record["runs"].items():
        scores = torch.tensor([run["dice"] for run in runs]).mean(1)
        accuracy, seconds = (sum(run[key] for run in runs) / len(runs) for key in ("accuracy", "seconds_per_epoch"))
        spread = f" ± {scores.std():.3f}" if len(runs) > 1 else ""
        lines.append(
            f"| {name} | {runs[0]['parameters']:,} | {scores.mean():.3f}{spread} | {accuracy:.1%} | {seconds:.1f} |"
        )
    note = "Dice: mean over the ten digits, over all test scenes together; scenes are made up of scikit-learn's digits."
    return "\n".join([*lines, "", note])


def draw(record: dict[str, Any]) -> Figure:
    """A few test scenes, what is in them, and what each network finds."""
    config = SegmentConfig(**record["config"])
    _, (x, wanted) = data_of(config)
    found = {name: [unpacked(rows) for rows in runs[0]["masks"]] for name, runs in record["runs"].items()}
    columns: dict[str, Any] = {"scene": x[:SHOWN, 0].numpy(), "digits": wanted[:SHOWN].numpy(), **found}
    shown = min(SHOWN, len(x))
    figure = new_figure((1.9 * len(columns), 1.8 * shown + 0.4), dpi=110)
    axes = figure.subplots(shown, len(columns), squeeze=False)
    for column, (title, pictures) in enumerate(columns.items()):
        axes[0, column].set_title(title.replace(", ", ",\n"), fontsize=8)
        for row in range(shown):
            look: dict[str, Any] = (
                {"cmap": "gray"} if column == 0 else {"cmap": COLOURS, "vmin": 0, "vmax": CLASSES - 1}
            )
            axes[row, column].imshow(pictures[row], interpolation="nearest", **look)
            axes[row, column].set_axis_off()
    return figure


STUDY = Study(
    name="segment",
    description=__doc__,
    config=SegmentConfig,
    quick={"width": 4.0, "train_scenes": 96, "test_scenes": 16, "side": 32, "digits": 2, "epochs": 4, "seeds": 1},
    stages=(cells,),
    table=markdown,
    draw=draw,
)


def main() -> None:
    """Train, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
