"""Features once per pixel, then one ordinary convolution or matrix product over (1 + K)·C planes.

Only the input and the weights are kept for the backward pass, which evaluates the features again: they are 1 + K
times the size of the input. The backward pass is made of differentiable operations, so gradients of any order are
right; so are forward-mode derivatives and ``torch.func`` transforms.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import FunctionCtx

from convkan.ops.plan import Channelwise, Convolution, Linear, Plan, expanded_weight


def _channels_last(x: Tensor, plan: Plan) -> Tensor:
    """The pixels at which features are needed, channels as the last dimension."""
    match plan.geometry:
        case Linear():
            return x
        case Channelwise():
            return x.movedim(1, -1)
        case Convolution(padding=padding):
            return (F.pad(x, padding) if any(padding) else x).movedim(1, -1)


def _input_gradient(pixels: Tensor, plan: Plan) -> Tensor:
    """The adjoint of ``_channels_last``."""
    match plan.geometry:
        case Linear():
            return pixels
        case Channelwise():
            return pixels.movedim(-1, 1)
        case Convolution(padding=padding):
            x = pixels.movedim(-1, 1)
            return F.pad(x, tuple(-p for p in padding)) if any(padding) else x


def _planes(features: Tensor) -> Tensor:
    """(batch, *space, groups, features, channels) as the channels-last input of a grouped convolution."""
    return features.flatten(-3).movedim(-1, 1)


def _contract(features: Tensor, weight: Tensor, plan: Plan) -> Tensor:
    features = features.to(weight.dtype)
    match plan.geometry:
        case Linear():
            return F.linear(features.flatten(-3), weight)
        case Channelwise():
            weight = rearrange(weight, "(c r) f -> c r f", c=features.shape[-1])
            y = torch.einsum("... f c, c r f -> ... c r", features.squeeze(-3), weight)
            return y.flatten(-2).movedim(-1, 1)
        case Convolution(stride=stride, dilation=dilation, groups=groups):
            zeros = [0] * len(stride)
            return torch.convolution(_planes(features), weight, None, stride, zeros, dilation, False, zeros, groups)


def _contract_backward(
    grad: Tensor, features: Tensor, weight: Tensor, plan: Plan, need_features: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``_contract`` with respect to features and weight, in differentiable operations."""
    features = features.to(weight.dtype)
    match plan.geometry:
        case Linear():
            flat = features.flatten(-3)
            grad_features = (grad @ weight).reshape(features.shape) if need_features else None
            rows, columns = grad.reshape(-1, grad.shape[-1]), flat.reshape(-1, flat.shape[-1])
            return grad_features, rows.mT @ columns if need_weight else None
        case Channelwise():
            channels = features.shape[-1]
            grad = rearrange(grad.movedim(1, -1), "... (c r) -> ... c r", c=channels)
            grad_features = grad_weight = None
            if need_features:
                per_channel = rearrange(weight, "(c r) f -> c r f", c=channels)
                grad_features = torch.einsum("... c r, c r f -> ... f c", grad, per_channel).unsqueeze(-3)
            if need_weight:
                rows = grad.reshape(-1, *grad.shape[-2:])
                columns = features.reshape(-1, *features.shape[-2:])
                grad_weight = torch.einsum("n c r, n f c -> c r f", rows, columns).reshape(weight.shape)
            return grad_features, grad_weight
        case Convolution(stride=stride, dilation=dilation, groups=groups):
            zeros = [0] * len(stride)
            grad_planes, grad_weight, _ = torch.ops.aten.convolution_backward(
                grad,
                _planes(features),
                weight,
                None,
                stride,
                zeros,
                dilation,
                False,
                zeros,
                groups,
                [need_features, need_weight, False],
            )
            if need_features:
                grad_planes = grad_planes.movedim(1, -1).reshape(features.shape)
            return grad_planes, grad_weight


class _Dense(torch.autograd.Function):
    """The dense evaluation, with reverse mode."""

    @staticmethod
    def forward(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
        features = plan.features(_channels_last(x, plan), grid, differentiable=False)
        return _contract(features, expanded_weight(base_weight, basis_weight), plan)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.plan = inputs  # type: ignore[attr-defined]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base_weight, basis_weight, grid = ctx.saved_tensors
        plan: Plan = ctx.plan
        need_x, *need_weights = ctx.needs_input_grad[:3]
        differentiable = torch.is_grad_enabled()
        pixels = _channels_last(x, plan)
        features = plan.features(pixels, grid, differentiable=differentiable)
        grad_features, grad_weight = _contract_backward(
            grad, features, expanded_weight(base_weight, basis_weight), plan, need_x, any(need_weights)
        )
        grad_x = grad_base = grad_basis = None
        if grad_features is not None:
            slopes = plan.features(pixels, grid, derivative=True, differentiable=differentiable)
            grad_pixels = (grad_features * slopes).sum(-2).reshape(pixels.shape)
            grad_x = _input_gradient(grad_pixels, plan).to(x.dtype)
        if grad_weight is not None:
            base_planes = 0 if base_weight is None else base_weight.shape[1]
            grad_base = None if base_weight is None else grad_weight[:, :base_planes]
            grad_basis = grad_weight[:, base_planes:]
        return grad_x, grad_base, grad_basis, None, None


class _TransformableDense(_Dense):
    """The same with forward mode and ``torch.func`` transforms, which ``torch.compile`` does not trace."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(
        ctx: Any,
        tangent_x: Tensor | None,
        tangent_base: Tensor | None,
        tangent_basis: Tensor | None,
        *_: None,
    ) -> Tensor:
        x, base_weight, basis_weight, grid = ctx.saved_tensors
        plan: Plan = ctx.plan
        pixels = _channels_last(x, plan)
        terms = []
        if tangent_x is not None:
            steps = _channels_last(tangent_x, plan).unflatten(-1, (plan.geometry.groups, -1)).unsqueeze(-2)
            slopes = plan.features(pixels, grid, derivative=True)
            terms.append(_contract(slopes * steps, expanded_weight(base_weight, basis_weight), plan))
        if tangent_base is not None or tangent_basis is not None:
            if base_weight is not None and tangent_base is None:
                tangent_base = torch.zeros_like(base_weight)
            if tangent_basis is None:
                tangent_basis = torch.zeros_like(basis_weight)
            features = plan.features(pixels, grid)
            terms.append(_contract(features, expanded_weight(tangent_base, tangent_basis), plan))
        return sum(terms[1:], start=terms[0])


def dense(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
    """Evaluate a KAN layer through per-pixel features (shapes as in ``convkan.ops.dispatch.evaluate``)."""
    function = _Dense if torch.compiler.is_compiling() else _TransformableDense
    return function.apply(x, base_weight, basis_weight, grid, plan)
