"""Small linear layers, each a single call of the kernels, and no other operation."""

from ctypes import c_int64
from typing import Any

from jaxtyping import Float
from torch import Tensor

from convkan.ops.native.calls import BASES, check_size, computed_in, covers, ends, has_features, kernel, plain, splines
from convkan.ops.plan import Expansion

# Products of a feature and a weight up to which handing tensors over takes longer than a library saves.
MOST_PRODUCTS = 2**20


def covers_linear(
    expansion: Expansion,
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    gradient: bool = False,
) -> bool:
    """Whether the kernels evaluate a linear layer on ``x``, and if asked for, gradients with respect to ``x``."""
    if grid is None or any(t is not None and t.dtype != computed_in(x) for t in (x, base_weight, basis_weight)):
        return False
    if x.numel() // max(1, x.shape[-1]) * basis_weight.numel() > MOST_PRODUCTS:
        return False
    if expansion.shifted or not has_features(expansion, gradient):
        return False
    return covers(expansion, x, base_weight, basis_weight, grid, by="linear")


def linear(
    x: Float[Tensor, "*batch in"],
    base_weight: Float[Tensor, "out in"] | None,
    basis_weight: Float[Tensor, "out planes"],
    grid: Float[Tensor, "in knots"],
    expansion: Expansion,
) -> Float[Tensor, "*batch out"]:
    """The output of what ``covers_linear``."""
    x, basis_weight, base_weight = plain(x), plain(basis_weight), None if base_weight is None else plain(base_weight)
    y = x.new_empty((*x.shape[:-1], len(basis_weight)))
    _run("linear", (x, base_weight, basis_weight, y), x, base_weight, basis_weight, grid, expansion)
    return y


def linear_backward(
    grad: Float[Tensor, "*batch out"],
    x: Float[Tensor, "*batch in"],
    base_weight: Float[Tensor, "out in"] | None,
    basis_weight: Float[Tensor, "out planes"],
    grid: Float[Tensor, "in knots"],
    expansion: Expansion,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``linear`` with respect to its first three arguments, those that are needed."""
    check_size("grad", grad.shape, (*x.shape[:-1], len(basis_weight)))
    grad, x, basis_weight = plain(grad), plain(x), plain(basis_weight)
    base_weight = None if base_weight is None else plain(base_weight)
    by_x = x.new_empty(x.shape) if need_x else None
    by_basis = basis_weight.new_empty(basis_weight.shape) if need_weight else None
    by_base = base_weight.new_empty(base_weight.shape) if need_weight and base_weight is not None else None
    given = grad, x, base_weight, basis_weight, by_x, by_base, by_basis
    _run("linear_backward", given, x, base_weight, basis_weight, grid, expansion)
    return by_x, by_base, by_basis


def _run(
    name: str,
    given: tuple[Tensor | None, ...],
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor,
    expansion: Expansion,
) -> None:
    basis, inputs, outputs = splines(expansion), x.shape[-1], len(basis_weight)
    check_size("basis_weight", basis_weight.shape, (outputs, inputs * basis.num_functions))
    check_size("grid", grid.shape, (inputs, basis.num_knots))
    if base_weight is not None:
        check_size("base_weight", base_weight.shape, (outputs, inputs))
    grid = grid.to(x.dtype)
    sizes: Any = (c_int64 * 4)(x.numel() // inputs, inputs, outputs, grid.stride(0))
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in given]
    base = BASES[expansion.base_activation]
    kernel(name, basis, x.dtype)(*pointers, sizes, *ends(grid, basis), basis.grid_size, base)
