import json
import sys
from functools import partial

import pytest
import torch
from torch import nn

from convkan import KANLinear
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import measure, ratios, report, tasks, workloads
from experiments.benchmark.contenders import error_of
from experiments.benchmark.measure import Contender
from experiments.benchmark.ratios import Ratio
from experiments.benchmark.workloads import Workload
from experiments.common import records


def tiny(device, notes):
    x = torch.randn(3, 4, requires_grad=True)
    layer = KANLinear(4, 2)
    notes.append("nothing is left out")
    wrong = KANLinear(4, 2)
    error = partial(error_of, layer)
    return [
        Contender("KANLinear", "convkan", layer, x, error=error),
        Contender("wrong", "convkan", wrong, x, error=error),
        Contender("nn.Linear", "plain network", nn.Linear(4, 2), x),
    ]


@pytest.fixture
def only_tiny(monkeypatch):
    monkeypatch.setattr(benchmark, "WORKLOADS", [Workload("tiny", "a small one", tiny)])
    ratio = Ratio("ours / plain", "tiny", "KANLinear, float32, eager", "nn.Linear, float32, eager", 1e6)
    kept = Ratio("bytes", "tiny", "KANLinear, float32, eager", "bytes", 1.1)
    monkeypatch.setattr(benchmark, "RATIOS", [ratio, kept])
    monkeypatch.setattr(records, "git_commit", lambda: "c0ffee")  # a changed tree would be measured anew
    monkeypatch.setattr(benchmark, "peak_bytes", lambda contender: None)  # which is slow in a large process


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["benchmark", "--device", "cpu", "--threads", "1", "--rounds", "3", *arguments])
    benchmark.main()


class TestBenchmark:
    def test_leaves_a_record_tables_and_a_plot(self, only_tiny, monkeypatch, tmp_path, capsys):
        run(monkeypatch, "--out", str(tmp_path))
        record = json.loads((tmp_path / "benchmark.json").read_text())
        results = record["workloads"]["tiny"]["results"]
        ours = results["KANLinear, float32, eager"]
        assert ours["milliseconds"]["forward"]["count"] == 3
        assert ours["milliseconds"]["forward+backward"]["median"] > 0
        assert ours["saved_bytes"] <= 1.1 * ours["state_bytes"]
        assert [ratio["value"] is not None for ratio in record["ratios"]] == [True, True]
        table = (tmp_path / "benchmark.md").read_text()
        assert "a small one" in table
        assert "nothing is left out" in table
        assert (tmp_path / "benchmark.png").stat().st_size > 1000
        assert str(tmp_path / "benchmark.json") in capsys.readouterr().out

    def test_what_fails_its_gate_gets_no_time(self, only_tiny, monkeypatch, tmp_path):
        run(monkeypatch, "--out", str(tmp_path))
        record = json.loads((tmp_path / "benchmark.json").read_text())
        wrong = record["workloads"]["tiny"]["results"]["wrong, float32, eager"]
        assert not wrong["correct"]
        assert wrong["milliseconds"] == {}
        assert "wrong (error" in report.markdown(record)

    def test_a_killed_run_goes_on_where_it_was(self, only_tiny, monkeypatch, tmp_path):
        run(monkeypatch, "--out", str(tmp_path))
        monkeypatch.setattr(benchmark, "_measure", lambda *arguments: pytest.fail("measured again"))
        run(monkeypatch, "--out", str(tmp_path))

    def test_a_worse_ratio_than_before_is_reported(self, only_tiny, monkeypatch, tmp_path):
        run(monkeypatch, "--out", str(tmp_path))
        path = tmp_path / "benchmark.json"
        run(monkeypatch, "--out", str(tmp_path), "--baseline", str(path))
        better = json.loads(path.read_text())
        better["ratios"][0]["value"] /= 2
        (tmp_path / "better.json").write_text(json.dumps(better))
        with pytest.raises(benchmark.UserError, match="ratios worse by more than 25%: ours / plain"):
            run(monkeypatch, "--out", str(tmp_path), "--baseline", str(tmp_path / "better.json"))

    def test_unknown_workloads_are_refused_with_the_names_there_are(self, only_tiny, monkeypatch, tmp_path):
        with pytest.raises(benchmark.UserError, match="only must match one of tiny; got 'huge'"):
            run(monkeypatch, "--out", str(tmp_path), "--only", "huge")


def test_bytes_in_context_attributes_are_counted_too():
    class Hoarder(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.hidden = torch.zeros(1000)
            return x + 1

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Module(nn.Module):
        def forward(self, x):
            return Hoarder.apply(x)

    contender = Contender("hoarder", "convkan", Module(), torch.zeros(3, requires_grad=True))
    assert measure.saved_bytes(contender) == 4000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="known on Linux only")
def test_the_peak_of_memory_holds_what_a_pass_makes_and_lets_go():
    class Module(nn.Module):
        def forward(self, x):
            return torch.ones(2**24).sum() * x

    contender = Contender("large", "convkan", Module(), torch.zeros(3, requires_grad=True))
    assert 0.9 * 2**26 <= measure.peak_bytes(contender) < 2**28


@pytest.fixture
def small_batches(monkeypatch):
    """Inputs of two small images, for what does not depend on how many, and how large, they are."""
    whole = tasks.random_input

    def small(batch, channels, *sides, **options):
        return whole(2, channels, *(min(side, 8) for side in sides), **options)

    monkeypatch.setattr(tasks, "random_input", small)


@pytest.mark.parametrize("workload", workloads.QUICK, ids=lambda workload: workload.name)
def test_quick_workloads_pass_their_gates(workload, small_batches):
    notes = []
    for contender in workload.contenders(torch.device("cpu"), notes):
        if not contender.compiled:
            assert measure.is_correct(contender)[0], contender.label


def test_every_ratio_names_contenders_that_there_are(small_batches):
    for ratio in ratios.RATIOS:
        if ratio.workload == "linear1024":  # inkan may not be installed
            continue
        (workload,) = (w for w in workloads.WORKLOADS if w.name == ratio.workload)
        labels = [contender.label for contender in workload.contenders(torch.device("cpu"), [])]
        assert ratio.above in labels
        assert ratio.below in [*labels, "bytes"]
        assert len(set(labels)) == len(labels)
