"""Trained classifiers, wherever they are: runs and the weights of the package."""

from pathlib import Path

from torch import Tensor

from convkan.models import Description, Weights, list_weights
from convkan.models.images import normalize
from convkan.training import ImageData
from convkan.training.datasets import TORCHVISION
from experiments.common.cli import UserError, from_home


def find_weights(run: str | None, weights: str | None) -> Weights:
    """The weights of a run, or of the package.

    Args:
        run: Folder of a finished run, or its model.safetensors.
        weights: Name of weights of the package, "kan_vgg-mnist".

    Raises:
        UserError: Not one of both is given, or no weights have this name.
        FileNotFoundError: There is no such run.
    """
    if (run is None) == (weights is None):
        raise UserError("a model must be given, by --run RUNDIR or by --weights NAME, and not by both")
    if weights is None:
        return Weights.of_file(Path(from_home(str(run))))
    known = {f"{entry.model}-{entry.name}": entry for entry in list_weights()}
    if weights not in known:
        raise UserError(f"weights must be one of {', '.join(known)}; got {weights!r}")
    return known[weights]


def data_behind(weights: Weights, data_root: str | None) -> ImageData:
    """The data set that weights were trained on, its classes numbered as the model's.

    Raises:
        UserError: The weights do not tell which it was.
        DataError: The data cannot be had, or are others.
    """
    dataset, description = weights.record().get("dataset"), weights.description()
    if dataset is None:
        raise UserError(f"{weights.path} must tell its data set, as files of experiments.train do")
    size = description.image_size[0] if dataset == "folder" or dataset.startswith(TORCHVISION) else None
    data = ImageData(dataset, data_root=data_root, image_size=size)
    data.match_classes(description.class_names)
    data.match_images(description)
    return data


def training_images(data: ImageData, description: Description, count: int) -> Tensor:
    """Some training images, the same in every run, normalised."""
    step = max(1, len(data.train) // count)
    return normalize(data.train.pixels[::step][:count], description.mean, description.std)
