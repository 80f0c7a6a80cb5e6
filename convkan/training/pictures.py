"""Reading a picture file: the one way in which training, prediction and explanation see it.

What the kinds of picture become, in bytes:

- Grey, colour, palette and black-and-white pictures, and CMYK as Pillow converts it: themselves. Colour becomes grey by
  luma (ITU-R 601), grey becomes colour as three equal channels. Colour profiles are not applied.
- Transparent pixels show white behind them, as on a page.
- 16 bits: full brightness is 65535 and becomes 255. Pillow reads 16-bit colour by its upper eight bits.
- 32-bit integers: as 16 bits, 0 … 65535. Floating point: shares of full brightness, 0 … 1. Values beyond these ranges
  have no known brightness, and are refused rather than clipped.
- A picture is turned as its EXIF orientation says. Of an animation, or of a file of several pages, it is the first.
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

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
    from torchvision.transforms.v2 import functional as transforms

    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour) to read pictures, got {channels}")
    try:
        with Image.open(path) as image:
            picture = _in_bytes(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as a picture: {reason}") from error
    return fit_image(transforms.pil_to_tensor(picture), size)


def _in_bytes(image: Image.Image) -> Image.Image:
    """A picture with eight bits a channel and nothing transparent, in any mode that Pillow converts to L and RGB."""
    transparent = image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):
        full = 1 if image.mode == "F" else 65535
        values = np.asarray(image).astype(np.float64)
        if not ((values >= 0) & (values <= full)).all():
            kind = "floating-point" if image.mode == "F" else "integer"
            raise ValueError(
                f"{kind} values must lie in 0 … {full}, got {values.min():g} … {values.max():g}; "
                "scale them and save the picture with 8 or 16 bits"
            )
        grey = np.rint(values * (255 / full)).astype(np.uint8)
        if transparent is not None:
            grey[values == transparent] = 255
        return Image.fromarray(grey)
    if transparent is not None or image.mode in ("LA", "PA", "RGBA"):
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image


def fit_image(
    image: UInt8[Tensor, "channels height width"], size: tuple[int, int]
) -> UInt8[Tensor, "channels new_height new_width"]:
    """``image`` scaled until it just covers ``size`` (height, width), then cut to it from the middle."""
    from torchvision.transforms.v2 import functional as transforms

    height, width = image.shape[1:]
    scale = max(size[0] / height, size[1] / width)
    scaled = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    if scaled != [height, width]:
        image = transforms.resize(image, scaled, antialias=True)
    return transforms.center_crop(image, list(size))
