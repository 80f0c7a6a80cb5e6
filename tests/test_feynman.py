"""The Feynman formulas and the studies of them: values, counts, and that each command ends and goes on."""

import json

import numpy as np
import pytest
import sympy
import torch

from convkan.interpret import fix
from experiments import feynman, recovery
from experiments.common import cli
from experiments.functions.feynman import FORMULAS, feynman_data
from experiments.functions.formulas import trained_formula
from experiments.functions.least_squares import rmse
from experiments.functions.nets import kan


def inside(formula, points, seed=0):
    low, high = np.asarray(formula.ranges, dtype=float).T
    return low + (high - low) * np.random.default_rng(seed).random((points, len(low)))


def test_there_are_120_formulas_and_the_papers_27_without_dimensions():
    starred = [one for one in FORMULAS.values() if one.paper]
    assert (len(FORMULAS), len(starred)) == (147, 27)
    for one in FORMULAS.values():
        assert one.name.endswith("*") == (one.paper is not None)
        assert {str(symbol) for symbol in one.expression.free_symbols} == set(one.variables)
        assert len(one.ranges) == len(one.variables)
        assert all(low < high for low, high in one.ranges)
    for one in starred:
        assert FORMULAS[one.name.removesuffix("*")].paper is None
        assert (one.paper.widths[0], one.paper.widths[-1]) == (len(one.variables), 1)


def test_values_are_finite_and_those_of_sympy():
    for one in FORMULAS.values():
        values = one.values(inside(one, 500))
        assert np.isfinite(values).all(), one.name
        assert values.std() > 0, one.name
        point = inside(one, 1)
        wanted = one.expression.evalf(
            30, subs=dict(zip(sympy.symbols(one.variables, real=True), point[0], strict=True))
        )
        assert one.values(point)[0] == pytest.approx(float(wanted), rel=1e-9, abs=1e-12), one.name


def test_points_are_scaled_and_noise_is_in_what_is_trained_on_alone():
    clean, unit, mean = feynman_data("I.12.11*", 200, 1)
    assert [len(x) for x, _ in (clean.train, clean.val)] == [170, 30]
    assert clean.train[0].abs().max() <= 1
    assert clean.train[1].mean().item() == pytest.approx(0, abs=1e-12)
    assert clean.train[1].std().item() == pytest.approx(1)
    low, high = torch.tensor(FORMULAS["I.12.11*"].ranges, dtype=torch.float64).T
    points = (low + (high - low) * (clean.test[0] + 1) / 2).numpy()
    values = torch.from_numpy(FORMULAS["I.12.11*"].values(points)).unsqueeze(1)
    torch.testing.assert_close(mean + unit * clean.test[1], values, rtol=1e-12, atol=1e-12)
    noisy, *_ = feynman_data("I.12.11*", 200, 1, 0.1)
    assert torch.equal(noisy.train[0], clean.train[0])
    assert torch.equal(noisy.test[1], clean.test[1])
    assert (noisy.train[1] - clean.train[1]).std().item() == pytest.approx(0.1, rel=0.2)


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    def command(script, *arguments):
        monkeypatch.setattr("sys.argv", [script.__name__, "--quick", "--out", str(tmp_path), *arguments])
        script.main()
        name = script.STUDY.name
        assert (tmp_path / f"{name}.md").read_text() in capsys.readouterr().out
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        return json.loads((tmp_path / f"{name}.json").read_text())

    return command


