"""A convolution whose taps are known functions, for ``experiments.symbolic`` to find."""

from typing import Any

import torch
from torch import Tensor

from convkan.basis.functions import get_function

KERNEL = 3
# c·f(a·x + b), tap by tap. On [−1, 1] each looks like itself: no other function of the library comes near.
PLANTED: tuple[tuple[str, float, float, float], ...] = (
    ("sin", 3.0, 0.5, 1.0),
    ("x^2", 1.0, 0.0, 2.0),
    ("abs", 1.0, 0.0, 2.0),
    ("tanh", 4.0, 0.0, 1.0),
    ("exp", 1.5, 0.0, 0.6),
    ("gaussian", 2.5, 0.0, 1.5),
    ("x^3", 1.0, 0.0, 1.5),
    ("cos", 5.0, 0.0, 1.0),
    ("log", 1.0, 1.1, 0.8),
)
SAME = ({"sin", "cos"}, {"tanh", "sigmoid"}, {"arcsin", "arccos"})  # but for a shift, or for a, c and d


def planted(tap: int, x: Tensor) -> Tensor:
    """The function of a tap of the convolution to be found."""
    name, a, b, c = PLANTED[tap]
    return c * get_function(name).value(a * x + b)


def noisy_images(images: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Images of uniform noise, and what the planted convolution makes of them, with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(images, 1, 16, 16, generator=generator, dtype=torch.float64) - 1
    size = 16 - KERNEL + 1
    y = torch.zeros(images, 1, size, size, dtype=torch.float64)
    for tap in range(KERNEL**2):
        row, column = divmod(tap, KERNEL)
        y += planted(tap, x[:, :, row : row + size, column : column + size])
    return x, y + noise * y.std() * torch.randn(y.shape, generator=generator, dtype=y.dtype)


def named_right(tap: dict[str, Any]) -> bool:
    """Whether the first suggestion is the planted function, or one that only a, b, c and d tell from it."""
    names = {tap["planted"], tap["suggested"][0]["name"]}
    return len(names) == 1 or any(names <= same for same in SAME)
