"""The Feynman formulas, fitted by KANs and by MLPs as hard: ``python -m experiments.feynman``.

Each formula is fitted by a KAN of one of two small shapes, by the defaults of ``convkan.fitting``: Levenberg–Marquardt,
on a coarse grid first, on finer ones while they help; of some random starts of either shape, the one with the least
error on the validation points after a few steps goes on. MLPs have as many parameters as that, the same optimiser and,
four kinds together, the time of the KANs, for as many random starts as it allows; the best on the validation points is
taken. Both are given inputs scaled to [−1, 1] and values of
mean 0 and standard deviation 1. The KAN paper's 27 dimensionless formulas have several seeds and, once, the shape that
the paper made by hand. The budget is small, eight seconds of one CPU thread for either side, so that all formulas take
some 45 minutes; most KANs are done before, and their MLPs are given the time that they took. Of 1,177 points 1,000 are
fitted, as many as in pykan's examples; with half of them MLPs were ahead, since a fine grid wants points in all its
intervals. Formulas: ``experiments.functions.feynman``.
"""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite, log10
from typing import Any

from matplotlib.figure import Figure

from convkan.interpret.plot import BLUE, GREY, ORANGE, new_figure
from experiments.common.cli import GOES_ON, UserError, check_positive, run
from experiments.common.study import Cell, Study, Work
from experiments.functions.feynman import FORMULAS, Formula, feynman_data
from experiments.functions.least_squares import best_kan
from experiments.functions.rivals import KINDS, best_mlp
from experiments.functions.tasks import Data

HIDDEN = ((5,), (4, 2))  # widths between the inputs and the output, to choose from
BY_HAND = "KAN, by hand"
POOR = 0.1  # of the standard deviation: an error above is a failure
LEAST = 1e-16  # an error below is rounding


@dataclass(frozen=True)
class FeynmanConfig:
    """What to fit, and how long.

    Attributes:
        functions: Names of formulas, or "all"; a star behind it is the dimensionless form.
        paper: Only the KAN paper's dimensionless ones.
        seconds: Time of the KANs of a formula and seed, and of its MLPs.
        grids: Sizes of the grids, a stage each as long as they help.
        starts: Random starts of each shape of a KAN.
        first_steps: Levenberg–Marquardt steps after which the best of them is chosen.
        steps: Steps a stage at most from then on; an MLP's start has those of all stages together.
        points: Points to train on; 15 % of them decide when to stop, and which net is taken.
        seeds: Runs of each dimensionless formula; the others have one.
        by_hand: Fit the shape that the paper made by hand, too, with one seed.
        threads: CPU threads.
        out: Folder for the record and the picture.
        quick: A version of seconds: two formulas, one seed.
    """

    functions: list[str] = field(default_factory=lambda: ["all"])
    paper: bool = False
    seconds: float = 8.0
    grids: list[int] = field(default_factory=lambda: [3, 5, 10, 20])
    starts: int = 4
    first_steps: int = 20
    steps: int = 60
    points: int = 1177
    seeds: int = 3
    by_hand: bool = True
    threads: int = 1
    out: str = "runs/feynman"
    quick: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "starts", "first_steps", "steps", "points", "seeds", "threads")
        if not self.seconds > 0:
            raise ValueError(f"seconds must be above 0, got {self.seconds}")


def complete(config: FeynmanConfig) -> FeynmanConfig:
    """The configuration with every formula by its name.

    Raises:
        UserError: One does not exist, or none is left.
    """
    names = list(FORMULAS) if config.functions == ["all"] else config.functions
    unknown = [name for name in names if name not in FORMULAS]
    if unknown:
        raise UserError(f"functions must be among {', '.join(FORMULAS)}, or all; got {', '.join(unknown)}")
    names = [name for name in names if FORMULAS[name].paper or not config.paper]
    if not names:
        raise UserError("functions must name dimensionless formulas, with a star, where paper is set; got none")
    return replace(config, functions=names)


def cells(work: Work[FeynmanConfig]) -> Iterator[Cell]:
    """The KAN, the MLP and the KAN made by hand, for each formula and seed; the paper's first."""
    config = work.config
    for name in sorted(config.functions, key=lambda name: FORMULAS[name].paper is None):
        of_paper = FORMULAS[name].paper
        for seed in range(config.seeds if of_paper else 1):
            nets = {"KAN": partial(kan_row, config, name, seed), "MLP": partial(mlp_row, work, name, seed)}
            if of_paper and config.by_hand and not seed:
                nets[BY_HAND] = partial(kan_row, config, name, seed, [of_paper.widths])
            for net, row in nets.items():
                yield Cell(f"{name}, {net}, seed {seed}", row, ("nets", name, net, seed))


