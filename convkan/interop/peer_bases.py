"""Bases of other libraries' checkpoints: the numbers that those learned are part of the description."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from convkan.basis import Basis
from convkan.basis.wavelet import Wavelets


class FixedBasis(Basis):
    """A basis of one size: the numbers of others could not be guessed."""

    @property
    @abstractmethod
    def numbers(self) -> tuple[float, ...]:
        """What was learned elsewhere: without these the weights of a layer say nothing."""

    def resized(self, num_functions: int, num_knots: int | None) -> Self:
        """This basis, if it has the right size."""
        if num_knots is not None or num_functions != self.num_functions:
            raise ValueError(f"the basis has {self.num_functions} fixed functions, not {num_functions}")
        return self


@dataclass(frozen=True)
class ActivatedGram(FixedBasis):
    """silu(P_n(tanh x)) with P_0 = 1, P_1 = t, P_{n+1} = t·P_n − s_n·P_{n−1}: torch-conv-kan's Gram polynomials.

    The s_n are what it learned, so that these are orthogonal on no points; ``convkan.basis.Gram`` are.

    Args:
        shares: s_1 … s_{degree−1}.

    Example:
        >>> ActivatedGram((0.1, 0.2)).num_functions
        4
    """

    shares: tuple[float, ...]

    @property
    def numbers(self) -> tuple[float, ...]:
        """The shares."""
        return self.shares

    @property
    def num_functions(self) -> int:
        """K = degree + 1."""
        return len(self.shares) + 2

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """silu(P_n(tanh x)), shape (*batch, K, channels)."""
        return F.silu(torch.stack(self._polynomials(x.tanh())[0], dim=-2))

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """silu'(P_n)·P_n'·sech²x, shape (*batch, K, channels)."""
        values, slopes = (torch.stack(parts, dim=-2) for parts in self._polynomials(x.tanh()))
        inner = (4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)).unsqueeze(-2)
        gate = torch.sigmoid(values)
        return gate * (1 + values * (1 - gate)) * slopes * inner

    def _polynomials(self, t: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """P_n(t) and P_n'(t)."""
        values, slopes = [torch.ones_like(t), t], [torch.zeros_like(t), torch.ones_like(t)]
        for share in self.shares:
            slopes.append(values[-1] + t * slopes[-1] - share * slopes[-2])
            values.append(t * values[-1] - share * values[-2])
        return values, slopes


@dataclass(frozen=True)
class ScatteredReLU(FixedBasis):
    """(height·ReLU(x − s_i)·ReLU(e_i − x))² for any s_i and e_i: ReLU-KAN's bumps after its phases have learned.

    Args:
        starts: s_i.
        ends: e_i.
        height: The factor.

    Example:
        >>> ScatteredReLU((0.0, 0.5), (1.0, 2.0), height=4.0).num_functions
        2
    """

    starts: tuple[float, ...]
    ends: tuple[float, ...]
    height: float

    @property
    def numbers(self) -> tuple[float, ...]:
        """Starts, ends and height."""
        return *self.starts, *self.ends, self.height

    @property
    def num_functions(self) -> int:
        """K, the number of bumps."""
        return len(self.starts)

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """The bumps, shape (*batch, K, channels)."""
        rising, falling = self._sides(x)
        return (self.height * rising * falling).square()

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """2·height²·rising·falling·(falling − rising) on the bump, shape (*batch, K, channels)."""
        rising, falling = self._sides(x)
        return 2 * self.height**2 * rising * falling * (falling - rising)

    def _sides(self, x: Tensor) -> tuple[Tensor, Tensor]:
        starts, ends = (x.new_tensor(values).unsqueeze(-1) for values in (self.starts, self.ends))
        return (x.unsqueeze(-2) - starts).relu(), (ends - x.unsqueeze(-2)).relu()


@dataclass(frozen=True)
class OneWavelet(FixedBasis):
    """ψ((x − translation)/scale), a single function.

    Args:
        family: A basis of wavelets, whose ψ it is.
        scale: The scale.
        translation: The translation.

    Example:
        >>> from convkan.basis import MexicanHat
        >>> OneWavelet(MexicanHat(), scale=1.0, translation=0.0).num_functions
        1
    """

    family: Wavelets
    scale: float
    translation: float

    @property
    def numbers(self) -> tuple[float, ...]:
        """Scale and translation."""
        return self.scale, self.translation

    @property
    def num_functions(self) -> int:
        """One."""
        return 1

    def evaluate(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """ψ(u), shape (*batch, 1, channels)."""
        return self.family.mother((x.unsqueeze(-2) - self.translation) / self.scale)

    def derivative(self, x: Tensor, knots: Tensor | None = None, *, fast: bool = False) -> Tensor:
        """ψ'(u)/scale, shape (*batch, 1, channels)."""
        return self.family.mother_slope((x.unsqueeze(-2) - self.translation) / self.scale) / self.scale
