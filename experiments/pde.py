"""Solve the Poisson equation with small KANs and MLPs: ``python -m experiments.pde``.

Δu = f on [−1, 1]² with u = 0 on the border, f chosen so that u = sin(πx)·sin(πy²) is the solution. The loss is
α·mean (Δu − f)² inside plus mean u² on the border, with derivatives by autograd through the layers' ordinary, fast
evaluation. Source: Liu et al., "KAN" (arXiv 2404.19756), sec. 3.5 (α = 0.01, 10,000 points inside, 800 on the border).
"""

import json
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from math import pi
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from convkan.grid import adapt_grids, refine_grids
from convkan.training import write_atomically
from experiments.cli import parse, run
from experiments.records import count_parameters, environment, write_record
from experiments.small_nets import (
    AT_ONCE,
    OptimizerName,
    Parameters,
    kan,
    mlp,
    mlp_of_size,
    trust_region,
    value_at,
)

ALPHA = 0.01
TEST_SIDE = 101
ADAM_RATE = 3e-3
CHUNK = 500  # points whose derivatives are taken at once
MOST_FOR_LM = 2000  # parameters
PILOT = 0.2  # share of the time that every kind of MLP is given to be chosen by
METHODS: tuple[OptimizerName, ...] = ("lm", "lbfgs", "adam")

Net = Callable[[Tensor], Tensor]


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


def solution(points: Tensor) -> Tensor:
    """The solution, sin(πx)·sin(πy²), (n,)."""
    x, y = points.T
    return torch.sin(pi * x) * torch.sin(pi * y**2)


def source(points: Tensor) -> Tensor:
    """Its Laplacian, (n,)."""
    x, y = points.T
    along_x = -(pi**2) * torch.sin(pi * x) * torch.sin(pi * y**2)
    along_y = torch.sin(pi * x) * (2 * pi * torch.cos(pi * y**2) - 4 * pi**2 * y**2 * torch.sin(pi * y**2))
    return along_x + along_y


