"""Classify pictures with a trained run: ``python -m experiments.predict --run RUNDIR IMAGE…``."""

import sys
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

from convkan.models import load_classifier
from convkan.training import DataError
from experiments.common.cli import UserError, first_line, from_home, run
from experiments.common.images import read_image


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


if __name__ == "__main__":
    run(main)
