"""Edges that compute named functions instead of splines, one by one or all that can."""

from collections.abc import Iterable, Sequence
from math import isfinite

import torch
from torch import Tensor, nn

from convkan.basis.functions import NamedFunction, get_function
from convkan.deprecation import old_arguments
from convkan.grid.inputs import Summary
from convkan.interpret.edges import Edges, edges_of
from convkan.interpret.symbolic.ranking import STANDARD_ERRORS
from convkan.interpret.symbolic.suggest import (
    SIMPLICITY,
    Edge,
    Suggestion,
    check_edge,
    library_of,
    places_of,
    ranked,
)
from convkan.nn import EdgeLayer, KANLayer
from convkan.nn.recording import evaluating, input_of, undisturbed
from convkan.ops.plan import at_least_float32
from convkan.regularization import recorded_inputs


@old_arguments(names={"data": "x"})
def fix(
    layer: nn.Module,
    edge: Edge,
    function: str,
    affine: Sequence[float] | None = None,
    *,
    x: Tensor | None = None,
) -> Suggestion:
    """Let an edge compute c·f(a·x + b) + d from now on, instead of its spline.

    a, b, c and d are trained and saved with the layer (as ``layer.symbolic``, which is a new parameter after every
    call: make optimisers afterwards). The spline is masked. An edge that was fixed before is fixed anew.
    Where inputs leave the domain of f (of a logarithm, a root, 1/x), f keeps the value at the domain's end.

    Args:
        layer: A KAN layer.
        edge: (output, input within its group, *tap).
        function: The name of f.
        affine: a, b, c and d; by default, those that come closest to what the edge computes now.
        x: See ``suggest``.

    Returns:
        What the edge computes now, with R² measured by what it computed before.

    Raises:
        TypeError: The layer has no edges of its own: a low-rank convolution, or no KAN layer.
        ValueError: There is no such edge or function, or ``affine`` does not have four finite numbers.
    """
    owner = _owner(layer)
    edges = edges_of(owner)
    check_edge(edge, edges)
    chosen = get_function(function)
    summary = None if x is None else Summary.of(edges.inputs(x))
    if affine is None:
        found = ranked(edges, summary, [chosen], 1, SIMPLICITY, edge, fewest=0)[edge][0]
    else:
        found = _with_affine(edges, summary, edge, chosen, affine)
    fix_all(owner, [found])
    return found


@torch.no_grad()
def fix_all(layer: KANLayer, suggestions: Sequence[Suggestion]) -> None:
    """``fix`` many edges of a layer, at most one suggestion for each."""
    if not suggestions:
        return
    alive = torch.ones(edges_of(layer).shape, dtype=torch.bool, device=layer.basis_weight.device)
    for suggestion in suggestions:
        alive[suggestion.edge] = False
    layer.mask_edges(alive)
    symbolic = layer.add_symbolic()
    replaced = {suggestion.edge for suggestion in suggestions}
    rows = [row for row, edge in enumerate(symbolic.edges.tolist()) if tuple(edge) not in replaced]
    added = torch.tensor([suggestion.affine for suggestion in suggestions], dtype=torch.float64, device="cpu")
    symbolic.replace(
        torch.cat([symbolic.edges[rows].cpu(), torch.tensor([list(s.edge) for s in suggestions], device="cpu")]),
        [symbolic.functions[row] for row in rows] + [suggestion.name for suggestion in suggestions],
        torch.cat([symbolic.affine[rows].detach().cpu().double(), added]),
    )


