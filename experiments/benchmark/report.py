"""From a benchmark's record to a table and a picture."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from matplotlib.patches import Patch

from convkan.interpret.plot import AMBER, BLUE, GREY, ORANGE, new_figure
from convkan.training import write_atomically
from experiments.benchmark.measure import Kind

PASSES = ("forward", "forward+backward")
PICTURED = ("W1", "activation", "linear1024", "step:kanc_mlp_small")
COLORS: dict[Kind, str] = {"convkan": BLUE, "floor": AMBER, "plain network": GREY, "others, reference": ORANGE}
HEADLINES = (
    "KANConv2d compiled / floor, float32",
    "LowRankKANConv2d rank 1 compiled / nn.Conv2d + ReLU",
    "training step of kanc_mlp_small / cnn_small, compiled",
    "inkan / KANLinear compiled, batch 1024",
)


def ratio_value(record: dict[str, Any], ratio: dict[str, Any]) -> float | None:
    """The ratio as measured, or None where one of its parts was not."""
    results = record["workloads"].get(ratio["workload"], {}).get("results", {})
    above, below = results.get(ratio["above"]), results.get(ratio["below"])
    if above is None:
        return None
    if ratio["below"] == "bytes":
        kept = above.get("saved_bytes")
        return None if kept is None else kept / above["state_bytes"]
    if below is None:
        return None
    parts = [part["milliseconds"].get("forward+backward") for part in (above, below)]
    return None if None in parts else parts[0]["median"] / parts[1]["median"]


def markdown(record: dict[str, Any]) -> str:
    """Tables of the ratios and of all times."""
    lines = [*_ratio_lines(record["ratios"]), ""]
    lines += [
        "Milliseconds, median of interleaved repeats (quartiles in brackets). Memory in MB: kept for the backward "
        "pass, input and weights included; most in use during one forward and backward pass.",
        "",
    ]
    for name, workload in record["workloads"].items():
        lines += [
            f"**{name}**: {workload['title']}",
            "",
            "| | forward | forward + backward | kept | peak |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for label, result in workload["results"].items():
            if not result["correct"]:
                lines.append(f"| {label} | wrong (error {result['error']:.1e}) | | | |")
                continue
            times = [_time(result["milliseconds"].get(part)) for part in PASSES]
            kept, peak = (_megabytes(result.get(key)) for key in ("saved_bytes", "peak_bytes"))
            lines.append(f"| {label} | {times[0]} | {times[1]} | {kept} | {peak} |")
        lines += ["", *(f"{note}  " for note in workload["notes"]), ""]
    return "\n".join(lines)


def _ratio_lines(ratios: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield "| forward + backward | ratio | target | |"
    yield "| --- | ---: | ---: | --- |"
    for ratio in ratios:
        value = ratio["value"]
        if value is None:
            continue
        sign = "≥" if ratio["at_least"] else "≤"
        met = value >= ratio["at_most"] if ratio["at_least"] else value <= ratio["at_most"]
        yield f"| {ratio['title']} | {value:.2f} | {sign} {ratio['at_most']} | {'met' if met else '**missed**'} |"


def ratio_table(record: dict[str, Any]) -> str:
    """The table of ratios alone."""
    return "\n".join(_ratio_lines(record["ratios"]))


def headline_table(record: dict[str, Any]) -> str:
    """The table of the few ratios that say most to someone who chooses a layer."""
    return "\n".join(_ratio_lines(ratio for ratio in record["ratios"] if ratio["title"] in HEADLINES))


def _time(summary: dict[str, float] | None) -> str:
    if summary is None:
        return ""
    digits = 1 if summary["median"] >= 10 else 2
    return f"{summary['median']:.{digits}f} ({summary['lower']:.{digits}f}–{summary['upper']:.{digits}f})"


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"


def plot(record: dict[str, Any], path: Path) -> None:
    """Bars of forward and backward time for the contenders of the main workloads, on logarithmic axes."""
    names = [name for name in PICTURED if name in record["workloads"]] or list(record["workloads"])[:4]
    rows = [1 + len(record["workloads"][name]["results"]) for name in names]
    figure = new_figure((9, 1 + 0.25 * sum(rows)), layout=None, dpi=110)
    axes = figure.subplots(len(names), 1, squeeze=False, gridspec_kw={"height_ratios": rows})
    for axis, name in zip(axes[:, 0], names, strict=True):
        _bars(axis, record["workloads"][name])
        axis.set_title(f"{name}: {record['workloads'][name]['title']}", fontsize=9, loc="left")
    axes[-1, 0].set_xlabel("forward + backward, milliseconds: median and quartiles")
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    handles = [Patch(color=color) for color in COLORS.values()]
    figure.legend(handles, list(COLORS), loc="upper right", ncols=len(COLORS), fontsize=8, frameon=False)
    write_atomically(path, lambda partial: figure.savefig(partial, format=path.suffix[1:]))


def _bars(axis: Any, workload: dict[str, Any]) -> None:
    """One workload's contenders, the fastest on top."""
    timed = [
        (label, COLORS[result["kind"]], result["milliseconds"]["forward+backward"])
        for label, result in workload["results"].items()
        if result["milliseconds"].get("forward+backward")
    ]
    if not timed:
        axis.set_axis_off()
        return
    timed.sort(key=lambda item: item[-1]["median"])
    labels, colors, summaries = zip(*timed, strict=True)
    medians = [summary["median"] for summary in summaries]
    spread = [
        [max(0.0, summary["median"] - summary["lower"]) for summary in summaries],
        [max(0.0, summary["upper"] - summary["median"]) for summary in summaries],
    ]
    axis.barh(range(len(timed)), medians, color=colors, xerr=spread, error_kw={"elinewidth": 0.8})
    axis.set_yticks(range(len(timed)), labels, fontsize=7.5)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlim(left=min(medians) / 2, right=max(medians) * 2.2)
    for position, (median, upper) in enumerate(zip(medians, spread[1], strict=True)):
        axis.text((median + upper) * 1.06, position, f"{median:.3g}", va="center", fontsize=7)
    axis.spines[["top", "right"]].set_visible(False)
