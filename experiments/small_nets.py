"""Small nets in time: L-BFGS and second derivatives, ours beside other ways: ``python -m experiments.small_nets``.

A net of widths [2, 5, 1], cubic splines on five intervals, is fitted to exp(sin πx + y²) at 1,000 points by torch's
L-BFGS, the same for all, and its Laplacian is taken at these points. Nets take turns, and medians over rounds are told.
Beside ours, in plain operations: the recursion of Cox and de Boor, as efficient-kan evaluates splines; their closed
formula; Gaussians in their place, as fast-kan has them. Then pykan, where it is installed, without its symbolic branch,
and an MLP of about as many parameters.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from convkan import KAN, RBF, BSpline, KANLinear
from convkan.basis import Basis
from convkan.interpret.plot import BLUE, GREY, new_figure
from experiments.benchmark.obvious import Obvious
from experiments.common.cli import GOES_ON, check_positive, run
from experiments.common.counting import count_parameters
from experiments.common.study import Cell, Study, Work
from experiments.functions.nets import mlp_of_size

WIDTHS = (2, 5, 1)
OURS = "convkan"
GRID_SIZE, ORDER = 5, 3


@dataclass(frozen=True)
class SmallNetsConfig:
    """What to time.

    Attributes:
        points: Points of the fit.
        steps: Iterations of L-BFGS, each with a line search of its own.
        rounds: Times that each net is timed.
        threads: CPU threads.
        out: Folder for the record and the picture.
        quick: A version of seconds.
    """

    points: int = 1000
    steps: int = 200
    rounds: int = 3
    threads: int = 1
    out: str = "runs/small_nets"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "points", "steps", "rounds", "threads")


class Recursive(nn.Module):
    """A KAN layer by de Boor's recursion ("A Practical Guide to Splines", ch. IX, eq. 14) in plain operations."""

    knots: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("knots", BSpline(GRID_SIZE, ORDER).knots(inputs).float())
        self.base = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.splines = nn.Parameter(0.1 * torch.randn(outputs, inputs * (GRID_SIZE + ORDER)))

    def forward(self, x: Tensor) -> Tensor:
        """SiLU and splines, each times its weights."""
        t, at = self.knots, x.unsqueeze(-1)
        b = ((at >= t[:, :-1]) & (at < t[:, 1:])).to(x.dtype)
        for k in range(1, ORDER + 1):
            rising = (at - t[:, : -k - 1]) / (t[:, k:-1] - t[:, : -k - 1])
            falling = (t[:, k + 1 :] - at) / (t[:, k + 1 :] - t[:, 1:-k])
            b = rising * b[..., :-1] + falling * b[..., 1:]
        return F.linear(F.silu(x), self.base) + F.linear(b.flatten(1), self.splines)


def layered(layer: Callable[[int, int], nn.Module]) -> nn.Module:
    """A net of such layers."""
    return nn.Sequential(*(layer(before, after) for before, after in pairwise(WIDTHS)))


def obvious(basis: Basis, inputs: int, outputs: int) -> nn.Module:
    """A layer of plain operations, functions by their formulas."""
    return Obvious(basis, KANLinear(inputs, outputs, basis=basis), 0, copies=False)


def ours(dtype: torch.dtype) -> nn.Module:
    """``convkan.KAN``."""
    return KAN(WIDTHS, basis=BSpline(GRID_SIZE, ORDER, extrapolation="linear"), dtype=dtype)


def mlp() -> nn.Module:
    """The MLP that comes closest in size."""
    return mlp_of_size(WIDTHS[0], WIDTHS[-1], 2, "tanh", count_parameters(ours(torch.float32))).float()


def pykan() -> nn.Module:
    """A net of pykan's, on the grid that all have.

    Raises:
        ImportError: It is not installed.
    """
    make = import_module("kan").KAN
    net: nn.Module = make(list(WIDTHS), grid=GRID_SIZE, k=ORDER, symbolic_enabled=False, auto_save=False).speed()
    return net


NETS: dict[str, Callable[[], nn.Module]] = {
    OURS: partial(ours, torch.float32),
    "convkan, float64": partial(ours, torch.float64),
    "recursion, as efficient-kan": partial(layered, Recursive),
    "splines by their formula": partial(layered, partial(obvious, BSpline(GRID_SIZE, ORDER))),
    "Gaussians, as fast-kan": partial(layered, partial(obvious, RBF(GRID_SIZE + ORDER, (-1.0, 1.0)))),
    "pykan": pykan,
    "MLP of equal size": mlp,
}


