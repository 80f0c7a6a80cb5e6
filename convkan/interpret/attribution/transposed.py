"""What the edges of a layer hand back from its outputs to its inputs: the engine of contributions and secants."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from convkan.basis.functions import get_function
from convkan.interpret.edges import Edges
from convkan.ops.plan import at_least_float32

Function = Callable[[Tensor], Tensor]
# From a named function, and from what picks the inputs of some edges out of all, to a number for each of these inputs.
OfNamed = Callable[[Function, Function], Tensor]


def with_adjoint(function: Function, x: Tensor) -> tuple[Tensor, Function]:
    """f(x), and the transpose of f's derivative there."""
    y, pull = torch.func.vjp(function, x)  # type: ignore[misc]
    return y, lambda weights: pull(weights)[0]


def features_of(
    edges: Edges, seen: Float[Tensor, "batch channels *padded"], *, derivative: bool = False
) -> Float[Tensor, "batch *padded groups features in_per_group"]:
    """All features of padded inputs, or their derivatives."""
    pixels = seen.movedim(1, -1).contiguous()
    features = edges.layer.features(pixels, derivative=derivative, differentiable=False)
    features = features.unflatten(-1, (edges.geometry.groups, -1)).transpose(-2, -3)
    return features.to(at_least_float32(edges.weight).dtype)


def named(name: str, affine: Float[Tensor, "4 *shape"]) -> Function:
    """c·f(a·x + b) + d."""
    a, b, c, d = affine.unbind()
    return lambda x: c * get_function(name).at(a * x + b) + d


def pull_back(
    edges: Edges, features: Tensor, weights: Float[Tensor, "batch out *positions"], of_named: OfNamed
) -> Float[Tensor, "batch channels *padded"]:
    """Σ over the edges that leave each padded input of what the edge makes of it times the weight of its output.

    Args:
        edges: The edges.
        features: What stands for the features of each padded input, shaped as ``features_of`` returns them: features
            for φ itself, or differences or derivatives of features for those of φ.
        weights: One for each output.
        of_named: The same of edges that compute a named function.
    """
    weight = at_least_float32(rearrange(edges.weight, "o c f ... -> o (f c) ..."))
    weights = weights.to(weight.dtype)
    spread, _ = edges.geometry.contract_backward(weights, features, (weight,), True, False)
    assert spread is not None
    parts = (features * spread).sum(-2).flatten(-2).movedim(-1, 1)
    if edges.symbolic is not None and len(edges.symbolic.functions):
        parts = parts.contiguous()
        _add_named(parts, edges, weights, of_named)
    return parts


def _add_named(parts: Tensor, edges: Edges, weights: Tensor, of_named: OfNamed) -> None:
    """Add what edges that compute a named function do, those of one function and tap together."""
    symbolic = edges.symbolic
    assert symbolic is not None
    alike: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    indices = symbolic.edges.tolist()
    for row, (name, (_, _, *tap)) in enumerate(zip(symbolic.functions, indices, strict=True)):
        alike[name, tuple(tap)].append(row)
    for (name, tap), rows in alike.items():
        outputs = torch.tensor([indices[row][0] for row in rows], device=parts.device)
        channels = torch.tensor([edges.channel(*indices[row][:2]) for row in rows], device=parts.device)
        affine = symbolic.affine[rows].to(parts.dtype).T.reshape(4, -1, *(1,) * (parts.ndim - 2))
        space = tuple(parts.shape[2:])
        window = (slice(None), slice(None), *edges.geometry.window(tap, edges.shape[2:], space))
        reached = (slice(None), slice(None), *edges.geometry.reached(tap, edges.shape[2:], space))
        share = of_named(named(name, affine), partial(_pick, window, channels))
        parts[window].index_add_(1, channels, weights[reached].index_select(1, outputs) * share)


def _pick(window: tuple[slice, ...], channels: Tensor, seen: Tensor) -> Tensor:
    """What a tap sees of some channels at all output positions."""
    return seen[window].index_select(1, channels)
