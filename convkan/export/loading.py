"""Exported files read back: what they take, what their classes are called, and their logits."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from convkan.export.engines import ENGINES, Run, kept_texts
from convkan.export.writing import EXPORT_KEY, Exported
from convkan.models import Description
from convkan.models.saved import KEY, description_in

SUFFIXES = tuple({engine.suffix for engine in ENGINES.values()})


@dataclass(frozen=True)
class Deployed:
    """A classifier that another engine runs.

    Attributes:
        description: What it was trained as: class names, channels and size of its images.
        details: What was noted when it was exported.
        run: The engine: from images, as ``details.images`` says, to logits.
    """

    description: Description
    details: Exported
    run: Run

    def __call__(self, images: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of a batch of images, in bytes or as shares of full brightness, whichever the file takes.

        Raises:
            TypeError: The images are of neither kind.
            ValueError: They have other channels, or a size that the file does not take.
        """
        channels, size = self.description.in_channels, tuple(self.description.image_size)
        fits = images.ndim == 4 and images.shape[1] == channels
        if not fits or not (self.details.any_size or images.shape[2:] == size):
            wanted = "height, width" if self.details.any_size else ", ".join(map(str, size))
            raise ValueError(f"images must have shape (batch, {channels}, {wanted}), got {tuple(images.shape)}")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(f"images must be bytes or floating point numbers, got {images.dtype}")
        if self.details.images == "uint8" and images.dtype != torch.uint8:
            images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        elif self.details.images == "float":
            images = images / 255 if images.dtype == torch.uint8 else images.float()
        return self.run(images.contiguous())


def load_exported(path: str | os.PathLike[str], threads: int | None = None) -> Deployed:
    """Open a file of ``export_classifier``.

    One for "aoti" holds machine code, which is run: open only what you trust.

    Args:
        path: The file.
        threads: CPU threads of ONNX Runtime, by default all; torch has its own.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or was not written by ``export_classifier``.
        ModuleNotFoundError: Its engine is not installed.
    """
    path = Path(path)
    texts = kept_texts(path)
    if KEY not in texts or EXPORT_KEY not in texts:
        raise ValueError(f"{path} was not written by export_classifier: it has no entry {EXPORT_KEY!r}")
    description = description_in(path, texts)
    try:
        noted = json.loads(texts[EXPORT_KEY])
        details = Exported(**{name: noted[name] for name in Exported.__dataclass_fields__})
        engine = ENGINES[details.to]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has no readable entry {EXPORT_KEY!r}: {error!r}") from error
    return Deployed(description, details, engine.load(path, threads))