def kan_row(
    config: FeynmanConfig, name: str, seed: int, shapes: Sequence[tuple[int, ...]] | None = None
) -> dict[str, Any]:
    """The KAN of the best of some shapes; by default, of those that are tried for every formula."""
    data, unit, _ = feynman_data(name, config.points, seed)
    if not is_finite(data):
        return {"failure": "a value is not finite"}
    if shapes is None:
        shapes = [(data.train[0].shape[1], *hidden, 1) for hidden in HIDDEN]
    starts = {"starts": config.starts, "first_steps": config.first_steps}
    row = best_kan(data, shapes, config.grids, config.steps, seed, seconds=config.seconds, **starts)
    return in_units(row, data, unit)


def mlp_row(work: Work[FeynmanConfig], name: str, seed: int) -> dict[str, Any]:
    """The best of all kinds of MLP of the KAN's size, together given the time of the KANs of this seed."""
    config, of_kan = work.config, work.record["nets"][name]["KAN"][seed]
    if "failure" in of_kan:
        return {"failure": of_kan["failure"]}
    data, unit, _ = feynman_data(name, config.points, seed)
    each, steps = of_kan["seconds"] / len(KINDS), config.steps * (len(config.grids) + 1)  # the first grid is two stages
    return in_units(best_mlp(data, of_kan["parameters"], each, steps, seed), data, unit)


def is_finite(data: Data) -> bool:
    """Whether all values are numbers."""
    return all(bool(y.isfinite().all()) for _, y in (data.train, data.val, data.test))


def in_units(row: dict[str, Any], data: Data, unit: float) -> dict[str, Any]:
    """A row with its test error in the formula's own units and relative to the test values' standard deviation."""
    error = row.pop("test_rmse")
    relative = error / float(data.test[1].std())
    return row | {"test_rmse": error * unit, "relative": relative}


def middle(record: dict[str, Any], name: str, net: str, what: str = "relative") -> float | None:
    """The median over seeds of a net's error on a formula; None where it was not fitted."""
    errors = [row[what] for row in record["nets"][name].get(net, []) if "failure" not in row]
    return statistics.median(errors) if errors else None


def ratio(record: dict[str, Any], name: str) -> float | None:
    """log₁₀ of the KAN's error over the MLP's; None where either was not fitted."""
    ours, theirs = middle(record, name, "KAN"), middle(record, name, "MLP")
    if ours is None or theirs is None or not isfinite(ours) or not isfinite(theirs):
        return None
    return log10(max(ours, LEAST) / max(theirs, LEAST))


