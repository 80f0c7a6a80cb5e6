"""All edges of a layer in one form, whichever way the layer stores them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from convkan.basis import GriddedBasis
from convkan.basis.functions import get_function
from convkan.grid.inputs import inputs_of
from convkan.nn import KANLayer, KANLinear, LowRankKANConv2d, SymbolicEdges
from convkan.nn.conv import PaddedConvolution
from convkan.ops import Channelwise, Geometry, Linear, Plan
from convkan.ops.plan import at_least_float32

# Numbers that one step over many edges may hold at a time.
NUMBERS_AT_A_TIME = 2**24


@dataclass(frozen=True)
class Edges:
    """φ[o,c,tap](x) = Σ_f w[o,c,f,tap]·feature_f(x), and the named functions that replace some of them.

    Attributes:
        layer: The layer itself.
        holder: What holds the basis and the grid: the layer, or the activation of a low-rank convolution.
        weight: w, (out, in_per_group, features, *kernel), the base activation first if there is one.
        geometry: How edges are summed.
        symbolic: Edges that compute a named function, or None.
    """

    layer: nn.Module
    holder: KANLayer
    weight: Float[Tensor, "out in_per_group features *kernel"]
    geometry: Geometry
    symbolic: SymbolicEdges | None

    @property
    def groups(self) -> int:
        """Groups of channels that do not mix."""
        return self.holder.num_inputs // self.weight.shape[1]

    @property
    def has_base(self) -> bool:
        """Whether the first feature is a base activation."""
        return self.holder.base_activation is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in_per_group, *kernel)."""
        return (*self.weight.shape[:2], *self.weight.shape[3:])

    @property
    def alive(self) -> Bool[Tensor, "out in_per_group *kernel"]:
        """Which edges compute anything but 0."""
        alive = (self.weight != 0).any(2)
        if self.symbolic is not None:
            alive[tuple(self.symbolic.edges.T)] = True
        return alive

    def channel(self, output: int, input_: int) -> int:
        """The input channel of an edge: that of its position within its output's group."""
        return output // (self.weight.shape[0] // self.groups) * self.weight.shape[1] + input_

    def features(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch groups features in_per_group"]:
        """The features of every channel at places of its own."""
        plan = Plan(self.holder.current_plan().expansion, Linear())
        features = plan.features(x, self.holder.grid).squeeze(-3).to(self.weight.dtype)
        return features.unflatten(-1, (self.groups, -1)).transpose(-2, -3)

    def at(self, x: Float[Tensor, "points channels"]) -> Float[Tensor, "out in_per_group points *kernel"]:
        """φ of every edge at places of its input channel, named functions included."""
        return self.of_features(x, slice(None))

    def of_features(self, x: Tensor, part: slice) -> Float[Tensor, "out in_per_group points *kernel"]:
        """The share of some features in ``at``; named functions count if all features are asked for."""
        weight = self.weight[:, :, part].unflatten(0, (self.groups, -1))
        values = torch.einsum("p g f c, g o c f ... -> g o c p ...", self.features(x)[..., part, :], weight)
        values = values.flatten(0, 1)
        if self.symbolic is not None and part == slice(None):
            for row, (name, edge) in enumerate(zip(self.symbolic.functions, self.symbolic.edges.tolist(), strict=True)):
                output, input_, *tap = edge
                column = at_least_float32(x[:, self.channel(output, input_)].to(values.dtype))
                a, b, c, d = self.symbolic.affine[row].to(column.dtype).unbind()
                values[(output, input_, slice(None), *tap)] += (c * get_function(name).at(a * column + b) + d).to(
                    values
                )
        return values

    def in_parts(self, points: int) -> Iterator[tuple[list[int], "Edges"]]:
        """Outputs a few at a time, so that ``at`` so many points fits into memory; of each group as many."""
        per_output = max(1, points * self.weight[0, :, 0].numel()) * self.groups
        in_group = len(self.weight) // self.groups
        size = max(1, NUMBERS_AT_A_TIME // per_output)
        for start in range(0, in_group, size):
            within = range(start, min(start + size, in_group))
            part = [group * in_group + output for group in range(self.groups) for output in within]
            yield part, self.only(part)

    def only(self, outputs: list[int]) -> "Edges":
        """The edges of some outputs, as many of each group."""
        return Edges(self.layer, self.holder, self.weight[outputs], self.geometry, self._symbolic_part(outputs))

    def _symbolic_part(self, outputs: list[int]) -> SymbolicEdges | None:
        if self.symbolic is None or outputs == list(range(len(self.weight))):
            return self.symbolic
        position = {output: index for index, output in enumerate(outputs)}
        edges = self.symbolic.edges.tolist()
        rows = [row for row, edge in enumerate(edges) if edge[0] in position]
        affine = self.symbolic.affine
        part = SymbolicEdges((len(outputs), *self.symbolic.shape[1:]), device=affine.device, dtype=affine.dtype)
        kept = torch.tensor(
            [[position[edges[row][0]], *edges[row][1:]] for row in rows], dtype=torch.long, device="cpu"
        )
        part.replace(kept.view(-1, len(part.shape)), [self.symbolic.functions[row] for row in rows], affine[rows])
        return part

    def inputs(self, x: Tensor, at_most: int | None = None) -> Float[Tensor, "channels samples"]:
        """What each channel's functions are given when the layer is called with ``x``, padding included.

        Args:
            x: The layer's input.
            at_most: Take only so many, evenly spread.

        Raises:
            TypeError: ``x`` is no tensor.
            ValueError: It does not have the layer's channels, or is empty.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs must be a tensor, got {type(x).__name__}")
        if isinstance(self.layer, LowRankKANConv2d):
            self.layer.check_input(x)
            x = x.unsqueeze(0) if x.ndim == 3 else x
            x = x if self.layer.padding_mode == "zeros" else self.layer.pad(x)
        seen = x.shape[-1:] if isinstance(self.holder, KANLinear) else x.shape[1:2]
        expected = self.holder.num_inputs
        if x.numel() == 0 or (seen != (expected,) and not isinstance(self.holder, PaddedConvolution)):
            raise ValueError(f"inputs must have {expected} channels and not be empty, got shape {tuple(x.shape)}")
        samples = inputs_of(self.holder, x)
        if at_most is not None and samples.shape[1] > at_most:
            spread = torch.linspace(0, samples.shape[1] - 1, at_most, device=samples.device)
            samples = samples[:, spread.round().long()]
        return samples

    def ends(self) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]] | None:
        """Where each channel's grid begins and ends; None for a basis without a grid."""
        if isinstance(self.holder.basis, GriddedBasis) and self.holder.grid is not None:
            return self.holder.basis.ends(self.holder.grid)
        return None


def edges_of(layer: nn.Module) -> Edges:
    """The edges of any KAN layer; of a ``LowRankKANConv2d``, those of the convolution it stands for.

    Raises:
        TypeError: It is another kind of layer.
        ValueError: It is a low-rank convolution whose activation computes named functions.
    """
    if isinstance(layer, LowRankKANConv2d):
        if layer.activation.symbolic is not None and layer.activation.symbolic.functions:
            raise ValueError("layer must have splines alone: functions of its activation are fixed; look at those")
        inner = layer.activation.edge_planes()  # (channels·rank, 1, features)
        functions = rearrange(inner, "(c r) 1 f -> c r f", r=layer.rank).unflatten(0, (layer.groups, -1))
        weight = rearrange(layer.edge_weight(), "(g o) (c r) h w -> g o c r h w", g=layer.groups, r=layer.rank)
        product = torch.einsum("g o c r h w, g c r f -> g o c f h w", weight, functions).flatten(0, 1)
        return Edges(layer, layer.activation, product, layer.convolution, None)
    if isinstance(layer, KANLayer):
        return Edges(layer, layer, layer.edge_planes(), layer.plan.geometry, layer.symbolic)
    raise TypeError(f"layer must be a KAN layer, got {type(layer).__name__}")


def in_order(parts: Sequence[list[int]], values: Sequence[Tensor]) -> Tensor:
    """What was found for the outputs of each part of ``Edges.in_parts``, as one tensor in the order of outputs."""
    order = torch.tensor([output for part in parts for output in part], device=values[0].device)
    return torch.cat(list(values))[order.argsort()]


def is_kan_layer(layer: nn.Module) -> bool:
    """Whether ``edges_of`` takes it."""
    return isinstance(layer, KANLayer | LowRankKANConv2d)


def kan_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The KAN layers of a model by name; a low-rank convolution counts as one, with its activation."""
    found: dict[str, nn.Module] = {}
    inner: set[nn.Module] = set()
    for name, layer in model.named_modules():
        if isinstance(layer, LowRankKANConv2d):
            inner.add(layer.activation)
        if is_kan_layer(layer) and layer not in inner:
            found[name] = layer
    return found


@torch.no_grad()
def layer_inputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each KAN layer is given when the model is called with ``x`` in eval mode; of several calls, at the last.

    Example:
        >>> from convkan import KANLinear
        >>> found = layer_inputs(nn.Sequential(KANLinear(2, 5), KANLinear(5, 1)), torch.zeros(7, 2))
        >>> {name: tuple(seen.shape) for name, seen in found.items()}
        {'0': (7, 2), '1': (7, 5)}
    """
    found: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: found.__setitem__(name, given[0].detach()))
        for name, layer in kan_layers(model).items()
    ]
    try:
        with evaluating(model):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def input_of(batch: object) -> Tensor:
    """What a model is called with, of a batch as loaders yield it: a tensor, or the first of a tuple or list.

    Raises:
        TypeError: It is neither.
    """
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(first, Tensor):
        raise TypeError(f"batches must be tensors, or tuples that begin with one, got {type(first).__name__}")
    return first


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode, and afterwards each module in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def is_channelwise(layer: nn.Module) -> bool:
    """Whether outputs are functions of one channel each, not sums."""
    return isinstance(layer, KANLayer) and isinstance(layer.plan.geometry, Channelwise)
