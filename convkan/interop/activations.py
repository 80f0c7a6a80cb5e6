"""Learnable activations that start as the activation they stand for."""

import torch
from torch import Tensor, nn

from convkan.basis import Basis
from convkan.interop.plain_activations import base_of, writes_over
from convkan.nn import LearnableActivation, SharedActivation

EXACT = 1e-6  # what a function may be off, beside its size, to pass for the same
POINTS = 400


class WrittenBack(nn.Module):
    """An activation whose output is written over its input, where others read that later, as of ``inplace=True``.

    Args:
        activation: What is computed, of a copy of the input, which it may keep for the backward pass.

    Shape:
        That of the activation, which keeps its input's.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Write ψ(x) over x, and return that."""
        return x.copy_(self.activation(x.clone()))


def learnable(
    module: nn.Module,
    basis: Basis | str,
    *,
    based: bool,
    channels: tuple[int, int] | None,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> LearnableActivation:
    """A learnable activation that starts as ``module``, one of torch's.

    Args:
        module: The activation.
        basis: The univariate basis, or its name.
        based: Take the activation as base, with coefficients 0; else the basis alone starts as it, if it can.
        channels: How many there are and their dimension, for a function each; None for one that all share.
        device: Where its parameters are to live, if the activation has none.
        dtype: Their type, likewise.

    Raises:
        ValueError: The basis does not hold the function.
    """
    slopes = module.weight.detach() if isinstance(module, nn.PReLU) else None
    if slopes is not None:
        device, dtype = slopes.device, slopes.dtype
        if channels is None and len(slopes) > 1:
            channels = len(slopes), 1  # so torch applies them
    base = base_of(module) if based else None
    if channels is None:
        layer: LearnableActivation = SharedActivation(
            writes_over(module), basis=basis, base_activation=base, device=device, dtype=dtype
        )
    else:
        layer = LearnableActivation(
            channels[0],
            dim=channels[1],
            inplace=writes_over(module),
            basis=basis,
            base_activation=base,
            device=device,
            dtype=dtype,
        )
    with torch.no_grad():
        if layer.base_weight is not None:
            layer.base_weight.fill_(1)
        layer.basis_weight.zero_()
        if base is None:
            layer.basis_weight.copy_(_fitted(layer, module))
        elif slopes is not None:  # a·x + (1 − a)·relu(x)
            assert layer.base_weight is not None
            slope = slopes.expand(len(layer.basis_weight)).unsqueeze(1)
            layer.base_weight.copy_(1 - slope)
            layer.basis_weight.copy_(slope * _fitted(layer, nn.Identity()))
    if isinstance(module, nn.PReLU):
        layer.requires_grad_(module.weight.requires_grad)
    return layer.train(module.training)


def _fitted(layer: LearnableActivation, module: nn.Module) -> Tensor:
    """Coefficients of the basis with which every function is ``module``'s, on the grid and far beyond.

    Raises:
        ValueError: There are none.
    """
    grid = None if layer.grid is None else layer.grid[:1].double().cpu()
    low, high = (-4.0, 4.0) if grid is None else (grid.min().item(), grid.max().item())
    reach = high - low
    x = torch.linspace(low - reach, high + reach, POINTS, dtype=torch.float64).unsqueeze(1)
    if grid is not None:  # where pieces meet
        x = torch.cat([x, grid.mT])
    features = layer.plan.expansion.planes(
        x, layer.plan.expansion.knots(grid, 1), derivative=False, differentiable=True
    )
    planes = features.flatten(1)
    slopes = module.weight.detach().double().cpu() if isinstance(module, nn.PReLU) else None
    values = module(x.clone()) if slopes is None else x.clamp_min(0) + slopes * x.clamp_max(0)
    found = torch.linalg.lstsq(planes, values, driver="gelsd").solution
    off = (planes @ found - values).abs().max().item()
    if off > EXACT * values.abs().max().item():
        raise ValueError(
            f"{module} is no function of {layer.basis}: it would be off by {off:.1e}. A basis holds lines, and what is "
            "made of them, if it is a BSpline of order 1 with a knot at each kink and extrapolation='linear'"
        )
    return found.mT.to(layer.basis_weight).expand(len(layer.basis_weight), -1)
