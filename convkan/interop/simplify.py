"""The way back: plain layers in place of KAN layers whose functions turned out to be plain."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convkan.grid.inputs import on_host
from convkan.interop.activations import WrittenBack
from convkan.interop.aliasing import calls_of, writes_privately
from convkan.interop.branches import FeaturePadded
from convkan.interop.finding import has_forward
from convkan.interop.replacing import names_of, outputs, replace, tied_parameters
from convkan.interop.rerouting import rerouted_parts, restore
from convkan.interop.straight import MOST_POINTS, lines_of, places, plain_activation
from convkan.interop.tracing import forward_of
from convkan.nn import EdgeLayer, LearnableActivation, linear_weight, plain_in_place_of
from convkan.nn.recording import evaluating, input_of, undisturbed, watched


@dataclass(frozen=True)
class Simplified:
    """A simpler model.

    Attributes:
        model: The model.
        layers: The layers that became plain, and how far the functions of each were from that: the root mean square of
            the difference, relative to theirs.
        error: The relative change of the model's outputs on the batches, ‖after − before‖/‖before‖; None without any.
    """

    model: nn.Module
    layers: dict[str, float]
    error: float | None


@torch.no_grad()
def simplify(model: nn.Module, batches: Iterable[Tensor] | None = None, *, tolerance: float = 1e-3) -> Simplified:
    """Put plain layers in place of KAN layers whose functions turned out straight, and activations likewise.

    A convolution or linear layer all of whose functions are lines becomes that of torch, with their slopes for weights
    and their intercepts in the bias (a transposed convolution where these are 0, and none whose features are padded by
    ``FeaturePadded``); a learnable activation becomes the one it is based on, ReLU, PReLU, or nothing. Right after
    ``convert`` this is the model that was converted.

    Args:
        model: A model with KAN layers. It is run in eval mode, and left as it is.
        batches: A few batches of its inputs, which say where functions count; of a tuple or list, as loaders yield, the
            first is taken. Without, functions are looked at all over their grids.
        tolerance: How far the functions of a layer may be from what replaces them, relative to their size.

    Returns:
        The simpler model, a copy; what became plain in it; and what that did to its outputs.

    Raises:
        ValueError: ``tolerance`` is negative, or there are no batches in ``batches``.

    Example:
        >>> from convkan import convert
        >>> model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.randn(2, 3, 9, 9)
        >>> found = simplify(convert(model, (nn.Conv2d, nn.ReLU)), [x])
        >>> found.model
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
        )
        >>> found.layers, found.error < 1e-6
        ({'0': 0.0, '1': 0.0}, True)
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    given = None if batches is None else [input_of(batch) for batch in batches]
    if given is not None and not given:
        raise ValueError("batches must hold at least one")
    simpler = deepcopy(model)
    names = names_of(simpler)
    parts = {part for layer in names if isinstance(layer, EdgeLayer) for part in layer.modules() if part is not layer}
    layers = {layer: known_as[0] for layer, known_as in names.items() if isinstance(layer, EdgeLayer)}
    # What takes φ(0) back at the padding needs the functions: no plain layer has them.
    parts |= {module.layer for module in names if isinstance(module, FeaturePadded) and module.pads}
    layers = {layer: name for layer, name in layers.items() if layer not in parts}
    seen = {} if given is None else _inputs(simpler, layers, given)
    found = _plain(simpler, layers, seen, tolerance)
    replacements: dict[nn.Module, nn.Module] = {layer: plain for layer, (plain, _) in found.items()}
    for module in names:
        plain = replacements.get(module.activation) if isinstance(module, WrittenBack) else None
        if plain is not None and hasattr(plain, "inplace"):
            plain.inplace = True  # type: ignore[assignment]
            replacements[module] = plain
    simpler = replace(simpler, replacements)
    for module in list(simpler.modules()):
        looks = rerouted_parts(module)
        if looks and all(repr(module._modules[name]) == look for name, look in looks.items()):
            restore(module)
    error = None if given is None else _change(model, simpler, given)
    return Simplified(simpler, {layers[layer]: off for layer, (_, off) in found.items()}, error)


