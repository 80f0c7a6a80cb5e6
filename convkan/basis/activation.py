"""Base activations b(x): the fixed part of every edge."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """An elementwise function and its first derivative, both differentiable by autograd."""

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]


def _silu_derivative(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 + x * torch.sigmoid(-x))


def _gelu_derivative(x: Tensor) -> Tensor:
    # exp(−x²/2)/√(2π), the normal density, beside its distribution function, by erf as in torch (erfc is slower).
    return 0.5 * (1 + torch.erf(x / sqrt(2))) + x * torch.exp(-0.5 * x.square()) / sqrt(2 * pi)


def _tanh_derivative(x: Tensor) -> Tensor:
    return 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)


ACTIVATIONS: dict[str, Activation] = {
    "silu": Activation(F.silu, _silu_derivative),
    "gelu": Activation(F.gelu, _gelu_derivative),
    "relu": Activation(torch.relu, lambda x: (x > 0).to(x.dtype)),
    "tanh": Activation(torch.tanh, _tanh_derivative),
    "sigmoid": Activation(torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x)),
    "softplus": Activation(F.softplus, torch.sigmoid),
    "identity": Activation(lambda x: x, torch.ones_like),
}


def get_activation(name: str | None) -> Activation | None:
    """The activation called ``name``; None stands for an edge without a fixed part.

    Raises:
        ValueError: No activation has this name; the message lists those there are.
    """
    if name is None:
        return None
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"base_activation must be None or one of {', '.join(sorted(ACTIVATIONS))}; got {name!r}")
    return ACTIVATIONS[name]
