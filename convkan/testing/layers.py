"""Small layers of every kind, and what is done with them to see whether two compute the same."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from convkan.nn import (
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANConvTranspose1d,
    KANConvTranspose2d,
    KANConvTranspose3d,
    KANLayer,
    KANLinear,
    LearnableActivation,
    LowRankKANConv2d,
)
from convkan.testing.agreement import assert_agree

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class LayerCase:
    """A layer but for its options, and the shape of an input for it."""

    create: Callable[..., nn.Module]
    shape: tuple[int, ...]

    def __call__(self, **options: Any) -> nn.Module:
        """The layer."""
        return self.create(**options)

    def input(self, dtype: torch.dtype | None = None, scale: float = 1.5, batch: int | None = None) -> Tensor:
        """A random input that also leaves the grid [-1, 1]."""
        shape = self.shape if batch is None else (batch, *self.shape[1:])
        return scale * torch.randn(shape, dtype=dtype)


LAYERS = {
    "linear": LayerCase(partial(KANLinear, 3, 2), (4, 3)),
    "linear-3d-bias": LayerCase(partial(KANLinear, 3, 2, bias=True), (2, 2, 3)),
    "conv1d": LayerCase(partial(KANConv1d, 2, 3, 3, padding=1), (2, 2, 5)),
    "conv2d": LayerCase(partial(KANConv2d, 2, 3, 3, padding=1, bias=True), (2, 2, 4, 4)),
    "conv2d-grouped": LayerCase(
        partial(KANConv2d, 4, 6, (2, 3), stride=(1, 2), padding=(1, 2), dilation=(2, 1), groups=2),
        (2, 4, 5, 4),
    ),
    "conv2d-depthwise": LayerCase(partial(KANConv2d, 3, 6, 3, stride=2, padding=1, groups=3), (2, 3, 5, 5)),
    "conv2d-same": LayerCase(partial(KANConv2d, 2, 2, (2, 4), padding="same", dilation=(1, 2)), (2, 2, 4, 7)),
    "conv2d-pointwise": LayerCase(partial(KANConv2d, 3, 2, 1), (2, 3, 3, 2)),
    "conv2d-reflect": LayerCase(partial(KANConv2d, 1, 2, 3, padding=(1, 2), padding_mode="reflect"), (2, 1, 4, 4)),
    "conv2d-replicate": LayerCase(
        partial(KANConv2d, 2, 1, 3, padding=2, padding_mode="replicate", bias=True), (1, 2, 3, 3)
    ),
    "conv2d-circular": LayerCase(partial(KANConv2d, 2, 2, 3, padding="same", padding_mode="circular"), (2, 2, 3, 4)),
    "conv3d": LayerCase(partial(KANConv3d, 2, 2, (1, 2, 3), padding=(0, 1, 1)), (1, 2, 2, 2, 3)),
    "transposed1d": LayerCase(partial(KANConvTranspose1d, 2, 3, 4, 2, 1), (2, 2, 5)),
    "transposed2d": LayerCase(partial(KANConvTranspose2d, 2, 3, 3, 2, 1, 1, bias=True), (2, 2, 3, 4)),
    "transposed2d-grouped": LayerCase(
        partial(KANConvTranspose2d, 4, 6, (2, 3), (1, 3), (1, 0), (0, 2), groups=2, dilation=(2, 1)), (2, 4, 4, 2)
    ),
    "transposed3d": LayerCase(partial(KANConvTranspose3d, 2, 2, (1, 2, 3), (2, 2, 1), (0, 0, 1)), (1, 2, 2, 2, 3)),
    "activation": LayerCase(partial(LearnableActivation, 3), (2, 3, 2, 2)),
    "activation-2": LayerCase(partial(LearnableActivation, 3, num_functions=2), (4, 3)),
    "lowrank": LayerCase(partial(LowRankKANConv2d, 4, 2, 3, padding=1, groups=2, rank=2, bias=True), (2, 4, 4, 4)),
    "lowrank-reflect": LayerCase(
        partial(LowRankKANConv2d, 2, 2, 3, padding=1, stride=2, padding_mode="reflect"), (2, 2, 4, 4)
    ),
}
# One of each class, for what does not depend on the geometry.
LAYER_CLASSES = {
    name: LAYERS[name] for name in ("linear", "conv1d", "conv2d", "conv3d", "transposed2d", "activation-2", "lowrank")
}


def kan_layers(module: nn.Module) -> list[KANLayer]:
    """All KAN layers in a module, itself included."""
    return [layer for layer in module.modules() if isinstance(layer, KANLayer)]


def with_backend(module: _Module, backend: str) -> _Module:
    """A copy of the module that another backend evaluates."""
    copy = deepcopy(module)
    for layer in kan_layers(copy):
        layer.backend = backend
    return copy


def randomize(module: _Module) -> _Module:
    """Draw all parameters anew, so that none is zero by its initialisation."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.5)
    return module


def make_uneven(module: _Module) -> _Module:
    """Move the knots of every grid, each channel's differently."""
    for layer in kan_layers(module):
        if layer.grid is not None:
            steps = 0.3 + torch.rand(layer.grid.shape, dtype=torch.float64)
            layer.set_grid(-1.7 + 3.4 * steps.cumsum(1) / steps.sum(1, keepdim=True))
            assert not layer.uniform_knots or layer.grid.shape[1] == 2
    return module


def outputs_and_gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of a fixed random functional of it by the input and every parameter."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    functional = torch.randn(y.shape, generator=torch.Generator("cpu").manual_seed(1), device="cpu").to(y)
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(y, (x, *parameters), functional)
    return {"output": y, **dict(zip(("input", *names), gradients, strict=True))}


def assert_same_function(module: nn.Module, other: nn.Module, x: Tensor, factor: float = 1.0) -> None:
    """Raise AssertionError unless both have the same output at ``x``, and the same gradients.

    Args:
        module: What is judged.
        other: What it should compute, with the same parameters.
        x: The input.
        factor: See ``assert_agree``.
    """
    expected = outputs_and_gradients(other, x)
    for name, value in outputs_and_gradients(module, x).items():
        assert_agree(value, expected[name], name, factor)
