"""Plain stacks of convolutions with max-pooling between stages, and the same of KAN units.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks" (arXiv 1409.1556), for the pattern; normalisation,
global average pooling and a single head are later custom.
"""

from collections.abc import Sequence

from torch import nn

from convkan.models.blocks import PooledClassifier, Units, channels_at, check_depths
from convkan.models.options import register_pair


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


register_pair("vgg", VGG)
