"""What a data set is once it is read: labelled images in parts, and how one part is drawn from another."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Int, UInt8
from torch import Tensor


class DataError(Exception):
    """A data set cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: (count, channels, height, width), 0 … 255.
        labels: (count,).
    """

    pixels: UInt8[Tensor, "count channels height width"]
    labels: Int[Tensor, " count"]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Int[Tensor, " selected"]) -> "Images":
        """The images at ``indices``."""
        return Images(self.pixels[indices], self.labels[indices])


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
