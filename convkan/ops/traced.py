"""A layer as compilers and exporters see it: one operation of a graph, or operations that the graph goes on with.

To ``torch.compile`` on a CPU a layer is one operation. Seen through, it would become one pass over all features, which
do not fit into the cache; as an operation of its own it goes on working tile by tile. Its plan is passed as text, the
only thing besides tensors and numbers that can be.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from convkan.basis import GriddedBasis
from convkan.modes import is_recorded, is_transformed
from convkan.ops import whole
from convkan.ops.counting import register_formulas
from convkan.ops.knots import knot_facts
from convkan.ops.plan import PLANS, Plan
from convkan.ops.tiled import at_once, gradients, keep_arguments, those_needed, untracked


def traced(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
    """Evaluate a layer where ``convkan.modes.is_traced`` (shapes as in ``convkan.ops.dispatch.evaluate``)."""
    if is_recorded() or is_transformed():  # to be run elsewhere; or by rules that there are for torch's operations only
        return whole.output(x, base_weight, basis_weight, grid, plan)
    if x.device.type == "cpu":
        return operation(x, base_weight, basis_weight, grid, plan.key)
    return SeenThrough.apply(x, base_weight, basis_weight, grid, plan)


class SeenThrough(torch.autograd.Function):
    """The operations of a layer as ``torch.compile`` traces them, forward and backward."""

    @staticmethod
    def forward(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
        """The output."""
        return at_once(x, base_weight, basis_weight, grid, plan)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the arguments, and nothing else."""
        keep_arguments(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients."""
        x, base_weight, basis_weight, grid = ctx.saved_tensors
        need_x, *need_weights = ctx.needs_input_grad[:3]
        pull = whole.gradients if torch.is_grad_enabled() else gradients
        return *pull(grad, x, base_weight, basis_weight, grid, ctx.plan, need_x, any(need_weights)), None, None


# The schema is read off the annotations, in which torch 2.11 does not know ``Tensor | None``.
@torch.library.custom_op("convkan::evaluate", mutates_args=())
def operation(
    x: Tensor,
    base_weight: Optional[Tensor],  # noqa: UP045
    basis_weight: Tensor,
    grid: Optional[Tensor],  # noqa: UP045
    plan: str,
) -> Tensor:
    """The layer tile by tile, its result with channels last in memory."""
    with _without_autocast(x.device.type):
        y = untracked(x, base_weight, basis_weight, grid, _plan(plan, grid))
    return PLANS[plan].geometry.laid_out(y)


@operation.register_fake
def _(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: str) -> Tensor:
    register_formulas()
    geometry = PLANS[plan].geometry
    return geometry.empty(basis_weight, geometry.output_shape(x.shape, basis_weight.shape))


@torch.library.custom_op("convkan::evaluate_backward", mutates_args=())
def operation_backward(
    grad: Tensor,
    x: Tensor,
    base_weight: Optional[Tensor],  # noqa: UP045
    basis_weight: Tensor,
    grid: Optional[Tensor],  # noqa: UP045
    plan: str,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``gradients``, with an empty tensor for each that is not needed."""
    with _without_autocast(x.device.type):
        found = gradients(grad, x, base_weight, basis_weight, grid, _plan(plan, grid), need_x, need_weight)
    grad_x, grad_base, grad_basis = (x.new_empty(0) if gradient is None else gradient for gradient in found)
    if need_x:
        grad_x = PLANS[plan].geometry.laid_out(grad_x)
    return grad_x, _owning(grad_base), _owning(grad_basis)


@operation_backward.register_fake
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
    return (
        PLANS[plan].geometry.empty(x, x.shape) if need_x else x.new_empty(0),
        x.new_empty(0) if base_weight is None or not need_weight else base_weight.new_empty(base_weight.shape),
        basis_weight.new_empty(basis_weight.shape) if need_weight else x.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.plan = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:3]
    found = operation_backward(grad, *ctx.saved_tensors, ctx.plan, needed[0], needed[1] or needed[2])
    return *those_needed(found, needed), None, None


operation.register_autograd(_backward, setup_context=_setup_context)


def _without_autocast(device: str) -> AbstractContextManager[object]:
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _owning(gradient: Tensor) -> Tensor:
    """A gradient by a weight, contiguous, and no view of one by both, which results of an operation must not be."""
    alone = gradient.is_contiguous() and gradient.untyped_storage().nbytes() == gradient.nbytes
    return gradient if alone else gradient.clone(memory_format=torch.contiguous_format)


def _plan(key: str, grid: Tensor | None) -> Plan:
    """The plan of a key, for the knots as they are now: what was compiled may have been for others."""
    plan = PLANS[key]
    if grid is None or not plan.expansion.uniform or not isinstance(plan.expansion.basis, GriddedBasis):
        return plan
    return plan.with_spacing(knot_facts(plan.expansion.basis, grid).uniform)
