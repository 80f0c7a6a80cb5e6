"""Checkpoints of other KAN libraries as modules of this one, computing the same function.

Everywhere y = conv(b(x̃), W_b) + conv(B(x̃), W_s); the libraries differ in keys, layouts and scale factors, which are
folded into W_b and W_s.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from math import isqrt, prod
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import RBF, Basis, Chebyshev, get_activation
from convkan.interop.state import activation_name, agree, rbf_basis, read_state, shared_grid, spline_basis
from convkan.nn import KANConv2d, KANLinear
from convkan.nn.conv import per_dimension
from convkan.nn.layer import KANLayer, check_channels

State = Mapping[str, Any]


class NormalizedKANLinear(nn.Module):
    """y = Σ_k c_k·B_k(norm x) + W·b(x) + bias: a KAN layer whose norm acts on the basis, not on the base.

    Source: Li, "Kolmogorov-Arnold Networks are Radial Basis Function Networks" (arXiv 2405.06721), as in fast-kan.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        basis: The univariate basis.
        base_activation: Name of b.
        device: Where the parameters live.
        dtype: Floating point type of parameters and inputs.

    Shape:
        (…, in_features) → (…, out_features)

    Example:
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
        """The options that no submodule shows."""
        return f"base_activation={self.base_activation!r}"


@torch.no_grad()
def _fill(
    layer: KANLayer,
    base_weight: Tensor | None,
    coefficients: Tensor,
    grid: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """Copy weights in the shapes of ``base_weight`` and ``coefficients``, and set the grid."""
    layer.coefficients.copy_(coefficients)
    for parameter, value in ((layer.base_weight, base_weight), (layer.bias, bias)):
        if parameter is not None and value is not None:
            parameter.copy_(value)
    if grid is not None:
        layer.set_grid(grid)


def _linear(
    basis: Basis,
    base_activation: str | None,
    base_weight: Float[Tensor, "out in"] | None,
    coefficients: Float[Tensor, "out in functions"],
    grid: Float[Tensor, "in knots"] | None = None,
    bias: Float[Tensor, " out"] | None = None,
) -> KANLinear:
    out_features, in_features, _ = coefficients.shape
    layer = KANLinear(
        in_features,
        out_features,
        bias is not None,
        basis=basis,
        base_activation=base_activation,
        device="meta",  # every parameter is about to be filled: drawing them would only disturb the generator
        dtype=coefficients.dtype,
    ).to_empty(device=coefficients.device)
    _fill(layer, base_weight, coefficients, grid, bias)
    return layer


def _conv(
    basis: Basis,
    base_activation: str,
    base_weight: Float[Tensor, "out in_per_group height width"],
    coefficients: Float[Tensor, "out in_per_group height width functions"],
    grid: Float[Tensor, "in knots"],
    **geometry: Any,
) -> KANConv2d:
    layer = KANConv2d(
        grid.shape[0],
        coefficients.shape[0],
        (coefficients.shape[2], coefficients.shape[3]),
        **geometry,
        basis=basis,
        base_activation=base_activation,
        device="meta",
        dtype=coefficients.dtype,
    ).to_empty(device=coefficients.device)
    _fill(layer, base_weight, coefficients.movedim(-1, 2), grid)
    return layer


def _kan_linear_layout(state: State, prefix: str, inputs: str, out: str, lead: str = "") -> dict[str, str]:
    """Keys and dimensions of efficient-kan's KANLinear, which many copied; the state decides on the scaler."""
    suffix = prefix.rpartition(".")[0].rpartition(".")[2]  # layers may differ in their grids
    layout = {
        f"{prefix}base_weight": f"{lead} {out} {inputs}",
        f"{prefix}spline_weight": f"{lead} {out} {inputs} functions{suffix}",
        f"{prefix}grid": f"{lead} {inputs} knots{suffix}",
    }
    if f"{prefix}spline_scaler" in state:
        layout[f"{prefix}spline_scaler"] = f"{lead} {out} {inputs}"
    return layout
