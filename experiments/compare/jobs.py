"""Training runs as processes of their own: several at a time, taken up where a kill left them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from convkan.training import write_text
from convkan.training.datasets import DATA_ROOT_VARIABLE
from experiments.common.cli import UserError
from experiments.common.folders import claimed
from experiments.common.parent import release, start_child
from experiments.common.records import DIVERGED, read_record
from experiments.common.train_config import TrainConfig

POLL_SECONDS = 0.5
LAST_LINES = 5


@dataclass(frozen=True)
class Job:
    """One run of the training script.

    Attributes:
        label: What it is, for people.
        folder: Where it leaves its results.
        options: Options of the training script, but for those that say where.
        data_root: Where its data set lies; None for where the suite's do.
        images: What tells whether the images there are others than before; None for a data set that does not change.
    """

    label: str
    folder: Path
    options: dict[str, Any]
    data_root: str | None = None
    images: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether its record is there."""
        return (self.folder / "result.json").exists()

    @property
    def has_diverged(self) -> bool:
        """Whether it ended without a record, since its loss became infinite, as it would again."""
        return not self.is_done and (self.folder / DIVERGED).exists()

    @property
    def epochs(self) -> int:
        """How many it trains."""
        return int(self.options.get("epochs", TrainConfig.epochs))

    @property
    def epochs_done(self) -> int:
        """How many are in its history."""
        try:
            return min(self.epochs, len((self.folder / "history.csv").read_text(encoding="utf-8").splitlines()) - 1)
        except OSError:
            return 0

    @property
    def images_path(self) -> Path:
        """Where it is kept on what images it was run."""
        return self.folder.parent / "configs" / f"{self.folder.name}.images"

    def record(self) -> dict[str, Any]:
        """What it left when it was done.

        Raises:
            UserError: It is missing, or cannot be read.
        """
        return read_record(self.folder / "result.json")

    def check(self) -> None:
        """Raise if its folder holds a run with other options or on other images.

        Raises:
            UserError: It does; the message names them.
        """
        stored = self.folder / "config.yaml"
        if not stored.exists():
            return
        before = yaml.safe_load(stored.read_text(encoding="utf-8"))
        defaults = {f.name: before.get(f.name) for f in fields(TrainConfig)}
        changed = [name for name, value in self.options.items() if _plain(defaults.get(name)) != _plain(value)]
        if changed:
            raise UserError(
                f"{self.folder} was run with other options ({', '.join(changed)}): remove it, or rename the suite"
            )
        # A run from before this was kept is taken as it is.
        images = self.images_path.read_text(encoding="utf-8").strip() if self.images_path.exists() else self.images
        if images != self.images:
            raise UserError(
                f"{self.folder} was run on other images ({images}; now {self.images}): remove it, or rename the suite"
            )


def run_jobs(
    jobs: Sequence[Job],
    processes: int,
    gpus: int,
    data_root: str | None,
    report: Callable[[int, str], None],
    may_diverge: bool = False,
) -> None:
    """Run what is not done yet.

    Args:
        jobs: The runs, in order.
        processes: How many at a time; they share the processor's threads evenly.
        gpus: GPUs over which the processes are spread; 0 for none.
        data_root: Where data sets lie, unless a run says otherwise.
        report: Told the number of epochs done so far over all jobs, and what is running.
        may_diverge: Whether one that diverges has not failed, and is not run again.

    Raises:
        UserError: Runs failed; the message ends with the last lines of the first one's log. The others were finished.
    """
    for job in jobs:
        job.check()
    waiting = [job for job in jobs if not (job.is_done or (may_diverge and job.has_diverged))]
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    failed: list[Job] = []
    try:
        while waiting or running:
            for slot in range(processes):
                if slot not in running and waiting:
                    job = waiting.pop(0)
                    running[slot] = job, _start(job, slot, processes, gpus, job.data_root or data_root)
            time.sleep(POLL_SECONDS)
            for slot, (job, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    release(process)
                    is_out = may_diverge and job.has_diverged
                    if (process.returncode or not job.is_done) and not is_out:
                        failed.append(job)
            now = ", ".join(job.label for job, _ in running.values())
            report(sum(job.epochs if job.is_done else job.epochs_done for job in jobs), now)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
            release(process)
    if failed:
        log = _log(failed[0])
        last = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
        names = ", ".join(job.label for job in failed)
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed ({names}); {log} ends with: {last}")


def _start(job: Job, slot: int, processes: int, gpus: int, data_root: str | None) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    if data_root is not None:
        environment[DATA_ROOT_VARIABLE] = str(data_root)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
    command = [sys.executable, "-m", "experiments.train"]
    if (job.folder / "config.yaml").exists():
        command += ["--resume", str(job.folder)]
    else:
        with claimed(job.folder):  # which removes it if a run was killed before it wrote anything
            pass
        threads = max(1, (os.cpu_count() or 1) // processes)
        options = {"threads": threads, **job.options, "runs_root": str(job.folder.parent), "run_name": job.folder.name}
        path = job.folder.parent / "configs" / f"{job.folder.name}.yaml"
        write_text(path, yaml.safe_dump(options, sort_keys=False))
        if job.images is None:
            job.images_path.unlink(missing_ok=True)
        else:
            write_text(job.images_path, job.images + "\n")
        command += ["--config", str(path)]
    log = _log(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return start_child(command, environment, output)


def _log(job: Job) -> Path:
    return job.folder.parent / "logs" / f"{job.folder.name}.log"


def _plain(value: Any) -> Any:
    """Tuples as lists, as YAML returns them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
