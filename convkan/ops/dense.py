"""Features once per pixel, then one ordinary convolution or matrix product over (1 + K)·C planes.

Features are 1 + K times the size of the input. They are made for a tile of the input at a time, small enough to stay
in the processor's cache, and made again in the backward pass, for which only the input and the weights are kept.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from convkan.ops import channelwise, kernels
from convkan.ops.contraction import contract, contract_backward
from convkan.ops.plan import Channelwise, Linear, Plan, at_least_float32, expanded_weight
from convkan.ops.tiles import WHOLE, images_per_tile, strips


def pixels_of(x: Tensor, plan: Plan) -> Tensor:
    """The pixels at which features are needed: (batch, *space, groups, channels), padded."""
    geometry = plan.geometry
    if any(geometry.padding):
        x = F.pad(x, geometry.padding)
    if not isinstance(geometry, Linear):
        x = x.movedim(1, -1)
    return x.contiguous().unflatten(-1, (geometry.groups, -1))


def _input_gradient(pixels: Tensor, plan: Plan) -> Tensor:
    """The adjoint of ``pixels_of``."""
    geometry, x = plan.geometry, pixels.flatten(-2)
    if not isinstance(geometry, Linear):
        x = x.movedim(-1, 1)
    if any(geometry.padding):
        x = F.pad(x, tuple(-p for p in geometry.padding))
    return x


def _features(pixels: Tensor, knots: Tensor | None, plan: Plan, dtype: torch.dtype, differentiable: bool) -> Tensor:
    if differentiable:
        return plan.expansion.features(pixels, knots).to(dtype)
    rows = pixels.flatten(0, -3)
    if _is_depthwise(rows):  # kernels run along channels: let the groups be the channels of one group
        planes = kernels.features(rows.mT, plan.expansion, _as_channels(knots), dtype)
        planes = planes.squeeze(1).mT.contiguous().unsqueeze(-1)
    else:
        planes = kernels.features(rows, plan.expansion, knots, dtype)
    return planes.unflatten(0, pixels.shape[:-2])


def _is_depthwise(rows: Tensor) -> bool:
    return rows.shape[-1] == 1 and rows.shape[-2] > 1


def _as_channels(knots: Tensor | None) -> Tensor | None:
    return None if knots is None else knots.transpose(0, 1).mT.contiguous().mT


def _pull_back(grad: Tensor, pixels: Tensor, knots: Tensor | None, plan: Plan, differentiable: bool) -> Tensor:
    """Gradients of features made gradients of pixels."""
    if differentiable:
        return (grad * plan.expansion.features(pixels, knots, derivative=True)).sum(-2).to(pixels.dtype)
    rows, grad = pixels.flatten(0, -3), grad.flatten(0, -4)
    if _is_depthwise(rows):
        grad = grad.squeeze(-1).mT.contiguous().unsqueeze(1)
        pulled = kernels.input_gradient(rows.mT, plan.expansion, _as_channels(knots), grad).mT
    else:
        pulled = kernels.input_gradient(rows, plan.expansion, knots, grad)
    return pulled.unflatten(0, pixels.shape[:-2])


def forward(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
    """The output of a layer (shapes as in ``convkan.ops.dispatch.evaluate``), through which no gradient is taken."""
    if isinstance(plan.geometry, Channelwise):
        return channelwise.forward(x, base_weight, basis_weight, grid, plan.expansion, plan.geometry.padding)
    if isinstance(plan.geometry, Linear) and x.ndim != 2:  # one dimension to cut along
        flat = forward(x.reshape(-1, x.shape[-1]), base_weight, basis_weight, grid, plan)
        return flat.reshape(*x.shape[:-1], flat.shape[-1])
    weight = expanded_weight(base_weight, basis_weight)
    knots = plan.expansion.knots(grid, plan.geometry.groups)
    y: Tensor | None = None
    start = 0
    for part in x.split(images_per_tile(x, weight, plan)):
        pixels = pixels_of(part, plan)
        rows = [
            contract(_features(pixels[:, strip.rows], knots, plan, weight.dtype, False), weight, plan.geometry)
            for strip in strips(pixels, weight, plan)
        ]
        out = rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)
        y, start = _append(y, out, start, len(x)), start + len(part)
    assert y is not None
    return y


def _append(whole: Tensor | None, part: Tensor, start: int, length: int) -> Tensor:
    """Write a part of the batch into its place while it is in the cache."""
    if len(part) == length:
        return part
    if whole is None:
        whole = part.new_empty(length, *part.shape[2:], part.shape[1]).movedim(-1, 1)
    whole[start : start + len(part)] = part
    return whole


def backward(
    grad: Tensor,
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    plan: Plan,
    need_x: bool,
    need_weight: bool,
    differentiable: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``forward`` with respect to its first three arguments, those that are needed.

    With ``differentiable``, gradients can be taken through the result.
    """
    geometry = plan.geometry
    if isinstance(geometry, Channelwise) and not differentiable:
        return channelwise.backward(
            grad, x, base_weight, basis_weight, grid, plan.expansion, geometry.padding, need_x, need_weight
        )
    shape = x.shape
    if isinstance(geometry, Linear):
        grad, x = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    weight = expanded_weight(base_weight, basis_weight)
    knots = plan.expansion.knots(grid, geometry.groups)
    size = max(1, len(x)) if differentiable else images_per_tile(x, weight, plan)
    grad_weight: Tensor | None = None
    grad_x: Tensor | None = None
    start = 0
    for part, grad_part in zip(x.split(size), grad.split(size), strict=True):
        pixels = pixels_of(part, plan)
        grad_pixels: Tensor | None = None
        for strip in [WHOLE] if differentiable else strips(pixels, weight, plan):
            whole = strip is WHOLE
            seen = pixels if whole else pixels[:, strip.rows]
            features = _features(seen, knots, plan, weight.dtype, differentiable)
            grad_features, more = contract_backward(
                grad_part if whole else grad_part[:, :, strip.positions],
                features,
                weight,
                geometry,
                need_x,
                need_weight,
            )
            if grad_features is not None:
                pulled = _pull_back(grad_features, seen, knots, plan, differentiable)
                if whole:
                    grad_pixels = pulled
                else:  # neighbouring strips share rows
                    grad_pixels = torch.zeros_like(pixels) if grad_pixels is None else grad_pixels
                    grad_pixels[:, strip.rows] += pulled
            if more is not None:
                grad_weight = at_least_float32(more) if grad_weight is None else grad_weight + more
        if grad_pixels is not None:
            grad_x = _append(grad_x, _input_gradient(grad_pixels, plan), start, len(x))
        start += len(part)
    if grad_x is not None:
        grad_x = grad_x.reshape(shape)
    if grad_weight is None:
        return grad_x, None, None
    base_planes = 0 if base_weight is None else base_weight.shape[1]
    grad_weight = grad_weight.to(weight.dtype)
    return grad_x, None if base_weight is None else grad_weight[:, :base_planes], grad_weight[:, base_planes:]
