"""People's pictures as a trained model wants them."""

from pathlib import Path

from torch import Tensor

from convkan.models import Description
from convkan.models.images import normalize
from convkan.training.pictures import read_picture


def read_image(path: Path, description: Description) -> Tensor:
    """A picture as the model wants it, (1, channels, height, width), read as in training.

    Raises:
        DataError: The file is missing or not a picture.
    """
    pixels = read_picture(path, description.in_channels, description.image_size)
    return normalize(pixels.unsqueeze(0), description.mean, description.std)
