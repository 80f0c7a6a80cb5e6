"""Tensors handed to the kernels, and what they give back."""

from collections.abc import Sequence
from ctypes import c_int, c_int64, c_void_p
from functools import cache, lru_cache
from math import prod
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis import BSpline
from convkan.modes import ORDINARY, is_concrete
from convkan.ops.native import build
from convkan.ops.plan import Expansion

HIGHEST_ORDER = 5
# In the order of ``Base`` in bases.h.
NAMES = (None, "silu", "relu", "identity", "sigmoid", "gelu", "tanh", "gelu_tanh", "relu6", "hardswish")
BASES = {name: number for number, name in enumerate(NAMES)}
EXTRAPOLATIONS = {"zero": 0, "clamp": 1, "linear": 2}
# Channels from which on vectors go over channels; of fewer, where these are last, over pixels.
MIN_CHANNELS = 8
# Pixels of an image from which on they fill vectors.
MIN_PIXELS = 16
# What numbers may come in and go out as; all is computed in float32.
PRECISIONS = (torch.float32, torch.bfloat16)

_ENDS = [c_void_p, c_void_p]  # low ends of the grids, high ends
_LAYOUT = [c_void_p, *_ENDS]  # sizes and strides, ends of the grids
_OPTIONS = [c_int] * 3  # grid size, base activation, threads
_IMAGES = [c_void_p, c_int, c_int]  # sizes, functions a channel, whether channels are last
_LINEAR = [c_void_p, *_ENDS, c_int, c_int]  # sizes, ends of the grids, grid size, base activation
_SIGNATURES: dict[str, list[Any]] = {
    "features": [c_void_p, c_void_p, c_int, *_LAYOUT, *_OPTIONS],
    "pull_back": [c_void_p, c_void_p, c_int, c_void_p, *_LAYOUT, *_OPTIONS],
    "activation": [c_void_p] * 4 + _IMAGES + _ENDS + [c_int] * 4,
    "activation_backward": [c_void_p] * 6 + _IMAGES + _ENDS + [c_int] * 4,
    "chunks": [c_int64, c_int64, c_int],
    "linear": [c_void_p] * 4 + _LINEAR,
    "linear_backward": [c_void_p] * 7 + _LINEAR,
}


@cache
def kernel(name: str, order: int) -> Any:
    """A function of the library for splines of ``order``; None where there is none."""
    library = build.library(order)
    if library is None:
        return None
    function = library[f"convkan_{name}"]
    function.argtypes = _SIGNATURES[name]
    function.restype = c_int64 if name == "chunks" else None
    return function


