"""Where the channels of an activation's input are, and how many."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from convkan.interop.plain_activations import ACTIVATIONS
from convkan.nn import EdgeLayer
from convkan.nn.recording import evaluating, input_of, undisturbed

_CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)
_CHANNELS_LAST = (nn.Linear, nn.Embedding)
_ELEMENTWISE = (*ACTIVATIONS, nn.Identity, nn.Hardsigmoid, nn.Mish, _DropoutNd)


class _Layouts:
    """The dimension of the channels of tensors that layers have made."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, int]] = {}  # kept alive, since identities are used again

    def of(self, x: Tensor) -> int | None:
        """1 or −1; None where it is not known."""
        if x.ndim == 2:
            return 1
        found = self._known.get(id(x))
        return None if found is None else found[1]

    def note(self, module: nn.Module, x: Tensor, y: Any) -> None:
        """What a module that was called tells of its output."""
        if not isinstance(y, Tensor):
            return
        dim = None
        if isinstance(module, _CHANNELS_FIRST) or (isinstance(module, EdgeLayer) and y.ndim > 2):
            dim = 1
        elif isinstance(module, _CHANNELS_LAST) or (type(module) is nn.LayerNorm and len(module.normalized_shape) == 1):
            dim = -1
        elif isinstance(module, _ELEMENTWISE):
            dim = self.of(x)
        if dim is not None:
            self._known[id(y)] = y, dim


@torch.no_grad()
def channels_of(
    model: nn.Module, activations: dict[nn.Module, str], within: dict[nn.Module, nn.Module], batches: Iterable[Tensor]
) -> dict[nn.Module, tuple[int, int]]:
    """The number of channels of each activation's input, and their dimension.

    Args:
        model: The model they are parts of.
        activations: The activations, and their names.
        within: The module that each is a part of.
        batches: Inputs of the model.

    Raises:
        ValueError: An activation is not called; it is called with several numbers of channels, so that it cannot have a
            function for each; or its input comes from no layer that tells where its channels are.
    """
    found: dict[nn.Module, set[tuple[int, int]]] = {}
    layouts = _Layouts()

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        dim = 1 if isinstance(within.get(module), _CHANNELS_FIRST) else layouts.of(x)
        if dim is None:
            raise ValueError(
                f"the channels of what {activations[module]!r} is given cannot be told, of shape {tuple(x.shape)}: no "
                "layer has made it. Leave per_channel out, or convert that one apart"
            )
        found.setdefault(module, set()).add((x.shape[dim], dim))

    handles = [module.register_forward_pre_hook(before) for module in activations]
    handles += [
        module.register_forward_hook(lambda module, args, y: layouts.note(module, args[0] if args else y, y))
        for module in model.modules()
    ]
    try:
        with evaluating(model), undisturbed(model):
            for batch in batches:
                model(input_of(batch))
                layouts._known.clear()
    finally:
        for handle in handles:
            handle.remove()
    for module, name in activations.items():
        ways = found.get(module, set())
        if not ways:
            raise ValueError(f"per_channel needs batches with which every activation is called, and {name!r} is not")
        if len(ways) > 1:
            counts = ", ".join(str(count) for count, _ in sorted(ways))
            raise ValueError(
                f"{name!r} is called with several numbers of channels ({counts}): one module has but one function for "
                "each. Leave per_channel out, or give the model a module for each call"
            )
    return {module: ways.pop() for module, ways in found.items()}