def groups(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The ratios of the formulas as they are and of the dimensionless ones, each group sorted from the KAN's best."""
    ratios = {name: found for name in record["nets"] if (found := ratio(record, name)) is not None}
    in_order = dict(sorted(ratios.items(), key=lambda pair: pair[1]))
    parted = {
        "formulas with dimensions": {name: found for name, found in in_order.items() if not FORMULAS[name].paper},
        "dimensionless formulas": {name: found for name, found in in_order.items() if FORMULAS[name].paper},
    }
    return {title: found for title, found in parted.items() if found}


def fits(record: dict[str, Any], net: str) -> list[dict[str, Any]]:
    """The rows of a net that was fitted, of all formulas and seeds."""
    return [row for nets in record["nets"].values() for row in nets.get(net, []) if "failure" not in row]


def failures(record: dict[str, Any], net: str) -> dict[str, str]:
    """The formulas that a net did not learn, and why."""
    found = {}
    for name, nets in record["nets"].items():
        error = middle(record, name, net)
        if error is None:
            found[name] = nets[net][0]["failure"]
        elif not error <= POOR:
            found[name] = f"RMSE {error:.2g} of the standard deviation"
    return found


def summary(record: dict[str, Any]) -> str:
    """Who has the smaller errors, in a row for each group, and what was not learned."""
    lines = [
        "| group | fitted | KAN's error smaller | by 10 times | MLP's, by 10 times | median log₁₀ KAN / MLP "
        "| median error, KAN | MLP |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for title, ratios in groups(record).items():
        wins, far = sum(one < 0 for one in ratios.values()), sum(one <= -1 for one in ratios.values())
        lost = sum(one >= 1 for one in ratios.values())
        errors = [
            statistics.median([found for name in ratios if (found := middle(record, name, net)) is not None])
            for net in ("KAN", "MLP")
        ]
        lines.append(
            f"| {title} | {len(ratios)} | {wins} | {far} | {lost} | {statistics.median(ratios.values()):+.2f} "
            f"| {errors[0]:.1e} | {errors[1]:.1e} |"
        )
    config, seeds = record["config"], record["config"]["seeds"]
    steps = {net: statistics.median(row["steps"] for row in fits(record, net)) for net in ("KAN", "MLP")}
    grids = Counter(row["grid_size"] for row in fits(record, "KAN"))
    lines += [
        "",
        f"Test RMSE relative to the standard deviation of the values; {config['points']} points, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'} of the dimensionless, of which medians are taken, and one of the "
        f"others. {config['seconds']:g} s of a thread for the KANs of {len(HIDDEN)} shapes together, and for the MLPs "
        f"of {len(KINDS)} kinds together, which have as many parameters. Those that were taken made, in the median, "
        f"{steps['KAN']:g} steps (KAN) and {steps['MLP']:g} (MLP); KANs ended on grids of "
        f"{', '.join(f'{size} ({grids[size]} times)' for size in sorted(grids))}.",
    ]
    for net in ("KAN", "MLP"):
        told = "; ".join(f"{name} ({why})" for name, why in failures(record, net).items())
        lines += ["", f"Not learned by the {net} (error above {POOR:g} of the standard deviation): {told or 'none'}."]
    return "\n".join(lines)


def markdown(record: dict[str, Any]) -> str:
    """The summary, and a row for each formula, from the KAN's best to the MLP's best."""
    lines = [summary(record)]
    for title, ratios in groups(record).items():
        starred = title.startswith("dimensionless")
        more = " by hand | paper's KAN / MLP, RMSE |" if starred else ""
        lines += [
            "",
            f"| {title} | | log₁₀ KAN / MLP | KAN | MLP | KAN, RMSE | MLP, RMSE | shape | parameters |{more}",
            f"| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |{' ---: | ---: |' if starred else ''}",
        ]
        lines += [table_row(record, FORMULAS[name], found) for name, found in ratios.items()]
    return "\n".join(lines)


def table_row(record: dict[str, Any], formula: Formula, found: float) -> str:
    """A formula's row."""
    first = record["nets"][formula.name]["KAN"][0]
    both = [(net, what) for what in ("relative", "test_rmse") for net in ("KAN", "MLP")]
    errors = [f"{middle(record, formula.name, net, what):.1e}" for net, what in both]
    parts = [formula.name, f"`{formula.text}`", f"{found:+.2f}", *errors, str(first["kind"]), str(first["parameters"])]
    if formula.paper:
        by_hand = middle(record, formula.name, BY_HAND)
        parts += ["" if by_hand is None else f"{by_hand:.1e}", f"{formula.paper.kan:.1e} / {formula.paper.mlp:.1e}"]
    return f"| {' | '.join(parts)} |"


def draw(record: dict[str, Any]) -> Figure:
    """The KAN's error against the MLP's, a dot each formula."""
    figure = new_figure((6, 6))
    axis = figure.subplots()
    ends: list[float] = []
    for (title, ratios), color in zip(groups(record).items(), (BLUE, ORANGE), strict=False):
        dots = [[max(middle(record, name, net) or 0, LEAST) for name in ratios] for net in ("MLP", "KAN")]
        wins = sum(one < 0 for one in ratios.values())
        axis.loglog(
            *dots, "o", color=color, alpha=0.7, markersize=5, label=f"{title}: KAN better on {wins} of {len(ratios)}"
        )
        ends += [*dots[0], *dots[1]]
        names = list(ratios)
        for name in {*names[:3], *names[-3:]}:
            x, y = (max(middle(record, name, net) or 0, LEAST) for net in ("MLP", "KAN"))
            axis.annotate(name, (x, y), fontsize=6, color=GREY, xytext=(4, 3), textcoords="offset points")
    both = [min(ends, default=1e-3) / 2, max(ends, default=1.0) * 2]
    axis.plot(both, both, color=GREY, linewidth=1)
    axis.set_xlim(*both)
    axis.set_ylim(*both)
    axis.set_xlabel("error of the MLP of equal size and time")
    axis.set_ylabel("error of the KAN")
    axis.set_title("Test RMSE relative to the standard deviation; below the line the KAN is better", fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper left")
    return figure


STUDY = Study(
    name="feynman",
    description=__doc__,
    config=FeynmanConfig,
    quick={"functions": ["I.12.1", "II.38.3*"], "seconds": 0.1, "grids": [3, 5], "points": 100, "seeds": 1},
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
