"""Learnable activations as the polynomials that they are between knots, looked up and evaluated by Horner's rule.

A layer evaluates all its basis functions, of which most are 0 at a point. What runs a graph operation by operation, as
ONNX Runtime does, writes each of those to memory. Looked up, a function of order k costs k + 1 numbers a point.
"""

from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import GriddedBasis, get_activation
from convkan.nn import LearnableActivation, SharedActivation

NOUGHT = 1e-12  # relative: coefficients beyond the knots, of powers without end, that are rounding errors
EXACT = 1e-9  # relative, in float64: how far polynomials may be from the functions they stand for, and from each other


class Pieces(NamedTuple):
    """A function of each channel, in polynomials.

    Attributes:
        origin: Where the local coordinate of each piece is 0.
        width: Its unit.
        coefficients: Of the powers of the local coordinate, the constant first.
    """

    origin: Float[Tensor, "channels pieces"]
    width: Float[Tensor, "channels pieces"]
    coefficients: Float[Tensor, "powers channels functions pieces"]


def pieces_of(layer: LearnableActivation) -> Pieces | None:
    """The polynomials between a layer's knots and beyond them, in float64; without the base activation.

    None where functions are not continuous piecewise polynomials, or edges are named.
    """
    basis, grid = layer.basis, layer.grid
    if not isinstance(basis, GriddedBasis) or grid is None or layer.named_edges is not None:
        return None
    knots, degree = grid.detach().cpu().double(), basis.degree
    step = (knots[:, -1:] - knots[:, :1]) / (knots.shape[1] - 1)
    origin = torch.cat([knots[:, :1] - step, knots], dim=1)
    width = torch.cat([step, knots.diff(dim=1), step], dim=1)
    # More places than a polynomial has coefficients, to see whether it is one; none on a knot.
    places = (torch.arange(degree + 4, dtype=torch.float64) + 0.5) / (degree + 4)
    x = origin.unsqueeze(-1) + width.unsqueeze(-1) * places
    values = _values(layer, x.flatten(1)).unflatten(-1, x.shape[1:])  # (channels, functions, pieces, places)
    powers = places.unsqueeze(0) ** torch.arange(degree + 1).unsqueeze(1)
    coefficients = values @ torch.linalg.pinv(powers)
    scale = values.abs().amax().clamp_min(1e-30)
    there = (width > 0).unsqueeze(1)
    off = ((coefficients @ powers - values).abs().amax(-1) * there).amax() / scale
    jumps = _jumps(coefficients, there) / scale
    if not off <= EXACT or not jumps <= 1e4 * EXACT or degree < 1:
        return None
    beyond = coefficients[..., [0, -1], 1:]
    coefficients[..., [0, -1], 1:] = torch.where(beyond.abs() > NOUGHT * scale, beyond, 0)
    return Pieces(origin, width, coefficients.movedim(-1, 0))


def _values(layer: LearnableActivation, x: Float[Tensor, "channels points"]) -> Tensor:
    """Σ_k c_k·B_k(x) of every channel and function, (channels, functions, points), in float64."""
    _, weight = layer.edge_weights()
    weight = weight.detach().cpu().double().unflatten(0, (layer.num_inputs, -1))
    assert layer.grid is not None
    values = layer.basis.evaluate(x.mT, layer.grid.detach().cpu().double())
    return torch.einsum("pkc,crk->crp", values, weight)


def _jumps(coefficients: Float[Tensor, "channels functions pieces powers"], there: Tensor) -> Tensor:
    """The greatest difference of neighbouring pieces where they meet."""
    ends, starts = coefficients.sum(-1), coefficients[..., 0]
    worst = torch.zeros((), dtype=coefficients.dtype)
    last = ends[..., 0]
    for piece in range(1, coefficients.shape[2]):
        alive = there[..., piece]
        worst = torch.maximum(worst, ((starts[..., piece] - last).abs() * alive).amax())
        last = torch.where(alive, ends[..., piece], last)
    return worst


