"""Learn five bumps one after the other, with KANs and MLPs: ``python -m experiments.continual``.

Each stage shows only the inputs around one Gaussian bump. A spline changes where it is trained and nowhere else, so a
KAN keeps the earlier bumps; an MLP forgets them. Source: Liu et al., "KAN" (arXiv 2404.19756), sec. 3.4.
"""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from convkan.interpret.plot import GREY, ORANGE, SKY, new_figure
from experiments.common.cli import GOES_ON, check_positive, run
from experiments.common.counting import count_parameters
from experiments.common.study import Cell, Study, Work
from experiments.functions.least_squares import rmse
from experiments.functions.nets import kan, mlp_of_size

BUMPS = 5
WIDTH = 300.0  # exp(−300·(x − centre)²)
DENSE = 5000
RATES = (1e-4, 1e-3, 1e-2, 3e-2)


@dataclass(frozen=True)
class ContinualConfig:
    """How to train.

    Attributes:
        grid_size: Intervals of the KAN's grid.
        points: Points of each stage.
        steps: Full-batch Adam steps a stage, at the best of several rates.
        seeds: Runs of each net.
        out: Folder for the record and the picture.
        quick: A few seconds' version.
    """

    grid_size: int = 200
    points: int = 100
    steps: int = 2000
    seeds: int = 3
    out: str = "runs/continual"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "grid_size", "points", "steps", "seeds")


def target(x: Tensor) -> Tensor:
    """The five bumps on [−1, 1]."""
    centres = torch.linspace(-0.8, 0.8, BUMPS, dtype=x.dtype)
    return torch.exp(-WIDTH * (x - centres) ** 2).sum(1, keepdim=True)


def stage_points(stage: int, points: int) -> Tensor:
    """The inputs of a stage: a fifth of [−1, 1]."""
    width = 2 / BUMPS
    low = -1 + stage * width
    return torch.linspace(low, low + width, points, dtype=torch.float64).unsqueeze(1)


@dataclass
class Learned:
    """How a net went through the five stages.

    Attributes:
        rmse_after_stage: Error over all five bumps after each stage.
        rmse_of_stage: Error on the points of each stage right after it.
        drawn: What the net draws after each stage.
        parameters: Its size.
    """

    rmse_after_stage: list[float]
    rmse_of_stage: list[float]
    drawn: list[list[float]]
    parameters: int


def learn(
    create: Callable[[], nn.Module], rate: float, steps: int, points: int, advance: Callable[[], None]
) -> Learned:
    """Take a net through the five stages."""
    model = create()
    everywhere = torch.linspace(-1, 1, DENSE, dtype=torch.float64).unsqueeze(1)
    found = Learned([], [], [], count_parameters(model))
    for stage in range(BUMPS):
        x = stage_points(stage, points)
        y = target(x)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
            schedule.step()
        found.rmse_of_stage.append(rmse(model, (x, y)))
        found.rmse_after_stage.append(rmse(model, (everywhere, target(everywhere))))
        with torch.no_grad():
            found.drawn.append(model(everywhere)[::10, 0].tolist())
        advance()
    return found


def nets_of(config: ContinualConfig) -> dict[str, Callable[[], nn.Module]]:
    """How each net is made."""
    size = count_parameters(kan_of(config.grid_size))
    return {
        f"KAN [1, 1], G = {config.grid_size}": lambda: kan_of(config.grid_size),
        "MLP, SiLU, equal size": lambda: mlp_of_size(1, 1, 2, "silu", size),
        "MLP, tanh, equal size": lambda: mlp_of_size(1, 1, 2, "tanh", size),
        "MLP, SiLU, 10⁴ parameters": lambda: mlp_of_size(1, 1, 2, "silu", 10_000),
    }


def cells(work: Work[ContinualConfig]) -> Iterator[Cell]:
    """One for each net, which the record has under one name or under two."""
    rates = RATES[-2:-1] if work.config.quick else RATES
    known = work.record.setdefault("nets", {})
    for name, create in nets_of(work.config).items():
        done = any(key == name or key.startswith(f"{name}, rate ") for key in known)
        steps = len(rates) * work.config.seeds * BUMPS
        yield Cell(name, partial(learn_at_rates, work, name, create, rates), None, steps, done)


