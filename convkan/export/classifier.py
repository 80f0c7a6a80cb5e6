"""A classifier that takes images as they come from a file: normalisation is part of it."""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from convkan.models import Description

Images = Literal["uint8", "float"]


class ImageClassifier(nn.Module):
    """A network behind the normalisation of its images.

    Args:
        network: From normalised images to logits.
        description: What it was trained as.
        images: What it is given: "uint8", bytes 0 … 255, or "float", shares of full brightness in [0, 1].

    Raises:
        ValueError: ``images`` is neither.

    Shape:
        (batch, in_channels, height, width) → (batch, classes).

    Example:
        >>> from convkan.models import create_model, get_weights
        >>> weights = get_weights("kan_vgg", "mnist")
        >>> classifier = ImageClassifier(create_model("kan_vgg", weights=weights), weights.description())
        >>> classifier(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 10])
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, description: Description, images: Images = "uint8") -> None:
        if images not in get_args(Images):
            raise ValueError(f"images must be one of {', '.join(get_args(Images))}; got {images!r}")
        super().__init__()
        self.network, self.images = network, images
        dtype = next((p.dtype for p in network.parameters()), torch.get_default_dtype())
        mean, std = (
            torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (description.mean, description.std)
        )
        self.register_buffer("scale", (1 / (std * (255 if images == "uint8" else 1))).to(dtype))
        self.register_buffer("shift", (-mean / std).to(dtype))
        self.training = network.training  # of its parts, each keeps its own mode

    def forward(self, images: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of a batch of images."""
        return self.network(images.to(self.scale.dtype) * self.scale + self.shift)


def drawn_images(description: Description, count: int, images: Images = "uint8") -> Shaped[Tensor, "count c h w"]:
    """Images of noise, the same at every call."""
    shape = (count, description.in_channels, *description.image_size)
    drawn = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    return drawn if images == "uint8" else drawn / 255


def raw_images(
    batch: Float[Tensor, "batch c h w"], description: Description, images: Images = "uint8"
) -> Shaped[Tensor, "batch c h w"]:
    """Normalised images as an ``ImageClassifier`` takes them."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (description.mean, description.std))
    shares = (batch.detach().cpu() * std + mean).clamp(0, 1)
    return (shares * 255).round().to(torch.uint8) if images == "uint8" else shares.float()
