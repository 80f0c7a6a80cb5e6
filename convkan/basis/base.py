"""The contract of a univariate basis: what an edge of a KAN is a weighted sum of."""

from abc import ABC, abstractmethod
from dataclasses import replace
from math import isfinite
from typing import ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convkan.modes import is_jit_traced


class Basis(ABC):
    """K functions of one variable, described immutably and without tensors.

    Subclasses are frozen dataclasses. They hold no state: a basis that lives on knots (``has_grid``) is handed
    them on each call by the layer that owns them.

    Channels are last and functions second to last, so that K planes of C channels lie one behind the other
    (feature-major), the order in which the expanded convolution reads them.
    """

    has_grid: ClassVar[bool] = False

    @property
    @abstractmethod
    def num_functions(self) -> int:
        """K, the number of functions."""

    @abstractmethod
    def evaluate(
        self,
        x: Float[Tensor, "*batch channels"],
        knots: Float[Tensor, "*groups channels knots"] | None = None,
        *,
        fast: bool = False,
    ) -> Float[Tensor, "*batch functions channels"]:
        """All K functions at every entry of ``x``.

        Args:
            x: Points, in float32 or float64.
            knots: The knots of each channel, for a basis with a grid.
            fast: The caller promises that knots are uniform and takes no gradient through the result, so that a
                closed form may be used. (Where what is computed ``is_recorded`` first derivatives are taken: nothing
                may be done in place.) Otherwise the result can be differentiated any number of times, with one-sided
                derivatives at the knots.
        """

    @abstractmethod
    def derivative(
        self,
        x: Float[Tensor, "*batch channels"],
        knots: Float[Tensor, "*groups channels knots"] | None = None,
        *,
        fast: bool = False,
    ) -> Float[Tensor, "*batch functions channels"]:
        """The first derivative of all K functions at every entry of ``x``; arguments as in ``evaluate``."""

    @property
    def num_alive(self) -> int | None:
        """How many neighbouring functions can differ from zero at one point; None where all of them can."""
        return None

    def alive(
        self,
        x: Float[Tensor, "*batch channels"],
        knots: Float[Tensor, "*groups channels knots"] | None = None,
        *,
        derivative: bool = False,
        uniform: bool = False,
    ) -> tuple[Int[Tensor, "*batch channels"], list[Float[Tensor, "*batch channels"]]]:
        """The functions that can differ from zero at each entry of ``x``, at a cost that does not grow with K.

        No gradient may be taken through it.

        Args:
            x: Points, in float32 or float64.
            knots: The knots of each channel.
            derivative: Return derivatives with respect to x.
            uniform: The caller promises that knots are equally spaced.

        Returns:
            The position of the first of the ``num_alive`` functions, from 1 − num_alive to K − 1, and their values.
            Positions outside 0 … K − 1 are of functions that do not exist: their values mean nothing.

        Raises:
            NotImplementedError: ``num_alive`` is None.
        """
        raise NotImplementedError(f"all functions of {self} are alive everywhere")

    @abstractmethod
    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """The same kind of basis with other sizes, as read off the shapes of a checkpoint.

        Raises:
            ValueError: No basis of this kind has these sizes.
        """


