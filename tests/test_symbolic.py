import json
import sys
from functools import partial
from math import inf

import pytest
import scipy.special
import sympy
import torch
from cases import diagonal
from torch import nn

from convkan import KANConv2d, KANConvTranspose1d, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.basis import BSpline
from convkan.basis.functions import FUNCTIONS, NamedFunction, get_function, register_function
from convkan.interpret import auto, edges_of, fix, formula, formula_error, latex, suggest
from convkan.interpret.symbolic.domains import affine_of, slopes_of
from convkan.interpret.symbolic.fit import Samples, affines, fit, refined
from convkan.interpret.symbolic.numbers import evaluated, recognized, rounded
from convkan.interpret.symbolic.suggest import _suggestions
from convkan.testing import LAYER_CLASSES, randomize
from experiments import symbolic
from experiments.functions.planted import SAME, named_right
from experiments.symbolic import SymbolicConfig, convolution

# Arguments a·x + b on [−1, 1] at which a function looks like itself.
ARGUMENTS = {
    "0": (1.0, 0.0), "x": (1.0, 0.0), "x^2": (1.4, 0.3), "x^3": (1.4, 0.3), "x^4": (1.4, 0.3), "x^5": (1.4, 0.3),
    "1/x": (1.3, 2.0), "1/x^2": (0.8, 1.4), "1/x^3": (-1.0, 1.5), "sqrt": (1.0, 1.02), "1/sqrt(x)": (2.0, 2.2),
    "exp": (2.0, 0.5), "log": (1.5, 1.7), "abs": (1.4, 0.3), "sin": (3.0, 0.7), "cos": (4.2, 0.4), "tan": (1.2, 0.1),
    "tanh": (3.0, 0.3), "sigmoid": (5.0, 1.0), "silu": (6.0, 1.0), "relu": (1.4, 0.3), "sgn": (1.0, 0.237),
    "arcsin": (0.98, 0.01), "arccos": (-0.95, 0.02), "arctan": (6.0, 1.0), "arctanh": (0.95, 0.03),
    "cosh": (2.5, 0.4), "sinh": (3.0, 0.3), "gaussian": (2.0, 0.3), "j0": (8.0, 1.0), "erf": (2.5, 0.3),
}  # fmt: skip


def points():
    """Where functions are looked at, on the device of the test."""
    return torch.linspace(-1, 1, 100, dtype=torch.float64)


def sampled(name, x=None):
    a, b = ARGUMENTS[name]
    x = points() if x is None else x
    return -1.7 * FUNCTIONS[name].value(a * x + b) + 0.4


def suggestions_for(curves, x=None, top=5, simplicity=1.0):
    """Suggestions for curves (curves, points) at x, a list for each."""
    x = points() if x is None else x
    names = torch.arange(len(curves)).view(1, -1, 1)
    distinct = torch.tensor([float(len(x.unique()))])  # and as many degrees of freedom: curves of any shape
    functions = list(FUNCTIONS.values())
    x, curves = x.unsqueeze(0), curves.unsqueeze(0)
    found = _suggestions(x, curves, names, distinct, distinct, functions, top, simplicity, 10)
    return list(found.values())


def alike(name, other):
    return name == other or any({name, other} <= same for same in SAME)


def value_of(suggestion, x):
    a, b, c, d = suggestion.affine
    return c * get_function(suggestion.name).value(a * x + b) + d


def layer_of(curve, grid_size=20):
    """A layer of one edge that comes close to a curve on [−1, 1]."""
    layer = KANLinear(1, 1, base_activation=None, basis=BSpline(grid_size), dtype=torch.float64)
    x = torch.linspace(-1, 1, 400, dtype=torch.float64)
    features = edges_of(layer).features(x.unsqueeze(1))[:, 0, :, 0]
    with torch.no_grad():
        layer.basis_weight.copy_(torch.linalg.lstsq(features, curve(x).unsqueeze(1)).solution.mT)
    return layer


def test_every_function_is_found_in_its_own_samples():
    assert set(ARGUMENTS) == set(FUNCTIONS)
    found = suggestions_for(torch.stack([sampled(name) for name in ARGUMENTS]))
    for name, suggestions in zip(ARGUMENTS, found, strict=True):
        best = suggestions[0]
        assert alike(best.name, name), f"{name}: {best}"
        assert best.r2 > 1 - 1e-6, f"{name}: {best}"
        torch.testing.assert_close(value_of(best, points()), sampled(name), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("shift", "scale"), [(50.0, 3.0), (-0.02, 0.001), (0.0, 1000.0)])
def test_functions_are_found_wherever_the_inputs_lie(shift, scale):
    names = ["x", "x^2", "exp", "sin", "tanh", "gaussian", "abs", "log", "sqrt"]
    x = shift + scale * points()
    for name, suggestions in zip(names, suggestions_for(torch.stack([sampled(n) for n in names]), x), strict=True):
        assert alike(suggestions[0].name, name), f"{name}: {suggestions[0]}"
        assert suggestions[0].r2 > 1 - 1e-6
        torch.testing.assert_close(value_of(suggestions[0], x), sampled(name), rtol=0, atol=1e-3)


