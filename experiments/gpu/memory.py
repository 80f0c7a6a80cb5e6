"""How much memory layers keep from the forward pass for the backward pass, and need at their height."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from convkan import RBF, Chebyshev, KANConv2d, KANLinear, LearnableActivation, LowRankKANConv2d
from experiments.benchmark.measure import Contender, passes, peak_bytes, saved_bytes
from experiments.gpu.work import Outcome, Work

# Channels of a convolution, the size of its images and how many; features of a linear layer, its batch.
LARGE, SMALL = (64, 32, 32, 784, 1024), (8, 8, 2, 16, 8)


def measure_memory(work: Work) -> Outcome:
    """Measure every layer that was not measured before, beside the plain one of its shape."""
    device = torch.device(work.config.device)
    channels, side, batch, features, rows = SMALL if work.config.small else LARGE
    image, row = (batch, channels, side, side), (rows, features)
    convolution = partial(KANConv2d, channels, channels, 3, padding=1)
    layers: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        "KANConv2d": (convolution, image),
        "KANConv2d, Chebyshev": (partial(convolution, basis=Chebyshev()), image),
        "KANConv2d, RBF": (partial(convolution, basis=RBF()), image),
        "LowRankKANConv2d, rank 1": (partial(LowRankKANConv2d, channels, channels, 3, padding=1), image),
        "LearnableActivation": (partial(LearnableActivation, channels), image),
        "nn.Conv2d": (partial(nn.Conv2d, channels, channels, 3, padding=1), image),
        "KANLinear": (partial(KANLinear, features, 64), row),
        "nn.Linear": (partial(nn.Linear, features, 64), row),
    }
    measured = work.found.setdefault("layers", {})
    for name, (create, shape) in layers.items():
        for dtype in (torch.float32, torch.bfloat16):
            label = f"{name}, {str(dtype).removeprefix('torch.')}"
            if label in measured:
                continue
            if work.seconds_left <= 0:
                return Outcome("cut", f"{len(measured)} of {2 * len(layers)} layers measured")
            x = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
            measured[label] = measure(Contender(name, "convkan", create().to(device, dtype), x, dtype))
            work.note()
    return Outcome("done", f"{len(measured)} layers measured")


def measure(contender: Contender) -> dict[str, int | None]:
    """Bytes of one layer, after a pass in which what is made once was made."""
    passes(contender)["forward+backward"]()
    state = (contender.x, *contender.module.parameters(), *contender.module.buffers())
    return {
        "state_bytes": sum(tensor.nbytes for tensor in state),
        "saved_bytes": saved_bytes(contender),
        "peak_bytes": peak_bytes(contender),
    }
