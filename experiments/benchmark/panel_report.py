"""From the panel's record to what was won, tables, and a picture for each basis and precision."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, NullFormatter

from convkan.interpret.plot import AMBER, BLUE, GREEN, GREY, ORANGE, SKY, new_figure
from convkan.training import write_atomically
from experiments.benchmark.rows import OTHER_FORMAT
from experiments.benchmark.scores import INFERENCE, TRAINING, Standing, Time, bars_met, rows_won

COLUMNS = {"training step": TRAINING, "inference": INFERENCE}
# Of dots: marker and colour.
MARKS = {
    "obvious way": ("o", ORANGE),
    "Gaussians": ("D", AMBER),
    "floor": ("|", GREEN),
    "plain layer": ("x", GREY),
    "inkan": ("s", BLUE),
    "flashkan": ("^", BLUE),
    "kanditioned": ("v", SKY),
    "torchcurves": ("*", SKY),
    "pykan": ("P", SKY),
}
LEAST, MOST = 1 / 32, 16  # ratios beyond are drawn at the edge


def won_in_short(record: dict[str, Any]) -> str:
    """In how many rows ours is the fastest, in a line."""
    parts = []
    for mode in ("eager", "compiled"):
        for inference, what in ((False, "training steps"), (True, "predictions")):
            won, rows = rows_won(record, mode, inference=inference)
            if rows:
                parts.append(f"{won} of {rows} {what} ({mode})")
    return f"Rows won against the best rival: {', '.join(parts)}." if parts else "No row was held against a rival."


def summary(record: dict[str, Any]) -> str:
    """What was won, and how many of each bar are met."""
    lines = [won_in_short(record), ""]
    lines += ["| ours beside | bar | met |", "| --- | --- | ---: |"]
    lines += [f"| {counted} | ≤ {bar:g} | {met} of {rows} |" for counted, bar, met, rows in bars_met(record)]
    return "\n".join(lines)


def missed(record: dict[str, Any]) -> list[str]:
    """The ratios that miss their bars, the worst first."""
    worse = [ratio for ratio in record["ratios"] if ratio["at_most"] is not None and ratio["value"] > ratio["at_most"]]
    worse.sort(key=lambda ratio: ratio["value"] / ratio["at_most"], reverse=True)
    return [
        f"{ratio['title']}: {ratio['value']:.2f}, at most {ratio['at_most']:g} ({ratio['below']})" for ratio in worse
    ]


def markdown(record: dict[str, Any]) -> str:
    """What was won and missed, then a table for each basis, precision and mode, and the whole models."""
    lines = [summary(record), "", *(f"- {line}" for line in missed(record)), ""]
    lines += [
        "Milliseconds are medians of interleaved samples, on the record's threads unless a row's name ends in its own "
        "(t1, t2). Ratios are ours to the other: below 1, ours is faster. The floor is the plain layer on ready "
        "planes; of it and of ours the better memory format counts. Beside rivals and plain layers, ours is called "
        "with the contiguous input that they have. MB: the most in use during one training step.",
    ]
    layers = [(name, row) for name, row in record["workloads"].items() if row["about"]["layer"] not in WHOLE_MODELS]
    for group, rows in groupby(sorted(layers, key=_group), key=_group):
        lines += ["", f"**{', '.join(group)}**", "", *_layer_lines([row for _, row in rows])]
    models = [row for row in record["workloads"].values() if row["about"]["layer"] in WHOLE_MODELS]
    if models:
        lines += ["", "**whole models**", "", *_model_lines(models)]
    notes = {note: None for row in record["workloads"].values() for note in row["notes"]}
    wrong = [
        f"{name}: {label} is wrong (error {result['error']:.1e}) and takes no part."
        for name, row in record["workloads"].items()
        for label, result in row["results"].items()
        if not result["correct"]
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in [*notes, *wrong]), ""])


WHOLE_MODELS = ("prediction", "training step")


def _group(item: tuple[str, dict[str, Any]]) -> tuple[str, str, str]:
    about = item[1]["about"]
    return about["basis"], about["dtype"], about["mode"]


def _layer_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| row | training step, ms | ÷ best rival | ÷ floor | ÷ plain | MB | inference, ms | ÷ best rival |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for row in rows:
        standing = Standing(row)
        ours, best = standing.ours(TRAINING), standing.ours(TRAINING, any_format=True)
        predicts = standing.ours(INFERENCE)
        cells = [
            row["about"]["size"],
            _milliseconds(ours),
            _beside(ours, standing.rival(TRAINING), named=True),
            _beside(best, standing.floor(TRAINING)),
            _beside(ours, _plain(standing, row, TRAINING)),
            _megabytes(row, ours),
            _milliseconds(predicts),
            _beside(predicts, standing.rival(INFERENCE), named=True),
        ]
        yield f"| {' | '.join(cells)} |"


def _model_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| row | KAN, ms | CNN, ms | KAN ÷ CNN | KAN, MB | CNN, MB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for row in rows:
        part, standing = (INFERENCE if row["about"]["layer"] == "prediction" else TRAINING), Standing(row)
        ours, plain = standing.ours(part), standing.plain(part)
        cells = [f"{row['about']['size']}, {row['about']['mode']}", _milliseconds(ours), _milliseconds(plain)]
        cells += [_beside(ours, plain), _megabytes(row, ours), _megabytes(row, plain)]
        yield f"| {' | '.join(cells)} |"


def _plain(standing: Standing, row: dict[str, Any], part: str) -> Time | None:
    """The plain layer: of activations SiLU, which they contain."""
    return standing.time("nn.SiLU", part) if "activation" in row["about"]["layer"] else standing.plain(part)


def _milliseconds(time: Time | None) -> str:
    return "" if time is None else f"{time.milliseconds:.3g}" if time.milliseconds < 100 else f"{time.milliseconds:.0f}"


def _beside(ours: Time | None, other: Time | None, *, named: bool = False) -> str:
    if ours is None or other is None:
        return ""
    value = ours.milliseconds / other.milliseconds
    text = f"**{value:.2f}**" if named and value > 1 else f"{value:.2f}"
    return f"{text} ({other.label.split(', ')[0]})" if named else text


def _megabytes(row: dict[str, Any], time: Time | None) -> str:
    peak = None if time is None else row["results"][time.label].get("peak_bytes")
    return "" if peak is None else f"{peak / 1e6:.1f}"


def plot(record: dict[str, Any], path: Path) -> list[Path]:
    """A picture for each basis and precision: how long ours takes beside each other, a row a size.

    Returns:
        Where they are: ``path`` for B-splines in float32, and beside it, for others with their names in it.
    """
    layers = {name: row for name, row in record["workloads"].items() if row["about"]["layer"] not in WHOLE_MODELS}
    found = []
    for kind in sorted({_group(item)[:2] for item in layers.items()}):
        rows = [row for item in layers.items() if _group(item)[:2] == kind for row in [item[1]]]
        where = path if kind == ("bspline", "float32") else path.with_stem(f"{path.stem}-{'-'.join(kind)}")
        _plot(rows, f"{kind[0]}, {kind[1]}", where)
        found.append(where)
    return found


def _plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    names = [row["about"]["size"] + (", compiled" * (row["about"]["mode"] == "compiled")) for row in rows]
    figure = new_figure((10, 1.2 + 0.2 * len(rows)), dpi=100)
    axes = figure.subplots(1, len(COLUMNS), sharey=True)
    handles: dict[str, Any] = {}
    for axis, (name, part) in zip(axes, COLUMNS.items(), strict=True):
        for position, row in enumerate(rows):
            _dots(axis, row, part, position, handles)
        axis.set_title(name, fontsize=9)
        axis.set_xscale("log", base=2)
        axis.set_xlim(LEAST / 1.15, MOST * 1.15)
        axis.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}")
        )
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(labelsize=7.5)
        axis.axvline(1, color="black", linewidth=1)
        axis.axvspan(1, MOST * 1.15, color=ORANGE, alpha=0.06, linewidth=0)
        axis.grid(axis="y", color="0.92", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), names)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(f"{title}: time of ours ÷ time of the other (left of 1, ours is faster)", fontsize=10)
    ordered = [name for name in MARKS if name in handles]
    figure.legend(
        [handles[name] for name in ordered],
        ordered,
        loc="outside lower center",
        ncols=len(ordered),
        fontsize=8,
        frameon=False,
    )
    write_atomically(path, lambda partial: figure.savefig(partial, format=path.suffix[1:]))


def _dots(axis: Any, row: dict[str, Any], part: str, position: int, handles: dict[str, Any]) -> None:
    """One row's dots: of ours beside each other, and beside the floor in the better memory formats."""
    standing = Standing(row)
    ours = standing.ours(part)
    if ours is None:
        return
    others = {time.label.split(", ")[0]: time for time in standing.times(part) if OTHER_FORMAT not in time.label}
    pairs = {name: (ours, time) for name, time in others.items() if name in MARKS and name != "floor"}
    for name, found in (("plain layer", _plain(standing, row, part)), ("floor", standing.floor(part))):
        if found is not None:
            pairs[name] = (standing.ours(part, any_format=name == "floor") or ours, found)
    for name, (above, below) in pairs.items():
        marker, color = MARKS[name]
        value = min(MOST, max(LEAST, above.milliseconds / below.milliseconds))
        handles[name] = axis.scatter(
            value,
            position,
            marker=marker,
            color=color,
            s=50 if marker == "*" else 26,
            linewidths=1.4 if marker in "x|" else 0.3,
            zorder=3,
        )
