"""Layers without a kernel as functions of their parameters: sums over all inputs, and functions of each channel."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from convkan.basis import Basis
from convkan.functional.planning import plan_for
from convkan.nn.activation import activate, check_padding
from convkan.nn.linear import sum_linear
from convkan.ops import Channelwise, Linear


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
        >>> import torch
        >>> from convkan import Chebyshev
        >>> kan_linear(torch.rand(7, 4), None, torch.rand(2, 5 * 4), basis=Chebyshev(4), base_activation=None).shape
        torch.Size([7, 2])
    """
    if x.ndim == 0 or basis_weight.ndim != 2:
        shapes = f"{tuple(x.shape)} and {tuple(basis_weight.shape)}"
        raise ValueError(f"x and basis_weight must be (…, in) and (out, planes), got shapes {shapes}")
    weights = base_weight, basis_weight
    plan = plan_for(basis, base_activation, Linear(), (x.shape[-1], x.shape[-1]), weights, grid)
    return sum_linear(x, *weights, grid, bias, plan, backend)


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
        >>> import torch
        >>> from convkan import RBF
        >>> learnable_activation(torch.rand(7, 3, 4, 4), torch.ones(6, 1), torch.rand(6, 8), basis=RBF(8)).shape
        torch.Size([7, 6, 4, 4])
    """
    if x.ndim < 2 or basis_weight.ndim != 2 or len(basis_weight) % x.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(basis_weight.shape)}"
        raise ValueError(f"x and basis_weight must be (batch, C, …) and (C·R, K), got shapes {shapes}")
    weights = base_weight, basis_weight
    geometry = Channelwise(check_padding(padding))
    plan = plan_for(basis, base_activation, geometry, (x.shape[1], 1), weights, grid)
    return activate(x, *weights, grid, plan, backend)
