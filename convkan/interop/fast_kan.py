"""What fast-kan's layer has and no single layer of ours: centres anywhere, and a norm on one branch."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import RBF, Basis, get_activation
from convkan.interop.peer_bases import FixedBasis
from convkan.nn import KANLinear


@dataclass(frozen=True)
class ScatteredRBF(FixedBasis):
    """exp(−((x − c)/width)²) for centres c that need not be evenly spaced, with a width of their own.

    Source: Li, "Kolmogorov-Arnold Networks are Radial Basis Function Networks" (arXiv 2405.06721), eq. 6,
    with the centres of a checkpoint.

    Args:
        centers: The centres.
        width: Width of every bump, in units of x.

    Raises:
        ValueError: There are no centres, or the width is not positive.

    Example:
        >>> ScatteredRBF((-1.0, 0.25, 1.0), width=0.5).num_functions
        3
    """

    centers: tuple[float, ...]
    width: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "centers", tuple(float(center) for center in self.centers))
        if not self.centers:
            raise ValueError("centers must not be empty")
        if not self.width > 0:
            raise ValueError(f"width must be positive, got {self.width}")

    @property
    def numbers(self) -> tuple[float, ...]:
        """Centres and width."""
        return *self.centers, self.width

    @property
    def num_functions(self) -> int:
        """K, the number of centres."""
        return len(self.centers)

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """exp(−u²) with u = (x − c)/width, shape (*batch, K, channels)."""
        return torch.exp(-self._distance(x).square())

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """−2u·exp(−u²)/width, shape (*batch, K, channels)."""
        distance = self._distance(x)
        return (-2 / self.width) * distance * torch.exp(-distance.square())

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """This basis, if it has the right size: other centres could not be guessed."""
        if num_knots is not None or num_functions != self.num_functions:
            raise ValueError(f"the basis has {self.num_functions} fixed centres, not {num_functions} functions")
        return self

    def _distance(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch centers channels"]:
        centers = torch.tensor(self.centers, dtype=x.dtype, device=x.device)
        return (x.unsqueeze(-2) - centers.unsqueeze(-1)) / self.width


class NormalizedKANLinear(nn.Module):
    """y = Σ_k c_k·B_k(norm x) + W·b(x) + bias: a layer norm before the basis, not the base.

    Source: Li, "Kolmogorov-Arnold Networks are Radial Basis Function Networks" (arXiv 2405.06721),
    as in fast-kan.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        basis: The univariate basis, or its name.
        base_activation: Name of b.
        device: Where the parameters live.
        dtype: Floating point type of parameters and inputs.

    Attributes:
        norm: The layer norm.
        spline: The basis and its weights, a KANLinear without base.
        base: W and the bias.

    Raises:
        ValueError: No activation has the name.

    Shape:
        (…, in_features) → (…, out_features)

    Example:
        >>> import torch
        >>> NormalizedKANLinear(4, 3)(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        basis: Basis | str = RBF(),
        base_activation: str = "silu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        get_activation(base_activation)
        self.base_activation = base_activation
        self.norm = nn.LayerNorm(in_features, device=device, dtype=dtype)
        self.spline = KANLinear(
            in_features, out_features, basis=basis, base_activation=None, device=device, dtype=dtype
        )
        self.base = nn.Linear(in_features, out_features, device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        """Add the two branches."""
        activation = get_activation(self.base_activation)
        assert activation is not None
        return self.spline(self.norm(x)) + self.base(activation.value(x))

    def extra_repr(self) -> str:
        """The option that no submodule shows."""
        return f"base_activation={self.base_activation!r}"
