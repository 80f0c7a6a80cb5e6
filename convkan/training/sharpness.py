"""What sharpness-aware minimisation, which passes each batch twice, needs of its second pass and of its trainer."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch
from torch import nn

from convkan.nn import KANLayer


def check_trainer(trainer: L.Trainer) -> None:
    """Raise unless every step is two passes of one batch, with gradients as they are.

    Raises:
        ValueError: Gradients accumulate over batches, or are those of a scaled loss.
    """
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"accumulate_grad_batches must be 1 with sam, got {trainer.accumulate_grad_batches}: the second pass of a "
            "step would be of its last batch alone"
        )
    if trainer.scaler is not None:
        raise ValueError(
            f"precision must not scale the loss with sam, got {trainer.precision}: where gradients overflow, weights "
            "would be moved to infinity, and the step not be skipped; take bf16-mixed or 32-true"
        )


@contextmanager
def drawn_again(device: torch.device) -> Iterator[None]:
    """A ``with`` block after which random numbers, on the CPU and on ``device``, come again as they came in it."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type):
        yield


@contextmanager
def unmeasured(model: nn.Module) -> Iterator[None]:
    """A ``with`` block in which ``model`` measures nothing: buffers, as running statistics, stay what they were."""
    # Knots are none of what a pass changes, and a write would have them looked at anew. Torch counts none of the writes
    # of batch normalisation.
    parts = (module for module in model.modules() if not isinstance(module, KANLayer))
    before = {buffer: buffer.clone() for module in parts for buffer in module.buffers(recurse=False)}
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before.items():
                buffer.copy_(value)