class GriddedBasis(Basis):
    """A basis on the knots of a grid: ``grid_size`` intervals, and ``knots_beyond`` more knots outside each end.

    The knots belong to a layer, a row a channel, and move with its data; ``grid_range`` and equal spacing are where
    they start. They never decrease, and the ends of a grid differ. A subclass is a frozen dataclass with the two fields
    below, and says how its functions follow from knots. The rest has defaults: there are no knots but the points of the
    grid, and when knots change, functions are fitted.

    Attributes:
        grid_size: G, the number of intervals.
        grid_range: The ends (a, b) of the grid a layer starts with.
    """

    has_grid: ClassVar[bool] = True

    grid_size: int
    grid_range: tuple[float, float]

    @property
    def knots_beyond(self) -> int:
        """The number of knots outside each end of the grid."""
        return 0

    @property
    def num_knots(self) -> int:
        """The length of the full knot vector: those of the grid and those beyond."""
        return self.grid_size + 1 + 2 * self.knots_beyond

    @property
    def degree(self) -> int:
        """Of the polynomials that functions are between knots, or that come close to them."""
        return 3

    @property
    def lives_beyond(self) -> bool:
        """Whether functions follow the knots beyond the ends, where there are any, when x is there."""
        return self.knots_beyond > 0

    def knots(self, num_channels: int) -> Float[Tensor, "channels knots"]:
        """The full knots a layer starts with, one row a channel, in float64 on the CPU."""
        low, high = torch.tensor(self.grid_range, dtype=torch.float64, device="cpu")
        return self.spaced_knots(low, high).repeat(num_channels, 1)

    def spaced_knots(
        self, low: Float[Tensor, "*channels"], high: Float[Tensor, "*channels"]
    ) -> Float[Tensor, "*channels knots"]:
        """The full knots of equal intervals over [low, high], continued beyond each end in the same steps.

        The knots at ``low`` and ``high`` are those values exactly, since a closed right end is recognised by equality.
        """
        beyond, size = self.knots_beyond, self.grid_size
        steps = torch.arange(-beyond, size + beyond + 1, dtype=low.dtype, device=low.device)
        knots = low.unsqueeze(-1) + ((high - low) / size).unsqueeze(-1) * steps
        return torch.where(steps == size, high.unsqueeze(-1), knots)

    def ends(
        self, knots: Float[Tensor, "*groups channels knots"]
    ) -> tuple[Float[Tensor, "*groups channels"], Float[Tensor, "*groups channels"]]:
        """The first and the last point of each channel's grid, without the knots beyond."""
        return knots[..., self.knots_beyond], knots[..., self.knots_beyond + self.grid_size]

    def grid_points(self, knots: Float[Tensor, "*groups channels knots"]) -> Float[Tensor, "*groups channels points"]:
        """The grid_size + 1 knots from end to end."""
        return knots[..., self.knots_beyond : self.knots_beyond + self.grid_size + 1]

    def extended(
        self,
        points: Float[Tensor, "*groups channels points"],
        beyond: Float[Tensor, "*groups channels other_knots"] | None = None,
    ) -> Float[Tensor, "*groups channels knots"]:
        """Full knots of a grid of any points.

        Args:
            points: The points of the grid.
            beyond: Full knots, of a grid of any size, whose knots beyond the ends are taken. By default those continue
                the grid in steps of its mean interval.
        """
        count = self.knots_beyond
        if beyond is not None:
            return torch.cat([beyond[..., :count], points, beyond[..., beyond.shape[-1] - count :]], dim=-1)
        step = (points[..., -1:] - points[..., :1]) / (points.shape[-1] - 1)
        steps = step * torch.arange(1, count + 1, dtype=points.dtype, device=points.device)
        return torch.cat([points[..., :1] - steps.flip(-1), points, points[..., -1:] + steps], dim=-1)

    def insertion(
        self,
        knots: Float[Tensor, "channels knots"],
        finer: Self,
        finer_knots: Float[Tensor, "channels finer_knots"],
    ) -> Float[Tensor, "channels finer_functions functions"] | None:
        """The map of coefficients to those of the same functions on knots that hold these, between the grid's ends.

        None where there is none, or none is known: then functions are fitted.

        Args:
            knots: The full knots there are.
            finer: The same kind of basis, of another grid size.
            finer_knots: Its full knots, which increase strictly between the grid's ends.
        """
        return None

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """The basis whose K and knot vector have these sizes."""
        if num_knots is None:
            raise ValueError(f"a {type(self).__name__} basis needs a grid, and there is none")
        size = num_knots - 1 - 2 * self.knots_beyond
        if size < 1 or (other := self.with_grid_size(size)).num_functions != num_functions:
            raise ValueError(f"no {type(self).__name__} basis has {num_functions} functions on {num_knots} knots")
        return other

    def with_range(self, low: float, high: float) -> Self:
        """The same basis over another range."""
        return replace(self, grid_range=(low, high))  # type: ignore[type-var]

    def with_grid_size(self, grid_size: int) -> Self:
        """The same basis on another number of intervals."""
        return replace(self, grid_size=grid_size)  # type: ignore[type-var]

    def checked(self, knots: Float[Tensor, "*groups channels knots"] | None) -> Tensor:
        """The knots themselves.

        Raises:
            ValueError: There are none, or not ``num_knots`` a channel.
        """
        if knots is None or (not is_jit_traced() and knots.shape[-1] != self.num_knots):
            got = "none" if knots is None else f"{knots.shape[-1]}"
            raise ValueError(f"knots must number {self.num_knots} a channel for {self}, got {got}")
        return knots


def check_positive_int(name: str, value: object, minimum: int) -> None:
    """Raise unless ``value`` is an integer of at least ``minimum``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def check_range(name: str, value: object) -> tuple[float, float]:
    """``value`` as a pair of finite floats, low < high."""
    try:
        low, high = (float(end) for end in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair of numbers (low, high), got {value!r}") from None
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ValueError(f"{name} must be finite with low < high, got {value!r}")
    return low, high
