"""The geometry of a convolution: edges are summed over the taps of a kernel and the channels of a group."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from convkan.ops.geometry import Geometry, Sizes


@dataclass(frozen=True)
class Convolution(Geometry):
    """y[n,o,p] = Σ_{c in group} Σ_tap φ[o,c,tap](x̃[n,c, p·stride + tap·dilation]), x̃ = x padded with zeros.

    Attributes:
        stride: Step of the output positions, one entry a spatial dimension.
        padding: Zeros put around the input in the order of ``torch.nn.functional.pad``: (before, after) of the last
            dimension first.
        dilation: Distance of taps.
        groups: Number of channel groups.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def contract(self, features: Float[Tensor, "batch *space groups features channels"], *weights: Tensor) -> Tensor:
        """One grouped convolution over all planes."""
        (weight,) = weights
        zeros = (0,) * len(self.stride)
        planes = features.to(weight.dtype).flatten(-3).movedim(-1, 1)
        return torch.convolution(planes, weight, None, self.stride, zeros, self.dilation, False, zeros, self.groups)

    def contract_backward(
        self, grad: Tensor, features: Tensor, weights: Sequence[Tensor], need_features: bool, need_weight: bool
    ) -> tuple[Tensor | None, tuple[Tensor, ...] | None]:
        """The backward pass of that convolution."""
        (weight,) = weights
        zeros = (0,) * len(self.stride)
        planes = features.to(weight.dtype).flatten(-3).movedim(-1, 1)
        options = (None, self.stride, zeros, self.dilation, False, zeros, self.groups)
        grad_planes, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, planes, weight, *options, [need_features, need_weight, False]
        )
        grad_features = grad_planes.movedim(1, -1).reshape(features.shape) if need_features else None
        return grad_features, (grad_weight,) if need_weight else None

    def positions(self, space: Sizes, kernel_size: Sizes) -> tuple[int, ...]:
        """Those at which all taps lie on the padded input."""
        steps = zip(space, kernel_size, self.stride, self.dilation, strict=True)
        return tuple((size - d * (k - 1) - 1) // s + 1 for size, k, s, d in steps)

    def window(self, tap: Sizes, kernel_size: Sizes, space: Sizes) -> tuple[slice, ...]:
        """Every stride-th pixel, from the tap's own on."""
        steps = zip(tap, self.positions(space, kernel_size), self.stride, self.dilation, strict=True)
        return tuple(slice(t * d, t * d + (count - 1) * s + 1, s) for t, count, s, d in steps)

    def patch(self, location: Sizes, kernel_size: Sizes) -> tuple[slice, ...]:
        """Every dilation-th pixel, from the position's first on."""
        steps = zip(location, kernel_size, self.stride, self.dilation, strict=True)
        return tuple(slice(p * s, p * s + (k - 1) * d + 1, d) for p, k, s, d in steps)

    def rows_seen(self, start: int, stop: int, kernel_size: Sizes) -> slice:
        """From the first tap at ``start`` to the last before ``stop``."""
        return slice(start * self.stride[0], (stop - 1) * self.stride[0] + self.dilation[0] * (kernel_size[0] - 1) + 1)

    def patches(
        self, x: Float[Tensor, "batch channels *space"], kernel_size: Sizes
    ) -> Float[Tensor, "batch *positions taps channels"]:
        """What each tap of each output position sees, taps in the order of the weight's."""
        patches = F.pad(x, self.padding)
        steps = zip(kernel_size, self.stride, self.dilation, strict=True)
        for dimension, (size, stride, dilation) in enumerate(steps, start=2):
            patches = patches.unfold(dimension, dilation * (size - 1) + 1, stride)[..., ::dilation]
        return patches.flatten(-len(kernel_size)).movedim(1, -1)


class Planar(Convolution):
    """``Convolution`` of one group whose inputs, features and outputs lie plane by plane in memory.

    Where weights are larger than the cache, a convolution runs faster so, most of all backward; of smaller ones it runs
    faster with channels last.
    """

    def pixels(self, x: Tensor) -> Float[Tensor, "batch *space 1 channels"]:
        """The padded input, of which channels are last by name alone."""
        return self.pad(x).contiguous().movedim(1, -1).unsqueeze(-2)

    def empty(self, like: Tensor, shape: Sizes) -> Tensor:
        """Memory for an input or output of that shape."""
        return like.new_empty(tuple(shape))