def learn_at_rates(
    work: Work[ContinualConfig], name: str, create: Callable[[], nn.Module], rates: Sequence[float]
) -> None:
    """Take a net through the stages at every rate, and note it with the rates that serve it best."""
    config = work.config
    by_rate: dict[float, list[Learned]] = {rate: [] for rate in rates}
    for rate, runs in by_rate.items():
        for seed in range(config.seeds):
            torch.manual_seed(seed)
            runs.append(learn(create, rate, config.steps, config.points, work.advance))
    # Each net is shown twice: with the rate that serves it best in the end, and with the one that learns each stage
    # best, which for nets that forget is another.
    chosen = {
        "best in the end": min(rates, key=lambda rate: sum(run.rmse_after_stage[-1] for run in by_rate[rate])),
        "best at each stage": min(rates, key=lambda rate: sum(sum(run.rmse_of_stage) for run in by_rate[rate])),
    }
    for why, rate in chosen.items():
        if rate == chosen["best in the end"] and why != "best in the end":
            continue
        work.record["nets"][f"{name}, rate {why}" if len(set(chosen.values())) > 1 else name] = {
            "learning_rate": rate,
            "parameters": by_rate[rate][0].parameters,
            "rmse_after_stage": [run.rmse_after_stage for run in by_rate[rate]],
            "rmse_of_stage": [run.rmse_of_stage for run in by_rate[rate]],
            "drawn": by_rate[rate][0].drawn,
        }


def kan_of(grid_size: int) -> nn.Sequential:
    """One edge, from 0 everywhere: what it is not shown, it leaves."""
    model = kan([1, 1], grid_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for layer in model:
        layer.base_weight.requires_grad_(False)  # the base is not local
    return model


def markdown(record: dict[str, Any]) -> str:
    """RMSE over all five bumps after each stage, and on each stage's own points right after it; means over seeds."""
    heads = ["net", "parameters", "rate", "of each stage", *(f"after {stage}" for stage in range(1, BUMPS + 1))]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for name, net in record["nets"].items():
        means = torch.tensor(net["rmse_after_stage"]).mean(0).tolist()
        own = torch.tensor(net["rmse_of_stage"]).mean().item()
        cells = [
            name,
            f"{net['parameters']:,}",
            f"{net['learning_rate']:g}",
            f"{own:.1e}",
            *(f"{error:.1e}" for error in means),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = "RMSE on the points of each stage right after it, and over all five bumps after each stage."
    return "\n".join([*lines, "", note])


def draw(record: dict[str, Any]) -> Figure:
    """What each net draws after each stage, above the target."""
    nets = record["nets"]
    figure = new_figure((12, 1.6 * len(nets) + 0.6), dpi=110)
    axes = figure.subplots(len(nets), BUMPS, sharex=True, sharey=True, squeeze=False)
    x = torch.linspace(-1, 1, DENSE, dtype=torch.float64).unsqueeze(1)
    wanted = target(x)[:, 0]
    for row, (name, net) in enumerate(nets.items()):
        for stage, axis in enumerate(axes[row]):
            low = -1 + stage * 2 / BUMPS
            axis.axvspan(low, low + 2 / BUMPS, color=SKY, alpha=0.25, linewidth=0)
            axis.plot(x[:, 0], wanted, color=GREY, linewidth=1)
            axis.plot(x[::10, 0], net["drawn"][stage], color=ORANGE, linewidth=1.2)
            axis.set_ylim(-0.5, 1.5)
            if row == 0:
                axis.set_title(f"after stage {stage + 1}", fontsize=9)
        axes[row, 0].set_ylabel(textwrap.fill(name, 28), fontsize=6)
    figure.suptitle("Five bumps, one stage each (shaded): target grey, net orange", fontsize=10)
    return figure


STUDY = Study(
    name="continual",
    description=__doc__,
    config=ContinualConfig,
    quick={"steps": 30, "seeds": 1},
    stages=(cells,),
    table=markdown,
    draw=draw,
)


def main() -> None:
    """Train, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
