"""Processes that start at once.

To start Python with torch and Lightning takes seconds. A process started here is forked instead from a server that has
imported them (``forkserver`` of the standard library, one for each worker of pytest-xdist). It is as separate as any
other: it has its own memory, environment and streams, runs a script from its first line, and can be killed. Where there
is no such server, an ordinary process is started.
"""

import multiprocessing.reduction
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HAS_SERVER = "forkserver" in multiprocessing.get_all_start_methods()
START_METHOD = "forkserver" if HAS_SERVER else "spawn"
multiprocessing.set_forkserver_preload(["pytest", "experiments.common.trainer", "sklearn.metrics", "matplotlib.pyplot"])


@dataclass
class Forked:
    """A forked process, which is used as one of ``subprocess.Popen``."""

    process: multiprocessing.process.BaseProcess
    stdin: object
    returncode: int | None = field(default=None, init=False)

    def poll(self):
        self.returncode = self.process.exitcode
        if self.returncode is not None:
            self.stdin.close()
        return self.returncode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.poll()

    def kill(self):
        self.process.kill()

    def terminate(self):
        self.process.terminate()


def start(command, environment, output):
    """Start ``python -m MODULE …``, which writes into the file ``output``, and reads what is written to ``stdin``.

    Or ``python FILE …``.
    """
    python, *rest = command
    assert python == sys.executable
    module, *arguments = rest[1:] if rest[0] == "-m" else rest
    if not HAS_SERVER:
        streams = {"stdin": subprocess.PIPE, "stdout": output, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=environment, **streams)
    reader, writer = os.pipe()
    streams = Streams([reader, output.fileno(), output.fileno()])
    context = multiprocessing.get_context(START_METHOD)
    process = context.Process(target=run, args=(module, arguments, environment, Path.cwd(), streams))
    process.start()
    os.close(reader)
    return Forked(process, os.fdopen(writer, "wb"))


class Streams:
    """Files that become the standard streams of a forked process, which are handed over when it starts."""

    def __init__(self, files):
        self.files = files

    def __reduce__(self):
        return Streams, ([multiprocessing.reduction.DupFd(file) for file in self.files],)

    def install(self):
        for number, file in enumerate(self.files):
            os.dup2(file.detach(), number)


def run(module, arguments, environment, folder, streams):
    """``python -m module arguments``, or ``python file arguments``, within a forked process."""
    streams.install()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    if module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
