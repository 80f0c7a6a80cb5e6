"""Features once a pixel, then one ordinary convolution or product of matrices over (1 + K)·C planes.

Features are 1 + K times the size of the input. They are made for a tile of the input at a time, small enough to stay
in the processor's cache, and made again in the backward pass, for which only the input and the weights are kept.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from convkan.modes import below_views, is_concrete, is_differentiated, is_many_gradients
from convkan.ops import channelwise, native, whole
from convkan.ops.counting import is_counted
from convkan.ops.elementwise import FeatureKernels
from convkan.ops.geometry import Geometry, Linear
from convkan.ops.plan import Plan, at_least_float32
from convkan.ops.tiles import WHOLE, Strip, images_per_tile, split, strips
from convkan.ops.unfolded import suited


class Tiled(torch.autograd.Function):
    """A layer as one node of the graph (arguments as of ``convkan.ops.dispatch.evaluate``).

    Gradients of any order are right, and so are forward-mode derivatives.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base_weight: Tensor | None,
        basis_weight: Tensor,
        grid: Tensor | None,
        plan: Plan,
    ) -> Tensor:
        """The output, tile by tile; ``ctx`` is None where nothing is to be kept for gradients."""
        if ctx is not None:
            keep_arguments(ctx, (x, base_weight, basis_weight, grid, plan))
        # A result that is a rearranged view of memory of its own is an ordinary tensor to autograd, so that what
        # follows may work in place on it, as ``ReLU(inplace=True)`` does.
        with below_views():
            if is_counted():
                return torch.ops.convkan.evaluate(x, base_weight, basis_weight, grid, plan.key)
            geometry = plan.geometry
            if not geometry.sums or not is_concrete(x):
                return at_once(x, base_weight, basis_weight, grid, plan)
            if grid is not None and _is_small(x, base_weight, basis_weight, grid, plan):
                return native.linear(x, base_weight, basis_weight, grid, plan.expansion)
            rows, start = geometry.rows(x), 0
            geometry = suited(geometry, rows, basis_weight)
            weights = geometry.weights(base_weight, basis_weight)
            kernels = FeatureKernels(x, grid, plan, basis_weight.dtype)
            shape = geometry.output_shape(rows.shape, basis_weight.shape)
            y: Tensor | None = None
            for part in split(rows, images_per_tile(rows, basis_weight, plan)):
                pixels = geometry.pixels(part)
                for strip in strips(pixels, basis_weight, plan):
                    features = kernels.features(strip.of_input(pixels))
                    y = _placed(geometry.contract(features, *weights), y, shape, start, strip, geometry)
                start += len(part)
            assert y is not None
            return y if rows is x else y.reshape(geometry.output_shape(x.shape, basis_weight.shape))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Tile by tile; of the whole where derivatives are taken through the result."""
        needed = ctx.needs_input_grad[:3]
        arguments = grad, *ctx.saved_tensors, ctx.plan, needed[0], needed[1] or needed[2]
        if is_many_gradients(grad):
            *inputs, grid = ctx.saved_tensors
            return *whole.derived_gradients(grad, inputs, grid, ctx.plan, needed), None, None
        if is_differentiated():
            return *whole.gradients(*arguments), None, None
        if is_counted():
            *tensors, plan, need_x, need_weight = arguments
            found = torch.ops.convkan.evaluate_backward(*tensors, plan.key, need_x, need_weight)
            return *those_needed(found, needed), None, None
        return *gradients(*arguments), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        """Forward mode."""
        x, base_weight, basis_weight, grid = ctx.saved_tensors
        if any(tangent is not None and is_many_gradients(tangent) for tangent in tangents):
            return whole.derived_tangent((x, base_weight, basis_weight), grid, ctx.plan, tangents[:3])
        return whole.tangent(x, base_weight, basis_weight, grid, ctx.plan, tangents[:3])


def untracked(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
    """The output where nothing is differentiated, without a node, which costs as much as a small layer."""
    return Tiled.forward(None, x, base_weight, basis_weight, grid, plan)


class Transformed(Tiled):
    """The same within transforms of ``torch.func``, which want to hear apart what is kept; it takes torch longer."""

    generate_vmap_rule = True
    forward = staticmethod(untracked)  # type: ignore[assignment]

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the arguments, and nothing else."""
        keep_arguments(ctx, inputs)


