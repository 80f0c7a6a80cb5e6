"""The experiments on known functions: their mathematics, and that each runs to the end in its quick setting."""

import json
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import experiments
from convkan.basis import BASES
from convkan.fitting.linear import Triangle
from convkan.fitting.objective import Objective, Term
from convkan.interpret.plot import new_figure
from experiments import bases, chebyshev, continual, convert, fit, loading, pde, small_nets, special
from experiments.common import cli
from experiments.common.study import Work, settings_of
from experiments.functions import poisson, tasks
from experiments.functions.least_squares import optimize, rmse
from experiments.functions.nets import kan, mlp_of_size
from experiments.functions.special import SPECIAL, special_data
from experiments.functions.tasks import Data
from experiments.summarize import RESULTS

SCRIPTS = sorted(Path(experiments.__file__).parent.glob("*.py"))
STUDIES = [
    import_module(f"experiments.{path.stem}") for path in SCRIPTS if "\nSTUDY = " in path.read_text(encoding="utf-8")
]


def name_of(script):
    return script.STUDY.name


def options_of(script):
    return {option.name for option in fields(script.STUDY.config)}


def record_of(script):
    """Where the record of a study is that was published."""
    return RESULTS / script.STUDY.name / f"{script.STUDY.name}.json"


def tiny(num_classes):
    """What torchvision's networks are made of, for what takes any of them; they are converted in test_convert."""
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, num_classes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "fewer"),
    [
        (fit, ["--steps", "2"]),
        (pde, ["--steps", "2"]),
        (continual, ["--steps", "5"]),
        (chebyshev, ["--steps", "2", "--threads", "1"]),
        (convert, ["--train_fraction", "0.03", "--model", "tiny"]),
        (bases, ["--steps", "2"]),
        (loading, ["--workers", "[1]"]),
        (small_nets, []),
        pytest.param(special, ["--steps", "2"], marks=pytest.mark.thorough),
    ],
)
def test_quick_setting_leaves_a_record_a_table_and_a_plot(script, fewer, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torchvision.models, "tiny", tiny, raising=False)
    name = script.__name__.split(".")[-1]
    monkeypatch.setattr("sys.argv", [name, "--quick", "--out", str(tmp_path), *fewer])
    script.main()
    assert json.loads((tmp_path / f"{name}.json").read_text())["config"]["quick"]
    assert (tmp_path / f"{name}.md").read_text() in capsys.readouterr().out
    assert (tmp_path / f"{name}.png").stat().st_size > 5000


@pytest.mark.parametrize("script", [script for script in STUDIES if "seeds" in options_of(script)], ids=name_of)
def test_runs_without_a_seed_are_refused(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script.__name__, "--seeds", "0"])
    with pytest.raises(SystemExit):
        cli.run(script.main)
    assert capsys.readouterr().err == "error: seeds must be at least 1, got 0\n"


PUBLISHED = [script for script in STUDIES if record_of(script).exists() and "run" not in options_of(script)]


@pytest.mark.parametrize("script", PUBLISHED, ids=name_of)
def test_a_committed_record_is_one_that_nothing_is_missing_in(script):
    study = script.STUDY
    record = json.loads(record_of(script).read_text(encoding="utf-8"))
    config = study.complete(study.config(**record["config"]))
    assert settings_of(config) == record["config"]
    work = Work(config, record, lambda: None)
    cells = [cell for stage in study.stages for cell in stage(work)]
    assert cells
    assert all(cell.is_in(record) for cell in cells)


@pytest.mark.parametrize("name", BASES)
def test_every_basis_has_the_sizes_at_which_they_are_compared(name):
    sizes = [size for size in bases.SIZES if size != bases.TIMED]
    assert [bases.sized(name, size).num_functions for size in sizes] == [bases.SIZES[size] for size in sizes]


def linear_data(inputs=2):
    x = 2 * torch.rand(60, inputs, dtype=torch.float64) - 1
    y = x.sum(1, keepdim=True)
    return Data((x[:40], y[:40]), (x[40:50], y[40:50]), (x[50:], y[50:]))


