"""Writing a trained classifier into one file; ``convkan.models.load_classifier`` reads it."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from convkan.models.saved import KEY, RECORD_KEY, Description
from convkan.training.files import write_atomically


def save_classifier(
    path: str | os.PathLike[str], model: nn.Module, description: Description, record: dict[str, Any] | None = None
) -> Path:
    """Write a model as safetensors, with its description in the header.

    Args:
        path: Where to.
        model: The model.
        description: What it takes to rebuild it.
        record: What is known about the weights, to be kept with them: figures, and where they come from.

    Raises:
        OSError: The file cannot be written; what stood there is left as it was.
    """
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
