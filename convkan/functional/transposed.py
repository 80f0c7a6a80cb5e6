"""Transposed convolutions as functions of their parameters."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from convkan.basis import Basis, create_basis
from convkan.functional.planning import plan_for
from convkan.nn.memory import keeps_channels_last
from convkan.nn.padding import check_reach, transposed_geometry
from convkan.nn.sizes import check_channels
from convkan.nn.transposed import convolve_transposed
from convkan.ops.transposed import by_output


def kan_conv_transpose1d(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Float[Tensor, "planes out_per_group length"],
    grid: Tensor | None = None,
    *,
    basis: Basis | str,
    base_activation: str | None = "silu",
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    backend: str = "auto",
) -> Tensor:
    """``KANConvTranspose1d`` as a function; arguments as of ``kan_conv_transpose2d``, for (batch, in, length)."""
    window = (stride, padding, output_padding, dilation)
    return _kan_conv_transpose(
        1, x, base_weight, basis_weight, grid, bias, basis, base_activation, window, groups, backend
    )


def kan_conv_transpose2d(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Float[Tensor, "planes out_per_group height width"],
    grid: Tensor | None = None,
    *,
    basis: Basis | str,
    base_activation: str | None = "silu",
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    backend: str = "auto",
) -> Tensor:
    """``KANConvTranspose2d`` as a function of its parameters: see there for the formula and for each option.

    Args:
        x: (batch, in, height, width) or (in, height, width).
        base_weight: (in, out/groups, height, width) of the kernel, or None without a base activation.
        basis_weight: (K·in, out/groups, height, width), feature-major within each group: all channels of B_1, then of
            B_2, …
        grid: The full knots of each channel, (in, knots), for a basis with a grid: ``basis.knots(in)`` to start with.
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part of each edge, or None.
        bias: (out,), or None.
        stride: Distance of what neighbouring pixels reach.
        padding: Outputs left out at each end.
        output_padding: Outputs added at the far end.
        groups: Groups of channels that do not mix.
        dilation: Distance of taps.
        backend: "auto", or the name of a backend.

    Returns:
        (batch, out, *positions), or without batch as the input is.

    Raises:
        TypeError: A size is not an integer, or dtypes differ.
        ValueError: Shapes do not fit each other or the basis, a size is out of range, or a name is unknown.

    Example:
        >>> import torch
        >>> from convkan import BSpline
        >>> from convkan.functional import kan_conv_transpose2d
        >>> basis = BSpline(grid_size=5)
        >>> weights = torch.randn(3, 8, 2, 2), torch.randn(basis.num_functions * 3, 8, 2, 2)
        >>> kan_conv_transpose2d(torch.randn(2, 3, 9, 9), *weights, basis.knots(3).float(), basis=basis, stride=2).shape
        torch.Size([2, 8, 18, 18])
    """
    window = (stride, padding, output_padding, dilation)
    return _kan_conv_transpose(
        2, x, base_weight, basis_weight, grid, bias, basis, base_activation, window, groups, backend
    )


def kan_conv_transpose3d(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Float[Tensor, "planes out_per_group depth height width"],
    grid: Tensor | None = None,
    *,
    basis: Basis | str,
    base_activation: str | None = "silu",
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    backend: str = "auto",
) -> Tensor:
    """``KANConvTranspose3d`` as a function; arguments as of ``kan_conv_transpose2d``, with a depth."""
    window = (stride, padding, output_padding, dilation)
    return _kan_conv_transpose(
        3, x, base_weight, basis_weight, grid, bias, basis, base_activation, window, groups, backend
    )


def _kan_conv_transpose(
    dims: int,
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    bias: Tensor | None,
    basis: Basis | str,
    base_activation: str | None,
    window: tuple[Any, Any, Any, Any],
    groups: int,
    backend: str,
) -> Tensor:
    """The functional forms: what a layer keeps ready, and then what its ``forward`` calls."""
    (groups,) = check_channels(groups=groups)
    if basis_weight.ndim != dims + 2 or x.ndim not in (dims + 1, dims + 2):
        shapes = f"{tuple(x.shape)} and {tuple(basis_weight.shape)}"
        raise ValueError(f"x and basis_weight must have {dims} dimensions of space, got shapes {shapes}")
    basis, in_channels = create_basis(basis), x.shape[-dims - 1]
    if in_channels % groups:
        raise ValueError(f"in must be divisible by groups, got {in_channels} and {groups}")
    for name, weight, count in (("base_weight", base_weight, 1), ("basis_weight", basis_weight, basis.num_functions)):
        expected = (count * in_channels, *basis_weight.shape[1:])
        if weight is not None and weight.shape != expected:
            raise ValueError(f"{name} must have shape {expected} for {basis}, got {tuple(weight.shape)}")
    geometry = transposed_geometry(dims, *window, groups)
    check_reach(x, geometry, in_channels, tuple(basis_weight.shape[2:]))
    base = None if base_weight is None else by_output(base_weight, groups)
    weights, channels = (base, by_output(basis_weight, groups)), (in_channels, in_channels // groups)
    plan = plan_for(basis, base_activation, geometry, channels, weights, grid)
    return convolve_transposed(x, *weights, grid, bias, plan, keeps_channels_last(basis_weight), backend)
