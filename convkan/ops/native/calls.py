"""Tensors handed to the kernels, and what they give back."""

from collections.abc import Sequence
from ctypes import c_int, c_int64, c_void_p
from functools import cache, lru_cache
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis import BSpline
from convkan.basis.bspline import Extrapolation
from convkan.modes import ORDINARY, is_concrete
from convkan.ops.native import build
from convkan.ops.plan import Expansion

HIGHEST_ORDER = 5
# In the order of ``Base`` in bases.h.
NAMES = (None, "silu", "relu", "identity", "sigmoid", "gelu", "tanh", "gelu_tanh", "relu6", "hardswish")
BASES = {name: number for number, name in enumerate(NAMES)}
# Channels from which on vectors go over channels; of fewer, where these are last, over pixels.
MIN_CHANNELS = 8
# What numbers may come in and go out as where all is computed in float32; features are in float64, too.
PRECISIONS = (torch.float32, torch.bfloat16)
# Those computed to all digits of float64.
EXACT_BASES = (None, "silu", "relu", "identity", "sigmoid", "relu6", "hardswish")

_ENDS = [c_void_p, c_void_p]  # low ends of the grids, high ends
_LAYOUT = [c_void_p, *_ENDS]  # sizes and strides, ends of the grids
_OPTIONS = [c_int] * 3  # grid size, base activation, threads
_IMAGES = [c_void_p, c_int, c_int]  # sizes, functions a channel, whether channels are last
_LINEAR = [c_void_p, *_ENDS, c_int, c_int]  # sizes, ends of the grids, grid size, base activation
_SIGNATURES: dict[str, list[Any]] = {
    "features": [c_void_p, c_void_p, c_int, *_LAYOUT, *_OPTIONS],
    "pull_back": [c_void_p, c_void_p, c_int, c_void_p, *_LAYOUT, *_OPTIONS],
    "activation": [c_void_p] * 5 + _IMAGES + _ENDS + [c_int] * 4,
    "activation_backward": [c_void_p] * 6 + _IMAGES + _ENDS + [c_int] * 4,
    "chunks": [c_int64, c_int64, c_int],
    "linear": [c_void_p] * 4 + _LINEAR,
    "linear_backward": [c_void_p] * 7 + _LINEAR,
}


def kernel(name: str, basis: BSpline, dtype: torch.dtype = torch.float32) -> Any:
    """A kernel that computes in ``dtype`` with splines of this kind; None where there is none."""
    of_activations = name.startswith(("activation", "chunks"))  # which are told of the extrapolation at each call
    return _kernel(name, basis.order, None if of_activations else basis.extrapolation, dtype)


@cache
def _kernel(name: str, order: int, extrapolation: Extrapolation | None, dtype: torch.dtype) -> Any:
    double = dtype == torch.float64
    library = build.library("features" if extrapolation else "activations", order, extrapolation, double)
    if library is None:
        return None
    function = library[f"convkan_{name}"]
    function.argtypes = _SIGNATURES[name]
    function.restype = c_int64 if name == "chunks" else None
    return function


