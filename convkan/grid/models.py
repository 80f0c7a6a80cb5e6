"""Grids of whole models, from batches of inputs."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from convkan.basis import GriddedBasis
from convkan.grid.changes import adapted_knots, divide_grid, move_grid, refined_knots
from convkan.grid.inputs import Summary, gathered, on_host
from convkan.grid.layers import check_mix, outside
from convkan.nn import KANLayer
from convkan.nn.recording import undisturbed, watched

# What holds on to a model's parameters; of these, what leaves only a part of each in a process.
WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")
SHARDING = ("FullyShardedDataParallel", "FSDPModule")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayerCoverage:
    """How a layer's inputs lie on its grid.

    Attributes:
        off_grid: Share of the inputs of each channel off the grid; on the CPU, in float64.
        dead: Channels whose inputs are all the same, so that nothing depends on them.
    """

    off_grid: Float[Tensor, " channels"]
    dead: Bool[Tensor, " channels"]


def spline_layers(model: nn.Module) -> dict[str, KANLayer]:
    """The layers of a model that have a grid, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, KANLayer) and isinstance(layer.basis, GriddedBasis)
    }


@torch.no_grad()
def adapt_grids(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    grid_eps: float = 0.05,
    margin: float = 0.01,
    averages: Iterable[nn.Module] = (),
) -> dict[str, float]:
    """``adapt_grid`` on every spline layer of a model, from what its layers are given for these batches.

    The model is run as it stands, in train or eval mode; running statistics, gradients, random numbers and the
    optimiser are left as they are. Optimiser state stays: parameters keep their shapes.

    Args:
        model: The model.
        batches: Inputs of the model; of a tuple or list, as loaders yield, the first is taken.
        grid_eps: See ``adapt_grid``.
        margin: See ``adapt_grid``.
        averages: Models that average this one's weights, such as ``torch.optim.swa_utils.AveragedModel``. They are
            given the same knots, each keeping its own functions: coefficients can be averaged only on one grid.

    Returns:
        For each layer, the relative change of its functions at its inputs.

    Raises:
        ValueError: There are no batches, the inputs of a layer are empty or not finite, or an average lacks a layer.
        RuntimeError: Coefficients are not a layer's own parameter but computed from others, or shared by layers;
            or the model is sharded over processes.
    """
    check_mix(grid_eps, margin)
    _check_not_within(SHARDING, model, "adapt")
    layers, followers = _matched(model, averages)
    _check_own(layers, followers)
    summaries = {name: gathered(summary) for name, summary in _summaries(model, batches).items()}
    changes = {}
    for name, summary in summaries.items():
        if name not in layers:
            continue
        knots = adapted_knots(layers[name], summary, grid_eps, margin)
        for follower in followers[name]:
            move_grid(follower, knots, summary)
        changes[name] = move_grid(layers[name], knots, summary)
    return changes


@torch.no_grad()
def refine_grids(
    model: nn.Module,
    grid_size: int,
    optimizer: Optimizer | None = None,
    *,
    keep_beyond: bool = True,
    averages: Iterable[nn.Module] = (),
) -> dict[str, float]:
    """``refine_grid`` on every spline layer of a model.

    Args:
        model: The model.
        grid_size: Intervals of the new grids.
        optimizer: Its groups are given the new parameters. Their state starts anew, since its shapes no longer fit; the
            logger of this module says for which. That of all other parameters stays (but for LBFGS, whose history is of
            all at once).
        keep_beyond: See ``refine_grid``.
        averages: Models that average this one's weights; see ``adapt_grids``.

    Returns:
        For each layer, the relative change of its functions.

    Raises:
        ValueError: See ``refine_grid``; or an average lacks a layer.
        RuntimeError: The model is wrapped for several devices, which hold on to the old parameters; or coefficients are
            not a layer's own parameter but computed from others, or shared by layers.
    """
    _check_not_within(WRAPPERS, model, "refine")
    layers, followers = _matched(model, averages)
    _check_own(layers, followers)
    finer = {name: refined_knots(layer, grid_size, keep_beyond) for name, layer in layers.items()}
    changes = {}
    for name, layer in layers.items():
        for follower in followers[name]:
            divide_grid(follower, finer[name])
        left = [copy for copy in layer.touched_copies() if all(copy is not each for each in followers[name])]
        if left and layer.basis.num_functions != finer[name].basis.num_functions:
            _log.warning(
                "%d copies of layer %r keep their grid: one that averages this model's weights must be refined with "
                "it, as refine_grids(…, averages=[copy]), or its next update will fail for another size",
                len(left),
                name,
            )
        before = layer.basis_weight
        changes[name] = divide_grid(layer, finer[name])
        if optimizer is not None and layer.basis_weight is not before:
            _swap(optimizer, before, layer.basis_weight, name)
    return changes


