"""Squared products of two ReLUs, bumps on a grid."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from convkan.basis.base import GriddedBasis, check_positive_int, check_range


@dataclass(frozen=True)
class ReLUKAN(GriddedBasis):
    """16·(ReLU(e_i − x)·ReLU(x − s_i))²/(e_i − s_i)⁴, a bump of height 1 on the knots s_i = t_i … e_i = t_{i+k+1}.

    They live where B-splines of ``order`` on the same knots do, K = grid_size + order of them, but are always of degree
    4 and do not add up to 1. With u = (2x − s − e)/(e − s) a bump is ReLU(1 − u²)², the form that is computed. The
    range and the equal spacing are where a layer starts; knots follow data as those of splines do. Source: Qiu et al.,
    "ReLU-KAN: New Kolmogorov-Arnold Networks that Only Need Matrix Addition, Dot Multiplication, and ReLU" (arXiv
    2406.02075), sec. 3, where the grid is [0, 1].

    Args:
        grid_size: G, the number of intervals, at least 1.
        order: k: a bump is k + 1 intervals wide. At least 0, where bumps do not overlap.
        grid_range: The ends (a, b) of the grid.

    Raises:
        TypeError: A size is not an integer, or the range not a pair of numbers.
        ValueError: A size is too small, or the range empty or not finite.

    Example:
        >>> ReLUKAN(grid_size=8, grid_range=(-3, 3)).num_functions
        11
    """

    grid_size: int = 5
    order: int = 3
    grid_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        check_positive_int("grid_size", self.grid_size, 1)
        check_positive_int("order", self.order, 0)
        object.__setattr__(self, "grid_range", check_range("grid_range", self.grid_range))

    @property
    def num_functions(self) -> int:
        """K = grid_size + order."""
        return self.grid_size + self.order

    @property
    def knots_beyond(self) -> int:
        """The order: so far do bumps that reach into the grid go on beyond it."""
        return self.order

    @property
    def degree(self) -> int:
        """4, that of a bump."""
        return 4

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """ReLU(1 − u²)², shape (*batch, K, channels)."""
        u, _ = self._positions(x, knots)
        return (1 - u.square()).relu().square()

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """−4u·ReLU(1 − u²)·2/(e − s), shape (*batch, K, channels)."""
        u, reciprocal = self._positions(x, knots)
        return -8 * reciprocal * u * (1 - u.square()).relu()

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """The basis whose K and knot vector have these sizes: order = knots − 1 − K, grid size = K − order."""
        if num_knots is None:
            raise ValueError("the ReLUKAN basis needs a grid, and there is none")
        order = num_knots - 1 - num_functions
        if order < 0 or num_functions - order < 1:
            raise ValueError(f"no ReLUKAN basis has {num_functions} functions on {num_knots} knots")
        return replace(self, grid_size=num_functions - order, order=order)

    def _positions(self, x: Tensor, knots: Tensor | None) -> tuple[Tensor, Tensor]:
        """u, shape (*batch, K, channels), and 1/(e − s); 1 and 0 where all knots of a bump coincide, and it is none."""
        knots = self.checked(knots).mT
        width = self.order + 1
        starts, ends = knots[..., :-width, :], knots[..., width:, :]
        span = ends - starts
        reciprocal = torch.where(span > 0, 1 / torch.where(span > 0, span, 1), 0)
        u = torch.where(span > 0, (2 * x.unsqueeze(-2) - starts - ends) * reciprocal, 1)
        return u.clamp(-2, 2), reciprocal  # the same far out, where a square would overflow
