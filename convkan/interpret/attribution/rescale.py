"""Gradients that are secants: how a difference between two inputs is handed back through a network, without loss."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from convkan.interpret.attribution.transposed import Function, features_of, pull_back, with_adjoint
from convkan.interpret.edges import edges_of
from convkan.nn import KANLayer

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
AFFINE = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d),
)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # affine once their statistics are fixed
ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.GELU, nn.Mish, nn.Softplus),
    *(nn.Sigmoid, nn.Tanh, nn.LogSigmoid, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Tanhshrink),
)
MAX_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)

# From inputs, the baseline's inputs and the multipliers of outputs to the multipliers of inputs.
Rule = Callable[[Tensor, Tensor, Tensor], Tensor]


@contextmanager
def secant_rules(model: nn.Module) -> Iterator[None]:
    """Within, gradients of the model are multipliers: secants between the two halves of the batch it is called with.

    What it computes stays the same. Gradients of the second half are zero.

    Args:
        model: In eval mode. Its nonlinear modules have another ``forward`` for the time.

    Raises:
        TypeError: A module is neither affine nor one with a rule.
    """
    found = dict(_nonlinear(model))
    own: dict[nn.Module, Any] = {module: module.__dict__.get("forward") for module in found}
    try:
        for module, rule in found.items():
            forward = module.forward
            module.__dict__["forward"] = partial(_evaluate, forward=forward, rule=partial(rule, module, forward))
        yield
    finally:
        for module, before in own.items():
            module.__dict__.pop("forward", None)
            if before is not None:
                module.__dict__["forward"] = before


def _nonlinear(module: nn.Module, name: str = "") -> Iterator[tuple[nn.Module, Callable[..., Tensor]]]:
    """The modules that are not affine, each with its rule."""
    if isinstance(module, KANLayer):
        yield module, _edge_secants
    elif isinstance(module, ELEMENTWISE):
        yield module, _secants
    elif isinstance(module, MAX_POOLS) and not module.return_indices:
        yield module, _pool_secants
    elif isinstance(module, AFFINE) or (isinstance(module, BATCH_NORMS) and module.running_mean is not None):
        return
    elif isinstance(module, CONTAINERS) or _is_made_of_others(module):
        for child_name, child in module.named_children():
            yield from _nonlinear(child, f"{name}.{child_name}".lstrip("."))
    else:
        raise TypeError(
            "model must be made of KAN layers, affine layers, elementwise activations and poolings; "
            f"got {type(module).__name__} at {name or 'its root'!r}, for which there is no rule"
        )


def _is_made_of_others(module: nn.Module) -> bool:
    """Whether a module of the user's, or of this library, combines others."""
    return any(True for _ in module.children()) and not type(module).__module__.startswith("torch.nn.modules")


def _evaluate(x: Tensor, *, forward: Function, rule: Rule) -> Tensor:
    evaluated: Tensor = _Ruled.apply(x, forward, rule)
    return evaluated


class _Ruled(torch.autograd.Function):
    """A module whose gradients are the multipliers of a rule; the second half of the batch is the baselines'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Function, rule: Rule) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(x)
        return forward(x.clone())  # which may write to it

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, x0 = ctx.saved_tensors[0].chunk(2)
        multipliers = ctx.rule(x, x0, grads[0][: len(x)])
        return torch.cat([multipliers.to(x.dtype), torch.zeros_like(x0)]), None, None


def _secant(x: Tensor, x0: Tensor, rise: Tensor, slope: Tensor) -> Tensor:
    """rise/(x − x₀); the slope in the middle where the difference would be lost in rounding."""
    step = x - x0
    close = step.abs() <= torch.finfo(x.dtype).eps ** 0.5 * torch.maximum(x.abs(), x0.abs()).clamp_min(1)
    return torch.where(close, slope, rise / torch.where(close, 1, step))


def _secants(module: nn.Module, forward: Function, x: Tensor, x0: Tensor, grad: Tensor) -> Tensor:
    """The rule of an elementwise function."""
    rise = forward(x.clone()) - forward(x0.clone())
    return grad * _secant(x, x0, rise, _derivative(lambda at: forward(at.clone()), (x + x0) / 2))


def _derivative(function: Function, x: Tensor) -> Tensor:
    y, pull = with_adjoint(function, x)
    return pull(torch.ones_like(y))


def _edge_secants(layer: KANLayer, forward: Function, x: Tensor, x0: Tensor, grad: Tensor) -> Tensor:
    """The rule of a KAN layer: each edge has a secant of its own."""
    shape, edges = x.shape, edges_of(layer)
    x, x0, grad = (edges.layer.as_batch(t) for t in (x, x0, grad))
    seen, unpad = with_adjoint(edges.layer.seen, x)
    seen0 = edges.layer.seen(x0)
    middle = (seen + seen0) / 2
    rise = pull_back(
        edges,
        features_of(edges, seen) - features_of(edges, seen0),
        grad,
        lambda function, pick: function(pick(seen)) - function(pick(seen0)),
    )
    slope = pull_back(
        edges,
        features_of(edges, middle, derivative=True),
        grad,
        lambda function, pick: _derivative(function, pick(middle)),
    )
    return unpad(_secant(seen, seen0, rise, slope).to(x.dtype)).reshape(shape)


def _pool_secants(module: nn.Module, forward: Function, x: Tensor, x0: Tensor, grad: Tensor) -> Tensor:
    """The rule of max pooling."""
    module.__dict__["return_indices"] = True
    try:
        (y, index), (y0, index0) = forward(x), forward(x0)
    finally:
        module.__dict__["return_indices"] = False
    space = y.ndim - 2
    chosen = torch.where(y >= y0, index, index0).flatten(-space)
    step = (x - x0).flatten(-space).gather(-1, chosen)
    share = torch.where(step == 0, 1, (y - y0).flatten(-space) / torch.where(step == 0, 1, step))
    multipliers = torch.zeros_like(x).flatten(-space).scatter_add_(-1, chosen, grad.flatten(-space) * share)
    return multipliers.reshape(x.shape)
