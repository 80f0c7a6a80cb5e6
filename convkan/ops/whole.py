"""A layer in operations of torch's alone, all of its input at once, differentiable any number of times.

Features are 1 + K times the size of the input, and here all of them are there at a time. It is for what cannot be cut:
derivatives of higher order, forward mode, transforms, and what is written down to be run elsewhere.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from convkan.ops.plan import Plan

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def output(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
    """The output of a layer (shapes as in ``convkan.ops.dispatch.evaluate``)."""
    geometry = plan.geometry
    features = plan.expansion.features(geometry.pixels(x), plan.expansion.knots(grid, geometry.groups))
    return geometry.contract(features, *geometry.weights(base_weight, basis_weight))


def tangent(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    plan: Plan,
    tangents: Sequence[Tensor | None],
) -> Tensor:
    """The derivative of ``output`` along tangents of its first three arguments, None for those that stay."""
    geometry, expansion = plan.geometry, plan.expansion
    along_x, along_base, along_basis = tangents
    knots, pixels = expansion.knots(grid, geometry.groups), geometry.pixels(x)
    terms = []
    if along_x is not None:
        slopes = expansion.features(pixels, knots, derivative=True)
        steps = slopes * geometry.pixels(along_x).unsqueeze(-2)
        terms.append(geometry.contract(steps, *geometry.weights(base_weight, basis_weight)))
    if along_base is not None or along_basis is not None:
        if base_weight is not None and along_base is None:
            along_base = torch.zeros_like(base_weight)
        if along_basis is None:
            along_basis = torch.zeros_like(basis_weight)
        terms.append(geometry.contract(expansion.features(pixels, knots), *geometry.weights(along_base, along_basis)))
    return sum(terms[1:], start=terms[0])


def derived_tangent(
    inputs: Sequence[Tensor | None], grid: Tensor | None, plan: Plan, tangents: Sequence[Tensor | None]
) -> Tensor:
    """The same for many tangents at once, by operations that autograd knows itself: J·v = ∂(Jᵀu)/∂u·v, linear in u.

    Args:
        inputs: The first three arguments of ``output``.
        grid: As there.
        plan: As there.
        tangents: Of each, or None.
    """
    with torch.enable_grad():
        x, base_weight, basis_weight = (None if tensor is None else tensor.detach() for tensor in inputs)
        assert x is not None
        assert basis_weight is not None
        moving = [(own, v) for own, v in zip((x, base_weight, basis_weight), tangents, strict=True) if v is not None]
        by = [own.requires_grad_() for own, _ in moving if own is not None]
        y = output(x, base_weight, basis_weight, grid, plan)
        along = torch.zeros_like(y, requires_grad=True)
        found = torch.autograd.grad(y, by, along, create_graph=True)
    [derivative] = torch.autograd.grad(found, along, [v for _, v in moving])
    return derivative


def gradients(
    grad: Tensor,
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    plan: Plan,
    need_x: bool,
    need_weight: bool,
) -> Gradients:
    """Those of ``output`` by its first three arguments, as far as they are needed, themselves differentiable."""
    geometry, expansion = plan.geometry, plan.expansion
    knots, pixels = expansion.knots(grid, geometry.groups), geometry.pixels(x)
    features, weights = expansion.features(pixels, knots), geometry.weights(base_weight, basis_weight)
    spread, by_weights = geometry.contract_backward(grad, features, weights, need_x, need_weight)
    by_x = None
    if spread is not None:
        pulled = (spread * expansion.features(pixels, knots, derivative=True)).sum(-2)
        by_x = geometry.unpixels(pulled.to(x.dtype))
    return by_x, *geometry.unweights(by_weights, base_weight)


def derived_gradients(
    grad: Tensor, inputs: Sequence[Tensor | None], grid: Tensor | None, plan: Plan, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients as autograd derives them, for many ``grad`` at once: then only operations apply that it knows itself.

    Args:
        grad: The gradients of the output.
        inputs: The first three arguments of ``output``.
        grid: As there.
        plan: As there.
        needed: For which of ``inputs`` to return one.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Tensors of their own, by which gradients are partial ones even where one input was computed from another.
        inputs = [
            tensor if tensor is None else tensor.view_as(tensor) if differentiable else tensor.detach()
            for tensor in inputs
        ]
        wanted = [
            tensor.requires_grad_() for tensor, need in zip(inputs, needed, strict=True) if need and tensor is not None
        ]
        x, base_weight, basis_weight = inputs
        assert x is not None
        assert basis_weight is not None
        y = output(x, base_weight, basis_weight, grid, plan)
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=differentiable))
    return [next(found) if need else None for need in needed]
