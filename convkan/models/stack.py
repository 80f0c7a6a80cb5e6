"""Networks that are a stack of parts with max-pooling between stages and global average pooling at the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from convkan.models.blocks import Units, channels_at, check_input


@dataclass(frozen=True)
class Stage:
    """What of a network works at one resolution, for those who want its features.

    Attributes:
        modules: Names of the modules, in the order in which they are called: ``network.get_submodule`` has them.
        channels: Of its output.
        reduction: How many times lower the output is than the image, and narrower.
    """

    modules: tuple[str, ...]
    channels: int
    reduction: int


class PooledClassifier(nn.Module):
    """Features of every pixel, their mean, and a head.

    Args:
        features: From images (batch, in_channels, height, width) to (batch, features, smaller height, smaller width).
        head: From (batch, features) to (batch, num_classes).
        dropout: Probability of dropping a feature before the head.
        widths: Channels that each stage of ``features`` ends with; all but the first begin with pooling.

    Shape:
        (batch, in_channels, height, width) → (batch, num_classes).
    """

    def __init__(self, features: nn.Sequential, head: nn.Module, dropout: float, widths: Sequence[int]) -> None:
        super().__init__()
        self.features, self.dropout, self.head = features, nn.Dropout(dropout), head
        self.widths = tuple(widths)
        self.smallest_side = 2 ** (len(self.widths) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        check_input(x, self.smallest_side)
        return self.head(self.dropout(self.features(x).mean(dim=(2, 3))))

    def stages(self) -> list[Stage]:
        """The parts of ``features`` that work at one resolution."""
        modules: list[list[str]] = [[]]
        for name, module in self.features.named_children():
            if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
                modules.append([])
            modules[-1].append(f"features.{name}")
        return [
            Stage(tuple(names), width, 2**index)
            for index, (names, width) in enumerate(zip(modules, self.widths, strict=True))
        ]


def check_depths(depths: Sequence[int]) -> None:
    """Raise unless ``depths`` are the numbers of units of at least one stage."""
    if not depths or not all(isinstance(depth, int) and depth > 0 for depth in depths):
        raise ValueError(f"depths must be positive integers, one a stage, got {depths!r}")


class Stack(PooledClassifier):
    """A plain 3×3 convolution, stages of parts divided by 2×2 max-pooling, global average pooling and a head.

    Args:
        part: Makes a part from channels in and out.
        units: How activations and the head are made.
        depths: Parts of each stage.
        width: Channels of the first stage; each later one has twice as many, rounded.
        in_channels: Channels of the input.
        num_classes: Size of the output.
        dropout: Probability of dropping a feature before the head.

    Shape:
        (batch, in_channels, height, width) → (batch, num_classes), for images of any size the stages can halve.
    """

    def __init__(
        self,
        part: Callable[[int, int], nn.Module],
        units: Units,
        depths: Sequence[int],
        width: float,
        in_channels: int,
        num_classes: int,
        dropout: float,
    ) -> None:
        before = channels_at(width, 0)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, before, 3, padding=1, bias=False)]
        for stage, depth in enumerate(depths):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers.append(part(before, channels_at(width, stage)))
                before = channels_at(width, stage)
        out = before * units.functions
        super().__init__(
            nn.Sequential(*layers, *units.activated(before)),
            units.classifier(out, num_classes),
            dropout,
            [*(channels_at(width, stage) for stage in range(len(depths) - 1)), out],
        )