def gradient_of(model: Net, points: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n,) and gradients (n, 2), which can be differentiated again."""
    points = points.requires_grad_()
    u = model(points)[:, 0]
    [slopes] = torch.autograd.grad(u.sum(), points, create_graph=True)
    return u, slopes


def laplacian(model: Net, points: Tensor) -> Tensor:
    """∂²u/∂x² + ∂²u/∂y², (n,)."""
    points = points.detach().clone()
    _, slopes = gradient_of(model, points)
    parts = [torch.autograd.grad(slopes[:, axis].sum(), points, create_graph=True)[0][:, axis] for axis in range(2)]
    return parts[0] + parts[1]


@dataclass(frozen=True)
class Problem:
    """Points inside and on the border."""

    inside: Tensor
    border: Tensor

    @classmethod
    def random(cls, inside: int, border: int, seed: int) -> "Problem":
        """Points drawn evenly."""
        generator = torch.Generator().manual_seed(seed)
        inner = 2 * torch.rand(inside, 2, generator=generator, dtype=torch.float64) - 1
        along = 2 * torch.rand(border, generator=generator, dtype=torch.float64) - 1
        edge = torch.arange(border) % 4
        side = torch.where(edge % 2 == 0, -1.0, 1.0).double()
        points = torch.where((edge < 2).unsqueeze(1), torch.stack([side, along], 1), torch.stack([along, side], 1))
        return cls(inner, points)

    def loss(self, model: nn.Module) -> Tensor:
        """What is minimised."""
        residual = laplacian(model, self.inside) - source(self.inside)
        return ALPHA * residual.square().mean() + model(self.border).square().mean()

    def trust_region(self, model: nn.Module, steps: int, enough: Callable[[], bool]) -> int:
        """Levenberg–Marquardt steps on the same loss, taken as a sum of squares; see ``small_nets.trust_region``."""
        weight_inside, weight_border = (ALPHA / len(self.inside)) ** 0.5, len(self.border) ** -0.5
        wanted = source(self.inside)
        value = partial(value_at, model)

        def residuals(parameters: Parameters) -> Tensor:
            def evaluated(points: Tensor) -> Tensor:
                found: Tensor = torch.func.functional_call(model, parameters, (points,))
                return found

            inside = laplacian(evaluated, self.inside) - wanted
            return torch.cat([weight_inside * inside, weight_border * evaluated(self.border)[:, 0]])

        def laplacian_at(parameters: Parameters, point: Tensor) -> Tensor:
            def slope(place: Tensor, axis: int) -> Tensor:
                return torch.func.grad(value, argnums=1)(parameters, place)[axis]

            return sum((torch.func.grad(slope)(point, axis)[axis] for axis in range(2)), point.new_zeros(()))

        by_point = torch.func.vmap(torch.func.grad(laplacian_at), in_dims=(None, 0), chunk_size=CHUNK)
        on_border = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0))

        def jacobian(parameters: Parameters) -> list[Parameters]:
            inside, border = by_point(parameters, self.inside), on_border(parameters, self.border)
            return [
                {name: weight_inside * rows for name, rows in inside.items()},
                {name: weight_border * rows for name, rows in border.items()},
            ]

        return trust_region(model, residuals, jacobian, steps, enough)


def errors(model: nn.Module) -> dict[str, float]:
    """Mean square error, and relative L2 and H1 errors, on a lattice."""
    places = torch.linspace(-1, 1, TEST_SIDE, dtype=torch.float64)
    points = torch.cartesian_prod(places, places)
    u, slopes = gradient_of(model, points.clone())
    x, y = points.T
    wanted = solution(points)
    wanted_slopes = torch.stack(
        [
            pi * torch.cos(pi * x) * torch.sin(pi * y**2),
            2 * pi * y * torch.sin(pi * x) * torch.cos(pi * y**2),
        ],
        dim=1,
    )
    off, off_slopes = (u - wanted).square(), (slopes - wanted_slopes).square().sum(1)
    size, size_slopes = wanted.square(), wanted_slopes.square().sum(1)
    return {
        "mse": off.mean().item(),
        "l2": (off.sum() / size.sum()).sqrt().item(),
        "h1": ((off + off_slopes).sum() / (size + size_slopes).sum()).sqrt().item(),
    }


def minimise(
    model: nn.Module, problem: Problem, steps: int, *, method: OptimizerName, seconds: float | None = None
) -> int:
    """Train until the steps or the time are spent; the model is left where the loss was least.

    Args:
        model: The net.
        problem: What it is to solve.
        steps: Steps at most; of "adam", the length of its schedule.
        method: "lm" for Levenberg–Marquardt, for nets of few parameters; "lbfgs"; or "adam".
        seconds: Time at most.

    Returns:
        The steps taken.
    """
    start = time.perf_counter()
    best, best_state = problem.loss(model).item(), deepcopy(model.state_dict())

    def enough() -> bool:
        nonlocal best, best_state
        loss = problem.loss(model).item()
        if loss < best:
            best, best_state = loss, deepcopy(model.state_dict())
        return not math.isfinite(loss) or (seconds is not None and time.perf_counter() - start > seconds)

    if method == "lm":
        taken = problem.trust_region(model, steps, enough)
    else:
        taken = _gradient_steps(model, problem, steps, method, enough)
    model.load_state_dict(best_state)
    return taken


def _gradient_steps(
    model: nn.Module, problem: Problem, steps: int, method: OptimizerName, enough: Callable[[], bool]
) -> int:
    """LBFGS or Adam, until it is enough, asked every ten steps; returns the steps taken."""
    optimizer: torch.optim.Optimizer
    if method == "lbfgs":
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=AT_ONCE, max_eval=25 * AT_ONCE, history_size=50, line_search_fn="strong_wolfe",
            tolerance_change=1e-18, tolerance_grad=1e-14,
        )  # fmt: skip
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=ADAM_RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if method == "adam" else None

    def closure() -> float:
        optimizer.zero_grad()
        loss = problem.loss(model)
        loss.backward()
        return loss.item()

    for step in range(AT_ONCE, steps + AT_ONCE, AT_ONCE):
        if decay is None:
            optimizer.step(closure)
        else:
            for _ in range(AT_ONCE):
                optimizer.step(closure)
                decay.step()
        if enough():
            return step
    return steps


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
    method: OptimizerName

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


def main() -> None:
    """Solve, record and draw."""
    config = parse(PdeConfig, (__doc__ or "").splitlines()[0])
    if config.quick:
        config = PdeConfig(width=3, grids=(3, 6), steps=10, inside=100, border=40, seeds=1, out=config.out, quick=True)
    torch.set_num_threads(config.threads)
    folder, path = Path(config.out), Path(config.out) / "pde.json"
    settings = asdict(config)
    settings.pop("out")
    record: dict[str, Any] = {
        "config": settings,
        **environment(torch.device("cpu")),
        "kan": [],
        "pilots": {},
        "mlp": {},
    }
    settings = json.loads(json.dumps(settings))
    if path.exists():
        earlier = json.loads(path.read_text())
        if earlier["config"] == settings and earlier["git_commit"] == record["git_commit"]:
            record = earlier
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    model: nn.Module | None = None
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn()) as progress:
        bar = progress.add_task("KAN", total=config.seeds)
        for seed in range(len(record["kan"]), config.seeds):
            torch.manual_seed(seed)
            model, rows = solve_kan(
                config, Problem.random(config.inside, config.border, seed), config.grids, config.steps
            )
            record["kan"].append(rows)
            record["picture"] = picture(model) if seed == 0 else record["picture"]
            write_record(path, record)
            progress.advance(bar)
        candidates = rivals(record["kan"][0][-1]["parameters"])[: 1 if config.quick else None]
        budget = sum(rows[-1]["seconds"] for rows in record["kan"]) / len(record["kan"])
        progress.update(bar, description="MLPs, briefly", completed=0, total=len(candidates))
        for rival in candidates:
            if str(rival) not in record["pilots"]:
                problem = Problem.random(config.inside, config.border, 0)
                record["pilots"][str(rival)] = solve_mlp(rival, problem, PILOT * budget, 0)
                write_record(path, record)
            progress.advance(bar)
        chosen = [
            min(group, key=lambda rival: record["pilots"][str(rival)]["loss"])
            for group in by_group(candidates).values()
        ]
        progress.update(bar, description="best MLPs", completed=0, total=len(chosen) * config.seeds)
        for rival in chosen:
            rows = record["mlp"].setdefault(str(rival), [])
            progress.advance(bar, len(rows))
            for seed in range(len(rows), config.seeds):
                rows.append(solve_mlp(rival, Problem.random(config.inside, config.border, seed), budget, seed))
                write_record(path, record)
                progress.advance(bar)
    table = markdown(record)
    write_atomically(folder / "pde.md", lambda partial: partial.write_text(table + "\n"))
    draw(record, folder / "pde.png")
    print(table)
    print(f"record {path}, table pde.md and plot pde.png beside it")


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


def draw(record: dict[str, Any], path: Path) -> None:
    """The solution found, its error, and error against time for every net."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = torch.tensor(record["picture"], dtype=torch.float64)
    side = round(len(found) ** 0.5)
    places = torch.linspace(-1, 1, side, dtype=torch.float64)
    off = found - solution(torch.cartesian_prod(places, places))
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), gridspec_kw={"width_ratios": [1, 1, 1.2]})
    for axis, values, title, colours in (
        (axes[0], found, "solution found by the KAN", "cividis"),
        (axes[1], off, "its error", "PuOr"),
    ):
        limit = values.abs().max().item()
        image = axis.imshow(
            values.reshape(side, side).T.numpy(),
            origin="lower",
            extent=(-1, 1, -1, 1),
            cmap=colours,
            vmin=-limit,
            vmax=limit,
        )
        axis.set_title(title)
        axis.set_xlabel("x")
        axis.set_ylabel("y")
        figure.colorbar(image, ax=axis, shrink=0.8)
    for rows in record["kan"]:
        axes[2].plot([r["parameters"] for r in rows], [r["mse"] for r in rows], "o-", color="#0072B2", label="KAN")
    for (name, rows), marker in zip(record["mlp"].items(), "s^D", strict=False):
        sizes = [row["parameters"] for row in rows]
        axes[2].plot(sizes, [row["mse"] for row in rows], marker, color="#E69F00", label=f"MLP, {name}")
    handles = dict(zip(*reversed(axes[2].get_legend_handles_labels()), strict=True))
    axes[2].legend(handles.values(), handles.keys(), fontsize=8)
    axes[2].set_xscale("log")
    axes[2].set_yscale("log")
    axes[2].set_xlabel("parameters")
    axes[2].set_ylabel("mean square error")
    axes[2].grid(alpha=0.3)
    figure.tight_layout()
    write_atomically(path, lambda partial: figure.savefig(partial, format="png", dpi=110))
    plt.close(figure)


if __name__ == "__main__":
    run(main)
