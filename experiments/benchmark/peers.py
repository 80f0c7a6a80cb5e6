"""Other libraries' layers, with the weights of ours."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from convkan import KANLinear
from convkan.basis import BSpline
from experiments.benchmark.contenders import error_beside
from experiments.benchmark.measure import Contender

# Numbers that a layer may make of one input for torchcurves, which has every function's every output in memory.
MOST_NUMBERS = 2**27


@dataclass(frozen=True)
class Peer:
    """Another library's layer.

    Attributes:
        name: As PyPI calls it.
        module: As it is imported.
        build: The layer in it, with the weights of ours.
        like: The layer of ours that computes the same as the peer, where it knows no other function.
    """

    name: str
    module: str
    build: Callable[[Any, KANLinear], nn.Module]
    like: Callable[[KANLinear], KANLinear] = lambda layer: layer


def peers(
    layer: KANLinear, x: Tensor, notes: list[str], names: tuple[str, ...] = ("inkan", "pykan")
) -> list[Contender]:
    """Other libraries' layers with the weights of ``layer``, those that are installed and take its size."""
    found = []
    for peer in PEERS:
        if peer.name not in names:
            continue
        try:
            package = import_module(peer.module)
        except ImportError:
            notes.append(f"{peer.name} is not installed: skipped (pip install {peer.name})")
            continue
        assert isinstance(layer.basis, BSpline)
        numbers = x.shape[0] * layer.in_features * layer.out_features * (layer.basis.order + 1)
        if peer.name == "torchcurves" and numbers > MOST_NUMBERS:
            notes.append(f"torchcurves: skipped, it would hold {numbers:,} numbers at once")
            continue
        same = peer.like(layer).to(x.device)
        if same.basis != layer.basis:
            notes.append(f"{peer.name} computes another function, {same.basis} alone, and is checked beside that")
        module = peer.build(package, same).to(x.device)
        found.append(Contender(peer.name, "others, reference", module, x, error=partial(error_beside, same)))
    return found


def _inkan(package: Any, layer: KANLinear) -> nn.Module:
    basis, base_weight = _parts(layer)
    module: nn.Module = package.KANLayer(layer.in_features, layer.out_features, basis.grid_size)
    with torch.no_grad():
        module.weight.copy_(torch.cat([layer.coefficients.flatten(1), base_weight], dim=1))  # type: ignore[operator]
    return module


def _flashkan(package: Any, layer: KANLinear) -> nn.Module:
    basis, base_weight = _parts(layer)
    module: nn.Module = package.KANLayer(
        layer.in_features, layer.out_features, basis.grid_size, basis.order, grid_range=basis.grid_range
    )
    with torch.no_grad():
        module.spline_weight.copy_(layer.coefficients)  # type: ignore[operator]
        module.base_weight.copy_(base_weight)  # type: ignore[operator]
    return module


def _pykan(package: Any, layer: KANLinear) -> nn.Module:
    basis, base_weight = _parts(layer)
    module: nn.Module = package.KANLayer(layer.in_features, layer.out_features, basis.grid_size, basis.order)
    with torch.no_grad():
        module.grid.copy_(layer.grid)  # type: ignore[operator, arg-type]
        module.coef.copy_(layer.coefficients.movedim(0, 1))  # type: ignore[operator]
        module.scale_base.copy_(base_weight.mT)  # type: ignore[operator]
        module.scale_sp.fill_(1)  # type: ignore[operator]
        module.mask.fill_(1)  # type: ignore[operator]
    return module


def _parts(layer: KANLinear) -> tuple[BSpline, Tensor]:
    assert isinstance(layer.basis, BSpline)
    assert layer.base_weight is not None
    return layer.basis, layer.base_weight


def _kanditioned(package: Any, layer: KANLinear) -> nn.Module:
    assert isinstance(layer.basis, BSpline)
    low, high = layer.basis.grid_range
    module: nn.Module = package.KANLayer(
        layer.in_features,
        layer.out_features,
        init="zero",
        num_control_points=layer.basis.num_functions,
        spline_width=high - low,
        impl="embedding_bag",
    )
    with torch.no_grad():
        module.kan_weight.copy_(layer.coefficients.permute(1, 2, 0))  # type: ignore[operator]
    return module


def _lines(layer: KANLinear) -> KANLinear:
    """Straight pieces that go on beyond the grid, as many functions as in ``layer``, and no base activation."""
    assert isinstance(layer.basis, BSpline)
    basis = BSpline(layer.basis.num_functions - 1, 1, layer.basis.grid_range, extrapolation="linear")
    return KANLinear(layer.in_features, layer.out_features, basis=basis, base_activation=None)


def _torchcurves(package: Any, layer: KANLinear) -> nn.Module:
    assert layer.grid is not None
    assert isinstance(layer.basis, BSpline)
    curves = package.BSplineCurve(
        layer.in_features,
        layer.out_features,
        layer.basis.order,
        layer.grid[0],
        input_map=lambda x, low, high: x.clamp(low, high),
    )
    with torch.no_grad():
        curves.control_points.copy_(layer.coefficients.permute(1, 2, 0))
    return nn.Sequential(curves, package.Sum())


def _held(layer: KANLinear) -> KANLinear:
    """The same splines, which keep their value beyond the grid, without a base activation."""
    assert isinstance(layer.basis, BSpline)
    basis = BSpline(layer.basis.grid_size, layer.basis.order, layer.basis.grid_range, extrapolation="clamp")
    return KANLinear(layer.in_features, layer.out_features, basis=basis, base_activation=None)


PEERS = (
    Peer("inkan", "inkan", _inkan),
    Peer("flashkan", "flashkan", _flashkan),
    Peer("kanditioned", "KANditioned", _kanditioned, _lines),
    Peer("torchcurves", "torchcurves", _torchcurves, _held),
    Peer("pykan", "kan", _pykan),
)
