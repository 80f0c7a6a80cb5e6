"""Lightning's way of writing checkpoints, in one step."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from convkan.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written in the folder where they belong and put in place in one step."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: object = None
    ) -> None:
        """Save a checkpoint.

        Raises:
            OSError: It cannot be written; an older one at ``path`` is left as it was.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options must be None, got {storage_options!r}")

        def write(partial: Path) -> None:
            try:
                with partial.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # the archive's own complaint hides the full disk
                    raise error.__context__ from None
                raise

        write_atomically(path, write)
