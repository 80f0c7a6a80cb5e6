"""Residual stacks of depthwise-separable units.

Source: Howard et al., "MobileNets" (arXiv 1704.04861), for convolving each channel for itself and mixing channels
pointwise; He et al., "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027), for the order and the shortcut.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from convkan.models.blocks import Units
from convkan.models.pairs import register_pair
from convkan.models.stack import Stack, check_depths


class Residual(nn.Module):
    """x + body(x).

    Shape:
        Any that ``body`` keeps.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """The input and what the body adds to it."""
        return x + self.body(x)


def mobilenet(
    units: Units, depths: Sequence[int], width: float, in_channels: int, num_classes: int, dropout: float
) -> Stack:
    """A stack of separable units, residual where they keep the number of channels."""

    def part(before: int, after: int) -> nn.Module:
        unit = units.separable(before, after)
        return Residual(unit) if before == after else unit

    check_depths(depths)
    return Stack(part, units, depths, width, in_channels, num_classes, dropout)


register_pair("mobilenet", mobilenet)
