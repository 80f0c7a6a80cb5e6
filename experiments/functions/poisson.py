"""The Poisson problem of ``experiments.pde``: its solution, its loss, and how a net is trained on it.

Δu = f on [−1, 1]² with u = 0 on the border, f chosen so that u = sin(πx)·sin(πy²) is the solution. The loss is
α·mean (Δu − f)² inside plus mean u² on the border, with derivatives by autograd through the layers' ordinary, fast
evaluation. Source: Liu et al., "KAN" (arXiv 2404.19756), sec. 3.5 (α = 0.01).
"""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import pi

import torch
from torch import Tensor, nn

from experiments.functions.least_squares import AT_ONCE, OptimizerName, Parameters, trust_region, value_at

ALPHA = 0.01
TEST_SIDE = 101
ADAM_RATE = 3e-3
CHUNK = 500  # points whose derivatives are taken at once

Net = Callable[[Tensor], Tensor]


def solution(points: Tensor) -> Tensor:
    """The solution, sin(πx)·sin(πy²), (n,)."""
    x, y = points.T
    return torch.sin(pi * x) * torch.sin(pi * y**2)


def source(points: Tensor) -> Tensor:
    """Its Laplacian, (n,)."""
    x, y = points.T
    along_x = -(pi**2) * torch.sin(pi * x) * torch.sin(pi * y**2)
    along_y = torch.sin(pi * x) * (2 * pi * torch.cos(pi * y**2) - 4 * pi**2 * y**2 * torch.sin(pi * y**2))
    return along_x + along_y