def _inputs(model: nn.Module, layers: dict[EdgeLayer, str], batches: list[Tensor]) -> dict[EdgeLayer, Tensor]:
    """Some of what each layer is given, (channels, points)."""
    seen: dict[EdgeLayer, list[Tensor]] = {}
    share = max(1, MOST_POINTS // len(batches))

    def take(_: str, layer: nn.Module, x: Tensor, __: object) -> None:
        assert isinstance(layer, EdgeLayer)
        seen.setdefault(layer, []).append(layer.samples(x, share).detach())

    with watched({name: layer for layer, name in layers.items()}, take), evaluating(model), undisturbed(model):
        for batch in batches:
            model(batch)
    return {layer: torch.cat(parts, dim=1) for layer, parts in seen.items()}


def _plain(
    model: nn.Module, layers: dict[EdgeLayer, str], seen: dict[EdgeLayer, Tensor], tolerance: float
) -> dict[EdgeLayer, tuple[nn.Module, float]]:
    """The plain module in place of each layer that can have one, and its error."""
    written = any(isinstance(layer, LearnableActivation) and layer.inplace for layer in layers)
    calls = calls_of([forward_of(module) for module in model.modules() if has_forward(module)]) if written else {}
    tied = tied_parameters(model)
    found: dict[EdgeLayer, tuple[nn.Module, float]] = {}
    for layer in layers:
        if layer.named_edges is not None or layer.functions.named_edges is not None:
            continue
        x = seen.get(layer)
        if x is None or x.shape[1] == 0:
            x = places(layer)
        plain: tuple[nn.Module, float] | None
        if isinstance(layer, LearnableActivation):
            # What an activation took for ``inplace`` counts only where it makes no difference.
            inplace = layer.inplace and writes_privately(calls.get(layer, []))
            plain = plain_activation(layer, x, tolerance, inplace)
        else:
            plain = _straight_layer(layer, x, tolerance, tied)
        if plain is not None:
            found[layer] = plain[0].train(layer.training), plain[1]
    return found


def _straight_layer(
    layer: EdgeLayer, x: Tensor, tolerance: float, tied: set[nn.Parameter]
) -> tuple[nn.Module, float] | None:
    """The plain layer in place of one whose functions are all lines, and its error."""
    bias = layer.bias
    weight = linear_weight(layer)
    if weight is not None:
        plain = plain_in_place_of(layer, weight, bias)
        return None if plain is None else (plain, 0.0)
    if any(parameter in tied for parameter in layer.parameters()):
        return None  # what it is tied to would go on without it
    lines = lines_of(layer, x)
    if lines.error > tolerance:
        return None
    like = layer.functions.basis_weight
    constant = lines.intercept.flatten(1).sum(1)  # on the CPU, as all of it
    new_bias: Tensor | None = bias
    if bias is not None:
        new_bias = nn.Parameter((on_host(bias) + constant).to(bias), requires_grad=bias.requires_grad)
    elif bool(constant.any()):
        new_bias = nn.Parameter(constant.to(like), requires_grad=like.requires_grad)
    slope = nn.Parameter(layer.as_stored(lines.slope).to(like), requires_grad=like.requires_grad)
    plain = plain_in_place_of(layer, slope, new_bias)
    return None if plain is None else (plain, lines.error)


def _change(before: nn.Module, after: nn.Module, batches: list[Tensor]) -> float:
    """The relative change of outputs, all batches together."""
    off = size = 0.0
    for batch in batches:
        results = []
        for model in (before, after):
            with evaluating(model), undisturbed(model):
                results.append(outputs(model(batch)))
        for old, new in zip(*results, strict=True):
            old = on_host(old)
            off += (on_host(new) - old).square().sum().item()
            size += old.square().sum().item()
    return (off / size) ** 0.5 if size else off**0.5
