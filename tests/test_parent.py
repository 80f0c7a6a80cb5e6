"""A run ends when the suite that started it does, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest

import experiments
from experiments.common.parent import can_fork

ROOT = Path(experiments.__file__).parents[1]
PATIENCE = 300  # seconds, which only a failure takes, or a busy machine
CHILD = """
import time
from experiments.common.parent import end_with_parent
end_with_parent()
print("started", flush=True)
time.sleep(600)
"""
PARENT = """
import os, signal, sys, time
from pathlib import Path
from experiments.common.parent import start_child
signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells turn off in what they start in the background
with open(sys.argv[1], "wb") as output:
    children = [start_child([sys.executable, "-c", sys.argv[2]], dict(os.environ), output) for _ in range(2)]
print(*[child.pid for child in children], flush=True)
time.sleep(600)
"""
FORKING = """
import os, sys, time
from experiments.common import parent
parent.PRELOADED = []
if __name__ == "__main__":
    with open(sys.argv[1], "wb") as output:
        child = parent.fork_child([sys.executable, "-m", "child_module"], os.environ | {parent.VARIABLE: "1"}, output)
    print(child.process.pid, flush=True)
    print(child.wait(), child.poll(), flush=True)
    time.sleep(600)
"""
unix = pytest.mark.skipif(sys.platform == "win32", reason="signals are those of Unix")


def alive(pid):
    """Whether a process runs; a zombie, which nobody has waited for, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@unix
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_end_with_their_parent(end, tmp_path):
    output = tmp_path / "output.txt"
    command = [sys.executable, "-c", PARENT, str(output), CHILD]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        try:
            wait_until(lambda: output.read_text().count("started") == 2)
            assert all(alive(child) for child in children)
        except AssertionError:
            parent.kill()
            raise
        parent.send_signal(end)
    wait_until(lambda: not any(alive(child) for child in children))
    assert "the process that started this run has ended" in output.read_text()


@unix
@pytest.mark.skipif(not can_fork(), reason="there is no server")
@pytest.mark.parametrize("ends", [True, False])
def test_a_forked_child_is_a_script_and_ends_with_its_parent(ends, tmp_path):
    (tmp_path / "child_module.py").write_text(
        CHILD.replace("time.sleep(600)", "raise SystemExit(3)") if ends else CHILD
    )
    output, environment = tmp_path / "output.txt", os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", FORKING, str(output)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as parent:
        child = int(parent.stdout.readline())
        try:
            if ends:
                assert parent.stdout.readline() == "3 3\n"
            wait_until(lambda: "started" in output.read_text())
            time.sleep(0.2)
            assert "has ended" not in output.read_text()
        finally:
            parent.kill()
    wait_until(lambda: not alive(child))
    assert ends or "the process that started this run has ended" in output.read_text()


def test_a_process_that_was_started_otherwise_goes_on():
    code = CHILD.replace("600", "0.5") + "print('done')"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert run.stdout == "started\ndone\n"


@unix
@pytest.mark.slow
def test_a_killed_suite_leaves_no_run_behind(tmp_path):
    suite = {
        "name": "long",
        "title": "A long one",
        "datasets": ["digits"],
        "seeds": [0],
        "recipe": {"epochs": 100_000, "threads": 1},
        "entries": [{"name": "CNN", "model": "vgg", "options": {"width": 1, "depths": [1]}}],
    }
    (tmp_path / "suite.yaml").write_text(json.dumps(suite))
    command = [sys.executable, "-m", "experiments.compare", "--suite", str(tmp_path / "suite.yaml"), "--gpus", "0"]
    command += ["--runs_root", str(tmp_path / "runs")]
    folder = tmp_path / "runs" / "long" / "digits-cnn-seed0"
    log = folder.parent / "logs" / "digits-cnn-seed0.log"
    with (tmp_path / "output.txt").open("wb") as output:
        parent = processes.start(command, os.environ | {"PYTHONPATH": str(ROOT)}, output)
    try:
        wait_until((folder / "checkpoints" / "last.ckpt").exists)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: "the process that started this run has ended" in log.read_text())
    epochs = (folder / "history.csv").read_text()
    time.sleep(1)
    assert (folder / "history.csv").read_text() == epochs
