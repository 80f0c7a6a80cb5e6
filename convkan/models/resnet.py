"""Residual networks for small images, plain and with KAN convolutions.

Source: He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), sec. 4.2, for the sizes (6n + 2
layers, widths w, 2w, 4w), and "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027) for the order within a
block: normalise, activate, convolve.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from convkan.basis import Basis
from convkan.models.blocks import Head, Kind, Normalization, Units, basis_of, channels_at, check_input
from convkan.models.registry import register_model

DEPTHS = (8, 14, 20, 32)
NUM_STAGES = 3


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
    """A plain 3×3 convolution, three stages of residual blocks, global average pooling and a head.

    Args:
        units: How the convolutions within blocks are made.
        depth: Layers with weights, 6n + 2 for n blocks a stage.
        width: Channels of the first stage; each later one has twice as many, rounded.
        in_channels: Channels of the input.
        num_classes: Size of the output.
        dropout: Probability of dropping a feature before the head.

    Shape:
        (batch, in_channels, height, width) → (batch, num_classes), for images of any size.
    """

    def __init__(
        self, units: Units, depth: int, width: float, in_channels: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        before = channels_at(width, 0)
        self.stem = nn.Conv2d(in_channels, before, 3, padding=1, bias=False)
        for stage in range(NUM_STAGES):
            channels = channels_at(width, stage)
            for index in range((depth - 2) // 6):
                blocks.append(ResidualBlock(units, before, channels, 2 if stage and not index else 1))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.tail = nn.Sequential(*units.activated(before))
        self.dropout = nn.Dropout(dropout)
        self.head = units.classifier(before * units.functions, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        check_input(x, 1)
        return self.head(self.dropout(self.tail(self.blocks(self.stem(x))).mean(dim=(2, 3))))


def kan_resnet(
    depth: int,
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    width: float = 16.0,
    kind: Kind = "lowrank",
    rank: int = 1,
    basis: Basis | str = "bspline",
    grid_size: int | None = None,
    grid_range: Sequence[float] | None = None,
    base_activation: str | None = "silu",
    normalization: Normalization = "batch",
    head: Head = "linear",
    unit_dropout: float = 0.0,
    dropout: float = 0.0,
) -> ResNet:
    """A residual network of KAN units; see ``convkan.models.blocks.Units`` for its options.

    Args:
        depth: 6n + 2.
        num_classes: Size of the output.
        in_channels: Channels of the input.
        width: Channels of the first stage.
        kind: What the convolutions are.
        rank: Functions a channel.
        basis: The univariate basis, or its name.
        grid_size: Intervals of the grid, for "bspline"; 5 by default.
        grid_range: Ends of the grid, for "bspline"; three standard deviations by default.
        base_activation: Name of the fixed part of each function, or None.
        normalization: What keeps inputs on the grid.
        head: "linear" or "kan".
        unit_dropout: Probability of dropping a channel before a unit.
        dropout: Probability of dropping a feature before the head.
    """
    units = Units(
        kind,
        rank,
        basis_of(basis, grid_size, grid_range),
        base_activation,
        normalization=normalization,
        dropout=unit_dropout,
        head=head,
    )
    return ResNet(units, depth, width, in_channels, num_classes, dropout)


def plain_resnet(
    depth: int,
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    width: float = 16.0,
    activation: str = "relu",
    normalization: Normalization = "batch",
    unit_dropout: float = 0.0,
    dropout: float = 0.0,
) -> ResNet:
    """The plain network of ``kan_resnet``'s topology."""
    units = Units("plain", normalization=normalization, activation=activation, dropout=unit_dropout)
    return ResNet(units, depth, width, in_channels, num_classes, dropout)


for _depth in DEPTHS:
    register_model(f"kan_resnet{_depth}", twin=f"resnet{_depth}", learning_rate=1e-2)(partial(kan_resnet, _depth))
    register_model(f"resnet{_depth}", twin=f"resnet{_depth}", learning_rate=1e-2)(partial(plain_resnet, _depth))
