"""How an input is cut so that its features fit into the processor's cache, or at least into memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.ops.plan import Convolution, Linear, Plan, is_concrete

# Features of one tile, for each thread: small enough for the cache, large enough for an efficient convolution.
CPU_BYTES_PER_THREAD = 11 * 2**19
# Elsewhere small tiles would leave the device idle; this only bounds the memory.
DEVICE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Strip:
    """Rows of the padded input, and the rows of the output that they suffice for."""

    rows: slice
    positions: slice


WHOLE = Strip(slice(None), slice(None))


def tile_bytes(device: torch.device, weight: Tensor | None = None) -> int:
    """Bytes of features to have at a time; not less than twice the weights, which every tile reads."""
    budget = CPU_BYTES_PER_THREAD * torch.get_num_threads() if device.type == "cpu" else DEVICE_BYTES
    return budget if weight is None else max(budget, 2 * weight.nbytes)


def even_size(length: int, at_most: int) -> int:
    """The size of equal parts, each at most ``at_most`` (but at least 1), that ``length`` is cut into."""
    return ceil(length / ceil(length / max(1, at_most))) if length else 1


def images_per_tile(x: Tensor, weight: Tensor, plan: Plan) -> int:
    """How many entries of the batch are evaluated at a time."""
    images = x.shape[0]
    if not is_concrete(x) or images == 0:  # sizes may stand for others
        return max(1, images)
    per_image = _padded_entries(x, plan) // images * plan.expansion.num_features * weight.itemsize
    budget = tile_bytes(x.device, weight)
    if isinstance(plan.geometry, Linear):
        budget *= 4  # a matrix product gains more from its size than from the cache
    return even_size(images, budget // max(1, per_image))


def strips(pixels: Float[Tensor, "batch *space groups channels"], weight: Tensor, plan: Plan) -> Iterator[Strip]:
    """Cuts of the padded input along its first spatial dimension, where a single image would fill the memory."""
    geometry = plan.geometry
    total = pixels.numel() * plan.expansion.num_features * weight.itemsize
    budget = 4 * tile_bytes(pixels.device, weight)
    if not isinstance(geometry, Convolution) or not is_concrete(pixels) or pixels.shape[0] > 1 or total <= budget:
        yield WHOLE
        return
    stride, extent = geometry.stride[0], geometry.dilation[0] * (weight.shape[2] - 1) + 1
    positions = (pixels.shape[1] - extent) // stride + 1
    count = even_size(positions, max(1, positions * budget // total))
    for start in range(0, positions, count):
        stop = min(start + count, positions)
        yield Strip(slice(start * stride, (stop - 1) * stride + extent), slice(start, stop))


def _padded_entries(x: Tensor, plan: Plan) -> int:
    if not isinstance(plan.geometry, Convolution):
        return x.numel()
    entries, padding = x.shape[0] * x.shape[1], plan.geometry.padding
    for size, before, after in zip(x.shape[:1:-1], padding[0::2], padding[1::2], strict=True):
        entries *= size + before + after
    return entries
