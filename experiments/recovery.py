"""The KAN paper's Feynman formulas found in data, with noise and without: ``python -m experiments.recovery``.

From points to a formula by the library alone, as in ``experiments.symbolic``: a small net is trained to be sparse,
pruned, trained on, on finer grids, its edges replaced by the named functions they resemble most, and the constants of
these trained. Nobody tells it a shape: starts are of two shapes, and the best on the validation points is taken. Where
values have noise, a formula counts as found if it comes as close to the values without noise as the noise is large, and
its functions are the right ones: their constants, trained on the same points without noise, make it exact.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from math import isfinite
from typing import Any

import sympy
import torch
from matplotlib.figure import Figure
from torch import nn

from convkan.interpret import formula
from convkan.interpret.plot import AMBER, BLUE, GREY, new_figure
from convkan.interpret.symbolic import recognized
from experiments.common.cli import GOES_ON, UserError, check_positive, run
from experiments.common.study import Cell, Study, Work
from experiments.functions.feynman import FORMULAS, Formula, feynman_data
from experiments.functions.formulas import GRIDS, discover, trained_formula
from experiments.functions.least_squares import rmse
from experiments.functions.tasks import Data

HIDDEN = ((5,), (3, 2))  # widths between the inputs and the output, start by start
MOST = 3  # nodes in the first layer: more are not sparse
LEAST_EDGE = 0.01  # share in the outputs up to which an edge goes
EXACT = 1e-6  # relative RMSE of a formula that is exact
ABOVE = 1.1  # times the noise: validation errors up to that are enough
LONGEST = 120  # operations up to which sympy is asked what a formula is: of longer ones it may never tell
DIGITS = 4  # of numbers in a formula that is not exact


@dataclass(frozen=True)
class RecoveryConfig:
    """What to look for, and how long.

    Attributes:
        functions: Names of formulas, or "all": the paper's dimensionless ones.
        noises: Noise in the values, relative to their standard deviation; a run for each.
        starts: Random starts at most; further ones only while validation points are not met.
        points: Points to train on; a part of them decides among starts.
        steps: Steps after each change of the net.
        seeds: Runs of each formula and noise.
        threads: CPU threads.
        out: Folder for the record, the table and the picture.
        quick: A version of seconds: one formula, without noise.
    """

    functions: list[str] = field(default_factory=lambda: ["all"])
    noises: list[float] = field(default_factory=lambda: [0.0, 0.01, 0.05])
    starts: int = 2
    points: int = 1000
    steps: int = 40
    seeds: int = 1
    threads: int = 1
    out: str = "runs/recovery"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "starts", "points", "steps", "seeds", "threads")
        if not all(0 <= noise < 1 for noise in self.noises):
            raise ValueError(f"noises must lie in [0, 1), got {self.noises}")


def complete(config: RecoveryConfig) -> RecoveryConfig:
    """The configuration with every formula by its name.

    Raises:
        UserError: One does not exist.
    """
    everything = [name for name, one in FORMULAS.items() if one.paper]
    names = everything if config.functions == ["all"] else config.functions
    unknown = [name for name in names if name not in FORMULAS]
    if unknown:
        raise UserError(f"functions must be among {', '.join(FORMULAS)}, or all; got {', '.join(unknown)}")
    return replace(config, functions=names)


def cells(work: Work[RecoveryConfig]) -> Iterator[Cell]:
    """One for each formula, noise and seed; without noise first."""
    config = work.config
    for noise, name, seed in product(config.noises, config.functions, range(config.seeds)):
        title = f"{name}, noise {noise:g}, seed {seed}"
        yield Cell(title, partial(find, config, name, noise, seed), ("noises", f"{noise:g}", name, seed))


def find(config: RecoveryConfig, name: str, noise: float, seed: int) -> dict[str, Any]:
    """Starts until one meets the validation points, and what the best of them has found."""
    data, unit, mean = feynman_data(name, config.points, seed, noise)
    tried: list[tuple[nn.Module, dict[str, Any]]] = []
    failures: list[str] = []
    for start in range(config.starts):
        widths = (len(FORMULAS[name].variables), *HIDDEN[start % len(HIDDEN)], 1)
        try:
            model, row = discover(
                data, widths, 100 * seed + start, config.steps, most=MOST, threshold=0.0, least_edge=LEAST_EDGE
            )
        except (ValueError, RuntimeError) as error:  # a net that diverged
            failures.append(str(error))
            continue
        if not isfinite(row["val_rmse"]):
            failures.append(f"not sparse: {row['nodes']} nodes" if row["nodes"] > MOST else "not finite")
            continue
        tried.append((model, {"widths": list(widths), **row}))
        if row["val_rmse"] <= max(ABOVE * noise, EXACT / 10):
            break
    told = {"starts": len(tried) + len(failures), "failures": failures, "found": False}
    if not tried:
        return told
    model, best = min(tried, key=lambda pair: pair[1]["val_rmse"])
    return told | judged(model, best, FORMULAS[name], data, unit, mean) | of_form(model, config, name, noise, seed)


def judged(
    model: nn.Module, row: dict[str, Any], known: Formula, data: Data, unit: float, mean: float
) -> dict[str, Any]:
    """What a net of named functions has found, in the formula's own variables and units."""
    spread = float(data.test[1].std())
    relative = row["test_rmse"] / spread
    found = written(model, known, data, unit, mean)
    exact = relative <= EXACT and sympy.count_ops(found) <= LONGEST
    found = recognized(found) if exact else sympy.N(found, DIGITS)
    return {
        "widths": row["widths"],
        "functions": [edge["name"] for edge in row["edges"]],
        "relative_grid": row[f"test_rmse_grid_{GRIDS[-1]}"] / spread,
        "relative": relative,
        "r2": 1 - relative**2,
        "operations": int(sympy.count_ops(found)),
        "formula": str(found),
        "equal": exact and is_same(found, known.expression),
    }


