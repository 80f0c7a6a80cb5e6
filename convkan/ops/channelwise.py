"""One-variable functions of every channel, y[n, c·R + r, …] = φ[c,r](x[n,c,…]), in one pass over the input."""

import math
from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from convkan.modes import is_concrete
from convkan.ops import kernels, native
from convkan.ops.counting import is_counted
from convkan.ops.plan import Expansion, at_least_float32
from convkan.ops.tiles import REREAD_SHARE, UNCOMPILED_BYTES, even_size, tile_bytes

# Floats that a processor works on at a time: AVX-512's; fewer elsewhere, of which this is a multiple.
VECTOR = 16
# Channels, or entries of merged pixels, in a row of which the compiled loops are as fast as in longer ones.
ROW = 8 * VECTOR


def forward(
    x: Float[Tensor, "batch channels *space"],
    base_weight: Float[Tensor, "channels_out 1"] | None,
    basis_weight: Float[Tensor, "channels_out basis"],
    grid: Tensor | None,
    expansion: Expansion,
    padding: tuple[int, ...],
) -> Float[Tensor, "batch channels_out *padded_space"]:
    """All functions of all channels."""
    x = F.pad(x, padding) if any(padding) else x
    if grid is not None and native.covers(expansion, x, base_weight, basis_weight, grid):
        return native.activation(x, base_weight, basis_weight, grid, expansion)
    if expansion.shifted:
        plain = *_exact(base_weight, basis_weight), grid, expansion.with_shift(False), ()
        return (forward(x, *plain) - forward(_zero(x), *plain)).to(basis_weight.dtype)
    order = _channels_last(x)
    pixels = x.permute(order)
    merged = _pixels_to_merge(pixels)
    knots = _knots(grid, expansion, merged)
    weights = _by_function(base_weight, basis_weight, x, expansion, merged)
    rows = _merge(pixels, merged)
    parts = [
        kernels.activation(part, expansion, knots, *weights, basis_weight.dtype)
        for part in rows.split(_images_at_a_time(rows, weights[1]))
    ]
    return _cat(parts).mT.reshape(*pixels.shape[:-1], len(basis_weight)).permute(_inverse(order))


