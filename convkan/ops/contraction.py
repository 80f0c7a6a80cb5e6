"""From features to outputs: the sum over planes, and its gradients, in plain differentiable operations."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from convkan.ops.plan import Channelwise, Geometry, Linear


def contract(
    features: Float[Tensor, "batch *space groups features channels"], weight: Tensor, geometry: Geometry
) -> Tensor:
    """(batch, out) for a linear geometry, else (batch, out, *positions)."""
    features = features.to(weight.dtype)
    if isinstance(geometry, Linear):
        return F.linear(features.flatten(-3), weight)
    if isinstance(geometry, Channelwise):
        weight = rearrange(weight, "(c r) f -> c r f", c=features.shape[-1])
        y = torch.einsum("... f c, c r f -> ... c r", features.squeeze(-3), weight)
        return y.flatten(-2).movedim(-1, 1)
    zeros = [0] * len(geometry.stride)
    return torch.convolution(
        _planes(features), weight, None, geometry.stride, zeros, geometry.dilation, False, zeros, geometry.groups
    )


def contract_backward(
    grad: Tensor, features: Tensor, weight: Tensor, geometry: Geometry, need_features: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``contract`` with respect to features and weight, themselves differentiable."""
    features = features.to(weight.dtype)
    grad_features = grad_weight = None
    if isinstance(geometry, Linear):
        if need_features:
            grad_features = (grad @ weight).reshape(features.shape)
        if need_weight:  # a third faster in this order than transposed
            grad_weight = (features.flatten(-3).mT @ grad).mT
        return grad_features, grad_weight
    if isinstance(geometry, Channelwise):
        channels = features.shape[-1]
        grad = rearrange(grad.movedim(1, -1), "... (c r) -> ... c r", c=channels)
        if need_features:
            per_channel = rearrange(weight, "(c r) f -> c r f", c=channels)
            grad_features = torch.einsum("... c r, c r f -> ... f c", grad, per_channel).unsqueeze(-3)
        if need_weight:
            rows, columns = grad.reshape(-1, *grad.shape[-2:]), features.reshape(-1, *features.shape[-2:])
            grad_weight = torch.einsum("n c r, n f c -> c r f", rows, columns).reshape(weight.shape)
        return grad_features, grad_weight
    zeros = [0] * len(geometry.stride)
    grad_planes, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad,
        _planes(features),
        weight,
        None,
        geometry.stride,
        zeros,
        geometry.dilation,
        False,
        zeros,
        geometry.groups,
        [need_features, need_weight, False],
    )
    return grad_planes.movedim(1, -1).reshape(features.shape) if need_features else None, grad_weight


def _planes(features: Tensor) -> Tensor:
    """(batch, *space, groups, features, channels) as the channels-last input of a grouped convolution."""
    return features.flatten(-3).movedim(-1, 1)
