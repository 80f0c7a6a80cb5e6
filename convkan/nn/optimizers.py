"""What a state of other sizes means for an optimiser that is already there."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

# All shapes that resized parameters had before.
_RESIZED = WeakIdKeyDictionary()


def watch_optimizers(parameter: nn.Parameter, before: torch.Size) -> None:
    """Have the next step of an optimiser that holds a resized parameter say so if its state has the old size.

    Args:
        parameter: A parameter that a state of another size was loaded into.
        before: The shape it had.
    """
    _RESIZED.setdefault(parameter, set()).add(before)
    _register()


@cache
def _register() -> None:
    register_optimizer_step_pre_hook(_check_states)


def _check_states(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if not _RESIZED:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            before = _RESIZED.get(parameter)
            if before is not None:
                _check_state(optimizer, parameter, before - {parameter.shape})


def _check_state(optimizer: Optimizer, parameter: nn.Parameter, before: set[torch.Size]) -> None:
    state = optimizer.state.get(parameter, {})
    stale = [name for name, value in state.items() if isinstance(value, Tensor) and value.shape in before]
    if isinstance(optimizer, LBFGS):  # its history is of all parameters, one after the other
        count = sum(ours.numel() for group in optimizer.param_groups for ours in group["params"])
        first = optimizer.state.get(optimizer.param_groups[0]["params"][0], {})
        stale = ["d"] if first.get("d") is not None and len(first["d"]) != count else []
        optimizer._numel_cache = None
    if stale:
        raise RuntimeError(
            f"the optimiser's state ({', '.join(stale)}) is of another size than its parameter: a state_dict with "
            f"another grid size was loaded into the model since, and its shape is {tuple(parameter.shape)} now: load "
            "the optimiser's state of the same checkpoint too, or make a new optimiser"
        )
