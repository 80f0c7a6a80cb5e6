"""Chebyshev polynomials of the first kind on squashed inputs, T_n(tanh x)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis.polynomials import SquashedPolynomials


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
class Chebyshev(SquashedPolynomials):
    """T_n(tanh x) for n = 0 … ``degree``: a global basis, bounded by 1 on all of ℝ.

    Source: Sidharth et al., "Chebyshev Polynomial-Based Kolmogorov-Arnold Networks" (arXiv 2405.07200), eq. 7.

    Args:
        degree: Highest degree; K = degree + 1.

    Raises:
        TypeError: The degree is not an integer.
        ValueError: The degree is negative.

    Example:
        >>> Chebyshev(degree=3).num_functions
        4
    """

    degree: int = 4

    def polynomials(self, t: Tensor) -> list[Tensor]:
        """T_n(t)."""
        return chebyshev(t, self.degree)

    def slopes(self, t: Tensor) -> list[Tensor]:
        """T_n' = n·U_{n−1} (DLMF 18.9.21)."""
        second_kind = chebyshev(t, self.degree - 1, kind=2) if self.degree > 0 else []
        return [torch.zeros_like(t), *(n * u for n, u in enumerate(second_kind, 1))]
