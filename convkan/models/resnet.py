"""Residual networks, plain and with KAN convolutions: those for small images, and those for images of ImageNet's size.

Source: He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), for the sizes: sec. 4.2 (6n + 2
layers, widths w, 2w, 4w) and table 1 (18 and 34 layers, a stem that divides sides by 4, widths w to 8w); and "Identity
Mappings in Deep Residual Networks" (arXiv 1603.05027) for the order within a block: normalise, activate, convolve.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

from torch import Tensor, nn

from convkan.models.blocks import Units, channels_at, check_input
from convkan.models.pairs import register_pair
from convkan.models.stack import Stage, check_depths

DEPTHS = (8, 14, 20, 32)
NUM_STAGES = 3  # of blocks with two layers each; the stem and the head are layers too
LARGE_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
LARGE_WIDTH = 64.0


class ResidualBlock(nn.Module):
    """x + unit(unit(x)); where sizes change, x is averaged over 2×2 pixels and mixed by a pointwise convolution.

    Args:
        units: How the convolutions are made.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: How many times lower and narrower the output is.
        normalized: Normalise what is mixed.

    Shape:
        (batch, in_channels, height, width) → (batch, out_channels, height/stride, width/stride), rounded up.
    """

    def __init__(
        self, units: Units, in_channels: int, out_channels: int, stride: int, normalized: bool = False
    ) -> None:
        super().__init__()
        self.units = nn.Sequential(
            units.unit(in_channels, out_channels, stride=stride), units.unit(out_channels, out_channels)
        )
        shortcut: list[nn.Module] = []
        if stride > 1:
            shortcut.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        if in_channels != out_channels:
            shortcut.append(nn.Conv2d(in_channels, out_channels, 1, bias=False))
            if normalized:
                shortcut.append(units.normalized(out_channels))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """The input and what the units add to it."""
        return self.shortcut(x) + self.units(x)


class ResNet(nn.Module):
    """A plain convolution, stages of residual blocks, global average pooling and a head.

    Args:
        units: How the convolutions within blocks are made.
        depths: Blocks of each stage.
        width: Channels of the first stage; each later one has twice as many, rounded.
        in_channels: Channels of the input.
        num_classes: Size of the output.
        dropout: Probability of dropping a feature before the head.
        large: For images of about 224 pixels: a 7×7 convolution and max-pooling, which halve sides each, come first, in
            place of a 3×3 convolution, and shortcuts are normalised where they are convolved. A plain network has as
            many parameters as the original, which normalises behind its convolutions.

    Shape:
        (batch, in_channels, height, width) → (batch, num_classes), for images of any size.
    """

    def __init__(
        self,
        units: Units,
        depths: Sequence[int],
        width: float,
        in_channels: int,
        num_classes: int,
        dropout: float,
        large: bool = False,
    ) -> None:
        super().__init__()
        check_depths(depths)
        self.depths = tuple(depths)
        self.widths = tuple(channels_at(width, stage) for stage in range(len(depths)))
        blocks: list[nn.Module] = []
        before = self.widths[0]
        self.large = large
        self.stem = nn.Conv2d(in_channels, before, *((7, 2, 3) if large else (3, 1, 1)), bias=False)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        for stage, (depth, channels) in enumerate(zip(self.depths, self.widths, strict=True)):
            for index in range(depth):
                blocks.append(ResidualBlock(units, before, channels, 2 if stage and not index else 1, large))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.tail = nn.Sequential(*units.activated(before))
        self.dropout = nn.Dropout(dropout)
        self.num_features = before * units.functions
        self.head = units.classifier(self.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        check_input(x, 1)
        return self.head(self.dropout(self.tail(self.blocks(self.pool(self.stem(x)))).mean(dim=(2, 3))))

    def stages(self) -> list[Stage]:
        """The parts that work at one resolution; the last has the tail, the first of a small network the stem."""
        ends = list(accumulate(self.depths))
        modules = [
            [f"blocks.{index}" for index in range(end - depth, end)]
            for depth, end in zip(self.depths, ends, strict=True)
        ]
        modules[0].insert(0, "pool" if self.large else "stem")
        modules[-1].append("tail")
        channels = [*self.widths[:-1], self.num_features]
        first = [Stage(("stem",), self.widths[0], 2)] if self.large else []
        return first + [
            Stage(tuple(names), width, 2**index)
            for index, (names, width) in enumerate(zip(modules, channels, strict=True), 2 if self.large else 0)
        ]


for _layers in DEPTHS:
    register_pair(f"resnet{_layers}", ResNet, depths=((_layers - 2) // (2 * NUM_STAGES),) * NUM_STAGES)
for _layers, _depths in LARGE_DEPTHS.items():
    register_pair(f"resnet{_layers}", partial(ResNet, large=True), width=LARGE_WIDTH, depths=_depths)
