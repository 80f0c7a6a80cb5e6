"""Processes that end when the one that started them does, however it ends.

The parent holds one end of a pipe that is the child's standard input. Nothing is written to it; when the parent is
gone, even killed, the operating system closes it, and the child reads the end of it. This works on every system.
"""

import os
import subprocess
import threading
from collections.abc import Sequence
from typing import IO

STANDARD_INPUT = 0
VARIABLE = "CONVKAN_ENDS_WITH_PARENT"


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
    print("the process that started this run has ended, and so does this one", flush=True)
    os._exit(1)
