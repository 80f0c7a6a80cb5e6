"""A trained classifier in one file: weights, and all it takes to rebuild the model and prepare an image."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from convkan.models import create_model
from convkan.training.files import write_atomically

KEY = "convkan"


@dataclass(frozen=True)
class Description:
    """What a file of weights belongs to.

    Attributes:
        model: Name of the model.
        in_channels: Channels of its input.
        image_size: Height and width it was trained on.
        class_names: Name of each output.
        mean: Mean of each channel of the training images, in units of full brightness.
        std: Standard deviation likewise.
        options: The model's own options.
    """

    model: str
    in_channels: int
    image_size: tuple[int, int]
    class_names: list[str]
    mean: list[float]
    std: list[float]
    options: dict[str, Any] = field(default_factory=dict)

    def create(self) -> nn.Module:
        """The model, with fresh weights."""
        return create_model(self.model, len(self.class_names), self.in_channels, **self.options)


def save_classifier(path: str | os.PathLike[str], model: nn.Module, description: Description) -> Path:
    """Write a model as safetensors, with its description in the header.

    Raises:
        OSError: The file cannot be written; what stood there is left as it was.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {KEY: json.dumps(asdict(description))}

    def write(partial: Path) -> None:
        try:
            save_file(tensors, partial, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error

    return write_atomically(path, write)


def load_classifier(path: str | os.PathLike[str]) -> tuple[nn.Module, Description]:
    """Rebuild a model from its file, in eval mode. No code in the file is run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or was not written by ``save_classifier``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if KEY not in metadata:
        raise ValueError(f"{path} holds weights, but not of a convkan classifier: its header has no {KEY!r} entry")
    try:
        values = json.loads(metadata[KEY])
        description = Description(**{**values, "image_size": tuple(values["image_size"])})
        model = description.create()
        model.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit the model it describes: {error}") from error
    return model.eval(), description


def example_input(description: Description) -> torch.Tensor:
    """A batch of one blank image, (1, in_channels, height, width)."""
    return torch.zeros(1, description.in_channels, *description.image_size)
