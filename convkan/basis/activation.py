"""Base activations b(x): the fixed part of every edge."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import isfinite, pi, sqrt

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


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_tanh_derivative(x: Tensor) -> Tensor:
    # 0.5·x·(1 + tanh u) with u = √(2/π)·(x + 0.044715·x³).
    scale, cubic = sqrt(2 / pi), 0.044715
    tanh = torch.tanh(scale * (x + cubic * x**3))
    return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh.square()) * scale * (1 + 3 * cubic * x.square())


def _hardswish_derivative(x: Tensor) -> Tensor:
    return torch.where(x < -3, 0, torch.where(x <= 3, x / 3 + 0.5, 1))


def _leaky_relu(slope: float) -> Activation:
    """X where it is positive, slope·x elsewhere."""
    return Activation(lambda x: F.leaky_relu(x, slope), lambda x: torch.where(x > 0, torch.ones_like(x), slope))


def _elu(alpha: float) -> Activation:
    """X where it is positive, alpha·(exp(x) − 1) elsewhere."""
    # The exponential is held at 1 where it is not taken: its overflow would be a gradient of NaN.
    return Activation(
        lambda x: F.elu(x, alpha), lambda x: torch.where(x > 0, 1, alpha * torch.exp(torch.where(x > 0, 0, x)))
    )


ACTIVATIONS: dict[str, Activation] = {
    "silu": Activation(F.silu, _silu_derivative),
    "gelu": Activation(F.gelu, _gelu_derivative),
    "relu": Activation(torch.relu, lambda x: (x > 0).to(x.dtype)),
    "tanh": Activation(torch.tanh, _tanh_derivative),
    "sigmoid": Activation(torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x)),
    "softplus": Activation(F.softplus, torch.sigmoid),
    "identity": Activation(lambda x: x, torch.ones_like),
}


# Those that networks have beside the above, which start as KANs in them; see ``convkan.interop.convert``.
NETWORK_ACTIVATIONS: dict[str, Activation] = {
    "relu6": Activation(F.relu6, lambda x: ((x > 0) & (x < 6)).to(x.dtype)),
    "hardswish": Activation(F.hardswish, _hardswish_derivative),
    "gelu_tanh": Activation(_gelu_tanh, _gelu_tanh_derivative),
}
# Likewise those with a parameter, by their names without it.
FAMILIES: dict[str, Callable[[float], Activation]] = {"leaky_relu": _leaky_relu, "elu": _elu}
_MEMBER = re.compile(r"(\w+)\(([^()]+)\)")


def get_activation(name: str | None) -> Activation | None:
    """The activation called ``name``; None stands for an edge without a fixed part.

    Those of ``FAMILIES`` may be named with their parameter: "leaky_relu(0.2)", "elu(0.5)".

    Raises:
        ValueError: No activation has this name; the message lists those there are.
    """
    return None if name is None else named_activation(name, "base_activation", "None or ")


def named_activation(name: str, argument: str, others: str = "") -> Activation:
    """The activation called ``name``, for an argument that must be one, or what ``others`` says.

    Raises:
        ValueError: No activation has this name; the message names the argument and lists those there are.
    """
    found = None
    if isinstance(name, str):
        found = ACTIVATIONS.get(name) or NETWORK_ACTIVATIONS.get(name) or _member(name)
    if found is None:
        names = ", ".join(
            [*sorted(ACTIVATIONS | NETWORK_ACTIVATIONS), *(f"{family}(…)" for family in sorted(FAMILIES))]
        )
        raise ValueError(f"{argument} must be {others}one of {names}; got {name!r}")
    return found


@cache
def _member(name: str) -> Activation | None:
    """Of a family, by its name with a number in brackets."""
    match = _MEMBER.fullmatch(name)
    if match is None or match[1] not in FAMILIES:
        return None
    try:
        parameter = float(match[2])
    except ValueError:
        return None
    return FAMILIES[match[1]](parameter) if isfinite(parameter) else None
