"""A folder of made-up JPEGs, as many as are asked for, the same each time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

AT_A_TIME = 100  # pictures that progress tells of


def make_pictures(folder: Path, count: int, side: int, classes: int, advance: Callable[[], None]) -> None:
    """Write those JPEGs that are not there yet: blots of the class's colour on another ground, with some noise.

    Args:
        folder: Where each class has a folder.
        count: Pictures in all, whose classes take turns.
        side: Their height and width.
        classes: How many.
        advance: Called once for every ``AT_A_TIME`` pictures.
    """
    for index in range(count):
        if index % AT_A_TIME == 0:
            advance()
        label = index % classes
        path = folder / f"class-{label:02}" / f"{index:07}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        half_written = path.with_suffix(".partial")
        make_picture(label, index, side).save(half_written, format="JPEG", quality=87)
        half_written.replace(path)


def make_picture(label: int, index: int, side: int) -> Image.Image:
    """One picture, by its class and number."""
    random = np.random.default_rng([label, index])
    colours = np.random.default_rng(label).uniform(0, 255, 3) + random.normal(0, 60, (2, 3))
    blots = Image.fromarray(random.integers(0, 256, (9, 9), dtype=np.uint8))
    share = np.asarray(blots.resize((side, side), Image.Resampling.BICUBIC))[..., None] / 255
    pixels = share * colours[0] + (1 - share) * colours[1] + random.normal(0, 8, (side, side, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
