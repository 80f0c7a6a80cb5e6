"""Grids of single layers: how they cover inputs, moved to them, made finer."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from convkan.basis import BSpline
from convkan.basis.bspline import uniform_knots
from convkan.grid.inputs import Summary, gathered, inputs_of, on_host
from convkan.grid.knots import between, distinct, extended, fitting, functions_at, insertion, quadrature, split
from convkan.nn import KANLayer, LowRankKANConv2d

LEAST_WEIGHT = 1e-6  # of points between the data, beside those of the data
BYTES_AT_A_TIME = 256 * 2**20


@torch.no_grad()
def coverage(layer: nn.Module, x: Tensor) -> Float[Tensor, " channels"]:
    """The share of the inputs of each channel that lie off its grid, where the spline no longer follows them.

    Args:
        layer: A KAN layer on splines.
        x: Inputs, as the layer is called with; padding is counted too.

    Returns:
        The shares, in float64 on the CPU.

    Raises:
        TypeError: The layer's basis has no grid.
    """
    holder = _functions_of(layer)
    samples = inputs_of(holder, x)
    return on_host(outside(holder, samples).sum(1)) / samples.shape[1]


def outside(layer: KANLayer, samples: Float[Tensor, "channels samples"]) -> Bool[Tensor, "channels samples"]:
    """Which inputs lie off the layer's grid."""
    assert layer.grid is not None
    dtype = torch.promote_types(samples.dtype, layer.grid.dtype)
    low, high = (end.to(dtype).to(samples.device) for end in spline_of(layer).ends(effective_knots(layer)))
    return (samples.to(dtype) < low.unsqueeze(1)) | (samples.to(dtype) > high.unsqueeze(1))


@torch.no_grad()
def adapt_grid(layer: nn.Module, x: Tensor, *, grid_eps: float = 0.05, margin: float = 0.01) -> float:
    """Move each channel's knots to where its inputs are, in place, keeping the function as closely as they allow.

    Knots divide the inputs evenly, mixed with a share ``grid_eps`` of equally spaced ones. A channel whose inputs are
    all the same, or so close that the grid's dtype cannot tell knots between them apart, keeps its grid. In several
    processes of ``torch.distributed`` all end with the same grid, that of all their inputs. Source: Liu et al., "KAN"
    (arXiv 2404.19756), app. on grid updates; mixing as in pykan's ``grid_eps``.

    Args:
        layer: A KAN layer on splines.
        x: Inputs, as the layer is called with.
        grid_eps: 1 spaces knots equally over the inputs' range, which keeps the closed form; 0 follows the data alone.
        margin: Share of the range that the grid extends beyond it on each side.

    Returns:
        The relative change of the layer's output on ``x``: ‖after − before‖/‖before‖.

    Raises:
        TypeError: The layer's basis has no grid.
        ValueError: Inputs are empty or not finite, or ``grid_eps`` or ``margin`` out of range.
        RuntimeError: Coefficients are not the layer's own parameter but computed from others.
    """
    holder = _functions_of(layer)
    spline_of(holder)
    check_mix(grid_eps, margin)
    holder.check_own_weights()
    before = on_host(layer(x))
    summary = gathered(Summary.of(inputs_of(holder, x)))
    move_grid(holder, adapted_knots(holder, summary, grid_eps, margin), summary)
    return _ratio((on_host(layer(x)) - before).norm().item(), before.norm().item())


@torch.no_grad()
def refine_grid(layer: nn.Module, grid_size: int, *, keep_beyond: bool = True) -> float:
    """Divide the layer's grid into ``grid_size`` intervals, in place, keeping its functions.

    Exact, to rounding, where the new knots contain the old: on an equally spaced grid for a multiple of its size, on
    another for any larger one. Otherwise functions are fitted. ``basis_weight`` becomes a new parameter: give it to
    optimisers, or use ``refine_grids``.

    Args:
        layer: A KAN layer on splines.
        grid_size: Intervals of the new grid.
        keep_beyond: With extrapolation "zero", leave the knots beyond the ends where they are, so that functions are
            kept there too; knots are then no longer equally spaced, and the layer is slower for want of the closed
            form. False lays them out anew, in the steps of the new grid: on the grid nothing changes by it, beyond its
            ends functions fall to zero within fewer units of the input. Other extrapolations need no knots there.

    Returns:
        The relative change of the layer's functions, over all edges: ‖after − before‖/‖before‖ at points of the grid,
        and beyond it if that is kept.

    Raises:
        TypeError: The layer's basis has no grid, or ``grid_size`` is not an integer.
        ValueError: ``grid_size`` is below 1, or the grid's dtype cannot tell so many knots apart.
        RuntimeError: Coefficients are not the layer's own parameter but computed from others.
    """
    holder = _functions_of(layer)
    return divide_grid(holder, refined_knots(holder, grid_size, keep_beyond))


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
    basis: BSpline
    knots: Float[Tensor, "channels new_knots"]
    places: Float[Tensor, "channels places"]
    nested: bool


