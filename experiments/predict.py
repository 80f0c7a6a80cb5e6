"""Classify pictures: ``python -m experiments.predict --run RUNDIR PICTURE|FOLDER …``.

By a trained run, by weights of the package, or by a file of ``experiments.export``. The likeliest classes of each
picture are printed, or with ``--csv`` written to a table with a row a picture.
"""

import csv
import sys
import time
from argparse import BooleanOptionalAction
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from convkan.export import ENGINES, load_exported
from convkan.models import Description, load_classifier
from convkan.models.images import normalize
from convkan.training import DataError, write_atomically
from convkan.training.pictures import is_picture, read_picture
from experiments.common.classifiers import find_weights
from experiments.common.cli import UserError, first_line, from_home, run
from experiments.common.progress import StudyProgress

EXPORTED = {engine.suffix for engine in ENGINES.values()}


def main() -> None:
    """Print the likeliest classes of each picture, or write them to a table."""
    arguments = _parser().parse_args()
    classify, description = _classifier(arguments.run, arguments.weights, arguments.threads)
    if arguments.batch < 1:
        raise UserError(f"batch must be at least 1, got {arguments.batch}")
    top = max(1, min(arguments.top, len(description.class_names)))
    pictures = find_pictures(arguments.images)
    unread: list[str] = []
    started = time.perf_counter()

    def answers() -> Iterator[tuple[str, list[tuple[str, float]]]]:
        for start in range(0, len(pictures), arguments.batch):
            paths, images = _read(
                pictures[start : start + arguments.batch], description, unread, arguments.skip_corrupt
            )
            if paths:
                shares, indices = probabilities(classify, torch.stack(images)).topk(top)
                for path, share, index in zip(paths, shares.tolist(), indices.tolist(), strict=True):
                    yield str(path), [(description.class_names[i], s) for i, s in zip(index, share, strict=True)]

    if arguments.csv is None:
        for picture, likeliest in answers():  # each as it is known, and none for a reader that has gone
            print(f"{picture}: {', '.join(f'{name} {share:.1%}' for name, share in likeliest)}", flush=True)
    else:
        table = Path(from_home(arguments.csv))
        write_atomically(table, lambda partial: _write(partial, answers(), top, len(pictures)))
    seconds, count = time.perf_counter() - started, len(pictures) - len(unread)
    if unread and not arguments.skip_corrupt:
        kept = "" if arguments.csv is None else f", the others are in {arguments.csv}"
        raise UserError(f"{len(unread)} of {len(pictures)} pictures could not be read{kept}; see --skip-corrupt")
    skipped = f", {len(unread)} skipped" if unread else ""
    where = "" if arguments.csv is None else f"table {arguments.csv}: "
    print(f"{where}{count} pictures{skipped}, {count / seconds:.0f} a second, reading included", file=sys.stderr)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description=first_line(__doc__))
    parser.add_argument(
        "--run", help="folder of a finished run, its model.safetensors, or a file of experiments.export"
    )
    parser.add_argument("--weights", help='weights of the package in its place, by name: "kan_vgg-mnist"')
    parser.add_argument("--top", "--top-k", "--top_k", type=int, default=3, help="how many classes to name")
    parser.add_argument("--csv", help="write a table there: picture, class, probability, class_2, …")
    parser.add_argument("--batch", type=int, default=64, help="pictures at a time")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument(
        *("--skip-corrupt", "--skip_corrupt"),
        action=BooleanOptionalAction,
        default=False,
        help="name pictures that cannot be read, and leave them out; else that is an error",
    )
    parser.add_argument("images", nargs="+", help="pictures, in any format that Pillow reads, or folders of such")
    return parser


def _classifier(
    run: str | None, weights: str | None, threads: int | None
) -> tuple[Callable[[Tensor], Tensor], Description]:
    """From images in bytes to logits, by whatever was given, and what it was trained as."""
    if threads is not None:
        torch.set_num_threads(threads)
    if run is not None and weights is None and Path(run).suffix in EXPORTED:
        file = load_exported(from_home(run), threads)
        return file, file.description
    model, description = load_classifier(find_weights(run, weights).path)
    return lambda images: model(normalize(images, description.mean, description.std)), description


def find_pictures(given: Sequence[str]) -> list[Path]:
    """The pictures that are named, and those in folders that are, however deep, sorted.

    Raises:
        DataError: A folder has none.
    """
    found: list[Path] = []
    for path in map(Path, map(from_home, given)):
        if not path.is_dir():
            found.append(path)
            continue
        inside = [file for file in sorted(path.rglob("*")) if is_picture(file) and file.is_file()]
        inside = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not inside:
            raise DataError(f"{path} has no pictures in it")
        found += inside
    return found


def _read(
    paths: Sequence[Path], description: Description, unread: list[str], skip: bool
) -> tuple[list[Path], list[Tensor]]:
    """The pictures that can be read, in bytes; the others are named, and noted in ``unread``."""
    readable, images = [], []
    for path in paths:
        try:
            images.append(read_picture(path, description.in_channels, description.image_size))
            readable.append(path)
        except DataError as error:
            print(f"{'skipped' if skip else 'error'}: {error}", file=sys.stderr)
            unread.append(str(path))
    return readable, images


@torch.no_grad()
def probabilities(classify: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Those of every class, (batch, classes).

    Raises:
        UserError: The model is no classifier of pictures.
    """
    logits = classify(images)
    if logits.ndim != 2:
        raise UserError(f"the model must give a picture one class, and gives {tuple(logits.shape[2:])} of them")
    return logits.softmax(1)


def _write(partial: Path, answers: Iterator[tuple[str, list[tuple[str, float]]]], top: int, total: int) -> None:
    """A row for each picture."""
    # Names stay as they are on disk, whatever their encoding.
    opened = partial.open("w", newline="", encoding="utf-8", errors="surrogateescape")
    with opened as file, StudyProgress("pictures") as progress:
        bar = progress.add_task("classifying", total=total)
        table: Any = csv.writer(file)
        numbers = ["", *(f"_{place}" for place in range(2, top + 1))]
        table.writerow(["picture", *(name + number for number in numbers for name in ("class", "probability"))])
        for picture, likeliest in answers:
            table.writerow([picture, *(cell for name, share in likeliest for cell in (name, f"{share:.6f}"))])
            progress.advance(bar)
        progress.update(bar, completed=total)


if __name__ == "__main__":
    run(main)