def auto(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    threshold: float = 0.99,
    simplicity: float = SIMPLICITY,
    library: Iterable[str] | None = None,
) -> dict[str, list[Suggestion]]:
    """Fix every edge of a model that a named function explains well enough, from what its layers are given.

    Edges that are masked or fixed already are left alone. A low-rank convolution's are those of its activation; once
    some of them are named, look at that activation, since ``edges_of`` the convolution wants splines alone. Functions
    with an end to their domain may be placed close to the least input seen: see ``fix`` for what lies beyond.

    Args:
        model: The model; it is run in eval mode.
        batches: Inputs of the model; of a tuple or list, as loaders yield, the first is taken.
        threshold: The least R² that is well enough. The best suggestion by score that reaches it is taken, or that
            cannot be told from the best fit if this reaches it: see ``suggest`` for what noise allows.
        simplicity: See ``suggest``.
        library: See ``suggest``.

    Returns:
        What was fixed, by the name of the layer; layers that the model calls and none of whose edges were fixed have
        an empty list.

    Raises:
        ValueError: There are no batches, a function has no known name, or the threshold is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
    functions = library_of(library)
    report: dict[str, list[Suggestion]] = {}
    for name, (layer, summary) in _summaries(model, batches).items():
        edges = edges_of(layer)
        free = live_edges(layer) - fixed_edges(layer)
        best = ranked(edges, summary, functions, len(functions), simplicity)
        chosen = [_well_enough(best[edge], threshold) for edge in sorted(free)]
        report[name] = [one for one in chosen if one is not None]
        fix_all(layer, report[name])
    return report


def _well_enough(suggestions: Sequence[Suggestion], threshold: float) -> Suggestion | None:
    """The first that explains enough, or as much as the best fit, which does, but for noise."""
    closest = max(suggestions, key=lambda one: one.r2)
    if closest.r2 < threshold:
        return None
    enough = min(threshold, closest.r2 - STANDARD_ERRORS * closest.error)
    return next(one for one in suggestions if one.r2 >= enough)


def live_edges(layer: KANLayer) -> set[Edge]:
    """The edges that compute anything: neither masked, unless they were fixed after all."""
    shape = edges_of(layer).shape
    alive = torch.ones(shape, dtype=torch.bool, device="cpu") if layer.edge_mask is None else layer.edge_mask.cpu()
    return {tuple(edge) for edge in alive.nonzero().tolist()} | fixed_edges(layer)


def fixed_edges(layer: KANLayer) -> set[Edge]:
    """The edges that compute a named function."""
    return set() if layer.symbolic is None else {tuple(edge) for edge in layer.symbolic.edges.tolist()}


def _owner(layer: nn.Module) -> KANLayer:
    """The layer, if its edges are its own."""
    if not isinstance(layer, EdgeLayer):
        raise TypeError(f"layer must be a KAN layer, got {type(layer).__name__}")
    functions = layer.functions
    if functions is not layer:
        kind, name = type(layer).__name__, layer.functions_name
        raise TypeError(f"layer must have edges of its own; of a {kind}, fix an edge of layer.{name} instead")
    return functions


@torch.no_grad()
def _with_affine(
    edges: Edges, summary: Summary | None, edge: Edge, function: NamedFunction, affine: Sequence[float]
) -> Suggestion:
    """The suggestion that a function with given constants makes."""
    if len(affine) != 4 or not all(isfinite(number) for number in affine):
        raise ValueError(f"affine must be four finite numbers a, b, c and d, got {affine}")
    a, b, c, d = (float(number) for number in affine)
    x = places_of(edges, summary).to(edges.weight.dtype)
    index: tuple[slice | int, ...] = (slice(None), *edge[2:])
    values = edges.at(x.mT)[edge[:2]][index].double()
    places = x[edges.channel(*edge[:2])].double()
    computed = function.at(at_least_float32((a * places + b).to(x.dtype))).double()  # as the layer will
    unexplained = (c * computed + d - values).square().sum()
    whole = (values - values.mean()).square().sum()
    r2 = 1 - float(unexplained / whole) if whole > 0 else float(unexplained == 0)
    return Suggestion(edge, function.name, (a, b, c, d), r2, function.complexity, 0.0)


def _summaries(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, tuple[KANLayer, Summary]]:
    """What every KAN layer that the model calls in eval mode is given, by the layer's name."""
    parts: dict[KANLayer, list[Summary]] = {}
    with evaluating(model), torch.no_grad(), undisturbed(model):
        for batch in batches:
            with recorded_inputs(model) as calls:
                model(input_of(batch))
            for layer, x in calls:
                parts.setdefault(layer, []).append(Summary.of(edges_of(layer).inputs(x)))
    if not parts:
        raise ValueError("batches must hold at least one, and the model a KAN layer that it calls")
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, KANLayer)}
    return {names[layer]: (layer, Summary.joined(summaries)) for layer, summaries in parts.items()}
