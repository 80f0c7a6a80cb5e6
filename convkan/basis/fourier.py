"""Sines and cosines."""

from dataclasses import dataclass, replace
from math import isfinite, pi
from typing import Self

import torch
from torch import Tensor

from convkan.basis.base import Basis, check_positive_int


@dataclass(frozen=True)
class Fourier(Basis):
    """1, cos(kωx), sin(kωx) for k = 1 … ``num_frequencies`` and ω = 2π/``period``.

    Inputs are not squashed: functions repeat outside of one period, so that nothing is ever off a grid, and an input
    far out counts as much as one nearby. Source: Xu et al., "FourierKAN-GCF: Fourier Kolmogorov-Arnold Network" (arXiv
    2406.01034), sec. 3; the constant makes its bias unnecessary.

    Args:
        num_frequencies: The number of frequencies, at least 1; K = 2·num_frequencies + 1.
        period: After how long the functions repeat; the default is that of the sine, and covers three standard
            deviations to either side.

    Raises:
        TypeError: The number is not an integer, or the period not a number.
        ValueError: The number is too small, or the period not positive and finite.

    Example:
        >>> Fourier(num_frequencies=3).num_functions
        7
    """

    num_frequencies: int = 4
    period: float = 2 * pi

    def __post_init__(self) -> None:
        check_positive_int("num_frequencies", self.num_frequencies, 1)
        if not isinstance(self.period, int | float) or isinstance(self.period, bool):
            raise TypeError(f"period must be a number, got {self.period!r}")
        if not (isfinite(self.period) and self.period > 0):
            raise ValueError(f"period must be positive and finite, got {self.period!r}")
        object.__setattr__(self, "period", float(self.period))

    @property
    def num_functions(self) -> int:
        """K = 2·num_frequencies + 1."""
        return 2 * self.num_frequencies + 1

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """The constant, then all cosines, then all sines, shape (*batch, K, channels)."""
        angle = self._angles(x, self._frequencies(x))
        return torch.cat([torch.ones_like(x).unsqueeze(-2), angle.cos(), angle.sin()], dim=-2)

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """0, −kω·sin(kωx), kω·cos(kωx), shape (*batch, K, channels)."""
        frequencies = self._frequencies(x)
        angle = self._angles(x, frequencies)
        constant = torch.zeros_like(x).unsqueeze(-2)
        return torch.cat([constant, -frequencies * angle.sin(), frequencies * angle.cos()], dim=-2)

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """The basis with as many functions, of the same period."""
        if num_knots is not None:
            raise ValueError("the Fourier basis has no grid")
        if num_functions % 2 == 0:
            raise ValueError(f"a Fourier basis has an odd number of functions, not {num_functions}")
        return replace(self, num_frequencies=num_functions // 2)

    def _frequencies(self, x: Tensor) -> Tensor:
        """kω, shape (num_frequencies, 1)."""
        numbers = torch.arange(1, self.num_frequencies + 1, dtype=x.dtype, device=x.device).unsqueeze(-1)
        return numbers * (2 * pi / self.period)

    def _angles(self, x: Tensor, frequencies: Tensor) -> Tensor:
        """kωx, shape (*batch, num_frequencies, channels), of inputs for which all of them are finite."""
        highest = self.num_frequencies * 2 * pi / self.period
        most = 0.99 * torch.finfo(x.dtype).max / max(1.0, highest)
        return frequencies * x.clamp(-most, most).unsqueeze(-2)
