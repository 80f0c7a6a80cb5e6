"""How the edges of a layer vary over data, in bounded memory."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import conv

from convkan.interpret.edges import edges_of, in_order
from convkan.nn import EdgeLayer
from convkan.nn.padding import PADDING_MODES
from convkan.ops.transposed import by_output

SAMPLES = 1024  # inputs of a channel that a layer's edges are evaluated at, for each batch


class Moments:
    """Mean and variance of a stream of values, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64, device="cpu")  # squares: Σ (x − mean)²

    def add(self, values: Tensor, dim: int) -> None:
        """Take in values along a dimension."""
        values = values.double()
        mean = values.mean(dim)
        self.join(values.shape[dim], mean, (values - mean.unsqueeze(dim)).square().sum(dim))

    def join(self, count: int, mean: Tensor, squares: Tensor) -> None:
        """Take in the moments of others (Chan, Golub and LeVeque, "Updating formulae", 1979)."""
        if count == 0:
            return
        off, total = mean - self.mean.to(mean.device), self.count + count
        self.squares = self.squares.to(mean.device) + squares + off.square() * (self.count * count / total)
        self.mean = mean - off * (self.count / total)
        self.count = total

    @property
    def deviation(self) -> Tensor:
        """The standard deviation."""
        return (self.squares / self.count).sqrt()


class Measured:
    """What is known of one layer so far."""

    def __init__(self) -> None:
        self.parts, self.outputs = Moments(), Moments()  # of edges, of a plain layer of its inputs

    def take(self, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        """Take in one call."""
        self.outputs.add(_by_channel(layer, y), 1)
        if not isinstance(layer, EdgeLayer):
            self.parts.add(_by_channel(layer, _padded(layer, x)), 1)
            return
        edges = edges_of(layer)
        places = edges.inputs(x, SAMPLES).mT.to(edges.weight.dtype)
        parts, found = [], []
        for part, some in edges.in_parts(len(places)):
            parts.append(part)
            found.append(Moments())
            found[-1].add(some.at(places), 2)
        mean, squares = (in_order(parts, values) for values in zip(*((p.mean, p.squares) for p in found), strict=True))
        self.parts.join(len(places), mean, squares)

    def edges(self, layer: nn.Module) -> Float[Tensor, "out in_per_group *kernel"]:
        """σ(φ)."""
        if isinstance(layer, EdgeLayer):
            return self.parts.deviation
        assert isinstance(layer, nn.Linear | conv._ConvNd)
        weight, groups = layer.weight.detach().double(), groups_of(layer)
        if isinstance(layer, conv._ConvTransposeNd):
            weight = by_output(weight, groups)
        inputs = self.parts.deviation.view(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
        return weight.abs() * inputs.reshape(*weight.shape[:2], *(1,) * (weight.ndim - 2))


def groups_of(layer: nn.Module) -> int:
    """Groups of channels that do not mix."""
    return layer.num_groups if isinstance(layer, EdgeLayer) else int(getattr(layer, "groups", 1))


def _by_channel(layer: nn.Module, x: Tensor) -> Float[Tensor, "channels samples"]:
    """A tensor of a layer: channels are last if it is linear, else first, or second in a batch."""
    if isinstance(layer, EdgeLayer):
        return layer.as_batch(x).movedim(1, 0).flatten(1)
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).mT
    dims = len(getattr(layer, "kernel_size", ()))
    return x.flatten(1) if dims and x.ndim == dims + 1 else x.movedim(1, 0).flatten(1)


def _padded(layer: nn.Module, x: Tensor) -> Tensor:
    """What the weights of a plain layer see; those of a transposed convolution pixels alone."""
    if isinstance(layer, conv._ConvNd) and not isinstance(layer, conv._ConvTransposeNd):
        return F.pad(x, layer._reversed_padding_repeated_twice, mode=PADDING_MODES[layer.padding_mode])
    return x
