"""Densely connected networks with bottlenecks and compression, and the same of KAN units.

Source: Huang et al., "Densely Connected Convolutional Networks" (arXiv 1608.06993), sec. 3: DenseNet-BC. With
``depths=[16, 16, 16], width=12`` it is DenseNet-BC (k = 12, L = 100).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convkan.models.blocks import Units, channels_at
from convkan.models.pairs import register_pair
from convkan.models.stack import PooledClassifier, check_depths

BOTTLENECK = 4  # channels between the two convolutions of a layer, as a multiple of the growth
COMPRESSION = 2  # how many times fewer channels a stage hands on


class DenseLayer(nn.Module):
    """x beside what a pointwise and a 3×3 unit make of it.

    Shape:
        (batch, in_channels, height, width) → (batch, in_channels + growth, height, width).
    """

    def __init__(self, units: Units, in_channels: int, growth: int) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.units = nn.Sequential(units.unit(in_channels, inner, 1), units.unit(inner, growth))

    def forward(self, x: Tensor) -> Tensor:
        """The input, and the new channels behind it."""
        return torch.cat([x, self.units(x)], 1)


def densenet(
    units: Units, depths: Sequence[int], width: float, in_channels: int, num_classes: int, dropout: float
) -> PooledClassifier:
    """A convolution to twice ``width`` channels, and stages of dense layers, each of which adds ``width``."""
    check_depths(depths)
    growth = channels_at(width, 0)
    channels = channels_at(width, 1)
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)]
    widths = []
    for stage, depth in enumerate(depths):
        if stage:
            layers += [units.unit(channels, channels // COMPRESSION, 1), nn.AvgPool2d(2)]
            channels //= COMPRESSION
            widths.append(channels)
        for _ in range(depth):
            layers.append(DenseLayer(units, channels, growth))
            channels += growth
    out = channels * units.functions
    features = nn.Sequential(*layers, *units.activated(channels))
    return PooledClassifier(features, units.classifier(out, num_classes), dropout, [*widths, out])


register_pair("densenet", densenet)
