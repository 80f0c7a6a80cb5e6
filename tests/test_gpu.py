import json

import pytest
import torch
from commands import assert_refused, called
from torch import nn

from convkan.testing import LAYERS
from experiments import train
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark.measure import Contender
from experiments.benchmark.workloads import Workload
from experiments.common import records
from experiments.gpu import __main__ as gpu
from experiments.gpu import children, correctness, memory
from experiments.gpu.correctness import Check
from experiments.gpu.work import Outcome

SCRIPTS = {"experiments.benchmark": benchmark, "experiments.train": train}


def read(folder):
    return json.loads((folder / "gpu.json").read_text())


def here(module, arguments, log, seconds):
    """A child of the command, called in this process."""
    return called(SCRIPTS[module], *arguments)


def plain(device, notes):
    return [Contender("nn.Linear", "plain network", nn.Linear(4, 2), torch.randn(3, 4, requires_grad=True))]


@pytest.fixture
def try_on_cpu(call, monkeypatch):
    """Calls the command on the CPU, its children in this process and the benchmark with a single tiny workload."""
    monkeypatch.setattr(records, "git_commit", lambda: "c0ffee")  # a changed tree would be tried anew
    monkeypatch.setattr(children, "run_child", here)
    monkeypatch.setattr(benchmark, "QUICK", [Workload("tiny", "a small one", plain)])
    monkeypatch.setattr(benchmark, "RATIOS", [])
    monkeypatch.setattr(correctness, "LAYER_CLASSES", {"linear": LAYERS["linear"]})
    monkeypatch.setattr(correctness, "BACKEND_LAWS", correctness.BACKEND_LAWS[:1])
    return lambda *arguments: call(gpu, "--device", "cpu", "--quick", "--out", "out", *arguments)


@pytest.fixture
def only(monkeypatch):
    """Has these checks made, and no others."""
    return lambda *checks: monkeypatch.setattr(correctness, "all_checks", lambda device, small: list(checks))


@pytest.fixture
def quick_memory(monkeypatch):
    """Measures no layer's memory, for what is about parts as such."""
    monkeypatch.setitem(gpu.PARTS, "memory", (lambda work: Outcome("done", "nothing measured"), 1))


def holds():
    pass


def breaks():
    raise AssertionError("output: relative error 1 exceeds 1e-05")


def test_all_parts_leave_a_record_and_a_page(try_on_cpu, only, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "peak_bytes", lambda contender: 2**20)  # which is slow in a large process
    monkeypatch.setattr(train, "draw", lambda *_: None)
    only(Check("laws", "one holds", holds))
    outcome = try_on_cpu("--epochs", 1)
    assert outcome.status == 0, outcome.err
    record, page = read(tmp_path / "out"), (tmp_path / "out" / "gpu.md").read_text()
    assert {name: part["state"] for name, part in record["parts"].items()} == dict.fromkeys(
        ("correctness", "memory", "train", "benchmark"), "done"
    )
    assert all(part["seconds"] > 0 for part in record["parts"].values())
    assert record["git_commit"] == "c0ffee"
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["parts"]["train"]["found"]["result"]["test_accuracy"] > 0
    assert record["parts"]["benchmark"]["found"]["workloads"] == ["tiny"]
    for said in (record["device"], "c0ffee", "| laws | 1 | 0 | 0 |", "KANConv2d, bfloat16", "`test_accuracy`", "tiny"):
        assert said in page
    for left in ("train/result.json", "benchmark/benchmark.json", "benchmark/benchmark.md"):
        assert (tmp_path / "out" / left).exists()


def test_layers_agree_with_the_reference_in_every_dtype(try_on_cpu, tmp_path):
    assert try_on_cpu("--parts", "correctness").status == 0
    tables = {line["table"] for line in read(tmp_path / "out")["parts"]["correctness"]["found"]["lines"].values()}
    assert {"dense, float64", "dense, float16", "reference, bfloat16", "laws of convkan.testing"} <= tables


def test_one_failure_is_told_hides_no_other_line_and_ends_with_status_1(try_on_cpu, quick_memory, only, tmp_path):
    def raises():
        raise RuntimeError("out of\nmemory")

    def does_not_apply():
        raise RuntimeError("backend 'dense' cannot run here: no reason")

    only(*(Check("laws", run.__name__, run) for run in (breaks, raises, does_not_apply, holds)))
    outcome = try_on_cpu("--parts", "correctness,memory")
    assert_refused(outcome, "something is wrong in correctness", "gpu.md")
    assert "correctness fails: breaks: output: relative error" in outcome.out
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "| laws | 1 | 2 | 1 |" in page
    assert "**fails**: raises: RuntimeError: out of memory" in page
    assert read(tmp_path / "out")["parts"]["memory"]["state"] == "done"


