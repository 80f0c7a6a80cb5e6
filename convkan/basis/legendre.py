"""Legendre polynomials on squashed inputs, P_n(tanh x)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis.jacobi import jacobi_slopes
from convkan.basis.polynomials import SquashedPolynomials


def legendre(t: Float[Tensor, "*shape"], degree: int) -> list[Float[Tensor, "*shape"]]:
    """Legendre polynomials of degree 0 … ``degree`` at ``t``, by their three-term recurrence.

    P_0 = 1, P_1 = t, P_{n+1} = ((2n + 1)·t·P_n − n·P_{n−1})/(n + 1), which is stable on [−1, 1] at any degree.
    Source: DLMF 18.9.1 and table 18.9.1.
    """
    polynomials = [torch.ones_like(t), t]
    for n in range(1, degree):
        polynomials.append((2 * n + 1) / (n + 1) * t * polynomials[-1] - n / (n + 1) * polynomials[-2])
    return polynomials[: degree + 1]


@dataclass(frozen=True)
class Legendre(SquashedPolynomials):
    """P_n(tanh x) for n = 0 … ``degree``, orthogonal on [−1, 1] with a constant weight; bounded by 1 on all of ℝ.

    Source: DLMF 18.3; in convolutional KANs, Drokin, "Kolmogorov-Arnold Convolutions: Design Principles and Empirical
    Studies" (arXiv 2407.01092), sec. 3, where inputs are scaled by the extremes of the batch instead.

    Args:
        degree: Highest degree; K = degree + 1.

    Raises:
        TypeError: The degree is not an integer.
        ValueError: The degree is negative.

    Example:
        >>> Legendre(degree=3).num_functions
        4
    """

    degree: int = 4

    def polynomials(self, t: Tensor) -> list[Tensor]:
        """P_n(t)."""
        return legendre(t, self.degree)

    def slopes(self, t: Tensor) -> list[Tensor]:
        """P_n' = (n + 1)/2·P_{n−1}^{(1,1)} (DLMF 18.9.15)."""
        return jacobi_slopes(t, self.degree, 0.0, 0.0)
