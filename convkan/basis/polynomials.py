"""What polynomials on squashed inputs have in common."""

from abc import abstractmethod
from dataclasses import replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis.base import Basis, check_positive_int


class SquashedPolynomials(Basis):
    """Polynomials of degree 0 … ``degree`` in t = tanh x: global functions, bounded on all of ℝ.

    Polynomials that are orthogonal on [−1, 1] grow without bound outside of it. tanh brings every input there by
    itself; the least and the greatest number of a batch, by which some libraries scale, would make a prediction depend
    on its neighbours. A subclass is a frozen dataclass with the field below, and says its polynomials and their slopes.

    Attributes:
        degree: Highest degree; K = degree + 1.
    """

    degree: int

    def __post_init__(self) -> None:
        check_positive_int("degree", self.degree, 0)

    @abstractmethod
    def polynomials(self, t: Float[Tensor, "*shape"]) -> list[Float[Tensor, "*shape"]]:
        """P_0(t) … P_degree(t)."""

    @abstractmethod
    def slopes(self, t: Float[Tensor, "*shape"]) -> list[Float[Tensor, "*shape"]]:
        """P_0'(t) … P_degree'(t), derivatives by t."""

    @property
    def num_functions(self) -> int:
        """K = degree + 1."""
        return self.degree + 1

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """P_n(tanh x), shape (*batch, K, channels)."""
        return torch.stack(self.polynomials(x.tanh()), dim=-2)

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """P_n'(tanh x)·sech²x, shape (*batch, K, channels)."""
        # sech²x = 4σ(2x)σ(−2x) keeps its relative precision in the tails, where 1 − tanh²x is pure rounding.
        inner = 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)
        return torch.stack([slope * inner for slope in self.slopes(x.tanh())], dim=-2)

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """The basis with ``num_functions`` polynomials."""
        if num_knots is not None:
            raise ValueError(f"the {type(self).__name__} basis has no grid")
        return replace(self, degree=num_functions - 1)  # type: ignore[type-var]
