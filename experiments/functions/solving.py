"""How nets are made to solve the equations of ``experiments.functions.equations``, KANs and MLPs alike.

Training goes in rounds. In each, points are drawn, half of them evenly and half where residuals are large, and the mean
square residual there is minimised by ``convkan.fitting.fit_residuals``. Source of the drawing: Wu et al., "A
comprehensive study of non-adaptive and residual-based adaptive sampling" (arXiv 2207.10289), eq. 2 with k = c = 1.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.fitting import Method, fit_residuals
from convkan.grid import adapt_grids, refine_grids
from experiments.functions.equations import Solution, samples

CANDIDATES = 8  # for each point that is drawn where residuals are large
GROWN = 0.5  # share of the training after which points come from all of time
JUDGED = 5000  # evenly drawn points on which nets of any training are compared
ADAM_RATE = 3e-3
SMOOTHNESS = 1e-9  # of splines, which are free to be anything between points
FIRST = 5  # steps of the first round


def residuals(model: Solution, points: Float[Tensor, "points 2"]) -> Float[Tensor, " points"]:
    """The equation's residuals of a net."""

    def net(point: Tensor) -> Tensor:
        found: Tensor = model(point.unsqueeze(0))
        return found[0]

    with torch.no_grad():
        found: Tensor = torch.vmap(lambda point: model.equation.residual(net, point), chunk_size=2000)(points)
    return found


def loss(model: Solution, seed: int) -> float:
    """The mean square residual on evenly drawn points, and that of the samples where there are some."""
    points = model.equation.random(JUDGED, torch.Generator().manual_seed(JUDGED))
    found = float(residuals(model, points).square().mean())
    with torch.no_grad():
        for _, places, values in samples(model.equation, seed):
            found += float((model(places)[:, :1] - values).square().mean())
    return found


def drawn(model: Solution, count: int, share: float, generator: torch.Generator, *, evenly: bool) -> Tensor:
    """Points evenly, or half of them where residuals are large; of the first coordinate from a share of the box."""
    even = model.equation.random(count if evenly else count - count // 2, generator, share)
    if evenly:
        return even
    candidates = model.equation.random(CANDIDATES * count, generator, share)
    sizes = residuals(model, candidates).abs()
    chosen = torch.multinomial(sizes / sizes.mean() + 1, count // 2, generator=generator)
    return torch.cat([even, candidates[chosen]])


@dataclass(frozen=True)
class Training:
    """How long, and on how many points.

    Attributes:
        seconds: Processor time.
        rounds: How often points are drawn, about; each round has its share of the time.
        points: Points of a round.
    """

    seconds: float
    rounds: int
    points: int


def train(model: Solution, training: Training, seed: int, *, method: Method = "lm", grids: Sequence[int] = ()) -> int:
    """Train a net; returns the steps taken.

    Args:
        model: The net, whose layers, if they have grids, have the first of ``grids``.
        training: How long.
        seed: Of points and samples.
        method: How.
        grids: Sizes of grids, for as much time each.
    """
    start, taken, grid = time.process_time(), 0, 0
    generator = torch.Generator().manual_seed(seed)
    known = samples(model.equation, seed)
    for turn in count():
        spent = time.process_time() - start
        done = spent / training.seconds
        if turn and done >= 1:
            break
        share = min(1.0, (done + 1 / training.rounds) / GROWN) if model.equation.grows else 1.0
        points = drawn(model, training.points, share, generator, evenly=not taken)
        if grids:
            adapt_grids(model, [points], grid_eps=1.0)
            if (wanted := int(done * len(grids))) > grid:
                grid = wanted
                refine_grids(model, grids[grid])
        # After a few steps it is known how long they take.
        steps = max(1, round(training.seconds / training.rounds / spent * taken)) if taken else FIRST
        taken += minimise(model, [(model.equation.residual, points), *known], method, steps)
    return taken


def minimise(model: Solution, terms: list[tuple[Any, ...]], method: Method, steps: int) -> int:
    """One round; returns the steps taken."""
    history = fit_residuals(
        model,
        terms,
        method=method,
        steps=steps,
        adapt=False,
        smoothness=SMOOTHNESS,
        patience=None,
        learning_rate=ADAM_RATE if method == "adam" else None,
        progress=False,
    )
    return history.steps


@torch.no_grad()
def on_lattice(model: Solution) -> Tensor:
    """The solution found, on the equation's lattice."""
    rows, columns = (len(places) for places in model.equation.lattice())
    found: Tensor = model(model.equation.points())[:, 0]
    return found.view(rows, columns)


def relative_error(found: Tensor, reference: Tensor) -> float:
    """|found − reference| / |reference|, in the L2 norm."""
    return float((found - reference).norm() / reference.norm())
