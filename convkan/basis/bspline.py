"""B-splines on a grid with ``order`` extra knots beyond each end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import comb, factorial
from typing import Literal, Self, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from convkan.basis.base import GriddedBasis, check_positive_int, check_range
from convkan.modes import is_recorded

Extrapolation = Literal["zero", "clamp", "linear"]

# Past this order the alternating sum of the closed form loses more digits than Cox-de Boor costs time.
HIGHEST_CLOSED_FORM_ORDER = 5
# (−1)^j C(k+1, j)/k! for each order k and for j < (k+1)/2.
_CLOSED_FORM = [
    [(-1) ** j * comb(k + 1, j) / factorial(k) for j in range((k + 2) // 2)]
    for k in range(HIGHEST_CLOSED_FORM_ORDER + 1)
]


def _intervals(
    x: Float[Tensor, "*batch 1 channels"], knots: Float[Tensor, "*groups knots channels"], margin: int
) -> Bool[Tensor, "*batch intervals channels"]:
    """Which half-open interval [t_i, t_{i+1}) holds x; the grid's right end belongs to the interval left of it."""
    reached = _reached(x, knots, margin)
    return reached[..., :-1, :] & ~reached[..., 1:, :]


def _reached(
    x: Float[Tensor, "*batch 1 channels"], knots: Float[Tensor, "*groups knots channels"], margin: int
) -> Bool[Tensor, "*batch knots channels"]:
    """Which knots x has come to: t_i ≤ x, but t_i < x where x is the grid's right end."""
    end = knots[..., knots.shape[-2] - 1 - margin, :].unsqueeze(-2)
    # In these words, since ONNX Runtime has no ``Where`` that chooses between booleans.
    return (knots < x) | ((knots == x) & (x != end))


def _reciprocal(span: Tensor | float) -> Tensor | float:
    """1/span, and 0 for an empty one."""
    if isinstance(span, float):
        return 1 / span if span > 0 else 0.0
    return torch.where(span > 0, 1 / torch.where(span > 0, span, 1), 0)


def _reciprocal_spans(knots: Float[Tensor, "*groups knots channels"], order: int) -> Tensor | float:
    """1/(t_{i+order} − t_i), and 0 where knots coincide: the convention 0/0 = 0 of the recursion."""
    return _reciprocal(knots[..., order:, :] - knots[..., :-order, :])