def of_form(model: nn.Module, config: RecoveryConfig, name: str, noise: float, seed: int) -> dict[str, Any]:
    """Whether the formula is found, and its error once its constants are trained on values without noise."""
    clean, _, _ = feynman_data(name, config.points, seed)
    spread = float(clean.test[1].std())
    relative = rmse(model, clean.test) / spread
    if noise:
        trained_formula(model, clean, config.steps)
    exact = rmse(model, clean.test) / spread
    return {"relative_trained": exact, "found": relative <= max(noise, EXACT) and exact <= EXACT}


def written(model: nn.Module, known: Formula, data: Data, unit: float, mean: float) -> sympy.Expr:
    """The net's formula in the variables and units of a known one."""
    variables = [sympy.Symbol(name, real=True) for name in known.variables]
    scaled = sympy.symbols(f"scaled_:{len(variables)}", real=True)
    found = formula(model, scaled, output=0, data=torch.cat([data.train[0], data.test[0]]))
    places = {
        symbol: (2 * variable - low - high) / (high - low)
        for symbol, variable, (low, high) in zip(scaled, variables, known.ranges, strict=True)
    }
    return mean + unit * found.xreplace(places)


def is_same(found: sympy.Expr, known: sympy.Expr) -> bool:
    """Whether sympy sees that two formulas are one."""
    difference = sympy.expand(found - known)
    return bool(difference == 0 or sympy.simplify(difference) == 0)


def markdown(record: dict[str, Any]) -> str:
    """How many are found at each noise, and what was made of each formula."""
    lines = [
        summary(record),
        "",
        "| formula | | noise | found | error, splines | formula | R² | operations | functions |",
    ]
    lines.append("| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | --- |")
    for noise, rows in record["noises"].items():
        for name, seeds in rows.items():
            for row in seeds:
                parts = [name, f"`{FORMULAS[name].text}`", f"{float(noise):.0%}", "yes" if row["found"] else "no"]
                if "formula" in row:
                    errors = [f"{row[what]:.1e}" for what in ("relative_grid", "relative")]
                    parts += [*errors, f"{row['r2']:.6f}", str(row["operations"]), ", ".join(row["functions"])]
                else:
                    parts += ["", "", "", "", "; ".join(dict.fromkeys(row["failures"]))]
                lines.append(f"| {' | '.join(parts)} |")
    return "\n".join(lines)


def summary(record: dict[str, Any]) -> str:
    """A row for each noise."""
    lines = [
        "| noise | found | sympy sees that | median R² | median operations | no formula |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for noise, formulas in record["noises"].items():
        rows = [row for seeds in formulas.values() for row in seeds]
        written_down = [row for row in rows if "formula" in row]
        medians = [
            statistics.median([row[what] for row in written_down]) if written_down else 0
            for what in ("r2", "operations")
        ]
        lines.append(
            f"| {float(noise):.0%} | {sum(row['found'] for row in rows)} of {len(rows)} "
            f"| {sum(row.get('equal', False) for row in rows)} | {medians[0]:.6f} | {medians[1]:g} "
            f"| {len(rows) - len(written_down)} |"
        )
    names = [name for name, seeds in record["noises"].get("0", {}).items() if any(row["found"] for row in seeds)]
    config = record["config"]
    nets = " or ".join(str(["n", *hidden, 1]).replace("'", "") for hidden in dict.fromkeys(HIDDEN))
    lines += [
        "",
        f"Found without noise: {', '.join(names) or 'none'}. {config['points']} points, at most {config['starts']} "
        f"starts of nets {nets}; found is an RMSE of at most {EXACT:g} of the standard deviation, of the noise where "
        f"there is some, with functions that become exact to {EXACT:g} when trained without it.",
    ]
    return "\n".join(lines)


def draw(record: dict[str, Any]) -> Figure:
    """The error of each formula found, at each noise, beside that of the splines that it was read from."""
    figure = new_figure((9, 3.2 * len(record["noises"])))
    axes = figure.subplots(len(record["noises"]), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (noise, formulas) in zip(axes, record["noises"].items(), strict=True):
        names = list(formulas)
        for what, color, label in (("relative_grid", AMBER, "splines"), ("relative", BLUE, "named functions")):
            dots = [(place, row[what]) for place, name in enumerate(names) for row in formulas[name] if what in row]
            axis.semilogy(*zip(*dots, strict=True) if dots else ([], []), "o", color=color, label=label)
        if float(noise):
            axis.axhline(float(noise), color=GREY, linewidth=1, label="noise")
        rows = [row for seeds in formulas.values() for row in seeds]
        axis.set_title(
            f"noise {float(noise):.0%}: {sum(row['found'] for row in rows)} of {len(rows)} found", fontsize=9
        )
        axis.set_ylabel("relative RMSE")
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


STUDY = Study(
    name="recovery",
    description=__doc__,
    config=RecoveryConfig,
    quick={"functions": ["II.38.3*"], "noises": [0.0], "starts": 1, "points": 60, "steps": 4},
    stages=(cells,),
    table=markdown,
    draw=draw,
    complete=complete,
)


def main() -> None:
    """Look for formulas, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