def test_what_was_interrupted_goes_on_and_what_is_done_is_not_done_again(try_on_cpu, only, tmp_path):
    def stopped():
        raise KeyboardInterrupt

    only(Check("laws", "first", holds), Check("laws", "second", stopped))
    assert try_on_cpu("--parts", "correctness").status == 130
    only(Check("laws", "first", breaks), Check("laws", "second", holds))
    assert try_on_cpu("--parts", "correctness").status == 0
    assert len(read(tmp_path / "out")["parts"]["correctness"]["found"]["lines"]) == 2
    only(Check("laws", "third", breaks))
    assert try_on_cpu("--parts", "correctness").status == 0


def test_a_part_without_time_says_so_and_goes_on_later(try_on_cpu, only, tmp_path):
    only(Check("laws", "first", holds))
    outcome = try_on_cpu("--parts", "correctness,memory", "--minutes", "1e-9")
    assert outcome.status == 0
    assert "the same command goes on where it was" in outcome.out
    assert {part["state"] for part in read(tmp_path / "out")["parts"].values()} == {"cut"}
    try_on_cpu("--parts", "correctness")
    assert read(tmp_path / "out")["parts"]["correctness"]["state"] == "done"


def test_one_part_that_ends_in_an_error_leaves_the_others(try_on_cpu, quick_memory, monkeypatch, tmp_path):
    def broken(work):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(gpu.PARTS, "correctness", (broken, 1))
    assert_refused(try_on_cpu("--parts", "correctness,memory"), "correctness")
    parts = read(tmp_path / "out")["parts"]
    assert parts["correctness"]["summary"] == "RuntimeError: no such kernel"
    assert parts["memory"]["state"] == "done"


def test_missing_data_skip_the_training_in_one_line(try_on_cpu, monkeypatch, tmp_path):
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", "file:///nowhere")
    outcome = try_on_cpu("--parts", "train", "--dataset", "cifar10", "--data_root", "nothing")
    assert outcome.status == 0
    part = read(tmp_path / "out")["parts"]["train"]
    assert part["state"] == "skipped"
    assert "CIFAR10 is missing" in part["summary"]
    assert f"train: skipped: {part['summary']}" in outcome.out.splitlines()


def test_what_is_of_other_code_is_put_aside(try_on_cpu, quick_memory, only, monkeypatch, tmp_path):
    only(Check("laws", "first", holds))
    try_on_cpu("--parts", "correctness")
    monkeypatch.setattr(records, "git_commit", lambda: "decade")
    assert "kept in" in try_on_cpu("--parts", "memory").out
    assert list(read(tmp_path / "out")["parts"]) == ["memory"]
    assert list(read(tmp_path / "out" / "earlier-1")["parts"]) == ["correctness"]


def test_children_are_ended_when_their_time_is_over(tmp_path):
    (tmp_path / "log").touch()
    assert children.run_child("timeit", ["-n1", "-r1", "print('said')"], tmp_path / "log", 60) == 0
    assert "said" in (tmp_path / "log").read_text()
    assert children.run_child("timeit", ["-n1", "-r1", "import time; time.sleep(60)"], tmp_path / "log", 0.2) is None


def test_what_children_leave_says_how_they_ended(tmp_path):
    log = tmp_path / "log"
    assert children.ended(2, "", log).summary == "ended with status 2: it said nothing"
    log.write_text("working\nerror: no such option\n\n")
    assert children.ended(2, "", log) == Outcome("failed", "ended with status 2: error: no such option")
    assert children.ended(None, "half", log, ("one",)) == Outcome("cut", "half", ("one",))


def test_what_cannot_be_is_refused_in_one_line(try_on_cpu, call, monkeypatch):
    assert_refused(try_on_cpu("--parts", "speed"), "parts", "correctness", "speed")
    assert_refused(try_on_cpu("--minutes", "0"), "minutes", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_refused(call(gpu, "--device", "cuda"), "device", "cuda", "no GPU here")


def test_memory_is_measured_of_layers_and_of_plain_ones():
    x = torch.randn(2, 8, requires_grad=True)
    sizes = memory.measure(Contender("nn.Linear", "plain network", nn.Linear(8, 3), x))
    assert sizes["state_bytes"] == 4 * (16 + 27)
    assert sizes["saved_bytes"] <= sizes["state_bytes"]