def refined_knots(layer: KANLayer, grid_size: int, keep_beyond: bool) -> Refinement:
    """What ``refine_grid`` makes of the layer's grid."""
    basis = spline_of(layer)
    new_basis = replace(basis, grid_size=grid_size)
    knots, uniform = effective_knots(layer), layer.uniform_knots
    inner = knots[:, basis.order : knots.shape[1] - basis.order]
    nested = grid_size % basis.grid_size == 0 or (grid_size > basis.grid_size and not uniform)
    if nested:
        new_inner = split(inner, grid_size)
    else:
        steps = torch.linspace(0, 1, grid_size + 1, dtype=knots.dtype)
        position = steps * basis.grid_size
        left = position.floor().long().clamp_max(basis.grid_size - 1)
        new_inner = inner[:, left] + (position - left) * (inner[:, left + 1] - inner[:, left])
    keep_beyond = keep_beyond and basis.extrapolation == "zero"
    if keep_beyond:
        tails = knots[:, : basis.order], knots[:, knots.shape[1] - basis.order :]
        new_knots = torch.cat([tails[0], new_inner, tails[1]], dim=1)
    elif uniform:
        new_knots = uniform_knots(inner[:, 0], inner[:, -1], grid_size, basis.order)
    else:
        new_knots = extended(new_inner, basis.order)
    assert layer.grid is not None
    dtype = layer.grid.dtype
    new_knots = new_knots.to(dtype).double()
    if not bool((new_knots.diff(dim=1)[:, basis.order : basis.order + grid_size] > 0).all()):
        raise ValueError(f"grid_size {grid_size} is finer than {dtype} can tell knots apart")
    places = torch.cat([knots, new_knots] if keep_beyond else [inner, new_inner], dim=1).sort(dim=1).values
    return Refinement(knots, new_basis, new_knots, places, nested)


def divide_grid(layer: KANLayer, finer: Refinement) -> float:
    """Give the layer this grid, keeping its functions; their relative change."""
    layer.check_own_weights()
    basis, knots = spline_of(layer), effective_knots(layer)
    nested = finer.nested and torch.equal(knots, finer.of)
    points, weights = quadrature(finer.places, basis.order)
    parts = []
    for part in _in_parts(len(knots), points.shape[1] * finer.basis.num_functions * 8):
        if nested:
            parts.append(insertion(basis, knots[part], finer.basis, finer.knots[part]))
        else:
            parts.append(fitting(basis, knots[part], finer.basis, finer.knots[part], points[part], weights[part]))
    return _change_knots(layer, finer.basis, finer.knots, torch.cat(parts), points, weights)


def move_grid(layer: KANLayer, new_knots: Float[Tensor, "channels knots"], summary: Summary) -> float:
    """Give the layer these knots, keeping its functions where inputs are; their relative change there."""
    layer.check_own_weights()
    basis, knots = spline_of(layer), effective_knots(layer)
    ends = new_knots if basis.extrapolation == "zero" else torch.stack(basis.ends(new_knots), dim=1)
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
        for part in _in_parts(len(knots), points.shape[1] * basis.num_functions * 8)
    ]
    change = torch.cat(parts)
    if knots.shape == new_knots.shape:
        kept = (new_knots == knots).all(1)
        change[kept] = torch.eye(basis.num_functions, dtype=change.dtype)
    return _change_knots(layer, basis, new_knots, change, summary.points, torch.ones_like(summary.points))


def adapted_knots(layer: KANLayer, summary: Summary, grid_eps: float, margin: float) -> Float[Tensor, "channels knots"]:
    """Where ``adapt_grid`` moves the layer's knots for inputs of this summary."""
    basis, chosen = spline_of(layer), effective_knots(layer)
    assert layer.grid is not None
    span = summary.high - summary.low
    low, high = summary.low - margin * span, summary.high + margin * span
    even = uniform_knots(low, high, basis.grid_size, 0)
    uneven = summary.quantiles(basis.grid_size + 1)
    uneven = torch.cat([low.unsqueeze(1), uneven[:, 1:-1], high.unsqueeze(1)], dim=1)
    mixed = even if grid_eps == 1 else grid_eps * even + (1 - grid_eps) * uneven
    # Where inputs coincide, or the dtype is coarse, more of the even knots is mixed in, until all are distinct.
    for inner in (even, (even + mixed) / 2, mixed):
        candidate = extended(inner, basis.order)
        if inner is even:
            candidate = uniform_knots(low, high, basis.grid_size, basis.order)
        candidate = candidate.to(layer.grid.dtype).double()
        chosen = torch.where(distinct(candidate).unsqueeze(1), candidate, chosen)
    return chosen


