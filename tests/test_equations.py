"""The equations that nets solve: their solutions, their residuals, the conditions, the drawing of points, the study."""

import json
from dataclasses import replace
from math import log, pi

import numpy as np
import pytest
import torch
from commands import called
from torch import nn

from experiments import equations
from experiments.functions import references
from experiments.functions.equations import EQUATIONS, VISCOSITY, Solution, helmholtz_solution, samples
from experiments.functions.fields import packed_field, unpacked_field
from experiments.functions.nets import mlp
from experiments.functions.solving import FIRST, Training, drawn, loss, relative_error, residuals, train


class Known(nn.Module):
    """A solution that is known, as a net of an equation."""

    def __init__(self, name, solution, *coefficients):
        super().__init__()
        self.equation, self.solution = EQUATIONS[name], solution
        self.coefficients = torch.tensor(coefficients, dtype=torch.float64)

    def forward(self, points):
        return torch.cat([self.solution(points).unsqueeze(1), self.coefficients.expand(len(points), -1)], dim=1)


def random_points(name, count=40):
    """Points of an equation's box, from a tenth after its beginning."""
    points = EQUATIONS[name].random(count, torch.Generator().manual_seed(0), 0.9)
    return points + torch.tensor([0.1, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "known",
    [
        Known("helmholtz", helmholtz_solution),
        Known("burgers", references.burgers),
        Known("inverse", references.burgers, 1.0, log(VISCOSITY)),
    ],
    ids=lambda known: known.equation.title,
)
def test_residuals_vanish_at_the_solution_and_nowhere_else(known):
    points = random_points("helmholtz" if known.equation is EQUATIONS["helmholtz"] else "burgers")
    assert residuals(known, points).abs().max() < 1e-9
    wrong = Known("burgers", lambda points: 1.01 * known.solution(points), *known.coefficients)
    wrong.equation = known.equation
    assert residuals(wrong, points).abs().max() > 1e-3


def test_coefficients_off_the_truth_leave_residuals():
    points = random_points("inverse")
    for coefficients in ((1.01, log(VISCOSITY)), (1.0, log(1.01 * VISCOSITY))):
        assert residuals(Known("inverse", references.burgers, *coefficients), points).abs().max() > 1e-3


def test_burgers_begins_as_a_wave_and_is_odd(monkeypatch):
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)
    begin = references.burgers(torch.stack([torch.zeros_like(x), x], 1))
    assert torch.allclose(begin, -torch.sin(pi * x), atol=1e-14)
    later = references.burgers(torch.stack([torch.full_like(x, 0.7), x], 1))
    assert torch.allclose(later, -later.flip(0), atol=1e-13)
    assert later[[0, -1]].abs().max() < 1e-13
    monkeypatch.setattr(references, "NODES", 481)
    assert torch.allclose(references.burgers(torch.stack([torch.full_like(x, 0.7), x], 1)), later, rtol=0, atol=1e-13)


def test_steps_in_time_are_of_fourth_order():
    x = -1 + 2 * np.arange(128) / 128
    start = 0.9 * np.cos(pi * x)
    exact = references.etdrk4(start, 1, 640)[-1]
    coarse, fine = (np.abs(references.etdrk4(start, 1, steps)[-1] - exact).max() for steps in (40, 80))
    assert 15 < coarse / fine < 20


def test_what_is_even_in_space_follows_the_reaction_alone():
    found = references.etdrk4(np.full(8, 0.1), 4, 50)[:, 0]
    growth = np.exp(references.REACTION * np.linspace(0, 1, 5))
    assert np.allclose(found, 0.1 * growth / np.sqrt(1 + 0.01 * (growth**2 - 1)), rtol=1e-8)