def test_functions_are_found_in_noise():
    names = ["x", "x^2", "abs", "sin", "exp", "gaussian", "sgn", "j0", "x^3"]
    curves = torch.stack([sampled(name) for name in names])
    curves = curves + 0.05 * curves.std(1, keepdim=True) * torch.randn_like(curves)
    for name, suggestions in zip(names, suggestions_for(curves), strict=True):
        assert alike(suggestions[0].name, name), f"{name}: {suggestions[0]}"
        assert suggestions[0].r2 > 0.99


def test_noise_alone_is_a_constant():
    for suggestions in suggestions_for(torch.randn(20, 100, dtype=torch.float64)):
        assert suggestions[0].name == "0"


def test_simpler_comes_first_when_it_explains_as_much():
    x = 1e-4 * points()  # so short a range that everything is straight
    for suggestions in suggestions_for(torch.stack([torch.sin(x), torch.exp(x), 3 * x + 1]), x):
        assert suggestions[0].name == "x"
    ((first, *_),) = suggestions_for(torch.full((1, 100), 0.7, dtype=torch.float64))
    assert first.name == "0"
    assert first.affine[3] == pytest.approx(0.7)
    assert first.r2 == 1


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if FUNCTIONS[name].free])
def test_arguments_stay_inside_the_domain(name):
    function = FUNCTIONS[name]
    theta = 4 * torch.randn(200, 2, dtype=torch.float64)
    sign = torch.randn(200, dtype=torch.float64).sign()
    a, b = affine_of(theta, sign, function.domain)
    ends = torch.stack([b - a, b + a])
    low, high = function.domain
    assert ((ends >= low) & (ends <= high)).all()
    jacobian = torch.func.jacrev(lambda theta: torch.stack(affine_of(theta, sign, function.domain)).sum(1))(theta)
    torch.testing.assert_close(slopes_of(theta, sign, function.domain), jacobian.transpose(0, 1))


@pytest.mark.parametrize(
    "domain", [(0.0, float("inf")), (float("-inf"), 2.0), (-1.0, 3.0), (float("-inf"), float("inf"))]
)
def test_functions_of_any_domain_are_fitted(domain):
    low, high = max(domain[0], -4), min(domain[1], 4)
    function = NamedFunction("test", lambda x: torch.sin(x) * torch.exp(x / 3), "sin(x)*exp(x/3)", domain=domain)
    middle, half = (low + high) / 2, 0.45 * (high - low)
    samples = Samples.of(points().unsqueeze(0), function.value(half * points() + middle).view(1, 1, -1), 1e-16)
    fits = refined(samples, function, fit(samples, function), torch.ones(1, 1, dtype=torch.bool))
    assert fits.unexplained < 1e-12
    a, b, c, d = affines(samples, function, fits)[0, 0].tolist()
    torch.testing.assert_close(c * function.value(a * points() + b) + d, function.value(half * points() + middle))


