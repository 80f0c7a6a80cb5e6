"""Models by name, with new weights or with trained ones."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from convkan.models.heads import replace_head
from convkan.models.images import ImageTransform
from convkan.models.registry import build_model, model_options
from convkan.models.saved import Description, load_classifier, read_description

FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Weights:
    """Trained weights in a file, as those that come with the package are.

    Attributes:
        model: Name of the model.
        name: What they are called: the data set they were trained on.
        path: The file, for ``load_classifier``, which also tells class names and how images are normalised.
    """

    model: str
    name: str
    path: Path

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> "Weights":
        """Weights of your own, called as their file.

        Args:
            path: A file of ``save_classifier``, or a folder that has one, called model.safetensors: that of a run, or
                one of ``save_pretrained``.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or was not written by ``save_classifier``.
            ModuleNotFoundError: The package safetensors is not installed.
        """
        file = Path(path)
        file = file / "model.safetensors" if file.is_dir() else file
        return cls(read_description(file)[0].model, file.stem, file)

    def description(self) -> Description:
        """The model that they are for, its options, its classes, and how images are normalised.

        Raises:
            ModuleNotFoundError: The package safetensors is not installed.
        """
        return read_description(self.path)[0]

    def record(self) -> dict[str, Any]:
        """What is known about them: ``test_accuracy`` as a share, ``parameters``, ``epochs``, ….

        Empty if they were saved without.

        Raises:
            ModuleNotFoundError: The package safetensors is not installed.
        """
        return read_description(self.path)[1]

    def transforms(self) -> ImageTransform:
        """From a picture, or a tensor of bytes, to what the model takes; it needs Pillow and torchvision.

        Raises:
            ModuleNotFoundError: The package safetensors is not installed.

        Example:
            >>> import torch
            >>> prepare = get_weights("kan_vgg", "mnist").transforms()
            >>> prepare(torch.zeros(3, 56, 56, dtype=torch.uint8)).shape
            torch.Size([1, 28, 28])
        """
        return self.description().transforms()

    @property
    def meta(self) -> dict[str, Any]:
        """The same facts under the names that torchvision gives them, as far as they are known.

        ``categories``, ``in_channels``, ``image_size`` and ``options``; ``num_params``, ``_ops`` (10⁹ multiply-adds an
        image), ``_metrics`` (percent, by data set) and ``_file_size`` (MB).

        Raises:
            ModuleNotFoundError: The package safetensors is not installed.

        Example:
            >>> get_weights("kan_vgg", "mnist").meta["_metrics"]
            {'mnist': {'acc@1': 99.68}}
        """
        description, record = read_description(self.path)
        meta: dict[str, Any] = {
            "categories": description.class_names,
            "in_channels": description.in_channels,
            "image_size": description.image_size,
            "options": description.options,
            "_file_size": round(self.path.stat().st_size / 1e6, 3),
        }
        if "parameters" in record:
            meta["num_params"] = record["parameters"]
        if "multiply_adds" in record:
            meta["_ops"] = round(record["multiply_adds"] / 1e9, 6)
        if "test_accuracy" in record:
            of = record.get("dataset", self.name)
            meta["_metrics"] = {of: {"acc@1": round(100 * record["test_accuracy"], 3)}}
        return meta


def list_weights() -> list[Weights]:
    """All trained weights that come with the package."""
    names = ((file, *file.stem.partition("-")) for file in sorted(FOLDER.glob("*.safetensors")))
    return [Weights(model, name, file) for file, model, _, name in names]


def weights_of(model: str) -> list[Weights]:
    """Trained weights of a model that come with the package, the default first: those for colour before those for grey.

    Example:
        >>> [weights.name for weights in weights_of("kan_vgg")]
        ['cifar10', 'fashion_mnist', 'mnist']
    """
    found = [weights for weights in list_weights() if weights.model == model]
    return sorted(found, key=lambda weights: -weights.description().in_channels)


def get_weights(model: str, name: str) -> Weights:
    """Trained weights that come with the package.

    Args:
        model: Name of the model.
        name: What they are called: the data set they were trained on.

    Raises:
        ValueError: No model or no weights have this name.

    Example:
        >>> get_weights("kan_vgg", "cifar10").description().class_names[:2]
        ['airplane', 'automobile']
    """
    model_options(model)
    found = [entry for entry in list_weights() if entry.model == model and entry.name == name]
    if not found:
        known = ", ".join(f"{entry.name!r} of {entry.model}" for entry in list_weights()) or "none"
        raise ValueError(f"weights must be among {known}; got {name!r} of {model}")
    return found[0]


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    *,
    weights: str | Weights | None = None,
    **options: Any,
) -> nn.Module:
    """A model with freshly drawn weights, or with trained ones.

    Args:
        name: One of ``list_models()``.
        num_classes: Size of the output: one logit a class. 10 by default; that of the weights, with ``weights``. For
            another number than theirs the model is given a fresh head.
        in_channels: Channels of the input images. 1 by default; those of the weights, with ``weights``.
        weights: Trained weights, or their name, as "mnist"; see ``list_weights()`` and, for a file of your own,
            ``Weights.of_file``. They decide the options of the model.
        **options: The model's own options; see ``model_options(name)``.

    Returns:
        A module from images (batch, in_channels, height, width) to logits (batch, num_classes). With ``weights`` it is
        in eval mode, ready to predict (call ``.train()`` to train it further), and expects images as
        ``get_weights(…).transforms()`` prepares them; with new ones, or a fresh head, it is in train mode.

    Raises:
        ValueError: No model or no weights have this name, a size is out of range, something asked for differs from
            what the weights were trained with, or it is not known which module of the model is its head.
        TypeError: The model has no such option.
        ModuleNotFoundError: Weights are asked for, and the package safetensors is not installed.

    Example:
        >>> model = create_model("kkan_small", num_classes=10, grid_size=10)
        >>> sum(p.numel() for p in model.parameters())
        21280
        >>> create_model("kan_vgg", num_classes=3, weights="cifar10").head  # to fine-tune on classes of your own
        Linear(in_features=64, out_features=3, bias=True)
    """
    if weights is None:
        return build_model(
            name, 10 if num_classes is None else num_classes, 1 if in_channels is None else in_channels, **options
        )
    if isinstance(weights, str):
        weights = get_weights(name, weights)
    if weights.model != name:
        raise ValueError(f"weights must be those of {name}, got {weights.name!r} of {weights.model}")
    model, description = load_classifier(weights.path)
    check_agrees(description, in_channels, options)
    if num_classes not in (None, len(description.class_names)):
        put_fresh_head(model, description, num_classes)
    return model


def put_fresh_head(model: nn.Module, description: Description, num_classes: int) -> None:
    """Give a trained model a new head, for classes of its own, and put it into train mode.

    Args:
        model: The model.
        description: What it was trained as.
        num_classes: How many classes it is to tell apart.

    Raises:
        ValueError: ``num_classes`` is not positive, or it is not known which module the head is.
    """
    sizes = (num_classes, description.in_channels)
    replace_head(model, build_model(description.model, *sizes, **description.options))
    model.train()


def check_agrees(description: Description, in_channels: int | None, options: dict[str, Any]) -> None:
    """Refuse what differs from what weights were trained with.

    Raises:
        ValueError: An option, or ``in_channels``, unless it is None, differs.
        TypeError: The model has no such option.
    """
    trained = model_options(description.model) | description.options
    unknown = sorted(set(options) - set(trained))
    if unknown:
        raise TypeError(f"{description.model} has no option {', '.join(unknown)}; it has {', '.join(trained)}")
    trained["in_channels"] = description.in_channels
    asked = options | ({} if in_channels is None else {"in_channels": in_channels})
    for key, value in asked.items():
        plain, kept = (list(item) if isinstance(item, tuple) else item for item in (value, trained[key]))
        if plain != kept:
            raise ValueError(f"{key} must be {kept!r}, as these weights were trained with, got {value!r}")
