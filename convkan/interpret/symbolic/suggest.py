"""Which named functions the edges of a layer compute."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import overload

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from convkan.basis.functions import FUNCTIONS, NamedFunction, get_function
from convkan.deprecation import old_arguments
from convkan.grid.inputs import Summary
from convkan.interpret.edges import Edges, edges_of
from convkan.interpret.symbolic.fit import Samples, affines, fit, refined
from convkan.interpret.symbolic.ranking import constants_of, ranked_by, scores_of, unexplained_by

POINTS = 100  # at which an edge is looked at
FEWEST = 10  # distinct inputs that more than a straight line is fitted to
MORE = 3  # fits beyond those asked for that are made precise before they are ranked
SIMPLICITY = 1.0

Edge = tuple[int, ...]


@dataclass(frozen=True)
class Suggestion:
    """φ(x) ≈ c·f(a·x + b) + d.

    Attributes:
        edge: Output, input within its group, and tap.
        name: The name of f in ``convkan.basis.functions.FUNCTIONS``.
        affine: a, b, c and d.
        r2: Share of the variance of φ over the inputs that it explains; 1 where φ is constant.
        complexity: That of f.
        score: By which suggestions are ranked, see ``suggest``.
        error: Standard error of R², as far as the curve's own degrees of freedom tell: R² that are less than two of the
            better one's apart cannot be told from each other.
    """

    edge: Edge
    name: str
    affine: tuple[float, float, float, float]
    r2: float
    complexity: int
    score: float
    error: float = 0.0

    def __str__(self) -> str:
        a, b, c, d = self.affine
        return f"{c:.4g}·{self.name}({a:.4g}·x {b:+.4g}) {d:+.4g}, R² = {self.r2:.6f}"


@overload
def suggest(
    layer: nn.Module,
    edge: Edge,
    *,
    x: Tensor | None = None,
    library: Iterable[str] | None = None,
    top: int = 5,
    simplicity: float = SIMPLICITY,
) -> list[Suggestion]: ...


@overload
def suggest(
    layer: nn.Module,
    edge: None = None,
    *,
    x: Tensor | None = None,
    library: Iterable[str] | None = None,
    top: int = 5,
    simplicity: float = SIMPLICITY,
) -> dict[Edge, list[Suggestion]]: ...


@old_arguments(names={"data": "x"})
@torch.no_grad()
def suggest(
    layer: nn.Module,
    edge: Edge | None = None,
    *,
    x: Tensor | None = None,
    library: Iterable[str] | None = None,
    top: int = 5,
    simplicity: float = SIMPLICITY,
) -> list[Suggestion] | dict[Edge, list[Suggestion]]:
    """Named functions f with φ(x) ≈ c·f(a·x + b) + d, the best first, for one edge or all.

    They are ranked by score = −log₂(1 − R²) − simplicity·(complexity + n/2), where n of the constants a, b, c, d
    matter, and R² is adjusted for their number and bounded by the precision of φ and by what noise allows. A curve that
    K features make was learned from noise in K ways at most. So if f is the best fit and leaves a share s unexplained,
    that is known to s·√(2/(K − n)), as of a χ² distribution, and all fits within two of these standard errors count as
    equal: the simplest of them wins. Ties come in the order of their fits, and then in that of the library: "sin" is
    "cos" shifted, and comes first. Where an edge has seen fewer than ten distinct inputs, only straight lines and
    constants are suggested; where its inputs or its values do not differ, a constant comes first.

    Args:
        layer: Any KAN layer; of a low-rank convolution, the edges of the convolution it stands for.
        edge: (output, input within its group, *tap), or None for all edges.
        x: Inputs, as the layer is called with: φ is fitted where they lie, in the mean square over them. Without,
            where the grid lies, or on [−2, 2] for a basis without one.
        library: Names of functions; by default all there are.
        top: Suggestions for an edge, at most.
        simplicity: How many halvings of the unexplained share a unit of complexity must buy.

    Returns:
        A list for one edge, lists by edge for all.

    Raises:
        TypeError: It is no KAN layer.
        ValueError: There is no such edge or function, ``top`` is less than 1, ``x`` is empty, not finite or of
            other channels than the layer's, or the layer's functions are not finite.

    Example:
        >>> from convkan import KANLinear
        >>> layer = KANLinear(1, 1, base_activation="silu", dtype=torch.float64)
        >>> with torch.no_grad():
        ...     layer.basis_weight.zero_()  # leaves the base activation
        ...     layer.base_weight.fill_(3.0)
        Parameter containing:...
        >>> suggest(layer, (0, 0))[0].name
        'silu'
    """
    edges = edges_of(layer)
    if edge is not None:
        check_edge(edge, edges)
    functions = library_of(library)
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    summary = None if x is None else Summary.of(edges.inputs(x))
    found = ranked(edges, summary, functions, top, simplicity, edge)
    return found if edge is None else found[edge]


def library_of(names: Iterable[str] | None) -> list[NamedFunction]:
    """The functions of these names, or all.

    Raises:
        ValueError: One has no known name, or there are none.
    """
    functions = list(FUNCTIONS.values()) if names is None else [get_function(name) for name in dict.fromkeys(names)]
    if not functions:
        raise ValueError("library must name at least one function, got none")
    return functions


def check_edge(edge: Edge, edges: Edges) -> None:
    """Raise ValueError unless there is such an edge."""
    shape = edges.shape
    if len(edge) != len(shape) or not all(0 <= index < size for index, size in zip(edge, shape, strict=True)):
        raise ValueError(f"edge must be (output, input in its group, *tap) within {shape}, got {tuple(edge)}")


def places_of(edges: Edges, summary: Summary | None) -> Float[Tensor, "channels points"]:
    """Where edges are looked at, in order: quantiles of the inputs, or even steps over the grid."""
    if summary is not None:
        few = summary.points.shape[1] <= POINTS
        return summary.points if few else summary.quantiles(POINTS)
    channels = edges.functions.num_inputs
    ends = edges.ends()
    if ends is None:
        ends = edges.weight.new_full((channels,), -2.0), edges.weight.new_full((channels,), 2.0)
    low, high = (end.double().unsqueeze(1) for end in ends)
    return low + (high - low) * torch.linspace(0, 1, POINTS, dtype=low.dtype, device=low.device)


@torch.no_grad()
def ranked(
    edges: Edges,
    summary: Summary | None,
    functions: Sequence[NamedFunction],
    top: int,
    simplicity: float,
    edge: Edge | None = None,
    fewest: int = FEWEST,
) -> dict[Edge, list[Suggestion]]:
    """``suggest`` for one edge or all, from a summary of the inputs.

    Args:
        edges: The layer's.
        summary: Of its inputs, or None for the grid.
        functions: What to fit.
        top: See ``suggest``.
        simplicity: See ``suggest``.
        edge: The only edge to look at, or None for all.
        fewest: The least distinct inputs for more than straight lines.
    """
    x = places_of(edges, summary).to(edges.weight.dtype)
    distinct = torch.full_like(x[:, 0], POINTS) if summary is None else (summary.points.diff(dim=1) > 0).sum(1) + 1
    freedom = torch.minimum(distinct, _features_seen(edges, x))
    found: dict[Edge, list[Suggestion]] = {}
    for outputs, part in _parts(edges, x.shape[1], edge):
        curves = rearrange(part.at(x.mT), "(g o) i p ... -> (g i) (o ...) p", g=part.groups)
        if not bool(curves.isfinite().all()):
            raise ValueError("layer must have finite functions, got NaN or infinity among their values")
        names = torch.ones(part.shape, device="cpu").nonzero().view(*part.shape, -1)
        names[..., 0] = torch.tensor(outputs, device="cpu").view(-1, *(1,) * (names.ndim - 2))
        names = rearrange(names, "(g o) i ... d -> (g i) (o ...) d", g=part.groups)
        if edge is None:
            found |= _suggestions(x, curves, names, distinct, freedom, functions, top, simplicity, fewest)
            continue
        channel, curve = (names == torch.tensor(edge, device="cpu")).all(-1).nonzero()[0].tolist()
        one, its = slice(channel, channel + 1), slice(curve, curve + 1)
        found = _suggestions(
            x[one],
            curves[one, its],
            names[one, its],
            distinct[one],
            freedom[one],
            functions,
            top,
            simplicity,
            fewest,
        )
    return dict(sorted(found.items()))


def _parts(edges: Edges, points: int, edge: Edge | None) -> Iterator[tuple[list[int], Edges]]:
    """Outputs a few at a time, or that of an edge alone."""
    if edge is None or edges.groups > 1:
        yield from edges.in_parts(points)
    else:
        yield [edge[0]], edges.only([edge[0]])


def _features_seen(edges: Edges, x: Float[Tensor, "channels points"]) -> Float[Tensor, " channels"]:
    """How many features of each channel say anything at the points: a curve has as many degrees of freedom."""
    return (edges.features(x.mT) != 0).any(0).sum(1).flatten()


def _suggestions(
    x: Float[Tensor, "channels points"],
    curves: Float[Tensor, "channels curves points"],
    names: Int[Tensor, "channels curves indices"],
    distinct: Float[Tensor, " channels"],
    freedom: Float[Tensor, " channels"],
    functions: Sequence[NamedFunction],
    top: int,
    simplicity: float,
    fewest: int,
) -> dict[Edge, list[Suggestion]]:
    """The best fits of curves, whose edges are ``names``."""
    samples = Samples.of(x, curves, torch.finfo(curves.dtype).eps)
    if bool((distinct < fewest).any()) and all(constants_of(function) > 2 for function in functions):
        functions = [*functions, FUNCTIONS["0"], FUNCTIONS["x"]]
    fits = [fit(samples, function) for function in functions]
    enough = distinct >= fewest
    unexplained = torch.stack([one.unexplained for one in fits])
    scores, adjusted, _ = scores_of(samples, unexplained, functions, enough, freedom, simplicity)
    promising = ranked_by(scores, adjusted)[: top + MORE]
    wanted = torch.zeros_like(scores, dtype=torch.bool).scatter_(0, promising, True)
    fits = [refined(samples, *pair, some) for pair, some in zip(zip(functions, fits, strict=True), wanted, strict=True)]
    affine = torch.stack([affines(samples, *pair) for pair in zip(functions, fits, strict=True)])
    unexplained = torch.stack(
        [unexplained_by(samples, x, curves, *fitted) for fitted in zip(functions, affine, fits, strict=True)]
    )
    scores, adjusted, error = scores_of(samples, unexplained, functions, enough, freedom, simplicity)
    scores = torch.where(wanted, scores, -inf)  # the others' are not precise
    r2 = 1 - unexplained
    best = ranked_by(scores, adjusted)[:top]
    columns = (best, scores.gather(0, best), r2.gather(0, best), (error * (1 - r2)).gather(0, best))
    numbers = (part.flatten(1, 2).mT.tolist() for part in columns)
    constants = affine.gather(0, best.unsqueeze(-1).expand(-1, -1, -1, 4)).flatten(1, 2).transpose(0, 1).tolist()
    found: dict[Edge, list[Suggestion]] = {}
    for name, *columns_of, abcd in zip(names.flatten(0, 1).tolist(), *numbers, constants, strict=True):
        edge = tuple(name)
        found[edge] = [
            Suggestion(edge, functions[which].name, tuple(four), share, functions[which].complexity, score, spread)
            for which, score, share, spread, four in zip(*columns_of, abcd, strict=True)
            if score > -inf
        ]
    return found