def test_named_functions_are_checked():
    for wrong in ({"domain": (1.0, 0.0)}, {"parity": "strange"}, {"free": "c"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NamedFunction("wrong", torch.sin, "sin(x)", **wrong)


def test_j0_can_be_trained():
    x = torch.linspace(-9, 9, 19, dtype=torch.float64)
    slope = torch.func.grad(FUNCTIONS["j0"].value)
    first, second = (
        torch.tensor(-exact(x.cpu().numpy())) for exact in (scipy.special.j1, partial(scipy.special.jvp, 1))
    )
    torch.testing.assert_close(torch.func.vmap(slope)(x), first, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(slope))(x), second, rtol=0, atol=1e-6)
    _, forward = torch.func.jvp(FUNCTIONS["j0"].value, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(forward, first, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["linear", "conv2d", "activation-2", "lowrank"])
def test_all_at_once_are_those_one_by_one(case):
    layer = randomize(LAYER_CLASSES[case](dtype=torch.float64))
    library = ["0", "x", "x^2", "sin", "log"]
    together = suggest(layer, library=library, top=2)
    assert list(together) == [tuple(edge) for edge in torch.ones(edges_of(layer).shape).nonzero().tolist()]
    for edge in list(together)[:: max(1, len(together) // 4)]:
        for one, other in zip(suggest(layer, edge, library=library, top=2), together[edge], strict=True):
            assert (one.name, one.edge) == (other.name, other.edge)
            assert one.r2 == pytest.approx(other.r2, abs=1e-6)


def test_layers_with_groups_have_suggestions_for_their_own_channels():
    layer = KANConv2d(4, 4, 1, groups=2, base_activation="silu", dtype=torch.float64)
    with torch.no_grad():
        layer.basis_weight.zero_()
        layer.base_weight.fill_(1.0)
    layer.set_grid(layer.grid * torch.tensor([[1.0], [2.0], [3.0], [6.0]]))
    found = suggest(layer)
    assert len(found) == 8
    assert {one[0].name for edge, one in found.items() if edge[0] == 3 and edge[1] == 1} == {"silu"}


def test_data_decide_where_a_function_must_fit():
    layer = layer_of(lambda x: torch.where(x > 0, torch.sin(6 * x), 2 * x))
    assert suggest(layer, (0, 0), x=-torch.rand(500, 1, dtype=torch.float64))[0].name == "x"
    assert alike(suggest(layer, (0, 0), x=0.1 + 0.9 * torch.rand(500, 1, dtype=torch.float64))[0].name, "sin")


@pytest.mark.parametrize(("points", "names"), [(1, {"0"}), (2, {"0", "x"}), (6, {"0", "x"}), (200, set(FUNCTIONS))])
def test_few_inputs_make_simple_functions(points, names):
    layer = layer_of(lambda x: torch.sin(5 * x))
    data = torch.linspace(-0.9, 0.9, points, dtype=torch.float64).repeat(30).unsqueeze(1)
    found = suggest(layer, (0, 0), x=data, top=99)
    assert {one.name for one in found} == names or found[0].name in names
    assert found[0].name in names
    if points == 1:
        assert found[0].name == "0"
    if points < 10:  # also where the library would allow no other
        assert suggest(layer, (0, 0), x=data, library=["sin"])[0].name in names


def test_dead_edges_are_zero_and_silu_is_itself():
    layer = KANLinear(2, 1)
    with torch.no_grad():
        layer.basis_weight.zero_()
        layer.base_weight.copy_(torch.tensor([[0.0, 2.0]]))
    assert suggest(layer, (0, 0))[0].name == "0"
    assert suggest(layer, (0, 1))[0].name == "silu"
    layer.mask_edges(torch.tensor([[True, False]]))
    assert suggest(layer, (0, 1))[0].name == "0"


def test_wrong_arguments_are_refused():
    layer = KANLinear(2, 3)
    with pytest.raises(ValueError, match=r"edge must be .* got \(3, 0\)"):
        suggest(layer, (3, 0))
    with pytest.raises(ValueError, match="edge must be"):
        fix(KANConv2d(1, 1, 3), (0, 0), "sin")
    with pytest.raises(ValueError, match="function must be one of"):
        suggest(layer, library=["sine"])
    with pytest.raises(ValueError, match="library"):
        suggest(layer, library=[])
    with pytest.raises(ValueError, match="top"):
        suggest(layer, top=0)
    with pytest.raises(ValueError, match="affine"):
        fix(layer, (0, 0), "sin", (1, 2, float("nan"), 0))
    with pytest.raises(TypeError, match="KAN layer"):
        suggest(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"layer\.activation"):
        fix(LowRankKANConv2d(1, 1, 3), (0, 0, 0, 0), "sin")
    with pytest.raises(ValueError, match="threshold"):
        auto(layer, [torch.zeros(3, 2)], threshold=1.5)
    with pytest.raises(ValueError, match="batches"):
        auto(layer, [])


@pytest.mark.parametrize("case", [name for name in LAYER_CLASSES if name != "lowrank"])
def test_fixed_edges_compute_the_same_when_saved_and_loaded(case, tmp_path):
    create = LAYER_CLASSES[case]
    layer = randomize(create(dtype=torch.float64))
    edges = torch.ones(edges_of(layer).shape).nonzero().tolist()
    others = edges_of(layer).at(torch.linspace(-1, 1, 9, dtype=torch.float64).view(-1, 1).expand(-1, layer.num_inputs))
    for edge, name in ((edges[0], "sin"), (edges[-1], "x^2"), (edges[0], "tanh")):
        fix(layer, tuple(edge), name, (1.5, 0.2, 2.0, 0.1))
    assert sorted(layer.symbolic.functions) == ["tanh", "x^2"]
    assert int((~layer.edge_mask).sum()) == len({tuple(edges[0]), tuple(edges[-1])})
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)
    found = edges_of(layer).at(x.view(-1, 1).expand(-1, layer.num_inputs))
    output, input_, *tap = edges[0]
    index = (output, input_, slice(None), *tap)
    torch.testing.assert_close(found[index], 2 * torch.tanh(1.5 * x + 0.2) + 0.1)
    found[index] = others[index]
    output, input_, *tap = edges[-1]
    index = (output, input_, slice(None), *tap)
    found[index] = others[index]
    torch.testing.assert_close(found, others)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    fresh = create(dtype=torch.float64)
    fresh.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    inputs = create.input(torch.float64)
    assert torch.equal(fresh(inputs), layer(inputs))
    assert fresh.symbolic.functions == layer.symbolic.functions


def test_an_edge_fixed_to_what_it_computes_changes_nothing():
    layer = layer_of(lambda x: torch.sin(3 * x + 0.5))
    x = 2 * torch.rand(50, 1, dtype=torch.float64) - 1
    before = layer(x)
    found = fix(layer, (0, 0), "sin", x=x)
    assert found.affine == pytest.approx((3, 0.5, 1, 0), abs=1e-3)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-4)
    assert fix(layer, (0, 0), "cos").r2 > 1 - 1e-9
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-4)


def test_a_fixed_edge_is_trained():
    layer = KANLinear(1, 1, dtype=torch.float64)
    fix(layer, (0, 0), "sin", (2.8, 0.2, 1.1, 0.1))
    x = 2 * torch.rand(200, 1, dtype=torch.float64) - 1
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16)

    def loss():
        optimizer.zero_grad()
        value = (layer(x) - torch.sin(3 * x)).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert layer.symbolic.affine[0].tolist() == pytest.approx([3, 0, 1, 0], abs=1e-5)