def _held_within(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``x`` clamped to [low, high], with the slope 1 at the ends themselves (``torch.clamp`` has 1/2 there)."""
    return torch.where(x < low, low, torch.where(x > high, high, x))


def cox_de_boor(
    x: Float[Tensor, "*batch channels"],
    knots: Float[Tensor, "*groups knots channels"],
    order: int,
    margin: int,
) -> Float[Tensor, "*batch functions channels"]:
    """B-splines of ``order`` on any non-decreasing knots, by the recursion of de Boor and Cox.

    B_{i,0} = [t_i ≤ x < t_{i+1}];  B_{i,k} = (x − t_i)/(t_{i+k} − t_i)·B_{i,k−1} + (t_{i+k+1} − x)/(t_{i+k+1} −
    t_{i+1})·B_{i+1,k−1}. Within an interval this is a polynomial to autograd too, so every derivative is one-sided
    from the interval that holds x. Source: de Boor, "A Practical Guide to Splines", ch. IX, eq. 14.

    Args:
        x: Points.
        knots: Knots of each channel, second to last dimension.
        order: Polynomial degree k.
        margin: How many knots lie beyond the grid's end; the grid is closed on the right.
    """
    x = x.unsqueeze(-2)
    values = _intervals(x, knots, margin).to(x.dtype)
    if order == 0:
        return torch.where(x.isnan(), x, values)
    # Beyond all knots everything is 0: there factors must stay finite.
    x = _held_within(x, knots[..., :1, :], knots[..., -1:, :])
    for k in range(1, order + 1):
        scale = _reciprocal_spans(knots, k)
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


def _interval_of(
    x: Float[Tensor, "*batch channels"], knots: Float[Tensor, "*groups knots channels"], margin: int
) -> Int[Tensor, "*batch channels"]:
    """The i with t_i ≤ x < t_{i+1}, as in ``_intervals``; the nearest one for an x beyond all knots, 0 for NaN."""
    return (_reached(x.unsqueeze(-2), knots, margin).sum(-2) - 1).clamp(0, knots.shape[-2] - 2)


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


@dataclass(frozen=True)
class BSpline(GriddedBasis):
    """B-splines of ``order`` on a grid of ``grid_size`` intervals over ``grid_range``; K = grid_size + order.

    The range and the equal spacing are where a layer starts; a grid that was adapted to data lives in the layer's
    ``grid`` buffer. Source: Liu et al., "KAN: Kolmogorov-Arnold Networks" (arXiv 2404.19756), eq. 2.12 and 2.13.

    Args:
        grid_size: G, the number of intervals, at least 1.
        order: k, the polynomial degree of the pieces, at least 0 (3: cubic).
        grid_range: The ends (a, b) of the grid.
        extrapolation: What the basis does outside [a, b]. ``"zero"``: it tapers to zero over k more intervals.
            ``"clamp"``: it keeps its value at the end. ``"linear"``: it continues with its value and slope there.

    Raises:
        TypeError: A size is not an integer, or the range not a pair of numbers.
        ValueError: A size is too small, the range empty or not finite, or the extrapolation unknown.

    Example:
        >>> BSpline(grid_size=8, grid_range=(-3, 3)).num_functions
        11
    """

    grid_size: int = 5
    order: int = 3
    grid_range: tuple[float, float] = (-1.0, 1.0)
    extrapolation: Extrapolation = "zero"

    def __post_init__(self) -> None:
        check_positive_int("grid_size", self.grid_size, 1)
        check_positive_int("order", self.order, 0)
        object.__setattr__(self, "grid_range", check_range("grid_range", self.grid_range))
        if self.extrapolation not in get_args(Extrapolation):
            raise ValueError(f"extrapolation must be one of {get_args(Extrapolation)}, got {self.extrapolation!r}")

    @property
    def num_functions(self) -> int:
        """K = grid_size + order."""
        return self.grid_size + self.order

    @property
    def knots_beyond(self) -> int:
        """The order: so far do splines that reach into the grid go on beyond it."""
        return self.order

    @property
    def degree(self) -> int:
        """The order."""
        return self.order

    @property
    def lives_beyond(self) -> bool:
        """Not where the end of the grid decides on what is beyond."""
        return self.extrapolation == "zero"

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """B_1(x) … B_K(x), shape (*batch, K, channels)."""
        knots = self.checked(knots)
        if self.extrapolation == "zero":
            return self._splines(x, knots, self.order, fast)
        low, high = self.ends(knots)
        values = self._splines(_held_within(x, low, high), knots, self.order, fast)
        if self.extrapolation == "clamp":
            return values
        excess = torch.where(x < low, x - low, torch.where(x > high, x - high, 0)).unsqueeze(-2)
        return values + torch.where(excess < 0, self._slopes(low, knots), self._slopes(high, knots)) * excess

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """B_1'(x) … B_K'(x), shape (*batch, K, channels).

        At a knot it is the derivative on the knot's right; at the grid's right end, on its left.
        """
        knots = self.checked(knots)
        if self.extrapolation == "zero":
            return self._slopes(x, knots, fast)
        low, high = self.ends(knots)
        slopes = self._slopes(_held_within(x, low, high), knots, fast)
        if self.extrapolation == "linear":
            return slopes
        return slopes * ((x >= low) & (x <= high)).unsqueeze(-2)

    @property
    def num_alive(self) -> int:
        """Those of the interval that holds the point: order + 1."""
        return self.order + 1

    def alive(
        self, x: Tensor, knots: Tensor | None = None, *, derivative: bool = False, uniform: bool = False
    ) -> tuple[Int[Tensor, "*batch channels"], list[Float[Tensor, "*batch channels"]]]:
        """The order + 1 splines on the knot interval that holds each x."""
        knots = self.checked(knots)
        low, high = self.ends(knots)
        held = _held_within(x, *((knots[..., 0], knots[..., -1]) if self.extrapolation == "zero" else (low, high)))
        step: Tensor | float
        looked_up = uniform and self.order >= 2  # below, it matters on which side of a knot a point is taken to be
        if looked_up:
            step = (high - low) / self.grid_size
            position = (held - low) / step + self.order
            interval = position.floor().long().clamp(0, self.num_knots - 2)  # NaN becomes an integer, whichever
            point = position - interval
            around: list[Tensor] | list[float] = [float(j) for j in range(1 - self.order, self.order + 1)]
        else:
            interval = _interval_of(held, knots.mT, margin=self.order)
            point, around, step = held, self._around(interval, knots), 1.0
        if derivative:
            functions = [slope / step for slope in alive_slopes(point, around, self.order)]
        else:
            functions = alive_bsplines(point, around, self.order)
        if self.extrapolation == "zero" and not looked_up:
            # On simple knots, and from order 2 on, all splines and their slopes have come to zero at the ends anyway.
            beyond = (x < knots[..., 0]) | ((x >= knots[..., -1]) & (x != high))
            functions = [torch.where(beyond, 0, function) for function in functions]
        elif self.extrapolation == "clamp" and derivative:
            functions = [function * ((x >= low) & (x <= high)) for function in functions]
        elif self.extrapolation == "linear" and not derivative:
            slopes = alive_slopes(point, around, self.order)
            excess = (x - held) / step
            functions = [function + slope * excess for function, slope in zip(functions, slopes, strict=True)]
        return interval - self.order, functions

    def _around(self, interval: Int[Tensor, "*batch channels"], knots: Tensor) -> list[Tensor]:
        """The ``order`` knots on each side of an interval; where there are none, the last there is."""
        knots = knots.mT.expand(*interval.shape[:-1], *knots.mT.shape[-2:])
        positions = ((interval + step).clamp(0, self.num_knots - 1) for step in range(1 - self.order, self.order + 1))
        return [knots.gather(-2, position.unsqueeze(-2)).squeeze(-2) for position in positions]

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """The basis whose K and knot vector have these sizes: order = knots − 1 − K, grid size = K − order."""
        if num_knots is None:
            raise ValueError("a B-spline needs a grid, and there is none")
        order = num_knots - 1 - num_functions
        if order < 0 or num_functions - order < 1:
            raise ValueError(f"no B-spline has {num_functions} functions on {num_knots} knots")
        return replace(self, grid_size=num_functions - order, order=order)

    def _splines(self, x: Tensor, knots: Tensor, order: int, fast: bool) -> Tensor:
        """B-splines of ``order`` ≤ self.order on all the knots, without extrapolation."""
        lowest = 2 if is_recorded() else 1  # a kink has a gradient of its own on each side
        if fast and lowest <= order <= HIGHEST_CLOSED_FORM_ORDER:
            return self._closed_form(x, knots, order, self.num_knots - 1 - order)
        return cox_de_boor(x, knots.mT, order, margin=self.order)

    def _slopes(self, x: Tensor, knots: Tensor, fast: bool = False) -> Tensor:
        """B_i' = k·(B_{i,k−1}/(t_{i+k} − t_i) − B_{i+1,k−1}/(t_{i+k+1} − t_{i+1})) (de Boor, ch. X, eq. 12)."""
        if self.order == 0:
            return torch.zeros_like(self._splines(x, knots, 0, fast))
        if fast and 2 <= self.order <= HIGHEST_CLOSED_FORM_ORDER:
            return self._closed_form(x, knots, self.order, self.num_functions, derivative=True)
        lower = self._splines(x, knots, self.order - 1, fast) * (self.order * _reciprocal_spans(knots.mT, self.order))
        return lower[..., :-1, :] - lower[..., 1:, :]

    def _closed_form(self, x: Tensor, knots: Tensor, order: int, count: int, derivative: bool = False) -> Tensor:
        low, high = self.ends(knots)
        return uniform_bsplines(x, (low + high) / 2, (high - low) / self.grid_size, order, count, derivative)
