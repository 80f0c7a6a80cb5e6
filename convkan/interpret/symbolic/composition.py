"""Models that a formula can be written of: linear layers in a row, with products between them, or one convolution."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import nn

from convkan.interpret.symbolic.fix import fixed_edges, live_edges
from convkan.interpret.symbolic.suggest import Edge
from convkan.nn import EdgeLayer, KANLayer, Multiplication

# What changes nothing in eval mode but the shape.
IGNORED = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.AlphaDropout)


def layers_of(model: nn.Module) -> list[tuple[str, KANLayer]]:
    """The KAN layers of a model in order, by name.

    Raises:
        TypeError: It is made of anything but dense layers, with multiplications between them, or one convolution.
    """
    return [(name, layer) for name, layer in steps_of(model) if isinstance(layer, KANLayer)]


def steps_of(model: nn.Module) -> list[tuple[str, KANLayer | Multiplication]]:
    """The KAN layers and the multiplications of a model in order, by name; raises as ``layers_of``."""
    steps = list(_flat(model, ""))
    layers = [layer for _, layer in steps if isinstance(layer, KANLayer)]
    if not layers:
        raise TypeError("model must have a KAN layer, got none")
    if len(steps) > 1 and any(layer.basis_weight.ndim > 2 for layer in layers):
        raise TypeError("model must be dense, or a single convolution; got a convolution among other layers")
    for (_, before), (name, after) in pairwise(steps):
        if outputs_of(before) != inputs_of(after):
            raise TypeError(
                f"model must be dense, each layer having the outputs of the one before it as inputs; {name} has "
                f"{inputs_of(after)} inputs after {outputs_of(before)} outputs"
            )
    return steps


def inputs_of(step: KANLayer | Multiplication) -> int:
    """How many numbers a step is given."""
    return step.num_inputs if isinstance(step, KANLayer) else step.in_features


def outputs_of(step: KANLayer | Multiplication) -> int:
    """How many numbers a step returns."""
    return len(step.basis_weight) if isinstance(step, KANLayer) else step.out_features


def _flat(model: nn.Module, name: str) -> Iterator[tuple[str, KANLayer | Multiplication]]:
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    if isinstance(model, nn.Sequential):
        for key, child in model._modules.items():  # named_children would name a layer once that is called twice
            assert child is not None
            yield from _flat(child, f"{name}.{key}" if name else key)
    elif isinstance(model, KANLayer):
        if not model.geometry.cuts:
            raise TypeError(f"model must have one formula for all positions, which a {type(model).__name__} has not")
        yield name, model
    elif isinstance(model, Multiplication):
        yield name, model
    elif isinstance(model, EdgeLayer):
        kind, name = type(model).__name__, model.functions_name
        raise TypeError(f"model must have edges of its own; of a {kind}, ask for layer.{name}")
    elif not isinstance(model, IGNORED):
        raise TypeError(f"model must be a KAN layer or an nn.Sequential of them, got {type(model).__name__}")


def check_fixed(layers: Sequence[tuple[str, KANLayer]]) -> None:
    """Raise ValueError, with a list, if edges are neither masked nor fixed."""
    free: list[tuple[str, Edge]] = []
    for name, layer in layers:
        masked = set() if layer.edge_mask is None else {tuple(edge) for edge in (~layer.edge_mask).nonzero().tolist()}
        free += [(name, edge) for edge in sorted(live_edges(layer) - (fixed_edges(layer) & masked))]
    if free:
        listed = ", ".join(f"{name}{edge}" for name, edge in free[:20])
        more = f" and {len(free) - 20} more" if len(free) > 20 else ""
        raise ValueError(f"model must have no edges but masked ones and named functions; not yet: {listed}{more}")
