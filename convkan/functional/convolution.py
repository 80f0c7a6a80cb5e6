"""Convolutions as functions of their parameters."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from convkan.basis import Basis
from convkan.functional.planning import plan_for
from convkan.nn.conv import convolve
from convkan.nn.padding import PaddedConvolution, PaddingMode
from convkan.nn.sizes import check_channels


def kan_conv1d(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Float[Tensor, "out planes length"],
    grid: Tensor | None = None,
    *,
    basis: Basis | str,
    base_activation: str | None = "silu",
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    backend: str = "auto",
) -> Tensor:
    """``KANConv1d`` as a function; arguments as of ``kan_conv2d``, for (batch, in, length) or (in, length)."""
    geometry = (stride, padding, dilation, groups, padding_mode)
    return _kan_conv(1, x, base_weight, basis_weight, grid, bias, basis, base_activation, geometry, backend)


def kan_conv2d(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Float[Tensor, "out planes height width"],
    grid: Tensor | None = None,
    *,
    basis: Basis | str,
    base_activation: str | None = "silu",
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    backend: str = "auto",
) -> Tensor:
    """``KANConv2d`` as a function of its parameters: see there for the formula and for each option.

    Args:
        x: (batch, in, height, width) or (in, height, width).
        base_weight: (out, in/groups, height, width) of the kernel, or None without a base activation.
        basis_weight: (out, K·in/groups, height, width), feature-major: all channels of B_1, then of B_2, …
        grid: The full knots of each channel, (in, knots), for a basis with a grid: ``basis.knots(in)`` to start with.
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part of each edge, or None.
        bias: (out,), or None.
        stride: Step of the output positions.
        padding: Rows added on each side, "same" or "valid".
        dilation: Distance of taps.
        groups: Groups of channels that do not mix.
        padding_mode: What the padding holds.
        backend: "auto", or the name of a backend.

    Returns:
        (batch, out, *positions), or without batch as the input is.

    Raises:
        TypeError: A size is not an integer, or dtypes differ.
        ValueError: Shapes do not fit each other or the basis, or a name is unknown.

    Example:
        >>> import torch
        >>> from convkan import BSpline
        >>> from convkan.functional import kan_conv2d
        >>> basis = BSpline(grid_size=5)
        >>> weights = torch.randn(8, 3, 3, 3), torch.randn(8, basis.num_functions * 3, 3, 3)
        >>> kan_conv2d(torch.randn(2, 3, 32, 32), *weights, basis.knots(3).float(), basis=basis, padding=1).shape
        torch.Size([2, 8, 32, 32])
    """
    geometry = (stride, padding, dilation, groups, padding_mode)
    return _kan_conv(2, x, base_weight, basis_weight, grid, bias, basis, base_activation, geometry, backend)


def kan_conv3d(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Float[Tensor, "out planes depth height width"],
    grid: Tensor | None = None,
    *,
    basis: Basis | str,
    base_activation: str | None = "silu",
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    backend: str = "auto",
) -> Tensor:
    """``KANConv3d`` as a function; arguments as of ``kan_conv2d``, for (batch, in, depth, height, width)."""
    geometry = (stride, padding, dilation, groups, padding_mode)
    return _kan_conv(3, x, base_weight, basis_weight, grid, bias, basis, base_activation, geometry, backend)


def _kan_conv(
    dims: int,
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    bias: Tensor | None,
    basis: Basis | str,
    base_activation: str | None,
    geometry: tuple[Any, ...],
    backend: str,
) -> Tensor:
    """The functional forms: what a layer keeps ready, and then what its ``forward`` calls."""
    stride, padding, dilation, groups, padding_mode = geometry
    (groups,) = check_channels(groups=groups)
    if basis_weight.ndim != dims + 2 or x.ndim not in (dims + 1, dims + 2):
        shapes = f"{tuple(x.shape)} and {tuple(basis_weight.shape)}"
        raise ValueError(f"x and basis_weight must have {dims} dimensions of space, got shapes {shapes}")
    in_channels, kernel_size = x.shape[-dims - 1], tuple(basis_weight.shape[2:])
    convolution = PaddedConvolution.of(dims, in_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
    if len(basis_weight) % groups:
        raise ValueError(f"out must be divisible by groups, got {len(basis_weight)} and {groups}")
    weights, channels = (base_weight, basis_weight), (in_channels, in_channels // groups)
    plan = plan_for(basis, base_activation, convolution.geometry, channels, weights, grid)
    return convolve(x, *weights, grid, bias, plan, convolution, backend)