def cells(work: Work[SmallNetsConfig]) -> Iterator[Cell]:
    """Every net once a round."""
    for index in range(work.config.rounds):
        for name, make in NETS.items():
            yield Cell(f"round {index + 1}, {name}", partial(timed, work.config, make), ("nets", name, index))


def timed(config: SmallNetsConfig, make: Callable[[], nn.Module]) -> dict[str, Any]:
    """A fit of a fresh net, and its Laplacian; or why there is none."""
    torch.manual_seed(0)
    try:
        net = make()
    except ImportError:
        return {"missing": True}
    dtype = next(net.parameters()).dtype
    x = 2 * torch.rand(config.points, 2, dtype=dtype) - 1
    y = torch.exp(torch.sin(pi * x[:, :1]) + x[:, 1:] ** 2)
    parameters = [value for value in net.parameters() if value.requires_grad]
    laplacian(net, x)  # builds what is built once
    evaluations, seconds = fit(net, x, y, parameters, config.steps)
    began = time.perf_counter()
    for _ in range(10):
        laplacian(net, x)
    return {
        "parameters": count_parameters(net),
        "seconds": seconds,
        "evaluations": evaluations,
        "laplacian": (time.perf_counter() - began) / 10,
        "rmse": float((net(x) - y).detach().square().mean().sqrt()),
    }


def fit(net: nn.Module, x: Tensor, y: Tensor, parameters: Sequence[Tensor], steps: int) -> tuple[int, float]:
    """Evaluations and seconds of so many iterations of L-BFGS."""
    optimizer = torch.optim.LBFGS(
        parameters,
        lr=1.0,
        max_iter=steps,
        max_eval=25 * steps,
        history_size=10,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss

    began = time.perf_counter()
    optimizer.step(closure)
    return evaluations, time.perf_counter() - began


def laplacian(net: nn.Module, x: Tensor) -> Tensor:
    """Σ_i ∂²u/∂x_i² at every point, to be differentiated by the parameters as a differential equation's residual is."""
    x = x.detach().requires_grad_()
    [slopes] = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    parts = [torch.autograd.grad(slopes[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1])]
    return torch.stack(parts).sum(0)


def rows_of(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The median of each figure of each net that was timed."""
    timed_nets = {name: rows for name, rows in record["nets"].items() if "missing" not in rows[0]}
    return {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in timed_nets.items()
    }


def markdown(record: dict[str, Any]) -> str:
    """Seconds of a fit, of one evaluation, and of a Laplacian; ratios to ours."""
    rows, config = rows_of(record), record["config"]
    first = rows[OURS]
    evaluation = first["seconds"] / first["evaluations"]
    lines = [
        f"| net | parameters | {config['steps']} steps, s | evaluations | of one, ms | ÷ ours | Laplacian, ms | ÷ ours "
        "| RMSE |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        each = row["seconds"] / row["evaluations"]
        lines.append(
            f"| {name} | {row['parameters']:.0f} | {row['seconds']:.2f} | {row['evaluations']:.0f} | {1000 * each:.2f} "
            f"| {each / evaluation:.2f} | {1000 * row['laplacian']:.1f} | {row['laplacian'] / first['laplacian']:.2f} "
            f"| {row['rmse']:.1e} |"
        )
    missing = [name for name, found in record["nets"].items() if "missing" in found[0]]
    lines += [
        "",
        f"[2, 5, 1] at {config['points']:,} points, {config['threads']} CPU thread, medians of {config['rounds']} "
        "rounds. Evaluations are of the loss and its gradient; how many a line search takes depends on the net. The "
        "Laplacian can be differentiated once more, as a residual of an equation is.",
        *([f"Not installed: {', '.join(missing)}."] if missing else []),
    ]
    return "\n".join(lines)


def draw(record: dict[str, Any]) -> Figure:
    """Milliseconds of an evaluation, a bar a net."""
    rows = rows_of(record)
    figure = new_figure((6.5, 3))
    axis = figure.subplots()
    times = [1000 * row["seconds"] / row["evaluations"] for row in rows.values()]
    colors = [BLUE if name.startswith(OURS) else GREY for name in rows]
    bars = axis.barh(range(len(rows)), times, color=colors)
    axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.invert_yaxis()
    axis.set_xlabel("loss and gradient, ms")
    axis.margins(x=0.12)
    return figure


STUDY = Study(
    name="small_nets",
    description=__doc__,
    config=SmallNetsConfig,
    quick={"points": 50, "steps": 3, "rounds": 1},
    stages=(cells,),
    table=markdown,
    draw=draw,
)


def main() -> None:
    """Time all nets, in turn."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
