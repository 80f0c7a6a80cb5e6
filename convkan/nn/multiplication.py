"""Nodes that multiply, beside those that add."""

from functools import reduce

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from convkan.nn.sizes import check_channels, is_integer
from convkan.nn.tracing import Whole, call_as_leaf


class Multiplication(Whole, nn.Module):
    """Keeps its first inputs, and multiplies the others, so many at a time: exact products, without parameters.

    Behind a KAN layer it makes sums into products of sums. Source: Liu et al., "KAN 2.0" (arXiv 2408.10205), sec. 2.

    Args:
        sums: Inputs that pass as they are, at least 0.
        products: Products behind them.
        factors: Inputs that each product multiplies, neighbours, at least 2.

    Raises:
        TypeError: A number is not an integer.
        ValueError: A number is too small.

    Shape:
        (…, sums + factors·products) → (…, sums + products)

    Example:
        >>> import torch
        >>> Multiplication(1, 2)(torch.tensor([7.0, 2.0, 3.0, 4.0, 5.0]))
        tensor([ 7.,  6., 20.])
    """

    def __init__(self, sums: int, products: int, factors: int = 2) -> None:
        super().__init__()
        if not is_integer(sums):
            raise TypeError(f"sums must be an integer, got {sums!r}")
        if sums < 0:
            raise ValueError(f"sums must not be negative, got {sums}")
        self.sums = int(sums)
        self.products, self.factors = check_channels(products=products, factors=factors)
        if self.factors < 2:
            raise ValueError(f"factors must be at least 2, got {self.factors}")

    @property
    def in_features(self) -> int:
        """Number of inputs: sums + factors·products."""
        return self.sums + self.factors * self.products

    @property
    def out_features(self) -> int:
        """Number of outputs: sums + products."""
        return self.sums + self.products

    def sources(self, node: int) -> list[int]:
        """The inputs that one of the outputs multiplies: one, for a sum."""
        if node < self.sums:
            return [node]
        first = self.sums + (node - self.sums) * self.factors
        return list(range(first, first + self.factors))

    def forward(self, x: Tensor) -> Tensor:
        """Sums, then products."""
        if isinstance(x, Proxy):
            return call_as_leaf(self, x)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"input must have {self.in_features} features in its last dimension, got shape {tuple(x.shape)}"
            )
        sums, others = x[..., : self.sums], x[..., self.sums :]
        # Factor by factor: ``prod`` looks at the numbers for zeros, which transforms and compilers cannot.
        products = reduce(Tensor.mul, others.unflatten(-1, (self.products, self.factors)).unbind(-1))
        return torch.cat([sums, products], dim=-1)

    def extra_repr(self) -> str:
        """Numbers of sums, products and factors."""
        return f"{self.sums}, {self.products}, factors={self.factors}"
