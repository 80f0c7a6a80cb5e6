import pytest
import torch
from cases import BASIS_CASES

from convkan import (
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANConvTranspose1d,
    KANConvTranspose2d,
    KANConvTranspose3d,
    KANLinear,
    LearnableActivation,
    functional,
)
from convkan.basis import BSpline, Chebyshev
from convkan.functional import kan_conv2d, kan_conv_transpose2d, kan_linear, learnable_activation
from convkan.testing import LAYERS, make_uneven, outputs_and_gradients, randomize

FUNCTIONS = {
    KANLinear: "kan_linear",
    KANConv1d: "kan_conv1d",
    KANConv2d: "kan_conv2d",
    KANConv3d: "kan_conv3d",
    KANConvTranspose1d: "kan_conv_transpose1d",
    KANConvTranspose2d: "kan_conv_transpose2d",
    KANConvTranspose3d: "kan_conv_transpose3d",
    LearnableActivation: "learnable_activation",
}
WITH_A_FUNCTION = {name: case for name, case in LAYERS.items() if not name.startswith("lowrank")}
every_layer = pytest.mark.parametrize("case", WITH_A_FUNCTION.values(), ids=WITH_A_FUNCTION)


class Functional(torch.nn.Module):
    """A layer's parameters, evaluated by the functional form."""

    def __init__(self, layer):
        super().__init__()
        self.call = getattr(functional, FUNCTIONS[type(layer)])
        self.base_weight, self.basis_weight = layer.base_weight, layer.basis_weight
        self.bias, self.grid = layer.bias, layer.grid
        names = {"stride", "padding", "output_padding", "dilation", "groups", "padding_mode"} & set(vars(layer))
        if "output_padding" in names:  # of these padding is outputs left out, and has no mode
            names -= {"padding_mode"}
        self.options = {name: getattr(layer, name) for name in (*names, "basis", "base_activation", "backend")}

    def forward(self, x):
        bias = {} if self.bias is None else {"bias": self.bias}
        return self.call(x, self.base_weight, self.basis_weight, self.grid, **bias, **self.options)


@every_layer
@pytest.mark.parametrize("basis", BASIS_CASES, ids=repr)
def test_the_function_is_the_layer(case, basis):
    layer, x = randomize(case(basis=basis)), case.input()
    for changed in (lambda layer: layer, make_uneven):
        layer = changed(layer) if layer.grid is not None else layer
        ours, theirs = outputs_and_gradients(Functional(layer), x), outputs_and_gradients(layer, x)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@every_layer
def test_without_a_base_activation_and_without_a_batch(case):
    layer, x = case(base_activation=None), case.input()
    assert torch.equal(Functional(layer)(x), layer(x))
    if not isinstance(layer, LearnableActivation):
        assert torch.equal(Functional(layer)(x[0]), layer(x[0]))


def test_it_is_a_function_to_transforms():
    """Weights of two nets at once, and a derivative by the weights: what functions of parameters are for."""
    basis, x = BSpline(4, grid_range=(-2, 2)), torch.randn(5, 3, dtype=torch.float64)
    grid, weights = basis.knots(3), torch.randn(2, 2, basis.num_functions * 3, dtype=torch.float64)

    def net(weight):
        return kan_linear(x, None, weight, grid, basis=basis, base_activation=None)

    together = torch.func.vmap(net)(weights)
    assert torch.allclose(together, torch.stack([net(weight) for weight in weights]))
    gradient = torch.func.grad(lambda weight: net(weight).square().sum())(weights[0])
    weight = weights[0].clone().requires_grad_()
    net(weight).square().sum().backward()
    assert torch.allclose(gradient, weight.grad)


@pytest.mark.slow
def test_within_compiled_code_it_computes_the_same():
    layer = make_uneven(randomize(KANConv2d(2, 3, 3, padding=1)))
    module, x = Functional(layer), torch.randn(2, 2, 5, 5)
    compiled = torch.compile(lambda x: torch.relu(module(x)) + 1, backend="aot_eager")
    assert torch.allclose(compiled(x), torch.relu(layer(x)) + 1)


X, GRID = torch.randn(2, 3, 5, 5), BSpline().knots(3).float()
BASE, BASIS = torch.randn(4, 3, 3, 3), torch.randn(4, 24, 3, 3)
UP = torch.randn(3, 4, 3, 3), torch.randn(24, 4, 3, 3)  # in torch's layout of transposed convolutions


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: kan_conv2d(X, None, BASIS, GRID, basis=BSpline()),
            "base_weight must go with base_activation, got none",
        ),
        (lambda: kan_conv2d(X, BASE, BASIS, GRID, basis=BSpline(), base_activation=None), "got one and None"),
        (lambda: kan_conv2d(X, BASE, BASIS, GRID, basis=BSpline(6)), r"basis_weight must have shape \(4, 27, 3, 3\)"),
        (lambda: kan_conv2d(X, BASE[:1], BASIS, GRID, basis=BSpline()), r"base_weight must have shape \(4, 3, 3, 3\)"),
        (lambda: kan_conv2d(X, BASE, BASIS, basis=BSpline()), r"grid must have shape \(3, 12\) .*, got none"),
        (lambda: kan_conv2d(X, BASE, BASIS, GRID.flip(1), basis=BSpline()), "grid must increase along each channel"),
        (lambda: kan_conv2d(X, BASE, BASIS[:, :15], GRID, basis=Chebyshev()), r"grid must be None for Chebyshev"),
        (lambda: kan_conv2d(X, BASE, BASIS, GRID, basis="no"), "basis must be one of"),
        (
            lambda: kan_conv2d(X, BASE, BASIS, GRID, basis=BSpline(), groups=2),
            "in_channels must be divisible by groups",
        ),
        (lambda: kan_conv2d(X[0, 0], BASE, BASIS, GRID, basis=BSpline()), "must have 2 dimensions of space"),
        (lambda: kan_conv2d(X, BASE, BASIS, GRID, basis=BSpline(), dilation=3), "at least as large as the kernel"),
        (
            lambda: kan_conv_transpose2d(X, *UP, GRID, basis=BSpline(6)),
            r"basis_weight must have shape \(27, 4, 3, 3\) .* got \(24, 4, 3, 3\)",
        ),
        (lambda: kan_conv_transpose2d(X, BASE, UP[1], GRID, basis=BSpline()), r"base_weight must have shape \(3, 4, 3"),
        (lambda: kan_conv_transpose2d(X, *UP, GRID, basis=BSpline(), groups=2), "in must be divisible by groups"),
        (
            lambda: kan_conv_transpose2d(X, *UP, GRID, basis=BSpline(), output_padding=1),
            "output_padding must be smaller",
        ),
        (lambda: kan_conv_transpose2d(X, *UP, GRID, basis=BSpline(), padding=9), "large enough for one output"),
        (lambda: kan_conv_transpose2d(X[0, 0], *UP, GRID, basis=BSpline()), "must have 2 dimensions of space"),
        (lambda: kan_linear(X, BASE, BASIS, GRID, basis=BSpline()), r"must be \(…, in\) and \(out, planes\)"),
        (lambda: learnable_activation(X, None, torch.ones(4, 8), GRID, basis=BSpline()), r"\(batch, C, …\) and"),
        (lambda: kan_conv2d(X, BASE, BASIS, GRID, basis=BSpline(), backend="no"), "backend must be one of"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_functions_have_the_names_of_the_contract():
    assert set(functional.__all__) == set(FUNCTIONS.values())
