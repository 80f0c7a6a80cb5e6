"""Small KANs and MLPs for function fitting, and full-batch optimisation of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from convkan import KANLinear
from convkan.basis import BSpline
from experiments.records import count_parameters

OptimizerName = Literal["lbfgs", "adam"]
HISTORY = 50  # of LBFGS
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "silu": nn.SiLU, "relu": nn.ReLU}


@dataclass(frozen=True)
class Data:
    """Points and values, for training, for choosing when to stop, and for testing."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


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


def kan(
    widths: Sequence[int], grid_size: int, grid_range: tuple[float, float] = (-1.0, 1.0), order: int = 3
) -> nn.Sequential:
    """A KAN of dense layers in float64, linear beyond its grids so that nothing is lost there."""
    basis = BSpline(grid_size, order, grid_range, extrapolation="linear")
    return nn.Sequential(
        *(KANLinear(before, after, basis=basis, dtype=torch.float64) for before, after in pairwise(widths))
    )


def mlp(inputs: int, outputs: int, hidden: Sequence[int], activation: str) -> nn.Sequential:
    """A multilayer perceptron in float64, its weights drawn for unit variance."""
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *hidden]):
        layers += [nn.Linear(before, after, dtype=torch.float64), ACTIVATIONS[activation]()]
    layers.append(nn.Linear(hidden[-1] if hidden else inputs, outputs, dtype=torch.float64))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
    return nn.Sequential(*layers)


def mlp_of_size(inputs: int, outputs: int, depth: int, activation: str, parameters: int) -> nn.Sequential:
    """The MLP of ``depth`` equal hidden layers whose number of parameters comes closest."""

    def size(width: int) -> int:
        return (inputs + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * outputs

    width = min(range(1, parameters + 2), key=lambda width: abs(size(width) - parameters))
    return mlp(inputs, outputs, [width] * depth, activation)


def rmse(model: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    """Root mean square error."""
    with torch.no_grad():
        return float((model(part[0]) - part[1]).square().mean().sqrt())


def optimize(
    model: nn.Module,
    data: Data,
    steps: int,
    *,
    optimizer: OptimizerName = "lbfgs",
    learning_rate: float = 1.0,
    seconds: float | None = None,
    after_step: Callable[[int], None] | None = None,
) -> Outcome:
    """Least squares on all training points at once; the model is left in its best state on the validation part.

    Args:
        model: What to fit. The state it comes in counts as a candidate.
        data: The points.
        steps: Steps to take.
        optimizer: "lbfgs" with a strong-Wolfe line search, or "adam" with a rate that falls along half a cosine.
        learning_rate: Of the optimiser.
        seconds: Stop after this time.
        after_step: Called with the number of steps taken.
    """
    start = time.perf_counter()
    best, best_state, curve = rmse(model, data.val), deepcopy(model.state_dict()), []
    taken = 0
    for taken in _steps(model, data.train, steps, optimizer, learning_rate):
        error = rmse(model, data.val)
        curve.append(error)
        if error < best:
            best, best_state = error, deepcopy(model.state_dict())
        if after_step is not None:
            after_step(taken)
        if seconds is not None and time.perf_counter() - start > seconds:
            break
    model.load_state_dict(best_state)
    elapsed = time.perf_counter() - start
    return Outcome(best, rmse(model, data.test), rmse(model, data.train), elapsed, taken, curve)


def _steps(
    model: nn.Module, part: tuple[Tensor, Tensor], steps: int, name: OptimizerName, learning_rate: float
) -> Iterator[int]:
    """Take the steps, and yield after each; ends early where no step leads further."""
    x, y = part

    def loss() -> Tensor:
        return (model(x) - y).square().mean()

    optimizer: torch.optim.Optimizer
    schedule = None
    if name == "lbfgs":
        optimizer = torch.optim.LBFGS(
            model.parameters(),
            lr=learning_rate,
            max_iter=1,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-14,
            tolerance_change=1e-16,
        )
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return float(value)

    for step in range(1, steps + 1):
        value = optimizer.step(closure)
        if schedule is not None:
            schedule.step()
        if not torch.isfinite(torch.as_tensor(value)):
            return
        yield step


@dataclass(frozen=True)
class Rival:
    """An MLP of a certain kind and how it is optimised."""

    depth: int
    activation: str
    optimizer: OptimizerName
    learning_rate: float

    def __str__(self) -> str:
        return f"{self.depth}×{self.activation}, {self.optimizer} {self.learning_rate:g}"


RIVALS = [Rival(depth, activation, "lbfgs", 1.0) for depth in (1, 2, 3) for activation in ("tanh", "silu")] + [
    Rival(depth, activation, "adam", rate)
    for depth in (2, 3)
    for activation in ("tanh", "silu")
    for rate in (3e-3, 2e-2)
]


def best_rival(
    data: Data,
    parameters: int,
    steps: int,
    seconds: float | None,
    seed: int,
    rivals: Sequence[Rival] = RIVALS,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Rival, Outcome, int]:
    """The MLP of a size that does best on the validation part, of all the kinds there are.

    Args:
        data: The points.
        parameters: Its size, approximately.
        steps: Steps of LBFGS; Adam takes ten times as many, since each costs a fraction.
        seconds: Time for each kind; None for no limit.
        seed: Seed of the weights.
        rivals: The kinds.
        advance: Called after each kind.

    Returns:
        The kind, how it went, and its number of parameters.
    """
    found: list[tuple[Rival, Outcome, int]] = []
    inputs, outputs = data.train[0].shape[1], data.train[1].shape[1]
    for rival in rivals:
        torch.manual_seed(seed)
        model = mlp_of_size(inputs, outputs, rival.depth, rival.activation, parameters)
        many = steps if rival.optimizer == "lbfgs" else 10 * steps
        outcome = optimize(
            model, data, many, optimizer=rival.optimizer, learning_rate=rival.learning_rate, seconds=seconds
        )
        found.append((rival, outcome, count_parameters(model)))
        advance()
    return min(found, key=lambda item: item[1].val_rmse)
