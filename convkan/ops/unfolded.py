"""A convolution as products of matrices, for few output positions and large weights.

Where there are fewer positions than outputs, weights are most of what is read, as in the deep stages of a network. They
are then multiplied as they lie in memory: to join both, and to put them in the order that a convolution works in, would
take longer than all of the products. What is copied instead are the patches of the few positions.
"""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.modes import is_concrete
from convkan.ops.convolution import Convolution, Planar
from convkan.ops.geometry import Geometry, Linear, Sizes
from convkan.ops.tiles import CPU_BYTES_PER_THREAD

# Weights of fewer bytes stay in the cache, however they are ordered.
LEAST_BYTES = CPU_BYTES_PER_THREAD


class Unfolded(Convolution):
    """``Convolution`` of one group, whose ``contract`` is a product of matrices for each weight."""

    unweights = Linear.unweights

    def weights(self, base_weight: Tensor | None, basis_weight: Tensor) -> tuple[Tensor, ...]:
        """Both as they are."""
        return (basis_weight,) if base_weight is None else (base_weight, basis_weight)

    def contract(self, features: Float[Tensor, "batch *space 1 features channels"], *weights: Tensor) -> Tensor:
        """Patches times weights."""
        planes, y = features.to(weights[0].dtype).flatten(-3).movedim(-1, 1), None
        for part, weight in zip(_split(planes, weights), weights, strict=True):
            rows, matrix = self._rows(part, weight.shape[2:]), weight.flatten(1).mT
            y = rows @ matrix if y is None else torch.addmm(y, rows, matrix)
        assert y is not None
        positions = self.positions(planes.shape[2:], weights[0].shape[2:])
        return y.reshape(len(planes), *positions, -1).movedim(-1, 1)

    def contract_backward(
        self, grad: Tensor, features: Tensor, weights: Sequence[Tensor], need_features: bool, need_weight: bool
    ) -> tuple[Tensor | None, tuple[Tensor, ...] | None]:
        """Two products for each weight; what comes back to the patches is added up tap by tap."""
        planes = features.to(weights[0].dtype).flatten(-3).movedim(-1, 1)
        rows = grad.movedim(1, -1).reshape(-1, grad.shape[1])
        by_features = by_weights = None
        if need_features:
            parts = [self._folded(rows @ weight.flatten(1), planes.shape, weight) for weight in weights]
            by_features = torch.cat(parts, dim=-1).reshape(features.shape)
        if need_weight:
            by_weights = tuple(
                (rows.mT @ self._rows(part, weight.shape[2:])).reshape(weight.shape)
                for part, weight in zip(_split(planes, weights), weights, strict=True)
            )
        return by_features, by_weights

    def _rows(self, planes: Tensor, kernel_size: Sizes) -> Float[Tensor, "positions planes_and_taps"]:
        """The patch of every output position, in the order of a weight."""
        patches = planes
        steps = zip(kernel_size, self.stride, self.dilation, strict=True)
        for dimension, (size, stride, dilation) in enumerate(steps, start=2):
            patches = patches.unfold(dimension, dilation * (size - 1) + 1, stride)[..., ::dilation]
        positions = patches.movedim(1, 1 + len(kernel_size))
        return positions.reshape(-1, planes.shape[1] * prod(kernel_size))

    def _folded(self, rows: Tensor, shape: Sizes, weight: Tensor) -> Float[Tensor, "batch *space planes"]:
        """The adjoint of ``_rows``."""
        kernel_size, (batch, _, *space) = weight.shape[2:], shape
        patches = rows.view(batch, *self.positions(space, kernel_size), *weight.shape[1:])
        planes = rows.new_zeros(batch, *space, weight.shape[1])
        for tap in product(*map(range, kernel_size)):
            of_tap: tuple[Any, ...] = (..., *tap)
            planes[(slice(None), *self.window(tap, kernel_size, space))] += patches[of_tap]
        return planes


def _split(planes: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    return planes.split([weight.shape[1] for weight in weights], dim=1)


def suited(geometry: Geometry, rows: Tensor, weight: Tensor) -> Geometry:
    """The geometry, or one that computes the same faster, for an input and a weight of these sizes."""
    if type(geometry) is not Convolution or geometry.groups != 1 or weight.nbytes < LEAST_BYTES:
        return geometry
    if not rows.is_cpu or not is_concrete(rows):
        return geometry
    batch, out, *positions = geometry.output_shape(rows.shape, weight.shape)
    options = geometry.stride, geometry.padding, geometry.dilation
    if batch * prod(positions) <= out:
        return Unfolded(*options)
    flat = len(positions) == 2 and rows.is_contiguous() and weight.is_contiguous()
    return Planar(*options) if flat else geometry
