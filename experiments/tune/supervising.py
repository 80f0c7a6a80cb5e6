"""Several workers of one study on this machine, as processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import yaml

from convkan.training import write_text
from experiments.common.cli import UserError
from experiments.common.parent import release, start_child
from experiments.tune.config import STORAGE_VARIABLE, TuneConfig
from experiments.tune.storage import Progress, in_words
from experiments.tune.worker import is_over

POLL_SECONDS = 0.5
LAST_LINES = 3


def supervise(study: optuna.Study, config: TuneConfig, report: Callable[[Progress], None]) -> None:
    """Start ``config.workers`` workers, and wait until they have made all trials; arguments as of ``work``.

    Raises:
        UserError: All of them ended, or were killed, before that.
    """
    logs = [config.folder / "logs" / f"worker-{slot}.log" for slot in range(config.workers)]
    running: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for slot, log in enumerate(logs):
            running[slot] = _start(config, slot, log)
        while running:
            time.sleep(POLL_SECONDS)
            with in_words(config.url):
                report(Progress.of(study))
            for slot, worker in list(running.items()):
                if worker.poll() is not None:
                    release(running.pop(slot))
                    if worker.returncode:
                        print(f"worker {slot} ended: {_why(worker, logs[slot])}", flush=True)
    finally:
        for worker in running.values():
            worker.terminate()
        for worker in running.values():
            worker.wait()
            release(worker)
    if not is_over(study, config):
        raise UserError(
            f"all workers ended before there were {config.trials} trials; their logs are in {logs[0].parent}: "
            "the same command goes on"
        )


def _start(config: TuneConfig, slot: int, log: Path) -> subprocess.Popen[bytes]:
    """A worker, which is given no address: it may have a password in it."""
    given = replace(config, slot=slot, storage=None, report=False)
    path = config.folder / "configs" / f"worker-{slot}.yaml"
    write_text(path, yaml.safe_dump(asdict(given), sort_keys=False))
    environment = os.environ | {"PYTHONIOENCODING": "utf-8", STORAGE_VARIABLE: config.url}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return start_child([sys.executable, "-m", "experiments.tune", "--config", str(path)], environment, output)


def _why(worker: subprocess.Popen[bytes], log: Path) -> str:
    if worker.returncode < 0:
        return f"killed by signal {-worker.returncode}; the others go on"
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
