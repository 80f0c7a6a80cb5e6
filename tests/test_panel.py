import json
from fnmatch import fnmatch
from functools import partial

import pytest
import torch
from torch import nn

from convkan import KANLinear
from convkan.basis import BSpline
from experiments import summarize
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import measure, panel, panel_report, peers, rows
from experiments.benchmark.contenders import error_beside
from experiments.benchmark.obvious import Obvious, functions_of
from experiments.benchmark.scores import rows_won, scores
from experiments.common import records

EAGER = [workload for workload in panel.QUICK_PANEL if workload.name.endswith("/eager")]


@pytest.fixture
def committed(monkeypatch):
    """A tree without changes; one with changes would be measured anew."""
    monkeypatch.setattr(records, "git_commit", lambda: "c0ffee")


@pytest.fixture
def run(monkeypatch, call, tmp_path):
    """Runs the quick panel's rows that match a pattern, without a look at memory, which in a large process is slow."""
    monkeypatch.setattr(benchmark, "peak_bytes", lambda contender: None)
    fixed = ["--panel", "--quick", "--device", "cpu", "--threads", 1, "--rounds", 2, "--out", tmp_path]
    return lambda only, *arguments: call(benchmark, *fixed, "--only", only, *arguments)


def read(folder):
    return json.loads((folder / "panel.json").read_text())


def times(**milliseconds):
    """Results of contenders by name with an underscore for a space: kind, then milliseconds."""
    return {
        f"{name.replace('_', ' ')}, float32, eager": {
            "kind": kind,
            "correct": True,
            "error": None,
            "milliseconds": {part: {"median": median} for part in ("forward", "forward+backward")},
        }
        for name, (kind, median) in milliseconds.items()
    }


def record_of(layer="convolution", bar=None, **milliseconds):
    about = {"size": "s", "basis": "bspline", "dtype": "float32", "mode": "eager", "layer": layer, "bar": bar}
    workload = {"title": "", "about": about, "notes": [], "results": times(**milliseconds)}
    record = {"workloads": {"s/bspline/float32/eager": workload}}
    return record | {"ratios": scores(record)}


def values(record):
    return {ratio["title"].partition(": ")[2]: ratio["value"] for ratio in record["ratios"]}


