"""Fit known functions with small KANs on ever finer grids, beside tuned MLPs: ``python -m experiments.fit``.

The tasks are the toys and special functions of the KAN paper (Liu et al., arXiv 2404.19756, sec. 3.1 and 3.2). A KAN is
trained on a coarse grid, its grid is refined without changing the function, training goes on, and so forth. MLPs of
equal size are tried for a share of the KAN's time, a dozen kinds of them, with the first seed; the kind that is best on
the validation points is then trained with every seed for as long as the KAN.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from convkan.fitting import Method
from convkan.grid import adapt_grids, refine_grids
from convkan.interpret.plot import BLUE, GREY, ORANGE, new_figure
from experiments.common.cli import GOES_ON, UserError, check_positive, run
from experiments.common.counting import count_parameters
from experiments.common.study import Cell, Study, Work
from experiments.functions.least_squares import Outcome, optimize
from experiments.functions.nets import kan
from experiments.functions.rivals import RIVALS, Rival, rank_rivals
from experiments.functions.tasks import TASKS, Data, Task, data_of

STARTS = 3
PILOT = 0.2  # share of the KAN's time that every kind of MLP is given to be chosen by


@dataclass(frozen=True)
class FitConfig:
    """What to fit, and how long.

    Attributes:
        tasks: Names of tasks, or "all".
        grids: Sizes of the grid, one training stage each.
        steps: Steps a stage, of the KAN's optimiser.
        optimizer: Of the KAN: lm (Levenberg–Marquardt), lbfgs or adam.
        points: Points to train on; a part of them decides when to stop.
        seeds: Runs of each task.
        rivals: Train the MLPs too.
        threads: CPU threads.
        out: Folder for the record and the pictures.
        quick: A minute's version: two tasks, one seed, few steps.
    """

    tasks: list[str] = field(default_factory=lambda: ["all"])
    grids: list[int] = field(default_factory=lambda: [3, 10, 20, 50, 100])
    steps: int = 60
    optimizer: Method = "lm"
    points: int = 1000
    seeds: int = 5
    rivals: bool = True
    threads: int = 1
    out: str = "runs/fit"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "steps", "points", "seeds", "threads")


def complete(config: FitConfig) -> FitConfig:
    """The configuration with every task by its name.

    Raises:
        UserError: One does not exist.
    """
    names = list(TASKS) if config.tasks == ["all"] else config.tasks
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise UserError(f"tasks must be among {', '.join(TASKS)}, or all; got {', '.join(unknown)}")
    return replace(config, tasks=names)


def fit_kan(
    task: Task,
    data: Data,
    grids: list[int],
    steps: int,
    seed: int,
    optimizer: Method = "lbfgs",
    advance: Callable[[], None] = lambda: None,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train on one grid after the other; returns the net and a row a grid."""
    rows: list[dict[str, Any]] = []
    model, outcome = started(task, data, grids[0], steps, seed, optimizer)
    elapsed = 0.0
    for index, grid_size in enumerate(grids):
        change = 0.0
        if index:
            change = max(refine_grids(model, grid_size).values())
            outcome = optimize(model, data, steps, optimizer=optimizer)
        elapsed += outcome.seconds
        rows.append(
            {
                "grid_size": grid_size,
                "parameters": count_parameters(model),
                "change_by_refinement": change,
                **{key: value for key, value in asdict(outcome).items() if key != "curve"},
                "seconds": elapsed,
            }
        )
        advance()
    return model, rows


def started(
    task: Task, data: Data, grid_size: int, steps: int, seed: int, optimizer: Method
) -> tuple[nn.Module, Outcome]:
    """A net trained on the coarsest grid: the best, on the validation part, of several random starts."""
    found: list[tuple[nn.Module, Outcome]] = []
    for attempt in range(STARTS):
        torch.manual_seed(1000 * seed + attempt)
        model: nn.Module = kan(task.widths, grid_size)
        adapt_grids(model, [data.train[0]], grid_eps=1.0)  # inner grids start where their inputs are,
        first = optimize(model, data, steps, optimizer=optimizer)
        adapt_grids(model, [data.train[0]], grid_eps=1.0)  # and follow them once they are known
        found.append((model, joined(first, optimize(model, data, steps, optimizer=optimizer))))
    model, outcome = min(found, key=lambda pair: pair[1].val_rmse)
    outcome.seconds = sum(one.seconds for _, one in found)
    return model, outcome


def joined(first: Outcome, second: Outcome) -> Outcome:
    """Two optimisations, one after the other, as one."""
    return Outcome(
        second.val_rmse,
        second.test_rmse,
        second.train_rmse,
        first.seconds + second.seconds,
        first.steps + second.steps,
        first.curve + second.curve,
    )


def cells(work: Work[FitConfig]) -> Iterator[Cell]:
    """One for each task and seed."""
    config = work.config
    kinds = (RIVALS[:1] if config.quick else RIVALS) if config.rivals else []
    for index, (seed, name) in enumerate(product(range(config.seeds), config.tasks)):
        steps = len(TASKS[name].grids(config.grids, config.points))
        steps += config.rivals * (1 + len(kinds) * (seed == 0))
        yield Cell(f"{name}, seed {seed}", partial(fit_task, work, name, seed, kinds), ("runs", index), steps)


