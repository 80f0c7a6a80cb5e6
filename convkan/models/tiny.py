"""Networks of very few parameters: gated pointwise convolutions around depthwise ones of several kernel sizes.

Source: Howard et al., "MobileNets" (arXiv 1704.04861), and Tan and Le, "MixConv: mixed depthwise convolutional kernels"
(arXiv 1907.09595), for the convolutions; the gate is that of gated linear units, Dauphin et al. (arXiv 1612.08083).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convkan.models.blocks import Units
from convkan.models.mobilenet import Residual
from convkan.models.pairs import register_pair
from convkan.models.stack import Stack, check_depths

KERNEL_SIZES = (3, 5, 7)
EXPANSION = 2  # channels within a part, as a multiple of those before it


class MixedDepthwise(nn.Module):
    """Each channel convolved for itself, a third of them with each kernel size.

    Args:
        channels: Channels of the input; with fewer than three, the smaller kernels alone are used.
        kernel_sizes: Odd sizes.

    Shape:
        (batch, channels, height, width) → the same.
    """

    def __init__(self, channels: int, kernel_sizes: Sequence[int] = KERNEL_SIZES) -> None:
        super().__init__()
        count = min(channels, len(kernel_sizes))
        self.sizes = [channels // count + (index < channels % count) for index in range(count)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(size, size, kernel, padding=kernel // 2, groups=size, bias=False)
            for size, kernel in zip(self.sizes, kernel_sizes, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the groups."""
        parts = x.split(self.sizes, 1)
        return torch.cat([convolution(parts[index]) for index, convolution in enumerate(self.convolutions)], 1)


def tiny(
    units: Units, depths: Sequence[int], width: float, in_channels: int, num_classes: int, dropout: float
) -> Stack:
    """A stack of parts: pointwise to twice the channels, gated activation, mixed depthwise, pointwise; residual."""

    def part(before: int, after: int) -> nn.Module:
        inner = EXPANSION * before
        body = nn.Sequential(
            nn.Conv2d(before, inner, 1, bias=False),
            *units.activated(inner),
            MixedDepthwise(inner * units.functions),
            nn.BatchNorm2d(inner * units.functions),
            nn.Conv2d(inner * units.functions, after, 1, bias=False),
        )
        return Residual(body) if before == after else body

    check_depths(depths)
    return Stack(part, units, depths, width, in_channels, num_classes, dropout)


register_pair("tiny", tiny, gate=True)