def covers(expansion: Expansion, x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels evaluate ``expansion`` on ``x``, with ``others`` (weights, grid) as they are.

    They are given addresses of memory, and so nothing but plain tensors on the CPU.
    """
    return (
        build.is_enabled()
        and _covers(expansion)
        and x.dtype in PRECISIONS
        and is_concrete(x)
        and _is_plain(x)
        and all(map(_is_plain, others))
    )


@lru_cache(maxsize=1024)
def _covers(expansion: Expansion) -> bool:
    basis = expansion.basis
    return (
        type(basis) is BSpline
        and expansion.uniform
        and 1 <= basis.order <= HIGHEST_ORDER
        and expansion.base_activation in BASES
        and kernel("features", basis.order) is not None
    )


def _is_plain(tensor: Tensor | None) -> bool:
    return tensor is None or (type(tensor) in ORDINARY and tensor.is_cpu)


def check_size(name: str, shape: Sequence[int], expected: Sequence[int]) -> None:
    """Raise where a kernel would read beyond a tensor's end."""
    if shape != expected:
        raise RuntimeError(f"the size of {name} must be {tuple(expected)}, got {tuple(shape)}")


def splines(expansion: Expansion) -> BSpline:
    """The basis of an expansion that ``covers``."""
    return cast(BSpline, expansion.basis)


def covers_features(expansion: Expansion, x: Tensor, grid: Tensor, dtype: torch.dtype, gradient: bool = False) -> bool:
    """Whether the kernels evaluate features in ``dtype``, and if asked for, gradients with respect to ``x``."""
    if dtype not in PRECISIONS or not covers(expansion, x, grid):
        return False
    basis = splines(expansion)
    return basis.extrapolation == "zero" and not (gradient and basis.order == 1)


def knots(grid: Float[Tensor, "channels knots"], groups: int) -> Float[Tensor, "groups channels knots"]:
    """The knots as ``features`` takes them: of equally spaced ones the kernels read the ends, wherever they lie."""
    grid = grid.detach()
    grid = grid if grid.dtype == torch.float32 else grid.float()
    return grid.view(groups, -1, grid.shape[-1]) if grid.is_contiguous() else grid.unflatten(0, (groups, -1))


def plain(x: Tensor) -> Tensor:
    """Its numbers in float32, in rows."""
    if x.dtype == torch.float32 and x.is_contiguous() and not x.is_neg():
        return x
    return x.detach().resolve_neg().float().contiguous()


def _layout(x: Float[Tensor, "pixels groups channels"], functions: int, knots: Tensor) -> Any:
    """``Layout`` of the kernels for contiguous features (pixels, groups, functions, channels)."""
    return _layout_of(*x.shape, functions, knots.stride(0), knots.stride(1))


@lru_cache(maxsize=4096)
def _layout_of(pixels: int, groups: int, channels: int, functions: int, by_group: int, by_channel: int) -> Any:
    row, f_row = groups * channels, groups * functions * channels
    if channels >= MIN_CHANNELS:
        loops, grid = (pixels, groups, channels), (0, by_group, by_channel)
        steps = (row, channels, 1), (f_row, functions * channels, 1, channels)
    else:
        loops, grid = (groups, channels, pixels), (by_group, by_channel, 0)
        steps = (channels, 1, row), (functions * channels, 1, f_row, channels)
    return (c_int64 * 13)(*loops, *steps[0], *steps[1], *grid)


def features(
    x: Float[Tensor, "pixels groups channels"], expansion: Expansion, knots: Tensor, dtype: torch.dtype
) -> Float[Tensor, "pixels groups features channels"]:
    """As ``convkan.ops.kernels.features``, for what ``covers_features``."""
    basis, x = splines(expansion), plain(x)
    check_size("knots", knots.shape, (*x.shape[1:], basis.num_knots))
    functions = expansion.num_features
    out = x.new_empty((*x.shape[:-1], functions, x.shape[-1]), dtype=dtype)
    half = dtype == torch.bfloat16
    kernel("features", basis.order)(
        x.data_ptr(), out.data_ptr(), half, _layout(x, functions, knots), *ends(knots, basis), *options(expansion)
    )
    return out


def input_gradient(
    x: Float[Tensor, "pixels groups channels"],
    expansion: Expansion,
    knots: Tensor,
    grad: Float[Tensor, "pixels groups features channels"],
) -> Float[Tensor, "pixels groups channels"]:
    """As ``convkan.ops.kernels.input_gradient``, for what ``covers_features``."""
    basis, dtype, x = splines(expansion), x.dtype, plain(x)
    check_size("knots", knots.shape, (*x.shape[1:], basis.num_knots))
    check_size("grad", grad.shape, (*x.shape[:-1], expansion.num_features, x.shape[-1]))
    grad = grad.detach().resolve_neg().contiguous()
    out = torch.empty_like(x)
    half, layout = grad.dtype == torch.bfloat16, _layout(x, expansion.num_features, knots)
    kernel("pull_back", basis.order)(
        x.data_ptr(), grad.data_ptr(), half, out.data_ptr(), layout, *ends(knots, basis), *options(expansion)
    )
    return out.to(dtype)


def ends(knots: Float[Tensor, "*groups channels knots"], basis: BSpline) -> tuple[int, int]:
    """Where the first channel's ends of the grid are."""
    start, step = knots.data_ptr() + 4 * basis.order * knots.stride(-1), 4 * knots.stride(-1)
    return start, start + basis.grid_size * step


def options(expansion: Expansion) -> tuple[int, int, int]:
    """Intervals of the grid, the base activation and the number of threads."""
    return splines(expansion).grid_size, BASES[expansion.base_activation], torch.get_num_threads()


class _Activation:
    """An activation's arguments as its kernels see them: an input (outer, channels, pixels), or (pixels, channels)."""

    def __init__(
        self, x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor, expansion: Expansion
    ) -> None:
        basis = splines(expansion)
        self.order, self.shape, self.channels = basis.order, x.shape, x.shape[1]
        self.repeats = len(basis_weight) // self.channels
        functions = self.channels * self.repeats
        check_size("basis_weight", basis_weight.shape, (functions, basis.num_functions))
        check_size("grid", grid.shape, (self.channels, basis.num_knots))
        if base_weight is not None:
            check_size("base_weight", base_weight.shape, (functions, 1))
        pixels = prod(x.shape[2:])
        self.last = pixels < MIN_PIXELS or (x.movedim(1, -1).is_contiguous() and not x.is_contiguous())
        self.outer, self.pixels = (1, x.shape[0] * pixels) if self.last else (x.shape[0], pixels)
        self.inputs = self.laid_out(x), None if base_weight is None else plain(base_weight), plain(basis_weight)
        self.grid = grid if grid.dtype == torch.float32 else grid.float()
        self.ends = ends(self.grid, basis)
        self.options = (*options(expansion)[:2], EXTRAPOLATIONS[basis.extrapolation], torch.get_num_threads())

    def laid_out(self, x: Tensor) -> Tensor:
        """Numbers in float32 in the order that the kernels read."""
        return plain(x.movedim(1, -1) if self.last else x)

    def empty(self, functions: int) -> Tensor:
        """Memory for an output, in that order."""
        batch, _, *space = self.shape
        shape = (batch, *space, functions) if self.last else (batch, functions, *space)
        return torch.empty(shape, dtype=torch.float32, device="cpu")

    def shaped(self, y: Tensor) -> Tensor:
        """An output in that order, as the layer gives it."""
        return y.movedim(-1, 1) if self.last else y

    def chunks(self) -> int:
        """Parts of the input that are summed up on their own."""
        return int(kernel("chunks", self.order)(self.outer, self.pixels, self.last))

    def run(self, name: str, *tensors: Tensor | None) -> None:
        """Call a kernel with these tensors and all that is known of the input."""
        pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        sizes = (c_int64 * 4)(self.outer, self.channels, self.pixels, self.grid.stride(0))
        kernel(name, self.order)(*pointers, sizes, self.repeats, self.last, *self.ends, *self.options)


def activation(
    x: Float[Tensor, "batch channels *space"],
    base_weight: Tensor | None,
    basis_weight: Float[Tensor, "channels_out basis"],
    grid: Float[Tensor, "channels knots"],
    expansion: Expansion,
) -> Float[Tensor, "batch channels_out *space"]:
    """All functions of all channels of an input that ``covers``."""
    at = _Activation(x, base_weight, basis_weight, grid, expansion)
    y = at.empty(len(basis_weight))
    at.run("activation", *at.inputs, y)
    return at.shaped(y).to(basis_weight.dtype)


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
    at = _Activation(x, base_weight, basis_weight, grid, expansion)
    check_size("grad", grad.shape, (len(x), len(basis_weight), *x.shape[2:]))
    by_x = at.empty(at.channels) if need_x else None
    sums: Tensor | None = None
    if need_weight:
        shape = at.chunks(), len(basis_weight), 1 + basis_weight.shape[1]
        sums = torch.zeros(shape, dtype=torch.float64, device="cpu")
    at.run("activation_backward", at.laid_out(grad), *at.inputs, by_x, sums)
    by_x = None if by_x is None else at.shaped(by_x).to(x.dtype)
    if sums is None:
        return by_x, None, None
    by_weight = sums.sum(0).to(basis_weight.dtype)
    by_base = None if base_weight is None else by_weight[:, :1].to(base_weight.dtype).contiguous()
    return by_x, by_base, by_weight[:, 1:].contiguous()