def fit_task(work: Work[FitConfig], name: str, seed: int, kinds: list[Rival]) -> dict[str, Any]:
    """A KAN on all grids, and an MLP of its final size for as long: the chosen one, or the best in short trials."""
    config, task = work.config, TASKS[name]
    data = data_of(task, config.points, seed)
    grids = task.grids(config.grids, config.points)
    _, rows = fit_kan(task, data, grids, config.steps, seed, config.optimizer, work.advance)
    result: dict[str, Any] = {"task": name, "seed": seed, "kan": rows, "mlp": {}}
    if not kinds:
        return result
    size, seconds = rows[-1]["parameters"], rows[-1]["seconds"]
    chosen = chosen_kind(work.record.get("runs", []), name, kinds)
    if chosen is None:
        tried = rank_rivals(data, size, PILOT * seconds, seed, kinds, work.advance)
        result["pilots"] = {str(one.rival): one.outcome.val_rmse for one in tried}
        chosen = tried[0].rival
    [best] = rank_rivals(data, size, seconds, seed, [chosen], work.advance)
    result["mlp"] = {
        "kind": str(best.rival),
        "parameters": best.parameters,
        **{key: value for key, value in asdict(best.outcome).items() if key != "curve"},
    }
    return result


def chosen_kind(runs: list[dict[str, Any]], name: str, kinds: list[Rival]) -> Rival | None:
    """The MLP that was chosen for a task with the first seed, if it was."""
    for earlier in runs:
        if earlier["task"] == name and earlier["seed"] == 0 and earlier["mlp"]:
            return next(kind for kind in kinds if str(kind) == earlier["mlp"]["kind"])
    return None


def exponent(sizes: list[float], errors: list[float]) -> float:
    """The slope of error against size on logarithmic axes, up to where the error is least (of sizes that have one)."""
    last = errors.index(min(errors)) + 1
    if last < 2:
        return 0.0
    return float(np.polyfit(np.log(sizes[:last]), np.log(errors[:last]), 1)[0])


def markdown(record: dict[str, Any]) -> str:
    """Median test RMSE of each task by grid size, with the exponent, and of the MLPs."""
    grids = record["config"]["grids"]
    heads = [*(f"G = {size}" for size in grids), "exponent", "parameters", "MLP", "its kind", "paper, KAN / MLP"]
    lines = [f"| task | {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)} --- |"]
    for name in dict.fromkeys(row["task"] for row in record["runs"]):
        runs = [row for row in record["runs"] if row["task"] == name]
        stages = list(zip(*(run["kan"] for run in runs), strict=True))
        errors = [statistics.median(row["test_rmse"] for row in stage) for stage in stages]
        cells = [f"{error:.1e}" for error in errors] + [""] * (len(grids) - len(errors))
        cells += [f"{exponent(grids, errors):.1f}", str(runs[0]["kan"][-1]["parameters"])]
        found = [run["mlp"] for run in runs if run["mlp"]]
        cells += (
            [f"{statistics.median(one['test_rmse'] for one in found):.1e}", found[0]["kind"]] if found else ["", ""]
        )
        lines.append(f"| {TASKS[name].formula} | {' | '.join(cells)} | {TASKS[name].published} |")
    counts = {sum(row["task"] == name for row in record["runs"]) for name in {row["task"] for row in record["runs"]}}
    seeds = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    lines += [
        "",
        f"Median test RMSE over {seeds} seeds; {record['config']['points']} points to train and choose by. Grids have "
        "at most as many coefficients as there are points; the MLP has as many parameters, and in the KAN's "
        "time as many random starts as fit; the KAN has three on its first grid.",
    ]
    return "\n".join(lines)


def draw(record: dict[str, Any]) -> Figure:
    """Test error against the number of parameters, a panel a task."""
    names = list(dict.fromkeys(row["task"] for row in record["runs"]))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure((max(6.0, 3.3 * columns), 3.1 * rows + 0.3), layout=None, dpi=110)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        runs = [row for row in record["runs"] if row["task"] == name]
        for found in runs:
            sizes = [stage["parameters"] for stage in found["kan"]]
            axis.plot(sizes, [stage["test_rmse"] for stage in found["kan"]], "o-", color=BLUE, alpha=0.5, ms=4)
            if found["mlp"]:
                axis.plot(found["mlp"]["parameters"], found["mlp"]["test_rmse"], "^", color=ORANGE, ms=5)
        sizes = [stage["parameters"] for stage in runs[0]["kan"]]
        start = statistics.median(run["kan"][0]["test_rmse"] for run in runs)
        axis.plot(sizes, [start * (size / sizes[0]) ** -4.0 for size in sizes], ":", color=GREY)
        axis.set_xscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])  # there may be less than a decade of them
        axis.set_xticks([], minor=True)
        axis.set_yscale("log")
        axis.set_title(TASKS[name].formula, fontsize=9)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("parameters")
    for axis in axes[:, 0]:
        axis.set_ylabel("test RMSE")
    styles = (("o-", BLUE, "KAN, grids growing finer"), ("^", ORANGE, "best MLP, equal size and time"),
              (":", GREY, "fourth power"))  # fmt: skip
    for style, color, label in styles:
        axes[0, 0].plot([], [], style, color=color, label=label)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=4, fontsize=8, frameon=False)
    return figure


STUDY = Study(
    name="fit",
    description=__doc__,
    config=FitConfig,
    quick={"tasks": ["exp_sin"], "grids": [3, 6], "steps": 10, "seeds": 1},
    stages=(cells,),
    table=markdown,
    draw=draw,
    complete=complete,
)


def main() -> None:
    """Fit, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
