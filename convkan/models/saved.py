"""A trained classifier in one file: weights, and all it takes to rebuild the model and prepare an image."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convkan.files import write_atomically
from convkan.models.registry import build_model

KEY = "convkan"  # of the description in a file's header
RECORD_KEY = "convkan_record"  # of what is known about the weights: figures, and where they come from


@dataclass(frozen=True)
class Description:
    """What a file of weights belongs to.

    Attributes:
        model: Name of the model.
        in_channels: Channels of its input.
        image_size: Height and width it was trained on.
        class_names: Name of each output.
        mean: What to subtract from each channel of an image, in units of full brightness.
        std: What to divide by then.
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
        return build_model(self.model, len(self.class_names), self.in_channels, **self.options)


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a file. No code in the file is run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged.
        ModuleNotFoundError: The package safetensors is not installed.
    """
    _require_safetensors("reading")
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
            return state, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def save_classifier(
    path: str | os.PathLike[str], model: nn.Module, description: Description, record: dict[str, Any] | None = None
) -> Path:
    """Write a model as safetensors, with its description in the header; ``load_classifier`` reads it.

    Args:
        path: Where to.
        model: The model.
        description: What it takes to rebuild it.
        record: What is known about the weights, to be kept with them: figures, and where they come from.

    Raises:
        OSError: The file cannot be written; what stood there is left as it was.
        ModuleNotFoundError: The package safetensors is not installed.
    """
    _require_safetensors("writing")
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {KEY: json.dumps(asdict(description))}
    if record is not None:
        metadata[RECORD_KEY] = json.dumps(record)

    def write(partial: Path) -> None:
        try:
            save_file(tensors, partial, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error

    return write_atomically(path, write)


def load_classifier(path: str | os.PathLike[str]) -> tuple[nn.Module, Description]:
    """Rebuild a model from its file, in eval mode. No code in the file is run.

    So its predictions are right at once. To train it further, call ``model.train()`` first: in eval mode batch
    normalisation stays as it is and nothing is dropped, and neither an optimiser nor Lightning changes the mode
    (``convkan.training.Classifier`` does).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or was not written by ``save_classifier``.
        ModuleNotFoundError: The package safetensors is not installed.
    """
    state, metadata = read_safetensors(path)
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


def _require_safetensors(doing: str) -> None:
    """Raise, with what to do, unless the package is there; the library as a whole does without it."""
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{doing} weights needs the package safetensors, which is not installed: pip install safetensors"
        ) from error
