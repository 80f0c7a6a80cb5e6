"""Image data sets by name, read into memory as bytes."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convkan.models.images import fit_image, picture_bytes
from convkan.models.registry import import_named
from convkan.training.folders import DEFAULT_SIDE, load_folder
from convkan.training.parts import DataError, Images, Parts

DATA_ROOT_VARIABLE = "CONVKAN_DATA"
TORCHVISION = "torchvision:"  # before the name of a class of torchvision.datasets


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
            stored = _open_torchvision(dataset_class, root, train=train)
            pixels = torch.as_tensor(stored.data)
            pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
            parts.append(Images(pixels.contiguous(), torch.as_tensor(stored.targets).long()))
        return Parts(parts[0], parts[1], [str(name) for name in stored.classes])

    return load


def _open_torchvision(dataset_class: type, root: Path, **part: Any) -> Any:
    """A part of a stored torchvision data set, downloaded if it is not there."""
    name = dataset_class.__name__
    advice = f"Put its files under {root}, or point --data-root or {DATA_ROOT_VARIABLE} at a folder that has them."
    try:
        return dataset_class(root, **part, download=False)
    except RuntimeError:
        pass  # torchvision's word for files that are missing, or whose checksum is wrong
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, ValueError) and "split" in part:  # which it may not have
            raise DataError(f"torchvision's {name} under {root} cannot be opened with {part} ({reason})") from error
        raise DataError(f"{name} under {root} is damaged ({reason}). Delete its files and fetch them again.") from error
    try:
        return dataset_class(root, **part, download=True)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{name} is missing or damaged under {root}, and downloading it failed ({reason}). {advice}"
        ) from error


def _load_named(class_name: str) -> Callable[[Path, int | None], Parts]:
    """A reader of any of torchvision's classification data sets that have a part to train on and one to test on."""

    def load(root: Path, image_size: int | None) -> Parts:
        from torchvision import datasets

        dataset_class = getattr(datasets, class_name)
        taken = inspect.signature(dataset_class).parameters
        key, *values = ("train", True, False) if "train" in taken else ("split", "train", "test")
        opened = [_open_torchvision(dataset_class, root, **{key: value}) for value in values]
        side = image_size or DEFAULT_SIDE
        train, test = (_decoded(stored, side, class_name) for stored in opened)
        if train.pixels.shape[1] != test.pixels.shape[1]:
            raise DataError(f"torchvision:{class_name} has grey pictures in one part and coloured ones in the other")
        count = 1 + int(max(train.labels.max(), test.labels.max()))
        names = [str(name) for name in getattr(opened[0], "classes", None) or range(count)]
        note = "" if image_size else ", the default: --image-size chooses another"
        return Parts(train, test, names, notes=[f"pictures are scaled and cut to {side} × {side} pixels{note}"])

    return load


def _decoded(stored: Any, side: int, class_name: str) -> Images:
    """All pictures of a torchvision data set, in the colours of the first."""
    pixels: list[Tensor] = []
    labels: list[int] = []
    for picture, label in (stored[index] for index in range(len(stored))):
        if not isinstance(label, int | np.integer) or label < 0 or not hasattr(picture, "getbands"):
            raise DataError(f"torchvision:{class_name} must give a picture and the number of its class, got {label!r}")
        channels = pixels[0].shape[0] if pixels else 1 if picture.mode in ("1", "L", "I;16") else 3
        pixels.append(fit_image(picture_bytes(picture, channels), (side, side)))
        labels.append(int(label))
    if not pixels:
        raise DataError(f"torchvision:{class_name} has no pictures")
    return Images(torch.stack(pixels), torch.tensor(labels))


def _named_source(name: str) -> Source:
    """The source called torchvision:CLASS.

    Raises:
        ValueError: torchvision has no such class, or it has no parts to train and to test on.
    """
    from torchvision import datasets

    class_name = name.removeprefix(TORCHVISION)
    known = {entry: inspect.signature(getattr(datasets, entry)).parameters for entry in datasets.__all__}
    fitting = sorted(entry for entry, taken in known.items() if _has_parts(taken))
    if class_name not in fitting:
        raise ValueError(f"dataset {TORCHVISION}NAME must name one of {', '.join(fitting)}; got {class_name!r}")
    return Source(_load_named(class_name), shift=4, flip=False, augmented=True)


def _has_parts(taken: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a class of torchvision's is called by root, download, and either train or split, and nothing else."""
    needed = {key for key, parameter in taken.items() if parameter.default is parameter.empty}
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed -= {key for key, parameter in taken.items() if parameter.kind in kinds}
    return "download" in taken and needed <= {"root"} and ("train" in taken or "split" in taken)


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
    if name.startswith(TORCHVISION):
        return _named_source(name)
    if name not in DATASETS:
        raise ValueError(f"dataset must be {TORCHVISION}NAME, or one of {', '.join(DATASETS)}; got {name!r}")
    return DATASETS[name]
