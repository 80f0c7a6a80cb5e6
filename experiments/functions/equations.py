"""The equations that ``experiments.equations`` solves: what must vanish, where, and what the solution is.

Conditions at the border and the beginning hold by construction: what a net returns goes through ``Equation.held``, so
that the equation alone is left to be minimised. Sources: Wang, Teng and Perdikaris (arXiv 2001.04536) for Helmholtz;
Raissi, Perdikaris and Karniadakis (arXiv 1711.10561, 1711.10566) for Allen–Cahn, Burgers and its unknown coefficients.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import exp, log, pi
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from experiments.functions.references import DIFFUSION, REACTION, VISCOSITY, allen_cahn, burgers

Net = Callable[[Tensor], Tensor]
WAVES, WAVE_NUMBER = (1, 4), 1.0
FADES = 2 * REACTION  # the rate at which the Allen–Cahn equation returns to its stable states −1 and 1
SAMPLES, NOISE = 1000, 0.02  # of the inverse problem; the noise relative to the solution's deviation
UNKNOWN = {"λ₁": 1.0, "λ₂": VISCOSITY}
FIRST_GUESS = (0.0, log(0.1))  # of λ₁ and log λ₂


def derivatives(net: Net, point: Tensor, *axes: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Outputs at a point, the gradient of the first of them, and its second derivatives along some axes."""

    def slopes(place: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        found, outputs = torch.func.grad(lambda p: ((y := net(p))[0], y), has_aux=True)(place)
        return found[list(axes)], (outputs, found)

    bends, (outputs, first) = torch.func.jacrev(slopes, has_aux=True)(point)
    return outputs, first, [bends[row, axis] for row, axis in enumerate(axes)]


def helmholtz(net: Net, point: Tensor) -> Tensor:
    """Δu + k²u − q, with q such that ``helmholtz_solution`` solves it."""
    u, _, (along_x, along_y) = derivatives(net, point, 0, 1)
    k = WAVE_NUMBER**2
    source = (k - pi**2 * (WAVES[0] ** 2 + WAVES[1] ** 2)) * helmholtz_solution(point.unsqueeze(0))[0]
    return along_x + along_y + k * u[0] - source


def helmholtz_solution(points: Float[Tensor, "points 2"]) -> Float[Tensor, " points"]:
    """sin(πx)·sin(4πy)."""
    x, y = points.unbind(1)
    return torch.sin(WAVES[0] * pi * x) * torch.sin(WAVES[1] * pi * y)


def burgers_residual(net: Net, point: Tensor) -> Tensor:
    """u_t + u·u_x − ν·u_xx at (t, x)."""
    u, slopes, (bend,) = derivatives(net, point, 1)
    return slopes[0] + u[0] * slopes[1] - VISCOSITY * bend


def unknown_burgers(net: Net, point: Tensor) -> Tensor:
    """u_t + λ₁·u·u_x − λ₂·u_xx, of a net that returns u, λ₁ and log λ₂."""
    (u, first, second), slopes, (bend,) = derivatives(net, point, 1)
    return slopes[0] + first * u * slopes[1] - second.exp() * bend


def misfit(net: Net, point: Tensor, value: Tensor) -> Tensor:
    """How far the solution is off a sample."""
    return net(point)[0] - value[0]


def allen_cahn_residual(net: Net, point: Tensor) -> Tensor:
    """u_t − 0.0001·u_xx − 5(u − u³) at (t, x)."""
    u, slopes, (bend,) = derivatives(net, point, 1)
    return slopes[0] - DIFFUSION * bend - REACTION * (u[0] - u[0] ** 3)


@dataclass(frozen=True)
class Equation:
    """An equation for u on a box of two coordinates.

    Attributes:
        title: What it is called.
        formula: How people write it.
        axes: Names of the coordinates.
        low: Least coordinates.
        residual: What must vanish, of a net and a point, as ``convkan.fitting.fit_residuals`` takes it.
        held: Points and what the net returns there, (n, 1), to u that meets the conditions.
        reference: The solution on the lattice, (rows, columns).
        lattice: Coordinates at which nets are judged, of each axis.
        encoded: Coordinates to the net's inputs, within [−1, 1].
        inputs: How many of these there are.
        grows: Whether points are drawn from the beginning of time at first, and only later from all of it.
        unknown: Coefficients that are sought, and what they are.
        published: What others report as relative L2 error, and where.
    """

    title: str
    formula: str
    axes: tuple[str, str]
    low: tuple[float, float]
    residual: Callable[[Net, Tensor], Tensor]
    held: Callable[[Tensor, Tensor], Tensor]
    reference: Callable[[], Tensor]
    lattice: Callable[[], tuple[Tensor, Tensor]]
    encoded: Callable[[Tensor], Tensor]
    inputs: int = 2
    grows: bool = False
    unknown: Mapping[str, float] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)

    def points(self) -> Float[Tensor, "points 2"]:
        """The lattice's points, row by row."""
        return torch.cartesian_prod(*self.lattice())

    def random(self, count: int, generator: torch.Generator, share: float = 1.0) -> Float[Tensor, "points 2"]:
        """Points drawn evenly, of the first coordinate from a share of the box."""
        low = torch.tensor(self.low, dtype=torch.float64)
        sides = (1 - low) * torch.tensor([share, 1.0], dtype=torch.float64)
        return low + sides * torch.rand(count, 2, generator=generator, dtype=torch.float64)


