"""The geometry of a transposed convolution: every pixel adds to the outputs that its taps reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from convkan.ops.geometry import Geometry, Sizes


@dataclass(frozen=True)
class TransposedConvolution(Geometry):
    """y[n,o,q] = Σ_{c in group} Σ φ[o,c,tap](x[n,c,p]) over p and tap with p·stride + tap·dilation − trim = q.

    The input is not padded: its edges see pixels alone, and outputs that no tap reaches are 0.

    Attributes:
        stride: Step between what neighbouring pixels reach, one entry a spatial dimension.
        trim: Outputs left out at both ends, which torch calls padding.
        output_padding: Outputs added at the far end, after that.
        dilation: Distance of taps.
        groups: Number of channel groups.
    """

    stride: tuple[int, ...]
    trim: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    padding = ()
    cuts: ClassVar[bool] = False

    def contract(self, features: Float[Tensor, "batch *space groups features channels"], *weights: Tensor) -> Tensor:
        """One grouped transposed convolution over all planes."""
        (weight,) = weights
        planes = features.to(weight.dtype).flatten(-3).movedim(-1, 1)
        return torch.convolution(
            planes, by_plane(weight, self.groups), None, self.stride, self.trim, self.dilation, *self._transposed
        )

    def contract_backward(
        self, grad: Tensor, features: Tensor, weights: Sequence[Tensor], need_features: bool, need_weight: bool
    ) -> tuple[Tensor | None, tuple[Tensor, ...] | None]:
        """The backward pass of that."""
        (weight,) = weights
        planes = features.to(weight.dtype).flatten(-3).movedim(-1, 1)
        options = (None, self.stride, self.trim, self.dilation, *self._transposed)
        grad_planes, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, planes, by_plane(weight, self.groups), *options, [need_features, need_weight, False]
        )
        grad_features = grad_planes.movedim(1, -1).reshape(features.shape) if need_features else None
        return grad_features, (by_output(grad_weight, self.groups),) if need_weight else None

    @property
    def _transposed(self) -> tuple[bool, tuple[int, ...], int]:
        return True, self.output_padding, self.groups

    def full(self, space: Sizes, kernel_size: Sizes) -> tuple[int, ...]:
        """The number of outputs in each dimension before any is left out."""
        steps = zip(space, kernel_size, self.stride, self.dilation, self.output_padding, strict=True)
        return tuple((size - 1) * s + d * (k - 1) + 1 + more for size, k, s, d, more in steps)

    def positions(self, space: Sizes, kernel_size: Sizes) -> tuple[int, ...]:
        """All that are not left out."""
        return tuple(size - 2 * off for size, off in zip(self.full(space, kernel_size), self.trim, strict=True))

    def products(self, x_shape: Sizes, weight_shape: Sizes) -> int:
        """One for each pixel, whether or not all that it reaches is kept, as torch counts."""
        return x_shape[0] * prod(x_shape[2:])

    def window(self, tap: Sizes, kernel_size: Sizes, space: Sizes) -> tuple[slice, ...]:
        """The pixels from which the tap reaches outputs that are kept."""
        return tuple(slice(first, last) for first, last, _ in self._extents(tap, kernel_size, space))

    def reached(self, tap: Sizes, kernel_size: Sizes, space: Sizes) -> tuple[slice, ...]:
        """Every stride-th output, from the one that the first of these pixels reaches on."""
        extents = zip(self._extents(tap, kernel_size, space), self.stride, strict=True)
        return tuple(
            slice(first * s + shift, (last - 1) * s + shift + 1, s) if last > first else slice(0, 0)
            for (first, last, shift), s in extents
        )

    def _extents(self, tap: Sizes, kernel_size: Sizes, space: Sizes) -> list[tuple[int, int, int]]:
        """Of each dimension: the first pixel that counts, the end of those that do, and where the tap puts pixel 0."""
        found = []
        positions = self.positions(space, kernel_size)
        for t, size, count, s, d, off in zip(tap, space, positions, self.stride, self.dilation, self.trim, strict=True):
            shift = t * d - off
            first = max(0, -(shift // s))
            found.append((first, max(first, min(size, (count - 1 - shift) // s + 1)), shift))
        return found

    def placed(
        self, values: Float[Tensor, "batch *seen out"], tap: Sizes, kernel_size: Sizes, space: Sizes
    ) -> Float[Tensor, "batch *positions out"]:
        """Zeros but for where the tap reaches."""
        y = values.new_zeros(len(values), *self.positions(space, kernel_size), values.shape[-1])
        y[(slice(None), *self.reached(tap, kernel_size, space))] += values
        return y

    def at_location(
        self, seen: Float[Tensor, "batch channels *space"], location: Sizes, kernel_size: Sizes
    ) -> tuple[Float[Tensor, "batch channels *kernel"], Bool[Tensor, " *kernel"]]:
        """The pixel from which each tap reaches one output, and from which taps there is one."""
        alive = torch.ones((), dtype=torch.bool, device=seen.device)
        steps = zip(location, kernel_size, self.stride, self.dilation, self.trim, strict=True)
        for dimension, (q, k, s, d, off) in enumerate(steps, start=2):
            ahead = q + off - d * torch.arange(k, device=seen.device)
            pixel, size = ahead.div(s, rounding_mode="floor"), seen.shape[dimension]
            alive = alive.unsqueeze(-1) & (ahead % s == 0) & (pixel >= 0) & (pixel < size)
            seen = seen.index_select(dimension, pixel.clamp(0, size - 1))
        return seen, alive


def by_plane(weight: Tensor, groups: int) -> Tensor:
    """(out, planes in a group, *kernel) as torch's own have it: (planes, out in a group, *kernel)."""
    if groups == 1:
        return weight.transpose(0, 1)
    return rearrange(weight, "(g o) p ... -> (g p) o ...", g=groups)


def by_output(weight: Tensor, groups: int) -> Tensor:
    """The inverse of ``by_plane``."""
    if groups == 1:
        return weight.transpose(0, 1)
    return rearrange(weight, "(g p) o ... -> (g o) p ...", g=groups)
