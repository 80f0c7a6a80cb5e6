"""Residual networks for small images, plain and with KAN convolutions.

Source: He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), sec. 4.2, for the sizes (6n + 2
layers, widths w, 2w, 4w), and "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027) for the order within a
block: normalise, activate, convolve.
"""

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor, nn

from convkan.models.blocks import Units, channels_at, check_input
from convkan.models.pairs import register_pair
from convkan.models.stack import Stage, check_depths

DEPTHS = (8, 14, 20, 32)
NUM_STAGES = 3  # of blocks with two layers each; the stem and the head are layers too


class ResidualBlock(nn.Module):
    """x + unit(unit(x)); where sizes change, x is averaged over 2×2 pixels and mixed by a pointwise convolution.

    Shape:
        (batch, in_channels, height, width) → (batch, out_channels, height/stride, width/stride), rounded up.
    """

    def __init__(self, units: Units, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.units = nn.Sequential(
            units.unit(in_channels, out_channels, stride=stride), units.unit(out_channels, out_channels)
        )
        shortcut: list[nn.Module] = []
        if stride > 1:
            shortcut.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        if in_channels != out_channels:
            shortcut.append(nn.Conv2d(in_channels, out_channels, 1, bias=False))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """The input and what the units add to it."""
        return self.shortcut(x) + self.units(x)


class ResNet(nn.Module):
    """A plain 3×3 convolution, stages of residual blocks, global average pooling and a head.

    Args:
        units: How the convolutions within blocks are made.
        depths: Blocks of each stage.
        width: Channels of the first stage; each later one has twice as many, rounded.
        in_channels: Channels of the input.
        num_classes: Size of the output.
        dropout: Probability of dropping a feature before the head.

    Shape:
        (batch, in_channels, height, width) → (batch, num_classes), for images of any size.
    """

    def __init__(
        self, units: Units, depths: Sequence[int], width: float, in_channels: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        check_depths(depths)
        self.depths = tuple(depths)
        self.widths = tuple(channels_at(width, stage) for stage in range(len(depths)))
        blocks: list[nn.Module] = []
        before = self.widths[0]
        self.stem = nn.Conv2d(in_channels, before, 3, padding=1, bias=False)
        for stage, (depth, channels) in enumerate(zip(self.depths, self.widths, strict=True)):
            for index in range(depth):
                blocks.append(ResidualBlock(units, before, channels, 2 if stage and not index else 1))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.tail = nn.Sequential(*units.activated(before))
        self.dropout = nn.Dropout(dropout)
        self.num_features = before * units.functions
        self.head = units.classifier(self.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        check_input(x, 1)
        return self.head(self.dropout(self.tail(self.blocks(self.stem(x))).mean(dim=(2, 3))))

    def stages(self) -> list[Stage]:
        """The parts that work at one resolution; the stem belongs to the first, the tail to the last."""
        ends = list(accumulate(self.depths))
        modules = [
            [f"blocks.{index}" for index in range(end - depth, end)]
            for depth, end in zip(self.depths, ends, strict=True)
        ]
        modules[0].insert(0, "stem")
        modules[-1].append("tail")
        channels = [*self.widths[:-1], self.num_features]
        return [
            Stage(tuple(names), width, 2**index)
            for index, (names, width) in enumerate(zip(modules, channels, strict=True))
        ]


for _layers in DEPTHS:
    register_pair(f"resnet{_layers}", ResNet, depths=((_layers - 2) // (2 * NUM_STAGES),) * NUM_STAGES)
