"""How near a layer's functions are to lines, and to torch's activations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod, sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import GriddedBasis, get_activation
from convkan.grid.inputs import on_host
from convkan.interop.plain_activations import plain_of
from convkan.nn import EdgeLayer, LearnableActivation, SharedActivation

MOST_POINTS = 2048  # of a channel
NUMBERS_AT_A_TIME = 2**24
WITHOUT_GRID = (-3.0, 3.0)  # where functions are looked at that have no grid, when there are no inputs


@dataclass(frozen=True)
class Lines:
    """The lines closest to the functions of a layer, in the mean square over its inputs.

    Attributes:
        slope: Of every edge.
        intercept: Of every edge.
        error: What functions differ from them by, relative to their size, all edges together.
    """

    slope: Float[Tensor, "out in_per_group *kernel"]
    intercept: Float[Tensor, "out in_per_group *kernel"]
    error: float


def places(layer: EdgeLayer) -> Float[Tensor, "channels points"]:
    """Where a layer's functions are looked at if its inputs are not known: all over its grids."""
    basis, grid, weight = layer.functions.basis, layer.functions.grid, layer.functions.basis_weight
    if isinstance(basis, GriddedBasis) and grid is not None:
        low, high = basis.ends(on_host(grid))
    else:
        low, high = (torch.full((layer.num_inputs,), end, dtype=torch.float64) for end in WITHOUT_GRID)
    steps = torch.linspace(0, 1, MOST_POINTS // 8, dtype=torch.float64)
    return (low.unsqueeze(1) + (high - low).unsqueeze(1) * steps).to(weight)


@torch.no_grad()
def lines_of(layer: EdgeLayer, x: Float[Tensor, "channels points"]) -> Lines:
    """The lines closest to the functions of a layer whose channels are given ``x``.

    Of a function Σ_f w_f·feature_f the error of its closest line is wᵀR·w, with R the moments of what lines leave of
    the features: small matrices, one a channel, whatever the number of edges.
    """
    slopes, remainders, moments = [], [], []
    for channels, features in _features(layer, x):
        points = on_host(x[channels])
        # How many taps meet at an output of a transposed convolution differs: a bias does not stand for intercepts.
        constant = torch.full_like(points, float(layer.geometry.cuts))
        line = torch.stack([points, constant], dim=1)  # (channels, 2, points)
        values = features.permute(2, 1, 0)  # (channels, features, points)
        of_lines = torch.linalg.pinv(line @ line.mT, hermitian=True) @ (line @ values.mT)  # (channels, 2, features)
        rest = values - (of_lines.mT @ line)
        slopes.append(of_lines)
        remainders.append(rest @ rest.mT / points.shape[1])
        moments.append(values @ values.mT / points.shape[1])
    groups = layer.num_groups
    planes = on_host(layer.edge_planes())
    weight = planes.reshape(groups, -1, *planes.shape[1:3], prod(planes.shape[3:]))  # (g, o, c, f, taps)

    def by_group(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts).unflatten(0, (groups, -1))

    def square(matrices: list[Tensor]) -> float:
        return torch.einsum("gocft,gcfh,gocht->", weight, by_group(matrices), weight).clamp_min(0).item()

    size = square(moments)
    found = torch.einsum("gcsf,gocft->sgoct", by_group(slopes), weight)
    slope, intercept = found.reshape(2, *layer.edge_shape)
    return Lines(slope, intercept, sqrt(square(remainders) / size) if size else 0.0)


@torch.no_grad()
def plain_activation(
    layer: LearnableActivation, x: Float[Tensor, "channels points"], tolerance: float, inplace: bool
) -> tuple[nn.Module, float] | None:
    """Torch's activation that comes close to a learnable one whose channels are given ``x``, and its error.

    Its base activation, nothing at all, ReLU or PReLU, whichever comes first within the tolerance; None if none does.
    """
    if layer.num_functions > 1 or layer.padding:
        return None
    based = None if layer.base_activation is None else plain_of(layer.base_activation, inplace)
    if based is not None and is_based(layer):
        return based, 0.0
    candidates: list[tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]] = [(nn.Identity(), lambda x, _: x)]
    if based is not None:
        activation = get_activation(layer.base_activation)
        assert activation is not None
        candidates.insert(0, (based, lambda x, _: activation.value(x)))
    candidates.append((nn.ReLU(inplace), lambda x, _: x.clamp_min(0)))
    negative = _negative_slopes(layer, x)
    if isinstance(layer, SharedActivation) or layer.dim == 1:
        prelu = nn.PReLU(len(negative), device=layer.basis_weight.device, dtype=layer.basis_weight.dtype)
        prelu.weight.copy_(negative)
        prelu.requires_grad_(layer.basis_weight.requires_grad)
        candidates.append(
            (prelu, lambda x, channels: x.clamp_min(0) + negative[channels].unsqueeze(1) * x.clamp_max(0))
        )
    for module, function in candidates:
        error = _distance(layer, x, function)
        if error <= tolerance:
            return module, error
    return None


def is_based(layer: LearnableActivation) -> bool:
    """Whether a layer computes its base activation, and nothing else."""
    base = layer.base_weight
    return base is not None and bool((base == 1).all()) and not bool(layer.basis_weight.any())


def _features(layer: EdgeLayer, x: Tensor) -> Iterator[tuple[slice, Float[Tensor, "points features channels"]]]:
    """The features of some channels at a time."""
    features = layer.functions.plan.expansion.num_features
    size = max(1, NUMBERS_AT_A_TIME // (features * x.shape[1]))
    for start in range(0, len(x), size):
        channels = slice(start, min(start + size, len(x)))
        yield channels, on_host(layer.features(x[channels].mT, channels=channels))


def _values(layer: LearnableActivation, x: Tensor) -> Iterator[tuple[slice, Float[Tensor, "channels points"]]]:
    weight = on_host(layer.edge_planes().flatten(1))
    for channels, features in _features(layer, x):
        yield channels, torch.einsum("pfc,cf->cp", features, weight[channels])


def _distance(layer: LearnableActivation, x: Tensor, function: Callable[..., Tensor]) -> float:
    """Of a layer's functions from another, relative to their size."""
    off = size = 0.0
    for channels, values in _values(layer, x):
        off += (values - function(on_host(x[channels]), channels)).square().sum().item()
        size += values.square().sum().item()
    return sqrt(off / size) if size else sqrt(off)


def _negative_slopes(layer: LearnableActivation, x: Tensor) -> Float[Tensor, " channels"]:
    """The slope below 0 of the function with slope 1 above that comes closest to each of a layer's."""
    slopes = []
    for channels, values in _values(layer, x):
        points = on_host(x[channels])
        below, rest = points.clamp_max(0), values - points.clamp_min(0)
        slopes.append((rest * below).sum(1) / below.square().sum(1).clamp_min(torch.finfo(torch.float64).tiny))
    return torch.cat(slopes)
