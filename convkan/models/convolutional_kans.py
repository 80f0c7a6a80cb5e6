"""The models with which KAN convolutions were introduced, and the plain CNNs they were held against.

Two 3×3 convolutions without padding, each followed by 2×2 max-pooling, and a head. KAN convolutions have no bias and
no activation after them; plain ones have both. Source: Bodner et al., "Convolutional Kolmogorov-Arnold Networks"
(arXiv 2406.13155), sec. 5; the splines carry no separate scaler here, which saves one parameter an edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from convkan.basis import BSpline
from convkan.models.registry import register_model
from convkan.nn import KANConv2d, KANLayer, KANLinear
from convkan.nn.conv import per_dimension

KERNEL = 3
POOL = 2

# Nothing normalises activations between these layers, and their grids end at 1. Starting at a third of unit scale,
# three standard deviations lie on the grid; from unit scale a third would start off it, and training is slower.
INITIAL_SCALE = 1 / 3


@dataclass(frozen=True)
class Design:
    """One row of the family.

    Attributes:
        widths: Output channels of the two convolutions.
        hidden: Sizes of hidden layers in a linear head.
        kan_convolutions: KAN convolutions instead of plain ones with ReLU.
        kan_head: A KAN layer as the head instead of linear layers.
        batch_norm: Batch normalisation after each convolution.
        twin: Name of the plain CNN; None for a plain CNN.
    """

    widths: tuple[int, int]
    hidden: tuple[int, ...] = ()
    kan_convolutions: bool = False
    kan_head: bool = False
    batch_norm: bool = False
    twin: str | None = None


DESIGNS = {
    "kanc_mlp_small": Design((5, 5), kan_convolutions=True, twin="cnn_small"),
    "kanc_mlp_medium": Design((5, 10), kan_convolutions=True, twin="cnn_medium"),
    "kanc_mlp_big": Design((5, 10), (100,), kan_convolutions=True, twin="cnn_big"),
    "kkan_small": Design((5, 5), kan_convolutions=True, kan_head=True, twin="cnn_small"),
    "kkan_medium": Design((5, 10), kan_convolutions=True, kan_head=True, twin="cnn_medium"),
    "conv_kan_small": Design((5, 5), kan_head=True, twin="cnn_small"),
    "conv_kan_medium": Design((5, 10), kan_head=True, twin="cnn_medium"),
    "ckan_bn": Design((5, 25), (256,), kan_convolutions=True, batch_norm=True, twin="cnn_bn"),
    "cnn_small": Design((5, 5)),
    "cnn_medium": Design((5, 10)),
    "cnn_more_convs": Design((10, 20)),
    "cnn_big": Design((5, 10), (100,)),
    "cnn_bn": Design((5, 25), (256,), batch_norm=True),
}


def build_kan(
    design: Design,
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    grid_size: int = 10,
    image_size: int | Sequence[int] = 28,
) -> nn.Sequential:
    """The model of a row for images of ``image_size`` (one side, or height and width; at least 10).

    The splines of convolutions lie on [−1, 1], those of the head on [0, 1].
    """
    layers: list[nn.Module] = []
    for before, after in pairwise([in_channels, *design.widths]):
        if design.kan_convolutions:
            layers.append(_on_grid(KANConv2d(before, after, KERNEL, basis=BSpline(grid_size))))
        else:
            layers.append(nn.Conv2d(before, after, KERNEL))
        if design.batch_norm:
            layers.append(nn.BatchNorm2d(after))
        if not design.kan_convolutions:
            layers.append(nn.ReLU())
        layers.append(nn.MaxPool2d(POOL))
    layers.append(nn.Flatten())

    sizes = [_flat_size(image_size, design.widths[-1]), *design.hidden, num_classes]
    if design.kan_head:
        layers.append(_on_grid(KANLinear(sizes[0], num_classes, basis=BSpline(grid_size, grid_range=(0.0, 1.0)))))
        return nn.Sequential(*layers)
    for before, after in pairwise(sizes[:-1]):
        layers.append(nn.Linear(before, after))
        if not design.kan_convolutions:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(sizes[-2], num_classes))


def build_plain(
    design: Design, *, num_classes: int = 10, in_channels: int = 1, image_size: int | Sequence[int] = 28
) -> nn.Sequential:
    """The plain CNN of a row; it has no grid."""
    return build_kan(design, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


@torch.no_grad()
def _on_grid(layer: KANLayer) -> KANLayer:
    """``layer`` with its initial weights scaled down, so that the next layer's inputs start on its grid."""
    for parameter in layer.parameters():
        parameter.mul_(INITIAL_SCALE)
    return layer


def _flat_size(image_size: int | Sequence[int], channels: int) -> int:
    """Features left of an image after both convolutions and poolings."""
    sides = list(per_dimension("image_size", image_size, 2, 1))
    for _ in range(2):
        sides = [(side - KERNEL + 1) // POOL for side in sides]
    if min(sides) < 1:
        raise ValueError(f"image_size must be at least 10 on each side, got {image_size!r}")
    return channels * sides[0] * sides[1]


for _name, _design in DESIGNS.items():
    _build = build_plain if _design.twin is None else build_kan
    register_model(_name, twin=_design.twin or _name, learning_rate=2e-3)(partial(_build, _design))
