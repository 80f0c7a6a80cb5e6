"""Widths that make models of different kinds equally large, or equally expensive."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import nn

from convkan.models import create_model, model_options
from experiments.common.cli import UserError
from experiments.common.counting import count_multiply_adds, count_parameters
from experiments.common.train_config import TrainConfig
from experiments.compare.suite import Match

WIDEST = 4096
TIMED_STEPS = 7


@dataclass(frozen=True)
class Step:
    """What a training step is, as far as its time depends on it, besides the model.

    Attributes:
        batch_size: Images a step.
        channels_last: See ``experiments.train``.
        threads: CPU threads; None for torch's choice.
    """

    batch_size: int = TrainConfig.batch_size
    channels_last: bool = TrainConfig.channels_last
    threads: int | None = TrainConfig.threads

    @classmethod
    def of(cls, options: dict[str, Any]) -> "Step":
        """That of a run with these options of the training script."""
        return cls(**{f.name: options[f.name] for f in fields(cls) if f.name in options})


def match_width(measure: Callable[[int], float], target: float, widest: int = WIDEST) -> int:
    """The width whose measure comes closest to ``target``, for a measure that does not fall as the width grows.

    Args:
        measure: The figure of a width of at least 1.
        target: What it should be.
        widest: Where to stop looking.

    Raises:
        UserError: No width up to ``widest`` reaches the target.

    Example:
        >>> match_width(lambda width: width**2, 50)
        7
    """
    above = 1
    while measure(above) < target:
        if above >= widest:
            raise UserError(f"match.target {target:g} is not reached by any width tried")
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if measure(middle) < target else (below, middle)
    return min(max(1, below), above, key=lambda width: abs(measure(width) - target))


def matched_options(
    model: str,
    options: dict[str, Any],
    match: Match | None,
    image_shape: tuple[int, int, int],
    num_classes: int,
    step: Step = Step(),
) -> dict[str, Any]:
    """The options of a model with the width that ``match`` asks for, unless they have a width of their own.

    Args:
        model: Its name.
        options: Its options.
        match: What is to be equal; None, or time alone, leaves widths as they are.
        image_shape: Channels, height and width of the images it is trained on.
        num_classes: Number of their classes.
        step: How it is trained, for ``match`` by the time of a step.
    """
    if match is None or match.size is None or match.target is None or "width" in options:
        return options
    size = MEASURES[match.size]
    # Where a model takes widths between integers, each stage is rounded for itself: sizes come close even if narrow.
    grain = 1 / 16 if isinstance(model_options(model)["width"], float) else 1

    @cache
    def measure(grains: int) -> float:
        built = create_model(model, num_classes, image_shape[0], **options, width=max(1, grains * grain))
        return size(built, torch.zeros(1, *image_shape), step)

    return {**options, "width": max(1, match_width(measure, match.target, round(WIDEST / grain)) * grain)}


def step_milliseconds(model: nn.Module, example: torch.Tensor, step: Step) -> float:
    """Median time of a training step, optimiser included, on random images of the example's shape."""
    threads = torch.get_num_threads()
    torch.set_num_threads(step.threads or threads)
    try:
        return _step_milliseconds(model, example, step)
    finally:
        torch.set_num_threads(threads)


def _step_milliseconds(model: nn.Module, example: torch.Tensor, step: Step) -> float:
    if step.channels_last:
        model.to(memory_format=torch.channels_last)
    images = torch.randn(step.batch_size, *example.shape[1:])
    labels = torch.randint(2, (step.batch_size,))
    optimizer = torch.optim.AdamW(model.parameters())
    times = []
    for _ in range(TIMED_STEPS + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


MEASURES: dict[str, Callable[[nn.Module, torch.Tensor, Step], float]] = {
    "parameters": lambda model, example, step: count_parameters(model),
    "multiply_adds": lambda model, example, step: count_multiply_adds(model, example),
    "step_time": step_milliseconds,
}
