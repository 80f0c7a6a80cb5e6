"""What the panel's record says: each row's ratios, the most that they should be, and how many rows are won."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from experiments.benchmark.rows import OTHER_FORMAT

TRAINING, INFERENCE = "forward+backward", "forward"
LARGE_MILLISECONDS = 50.0  # from which on a row is held against its floor
FLOOR_BARS = {"float32": 1.15, "bfloat16": 1.35}
# What is counted, by the end of a ratio's title.
RIVAL, FLOOR, COMPILED, ACTIVATION, TWIN = (
    "best rival",
    "floor",
    "obvious way, compiled",
    "SiLU",
    "plain twin",
)


@dataclass(frozen=True)
class Time:
    """A contender's median in milliseconds."""

    label: str
    milliseconds: float


@dataclass(frozen=True)
class Score:
    """One time of ours beside another, as ``ratios.Ratio`` has it, with its value."""

    title: str
    workload: str
    above: str
    below: str
    value: float
    at_most: float | None
    counted: str
    at_least: bool = False


def scores(record: dict[str, Any]) -> list[dict[str, Any]]:
    """All ratios of a record of the panel that have something to be held against, in terms of JSON."""
    return [asdict(score) for name, workload in record["workloads"].items() for score in _scores(name, workload)]


def _scores(name: str, workload: dict[str, Any]) -> Iterator[Score]:
    about, row = workload["about"], Standing(workload)

    def score(ours: Time | None, other: Time | None, counted: str, bar: float | None, of: str = "") -> Iterator[Score]:
        if ours is not None and other is not None:
            value = ours.milliseconds / other.milliseconds
            yield Score(f"{name}{of}: ours / {counted}", name, ours.label, other.label, value, bar, counted)

    if about["layer"] == "prediction":
        yield from score(row.ours(INFERENCE), row.plain(INFERENCE), TWIN, about["bar"])
        return
    ours = row.ours(TRAINING)
    if about["layer"] == "training step":
        yield from score(ours, row.plain(TRAINING), TWIN, about["bar"])
        return
    compiled = about["mode"] == "compiled"
    yield from score(ours, row.rival(TRAINING), RIVAL, None if compiled else 1.0)
    yield from score(row.ours(INFERENCE), row.rival(INFERENCE), RIVAL, None, ", inference")
    if compiled:
        yield from score(ours, row.time("obvious way", TRAINING), COMPILED, 1.0)
    if "activation" in about["layer"]:
        yield from score(ours, row.time("nn.SiLU", TRAINING), ACTIVATION, None if compiled else about["bar"])
    best = row.ours(TRAINING, any_format=True)
    if best is not None and best.milliseconds >= LARGE_MILLISECONDS:
        yield from score(best, row.floor(TRAINING), FLOOR, FLOOR_BARS[about["dtype"]])


@dataclass(frozen=True)
class Standing:
    """The times of a row, as far as they are right."""

    workload: dict[str, Any]

    def ours(self, part: str, *, any_format: bool = False) -> Time | None:
        """Of the layer as it is called with a contiguous input, or in the better memory format."""
        return self._least("convkan", part, lambda label: any_format or OTHER_FORMAT not in label)

    def rival(self, part: str) -> Time | None:
        """The fastest of what does the same, or the like of it."""
        return self._least("others, reference", part)

    def floor(self, part: str) -> Time | None:
        """The plain layer on ready planes, in the better memory format."""
        return self._least("floor", part)

    def plain(self, part: str) -> Time | None:
        """The plain layer, or network."""
        return self._least("plain network", part)

    def time(self, name: str, part: str) -> Time | None:
        """That of the contender of this name."""
        return next((time for time in self.times(part) if time.label.split(", ")[0] == name), None)

    def times(self, part: str) -> list[Time]:
        """Of all contenders that were timed."""
        return [
            Time(label, result["milliseconds"][part]["median"])
            for label, result in self.workload["results"].items()
            if result["milliseconds"].get(part)
        ]

    def _least(self, kind: str, part: str, takes: Any = lambda label: True) -> Time | None:
        found = [
            time
            for time in self.times(part)
            if self.workload["results"][time.label]["kind"] == kind and takes(time.label)
        ]
        return min(found, key=lambda time: time.milliseconds, default=None)


def rows_won(record: dict[str, Any], mode: str = "eager", *, inference: bool = False) -> tuple[int, int]:
    """In how many rows of a mode nothing was faster than ours, and of how many."""
    ratios = [
        ratio["value"]
        for ratio in record["ratios"]
        if ratio["counted"] == RIVAL
        and (", inference:" in ratio["title"]) == inference
        and record["workloads"][ratio["workload"]]["about"]["mode"] == mode
    ]
    return sum(value <= 1 for value in ratios), len(ratios)


def bars_met(record: dict[str, Any]) -> list[tuple[str, float, int, int]]:
    """For each kind of ratio and each bar: what it is, the most it may be, how many keep to it, of how many."""
    found = []
    for counted in (RIVAL, FLOOR, COMPILED, ACTIVATION, TWIN):
        ratios = [ratio for ratio in record["ratios"] if ratio["counted"] == counted and ratio["at_most"] is not None]
        for bar in sorted({ratio["at_most"] for ratio in ratios}):
            values = [ratio["value"] for ratio in ratios if ratio["at_most"] == bar]
            found.append((counted, bar, sum(value <= bar for value in values), len(values)))
    return found
