"""Classify pictures with a trained run: ``python -m experiments.predict --run RUNDIR IMAGE…``."""

import sys
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from convkan.models import Description, load_classifier
from convkan.training import DataError
from convkan.training.data import normalize
from convkan.training.pictures import read_picture
from experiments.cli import UserError, first_line, from_home, run


def main() -> None:
    """Print the likeliest classes of each picture."""
    parser = ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--run", type=str, required=True, help="folder of a finished run, or its model.safetensors")
    parser.add_argument("--top", type=int, default=3, help="how many classes to name")
    parser.add_argument("images", nargs="+", type=str, help="pictures, in any format that Pillow reads")
    arguments = parser.parse_args()
    path = Path(from_home(arguments.run))
    model, description = load_classifier(path / "model.safetensors" if path.is_dir() else path)
    top = max(1, min(arguments.top, len(description.class_names)))
    failed = 0
    for image in arguments.images:
        try:
            pixels = read_image(Path(from_home(image)), description)
        except DataError as error:
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
        print(f"{image}: {named}", flush=True)  # each as it is known, and none for a reader that has gone
    if failed:
        raise UserError(f"{failed} of {len(arguments.images)} pictures could not be read")


def read_image(path: Path, description: Description) -> Tensor:
    """A picture as the model wants it, (1, channels, height, width), read as in training.

    Raises:
        DataError: The file is missing or not a picture.
    """
    pixels = read_picture(path, description.in_channels, description.image_size)
    return normalize(pixels.unsqueeze(0), description.mean, description.std)


if __name__ == "__main__":
    run(main)
