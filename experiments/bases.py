"""All bases: what they look like, what they cost, and what they fit: ``python -m experiments.bases``.

Times are those of a training step (forward and backward, input included) of one layer, the least of several rounds in
which all bases take turns. Fits are small KANs at equal numbers of parameters, for each basis of two sizes that all of
them have; the functions are toys and special functions of the KAN paper (Liu et al., arXiv 2404.19756).
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count, pairwise, product
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from convkan import KANConv2d, KANLinear
from convkan.basis import BASES, Basis, BSpline, GriddedBasis, create_basis
from convkan.grid import adapt_grids
from convkan.interpret.plot import GREY, IMPORTANCE, new_figure
from experiments.common.cli import GOES_ON, UserError, check_positive, run
from experiments.common.counting import count_parameters
from experiments.common.study import Cell, Study, Work
from experiments.functions.least_squares import Outcome, optimize
from experiments.functions.tasks import TASKS, Data, data_of

TIMED = "time"  # of the sizes below, that of a spline of order 3 on 5 intervals, as nearly as a basis comes to it
SIZES = {TIMED: 8, "5": 5, "19": 19}  # functions of each; all bases come in the last two
STARTS = 3  # of each fit
DRAWN = torch.linspace(-4, 4, 401, dtype=torch.float64)
CURVE_COLOURS = (0.15, 0.9)  # the part of the colour map that is read on white


@dataclass(frozen=True)
class BasesConfig:
    """What to fit, and how long.

    Attributes:
        bases: Names of bases, or "all"; times are shown beside those of the first.
        tasks: Functions to fit.
        points: Points to train on; a part of them decides when to stop.
        steps: Steps of L-BFGS.
        seeds: Fits of each.
        rounds: Samples of each time.
        threads: CPU threads.
        out: Folder for the record and the picture.
        quick: A minute's version.
    """

    bases: list[str] = field(default_factory=lambda: ["all"])
    tasks: list[str] = field(default_factory=lambda: ["bessel", "exp_sin", "product", "ellipj"])
    points: int = 600
    steps: int = 200
    seeds: int = 3
    rounds: int = 25
    threads: int = 1
    out: str = "runs/bases"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "points", "steps", "seeds", "rounds", "threads")


def complete(config: BasesConfig) -> BasesConfig:
    """The configuration with every basis by its name.

    Raises:
        UserError: A basis or a task does not exist.
    """
    config = replace(config, bases=list(BASES) if config.bases == ["all"] else config.bases)
    for option, table in (("bases", BASES), ("tasks", TASKS)):
        unknown = [name for name in getattr(config, option) if name not in table]
        if unknown:
            raise UserError(f"{option} must be among {', '.join(table)}; got {', '.join(unknown)}")
    return config


def sized(name: str, size: str) -> Basis:
    """The smallest basis of this name with at least as many functions as one of ``SIZES``.

    Raises:
        ValueError: It has none up to twice as many.
    """
    least, default = SIZES[size], create_basis(name)
    if isinstance(default, GriddedBasis):
        growing = (create_basis(name, grid_size=intervals) for intervals in count(1))
        return next(basis for basis in growing if basis.num_functions >= least)
    for functions in range(least, 2 * least + 1):
        with suppress(ValueError):
            return default.resized(functions, None)
    raise ValueError(f"basis must have between {least} and {2 * least} functions at some size, got {name!r}")


def cells(work: Work[BasesConfig]) -> Iterator[Cell]:
    """The times of each layer, then a fit for each basis, size, function and seed."""
    config = work.config
    for layer in LAYERS:
        yield Cell(f"time of {layer}", partial(times, layer, config), ("times", layer))
    for name, size, task in product(config.bases, list(SIZES)[1:], config.tasks):
        fits = partial(fit, name, size, task, config)
        yield Cell(f"{task}, {name}, K = {size}", fits, ("fits", task, size, name))


def _convolution(basis: Basis, quick: bool) -> tuple[nn.Module, Tensor]:
    width, side = (8, 4) if quick else (64, 16)
    return KANConv2d(width, width, 3, padding=1, basis=basis), torch.randn(8, width, side, side)


def _dense(basis: Basis, quick: bool) -> tuple[nn.Module, Tensor]:
    width = 16 if quick else 256
    return KANLinear(width, width, basis=basis), torch.randn(width, width)


LAYERS = {"KANConv2d": _convolution, "KANLinear": _dense}


def times(layer: str, config: BasesConfig) -> dict[str, float]:
    """Milliseconds of a training step on each basis, the least of all rounds."""
    torch.manual_seed(0)
    steps: dict[str, Callable[[], None]] = {}
    for name in config.bases:
        module, x = LAYERS[layer](sized(name, TIMED), config.quick)
        steps[name] = partial(_step, module, x.requires_grad_())
        steps[name]()  # where kernels are compiled
        steps[name]()
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(config.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    return best


def _step(module: nn.Module, x: Tensor) -> None:
    module(x).sum().backward()
    module.zero_grad()
    x.grad = None


def fit(name: str, size: str, task: str, config: BasesConfig) -> dict[str, Any]:
    """Fits of a function from each seed: of several starts the best on the validation part goes on to the end."""
    runs = []
    early = max(1, config.steps // 4)
    for seed in range(config.seeds):
        data = data_of(TASKS[task], config.points, seed)
        starts = [started(name, size, task, data, STARTS * seed + attempt, early) for attempt in range(STARTS)]
        model, _ = min(starts, key=lambda start: start[1].val_rmse)
        follow(model, data)
        outcome = optimize(model, data, max(1, config.steps - early))
        runs.append({key: value for key, value in asdict(outcome).items() if key.endswith("_rmse")})
    return {"parameters": count_parameters(model), "runs": runs}


def started(name: str, size: str, task: str, data: Data, seed: int, steps: int) -> tuple[nn.Module, Outcome]:
    """A net from a random start, after some steps."""
    torch.manual_seed(seed)
    basis = sized(name, size)
    if isinstance(basis, BSpline):  # as in the other studies, so that nothing is lost beyond inner grids
        basis = replace(basis, extrapolation="linear")
    layers = [KANLinear(*widths, basis=basis, dtype=torch.float64) for widths in pairwise(TASKS[task].widths)]
    model = nn.Sequential(*layers)
    follow(model, data)
    return model, optimize(model, data, steps)


def follow(model: nn.Module, data: Data) -> None:
    """Put grids, where there are some, to where inputs are."""
    if any(isinstance(layer.basis, GriddedBasis) for layer in model.children()):
        adapt_grids(model, [data.train[0]], grid_eps=1.0)


def markdown(record: dict[str, Any]) -> str:
    """Times beside those of the first basis; medians of the test error."""
    bases = record["config"]["bases"]
    tasks, sizes = record["config"]["tasks"], list(SIZES)[1:]
    lines = [
        "| basis | K | " + " | ".join(f"{layer}, time" for layer in LAYERS) + " |",
        "| --- | ---: |" + " ---: |" * len(LAYERS),
    ]
    for name in bases:
        ratios = (f"{found[name] / found[bases[0]]:.2f} ({found[name]:.1f} ms)" for found in record["times"].values())
        lines.append(f"| `{name}` | {sized(name, TIMED).num_functions} | {' | '.join(ratios)} |")
    fits = record["fits"]
    parameters = {size: ", ".join(f"{fits[task][size][bases[0]]['parameters']:,}" for task in tasks) for size in sizes}
    for size in sizes:
        lines += ["", f"K = {size}; parameters, from left to right: {parameters[size]}.", ""]
        lines += ["| basis | " + " | ".join(TASKS[task].formula.replace("|", r"\|") for task in tasks) + " |"]
        lines += ["| --- |" + " ---: |" * len(tasks)]
        median = {
            (name, task): statistics.median(run["test_rmse"] for run in fits[task][size][name]["runs"])
            for name, task in product(bases, tasks)
        }
        best = {task: min(median[name, task] for name in bases) for task in tasks}
        for name in bases:
            shown = [f"{median[name, task]:.1e}" for task in tasks]
            bold = [median[name, task] == best[task] for task in tasks]
            row = (f"**{text}**" if winner else text for text, winner in zip(shown, bold, strict=True))
            lines.append(f"| `{name}` | {' | '.join(row)} |")
    seeds = record["config"]["seeds"]
    lines += [
        "",
        f"Medians of the root mean square error on test points over {seeds} seeds, each the best of {STARTS} starts.",
    ]
    return "\n".join(lines)


def draw(record: dict[str, Any]) -> Figure:
    """A panel for each basis: all of its functions at their default sizes."""
    columns = 5
    rows = -(-len(BASES) // columns)
    figure = new_figure((2.5 * columns, 1.75 * rows), dpi=110)
    palette, (low, high) = matplotlib.colormaps[IMPORTANCE], CURVE_COLOURS
    panels = figure.subplots(rows, columns, sharex=True).flatten()
    for panel in panels[len(BASES) :]:
        panel.axis("off")
    for index, (name, create) in enumerate(BASES.items()):
        panel = panels[index]
        basis = create()
        knots = basis.knots(1) if isinstance(basis, GriddedBasis) else None
        values = basis.evaluate(DRAWN.unsqueeze(1), knots).squeeze(-1)
        for k, curve in enumerate(values.unbind(1)):
            shade = low + (high - low) * k / max(1, basis.num_functions - 1)
            panel.plot(DRAWN, curve, color=palette(shade), linewidth=1.0)
        if isinstance(basis, GriddedBasis):
            panel.axvspan(*basis.grid_range, color=GREY, alpha=0.15, linewidth=0)
        panel.set_title(f"{name}, K = {basis.num_functions}", fontsize=8)
        panel.tick_params(labelsize=6, labelbottom=index + columns >= len(BASES))
        panel.spines[["top", "right"]].set_visible(False)
    return figure


STUDY = Study(
    name="bases",
    description=__doc__,
    config=BasesConfig,
    quick={"bases": ["bspline", "dog"], "steps": 10, "seeds": 1, "rounds": 1, "points": 60, "tasks": ["bessel"]},
    stages=(cells,),
    table=markdown,
    draw=draw,
    complete=complete,
)


def main() -> None:
    """Time, fit, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