def test_auto_fixes_what_is_explained_and_leaves_the_rest():
    model = nn.Sequential(KANLinear(3, 2, dtype=torch.float64), nn.BatchNorm1d(2, dtype=torch.float64))
    layer = model[0]
    with torch.no_grad():
        layer.basis_weight.normal_()
        layer.coefficients[0, 1] = 0
    layer.mask_edges(torch.tensor([[True, True, False], [True, True, True]]))
    fix(layer, (1, 2), "exp", (1, 0, 1, 0))
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    report = auto(model, [torch.randn(40, 3, dtype=torch.float64), (torch.randn(40, 3, dtype=torch.float64),)])
    assert model.training
    assert model[1].training
    assert all(torch.equal(buffer, dict(model.named_buffers())[name]) for name, buffer in before.items())
    assert set(report) == {"0"}
    fixed = {one.edge: one.name for one in report["0"]}
    assert fixed[0, 1] == "silu"  # the base activation alone
    assert (0, 2) not in fixed
    assert (1, 2) not in fixed
    assert len(layer.symbolic.functions) == 1 + len(fixed)
    assert all(one.r2 >= 0.99 for one in report["0"])


def test_auto_takes_low_rank_convolutions_by_their_activation():
    layer = LowRankKANConv2d(2, 3, 3, rank=2)
    with torch.no_grad():
        layer.activation.basis_weight.zero_()
    report = auto(layer, [torch.randn(2, 2, 8, 8)])
    assert [one.name for one in report["activation"]] == ["silu"] * 4


@pytest.fixture
def named():
    """A net whose edges are all masked or named functions."""
    model = nn.Sequential(
        nn.Flatten(),
        KANLinear(3, 2, bias=True, dtype=torch.float64),
        nn.Identity(),
        KANLinear(2, 2, dtype=torch.float64),
    )
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.3, 0.0]))
    for edge, name in zip([(0, 0), (0, 1), (1, 1), (1, 2)], ["sin", "relu", "j0", "sgn"], strict=True):
        fix(model[1], edge, name, (1.5, 0.2, 0.7, -0.1))
    fix(model[3], (0, 0), "exp", (0.5, 0, 1, 0))
    fix(model[3], (0, 1), "x^2", (1, 1, 1, 1))
    fix(model[3], (1, 0), "erf", (1, 0, 1, 0))
    for index, mask in ((1, [[1, 1, 0], [0, 1, 1]]), (3, [[1, 1], [1, 0]])):
        model[index].mask_edges(torch.tensor(mask, dtype=torch.bool))
    return model


def test_formula_computes_what_the_net_computes(named):
    expressions = formula(named, ["u", "v", "w"])
    assert [{str(symbol) for symbol in one.free_symbols} for one in expressions] == [{"u", "v", "w"}, {"u", "v"}]
    x = torch.randn(100, 3, 1, dtype=torch.float64)
    assert formula_error(named, x) < 1e-6  # torch's J₀ has errors of up to 1e-7
    assert formula_error(named, x, digits=0) > 1e-3
    assert formula(named, output=1, simplify=True).free_symbols


def test_formulas_of_every_function_are_right():
    x = points().unsqueeze(1)
    for name, (a, b) in ARGUMENTS.items():
        layer = KANLinear(1, 1, dtype=torch.float64)
        fix(layer, (0, 0), name, (a, b, 1.3, 0.2))
        assert formula_error(layer, x) < (1e-6 if name == "j0" else 1e-13), name


def computed(expression, x):
    """What an expression of x_1 makes of numbers."""
    return evaluated([expression], [sympy.Symbol("x_1")], x.view(1, -1))[:, 0]


