"""Where the time of training on a large folder of pictures goes, and its memory: ``python -m experiments.loading``.

JPEGs are made up, one folder a class, unless they are there already. A network is trained on them for a part of an
epoch: with pictures decoded when they are needed, by the training process and by loader processes, and with all of them
held in memory; then most of an epoch is loaded without training. Memory is what processes have to themselves and their
share of what they have in common (Linux's PSS).
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure

from convkan.interpret.plot import BLUE, GREY, ORANGE, new_figure
from convkan.models import create_model
from convkan.training import Classifier, ImageData, Recipe
from convkan.training.batches import shift_and_flip
from experiments.common.cli import GOES_ON, check_positive, run
from experiments.common.counting import memory_of_processes
from experiments.common.made_pictures import AT_A_TIME, make_pictures
from experiments.common.study import Cell, Record, Study, Work
from experiments.common.trainer import interruptible, silence_lightning

POINTS = 12  # at which memory is read, evenly spread over the steps
HELD = "held in memory, 0 workers"
BATCHES = 6  # by which each phase is timed
PHASES = ("decoding", "shifting and mirroring", "normalising", "training step")
MEBIBYTE = 2**20


@dataclass(frozen=True)
class LoadingConfig:
    """What to train, on what.

    Attributes:
        pictures: JPEGs in all.
        side: Their height and width.
        classes: Folders they are in.
        image_size: Side to which they are scaled.
        model: A name in convkan.models.list_models(), of a model with a width.
        width: Its width.
        batch_size: Images a step.
        steps: Steps of each run.
        batches: Batches that are loaded without training, by the most workers.
        workers: Numbers of loader processes, a run each.
        threads: CPU threads.
        data_root: Folder for the pictures; by default that of the record.
        out: Folder for the record, the table and the picture.
        quick: A version of seconds.
    """

    pictures: int = 20_000
    side: int = 160
    classes: int = 10
    image_size: int = 128
    model: str = "kan_resnet18"
    width: float = 8.0
    batch_size: int = 64
    steps: int = 40
    batches: int = 200
    workers: tuple[int, ...] = (0, 2)
    threads: int = 1
    data_root: str | None = None
    out: str = "runs/loading"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "pictures", "side", "classes", "image_size", "batch_size", "steps", "batches", "threads")
        if self.pictures < 10 * self.classes:
            raise ValueError(f"pictures must be at least 10 for each of {self.classes} classes, got {self.pictures}")

    @property
    def folder(self) -> Path:
        """Where the pictures are."""
        return Path(self.data_root or self.out) / f"{self.pictures}-pictures-of-{self.side}"


def pictures(work: Work[LoadingConfig]) -> Iterator[Cell]:
    """The pictures that are not there yet; none, once all is measured."""
    config = work.config
    if HELD in work.record.get("runs", {}):
        return
    done = sum(1 for _ in config.folder.glob("*/*.jpg")) == config.pictures
    sizes = config.pictures, config.side, config.classes
    make = partial(make_pictures, config.folder, *sizes, work.advance)
    yield Cell("pictures", make, None, -(-config.pictures // AT_A_TIME), done)


def cells(work: Work[LoadingConfig]) -> Iterator[Cell]:
    """The phases one by one, and a run for each number of workers and one with all pictures in memory."""
    config = work.config
    yield Cell("phases", partial(time_phases, config), ("phases",))
    for workers in config.workers:
        title = f"decoded when needed, {workers} workers"
        yield Cell(title, partial(train, config, workers, in_memory=False), ("runs", title))
    title = f"decoded and not trained on, {max(config.workers)} workers"
    yield Cell(title, partial(load, config, max(config.workers)), ("runs", title))
    yield Cell("held in memory", partial(train, config, 0, in_memory=True), ("runs", HELD))


def data_of(config: LoadingConfig, workers: int, in_memory: bool) -> ImageData:
    """The pictures, not read yet."""
    sizes: dict[str, Any] = {"image_size": config.image_size, "batch_size": config.batch_size}
    return ImageData("folder", data_root=config.folder, **sizes, num_workers=workers, in_memory=in_memory)


def classifier_of(config: LoadingConfig) -> Classifier:
    """A fresh network and how it is trained."""
    torch.manual_seed(0)
    model = create_model(config.model, config.classes, 3, width=config.width)
    return Classifier(model.to(memory_format=torch.channels_last), config.classes, Recipe(learning_rate=1e-2))


def time_phases(config: LoadingConfig) -> dict[str, float]:
    """Milliseconds of processor an image, of what is done to a batch in one process: medians over batches."""
    data, classifier = data_of(config, 0, in_memory=False), classifier_of(config)
    data.setup()
    optimizer, generator = torch.optim.AdamW(classifier.parameters(), 1e-2), torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {phase: [] for phase in PHASES}
    order = torch.randperm(len(data.train), generator=generator)
    for places in order[: BATCHES * config.batch_size].split(config.batch_size):

        def timed(phase: str, compute: Callable[[], Any], count: int = len(places)) -> Any:
            began = time.process_time()
            value = compute()
            found[phase].append(1000 * (time.process_time() - began) / count)
            return value

        def step(images: torch.Tensor, labels: torch.Tensor = data.train.labels[places]) -> None:
            optimizer.zero_grad()
            F.cross_entropy(classifier(images), labels).backward()
            optimizer.step()

        decode, labels = partial(data.train.pixels.__getitem__, places), data.train.labels[places]
        pixels = timed(PHASES[0], decode)
        pixels = timed(PHASES[1], partial(shift_and_flip, pixels, data.shift, data.flip, generator))
        images, _ = timed(PHASES[2], partial(data.on_after_batch_transfer, (pixels, labels), 0))
        timed(PHASES[3], partial(step, images))
    return {phase: statistics.median(times) for phase, times in found.items()}


def begun(config: LoadingConfig, workers: int, in_memory: bool) -> tuple[ImageData, dict[str, Any]]:
    """The pictures as they are read before training, and what that took."""
    before, began = sum(memory_of_processes()), time.perf_counter()
    data = data_of(config, workers, in_memory)
    data.setup()
    seconds, ready = time.perf_counter() - began, sum(memory_of_processes())
    return data, {"read_seconds": seconds, "memory_before": before, "memory_ready": ready}


def train(config: LoadingConfig, workers: int, in_memory: bool) -> dict[str, Any]:
    """Train for the steps, and say how fast it was and what it held."""
    silence_lightning()
    data, found = begun(config, workers, in_memory)
    watch = Watch(config.steps)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=config.steps,
        max_epochs=-1,
        limit_val_batches=0,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        reload_dataloaders_every_n_epochs=1,
    )
    with interruptible():
        trainer.fit(classifier_of(config), datamodule=data)
    pace, waiting = statistics.mean(watch.seconds[1:]), sum(watch.waits[1:]) / sum(watch.seconds[1:])
    return found | {"images_per_second": config.batch_size / pace, "waiting": waiting, "memory": watch.memory}


def load(config: LoadingConfig, workers: int) -> dict[str, Any]:
    """Load batches and do nothing with them; returns what ``train`` does."""
    data, found = begun(config, workers, in_memory=False)
    memory, points, began = [], points_of(config.batches), time.perf_counter()
    for index, _ in zip(range(config.batches), data.train_dataloader(), strict=False):
        if index in points:
            own, *others = memory_of_processes()
            memory.append([index + 1, own, sum(others)])
    pace = (time.perf_counter() - began) / memory[-1][0]
    return found | {"images_per_second": config.batch_size / pace, "waiting": 1.0, "memory": memory}


def points_of(steps: int) -> set[int]:
    """The steps after which memory is read, counted from 0."""
    return {round(point * (steps - 1) / (POINTS - 1)) for point in range(POINTS)}


class Watch(Callback):
    """Notes ``seconds`` of each step and, of these, ``waits`` for its batch, and now and then what all processes hold.

    Rows of ``memory`` are: steps done, bytes of this process, bytes of all loader processes.
    """

    def __init__(self, steps: int) -> None:
        self.points = points_of(steps)
        self.seconds: list[float] = []
        self.waits: list[float] = []
        self.memory: list[list[int]] = []
        self.last = 0.0

    def on_train_start(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.last = time.perf_counter()

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """The batch is there."""
        self.waits.append(time.perf_counter() - self.last)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """The step is done; reading memory does not count."""
        self.seconds.append(time.perf_counter() - self.last)
        if len(self.seconds) - 1 in self.points:
            own, *workers = memory_of_processes()
            self.memory.append([len(self.seconds), own, sum(workers)])
        self.last = time.perf_counter()


def markdown(record: Record) -> str:
    """Both tables."""
    config, whole = record["config"], sum(record["phases"].values())
    rows = [f"| {phase} | {value:.2f} | {value / whole:.0%} |" for phase, value in record["phases"].items()]
    lines = [
        f"{config['pictures']:,} JPEGs of {config['side']} pixels, scaled to {config['image_size']}; "
        f"`{config['model']}` of width {config['width']:g}, {config['steps']} steps of {config['batch_size']} images, "
        f"{config['threads']} CPU thread a process.",
        "",
        "| in one process, one after the other | ms of processor an image | share |",
        "| --- | ---: | ---: |",
        *rows,
        "",
        "| pictures | images/s | waiting for input | to read them, s | MiB before | MiB ready | MiB meanwhile | "
        "last third beside the one before |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for title, found in record["runs"].items():
        held = totals(found)
        third = len(held) // 3
        growth = statistics.mean(held[-third:]) / statistics.mean(held[-2 * third : -third]) - 1
        lines.append(
            f"| {title} | {found['images_per_second']:.0f} | {found['waiting']:.0%} | {found['read_seconds']:.1f} | "
            f"{found['memory_before'] / MEBIBYTE:.0f} | {found['memory_ready'] / MEBIBYTE:.0f} | "
            f"{min(held) / MEBIBYTE:.0f} … {max(held) / MEBIBYTE:.0f} | {growth:+.1%} |"
        )
    return "\n".join(lines)


def totals(found: dict[str, Any]) -> list[int]:
    """Bytes of all processes of a run, at each point."""
    return [own + workers for _, own, workers in found["memory"]]


def draw(record: Record) -> Figure:
    """The phases, and memory over the steps of each run."""
    figure = new_figure((10, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=[2, 3])
    left.barh(list(record["phases"]), list(record["phases"].values()), color=BLUE)
    left.invert_yaxis()
    left.set_xlabel("ms of processor an image")
    for (title, found), colour in zip(record["runs"].items(), (BLUE, ORANGE, GREY, "black", "green"), strict=False):
        steps = [step for step, _, _ in found["memory"]]
        right.plot(steps, [held / MEBIBYTE for held in totals(found)], "o-", color=colour, label=title)
    right.set_ylim(bottom=0)
    right.set_xlabel("batches")
    right.set_ylabel("MiB, all processes")
    right.legend(loc="lower right")
    return figure


STUDY = Study(
    name="loading",
    description=__doc__,
    config=LoadingConfig,
    quick={"pictures": 40, "side": 24, "classes": 2, "image_size": 16, "width": 2.0, "batch_size": 8}
    | {"steps": 3, "batches": 3},
    stages=(pictures, cells),
    table=markdown,
    draw=draw,
)


def main() -> None:
    """Make the pictures, measure, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
