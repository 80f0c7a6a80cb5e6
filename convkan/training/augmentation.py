"""Changes of images and labels in training.

RandAugment, mixup and CutMix are torchvision's transforms. Its rotation and erasing would take a batch image by image,
longer than a training step of a small model: here they take all images at once, each its own.

All of it draws from torch's generator, which ``Classifier`` seeds for each epoch, so that a training that is taken up
goes on as if it had not been stopped.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from convkan.training.recipe import Recipe

OPERATIONS = 2  # of RandAugment, an image
AREA, ASPECT = (0.02, 0.33), (0.3, 3.3)  # of erased rectangles, as in the paper

Images = Float[Tensor, "batch channels height width"]


def transform_images(
    images: Images, recipe: Recipe, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Images:
    """Images changed as the recipe says, each by itself: RandAugment, rotation, erased rectangles and squares.

    Args:
        images: As the model sees them.
        recipe: What to do.
        mean: What was subtracted from each channel of values in [0, 1]; None where nothing was.
        std: What it was divided by then.

    Raises:
        ValueError: Images that are said not to be normalised do not lie in [0, 1].
    """
    if not recipe.transforms_images:
        return images
    if mean is None and std is None and not ((images >= 0) & (images <= 1)).all():
        raise ValueError(
            "images must lie in [0, 1], or mean and std of the data module say how they were normalised, "
            f"got values from {images.min().item():.3g} to {images.max().item():.3g}"
        )
    center, scale = (images.new_tensor(values or [other]).view(-1, 1, 1) for values, other in ((mean, 0.0), (std, 1.0)))
    pixels = (images * scale + center).clamp(0, 1)
    if recipe.rand_augment:
        from torchvision.transforms import v2

        transform = v2.RandAugment(OPERATIONS, recipe.rand_augment)
        pixels = torch.stack([transform(image) for image in pixels])
    if recipe.rotation:
        angles = (2 * torch.rand(len(pixels), device=pixels.device) - 1) * recipe.rotation
        pixels = rotate(pixels, angles)
    if recipe.erasing:
        pixels = erase_rectangles(pixels, recipe.erasing)
    if recipe.cutout:
        sides = torch.full((len(pixels),), float(recipe.cutout))
        pixels = erase(pixels, sides, sides)
    return (pixels - center) / scale


def rotate(images: Images, degrees: Float[Tensor, " batch"]) -> Images:
    """Images turned counter-clockwise about their centres, each by its angle; black comes in."""
    height, width = images.shape[-2:]
    angles = degrees * (math.pi / 180)
    cosine, sine, nothing = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # To where each pixel comes from, in coordinates from -1 to 1 in both dimensions.
    rows = [cosine, -sine * height / width, nothing, sine * width / height, cosine, nothing]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3).to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def erase_rectangles(images: Images, probability: float) -> Images:
    """A rectangle of each image made black, with a probability, its area and aspect drawn.

    Source: Zhong et al., "Random erasing data augmentation", arXiv 1708.04896.
    """
    count, (height, width) = len(images), images.shape[-2:]
    area = torch.empty(count).uniform_(*AREA) * height * width
    aspect = torch.empty(count).uniform_(*map(math.log, ASPECT)).exp()
    chosen = torch.rand(count) < probability
    return erase(images, (area * aspect).sqrt() * chosen, (area / aspect).sqrt())


def erase(images: Images, heights: Float[Tensor, " batch"], widths: Float[Tensor, " batch"]) -> Images:
    """A rectangle of each image made black, of so many pixels, as far as there are, wherever it fits."""
    inside = []
    for length, sides in zip(images.shape[-2:], (heights, widths), strict=True):
        sides = sides.round().clamp(0, length)
        start = (torch.rand(len(images)) * (length - sides + 1)).floor()
        places = torch.arange(length)
        inside.append(((places >= start[:, None]) & (places < (start + sides)[:, None])).to(images.device))
    return images * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


def mix(
    images: Images,
    labels: Int[Tensor, " batch"],
    recipe: Recipe,
    num_classes: int,
    progress: float,
) -> tuple[Tensor, Tensor]:
    """Images mixed with others of their batch, by mixup or CutMix, and the probabilities of their classes.

    Source: Zhang et al., arXiv 1710.09412; Yun et al., arXiv 1905.04899.

    Args:
        images: The batch.
        labels: Its classes.
        recipe: How; with both, one of them is drawn for each batch.
        num_classes: Number of classes.
        progress: Share of training behind, in (0, 1]; where mixing grows, so many batches are mixed.

    Returns:
        The images, and labels as they are or as probabilities (batch, classes).
    """
    if recipe.mixup_growing and torch.rand(()).item() >= progress:
        return images, labels
    from torchvision.transforms import v2

    ways: list[Callable[..., tuple[Tensor, Tensor]]] = []
    if recipe.mixup:
        ways.append(v2.MixUp(alpha=recipe.mixup, num_classes=num_classes))
    if recipe.cutmix:
        ways.append(v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes))
    way = ways[int(torch.randint(len(ways), ()))] if len(ways) > 1 else ways[0]
    return way(images, labels)