@pytest.mark.parametrize(("name", "dtype"), diagonal(FUNCTIONS, [torch.float32, torch.float64]), ids=str)
def test_formula_and_model_agree_in_and_out_of_the_domain(name, dtype):
    function, layer = FUNCTIONS[name], KANLinear(1, 1, dtype=dtype)
    x = (4 * torch.randn(100, 1)).to(dtype)
    precision = max(torch.finfo(dtype).eps, 1e-14)  # sympy shows 15 digits of a constant
    for _ in range(2):
        fix(layer, (0, 0), name, torch.randn(4).tolist())
        y = layer(x).detach().double()[:, 0]
        a, b, c, d = layer.symbolic.affine[0].double().tolist()
        argument = (a * x[:, 0].double() + b).clamp(*function.ends(dtype))
        slope = torch.func.vmap(torch.func.grad(function.value))(argument).abs()
        value = function.value(argument)
        rounding = precision * (value.abs() + slope * ((a * x[:, 0]).abs() + abs(b)))
        rounding += 1e-7 if name == "j0" else 0  # which torch does not know better
        difference = (computed(formula(layer, output=0), x) - y).abs()
        assert (difference <= 4 * (abs(c) * rounding + precision * abs(d)))[y.isfinite()].all()


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if FUNCTIONS[name].ends(torch.float64) != (-inf, inf)])
def test_formula_for_data_is_plain_where_they_stay_in_the_domain(name):
    layer, (a, b) = KANLinear(1, 1, dtype=torch.float64), ARGUMENTS[name]
    fix(layer, (0, 0), name, (a, b, 1.3, 0.2))
    inside, outside = points().unsqueeze(1), 9 * points().unsqueeze(1)
    bounds = sympy.Max, sympy.Min
    assert not formula(layer, output=0, data=inside).has(*bounds)
    assert formula(layer, output=0, data=outside).has(*bounds)
    assert formula(layer, output=0).has(*bounds)
    assert formula_error(layer, inside, data=inside) < 1e-13
    assert not formula_error(layer, outside, data=inside) < 1e-3  # NaN, or tan's next branch
    assert formula_error(layer, outside, data=outside) < 1e-6 * layer(outside).abs().max()
    assert r"\max" not in latex(layer, data=inside)
    assert r"\max" in latex(layer)
    for expression in (rounded(formula(layer, output=0), 9), recognized(formula(layer, output=0))):
        torch.testing.assert_close(computed(expression, outside), layer(outside).detach()[:, 0], rtol=1e-4, atol=1e-4)


def test_formula_of_a_net_knows_what_each_layer_is_given():
    model = nn.Sequential(KANLinear(1, 1, dtype=torch.float64), KANLinear(1, 1, dtype=torch.float64)).train()
    fix(model[0], (0, 0), "sqrt", (1.0, 0.5, 1.0, -0.2))
    fix(model[1], (0, 0), "log", (1.0, 0.0, 1.0, 0.0))
    near, far = torch.tensor([[0.1], [0.3]], dtype=torch.float64), torch.tensor([[-0.49], [0.3]], dtype=torch.float64)
    assert len(formula(model, output=0).atoms(sympy.Max)) == 2
    assert len(formula(model, output=0, data=far).atoms(sympy.Max)) == 1
    assert not formula(model, output=0, data=near).has(sympy.Max)
    assert formula_error(model, torch.linspace(-3, 3, 50, dtype=torch.float64).unsqueeze(1)) < 1e-12
    with pytest.raises(ValueError, match="data must not be empty"):
        formula(model, data=near[:0])


def test_formula_of_inputs_far_from_zero():
    layer = KANLinear(1, 1, dtype=torch.float64)
    x = 2000 + 3 * points().unsqueeze(1)
    for name, affine in (("sigmoid", (5, -1e4, 1, 0)), ("exp", (0.5, -1000, 1, 0)), ("silu", (-2, 4000, 1, 0))):
        fix(layer, (0, 0), name, affine)
        assert formula_error(layer, x) < 1e-10
        fix(layer, (0, 0), "sigmoid", (5, -1e4, 1, 0))
    assert latex(layer, ["t"]) == r"\frac{1}{1 + e^{- \left(5 t - 10000\right)}}"


