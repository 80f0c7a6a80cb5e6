"""Parameter groups, optimisers and learning-rate schedules, for loops of one's own as for ``convkan.training``."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import cos, pi
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from convkan.nn import KANLayer, SymbolicEdges

__all__ = ["create_optimizer", "create_schedule", "parameter_groups", "perturbed"]

OptimizerName = Literal["adamw", "adam", "sgd"]
ScheduleName = Literal["cosine", "one_cycle", "constant"]


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    coefficient_decay: float | None = None,
    base_decay: float | None = None,
    coefficient_lr: float | None = None,
) -> list[dict[str, Any]]:
    """A model's parameters in groups with their own weight decay, for any torch optimiser.

    Args:
        model: The model.
        weight_decay: Decay of ordinary weights.
        coefficient_decay: Decay of basis weights of KAN layers; by default ``weight_decay``.
        base_decay: Decay of base weights of KAN layers; by default ``weight_decay``.
        coefficient_lr: Learning rate of basis weights of KAN layers; by default the optimiser's. To torch's AdamW and
            SGD decay is proportional to it.

    Returns:
        The groups that have parameters, each with a ``name``: "coefficients", "base", "weights", and "no_decay" for
        biases, normalisation and the constants of named functions, which do not decay.

    Raises:
        ValueError: A decay is negative, or the learning rate not positive.

    Example:
        >>> from convkan import KANLinear
        >>> [group["name"] for group in parameter_groups(KANLinear(2, 3, bias=True), 1e-4)]
        ['coefficients', 'base', 'no_decay']
    """
    decays = {
        "coefficients": weight_decay if coefficient_decay is None else coefficient_decay,
        "base": weight_decay if base_decay is None else base_decay,
        "weights": weight_decay,
        "no_decay": 0.0,
    }
    for name, decay in decays.items():
        if decay < 0:
            raise ValueError(f"weight decay must not be negative, got {decay} for {name}")
    if coefficient_lr is not None and not coefficient_lr > 0:
        raise ValueError(f"coefficient_lr must be positive, got {coefficient_lr}")
    rates = {} if coefficient_lr is None else {"coefficients": {"lr": coefficient_lr}}
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in decays}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            if isinstance(module, KANLayer) and name == "basis_weight":
                groups["coefficients"].append(parameter)
            elif name == "base_weight":  # of layers, and of networks whose base activations stand apart
                groups["base"].append(parameter)
            else:
                decays_to_zero = parameter.ndim > 1 and not isinstance(module, SymbolicEdges)
                groups["weights" if decays_to_zero else "no_decay"].append(parameter)
    return [
        {"name": name, "params": parameters, "weight_decay": decays[name], **rates.get(name, {})}
        for name, parameters in groups.items()
        if parameters
    ]


def create_optimizer(
    name: OptimizerName, groups: list[dict[str, Any]], learning_rate: float, momentum: float
) -> Optimizer:
    """An optimiser over parameter groups.

    Raises:
        ValueError: There is no such optimiser here, or the learning rate is not positive.
    """
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    match name:
        case "adamw":
            return AdamW(groups, lr=learning_rate)
        case "adam":
            return Adam(groups, lr=learning_rate)
        case "sgd":
            return SGD(groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0)
    raise ValueError(f"optimizer must be one of adamw, adam, sgd; got {name!r}")


def create_schedule(
    name: ScheduleName, optimizer: Optimizer, total_steps: int, warmup_steps: int, restarts: Sequence[int] = ()
) -> LambdaLR:
    """A learning rate that follows the step: linear warm-up, then the schedule's course to the last step.

    At each step of ``restarts`` it begins anew, and it ends before the next of them.

    ``cosine`` falls from the full rate to 0 along half a cosine; ``one_cycle`` is the same after a warm-up of at least
    30 % of the steps (Smith, arXiv 1708.07120); ``constant`` stays.

    Raises:
        ValueError: There is no such schedule.
    """
    if name not in ("cosine", "one_cycle", "constant"):
        raise ValueError(f"schedule must be one of cosine, one_cycle, constant; got {name!r}")
    bounds = [0, *sorted({step for step in restarts if 0 < step < total_steps}), max(1, total_steps)]

    def factor(step: int) -> float:
        index = bisect_right(bounds, step, hi=len(bounds) - 1) - 1
        step, steps = step - bounds[index], bounds[index + 1] - bounds[index]
        rising = min(warmup_steps, steps)
        if name == "one_cycle":
            rising = max(rising, round(0.3 * steps))
        if step < rising:
            return (step + 1) / (rising + 1)
        if name == "constant":
            return 1.0
        progress = (step - rising) / max(1, steps - rising)
        return 0.5 * (1 + cos(pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


@contextmanager
def perturbed(parameters: Iterable[Tensor], rho: float) -> Iterator[None]:
    """A ``with`` block with weights at w + ρ·g/‖g‖, where the loss around w is largest to first order.

    For sharpness-aware minimisation (SAM): the gradient that is taken there is the one for the optimiser's step. ‖g‖ is
    the Euclidean norm over all parameters together; those without a gradient stay where they are.

    Source: Foret et al., "Sharpness-aware minimization for efficiently improving generalization", arXiv 2010.01412,
    eq. 2 for p = 2, and algorithm 1.

    Args:
        parameters: Weights with gradients g in ``grad``.
        rho: Radius ρ of the neighbourhood.

    Raises:
        ValueError: ``rho`` is not positive.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> weight.square().sum().backward()
        >>> with perturbed([weight], 0.5):
        ...     print(weight.detach())
        tensor([3.3000, 4.4000])
    """
    if not rho > 0:
        raise ValueError(f"rho must be positive, got {rho}")
    with torch.no_grad():
        gradients = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
        before = {parameter: parameter.clone() for parameter in gradients}  # to subtract again would round
        norm = get_total_norm(gradients.values())
        scale = rho / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        for parameter, gradient in gradients.items():
            parameter.add_(gradient * scale.to(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in before.items():
                parameter.copy_(value)


def set_rates(schedule: LambdaLR) -> None:
    """Give the optimiser the learning rates of the schedule's present step, whatever it has from another schedule."""
    factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
    rates = [rate * factor for rate, factor in zip(schedule.base_lrs, factors, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates
