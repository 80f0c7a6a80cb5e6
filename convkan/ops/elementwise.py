"""Features of pixels and gradients pulled back to them, by the kernels that fit what is to be computed."""

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.ops import kernels, native
from convkan.ops.plan import Plan


class FeatureKernels:
    """What makes the pixels of one call into features, tile after tile.

    Native kernels do where they cover it all, else those of ``convkan.ops.kernels``.

    Args:
        x: The input of the layer.
        grid: (in, knots) for a basis with a grid.
        plan: What the layer computes.
        dtype: Of the features.
        gradient: Whether ``pull_back`` will be called.
    """

    def __init__(self, x: Tensor, grid: Tensor | None, plan: Plan, dtype: torch.dtype, gradient: bool = False) -> None:
        self.expansion, self.dtype, groups = plan.expansion, dtype, plan.geometry.groups
        self.native = False
        self.knots: Tensor | None
        if grid is not None and native.covers_features(plan.expansion, x, grid, dtype, gradient):
            self.native, self.knots = True, native.knots(grid, groups, native.computed_in(x))
        else:
            self.knots = plan.expansion.knots(grid, groups)

    def features(
        self, pixels: Float[Tensor, "*batch groups channels"]
    ) -> Float[Tensor, "*batch groups features channels"]:
        """Features of pixels."""
        knots = self.knots
        if self.native and knots is not None and _is_planar(pixels):
            features = native.plane_features(_planes(pixels), self.expansion, knots, self.dtype)
            return features.unflatten(-1, pixels.shape[1:-2]).movedim((1, 2), (-2, -1)).unsqueeze(-3)
        rows = pixels.flatten(0, -3)
        if self.native and knots is not None:
            planes = native.features(rows, self.expansion, knots, self.dtype)
        elif _is_depthwise(rows):  # compiled kernels run along channels: let the groups be the channels of one group
            planes = kernels.features(rows.mT, self.expansion, _as_channels(knots), self.dtype)
            planes = planes.squeeze(1).mT.contiguous().unsqueeze(-1)
        else:
            planes = kernels.features(rows, self.expansion, knots, self.dtype)
        return planes if rows.ndim == pixels.ndim else planes.unflatten(0, pixels.shape[:-2])

    def pull_back(
        self, grad: Float[Tensor, "*batch groups features channels"], pixels: Float[Tensor, "*batch groups channels"]
    ) -> Float[Tensor, "*batch groups channels"]:
        """Gradients of features made gradients of pixels."""
        knots = self.knots
        if self.native and knots is not None and _is_planar(pixels):
            of_planes = grad.squeeze(-3).movedim((-2, -1), (1, 2)).flatten(3)
            pulled = native.plane_gradient(_planes(pixels), self.expansion, knots, of_planes)
            return pulled.unflatten(-1, pixels.shape[1:-2]).movedim(1, -1).unsqueeze(-2)
        rows, grad = pixels.flatten(0, -3), grad.flatten(0, -4)
        if self.native and knots is not None:
            pulled = native.input_gradient(rows, self.expansion, knots, grad)
        elif _is_depthwise(rows):
            grad = grad.squeeze(-1).mT.contiguous().unsqueeze(1)
            pulled = kernels.input_gradient(rows.mT, self.expansion, _as_channels(knots), grad).mT
        else:
            pulled = kernels.input_gradient(rows, self.expansion, knots, grad)
        return pulled if rows.ndim == pixels.ndim else pulled.unflatten(0, pixels.shape[:-2])


def _is_planar(pixels: Float[Tensor, "batch *space groups channels"]) -> bool:
    """Whether channels lie plane by plane in memory, as ``convkan.ops.convolution.Planar`` has them."""
    by_plane = pixels.ndim > 3 and pixels.shape[-2] == 1 and not pixels.is_contiguous()
    return by_plane and pixels.squeeze(-2).movedim(-1, 1).is_contiguous()


def _planes(pixels: Float[Tensor, "batch *space 1 channels"]) -> Float[Tensor, "batch channels pixels"]:
    return pixels.squeeze(-2).movedim(-1, 1).flatten(2)


def _is_depthwise(rows: Tensor) -> bool:
    return rows.shape[-1] == 1 and rows.shape[-2] > 1


def _as_channels(knots: Tensor | None) -> Tensor | None:
    return None if knots is None else knots.transpose(0, 1).mT.contiguous().mT
