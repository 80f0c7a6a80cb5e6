"""Which of several fits explains a curve best, for its complexity and for what noise allows."""

from collections.abc import Sequence
from math import inf

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from convkan.basis.functions import NamedFunction
from convkan.interpret.symbolic.fit import Fits, Samples
from convkan.ops.plan import at_least_float32

FLOOR = 1e-9  # of the unexplained share: less is as good as nothing
OF_A_CONSTANT = 0.5  # what each of a, b, c and d that matters adds to the complexity of f
STEPS_OF_SCORE = 64  # scores closer than 1/64 count as equal
USELESS = 1e30  # the share left by what is not finite
STANDARD_ERRORS = 2.0  # fits this close to the best cannot be told from it


def unexplained_by(
    samples: Samples,
    x: Float[Tensor, "channels points"],
    curves: Float[Tensor, "channels curves points"],
    function: NamedFunction,
    affine: Float[Tensor, "channels curves 4"],
    fits: Fits,
) -> Float[Tensor, "channels curves"]:
    """The share of the variance that is left when a layer computes the function, with numbers of its own precision."""
    a, b, c, d = at_least_float32(affine.to(curves.dtype)).unsqueeze(-2).unbind(-1)
    values = c * function.at(a * at_least_float32(x).unsqueeze(1) + b) + d
    unexplained = (values.double() - curves.double()).square().sum(-1) / samples.norm.square()
    unexplained = unexplained.nan_to_num(USELESS, posinf=USELESS)  # of what overflows
    return torch.where(samples.norm > 0, torch.maximum(unexplained, fits.unexplained), fits.unexplained)


def ranked_by(scores: Tensor, adjusted: Tensor) -> Int[Tensor, "functions channels curves"]:
    """The functions from the best score to the worst, those of one score by their fits."""
    by_fit = _in_steps(adjusted.log2()).argsort(stable=True, dim=0)
    return by_fit.gather(0, scores.gather(0, by_fit).argsort(stable=True, dim=0, descending=True))


def _in_steps(bits: Tensor) -> Tensor:
    return (bits * STEPS_OF_SCORE).round() / STEPS_OF_SCORE


def scores_of(
    samples: Samples,
    unexplained: Float[Tensor, "functions channels curves"],
    functions: Sequence[NamedFunction],
    enough: Bool[Tensor, " channels"],
    freedom: Float[Tensor, " channels"],
    simplicity: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, adjusted shares left unexplained, and relative standard errors of these, (functions, channels, curves).

    A score is −log₂ of the adjusted share, or of the least that can be told from the best one's, less what
    complexity costs; −∞ where there are too few inputs for a function.
    """
    constants = unexplained.new_tensor([constants_of(function) for function in functions]).view(-1, 1, 1)
    costs = [function.complexity + OF_A_CONSTANT * constants_of(function) for function in functions]
    count = freedom.to(unexplained).view(1, -1, 1)
    remaining = (count - constants).clamp_min(1)
    size = samples.norm.square() + samples.u.shape[1] * samples.mean.square()
    rounding = (4 * samples.eps) ** 2 * size / samples.norm.square().clamp_min(torch.finfo(unexplained.dtype).tiny)
    adjusted = unexplained * (count - 1).clamp_min(1) / remaining + rounding.clamp(FLOOR, 1)
    error = (2 / remaining).sqrt().expand_as(unexplained)
    best = adjusted.argmin(0, keepdim=True)
    alike = adjusted.gather(0, best) * (1 + STANDARD_ERRORS * error.gather(0, best))
    costly = simplicity * unexplained.new_tensor(costs).view(-1, 1, 1)
    scores = _in_steps(-torch.maximum(adjusted, alike).log2() - costly)
    return torch.where(enough.view(1, -1, 1) | (constants <= 2), scores, -inf), adjusted, error


def constants_of(function: NamedFunction) -> int:
    """How many of a, b, c and d matter."""
    return 1 if function.name == "0" else 2 + len(function.free)
