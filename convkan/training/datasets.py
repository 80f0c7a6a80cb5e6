"""Image data sets by name, read into memory as bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

DATA_ROOT_VARIABLE = "CONVKAN_DATA"


class DataError(Exception):
    """A data set cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: (count, channels, height, width), 0 … 255.
        labels: (count,).
    """

    pixels: UInt8[Tensor, "count channels height width"]
    labels: Int[Tensor, " count"]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Int[Tensor, " selected"]) -> "Images":
        """The images at ``indices``."""
        return Images(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True)
class Source:
    """An entry of the table of data sets.

    Attributes:
        load: Returns training images, test images and class names, given where data lives and the image size asked
            for (None: as stored).
        shift: Largest random shift of the standard augmentation, in pixels.
        flip: Whether augmentation may mirror images.
        augmented: Whether the field augments this data set unless it says otherwise.
    """

    load: Callable[[Path, int | None], tuple[Images, Images, list[str]]]
    shift: int
    flip: bool
    augmented: bool


def _load_digits(root: Path, image_size: int | None) -> tuple[Images, Images, list[str]]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=digits.target)
    images = Images(pixels, labels)
    names = [str(name) for name in digits.target_names]
    return images.select(torch.from_numpy(train)), images.select(torch.from_numpy(test)), names


def _load_torchvision(
    class_name: str,
) -> Callable[[Path, int | None], tuple[Images, Images, list[str]]]:
    def load(root: Path, image_size: int | None) -> tuple[Images, Images, list[str]]:
        from torchvision import datasets

        dataset_class = getattr(datasets, class_name)
        parts = []
        for train in (True, False):
            stored = _open_torchvision(dataset_class, root, train)
            pixels = torch.as_tensor(stored.data)
            pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
            parts.append(Images(pixels.contiguous(), torch.as_tensor(stored.targets).long()))
        return parts[0], parts[1], [str(name) for name in stored.classes]

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


def _load_folder(root: Path, image_size: int | None) -> tuple[Images, Images, list[str]]:
    """Images in one folder a class, under root/train and root/test or all under root (then a fifth is for testing)."""
    from sklearn.model_selection import train_test_split

    if (root / "train").is_dir() and (root / "test").is_dir():
        train, names = _decode_folder(root / "train", image_size)
        test, test_names = _decode_folder(root / "test", image_size)
        if names != test_names:
            raise DataError(f"{root}/train and {root}/test must hold the same classes, got {names} and {test_names}.")
        return train, test, names
    images, names = _decode_folder(root, image_size)
    if int(images.labels.bincount().min()) < 2:
        raise DataError(f"{root}: every class needs at least 2 images, so that one can be for testing.")
    train_part, test_part = train_test_split(
        np.arange(len(images)),
        test_size=max(0.2, len(names) / len(images)),
        random_state=0,
        stratify=images.labels,
    )
    return images.select(torch.from_numpy(train_part)), images.select(torch.from_numpy(test_part)), names


def _decode_folder(root: Path, image_size: int | None) -> tuple[Images, list[str]]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2 import functional as transforms

    side = image_size or 32
    try:
        folder = ImageFolder(str(root))
    except OSError as error:
        raise DataError(f"{root} must hold one folder of images for each class: {error}") from error
    pixels = torch.empty(len(folder), 3, side, side, dtype=torch.uint8)
    for index, (path, _) in enumerate(folder.samples):
        try:
            image = folder.loader(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from error
        pixels[index] = fit_image(transforms.pil_to_tensor(image), (side, side))
    return Images(pixels, torch.tensor(folder.targets)), list(folder.classes)


def fit_image(
    image: UInt8[Tensor, "channels height width"], size: tuple[int, int]
) -> UInt8[Tensor, "channels new_height new_width"]:
    """``image`` scaled until it just covers ``size`` (height, width), then cut to it from the middle."""
    from torchvision.transforms.v2 import functional as transforms

    height, width = image.shape[1:]
    scale = max(size[0] / height, size[1] / width)
    scaled = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    if scaled != [height, width]:
        image = transforms.resize(image, scaled, antialias=True)
    return transforms.center_crop(image, list(size))


# A new data set is one line here.
DATASETS: dict[str, Source] = {
    "digits": Source(_load_digits, shift=1, flip=False, augmented=True),
    "mnist": Source(_load_torchvision("MNIST"), shift=2, flip=False, augmented=False),
    "fashion_mnist": Source(_load_torchvision("FashionMNIST"), shift=2, flip=True, augmented=False),
    "cifar10": Source(_load_torchvision("CIFAR10"), shift=4, flip=True, augmented=True),
    "cifar100": Source(_load_torchvision("CIFAR100"), shift=4, flip=True, augmented=True),
    "folder": Source(_load_folder, shift=4, flip=True, augmented=True),
}
