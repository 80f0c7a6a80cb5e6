"""Learnable activations as tables: functions of any kind, looked up, with a line between entries or without."""

from copy import deepcopy
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import GriddedBasis
from convkan.export.piecewise import Arrangement, looked_up
from convkan.nn import LearnableActivation

REACH = 8.0  # tables of layers whose inputs are not known reach as far, or as their knots


def table_range(layer: LearnableActivation) -> Float[Tensor, "ends channels"]:
    """From where to where a table holds the functions of a layer whose inputs are not known, (2, channels)."""
    ends = torch.tensor([-REACH, REACH], dtype=torch.float64).unsqueeze(1).repeat(1, layer.num_inputs)
    if isinstance(layer.basis, GriddedBasis) and layer.grid is not None:
        knots = layer.grid.detach().cpu().double()
        ends = torch.stack([torch.minimum(ends[0], knots[:, 0]), torch.maximum(ends[1], knots[:, -1])])
    return ends


class TableActivation(nn.Module):
    """A ``LearnableActivation`` by a table of its values: whatever its basis, in as many operations.

    Between the ends of a table it is the line through the function's values at the ends of each cell, beyond them that
    of the last cell; or, without lines, the value in the middle of the cell.

    Args:
        layer: The activation.
        entries: Cells of the table of each function.
        lines: Lines, and not steps.
        ends: From where to where, (2, channels); by default ``table_range``.

    Shape:
        That of the layer.
    """

    scale: Tensor | None
    shift: Tensor | None
    constants: Tensor
    slopes: Tensor | None

    def __init__(
        self, layer: LearnableActivation, entries: int, *, lines: bool = True, ends: Tensor | None = None
    ) -> None:
        super().__init__()
        like = layer.basis_weight
        self.arrangement, self.entries = Arrangement.of(layer), entries
        low, high = table_range(layer) if ends is None else ends.detach().cpu().double()
        cell = ((high - low) / entries).unsqueeze(1)
        corners = low.unsqueeze(1) + cell * torch.arange(entries + 1, dtype=torch.float64)
        index = torch.arange(entries, dtype=torch.float64)
        if lines:
            values = values_of(layer, corners)  # (channels, functions, entries + 1)
            slopes = values.diff(dim=-1)
            constants = values[..., :-1] - slopes * index
        else:
            slopes, constants = None, values_of(layer, corners[:, :-1] + cell / 2)
        # A point x lies in the cell x·scale + shift, rounded down.
        for name, tensor in (
            ("scale", 1 / cell),
            ("shift", -low.unsqueeze(1) / cell),
            ("constants", constants),
            ("slopes", slopes),
        ):
            self.register_buffer(name, None if tensor is None else tensor.to(like.device, like.dtype).contiguous())

    @torch.no_grad()
    def minus(self, constant: Float[Tensor, "channels functions"]) -> Self:
        """The same less a constant of each function."""
        self.constants.sub_(constant.to(self.constants).unsqueeze(-1))
        return self

    def without_scale(self) -> tuple[Tensor, Tensor]:
        """Have it given cells from now on; returns the scale and the shift of each channel that make them of inputs."""
        assert self.scale is not None
        assert self.shift is not None
        found = self.scale, self.shift
        self.scale = self.shift = None
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Every channel's functions."""
        last = float(self.entries - 1)
        held = self.scale is None and self.slopes is None
        # In the input's own shape: engines make it a part of a convolution that comes before.
        rows = self.arrangement.rows(x.clamp(0.0, last) if held else x)  # (batch, channels, points)
        position = rows if self.scale is None or self.shift is None else rows * self.scale + self.shift
        cell = (position if held else position.clamp(0.0, last)).to(torch.int64)
        outputs = []
        for function in range(self.constants.shape[1]):
            y = looked_up(self.constants[:, function], cell)
            if self.slopes is not None:
                y = looked_up(self.slopes[:, function], cell) * position + y
            outputs.append(y)
        return self.arrangement.restored(outputs, x)


@torch.no_grad()
def values_of(layer: LearnableActivation, x: Float[Tensor, "channels points"]) -> Tensor:
    """All functions of a layer, named ones and the base activation too, (channels, functions, points), in float64."""
    exact = deepcopy(layer).cpu().double()
    if Arrangement.of(layer).dim is None:
        return exact(x).unsqueeze(1)
    points = x.mT  # channels are the second dimension, and the last
    if not any(layer.padding):
        return exact(points).mT.unflatten(0, (layer.num_inputs, -1))
    dims = len(layer.padding) // 2
    padded = exact(points.reshape(*points.shape, *(1,) * dims))
    middle = padded[(..., *layer.padding[-2::-2])]
    return middle.mT.unflatten(0, (layer.num_inputs, -1))