@pytest.mark.parametrize("domain", [(100.0, inf), (-inf, -0.3), (-1e-3, 5.0), (-100.7, 0.0)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_ends_are_numbers_of_their_type_inside_the_domain(domain, dtype):
    ends = NamedFunction("test", torch.log, "log(x)", domain=domain).ends(dtype)
    for end, inside in zip(domain, ends, strict=True):
        assert torch.tensor(inside, dtype=dtype).item() == inside
        assert inside == end if abs(end) == inf else abs(inside - end) <= 2 * torch.finfo(dtype).eps * max(abs(end), 1)
    assert domain[0] < ends[0] if domain[0] > -inf else ends[0] == -inf
    assert ends[1] < domain[1] if domain[1] < inf else ends[1] == inf


def test_formula_as_latex(named):
    text = latex(named, ["u", "v", "w"], output=1, digits=2)
    assert r"\operatorname{erf}" in text
    assert r"\sin{\left(1.5 u + 0.2 \right)}" in text
    layer = KANConv2d(1, 1, 2, dtype=torch.float64)
    layer.mask_edges(torch.eye(2, dtype=torch.bool).view(1, 1, 2, 2))
    fix(layer, (0, 0, 0, 0), "sin", (2, 0, 1, 0))
    fix(layer, (0, 0, 1, 1), "x^2", (1, 0, 3, 0))
    x = sympy.IndexedBase("x")
    assert formula(layer, output=0) == 3 * x[0, 1, 1] ** 2 + sympy.sin(2 * x[0, 0, 0])
    assert r"\sin{\left(2 {x}_{0,0,0} \right)}" in latex(layer)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (KANConv2d(4, 2, (2, 3), (1, 2), 1, (1, 2), 2, True, dtype=torch.float64), (2, 4, 6, 9)),
        (KANConv2d(1, 2, 2, padding=1, padding_mode="reflect", dtype=torch.float64), (2, 1, 5, 4)),
        (LearnableActivation(3, 2, dtype=torch.float64), (2, 3, 4, 4)),
    ],
    ids=["conv", "reflect", "activation"],
)
def test_formula_of_a_layer_computes_what_it_computes(layer, shape):
    names = ["sin", "exp", "x^2", "tanh"]
    for index, edge in enumerate(torch.ones(edges_of(layer).shape).nonzero().tolist()):
        fix(layer, tuple(edge), names[index % 4], (1, 0.1 * index, 0.5, 0.1))
    assert len(formula(layer)) == len(layer.basis_weight)
    assert formula_error(layer, torch.randn(shape, dtype=torch.float64)) < 1e-12


def test_formula_says_what_is_missing(named):
    model = nn.Sequential(KANLinear(2, 1), KANLinear(1, 1))
    fix(model[0], (0, 0), "sin")
    with pytest.raises(ValueError, match=r"0\(0, 1\), 1\(0, 0\)"):
        formula(model)
    with pytest.raises(TypeError, match="ReLU"):
        formula(nn.Sequential(KANLinear(2, 1), nn.ReLU()))
    with pytest.raises(TypeError, match=r"layer\.activation"):
        formula(LowRankKANConv2d(1, 1, 3))
    with pytest.raises(TypeError, match="single convolution"):
        formula(nn.Sequential(KANConv2d(1, 1, 3), KANConv2d(1, 1, 3)))
    with pytest.raises(TypeError, match="got none"):
        formula(nn.Sequential(nn.Identity()))
    with pytest.raises(ValueError, match="variables must be one for each of 3"):
        formula(named, ["x"])
    with pytest.raises(ValueError, match="variables must differ"):
        formula(named, ["x", "y", "x"])
    with pytest.raises(ValueError, match="output must be one of 2"):
        formula(named, output=2)
    with pytest.raises(ValueError, match="x must not be empty"):
        formula_error(named, torch.zeros(0, 3, 1))


def test_formula_of_a_net_with_dropout_that_is_compiled_and_calls_a_layer_twice(named):
    layer = KANLinear(2, 2, dtype=torch.float64)
    for edge in edges_of(layer).alive.nonzero().tolist():
        fix(layer, tuple(edge), "sin", (1.0, 0.2, 0.7, 0.1))
    model = torch.compile(nn.Sequential(named, nn.Dropout(0.5), layer, layer).train(), backend="eager")
    x = torch.randn(20, 3, 1, dtype=torch.float64)
    with torch.compiler.set_stance("force_eager"):
        assert formula_error(model, x) < 1e-6
        assert formula_error(model, x, data=x) < 1e-6
    assert model.training


def test_layers_that_are_not_finite_are_refused():
    layer = KANLinear(2, 1)
    with torch.no_grad():
        layer.basis_weight[0, 0] = float("nan")
    for look in (suggest, lambda layer: fix(layer, (0, 0), "sin"), lambda layer: auto(layer, [torch.rand(20, 2)])):
        with pytest.raises(ValueError, match="layer must have finite functions"):
            look(layer)


def test_numbers_are_recognized():
    x, y = sympy.symbols("x y")
    wanted = sympy.exp(sympy.sin(sympy.pi * x) + y**2)
    rough = 0.7408182207 * sympy.exp(0.5 * (2 * sympy.sin(3.14159265 * x + 1e-9) + 2.0 * (y + 1e-10) ** 2) + 0.3)
    assert recognized(rough) == wanted
    assert rounded(1.23456 * x + 2.00001, 3) == sympy.Float("1.235") * x + 2
    assert recognized(0.123456 * x).free_symbols == {x}


def test_functions_can_be_added(monkeypatch):
    monkeypatch.setattr("convkan.basis.functions.FUNCTIONS", dict(FUNCTIONS))
    register_function(NamedFunction("sinc", lambda x: torch.sinc(x), "sin(pi*x)/(pi*x)", 3, parity="even"))
    layer = layer_of(lambda x: torch.sinc(3 * x + 0.4))
    found = suggest(layer, (0, 0), library=["x", "x^2", "sinc"])[0]
    assert found.name == "sinc"
    assert found.affine[:2] == pytest.approx((3, 0.4), abs=1e-3)


