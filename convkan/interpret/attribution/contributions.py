"""How much each input of a KAN layer adds to an output: exact, since an output is a sum of functions of one input."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.interpret.attribution.transposed import features_of, named, pull_back, with_adjoint
from convkan.interpret.edges import edges_of
from convkan.ops.plan import at_least_float32


@dataclass(frozen=True)
class Contributions:
    """An output of a layer, or a weighted sum of outputs, taken apart: total = Σ values + padding + bias.

    Attributes:
        values: What each input adds; the shape of the layer's input.
        padding: What the zeros around the input add: φ(0) of each tap that lies on one. In other padding modes the
            border repeats inputs, which get its contributions.
        bias: What the bias adds.
        total: The layer's own output.
    """

    values: Float[Tensor, "*batch_and_inputs"]
    padding: Float[Tensor, "*batch"]
    bias: Float[Tensor, "*batch"]
    total: Float[Tensor, "*batch"]

    @property
    def residual(self) -> Float[Tensor, "*batch"]:
        """What the parts fail to explain of the total: rounding."""
        inputs = self.values.reshape(*self.total.shape, -1).sum(-1)
        return self.total - inputs - self.padding - self.bias


@torch.no_grad()
def contributions(
    layer: nn.Module,
    x: Tensor,
    output: int | None = None,
    location: tuple[int, ...] | None = None,
    *,
    weights: Tensor | None = None,
) -> Contributions:
    """What every input adds to an output y of a layer: Σ_edges φ(x) over the edges that lead there from it.

    For Σ v·y over any outputs, an input of features f_k(x) adds Σ_k f_k(x)·g_k, where g is the transposed convolution
    of v with the weights of the features: one pass, whatever the number of outputs.

    Args:
        layer: Any KAN layer.
        x: The layer's input, batched or not as the layer takes it.
        output: The output channel.
        location: The output position, for layers over space; None for the sum over all positions.
        weights: v, of the output's shape, instead of an output and a location.

    Raises:
        TypeError: It is another kind of layer.
        ValueError: There is no such output or location, or not exactly one of ``output`` and ``weights`` is given.

    Example:
        >>> from convkan import KANConv2d
        >>> parts = contributions(KANConv2d(3, 8, 3, padding=1), torch.randn(2, 3, 6, 6), output=5, location=(0, 4))
        >>> parts.values.shape, bool(parts.residual.abs().max() < 1e-5)
        (torch.Size([2, 3, 6, 6]), True)
    """
    edges = edges_of(layer)
    as_batch, batch = edges.layer.as_batch, edges.layer.batch_shape(x)
    y = at_least_float32(layer(x))
    rows, outputs = as_batch(at_least_float32(x)), as_batch(y)
    if weights is None:
        chosen = _chosen(outputs, output, location)
    elif output is not None or location is not None:
        raise ValueError("weights go without output and location, got both")
    elif weights.shape != y.shape:
        raise ValueError(f"weights must have the output's shape {tuple(y.shape)}, got {tuple(weights.shape)}")
    else:
        chosen = as_batch(weights.to(y))
    seen, unpad = with_adjoint(edges.layer.seen, rows)
    parts = pull_back(edges, features_of(edges, seen), chosen, lambda function, pick: function(pick(seen)))
    bordering = edges.layer.seen(torch.ones_like(rows)) == 0  # nowhere, unless the padding is of zeros
    bias = edges.layer.bias
    per_output = chosen.unsqueeze(-1).flatten(2).sum(2)
    constant = per_output.new_zeros(len(rows)) if bias is None else per_output @ bias.to(per_output.dtype)
    return Contributions(
        unpad(parts).reshape(x.shape),
        (parts * bordering).flatten(1).sum(1).reshape(batch),
        constant.reshape(batch),
        (chosen * outputs).flatten(1).sum(1).reshape(batch),
    )


@torch.no_grad()
def edge_contributions(
    layer: nn.Module, x: Tensor, output: int, location: tuple[int, ...] | None = None
) -> Float[Tensor, "..."]:
    """What each edge adds to one output at one position: φ[output,c,tap](x̃[c, location·stride + tap·dilation]).

    Together with the bias this is the output.

    Args:
        layer: Any KAN layer.
        x: The layer's input, batched or not as the layer takes it.
        output: The output channel.
        location: The output position, for layers over space.

    Returns:
        (*batch, in/groups, *kernel).

    Raises:
        TypeError: It is another kind of layer.
        ValueError: There is no such output or location.

    Example:
        >>> from convkan import KANConv2d
        >>> edge_contributions(KANConv2d(3, 8, 3), torch.randn(2, 3, 6, 6), output=5, location=(0, 3)).shape
        torch.Size([2, 3, 3, 3])
    """
    edges = edges_of(layer)
    outputs = edges.layer.as_batch(layer(x))
    _check_place(outputs, output, () if location is None else location)
    first = edges.channel(output, 0)
    channels = slice(first, first + edges.weight.shape[1])
    seen = edges.layer.seen(edges.layer.as_batch(at_least_float32(x)))[:, channels]
    seen, taps = edges.geometry.at_location(seen, location or (), edges.shape[2:])
    features = edges.layer.features(seen.movedim(1, -1), channels=channels, differentiable=False)
    weight = at_least_float32(edges.weight[output])
    values = torch.einsum("n...fc,cf...->nc...", features.to(weight.dtype), weight)
    if edges.symbolic is not None:
        for row, (target, input_, *tap) in enumerate(edges.symbolic.edges.tolist()):
            if target == output:
                function = named(edges.symbolic.functions[row], edges.symbolic.affine[row].to(values.dtype))
                place: tuple[slice | int, ...] = (slice(None), input_, *tap)
                values[place] += function(seen[place])
    if taps is not None:
        values = values.where(taps, 0)
    return values.reshape(*edges.layer.batch_shape(x), *values.shape[1:])


def _chosen(outputs: Tensor, output: int | None, location: tuple[int, ...] | None) -> Tensor:
    """1 at the output asked for, 0 elsewhere."""
    if output is None:
        raise ValueError("output must be given, or weights, got neither")
    _check_place(outputs, output, location)
    chosen = torch.zeros_like(outputs, memory_format=torch.contiguous_format)
    place: tuple[slice | int, ...] = (slice(None), output, *(location or ()))
    chosen[place] = 1
    return chosen


def _check_place(outputs: Tensor, output: int, location: tuple[int, ...] | None) -> None:
    """Raise unless there is such an output, and such a location."""
    if not 0 <= output < outputs.shape[1]:
        raise ValueError(f"output must lie in 0 … {outputs.shape[1] - 1}, got {output}")
    positions = tuple(outputs.shape[2:])
    if location is None:
        return
    if len(location) != len(positions) or not all(0 <= p < n for p, n in zip(location, positions, strict=True)):
        raise ValueError(f"location must be a position in an output of shape {positions}, got {location}")
