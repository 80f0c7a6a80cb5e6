"""What becomes of a picture before a model sees it: the one way, in training, prediction and explanation.

What the kinds of picture become, in bytes:

- Grey, colour, palette and black-and-white pictures, and CMYK as Pillow converts it: themselves. Colour becomes grey by
  luma (ITU-R 601), grey becomes colour as three equal channels. Colour profiles are not applied.
- Transparent pixels show white behind them, as on a page.
- 16 bits: full brightness is 65535 and becomes 255. Pillow reads 16-bit colour by its upper eight bits.
- 32-bit integers: as 16 bits, 0 … 65535. Floating point: shares of full brightness, 0 … 1. Values beyond these ranges
  have no known brightness, and are refused rather than clipped.
- A picture is turned as its EXIF orientation says. Of an animation, or of a file of several pages, it is the first.

Pillow and torchvision are imported when they are first needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

LUMA = (19595, 38470, 7471)  # of red, green and blue, in units of 2^-16, as Pillow has it


@dataclass(frozen=True)
class ImageTransform:
    """From a picture to the input of a trained model, as it saw pictures in training.

    Attributes:
        channels: 1 for grey, 3 for colour.
        size: Height and width; see ``fit_image``.
        mean: What to subtract from each channel, in units of full brightness.
        std: What to divide by then.

    Example:
        >>> transform = ImageTransform(1, (28, 28), (0.5,), (0.25,))
        >>> transform(torch.full((3, 56, 40), 255, dtype=torch.uint8))[:, 0, 0]
        tensor([2.])
    """

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image | UInt8[Tensor, "*batch channels height width"]) -> Tensor:
        """The input of the model for one picture, or for a batch of them.

        Args:
            image: A picture of Pillow's, or bytes (channels, height, width) or (batch, channels, height, width) with
                one channel or three.

        Returns:
            (channels, height, width), or (batch, channels, height, width).

        Raises:
            TypeError: ``image`` is neither.
            ValueError: It has values of no known brightness, or neither 1 nor 3 channels; or the model takes neither.
        """
        if isinstance(image, Tensor):
            if image.dtype != torch.uint8 or image.ndim not in (3, 4):
                raise TypeError(
                    "image must be a picture, or a uint8 tensor (channels, height, width) or (batch, channels, height, "
                    f"width); got {image.dtype} of shape {tuple(image.shape)}"
                )
            pixels = with_channels(image, self.channels)
        else:
            pixels = picture_bytes(image, self.channels)
        return normalize(fit_image(pixels, self.size), list(self.mean), list(self.std))


def picture_bytes(image: Image.Image, channels: int) -> UInt8[Tensor, "channels height width"]:
    """A picture of Pillow's as bytes, upright, without transparency, grey or in colour.

    Raises:
        TypeError: ``image`` is no picture.
        ValueError: ``channels`` is neither 1 nor 3, or the picture holds values of no known brightness.
    """
    from PIL import Image, ImageOps
    from torchvision.transforms.v2 import functional as transforms

    check_channels(channels)
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a picture of Pillow's or a tensor, got {type(image).__name__}")
    picture = _in_bytes(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
    pixels: Tensor = transforms.pil_to_tensor(picture)
    return pixels


def _in_bytes(image: Image.Image) -> Image.Image:
    """A picture with eight bits a channel and nothing transparent, in any mode that Pillow converts to L and RGB."""
    from PIL import Image

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


def with_channels(
    pixels: UInt8[Tensor, "*batch channels height width"], channels: int
) -> UInt8[Tensor, "*batch new_channels height width"]:
    """Grey made colour, as three equal channels, or colour grey, by luma; else the pixels themselves.

    Raises:
        ValueError: Channels are to change, and either number is neither 1 nor 3.
    """
    if pixels.shape[-3] == channels:
        return pixels
    for count in (pixels.shape[-3], channels):
        check_channels(count)
    if channels == 1:
        weighed = pixels.int() * torch.tensor(LUMA, dtype=torch.int32, device=pixels.device).view(3, 1, 1)
        return ((weighed.sum(-3, keepdim=True) + 2**15) >> 16).to(torch.uint8)
    return pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])


def fit_image(
    image: UInt8[Tensor, "*batch channels height width"], size: tuple[int, int]
) -> UInt8[Tensor, "*batch channels new_height new_width"]:
    """``image`` scaled until it just covers ``size`` (height, width), then cut to it from the middle."""
    from torchvision.transforms.v2 import functional as transforms

    height, width = image.shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    scaled = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    if scaled != [height, width]:
        image = transforms.resize(image, scaled, antialias=True)
    return transforms.center_crop(image, list(size))


def normalize(
    pixels: UInt8[Tensor, "*batch channels height width"], mean: list[float], std: list[float]
) -> Float[Tensor, "*batch channels height width"]:
    """Bytes as shares of full brightness, less ``mean``, divided by ``std``, in each channel."""
    scale = torch.tensor(std, device=pixels.device).view(-1, 1, 1)
    return (pixels / 255 - torch.tensor(mean, device=pixels.device).view(-1, 1, 1)) / scale


def check_channels(channels: int) -> None:
    """Raise unless pictures can have so many channels."""
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour) to read pictures, got {channels}")
