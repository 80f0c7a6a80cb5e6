"""U-Nets for segmentation, plain and with KAN convolutions: a class for every pixel.

Source: Ronneberger et al., "U-Net" (arXiv 1505.04597), fig. 1, for the topology; normalisation, and convolutions that
keep the size of an image, are later custom. Within a unit the order is that of the residual networks: normalise,
activate, convolve.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convkan.models.blocks import Units, channels_at, check_input
from convkan.models.pairs import register_pair
from convkan.models.stack import check_depths


class Upsampling(nn.Module):
    """A transposed convolution of stride 2, to the size of what was there before the pooling.

    Shape:
        (batch, in_channels, height, width) → (batch, out_channels, *size), with ``size`` twice as large or one more.
    """

    def __init__(self, units: Units, in_channels: int, out_channels: int) -> None:
        super().__init__()
        *before, self.convolution = units.upsampled(in_channels, out_channels)
        self.before = nn.Sequential(*before)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """``x`` made that large."""
        larger: Tensor = self.convolution(self.before(x), output_size=size)
        return larger


class UNet(nn.Module):
    """Stages of units with max-pooling between them, and back up, each stage beside what it was on the way down.

    Args:
        units: How convolutions and the head are made.
        depths: Units of each stage, both ways.
        width: Channels of the first stage; each later one has twice as many, rounded.
        in_channels: Channels of the input.
        num_classes: Classes of a pixel.
        dropout: Probability of dropping a channel before the head.

    Shape:
        (batch, in_channels, height, width) → (batch, num_classes, height, width), for images of any size that the
        stages can halve.
    """

    def __init__(
        self, units: Units, depths: Sequence[int], width: float, in_channels: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        check_depths(depths)
        channels = [channels_at(width, stage) for stage in range(len(depths))]
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList()
        self.up, self.joined = nn.ModuleList(), nn.ModuleList()
        for before, after, depth in zip([channels[0], *channels], channels, depths, strict=False):
            self.down.append(_stage(units, before, after, depth))
        for stage in reversed(range(len(depths) - 1)):
            self.up.append(Upsampling(units, channels[stage + 1], channels[stage]))
            self.joined.append(_stage(units, 2 * channels[stage], channels[stage], depths[stage]))
        self.pool = nn.MaxPool2d(2)
        self.tail = nn.Sequential(*units.activated(channels[0]))
        self.dropout = nn.Dropout2d(dropout)
        self.head = units.pixel_classifier(channels[0] * units.functions, num_classes)
        self.smallest_side = 2 ** (len(depths) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every pixel of a batch of images."""
        check_input(x, self.smallest_side)
        x, skipped = self.stem(x), []
        for stage, down in enumerate(self.down):
            x = down(self.pool(x) if stage else x)
            skipped.append(x)
        skipped.pop()
        for up, joined in zip(self.up, self.joined, strict=True):
            beside = skipped.pop()
            x = joined(torch.cat([beside, up(x, beside.shape[2:])], dim=1))
        return self.head(self.dropout(self.tail(x)))


def _stage(units: Units, before: int, after: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(units.unit(after if index else before, after) for index in range(depth)))


register_pair("unet", UNet, task="segmentation")
