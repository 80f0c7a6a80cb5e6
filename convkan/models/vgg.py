"""Plain stacks of convolutions with max-pooling between stages, and the same of KAN units.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks" (arXiv 1409.1556), for the pattern; normalisation,
global average pooling and a single head are later custom.
"""

from collections.abc import Sequence

from torch import nn

from convkan.basis import Basis
from convkan.models.blocks import (
    Head,
    Kind,
    Normalization,
    PooledClassifier,
    Units,
    basis_of,
    channels_at,
    check_depths,
)
from convkan.models.registry import register_model


class VGG(PooledClassifier):
    """A plain 3×3 convolution, stages of units divided by 2×2 max-pooling, global average pooling and a head.

    Args:
        units: How the convolutions are made.
        depths: Convolutions of each stage; the first of the first stage is plain.
        width: Channels of the first stage; each later one has twice as many, rounded.
        in_channels: Channels of the input.
        num_classes: Size of the output.
        dropout: Probability of dropping a feature before the head.

    Shape:
        (batch, in_channels, height, width) → (batch, num_classes), for images of any size the stages can halve.
    """

    def __init__(
        self, units: Units, depths: Sequence[int], width: float, in_channels: int, num_classes: int, dropout: float
    ) -> None:
        check_depths(depths)
        before = channels_at(width, 0)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, before, 3, padding=1, bias=False)]
        for stage, depth in enumerate(depths):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth if stage else depth - 1):
                layers.append(units.unit(before, channels_at(width, stage)))
                before = channels_at(width, stage)
        super().__init__(
            nn.Sequential(*layers, *units.activated(before)),
            units.classifier(before * units.functions, num_classes),
            dropout,
            smallest_side=2 ** (len(depths) - 1),
        )


@register_model("kan_vgg", twin="vgg", learning_rate=1e-2)
def kan_vgg(
    num_classes: int = 10,
    in_channels: int = 1,
    width: float = 16.0,
    depths: Sequence[int] = (2, 2, 2),
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
) -> VGG:
    """A stack of KAN units; see ``convkan.models.blocks.Units`` for its options.

    Args:
        num_classes: Size of the output.
        in_channels: Channels of the input.
        width: Channels of the first stage; each later one has twice as many, rounded.
        depths: Convolutions of each stage.
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
    return VGG(units, depths, width, in_channels, num_classes, dropout)


@register_model("vgg", twin="vgg", learning_rate=1e-2)
def vgg(
    num_classes: int = 10,
    in_channels: int = 1,
    width: float = 16.0,
    depths: Sequence[int] = (2, 2, 2),
    activation: str = "relu",
    normalization: Normalization = "batch",
    unit_dropout: float = 0.0,
    dropout: float = 0.0,
) -> VGG:
    """The plain network of ``kan_vgg``'s topology."""
    units = Units("plain", normalization=normalization, activation=activation, dropout=unit_dropout)
    return VGG(units, depths, width, in_channels, num_classes, dropout)
