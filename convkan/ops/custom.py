"""The dense evaluation as one operation of a graph that ``torch.compile`` makes of a whole model on a CPU.

Seen through, a layer would become one pass over all features, which do not fit into the cache; as an operation of its
own it goes on working tile by tile. Its plan is passed as text, the only thing besides tensors and numbers that can be.
"""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from torch import Tensor

from convkan.basis import GriddedBasis
from convkan.ops.counting import register_formulas
from convkan.ops.dense import backward, forward
from convkan.ops.knots import knot_facts
from convkan.ops.plan import PLANS, Channelwise, Convolution, Geometry, Linear, Plan


# The schema is read off the annotations, in which torch 2.11 does not know ``Tensor | None``.
@torch.library.custom_op("convkan::dense", mutates_args=())
def dense(
    x: Tensor,
    base_weight: Optional[Tensor],  # noqa: UP045
    basis_weight: Tensor,
    grid: Optional[Tensor],  # noqa: UP045
    plan: str,
) -> Tensor:
    """``forward``, its result with channels last in memory."""
    with torch.autocast(x.device.type, enabled=False):
        y = forward(x, base_weight, basis_weight, grid, _plan(plan, grid))
    return _laid_out(y, PLANS[plan].geometry)


@dense.register_fake
def _(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: str) -> Tensor:
    register_formulas()
    geometry, out = PLANS[plan].geometry, basis_weight.shape[0]
    if isinstance(geometry, Linear):
        return basis_weight.new_empty((*x.shape[:-1], out))
    space = list(x.shape[2:])
    for position, amount in enumerate(geometry.padding):
        space[-1 - position // 2] += amount
    if isinstance(geometry, Convolution):
        space = [
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation in zip(
                space, basis_weight.shape[2:], geometry.stride, geometry.dilation, strict=True
            )
        ]
    return _empty(basis_weight, x.shape[0], out, space)


@torch.library.custom_op("convkan::dense_backward", mutates_args=())
def dense_backward(
    grad: Tensor,
    x: Tensor,
    base_weight: Optional[Tensor],  # noqa: UP045
    basis_weight: Tensor,
    grid: Optional[Tensor],  # noqa: UP045
    plan: str,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``backward``, with an empty tensor for each gradient that is not needed."""
    with torch.autocast(x.device.type, enabled=False):
        gradients = backward(grad, x, base_weight, basis_weight, grid, _plan(plan, grid), need_x, need_weight)
    grad_x, grad_base, grad_basis = (x.new_empty(0) if gradient is None else gradient for gradient in gradients)
    if need_x:
        grad_x = _laid_out(grad_x, PLANS[plan].geometry)
    # Those of the weights are views of one tensor, which results of an operation must not be.
    grad_base, grad_basis = (g.clone(memory_format=torch.contiguous_format) for g in (grad_base, grad_basis))
    return grad_x, grad_base, grad_basis


@dense_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    plan: str,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    linear = isinstance(PLANS[plan].geometry, Linear)
    grad_x = x.new_empty(x.shape) if linear else _empty(x, x.shape[0], x.shape[1], list(x.shape[2:]))
    return (
        grad_x if need_x else x.new_empty(0),
        x.new_empty(0) if base_weight is None or not need_weight else base_weight.new_empty(base_weight.shape),
        basis_weight.new_empty(basis_weight.shape) if need_weight else x.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.plan = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:3]
    gradients = dense_backward(grad, *ctx.saved_tensors, ctx.plan, needed[0], needed[1] or needed[2])
    return *those_needed(gradients, needed), None, None


def those_needed(gradients: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    """The results of ``dense_backward``, None for each gradient that is not needed."""
    return [gradient if need else None for gradient, need in zip(gradients, needed, strict=False)]


dense.register_autograd(_backward, setup_context=_setup_context)


def _plan(key: str, grid: Tensor | None) -> Plan:
    """The plan of a key, for the knots as they are now: what was compiled may have been for others."""
    plan = PLANS[key]
    if grid is None or not plan.expansion.uniform or not isinstance(plan.expansion.basis, GriddedBasis):
        return plan
    return plan.with_spacing(knot_facts(plan.expansion.basis, grid).uniform)


def _laid_out(y: Tensor, geometry: Geometry) -> Tensor:
    """``y`` in the memory layout that the shapes announced for the compiler have."""
    if isinstance(geometry, Linear):
        return y.contiguous()
    assert isinstance(geometry, Channelwise | Convolution)
    return y.movedim(1, -1).contiguous().movedim(-1, 1)


def _empty(like: Tensor, batch: int, channels: int, space: list[int]) -> Tensor:
    return like.new_empty((batch, *space, channels)).movedim(-1, 1)
