"""Small KANs and MLPs in float64."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from convkan import KANLinear
from convkan.basis import Basis, BSpline

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "silu": nn.SiLU, "relu": nn.ReLU}


def kan(
    widths: Sequence[int], grid_size: int, grid_range: tuple[float, float] = (-1.0, 1.0), order: int = 3
) -> nn.Sequential:
    """A KAN of dense layers in float64, linear beyond its grids so that nothing is lost there."""
    return kan_of_basis(widths, BSpline(grid_size, order, grid_range, extrapolation="linear"))


def kan_of_basis(widths: Sequence[int], basis: Basis) -> nn.Sequential:
    """A KAN of dense layers in float64."""
    return nn.Sequential(
        *(KANLinear(before, after, basis=basis, dtype=torch.float64) for before, after in pairwise(widths))
    )


def mlp(inputs: int, outputs: int, hidden: Sequence[int], activation: str) -> nn.Sequential:
    """A multilayer perceptron in float64, its weights drawn for unit variance."""
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *hidden]):
        layers += [nn.Linear(before, after, dtype=torch.float64), ACTIVATIONS[activation]()]
    layers.append(nn.Linear(hidden[-1] if hidden else inputs, outputs, dtype=torch.float64))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
    return nn.Sequential(*layers)


def mlp_of_size(inputs: int, outputs: int, depth: int, activation: str, parameters: int) -> nn.Sequential:
    """The MLP of ``depth`` equal hidden layers whose number of parameters comes closest."""

    def size(width: int) -> int:
        return (inputs + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * outputs

    width = min(range(1, parameters + 2), key=lambda width: abs(size(width) - parameters))
    return mlp(inputs, outputs, [width] * depth, activation)
