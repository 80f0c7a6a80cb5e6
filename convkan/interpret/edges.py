"""All edges of a layer in one form, whichever way the layer stores them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from convkan.basis import GriddedBasis
from convkan.basis.functions import get_function
from convkan.nn import EdgeLayer, KANLayer, SymbolicEdges
from convkan.nn.recording import evaluating, watched
from convkan.ops import Geometry
from convkan.ops.plan import at_least_float32

# Numbers that one step over many edges may hold at a time.
NUMBERS_AT_A_TIME = 2**24


@dataclass(frozen=True)
class Edges:
    """φ[o,c,tap](x) = Σ_f w[o,c,f,tap]·feature_f(x), and the named functions that replace some of them.

    Attributes:
        layer: The layer itself.
        weight: w, (out, in_per_group, features, *kernel), the base activation first if there is one.
        symbolic: Edges that compute a named function, or None.
    """

    layer: EdgeLayer
    weight: Float[Tensor, "out in_per_group features *kernel"]
    symbolic: SymbolicEdges | None

    @property
    def functions(self) -> KANLayer:
        """What holds the basis and the grid: the layer, or the activation of a low-rank convolution."""
        return self.layer.functions

    @property
    def geometry(self) -> Geometry:
        """How edges are summed."""
        return self.layer.geometry

    @property
    def groups(self) -> int:
        """Groups of channels that do not mix."""
        return self.layer.num_groups

    @property
    def has_base(self) -> bool:
        """Whether the first feature is a base activation."""
        return self.functions.base_activation is not None

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
        features = self.layer.features(x).to(self.weight.dtype)
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
        return Edges(self.layer, self.weight[outputs], self._symbolic_part(outputs))

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
        samples = self.layer.samples(x, at_most)
        if samples.numel() == 0:
            raise ValueError(f"inputs must not be empty, got shape {tuple(x.shape)}")
        return samples

    def ends(self) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]] | None:
        """Where each channel's grid begins and ends; None for a basis without a grid."""
        basis, grid = self.functions.basis, self.functions.grid
        return basis.ends(grid) if isinstance(basis, GriddedBasis) and grid is not None else None


def edges_of(layer: nn.Module) -> Edges:
    """The edges of any KAN layer; of a ``LowRankKANConv2d``, those of the convolution it stands for.

    Raises:
        TypeError: It is another kind of layer.
        ValueError: It is a low-rank convolution whose activation computes named functions.
    """
    if not isinstance(layer, EdgeLayer):
        raise TypeError(f"layer must be a KAN layer, got {type(layer).__name__}")
    return Edges(layer, layer.edge_planes(), layer.named_edges)


def in_order(parts: Sequence[list[int]], values: Sequence[Tensor]) -> Tensor:
    """What was found for the outputs of each part of ``Edges.in_parts``, as one tensor in the order of outputs."""
    order = torch.tensor([output for part in parts for output in part], device=values[0].device)
    return torch.cat(list(values))[order.argsort()]


def kan_layers(model: nn.Module) -> dict[str, EdgeLayer]:
    """The KAN layers of a model by name; a low-rank convolution counts as one, with its activation."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, EdgeLayer)}
    parts = {id(layer.functions) for layer in layers.values() if layer.functions is not layer}
    return {name: layer for name, layer in layers.items() if id(layer) not in parts}


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
    with watched(kan_layers(model), lambda name, _, x, __: found.update({name: x.detach()})), evaluating(model):
        model(x)
    return found