def gradient_of(model: Net, points: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n,) and gradients (n, 2), which can be differentiated again."""
    points = points.requires_grad_()
    u = model(points)[:, 0]
    [slopes] = torch.autograd.grad(u.sum(), points, create_graph=True)
    return u, slopes


def laplacian(model: Net, points: Tensor) -> Tensor:
    """∂²u/∂x² + ∂²u/∂y², (n,)."""
    points = points.detach().clone()
    _, slopes = gradient_of(model, points)
    parts = [torch.autograd.grad(slopes[:, axis].sum(), points, create_graph=True)[0][:, axis] for axis in range(2)]
    return parts[0] + parts[1]


@dataclass(frozen=True)
class Problem:
    """Points inside and on the border."""

    inside: Tensor
    border: Tensor

    @classmethod
    def random(cls, inside: int, border: int, seed: int) -> "Problem":
        """Points drawn evenly."""
        generator = torch.Generator().manual_seed(seed)
        inner = 2 * torch.rand(inside, 2, generator=generator, dtype=torch.float64) - 1
        along = 2 * torch.rand(border, generator=generator, dtype=torch.float64) - 1
        edge = torch.arange(border) % 4
        side = torch.where(edge % 2 == 0, -1.0, 1.0).double()
        points = torch.where((edge < 2).unsqueeze(1), torch.stack([side, along], 1), torch.stack([along, side], 1))
        return cls(inner, points)

    def loss(self, model: nn.Module) -> Tensor:
        """What is minimised."""
        residual = laplacian(model, self.inside) - source(self.inside)
        return ALPHA * residual.square().mean() + model(self.border).square().mean()

    def trust_region(self, model: nn.Module, steps: int, enough: Callable[[], bool]) -> int:
        """Levenberg–Marquardt steps on the same loss, taken as a sum of squares; see ``least_squares.trust_region``."""
        weight_inside, weight_border = (ALPHA / len(self.inside)) ** 0.5, len(self.border) ** -0.5
        wanted = source(self.inside)
        value = partial(value_at, model)

        def residuals(parameters: Parameters) -> Tensor:
            def evaluated(points: Tensor) -> Tensor:
                found: Tensor = torch.func.functional_call(model, parameters, (points,))
                return found

            inside = laplacian(evaluated, self.inside) - wanted
            return torch.cat([weight_inside * inside, weight_border * evaluated(self.border)[:, 0]])

        def laplacian_at(parameters: Parameters, point: Tensor) -> Tensor:
            def slope(place: Tensor, axis: int) -> Tensor:
                return torch.func.grad(value, argnums=1)(parameters, place)[axis]

            return sum((torch.func.grad(slope)(point, axis)[axis] for axis in range(2)), point.new_zeros(()))

        by_point = torch.func.vmap(torch.func.grad(laplacian_at), in_dims=(None, 0), chunk_size=CHUNK)
        on_border = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0))

        def jacobian(parameters: Parameters) -> list[Parameters]:
            inside, border = by_point(parameters, self.inside), on_border(parameters, self.border)
            return [
                {name: weight_inside * rows for name, rows in inside.items()},
                {name: weight_border * rows for name, rows in border.items()},
            ]

        return trust_region(model, residuals, jacobian, steps, enough)


def errors(model: nn.Module) -> dict[str, float]:
    """Mean square error, and relative L2 and H1 errors, on a lattice."""
    places = torch.linspace(-1, 1, TEST_SIDE, dtype=torch.float64)
    points = torch.cartesian_prod(places, places)
    u, slopes = gradient_of(model, points.clone())
    x, y = points.T
    wanted = solution(points)
    wanted_slopes = torch.stack(
        [
            pi * torch.cos(pi * x) * torch.sin(pi * y**2),
            2 * pi * y * torch.sin(pi * x) * torch.cos(pi * y**2),
        ],
        dim=1,
    )
    off, off_slopes = (u - wanted).square(), (slopes - wanted_slopes).square().sum(1)
    size, size_slopes = wanted.square(), wanted_slopes.square().sum(1)
    return {
        "mse": off.mean().item(),
        "l2": (off.sum() / size.sum()).sqrt().item(),
        "h1": ((off + off_slopes).sum() / (size + size_slopes).sum()).sqrt().item(),
    }


def minimise(
    model: nn.Module, problem: Problem, steps: int, *, method: OptimizerName, seconds: float | None = None
) -> int:
    """Train until the steps or the time are spent; the model is left where the loss was least.

    Args:
        model: The net.
        problem: What it is to solve.
        steps: Steps at most; of "adam", the length of its schedule.
        method: "lm" for Levenberg–Marquardt, for nets of few parameters; "lbfgs"; or "adam".
        seconds: Time at most.

    Returns:
        The steps taken.
    """
    start = time.perf_counter()
    best, best_state = problem.loss(model).item(), deepcopy(model.state_dict())

    def enough() -> bool:
        nonlocal best, best_state
        loss = problem.loss(model).item()
        if loss < best:
            best, best_state = loss, deepcopy(model.state_dict())
        return not math.isfinite(loss) or (seconds is not None and time.perf_counter() - start > seconds)

    if method == "lm":
        taken = problem.trust_region(model, steps, enough)
    else:
        taken = _gradient_steps(model, problem, steps, method, enough)
    model.load_state_dict(best_state)
    return taken


def _gradient_steps(
    model: nn.Module, problem: Problem, steps: int, method: OptimizerName, enough: Callable[[], bool]
) -> int:
    """LBFGS or Adam, until it is enough, asked every ten steps; returns the steps taken."""
    optimizer: torch.optim.Optimizer
    if method == "lbfgs":
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=AT_ONCE, max_eval=25 * AT_ONCE, history_size=50, line_search_fn="strong_wolfe",
            tolerance_change=1e-18, tolerance_grad=1e-14,
        )  # fmt: skip
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=ADAM_RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if method == "adam" else None

    def closure() -> float:
        optimizer.zero_grad()
        loss = problem.loss(model)
        loss.backward()
        return loss.item()

    for step in range(AT_ONCE, steps + AT_ONCE, AT_ONCE):
        if decay is None:
            optimizer.step(closure)
        else:
            for _ in range(AT_ONCE):
                optimizer.step(closure)
                decay.step()
        if enough():
            return step
    return steps
