"""Residual stacks of depthwise-separable units: what small networks make the most of their parameters with.

Source: Howard et al., "MobileNets" (arXiv 1704.04861), for convolving each channel for itself and mixing channels
pointwise; He et al., "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027), for the order and the shortcut.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from convkan.basis import Basis
from convkan.models.blocks import (
    Head,
    Normalization,
    PooledClassifier,
    Units,
    basis_of,
    channels_at,
    check_depths,
)
from convkan.models.registry import register_model


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


class MobileNet(PooledClassifier):
    """A plain 3×3 convolution, stages of separable units divided by 2×2 max-pooling, global average pooling and a head.

    Units that keep the number of channels are residual.

    Args:
        units: How the convolutions are made.
        depths: Units of each stage.
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
            channels = channels_at(width, stage)
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                unit = units.separable(before, channels)
                layers.append(Residual(unit) if before == channels else unit)
                before = channels
        super().__init__(
            nn.Sequential(*layers, *units.activated(before)),
            units.classifier(before, num_classes),
            dropout,
            smallest_side=2 ** (len(depths) - 1),
        )


@register_model("kan_mobilenet", twin="mobilenet", learning_rate=1e-2)
def kan_mobilenet(
    num_classes: int = 10,
    in_channels: int = 1,
    width: float = 24.0,
    depths: Sequence[int] = (1, 2, 3),
    kind: Literal["lowrank", "full"] = "lowrank",
    rank: int = 1,
    basis: Basis | str = "bspline",
    grid_size: int | None = None,
    grid_range: Sequence[float] | None = None,
    base_activation: str | None = "silu",
    normalization: Normalization = "batch",
    head: Head = "linear",
    unit_dropout: float = 0.0,
    dropout: float = 0.0,
) -> MobileNet:
    """Separable KAN units; see ``convkan.models.blocks.Units`` for their options.

    Args:
        num_classes: Size of the output.
        in_channels: Channels of the input.
        width: Channels of the first stage; each later one has twice as many, rounded.
        depths: Units of each stage.
        kind: Whether the functions of spatial convolutions belong to channels, "lowrank", or to edges, "full".
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
    return MobileNet(units, depths, width, in_channels, num_classes, dropout)


@register_model("mobilenet", twin="mobilenet", learning_rate=1e-2)
def mobilenet(
    num_classes: int = 10,
    in_channels: int = 1,
    width: float = 24.0,
    depths: Sequence[int] = (1, 2, 3),
    activation: str = "relu",
    normalization: Normalization = "batch",
    unit_dropout: float = 0.0,
    dropout: float = 0.0,
) -> MobileNet:
    """The plain network of ``kan_mobilenet``'s topology."""
    units = Units("plain", normalization=normalization, activation=activation, dropout=unit_dropout)
    return MobileNet(units, depths, width, in_channels, num_classes, dropout)
