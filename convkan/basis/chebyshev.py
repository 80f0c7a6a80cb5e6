"""Chebyshev polynomials of the first kind on squashed inputs, T_n(tanh x)."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis.base import Basis, check_positive_int


def chebyshev(t: Float[Tensor, "*shape"], degree: int, *, kind: int = 1) -> list[Float[Tensor, "*shape"]]:
    """Chebyshev polynomials of degree 0 … ``degree`` at ``t``, by their three-term recurrence.

    P_0 = 1, P_1 = kind·t, P_{n+1} = 2t·P_n − P_{n−1}; with kind 1 these are the T_n, with kind 2 the U_n. The
    recurrence needs no ``acos``, whose gradient is infinite at ±1. Source: DLMF 18.9.1.
    """
    polynomials = [torch.ones_like(t), kind * t]
    for _ in range(degree - 1):
        polynomials.append(2 * t * polynomials[-1] - polynomials[-2])
    return polynomials[: degree + 1]


@dataclass(frozen=True)
class Chebyshev(Basis):
    """T_n(tanh x) for n = 0 … ``degree``: a global basis, bounded by 1 on all of ℝ.

    Source: Sidharth et al., "Chebyshev Polynomial-Based Kolmogorov-Arnold Networks" (arXiv 2405.07200), eq. 7.

    Args:
        degree: Highest degree; K = degree + 1.

    Raises:
        ValueError: The degree is negative.

    Example:
        >>> Chebyshev(degree=3).num_functions
        4
    """

    degree: int = 4

    def __post_init__(self) -> None:
        check_positive_int("degree", self.degree, 0)

    @property
    def num_functions(self) -> int:
        """K = degree + 1."""
        return self.degree + 1

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """T_n(tanh x), shape (*batch, K, channels)."""
        return torch.stack(chebyshev(x.tanh(), self.degree), dim=-2)

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """T_n'(tanh x)·sech²x = n·U_{n−1}(tanh x)·sech²x (DLMF 18.9.21), shape (*batch, K, channels)."""
        # sech²x = 4σ(2x)σ(−2x) keeps its relative precision in the tails, where 1 − tanh²x is pure rounding.
        inner = 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)
        second_kind = chebyshev(x.tanh(), self.degree - 1, kind=2) if self.degree > 0 else []
        return torch.stack([torch.zeros_like(x)] + [n * u * inner for n, u in enumerate(second_kind, 1)], dim=-2)

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """The basis with ``num_functions`` polynomials."""
        if num_knots is not None:
            raise ValueError("the Chebyshev basis has no grid")
        return type(self)(degree=num_functions - 1)
