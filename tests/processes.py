"""Processes that start at once.

To start Python with torch and Lightning takes seconds. A process started here is forked instead from a server that has
imported them (``forkserver`` of the standard library, one for each worker of pytest-xdist). It is as separate as any
other: it has its own memory, environment and streams, runs a script from its first line, and can be killed. Where there
is no such server, an ordinary process is started.

Code that must find nothing but torch imported, as that about imports, is forked from another server by ``run``.
"""

import atexit
import gc
import json
import multiprocessing.reduction
import os
import runpy
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from convkan.interpret import plot

HAS_SERVER = "forkserver" in multiprocessing.get_all_start_methods()
START_METHOD = "forkserver" if HAS_SERVER else "spawn"
# What a run imports on its way is here, too.
LATER = ["sklearn.datasets", "sklearn.metrics", "sklearn.model_selection", "matplotlib.pyplot", "docstring_parser"]
LATER += ["torch.utils.tensorboard", "safetensors.torch", "convkan.interpret.plot", "experiments.common.fine_tuning"]
multiprocessing.set_forkserver_preload(["tests.without_gc", "pytest", "experiments.common.trainer", *LATER])


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
    process = context.Process(target=run_script, args=(module, arguments, environment, Path.cwd(), streams))
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


class NoPicture:
    """In place of a picture of a run, which takes as long to draw as a small run; test_experiments looks at them."""

    def savefig(self, path):
        pass


def run_script(module, arguments, environment, folder, streams):
    """``python -m module arguments``, or ``python file arguments``, within a forked process.

    A training run leaves empty files in place of its pictures.
    """
    gc.freeze()  # what the server imported stays to the end
    gc.enable()
    if module == "experiments.train":
        for name in ("plot_confusion", "plot_edges", "plot_learning_curves"):
            setattr(plot, name, lambda *_: NoPicture())
    streams.install()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    if module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


# Reads a line for each piece of code: where it is to run, in what environment, and the files to write to.
SERVER = """
import gc
gc.disable()
import json, os, sys, torch
gc.freeze()
gc.enable()
for line in sys.stdin:
    code, folder, environment, files = json.loads(line)
    child = os.fork()
    if not child:
        for number, file in enumerate(files, start=1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        status = 1
        try:
            exec(code, {"__name__": "__main__"})
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def server():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", SERVER], env=environment, text=True, **pipes)
    atexit.register(process.communicate)  # which ends it, and waits for it
    return process


def run(code, folder, environment=os.environ):
    """``python -c code`` in a folder, of which the status and what it wrote are returned as by ``subprocess.run``."""
    command = [sys.executable, "-c", code]
    if not HAS_SERVER:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as written:
        files = [Path(written) / name for name in ("out", "err")]
        server().stdin.write(json.dumps([code, str(folder), dict(environment), [str(file) for file in files]]) + "\n")
        server().stdin.flush()
        status = int(server().stdout.readline())
        return subprocess.CompletedProcess(command, status, *(file.read_text(encoding="utf-8") for file in files))
