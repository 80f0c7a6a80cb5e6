"""What a fit is called with, made complete and checked."""

from collections.abc import Sequence
from math import isfinite
from typing import Any, get_args

import torch
from torch import Tensor, nn

from convkan.fitting.objective import Residual, Term
from convkan.fitting.stages import Method, Plan, grid_sizes
from convkan.nn.recording import evaluating

STEPS: dict[Method, int] = {"lm": 60, "lbfgs": 500, "adam": 2000}
RATES: dict[Method, float] = {"lm": 1.0, "lbfgs": 1.0, "adam": 0.01}
PATIENCE: dict[Method, int | None] = {"lm": 15, "lbfgs": 100, "adam": None}  # Adam's schedule ends when its steps do


def checked_plan(
    model: nn.Module,
    method: Method,
    *,
    steps: int | None,
    learning_rate: float | None,
    patience: int | None,
    grids: Sequence[int] | None,
    **others: Any,
) -> Plan:
    """The arguments, complete and checked."""
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}")
    plan = Plan(
        method,
        steps=STEPS[method] if steps is None else steps,
        learning_rate=RATES[method] if learning_rate is None else learning_rate,
        patience=PATIENCE[method] if patience == -1 else patience,
        grids=_grids(grids, model),
        **others,
    )
    for name in ("steps", "restarts", "carried", "patience"):
        number = getattr(plan, name)
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    for name in ("learning_rate", "noise", "seconds"):
        value = getattr(plan, name)
        if value is not None and not (value > 0 and isfinite(value)):
            raise ValueError(f"{name} must be positive, got {value}")
    for name in ("smoothness", "sparsity"):
        weight = getattr(plan, name)
        if not (weight >= 0 and isfinite(weight)):
            raise ValueError(f"{name} must not be negative, got {weight}")
    if plan.sparsity and method == "lm":
        raise ValueError(f"sparsity must be 0 for 'lm', which minimises squares alone; got {plan.sparsity}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model must have parameters that require gradients, got none")
    return plan


def _grids(grids: Sequence[int] | None, model: nn.Module) -> tuple[int | None, ...]:
    if grids is None:
        return (None,)
    sizes = grid_sizes(model)
    if not sizes:
        raise ValueError(f"grids must be None for a model without layers on a grid, got {list(grids)}")
    wanted = list(grids)
    if not wanted or wanted != sorted(set(wanted)) or wanted[0] < max(sizes):
        raise ValueError(f"grids must increase from the model's own grid size, {max(sizes)}, got {wanted}")
    return tuple(wanted)


def targets(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """``y`` in the shape and precision of what the model returns."""
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if len(x) != len(y) or not len(x):
        raise ValueError(f"x and y must have as many rows, at least one, got {len(x)} and {len(y)}")
    for name, value in (("x", x), ("y", y)):
        if not value.isfinite().all():
            raise ValueError(f"{name} must be finite, and is not in {int((~value.isfinite()).sum())} places")
    with torch.no_grad(), evaluating(model):
        shape = model(x[:1]).shape
    y = y.to(x)
    if y.shape == (len(x), *shape[1:]):
        return y
    if y.ndim == 1 and shape[1:].numel() == 1:
        return y.view(len(x), *shape[1:])
    raise ValueError(f"y must have shape {(len(x), *shape[1:])}, which the model returns, got {tuple(y.shape)}")


def check_weights(weights: Tensor | None, count: int) -> None:
    """Raise unless there is a weight for each point, and one that is not 0."""
    if weights is None:
        return
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a tensor, got {type(weights).__name__}")
    if weights.shape != (count,):
        raise ValueError(f"weights must have shape {(count,)}, one for each point, got {tuple(weights.shape)}")
    if not (weights >= 0).all() or not weights.isfinite().all() or not weights.sum() > 0:
        raise ValueError("weights must be finite and not negative, and not all 0")


def check_parts(weights: Tensor | None, fitted: Tensor, held_out: Tensor) -> None:
    """Raise if no point that counts is left in a part."""
    for what, places in {"fitted": fitted, "held out": held_out}.items():
        if weights is not None and not weights[places].sum() > 0:
            raise ValueError(f"weights must not be 0 for all {len(places)} points that are {what}; see validation")


def held_out_places(count: int, share: float, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of points to be fitted, and of those held out."""
    if not 0 < share < 1:
        raise ValueError(f"validation must be a share in (0, 1), points (x, y), or None; got {share}")
    held_out = max(1, round(share * count))
    if held_out >= count:
        raise ValueError(f"x must have more points to hold some out, got {count}; or give validation=None")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(device)
    return order[held_out:], order[:held_out]


def checked_term(index: int, term: tuple[Any, ...]) -> Term:
    """A term as it is given, checked."""
    if not isinstance(term, tuple) or len(term) < 2 or not callable(term[0]):
        raise TypeError(f"terms must be tuples of a function and tensors, got {type(term).__name__} at {index}")
    residual: Residual = term[0]
    samples = term[1:]
    if not all(isinstance(sample, Tensor) and sample.ndim for sample in samples):
        raise TypeError(f"terms must be tuples of a function and tensors with a row a sample; not so at {index}")
    lengths = [len(sample) for sample in samples]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise ValueError(f"a term's tensors must have as many rows, at least one; at {index} they have {lengths}")
    return Term(residual, samples)
