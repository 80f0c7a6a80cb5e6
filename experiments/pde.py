"""Solve the Poisson equation with small KANs and MLPs: ``python -m experiments.pde``.

The problem is that of ``experiments.functions.poisson``; the KAN's grids grow finer, and every kind of MLP is tried
briefly before the best of each size are given the KAN's time. Source: Liu et al., "KAN" (arXiv 2404.19756), sec. 3.5
(10,000 points inside, 800 on the border).
"""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from convkan.fitting import Method
from convkan.fitting.gradient_steps import AT_ONCE
from convkan.grid import adapt_grids, refine_grids
from convkan.interpret.plot import AMBER, BLUE, new_figure
from experiments.common.cli import GOES_ON, check_positive, run
from experiments.common.counting import count_parameters
from experiments.common.study import Cell, Study, Work
from experiments.functions.fields import draw_field
from experiments.functions.nets import kan, mlp, mlp_of_size
from experiments.functions.poisson import Problem, errors, minimise, solution

MOST_FOR_LM = 2000  # parameters
PILOT = 0.2  # share of the time that every kind of MLP is given to be chosen by
METHODS: tuple[Method, ...] = ("lm", "lbfgs", "adam")


@dataclass(frozen=True)
class PdeConfig:
    """How to train.

    Attributes:
        width: Width of the KAN's hidden layer.
        grids: Sizes of the grid, one stage each.
        steps: Levenberg–Marquardt steps a stage.
        inside: Points inside.
        border: Points on the border.
        seeds: Runs of each net.
        threads: CPU threads.
        out: Folder for the record and the picture.
        quick: A few seconds' version.
    """

    width: int = 10
    grids: tuple[int, ...] = (5, 10, 20)
    steps: int = 30
    inside: int = 2000
    border: int = 400
    seeds: int = 3
    threads: int = 1
    out: str = "runs/pde"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "width", "steps", "inside", "border", "seeds", "threads")


def solve_kan(config: PdeConfig, problem: Problem, grids: tuple[int, ...], steps: int) -> tuple[nn.Module, list[Any]]:
    """[2, width, 1] on finer and finer grids; rows of errors, one a grid."""
    model = kan([2, config.width, 1], grids[0])
    with torch.no_grad():  # inner functions start well within their grids
        for parameter in model.parameters():
            parameter.mul_(0.5)
    rows, start = [], time.perf_counter()
    for index, size in enumerate(grids):
        if index:
            adapt_grids(model, [problem.inside], grid_eps=1.0)
            refine_grids(model, size)
        minimise(model, problem, steps, method="lm")
        rows.append(
            {
                "grid_size": size,
                "parameters": count_parameters(model),
                "seconds": time.perf_counter() - start,
                "loss": problem.loss(model).item(),
                **errors(model),
            }
        )
    return model, rows


@dataclass(frozen=True)
class Rival:
    """A kind of MLP and how it is trained."""

    group: str
    name: str
    create: Callable[[], nn.Module]
    method: Method

    def __str__(self) -> str:
        return f"{self.group}: {self.name}, {self.method}"


def rivals(parameters: int) -> list[Rival]:
    """MLPs of the KAN's size, of 10⁴ parameters, and the paper's (four layers, width 100), with several methods."""
    found = []
    for activation in ("tanh", "silu"):
        for group, size in (("equal parameters", parameters), ("10⁴ parameters", 10_000)):
            for depth in (2, 3):
                create = partial(mlp_of_size, 2, 1, depth, activation, size)
                for method in METHODS if size <= MOST_FOR_LM else METHODS[1:]:
                    found.append(Rival(group, f"{depth}×{activation}", create, method))
        create = partial(mlp, 2, 1, [100] * 3, activation)
        found += [Rival("4 layers, width 100", activation, create, method) for method in METHODS[1:]]
    return found


def solve_mlp(rival: Rival, problem: Problem, seconds: float, seed: int) -> dict[str, Any]:
    """Train one for about so many seconds; a row of errors."""
    torch.manual_seed(seed)
    model = rival.create()
    steps = 1_000_000
    start = time.perf_counter()
    if rival.method == "adam":  # its schedule is to end when the time does
        minimise(deepcopy(model), problem, AT_ONCE, method="adam")
        steps = max(AT_ONCE, int(seconds / (time.perf_counter() - start) * AT_ONCE))
        start = time.perf_counter()
    taken = minimise(model, problem, steps, method=rival.method, seconds=seconds)
    return {
        "parameters": count_parameters(model),
        "seconds": time.perf_counter() - start,
        "steps": taken,
        "loss": problem.loss(model).item(),
        **errors(model),
    }


def kans(work: Work[PdeConfig]) -> Iterator[Cell]:
    """A KAN a seed, on all grids."""
    for seed in range(work.config.seeds):
        yield Cell(f"KAN, seed {seed}", partial(kan_rows, work, seed), ("kan", seed))


def kan_rows(work: Work[PdeConfig], seed: int) -> list[Any]:
    """A row a grid; what the first seed finds is drawn, too."""
    config = work.config
    torch.manual_seed(seed)
    model, rows = solve_kan(config, Problem.random(config.inside, config.border, seed), config.grids, config.steps)
    if seed == 0:
        work.record["picture"] = picture(model)
    return rows


