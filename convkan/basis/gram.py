"""Gram polynomials on squashed inputs: orthogonal on equally spaced points."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convkan.basis.base import check_positive_int
from convkan.basis.polynomials import SquashedPolynomials


@dataclass(frozen=True)
class Gram(SquashedPolynomials):
    """G_n(tanh x) for n = 0 … ``degree``, orthogonal on the points 2j/N − 1, j = 0 … N; N + 1 = ``num_points``.

    Also known as discrete Chebyshev polynomials, here with G_n(1) = 1. They come from the recurrence
    (n + 1)(N − n)·G_{n+1} = (2n + 1)·N·t·G_n − n(n + N + 1)·G_{n−1}, that of the Hahn polynomials (DLMF 18.22.2 and
    18.22.3) with α = β = 0 at N(1 − t)/2. With more and more points they become Legendre's. Up to a degree of about
    1.25·√N they stay bounded by 1 between the points, too; of higher degrees they are larger there, near the ends, as
    interpolation on equally spaced points is. In convolutional KANs: Drokin (arXiv 2407.01092), sec. 3, with learned
    coefficients of the recurrence, under which they are orthogonal no more; here they are these.

    Args:
        degree: Highest degree; K = degree + 1.
        num_points: The number of points, more than the degree; the default is enough for a degree of 20.

    Raises:
        TypeError: The degree or the number of points is not an integer.
        ValueError: The degree is negative, or there are too few points for it.

    Example:
        >>> Gram(degree=3, num_points=20).num_functions
        4
    """

    degree: int = 4
    num_points: int = 257

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_int("num_points", self.num_points, 2)
        if self.degree >= self.num_points:
            raise ValueError(f"num_points must be greater than degree {self.degree}, got {self.num_points}")

    def polynomials(self, t: Tensor) -> list[Tensor]:
        """G_n(t)."""
        values = [torch.ones_like(t), t]
        for rise, fall in self._recurrence():
            values.append(rise * t * values[-1] - fall * values[-2])
        return values[: self.degree + 1]

    def slopes(self, t: Tensor) -> list[Tensor]:
        """G_n'(t), by the recurrence differentiated: G_{n+1}' = rise·(G_n + t·G_n') − fall·G_{n−1}'."""
        slopes = [torch.zeros_like(t), torch.ones_like(t)]
        for (rise, fall), value in zip(self._recurrence(), self.polynomials(t)[1:], strict=False):
            slopes.append(rise * (value + t * slopes[-1]) - fall * slopes[-2])
        return slopes[: self.degree + 1]

    def _recurrence(self) -> list[tuple[float, float]]:
        """The factors of t·G_n and G_{n−1} in G_{n+1}, for n = 1 … degree − 1."""
        last = self.num_points - 1
        return [
            ((2 * n + 1) * last / ((n + 1) * (last - n)), n * (n + last + 1) / ((n + 1) * (last - n)))
            for n in range(1, self.degree)
        ]
