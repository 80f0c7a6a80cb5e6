"""Grids of single layers: how they cover inputs, moved to them, made finer."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from convkan.grid.changes import adapted_knots, divide_grid, effective_knots, move_grid, refined_knots, spline_of
from convkan.grid.inputs import Summary, gathered, on_host
from convkan.grid.knots import ratio
from convkan.nn import EdgeLayer, KANLayer


@torch.no_grad()
def coverage(layer: nn.Module, x: Tensor) -> Float[Tensor, " channels"]:
    """The share of the inputs of each channel that lie off its grid, where functions no longer follow them.

    Args:
        layer: A KAN layer on a basis with a grid, as splines are.
        x: Inputs, as the layer is called with; padding is counted too.

    Returns:
        The shares, in float64 on the CPU.

    Raises:
        TypeError: The layer's basis has no grid.
    """
    samples = _edge_layer(layer).samples(x)
    return on_host(outside(_functions_of(layer), samples).sum(1)) / samples.shape[1]


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
        layer: A KAN layer on a basis with a grid, as splines are.
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
    functions = _functions_of(layer)
    check_mix(grid_eps, margin)
    functions.check_own_weights()
    before = on_host(layer(x))
    summary = gathered(Summary.of(_edge_layer(layer).samples(x)))
    move_grid(functions, adapted_knots(functions, summary, grid_eps, margin), summary)
    return ratio((on_host(layer(x)) - before).norm().item(), before.norm().item())


@torch.no_grad()
def refine_grid(layer: nn.Module, grid_size: int, *, keep_beyond: bool = True) -> float:
    """Divide the layer's grid into ``grid_size`` intervals, in place, keeping its functions.

    For splines exact, to rounding, where the new knots contain the old: on an equally spaced grid for a multiple of its
    size, on another for any larger one. Otherwise functions are fitted. ``basis_weight`` becomes a new parameter: give
    it to optimisers, or use ``refine_grids``.

    Args:
        layer: A KAN layer on a basis with a grid, as splines are.
        grid_size: Intervals of the new grid.
        keep_beyond: With extrapolation "zero", leave the knots beyond the ends where they are, so that functions are
            kept there too; knots are then no longer equally spaced, and the layer is slower for want of the closed
            form. False lays them out anew, in the steps of the new grid: on the grid nothing changes by it, beyond its
            ends functions fall to zero within fewer units of the input. Other extrapolations and bases need no knots
            there.

    Returns:
        The relative change of the layer's functions, over all edges: ‖after − before‖/‖before‖ at points of the grid,
        and beyond it if that is kept.

    Raises:
        TypeError: The layer's basis has no grid, or ``grid_size`` is not an integer.
        ValueError: ``grid_size`` is below 1, or the grid's dtype cannot tell so many knots apart.
        RuntimeError: Coefficients are not the layer's own parameter but computed from others.
    """
    functions = _functions_of(layer)
    return divide_grid(functions, refined_knots(functions, grid_size, keep_beyond))


def check_mix(grid_eps: float, margin: float) -> None:
    """Raise unless the arguments of ``adapt_grid`` are in range."""
    if not 0 <= grid_eps <= 1:
        raise ValueError(f"grid_eps must lie in [0, 1], got {grid_eps}")
    if not margin >= 0:
        raise ValueError(f"margin must not be negative, got {margin}")


def _functions_of(layer: nn.Module) -> KANLayer:
    """The layer that holds the functions of another's edges, on a grid."""
    functions = _edge_layer(layer).functions
    spline_of(functions)
    return functions


def _edge_layer(layer: nn.Module) -> EdgeLayer:
    if not isinstance(layer, EdgeLayer):
        raise TypeError(f"layer must be a KAN layer, got {type(layer).__name__}")
    return layer
