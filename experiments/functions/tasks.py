"""Functions for small networks to fit: the toys and special functions of the KAN paper.

Source: Liu et al., "KAN: Kolmogorov-Arnold Networks" (arXiv 2404.19756), sec. 3.1 and 3.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import pi

import numpy as np
import scipy.special
import torch
from torch import Tensor

TEST_POINTS = 10_000
VAL_SHARE = 0.15
ORDER = 3


@dataclass(frozen=True)
class Data:
    """Points and values, for training, for choosing when to stop, and for testing."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A function to fit.

    Attributes:
        function: From points (n, inputs) to values (n,).
        domain: Low and high end of each input.
        widths: Sizes of the KAN's layers.
        formula: How people write it.
        published: Test RMSE of the paper's KAN and MLP, where it gives them.
    """

    function: Callable[[Tensor], Tensor]
    domain: tuple[tuple[float, float], ...]
    widths: tuple[int, ...]
    formula: str
    published: str = ""

    def grids(self, wanted: list[int], points: int) -> list[int]:
        """Those of the sizes whose coefficients are no more than the points that decide them, and the first."""
        edges = sum(before * after for before, after in pairwise(self.widths))
        return [size for size in wanted if size == wanted[0] or edges * (size + ORDER + 1) <= points]


def _special(name: str, *fixed: float, result: int | None = None) -> Callable[[Tensor], Tensor]:
    """A function of ``scipy.special`` of two variables."""

    def evaluate(x: Tensor) -> Tensor:
        values = getattr(scipy.special, name)(*fixed, x[:, 0].numpy(), x[:, 1].numpy())
        return torch.from_numpy(np.asarray(values if result is None else values[result]))

    return evaluate


UNIT = (-1.0, 1.0)
TASKS = {
    "bessel": Task(lambda x: torch.special.bessel_j0(20 * x[:, 0]), (UNIT,), (1, 1), "J₀(20x)"),
    "exp_sin": Task(
        lambda x: torch.exp(torch.sin(pi * x[:, 0]) + x[:, 1] ** 2), (UNIT,) * 2, (2, 1, 1), "exp(sin πx + y²)"
    ),
    "product": Task(lambda x: x[:, 0] * x[:, 1], (UNIT,) * 2, (2, 2, 1), "xy"),
    "hundred": Task(
        lambda x: torch.exp(torch.sin(pi * x / 2).square().mean(1)),
        (UNIT,) * 100,
        (100, 1, 1),
        "exp(1/100 Σ sin²(πxᵢ/2))",
    ),
    "four": Task(
        lambda x: torch.exp(
            (torch.sin(pi * (x[:, 0] ** 2 + x[:, 1] ** 2)) + torch.sin(pi * (x[:, 2] ** 2 + x[:, 3] ** 2))) / 2
        ),
        (UNIT,) * 4,
        (4, 4, 2, 1),
        "exp(½ sin π(x₁²+x₂²) + ½ sin π(x₃²+x₄²))",
    ),
    "ellipj": Task(
        _special("ellipj", result=0), ((0.0, 10.0), (0.0, 0.99)), (2, 2, 1, 1), "sn(u|m)", "1.3e-4 / 6.5e-4"
    ),
    "jv": Task(_special("jv"), ((0.0, 3.0), (0.0, 10.0)), (2, 3, 1, 1, 1), "J_ν(x)", "1.6e-3 / 5.5e-3"),
    "lpmv": Task(_special("lpmv", 0.0), ((0.0, 4.0), (-0.99, 0.99)), (2, 2, 1), "P⁰_ν(x)", "5.3e-5 / 1.7e-2"),
}


def sample(task: Task, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random points of the task's domain, scaled to [−1, 1], and values."""
    low, high = torch.tensor(task.domain, dtype=torch.float64).T
    x = torch.rand(count, len(task.domain), generator=generator, dtype=torch.float64)
    return 2 * x - 1, task.function(low + (high - low) * x).unsqueeze(1)


def data_of(task: Task, points: int, seed: int) -> Data:
    """Training, validation and test points of a seed."""
    generator = torch.Generator().manual_seed(seed)
    x, y = sample(task, points, generator)
    held_out = max(1, round(VAL_SHARE * points))
    return Data((x[held_out:], y[held_out:]), (x[:held_out], y[:held_out]), sample(task, TEST_POINTS, generator))
