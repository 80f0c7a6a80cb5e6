"""Learnable rational activations, numerator and denominator both."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import Proxy

from convkan.basis.activation import named_activation
from convkan.basis.base import check_positive_int
from convkan.nn.sizes import check_channels, check_floating_point
from convkan.nn.tracing import Whole, call_as_leaf

ROUNDS = 30  # of the fit to the activation it starts as
REACH, DEVIATION = 6.0, 2.0  # where that is fitted, under a normal weight
LEAST = 1e-3  # of a denominator's square term: where all were 0, |Q| would have no slope to learn by


class RationalActivation(Whole, nn.Module):
    """P(x)/(1 + |Q(x)|), P = Σ_i a_i·x^i, Q = Σ_j b_j·x^j from j = 1: safe Padé, with its own a and b for each group.

    It is not linear in b, so it is no ``Basis``, and grids, importance, pruning and formulas know nothing of it;
    ``convkan.basis.Rational`` is one with a fixed denominator. Nothing in it mixes channels, so no group leaks into
    another. Followed by ``nn.Linear`` or ``nn.Conv2d`` it is the group-rational KAN layer. Half precision is evaluated
    in float32, where powers of inputs as large as 1e4 are finite.

    Sources: Molina et al., "Padé Activation Units" (arXiv 1907.06732), eq. 3, for the form; Yang and Wang,
    "Kolmogorov-Arnold Transformer" (arXiv 2409.10594), sec. 4, for groups.

    Args:
        num_channels: Channels of the input.
        num_groups: Groups of neighbouring channels, each with a function of its own; a divisor of ``num_channels``.
        numerator_degree: m, the degree of P, at least 3.
        denominator_degree: n, the degree of Q, at least 2.
        start: Name of the activation that all groups start as, by a least-squares fit on [−6, 6]: SiLU to 3e-5 on
            [−3, 3], ReLU, which has a kink, to 6e-2.
        dim: The dimension of the channels: 1, or −1 where they are last.
        device: Where the parameters live.
        dtype: Floating point type of the parameters.

    Attributes:
        numerator: a, (num_groups, m + 1), the constant first.
        denominator: b, (num_groups, n), from the power 1.

    Raises:
        TypeError: A size or a degree is not an integer, or ``dtype`` no floating point type.
        ValueError: A size or a degree is too small, the groups do not divide the channels, the activation is unknown,
            or ``dim`` is not 1 or −1.

    Shape:
        (batch, num_channels, …), or channels last with ``dim=-1``; the output has the input's.

    Example:
        >>> import torch
        >>> RationalActivation(16, num_groups=4)(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 1,
        *,
        numerator_degree: int = 5,
        denominator_degree: int = 4,
        start: str = "silu",
        dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_channels, self.num_groups = check_channels(num_channels=num_channels, num_groups=num_groups)
        if self.num_channels % self.num_groups:
            raise ValueError(f"num_groups must divide num_channels {num_channels}, got {num_groups}")
        check_positive_int("numerator_degree", numerator_degree, 3)
        check_positive_int("denominator_degree", denominator_degree, 2)
        if dim not in (1, -1):
            raise ValueError(f"dim must be 1 or -1, got {dim!r}")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        check_floating_point(dtype)
        self.dim, self.start = dim, start
        found = _fitted(start, numerator_degree, denominator_degree)
        numerator, denominator = (torch.tensor(values, dtype=torch.float64).to(device, dtype) for values in found)
        self.numerator = nn.Parameter(numerator.repeat(self.num_groups, 1))
        self.denominator = nn.Parameter(denominator.repeat(self.num_groups, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each group's function to its channels."""
        if isinstance(x, Proxy):
            return call_as_leaf(self, x)
        if x.ndim < 2 or x.shape[self.dim] != self.num_channels:
            raise ValueError(
                f"input must have {self.num_channels} channels in dimension {self.dim}, got {tuple(x.shape)}"
            )
        groups = x.unflatten(self.dim, (self.num_groups, -1)).movedim(1 if self.dim == 1 else -2, -1)
        y = safe_pade(groups, self.numerator, self.denominator)
        return y.movedim(-1, 1 if self.dim == 1 else -2).reshape(x.shape)

    def extra_repr(self) -> str:
        """Sizes and options."""
        degrees = f"numerator_degree={self.numerator.shape[1] - 1}, denominator_degree={self.denominator.shape[1]}"
        return f"{self.num_channels}, num_groups={self.num_groups}, {degrees}, start={self.start!r}, dim={self.dim}"


def safe_pade(
    x: Float[Tensor, "*batch groups"],
    numerator: Float[Tensor, "groups numerator_terms"],
    denominator: Float[Tensor, "groups denominator_terms"],
) -> Float[Tensor, "*batch groups"]:
    """P(x)/(1 + |Q(x)|) by Horner's rule, in float32 at least; the result has the dtype of ``x``."""
    dtype = x.dtype
    if dtype in (torch.float16, torch.bfloat16):
        x, numerator, denominator = x.float(), numerator.float(), denominator.float()
    above, below = numerator[:, -1].expand_as(x), denominator[:, -1] * x
    for coefficient in numerator.unbind(1)[-2::-1]:
        above = above * x + coefficient
    for coefficient in denominator.unbind(1)[-2::-1]:
        below = (below + coefficient) * x
    return (above / (1 + below.abs())).to(dtype)


@lru_cache(maxsize=32)
def _fitted(name: str, numerator_degree: int, denominator_degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A and b of the rational function next to an activation, with b_j = 0 for odd j and b_j ≥ 0 for even j.

    For a given denominator the best numerator is a linear problem; for both, the denominator of the round before weighs
    the linearised one. Source: Sanathanan and Koerner, "Transfer function synthesis as a ratio of two complex
    polynomials" (IEEE Trans. Automatic Control 8, 1963).

    Raises:
        ValueError: There is no such activation.
    """
    activation = named_activation(name, "start")
    x = torch.linspace(-REACH, REACH, 1201, dtype=torch.float64, device="cpu")
    y, weight = activation.value(x), torch.exp(-(x / DEVIATION).square() / 4)
    upper = torch.stack([x**i for i in range(numerator_degree + 1)], dim=1)
    lower = torch.stack([x**j for j in range(2, denominator_degree + 1, 2)], dim=1)
    below = torch.ones_like(x)
    for _ in range(ROUNDS):
        unknowns = torch.cat([upper, -y.unsqueeze(1) * lower], dim=1)
        b = _solved(unknowns, y, weight / below)[numerator_degree + 1 :].clamp(min=0)
        b[0].clamp_(min=LEAST)
        below = 1 + lower @ b
    a = _solved(upper / below.unsqueeze(1), y, weight)
    padded = torch.zeros(denominator_degree, dtype=torch.float64, device="cpu")
    padded[1::2] = b
    return tuple(a.tolist()), tuple(padded.tolist())


def _solved(columns: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Weighted least squares."""
    rows = columns * weight.unsqueeze(1)
    return torch.linalg.lstsq(rows, (values * weight).unsqueeze(1), driver="gelsd").solution[:, 0]