class Solution(nn.Module):
    """A net that solves an equation: (n, 2) to u, (n, 1), and the equation's coefficients beside it where unknown."""

    def __init__(self, equation: Equation, net: nn.Module) -> None:
        super().__init__()
        self.equation, self.net = equation, net
        if equation.unknown:
            self.coefficients = nn.Parameter(torch.tensor(FIRST_GUESS, dtype=torch.float64))

    def forward(self, points: Tensor) -> Tensor:
        """The solution at points, and the coefficients, the same in every row."""
        found = self.equation.held(points, self.net(self.equation.encoded(points)))
        if not self.equation.unknown:
            return found
        return torch.cat([found, self.coefficients.expand(len(points), -1)], dim=1)

    def coefficient_errors(self) -> dict[str, float]:
        """Of each unknown coefficient, the relative error."""
        if not self.equation.unknown:
            return {}
        found = (self.coefficients[0].item(), exp(self.coefficients[1].item()))
        return {
            name: abs(value / true - 1)
            for value, (name, true) in zip(found, self.equation.unknown.items(), strict=True)
        }


def _even(low: float, count: int) -> Tensor:
    return torch.linspace(low, 1, count, dtype=torch.float64)


def _square_held(points: Tensor, found: Tensor) -> Tensor:
    return (1 - points.square()).prod(1, keepdim=True) * found


def _wave_held(points: Tensor, found: Tensor) -> Tensor:
    t, x = points.split(1, dim=1)
    return -torch.sin(pi * x) + t * (1 - x**2) * found


def _fading_held(points: Tensor, found: Tensor) -> Tensor:
    t, x = points.split(1, dim=1)
    fading = torch.exp(-FADES * t)
    return fading * x**2 * torch.cos(pi * x) + (1 - fading) * found


def _centred(points: Tensor) -> Tensor:
    t, x = points.split(1, dim=1)
    return torch.cat([2 * t - 1, x], dim=1)


def _periodic(points: Tensor) -> Tensor:
    t, x = points.split(1, dim=1)
    return torch.cat([2 * t - 1, torch.cos(pi * x), torch.sin(pi * x)], dim=1)


def _burgers_lattice() -> tuple[Tensor, Tensor]:
    return _even(0, 101), _even(-1, 257)


@cache
def _burgers_reference() -> Tensor:
    return burgers(torch.cartesian_prod(*_burgers_lattice())).view(101, 257)


@cache
def _allen_cahn_reference() -> Tensor:
    return allen_cahn(101, 256)


EQUATIONS = {
    "helmholtz": Equation(
        title="Helmholtz",
        formula="Δu + u = q, u = 0 on the border",
        axes=("x", "y"),
        low=(-1.0, -1.0),
        residual=helmholtz,
        held=_square_held,
        reference=lambda: helmholtz_solution(torch.cartesian_prod(_even(-1, 101), _even(-1, 101))).view(101, 101),
        lattice=lambda: (_even(-1, 101), _even(-1, 101)),
        encoded=lambda points: points,
        published={"3.2e-3": "McClenny and Braga-Neto, arXiv 2009.04544"},
    ),
    "burgers": Equation(
        title="Burgers",
        formula="u_t + u u_x = 0.01/π u_xx",
        axes=("t", "x"),
        low=(0.0, -1.0),
        residual=burgers_residual,
        held=_wave_held,
        reference=_burgers_reference,
        lattice=_burgers_lattice,
        encoded=_centred,
        published={
            "6.7e-4": "Raissi et al., arXiv 1711.10561",
            "4.8e-4": "McClenny and Braga-Neto, arXiv 2009.04544",
        },
    ),
    "allen_cahn": Equation(
        title="Allen–Cahn",
        formula="u_t = 0.0001 u_xx + 5 (u − u³), periodic",
        axes=("t", "x"),
        low=(0.0, -1.0),
        residual=allen_cahn_residual,
        held=_fading_held,
        reference=_allen_cahn_reference,
        lattice=lambda: (_even(0, 101), -1 + 2 * torch.arange(256, dtype=torch.float64) / 256),
        encoded=_periodic,
        inputs=3,
        grows=True,
        published={
            "2.1e-2": "McClenny and Braga-Neto, arXiv 2009.04544",
            "5.4e-5": "Wang et al., arXiv 2308.08468",
        },
    ),
    "inverse": Equation(
        title="Burgers, coefficients unknown",
        formula="u_t + λ₁ u u_x = λ₂ u_xx",
        axes=("t", "x"),
        low=(0.0, -1.0),
        residual=unknown_burgers,
        held=lambda points, found: found,
        reference=_burgers_reference,
        lattice=_burgers_lattice,
        encoded=_centred,
        unknown=UNKNOWN,
    ),
}


def samples(equation: Equation, seed: int) -> list[tuple[Any, ...]]:
    """What is given beside the equation: nothing, or noisy samples of the solution, as a term of ``fit_residuals``."""
    if not equation.unknown:
        return []
    generator = torch.Generator().manual_seed(seed)
    points = equation.random(SAMPLES, generator)
    values = burgers(points)
    noise = NOISE * values.std() * torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
    return [(misfit, points, (values + noise).unsqueeze(1))]
