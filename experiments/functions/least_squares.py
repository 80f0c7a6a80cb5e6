"""Least squares: small nets fitted to all points at once."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import scipy.optimize
import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan import KANLinear
from experiments.functions.tasks import Data

OptimizerName = Literal["lbfgs", "adam", "lm"]
Parameters = dict[str, Tensor]
HISTORY = 50  # of LBFGS
ROUGHNESS, ROUGHNESS_ORDER = 1e-5, 4
AT_ONCE = 10  # its steps between looks at the validation part


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
) -> Outcome:
    """Least squares on all training points at once; the model is left in its best state on the validation part.

    Args:
        model: What to fit. The state it comes in counts as a candidate.
        data: The points.
        steps: Steps to take.
        optimizer: "lbfgs" with a strong-Wolfe line search, "adam" with a rate that falls along half a cosine, or "lm":
            Levenberg–Marquardt steps in a trust region (scipy), for nets of few parameters and one output.
        learning_rate: Of the optimiser.
        seconds: Stop after this time.
    """
    start = time.perf_counter()
    best, best_state, curve = rmse(model, data.val), deepcopy(model.state_dict()), []

    def enough() -> bool:
        nonlocal best, best_state
        error = rmse(model, data.val)
        curve.append(error)
        if error < best:
            best, best_state = error, deepcopy(model.state_dict())
        return seconds is not None and time.perf_counter() - start > seconds

    if optimizer == "lm":
        taken = _trust_region(model, data.train, steps, enough)
    else:
        taken = _gradient_steps(model, data.train, steps, optimizer, learning_rate, enough)
    model.load_state_dict(best_state)
    elapsed = time.perf_counter() - start
    return Outcome(best, rmse(model, data.test), rmse(model, data.train), elapsed, taken, curve)


def _gradient_steps(
    model: nn.Module,
    part: tuple[Tensor, Tensor],
    steps: int,
    name: OptimizerName,
    learning_rate: float,
    enough: Callable[[], bool],
) -> int:
    """Take the steps, or fewer if the loss is no longer finite or it is enough; returns how many."""
    x, y = part

    def loss() -> Tensor:
        return (model(x) - y).square().mean()

    optimizer: torch.optim.Optimizer
    schedule = None
    if name == "lbfgs":
        optimizer = torch.optim.LBFGS(
            model.parameters(),
            lr=learning_rate,
            max_iter=AT_ONCE,
            max_eval=25 * AT_ONCE,
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
        return value.item()

    stride = AT_ONCE if name == "lbfgs" else 1
    for step in range(stride, steps + stride, stride):
        value = optimizer.step(closure)
        if schedule is not None:
            schedule.step()
        if not torch.isfinite(torch.as_tensor(value)) or enough():
            return step
    return steps


def _trust_region(model: nn.Module, part: tuple[Tensor, Tensor], steps: int, enough: Callable[[], bool]) -> int:
    """Gauss–Newton steps on the points of ``part``, with a little smoothness for coefficients that no point decides."""
    x, y = part

    def residuals(parameters: Parameters) -> Tensor:
        with torch.no_grad():
            off = (torch.func.functional_call(model, parameters, (x,)) - y)[:, 0]
        return torch.cat([off, roughness(model, parameters)])

    of_points = torch.func.vmap(torch.func.grad(partial(value_at, model)), in_dims=(None, 0))
    of_roughness = torch.func.jacrev(partial(roughness, model))
    return trust_region(model, residuals, lambda found: [of_points(found, x), of_roughness(found)], steps, enough)


def value_at(model: nn.Module, parameters: Parameters, point: Tensor) -> Tensor:
    """The only output of a net at one point (inputs,), as a function that ``torch.func`` differentiates."""
    value: Tensor = torch.func.functional_call(model, parameters, (point.unsqueeze(0),))[0, 0]
    return value


def trust_region(
    model: nn.Module,
    residuals: Callable[[Parameters], Tensor],
    jacobian: Callable[[Parameters], Sequence[Parameters]],
    steps: int,
    enough: Callable[[], bool],
) -> int:
    """Minimise a sum of squares by Gauss–Newton steps within a trust region (scipy), for nets of few parameters.

    Args:
        model: The net; it is left with the last state.
        residuals: What is squared, (rows,), from the parameters by name.
        jacobian: Its derivatives: for blocks of rows in order, (rows, *shape) for every parameter.
        steps: Evaluations of the residuals at most.
        enough: Asked after each step, when the model has its result, whether to stop.

    Returns:
        The number of evaluations.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    shapes = [parameter.shape for parameter in trained]

    def unpack(vector: np.ndarray) -> Parameters:
        pieces = torch.from_numpy(vector).split([shape.numel() for shape in shapes])
        return {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}

    def rows(vector: np.ndarray) -> np.ndarray:
        blocks = [torch.cat([block[name].flatten(1) for name in names], dim=1) for block in jacobian(unpack(vector))]
        return torch.cat(blocks).detach().numpy()

    def look(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        torch.nn.utils.vector_to_parameters(torch.from_numpy(intermediate_result.x), trained)
        if enough():
            raise StopIteration

    start = torch.nn.utils.parameters_to_vector(trained).detach().numpy().copy()
    with np.errstate(over="ignore"):  # a step whose squares overflow is a bad one, and is taken back as such
        found = scipy.optimize.least_squares(
            lambda vector: residuals(unpack(vector)).detach().numpy(),
            start,
            rows,
            x_scale="jac",
            max_nfev=steps,
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            callback=look,
        )
    return int(found.nfev)


def roughness(model: nn.Module, parameters: Parameters) -> Float[Tensor, " differences"]:
    """Fourth differences of neighbouring coefficients, times so little that they decide only what no point decides."""
    differences = [x.new_zeros(0) for x in list(parameters.values())[:1]]
    for name, layer in model.named_modules():
        if isinstance(layer, KANLinear) and layer.basis.num_functions > ROUGHNESS_ORDER:
            weight = parameters[f"{name}.basis_weight"].unflatten(1, (layer.basis.num_functions, -1))
            differences.append(ROUGHNESS * weight.diff(n=ROUGHNESS_ORDER, dim=1).flatten())
    return torch.cat(differences)
