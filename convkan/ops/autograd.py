"""The dense evaluation as a function that autograd knows.

The backward pass is made of differentiable operations, so gradients of any order are right; so are forward-mode
derivatives and ``torch.func`` transforms.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from convkan.basis.base import is_recorded
from convkan.ops import custom
from convkan.ops.contraction import contract
from convkan.ops.counting import is_counted
from convkan.ops.dense import backward as dense_backward
from convkan.ops.dense import forward as dense_forward
from convkan.ops.dense import pixels_of
from convkan.ops.plan import Plan, expanded_weight


class _Dense(torch.autograd.Function):
    """The dense evaluation, with reverse mode."""

    @staticmethod
    def forward(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
        if is_counted():
            return custom.dense(x, base_weight, basis_weight, grid, plan.key)
        return dense_forward(x, base_weight, basis_weight, grid, plan)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.plan = inputs  # type: ignore[attr-defined]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base_weight, basis_weight, grid = ctx.saved_tensors
        need_x, *need_weights = ctx.needs_input_grad[:3]
        differentiable = torch.is_grad_enabled()
        if is_counted() and not differentiable:
            gradients = custom.dense_backward(
                grad, x, base_weight, basis_weight, grid, ctx.plan.key, need_x, any(need_weights)
            )
            return *custom.those_needed(gradients, ctx.needs_input_grad), None, None
        gradients = dense_backward(
            grad, x, base_weight, basis_weight, grid, ctx.plan, need_x, any(need_weights), differentiable
        )
        return *gradients, None, None


class _TransformableDense(_Dense):
    """The same with forward mode and ``torch.func`` transforms, which ``torch.compile`` does not trace."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
        # A result that is a rearranged view of memory of its own is an ordinary tensor to autograd, so that what
        # follows may work in place on it, as ``ReLU(inplace=True)`` does.
        with torch._C._AutoDispatchBelowADInplaceOrView():
            return _Dense.forward(x, base_weight, basis_weight, grid, plan)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch._C._functorch.is_legacy_batchedtensor(grad):
            return _backward_of_many(ctx, grad)
        return _Dense.backward(ctx, grad)

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
        knots = plan.expansion.knots(grid, plan.geometry.groups)
        pixels = pixels_of(x, plan)
        terms = []
        if tangent_x is not None:
            slopes = plan.expansion.features(pixels, knots, derivative=True)
            steps = slopes * pixels_of(tangent_x, plan).unsqueeze(-2)
            terms.append(contract(steps, expanded_weight(base_weight, basis_weight), plan.geometry))
        if tangent_base is not None or tangent_basis is not None:
            if base_weight is not None and tangent_base is None:
                tangent_base = torch.zeros_like(base_weight)
            if tangent_basis is None:
                tangent_basis = torch.zeros_like(basis_weight)
            features = plan.expansion.features(pixels, knots)
            terms.append(contract(features, expanded_weight(tangent_base, tangent_basis), plan.geometry))
        return sum(terms[1:], start=terms[0])


def _backward_of_many(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass for many gradients at once, as ``torch.autograd.grad(is_grads_batched=True)`` has them.

    To them only the operations apply that autograd itself is made of: so it derives plain operations.
    """
    needed, differentiable = ctx.needs_input_grad[:3], torch.is_grad_enabled()
    *inputs, grid = ctx.saved_tensors
    with torch.enable_grad():
        # Tensors of their own, by which gradients are partial ones even where one input was computed from another.
        inputs = [
            tensor if tensor is None else tensor.view_as(tensor) if differentiable else tensor.detach()
            for tensor in inputs
        ]
        wanted = [tensor.requires_grad_() for tensor, need in zip(inputs, needed, strict=True) if need]
        y = _plain(inputs[0], inputs[1], inputs[2], grid, ctx.plan)
    gradients = iter(torch.autograd.grad(y, wanted, grad, create_graph=differentiable))
    return *(next(gradients) if need else None for need in needed), None, None


def dense(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
    """Evaluate a KAN layer through per-pixel features (shapes as in ``convkan.ops.dispatch.evaluate``)."""
    if is_recorded():
        return _plain(x, base_weight, basis_weight, grid, plan)
    if not torch.compiler.is_compiling():
        return _TransformableDense.apply(x, base_weight, basis_weight, grid, plan)
    if torch._C._are_functorch_transforms_active():
        return _plain(x, base_weight, basis_weight, grid, plan)
    if x.device.type == "cpu":
        return custom.dense(x, base_weight, basis_weight, grid, plan.key)
    return _Dense.apply(x, base_weight, basis_weight, grid, plan)


def _plain(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
    """The same in operations of torch's alone, for any size and differentiable.

    For what is written down to be run elsewhere, and for transforms that a compiler traces: of these it knows the rules
    of torch's operations, and none of functions of ours.
    """
    features = plan.expansion.features(pixels_of(x, plan), plan.expansion.knots(grid, plan.geometry.groups))
    return contract(features, expanded_weight(base_weight, basis_weight), plan.geometry)