def backward(
    grad: Float[Tensor, "batch channels_out *padded_space"],
    x: Float[Tensor, "batch channels *space"],
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    expansion: Expansion,
    padding: tuple[int, ...],
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``forward`` with respect to its first three arguments, those that are needed."""
    if grid is not None and native.covers(expansion, x, base_weight, basis_weight, grid, grad):
        padded, needed = F.pad(x, padding) if any(padding) else x, (need_x, need_weight)
        found = native.activation_backward(grad, padded, base_weight, basis_weight, grid, expansion, *needed)
        by_x = found[0] if found[0] is None or padded is x else F.pad(found[0], tuple(-amount for amount in padding))
        return by_x, *found[1:]
    if expansion.shifted:
        dtype, grad = basis_weight.dtype, at_least_float32(grad)
        plain = *_exact(base_weight, basis_weight), grid, expansion.with_shift(False)
        by_x, *by_weights = backward(grad, x, *plain, padding, need_x, need_weight)
        total = grad.sum([dimension for dimension in range(grad.ndim) if dimension != 1], keepdim=True)
        _, *at_zero = backward(-total, _zero(x), *plain, (), False, need_weight)
        by_base, by_basis = (
            None if one is None or other is None else (one + other).to(dtype)
            for one, other in zip(by_weights, at_zero, strict=True)
        )
        return by_x, by_base, by_basis
    order = _channels_last(x, padded=any(padding))
    pixels, channels = x.permute(order), x.shape[1]
    grad = grad.permute(order).unflatten(-1, (channels, -1)).mT
    inner, rim = _without_rim(grad, padding)
    merged = _pixels_to_merge(pixels)
    knots = _knots(grid, expansion, merged)
    rows, inner = _merge(pixels, merged), _merge(inner.mT, merged, dimension=-2).mT
    grad_x = None
    if need_x:
        weights = _by_function(base_weight, basis_weight, x, expansion, merged)
        size = _images_at_a_time(rows, weights[1])
        parts = [
            kernels.activation_gradient(part, expansion, knots, *weights, part_grad)
            for part, part_grad in zip(rows.split(size), inner.split(size), strict=True)
        ]
        grad_x = _cat(parts).reshape(pixels.shape).permute(_inverse(order))
    if not need_weight:
        return grad_x, None, None
    sums = _sums_by_position if expansion.few_alive else kernels.activation_sums
    tiles = [sums(part, expansion, knots, part_grad) for part, part_grad in _tiles(rows, inner, expansion)]
    base, basis = (
        torch.stack(parts).sum(0).unflatten(-1, (merged, channels)).sum(-2) for parts in zip(*tiles, strict=True)
    )
    if rim is not None:
        zero, knots = x.new_zeros(1, channels), _knots(grid, expansion)
        on_rim = kernels.activation_sums(zero, expansion, knots, rim.unsqueeze(0))
        base, basis = base + on_rim[0], basis + on_rim[1]
    grad_base = None if base_weight is None else rearrange(base, "r c -> (c r)").unsqueeze(1).to(base_weight.dtype)
    return grad_x, grad_base, rearrange(basis, "k r c -> (c r) k").to(basis_weight.dtype)


def shifts_well(
    x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, expansion: Expansion
) -> bool:
    """Whether functions of ``x`` less their values at 0 are one call of a kernel of ours, and as exact as they are.

    Half precision would round each part of what cancels; and values at 0 that are extrapolated linearly may be far
    larger than those at the inputs.
    """
    if grid is None or any(t is not None and t.dtype != torch.float32 for t in (x, base_weight, basis_weight)):
        return False
    if not native.covers(expansion, x, base_weight, basis_weight, grid) or torch.is_autocast_enabled("cpu"):
        return False
    return native.splines(expansion).extrapolation != "linear" and not is_counted()


def _zero(x: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "1 channels *ones"]:
    return x.new_zeros((1, x.shape[1], *(1,) * (x.ndim - 2)))


def _exact(base_weight: Tensor | None, basis_weight: Tensor) -> tuple[Tensor | None, Tensor]:
    """The weights, from half precision in float32: results that cancel are not rounded before they do."""
    return None if base_weight is None else at_least_float32(base_weight), at_least_float32(basis_weight)


def _channels_last(x: Float[Tensor, "batch channels *space"], padded: bool = False) -> list[int]:
    """The order of dimensions that puts channels last; if there is but one, the others as they lie in memory."""
    order = [dimension for dimension in range(x.ndim) if dimension != 1]
    if x.shape[1] == 1 and not padded and is_concrete(x):
        order.sort(key=x.stride, reverse=True)
    return [*order, 1]


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _pixels_to_merge(x: Float[Tensor, "*batch channels"]) -> int:
    """How many pixels to see as one with as many times the channels, on a CPU.

    A compiled loop goes over the channels a vector at a time: with 17 channels almost half of the work is on entries
    that are not there, and with 16 each pixel is a loop of its own. The channels of neighbouring pixels lie next to
    each other, and together fill their vectors, and rows of some length.
    """
    channels = x.shape[-1]
    if not x.is_cpu or not is_concrete(x) or not x.is_contiguous() or x.numel() == 0:
        return 1
    return _pixels_in_a_row(x.numel() // channels, channels)


@cache
def _pixels_in_a_row(pixels: int, channels: int) -> int:
    """The count that leaves least of the vectors empty; of several, the smallest whose rows are long enough."""
    most = max(VECTOR, math.ceil(ROW / channels))
    counts = (count for count in range(1, most + 1) if pixels % count == 0)
    return min(counts, key=lambda count: (math.ceil(count * channels / VECTOR) / count, count * channels < ROW, count))


def _merge(x: Tensor, count: int, dimension: int = -1) -> Tensor:
    """Rows of ``count`` pixels each, whose channels are those of all of them; as it is where there is one in a row."""
    return x if count == 1 else x.flatten(0, dimension).unflatten(0, (-1, count * x.shape[dimension]))


def _repeated(table: Float[Tensor, "... channels"], count: int) -> Tensor:
    """A table of channels, for merged pixels."""
    return table if count == 1 else table.repeat(*(1,) * (table.ndim - 1), count)


def _without_rim(
    grad: Float[Tensor, "batch *padded_space functions channels"], padding: tuple[int, ...]
) -> tuple[Float[Tensor, "batch *space functions channels"], Float[Tensor, "functions channels"] | None]:
    """What belongs to the input, and the sum of what belongs to the zeros around it."""
    pixels, dtype = tuple(range(grad.ndim - 2)), torch.promote_types(grad.dtype, torch.float32)
    rim = None
    for dimension, before, after in zip(reversed(pixels), padding[0::2], padding[1::2], strict=False):
        size = grad.shape[dimension] - before - after
        for start, length in ((0, before), (before + size, after)):
            if length:
                edge = grad.narrow(dimension, start, length).sum(pixels, dtype=dtype)
                rim = edge if rim is None else rim + edge
        grad = grad.narrow(dimension, before, size)
    return grad, rim


def _sums_by_position(x: Tensor, expansion: Expansion, knots: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
    """``kernels.activation_sums`` at a cost that does not grow with the number of functions."""
    base, row, terms = kernels.activation_terms(x, expansion, knots, grad)
    margin, count = len(terms) - 1, expansion.basis.num_functions
    empty = terms[0].new_zeros(*terms[0].shape[:-1], count + 2 * margin)
    sums = [empty.scatter_add(-1, row.expand_as(term), term) for term in terms]
    # What the b-th function alive adds to row i belongs to function i + b − margin.
    parts = [part[..., margin - b : margin - b + count] for b, part in enumerate(sums)]
    return base, torch.stack(parts).sum(0).movedim(-1, 0)


def _knots(grid: Tensor | None, expansion: Expansion, merged: int = 1) -> Tensor | None:
    knots = expansion.knots(grid, 1)
    return None if knots is None else _repeated(knots.squeeze(0).mT, merged).mT


def _by_function(
    base_weight: Tensor | None, basis_weight: Tensor, x: Tensor, expansion: Expansion, merged: int
) -> tuple[Tensor | None, Tensor]:
    """The weights as ``kernels.activation`` takes them, in the precision of evaluation."""
    channels, dtype = x.shape[1], torch.promote_types(x.dtype, torch.float32)
    base = None if base_weight is None else rearrange(base_weight, "(c r) 1 -> r c", c=channels).to(dtype).contiguous()
    basis = rearrange(basis_weight, "(c r) k -> k r c", c=channels).to(dtype).contiguous()
    margin = (expansion.basis.num_alive or 1) - 1 if expansion.few_alive else 0
    basis = F.pad(basis, (0, 0, 0, 0, margin, margin)) if margin else basis
    return None if base is None else _repeated(base, merged), _repeated(basis, merged)


def _images_at_a_time(x: Float[Tensor, "batch *space channels"], basis_weight: Tensor) -> int:
    """How many images bound the memory where kernels are not compiled, and store every function times its weight."""
    if not is_concrete(x) or x.numel() == 0:
        return max(1, len(x))
    per_image = x[0].numel() // x.shape[-1] * basis_weight.numel() * max(4, x.itemsize)
    return even_size(len(x), UNCOMPILED_BYTES // per_image)


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _tiles(x: Tensor, grad: Tensor, expansion: Expansion) -> Iterator[tuple[Tensor, Tensor]]:
    """Matching parts of both that stay in the cache together while they are read again for every function."""
    if not is_concrete(x) or x.numel() == 0:
        yield x, grad
        return
    per_image = (x[0].numel() + grad[0].numel()) * max(4, x.itemsize)
    budget = tile_bytes(x.device) // REREAD_SHARE
    images = even_size(len(x), budget // per_image)
    rows = even_size(x.shape[1], x.shape[1] * budget // per_image)
    for part, part_grad in zip(x.split(images), grad.split(images), strict=True):
        if x.ndim == 2:
            yield part, part_grad
        else:
            yield from zip(part.split(rows, dim=1), part_grad.split(rows, dim=1), strict=True)
