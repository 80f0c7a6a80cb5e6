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
from experiments.benchmark import report
from experiments.benchmark.measure import Contender, is_correct, peak_bytes, saved_bytes, summary, time_interleaved
from experiments.benchmark.ratios import RATIOS
from experiments.benchmark.workloads import QUICK, WORKLOADS, Workload
from experiments.common.cli import GOES_ON, UserError, parse, run
from experiments.common.folders import claimed
from experiments.common.progress import StudyProgress
from experiments.common.records import environment, write_record

QUICK_BUDGET = 0.3


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to time, and how.

    Attributes:
        quick: Small workloads, in under a minute.
        only: Workloads by name, separated by commas, with * for any text.
        rounds: Times that each contender is timed.
        budget: Seconds after which a contender sits out further rounds.
        threads: Threads on a CPU.
        device: Where to compute.
        out: Folder for the record, the tables and the plot.
        baseline: An earlier record: end with status 1 if a ratio of this one is worse by more than the tolerance.
        tolerance: How much worse, as a share.
        fresh: Time everything again, rather than go on with what the folder holds.
    """

    quick: bool = False
    only: str = "*"
    rounds: int = 9
    budget: float = 20.0
    threads: int = 2
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    out: str | None = None
    baseline: str | None = None
    tolerance: float = 0.25
    fresh: bool = False


def main() -> None:
    """Time the workloads, and report."""
    config = parse(BenchmarkConfig, __doc__)
    for name in ("rounds", "threads"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(config, name)}")
    folder = Path(config.out or ("runs/benchmark-quick" if config.quick else "runs/benchmark"))
    with claimed(folder):
        benchmark(config, folder)


def benchmark(config: BenchmarkConfig, folder: Path) -> None:
    """Time the workloads, and leave the record, the tables and the plot in ``folder``."""
    workloads = _selected(config)
    baseline = None if config.baseline is None else json.loads(Path(config.baseline).read_text(encoding="utf-8"))
    torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    path = folder / "benchmark.json"
    record = _start(path, config, device)
    # Each contender is a module compiled on its own, but torch counts those of one class together.
    many_modules = torch._dynamo.config.patch(recompile_limit=1000)
    with many_modules, StudyProgress() as progress:
        total = progress.add_task("all workloads", total=len(workloads))
        for workload in workloads:
            if workload.name not in record["workloads"]:
                record["workloads"][workload.name] = _measure(workload, config, device, progress)
                record["ratios"] = [_with_value(record, asdict(ratio)) for ratio in RATIOS]
                write_record(path, record)
            progress.advance(total)
    tables = folder / "benchmark.md"
    write_text(tables, report.markdown(record))
    report.plot(record, folder / "benchmark.png")
    print(report.ratio_table(record))
    for name, workload_record in record["workloads"].items():
        for note in workload_record["notes"]:
            print(f"{name}: {note}")
    print(f"record {path}, tables {tables}, plot {folder / 'benchmark.png'}")
    if baseline is not None:
        _compare(record, baseline, config.tolerance)


def _selected(config: BenchmarkConfig) -> list[Workload]:
    available = QUICK if config.quick else WORKLOADS
    patterns = config.only.split(",")
    for pattern in patterns:
        if not fnmatch.filter([workload.name for workload in available], pattern):
            raise UserError(f"only must match one of {', '.join(w.name for w in available)}; got {pattern!r}")
    return [w for w in available if any(fnmatch.fnmatch(w.name, pattern) for pattern in patterns)]


def _start(path: Path, config: BenchmarkConfig, device: torch.device) -> dict[str, Any]:
    """The record to fill: the one in the folder if it was made by the same code in the same way."""
    settings = {name: getattr(config, name) for name in ("quick", "rounds", "budget", "threads", "device")}
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
    budget = min(config.budget, QUICK_BUDGET) if config.quick else config.budget
    for _ in time_interleaved(correct, config.rounds, budget):
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
    return {"title": workload.title, "notes": notes, "results": results}


def _with_value(record: dict[str, Any], ratio: dict[str, Any]) -> dict[str, Any]:
    return ratio | {"value": report.ratio_value(record, ratio)}


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
