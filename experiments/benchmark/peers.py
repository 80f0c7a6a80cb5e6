"""Other libraries' layers, with the weights of ours."""

from copy import deepcopy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from convkan import KANLinear
from convkan.basis import BSpline
from experiments.benchmark.contenders import CHECKED
from experiments.benchmark.measure import Contender, relative_error


def peers(layer: KANLinear, x: Tensor, notes: list[str]) -> list[Contender]:
    """Other libraries' layers with the weights of ``layer``, those that are installed."""
    found = []
    for package, build in (("inkan", _inkan), ("kan", _pykan)):
        try:
            module = build(import_module(package), layer).to(x.device)
        except ImportError:
            notes.append(
                f"{package} is not installed: skipped (pip install {'pykan' if package == 'kan' else package})"
            )
            continue

        def error(contender: Contender) -> float:
            """By output and input gradient: parameters are laid out otherwise."""
            few = x[:CHECKED].detach().double().requires_grad_()
            exact = deepcopy(layer).double()
            y, ours = exact(few), contender()
            grad = torch.randn_like(y)
            (expected,) = torch.autograd.grad(y, few, grad)
            (actual,) = torch.autograd.grad(ours[:CHECKED], contender.x, grad.to(ours.dtype))
            return max(relative_error(ours[:CHECKED], y), relative_error(actual[:CHECKED], expected))

        found.append(Contender("pykan" if package == "kan" else package, "others, reference", module, x, error=error))
    return found


def _inkan(package: Any, layer: KANLinear) -> nn.Module:
    assert isinstance(layer.basis, BSpline)
    assert layer.base_weight is not None
    module: nn.Module = package.KANLayer(layer.in_features, layer.out_features, layer.basis.grid_size)
    with torch.no_grad():
        module.weight.copy_(torch.cat([layer.coefficients.flatten(1), layer.base_weight], dim=1))  # type: ignore[operator]
    return module


def _pykan(package: Any, layer: KANLinear) -> nn.Module:
    assert isinstance(layer.basis, BSpline)
    assert layer.base_weight is not None
    module: nn.Module = package.KANLayer(
        layer.in_features, layer.out_features, layer.basis.grid_size, layer.basis.order
    )
    with torch.no_grad():
        module.grid.copy_(layer.grid)  # type: ignore[operator, arg-type]
        module.coef.copy_(layer.coefficients.movedim(0, 1))  # type: ignore[operator]
        module.scale_base.copy_(layer.base_weight.mT)  # type: ignore[operator]
        module.scale_sp.fill_(1)  # type: ignore[operator]
        module.mask.fill_(1)  # type: ignore[operator]
    return module
