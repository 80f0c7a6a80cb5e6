"""Wavelets on a fixed dyadic grid of scales and translations."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from math import isfinite, pi, sqrt
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis.base import Basis, check_positive_int, check_range


class Wavelets(Basis):
    """ψ((x − b)/a) on a dyadic grid: level j < L has 2^j + 1 translations b, and the scale a is their distance.

    Translations are evenly spaced over ``center_range``, both ends included; K = 2^L − 1 + L. With a = b_{i+1} − b_i on
    scales of powers of two, Mexican hats are nearly a tight frame (Daubechies, "Ten Lectures on Wavelets", 1992, table
    3.1, b₀ = 1). Every wavelet is as high as every other: there is no factor a^{−1/2}, which the weights would undo.
    In KANs: Bozorgasl and Chen, "Wav-KAN" (arXiv 2405.12832), where each edge learns one scale and one translation. A
    function is not linear in these. Here they are fixed and shared, several a function, and an edge learns the weights.

    A subclass is a frozen dataclass with the two fields below, and says what ψ is.

    Attributes:
        num_levels: L, the number of scales.
        center_range: The first and the last translation of every level.
    """

    num_levels: int
    center_range: tuple[float, float]

    def __post_init__(self) -> None:
        check_positive_int("num_levels", self.num_levels, 1)
        object.__setattr__(self, "center_range", check_range("center_range", self.center_range))

    @abstractmethod
    def mother(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """ψ(u)."""

    @abstractmethod
    def mother_slope(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """ψ'(u)."""

    @property
    def num_functions(self) -> int:
        """K = 2^L − 1 + L."""
        return 2**self.num_levels - 1 + self.num_levels

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """ψ(u), the widest first, shape (*batch, K, channels)."""
        return self.mother(self._positions(x)[0])

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """ψ'(u)/a, shape (*batch, K, channels)."""
        u, scales = self._positions(x)
        return self.mother_slope(u) / scales

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """The basis with as many levels as give ``num_functions``, over the same range."""
        if num_knots is not None:
            raise ValueError(f"the {type(self).__name__} basis has no grid")
        levels = next((n for n in range(1, 30) if 2**n - 1 + n >= num_functions), 0)
        if 2**levels - 1 + levels != num_functions:
            raise ValueError(f"a {type(self).__name__} basis has 2, 5, 10, 19, … functions, not {num_functions}")
        return replace(self, num_levels=levels)  # type: ignore[type-var]

    def _positions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The positions u = (x − b)/a, shape (*batch, K, channels), and the scales a, (K, 1)."""
        low, high = self.center_range
        translations, scales = [], []
        for level in range(self.num_levels):
            scale = (high - low) / 2**level
            steps = torch.arange(2**level + 1, dtype=x.dtype, device=x.device).unsqueeze(-1)
            translations.append(low + scale * steps)
            scales.append(torch.full_like(steps, scale))
        scale_of_each = torch.cat(scales)
        return (x.unsqueeze(-2) - torch.cat(translations)) / scale_of_each, scale_of_each


@dataclass(frozen=True)
class MexicanHat(Wavelets):
    """2/(√3·π^{1/4})·(1 − u²)·exp(−u²/2), the negative second derivative of a Gaussian, on the grid of ``Wavelets``.

    Source: Daubechies, "Ten Lectures on Wavelets" (1992), sec. 3.3.5.

    Args:
        num_levels: L, the number of scales, at least 1; K = 2^L − 1 + L.
        center_range: The first and the last translation of every level.

    Raises:
        TypeError: The number is not an integer, or the range not a pair of numbers.
        ValueError: The number is too small, or the range empty or not finite.

    Example:
        >>> MexicanHat(num_levels=2).num_functions
        5
    """

    num_levels: int = 3
    center_range: tuple[float, float] = (-2.0, 2.0)

    def mother(self, u: Tensor) -> Tensor:
        """ψ, of norm 1 in L²."""
        square = _near(u).square()
        return _HAT * (1 - square) * torch.exp(-square / 2)

    def mother_slope(self, u: Tensor) -> Tensor:
        """The factor of ψ times u·(u² − 3)·exp(−u²/2)."""
        u = _near(u)
        square = u.square()
        return _HAT * u * (square - 3) * torch.exp(-square / 2)


_HAT = 2 / (sqrt(3) * pi**0.25)
_FAR = 40.0  # where exp(−u²/2) is 0 in float64, too


@dataclass(frozen=True)
class Morlet(Wavelets):
    """cos(ωu)·exp(−u²/2), the real part of Morlet's wavelet, on the grid of ``Wavelets``.

    Its mean is √(2π)·exp(−ω²/2), 1e-5 for ω = 5, which is taken for 0 as usual. Source: Daubechies, "Ten Lectures on
    Wavelets" (1992), sec. 3.3.5; ω = 5 as in Wav-KAN (arXiv 2405.12832).

    Args:
        num_levels: L, the number of scales, at least 1; K = 2^L − 1 + L.
        center_range: The first and the last translation of every level.
        frequency: ω.

    Raises:
        TypeError: The number is not an integer, the range not a pair of numbers, or the frequency not a number.
        ValueError: The number is too small, the range empty or not finite, or the frequency not positive and finite.

    Example:
        >>> Morlet(num_levels=2).num_functions
        5
    """

    num_levels: int = 3
    center_range: tuple[float, float] = (-2.0, 2.0)
    frequency: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.frequency, int | float) or isinstance(self.frequency, bool):
            raise TypeError(f"frequency must be a number, got {self.frequency!r}")
        if not (isfinite(self.frequency) and self.frequency > 0):
            raise ValueError(f"frequency must be positive and finite, got {self.frequency!r}")
        object.__setattr__(self, "frequency", float(self.frequency))

    def mother(self, u: Tensor) -> Tensor:
        """ψ, of height 1."""
        u = _near(u)
        return torch.cos(self.frequency * u) * torch.exp(-u.square() / 2)

    def mother_slope(self, u: Tensor) -> Tensor:
        """−(ω·sin(ωu) + u·cos(ωu))·exp(−u²/2)."""
        u = _near(u)
        angle = self.frequency * u
        return -(self.frequency * torch.sin(angle) + u * torch.cos(angle)) * torch.exp(-u.square() / 2)


@dataclass(frozen=True)
class DoG(Wavelets):
    """−u·exp(−u²/2), the derivative of a Gaussian, on the grid of ``Wavelets``.

    Source: Bozorgasl and Chen, "Wav-KAN" (arXiv 2405.12832), where it goes by this name.

    Args:
        num_levels: L, the number of scales, at least 1; K = 2^L − 1 + L.
        center_range: The first and the last translation of every level.

    Raises:
        TypeError: The number is not an integer, or the range not a pair of numbers.
        ValueError: The number is too small, or the range empty or not finite.

    Example:
        >>> DoG(num_levels=2).num_functions
        5
    """

    num_levels: int = 3
    center_range: tuple[float, float] = (-2.0, 2.0)

    def mother(self, u: Tensor) -> Tensor:
        """ψ."""
        u = _near(u)
        return -u * torch.exp(-u.square() / 2)

    def mother_slope(self, u: Tensor) -> Tensor:
        """(u² − 1)·exp(−u²/2)."""
        square = _near(u).square()
        return (square - 1) * torch.exp(-square / 2)


def _near(u: Tensor) -> Tensor:
    """``u`` where it is near, and else a value at which a Gaussian is 0, too, but no power overflows; NaN stays."""
    return u.clamp(-_FAR, _FAR)
