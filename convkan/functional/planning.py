"""What a layer keeps ready and a function finds out at each call: how its edges are evaluated."""

from functools import lru_cache

import torch
from torch import Tensor

from convkan.basis import Basis, GriddedBasis, create_basis, get_activation
from convkan.ops import Expansion, Geometry, Plan, is_concrete, knot_facts


@torch.compiler.disable
def plan_for(
    basis: Basis | str,
    base_activation: str | None,
    geometry: Geometry,
    channels: tuple[int, int],
    weights: tuple[Tensor | None, Tensor],
    grid: Tensor | None,
) -> Plan:
    """How edges of these weights are evaluated, once it is sure that all fits: what a layer keeps ready.

    ``channels`` are those of the input, and those of them that an output is a sum over. A compiler leaves it to Python,
    since knots are looked at.
    """
    basis = create_basis(basis)
    get_activation(base_activation)
    base_weight, basis_weight = weights
    inputs, fan_in = channels
    if (base_weight is None) != (base_activation is None):
        got = "none" if base_weight is None else "one"
        raise ValueError(f"base_weight must go with base_activation, got {got} and {base_activation!r}")
    outputs, kernel = basis_weight.shape[:1], basis_weight.shape[2:]
    for name, weight, count in (("base_weight", base_weight, 1), ("basis_weight", basis_weight, basis.num_functions)):
        expected = (*outputs, count * fan_in, *kernel)
        if weight is not None and weight.shape != expected:
            raise ValueError(f"{name} must have shape {expected} for {basis}, got {tuple(weight.shape)}")
    if not isinstance(basis, GriddedBasis):
        if grid is not None:
            raise ValueError(f"grid must be None for {basis}, got {tuple(grid.shape)}")
        return _plan(basis, base_activation, True, geometry)
    if grid is None or grid.shape != (inputs, basis.num_knots):
        got = "none" if grid is None else f"{tuple(grid.shape)}"
        raise ValueError(f"grid must have shape {(inputs, basis.num_knots)} for {basis}, got {got}")
    facts = knot_facts(basis, grid)
    if facts.problem is not None and is_concrete(grid):
        raise ValueError(f"grid must {facts.problem}")
    return _plan(basis, base_activation, facts.uniform, geometry)


@lru_cache(maxsize=1024)
def _plan(basis: Basis, base_activation: str | None, uniform: bool, geometry: Geometry) -> Plan:
    return Plan(Expansion(basis, base_activation, uniform), geometry)
