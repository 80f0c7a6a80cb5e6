"""What torch's counter of floating point operations is told about a layer.

Two for every multiply-add of a weight: an entry of the output is a sum over features, each times a weight (of a
transposed convolution, each pixel's features meet every weight once). To evaluate features is elementwise work, once a
pixel, which torch does not count anywhere.
"""

import sys
from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import torch

from convkan.modes import dispatch_modes
from convkan.ops.plan import PLANS

Shape = Sequence[int]


def is_counted() -> bool:
    """Whether operations are being counted, by a counter that now knows those of ``convkan.ops.traced``.

    It counts products of matrices as they come, but no other sums of products, such as those of a learnable activation.
    """
    module = sys.modules.get("torch.utils.flop_counter")  # if it is not loaded, none is counting
    if module is None:
        return False
    counters = [mode.counter for mode in dispatch_modes() if isinstance(mode, module._FlopCounterMode)]
    if counters:
        register_formulas()
    for counter in counters:  # which took over the formulas there were when it was made
        for operation in (torch.ops.convkan.evaluate, torch.ops.convkan.evaluate_backward):
            counter.flop_registry.setdefault(operation, module.flop_registry[operation])
    return bool(counters)


@cache
def register_formulas() -> None:
    """Tell torch what the operations of ``convkan.ops.traced`` count."""
    from torch.utils.flop_counter import register_flop_formula  # which loads triton, and so not before it is needed

    register_flop_formula(torch.ops.convkan.evaluate)(_forward)
    register_flop_formula(torch.ops.convkan.evaluate_backward)(_backward)


def _forward(
    x: Shape, base_weight: Shape | None, basis_weight: Shape, grid: Shape | None, plan: str, *_: Any, **__: Any
) -> int:
    return 2 * _multiply_adds(x, base_weight, basis_weight, plan)


def _backward(
    grad: Shape,
    x: Shape,
    base_weight: Shape | None,
    basis_weight: Shape,
    grid: Shape | None,
    plan: str,
    need_x: bool,
    need_weight: bool,
    **_: Any,
) -> int:
    """As many as forward for each of both gradients, as of any product."""
    return 2 * (need_x + need_weight) * _multiply_adds(x, base_weight, basis_weight, plan)


def _multiply_adds(x: Shape, base_weight: Shape | None, basis_weight: Shape, plan: str) -> int:
    weights = prod(basis_weight) + (0 if base_weight is None else prod(base_weight))
    return PLANS[plan].geometry.products(x, basis_weight) * weights
