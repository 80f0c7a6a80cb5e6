"""Reading a picture file: as ``convkan.models.images`` says, in training, prediction and explanation alike."""

import os
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from convkan.models.images import check_channels, fit_image, picture_bytes
from convkan.training.parts import DataError

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
