"""Layers of this library around weights that are at hand already."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis import Basis
from convkan.nn import KANConv2d, KANLinear
from convkan.nn.layer import KANLayer

State = Mapping[str, Any]
Layer = TypeVar("Layer", bound=KANLayer)


@torch.no_grad()
def filled(
    layer: Layer,
    coefficients: Float[Tensor, "out in_per_group functions *kernel"],
    base_weight: Float[Tensor, "out in_per_group *kernel"] | None,
    grid: Float[Tensor, "in knots"] | None = None,
    bias: Float[Tensor, " out"] | None = None,
) -> Layer:
    """``layer``, made on the meta device so as not to draw random weights, with these instead."""
    layer = layer.to_empty(device=coefficients.device)
    layer.coefficients.copy_(coefficients)
    for parameter, value in ((layer.base_weight, base_weight), (layer.bias, bias)):
        if parameter is not None and value is not None:
            parameter.copy_(value)
    if grid is not None:
        layer.set_grid(grid)
    return layer


def linear(
    basis: Basis,
    base_activation: str | None,
    coefficients: Float[Tensor, "out in functions"],
    base_weight: Float[Tensor, "out in"] | None = None,
    grid: Float[Tensor, "in knots"] | None = None,
    bias: Float[Tensor, " out"] | None = None,
) -> KANLinear:
    """A dense layer with these weights."""
    out_features, in_features, _ = coefficients.shape
    layer = KANLinear(
        in_features,
        out_features,
        bias is not None,
        basis=basis,
        base_activation=base_activation,
        device="meta",
        dtype=coefficients.dtype,
    )
    return filled(layer, coefficients, base_weight, grid, bias)


def conv(
    basis: Basis,
    base_activation: str,
    coefficients: Float[Tensor, "out in_per_group height width functions"],
    base_weight: Float[Tensor, "out in_per_group height width"],
    grid: Float[Tensor, "in knots"],
    **geometry: Any,
) -> KANConv2d:
    """A convolution with these weights."""
    out_channels, _, *kernel_size, _ = coefficients.shape
    layer = KANConv2d(
        grid.shape[0],
        out_channels,
        kernel_size,
        basis=basis,
        base_activation=base_activation,
        device="meta",
        dtype=coefficients.dtype,
        **geometry,
    )
    return filled(layer, coefficients.movedim(-1, 2), base_weight, grid)


def efficient_layout(
    state: State, prefix: str = "", *, edges: str = "out in", inputs: str = "in", number: str = ""
) -> dict[str, str]:
    """Keys and dimensions of efficient-kan's KANLinear, which others copied.

    Args:
        state: The checkpoint, which decides whether there is a scaler.
        prefix: What the keys begin with.
        edges: Dimensions of the weights.
        inputs: Those of the grid.
        number: Appended to the names of the grid's sizes, for layers that may differ in them.
    """
    layout = {
        f"{prefix}base_weight": edges,
        f"{prefix}spline_weight": f"{edges} functions{number}",
        f"{prefix}grid": f"{inputs} knots{number}",
    }
    if f"{prefix}spline_scaler" in state:
        layout[f"{prefix}spline_scaler"] = edges
    return layout


def scaled(tensors: Mapping[str, Tensor], prefix: str = "") -> Float[Tensor, "*edges functions"]:
    """The spline weight with the stand-alone scaler folded in."""
    weight, scaler = tensors[f"{prefix}spline_weight"], tensors.get(f"{prefix}spline_scaler")
    return weight if scaler is None else weight * scaler.unsqueeze(-1)


def count_entries(state: State, container: str) -> int:
    """How many entries the module list ``container`` of a state has, at least 1."""
    matches = (re.match(rf"{container}\.(\d+)\.", str(key)) for key in state)
    return 1 + max((int(match[1]) for match in matches if match), default=0)
