"""One-variable functions of every channel, y[n, c·R + r, …] = φ[c,r](x[n,c,…]), in one pass over the input."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from convkan.ops import kernels
from convkan.ops.plan import Expansion
from convkan.ops.tiles import even_size, may_cut, tile_bytes

LARGE_BYTES = 32 * 2**20


def forward(
    x: Float[Tensor, "batch channels *space"],
    base_weight: Float[Tensor, "channels_out 1"] | None,
    basis_weight: Float[Tensor, "channels_out basis"],
    grid: Tensor | None,
    expansion: Expansion,
) -> Float[Tensor, "batch channels_out *space"]:
    """All functions of all channels."""
    knots, pixels = _knots(grid, expansion), _pixels(x)
    weights = _by_function(base_weight, basis_weight, x, expansion)
    y = _cat([kernels.activation(part, expansion, knots, *weights, basis_weight.dtype) for part in _large(pixels)])
    return y.mT.flatten(-2).movedim(-1, 1).unflatten(2, x.shape[2:]) if x.ndim != 2 else y.mT.flatten(1)


def backward(
    grad: Float[Tensor, "batch channels_out *space"],
    x: Float[Tensor, "batch channels *space"],
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    expansion: Expansion,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``forward`` with respect to its first three arguments, those that are needed."""
    channels = x.shape[1]
    knots, pixels = _knots(grid, expansion), _pixels(x)
    grad = _pixels(grad).unflatten(-1, (channels, -1)).mT
    grad_x = None
    if need_x:
        weights = _by_function(base_weight, basis_weight, x, expansion)
        grad_pixels = _cat(
            [
                kernels.activation_gradient(part, expansion, knots, *weights, part_grad)
                for part, part_grad in zip(_large(pixels), _large(grad), strict=True)
            ]
        )
        grad_x = grad_pixels.movedim(-1, 1).reshape(x.shape)
    if not need_weight:
        return grad_x, None, None
    sums = _sums_by_position if expansion.few_alive else kernels.activation_sums
    tiles = [sums(part, expansion, knots, part_grad) for part, part_grad in _tiles(pixels, grad, expansion)]
    base, basis = (torch.stack(parts).sum(0) for parts in zip(*tiles, strict=True))
    grad_base = None if base_weight is None else rearrange(base, "r c -> (c r) 1").to(base_weight.dtype)
    return grad_x, grad_base, rearrange(basis, "k r c -> (c r) k").to(basis_weight.dtype)


def _sums_by_position(x: Tensor, expansion: Expansion, knots: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
    """``kernels.activation_sums`` at a cost that does not grow with the number of functions."""
    base, row, terms = kernels.activation_terms(x, expansion, knots, grad)
    margin, count = len(terms) - 1, expansion.basis.num_functions
    empty = terms[0].new_zeros(*terms[0].shape[:-1], count + 2 * margin)
    sums = [empty.scatter_add(-1, row.expand_as(term), term) for term in terms]
    # What the b-th function alive adds to row i belongs to function i + b − margin.
    parts = [part[..., margin - b : margin - b + count] for b, part in enumerate(sums)]
    return base, torch.stack(parts).sum(0).movedim(-1, 0)


def _pixels(x: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch space channels"]:
    """Channels last, as a view where the layout of ``x`` allows it."""
    return x.unsqueeze(1) if x.ndim == 2 else x.movedim(1, -1).flatten(1, -2)


def _knots(grid: Tensor | None, expansion: Expansion) -> Tensor | None:
    knots = expansion.knots(grid, 1)
    return None if knots is None else knots.squeeze(0)


def _by_function(
    base_weight: Tensor | None, basis_weight: Tensor, x: Tensor, expansion: Expansion
) -> tuple[Tensor | None, Tensor]:
    """The weights as ``kernels.activation`` takes them, in the precision of evaluation."""
    channels, dtype = x.shape[1], torch.promote_types(x.dtype, torch.float32)
    base = None if base_weight is None else rearrange(base_weight, "(c r) 1 -> r c", c=channels).to(dtype).contiguous()
    basis = rearrange(basis_weight, "(c r) k -> k r c", c=channels).to(dtype).contiguous()
    margin = (expansion.basis.num_alive or 1) - 1 if expansion.few_alive else 0
    return base, F.pad(basis, (0, 0, 0, 0, margin, margin)) if margin else basis


def _large(x: Tensor) -> tuple[Tensor, ...]:
    """Parts of the batch that bound the memory where kernels are not compiled, and store what they compute."""
    per_image = max(1, x[:1].nbytes)
    return x.split(max(1, LARGE_BYTES // per_image)) if may_cut(x) else (x,)


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _tiles(x: Tensor, grad: Tensor, expansion: Expansion) -> Iterator[tuple[Tensor, Tensor]]:
    """Matching parts of both that stay in the cache together while they are read again for every function."""
    if not may_cut(x) or x.numel() == 0:
        yield x, grad
        return
    entries = tile_bytes(x.device) // (4 * (1 + grad.shape[-2]) * max(4, x.itemsize))
    images = even_size(len(x), entries // (x.shape[1] * x.shape[2]))
    pixels = even_size(x.shape[1], entries // x.shape[2])
    for part, part_grad in zip(x.split(images), grad.split(images), strict=True):
        yield from zip(part.split(pixels, dim=1), part_grad.split(pixels, dim=1), strict=True)
