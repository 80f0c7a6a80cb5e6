"""Bernstein polynomials on squashed inputs."""

from dataclasses import dataclass, replace
from math import lgamma
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from convkan.basis.base import Basis, check_positive_int


@dataclass(frozen=True)
class Bernstein(Basis):
    """C(n, k)·s^k·(1 − s)^{n−k} with s = σ(2x) = (1 + tanh x)/2, for k = 0 … n; n = ``degree``.

    K positive bumps that add up to 1, one behind the other from −∞ to ∞: coefficients are the heights of a control
    polygon, between whose extremes the function stays. They are worked out as exponentials of sums of logarithms: all
    terms are positive, so nothing cancels and nothing overflows at any degree. Source: Farouki, "The Bernstein
    polynomial basis: a centennial retrospective" (Computer Aided Geometric Design 29, 2012), sec. 2.

    Args:
        degree: n, at least 0; K = n + 1.

    Raises:
        TypeError: The degree is not an integer.
        ValueError: The degree is negative.

    Example:
        >>> import torch
        >>> Bernstein(degree=2).evaluate(torch.zeros(1, 1)).flatten()
        tensor([0.2500, 0.5000, 0.2500])
    """

    degree: int = 4

    def __post_init__(self) -> None:
        check_positive_int("degree", self.degree, 0)

    @property
    def num_functions(self) -> int:
        """K = degree + 1."""
        return self.degree + 1

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """C(n, k)·s^k·(1 − s)^{n−k}, shape (*batch, K, channels)."""
        rising, falling = self._exponents(x)
        logarithms = lgamma(self.degree + 1) - torch.lgamma(rising + 1) - torch.lgamma(falling + 1)
        x = _near(x).unsqueeze(-2)
        return torch.exp(logarithms + rising * F.logsigmoid(2 * x) + falling * F.logsigmoid(-2 * x))

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """2·(k·(1 − s) − (n − k)·s) times the polynomial, as s' = 2s(1 − s); shape (*batch, K, channels)."""
        rising, falling = self._exponents(x)
        s = _near(x).unsqueeze(-2)
        return 2 * (rising * torch.sigmoid(-2 * s) - falling * torch.sigmoid(2 * s)) * self.evaluate(x)

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """The basis with ``num_functions`` polynomials."""
        if num_knots is not None:
            raise ValueError("the Bernstein basis has no grid")
        return replace(self, degree=num_functions - 1)

    def _exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The exponents k and n − k, each (K, 1)."""
        rising = torch.arange(self.degree + 1, dtype=x.dtype, device=x.device).unsqueeze(-1)
        return rising, self.degree - rising


def _near(x: Tensor) -> Tensor:
    """``x``, but no further out than where s is 0 or 1 in float64, too: twice x is finite, and so are logarithms."""
    return x.clamp(-400.0, 400.0)
