"""New knots for a layer, and the coefficients of the same functions on them. All of it in float64, on the CPU."""

from dataclasses import dataclass
from math import prod

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import GriddedBasis
from convkan.grid.inputs import Summary, on_host
from convkan.grid.knots import (
    GridFunctions,
    between,
    change_of,
    distinct,
    fitting,
    in_parts,
    quadrature,
    ratio,
    split,
)
from convkan.nn import KANLayer

LEAST_WEIGHT = 1e-6  # of points between the data, beside those of the data


@dataclass(frozen=True)
class Refinement:
    """A finer grid for a layer.

    Attributes:
        of: The knots it divides.
        basis: The basis on it.
        knots: Its knots.
        places: Sorted places, knots among them, between which functions are to be kept.
        nested: Whether it has all knots of the old one, so that they are kept exactly.
    """

    of: Float[Tensor, "channels knots"]
    basis: GriddedBasis
    knots: Float[Tensor, "channels new_knots"]
    places: Float[Tensor, "channels places"]
    nested: bool


def refined_knots(layer: KANLayer, grid_size: int, keep_beyond: bool) -> Refinement:
    """What ``refine_grid`` makes of the layer's grid."""
    basis = spline_of(layer)
    new_basis = basis.with_grid_size(grid_size)
    knots, uniform = effective_knots(layer), layer.uniform_knots
    inner = basis.grid_points(knots)
    nested = grid_size % basis.grid_size == 0 or (grid_size > basis.grid_size and not uniform)
    if nested:
        new_inner = split(inner, grid_size)
    else:
        steps = torch.linspace(0, 1, grid_size + 1, dtype=knots.dtype, device=knots.device)
        position = steps * basis.grid_size
        left = position.floor().long().clamp_max(basis.grid_size - 1)
        new_inner = inner[:, left] + (position - left) * (inner[:, left + 1] - inner[:, left])
    keep_beyond = keep_beyond and basis.lives_beyond
    if keep_beyond:
        new_knots = new_basis.extended(new_inner, beyond=knots)
    elif uniform:
        new_knots = new_basis.spaced_knots(inner[:, 0], inner[:, -1])
    else:
        new_knots = new_basis.extended(new_inner)
    assert layer.grid is not None
    dtype = layer.grid.dtype
    new_knots = new_knots.to(dtype).double()
    if not bool((new_basis.grid_points(new_knots).diff(dim=1) > 0).all()):
        raise ValueError(f"grid_size {grid_size} is finer than {dtype} can tell knots apart")
    places = new_knots if keep_beyond else new_inner
    if not nested:  # else all others are among them, and would count twice
        places = torch.cat([knots if keep_beyond else inner, places], dim=1).sort(dim=1).values
    return Refinement(knots, new_basis, new_knots, places, nested)


def divide_grid(layer: KANLayer, finer: Refinement) -> float:
    """Give the layer this grid, keeping its functions; their relative change."""
    layer.check_own_weights()
    basis, knots = spline_of(layer), effective_knots(layer)
    nested = finer.nested and torch.equal(knots, finer.of)
    channels = 1 if _all_alike(knots, finer.knots, finer.places) else len(knots)
    points, weights = quadrature(finer.places[:channels], basis.degree)
    parts = []
    for part in in_parts(channels, points.shape[1] * finer.basis.num_functions * 8):
        before, after = knots[:channels][part], finer.knots[:channels][part]
        change = basis.insertion(before, finer.basis, after) if nested else None
        if change is None:
            change = fitting(basis, before, finer.basis, after, points[part], weights[part])
        parts.append(change)
    return _change_knots(layer, finer.basis, finer.knots, torch.cat(parts), points, weights)


def move_grid(layer: KANLayer, new_knots: Float[Tensor, "channels knots"], summary: Summary) -> float:
    """Give the layer these knots, keeping its functions where inputs are; their relative change there."""
    layer.check_own_weights()
    basis, knots = spline_of(layer), effective_knots(layer)
    ends = new_knots if basis.lives_beyond else torch.stack(basis.ends(new_knots), dim=1)
    filling = between(ends[:, [0, -1]], 4 * new_knots.shape[1])
    points = torch.cat([summary.points, filling], dim=1)
    weights = torch.cat(
        [
            torch.full_like(summary.points, 1 / summary.points.shape[1]),
            torch.full_like(filling, LEAST_WEIGHT / filling.shape[1]),
        ],
        dim=1,
    )
    parts = [
        fitting(basis, knots[part], basis, new_knots[part], points[part], weights[part])
        for part in in_parts(len(knots), points.shape[1] * basis.num_functions * 8)
    ]
    change = torch.cat(parts)
    if knots.shape == new_knots.shape:
        kept = (new_knots == knots).all(1)
        change[kept] = torch.eye(basis.num_functions, dtype=change.dtype, device=change.device)
    return _change_knots(layer, basis, new_knots, change, summary.points, torch.ones_like(summary.points))


