"""Networks that are a stack of parts with max-pooling between stages and global average pooling at the end."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from convkan.models.blocks import Units, channels_at, check_input


class PooledClassifier(nn.Module):
    """Features of every pixel, their mean, and a head.

    Args:
        features: From images (batch, in_channels, height, width) to (batch, features, smaller height, smaller width).
        head: From (batch, features) to (batch, num_classes).
        dropout: Probability of dropping a feature before the head.
        smallest_side: Smallest height and width of an image that ``features`` takes.

    Shape:
        (batch, in_channels, height, width) → (batch, num_classes).
    """

    def __init__(self, features: nn.Module, head: nn.Module, dropout: float, smallest_side: int) -> None:
        super().__init__()
        self.features, self.dropout, self.head = features, nn.Dropout(dropout), head
        self.smallest_side = smallest_side

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        check_input(x, self.smallest_side)
        return self.head(self.dropout(self.features(x).mean(dim=(2, 3))))


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
        super().__init__(
            nn.Sequential(*layers, *units.activated(before)),
            units.classifier(before * units.functions, num_classes),
            dropout,
            smallest_side=2 ** (len(depths) - 1),
        )
