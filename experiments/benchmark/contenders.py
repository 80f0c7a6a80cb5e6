"""How contenders are made: their inputs, modes and knots, and their errors beside the definition."""

from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from convkan.nn import KANLayer
from experiments.benchmark.measure import Contender, Kind, relative_error

# Images whose outputs and gradients are compared with the reference, which needs K·taps times their memory.
CHECKED = 2


def random_input(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers that get a gradient; images with channels innermost."""
    x = torch.randn(*shape, device=device).to(dtype)
    return (x.to(memory_format=torch.channels_last) if x.ndim == 4 else x).requires_grad_()


def channels_last(module: nn.Module, x: Tensor) -> nn.Module:
    """The module where its input ``x`` is, in its precision, and for images with channels innermost."""
    module = module.to(x.device, x.dtype)
    return module.to(memory_format=torch.channels_last) if x.ndim == 4 else module


def _kan_layers(module: nn.Module) -> list[KANLayer]:
    return [layer for layer in module.modules() if isinstance(layer, KANLayer)]


def error_of(module: nn.Module, contender: Contender) -> float:
    """The largest error of outputs and gradients on the first images beside ``module`` by definition, in float64."""
    exact = deepcopy(module).double()
    for layer in _kan_layers(exact):
        layer.backend = "reference"
    few = contender.x[:CHECKED].detach().double().requires_grad_()
    expected = exact(few)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    x = contender.x
    y = contender()
    full = torch.zeros_like(y)
    full[:CHECKED] = grad.to(y.dtype)
    y.backward(full)
    assert x.grad is not None
    assert few.grad is not None
    errors = [relative_error(y[:CHECKED], expected), relative_error(x.grad[:CHECKED], few.grad)]
    for ours, theirs in zip(contender.module.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        errors.append(relative_error(ours.grad, theirs.grad))
    x.grad = None
    contender.module.zero_grad(set_to_none=True)
    return max(errors)


def error_beside(layer: nn.Module, contender: Contender, *, one_weight: bool = False) -> float:
    """The largest error of the output and the input's gradient on the first images beside ``layer`` by definition.

    For what lays its parameters out otherwise. Where ``one_weight`` holds those of the layer one after the other along
    dimension 1, its gradient is compared, too.
    """
    exact = deepcopy(layer).double()
    for each in _kan_layers(exact):
        each.backend = "reference"
    few = contender.x[:CHECKED].detach().double().requires_grad_()
    y, ours = exact(few), contender()
    grad = torch.randn_like(y)
    y.backward(grad)
    full = torch.zeros_like(ours)
    full[:CHECKED] = grad.to(ours.dtype)
    ours.backward(full)
    assert contender.x.grad is not None
    assert few.grad is not None
    errors = [relative_error(ours[:CHECKED], y), relative_error(contender.x.grad[:CHECKED], few.grad)]
    if one_weight:
        (weight,) = contender.module.parameters()
        expected = torch.cat([cast(Tensor, part.grad) for part in exact.parameters()], dim=1)
        errors.append(relative_error(cast(Tensor, weight.grad), expected))
    contender.x.grad = None
    contender.module.zero_grad(set_to_none=True)
    return max(errors)


def in_both_modes(name: str, kind: Kind, module: nn.Module, x: Tensor, **options: Any) -> list[Contender]:
    """The module in eager mode, and compiled as a whole."""
    options.setdefault("error", partial(error_of, module))
    compiled = torch.compile(deepcopy(module), fullgraph=True)
    assert isinstance(compiled, nn.Module)
    return [
        Contender(name, kind, module, x, **options),
        Contender(name, kind, compiled, x, compiled=True, **options),
    ]


def by_definition(module: nn.Module, x: Tensor) -> Contender:
    """The module evaluated as the layers are defined."""
    module = deepcopy(module)
    for layer in _kan_layers(module):
        layer.backend = "reference"
    return Contender("reference", "others, reference", module, x, error=partial(error_of, module))


def with_uneven_knots(module: nn.Module) -> nn.Module:
    """A copy with knots as uneven as those of a grid that followed its data."""
    module = deepcopy(module)
    for layer in _kan_layers(module):
        if layer.grid is not None:
            steps = 0.5 + torch.rand_like(layer.grid)
            span = layer.grid[:, -1:] - layer.grid[:, :1]
            layer.set_grid(layer.grid[:, :1] + span * (steps.cumsum(1) - steps[:, :1]) / steps[:, 1:].sum(1, True))
    return module