def _change_knots(
    layer: KANLayer,
    new_basis: BSpline,
    new_knots: Float[Tensor, "channels knots"],
    change: Float[Tensor, "channels new_functions functions"],
    points: Float[Tensor, "channels points"],
    weights: Float[Tensor, "channels points"],
) -> float:
    """Give the layer other knots and coefficients; the relative change of its functions at weighted points."""
    basis, knots, groups = spline_of(layer), effective_knots(layer), layer.num_groups
    old = _by_channel(layer.coefficients, groups)
    new = (change @ old).to(layer.basis_weight.dtype)
    base = None if layer.base_weight is None else _by_channel(layer.base_weight.unsqueeze(2), groups)
    fixed = layer.plan.expansion.base
    moved, whole = 0.0, 0.0
    for part in _in_parts(len(knots), points.shape[1] * (old.shape[-1] + 2 * new.shape[1]) * 8):
        scale = weights[part].sqrt().unsqueeze(-1)
        before = functions_at(basis, knots[part], points[part]) @ old[part]
        after = functions_at(new_basis, new_knots[part], points[part]) @ new[part].double()
        moved += ((after - before) * scale).square().sum().item()
        if base is not None and fixed is not None:
            before = before + fixed.value(points[part]).unsqueeze(-1) * base[part]
        whole += (before * scale).square().sum().item()
    fan_in, kernel = layer.basis_weight.shape[1] // basis.num_functions, layer.basis_weight.shape[2:]
    weight = new.unflatten(-1, (-1, kernel.numel())).unflatten(0, (groups, fan_in))
    weight = rearrange(weight, "g c k o t -> (g o) (k c) t").reshape(len(layer.basis_weight), -1, *kernel)
    layer.respline(new_basis, new_knots, weight)
    return _ratio(moved**0.5, whole**0.5)


def _by_channel(
    coefficients: Float[Tensor, "out in_per_group functions *kernel"], groups: int
) -> Float[Tensor, "channels functions edges"]:
    """The coefficients of all edges that start from a channel."""
    taps = coefficients.shape[3:].numel()
    return rearrange(
        on_host(coefficients).reshape(*coefficients.shape[:3], taps), "(g o) c k t -> (g c) k (o t)", g=groups
    )


def _ratio(change: float, whole: float) -> float:
    """``change`` as a share of ``whole``; of nothing, any change is infinite."""
    if whole:
        return change / whole
    return 0.0 if change == 0 else float("inf")


def check_mix(grid_eps: float, margin: float) -> None:
    """Raise unless the arguments of ``adapt_grid`` are in range."""
    if not 0 <= grid_eps <= 1:
        raise ValueError(f"grid_eps must lie in [0, 1], got {grid_eps}")
    if not margin >= 0:
        raise ValueError(f"margin must not be negative, got {margin}")


def _in_parts(channels: int, bytes_a_channel: int) -> Iterator[slice]:
    """Ranges of channels whose matrices fit into memory."""
    size = max(1, BYTES_AT_A_TIME // max(1, bytes_a_channel))
    for start in range(0, channels, size):
        yield slice(start, start + size)


def effective_knots(layer: KANLayer) -> Float[Tensor, "channels knots"]:
    """The knots that the layer computes with, in float64."""
    basis = spline_of(layer)
    assert layer.grid is not None
    grid = on_host(layer.grid)
    return uniform_knots(*basis.ends(grid), basis.grid_size, basis.order) if layer.uniform_knots else grid


def spline_of(layer: nn.Module) -> BSpline:
    """The layer's basis; raises TypeError if it has no grid."""
    if not isinstance(layer, KANLayer):
        raise TypeError(f"layer must be a KAN layer, got {type(layer).__name__}")
    if not isinstance(layer.basis, BSpline) or layer.grid is None:
        raise TypeError(f"a {type(layer.basis).__name__} basis has no grid")
    return layer.basis


def _functions_of(layer: nn.Module) -> KANLayer:
    """The layer that holds the functions: itself, or the activation of a low-rank convolution."""
    return layer.activation if isinstance(layer, LowRankKANConv2d) else layer  # type: ignore[return-value]
