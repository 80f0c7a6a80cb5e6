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
from math import pi
from typing import Any

import torch
from torch import Tensor, nn

from convkan.fitting import Method, fit_residuals
from convkan.fitting.gradient_steps import AT_ONCE, adam, lbfgs
from convkan.fitting.objective import Objective

ALPHA = 0.01
TEST_SIDE = 101
ADAM_RATE = 3e-3

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

    def terms(self) -> list[tuple[Any, ...]]:
        """The same loss as ``convkan.fitting.fit_residuals`` takes it."""
        return [(_off_inside, self.inside, source(self.inside)), (_off_border, self.border)]


def _off_inside(net: Net, point: Tensor, wanted: Tensor) -> Tensor:
    [bends] = torch.func.jacrev(torch.func.jacrev(net))(point)
    return ALPHA**0.5 * (bends.diagonal().sum() - wanted)


def _off_border(net: Net, point: Tensor) -> Tensor:
    return net(point)


@dataclass(frozen=True)
class Loss(Objective):
    """The loss with the derivatives of all points taken at once, for methods that need no more."""

    problem: Problem | None = None

    def loss(self) -> Tensor:
        """What is minimised."""
        assert self.problem is not None
        return self.problem.loss(self.model)


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


def minimise(model: nn.Module, problem: Problem, steps: int, *, method: Method, seconds: float | None = None) -> int:
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
    if method == "lm":
        history = fit_residuals(
            model,
            problem.terms(),
            steps=steps,
            adapt=False,
            smoothness=0.0,
            patience=None,
            seconds=seconds,
            progress=False,
        )
        return history.steps
    start = time.perf_counter()
    best, best_state = problem.loss(model).item(), deepcopy(model.state_dict())

    def look(_: float, taken: int) -> bool:
        nonlocal best, best_state
        if taken % AT_ONCE:
            return False
        loss = problem.loss(model).item()
        if loss < best:
            best, best_state = loss, deepcopy(model.state_dict())
        return not math.isfinite(loss) or (seconds is not None and time.perf_counter() - start > seconds)

    objective = Loss(model, [], problem=problem)
    taken = lbfgs(objective, steps, 1.0, look) if method == "lbfgs" else adam(objective, steps, ADAM_RATE, look)
    model.load_state_dict(best_state)
    return taken
