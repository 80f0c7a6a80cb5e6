"""A trained classifier in one file: weights, and all it takes to rebuild the model and prepare an image."""

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convkan.basis import BASES, Basis, create_basis
from convkan.files import write_atomically
from convkan.models.images import ImageTransform
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

    def transforms(self) -> ImageTransform:
        """From a picture, or a tensor of bytes, to what the model takes; it needs Pillow and torchvision."""
        return ImageTransform(self.in_channels, self.image_size, tuple(self.mean), tuple(self.std))

    def to_config(self) -> dict[str, Any]:
        """The description in what JSON has; a basis among the options by its name in ``BASES``, with its own options.

        Raises:
            ValueError: An option is a basis that is not in ``convkan.basis.BASES``.

        Example:
            >>> from convkan import Chebyshev
            >>> chosen = Description("kan_cnn", 1, (8, 8), ["a", "b"], [0.5], [0.5], {"basis": Chebyshev(3)})
            >>> chosen.to_config()["options"]
            {'basis': {'basis': 'chebyshev', 'degree': 3}}
            >>> Description.from_config(chosen.to_config()) == chosen
            True
        """
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | {"options": {name: _encoded(name, value) for name, value in self.options.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Description":
        """The description that ``to_config`` gave, also after JSON made lists of its tuples.

        Options may be left out, as there were none.

        Raises:
            TypeError, ValueError: It is none: something is missing, unknown or of another kind.
        """
        given = _mapping("a description", config)
        known = {item.name for item in fields(cls)}
        if differing := sorted(given.keys() ^ known - ({"options"} - given.keys())):
            raise ValueError(
                f"a description must have {', '.join(sorted(known))} and no more; "
                f"missing or unknown: {', '.join(differing)}"
            )
        size = given["image_size"]
        if not isinstance(size, list | tuple) or [type(side) for side in size] != [int, int]:
            raise ValueError(f"image_size must be a height and a width, got {size!r}")
        for name in ("class_names", "mean", "std"):
            if not isinstance(given[name], list | tuple):
                raise TypeError(f"{name} must be a list, got {given[name]!r}")
        options = {name: _decoded(value) for name, value in _mapping("options", given.get("options", {})).items()}
        return cls(**{**given, "image_size": tuple(size), "options": options})


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a mapping, got {value!r}")
    return value


def _encoded(name: str, value: Any) -> Any:
    if not isinstance(value, Basis):
        return value
    known = [key for key, kind in BASES.items() if kind is type(value)]
    if not known:
        raise ValueError(f"{name} must be a basis in convkan.basis.BASES, so that files can name it, got {value!r}")
    return {"basis": known[0]} | {item.name: getattr(value, item.name) for item in fields(value)}  # type: ignore[arg-type]


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict) or value.get("basis") not in BASES:
        return value
    given = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items() if key != "basis"}
    return create_basis(value["basis"], **given)


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
    metadata = {KEY: json.dumps(description.to_config())}
    if record is not None:
        metadata[RECORD_KEY] = json.dumps(record)

    def write(partial: Path) -> None:
        try:
            save_file(tensors, partial, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error

    return write_atomically(path, write)


def load_classifier(
    path: str | os.PathLike[str], description: Description | None = None
) -> tuple[nn.Module, Description]:
    """Rebuild a model from its file, in eval mode. No code in the file is run.

    So its predictions are right at once. To train it further, call ``model.train()`` first: in eval mode batch
    normalisation stays as it is and nothing is dropped, and neither an optimiser nor Lightning changes the mode
    (``convkan.training.Classifier`` does).

    Args:
        path: The file.
        description: What it takes to rebuild the model, instead of what the file's header says.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or was not written by ``save_classifier``.
        ModuleNotFoundError: The package safetensors is not installed.
    """
    state, metadata = read_safetensors(path)
    description = description or description_in(path, metadata)
    try:
        model = description.create()
        model.load_state_dict(state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit the model it describes: {error}") from error
    return model.eval(), description


def read_description(path: str | os.PathLike[str]) -> tuple[Description, dict[str, Any]]:
    """What a file of weights belongs to, and what is known about them, empty if they were saved without.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or was not written by ``save_classifier``.
        ModuleNotFoundError: The package safetensors is not installed.
    """
    _, metadata = read_safetensors(path)
    description = description_in(path, metadata)
    try:
        return description, _mapping("it", json.loads(metadata.get(RECORD_KEY, "{}")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has no readable record in its header, {RECORD_KEY!r}: {error}") from error


def description_in(path: str | os.PathLike[str], metadata: dict[str, str]) -> Description:
    """The description in a file's header.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    if KEY not in metadata:
        raise ValueError(f"{path} holds weights, but not of a convkan classifier: its header has no {KEY!r} entry")
    try:
        return Description.from_config(json.loads(metadata[KEY]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit the model it describes: {error}") from error


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
