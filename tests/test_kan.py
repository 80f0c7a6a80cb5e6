"""``KAN``: a sequence of dense layers, with nodes that multiply."""

import copy
import io

import pytest
import torch
from torch import nn

from convkan import KAN, BSpline, KANLinear
from convkan.grid import adapt_grids, refine_grids
from convkan.interpret import fix, formula_error, importance, prune_edges, prune_inputs, prune_nodes
from convkan.interpret.plot import plot_network
from convkan.nn import Multiplication
from convkan.regularization import recorded_inputs, total_l1_entropy


def points(count=50, inputs=2):
    return 2 * torch.rand(count, inputs, dtype=torch.float64) - 1


def test_a_kan_is_the_sequence_of_its_layers():
    torch.manual_seed(0)
    net = KAN([2, 5, 1], basis=BSpline(4), bias=True)
    torch.manual_seed(0)
    same = nn.Sequential(KANLinear(2, 5, True, basis=BSpline(4)), KANLinear(5, 1, True, basis=BSpline(4)))
    assert net.state_dict().keys() == same.state_dict().keys()
    x = points().float()
    assert torch.equal(net(x), same(x))
    assert isinstance(net[:1], nn.Sequential)
    assert torch.equal(net[:1](x), net[0](x))


def test_products_are_exact_and_differentiable_twice_at_zero():
    node = Multiplication(1, 2, factors=3)
    x = torch.randn(4, 7, dtype=torch.float64)
    assert torch.equal(node(x), torch.stack([x[:, 0], x[:, 1] * x[:, 2] * x[:, 3], x[:, 4] * x[:, 5] * x[:, 6]], 1))
    x[0], x[1, 1] = 0, 0
    x.requires_grad_()
    assert torch.autograd.gradcheck(node, x)
    assert torch.autograd.gradgradcheck(node, x)
    assert [node.sources(i) for i in range(3)] == [[0], [1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("widths", [[2, (3, 2), 1], [2, [3, 2], 1], [2, (0, 1), (1, 2)], [2, 3, 1]])
def test_every_kind_of_kan_is_saved_copied_and_refined(widths):
    net, x = KAN(widths, dtype=torch.float64), points()
    assert net.widths == [tuple(width) if isinstance(width, list) else width for width in widths]
    adapt_grids(net, [x])
    y = net(x)
    assert torch.equal(copy.deepcopy(net)(x), y)
    refine_grids(net, 11)
    assert torch.allclose(net(x), y)
    other = KAN(widths, dtype=torch.float64)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), net(x))
    with recorded_inputs(net) as calls:
        net(x)
    total_l1_entropy(calls).backward()


def test_nodes_that_add_are_pruned_and_its_widths_follow():
    net = KAN([3, 4, 1], dtype=torch.float64)
    with torch.no_grad():
        for parameter in (net[0].base_weight, net[0].basis_weight):
            parameter[2] = 0
    x = points(inputs=3)
    small = prune_nodes(net, importance(net, [x], propagate=False), 1e-6)
    assert isinstance(small, KAN)
    assert small.widths == [3, 3, 1]


def test_products_are_refused_by_name_where_nodes_are_pruned_and_masked_where_edges_are():
    net, x = KAN([2, (1, 1), 1], dtype=torch.float64), points()
    scores = importance(net, [x], propagate=False)
    for prune in (prune_nodes, prune_inputs):
        with pytest.raises(ValueError, match=r"through 1 \(Multiplication\): a product needs all of its factors"):
            prune(net, scores, 0.1)
    prune_edges(net[0], scores["0"], share=0.5)
    assert "3 of them off" in repr(net)
    assert net(x).isfinite().all()


def test_products_stand_in_formulas():
    sympy = pytest.importorskip("sympy")
    net = KAN([2, (1, 1), 1], dtype=torch.float64)
    for edge, name, affine in (
        ((0, 0), "sin", (2, 0, 1, 0)), ((0, 1), "0", (0, 0, 0, 0)),
        ((1, 0), "x", (1, 0, 1, 0)), ((1, 1), "0", (0, 0, 0, 0)),
        ((2, 0), "0", (0, 0, 0, 0)), ((2, 1), "exp", (1, 0, 1, 0)),
    ):  # fmt: skip
        fix(net[0], edge, name, affine)
    fix(net[2], (0, 0), "x", (1, 0, 3, 0))
    fix(net[2], (0, 1), "x", (1, 0, 1, 0))
    x, y = sympy.symbols("x y")
    assert net.formula([x, y], output=0) == 3 * sympy.sin(2 * x) + x * sympy.exp(y)
    seen = points()
    assert formula_error(net, seen) < 1e-14
    assert net.formula([x, y], output=0, data=seen) == 3 * sympy.sin(2 * x) + x * sympy.exp(y)
    assert formula_error(net[:2], seen) < 1e-14  # a model that ends with products


