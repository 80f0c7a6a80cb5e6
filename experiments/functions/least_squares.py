"""Least squares: small nets fitted to all points at once, judged on points held out and on others never seen."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from convkan.fitting import History, Method, fit
from convkan.ops import compiled_kernels
from convkan.ops.native import is_enabled, native_kernels
from experiments.common.counting import count_parameters
from experiments.functions.nets import kan
from experiments.functions.tasks import Data

SMOOTHNESS = 1e-10  # against the sum of squares


@dataclass
class Outcome:
    """How an optimisation went.

    Attributes:
        val_rmse: Error on the validation part, of the state that the model was left in.
        test_rmse: Error on the test part of that state.
        train_rmse: Error on the training part of that state.
        seconds: Time it took.
        steps: Steps taken.
        curve: Validation error along the way.
    """

    val_rmse: float
    test_rmse: float
    train_rmse: float
    seconds: float
    steps: int
    curve: list[float] = field(default_factory=list)


def rmse(model: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    """Root mean square error."""
    native = is_enabled()
    # What torch compiles takes longer than a small net's whole fit; kernels that are built once stay.
    with torch.no_grad(), compiled_kernels(False), native_kernels(native):
        return float((model(part[0]) - part[1]).square().mean().sqrt())


def optimize(
    model: nn.Module,
    data: Data,
    steps: int,
    *,
    optimizer: Method = "lbfgs",
    learning_rate: float = 1.0,
    seconds: float | None = None,
) -> Outcome:
    """One stage of ``convkan.fitting.fit``; the model is left in its best state on the validation part.

    Args:
        model: What to fit. The state it comes in counts as a candidate.
        data: The points.
        steps: Steps to take, all of them.
        optimizer: The method.
        learning_rate: Of the optimiser.
        seconds: Stop after this time.
    """
    history = fit(
        model,
        *data.train,
        method=optimizer,
        steps=steps,
        validation=data.val,
        adapt=False,
        smoothness=SMOOTHNESS / len(data.train[0]),
        patience=None,
        seconds=seconds,
        learning_rate=learning_rate,
        progress=False,
    )
    errors = (history.rmse, rmse(model, data.test), rmse(model, data.train))
    return Outcome(*errors, history.seconds[-1], history.steps, [error**0.5 for error in history.validation[1:]])


def fitted(model: nn.Module, data: Data, steps: int, seed: int, **options: Any) -> dict[str, Any]:
    """A fit by the defaults of ``convkan.fitting.fit``, as a row of a record; the model is left in its best state.

    Args:
        model: What to fit, a KAN or an MLP.
        data: The points; the validation part decides when to stop, and among starts.
        steps: Levenberg–Marquardt steps a stage at most.
        seed: Of the random starts.
        options: Others of ``convkan.fitting.fit``.
    """
    start = time.perf_counter()
    history: History = fit(
        model, *data.train, validation=data.val, steps=steps, seed=1000 * seed, progress=False, **options
    )
    seconds = time.perf_counter() - start
    return {
        "test_rmse": rmse(model, data.test),
        "val_rmse": history.rmse,
        "grid_size": history.kept.grid_size,
        "parameters": count_parameters(model),
        "starts": 1 + max(stage.start for stage in history.stages),
        "steps": history.steps,
        "seconds": seconds,
    }


def best_kan(
    data: Data,
    shapes: Sequence[tuple[int, ...]],
    grids: Sequence[int],
    steps: int,
    seed: int,
    *,
    starts: int,
    first_steps: int,
    seconds: float,
) -> dict[str, Any]:
    """A fit of a KAN, as a row of a record: of some starts of each shape, the best after a few steps goes on.

    Args:
        data: The points; the validation part decides which start is best, and when to stop.
        shapes: Widths of the nets.
        grids: Sizes of the grids; starts are on the first.
        steps: Levenberg–Marquardt steps a stage at most.
        seed: Of the random starts.
        starts: Of each shape.
        first_steps: Steps of each, on the first grid.
        seconds: Time for all of it, half of it for the starts, each an equal share at most.
    """
    began = time.perf_counter()
    tried: list[tuple[float, int, tuple[int, ...], nn.Sequential]] = []
    for start, widths in product(range(starts), shapes):
        torch.manual_seed(1000 * seed + start)
        model = kan(widths, grids[0])
        each = seconds / 2 / (starts * len(shapes))
        row = fitted(model, data, first_steps, seed, grids=grids[:1], seconds=each)
        tried.append((row["val_rmse"] if isfinite(row["val_rmse"]) else inf, len(tried), widths, model))
    _, _, widths, chosen = min(tried)
    left = seconds - (time.perf_counter() - began)
    row = fitted(chosen, data, steps, seed, grids=grids, seconds=max(left, seconds / 4))
    return row | {"kind": list(widths), "starts": len(tried), "seconds": time.perf_counter() - began}
