"""The Feynman formulas, to be fitted by ``experiments.feynman`` and found by ``experiments.recovery``.

120 formulas of physics, collected by Udrescu & Tegmark, "AI Feynman" (arXiv 1905.11481), with ranges as pykan samples
them: of most variables [−1, 1] or [0, 1], of what stands in a denominator [0.5, 2]. And 27 of them in the dimensionless
form of the KAN paper (Liu et al., arXiv 2404.19756, table 2), named with a star, with the shape that its authors made
by hand and the errors they report. The paper states a domain of one alone, I.16.6; the others' are ours, taken over
from the form with dimensions. ``feynman.json`` has a line for each.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from experiments.functions.tasks import TEST_POINTS, VAL_SHARE, Data


@dataclass(frozen=True)
class Paper:
    """What the KAN paper says of a formula.

    Attributes:
        widths: Sizes of the layers of the KAN made by hand.
        kan: Lowest test RMSE of a KAN whose shape was found by pruning.
        mlp: Lowest test RMSE of an MLP.
    """

    widths: tuple[int, ...]
    kan: float
    mlp: float


@dataclass(frozen=True)
class Formula:
    """A formula and where it is sampled.

    Attributes:
        name: Its number in the Feynman Lectures, or the book that it is from; with a star if dimensionless.
        variables: Their names, in the order of the inputs.
        text: The formula as sympy reads it.
        ranges: Low and high end of each variable.
        paper: Of the dimensionless ones, what the KAN paper says.
    """

    name: str
    variables: tuple[str, ...]
    text: str
    ranges: tuple[tuple[float, float], ...]
    paper: Paper | None = None

    @cached_property
    def expression(self) -> sympy.Expr:
        """The formula, in real symbols of its variables' names."""
        return sympy.sympify(self.text, locals={name: sympy.Symbol(name, real=True) for name in self.variables})

    def values(self, points: np.ndarray) -> np.ndarray:
        """Its values (n,) at points (n, variables) within the ranges; NaN or infinite where it has none."""
        symbols = [sympy.Symbol(name, real=True) for name in self.variables]
        with np.errstate(all="ignore"):
            found = sympy.lambdify(symbols, self.expression, "numpy")(*points.T)
        return np.broadcast_to(np.asarray(found, dtype=float), len(points)).copy()


def _read(entry: dict[str, Any]) -> Formula:
    paper = entry.get("paper")
    return Formula(
        entry["name"],
        tuple(entry["variables"]),
        entry["formula"],
        tuple((low, high) for low, high in entry["ranges"]),
        paper and Paper(tuple(paper["widths"]), paper["kan"], paper["mlp"]),
    )


FORMULAS = {
    entry["name"]: _read(entry)
    for entry in json.loads(Path(__file__).with_name("feynman.json").read_text(encoding="utf-8"))
}


def sample(formula: Formula, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random points, scaled from the formula's ranges to [−1, 1], and values (count, 1)."""
    low, high = torch.tensor(formula.ranges, dtype=torch.float64).T
    x = torch.rand(count, len(formula.ranges), generator=generator, dtype=torch.float64)
    return 2 * x - 1, torch.from_numpy(formula.values((low + (high - low) * x).numpy())).unsqueeze(1)


def feynman_data(name: str, points: int, seed: int, noise: float = 0.0) -> tuple[Data, float, float]:
    """Training, validation and test points of a seed, and what their values are to be multiplied by and then moved by.

    Inputs are scaled to [−1, 1], and values to mean 0 and standard deviation 1 of the training points.

    Args:
        name: Of a formula.
        points: How many to train and choose by.
        seed: Of the points.
        noise: Of the values to train and choose by, relative to their standard deviation. Test values have none.
    """
    formula, generator = FORMULAS[name], torch.Generator().manual_seed(seed)
    x, y = sample(formula, points, generator)
    held_out = max(1, round(VAL_SHARE * points))
    test_x, test_y = sample(formula, TEST_POINTS, generator)
    mean, unit = y[held_out:].mean(), y[held_out:].std()
    y, test_y = (y - mean) / unit, (test_y - mean) / unit
    y = y + noise * torch.randn(y.shape, generator=generator, dtype=y.dtype)
    return Data((x[held_out:], y[held_out:]), (x[:held_out], y[:held_out]), (test_x, test_y)), float(unit), float(mean)
