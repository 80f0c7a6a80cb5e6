"""The mathematics of B-splines: functions of points and knots, each after its source."""

from collections.abc import Sequence
from functools import reduce
from math import comb, factorial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from convkan.modes import is_recorded

# Past this order the alternating sum of the closed form loses more digits than Cox-de Boor costs time.
HIGHEST_CLOSED_FORM_ORDER = 5
# (−1)^j C(k+1, j)/k! for each order k and for j < (k+1)/2.
_CLOSED_FORM = [
    [(-1) ** j * comb(k + 1, j) / factorial(k) for j in range((k + 2) // 2)]
    for k in range(HIGHEST_CLOSED_FORM_ORDER + 1)
]


def _intervals(
    x: Float[Tensor, "*batch 1 channels"], knots: Float[Tensor, "*groups knots channels"], beyond: int
) -> Bool[Tensor, "*batch intervals channels"]:
    """Which half-open interval [t_i, t_{i+1}) holds x; the grid's right end belongs to the interval left of it."""
    reached = _reached(x, knots, beyond)
    return reached[..., :-1, :] & ~reached[..., 1:, :]


def _reached(
    x: Float[Tensor, "*batch 1 channels"], knots: Float[Tensor, "*groups knots channels"], beyond: int
) -> Bool[Tensor, "*batch knots channels"]:
    """Which knots x has come to: t_i ≤ x, but t_i < x where x is the grid's right end."""
    end = knots[..., knots.shape[-2] - 1 - beyond, :].unsqueeze(-2)
    # In these words, since ONNX Runtime has no ``Where`` that chooses between booleans.
    return (knots < x) | ((knots == x) & (x != end))


def _reciprocal(span: Tensor | float) -> Tensor | float:
    """1/span, and 0 for an empty one."""
    if isinstance(span, float):
        return 1 / span if span > 0 else 0.0
    return torch.where(span > 0, 1 / torch.where(span > 0, span, 1), 0)


def reciprocal_spans(knots: Float[Tensor, "*groups knots channels"], order: int) -> Tensor | float:
    """1/(t_{i+order} − t_i), and 0 where knots coincide: the convention 0/0 = 0 of the recursion."""
    return _reciprocal(knots[..., order:, :] - knots[..., :-order, :])


def held_within(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``x`` clamped to [low, high], with the slope 1 at the ends themselves (``torch.clamp`` has 1/2 there)."""
    return torch.where(x < low, low, torch.where(x > high, high, x))


def cox_de_boor(
    x: Float[Tensor, "*batch channels"],
    knots: Float[Tensor, "*groups knots channels"],
    order: int,
    beyond: int,
) -> Float[Tensor, "*batch functions channels"]:
    """B-splines of ``order`` on any non-decreasing knots, by the recursion of de Boor and Cox.

    B_{i,0} = [t_i ≤ x < t_{i+1}];  B_{i,k} = (x − t_i)/(t_{i+k} − t_i)·B_{i,k−1} + (t_{i+k+1} − x)/(t_{i+k+1} −
    t_{i+1})·B_{i+1,k−1}. Within an interval this is a polynomial to autograd too, so every derivative is one-sided
    from the interval that holds x. Source: de Boor, "A Practical Guide to Splines", ch. IX, eq. 14.

    Args:
        x: Points.
        knots: Knots of each channel, second to last dimension.
        order: Polynomial degree k.
        beyond: How many knots lie beyond the grid's end; the grid is closed on the right.
    """
    x = x.unsqueeze(-2)
    values = _intervals(x, knots, beyond).to(x.dtype)
    if order == 0:
        return torch.where(x.isnan(), x, values)
    # Beyond all knots everything is 0: there factors must stay finite.
    x = held_within(x, knots[..., :1, :], knots[..., -1:, :])
    for k in range(1, order + 1):
        scale = reciprocal_spans(knots, k)
        rising = (x - knots[..., :-k, :]) * scale
        falling = (knots[..., k:, :] - x) * scale
        values = rising[..., :-1, :] * values[..., :-1, :] + falling[..., 1:, :] * values[..., 1:, :]
    return values


def uniform_bsplines(
    x: Float[Tensor, "*batch channels"],
    middle: Float[Tensor, "*groups channels"],
    step: Float[Tensor, "*groups channels"],
    order: int,
    num_functions: int,
    derivative: bool = False,
) -> Float[Tensor, "*batch functions channels"]:
    """``num_functions`` neighbouring B-splines on knots ``step`` apart, placed symmetrically about ``middle``.

    With u the distance to a bump's centre in steps and (·)₊ = max(·, 0), the bump is
    N_k(u) = 1/k! Σ_j (−1)^j C(k+1, j) ((k+1)/2 − j − |u|)₊^k; by symmetry only the terms with j < (k+1)/2 are needed.
    Source: Schoenberg (1946), the central B-spline as a divided difference; de Boor, ch. IX, eq. 2. Its derivative,
    from order 2 on, is −k·sign(u) times the same sum of powers k − 1.
    """
    offsets = torch.arange(num_functions, dtype=x.dtype, device=x.device) - (num_functions - 1) / 2
    distance = ((x - middle) / step).unsqueeze(-2) - offsets.unsqueeze(-1)
    if is_recorded() and not derivative:
        return _recorded_bumps(distance, order)
    # No gradient is taken through this, so it works in place: fresh memory costs more than the arithmetic.
    inside = (distance.abs() if derivative else distance.abs_()).neg_().add_((order + 1) / 2).relu_()
    exponent = order - derivative
    first, *others = _CLOSED_FORM[order]
    bumps = _power(inside, exponent).mul_(first)
    for coefficient in others:
        inside = inside.sub_(1).relu_()  # (a − j)₊ = ((a − j + 1)₊ − 1)₊
        bumps.add_(_power(inside, exponent), alpha=coefficient)
    return torch.where(distance < 0, bumps, -bumps) * (order / step).unsqueeze(-2) if derivative else bumps


def _recorded_bumps(distance: Tensor, order: int) -> Tensor:
    """The same with nothing in place: a program made of it is as fast, and from order 2 on has the right gradient."""
    parts = [((order + 1) / 2 - j - distance.abs()).relu() for j in range(len(_CLOSED_FORM[order]))]
    powers = (reduce(torch.mul, [part] * order) for part in parts)
    return sum(coefficient * power for coefficient, power in zip(_CLOSED_FORM[order], powers, strict=True))


def _power(x: Tensor, exponent: int) -> Tensor:
    """x^exponent for an exponent of at least 1, in fresh memory; several times faster than ``torch.pow``."""
    power = x.clone() if exponent == 1 else x * x
    for _ in range(exponent - 2):
        power.mul_(x)
    return power


class Place(NamedTuple):
    """Where points are among knots.

    Attributes:
        interval: The knot interval that holds each point; the nearest one for a point beyond all knots.
        point: The points.
        around: The ``order`` knots on each side of that interval, in the points' units; those left of it come first.
        step: Those units.
    """

    interval: Int[Tensor, "*batch channels"]
    point: Float[Tensor, "*batch channels"]
    around: list[Tensor] | list[float]
    step: Tensor | float


def place_on_even_knots(
    x: Float[Tensor, "*batch channels"],
    low: Float[Tensor, "*groups channels"],
    step: Float[Tensor, "*groups channels"],
    order: int,
    num_knots: int,
) -> Place:
    """The place of points on equally spaced knots, in units of their distance and from the left end of the interval.

    A point on a knot may be taken to be on either side of it. Of NaN the interval is any.

    Args:
        x: Points within the knots.
        low: The left end of the grid.
        step: The distance of knots.
        order: How many knots lie beyond each end.
        num_knots: How many there are in all.
    """
    position = (x - low) / step + order
    interval = position.floor().long().clamp(0, num_knots - 2)
    return Place(interval, position - interval, [float(j) for j in range(1 - order, order + 1)], step)


def place_on_knots(
    x: Float[Tensor, "*batch channels"], knots: Float[Tensor, "*groups knots channels"], order: int
) -> Place:
    """The place of points on any knots, of which ``order`` lie beyond each end. Of NaN the interval is 0."""
    num_knots = knots.shape[-2]
    interval = (_reached(x.unsqueeze(-2), knots, beyond=order).sum(-2) - 1).clamp(0, num_knots - 2)
    knots = knots.expand(*interval.shape[:-1], *knots.shape[-2:])
    # Where there is no knot on a side, the last there is.
    positions = ((interval + step).clamp(0, num_knots - 1) for step in range(1 - order, order + 1))
    around = [knots.gather(-2, position.unsqueeze(-2)).squeeze(-2) for position in positions]
    return Place(interval, x, around, 1.0)


def alive_bsplines(
    x: Float[Tensor, "*batch channels"], around: Sequence[Tensor] | Sequence[float], order: int
) -> list[Float[Tensor, "*batch channels"]]:
    """The order + 1 B-splines that are not zero on the knot interval that holds x, in their order.

    The recursion of ``cox_de_boor`` with the zeros left out: it goes from the one spline of order 0 to two of order 1
    and so on. Source: de Boor, "A Practical Guide to Splines", ch. X, eq. 22 to 24 (BSPLVB).

    Args:
        x: Points.
        around: The same number of knots, at least ``order``, on each side of x; those left of it come first.
        order: Polynomial degree k.
    """
    middle = len(around) // 2
    values = [torch.where(x.isnan(), x, 1) if order == 0 else torch.ones_like(x)]
    for k in range(1, order + 1):
        # Spline b of order k − 1 lives on the knots left[b] … right[b].
        left, right = around[middle - k : middle], around[middle : middle + k]
        share = [value * _reciprocal(right[b] - left[b]) for b, value in enumerate(values)]
        falling = [(right[b] - x) * share[b] for b in range(k)]
        rising = [(x - left[b]) * share[b] for b in range(k)]
        values = [falling[0], *(rising[b - 1] + falling[b] for b in range(1, k)), rising[-1]]
    return values


def alive_slopes(
    x: Float[Tensor, "*batch channels"], around: Sequence[Tensor] | Sequence[float], order: int
) -> list[Float[Tensor, "*batch channels"]]:
    """The derivatives of ``alive_bsplines`` (de Boor, ch. X, eq. 12)."""
    if order == 0:
        return [torch.zeros_like(x)]
    middle = len(around) // 2
    left, right = around[middle - order : middle], around[middle : middle + order]
    lower = alive_bsplines(x, around, order - 1)
    share = [order * value * _reciprocal(right[b] - left[b]) for b, value in enumerate(lower)]
    return [-share[0], *(share[b - 1] - share[b] for b in range(1, order)), share[-1]]


def insertion(
    knots: Float[Tensor, "channels knots"], new_knots: Float[Tensor, "channels new_knots"], order: int
) -> Float[Tensor, "channels new_functions functions"]:
    """The map of coefficients to those of the same function on knots that contain the old ones between the grid's ends.

    A coefficient is the polar form of a polynomial piece at the inner knots of its B-spline, and de Boor's recursion
    evaluates polar forms: with another argument in each of its steps. Source: Ramshaw, "Blossoms are polar forms"
    (1989), sec. 5; for insertion alone this is the Oslo algorithm (Cohen, Lyche, Riesenfeld, 1980).

    Args:
        knots: The knots that the coefficients belong to, ``order`` of them beyond each end of the grid.
        new_knots: The new ones, likewise, which increase strictly between the grid's ends.
        order: Polynomial degree k.
    """
    functions = torch.arange(new_knots.shape[1] - order - 1, device=knots.device)
    # An interval of the grid, in the middle of what the function covers, and the old interval around it.
    inner = (functions + order // 2).clamp(order, new_knots.shape[1] - order - 2)
    middle = (new_knots[:, inner] + new_knots[:, inner + 1]) / 2
    interval = torch.searchsorted(knots.contiguous(), middle.contiguous(), right=True) - 1

    def knot(offset: int) -> Tensor:
        return knots.gather(1, interval + offset)

    # Row r starts as the coefficient of the function r of those alive; columns are what it consists of.
    rows = list(torch.eye(order + 1, dtype=knots.dtype, device=knots.device).expand(*interval.shape, -1, -1).unbind(-2))
    for step in range(1, order + 1):
        argument = new_knots[:, functions + step]
        for row in range(order, step - 1, -1):
            left, right = knot(row - order), knot(row + 1 - step)
            share = ((argument - left) / (right - left)).unsqueeze(-1)
            rows[row] = (1 - share) * rows[row - 1] + share * rows[row]
    change = knots.new_zeros(len(knots), len(functions), knots.shape[1] - order - 1)
    columns = (interval - order).unsqueeze(-1) + torch.arange(order + 1, device=knots.device)
    return change.scatter(-1, columns, rows[-1])
