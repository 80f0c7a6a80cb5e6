"""How an input is cut so that its features fit into the processor's cache, or at least into memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.modes import is_concrete
from convkan.ops.plan import Plan

MIB = 2**20
# Features of one tile, for each thread: small enough for the cache, large enough for an efficient convolution.
CPU_BYTES_PER_THREAD = 11 * MIB // 2
# Elsewhere small tiles would leave the device idle; this only bounds the memory.
DEVICE_BYTES = 512 * MIB
# What a kernel that is not compiled may store for one intermediate result.
UNCOMPILED_BYTES = 256 * MIB
# Inputs and gradients that are read once for every function stay in a nearer cache: this part of a tile.
REREAD_SHARE = 4
# A product of matrices gains more from its size than from the cache: so many times as much goes into its tile.
PRODUCT_FACTOR = 4
# An image is cut where it fills so many tiles: strips have rows in common, which are evaluated for each.
STRIP_FACTOR = 4


@dataclass(frozen=True)
class Strip:
    """Rows of the padded input, and the rows of the output that they suffice for; None for all of them."""

    rows: slice | None = None
    positions: slice | None = None

    def of_input(self, pixels: Float[Tensor, "batch *space groups channels"]) -> Tensor:
        """Its rows, a view."""
        return pixels if self.rows is None else pixels[:, self.rows]

    def of_output(self, y: Float[Tensor, "batch out *positions"]) -> Tensor:
        """Its rows, a view."""
        return y if self.positions is None else y[:, :, self.positions]

    def added(self, total: Tensor | None, part: Tensor, pixels: Tensor) -> Tensor:
        """A sum over strips, shaped as ``pixels``, and that of one more: neighbouring strips have rows in common."""
        if self.rows is None:
            return part
        total = torch.zeros_like(pixels) if total is None else total
        total[:, self.rows] += part
        return total


WHOLE = Strip()


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
    per_image = prod(plan.geometry.padded_shape(x.shape)) // images * plan.expansion.num_features * weight.itemsize
    factor = 1 if weight.shape[2:] else PRODUCT_FACTOR
    return even_size(images, factor * tile_bytes(x.device, weight) // max(1, per_image))


def strips(pixels: Float[Tensor, "batch *space groups channels"], weight: Tensor, plan: Plan) -> Sequence[Strip]:
    """Cuts of the padded input along its first spatial dimension, where a single image would fill the memory."""
    kernel_size = weight.shape[2:]
    if not kernel_size or not plan.geometry.cuts or pixels.shape[0] > 1 or not is_concrete(pixels):
        return (WHOLE,)
    total = pixels.numel() * plan.expansion.num_features * weight.itemsize
    budget = STRIP_FACTOR * tile_bytes(pixels.device, weight)
    if total <= budget:
        return (WHOLE,)
    positions = plan.geometry.positions(pixels.shape[1:-2], kernel_size)[0]
    count = even_size(positions, max(1, positions * budget // total))
    cuts = [(start, min(start + count, positions)) for start in range(0, positions, count)]
    return [Strip(plan.geometry.rows_seen(*cut, kernel_size), slice(*cut)) for cut in cuts]


def split(x: Tensor, size: int) -> Sequence[Tensor]:
    """Parts of that size along the first dimension; the tensor itself where there is one."""
    return (x,) if len(x) <= size else x.split(size)
