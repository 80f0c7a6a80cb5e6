"""Find formulas in trained KANs: ``python -m experiments.symbolic``.

A net [2, 5, 1] learns exp(sin πx + y²) as in the KAN paper (Liu et al., arXiv 2404.19756, sec. 2.5): trained with the
paper's regulariser, pruned to [2, 1, 1], trained on, on a finer grid, its edges replaced by the named functions they
resemble, and these trained. And a convolution learns another one from noisy data, whose taps are named functions.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from convkan import KANConv2d
from convkan.basis import BSpline
from convkan.interpret import curves, formula, formula_error, suggest
from convkan.interpret.plot import AMBER, BLUE, new_figure
from convkan.interpret.symbolic import recognized
from convkan.regularization import total_smoothness
from experiments.common.cli import GOES_ON, check_positive, run
from experiments.common.study import Cell, Study, Work
from experiments.functions.formulas import GRIDS, discover
from experiments.functions.planted import KERNEL, PLANTED, named_right, noisy_images, planted
from experiments.functions.tasks import TASKS, data_of

WIDTHS = (2, 5, 1)
TOLERATED = 1e-8  # RMSE of a formula that is exact


@dataclass(frozen=True)
class SymbolicConfig:
    """How to look for formulas.

    Attributes:
        seeds: Runs of each experiment.
        starts: Random starts of the first net at most; further ones only while validation points are not met.
        points: Points to train the first net on; a part of them decides among starts, and when to stop.
        steps: Steps of Levenberg–Marquardt after each change of the net.
        images: Images of 16 × 16 pixels to train the convolution on.
        noise: Noise in the convolution's targets, relative to their standard deviation.
        grid_size: Of the convolution.
        smoothness: Weight of the penalty on bends in the convolution's loss.
        out: Folder for the record, the table and the picture.
        quick: A few seconds' version: one seed, few starts and images.
    """

    seeds: int = 5
    starts: int = 8
    points: int = 1000
    steps: int = 60
    images: int = 256
    noise: float = 0.05
    grid_size: int = 12
    smoothness: float = 1e-5
    out: str = "runs/symbolic"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "starts", "points", "steps", "images", "grid_size")


def pipeline(seed: int, config: SymbolicConfig) -> dict[str, Any]:
    """Starts until one meets the validation points, and what the best of them has found."""
    import sympy

    data = data_of(TASKS["exp_sin"], config.points, seed)
    tried: list[tuple[nn.Module, dict[str, Any]]] = []
    for start in range(config.starts):
        found, row = discover(data, WIDTHS, 100 * seed + start, config.steps, most=1)
        tried.append((found, {"start": start, **row}))
        if tried[-1][1]["val_rmse"] <= TOLERATED:
            break
    model, best = min(tried, key=lambda pair: pair[1]["val_rmse"])
    result = {"kind": "pipeline", "seed": seed, "starts": [row for _, row in tried], **best, "exact": False}
    if best["val_rmse"] == float("inf"):
        return result | {"val_rmse": None}
    x, y = sympy.symbols("x y")
    seen = data.train[0]
    exactly = recognized(formula(model, [x, y], output=0, data=seen))
    return result | {
        "formula": str(formula(model, [x, y], output=0, digits=4, data=seen)),
        "formula_error": formula_error(model, data.test[0]),
        "recognized": str(exactly),
        "latex": sympy.latex(exactly),
        "exact": bool(exactly == sympy.exp(sympy.sin(sympy.pi * x) + y**2)),
    }


def convolution(seed: int, config: SymbolicConfig) -> dict[str, Any]:
    """Learn the planted convolution from noisy data, and name its taps."""
    x, y = noisy_images(config.images, config.noise, seed)
    torch.manual_seed(seed)
    layer = KANConv2d(1, 1, KERNEL, basis=BSpline(config.grid_size), base_activation=None, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, history_size=50, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        value = (layer(x) - y).square().mean() + config.smoothness * total_smoothness(layer)
        torch.autograd.backward(value)
        return value.item()

    optimizer.step(loss)
    with torch.no_grad():
        drawn = curves(layer, num_points=201)
    places = drawn.x[0]
    taps = []
    for (_, _, row, column), found in suggest(layer, x=x).items():
        learned, target = drawn.total[0, 0, :, row, column], planted(KERNEL * row + column, places)
        learned, target = learned - learned.mean(), target - target.mean()  # taps exchange constants
        r2 = 1 - float((learned - target).square().sum() / target.square().sum())
        taps.append(
            {
                "planted": PLANTED[KERNEL * row + column][0],
                "r2": r2,
                "suggested": [asdict(one) for one in found],
                "learned": learned.tolist(),
                "target": target.tolist(),
            }
        )
    error = float((layer(x) - y).detach().square().mean().sqrt() / y.std())
    return {"kind": "convolution", "seed": seed, "relative_error": error, "x": places.tolist(), "taps": taps}


def cells(work: Work[SymbolicConfig]) -> Iterator[Cell]:
    """One for each experiment and seed."""
    for index, (find, seed) in enumerate(product((convolution, pipeline), range(work.config.seeds))):
        yield Cell(f"{find.__name__}, seed {seed}", partial(find, seed, work.config), ("runs", index))


def runs_of(record: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The runs of one experiment."""
    return [row for row in record["runs"] if row["kind"] == kind]


