"""Fit known functions with small KANs on ever finer grids, beside tuned MLPs: ``python -m experiments.fit``.

The tasks are the toys and special functions of the KAN paper (Liu et al., arXiv 2404.19756, sec. 3.1 and 3.2). A KAN is
trained on a coarse grid, its grid is refined without changing the function, training goes on, and so forth. MLPs of
equal size are tried for a share of the KAN's time, a dozen kinds of them, with the first seed; the kind that is best on
the validation points is then trained with every seed for as long as the KAN.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from convkan.grid import adapt_grids, refine_grids
from convkan.training import write_atomically, write_text
from experiments.common.cli import GOES_ON, UserError, check_positive, parse, run
from experiments.common.counting import count_parameters
from experiments.common.folders import claimed
from experiments.common.progress import StudyProgress
from experiments.common.records import environment, write_record
from experiments.functions.least_squares import OptimizerName, Outcome, optimize
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
    optimizer: OptimizerName = "lm"
    points: int = 1000
    seeds: int = 5
    rivals: bool = True
    threads: int = 1
    out: str = "runs/fit"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "steps", "points", "seeds", "threads")

    def chosen(self) -> dict[str, Task]:
        """The tasks by name.

        Raises:
            UserError: One does not exist.
        """
        names = ["exp_sin"] if self.quick else list(TASKS) if self.tasks == ["all"] else self.tasks
        unknown = [name for name in names if name not in TASKS]
        if unknown:
            raise UserError(f"tasks must be among {', '.join(TASKS)}, or all; got {', '.join(unknown)}")
        return {name: TASKS[name] for name in names}


def fit_kan(
    task: Task,
    data: Data,
    grids: list[int],
    steps: int,
    seed: int,
    optimizer: OptimizerName = "lbfgs",
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
    task: Task, data: Data, grid_size: int, steps: int, seed: int, optimizer: OptimizerName
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


def main() -> None:
    """Fit, record and draw."""
    config = parse(FitConfig, __doc__)
    with claimed(Path(config.out)):
        study(config)


def study(config: FitConfig) -> None:
    """Fit, record and draw."""
    tasks = config.chosen()
    grids, steps, seeds = ([3, 6], 10, 1) if config.quick else (config.grids, config.steps, config.seeds)
    rivals = RIVALS[:1] if config.quick else RIVALS
    torch.set_num_threads(config.threads)
    folder = Path(config.out)
    path = folder / "fit.json"
    settings = {**asdict(config), "grids": grids, "steps": steps, "seeds": seeds, "tasks": list(tasks)}
    settings.pop("out")
    record: dict[str, Any] = {"config": settings, **environment(torch.device("cpu")), "runs": []}
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier["config"] == settings and earlier["git_commit"] == record["git_commit"]:
            record = earlier
    done = {(row["task"], row["seed"]) for row in record["runs"]}
    with StudyProgress() as progress:
        steps_of = {
            (seed, name): len(task.grids(grids, config.points)) + config.rivals * (1 + len(rivals) * (seed == 0))
            for seed, (name, task) in product(range(seeds), tasks.items())
        }
        finished = sum(steps_of[seed, name] for name, seed in done)
        bar = progress.add_task("fitting", total=sum(steps_of.values()), completed=finished)
        for seed, name in steps_of:
            if (name, seed) in done:
                continue
            progress.update(bar, description=f"{name}, seed {seed}")
            row = fit_task(
                tasks[name],
                config.points,
                grids,
                steps,
                seed,
                config.optimizer,
                rivals if config.rivals else [],
                chosen_kind(record, name, rivals),
                lambda: progress.advance(bar),
            )
            record["runs"].append({"task": name, "seed": seed, **row})
            write_record(path, record)
    table = markdown(record)
    write_text(folder / "fit.md", table + "\n")
    draw(record, folder / "fit.png")
    print(table)
    print(f"record {path}, table {folder / 'fit.md'}, plot {folder / 'fit.png'}")


def chosen_kind(record: dict[str, Any], name: str, rivals: list[Rival]) -> Rival | None:
    """The MLP that was chosen for a task with the first seed, if it was."""
    for earlier in record["runs"]:
        if earlier["task"] == name and earlier["seed"] == 0 and earlier["mlp"]:
            return next(rival for rival in rivals if str(rival) == earlier["mlp"]["kind"])
    return None


def fit_task(
    task: Task,
    points: int,
    grids: list[int],
    steps: int,
    seed: int,
    optimizer: OptimizerName,
    rivals: list[Rival],
    chosen: Rival | None,
    advance: Callable[[], None],
) -> dict[str, Any]:
    """A KAN on all grids, and an MLP of its final size for as long: the chosen one, or the best in short trials."""
    data = data_of(task, points, seed)
    _, rows = fit_kan(task, data, task.grids(grids, points), steps, seed, optimizer, advance)
    result: dict[str, Any] = {"kan": rows, "mlp": {}}
    if not rivals:
        return result
    size, seconds = rows[-1]["parameters"], rows[-1]["seconds"]
    if chosen is None:
        tried = rank_rivals(data, size, PILOT * seconds, seed, rivals, advance)
        result["pilots"] = {str(one.rival): one.outcome.val_rmse for one in tried}
        chosen = tried[0].rival
    [best] = rank_rivals(data, size, seconds, seed, [chosen], advance)
    result["mlp"] = {
        "kind": str(best.rival),
        "parameters": best.parameters,
        **{key: value for key, value in asdict(best.outcome).items() if key != "curve"},
    }
    return result


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


def draw(record: dict[str, Any], path: Path) -> None:
    """Test error against the number of parameters, a panel a task."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    names = list(dict.fromkeys(row["task"] for row in record["runs"]))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(max(6.0, 3.3 * columns), 3.1 * rows + 0.3), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        runs = [row for row in record["runs"] if row["task"] == name]
        for found in runs:
            sizes = [stage["parameters"] for stage in found["kan"]]
            axis.plot(sizes, [stage["test_rmse"] for stage in found["kan"]], "o-", color="#0072B2", alpha=0.5, ms=4)
            if found["mlp"]:
                axis.plot(found["mlp"]["parameters"], found["mlp"]["test_rmse"], "^", color="#D55E00", ms=5)
        sizes = [stage["parameters"] for stage in runs[0]["kan"]]
        start = statistics.median(run["kan"][0]["test_rmse"] for run in runs)
        axis.plot(sizes, [start * (size / sizes[0]) ** -4.0 for size in sizes], ":", color="#777777")
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_yscale("log")
        axis.set_title(TASKS[name].formula, fontsize=9)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("parameters")
    for axis in axes[:, 0]:
        axis.set_ylabel("test RMSE")
    styles = (("o-", "#0072B2", "KAN, grids growing finer"), ("^", "#D55E00", "best MLP, equal size and time"),
              (":", "#777777", "fourth power"))  # fmt: skip
    for style, color, label in styles:
        axes[0, 0].plot([], [], style, color=color, label=label)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=4, fontsize=8, frameon=False)
    write_atomically(path, lambda partial: figure.savefig(partial, format="png", dpi=110))
    plt.close(figure)


if __name__ == "__main__":
    run(main, GOES_ON)
