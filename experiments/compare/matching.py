"""Widths that make models of different kinds equally large, or equally expensive."""

import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from convkan.models import create_model, model_options
from experiments.cli import UserError
from experiments.compare.suite import Match
from experiments.records import count_multiply_adds, count_parameters

WIDEST = 4096
TIMED_STEPS = 7


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
    model: str, options: dict[str, Any], match: Match | None, image_shape: tuple[int, int, int], num_classes: int
) -> dict[str, Any]:
    """The options of a model with the width that ``match`` asks for, unless they have a width of their own."""
    if match is None or "width" in options:
        return options
    # Where a model takes widths between integers, each stage is rounded for itself: sizes come close even if narrow.
    step = 1 / 16 if isinstance(model_options(model)["width"], float) else 1

    @cache
    def measure(steps: int) -> float:
        built = create_model(model, num_classes, image_shape[0], **options, width=max(1, steps * step))
        return MEASURES[match.by](built, torch.zeros(1, *image_shape))

    return {**options, "width": max(1, match_width(measure, match.target, round(WIDEST / step)) * step)}


def step_milliseconds(model: nn.Module, example: torch.Tensor, batch_size: int = 64) -> float:
    """Median time of a training step, optimiser included, on random images of the example's shape."""
    images = torch.randn(batch_size, *example.shape[1:])
    labels = torch.randint(2, (batch_size,))
    optimizer = torch.optim.AdamW(model.parameters())
    times = []
    for _ in range(TIMED_STEPS + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


MEASURES: dict[str, Callable[[nn.Module, torch.Tensor], float]] = {
    "parameters": lambda model, _: count_parameters(model),
    "multiply_adds": count_multiply_adds,
    "step_time": step_milliseconds,
}
