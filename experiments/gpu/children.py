"""The parts that are commands of their own, each in a process that is ended when its time is over."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convkan.training import DataError, ImageData, write_text
from experiments.benchmark import report
from experiments.common.parent import release, start_child
from experiments.common.records import read_record
from experiments.gpu.work import Outcome, Work

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "experiments" / "configs" / "cifar10_kan_vgg.yaml"
MOST_EPOCHS = 30  # of the recipe
PROBE = 0.1  # share of the images that the probe trains on
START_SECONDS = 30.0  # for a training to start, and to test at the end
SHARE_OF_TIME = 0.8  # of what is left, to be on the safe side
TINY = ("--model", "kan_cnn", "--model_options.widths", "[4,8]", "--batch_size", "64")
TRAINED = (
    "test_accuracy",
    "val_accuracy",
    "epochs",
    "parameters",
    "multiply_adds",
    "seconds_per_epoch",
    "input_seconds_per_epoch",
    "compile_seconds",
    "step_memory_bytes",
    "peak_memory_bytes",
)


def run_child(module: str, arguments: Sequence[object], log: Path, seconds: float) -> int | None:
    """Run ``python -m module`` for so many seconds at most; returns its status, None if they were not enough.

    What it prints is added to ``log``.
    """
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with log.open("ab") as output:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        child = start_child(command, os.environ | {"PYTHONPATH": paths}, output)
        try:
            return child.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            return None
        finally:
            child.kill()
            child.wait()
            release(child)


def run_benchmark(work: Work) -> Outcome:
    """The benchmark's workloads, of which those that were measured are kept."""
    config, folder = work.config, work.folder / "benchmark"
    options = ["--device", config.device, "--out", folder, "--only", config.only, "--budget", 1, "--rounds", 5]
    log = work.folder / "benchmark.log"
    status = run_child("experiments.benchmark", [*options, f"--quick={config.small}"], log, work.seconds_left)
    path = folder / "benchmark.json"
    record = read_record(path) if path.exists() else {"workloads": {}, "ratios": []}
    if record["workloads"]:
        write_text(folder / "benchmark.md", report.markdown(record))  # a child that was cut off has left none
    work.found["ratios"] = report.ratio_table(record)
    work.found["workloads"] = list(record["workloads"])
    wrong = tuple(
        f"{name}, {label}: error {result['error']:.2g}"
        for name, workload in record["workloads"].items()
        for label, result in workload["results"].items()
        if result["kind"] == "convkan" and not result["correct"]
    )
    return ended(status, f"{len(record['workloads'])} workloads measured", log, wrong)


def run_training(work: Work) -> Outcome:
    """One training, on a GPU under autocast in bfloat16, as long as the time allows, to a record as of any run."""
    config, log = work.config, work.folder / "train.log"
    dataset = config.dataset or ("digits" if config.small else "cifar10")
    try:
        ImageData(dataset, data_root=config.data_root).setup()
    except DataError as error:
        return Outcome("skipped", str(error))
    run = work.folder / "train"
    options = training_options(work, dataset)
    if "epochs" not in work.found:
        work.found["epochs"] = config.epochs or (1 if config.small else affordable_epochs(work, options, log))
        work.write()
    if (run / "config.yaml").exists():
        options = ["--resume", run]
    else:
        shutil.rmtree(run, ignore_errors=True)  # of one that was ended before it began
        options += ["--epochs", work.found["epochs"], "--run_name", run.name]
    status = run_child("experiments.train", options, log, work.seconds_left)
    if status != 0:
        return ended(status, "not trained to the end", log)
    record = read_record(run / "result.json")
    work.found |= {"dataset": dataset, "precision": record["config"]["precision"]}
    work.found["result"] = {key: record[key] for key in TRAINED}
    summary = (
        f"{dataset}: test accuracy {record['test_accuracy']:.2%} after {record['epochs']} epochs of "
        f"{record['seconds_per_epoch']:.2f} s"
    )
    return Outcome("done", summary)


def training_options(work: Work, dataset: str) -> list[object]:
    """Those of the training script, but for epochs and name."""
    config = work.config
    options: list[object] = ["--dataset", "digits", *TINY] if dataset == "digits" else ["--config", RECIPE]
    if dataset != "digits" and config.small:
        options += ["--train_fraction", 0.01]
    if config.data_root is not None:
        options += ["--data_root", config.data_root]
    accelerator, precision = ("gpu", "bf16-mixed") if config.device == "cuda" else ("cpu", "32-true")
    return [*options, "--accelerator", accelerator, "--precision", precision, "--runs_root", work.folder]


def affordable_epochs(work: Work, options: Sequence[object], log: Path) -> int:
    """As many as fit into the time that is left, by an epoch on a part of the images."""
    probe = work.folder / "train-probe"
    shutil.rmtree(probe, ignore_errors=True)
    short = ["--epochs", 1, "--train_fraction", PROBE, "--test", "false", "--run_name", probe.name]
    status = run_child("experiments.train", [*options, *short], log, work.seconds_left / 2)
    if status != 0:
        return 1  # what is wrong, if anything is, the training itself will say
    seconds: Any = read_record(probe / "result.json")["seconds_per_epoch"]
    fitting = SHARE_OF_TIME * (work.seconds_left - START_SECONDS) / (seconds / PROBE)
    return min(max(1, int(fitting)), MOST_EPOCHS)


def run_tests(work: Work) -> Outcome:
    """The tests of layers, with all that they create on the device."""
    log = work.folder / "tests.log"
    log.unlink(missing_ok=True)
    where = ROOT / "tests" / "test_regularization.py" if work.config.small else ROOT / "tests"
    selected = "device and quick" if work.config.small else "device and not thorough and not slow"
    options = ["-c", ROOT / "pyproject.toml", "--rootdir", ROOT, where, "--device", work.config.device]
    processes = 0 if work.config.small else 4
    status = run_child("pytest", [*options, "-m", selected, "-n", processes], log, work.seconds_left)
    failures = [line for line in lines_of(log) if line.startswith(("FAILED ", "ERROR "))]
    told = status == 1 and failures  # by pytest itself: all of them ran
    return ended(0 if told else status, last_line(log), log, tuple(failures))


def ended(status: int | None, summary: str, log: Path, failures: tuple[str, ...] = ()) -> Outcome:
    """What the status of a child says; of one that failed without a word of its own, the last line of its log."""
    if status is None:
        return Outcome("cut", summary, failures)
    if status == 0:
        return Outcome("done", summary, failures)
    return Outcome("failed", f"ended with status {status}: {last_line(log)}", failures)


def lines_of(log: Path) -> list[str]:
    """The lines of a log that are not empty."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return [line.strip() for line in text.splitlines() if line.strip()]


def last_line(log: Path) -> str:
    """The last line of a log."""
    return (lines_of(log) or ["it said nothing"])[-1]
