"""MLPs for a KAN to be held against: kinds of them, each given the same time, and which is best."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from convkan.fitting import Method
from convkan.fitting.gradient_steps import AT_ONCE
from experiments.common.counting import count_parameters
from experiments.functions.least_squares import Outcome, fitted, optimize
from experiments.functions.nets import mlp_of_size
from experiments.functions.tasks import Data

MANY = 1_000_000  # steps or starts, where time decides
SPENT = 0.9  # share of the time after which nothing new is started


@dataclass(frozen=True)
class Rival:
    """An MLP of a certain kind and how it is optimised."""

    depth: int
    activation: str
    optimizer: Method
    learning_rate: float

    def __str__(self) -> str:
        return f"{self.depth}×{self.activation}, {self.optimizer} {self.learning_rate:g}"


RIVALS = (
    [Rival(depth, activation, "lm", 1.0) for depth in (1, 2, 3) for activation in ("tanh", "silu")]
    + [Rival(depth, activation, "lbfgs", 1.0) for depth in (2, 3) for activation in ("tanh", "silu")]
    + [Rival(depth, "silu", "adam", rate) for depth in (2, 3) for rate in (3e-3, 2e-2)]
)
# Depth and activation of those fitted by the defaults of ``convkan.fitting``.
KINDS = tuple(product((2, 3), ("tanh", "silu")))


@dataclass(frozen=True)
class Tried:
    """A kind of MLP, how its optimisation went, and its number of parameters."""

    rival: Rival
    outcome: Outcome
    parameters: int


def rank_rivals(
    data: Data,
    parameters: int,
    seconds: float,
    seed: int,
    rivals: Sequence[Rival] = RIVALS,
    advance: Callable[[], None] = lambda: None,
) -> list[Tried]:
    """MLPs of a size, each the best of as many random starts as its time allows, the best on the validation part first.

    Args:
        data: The points.
        parameters: Their size, approximately.
        seconds: Time for each.
        seed: Seed of the weights.
        rivals: The kinds.
        advance: Called after each kind.
    """
    tried: list[Tried] = []
    inputs, outputs = data.train[0].shape[1], data.train[1].shape[1]
    for rival in rivals:
        start, attempt = time.perf_counter(), 0
        found: list[Tried] = []
        while not found or time.perf_counter() - start < SPENT * seconds:  # what converges early starts again
            torch.manual_seed(1000 * seed + attempt)
            model = mlp_of_size(inputs, outputs, rival.depth, rival.activation, parameters)
            left = seconds - (time.perf_counter() - start)
            steps = MANY
            if rival.optimizer == "adam":  # its schedule is to end when the time does
                trial = optimize(deepcopy(model), data, AT_ONCE, optimizer="adam", learning_rate=rival.learning_rate)
                steps = max(AT_ONCE, int(left / trial.seconds * AT_ONCE))
            outcome = optimize(
                model, data, steps, optimizer=rival.optimizer, learning_rate=rival.learning_rate, seconds=left
            )
            found.append(Tried(rival, outcome, count_parameters(model)))
            attempt += 1
        best = min(found, key=lambda one: one.outcome.val_rmse)
        best.outcome.seconds = time.perf_counter() - start
        tried.append(best)
        advance()
    return sorted(tried, key=lambda one: one.outcome.val_rmse)


def best_mlp(
    data: Data,
    parameters: int,
    seconds: float,
    steps: int,
    seed: int,
    kinds: Sequence[tuple[int, str]] = KINDS,
) -> dict[str, Any]:
    """The best MLP of a size on the validation points, as a row of a record, fitted by the same defaults as a KAN.

    Args:
        data: The points.
        parameters: Its size, approximately.
        seconds: Time for each kind, for as many random starts as it allows.
        steps: Levenberg–Marquardt steps a start at most.
        seed: Seed of the weights.
        kinds: Depth and activation of each kind.
    """
    inputs, outputs = data.train[0].shape[1], data.train[1].shape[1]
    rows = []
    for depth, activation in kinds:
        torch.manual_seed(seed)
        model = mlp_of_size(inputs, outputs, depth, activation, parameters)
        row = fitted(model, data, steps, seed, restarts=MANY, seconds=seconds)
        rows.append({"kind": f"{depth}×{activation}", **row})
    return min(rows, key=lambda row: row["val_rmse"])