def test_products_are_drawn_over_their_factors():
    net = KAN([2, (3, 2), 1], dtype=torch.float64)
    figure = net.plot(points(), input_names=["x", "y"])
    [axis] = figure.axes
    crosses = [line for line in axis.lines if line.get_marker() == "X"]
    assert [line.get_ydata()[0] for line in crosses] == [3, 3]
    boxes = [line for line in axis.lines if len(line.get_xdata()) == 5 and line.get_marker() == "None"]
    assert len(boxes) == 2 * 7 + 5
    alone = nn.Sequential(Multiplication(0, 1), KANLinear(1, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="must follow a KANLinear"):
        plot_network(alone)


@pytest.mark.parametrize(
    ("widths", "error", "message"),
    [
        (3, TypeError, "must be a sequence of integers or pairs, got 3"),
        ([2], ValueError, "at least inputs and outputs"),
        ([2, 0, 1], ValueError, "must be at least 1"),
        ([2, (1, -1), 1], ValueError, "not negative"),
        ([2, 1.5, 1], TypeError, "must be integers or pairs"),
        ([2, (1, 2, 3), 1], TypeError, "must be integers or pairs"),
        ([(1, 1), 1], ValueError, "must begin with a number of inputs"),
    ],
)
def test_widths_that_make_no_net_are_refused(widths, error, message):
    with pytest.raises(error, match=message):
        KAN(widths)


def test_a_multiplication_needs_factors_and_its_inputs():
    with pytest.raises(ValueError, match="factors must be at least 2, got 1"):
        Multiplication(1, 1, factors=1)
    with pytest.raises(ValueError, match="sums must not be negative"):
        Multiplication(-1, 1)
    with pytest.raises(ValueError, match=r"must have 3 features .* got shape \(4, 2\)"):
        Multiplication(1, 1)(torch.zeros(4, 2))


FORMULAS = [
    "x*y + sin(2*x)",
    "sin(x) + x**2 + 3*exp(x)",  # several functions of one node
    "x + x**2 + sin(x**2)",
    "x*y*z/(x - 3)",
    "1/(1 + exp(-x)) + x**-3",  # of what is positive, and of what is not
    "exp(-(x - y)**2/(2*z**2))/sqrt(2*pi*z**2)",
    "x**7 + y**6",
    "tan(3*x)",  # beyond its first branch
    "Max(x, y, -z) + Abs(z)",
    "log(x**2 + 1)*besselj(0, y) + 2**z",
    "3",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_a_net_that_computes_it_and_says_it_again(text):
    sympy = pytest.importorskip("sympy")
    scipy = pytest.importorskip("scipy")
    names = ["x", "y", "z"]
    net, x = KAN.from_formula(text, names, dtype=torch.float64), points(inputs=3)
    value = sympy.lambdify(sympy.symbols(names), sympy.sympify(text), [{"besselj": scipy.special.jv}, "numpy"])
    wanted = torch.as_tensor(value(*x.numpy().T)).expand(len(x))
    assert ((net(x)[:, 0] - wanted).abs() <= 1e-12 * (1 + wanted.abs())).all()
    if "tan" not in text:
        assert formula_error(net, x, data=x) <= 1e-12 * (1 + wanted.abs().max())


def test_several_formulas_are_outputs_in_their_order():
    pytest.importorskip("sympy")
    net, x = KAN.from_formula(["x*y", "x + 1", "x*y"], dtype=torch.float64, bias=True), points()
    a, b = x.T
    assert torch.allclose(net(x), torch.stack([a * b, a + 1, a * b], 1))
    other = KAN(net.widths, dtype=torch.float64, bias=True)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))


@pytest.mark.parametrize(
    ("text", "variables", "message"),
    [
        ("gamma(x)", None, "gamma is none of them"),
        ("x + y", ["x"], r"variables must be all that the formula has; \['y'\] are not"),
        ("3", None, "must hold a variable"),
        ("sqrt(-1)*x", None, "must have real numbers"),
    ],
)
def test_formulas_that_no_net_computes_are_refused(text, variables, message):
    pytest.importorskip("sympy")
    with pytest.raises(ValueError, match=message):
        KAN.from_formula(text, variables)
