"""Models by name, with new weights or with those that come with the package."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from convkan.models.registry import build_model, model_options
from convkan.models.saved import RECORD_KEY, Description, load_classifier, read_safetensors

FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Weights:
    """Trained weights that come with the package.

    Attributes:
        model: Name of the model.
        name: What they are called: the data set they were trained on.
        path: The file, for ``load_classifier``, which also tells class names and how images are normalised.
    """

    model: str
    name: str
    path: Path

    def record(self) -> dict[str, Any]:
        """What is known about them: ``test_accuracy`` as a share, ``parameters``, ``epochs``, ….

        Empty if they were saved without.

        Raises:
            ModuleNotFoundError: The package safetensors is not installed.
        """
        record: dict[str, Any] = json.loads(read_safetensors(self.path)[1].get(RECORD_KEY, "{}"))
        return record


def list_weights() -> list[Weights]:
    """All trained weights that come with the package."""
    names = ((file, *file.stem.partition("-")) for file in sorted(FOLDER.glob("*.safetensors")))
    return [Weights(model, name, file) for file, model, _, name in names]


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    *,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """A model with freshly drawn weights, or with trained ones.

    Args:
        name: One of ``list_models()``.
        num_classes: Size of the output: one logit a class. 10 by default; that of the weights, with ``weights``.
        in_channels: Channels of the input images. 1 by default; those of the weights, with ``weights``.
        weights: Name of trained weights, as "mnist"; see ``list_weights()``. They decide the options of the model.
        **options: The model's own options; see ``model_options(name)``.

    Returns:
        A module from images (batch, in_channels, height, width) to logits (batch, num_classes). With ``weights`` it is
        in eval mode, ready to predict (call ``.train()`` to train it further), and expects images normalised as
        ``load_classifier`` of the weights' path tells; with new ones it is in train mode.

    Raises:
        ValueError: No model or no weights have this name, a size is out of range, or something asked for differs from
            what the weights were trained with.
        TypeError: The model has no such option.
        ModuleNotFoundError: Weights are asked for, and the package safetensors is not installed.

    Example:
        >>> model = create_model("kkan_small", num_classes=10, grid_size=10)
        >>> sum(p.numel() for p in model.parameters())
        21280
    """
    if weights is None:
        return build_model(
            name, 10 if num_classes is None else num_classes, 1 if in_channels is None else in_channels, **options
        )
    model_options(name)
    found = [entry for entry in list_weights() if entry.model == name and entry.name == weights]
    if not found:
        known = ", ".join(f"{entry.name!r} of {entry.model}" for entry in list_weights()) or "none"
        raise ValueError(f"weights must be among {known}; got {weights!r} of {name}")
    model, description = load_classifier(found[0].path)
    _check_agrees(description, num_classes, in_channels, options)
    return model


def _check_agrees(
    description: Description, num_classes: int | None, in_channels: int | None, options: dict[str, Any]
) -> None:
    trained = model_options(description.model) | description.options
    unknown = sorted(set(options) - set(trained))
    if unknown:
        raise TypeError(f"{description.model} has no option {', '.join(unknown)}; it has {', '.join(trained)}")
    trained |= {"num_classes": len(description.class_names), "in_channels": description.in_channels}
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    asked = options | {key: value for key, value in sizes.items() if value is not None}
    for key, value in asked.items():
        plain, kept = (list(item) if isinstance(item, tuple) else item for item in (value, trained[key]))
        if plain != kept:
            raise ValueError(f"{key} must be {kept!r}, as these weights were trained with, got {value!r}")
