"""Images fetched and augmented a batch at a time.

A batch is shifted and flipped as a whole: transforming image by image costs more than the training step of a small
model.
"""

import ctypes
import sys
from contextlib import suppress

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from convkan.training.parts import Images

M_MMAP_THRESHOLD, LARGE_BYTES = -3, 2**17  # of glibc's mallopt, and its own value of it before it adapts that


def return_freed_memory(worker: int) -> None:
    """Have the C library of a loader process give large buffers back to the system when they are freed.

    glibc keeps them otherwise, and those that it keeps do not always fit the next, which torch wants aligned: a process
    that loads batches of some megabytes comes to hold hundreds.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def shift_and_flip(
    pixels: UInt8[Tensor, "batch channels height width"], shift: int, flip: bool, generator: torch.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """Shift each image by up to ``shift`` pixels, black moving in, and mirror half of them if ``flip``."""
    count, _, height, width = pixels.shape
    if shift:
        padded = torch.nn.functional.pad(pixels, (shift,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        rows, columns = torch.randint(2 * shift + 1, (2, count), generator=generator)
        pixels = windows[torch.arange(count), :, rows, columns]
    if flip:
        mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        pixels = torch.where(mirrored, pixels.flip(-1), pixels)
    return pixels


class BatchedImages(Dataset[tuple[Tensor, Tensor]]):
    """Images fetched a batch at a time, augmented if asked for.

    The random choices of a batch follow from the seed and the batch's first index alone, so they do not depend on
    the number of worker processes.

    Args:
        images: The images.
        seed: Seed of the augmentation; differs from epoch to epoch.
        shift: Largest shift in pixels.
        flip: Mirror half of the images.
    """

    def __init__(self, images: Images, seed: int = 0, shift: int = 0, flip: bool = False) -> None:
        self.images, self.seed, self.shift, self.flip = images, seed, shift, flip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, labels = self.__getitems__([index])
        return pixels[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A whole batch: pixels (batch, channels, height, width) in uint8 and labels (batch,)."""
        places = torch.tensor(indices)
        pixels, labels = self.images.pixels[places], self.images.labels[places]
        if not (self.shift or self.flip):
            return pixels, labels
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + indices[0]) % 2**63)
        return shift_and_flip(pixels, self.shift, self.flip, generator), labels
