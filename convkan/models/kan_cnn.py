"""A small modern classifier: normalised inputs to every KAN layer, global pooling, a KAN head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from convkan.basis import Basis
from convkan.models.blocks import Units, basis_of
from convkan.models.registry import register_model
from convkan.models.stack import PooledClassifier


@dataclass(frozen=True)
class Stages:
    """The topology that ``kan_cnn`` and its twin share.

    Each stage is two 3×3 convolutions; stages are divided by 2×2 max-pooling, and the last is pooled globally.

    Attributes:
        widths: Channels of each stage.
        dropout: Probability of dropping a channel before the head.
    """

    widths: tuple[int, ...]
    dropout: float

    def __post_init__(self) -> None:
        if not self.widths or not all(isinstance(w, int) and w > 0 for w in self.widths):
            raise ValueError(f"widths must be positive integers, one a stage, got {self.widths!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")


class ConvNet(PooledClassifier):
    """Convolutions in stages, global average pooling and a head.

    Args:
        stages: The topology.
        in_channels: Channels of the input.
        num_classes: Size of the output.
        convolution: Makes a 3×3 convolution, with what belongs around it, from channels in and out.
        head: Makes the head from features in and classes out.

    Shape:
        (batch, in_channels, height, width) → (batch, num_classes), for images of any size the stages can halve.
    """

    def __init__(
        self,
        stages: Stages,
        in_channels: int,
        num_classes: int,
        convolution: Callable[[int, int], nn.Module],
        head: Callable[[int, int], nn.Module],
    ) -> None:
        layers: list[nn.Module] = []
        before = in_channels
        for index, width in enumerate(stages.widths):
            if index > 0:
                layers.append(nn.MaxPool2d(2))
            layers += [convolution(before, width), convolution(width, width)]
            before = width
        super().__init__(nn.Sequential(*layers), head(before, num_classes), stages.dropout, stages.widths)


def _plain_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


@register_model("kan_cnn", twin="plain_cnn", learning_rate=1e-2)
def kan_cnn(
    num_classes: int = 10,
    in_channels: int = 1,
    widths: Sequence[int] = (8, 16, 32),
    rank: int | None = None,
    basis: Basis | str = "bspline",
    grid_size: int | None = None,
    dropout: float = 0.0,
) -> ConvNet:
    """A KAN classifier for images of 8×8 to 64×64 pixels and more.

    It is made of ``Units`` of kind "full" or "lowrank" (``blocks.py``): every KAN layer is given a batch-normalised
    input, so that it stays on a grid of three standard deviations.

    Args:
        num_classes: Size of the output.
        in_channels: Channels of the input.
        widths: Channels of each stage.
        rank: None for units of kind "full", a function on every edge; R for "lowrank", with R functions a channel.
        basis: The univariate basis, or its name.
        grid_size: Intervals of the grid, for B-splines given by name; 5 by default.
        dropout: Probability of dropping a feature before the head.

    Raises:
        ValueError: ``grid_size`` is given with another basis, which has sizes of its own.
    """
    stages = Stages(tuple(widths), dropout)
    functions = basis_of(basis, grid_size, None)
    units = (
        Units("full", basis=functions, head="kan") if rank is None else Units("lowrank", rank, functions, head="kan")
    )
    return ConvNet(stages, in_channels, num_classes, units.unit, units.classifier)


@register_model("plain_cnn", twin="plain_cnn", learning_rate=1e-2)
def plain_cnn(
    num_classes: int = 10,
    in_channels: int = 1,
    widths: Sequence[int] = (8, 16, 32),
    dropout: float = 0.0,
) -> ConvNet:
    """The plain CNN of ``kan_cnn``'s topology: convolution, batch normalisation, ReLU, and a linear head."""
    stages = Stages(tuple(widths), dropout)
    return ConvNet(stages, in_channels, num_classes, _plain_convolution, nn.Linear)
