"""Processes that end when the one that started them does, however it ends.

The parent holds one end of a pipe that is the child's standard input. Nothing is written to it; when the parent is
gone, even killed, the operating system closes it, and the child reads the end of it. This works on every system.

To start Python with torch and Lightning takes seconds, as long as a short run. A process can be forked instead from a
server that has imported them, that of the standard library, where there is one and no GPU: its driver does not outlive
a fork.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Protocol

STANDARD_INPUT = 0
VARIABLE = "CONVKAN_ENDS_WITH_PARENT"
# What runs import sooner or later; not the script itself, which is run, not imported.
PRELOADED = ["experiments.common.trainer", "experiments.common.fine_tuning", "sklearn.metrics", "matplotlib.pyplot"]


class Child(Protocol):
    """A process as ``subprocess.Popen`` has it."""

    returncode: int | None

    def poll(self) -> int | None:
        """The status with which it ended; None while it runs."""

    def wait(self) -> int | None:
        """The same, once it has ended."""

    def terminate(self) -> None:
        """Ask it to end."""


def start_child(
    command: Sequence[str], environment: dict[str, str], output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start a script of ours that calls ``end_with_parent``, its output and errors going to one file."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment | {VARIABLE: "1"},
    )


def can_fork() -> bool:
    """Whether there is a server from which processes are forked."""
    return "forkserver" in multiprocessing.get_all_start_methods()


class _Forked:
    """A forked process."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self.process = process
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self.returncode = self.process.exitcode
        return self.returncode

    def wait(self) -> int | None:
        self.process.join()
        return self.poll()

    def terminate(self) -> None:
        self.process.terminate()


def fork_child(command: Sequence[str], environment: dict[str, str], output: IO[bytes]) -> Child:
    """The same as ``start_child`` for ``python -m MODULE …``, in a moment."""
    assert list(command[:2]) == [sys.executable, "-m"]
    multiprocessing.set_forkserver_preload(PRELOADED)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_run_module, args=(*command[2:3], list(command[3:]), environment, output.name))
    process.start()
    return _Forked(process)


def _run_module(module: str, arguments: list[str], environment: dict[str, str], output: str) -> None:
    with Path(output).open("ab") as file, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), STANDARD_INPUT)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.environ.pop(VARIABLE, None)  # which is about the standard input of our parent
    sys.argv = [module, *arguments]
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_outlive, args=(parent.sentinel,), name="end with parent", daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _outlive(sentinel: int) -> None:
    wait([sentinel])
    _end()


def release(child: subprocess.Popen[bytes]) -> None:
    """Close our end of the pipe of a child that has ended."""
    assert child.stdin is not None
    child.stdin.close()


def end_with_parent() -> None:
    """End this process as soon as its parent ends, if that started it by ``start_child``.

    It ends at once, as by a kill: what is written is written atomically, and runs can be resumed.
    """
    if os.environ.get(VARIABLE):
        threading.Thread(target=_wait_and_end, name="end with parent", daemon=True).start()


def _wait_and_end() -> None:
    while os.read(STANDARD_INPUT, 1):
        pass
    _end()


def _end() -> None:
    print("the process that started this run has ended, and so does this one", flush=True)
    os._exit(1)
