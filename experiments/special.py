"""The special functions of the KAN paper, beside MLPs fitted as hard: ``python -m experiments.special``.

Each KAN is fitted by the defaults of ``convkan.fitting``: Levenberg–Marquardt, several starts on a coarse grid, the
best carried on to finer ones, grids that follow their inputs. The same fit with one left out says what it is worth.
MLPs have as many parameters and the same optimiser, and each kind of them as many random starts as the KAN's time
allows; that which is best on the validation points is taken. Functions: ``experiments.functions.special``.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from matplotlib.figure import Figure

from convkan.interpret.plot import BLUE, GREY, ORANGE, new_figure
from experiments.common.cli import GOES_ON, UserError, check_positive, run
from experiments.common.study import Cell, Study, Work
from experiments.functions.least_squares import fitted
from experiments.functions.nets import kan
from experiments.functions.rivals import KINDS, best_mlp
from experiments.functions.special import SPECIAL, Extent, special_data

WIDTHS = (2, 3, 3, 1)
# What is left out of the KAN's fit, by what it is called.
VARIANTS: dict[str, dict[str, Any]] = {
    "KAN": {},
    "grids left where they are": {"adapt": False},
    "one start": {"restarts": 1, "carried": 1},
    "no smoothness": {"smoothness": 0.0},
}


@dataclass(frozen=True)
class SpecialConfig:
    """What to fit, and how long.

    Attributes:
        functions: Names of functions, or "all".
        domain: "unit", [0, 1]², which the published figures are taken to be of; or "wide", which is ours and harder.
        grids: Sizes of the grids, a stage each as long as they help.
        steps: Levenberg–Marquardt steps a stage.
        starts: Random starts of the KAN; half of them are carried on.
        points: Points to train on; a part of them decides when to stop.
        seeds: Runs of each function.
        ablation: Fit with one thing left out, too.
        threads: CPU threads.
        out: Folder for the record and the picture.
        quick: A minute's version: one function, one seed, few steps.
    """

    functions: list[str] = field(default_factory=lambda: ["all"])
    domain: Extent = "unit"
    grids: list[int] = field(default_factory=lambda: [3, 5, 10, 20])
    steps: int = 60
    starts: int = 3
    points: int = 1000
    seeds: int = 3
    ablation: bool = True
    threads: int = 1
    out: str = "runs/special"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "steps", "starts", "points", "seeds", "threads")


def complete(config: SpecialConfig) -> SpecialConfig:
    """The configuration with every function by its name.

    Raises:
        UserError: One does not exist.
    """
    names = list(SPECIAL) if config.functions == ["all"] else config.functions
    unknown = [name for name in names if name not in SPECIAL]
    if unknown:
        raise UserError(f"functions must be among {', '.join(SPECIAL)}, or all; got {', '.join(unknown)}")
    return replace(config, functions=names)


def cells(work: Work[SpecialConfig]) -> Iterator[Cell]:
    """The KAN, what it is without one thing, and the MLP, for each function and seed."""
    config = work.config
    variants = VARIANTS if config.ablation else {"KAN": {}}
    for name, seed in product(config.functions, range(config.seeds)):
        for variant, change in variants.items():
            yield Cell(
                f"{name}, {variant}, seed {seed}",
                partial(kan_row, config, name, seed, change),
                ("nets", name, variant, seed),
            )
        yield Cell(f"{name}, MLP, seed {seed}", partial(mlp_row, work, name, seed), ("nets", name, "MLP", seed))


def kan_row(config: SpecialConfig, name: str, seed: int, change: dict[str, Any]) -> dict[str, Any]:
    """A KAN on finer and finer grids."""
    torch.manual_seed(seed)
    return fitted(
        kan(WIDTHS, config.grids[0]),
        special_data(name, config.points, seed, config.domain),
        config.steps,
        seed,
        **{"grids": config.grids, "restarts": config.starts, "carried": (config.starts + 1) // 2} | change,
    )


def mlp_row(work: Work[SpecialConfig], name: str, seed: int) -> dict[str, Any]:
    """The best of all kinds of MLP, each given the time of the KAN of this seed, a start the steps of all stages."""
    config, of_kan = work.config, work.record["nets"][name]["KAN"][seed]
    steps = config.steps * (len(config.grids) + 1)  # the first grid is two stages
    data, kinds = special_data(name, config.points, seed, config.domain), KINDS[: 1 if config.quick else None]
    return best_mlp(data, of_kan["parameters"], of_kan["seconds"], steps, seed, kinds)


def middle(record: dict[str, Any], name: str, net: str) -> float:
    """The median test error of a net on a function."""
    return statistics.median(row["test_rmse"] for row in record["nets"][name][net])


def markdown(record: dict[str, Any]) -> str:
    """Median test RMSE of every net, beside what was published where domains may be compared."""
    names, config = list(record["nets"]), record["config"]
    nets, unit = list(record["nets"][names[0]]), config["domain"] == "unit"
    more = " paper, KAN / MLP | KANbeFair, KAN |" if unit else " domain |"
    lines = [
        f"| function | {' | '.join(nets)} | worst KAN | parameters |{more}",
        f"| --- |{' ---: |' * len(nets)} ---: | ---: |{' --- | --- |' if unit else ' --- |'}",
    ]
    for name in names:
        about, rows = SPECIAL[name], record["nets"][name]["KAN"]
        errors = [f"{middle(record, name, net):.1e}" for net in nets]
        errors.append(f"{max(row['test_rmse'] for row in rows):.1e}")
        size = f"{statistics.median(row['parameters'] for row in rows):.0f}"
        fair = "" if about.kanbefair is None else f"{about.kanbefair:.1e}"
        ends = " × ".join(f"[{low:.3g}, {high:.3g}]" for low, high in about.domain(config["domain"]))
        last = [f"{about.kan:.1e} / {about.mlp:.1e}", fair] if unit else [ends]
        lines.append(f"| {' | '.join([name, *errors, size, *last])} |")
    return "\n".join([*lines, "", *summary(record)])


def summary(record: dict[str, Any]) -> list[str]:
    """What was done and what came of it, in sentences."""
    names, config = list(record["nets"]), record["config"]
    errors = {name: middle(record, name, "KAN") for name in names}
    wins = sum(errors[name] < middle(record, name, "MLP") for name in names)
    worst = [max(row["test_rmse"] for row in record["nets"][name]["KAN"]) / errors[name] for name in names]
    wheres = {"unit": "[0, 1]², the second argument of yv and kv from 0.1", "wide": "the wide domains"}
    said = [
        f"Median test RMSE of {config['seeds']} seeds, {config['points']} points on {wheres[config['domain']]}. KANs "
        f"{list(WIDTHS)} of {config['starts']} starts, their grid chosen on validation points; MLPs of as many "
        "parameters, each of four kinds for all of the KAN's time. "
        f"The KAN has the smaller error on {wins} of {len(names)}; its worst seed is {max(worst):.1f} times its median "
        "at most."
    ]
    if config["domain"] == "unit":
        published = [min(SPECIAL[name].kan, SPECIAL[name].kanbefair or SPECIAL[name].kan) for name in names]
        met = sum(errors[name] <= best for name, best in zip(names, published, strict=True))
        said += [
            "",
            f"On {met} of {len(names)} it is at or below the smaller of the published errors of KANs. The paper does "
            "not state its domains, and chose shapes function by function.",
        ]
    for variant in VARIANTS:
        if variant != "KAN" and variant in record["nets"][names[0]]:
            ratios = [middle(record, name, variant) / errors[name] for name in names]
            share = statistics.geometric_mean(ratios)
            said += ["", f"With {variant}: {share:.2g} times the error, in the geometric mean over functions."]
    return said


def draw(record: dict[str, Any]) -> Figure:
    """Errors of KAN, MLP and the paper's KAN, a place each function."""
    names = list(record["nets"])
    figure = new_figure((max(5.0, 0.8 * len(names) + 2), 4))
    axis = figure.subplots()
    places = range(len(names))
    shown = [
        ("KAN", BLUE, [middle(record, name, "KAN") for name in names]),
        ("MLPs of equal size", ORANGE, [middle(record, name, "MLP") for name in names]),
    ]
    if record["config"]["domain"] == "unit":
        shown.append(("the paper's KAN", GREY, [SPECIAL[name].kan for name in names]))
    for label, color, errors in shown:
        axis.semilogy(places, errors, "o", color=color, label=label)
    axis.set_xticks(list(places), names, rotation=60, ha="right", fontsize=8)
    axis.set_ylabel("test RMSE")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


STUDY = Study(
    name="special",
    description=__doc__,
    config=SpecialConfig,
    quick={
        "functions": ["lpmv0"],
        "grids": [3, 6],
        "steps": 8,
        "starts": 2,
        "points": 150,
        "seeds": 1,
        "ablation": False,
    },
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