def test_planted_convolution_is_found():
    found = convolution(0, SymbolicConfig(images=16))
    assert [tap["planted"] for tap in found["taps"] if not named_right(tap)] == []
    assert min(tap["r2"] for tap in found["taps"]) > 0.99


@pytest.mark.slow
def test_script_leaves_record_table_and_picture(monkeypatch, tmp_path, capsys):
    arguments = ["symbolic", "--quick", "--starts", "1", "--points", "60", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    symbolic.main()
    record = json.loads((tmp_path / "symbolic.json").read_text())
    assert [row["kind"] for row in record["runs"]] == ["convolution", "pipeline"]
    assert all(named_right(tap) for tap in record["runs"][0]["taps"])
    assert "planted" in capsys.readouterr().out
    assert (tmp_path / "symbolic.png").stat().st_size > 10_000
    written = (tmp_path / "symbolic.json").stat().st_mtime_ns
    monkeypatch.setattr(symbolic, "pipeline", lambda *_: pytest.fail("it was done before"))
    symbolic.main()
    assert (tmp_path / "symbolic.json").stat().st_mtime_ns == written


class TestNamedEdges:
    """What ``SymbolicEdges`` promises to layers and optimisers."""

    def layer(self):
        layer = KANLinear(2, 2)
        fix(layer, (0, 1), "sqrt", (1.0, 0.0, 1.0, 0.0))
        return layer

    def test_inputs_beyond_the_domain_give_its_end_and_no_gradient(self):
        layer = self.layer()
        with torch.no_grad():
            layer.basis_weight.zero_()
            layer.base_weight.zero_()
        y = layer(torch.tensor([[0.0, 4.0], [0.0, -4.0]]))
        torch.testing.assert_close(y[:, 0], torch.tensor([2.0, 0.0]), atol=1e-3, rtol=0)
        y[0, 0].backward()
        assert layer.symbolic.affine.grad.isfinite().all()

    def test_optimisers_keep_hold_when_a_state_is_loaded(self):
        layer = self.layer()
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        layer.load_state_dict(layer.state_dict())
        before = layer.symbolic.affine.detach().clone()
        layer(torch.rand(4, 2)).sum().backward()
        optimizer.step()
        assert not torch.equal(before, layer.symbolic.affine)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"edges": torch.tensor([[5, 5]])}, r"edges must lie within \(2, 2\)"),
            ({"names": torch.tensor([255], dtype=torch.uint8)}, "symbolic: .*decode"),
            ({"names": torch.tensor(list(b"nothing"), dtype=torch.uint8)}, "got 'nothing'"),
        ],
    )
    def test_what_a_state_gets_wrong_is_named(self, change, message):
        state = self.layer().state_dict()
        state |= {f"symbolic.{name}": value for name, value in change.items()}
        with pytest.raises(RuntimeError, match=message):
            KANLinear(2, 2).load_state_dict(state)

    def test_a_layer_without_numbers_takes_a_state(self):
        layer = self.layer()
        fresh = KANLinear(2, 2, device="meta")
        fresh.load_state_dict(layer.state_dict(), assign=True)
        x = torch.rand(3, 2)
        assert torch.equal(fresh(x), layer(x))

    def test_half_precision_is_evaluated_in_float32(self):
        layer = KANLinear(1, 1, basis=BSpline(grid_range=(9, 11)))
        fix(layer, (0, 0), "sin", (8.0, -80.24, 1.0, 0.0))
        x = torch.linspace(9.2, 10.8, 50).unsqueeze(1).bfloat16()
        with torch.autocast(x.device.type, torch.bfloat16):
            y = layer(x)
        exact = torch.sin(8 * x.double() - 80.24)
        assert (y.double() - exact).abs().max() < 0.01

    def test_named_functions_of_a_frozen_layer_are_frozen(self):
        layer = KANLinear(1, 1).requires_grad_(False)
        fix(layer, (0, 0), "sin", (1.0, 0.0, 1.0, 0.0))
        assert not layer.symbolic.affine.requires_grad


def test_formula_of_one_image_and_of_layers_that_do_not_fit():
    conv = KANConv2d(1, 1, 2, dtype=torch.float64)
    for edge in edges_of(conv).alive.nonzero().tolist():
        fix(conv, tuple(edge), "x^2", (1.0, 0.0, 1.0, 0.0))
    assert formula_error(conv, torch.randn(1, 5, 5, dtype=torch.float64)) < 1e-12
    with pytest.raises(TypeError, match="2 has 8 inputs after 2 outputs"):
        formula(nn.Sequential(LearnableActivation(2), nn.Flatten(), KANLinear(8, 1)))