@pytest.mark.slow
def test_a_quick_comparison_goes_on_where_it_was(call, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr(feynman, "mlp_row", stop)
        with pytest.raises(KeyboardInterrupt):
            call(feynman)
    record = call(feynman)
    assert list(record["nets"]) == ["II.38.3*", "I.12.1"]  # the paper's first
    nets = record["nets"]["II.38.3*"]
    assert list(nets) == ["KAN", "MLP", "KAN, by hand"]
    assert nets["KAN, by hand"][0]["kind"] == [2, 1, 1]
    sizes = [nets[net][0]["parameters"] for net in ("KAN", "MLP")]
    assert abs(sizes[0] - sizes[1]) < 0.3 * sizes[0]
    for name in ("kan_row", "mlp_row"):
        monkeypatch.setattr(feynman, name, stop)
    assert call(feynman) == record


def fitted_to(relative, kind=(2, 5, 1)):
    return [
        {"kind": kind, "parameters": 100, "relative": relative, "test_rmse": 2 * relative, "steps": 30, "grid_size": 5}
    ]


def test_wins_losses_and_failures_are_counted_from_the_ratios():
    failed = [{"failure": "a value is not finite"}]
    record = {
        "config": {"points": 1000, "seeds": 1, "seconds": 4.0},
        "nets": {
            "I.12.1": {"KAN": fitted_to(1e-3), "MLP": fitted_to(1e-1)},
            "I.12.2": {"KAN": fitted_to(1e-3), "MLP": fitted_to(1e-4)},
            "I.12.4": {"KAN": fitted_to(0.5), "MLP": fitted_to(0.2)},
            "I.12.5": {"KAN": failed, "MLP": failed},
            "II.38.3*": {"KAN": fitted_to(1e-3), "MLP": fitted_to(1e-3), "KAN, by hand": fitted_to(1e-2)},
        },
    }
    with_units, starred = feynman.groups(record).values()
    assert list(with_units) == ["I.12.1", "I.12.4", "I.12.2"]
    assert list(with_units.values()) == pytest.approx([-2, 0.39794, 1])
    assert starred == {"II.38.3*": 0}
    assert list(feynman.failures(record, "KAN")) == ["I.12.4", "I.12.5"]
    table = feynman.markdown(record)
    assert "| formulas with dimensions | 3 | 1 | 1 | 1 | +0.40 |" in table
    assert "I.12.5 (a value is not finite)" in table
    assert "| 1.0e-02 | 8.8e-05 / 5.3e-04 |" in table


def test_a_formula_that_a_net_computes_is_written_in_its_own_variables_and_is_seen_to_be_the_same():
    known = FORMULAS["II.38.3*"]
    data, unit, mean = feynman_data(known.name, 100, 0)
    net = kan((2, 1, 1), 3)
    fix(net[0], (0, 0), "log", (0.5, 0.5, 1, 0))
    fix(net[0], (0, 1), "log", (0.75, 1.25, -1, 0))
    fix(net[1], (0, 0), "exp", (1, 0, 1 / unit, -mean / unit))
    edges = [{"name": name} for name in ("log", "log", "exp")]
    error = rmse(net, data.test)
    row = {"widths": [2, 1, 1], "edges": edges, "test_rmse": error, "test_rmse_grid_10": 1e-3}
    found = recovery.judged(net, row, known, data, unit, mean)
    assert (found["formula"], found["equal"], found["operations"]) == ("a/b", True, 1)
    assert found["r2"] == pytest.approx(1)
    config = recovery.RecoveryConfig(points=100)
    assert recovery.of_form(net, config, known.name, 0.0, 0)["found"]


def test_right_functions_are_found_in_spite_of_noise_and_wrong_ones_are_not():
    known, config = FORMULAS["II.38.3*"], recovery.RecoveryConfig(points=60, steps=15)
    data, unit, mean = feynman_data(known.name, 60, 0, 0.05)
    for last, wanted in (("exp", True), ("x", False)):  # a/b, and log(a) − log(b)
        net = kan((2, 1, 1), 3)
        fix(net[0], (0, 0), "log", (0.5, 0.51, 1, 0))
        fix(net[0], (0, 1), "log", (0.75, 1.24, -1, 0))
        fix(net[1], (0, 0), last, (1, 0, 1 / unit, -mean / unit))
        trained_formula(net, data, 15)
        assert recovery.of_form(net, config, known.name, 0.05, 0)["found"] is wanted


@pytest.mark.slow
def test_a_quick_recovery_goes_on_where_it_was(call, monkeypatch):
    monkeypatch.setattr(recovery, "HIDDEN", ((1,),))
    record = call(recovery)
    [row] = record["noises"]["0"]["II.38.3*"]
    assert row["starts"] == 1
    monkeypatch.setattr(recovery, "find", lambda *_: pytest.fail("it was done before"))
    assert call(recovery) == record


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (feynman, ["--functions", '["I.6.2"]'], "functions must be among I.6.20a"),
        (feynman, ["--functions", '["I.12.1"]', "--paper"], "functions must name dimensionless formulas"),
        (feynman, ["--seconds", "0"], "seconds must be above 0, got 0.0"),
        (recovery, ["--functions", '["I.6.2"]'], "functions must be among I.6.20a"),
        (recovery, ["--noises", "[0.1, 1.5]"], r"noises must lie in [0, 1), got [0.1, 1.5]"),
    ],
)
def test_what_cannot_be_run_is_refused(script, arguments, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", [script.__name__, "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit):
        cli.run(script.main)
    assert message in capsys.readouterr().err
