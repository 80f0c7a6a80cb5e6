"""A jagged function of two variables, for Chebyshev and B-spline KANs and MLPs: ``python -m experiments.chebyshev``.

z = [sin(10πx)·cos(10πy) + sin(π(x²+y²)) + |x−y| + sin(5xy)/(0.1+|x+y|)]·exp(−0.1(x²+y²)) with noise of σ = 0.1 on
100×100 points of [0, 2]². Everything is judged on clean values at other points. Source: the "fractal" example of
ChebyKAN (SS et al., arXiv 2405.07200), which compared with one, badly chosen MLP; here MLPs are tuned.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import pi
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from convkan import KANLinear
from convkan.basis import BSpline, Chebyshev
from convkan.interpret.plot import new_figure
from experiments.common.cli import GOES_ON, check_positive, run
from experiments.common.counting import count_parameters
from experiments.common.study import Cell, Study, Work
from experiments.functions.nets import mlp_of_size

NOISE = 0.1
SIDE = 100
DRAWN = 3  # nets in the picture
TEST_SIDE = 173  # incommensurable with the training grid
CHEBYSHEV = ((2, 8, 8), (8, 16, 4), (16, 1, 4))  # inputs, outputs, degree of each layer: 864 parameters


@dataclass(frozen=True)
class ChebyshevConfig:
    """How to train.

    Attributes:
        steps: Full-batch Adam steps.
        seeds: Runs of each net.
        threads: CPU threads.
        out: Folder for the record and the picture.
        quick: A few seconds' version.
    """

    steps: int = 2000
    seeds: int = 3
    threads: int = 2
    out: str = "runs/chebyshev"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "steps", "seeds", "threads")


@dataclass(frozen=True)
class Net:
    """A kind of net, with the settings tried for it.

    Attributes:
        name: How the table calls it.
        variants: For each variant's name, how to make it.
        rates: Learning rates to try with each.
    """

    name: str
    variants: dict[str, Callable[[], nn.Module]]
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2, 1e-1)


def clean(points: Tensor) -> Tensor:
    """Values without noise, (n, 1), at points (n, 2)."""
    x, y = points.T
    waves = torch.sin(10 * pi * x) * torch.cos(10 * pi * y) + torch.sin(pi * (x**2 + y**2))
    rest = (x - y).abs() + torch.sin(5 * x * y) / (0.1 + (x + y).abs())
    return ((waves + rest) * torch.exp(-0.1 * (x**2 + y**2))).unsqueeze(1)


def square(side: int, offset: float = 0.0) -> Tensor:
    """A grid of points of [0, 2]²."""
    places = torch.linspace(offset, 2 - offset, side)
    return torch.cartesian_prod(places, places)


def chebyshev_kan() -> nn.Module:
    """[2, 8, 16, 1] with degrees 8, 4, 4."""
    return nn.Sequential(
        *(
            KANLinear(before, after, basis=Chebyshev(degree), base_activation=None)
            for before, after, degree in CHEBYSHEV
        )
    )


def spline_kan(grid_size: int) -> nn.Module:
    """[2, 8, 16, 1] on splines; inner layers on a wider range."""
    sizes = ((2, 8), (8, 16), (16, 1))
    return nn.Sequential(
        *(
            KANLinear(before, after, basis=BSpline(grid_size, grid_range=(-1.0, 1.0) if not index else (-3.0, 3.0)))
            for index, (before, after) in enumerate(sizes)
        )
    )


def nets(quick: bool) -> list[Net]:
    """What is compared: every kind has the same number of trials at its size."""
    found = [
        Net("Chebyshev KAN [2, 8, 16, 1]", {"degrees 8, 4, 4": chebyshev_kan}),
        Net("B-spline KAN [2, 8, 16, 1]", {f"G = {size}": partial(spline_kan, size) for size in (3, 20)}),
    ]
    for size in (864,) if quick else (864, 10_000):
        variants: dict[str, Callable[[], nn.Module]] = {
            f"{depth}×{activation}": partial(_rival, depth, activation, size)
            for depth, activation in product((2, 3), ("silu", "relu", "tanh"))
        }
        found.append(Net(f"MLP, about {size:,} parameters", variants))
    return found


def _rival(depth: int, activation: str, parameters: int) -> nn.Module:
    return mlp_of_size(2, 1, depth, activation, parameters).float()


def train(model: nn.Module, data: tuple[Tensor, Tensor], rate: float, steps: int) -> None:
    """Adam on all points at once, the rate falling along half a cosine."""
    x, y = data
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        schedule.step()


def mse(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Mean square error."""
    with torch.no_grad():
        return float((model(data[0]) - data[1]).square().mean())