def keep_arguments(ctx: Any, inputs: tuple[Any, ...]) -> None:
    """Keep the arguments of an autograd function of (x, base_weight, basis_weight, grid, plan), and nothing else."""
    *tensors, ctx.plan = inputs
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def those_needed(found: Any, needed: Any) -> list[Tensor | None]:
    """Gradients, and None for each that is not needed."""
    return [gradient if need else None for gradient, need in zip(found, needed, strict=True)]


def at_once(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
    """The output in one piece, through which no gradient is taken: where sizes stand for others, or there is no sum."""
    geometry, expansion = plan.geometry, plan.expansion
    if not geometry.sums:
        return channelwise.forward(x, base_weight, basis_weight, grid, expansion, geometry.padding)
    weights, dtype = geometry.weights(base_weight, basis_weight), basis_weight.dtype
    pixels = geometry.pixels(geometry.rows(x))
    y = geometry.contract(FeatureKernels(x, grid, plan, dtype).features(pixels), *weights)
    return y.reshape(geometry.output_shape(x.shape, basis_weight.shape))


def gradients(
    grad: Tensor,
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    plan: Plan,
    need_x: bool,
    need_weight: bool,
) -> whole.Gradients:
    """Those of a layer by its first three arguments, as far as they are needed; none is taken through them."""
    geometry, expansion = plan.geometry, plan.expansion
    if not geometry.sums:
        return channelwise.backward(
            grad, x, base_weight, basis_weight, grid, expansion, geometry.padding, need_x, need_weight
        )
    if grid is not None and _is_small(x, base_weight, basis_weight, grid, plan, need_x):
        return native.linear_backward(grad, x, base_weight, basis_weight, grid, expansion, need_x, need_weight)
    rows, grad, start, dtype = geometry.rows(x), geometry.rows(grad), 0, basis_weight.dtype
    geometry = suited(geometry, rows, basis_weight)
    weights, kernels = geometry.weights(base_weight, basis_weight), FeatureKernels(x, grid, plan, dtype, need_x)
    size = images_per_tile(rows, basis_weight, plan)
    by_x: Tensor | None = None
    by_weights: list[Tensor] | None = None
    for part, part_grad in zip(split(rows, size), split(grad, size), strict=True):
        pixels = geometry.pixels(part)
        pulled: Tensor | None = None
        for strip in strips(pixels, basis_weight, plan):
            seen = strip.of_input(pixels)
            features, grad_here = kernels.features(seen), strip.of_output(part_grad)
            spread, more = geometry.contract_backward(grad_here, features, weights, need_x, need_weight)
            if spread is not None:
                pulled = strip.added(pulled, kernels.pull_back(spread, seen), pixels)
            if more is not None:
                by_weights = (
                    [at_least_float32(part) for part in more] if by_weights is None else _sums(by_weights, more)
                )
        if pulled is not None:
            by_x = _placed(geometry.unpixels(pulled), by_x, rows.shape, start, WHOLE, geometry)
        start += len(part)
    by_x = by_x if by_x is None or rows is x else by_x.reshape(x.shape)
    by_weights = None if by_weights is None else [total.to(dtype) for total in by_weights]
    return by_x, *geometry.unweights(by_weights, base_weight)


def _is_small(
    x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor, plan: Plan, gradient: bool = False
) -> bool:
    """Whether the layer is a single call of a kernel, ``gradient`` with respect to ``x`` included."""
    return type(plan.geometry) is Linear and native.covers_linear(
        plan.expansion, x, base_weight, basis_weight, grid, gradient
    )


def _sums(totals: list[Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
    return [total + part for total, part in zip(totals, parts, strict=True)]


def _placed(
    part: Tensor, total: Tensor | None, shape: tuple[int, ...], start: int, strip: Strip, geometry: Geometry
) -> Tensor:
    """A tensor of that shape with a part of it written into its place, while that is in the cache."""
    if strip is WHOLE and len(part) == shape[0]:
        return part
    total = geometry.empty(part, shape) if total is None else total
    strip.of_output(total[start : start + len(part)]).copy_(part)
    return total