def _check_not_within(wrappers: tuple[str, ...], model: nn.Module, change: str) -> None:
    present = {parent.__name__ for module in model.modules() for parent in type(module).__mro__}
    for name in wrappers:
        if name in present:
            raise RuntimeError(f"grids cannot be changed within {name}: {change}, then wrap the model")


def _matched(model: nn.Module, averages: Iterable[nn.Module]) -> tuple[dict[str, KANLayer], dict[str, list[KANLayer]]]:
    """The spline layers of a model, and for each of them those that average it."""
    averages = list(averages)
    within = {id(module) for average in averages for module in average.modules()}  # an average may be a part of it
    layers = {name: layer for name, layer in spline_layers(model).items() if id(layer) not in within}
    followers: dict[str, list[KANLayer]] = {name: [] for name in layers}
    for average in averages:
        theirs = _by_bare_name(spline_layers(average))
        for bare, layer in _by_bare_name(layers).items():
            name = next(name for name, each in layers.items() if each is layer)
            if bare not in theirs:
                raise ValueError(f"averages must have the layers of the model, got one without {name or 'it'!r}")
            followers[name].append(theirs[bare])
    return layers, followers


def _by_bare_name(layers: dict[str, KANLayer]) -> dict[str, KANLayer]:
    found = {_bare(name): layer for name, layer in layers.items()}
    if len(found) < len(layers):
        raise ValueError(f"layers must differ in more than 'module' and '_orig_mod', got {', '.join(layers)}")
    return found


def _bare(name: str) -> str:
    """A layer's name without those of what averages, compiles or distributes the model."""
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


def _check_own(layers: dict[str, KANLayer], followers: dict[str, list[KANLayer]]) -> None:
    """Raise unless every layer's coefficients are a parameter of its own."""
    owners: dict[int, str] = {}
    for name, layer in layers.items():
        for each in (layer, *followers[name]):
            each.check_own_weights()
        owner = owners.setdefault(id(layer.basis_weight), name)
        if owner != name:
            raise RuntimeError(
                f"grids cannot be changed: layers {owner!r} and {name!r} share their basis_weight, and coefficients "
                "belong to one grid. Use one layer in both places, or two with weights of their own"
            )


@torch.no_grad()
def coverages(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, LayerCoverage]:
    """How the inputs of every spline layer of a model lie on its grid; arguments as in ``adapt_grids``."""
    off: dict[str, list[tuple[Tensor, int]]] = {}
    ends: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, layer, samples in _recorded(model, batches):
        off.setdefault(name, []).append((on_host(outside(layer, samples).sum(1)), samples.shape[1]))
        if samples.shape[1]:
            ends.setdefault(name, []).append((samples.amin(1), samples.amax(1)))
    found = {}
    for name, counts in off.items():
        if name not in ends:
            raise ValueError(f"batches must not be empty: layer {name!r} was given no inputs")
        total = sum(count for _, count in counts)
        least = torch.stack([low for low, _ in ends[name]]).amin(0)
        greatest = torch.stack([high for _, high in ends[name]]).amax(0)
        found[name] = LayerCoverage(torch.stack([number for number, _ in counts]).sum(0) / total, least == greatest)
    return found


def _summaries(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Summary]:
    parts: dict[str, list[Summary]] = {}
    for name, _, samples in _recorded(model, batches):
        parts.setdefault(name, []).append(Summary.of(samples))
    if not parts:
        raise ValueError("batches must hold at least one, and the model a spline layer that it calls")
    return {name: Summary.joined(summaries) for name, summaries in parts.items()}


def _recorded(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[tuple[str, KANLayer, Tensor]]:
    """What every spline layer is given, call by call, while the model runs over batches and stays as it is."""
    layers, seen = spline_layers(model), list[tuple[str, KANLayer, Tensor]]()

    def take(name: str, _: nn.Module, x: Tensor, __: object) -> None:
        seen.append((name, layers[name], layers[name].samples(x)))

    with watched(layers, take), undisturbed(model):
        for batch in batches:
            model(batch[0] if isinstance(batch, tuple | list) else batch)
            yield from seen
            seen.clear()


def _swap(optimizer: Optimizer, old: nn.Parameter, new: nn.Parameter, name: str) -> None:
    """Put a parameter in the place of another."""
    for group in optimizer.param_groups:
        for index, parameter in enumerate(group["params"]):
            if parameter is old:
                group["params"][index] = new
                _log.info("the optimiser's state of %s starts anew: its grid was refined", name)
    state = optimizer.state.pop(old, {})
    if isinstance(state.get("momentum_buffer"), Tensor) and state.keys() == {"momentum_buffer"}:
        # A fused SGD takes momentum for all parameters of a group or for none.
        optimizer.state[new] = {"momentum_buffer": torch.zeros_like(new)}
    if isinstance(optimizer, LBFGS):
        optimizer.state.clear()
        optimizer._numel_cache = None
