"""Rational functions without poles on the real line, and linear in what is learned."""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis.base import Basis, check_positive_int


@dataclass(frozen=True)
class Rational(Basis):
    """cos(nθ) and sin(nθ) with θ = 2·arctan(x/s), n = 0 … ``degree``: all p(x)/(1 + (x/s)²)^degree, deg p ≤ 2·degree.

    A function is linear in the coefficients of a basis, so a numerator may be learned here, but no denominator. This
    one has no real zero, and functions are bounded by 1 and come to rest at ±∞. Powers of x over it would be ill
    conditioned; waves on the circle that the real line becomes span the same and are orthogonal there. They are
    rational by c_1 = (1 − u²)/(1 + u²), s_1 = 2u/(1 + u²), u = x/s, and c_{n+1} = 2c_1·c_n − c_{n−1}, likewise s_n.
    Source: Boyd, "Spectral methods using rational basis functions on an infinite interval" (J. Comput. Phys. 69, 1987)
    for the functions, DLMF 18.9.1 for the recurrence. ``convkan.nn.RationalActivation`` learns denominators, too.

    Args:
        degree: The power of the denominator, at least 1; K = 2·degree + 1.
        scale: s, where functions are at their steepest: half of the circle is [−s, s].

    Raises:
        TypeError: The degree is not an integer, or the scale not a number.
        ValueError: The degree is too small, or the scale not positive and finite.

    Example:
        >>> Rational(degree=3).num_functions
        7
    """

    degree: int = 4
    scale: float = 2.0

    def __post_init__(self) -> None:
        check_positive_int("degree", self.degree, 1)
        if not isinstance(self.scale, int | float) or isinstance(self.scale, bool):
            raise TypeError(f"scale must be a number, got {self.scale!r}")
        if not (isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be positive and finite, got {self.scale!r}")
        object.__setattr__(self, "scale", float(self.scale))

    @property
    def num_functions(self) -> int:
        """K = 2·degree + 1."""
        return 2 * self.degree + 1

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """1, then all cosines, then all sines, shape (*batch, K, channels)."""
        cosines, sines, _ = self._waves(x)
        return torch.stack(cosines + sines[1:], dim=-2)

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """−n·sin(nθ)·θ' and n·cos(nθ)·θ', with θ' = 2/(s·(1 + u²)), shape (*batch, K, channels)."""
        cosines, sines, share = self._waves(x)
        slope = (2 / self.scale) * share
        falling = [-n * slope * wave for n, wave in enumerate(sines)]
        rising = [n * slope * wave for n, wave in enumerate(cosines)]
        return torch.stack(falling + rising[1:], dim=-2)

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """The basis with as many functions, of the same scale."""
        if num_knots is not None:
            raise ValueError("the Rational basis has no grid")
        if num_functions % 2 == 0:
            raise ValueError(f"a Rational basis has an odd number of functions, not {num_functions}")
        return replace(self, degree=num_functions // 2)

    def _waves(
        self, x: Float[Tensor, "*shape"]
    ) -> tuple[list[Float[Tensor, "*shape"]], list[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]:
        """cos(nθ) and sin(nθ) for n = 0 … degree, and 1/(1 + u²)."""
        most = torch.finfo(x.dtype).max / 4  # of which twice is finite
        u = (x / self.scale).clamp(-most, most)
        share = 1 / (1 + u.square())
        cosines, sines = [torch.ones_like(x), 2 * share - 1], [torch.zeros_like(x), 2 * u * share]
        for _ in range(self.degree - 1):
            for waves in (cosines, sines):
                waves.append(2 * cosines[1] * waves[-1] - waves[-2])
        return cosines, sines, share
