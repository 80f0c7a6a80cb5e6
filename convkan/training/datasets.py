"""Image data sets by name, read into memory as bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convkan.models.registry import import_named
from convkan.training.folders import load_folder
from convkan.training.parts import DataError, Images, Parts

DATA_ROOT_VARIABLE = "CONVKAN_DATA"


@dataclass(frozen=True)
class Source:
    """An entry of the table of data sets.

    Attributes:
        load: Returns the data, given where they live and the image size asked for (None: as stored).
        shift: Largest random shift of the standard augmentation, in pixels.
        flip: Whether augmentation may mirror images.
        augmented: Whether the field augments this data set unless it says otherwise.
    """

    load: Callable[[Path, int | None], Parts]
    shift: int = 0
    flip: bool = False
    augmented: bool = False


def _load_digits(root: Path, image_size: int | None) -> Parts:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=digits.target)
    images = Images(pixels, labels)
    names = [str(name) for name in digits.target_names]
    return Parts(images.select(torch.from_numpy(train)), images.select(torch.from_numpy(test)), names)


def _load_torchvision(class_name: str) -> Callable[[Path, int | None], Parts]:
    def load(root: Path, image_size: int | None) -> Parts:
        from torchvision import datasets

        dataset_class = getattr(datasets, class_name)
        parts = []
        for train in (True, False):
            stored = _open_torchvision(dataset_class, root, train)
            pixels = torch.as_tensor(stored.data)
            pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
            parts.append(Images(pixels.contiguous(), torch.as_tensor(stored.targets).long()))
        return Parts(parts[0], parts[1], [str(name) for name in stored.classes])

    return load


def _open_torchvision(dataset_class: type, root: Path, train: bool) -> Any:
    """A stored torchvision data set, downloaded if it is not there."""
    name = dataset_class.__name__
    advice = f"Put its files under {root}, or point --data-root or {DATA_ROOT_VARIABLE} at a folder that has them."
    try:
        return dataset_class(root, train=train, download=False)
    except RuntimeError:
        pass  # torchvision's word for files that are missing, or whose checksum is wrong
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{name} under {root} is damaged ({reason}). Delete its files and fetch them again.") from error
    try:
        return dataset_class(root, train=train, download=True)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{name} is missing or damaged under {root}, and downloading it failed ({reason}). {advice}"
        ) from error


# A new data set is one line here.
DATASETS: dict[str, Source] = {
    "digits": Source(_load_digits, shift=1, flip=False, augmented=True),
    "mnist": Source(_load_torchvision("MNIST"), shift=2, flip=False, augmented=False),
    "fashion_mnist": Source(_load_torchvision("FashionMNIST"), shift=2, flip=True, augmented=False),
    "cifar10": Source(_load_torchvision("CIFAR10"), shift=4, flip=True, augmented=True),
    "cifar100": Source(_load_torchvision("CIFAR100"), shift=4, flip=True, augmented=True),
    "folder": Source(load_folder, shift=4, flip=True, augmented=True),
}


def register_dataset(name: str, source: Source) -> None:
    """Make a data set available to ``ImageData``, and so to all scripts, under ``name``.

    A module that does so is to be imported, or named in the environment variable CONVKAN_MODELS, as for
    ``convkan.models.register_model``.

    Args:
        name: The data set's name.
        source: How it is read, and how its images may be changed in training.

    Raises:
        ValueError: The name is taken, or is not that of a folder, as runs are named after their data sets.

    Example:
        >>> import torch
        >>> def load(root: Path, image_size: int | None) -> Parts:
        ...     images = Images(torch.randint(256, (20, 1, 4, 4), dtype=torch.uint8), torch.arange(20) % 2)
        ...     return Parts(images, images, ["even", "odd"])
        >>> register_dataset("noise", Source(load))
        >>> find_source("noise").load(Path(), None).class_names
        ['even', 'odd']
        >>> del DATASETS["noise"]
    """
    if name in DATASETS:
        raise ValueError(f"name must be new, got {name!r}, which is registered already")
    if name != Path(name).name or not name.strip("."):
        raise ValueError(f"name must be that of a folder, got {name!r}")
    DATASETS[name] = source


def find_source(name: str) -> Source:
    """The source of a data set.

    Raises:
        ValueError: No data set has this name, or CONVKAN_MODELS names a module that cannot be imported.
    """
    import_named()
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}; got {name!r}")
    return DATASETS[name]
