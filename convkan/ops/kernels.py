"""The elementwise work of a layer, in one pass over memory each: compiled where that pays, else as it is written.

``torch.compile`` turns each function here into a loop that reads every pixel once. It does so at the first call with at
least ``MIN_ENTRIES`` numbers to compute, which takes seconds; torch caches the result on disk for later processes.
Where compilation fails, as it does without a C++ compiler, the same function runs as it is written, for the rest of
the process: slower, and equal up to rounding (the logger of this module tells why, at level INFO). So it does once
torch has compiled it for ``torch._dynamo.config.recompile_limit`` situations. Set the environment variable
CONVKAN_COMPILE=0, or use ``compiled_kernels(False)``, to do without compilation; CONVKAN_COMPILE=native leaves those of
``convkan.ops.native``, which come first wherever they cover what is to be computed.

No gradient is taken through these functions, and they are not compiled under a transform or a tracer of torch's,
which must see the operations themselves.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, reduce, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convkan.modes import below_views, is_concrete
from convkan.ops.native import DISABLING_VARIABLE, native_kernels
from convkan.ops.plan import Expansion, at_least_float32

MIN_ENTRIES = 2**18
# A compiled loop takes so many functions one by one, and shares what they have in common; more take long to compile.
MOST_UNROLLED = 16

# Without these torch would store intermediate results that are cheaper to compute again.
# Positions are in range by construction.
OPTIONS: dict[str, Any] = {
    "realize_opcount_threshold": 10_000,
    "realize_reads_threshold": 1_000,
    "assert_indirect_indexing": False,
    "cpp.enable_floating_point_contract_flag": "fast",
}

_enabled = os.environ.get(DISABLING_VARIABLE, "1") not in ("0", "native")
_log = logging.getLogger(__name__)
# The functions that could not be compiled, with what they were to be compiled for.
_failed: set[tuple[Callable[..., Any], Expansion, torch.dtype, str]] = set()
_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def compiled_kernels(enabled: bool) -> Iterator[None]:
    """Allow, or forbid, compiled kernels within a ``with`` block, those of ``convkan.ops.native`` included."""
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        with native_kernels(enabled):
            yield
    finally:
        _enabled = before


def _compiled(
    function: Callable[Concatenate[Tensor, Expansion, _P], _R],
) -> Callable[Concatenate[Tensor, Expansion, _P], _R]:
    """``function`` of (x, expansion, *tensors), compiled once an expansion where x is large."""

    @wraps(function)
    def call(x: Tensor, expansion: Expansion, *others: Any) -> _R:
        # The size is asked last: where it is traced, to ask is to promise that it stays on this side of the limit.
        if not _may_compile(x) or x.numel() * expansion.num_features < MIN_ENTRIES:
            return function(x, expansion, *others)  # type: ignore[call-arg]
        kind = function, expansion, x.dtype, x.device.type
        if kind in _failed:
            return function(x, expansion, *others)  # type: ignore[call-arg]
        try:
            with _same_state(x.device.type):
                return _specialized(*kind)(*_of_any_size(x, *others))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError) as error:
            y = function(x, expansion, *others)  # type: ignore[call-arg]
            _log.info("%s is not compiled for %s, %s: %s", function.__name__, expansion, x.dtype, error)
            _failed.add(kind)
            return y

    return call  # type: ignore[return-value]


@cache
def _specialized(
    function: Callable[..., Any], expansion: Expansion, dtype: torch.dtype, device: str
) -> Callable[..., Any]:
    def run(x: Tensor, *others: Any) -> Any:
        return function(x, expansion, *others)

    # torch.compile counts recompilations, and gives up after a few, by code object: each of these has its own.
    run.__code__ = run.__code__.replace()
    return torch.compile(run, options=OPTIONS)


@contextmanager
def _same_state(device: str) -> Iterator[None]:
    """What torch.compile compiles anew for: modes that make no difference here."""
    with torch.no_grad(), torch.autocast(device, enabled=False), below_views():
        yield


def _of_any_size(*arguments: Any) -> Iterator[Any]:
    """The arguments, the sizes of tensors marked as ones that will differ in other calls."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            argument = argument.detach().resolve_neg()  # of that flag compiled code knows nothing
            for dimension in range(argument.ndim):
                torch._dynamo.maybe_mark_dynamic(argument, dimension)
        yield argument


def _may_compile(x: Tensor) -> bool:
    return _enabled and type(x) is Tensor and is_concrete(x) and torch.amp.is_autocast_available(x.device.type)


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
    fixed, total = expansion.fixed(x, derivative=True), torch.zeros_like(x)
    if fixed is not None:
        total, grad = grad[..., 0, :] * fixed, grad[..., 1:, :]
    slopes = expansion.planes(x, knots, derivative=True, differentiable=False)
    return (total + (grad * slopes).sum(-2)).to(dtype)


