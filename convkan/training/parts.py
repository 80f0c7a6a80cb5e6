"""What a data set is once it is read: labelled images in parts, and how one part is drawn from another."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Self

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from convkan.models.images import with_channels


class DataError(Exception):
    """A data set cannot be had; the message says why and what to do."""


class StoredPixels(ABC):
    """The pixels of images that are not in memory: those that are indexed are read, each time anew."""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """(count, channels, height, width)."""

    @abstractmethod
    def __getitem__(self, places: slice | Tensor) -> UInt8[Tensor, "some channels height width"]:
        """Read some images."""

    @abstractmethod
    def only(self, places: Tensor) -> Self:
        """Some images, as yet not read."""

    @abstractmethod
    def with_channels(self, channels: int) -> Self:
        """The images grey (1 channel) or in colour (3)."""


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: (count, channels, height, width), 0 … 255; in memory, or where they can be indexed as if they were.
        labels: (count,).
    """

    pixels: UInt8[Tensor, "count channels height width"] | StoredPixels
    labels: Int[Tensor, " count"]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Int[Tensor, " selected"]) -> "Images":
        """The images at ``indices``."""
        if isinstance(self.pixels, StoredPixels):
            return Images(self.pixels.only(indices), self.labels[indices])
        return Images(self.pixels[indices], self.labels[indices])

    def with_channels(self, channels: int) -> "Images":
        """The same images grey (1 channel) or in colour (3).

        Raises:
            ValueError: Channels are to change, and either number is neither 1 nor 3.
        """
        if isinstance(self.pixels, StoredPixels):
            return Images(self.pixels.with_channels(channels), self.labels)
        return Images(with_channels(self.pixels, channels), self.labels)

    def sample(self, at_most: int) -> UInt8[Tensor, "some channels height width"]:
        """Pixels of images evenly spread over all, if these are not in memory; else all of them."""
        if isinstance(self.pixels, Tensor):
            return self.pixels
        return self.pixels[:: -(-len(self) // at_most)]


@dataclass(frozen=True)
class Parts:
    """A data set as its source gives it.

    Attributes:
        train: Images to train on, and to hold some out of for validation if ``val`` is None.
        test: Images to test on.
        class_names: Name of each label.
        val: Images to validate on, where the data bring such a part.
        notes: What a user should know of how they were read, a sentence each.
    """

    train: Images
    test: Images
    class_names: list[str]
    val: Images | None = None
    notes: list[str] = field(default_factory=list)


def channel_statistics(
    pixels: UInt8[Tensor, "count channels height width"],
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in units of full brightness; exact, from a count of bytes."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        counts = torch.bincount(pixels[:, channel].flatten().int(), minlength=256).double()
        mean = (counts @ values) / counts.sum()
        variance = (counts @ (values - mean).square()) / counts.sum()
        means.append(mean.item())
        deviations.append(max(variance.sqrt().item(), 1 / 255))
    return means, deviations


def split_indices(count: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """A random partition of ``count`` images into those that stay and a ``fraction`` that is held out."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = max(1, round(count * fraction))
    return order[held_out:].sort().values, order[:held_out].sort().values


def split_labels(labels: Int[Tensor, " count"], fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """A random partition of images into those that stay and a ``fraction`` that is held out, no class left out.

    It is that of ``split_indices`` unless chance would leave either side without a class that is in the data, though
    there is room for all: then images are drawn class by class, at least one of each for either side. A class with a
    single image stays.
    """
    kept, held_out = split_indices(len(labels), fraction, seed)
    classes = labels.unique()
    complete = all(len(side) < len(classes) or len(labels[side].unique()) == len(classes) for side in (kept, held_out))
    if complete or len(kept) < len(classes):
        return kept, held_out
    return split_by_class(labels, fraction, seed)


def split_by_class(labels: Int[Tensor, " count"], fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """The same of each class: about ``fraction`` of its images held out, at least one, unless it has only one."""
    generator = torch.Generator().manual_seed(seed)
    kept, held_out = [], []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held_out.append(members[:count])
        kept.append(members[count:])
    return torch.cat(kept).sort().values, torch.cat(held_out).sort().values
