"""A basis on a grid as somebody outside the package would write it: nothing in convkan knows it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convkan.basis import GriddedBasis


@dataclass(frozen=True)
class Bumps(GriddedBasis):
    """exp(−u²) with u = (x − t)/h about every point t of the grid, h the mean distance of t from its neighbours."""

    grid_size: int = 4
    grid_range: tuple[float, float] = (-1.0, 1.0)

    @property
    def num_functions(self) -> int:
        """K = grid_size + 1."""
        return self.grid_size + 1

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """exp(−u²), shape (*batch, K, channels)."""
        return torch.exp(-self._distances(x, knots)[0].square())

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """−2u·exp(−u²)/h, shape (*batch, K, channels)."""
        u, width = self._distances(x, knots)
        return -2 * u * torch.exp(-u.square()) / width

    def _distances(self, x: Tensor, knots: Tensor | None) -> tuple[Tensor, Tensor]:
        points = self.checked(knots).mT  # (*groups, K, channels)
        steps = points.diff(dim=-2)
        left, right = torch.cat([steps[..., :1, :], steps], -2), torch.cat([steps, steps[..., -1:, :]], -2)
        width = (left + right) / 2
        return (x.unsqueeze(-2) - points) / width, width
