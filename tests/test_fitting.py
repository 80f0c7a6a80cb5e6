"""Fitting: least squares by every method, in every size, with stages, starts and reasons to stop."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from convkan import KAN, BSpline, KANConv1d, KANLinear
from convkan.fitting import fit, fit_residuals, linear
from convkan.fitting.history import Line
from convkan.fitting.layerwise import chain
from convkan.fitting.objective import Objective, Term, data_term
from convkan.fitting.smoothing import Smoothing
from convkan.grid import adapt_grids
from convkan.interpret import fix, importance


def points(count=120, inputs=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(count, inputs, generator=generator, dtype=torch.float64) - 1


def curve(x):
    return torch.sin(2 * x[:, :1]) + x[:, 1:2] ** 2


def net(*widths, grid=3, **options):
    torch.manual_seed(0)
    return KAN(widths, basis=BSpline(grid, extrapolation="linear"), dtype=torch.float64, **options)


def mlp(*widths):
    torch.manual_seed(0)
    layers = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, dtype=torch.float64), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def convolution():
    return nn.Sequential(nn.Unflatten(1, (1, 2)), KANConv1d(1, 2, 2, dtype=torch.float64), nn.Flatten())


def objective_of(model, x, y=None, weights=None, smoothness=1.0):
    return Objective(model, [data_term(x, curve(x) if y is None else y, weights)], smoothness)


MODELS = {
    "kan": lambda: net(2, (1, 1), 2),
    "mlp": lambda: mlp(2, 3, 2),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2)), KANConv1d(1, 2, 2, dtype=torch.float64), nn.Flatten()
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_jacobian_and_the_gradient_are_those_of_the_weighted_loss(name, monkeypatch):
    monkeypatch.setattr("convkan.fitting.objective.NUMBERS_AT_A_TIME", 700)  # several chunks
    model, x = MODELS[name](), points(30)
    y, weights = torch.cat([curve(x), x[:, :1]], 1), torch.rand(30, dtype=torch.float64)
    objective = objective_of(model, x, y, weights, 1e-2)
    vector = objective.vector()
    loss = objective.loss()
    loss.backward()
    gradient = torch.cat([value.grad.flatten() for value in objective.trained.values()])
    per_point = (model(x) - y).square().mean(1)
    expected = (weights * per_point).sum() / weights.sum() + objective.smoothing.penalty(objective.trained)
    assert torch.allclose(loss, expected)
    assert (name == "mlp") == (objective.smoothing.rows(vector).numel() == 0)
    for way in (linear.Triangle, linear.Refined, linear.Normal, linear.Products):
        problem = way(objective, vector)
        assert torch.allclose(2 * problem.gradient, gradient, rtol=1e-9, atol=1e-12), way


def test_every_way_takes_the_same_step():
    x = points(10)
    for model, ways in (
        (net(2, 2, 1), (linear.Triangle, linear.Refined, linear.Normal, linear.Products)),
        (mlp(2, 8, 1), (linear.Triangle, linear.Refined, linear.Normal, linear.Residuals, linear.Products)),
    ):
        objective = objective_of(model, x, smoothness=1e-6)
        problems = [way(objective, objective.vector()) for way in ways]
        damping = 1e-2 * torch.where(problems[0].squares > 0, problems[0].squares, 1)
        first, *others = [problem.step(damping) for problem in problems]
        for way, other, problem in zip(ways[1:], others, problems[1:], strict=True):
            assert torch.allclose(other, first, rtol=1e-4, atol=1e-5 * first.abs().max().item()), way
            assert torch.allclose(problem.squares, problems[0].squares)


@pytest.mark.parametrize("share", [1e-3, 1e-8, 2e-10, 1e-13])
def test_no_digits_are_lost_however_small_the_damping_is(share):
    x = points(200)
    objective = objective_of(net(2, 3, 1, grid=10), x, smoothness=1e-13)
    vector = objective.vector()
    exact, refined = linear.Triangle(objective, vector), linear.Refined(objective, vector)
    damping = share * torch.where(exact.squares > 0, exact.squares, 1)
    expected, step = exact.step(damping), refined.step(damping)
    assert (step - expected).norm() <= 1e-8 * expected.norm()


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def masked():
    model = net(2, 3, 1, bias=True)
    model[0].mask_edges(torch.tensor([[True, False], [True, True], [False, False]]))
    return model


def named():
    model = net(2, 2, 1)
    fix(model[0], (0, 1), "sin", (1.0, 0.0, 1.0, 0.0))
    return model


def tied():
    model = mlp(2, 2, 2, 2)
    model[2].weight = model[0].weight
    return model


def hooked():
    model = mlp(2, 3, 1)
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrized():
    model = mlp(2, 3, 1)
    nn.utils.parametrize.register_parametrization(model[0], "weight", Twice())
    return model


def with_a_fixed_layer():
    model = net(2, 3, 1)
    model[0].requires_grad_(False)
    return model


def with_one_activation():
    model, tanh = mlp(2, 3, 3, 1), nn.Tanh()
    model[1] = model[3] = tanh
    return model


class Step(nn.Module):
    def forward(self, x):
        return (x > 0).to(x.dtype)


def with_a_parameter_of_its_own():
    model = mlp(2, 3, 1)
    model[0].register_parameter("scale", nn.Parameter(torch.ones(1, dtype=torch.float64)))
    return model


def with_an_empty_list_of_functions():
    model = net(2, 3, 1)
    model[0].add_symbolic()
    return model


def relu_in_place():
    return nn.Sequential(mlp(2, 3), nn.ReLU(inplace=True), nn.Linear(3, 1, dtype=torch.float64))


CHAINS = {
    "one activation in two places": with_one_activation,
    "an activation in place": relu_in_place,
    "an activation without slopes": lambda: nn.Sequential(mlp(2, 3), Step(), mlp(3, 1)),
    "an end without slopes": lambda: nn.Sequential(mlp(2, 3), Step()),
    "products": lambda: net(2, (1, 1), 2),
    "masked edges and constants": masked,
    "no base activation": lambda: net(2, 3, 2, base_activation=None),
    "another basis": lambda: KAN([2, 3, 1], basis="chebyshev", dtype=torch.float64),
    "straight pieces": lambda: KAN([2, 3, 1], basis=BSpline(4, order=1), dtype=torch.float64),
    "single precision": lambda: KAN([2, 3, 1]),
    "an MLP": lambda: mlp(2, 3, 2),
    "nested": lambda: nn.Sequential(mlp(2, 3), nn.Sequential(nn.Tanh(), KANLinear(3, 2, dtype=torch.float64))),
    "one layer": lambda: KANLinear(2, 1, dtype=torch.float64),
    "a layer that is not trained": with_a_fixed_layer,
}
OTHERS = {
    "a parameter of its own": with_a_parameter_of_its_own,
    "no named functions yet": with_an_empty_list_of_functions,
    "a forward of its own": lambda: Doubled(*mlp(2, 3, 1)),
    "named functions": named,
    "shared parameters": tied,
    "a hook": hooked,
    "weights that are computed": parametrized,
    "a convolution": convolution,
    "no rows": lambda: nn.Sequential(nn.Unflatten(1, (2, 1)), nn.Linear(1, 2, dtype=torch.float64), nn.Flatten()),
}


@pytest.mark.parametrize("name", CHAINS | OTHERS)
def test_derivatives_layer_by_layer_are_those_sample_by_sample(name):
    model = (CHAINS | OTHERS)[name]().eval()
    dtype = next(model.parameters()).dtype
    x = 1.4 * points(40).to(dtype)  # some beyond the grids
    y = torch.zeros_like(model(x))
    term, numbers = data_term(x, y, torch.rand(40)), y[0].numel() * sum(p.numel() for p in model.parameters())
    parameters = {name: value.detach() + 0.01 for name, value in model.named_parameters() if value.requires_grad}
    with torch.no_grad():
        found = list(term.derivatives(model, parameters, numbers))
    expected = list(Term.derivatives(term, model, parameters, numbers))
    assert (chain(model) is not None) == (name in CHAINS or name == "no rows")
    for (residuals, by_name), (residuals_expected, by_name_expected) in zip(found, expected, strict=True):
        torch.testing.assert_close(residuals, residuals_expected)
        for name in parameters:
            torch.testing.assert_close(by_name[name], by_name_expected[name])


def test_layers_that_are_not_trained_take_no_memory(monkeypatch):
    model = mlp(2, 3, 2, 1)
    model[:3].requires_grad_(False)
    monkeypatch.setattr("convkan.fitting.layerwise.Affine.backward", lambda *_: pytest.fail("goes on"))
    objective = objective_of(model, points(20))
    [(rows, _)] = objective.jacobian(objective.vector())
    assert rows.shape == (20, 3)


def test_an_mlp_is_fitted_in_inference_mode_too():
    model, x = mlp(2, 6, 1), points()
    with torch.inference_mode():
        assert fit(model, x.clone(), curve(x).clone(), steps=20).rmse < 0.1


def test_sizes_choose_the_way(monkeypatch):
    x = points(10)

    def chosen(model, **limits):
        for name, limit in limits.items():
            monkeypatch.setattr(linear, name, limit)
        objective = objective_of(model, x)
        return type(linear.linearized(objective, objective.vector()))

    assert chosen(mlp(2, 8, 1)) is linear.Refined
    assert chosen(mlp(2, 8, 1), MOST_NUMBERS=20) is linear.Triangle
    monkeypatch.undo()
    assert chosen(mlp(2, 8, 1), MOST_FOR_QR=20) is linear.Residuals
    assert chosen(net(2, 2, 1)) is linear.Normal
    assert chosen(net(2, 2, 1), MOST_FOR_GRAM=20) is linear.Products
    assert chosen(mlp(2, 8, 1), MOST_NUMBERS=20) is linear.Products


def test_smoothness_is_none_for_cubics_and_a_matrix_for_others():
    model = net(1, 1, grid=6)
    with torch.no_grad():
        model[0].coefficients.copy_(torch.arange(9.0, dtype=torch.float64) ** 3)
    objective = Objective(model, [data_term(points(5, 1), points(5, 1), None)], 1.0)
    smoothing, vector = objective.smoothing, objective.vector()
    assert smoothing.rows(vector).abs().max() < 1e-10
    vector = torch.randn_like(vector)
    assert torch.allclose(smoothing.matrix() @ vector, smoothing.rows(vector))
    assert torch.allclose(smoothing.squares(), smoothing.matrix().square().sum(0))
    gram = torch.zeros(len(vector), len(vector), dtype=torch.float64)
    smoothing.add_gram(gram)
    assert torch.allclose(gram, smoothing.matrix().mT @ smoothing.matrix())
    assert not Smoothing.of(model, list(objective.trained), 0.0).blocks


@pytest.mark.parametrize("method", ["lm", "lbfgs", "adam"])
@pytest.mark.parametrize("model", [lambda: net(2, 1), lambda: mlp(2, 6, 1)], ids=["kan", "mlp"])
def test_every_method_finds_what_is_easy_and_keeps_the_best_state(method, model):
    model, x = model(), points()
    unseen = points(seed=1)
    history = fit(model, x, curve(x), method=method, validation=(unseen, curve(unseen)), steps=50, learning_rate=0.1
                  if method == "adam" else None)  # fmt: skip
    kept = (model(unseen) - curve(unseen)).square().mean().item()
    assert history.kept.validation == pytest.approx(kept, rel=1e-9)
    assert kept == pytest.approx(min(history.validation), rel=1e-9)
    assert history.rmse < (0.4 if method == "adam" else 0.05)
    assert len(history.loss) == len(history.validation) == len(history.stage) == len(history.seconds)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_finer_grids_fit_better_and_the_model_is_left_on_those_it_was_best_on():
    model, x = net(2, 1, 1), points(100)
    y = torch.exp(curve(x))[:, 0]
    history = fit(model, x, y, grids=[3, 9], steps=6, restarts=2)
    assert [(stage.start, stage.grid_size) for stage in history.stages[:4]] == [(0, 3), (0, 3), (1, 3), (1, 3)]
    assert len(history.stages) == 5  # one start is carried on
    assert model[0].basis.grid_size == history.kept.grid_size == 9
    firsts = [stage.validation for stage in history.stages[:4] if stage.start == history.kept.start]
    assert history.kept.validation < min(firsts) / 10
    assert "grid size 9" in repr(history)
    assert "(kept)" in repr(history)


def test_grids_stop_growing_once_that_no_longer_helps():
    model, x = net(2, 1), points(40)
    y = curve(x) + 0.3 * torch.randn(40, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    history = fit(model, x, y, grids=[3, 20, 40], validation=0.3)
    assert history.stages[-1].grid_size == 20
    assert history.kept.grid_size == model[0].basis.grid_size == 3


@pytest.mark.thorough
def test_sparsity_silences_edges_that_say_nothing():
    x = points()
    y = torch.sin(3 * x[:, 0])
    loudest = {}
    for sparsity in (0.0, 0.05):
        model = net(2, 3, 1)
        fit(model, x, y, method="lbfgs", sparsity=sparsity, steps=20)
        scores = importance(model, [x], propagate=False)["1"].edges[0].sort().values
        loudest[sparsity] = float(scores[1] / scores[2])
    assert loudest[0.05] < loudest[0.0] / 3


def test_noise_time_and_patience_end_a_stage():
    x = points(60)
    y = curve(x)
    ended = {
        "noise": fit(net(2, 1), x, y, noise=0.2, grids=[3, 6]),
        "seconds": fit(net(2, 1), x, y, seconds=1e-6, grids=[3, 6]),
        "patience": fit(net(2, 1), x, torch.sign(y - y.mean()), patience=2),
    }
    assert {name: history.stages[-1].ended for name, history in ended.items()} == {name: name for name in ended}
    assert ended["noise"].kept.grid_size == 3
    assert ended["noise"].rmse <= 0.2
    assert len(ended["noise"].stages) == len(ended["seconds"].stages) == 1


def test_weights_are_relative_and_points_without_weight_do_not_count():
    x = points()
    y, weights = curve(x), torch.ones(120)
    y[:40], weights[:40] = 7.0, 0
    errors = []
    for factor, validation in ((1, None), (1000, None), (1, 0.2)):
        model = net(2, 1)
        history = fit(model, x, y, weights=weights * factor, validation=validation)
        assert history.rmse < 0.1
        errors.append((model(x[40:]) - y[40:]).abs().max().item())
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    assert max(errors) < 0.1
    with pytest.raises(ValueError, match="weights must not be 0 for all 2 points that are held out"):
        fit(net(2, 1), x[:10], y[:10], weights=torch.arange(10) == 2)


def test_what_is_fixed_or_masked_stays_and_named_functions_are_fitted():
    model, x = net(2, 1), points()
    for edge, name in (((0, 0), "sin"), ((0, 1), "x^2")):
        fix(model[0], edge, name, (1.5, 0.1, 0.8, 0.1))
    model[0].basis_weight.requires_grad_(False)
    model[0].base_weight.requires_grad_(False)
    history = fit(model, x, curve(x), adapt=False)
    assert history.rmse < 1e-8
    assert not model[0].basis_weight.any()


def test_a_differential_equation_is_solved_by_its_residuals():
    model = net(1, 1, grid=8)

    def swing(u, t):  # u″ = −u
        return torch.func.jacrev(torch.func.jacrev(u))(t)[0, 0, 0] + u(t)[0]

    def start(u, t, value):
        return torch.cat([u(t), torch.func.jacrev(u)(t)[0]]) - value

    times, zero = torch.linspace(0, 3, 40, dtype=torch.float64).unsqueeze(1), torch.zeros(1, 1, dtype=torch.float64)
    history = fit_residuals(model, [(swing, times), (start, zero, torch.tensor([[0.0, 1.0]]).double())], steps=8)
    assert history.validation == []
    assert (model(times) - torch.sin(times)).abs().max() < 1e-2


def test_a_fit_is_the_same_each_time_and_leaves_the_mode_and_the_generator_alone():
    x = points()
    state = torch.random.get_rng_state()
    models = [mlp(2, 3, 1).train(), mlp(2, 3, 1).eval()]
    torch.random.set_rng_state(state)
    for model in models:
        fit(model, x, curve(x)[:, 0], restarts=3, steps=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(models[0](x), models[1](x))
    assert [model.training for model in models] == [True, False]


def test_single_precision_is_fitted_as_far_as_it_goes():
    model = KAN([2, 1])
    x = points().float()
    assert fit(model, x, curve(x), grids=[10]).rmse < 1e-4
    assert model[0].basis_weight.dtype == torch.float32


def test_losses_told_are_those_of_the_states_without_penalties():
    x = points()
    for options in ({"method": "adam", "sparsity": 1.0}, {"method": "lbfgs", "smoothness": 0.1}):
        model = net(2, 1)
        history = fit(model, x, curve(x), validation=(x, curve(x)), steps=20, **options)
        assert history.loss == pytest.approx(history.validation)
    assert history.steps == 40


def test_a_fit_that_leaves_the_numbers_says_so_and_keeps_a_state_before():
    model, x = mlp(2, 1), points()
    history = fit(model, x, curve(x), method="adam", learning_rate=1e300)
    assert [stage.ended for stage in history.stages] == ["diverged"]
    assert history.rmse < 10
    assert model(x).isfinite().all()


@pytest.mark.parametrize("method", ["lm", "lbfgs", "adam"])
def test_a_model_that_does_not_begin_with_numbers_is_refused_unless_another_start_does(method):
    model, x = mlp(2, 3, 1), points(20)
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="must begin with finite residuals, .* got mean squares nan"):
        fit(model, x, curve(x), method=method, steps=10)
    with pytest.raises(ValueError, match="must begin with finite residuals"):
        fit_residuals(model, [(lambda net, x: net(x), x)], method=method, steps=10)
    history = fit(model, x, curve(x), method=method, steps=10, restarts=2)
    assert (history.stages[0].ended, history.stages[0].steps) == ("diverged", 0)
    assert history.best > 0
    assert history.rmse < 2


def test_a_start_depends_on_its_seed_alone_and_leaves_what_is_fixed():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.scale = net(2, 2, 1), nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

        def forward(self, x):
            return self.scale * self.layers(x)[:, 0]  # one number a point

    x, found = points(30), []
    for seed, restarts in ((0, 3), (1, 2)):  # the last start of both is that of seed 2
        model = Scaled()
        adapt_grids(model, [x])
        model.layers[0].requires_grad_(False)
        first = model.layers[0](x)
        history = fit(model, x, curve(x)[:, 0], seed=seed, restarts=restarts, steps=2, adapt=False, validation=None)
        assert torch.equal(model.layers[0](x), first)
        found.append(history.stages[-1].loss)
        assert len({stage.loss for stage in history.stages}) == restarts
    assert found[0] == found[1]


def test_the_line_is_shown_only_on_a_terminal(capsys):
    fit(net(2, 1), points(), curve(points()), steps=1)
    assert capsys.readouterr().err == ""
    line = Line(True)
    line.say("half way")
    line.say("too soon")
    line.close()
    shown = capsys.readouterr().err
    assert "half way" in shown
    assert "too soon" not in shown


X, Y = points(10), curve(points(10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sgd"}, "method must be one of lm, lbfgs, adam; got 'sgd'"),
        ({"y": Y[:5]}, "x and y must have as many rows, at least one, got 10 and 5"),
        ({"y": torch.cat([Y, Y], 1)}, r"y must have shape \(10, 1\), which the model returns, got \(10, 2\)"),
        ({"x": X * torch.inf}, "x must be finite"),
        ({"weights": torch.ones(3)}, r"weights must have shape \(10,\)"),
        ({"weights": -torch.ones(10)}, "weights must be finite and not negative"),
        ({"validation": 1.5}, r"validation must be a share in \(0, 1\)"),
        ({"grids": [2, 4]}, r"grids must increase from the model's own grid size, 3, got \[2, 4\]"),
        ({"grids": [5, 4]}, "grids must increase"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"noise": -1.0}, "noise must be positive, got -1.0"),
        ({"smoothness": -1.0}, "smoothness must not be negative"),
        ({"sparsity": 0.1}, "sparsity must be 0 for 'lm'"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    arguments = {"x": X, "y": Y} | change
    with pytest.raises(ValueError, match=message):
        fit(net(2, 1), **arguments)


def test_models_that_cannot_be_fitted_and_terms_that_are_none_are_refused():
    with pytest.raises(ValueError, match="parameters that require gradients"):
        fit(net(2, 1).requires_grad_(False), X, Y)
    with pytest.raises(ValueError, match="grids must be None for a model without layers on a grid"):
        fit(mlp(2, 3, 1), X, Y, grids=[5])
    with pytest.raises(TypeError, match="x must be a tensor, got ndarray"):
        fit(net(2, 1), X.numpy(), Y)
    with pytest.raises(ValueError, match="terms must hold at least one"):
        fit_residuals(net(2, 1), [])
    with pytest.raises(TypeError, match="tuples of a function and tensors, got Tensor at 0"):
        fit_residuals(net(2, 1), [X])
    with pytest.raises(ValueError, match=r"at 0 they have \[10, 5\]"):
        fit_residuals(net(2, 1), [(lambda u, x, y: u(x), X, Y[:5])])
    assert Term(lambda u, x: u(x), (X,)).count == 10
    assert isinstance(net(2, 1)[0], KANLinear)