@_compiled
def activation(
    x: Float[Tensor, "*batch channels"],
    expansion: Expansion,
    knots: Tensor | None,
    base_weight: Float[Tensor, "functions channels"] | None,
    basis_weight: Float[Tensor, "rows functions channels"],
    dtype: torch.dtype,
) -> Float[Tensor, "*batch functions channels"]:
    """ψ[r,c](x) = w_b·b(x) + Σ_k c_k·B_k(x) for every entry.

    Where few functions are alive at a point, ``basis_weight`` has rows of zeros at both ends, one less than are alive,
    for those functions that ``Basis.alive`` names though they do not exist.
    """
    return _activation(x, expansion, knots, base_weight, basis_weight, derivative=False).to(dtype)


@_compiled
def activation_gradient(
    x: Float[Tensor, "*batch channels"],
    expansion: Expansion,
    knots: Tensor | None,
    base_weight: Float[Tensor, "functions channels"] | None,
    basis_weight: Float[Tensor, "rows functions channels"],
    grad: Float[Tensor, "*batch functions channels"],
) -> Float[Tensor, "*batch channels"]:
    """Gradients with respect to ``activation`` made ones with respect to x: Σ_r grad_r·ψ[r,c]'(x)."""
    slopes = _activation(x, expansion, knots, base_weight, basis_weight, derivative=True)
    return (slopes * grad).sum(-2).to(x.dtype)


def _activation(
    x: Tensor,
    expansion: Expansion,
    knots: Tensor | None,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    derivative: bool,
) -> Tensor:
    x = at_least_float32(x)
    if expansion.few_alive:
        first, values = expansion.basis.alive(x, knots, derivative=derivative, uniform=expansion.uniform)
        y = torch.stack([_look_up(table, first, values) for table in basis_weight.unbind(1)], dim=-2)
    else:
        planes = expansion.planes(x, knots, derivative=derivative, differentiable=False)
        y = _weighted_sum(planes.unsqueeze(-2), basis_weight)
    fixed = expansion.fixed(x, derivative=derivative)
    return y if fixed is None or base_weight is None else y + fixed.unsqueeze(-2) * base_weight


def _weighted_sum(planes: Tensor, weight: Tensor) -> Tensor:
    """Σ_k planes[…, k, :, :]·weight[k]."""
    if _is_unrolled(len(weight)):
        return reduce(torch.add, (plane * row for plane, row in zip(planes.unbind(-3), weight.unbind(0), strict=True)))
    return (planes * weight).sum(-3)


def _is_unrolled(num_functions: int) -> bool:
    return torch.compiler.is_compiling() and num_functions <= MOST_UNROLLED


def _look_up(table: Float[Tensor, "rows channels"], first: Tensor, values: list[Tensor]) -> Tensor:
    """Σ_b table[first + b]·values[b] in every channel, rows counted from that of the first function."""
    table, row = table.expand(*first.shape[:-2], *table.shape), first + (len(values) - 1)
    return sum((value * table.gather(-2, row + b) for b, value in enumerate(values)), start=torch.zeros_like(values[0]))


@_compiled
def activation_sums(
    x: Float[Tensor, "*batch channels"],
    expansion: Expansion,
    knots: Tensor | None,
    grad: Float[Tensor, "*batch functions channels"],
) -> tuple[Float[Tensor, "functions channels"], Float[Tensor, "basis functions channels"]]:
    """Σ grad·b(x), or zeros without b, and Σ grad·B_k(x), over all entries."""
    x = at_least_float32(x)
    grad = grad.to(x.dtype)
    planes = expansion.planes(x, knots, derivative=False, differentiable=False)
    pixels = tuple(range(x.ndim - 1))
    if _is_unrolled(planes.shape[-2]):
        sums = torch.stack([(plane.unsqueeze(-2) * grad).sum(pixels) for plane in planes.unbind(-2)])
    else:
        sums = torch.stack([(planes * part.unsqueeze(-2)).sum(pixels) for part in grad.unbind(-2)], dim=1)
    return _base_sums(x, expansion, grad), sums


def _base_sums(x: Tensor, expansion: Expansion, grad: Tensor) -> Float[Tensor, "functions channels"]:
    fixed = expansion.fixed(x)
    if fixed is None:
        return grad.new_zeros(grad.shape[-2:])
    return (grad * fixed.unsqueeze(-2)).sum(tuple(range(x.ndim - 1)))


@_compiled
def activation_terms(
    x: Float[Tensor, "*batch channels"],
    expansion: Expansion,
    knots: Tensor | None,
    grad: Float[Tensor, "*batch functions channels"],
) -> tuple[
    Float[Tensor, "functions channels"],
    Int[Tensor, "channels pixels"],
    list[Float[Tensor, "functions channels pixels"]],
]:
    """Σ grad·b(x) as above, and for Σ grad·B_k(x) the row of the first function alive, and grad·B for all that are."""
    x = at_least_float32(x)
    grad = grad.to(x.dtype)
    first, values = expansion.basis.alive(x, knots, uniform=expansion.uniform)
    # Contiguous along the pixels of a channel, over which the sums go.
    row = (first + (len(values) - 1)).movedim(-1, 0).flatten(1).contiguous()
    terms = [(grad * value.unsqueeze(-2)).movedim((-2, -1), (0, 1)).flatten(2).contiguous() for value in values]
    return _base_sums(x, expansion, grad), row, terms
