"""Jacobi polynomials on squashed inputs, P_n^{(α,β)}(tanh x)."""

from dataclasses import dataclass
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis.polynomials import SquashedPolynomials


def jacobi(t: Float[Tensor, "*shape"], degree: int, alpha: float, beta: float) -> list[Float[Tensor, "*shape"]]:
    """Jacobi polynomials of degree 0 … ``degree`` at ``t``, by their three-term recurrence.

    P_{n+1} = (A_n·t + B_n)·P_n − C_n·P_{n−1} with the coefficients of DLMF 18.9.2, and P_0 = 1,
    P_1 = (α − β)/2 + (α + β + 2)/2·t, where the general ones would divide 0 by 0 for α + β = 0 or −1.
    """
    polynomials = [torch.ones_like(t), (alpha - beta) / 2 + (alpha + beta + 2) / 2 * t]
    total = alpha + beta
    for n in range(1, degree):
        below = 2 * (n + 1) * (n + total + 1)
        a = (2 * n + total + 1) * (2 * n + total + 2) / below
        b = (alpha**2 - beta**2) * (2 * n + total + 1) / (below * (2 * n + total))
        c = 2 * (n + alpha) * (n + beta) * (2 * n + total + 2) / (below * (2 * n + total))
        polynomials.append((a * t + b) * polynomials[-1] - c * polynomials[-2])
    return polynomials[: degree + 1]


def jacobi_slopes(t: Float[Tensor, "*shape"], degree: int, alpha: float, beta: float) -> list[Float[Tensor, "*shape"]]:
    """Their derivatives, (n + α + β + 1)/2·P_{n−1}^{(α+1,β+1)} (DLMF 18.9.15)."""
    higher = jacobi(t, degree - 1, alpha + 1, beta + 1) if degree > 0 else []
    return [torch.zeros_like(t), *((n + alpha + beta + 1) / 2 * p for n, p in enumerate(higher, 1))]


def check_exponent(argument: str, value: object) -> float:
    """A number greater than −1, or an error that names the argument."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    if not (isfinite(value) and value > -1):
        raise ValueError(f"{argument} must be finite and greater than -1, got {value!r}")
    return float(value)


@dataclass(frozen=True)
class Jacobi(SquashedPolynomials):
    """P_n^{(α,β)}(tanh x) for n = 0 … ``degree``, orthogonal on [−1, 1] under (1 − t)^α·(1 + t)^β.

    They have their usual values P_n(1) = Γ(n + α + 1)/(n!·Γ(α + 1)): with α = β = 0 they are the Legendre polynomials,
    with ∓1/2 multiples of Chebyshev's of the first and second kind, and the greater α or β, the faster they grow with n
    towards the right or the left end.
    Source: DLMF 18.3, 18.9; in KANs, Aghaei, "fKAN: Fractional Kolmogorov-Arnold Networks with trainable Jacobi basis
    functions" (arXiv 2406.07456), whose exponents are learned; here they are part of the description.

    Args:
        degree: Highest degree; K = degree + 1.
        alpha: α > −1, the weight at the right end.
        beta: β > −1, the weight at the left end.

    Raises:
        TypeError: The degree is not an integer, or an exponent not a number.
        ValueError: The degree is negative, or an exponent not finite or not greater than −1.

    Example:
        >>> Jacobi(degree=3, alpha=1.0, beta=0.5).num_functions
        4
    """

    degree: int = 4
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta"):
            object.__setattr__(self, name, check_exponent(name, getattr(self, name)))

    def polynomials(self, t: Tensor) -> list[Tensor]:
        """P_n^{(α,β)}(t)."""
        return jacobi(t, self.degree, self.alpha, self.beta)

    def slopes(self, t: Tensor) -> list[Tensor]:
        """(n + α + β + 1)/2·P_{n−1}^{(α+1,β+1)}(t)."""
        return jacobi_slopes(t, self.degree, self.alpha, self.beta)
