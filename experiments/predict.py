"""Classify pictures with a trained run: ``python -m experiments.predict --run RUNDIR IMAGE…``."""

import sys
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from convkan.models import Description, load_classifier
from convkan.training.data import normalize
from convkan.training.datasets import fit_image
from experiments.cli import UserError, run


def main() -> None:
    """Print the likeliest classes of each picture."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=str, required=True, help="folder of a finished run, or its model.safetensors")
    parser.add_argument("--top", type=int, default=3, help="how many classes to name")
    parser.add_argument("images", nargs="+", type=str, help="pictures, in any format that Pillow reads")
    arguments = parser.parse_args()
    path = Path(arguments.run)
    model, description = load_classifier(path / "model.safetensors" if path.is_dir() else path)
    top = max(1, min(arguments.top, len(description.class_names)))
    failed = 0
    for image in arguments.images:
        try:
            pixels = read_image(Path(image), description)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        with torch.no_grad():
            probabilities = model(pixels).softmax(-1)[0]
        likeliest = probabilities.topk(top)
        named = ", ".join(
            f"{description.class_names[index]} {share:.1%}"
            for share, index in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
        )
        print(f"{image}: {named}")
    if failed:
        raise UserError(f"{failed} of {len(arguments.images)} pictures could not be read")


def read_image(path: Path, description: Description) -> Tensor:
    """A picture as the model wants it, (1, channels, height, width).

    Raises:
        UserError: The file is missing or not a picture.
    """
    try:
        with Image.open(path) as image:
            # convert would clip 16-bit grey values instead of scaling them.
            grey = image.point(lambda value: value * (1 / 257)).convert("L") if image.mode.startswith("I") else image
            picture = grey.convert("L" if description.in_channels == 1 else "RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path} cannot be read as a picture: {error}") from error
    height, width = description.image_size
    pixels = fit_image(transforms.pil_to_tensor(picture), (height, width))
    return normalize(pixels.unsqueeze(0), description.mean, description.std)


if __name__ == "__main__":
    run(main)
