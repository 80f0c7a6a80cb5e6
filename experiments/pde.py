"""Solve the Poisson equation with small KANs and MLPs: ``python -m experiments.pde``.

Δu = f on [−1, 1]² with u = 0 on the border, f chosen so that u = sin(πx)·sin(πy²) is the solution. The loss is
α·mean (Δu − f)² inside plus mean u² on the border, with derivatives by autograd through the layers' ordinary, fast
evaluation. Source: Liu et al., "KAN" (arXiv 2404.19756), sec. 3.5 (α = 0.01, 10,000 points inside, 800 on the border).
"""

import json
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
from experiments.small_nets import AT_ONCE, kan, mlp, mlp_of_size

ALPHA = 0.01
TEST_SIDE = 101


@dataclass(frozen=True)
class PdeConfig:
    """How to train.

    Attributes:
        width: Width of the KAN's hidden layer.
        grids: Sizes of the grid, one stage each.
        steps: LBFGS steps a stage.
        inside: Points inside.
        border: Points on the border.
        seeds: Runs of each net.
        threads: CPU threads.
        out: Folder for the record and the picture.
        quick: A few seconds' version.
    """

    width: int = 10
    grids: tuple[int, ...] = (5, 10, 20)
    steps: int = 250
    inside: int = 10_000
    border: int = 800
    seeds: int = 3
    threads: int = 2
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


def gradient_of(model: nn.Module, points: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n,) and gradients (n, 2), which can be differentiated again."""
    points = points.requires_grad_()
    u = model(points)[:, 0]
    [slopes] = torch.autograd.grad(u.sum(), points, create_graph=True)
    return u, slopes


def laplacian(model: nn.Module, points: Tensor) -> Tensor:
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
    model: nn.Module, problem: Problem, steps: int, *, adam_rate: float | None = None, seconds: float | None = None
) -> list[float]:
    """LBFGS, or Adam if a rate is given; the model is left where the loss was least. Returns the losses."""
    start, losses = time.perf_counter(), []
    best, best_state = float("inf"), deepcopy(model.state_dict())
    optimizer: torch.optim.Optimizer
    if adam_rate is None:
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=AT_ONCE, max_eval=25 * AT_ONCE, history_size=50, line_search_fn="strong_wolfe",
            tolerance_change=1e-18, tolerance_grad=1e-14,
        )  # fmt: skip
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=adam_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if adam_rate is not None else None

    def closure() -> float:
        optimizer.zero_grad()
        loss = problem.loss(model)
        loss.backward()
        return loss.item()

    for _ in range(steps if adam_rate is not None else -(-steps // AT_ONCE)):
        before = deepcopy(model.state_dict())
        loss = float(optimizer.step(closure))  # of the state before the step
        losses.append(loss)
        if loss < best:
            best, best_state = loss, before
        if decay is not None:
            decay.step()
        if not loss < float("inf") or (seconds is not None and time.perf_counter() - start > seconds):
            break
    if not losses or not problem.loss(model).item() <= best:
        model.load_state_dict(best_state)
    return losses


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
        minimise(model, problem, steps)
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


def rivals(parameters: int) -> dict[str, Callable[[], nn.Module]]:
    """MLPs: of the KAN's size, of 10⁴ parameters, and the paper's (four layers of width 100)."""
    found: dict[str, Callable[[], nn.Module]] = {}
    for activation in ("tanh", "silu"):
        for name, size in (("equal parameters", parameters), ("10⁴ parameters", 10_000)):
            for depth in (2, 3):
                found[f"{name}: {depth}×{activation}"] = partial(mlp_of_size, 2, 1, depth, activation, size)
        found[f"4 layers, width 100: {activation}"] = partial(mlp, 2, 1, [100] * 3, activation)
    return found


def main() -> None:
    """Solve, record and draw."""
    config = parse(PdeConfig, (__doc__ or "").splitlines()[0])
    if config.quick:
        config = PdeConfig(width=3, grids=(3, 6), steps=10, inside=100, border=40, seeds=1, out=config.out, quick=True)
    torch.set_num_threads(config.threads)
    folder, path = Path(config.out), Path(config.out) / "pde.json"
    settings = asdict(config)
    settings.pop("out")
    record: dict[str, Any] = {"config": settings, **environment(torch.device("cpu")), "kan": [], "mlp": {}}
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
        last = record["kan"][0][-1]
        candidates = rivals(last["parameters"])
        if config.quick:
            candidates = dict(list(candidates.items())[:1])
        budget = sum(rows[-1]["seconds"] for rows in record["kan"]) / len(record["kan"])
        methods: dict[str, float | None] = {"LBFGS": None} if config.quick else {"LBFGS": None, "Adam": 3e-3}
        progress.update(bar, description="MLPs", completed=0, total=len(candidates) * len(methods))
        for name, create in candidates.items():
            for method, rate in methods.items():
                key = f"{name}, {method}"
                if key not in record["mlp"]:
                    torch.manual_seed(0)
                    rival, problem = create(), Problem.random(config.inside, config.border, 0)
                    start = time.perf_counter()
                    losses = (
                        minimise(rival, problem, 1_000_000, adam_rate=rate, seconds=budget)
                        if rate is None
                        else (minimise_adam_for(rival, problem, rate, budget))
                    )
                    record["mlp"][key] = {
                        "parameters": count_parameters(rival),
                        "seconds": time.perf_counter() - start,
                        "steps": len(losses),
                        "loss": problem.loss(rival).item(),
                        **errors(rival),
                    }
                    write_record(path, record)
                progress.advance(bar)
    table = markdown(record)
    write_atomically(folder / "pde.md", lambda partial: partial.write_text(table + "\n"))
    draw(record, folder / "pde.png")
    print(table)
    print(f"record {path}, table pde.md and plot pde.png beside it")


def minimise_adam_for(model: nn.Module, problem: Problem, rate: float, seconds: float) -> list[float]:
    """Adam for about so many seconds, with a schedule that ends then."""
    trial = deepcopy(model)
    start = time.perf_counter()
    minimise(trial, problem, 5, adam_rate=rate)
    a_step = (time.perf_counter() - start) / 5
    return minimise(model, problem, max(10, int(seconds / a_step)), adam_rate=rate)


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
    lines += [row(f"MLP, {name}", [found]) for name, found in record["mlp"].items()]
    seeds = len(record["kan"])
    return "\n".join([*lines, "", f"KAN: median of {seeds} seeds; each MLP was given the KAN's time."])


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
    for name, rival in record["mlp"].items():
        marker = "s" if "LBFGS" in name else "^"
        axes[2].plot(rival["parameters"], rival["mse"], marker, color="#E69F00", label=f"MLP, {name.split(', ')[-1]}")
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
