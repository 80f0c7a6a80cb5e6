"""Solve Helmholtz', Burgers' and the Allen–Cahn equation, and find coefficients: ``python -m experiments.equations``.

Small KANs and MLPs: every kind is tried briefly, and the best of each side trained for as long as that of the other.
All are trained alike, by ``experiments.functions.solving``: conditions hold by construction, points follow residuals,
and for Allen–Cahn time grows. Kinds are chosen by residuals; the solution is looked at once, when nets are done. For
equations and sources see ``experiments.functions.equations``, for the Poisson equation ``experiments.pde``.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure

from convkan.interpret.plot import AMBER, BLUE, GREY, new_figure
from experiments.common.cli import GOES_ON, UserError, check_positive, run
from experiments.common.counting import count_parameters
from experiments.common.study import Cell, Study, Work
from experiments.functions.equations import EQUATIONS, NOISE, SAMPLES, Equation, Solution
from experiments.functions.fields import draw_field, packed_field, unpacked_field
from experiments.functions.kinds import Kind, kan_kinds, mlp_kinds
from experiments.functions.solving import Training, loss, on_lattice, relative_error, train

PILOT = 0.2  # share of the time that every kind is given to be chosen by
PICTURE = (4, 2)  # every fourth row and second column of the lattice is drawn
SIDES = ("KAN", "MLP")


@dataclass(frozen=True)
class EquationsConfig:
    """What to solve, and how long.

    Attributes:
        problems: Names of equations separated by commas, or "all".
        seconds: Processor time of each net that is trained in full.
        rounds: How often points are drawn.
        points: Points a round.
        seeds: Runs of the best kind of each side.
        threads: CPU threads.
        out: Folder for the record, the table and the picture.
        quick: A few seconds' version.
    """

    problems: list[str] | str = "all"
    seconds: float = 25.0
    rounds: int = 8
    points: int = 1000
    seeds: int = 3
    threads: int = 1
    out: str = "runs/equations"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "rounds", "points", "seeds", "threads")
        if not self.seconds > 0:
            raise ValueError(f"seconds must be positive, got {self.seconds}")


def complete(config: EquationsConfig) -> EquationsConfig:
    """The configuration with every equation by its name.

    Raises:
        UserError: One does not exist.
    """
    names = config.problems.split(",") if isinstance(config.problems, str) else config.problems
    names = list(EQUATIONS) if names == ["all"] else names
    unknown = [name for name in names if name not in EQUATIONS]
    if unknown:
        raise UserError(f"problems must be among {', '.join(EQUATIONS)}, or all; got {', '.join(unknown)}")
    return replace(config, problems=names)


def kinds(config: EquationsConfig, name: str) -> list[Kind]:
    """The kinds of net that are tried."""
    inputs = EQUATIONS[name].inputs
    sides = (kan_kinds(inputs), mlp_kinds(inputs))
    return [kind for side in sides for kind in side[: 1 if config.quick else None]]


def pilots(work: Work[EquationsConfig]) -> Iterator[Cell]:
    """Every kind, briefly."""
    for name in work.config.problems:
        for kind in kinds(work.config, name):
            run_kind = partial(pilot_row, work.config, name, kind)
            yield Cell(f"{name}, briefly, {kind}", run_kind, ("pilots", name, kind.side, str(kind)))


def best(work: Work[EquationsConfig]) -> Iterator[Cell]:
    """The best kind of each side, with every seed."""
    for name, side in product(work.config.problems, SIDES):
        tried = work.record["pilots"][name][side]
        found = [kind for kind in kinds(work.config, name) if kind.side == side]
        kind = min(found, key=lambda kind: tried[str(kind)]["loss"])
        for seed in range(work.config.seeds):
            run_kind = partial(row, work, name, kind, seed)
            yield Cell(f"{name}, {kind}, seed {seed}", run_kind, ("nets", name, side, seed))


def trained(
    config: EquationsConfig, name: str, kind: Kind, seconds: float, seed: int
) -> tuple[Solution, dict[str, Any]]:
    """A net that was trained, and what it came to, but for the error."""
    torch.manual_seed(seed)
    model, start = Solution(EQUATIONS[name], kind.create()), time.process_time()
    training = Training(seconds, config.rounds, config.points)
    steps = train(model, training, seed, method=kind.method, grids=kind.grids)
    spent = time.process_time() - start
    parameters = count_parameters(model)
    return model, {"parameters": parameters, "seconds": spent, "steps": steps, "loss": loss(model, seed)}


def pilot_row(config: EquationsConfig, name: str, kind: Kind) -> dict[str, Any]:
    """What a kind comes to in a short time; the solution is not looked at."""
    return trained(config, name, kind, PILOT * config.seconds, 0)[1]


def row(work: Work[EquationsConfig], name: str, kind: Kind, seed: int) -> dict[str, Any]:
    """What the best kind comes to, and its errors, of which those of the first seed are drawn, too."""
    model, found = trained(work.config, name, kind, work.config.seconds, seed)
    lattice, reference = on_lattice(model), EQUATIONS[name].reference()
    if seed == 0:
        off = (lattice - reference)[:: PICTURE[0], :: PICTURE[1]]
        work.record.setdefault("pictures", {}).setdefault(name, {})[kind.side] = packed_field(off)
    errors = {"l2": relative_error(lattice, reference), "coefficients": model.coefficient_errors()}
    return {"net": kind.name, "method": kind.method} | found | errors


def markdown(record: dict[str, Any]) -> str:
    """Errors, sizes and times, the median over seeds and the range; and what others report."""
    lines = [
        "| equation | net | parameters | L2 error, relative | coefficients' errors | loss | seconds |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    names = record["config"]["problems"]
    for name in names:
        for side in SIDES:
            rows = record["nets"][name][side]
            errors = sorted(row["l2"] for row in rows)
            found = [
                f"{symbol} {median(row['coefficients'][symbol] for row in rows):.1e}"
                for symbol in EQUATIONS[name].unknown
            ]
            net = f"{side} {rows[0]['net']}, {rows[0]['method']}"
            lines.append(
                f"| {EQUATIONS[name].title} | {net} | {rows[0]['parameters']:,} "
                f"| {median(errors):.1e} ({errors[0]:.1e} to {errors[-1]:.1e}) | {', '.join(found)} "
                f"| {median(row['loss'] for row in rows):.1e} | {median(row['seconds'] for row in rows):.0f} |"
            )
    tried = " and ".join(f"{len(record['pilots'][names[0]][side])} {side}s" for side in SIDES)
    lines += [
        "",
        f"Median and range of {record['config']['seeds']} seeds; the loss is the mean square residual. Both nets are "
        f"the best, by that, of several kinds ({tried}), each tried for {PILOT:.0%} of the time.",
    ]
    if "inverse" in names:
        lines[-1] += (
            f" Coefficients are sought from {SAMPLES:,} samples with {NOISE:.0%} of noise, and from nothing else."
        )
    published = [
        f"| {EQUATIONS[name].title} | {error} | {source} |"
        for name in names
        for error, source in EQUATIONS[name].published.items()
    ]
    if published:
        lines += ["", "Published, of nets, conditions and times of their own:", ""]
        lines += ["| equation | L2 error, relative | source |", "| --- | ---: | --- |", *published]
    return "\n".join(lines)


def draw(record: dict[str, Any]) -> Figure:
    """For each equation the solution, what both nets are off, and the errors of all runs."""
    names = record["config"]["problems"]
    figure = new_figure((15, 3.3 * len(names)), dpi=100)
    grid = figure.subplots(len(names), 4, squeeze=False, width_ratios=[1, 1, 1, 0.7])
    for axes, name in zip(grid, names, strict=True):
        equation = EQUATIONS[name]
        extent = (equation.low[0], 1.0, equation.low[1], 1.0)
        draw_field(axes[0], equation.reference(), extent, equation.title, "cividis", equation.axes)
        for axis, side in zip(axes[1:], SIDES, strict=False):
            off = unpacked_field(record["pictures"][name][side])
            draw_field(axis, off, extent, f"error of the {side}", "PuOr", equation.axes)
        draw_errors(axes[3], equation, record["nets"][name])
    return figure


def draw_errors(axis: Any, equation: Equation, nets: dict[str, list[dict[str, Any]]]) -> None:
    """The relative errors of all runs, of the solution and of unknown coefficients, beside published ones."""
    titles = ["u", *equation.unknown]
    for side, colour, shift in zip(SIDES, (BLUE, AMBER), (-0.1, 0.1), strict=True):
        rows = nets[side]
        found = [[row["l2"] for row in rows]]
        found += [[row["coefficients"][symbol] for row in rows] for symbol in equation.unknown]
        for place, errors in enumerate(found):
            label = side if place == 0 else None
            axis.semilogy([place + shift] * len(errors), errors, "o", color=colour, alpha=0.7, label=label)
    for index, error in enumerate(equation.published):
        axis.axhline(float(error), color=GREY, linestyle="--", linewidth=1, label=None if index else "published")
    axis.set_xticks(range(len(titles)), titles)
    axis.set_xlim(-0.5, len(titles) - 0.5)
    axis.set_title("relative errors")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)


STUDY = Study(
    name="equations",
    description=__doc__,
    config=EquationsConfig,
    quick={"seconds": 0.1, "rounds": 2, "points": 40, "seeds": 1},
    stages=(pilots, best),
    table=markdown,
    draw=draw,
    complete=complete,
)


def main() -> None:
    """Solve, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