@pytest.mark.parametrize("optimizer", ["lm", "lbfgs", "adam"])
def test_every_optimiser_finds_what_is_easy_and_keeps_the_best_state(optimizer):
    data = linear_data()
    model = kan([2, 1], 4)
    outcome = optimize(model, data, 200, optimizer=optimizer, learning_rate=0.05 if optimizer == "adam" else 1.0)
    assert outcome.val_rmse == rmse(model, data.val) == min(outcome.curve)
    assert outcome.test_rmse < 0.05


def test_an_mlp_comes_close_to_the_size_asked_for():
    for depth in (1, 2, 3):
        size = sum(p.numel() for p in mlp_of_size(2, 1, depth, "tanh", 1000).parameters())
        assert abs(size - 1000) < 70


@pytest.mark.parametrize("name", list(tasks.TASKS))
def test_every_task_can_be_sampled(name):
    data = tasks.data_of(tasks.TASKS[name], 100, 0)
    assert len(data.train[0]) + len(data.val[0]) == 100
    assert data.test[1].isfinite().all()
    assert data.train[0].abs().max() <= 1
    again = tasks.data_of(tasks.TASKS[name], 100, 0)
    assert torch.equal(data.train[1], again.train[1])


@pytest.mark.parametrize("extent", ["unit", "wide"])
@pytest.mark.parametrize("name", list(SPECIAL))
def test_every_special_function_is_finite_on_its_domains(name, extent):
    data = special_data(name, 100, 0, extent)
    assert len(data.train[0]) + len(data.val[0]) == 100
    assert data.test[1].isfinite().all()
    assert data.test[1].std() > 1e-3


def test_the_poisson_problem_is_solved_by_its_solution():
    class Exact(nn.Module):
        def forward(self, x):
            return poisson.solution(x).unsqueeze(1)

    problem = poisson.Problem.random(50, 40, 0)
    assert problem.loss(Exact()) < 1e-20
    assert (problem.border.abs().amax(1) == 1).all()
    assert max(poisson.errors(Exact()).values()) < 1e-12


def test_residuals_and_their_derivatives_are_those_of_the_poisson_loss():
    model, problem = kan([2, 3, 1], 4), poisson.Problem.random(30, 20, 0)
    objective = Objective(model, [Term(residual, samples) for residual, *samples in problem.terms()])
    found = Triangle(objective, objective.vector())
    loss = problem.loss(model)
    loss.backward()
    assert objective.residuals(objective.vector()).square().sum().item() == pytest.approx(loss.item(), rel=1e-12)
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert torch.allclose(2 * found.gradient, gradient, rtol=1e-9, atol=1e-10)


def test_the_bumps_have_the_height_of_one():
    x = torch.linspace(-0.8, 0.8, 5, dtype=torch.float64).unsqueeze(1)
    assert (continual.target(x) - 1).abs().max() < 1e-6
    ends = [continual.stage_points(stage, 10)[[0, -1], 0].tolist() for stage in range(5)]
    assert ends[0][0] == -1
    assert ends[-1][1] == pytest.approx(1)


def test_bumps_stopped_on_the_way_are_learned_on(monkeypatch, tmp_path):
    learned = []

    def learn(create, rate, steps, points, advance):
        learned.append(rate)
        if len(learned) == 8:
            raise KeyboardInterrupt
        # One net is best in the end at one rate and at each stage at another, and so has two rows.
        ends = [0.1, rate if len(learned) <= 4 else 1.0]
        return continual.Learned(ends, [1 / rate], [[0.0]], 3)

    monkeypatch.setattr(continual, "learn", learn)
    study = replace(continual.STUDY, table=lambda record: "", draw=lambda record: new_figure((1, 1)))
    config = continual.ContinualConfig(seeds=1, grid_size=3, out=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        study.run(config)
    nets = json.loads((tmp_path / "continual.json").read_text())["nets"]
    first = "KAN [1, 1], G = 3"
    assert list(nets) == [f"{first}, rate best in the end", f"{first}, rate best at each stage"]
    assert len(study.run(config)["nets"]) == 5 + 3
    assert len(learned) == 8 + 3 * 4  # of the net that was being learned, all rates again
    study.run(config)
    assert len(learned) == 8 + 3 * 4


def test_the_chebyshev_net_has_864_parameters():
    assert sum(p.numel() for p in chebyshev.chebyshev_kan().parameters()) == 864
