"""LBFGS and Adam on all samples at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from convkan.fitting.levenberg_marquardt import Look
from convkan.fitting.objective import Objective

AT_ONCE = 10  # steps of LBFGS between looks
HISTORY = 50  # of LBFGS


def lbfgs(objective: Objective, steps: int, learning_rate: float, look: Look) -> int:
    """Quasi-Newton steps with a strong-Wolfe line search.

    Args:
        objective: What to minimise.
        steps: Steps at most, rounded up to tens.
        learning_rate: The first length tried in the line search.
        look: Called after ten steps each, with the objective before the last, and the number of steps;
            says whether to stop.

    Returns:
        The steps taken.
    """
    optimizer = torch.optim.LBFGS(
        objective.trained.values(),
        lr=learning_rate,
        max_iter=AT_ONCE,
        max_eval=25 * AT_ONCE,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-14,
        tolerance_change=1e-16,
    )
    for step in range(AT_ONCE, steps + AT_ONCE, AT_ONCE):
        value = float(optimizer.step(_closure(objective, optimizer)))
        if look(value, step):
            break
    return step


def adam(objective: Objective, steps: int, learning_rate: float, look: Look) -> int:
    """Adam with a rate that falls along half a cosine; arguments as of ``lbfgs``, looked at after each step."""
    optimizer = torch.optim.Adam(objective.trained.values(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        value = float(optimizer.step(_closure(objective, optimizer)))
        schedule.step()
        if look(value, step):
            return step
    return steps


def _closure(objective: Objective, optimizer: torch.optim.Optimizer) -> Callable[[], float]:
    def closure() -> float:
        optimizer.zero_grad()
        loss: Tensor = objective.loss()
        loss.backward()
        return loss.item()

    return closure