class PiecewiseActivation(nn.Module):
    """ψ[c,r](x) = w[c,r]·b(x) + a polynomial for each interval of knots: a ``LearnableActivation`` made to be exported.

    It has the function, but no parameters to train and no grid that could change. Of equally spaced knots the interval
    is computed, else counted.

    Args:
        layer: The activation.
        pieces: What ``pieces_of`` found of it.

    Shape:
        That of the layer.
    """

    scale: Tensor
    shift: Tensor
    origin: Tensor
    knots: Tensor
    coefficients: Tensor
    base_weight: Tensor

    def __init__(self, layer: LearnableActivation, pieces: Pieces) -> None:
        super().__init__()
        like = layer.basis_weight
        self.arrangement = Arrangement.of(layer)
        self.base = get_activation(layer.base_activation)
        base_weight, _ = layer.edge_weights()
        self.uniform = layer.uniform_knots
        coefficients = pieces.coefficients
        if self.uniform:
            self._keep("scale", 1 / pieces.width[:, :1], like)
            self._keep("shift", -pieces.origin[:, 1:2] / pieces.width[:, :1], like)
        else:
            size = pieces.width.clamp_min(torch.finfo(torch.float32).tiny)
            powers = torch.arange(len(coefficients)).view(-1, 1, 1)
            coefficients = coefficients * torch.where(pieces.width > 0, size**-powers, 0).unsqueeze(2)
            self._keep("origin", pieces.origin, like)
            self._keep("knots", pieces.origin[:, 1:], like)
        self.last = float(pieces.origin.shape[1] - 2)
        self._keep("coefficients", coefficients, like)
        base = None if base_weight is None else base_weight.detach().unflatten(0, (layer.num_inputs, -1))
        self._keep("base_weight", base, like)  # (channels, functions, 1)

    def _keep(self, name: str, values: Tensor | None, like: Tensor) -> None:
        self.register_buffer(name, None if values is None else values.to(like.device, like.dtype).contiguous())

    @torch.no_grad()
    def minus(self, constant: Float[Tensor, "channels functions"]) -> Self:
        """The same less a constant of each function."""
        self.coefficients[0].sub_(constant.to(self.coefficients).unsqueeze(-1))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Every channel's functions."""
        rows = self.arrangement.rows(x)  # (batch, channels, points)
        if self.uniform:
            position = rows * self.scale + self.shift
            interval = position.floor().clamp(-1.0, self.last)
            local, piece = position - interval, (interval + 1).to(torch.int64)
        else:
            piece = (rows.unsqueeze(-1) >= self.knots.unsqueeze(1)).sum(-1)
            local = rows - looked_up(self.origin, piece)
        based = None if self.base is None else self.base.value(rows)
        outputs = []
        for function in range(self.coefficients.shape[2]):
            y = looked_up(self.coefficients[-1, :, function], piece)
            for power in range(len(self.coefficients) - 2, -1, -1):
                y = y * local + looked_up(self.coefficients[power, :, function], piece)
            outputs.append(y if based is None else y + based * self.base_weight[:, function])
        return self.arrangement.restored(outputs, x)


def looked_up(
    table: Float[Tensor, "channels entries"], entry: Float[Tensor, "batch channels points"]
) -> Float[Tensor, "batch channels points"]:
    """The entries of each channel's table."""
    return table.expand(entry.shape[0], -1, -1).gather(2, entry)


class Arrangement(NamedTuple):
    """Where the channels of an activation are, and how its functions become channels.

    Attributes:
        dim: The dimension of the channels; None if all numbers have one function.
        padding: Zeros to be put around the input first.
    """

    dim: int | None
    padding: tuple[int, ...]

    @classmethod
    def of(cls, layer: LearnableActivation) -> Self:
        """That of a layer."""
        return cls(None if isinstance(layer, SharedActivation) else layer.dim, layer.padding)

    def seen(self, x: Tensor) -> Tensor:
        """The input with channels second and the zeros around it."""
        if self.dim is None:
            return x.unsqueeze(1)
        x = x.movedim(-1, 1) if self.dim == -1 else x
        return nn.functional.pad(x, self.padding) if any(self.padding) else x

    def rows(self, x: Tensor) -> Float[Tensor, "batch channels points"]:
        """The input, its points in a row."""
        seen = self.seen(x)
        return seen.unsqueeze(-1) if seen.ndim == 2 else seen.flatten(2)

    def restored(self, outputs: list[Tensor], x: Tensor) -> Tensor:
        """An output for each function, (batch, channels, points) each, in the layer's shape."""
        y = outputs[0] if len(outputs) == 1 else torch.stack(outputs, dim=2).flatten(1, 2)
        space = self.seen(x).shape[2:]
        y = y.unflatten(-1, space) if len(space) > 1 else y if len(space) else y.squeeze(-1)
        if self.dim is None:
            return y.squeeze(1)
        return y.movedim(1, -1) if self.dim == -1 else y
