"""Try all there is on a GPU, in minutes: ``python -m experiments.gpu``.

Correctness, memory, a training, speed and, if asked for, the test suite: part by part, each with its share of the time.
A record and a page are left in a folder with what the parts leave; the same command goes on where it was, and does what
ended for want of time. Status 1 says that something is wrong.
"""

import os
import time
import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch

from convkan.training import write_text
from experiments.common.cli import GOES_ON, UserError, parse, run
from experiments.common.folders import LOCK, claimed
from experiments.common.records import environment, read_record, write_record
from experiments.gpu.children import run_benchmark, run_tests, run_training
from experiments.gpu.correctness import check_correctness
from experiments.gpu.memory import measure_memory
from experiments.gpu.report import markdown
from experiments.gpu.work import GpuConfig, Outcome, Work

# In this order, each with its weight when the time is shared out; what one leaves goes to those that follow.
PARTS: dict[str, tuple[Callable[[Work], Outcome], int]] = {
    "correctness": (check_correctness, 100),
    "memory": (measure_memory, 20),
    "train": (run_training, 150),
    "benchmark": (run_benchmark, 190),
    "tests": (run_tests, 120),
}
RECORD, PAGE = "gpu.json", "gpu.md"


def main() -> None:
    """Do the parts, and report."""
    config = parse(GpuConfig, __doc__)
    names = chosen(config)
    folder = Path(config.out)
    with claimed(folder):
        record = begun(config, folder)
        go_through(config, names, folder, record)
    wrong = [name for name, part in record["parts"].items() if part["state"] == "failed" or part["failures"]]
    if wrong:
        raise UserError(f"something is wrong in {', '.join(wrong)}: see {folder / PAGE}")


def chosen(config: GpuConfig) -> list[str]:
    """The parts to do, in order.

    Raises:
        UserError: There is no such part.
    """
    names = [name.strip() for name in config.parts.split(",") if name.strip()]
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        raise UserError(f"parts must be of {', '.join(PARTS)}, separated by commas; got {config.parts!r}")
    return [name for name in PARTS if name in names]


def go_through(config: GpuConfig, names: list[str], folder: Path, record: dict[str, Any]) -> None:
    """Do the parts that are not done yet, each in its share of the time, and leave the record and the page."""
    parts, end = record["parts"], time.monotonic() + 60 * config.minutes
    open_parts = [name for name in names if parts.get(name, {}).get("state") != "done"]
    for position, name in enumerate(open_parts):
        do, weight = PARTS[name]
        share = weight / sum(PARTS[later][1] for later in open_parts[position:])
        start = time.monotonic()
        print(f"{name}: at most {max(0.0, share * (end - start)):.0f} s", flush=True)
        part = parts.setdefault(name, {"state": "cut", "seconds": 0.0, "summary": "", "failures": [], "found": {}})
        before = part["seconds"]

        def write(part: dict[str, Any] = part, before: float = before, start: float = start) -> None:
            part["seconds"] = before + time.monotonic() - start
            write_record(folder / RECORD, record)

        work = Work(config, folder, part["found"], start + share * (end - start), write)
        try:
            outcome = do(work)
        except KeyboardInterrupt:
            write()
            raise
        except Exception as error:  # noqa: BLE001 - one part's end is not that of the others
            outcome = Outcome("failed", " ".join(f"{type(error).__name__}: {error}".split()))
        part |= {"state": outcome.state, "summary": outcome.summary, "failures": list(outcome.failures)}
        write()
        print(f"{name}: {outcome.state}: {outcome.summary}", flush=True)
        for failure in outcome.failures:
            print(f"{name} fails: {failure}", flush=True)
    record["parts"] = {name: parts[name] for name in PARTS if name in parts}
    write_record(folder / RECORD, record)
    write_text(folder / PAGE, markdown(record))
    print(f"record {folder / RECORD}, page {folder / PAGE}")
    if any(parts[name]["state"] == "cut" for name in names):
        print(f"not all was done in {config.minutes:g} minutes: {GOES_ON}")


def begun(config: GpuConfig, folder: Path) -> dict[str, Any]:
    """The record to fill: the one in the folder if it is of the same code, device and sizes, else a new one.

    What the folder held of others is put aside in it. Of a changed checkout nobody knows what changed.
    """
    record = {"config": {"device": config.device, "small": config.small}, **machine(config.device), "parts": {}}
    path = folder / RECORD
    if path.exists():
        earlier = read_record(path)
        same = all(earlier.get(key) == record[key] for key in record if key not in ("parts", "threads"))
        if same and not str(record["git_commit"]).endswith("+"):
            return earlier
        put_aside(folder)
    return record


def put_aside(folder: Path) -> None:
    """Move what is in a folder into one below it."""
    aside = next(other for number in count(1) if not (other := folder / f"earlier-{number}").exists())
    held = [path for path in folder.iterdir() if path.name != LOCK and not path.name.startswith("earlier-")]
    aside.mkdir()
    for path in held:
        path.rename(aside / path.name)
    print(f"{folder} is of other code, another device or other sizes: kept in {aside}")


def machine(device: str) -> dict[str, Any]:
    """The commit, the versions and the device, and of a GPU what else says how it computes."""
    found: dict[str, Any] = {**environment(torch.device(device)), "gpu": {}}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "memory in GB": round(properties.total_memory / 1e9, 1),
            "compute capability": f"{properties.major}.{properties.minor}",
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
        }
    return found


if __name__ == "__main__":
    # torch's own notes while it compiles are no news to the reader of a table.
    warnings.filterwarnings("ignore", module=r"torch\..*")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    run(main, GOES_ON)
