"""A penalty on rough splines that decides coefficients which no sample decides.

s·Σ (Δ⁴c)², the fourth differences of neighbouring coefficients, over all gridded layers: 0 for cubic polynomials on
equally spaced knots, and weaker by itself where grids are finer. As it is quadratic, it is a matrix.
Source: Eilers and Marx, "Flexible smoothing with B-splines and penalties" (1996), eq. 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import GriddedBasis
from convkan.nn import EdgeLayer, KANLayer

DIFFERENCES = 4


@dataclass(frozen=True)
class Block:
    """The coefficients of one layer among all parameters.

    Attributes:
        name: The parameter.
        start: Where it starts in the vector of all.
        shape: (outputs, functions, rest), as its numbers lie.
        matrix: Differences along functions, times the root of the weight.
    """

    name: str
    start: int
    shape: tuple[int, int, int]
    matrix: Float[Tensor, "differences functions"]

    @property
    def place(self) -> slice:
        """Where it is in the vector of all."""
        return slice(self.start, self.start + self.shape[0] * self.shape[1] * self.shape[2])

    def rows(self, values: Tensor) -> Float[Tensor, " rows"]:
        """The differences of its coefficients."""
        return torch.einsum("d f, o f r -> o d r", self.matrix.to(values.dtype), values.reshape(self.shape)).flatten()

    def back(self, rows: Float[Tensor, " rows"]) -> Float[Tensor, " coefficients"]:
        """The transposed matrix times some rows."""
        return torch.einsum("d f, o d r -> o f r", self.matrix, rows.view(self.shape[0], -1, self.shape[2])).flatten()

    def whole(self, matrix: Tensor) -> Tensor:
        """A matrix over functions as one over all coefficients."""
        outer, inner = (torch.eye(self.shape[place]).to(matrix) for place in (0, 2))
        return torch.kron(torch.kron(outer, matrix), inner)


@dataclass(frozen=True)
class Smoothing:
    """The penalty as rows that are linear in the parameters and squared.

    Attributes:
        blocks: The coefficients of each layer.
        size: How many parameters there are.
    """

    blocks: Sequence[Block]
    size: int

    @classmethod
    def of(cls, model: nn.Module, trained: Sequence[str], weight: float) -> Self:
        """The penalty on those of a model's layers that are on a grid and trained."""
        parameters, start, starts = dict(model.named_parameters()), 0, {}
        for name in trained:
            starts[name] = start
            start += parameters[name].numel()
        blocks = []
        for prefix, layer in model.named_modules():
            name = f"{prefix}.basis_weight".lstrip(".")
            if weight > 0 and name in starts and _is_smoothed(layer):
                value, functions = parameters[name], layer.basis.num_functions
                shape = (len(value), functions, value[0].numel() // functions)
                matrix = torch.eye(functions, dtype=torch.float64, device="cpu").diff(n=DIFFERENCES, dim=0)
                blocks.append(Block(name, starts[name], shape, weight**0.5 * matrix.to(value.device)))
        return cls(blocks, start)

    def penalty(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """What is added to the loss."""
        found = [block.rows(parameters[block.name]).square().sum() for block in self.blocks]
        return torch.stack(found).sum() if found else torch.zeros(())

    def rows(self, vector: Float[Tensor, " parameters"]) -> Float[Tensor, " rows"]:
        """What is squared."""
        return torch.cat([vector[:0], *(block.rows(vector[block.place]) for block in self.blocks)])

    def back(self, rows: Float[Tensor, " rows"]) -> Float[Tensor, " parameters"]:
        """The transposed matrix times some rows."""
        found = rows.new_zeros(self.size)
        sizes = [len(block.matrix) * block.shape[0] * block.shape[2] for block in self.blocks]
        for block, part in zip(self.blocks, rows.split(sizes) if sizes else (), strict=True):
            found[block.place] += block.back(part)
        return found

    def squares(self) -> Float[Tensor, " parameters"]:
        """The sum of squares of each column of the matrix."""
        found = torch.zeros(self.size, dtype=torch.float64)
        for block in self.blocks:
            columns = block.matrix.square().sum(0).cpu()
            found[block.place] += columns.view(1, -1, 1).expand(block.shape).flatten()
        return found

    def matrix(self) -> Float[Tensor, "rows parameters"]:
        """The matrix."""
        parts = []
        for block in self.blocks:
            own = block.whole(block.matrix)
            part = own.new_zeros(len(own), self.size)
            part[:, block.place] = own
            parts.append(part)
        return torch.cat(parts) if parts else torch.zeros(0, self.size, dtype=torch.float64)

    def add_gram(self, gram: Float[Tensor, "parameters parameters"]) -> None:
        """Add the transposed matrix times the matrix."""
        for block in self.blocks:
            gram[block.place, block.place] += block.whole(block.matrix.mT @ block.matrix)


def _is_smoothed(layer: nn.Module) -> bool:
    """Whether a layer has coefficients in order of their places, as a matrix with outputs first."""
    if not isinstance(layer, KANLayer) or not isinstance(layer.basis, GriddedBasis):
        return False
    return layer.basis.num_functions > DIFFERENCES and type(layer).by_output is EdgeLayer.by_output