class TestCommand:
    def test_leaves_a_record_tables_and_a_picture(self, committed, run, tmp_path):
        outcome = run("conv-tiny/[br]*/float32/eager,shared-tiny/bspline/float32/eager,predict-*-b1/*/eager")
        assert outcome.status == 0
        record = read(tmp_path)
        assert len(record["workloads"]) == 4
        assert all(workload["results"] for workload in record["workloads"].values())
        assert {ratio["counted"] for ratio in record["ratios"]} >= {"best rival", "SiLU", "plain twin"}
        assert "Rows won against the best rival:" in outcome.out
        tables = (tmp_path / "panel.md").read_text()
        for said in ("**rbf, float32, eager**", "| conv-tiny |", "predict-kan_mobilenet-fashion_mnist-b1, eager"):
            assert said in tables
        for basis in ("", "-rbf-float32"):
            assert (tmp_path / f"panel{basis}.png").stat().st_size > 1000

    def test_goes_on_where_it_was_with_other_rows_and_keeps_their_order(self, committed, run, monkeypatch, tmp_path):
        measured = []
        original = benchmark._measure
        monkeypatch.setattr(
            benchmark, "_measure", lambda workload, *rest: measured.append(workload.name) or original(workload, *rest)
        )
        monkeypatch.setattr(panel_report, "plot", lambda record, path: [path])
        for only in ("conv1d-tiny/rbf/float32/eager", "conv1d-tiny/[br]*/float32/eager"):
            assert run(only).status == 0
        names = ["conv1d-tiny/bspline/float32/eager", "conv1d-tiny/rbf/float32/eager"]
        assert measured == names[::-1]
        assert list(read(tmp_path)["workloads"]) == names

    def test_a_worse_ratio_than_before_is_reported(self, committed, run, tmp_path):
        run("conv1d-tiny/rbf/float32/eager")
        before = read(tmp_path)
        for ratio in before["ratios"]:
            ratio["value"] /= 2
        (tmp_path / "before.json").write_text(json.dumps(before))
        outcome = run("conv1d-tiny/rbf/float32/eager", "--baseline", tmp_path / "before.json")
        assert outcome.status == 1
        assert "ratios worse by more than 25%: conv1d-tiny/rbf/float32/eager: ours / best rival" in outcome.err

    def test_unknown_rows_are_refused_with_the_sizes_there_are(self, run):
        outcome = run("conv-huge/*")
        assert outcome.status == 1
        assert "conv-tiny/BASIS/DTYPE/MODE, depthwise-tiny/BASIS/DTYPE/MODE" in outcome.err

    def test_a_wrong_rival_takes_no_part(self, committed, run, monkeypatch, tmp_path):
        class Wrong(Obvious):
            def forward(self, x):
                return super().forward(x) * (1.01 if self.pads_input else 1)

        monkeypatch.setattr(rows, "Obvious", Wrong)
        run("conv-tiny/bspline/float32/eager")
        (workload,) = read(tmp_path)["workloads"].values()
        wrong = workload["results"]["obvious way, float32, eager"]
        assert not wrong["correct"]
        assert wrong["milliseconds"] == {}
        assert all(ratio["below"] != "obvious way, float32, eager" for ratio in read(tmp_path)["ratios"])
        assert "obvious way, float32, eager is wrong" in (tmp_path / "panel.md").read_text()

    def test_a_rows_own_threads_are_for_it_alone(self, committed, run, monkeypatch):
        seen = []
        monkeypatch.setattr(
            benchmark, "is_correct", lambda contender: seen.append(torch.get_num_threads()) or (False, 0)
        )
        run("conv-tiny/rbf/float32/eager,activation-tiny/bspline/float32/eager", "--threads", 2)
        assert set(seen[:3]) == {2}
        assert seen[-1] == 1


@pytest.mark.parametrize("workload", EAGER, ids=lambda workload: workload.name)
def test_rows_pass_their_gates(workload):
    contenders = workload.contenders(torch.device("cpu"), [])
    labels = [contender.label for contender in contenders]
    assert len(set(labels)) == len(labels)
    for contender in contenders:
        if contender.name not in {peer.name for peer in peers.PEERS}:  # which may compile what they do
            assert measure.is_correct(contender)[0], contender.label


def test_compiled_rows_have_what_is_compared_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    (workload,) = (each for each in panel.QUICK_PANEL if each.name == "linear-tiny/bspline/float32/compiled")
    contenders = {contender.name: contender for contender in workload.contenders(torch.device("cpu"), [])}
    assert set(contenders) == {"KANLinear", "obvious way", "Gaussians", "nn.Linear"}
    assert all(contender.compiled for contender in contenders.values())


def test_the_panel_has_every_size_once_and_its_default_is_in_it():
    for available, default in (
        (panel.PANEL, panel.PANEL_DEFAULT),
        (panel.QUICK_PANEL, panel.QUICK_PANEL_DEFAULT),
    ):
        names = [workload.name for workload in available]
        assert len(set(names)) == len(names)
        assert all(any(fnmatch(name, pattern) for name in names) for pattern in default.split(","))


def test_models_of_training_steps_are_as_large_as_they_say():
    for step, size in zip(panel.STEPS, (25_000, 160_000, 160_000), strict=True):
        for contender in step(torch.device("cpu"), []):
            count = sum(parameter.numel() for parameter in contender.module.parameters())
            assert abs(count - size) < 0.02 * size


