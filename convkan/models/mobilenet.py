"""Residual stacks of depthwise-separable units: what small networks make the most of their parameters with.

Source: Howard et al., "MobileNets" (arXiv 1704.04861), for convolving each channel for itself and mixing channels
pointwise; He et al., "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027), for the order and the shortcut.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from convkan.models.blocks import PooledClassifier, Units, channels_at, check_depths
from convkan.models.options import register_pair


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


register_pair("mobilenet", MobileNet)