def pilots(work: Work[PdeConfig]) -> Iterator[Cell]:
    """Every kind of MLP, briefly."""
    for rival in candidates(work):
        yield Cell(f"briefly, {rival}", partial(mlp_row, work, rival, PILOT, 0), ("pilots", str(rival)))


def best_mlps(work: Work[PdeConfig]) -> Iterator[Cell]:
    """The best kind of each group with every seed, for as long as the KAN."""
    for group in by_group(candidates(work)).values():
        best = min(group, key=lambda rival: work.record["pilots"][str(rival)]["loss"])
        for seed in range(work.config.seeds):
            yield Cell(f"{best}, seed {seed}", partial(mlp_row, work, best, 1.0, seed), ("mlp", str(best), seed))


def candidates(work: Work[PdeConfig]) -> list[Rival]:
    """The kinds of MLP that are tried."""
    return rivals(work.record["kan"][0][-1]["parameters"])[: 1 if work.config.quick else None]


def mlp_row(work: Work[PdeConfig], rival: Rival, share: float, seed: int) -> dict[str, Any]:
    """An MLP that is given a share of the KAN's time."""
    spent = [rows[-1]["seconds"] for rows in work.record["kan"]]
    problem = Problem.random(work.config.inside, work.config.border, seed)
    return solve_mlp(rival, problem, share * sum(spent) / len(spent), seed)


def by_group(candidates: list[Rival]) -> dict[str, list[Rival]]:
    """The candidates of each group."""
    groups: dict[str, list[Rival]] = {}
    for rival in candidates:
        groups.setdefault(rival.group, []).append(rival)
    return groups


def picture(model: nn.Module, side: int = 61) -> list[float]:
    """The solution found, on a lattice."""
    places = torch.linspace(-1, 1, side, dtype=torch.float64)
    with torch.no_grad():
        values: list[float] = model(torch.cartesian_prod(places, places))[:, 0].tolist()
    return values


def markdown(record: dict[str, Any]) -> str:
    """Errors, sizes and times; of KANs the median over seeds."""
    lines = [
        "| net | parameters | MSE | L2, relative | H1, relative | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]

    def row(name: str, rows: list[dict[str, Any]]) -> str:
        middle = sorted(rows, key=lambda row: row["mse"])[len(rows) // 2]
        return (
            f"| {name} | {middle['parameters']:,} | {middle['mse']:.1e} | {middle['l2']:.1e} | {middle['h1']:.1e} "
            f"| {middle['seconds']:.0f} |"
        )

    for index, size in enumerate(record["config"]["grids"]):
        lines.append(
            row(f"KAN [2, {record['config']['width']}, 1], G = {size}", [rows[index] for rows in record["kan"]])
        )
    lines += [row(f"MLP, {name}", rows) for name, rows in record["mlp"].items()]
    note = (
        f"Median of {len(record['kan'])} seeds. The MLPs are the best, by training loss, of {len(record['pilots'])} "
        "kinds that were trained for a fifth of the KAN's time; then each was given all of it."
    )
    return "\n".join([*lines, "", note])


def draw(record: dict[str, Any]) -> Figure:
    """The solution found, its error, and error against time for every net."""
    found = torch.tensor(record["picture"], dtype=torch.float64)
    side = round(len(found) ** 0.5)
    places = torch.linspace(-1, 1, side, dtype=torch.float64)
    off = found - solution(torch.cartesian_prod(places, places))
    figure = new_figure((14, 4.2), layout=None, dpi=110)
    axes = figure.subplots(1, 3, gridspec_kw={"width_ratios": [1, 1, 1.2]})
    for axis, values, title, colours in (
        (axes[0], found, "solution found by the KAN", "cividis"),
        (axes[1], off, "its error", "PuOr"),
    ):
        draw_field(axis, values.reshape(side, side), (-1, 1, -1, 1), title, colours)
    for rows in record["kan"]:
        axes[2].plot([r["parameters"] for r in rows], [r["mse"] for r in rows], "o-", color=BLUE, label="KAN")
    for (name, rows), marker in zip(record["mlp"].items(), "s^D", strict=False):
        sizes = [row["parameters"] for row in rows]
        axes[2].plot(sizes, [row["mse"] for row in rows], marker, color=AMBER, label=f"MLP, {name}")
    handles = dict(zip(*reversed(axes[2].get_legend_handles_labels()), strict=True))
    axes[2].legend(handles.values(), handles.keys(), fontsize=8)
    axes[2].set_xscale("log")
    axes[2].set_yscale("log")
    axes[2].set_xlabel("parameters")
    axes[2].set_ylabel("mean square error")
    axes[2].grid(alpha=0.3)
    figure.tight_layout()
    return figure


STUDY = Study(
    name="pde",
    description=__doc__,
    config=PdeConfig,
    quick={"width": 3, "grids": (3, 6), "steps": 10, "inside": 100, "border": 40, "seeds": 1},
    stages=(kans, pilots, best_mlps),
    table=markdown,
    draw=draw,
)


def main() -> None:
    """Solve, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
