"""Levenberg–Marquardt: Gauss–Newton steps, damped as far as the problem is not linear.

Sources: Moré, "The Levenberg-Marquardt algorithm: implementation and theory" (1978), for the scaling of parameters;
Madsen, Nielsen and Tingleff, "Methods for non-linear least squares problems" (2004), alg. 3.16, for the damping.
"""

from collections.abc import Callable

import torch

from convkan.fitting.linear import linearized
from convkan.fitting.objective import Objective

Look = Callable[[float, int], bool]

FIRST_DAMPING = 1e-3
LEAST_DAMPING, MOST_DAMPING = 1e-15, 1e12
LEAST_GAIN = 1e-4  # of the promised decrease, for a step to be taken
CONVERGED = 1e-14  # relative decrease


def levenberg_marquardt(objective: Objective, steps: int, look: Look) -> int:
    """Minimise a sum of squares; the model is left where it is least.

    Args:
        objective: What to minimise.
        steps: Linearisations at most.
        look: Called after each step, when the model has its result, with the terms' mean squares and the
            number of steps; says whether to stop.

    Returns:
        The number of linearisations.
    """
    vector = objective.vector()
    smoothing = objective.smoothing
    terms, rough = objective.residuals(vector).square().sum(), smoothing.rows(vector).square().sum()
    damping, growth = FIRST_DAMPING, 2.0
    scale = torch.zeros_like(vector)
    for step in range(1, steps + 1):
        problem = linearized(objective, vector)
        scale = torch.maximum(scale, problem.squares)
        weights = torch.where(scale > 0, scale, 1.0)
        while True:
            move = problem.step(damping * weights)
            if move is not None:
                promised = float(move @ (damping * weights * move - problem.gradient))
                trial = vector + move
                new_terms = objective.residuals(trial).square().sum()
                new_rough = smoothing.rows(trial).square().sum()
                decrease = float(terms + rough - new_terms - new_rough)
                if decrease > LEAST_GAIN * promised and decrease > 0:  # never, if one is not a number
                    break
            damping, growth = damping * growth, 2 * growth
            if damping > MOST_DAMPING:
                return step
        gain = decrease / promised
        damping, growth = max(LEAST_DAMPING, damping * max(1 / 3, 1 - (2 * gain - 1) ** 3)), 2.0
        converged = decrease <= CONVERGED * float(terms + rough)
        vector, terms, rough = trial, new_terms, new_rough
        objective.take(vector)
        if look(float(terms), step) or converged:
            return step
    return steps
