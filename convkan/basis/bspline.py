"""B-splines on a grid with ``order`` extra knots beyond each end."""

from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convkan.basis.base import GriddedBasis, check_positive_int, check_range
from convkan.basis.splines import (
    HIGHEST_CLOSED_FORM_ORDER,
    Place,
    alive_bsplines,
    alive_slopes,
    cox_de_boor,
    held_within,
    insertion,
    place_on_even_knots,
    place_on_knots,
    reciprocal_spans,
    uniform_bsplines,
)
from convkan.modes import is_recorded

Extrapolation = Literal["zero", "clamp", "linear"]


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
        values = self._splines(held_within(x, low, high), knots, self.order, fast)
        if self.extrapolation == "clamp":
            return values
        excess = torch.where(x < low, x - low, torch.where(x > high, x - high, 0)).unsqueeze(-2)
        of_low, of_high = self._slopes(torch.stack([low, high]), knots, fast)
        return values + torch.where(excess < 0, of_low, of_high) * excess

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """B_1'(x) … B_K'(x), shape (*batch, K, channels).

        At a knot it is the derivative on the knot's right; at the grid's right end, on its left.
        """
        knots = self.checked(knots)
        if self.extrapolation == "zero":
            return self._slopes(x, knots, fast)
        low, high = self.ends(knots)
        slopes = self._slopes(held_within(x, low, high), knots, fast)
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
        held = held_within(x, *((knots[..., 0], knots[..., -1]) if self.extrapolation == "zero" else (low, high)))
        # From order 2 on it does not matter on which side of a knot a point is taken to be.
        computed = uniform and self.order >= 2
        if computed:
            place = place_on_even_knots(held, low, (high - low) / self.grid_size, self.order, self.num_knots)
        else:
            place = place_on_knots(held, knots.mT, self.order)
        if derivative:
            functions = [slope / place.step for slope in alive_slopes(place.point, place.around, self.order)]
        else:
            functions = alive_bsplines(place.point, place.around, self.order)
        # On simple knots, and from order 2 on, splines and their slopes come to zero at the last knots by themselves.
        if not (computed and self.extrapolation == "zero"):
            functions = self._continued(functions, x, held, knots, place, derivative)
        return place.interval - self.order, functions

    def _continued(
        self, functions: list[Tensor], x: Tensor, held: Tensor, knots: Tensor, place: Place, derivative: bool
    ) -> list[Tensor]:
        """Splines alive at a place, or their derivatives there, as they are at the x that was held there."""
        low, high = self.ends(knots)
        if self.extrapolation == "zero":
            beyond = (x < knots[..., 0]) | ((x >= knots[..., -1]) & (x != high))
            return [torch.where(beyond, 0, function) for function in functions]
        if self.extrapolation == "clamp" and derivative:
            return [function * ((x >= low) & (x <= high)) for function in functions]
        if self.extrapolation == "linear" and not derivative:
            slopes, steps = alive_slopes(place.point, place.around, self.order), (x - held) / place.step
            return [function + slope * steps for function, slope in zip(functions, slopes, strict=True)]
        return functions

    def insertion(self, knots: Tensor, finer: Self, finer_knots: Tensor) -> Tensor:
        """The exact map of coefficients, shape (channels, finer functions, functions)."""
        return insertion(knots, finer_knots, self.order)

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
        return cox_de_boor(x, knots.mT, order, beyond=self.order)

    def _slopes(self, x: Tensor, knots: Tensor, fast: bool = False) -> Tensor:
        """B_i' = k·(B_{i,k−1}/(t_{i+k} − t_i) − B_{i+1,k−1}/(t_{i+k+1} − t_{i+1})) (de Boor, ch. X, eq. 12)."""
        if self.order == 0:
            return torch.zeros_like(self._splines(x, knots, 0, fast))
        if fast and 2 <= self.order <= HIGHEST_CLOSED_FORM_ORDER:
            return self._closed_form(x, knots, self.order, self.num_functions, derivative=True)
        lower = self._splines(x, knots, self.order - 1, fast) * (self.order * reciprocal_spans(knots.mT, self.order))
        return lower[..., :-1, :] - lower[..., 1:, :]

    def _closed_form(self, x: Tensor, knots: Tensor, order: int, count: int, derivative: bool = False) -> Tensor:
        low, high = self.ends(knots)
        return uniform_bsplines(x, (low + high) / 2, (high - low) / self.grid_size, order, count, derivative)