def adapted_knots(layer: KANLayer, summary: Summary, grid_eps: float, margin: float) -> Float[Tensor, "channels knots"]:
    """Where ``adapt_grid`` moves the layer's knots for inputs of this summary."""
    basis, chosen = spline_of(layer), effective_knots(layer)
    assert layer.grid is not None
    span = summary.high - summary.low
    low, high = summary.low - margin * span, summary.high + margin * span
    even = basis.grid_points(basis.spaced_knots(low, high))
    uneven = summary.quantiles(basis.grid_size + 1)
    uneven = torch.cat([low.unsqueeze(1), uneven[:, 1:-1], high.unsqueeze(1)], dim=1)
    mixed = even if grid_eps == 1 else grid_eps * even + (1 - grid_eps) * uneven
    # Where inputs coincide, or the dtype is coarse, more of the even knots is mixed in, until all are distinct.
    for inner in (even, (even + mixed) / 2, mixed):
        candidate = basis.spaced_knots(low, high) if inner is even else basis.extended(inner)
        candidate = candidate.to(layer.grid.dtype).double()
        chosen = torch.where(distinct(candidate).unsqueeze(1), candidate, chosen)
    return chosen


def _change_knots(
    layer: KANLayer,
    new_basis: GriddedBasis,
    new_knots: Float[Tensor, "channels knots"],
    change: Float[Tensor, "channels new_functions functions"],
    points: Float[Tensor, "channels points"],
    weights: Float[Tensor, "channels points"],
) -> float:
    """Give the layer other knots and coefficients; the relative change of its functions at weighted points.

    Where all channels have the same knots, ``change``, ``points`` and ``weights`` may be given for one of them.
    """
    basis, knots, groups = spline_of(layer), effective_knots(layer), layer.num_groups
    outputs, _, *kernel = layer.edge_shape
    together = len(change) == 1
    old = _by_channel(layer.coefficients, groups, together)
    new = (change @ old).to(layer.basis_weight.dtype)
    base = None
    if layer.base_weight is not None:
        base = _by_channel(layer.by_output(layer.base_weight).unsqueeze(2), groups, together)
    before = GridFunctions(basis, knots[: len(change)], old)
    after = GridFunctions(new_basis, new_knots[: len(change)], new.double())
    moved, whole = change_of(before, after, layer.plan.expansion.base, base, points, weights)
    weight = new.reshape(*new.shape[:2], -1, outputs // groups, prod(kernel))
    pattern = "1 k (g c) o t -> (g o) (k c) t" if together else "(g c) k 1 o t -> (g o) (k c) t"
    weight = rearrange(weight, pattern, g=groups).reshape(outputs, -1, *kernel)
    layer.respline(new_basis, new_knots, layer.as_stored(weight))
    return ratio(moved, whole)


def _by_channel(
    coefficients: Float[Tensor, "out in_per_group functions *kernel"], groups: int, together: bool
) -> Float[Tensor, "channels functions edges"]:
    """The coefficients of all edges that start from a channel; ``together``, of all there are, as if from one."""
    pattern = "(g o) c k t -> 1 k (g c o t)" if together else "(g o) c k t -> (g c) k (o t)"
    taps = prod(coefficients.shape[3:])
    return rearrange(on_host(coefficients).reshape(*coefficients.shape[:3], taps), pattern, g=groups)


def _all_alike(*tensors: Float[Tensor, "channels knots"]) -> bool:
    return all(bool((tensor == tensor[0]).all()) for tensor in tensors)


def effective_knots(layer: KANLayer) -> Float[Tensor, "channels knots"]:
    """The knots that the layer computes with, in float64."""
    basis = spline_of(layer)
    assert layer.grid is not None
    grid = on_host(layer.grid)
    return basis.spaced_knots(*basis.ends(grid)) if layer.uniform_knots else grid


def spline_of(layer: nn.Module) -> GriddedBasis:
    """The layer's basis; raises TypeError if it has no grid."""
    if not isinstance(layer, KANLayer):
        raise TypeError(f"layer must be a KAN layer, got {type(layer).__name__}")
    if not isinstance(layer.basis, GriddedBasis) or layer.grid is None:
        raise TypeError(f"a {type(layer.basis).__name__} basis has no grid")
    return layer.basis