def computed_in(x: Tensor) -> torch.dtype:
    """The precision of what is computed with these numbers."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def covers(expansion: Expansion, x: Tensor, *others: Tensor | None, by: str = "activation") -> bool:
    """Whether the kernel of that name evaluates ``expansion`` on ``x``, with ``others`` (weights, grid) as they are.

    It is given addresses of memory, and so nothing but plain tensors on the CPU.
    """
    return (
        build.is_enabled()
        and (x.dtype in PRECISIONS or (x.dtype == torch.float64 and by != "activation"))
        and is_concrete(x)
        and _covers(expansion, by, computed_in(x))
        and _is_plain(x)
        and all(map(_is_plain, others))
    )


@lru_cache(maxsize=1024)
def _covers(expansion: Expansion, name: str, dtype: torch.dtype) -> bool:
    basis = expansion.basis
    return (
        type(basis) is BSpline
        and expansion.uniform
        and 1 <= basis.order <= HIGHEST_ORDER
        and expansion.base_activation in (EXACT_BASES if dtype == torch.float64 else BASES)
        and kernel(name, basis, dtype) is not None
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
    wanted = (torch.float64,) if x.dtype == torch.float64 else PRECISIONS
    if dtype not in wanted or expansion.shifted or not has_features(expansion, gradient):
        return False
    return covers(expansion, x, grid, by="features")


def has_features(expansion: Expansion, gradient: bool) -> bool:
    """Whether the closed form tells features, and if asked for, their slopes: at order 1 it does not know sides."""
    basis = splines(expansion)
    return type(basis) is BSpline and (basis.order > 1 or not (gradient or basis.extrapolation == "linear"))


def knots(
    grid: Float[Tensor, "channels knots"], groups: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "groups channels knots"]:
    """The knots as ``features`` takes them: of equally spaced ones the kernels read the ends, wherever they lie."""
    grid = grid.detach().to(dtype)
    return grid.view(groups, -1, grid.shape[-1]) if grid.is_contiguous() else grid.unflatten(0, (groups, -1))


def plain(x: Tensor) -> Tensor:
    """Its numbers in float32 or float64, in rows."""
    dtype = computed_in(x)
    if x.dtype == dtype and x.is_contiguous() and not x.is_neg():
        return x
    return x.detach().resolve_neg().to(dtype).contiguous()


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


@lru_cache(maxsize=4096)
def _plane_layout(batch: int, functions: int, channels: int, pixels: int, by_channel: int) -> Any:
    plane = channels * pixels
    steps = (plane, pixels, 1), (functions * plane, pixels, 1, plane)
    return (c_int64 * 13)(batch, channels, pixels, *steps[0], *steps[1], 0, by_channel, 0)


def features(
    x: Float[Tensor, "pixels groups channels"], expansion: Expansion, knots: Tensor, dtype: torch.dtype
) -> Float[Tensor, "pixels groups features channels"]:
    """As ``convkan.ops.kernels.features``, for what ``covers_features``."""
    x = plain(x)
    check_size("knots", knots.shape, (*x.shape[1:], splines(expansion).num_knots))
    out = x.new_empty((*x.shape[:-1], expansion.num_features, x.shape[-1]), dtype=dtype)
    return _features(x, out, _layout(x, expansion.num_features, knots), expansion, knots)


def plane_features(
    x: Float[Tensor, "batch channels pixels"], expansion: Expansion, knots: Tensor, dtype: torch.dtype
) -> Float[Tensor, "batch features channels pixels"]:
    """Those of one group of channels, plane by plane."""
    x = plain(x)
    check_size("knots", knots.shape, (1, x.shape[1], splines(expansion).num_knots))
    out = x.new_empty((x.shape[0], expansion.num_features, *x.shape[1:]), dtype=dtype)
    return _features(x, out, _plane_layout(*out.shape, knots.stride(1)), expansion, knots)


def _features(x: Tensor, out: Tensor, layout: Any, expansion: Expansion, knots: Tensor) -> Tensor:
    basis, half = splines(expansion), out.dtype == torch.bfloat16
    kernel("features", basis, x.dtype)(
        x.data_ptr(), out.data_ptr(), half, layout, *ends(knots, basis), *options(expansion)
    )
    return out


def input_gradient(
    x: Float[Tensor, "pixels groups channels"],
    expansion: Expansion,
    knots: Tensor,
    grad: Float[Tensor, "pixels groups features channels"],
) -> Float[Tensor, "pixels groups channels"]:
    """As ``convkan.ops.kernels.input_gradient``, for what ``covers_features``."""
    check_size("knots", knots.shape, (*x.shape[1:], splines(expansion).num_knots))
    check_size("grad", grad.shape, (*x.shape[:-1], expansion.num_features, x.shape[-1]))
    return _pull_back(x, grad, _layout(x, expansion.num_features, knots), expansion, knots)


def plane_gradient(
    x: Float[Tensor, "batch channels pixels"],
    expansion: Expansion,
    knots: Tensor,
    grad: Float[Tensor, "batch features channels pixels"],
) -> Float[Tensor, "batch channels pixels"]:
    """Those of ``plane_features``."""
    check_size("knots", knots.shape, (1, x.shape[1], splines(expansion).num_knots))
    check_size("grad", grad.shape, (x.shape[0], expansion.num_features, *x.shape[1:]))
    return _pull_back(x, grad, _plane_layout(*grad.shape, knots.stride(1)), expansion, knots)


def _pull_back(x: Tensor, grad: Tensor, layout: Any, expansion: Expansion, knots: Tensor) -> Tensor:
    basis, dtype, x, grad = splines(expansion), x.dtype, plain(x), grad.detach().resolve_neg().contiguous()
    out = torch.empty_like(x)
    half = grad.dtype == torch.bfloat16
    kernel("pull_back", basis, x.dtype)(
        x.data_ptr(), grad.data_ptr(), half, out.data_ptr(), layout, *ends(knots, basis), *options(expansion)
    )
    return out.to(dtype)


def ends(knots: Float[Tensor, "*groups channels knots"], basis: BSpline) -> tuple[int, int]:
    """Where the first channel's ends of the grid are."""
    step = knots.element_size() * knots.stride(-1)
    start = knots.data_ptr() + basis.order * step
    return start, start + basis.grid_size * step


def options(expansion: Expansion) -> tuple[int, int, int]:
    """Intervals of the grid, the base activation and the number of threads."""
    return splines(expansion).grid_size, BASES[expansion.base_activation], torch.get_num_threads()
