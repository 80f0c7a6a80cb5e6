"""The layers as functions of their parameters, for those who hold these themselves.

A layer keeps ready what these functions find out at each call: that all shapes fit, and whether knots are equally
spaced. With that in hand both go on the same way, so they compute the same. Code that is compiled with
``fullgraph=True`` takes layers: to look at knots, these functions interrupt the graph.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis import Basis, GriddedBasis, create_basis, get_activation
from convkan.nn.activation import activate, check_padding
from convkan.nn.conv import convolve
from convkan.nn.linear import sum_linear
from convkan.nn.padding import PaddedConvolution, PaddingMode
from convkan.nn.sizes import check_channels
from convkan.ops import Channelwise, Expansion, Geometry, Linear, Plan, is_concrete, knot_facts

__all__ = ["kan_conv1d", "kan_conv2d", "kan_conv3d", "kan_linear", "learnable_activation"]


def kan_linear(
    x: Float[Tensor, "*batch in"],
    base_weight: Float[Tensor, "out in"] | None,
    basis_weight: Float[Tensor, "out planes"],
    grid: Float[Tensor, "in knots"] | None = None,
    *,
    basis: Basis | str,
    base_activation: str | None = "silu",
    bias: Float[Tensor, " out"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "*batch out"]:
    """``KANLinear`` as a function of its parameters: y[o] = Σ_i φ[o,i](x[i]) (+ bias[o]).

    Args:
        x: (…, in).
        base_weight: (out, in), or None without a base activation.
        basis_weight: (out, K·in), feature-major: all inputs of B_1, then of B_2, …
        grid: The full knots of each input, (in, knots), for a basis with a grid: ``basis.knots(in)`` to start with.
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part of each edge, or None.
        bias: (out,), or None.
        backend: "auto", or the name of a backend.

    Returns:
        (…, out).

    Raises:
        TypeError: Dtypes differ.
        ValueError: Shapes do not fit each other or the basis, knots do not increase, or a name is unknown.

    Example:
        >>> from convkan import Chebyshev
        >>> kan_linear(torch.rand(7, 4), None, torch.rand(2, 5 * 4), basis=Chebyshev(4), base_activation=None).shape
        torch.Size([7, 2])
    """
    if x.ndim == 0 or basis_weight.ndim != 2:
        shapes = f"{tuple(x.shape)} and {tuple(basis_weight.shape)}"
        raise ValueError(f"x and basis_weight must be (…, in) and (out, planes), got shapes {shapes}")
    weights = base_weight, basis_weight
    plan = _plan_for(basis, base_activation, Linear(), (x.shape[-1], x.shape[-1]), weights, grid)
    return sum_linear(x, *weights, grid, bias, plan, backend)


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
    plan = _plan_for(basis, base_activation, convolution.geometry, channels, weights, grid)
    return convolve(x, *weights, grid, bias, plan, convolution, backend)


def learnable_activation(
    x: Float[Tensor, "batch channels *space"],
    base_weight: Float[Tensor, "functions 1"] | None,
    basis_weight: Float[Tensor, "functions basis"],
    grid: Float[Tensor, "channels knots"] | None = None,
    *,
    basis: Basis | str,
    base_activation: str | None = "silu",
    padding: Sequence[int] = (),
    backend: str = "auto",
) -> Float[Tensor, "batch functions *space"]:
    """``LearnableActivation`` as a function of its parameters: y[n, c·R + r, …] = ψ[c,r](x[n,c,…]).

    Args:
        x: (batch, C, …).
        base_weight: (C·R, 1), or None without a base activation.
        basis_weight: (C·R, K).
        grid: The full knots of each channel, (C, knots), for a basis with a grid.
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part of each function, or None.
        padding: Zeros put around the input first, as ``torch.nn.functional.pad`` takes them.
        backend: "auto", or the name of a backend.

    Returns:
        (batch, C·R, …).

    Raises:
        TypeError: Dtypes differ, or padding is not of integers.
        ValueError: Shapes do not fit each other or the basis, knots do not increase, or a name is unknown.

    Example:
        >>> from convkan import RBF
        >>> learnable_activation(torch.rand(7, 3, 4, 4), torch.ones(6, 1), torch.rand(6, 8), basis=RBF(8)).shape
        torch.Size([7, 6, 4, 4])
    """
    if x.ndim < 2 or basis_weight.ndim != 2 or len(basis_weight) % x.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(basis_weight.shape)}"
        raise ValueError(f"x and basis_weight must be (batch, C, …) and (C·R, K), got shapes {shapes}")
    weights = base_weight, basis_weight
    geometry = Channelwise(check_padding(padding))
    plan = _plan_for(basis, base_activation, geometry, (x.shape[1], 1), weights, grid)
    return activate(x, *weights, grid, plan, backend)


@torch.compiler.disable
def _plan_for(
    basis: Basis | str,
    base_activation: str | None,
    geometry: Geometry,
    channels: tuple[int, int],
    weights: tuple[Tensor | None, Tensor],
    grid: Tensor | None,
) -> Plan:
    """How edges of these weights are evaluated, once it is sure that all fits: what a layer keeps ready.

    ``channels`` are those of the input, and those of them that an output is a sum over. A compiler leaves it to Python,
    since knots are looked at.
    """
    basis = create_basis(basis)
    get_activation(base_activation)
    base_weight, basis_weight = weights
    inputs, fan_in = channels
    if (base_weight is None) != (base_activation is None):
        got = "none" if base_weight is None else "one"
        raise ValueError(f"base_weight must go with base_activation, got {got} and {base_activation!r}")
    outputs, kernel = basis_weight.shape[:1], basis_weight.shape[2:]
    for name, weight, count in (("base_weight", base_weight, 1), ("basis_weight", basis_weight, basis.num_functions)):
        expected = (*outputs, count * fan_in, *kernel)
        if weight is not None and weight.shape != expected:
            raise ValueError(f"{name} must have shape {expected} for {basis}, got {tuple(weight.shape)}")
    if not isinstance(basis, GriddedBasis):
        if grid is not None:
            raise ValueError(f"grid must be None for {basis}, got {tuple(grid.shape)}")
        return _plan(basis, base_activation, True, geometry)
    if grid is None or grid.shape != (inputs, basis.num_knots):
        got = "none" if grid is None else f"{tuple(grid.shape)}"
        raise ValueError(f"grid must have shape {(inputs, basis.num_knots)} for {basis}, got {got}")
    facts = knot_facts(basis, grid)
    if facts.problem is not None and is_concrete(grid):
        raise ValueError(f"grid must {facts.problem}")
    return _plan(basis, base_activation, facts.uniform, geometry)


@lru_cache(maxsize=1024)
def _plan(basis: Basis, base_activation: str | None, uniform: bool, geometry: Geometry) -> Plan:
    return Plan(Expansion(basis, base_activation, uniform), geometry)