class TestScores:
    def test_ours_is_held_against_the_fastest_rival_and_the_lower_floor(self):
        record = record_of(
            **{
                "KANConv2d": ("convkan", 120),
                "KANConv2d, channels last": ("convkan", 100),
                "obvious_way": ("others, reference", 300),
                "Gaussians": ("others, reference", 150),
                "floor": ("floor", 95),
                "floor, channels last": ("floor", 80),
                "nn.Conv2d": ("plain network", 10),
            }
        )
        assert values(record) == {"ours / best rival": 0.8, "ours / floor": 1.25}
        assert rows_won(record) == (1, 1)
        assert rows_won(record, "compiled") == (0, 0)
        assert panel_report.missed(record) == [
            "s/bspline/float32/eager: ours / floor: 1.25, at most 1.15 (floor, channels last, float32, eager)"
        ]

    def test_small_rows_are_not_held_against_their_floor(self):
        record = record_of(KANConv2d=("convkan", 20), floor=("floor", 10), Gaussians=("others, reference", 10))
        assert values(record) == {"ours / best rival": 2}
        assert rows_won(record) == (0, 1)

    def test_activations_are_held_against_silu(self):
        plain = {"nn.ReLU": ("plain network", 1), "nn.SiLU": ("plain network", 2)}
        record = record_of("activation", 3.0, LearnableActivation=("convkan", 5), **plain)
        assert values(record) == {"ours / SiLU": 2.5}
        assert "| SiLU | ≤ 3 | 1 of 1 |" in panel_report.summary(record)

    def test_models_are_held_against_their_twins(self):
        record = record_of("prediction", 2.0, kan_vgg=("convkan", 3), vgg=("plain network", 1))
        assert values(record) == {"ours / plain twin": 3}
        assert panel_report.won_in_short(record) == "No row was held against a rival."


class TestPages:
    def test_rows_won_stand_below_the_ratios_where_there_is_a_record(self, tmp_path):
        assert summarize.speed_in_short(tmp_path) == summarize.panel_table(tmp_path) == "No record yet."
        (tmp_path / "benchmark").mkdir()
        record = record_of(KANConv2d=("convkan", 20), Gaussians=("others, reference", 30))
        (tmp_path / "benchmark" / "panel.json").write_text(json.dumps(record))
        assert "1 of 1 training steps (eager)" in summarize.speed_in_short(tmp_path)
        assert "| best rival | ≤ 1 | 1 of 1 |" in summarize.panel_table(tmp_path)
        assert "panel.png" not in summarize.panel_table(tmp_path)
        (tmp_path / "benchmark" / "panel.png").touch()
        assert "(benchmark/panel.png)" in summarize.panel_table(tmp_path)


@pytest.mark.parametrize("order", [1, 3])
def test_the_obvious_splines_are_the_splines(order):
    basis = BSpline(6, order, (-2, 1))
    x = torch.linspace(-4, 3, 50, dtype=torch.float64)[:, None]
    obvious = functions_of(basis).double()(x)
    knots = KANLinear(1, 1, basis=basis).grid.double()
    torch.testing.assert_close(obvious, basis.evaluate(x, knots), atol=1e-6, rtol=0)


def test_bases_without_an_obvious_form_are_refused():
    with pytest.raises(ValueError, match="basis must be B-splines of order 1 or 3"):
        functions_of(BSpline(order=2))


def test_short_calls_are_timed_many_at_a_time():
    assert measure.calls_of(lambda calls: 1e-4 * calls, 0.02) >= 200
    assert measure.calls_of(lambda calls: 1.0 * calls, 0.02) == 1


def test_what_holds_other_weights_in_one_is_wrong():
    layer, x = KANLinear(4, 2), torch.randn(3, 4, requires_grad=True)
    same, other = (Obvious(layer.basis, layer, 0, copies=copies) for copies in (True, False))
    for module, is_right in ((same, True), (other, False)):
        error = partial(error_beside, layer, one_weight=True)
        contender = measure.Contender("obvious way", "others, reference", module, x, error=error)
        assert measure.is_correct(contender)[0] == is_right


def test_models_that_only_predict_have_no_backward_pass():
    contender = measure.Contender("model", "convkan", nn.Linear(2, 2).eval(), torch.zeros(1, 2), trains=False)
    assert set(measure.passes(contender)) == {"forward"}
    assert measure.saved_bytes(contender) is None
