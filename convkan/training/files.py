"""Writing files so that a half-written one never takes the place of a good one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Have ``write`` fill a temporary neighbour of ``path``, then put it in place in one step.

    The neighbour keeps the suffix, by which many writers choose a format. If ``write`` fails (a full disk, say),
    what stood at ``path`` is left as it was and the neighbour is removed.

    Args:
        path: The file to replace or make; its folder is made if need be.
        write: Called with the temporary path.

    Returns:
        ``path``.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        write(partial)
        partial.chmod(mode)  # some writers make files that only their owner may read
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


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
