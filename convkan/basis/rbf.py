"""Gaussian radial basis functions on evenly spaced centres."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis.base import Basis, check_positive_int, check_range

FAR = 30.0  # where exp(−u²) is 0


def gaussian_bumps(
    x: Float[Tensor, "*batch channels"], low: float, spacing: float, num_centers: int
) -> tuple[Float[Tensor, "*batch centers channels"], Float[Tensor, "*batch centers channels"]]:
    """The signed distances u = (x − c)/h to each centre, in units of their spacing h, and exp(−u²).

    Inputs stay near enough for u² to be finite, and far enough for all bumps to be 0 there, in float64, too.
    """
    far = (FAR + num_centers) * spacing
    x = x.clamp(low - far, low + far)
    centers = low + spacing * torch.arange(num_centers, dtype=x.dtype, device=x.device)
    distance = (x.unsqueeze(-2) - centers.unsqueeze(-1)) / spacing
    return distance, torch.exp(-distance.square())


@dataclass(frozen=True)
class RBF(Basis):
    """exp(−((x − c)/h)²) for ``num_centers`` centres c, evenly spaced by h over ``center_range``.

    Source: Li, "Kolmogorov-Arnold Networks are Radial Basis Function Networks" (arXiv 2405.06721), eq. 6.

    Args:
        num_centers: K, the number of centres, at least 2.
        center_range: First and last centre.

    Raises:
        ValueError: Fewer than two centres, or a range that is empty or not finite.

    Example:
        >>> RBF(num_centers=5, center_range=(-1, 1)).spacing
        0.5
    """

    num_centers: int = 8
    center_range: tuple[float, float] = (-2.0, 2.0)

    def __post_init__(self) -> None:
        check_positive_int("num_centers", self.num_centers, 2)
        object.__setattr__(self, "center_range", check_range("center_range", self.center_range))

    @property
    def num_functions(self) -> int:
        """K = num_centers."""
        return self.num_centers

    @property
    def spacing(self) -> float:
        """The distance h of neighbouring centres, also the width of each bump."""
        low, high = self.center_range
        return (high - low) / (self.num_centers - 1)

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """exp(−u²), shape (*batch, K, channels)."""
        return gaussian_bumps(x, self.center_range[0], self.spacing, self.num_centers)[1]

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """−2u·exp(−u²)/h, shape (*batch, K, channels)."""
        distance, bumps = gaussian_bumps(x, self.center_range[0], self.spacing, self.num_centers)
        return (-2 / self.spacing) * distance * bumps

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """The basis with ``num_functions`` centres over the same range."""
        if num_knots is not None:
            raise ValueError("the RBF basis has no grid")
        return type(self)(num_centers=num_functions, center_range=self.center_range)
