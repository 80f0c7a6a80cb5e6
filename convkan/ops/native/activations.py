"""Learnable activations, each one call of the kernels forward and one backward."""

from ctypes import c_int64
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.ops.native.build import EXTRAPOLATIONS
from convkan.ops.native.calls import check_size, ends, kernel, options, plain, splines
from convkan.ops.plan import Expansion

# Pixels of an image from which on they fill vectors.
MIN_PIXELS = 16


class _Activation:
    """An activation's arguments as its kernels see them: an input (outer, channels, pixels), or (pixels, channels)."""

    def __init__(
        self, x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor, expansion: Expansion
    ) -> None:
        basis = splines(expansion)
        self.basis, self.shape, self.channels = basis, x.shape, x.shape[1]
        self.repeats, self.functions = len(basis_weight) // self.channels, basis.num_functions
        functions = self.channels * self.repeats
        check_size("basis_weight", basis_weight.shape, (functions, basis.num_functions))
        check_size("grid", grid.shape, (self.channels, basis.num_knots))
        if base_weight is not None:
            check_size("base_weight", base_weight.shape, (functions, 1))
        pixels, contiguous = prod(x.shape[2:]), x.is_contiguous()
        as_it_lies = functions == 1 and pixels >= MIN_PIXELS and not contiguous  # one function asks for no order
        self.last = not as_it_lies and (pixels < MIN_PIXELS or (not contiguous and x.movedim(1, -1).is_contiguous()))
        self.dimensions: tuple[int, ...] | None = None  # in the order that the kernels read, if that is another
        if as_it_lies:
            self.dimensions = 0, *sorted(range(1, x.ndim), key=x.stride, reverse=True)
        elif self.last and x.ndim > 2:
            self.dimensions = 0, *range(2, x.ndim), 1
        self.outer, self.pixels = (1, x.shape[0] * pixels) if self.last else (x.shape[0], pixels)
        self.inputs = self.laid_out(x), None if base_weight is None else plain(base_weight), plain(basis_weight)
        self.grid = grid if grid.dtype == torch.float32 else grid.float()
        self.ends = ends(self.grid, basis)
        self.options = (*options(expansion)[:2], EXTRAPOLATIONS[basis.extrapolation], torch.get_num_threads())

    def laid_out(self, x: Tensor) -> Tensor:
        """Numbers in float32 in the order that the kernels read."""
        return plain(x if self.dimensions is None else x.permute(self.dimensions))

    def empty(self, functions: int) -> Tensor:
        """Memory for an output, in that order."""
        shape = self.shape[0], functions, *self.shape[2:]
        in_order = shape if self.dimensions is None else [shape[dimension] for dimension in self.dimensions]
        return torch.empty(in_order, dtype=torch.float32, device="cpu")

    def shaped(self, y: Tensor) -> Tensor:
        """An output in that order, as the layer gives it."""
        return y if self.dimensions is None else y.permute(sorted(range(y.ndim), key=self.dimensions.__getitem__))

    def values(self, constants: Tensor | None = None) -> Tensor:
        """All functions of all channels, in float32, with a constant added to each."""
        y = self.empty(self.channels * self.repeats)
        self._run("activation", *self.inputs, constants, y)
        return self.shaped(y)

    def gradients(self, grad: Tensor, need_x: bool, need_weight: bool) -> tuple[Tensor | None, Tensor | None]:
        """Those by x, and in float64 those by (base weight, basis weight, constant) of each function."""
        check_size("grad", grad.shape, (self.shape[0], self.channels * self.repeats, *self.shape[2:]))
        by_x = self.empty(self.channels) if need_x else None
        sums: Tensor | None = None
        if need_weight:
            chunks = kernel("chunks", self.basis)(self.outer, self.pixels, self.last)  # summed up on their own
            shape = chunks, self.channels * self.repeats, self.functions + 2
            sums = torch.zeros(shape, dtype=torch.float64, device="cpu")
        self._run("activation_backward", self.laid_out(grad), *self.inputs, by_x, sums)
        return None if by_x is None else self.shaped(by_x), None if sums is None else sums.sum(0)

    def _run(self, name: str, *tensors: Tensor | None) -> None:
        """Call a kernel with these tensors and all that is known of the input."""
        pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        sizes = (c_int64 * 4)(self.outer, self.channels, self.pixels, self.grid.stride(0))
        kernel(name, self.basis)(*pointers, sizes, self.repeats, self.last, *self.ends, *self.options)


def activation(
    x: Float[Tensor, "batch channels *space"],
    base_weight: Tensor | None,
    basis_weight: Float[Tensor, "channels_out basis"],
    grid: Float[Tensor, "channels knots"],
    expansion: Expansion,
) -> Float[Tensor, "batch channels_out *space"]:
    """All functions of all channels of an input that ``covers``, less their values at 0 where they are shifted."""
    weights = base_weight, basis_weight, grid, expansion
    constants = -_Activation(_zero(x), *weights).values() if expansion.shifted else None
    return _Activation(x, *weights).values(constants).to(basis_weight.dtype)


def activation_backward(
    grad: Float[Tensor, "batch channels_out *space"],
    x: Float[Tensor, "batch channels *space"],
    base_weight: Tensor | None,
    basis_weight: Float[Tensor, "channels_out basis"],
    grid: Float[Tensor, "channels knots"],
    expansion: Expansion,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``activation`` with respect to its first three arguments, those that are needed."""
    weights = base_weight, basis_weight, grid, expansion
    by_x, sums = _Activation(x, *weights).gradients(grad, need_x, need_weight)
    by_x = None if by_x is None else by_x.to(x.dtype)
    if sums is None:
        return by_x, None, None
    if expansion.shifted:  # the constants depend on the weights, too
        _, through_constants = _Activation(_zero(x), *weights).gradients(-sums[:, -1].float()[None], False, True)
        assert through_constants is not None
        sums += through_constants
    by_weight = sums.to(basis_weight.dtype)
    by_base = None if base_weight is None else by_weight[:, :1].to(base_weight.dtype).contiguous()
    return by_x, by_base, by_weight[:, 1:-1].contiguous()


def _zero(x: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "1 channels"]:
    return torch.zeros((1, x.shape[1]), dtype=torch.float32, device="cpu")
