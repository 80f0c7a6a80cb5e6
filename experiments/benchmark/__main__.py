"""Time layers and training steps beside plain ones and other libraries: ``python -m experiments.benchmark``.

Everything is timed in turn in one process with a fixed number of threads, and only after its outputs and gradients were
compared with the reference. A record, tables and a plot are left in a folder; a killed run goes on where it was.
"""

import fnmatch
import json
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from convkan.training import write_text
from experiments.benchmark import panel_report, report
from experiments.benchmark.measure import (
    QUICK_SAMPLE_SECONDS,
    SAMPLE_SECONDS,
    Contender,
    is_correct,
    peak_bytes,
    saved_bytes,
    summary,
    time_interleaved,
)
from experiments.benchmark.panel import PANEL, PANEL_DEFAULT, QUICK_PANEL, QUICK_PANEL_DEFAULT
from experiments.benchmark.ratios import RATIOS
from experiments.benchmark.scores import scores
from experiments.benchmark.workloads import QUICK, WORKLOADS, Workload
from experiments.common.cli import GOES_ON, UserError, parse, run
from experiments.common.folders import claimed
from experiments.common.progress import StudyProgress
from experiments.common.records import environment, write_record

BUDGET, PANEL_BUDGET, QUICK_BUDGET = 20.0, 2.0, 0.3


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to time, and how.

    Attributes:
        quick: Small workloads, in under a minute.
        panel: The panel of sizes, beside rivals, in place of the workloads; its rows are SIZE/BASIS/DTYPE/MODE.
        only: Workloads by name, separated by commas, with * for any text; by default all of them, and of the panel
            B-splines in float32, eager, and small layers compiled, too.
        rounds: Times that each contender is timed.
        budget: Seconds after which a contender sits out further rounds; 20 by default, 2 in the panel.
        threads: Threads on a CPU.
        device: Where to compute.
        out: Folder for the record, the tables and the plot.
        baseline: An earlier record: end with status 1 if a ratio of this one is worse by more than the tolerance.
        tolerance: How much worse, as a share.
        fresh: Time everything again, rather than go on with what the folder holds.
    """

    quick: bool = False
    panel: bool = False
    only: str | None = None
    rounds: int = 9
    budget: float | None = None
    threads: int = 2
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    out: str | None = None
    baseline: str | None = None
    tolerance: float = 0.25
    fresh: bool = False

    @property
    def stem(self) -> str:
        """What the files that are left are called."""
        return "panel" if self.panel else "benchmark"

    @property
    def seconds(self) -> float:
        """The budget."""
        budget = (PANEL_BUDGET if self.panel else BUDGET) if self.budget is None else self.budget
        return min(budget, QUICK_BUDGET) if self.quick else budget


def main() -> None:
    """Time the workloads, and report."""
    config = parse(BenchmarkConfig, __doc__)
    for name in ("rounds", "threads"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(config, name)}")
    folder = Path(config.out or f"runs/{config.stem}{'-quick' if config.quick else ''}")
    with claimed(folder):
        benchmark(config, folder)


def benchmark(config: BenchmarkConfig, folder: Path) -> None:
    """Time the workloads, and leave the record, the tables and the plot in ``folder``."""
    workloads, names = _selected(config), [workload.name for workload in _available(config)]
    baseline = None if config.baseline is None else json.loads(Path(config.baseline).read_text(encoding="utf-8"))
    torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    path = folder / f"{config.stem}.json"
    record = _start(path, config, device)
    # Each contender is a module compiled on its own, but torch counts those of one class together.
    many_modules = torch._dynamo.config.patch(recompile_limit=1000)
    with many_modules, StudyProgress() as progress:
        total = progress.add_task("all workloads", total=len(workloads))
        for workload in workloads:
            if workload.name not in record["workloads"]:
                measured = record["workloads"] | {workload.name: _measure(workload, config, device, progress)}
                record["workloads"] = {name: measured[name] for name in names if name in measured}
                record["ratios"] = _ratios(record, config)
                write_record(path, record)
            progress.advance(total)
    _report(record, config, path)
    if baseline is not None:
        _compare(record, baseline, config.tolerance)


def _report(record: dict[str, Any], config: BenchmarkConfig, path: Path) -> None:
    """Leave the tables and the plot beside the record, and say what came out."""
    tables, plot = path.with_suffix(".md"), path.with_suffix(".png")
    if config.panel:
        write_text(tables, panel_report.markdown(record))
        plots = panel_report.plot(record, plot)
        print("\n".join([panel_report.summary(record), "", *panel_report.missed(record)]))
    else:
        write_text(tables, report.markdown(record))
        report.plot(record, plot)
        plots = [plot]
        print(report.ratio_table(record))
    notes = [(name, note) for name, workload in record["workloads"].items() for note in workload["notes"]]
    for note, name in {note: name for name, note in reversed(notes)}.items():  # each once, where it was first
        print(f"{name}: {note}")
    print(f"record {path}, tables {tables}, plot {', '.join(map(str, plots))}")


def _ratios(record: dict[str, Any], config: BenchmarkConfig) -> list[dict[str, Any]]:
    if config.panel:
        return scores(record)
    return [asdict(ratio) | {"value": report.ratio_value(record, asdict(ratio))} for ratio in RATIOS]


def _available(config: BenchmarkConfig) -> list[Workload]:
    if config.panel:
        return QUICK_PANEL if config.quick else PANEL
    return QUICK if config.quick else WORKLOADS


def _selected(config: BenchmarkConfig) -> list[Workload]:
    available = _available(config)
    names = [workload.name for workload in available]
    chosen = config.only or ((QUICK_PANEL_DEFAULT if config.quick else PANEL_DEFAULT) if config.panel else "*")
    for pattern in (patterns := chosen.split(",")):
        if not fnmatch.filter(names, pattern):
            shown = [name.partition("/")[0] + "/BASIS/DTYPE/MODE" if config.panel else name for name in names]
            raise UserError(f"only must match one of {', '.join(dict.fromkeys(shown))}; got {pattern!r}")
    return [w for w in available if any(fnmatch.fnmatch(w.name, pattern) for pattern in patterns)]


def _start(path: Path, config: BenchmarkConfig, device: torch.device) -> dict[str, Any]:
    """The record to fill: the one in the folder if it was made by the same code in the same way."""
    settings = {name: getattr(config, name) for name in ("quick", "rounds", "threads", "device")}
    settings["budget"] = config.seconds
    record = {"config": settings, **environment(device), "workloads": {}, "ratios": []}
    uncommitted = str(record["git_commit"]).endswith("+")  # which may be other code than before
    if path.exists() and not config.fresh and not uncommitted:
        earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if all(earlier.get(key) == record[key] for key in ("config", "git_commit", "versions", "device")):
            return earlier
    return record


def _measure(
    workload: Workload, config: BenchmarkConfig, device: torch.device, progress: StudyProgress
) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.compiler.reset()
    torch.set_num_threads(workload.threads or config.threads)
    notes: list[str] = []
    task = progress.add_task(f"{workload.name}: building", total=None)
    contenders = workload.contenders(device, notes)
    progress.update(task, total=len(contenders) * (config.rounds + 3))
    correct: list[Contender] = []
    results: dict[str, dict[str, Any]] = {}
    for contender in contenders:
        progress.update(task, description=f"{workload.name}: checking {contender.label}", advance=1)
        passed, error = is_correct(contender)
        results[contender.label] = {"kind": contender.kind, "correct": passed, "error": error, "milliseconds": {}}
        if passed:
            correct.append(contender)
    progress.update(task, description=f"{workload.name}: timing")
    sample = QUICK_SAMPLE_SECONDS if config.quick else SAMPLE_SECONDS
    for _ in time_interleaved(correct, config.rounds, config.seconds, sample):
        progress.advance(task)
    for contender in correct:
        progress.update(task, description=f"{workload.name}: memory of {contender.label}", advance=1)
        state = [contender.x, *contender.module.parameters(), *contender.module.buffers()]
        results[contender.label] |= {
            "milliseconds": {name: summary(times) for name, times in contender.seconds.items() if times},
            "saved_bytes": saved_bytes(contender),
            "state_bytes": sum(tensor.nbytes for tensor in state),
            "peak_bytes": peak_bytes(contender),
        }
    progress.remove_task(task)
    about = {"about": workload.about} if workload.about else {}
    return {"title": workload.title, **about, "notes": notes, "results": results}


def _compare(record: dict[str, Any], baseline: dict[str, Any], tolerance: float) -> None:
    """Raise if a ratio, never a time, is worse than in an earlier record."""
    before = {ratio["title"]: ratio["value"] for ratio in baseline["ratios"]}
    worse = []
    for ratio in record["ratios"]:
        now, then = ratio["value"], before.get(ratio["title"])
        if now is None or then is None:
            continue
        if (now < then / (1 + tolerance)) if ratio["at_least"] else (now > then * (1 + tolerance)):
            worse.append(f"{ratio['title']}: {now:.2f}, before {then:.2f}")
    if worse:
        raise UserError(f"ratios worse by more than {tolerance:.0%}: {'; '.join(worse)}")
    print(f"no ratio is worse by more than {tolerance:.0%}")


if __name__ == "__main__":
    # torch's own notes while it compiles are no news to the reader of a table.
    warnings.filterwarnings("ignore", module=r"torch\..*")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    run(main, GOES_ON)