def test_the_allen_cahn_reference_has_converged_and_solves_the_equation():
    found = references.allen_cahn(21, 256)
    finer = references.allen_cahn(21, 256, substeps=20, modes=2048)
    assert relative_error(found, finer) < 1e-5
    assert relative_error(found[-1], finer[-1]) < 1e-7  # when the kink of the beginning is gone
    assert torch.allclose(found[:, 1:], found[:, 1:].flip(1), atol=1e-12)  # as even as it began
    x = -1 + 2 * np.arange(512) / 512
    rows = references.etdrk4(x**2 * np.cos(pi * x), 1000, 1)
    now, around = 500, rows[[498, 499, 501, 502]]
    slope = (around[0] - 8 * around[1] + 8 * around[2] - around[3]) / (12 * 1e-3)
    waves = pi * np.arange(257)
    bend = np.fft.irfft(-(waves**2) * np.fft.rfft(rows[now]), 512)
    u = rows[now]
    assert np.abs(slope - references.DIFFUSION * bend - references.REACTION * (u - u**3)).max() < 1e-8


@pytest.mark.parametrize("name", list(EQUATIONS))
def test_every_net_meets_the_conditions_and_is_judged_on_the_lattice(name):
    torch.manual_seed(0)
    equation = EQUATIONS[name]
    model = Solution(equation, mlp(equation.inputs, 1, [5], "tanh"))
    first, second = equation.lattice()
    reference = equation.reference()
    assert reference.shape == (len(first), len(second))
    found = model(equation.points())[:, 0].view_as(reference)
    off = (found - reference).abs()
    assert off.max() > 1e-2
    if name != "inverse":  # which knows samples alone
        assert off[0].max() < 1e-12
    if name in ("helmholtz", "burgers"):
        assert off[:, [0, -1]].max() < 1e-12
    if name == "allen_cahn":
        ends = torch.tensor([[0.3, -1.0], [0.3, 1.0]], dtype=torch.float64)
        assert torch.allclose(*model(ends))


def test_points_are_drawn_where_residuals_are_large():
    class Steep(nn.Module):
        equation = replace(EQUATIONS["burgers"], residual=lambda net, point: 100.0 * (point[1] > 0.5))

    points = drawn(Steep(), 400, 0.5, torch.Generator().manual_seed(0), evenly=False)
    assert points[:, 0].max() <= 0.5
    assert 0.38 < (points[:, 1] > 0.5).double().mean() < 0.5
    evenly = drawn(Steep(), 400, 1.0, torch.Generator().manual_seed(0), evenly=True)
    assert 0.2 < (evenly[:, 1] > 0.5).double().mean() < 0.3


def test_samples_have_the_noise_that_is_said():
    [(_, points, values)] = samples(EQUATIONS["inverse"], 0)
    exact = references.burgers(points)
    assert float((values[:, 0] - exact).std() / exact.std()) == pytest.approx(equations.NOISE, rel=0.1)
    assert samples(EQUATIONS["burgers"], 0) == []


def test_training_lessens_the_residuals_and_moves_the_coefficients():
    torch.manual_seed(0)
    model = Solution(EQUATIONS["inverse"], mlp(2, 1, [4], "tanh"))
    before, errors = loss(model, 0), model.coefficient_errors()
    assert errors["λ₁"] == 1
    assert train(model, Training(seconds=1e-3, rounds=2, points=50), 0) == FIRST
    assert loss(model, 0) < before
    assert model.coefficient_errors()["λ₂"] != errors["λ₂"]


def test_fields_come_back_from_text():
    values = torch.randn(3, 5, dtype=torch.float64)
    assert torch.allclose(unpacked_field(json.loads(json.dumps(packed_field(values)))), values, rtol=1e-6)


def test_the_study_runs_and_is_not_run_again(monkeypatch, tmp_path, capsys):
    flags = ("--quick", "--out", tmp_path, "--problems", "inverse")
    assert called(equations, *flags) == 0
    table = (tmp_path / "equations.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    assert "Burgers, coefficients unknown" in table
    assert (tmp_path / "equations.png").stat().st_size > 5000
    record = (tmp_path / "equations.json").read_text(encoding="utf-8")
    monkeypatch.setattr(equations, "train", None)
    assert called(equations, *flags) == 0
    assert (tmp_path / "equations.json").read_text(encoding="utf-8") == record


def test_unknown_problems_are_refused(tmp_path, capsys):
    assert called(equations, "--problems", "heat", "--out", tmp_path) == 1
    assert "problems must be among helmholtz, burgers, allen_cahn, inverse, or all; got heat" in capsys.readouterr().err
