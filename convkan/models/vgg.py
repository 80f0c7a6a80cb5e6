"""Plain stacks of convolutions with max-pooling between stages, and the same of KAN units.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks" (arXiv 1409.1556), for the pattern; normalisation,
global average pooling and a single head are later custom.
"""

from collections.abc import Sequence

from convkan.models.blocks import Units
from convkan.models.pairs import register_pair
from convkan.models.stack import Stack, check_depths


def vgg(units: Units, depths: Sequence[int], width: float, in_channels: int, num_classes: int, dropout: float) -> Stack:
    """A stack of units; the plain convolution it begins with counts as the first of its first stage."""
    check_depths(depths)
    return Stack(units.unit, units, (depths[0] - 1, *depths[1:]), width, in_channels, num_classes, dropout)


register_pair("vgg", vgg)
