"""The 15 special functions of the KAN paper, of two variables, on the unit square and on wide domains of our own.

The paper (Liu et al., "KAN", arXiv 2404.19756, table 2) does not say on which domains it fits them; KANbeFair takes
[0, 1]². So are they here, but for the Bessel functions that are infinite at 0, which begin at 0.1. Wide domains hold
several periods, or reach up to where a function grows beyond all bounds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Any, Literal

import numpy as np
import scipy.special
import torch
from torch import Tensor

from experiments.functions.tasks import TEST_POINTS, VAL_SHARE, Data

Interval = tuple[float, float]
Extent = Literal["unit", "wide"]

UNIT, POSITIVE = (0.0, 1.0), (0.1, 1.0)
# The degree of the Legendre functions and the order of the Bessel functions, first arguments.
DEGREES, ORDERS = (0.0, 4.0), (0.0, 3.0)
SPHERE = (0.0, 2 * pi), (0.0, pi)


@dataclass(frozen=True)
class Special:
    """A function of scipy's.

    Attributes:
        value: Of two arrays.
        kan: Test RMSE of the paper's best KAN.
        mlp: Of its best MLP.
        wide: The wide domain of both arguments.
        second: The second argument's part of the unit square; the first's is [0, 1].
        kanbefair: Test RMSE of the best KAN of KANbeFair (Yu, Yu and Wang, arXiv 2407.16674) on [0, 1]²; those of its
            Bessel functions are not of these functions, and left out.
    """

    value: Callable[[Any, Any], Any]
    kan: float
    mlp: float
    wide: tuple[Interval, Interval]
    second: Interval = UNIT
    kanbefair: float | None = None

    def domain(self, extent: Extent) -> tuple[Interval, Interval]:
        """Of both arguments."""
        return self.wide if extent == "wide" else (UNIT, self.second)


def _legendre(order: int) -> Callable[[Any, Any], Any]:
    return lambda degree, x: scipy.special.lpmv(order, degree, x)


def _harmonic(order: int, degree: int) -> Callable[[Any, Any], Any]:
    """Its real part, of the azimuth and the polar angle."""
    return lambda azimuth, polar: np.real(scipy.special.sph_harm_y(degree, order, polar, azimuth))


SPECIAL = {
    "ellipj": Special(lambda u, m: scipy.special.ellipj(u, m)[0], 1.33e-4, 6.48e-4, ((0.0, 10.0), (0.0, 0.99))),
    "ellipkinc": Special(scipy.special.ellipkinc, 1.24e-4, 5.52e-4, ((0.0, 6.0), (0.0, 0.99)), kanbefair=7.8e-5),
    "ellipeinc": Special(scipy.special.ellipeinc, 8.26e-5, 3.04e-4, ((0.0, 6.0), (0.0, 0.99)), kanbefair=5.9e-5),
    "jv": Special(scipy.special.jv, 1.64e-3, 5.52e-3, (ORDERS, (0.0, 10.0))),
    "yv": Special(scipy.special.yv, 1.49e-5, 3.45e-4, (ORDERS, (1.0, 10.0)), POSITIVE),
    "kv": Special(scipy.special.kv, 2.52e-5, 1.67e-4, (ORDERS, (1.0, 10.0)), POSITIVE),
    "iv": Special(scipy.special.iv, 9.28e-3, 1.07e-2, (ORDERS, (0.0, 5.0))),
    "lpmv0": Special(_legendre(0), 5.25e-5, 1.74e-2, (DEGREES, (-0.99, 0.99)), kanbefair=1.7e-4),
    "lpmv1": Special(_legendre(1), 6.90e-4, 1.50e-3, (DEGREES, (-0.9, 0.9)), kanbefair=4.8e-4),
    "lpmv2": Special(_legendre(2), 2.26e-4, 9.43e-4, (DEGREES, (-0.9, 0.9))),
    "sph_harm01": Special(_harmonic(0, 1), 2.21e-7, 1.25e-6, SPHERE, kanbefair=1.7e-6),
    "sph_harm11": Special(_harmonic(1, 1), 1.22e-4, 6.70e-4, SPHERE),
    "sph_harm02": Special(_harmonic(0, 2), 1.95e-7, 2.85e-6, SPHERE, kanbefair=3.1e-6),
    "sph_harm12": Special(_harmonic(1, 2), 1.50e-5, 1.84e-3, SPHERE),
    "sph_harm22": Special(_harmonic(2, 2), 9.45e-5, 6.21e-4, SPHERE),
}


def special_data(name: str, points: int, seed: int, extent: Extent = "unit") -> Data:
    """Training, validation and test points of a seed; inputs scaled to [−1, 1]."""
    task, generator = SPECIAL[name], torch.Generator().manual_seed(seed)
    lows, highs = np.array(task.domain(extent)).T

    def sample(count: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        value = np.asarray(task.value(*(lows + (highs - lows) * x.numpy()).T))
        return 2 * x - 1, torch.from_numpy(value).unsqueeze(1)

    x, y = sample(points)
    held_out = max(1, round(VAL_SHARE * points))
    return Data((x[held_out:], y[held_out:]), (x[:held_out], y[:held_out]), sample(TEST_POINTS))
