"""Whether the channels or the pixels of a tensor lie next to each other in memory."""

import torch
from torch import Tensor

from convkan.modes import is_jit_traced


def keeps_channels_last(x: Tensor) -> bool:
    """Whether channels lie next to each other in memory, rather than the pixels of a channel."""
    return x.ndim > 2 and x.stride(-1) != 1 and x.stride(1) == 1 and (is_jit_traced() or x.shape[1] > 1)


def in_memory_format(y: Tensor, channels_last: bool) -> Tensor:
    """``y`` with channels together, if that is wanted and the format exists, else with pixels together."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return y.to(
        memory_format=formats.get(y.ndim, torch.contiguous_format) if channels_last else torch.contiguous_format
    )
