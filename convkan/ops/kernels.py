"""The elementwise work of a layer, in one pass over memory each: compiled where that pays, else as it is written.

``torch.compile`` turns each function here into a loop that reads every pixel once. It is done at the first call with
at least ``MIN_ENTRIES`` numbers to compute, takes seconds, and is cached on disk by torch for later processes. Without a
C++ compiler, or where compilation fails, the same function runs as it is written: slower, and equal up to rounding.
Set the environment variable CONVKAN_COMPILE=0, or use ``compiled_kernels(False)``, to do without compilation.

No gradient is taken through these functions, and they are not compiled under a transform or a tracer of torch's,
which must see the operations themselves.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from convkan.ops.plan import Expansion, at_least_float32

MIN_ENTRIES = 2**18
DISABLING_VARIABLE = "CONVKAN_COMPILE"

_enabled = os.environ.get(DISABLING_VARIABLE, "1") != "0"
_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def compiled_kernels(enabled: bool) -> Iterator[None]:
    """Allow, or forbid, the compilation of kernels within a ``with`` block."""
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


def _compiled(
    function: Callable[Concatenate[Tensor, Expansion, _P], _R],
) -> Callable[Concatenate[Tensor, Expansion, _P], _R]:
    """``function`` of (x, expansion, *tensors), compiled once an expansion where x is large."""

    @cache
    def specialized(expansion: Expansion) -> Callable[..., _R]:
        def run(x: Tensor, *others: Any) -> _R:
            return function(x, expansion, *others)

        # torch.compile counts recompilations, and gives up after a few, by code object: each expansion has its own.
        run.__code__ = run.__code__.replace()
        return torch.compile(run, dynamic=True, fullgraph=True)

    broken = False

    def call(x: Tensor, expansion: Expansion, *others: Any) -> _R:
        nonlocal broken
        if not broken and _enabled and x.numel() * expansion.num_features >= MIN_ENTRIES and _may_compile(x):
            try:
                return specialized(expansion.on_any_range())(x.detach(), *others)
            except (RuntimeError, OSError) as error:
                _log.info("%s runs without being compiled: %s", function.__name__, error)
                broken = True
        return function(x, expansion, *others)

    call.__doc__ = function.__doc__
    return call  # type: ignore[return-value]


def _may_compile(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary tensor, in ordinary execution."""
    return (
        type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and _get_current_dispatch_mode() is None
        and not torch.jit.is_tracing()
    )


@_compiled
def features(
    x: Float[Tensor, "pixels groups channels"], expansion: Expansion, knots: Tensor | None, dtype: torch.dtype
) -> Float[Tensor, "pixels groups features channels"]:
    """The features of every pixel, in ``dtype``."""
    return expansion.features(x, knots, differentiable=False).to(dtype)


@_compiled
def input_gradient(
    x: Float[Tensor, "pixels groups channels"],
    expansion: Expansion,
    knots: Tensor | None,
    grad: Float[Tensor, "pixels groups features channels"],
) -> Float[Tensor, "pixels groups channels"]:
    """Gradients with respect to features made ones with respect to pixels: Σ_f grad_f · feature_f'(x)."""
    dtype, x = x.dtype, at_least_float32(x)
    grad = grad.to(x.dtype)
    total = torch.zeros_like(x)
    if expansion.base is not None:
        total = grad[..., 0, :] * expansion.base.derivative(x)
        grad = grad[..., 1:, :]
    if expansion.by_alive:
        first, slopes = expansion.basis.alive(x, knots, derivative=True)
        last = expansion.basis.num_functions - 1
        for b in range(slopes.shape[-2]):
            position = first + b
            there = grad.gather(-2, position.clamp(0, last).unsqueeze(-2)).squeeze(-2)
            total = total + torch.where((position >= 0) & (position <= last), there * slopes[..., b, :], 0)
    else:
        slopes = expansion.planes(x, knots, derivative=True, differentiable=False)
        total = total + (grad * slopes).sum(-2)
    return total.to(dtype)


@_compiled
def activation(
    x: Float[Tensor, "batch space channels"],
    expansion: Expansion,
    knots: Tensor | None,
    base_weight: Float[Tensor, "functions channels"] | None,
    basis_weight: Float[Tensor, "basis functions channels"],
    dtype: torch.dtype,
    derivative: bool,
) -> Float[Tensor, "batch space functions channels"]:
    """ψ[r,c](x) = w_b·b(x) + Σ_k c_k·B_k(x) for every entry, or its derivative by x."""
    x = at_least_float32(x)
    if expansion.few_alive:
        first, values = expansion.basis.alive(x, knots, derivative=derivative, uniform=expansion.uniform)
        margin, channels = values.shape[-2] - 1, torch.arange(x.shape[-1], device=x.device)
        # Functions that do not exist have rows of zeros at both ends.
        table = torch.nn.functional.pad(basis_weight, (0, 0, 0, 0, margin, margin)).movedim(1, -1)
        y = torch.zeros_like(x).unsqueeze(-1)
        for b in range(margin + 1):
            y = y + values[..., b, :].unsqueeze(-1) * table[first + (margin + b), channels]
        y = y.mT
    else:
        planes = expansion.planes(x, knots, derivative=derivative, differentiable=False)
        y = (planes.unsqueeze(-2) * basis_weight).sum(-3)
    if expansion.base is not None:
        fixed = expansion.base.derivative(x) if derivative else expansion.base.value(x)
        y = y + fixed.unsqueeze(-2) * base_weight
    return y.to(dtype)


@_compiled
def activation_sums(
    x: Float[Tensor, "batch space channels"],
    expansion: Expansion,
    knots: Tensor | None,
    grad: Float[Tensor, "batch space functions channels"],
) -> tuple[Float[Tensor, "functions channels"], Float[Tensor, "basis functions channels"]]:
    """Σ grad·b(x) and Σ grad·B_k(x), over batch and space."""
    x = at_least_float32(x)
    grad = grad.to(x.dtype)
    fixed = x if expansion.base is None else expansion.base.value(x)
    planes = expansion.planes(x, knots, derivative=False, differentiable=False)
    by_function = [(planes * part.unsqueeze(-2)).sum((0, 1)) for part in grad.unbind(-2)]
    return (grad * fixed.unsqueeze(-2)).sum((0, 1)), torch.stack(by_function, dim=1)


@_compiled
def activation_terms(
    x: Float[Tensor, "batch space channels"],
    expansion: Expansion,
    knots: Tensor | None,
    grad: Float[Tensor, "batch space functions channels"],
) -> tuple[
    Float[Tensor, "functions channels"],
    Int[Tensor, "channels terms"],
    Float[Tensor, "functions channels terms"],
]:
    """Σ grad·b(x), and what is to be summed by position for Σ grad·B_k(x): positions from 1 − alive on, and terms."""
    x = at_least_float32(x)
    grad = grad.to(x.dtype)
    fixed = x if expansion.base is None else expansion.base.value(x)
    first, values = expansion.basis.alive(x, knots, uniform=expansion.uniform)
    alive = range(values.shape[-2])
    positions = torch.stack([(first + b).movedim(-1, 0).flatten(1) for b in alive], dim=1).flatten(1)
    terms = [
        torch.stack([(part * values[..., b, :]).movedim(-1, 0).flatten(1) for b in alive], dim=1).flatten(1)
        for part in grad.unbind(-2)
    ]
    return (grad * fixed.unsqueeze(-2)).sum((0, 1)), positions, torch.stack(terms)