def cells(work: Work[ChebyshevConfig]) -> Iterator[Cell]:
    """One for each kind of net."""
    quick, seeds = work.config.quick, work.config.seeds
    data = data_of(SIDE // 4 if quick else SIDE)
    for index, net in enumerate(nets(quick)):
        net = replace(net, rates=net.rates[:1]) if quick else net
        steps = len(net.variants) * len(net.rates) + seeds
        yield Cell(net.name, partial(compare, work, net, data, index < DRAWN), ("nets", net.name), steps)


def data_of(side: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Noisy training and validation points, and clean test points, of [0, 2]² made [−1, 1]²."""
    points = square(side)
    noisy = clean(points) + NOISE * torch.randn(len(points), 1, generator=torch.Generator().manual_seed(0))
    held_out = torch.rand(len(points), generator=torch.Generator().manual_seed(1)) < 0.1
    tested = square(TEST_SIDE, offset=0.004)
    return {
        "train": (points[~held_out] - 1, noisy[~held_out]),
        "val": (points[held_out] - 1, noisy[held_out]),
        "test": (tested - 1, clean(tested)),
    }


def compare(
    work: Work[ChebyshevConfig], net: Net, data: dict[str, tuple[Tensor, Tensor]], drawn: bool
) -> dict[str, Any]:
    """Choose settings on noisy validation points, train anew with each seed, test on clean points."""
    errors = {}
    for variant, rate in product(net.variants, net.rates):
        torch.manual_seed(1000)
        model = net.variants[variant]()
        train(model, data["train"], rate, work.config.steps // 2)
        errors[variant, rate] = mse(model, data["val"])
        work.advance()
    variant, rate = min(errors, key=lambda key: errors[key])
    runs = []
    for seed in range(work.config.seeds):
        torch.manual_seed(seed)
        model = net.variants[variant]()
        start = time.perf_counter()
        train(model, data["train"], rate, work.config.steps)
        seconds = time.perf_counter() - start
        runs.append({**{name: mse(model, data[name]) for name in ("test", "train", "val")}, "s": seconds})
        work.advance()
    found = {
        "variant": variant,
        "learning_rate": rate,
        "trials": len(errors),
        "parameters": count_parameters(model),
        "runs": runs,
    }
    if drawn:
        values = model(torch.cartesian_prod(*[torch.linspace(-1, 1, 120)] * 2)).detach()
        found["drawn"] = values.flatten().mul(1000).round().int().tolist()
    return found


def markdown(record: dict[str, Any]) -> str:
    """Mean square errors, mean over seeds."""
    lines = [
        "| net | parameters | chosen | test MSE, clean | train MSE, noisy | seconds |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for name, net in record["nets"].items():
        means = {key: sum(run[key] for run in net["runs"]) / len(net["runs"]) for key in ("test", "train", "s")}
        worst = max(run["test"] for run in net["runs"])
        lines.append(
            f"| {name} | {net['parameters']:,} | {net['variant']}, rate {net['learning_rate']:g} of {net['trials']} "
            f"trials | {means['test']:.4f} (worst {worst:.4f}) | {means['train']:.4f} | {means['s']:.0f} |"
        )
    return "\n".join([*lines, "", f"Means over {record['config']['seeds']} seeds; noise alone has MSE {NOISE**2:g}."])


def draw(record: dict[str, Any]) -> Figure:
    """The function and what nets made of it."""
    shown = {name: net for name, net in record["nets"].items() if "drawn" in net}
    pictures = {"the function, without noise": clean(torch.cartesian_prod(*[torch.linspace(0, 2, 120)] * 2))[:, 0]}
    pictures |= {f"{name}\n{net['variant']}": torch.tensor(net["drawn"]) / 1000 for name, net in shown.items()}
    figure = new_figure((3.4 * len(pictures), 3.7), layout=None, dpi=110)
    axes = figure.subplots(1, len(pictures), squeeze=False)
    low, high = pictures["the function, without noise"].aminmax()
    for axis, (title, values) in zip(axes[0], pictures.items(), strict=True):
        image = axis.imshow(
            values.reshape(120, 120).T.numpy(), origin="lower", extent=(0, 2, 0, 2), vmin=low, vmax=high, cmap="cividis"
        )
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("x")
    axes[0, 0].set_ylabel("y")
    figure.tight_layout()
    figure.colorbar(image, ax=axes[0].tolist(), shrink=0.7, label="z")
    return figure


STUDY = Study(
    name="chebyshev",
    description=__doc__,
    config=ChebyshevConfig,
    quick={"steps": 20, "seeds": 1},
    stages=(cells,),
    table=markdown,
    draw=draw,
)


def main() -> None:
    """Train, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
