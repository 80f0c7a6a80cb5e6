"""Reading a picture file: as ``convkan.models.images`` says, in training, prediction and explanation alike."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from convkan.models.images import check_channels, fit_image, picture_bytes
from convkan.training.parts import DataError, StoredPixels

# What is taken for a picture in a folder; any other file can still be read if it is named.
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".apng", ".gif", ".bmp", ".webp", ".avif"),
    *(".tif", ".tiff", ".jp2", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
)


def is_picture(path: Path) -> bool:
    """Whether a file's name is that of a picture."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def read_picture(
    path: str | os.PathLike[str], channels: int, size: tuple[int, int]
) -> UInt8[Tensor, "channels height width"]:
    """A picture file as a model sees it before normalisation.

    Args:
        path: The file, in any format that Pillow reads.
        channels: 1 for grey, 3 for colour.
        size: Height and width; see ``fit_image``.

    Returns:
        (channels, height, width), 0 … 255.

    Raises:
        DataError: The file is missing, damaged, not a picture, or holds values of no known brightness.
        ValueError: ``channels`` is neither 1 nor 3.
    """
    check_channels(channels)
    try:
        with Image.open(path) as image:
            pixels = picture_bytes(image, channels)
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as a picture: {reason}") from error
    return fit_image(pixels, size)


@dataclass(frozen=True, eq=False)
class PictureFiles(StoredPixels):
    """Pictures in files, decoded when they are indexed.

    Attributes:
        names: The paths as bytes, in one array: lists of objects would be copied by every process that looks at them.
        side: Height and width to which they are scaled and cut.
        channels: 1 for grey, 3 for colour.
    """

    names: np.ndarray[Any, np.dtype[np.bytes_]]
    side: int
    channels: int = 3

    @classmethod
    def of(cls, paths: Iterable[Path], side: int) -> Self:
        """The files at ``paths``, in colour."""
        return cls(np.array([os.fsencode(path) for path in paths]), side)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(count, channels, side, side)."""
        return len(self.names), self.channels, self.side, self.side

    def __getitem__(self, places: slice | Tensor) -> UInt8[Tensor, "some channels side side"]:
        """Read and decode some.

        Raises:
            DataError: One cannot be read.
        """
        names = self.names[places if isinstance(places, slice) else places.numpy()]
        pixels = torch.empty(len(names), *self.shape[1:], dtype=torch.uint8)
        for index, name in enumerate(names):
            pixels[index] = read_picture(os.fsdecode(name), self.channels, (self.side, self.side))
        return pixels

    def only(self, places: Tensor) -> Self:
        """Some of the files."""
        return replace(self, names=self.names[places.numpy()])

    def with_channels(self, channels: int) -> Self:
        """The files, read as grey pictures or coloured ones."""
        check_channels(channels)
        return replace(self, channels=channels)