def markdown(record: dict[str, Any]) -> str:
    """The formulas found, seed by seed, and the functions named, tap by tap."""
    found = runs_of(record, "pipeline")
    lines = [
        "| seed | starts | RMSE, grid 10 | RMSE, formula | formula | exact |",
        "| ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for row in found:
        grid, test = row.get(f"test_rmse_grid_{GRIDS[-1]}"), row.get("test_rmse")
        cells = [
            str(row["seed"]),
            str(len(row["starts"])),
            *("" if one is None else f"{one:.1e}" for one in (grid, test)),
        ]
        lines.append(f"| {' | '.join(cells)} | `{row.get('recognized', 'none')}` | {'yes' if row['exact'] else 'no'} |")
    met = sum(row["exact"] and row["test_rmse"] <= TOLERATED for row in found)
    lines += ["", f"exp(sin πx + y²) found, with a test RMSE of at most {TOLERATED:g}, in {met} of {len(found)} seeds."]
    seeds = runs_of(record, "convolution")
    lines += [
        "",
        "| tap | planted | named first | named right | R², worst seed |",
        "| ---: | --- | --- | ---: | ---: |",
    ]
    for tap in range(KERNEL**2):
        taps = [row["taps"][tap] for row in seeds]
        names = ", ".join(dict.fromkeys(one["suggested"][0]["name"] for one in taps))
        right, worst = sum(named_right(one) for one in taps), min(one["r2"] for one in taps)
        lines.append(f"| {tap} | {taps[0]['planted']} | {names} | {right} of {len(taps)} | {worst:.5f} |")
    noise = record["config"]["noise"]
    lines += [
        "",
        f"Functions planted in a 3 × 3 convolution, learned from targets with {noise:.0%} noise. Sin is cos, shifted.",
    ]
    return "\n".join(lines)


def draw(record: dict[str, Any]) -> Figure:
    """The convolution's functions, learned and planted, below the formula of the first net."""
    row = runs_of(record, "convolution")[0]
    figure = new_figure((8, 8.2), layout=None, dpi=120)
    axes = figure.subplots(KERNEL, KERNEL, sharex=True)
    for axis, tap in zip(axes.flat, row["taps"], strict=True):
        axis.plot(row["x"], tap["target"], color=AMBER, linewidth=4, alpha=0.7, label="planted")
        axis.plot(row["x"], tap["learned"], color=BLUE, linewidth=1.2, label="learned")
        first = tap["suggested"][0]
        a, b, c, _ = first["affine"]
        text = f"{c:.2f}·{first['name']}({a:.2f}x {b + 0.0:+.2f})"
        axis.set_title(f"{tap['planted']}, named {text}\nR² = {tap['r2']:.5f}", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    found = runs_of(record, "pipeline")
    best = min(found, key=lambda one: (not one["exact"], one["seed"]))
    text = f"${best['latex']}$" if "latex" in best else "no formula"
    exact = sum(one["exact"] for one in found)
    note = f"[2, 5, 1] on exp(sin πx + y²), exact in {exact} of {len(found)} seeds: "
    rmse_text = f"   test RMSE {best['test_rmse']:.1e}" if "test_rmse" in best else ""
    figure.suptitle(note + text + rmse_text, fontsize=11)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.03, 1, 0.98))
    figure.legend(handles, labels, loc="lower center", ncols=2, fontsize=8, frameon=False)
    return figure


STUDY = Study(
    name="symbolic",
    description=__doc__,
    config=SymbolicConfig,
    quick={"seeds": 1, "starts": 4, "points": 120, "steps": 25, "images": 24},
    stages=(cells,),
    table=markdown,
    draw=draw,
)


def main() -> None:
    """Look for formulas, record and draw."""
    STUDY.main()


if __name__ == "__main__":
    run(main, GOES_ON)
