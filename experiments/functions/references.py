"""Solutions of two equations to many digits, to judge nets by.

``burgers`` evaluates the exact solution as integrals; ``allen_cahn`` steps a Fourier series through time.
"""

from math import pi

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

VISCOSITY = 0.01 / pi  # of Burgers' equation
DIFFUSION, REACTION = 1e-4, 5.0  # of the Allen–Cahn equation
REACH = 12.0  # standard widths of the heat kernel, beyond which the integrands are below rounding
NODES = 241  # of the trapezoidal rule, which converges exponentially for them
POINTS_AT_A_TIME = 4096
CONTOUR = 32  # points of the circle on which ETDRK4's coefficients are averaged


def burgers(points: Float[Tensor, "points 2"]) -> Float[Tensor, " points"]:
    """The solution of u_t + u·u_x = ν·u_xx with u(0, x) = −sin πx, for rows (t, x).

    By the transformation of Cole and Hopf it is −∫ sin(πy)·w dη / ∫ w dη with y = x − η and
    w = exp(−cos(πy)/(2πν) − η²/(4νt)). Source: Basdevant et al., "Spectral and finite difference solutions of the
    Burgers equation" (1986), eq. 2.3.
    """
    return torch.cat([_burgers(part) for part in points.split(POINTS_AT_A_TIME)])


def _burgers(points: Tensor) -> Tensor:
    t, x = points.unsqueeze(2).unbind(1)
    widths = torch.linspace(-REACH, REACH, NODES, dtype=points.dtype)
    y = x - (4 * VISCOSITY * t).sqrt() * widths
    weights = torch.softmax(-torch.cos(pi * y) / (2 * pi * VISCOSITY) - widths**2, dim=1)
    return -(torch.sin(pi * y) * weights).sum(1)


def allen_cahn(times: int, places: int, substeps: int = 10, modes: int = 1024) -> Float[Tensor, "times places"]:
    """The solution of u_t = 0.0001·u_xx + 5(u − u³) with u(0, x) = x²·cos πx, periodic in x of [−1, 1).

    To 3e-6 with the defaults, all of it in the first moments: where ends meet, what it begins with has a kink.

    Args:
        times: Evenly spaced times from 0 to 1, both included.
        places: Evenly spaced places from −1, without 1; a divisor of ``modes``.
        substeps: Steps from one time to the next.
        modes: Points of the Fourier series.
    """
    x = -1 + 2 * np.arange(modes) / modes
    found = etdrk4(x**2 * np.cos(pi * x), times - 1, substeps)
    return torch.from_numpy(found[:, :: modes // places].copy())


def etdrk4(start: np.ndarray, intervals: int, substeps: int) -> Float[np.ndarray, "times modes"]:
    """The Allen–Cahn equation from periodic initial values on [−1, 1) to time 1, at the ends of all intervals.

    Exponential time differencing of fourth order in Fourier space: diffusion is exact, the reaction by four stages.
    Source: Kassam and Trefethen, "Fourth-order time-stepping for stiff PDEs" (2005), eq. 2.5 and 3.3.
    """
    modes, step = len(start), 1 / (intervals * substeps)
    rates = -DIFFUSION * (pi * np.arange(modes // 2 + 1)) ** 2 + REACTION
    circle = np.exp(1j * pi * (np.arange(CONTOUR) + 0.5) / CONTOUR)
    z = step * rates[:, None] + circle  # their means are limits that cancel where rates are small

    def mean(values: np.ndarray) -> np.ndarray:
        return step * values.mean(1).real

    half = mean((np.exp(z / 2) - 1) / z)
    first = mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3)
    middle = mean((2 + z + np.exp(z) * (z - 2)) / z**3)
    last = mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3)
    whole_decay, half_decay = np.exp(step * rates), np.exp(step * rates / 2)

    def reaction(series: np.ndarray) -> np.ndarray:
        return np.fft.rfft(-REACTION * np.fft.irfft(series, modes) ** 3)

    series, found = np.fft.rfft(start), [start]
    for _ in range(intervals):
        for _ in range(substeps):
            now = reaction(series)
            a = half_decay * series + half * now
            at_a = reaction(a)
            at_b = reaction(half_decay * series + half * at_a)
            c = half_decay * a + half * (2 * at_b - now)
            series = whole_decay * series + first * now + 2 * middle * (at_a + at_b) + last * reaction(c)
        found.append(np.fft.irfft(series, modes))
    return np.stack(found)
