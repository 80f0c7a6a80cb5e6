"""The contract of a univariate basis: what an edge of a KAN is a weighted sum of."""

from abc import ABC, abstractmethod
from math import isfinite
from typing import ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor


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


def is_jit_traced() -> bool:
    """Whether ``torch.jit.trace`` looks on, to which sizes are tensors: to decide by them would draw its warning."""
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None


def is_recorded() -> bool:
    """Whether what is computed is written down, by ``torch.export`` or ``torch.jit.trace``, to be run elsewhere."""
    # Not ``torch.compiler.is_exporting()``: torch 2.11 compiles it to True whether or not it exports.
    return torch.compiler._is_exporting_flag or is_jit_traced()


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