class TestNoise:
    """Edges learned from noisy targets: curves of one layer, each of which has seen noise of its own."""

    def learned(self, curve, noise, grid_size=5, points=300, curves=24):
        layer = KANLinear(1, curves, basis=BSpline(grid_size), base_activation=None, dtype=torch.float64)
        x = 2 * torch.rand(points, 1, dtype=torch.float64) - 1
        y = curve(x).expand(-1, curves) / curve(x).std(0)
        features = edges_of(layer).features(x)[:, 0, :, 0]
        solution = torch.linalg.lstsq(features, y + noise * torch.randn_like(y)).solution
        with torch.no_grad():
            layer.basis_weight.copy_(solution.mT)
        return layer, x

    @pytest.mark.parametrize("grid_size", [5, 12])
    def test_straight_edges_stay_straight(self, grid_size):
        layer, x = self.learned(lambda x: x, 0.05, grid_size)
        found = [one[0].name for one in suggest(layer, x=x).values()]
        assert found.count("x") >= 23
        assert {one.name for one in auto(layer, [x])[""]} <= {*found}

    @pytest.mark.parametrize("name", ["x^2", "sin", "exp"])
    def test_no_function_is_named_for_a_simpler_one(self, name):
        layer, x = self.learned(lambda x: FUNCTIONS[name].value((3 if name == "sin" else 1) * x), 0.1)
        found = [get_function(one[0].name) for one in suggest(layer, x=x).values()]
        simple = [one for one in found if (one.complexity, len(one.free)) <= (2, len(FUNCTIONS[name].free))]
        assert len(simple) >= 22

    def test_without_noise_functions_are_found(self):
        names = ["x", "x^2", "sin", "exp", "tanh", "gaussian", "x^3"]
        values = [FUNCTIONS[name].value for name in names]
        layer, x = self.learned(lambda x: torch.cat([f(2 * x + 0.3) for f in values], 1), 0.0, 12, curves=len(names))
        suggested, fixed = suggest(layer, x=x), {one.edge: one for one in auto(layer, [x])[""]}
        for output, name in enumerate(names):
            assert alike(suggested[output, 0][0].name, name)
            assert alike(fixed[output, 0].name, name)

    def test_a_simple_fit_just_below_the_threshold_is_taken_if_noise_allows(self):
        layer, x = self.learned(lambda x: x, 0.3, points=100)
        best = suggest(layer, x=x, top=len(FUNCTIONS))
        closest = {edge: max(found, key=lambda one: one.r2) for edge, found in best.items()}
        gap = {edge: closest[edge].r2 - found[0].r2 for edge, found in best.items() if found[0].name == "x"}
        edge = next(edge for edge in gap if 1e-6 < gap[edge] < 2 * closest[edge].error)
        threshold = closest[edge].r2 - gap[edge] / 2
        fixed = {one.edge: one for one in auto(layer, [x], threshold=threshold)[""]}
        assert fixed[edge].name == "x"
        assert fixed[edge].r2 < threshold
        assert all(closest[edge].r2 >= threshold for edge in fixed)

    def test_what_comes_first_is_clearly_better_than_all_that_is_simpler(self):
        layer = KANLinear(1, 24, base_activation=None, basis=BSpline(5), dtype=torch.float64)  # 8 features
        torch.nn.init.normal_(layer.basis_weight)
        for first, *others in suggest(layer, top=len(FUNCTIONS)).values():
            used = 2 + len(get_function(first.name).free)
            for other in others:
                if other.complexity <= first.complexity and len(get_function(other.name).free) < used - 2:
                    assert 1 - other.r2 >= (1 - first.r2) * (1 + 2 * (2 / (8 - used)) ** 0.5) - 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_suggestions_explain_what_the_layer_will_compute(dtype):
    layer = KANLinear(1, 1, basis=BSpline(20, grid_range=(0, 1)), base_activation=None, dtype=dtype)
    x = torch.linspace(0, 1, 100).unsqueeze(1).to(dtype)
    features = edges_of(layer).features(x)[:, 0, :, 0].double()
    with torch.no_grad():  # near its end, arcsin is a root, but not in numbers of few digits
        layer.basis_weight.copy_(torch.linalg.lstsq(features, x.double().sqrt()).solution.mT)
        y = layer(x).double()
        for one in suggest(layer, (0, 0), x=x, top=len(FUNCTIONS)):
            fixed = KANLinear(1, 1, dtype=dtype)
            fix(fixed, (0, 0), one.name, one.affine)
            left = (fixed(x) - y).square().sum() / (y - y.mean()).square().sum()
            if max(one.r2, 1 - left.item()) > 0.5:  # rounding alone decides how bad the others are
                assert one.r2 == pytest.approx(1 - left.item(), abs=1e-4), one.name


def test_what_overflows_is_never_suggested_first():
    layer = KANLinear(1, 40, base_activation=None)
    torch.nn.init.normal_(layer.basis_weight)
    x = torch.rand(30, 1)
    for found in suggest(layer, x=x, top=len(FUNCTIONS)).values():
        assert found[0].r2 > -1e-6
        assert all(one.r2 == one.r2 for one in found)


def test_a_transposed_convolution_has_no_formula_for_all_positions():
    with pytest.raises(TypeError, match="one formula for all positions, which a KANConvTranspose1d has not"):
        formula(KANConvTranspose1d(1, 1, 1))
