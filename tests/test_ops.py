from functools import partial

import numpy as np
import oracle
import pytest
import torch
from cases import BASIS_CASES, diagonal
from oracle import array
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from convkan import (
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANConvTranspose1d,
    KANConvTranspose2d,
    KANConvTranspose3d,
    KANLinear,
    LearnableActivation,
    LowRankKANConv2d,
)
from convkan.basis import RBF, BSpline, Chebyshev
from convkan.ops import BACKENDS, Backend, Expansion
from convkan.testing import (
    HALF_DTYPES,
    LAYER_CLASSES,
    LAYERS,
    assert_agree,
    kan_layers,
    make_uneven,
    outputs_and_gradients,
    randomize,
    relative_error,
    with_backend,
)

FAST_BACKENDS = [name for name in BACKENDS if name != "reference"]
every_basis = pytest.mark.parametrize("basis", BASIS_CASES, ids=repr)
every_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
every_class = pytest.mark.parametrize("case", LAYER_CLASSES.values(), ids=LAYER_CLASSES)
every_fast_backend = pytest.mark.parametrize("backend", FAST_BACKENDS)


def runs_here(layer, backend, x):
    """Skip a backend that says it cannot run on this input."""
    try:
        with_backend(layer, backend)(x)
    except RuntimeError as error:
        if "cannot run here" in str(error):
            pytest.skip(str(error))
        raise


def assert_same_function(layer, other, x, factor=1.0):
    expected = outputs_and_gradients(other, x)
    for name, value in outputs_and_gradients(layer, x).items():
        assert_agree(value, expected[name], name, factor)


class TestEveryBackendAgreesWithReference:
    @pytest.mark.parametrize(
        ("name", "basis", "base_activation"), diagonal(LAYERS, BASIS_CASES, ["silu", None], each=3), ids=str
    )
    @every_fast_backend
    def test_on_output_and_all_gradients(self, name, basis, backend, base_activation):
        case = LAYERS[name]
        layer = randomize(case(basis=basis, base_activation=base_activation, dtype=torch.float64))
        x = case.input(torch.float64)
        runs_here(layer, backend, x)
        assert_same_function(with_backend(layer, backend), with_backend(layer, "reference"), x)

    @pytest.mark.parametrize(("name", "basis"), diagonal(LAYER_CLASSES, BASIS_CASES, each=2), ids=str)
    @every_fast_backend
    def test_in_float32(self, name, basis, backend):
        case = LAYERS[name]
        layer = randomize(case(basis=basis))
        x = case.input()
        runs_here(layer, backend, x)
        assert_same_function(with_backend(layer, backend), with_backend(layer, "reference"), x)

    @pytest.mark.parametrize(
        ("name", "extrapolation", "order"),
        diagonal(LAYER_CLASSES, ["zero", "clamp", "linear"], [0, 1, 2, 6], each=4),
    )
    @every_fast_backend
    def test_on_every_order_and_on_uneven_knots(self, name, backend, extrapolation, order):
        case = LAYERS[name]
        basis = BSpline(grid_size=4, order=order, extrapolation=extrapolation)
        layer = randomize(case(basis=basis, dtype=torch.float64))
        x = case.input(torch.float64)
        runs_here(layer, backend, x)
        for version in (layer, make_uneven(layer)):
            assert_same_function(with_backend(version, backend), with_backend(version, "reference"), x)

    @every_fast_backend
    @pytest.mark.parametrize("extrapolation", ["zero", "clamp", "linear"])
    @pytest.mark.parametrize("order", [0, 1, 2, 3])
    def test_on_inputs_that_are_knots(self, backend, extrapolation, order):
        basis = BSpline(grid_size=4, order=order, extrapolation=extrapolation)
        layer = randomize(KANLinear(1, 2, basis=basis, dtype=torch.float64))
        x = layer.grid.T.clone()
        x = x[:-1] if order == 0 else x  # order 0: the same point as the closed right end, listed once
        runs_here(layer, backend, x)
        assert_same_function(with_backend(layer, backend), with_backend(layer, "reference"), x)

    @pytest.mark.parametrize(
        ("name", "basis", "source"),
        diagonal(LAYER_CLASSES, BASIS_CASES, [torch.float32, *HALF_DTYPES], each=3),
        ids=str,
    )
    @every_fast_backend
    def test_on_a_layer_converted_to_float64(self, name, basis, backend, source):
        case = LAYERS[name]
        layer = randomize(case(basis=basis, dtype=source)).double()
        x = case.input(torch.float64)
        runs_here(layer, backend, x)
        assert_same_function(with_backend(layer, backend), with_backend(layer, "reference"), x)

    @pytest.mark.parametrize(
        ("name", "basis", "dtype"), diagonal(LAYER_CLASSES, BASIS_CASES, HALF_DTYPES, each=4), ids=str
    )
    @every_fast_backend
    def test_half_precision_errs_at_most_twice_as_much(self, name, basis, backend, dtype):
        case = LAYERS[name]
        layer = randomize(case(basis=basis)).to(dtype)
        x = case.input(scale=1.0).to(dtype)
        runs_here(layer, backend, x)
        exact = outputs_and_gradients(with_backend(layer, "reference").double(), x.double())
        plain = outputs_and_gradients(with_backend(layer, "reference"), x)
        ours = outputs_and_gradients(with_backend(layer, backend), x)
        for name, value in ours.items():
            assert value.dtype == dtype
            allowed = 2 * max(relative_error(plain[name], exact[name]), torch.finfo(dtype).eps)
            assert relative_error(value, exact[name]) <= allowed, name

    @every_fast_backend
    def test_on_ten_random_geometries(self, backend):
        generator = np.random.default_rng(0)
        for _ in range(10):
            groups, dims = generator.integers(1, 4), generator.integers(1, 4)
            convolution = (KANConv1d, KANConv2d, KANConv3d)[dims - 1]
            kernel, stride, padding, dilation = (
                [int(n) for n in generator.integers(low, high, dims)] for low, high in ((1, 4), (1, 3), (0, 3), (1, 3))
            )
            size = [int(d * (k - 1) + 1 + generator.integers(0, 3)) for k, d in zip(kernel, dilation, strict=True)]
            inputs, outputs = int(groups * generator.integers(1, 3)), int(groups * generator.integers(1, 3))
            layer = convolution(
                inputs, outputs, kernel, stride, padding, dilation, int(groups), True, dtype=torch.float64
            )
            x = torch.randn(2, inputs, *size, dtype=torch.float64)
            runs_here(layer, backend, x)
            assert_same_function(with_backend(layer, backend), with_backend(layer, "reference"), x)


class TestReferenceIsTheDefinition:
    @pytest.mark.parametrize(("name", "basis"), diagonal(LAYERS, BASIS_CASES, each=2), ids=str)
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_in_plain_loops(self, name, basis, backend):
        case = LAYERS[name]
        layer = randomize(case(basis=basis, dtype=torch.float64))
        x = case.input(torch.float64)
        self.assert_is_the_definition(layer, backend, x)

    @every_class
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("base_activation", [None, "identity", "tanh"])
    def test_on_uneven_knots_with_other_base_activations(self, case, backend, base_activation):
        layer = case(basis=BSpline(4, 2), base_activation=base_activation, dtype=torch.float64)
        self.assert_is_the_definition(make_uneven(randomize(layer)), backend, case.input(torch.float64))

    @staticmethod
    def assert_is_the_definition(layer, backend, x):
        runs_here(layer, backend, x)
        y, layer = with_backend(layer, backend)(x), layer
        match layer:
            case KANLinear():
                expected = oracle.kan_linear(layer, array(x.reshape(-1, x.shape[-1])))
                expected = expected.reshape(y.shape)
            case LearnableActivation():
                expected = oracle.learnable_activation(layer, array(x))
            case LowRankKANConv2d():
                activated = oracle.learnable_activation(layer.activation, array(layer.seen(x)))
                expected = nn.functional.conv2d(
                    torch.tensor(activated),
                    layer.weight,
                    layer.bias,
                    layer.stride,
                    dilation=layer.dilation,
                    groups=layer.groups,
                ).detach()
            case KANConvTranspose1d() | KANConvTranspose2d() | KANConvTranspose3d():
                expected = oracle.kan_transposed_convolution(layer, array(x))
            case _:
                expected = oracle.kan_convolution(layer, array(x))
        assert_agree(y, torch.as_tensor(expected))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_a_tap_on_the_padding_contributes_phi_of_zero(self, backend):
        layer = randomize(KANConv2d(1, 1, 3, padding=1, backend=backend, dtype=torch.float64))
        alone = KANConv2d(1, 1, 3, backend=backend, dtype=torch.float64)
        alone.load_state_dict(layer.state_dict())
        corner = torch.randn(1, 1, 1, 1, dtype=torch.float64)
        runs_here(layer, backend, corner)
        assert_agree(layer(corner), alone(nn.functional.pad(corner, (1, 1, 1, 1))))
        assert layer(torch.zeros_like(corner)).abs() > 1e-3


class TestHalfPrecisionFeatures:
    @every_basis
    @pytest.mark.parametrize("dtype", HALF_DTYPES)
    @pytest.mark.parametrize("differentiable", [True, False])
    @pytest.mark.parametrize("derivative", [True, False])
    def test_are_those_of_float64_to_float32_rounding(self, basis, dtype, differentiable, derivative):
        expansion = Expansion(basis, "silu", uniform=True)
        x = torch.randn(40, 3).to(dtype)
        grid = basis.knots(3).to(x.device) if basis.has_grid else None
        options = {"derivative": derivative, "differentiable": differentiable}
        features = expansion.at(x, None if grid is None else grid.to(dtype), **options)
        assert features.dtype == torch.float32
        assert_agree(features, expansion.at(x.double(), grid, **options))

    # Of every basis, which these extend, it is a law of convkan.testing.
    @pytest.mark.parametrize(
        ("name", "basis", "dtype"), diagonal(LAYER_CLASSES, BASIS_CASES, HALF_DTYPES, each=2), ids=str
    )
    def test_the_gradient_by_the_input_is_finite_far_out(self, name, basis, dtype):
        case = LAYERS[name]
        x = case.input().sign().mul(1e4).to(dtype)
        assert outputs_and_gradients(case(basis=basis, dtype=dtype), x)["input"].isfinite().all()


def gradient_check_input(case):
    return case.input(torch.float64, scale=0.9, batch=1).requires_grad_()


class TestDerivatives:
    @pytest.mark.parametrize(("name", "basis"), diagonal(LAYERS, BASIS_CASES, each=2), ids=str)
    @every_fast_backend
    def test_of_first_order_are_those_of_finite_differences(self, name, basis, backend):
        case = LAYERS[name]
        layer, x = (
            randomize(case(basis=basis, backend=backend, dtype=torch.float64)),
            gradient_check_input(case),
        )
        runs_here(layer, backend, x)
        assert torch.autograd.gradcheck(*functional(layer, x), fast_mode=True)

    @pytest.mark.parametrize(("name", "basis"), diagonal(LAYER_CLASSES, BASIS_CASES, each=2), ids=str)
    @every_fast_backend
    def test_of_second_order_are_those_of_finite_differences(self, name, basis, backend):
        case = LAYERS[name]
        layer, x = (
            randomize(case(basis=basis, backend=backend, dtype=torch.float64)),
            gradient_check_input(case),
        )
        runs_here(layer, backend, x)
        assert torch.autograd.gradgradcheck(*functional(layer, x), fast_mode=True)

    @every_class
    @every_fast_backend
    def test_in_forward_mode_are_those_of_finite_differences(self, case, backend):
        layer, x = randomize(case(backend=backend, dtype=torch.float64)), gradient_check_input(case)
        runs_here(layer, backend, x)
        assert torch.autograd.gradcheck(
            *functional(layer, x), fast_mode=True, check_forward_ad=True, check_backward_ad=False
        )

    @every_class
    @every_fast_backend
    def test_in_forward_mode_of_a_backward_pass_are_those_of_two_backward_passes(self, case, backend):
        layer, x = randomize(case(backend=backend)), case.input()
        runs_here(layer, backend, x)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x.clone().requires_grad_(), x.cos())
            (slope,) = torch.autograd.grad(layer(dual).square().sum(), dual)  # builds no graph
            found = forward_ad.unpack_dual(slope).tangent
        _, expected = torch.autograd.functional.hvp(lambda x: layer(x).square().sum(), x, x.cos())
        assert_agree(found, expected, factor=10)

    @pytest.mark.parametrize(("name", "basis"), diagonal(LAYER_CLASSES, BASIS_CASES, each=3), ids=str)
    @every_fast_backend
    def test_of_second_order_agree_with_reference(self, name, basis, backend):
        case = LAYERS[name]
        layer = randomize(case(basis=basis, dtype=torch.float64))
        x = case.input(torch.float64)
        runs_here(layer, backend, x)
        ours, expected = (double_backward(with_backend(layer, b), x.requires_grad_()) for b in (backend, "reference"))
        for value, wanted in zip(ours, expected, strict=True):
            assert_agree(value, wanted, factor=10)

    @every_basis
    @every_fast_backend
    def test_by_weights_of_a_second_derivative_by_the_input(self, basis, backend):
        layers = (
            KANLinear(2, 3, basis=basis, dtype=torch.float64),
            KANLinear(3, 1, bias=True, basis=basis, dtype=torch.float64),
        )
        model = randomize(nn.Sequential(*layers))
        x = 0.8 * torch.randn(5, 2, dtype=torch.float64)
        runs_here(model, backend, x)
        ours = pde_loss(with_backend(model, backend), x)
        expected = pde_loss(with_backend(model, "reference"), x)
        assert_agree(ours[0], expected[0])
        for value, wanted in zip(ours[1], expected[1], strict=True):
            assert_agree(value, wanted, factor=10)

    @every_basis
    def test_by_weights_of_a_second_derivative_are_those_of_finite_differences(self, basis):
        layers = (
            KANLinear(1, 2, basis=basis, dtype=torch.float64),
            KANLinear(2, 1, basis=basis, dtype=torch.float64),
        )
        model = randomize(nn.Sequential(*layers))
        x, step = 0.8 * torch.randn(4, 1, dtype=torch.float64), 1e-6
        _, gradients = pde_loss(model, x)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            for index in {0, parameter.numel() // 2, parameter.numel() - 1}:
                losses = []
                for shift in (step, -2 * step):
                    parameter.data.view(-1)[index] += shift
                    losses.append(pde_loss(model, x)[0])
                parameter.data.view(-1)[index] += step
                difference = (losses[0] - losses[1]) / (2 * step)
                scale = gradient.abs().max().clamp(min=1)
                assert (difference - gradient.view(-1)[index]).abs() < 1e-5 * scale


def functional(layer, x):
    """A layer as a function of its input and parameters, for gradcheck."""
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def run(x, *parameters):
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    return run, (x, *(p.detach().clone().requires_grad_() for p in parameters))


def double_backward(layer, x):
    tensors = (x, *layer.parameters())
    y = layer(x)
    first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
    total = sum((g * torch.linspace(-1, 1, g.numel(), dtype=g.dtype).view_as(g)).sum() for g in first)
    return (*first, *torch.autograd.grad(total, tensors, materialize_grads=True))


def pde_loss(model, x):
    """mean (Δu)² and its gradients by the parameters: one order beyond a double backward."""
    x = x.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    laplacian = sum(torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1]))
    loss = laplacian.square().mean()
    return loss.detach(), torch.autograd.grad(loss, tuple(model.parameters()), materialize_grads=True)


class TestFrozenParts:
    @every_class
    @every_fast_backend
    @pytest.mark.parametrize("trained", ["", "basis_weight", "base_weight"])
    @pytest.mark.parametrize("by_input", [True, False])
    def test_get_no_gradient_and_leave_the_others_theirs(self, case, backend, trained, by_input):
        layer = randomize(case(backend=backend, dtype=torch.float64))
        x = case.input(torch.float64)
        runs_here(layer, backend, x)
        expected = outputs_and_gradients(layer, x)
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(trained in name.split("."))
        x.requires_grad_(by_input)
        y = layer(x)
        assert y.requires_grad == (by_input or bool(trained))
        if y.requires_grad:
            y.backward(torch.randn(y.shape, generator=torch.Generator("cpu").manual_seed(1), device="cpu").to(y))
        for name, tensor in (("input", x), *layer.named_parameters()):
            if tensor.requires_grad:
                assert_agree(tensor.grad, expected[name], name)
            else:
                assert tensor.grad is None

    @every_class
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_inference_builds_no_graph(self, case, mode):
        layer, x = case(), case.input()
        expected = layer(x)
        with mode():
            y = layer(x)
        assert not y.requires_grad
        assert torch.equal(y, expected)


TRANSFORMS = {
    "vmap": lambda f, x: vmap(lambda row: f(row[None]))(x),
    "vmap over channels last": lambda f, x: vmap(f, in_dims=-1)(torch.stack([x, 2 * x], dim=-1)),
    "jvp": lambda f, x: jvp(f, (x,), (x.cos(),))[1],
    "jacrev": lambda f, x: jacrev(f)(x),
    "jacfwd": lambda f, x: jacfwd(f)(x),
    "hessian": lambda f, x: hessian(lambda x: f(x).square().sum())(x),
    "gradient for each sample": lambda f, x: vmap(torch.func.grad(lambda row: f(row[None]).square().sum()))(x),
}


class TestTransforms:
    """Every torch.func transform of a fast backend gives what it gives for the reference."""

    @every_class
    @every_fast_backend
    @pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
    def test_by_the_input(self, case, backend, transform):
        layer = randomize(case(basis=BSpline(3), dtype=torch.float64))
        x = case.input(torch.float64)
        runs_here(layer, backend, x)
        ours, expected = (transform(with_backend(layer, b), x) for b in (backend, "reference"))
        assert_agree(ours, expected, factor=10)

    @every_basis
    @every_fast_backend
    def test_hessian_on_every_basis(self, basis, backend):
        layer = randomize(KANConv1d(2, 2, 2, basis=basis, dtype=torch.float64))
        x = torch.randn(1, 2, 3, dtype=torch.float64)
        runs_here(layer, backend, x)
        ours, expected = (TRANSFORMS["hessian"](with_backend(layer, b), x) for b in (backend, "reference"))
        assert_agree(ours, expected, factor=10)

    @every_class
    @every_fast_backend
    @pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "jvp"])
    def test_by_the_weights(self, case, backend, transform):
        layer = randomize(case(basis=Chebyshev(2), dtype=torch.float64))
        x = case.input(torch.float64)
        runs_here(layer, backend, x)
        jacobians = []
        for name in (backend, "reference"):
            run, (_, *parameters) = functional(with_backend(layer, name), x)
            by_weights = partial(run, x)
            if transform == "jvp":
                jacobians.append(jvp(by_weights, tuple(parameters), tuple(p.cos() for p in parameters))[1:])
            else:
                jacobian = {"jacrev": jacrev, "jacfwd": jacfwd}[transform]
                jacobians.append(jacobian(by_weights, argnums=tuple(range(len(parameters))))(*parameters))
        for ours, expected in zip(*jacobians, strict=True):
            assert_agree(ours, expected, factor=10)

    @every_class
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_an_ensemble_is_its_members(self, case, backend):
        members = [randomize(case(backend=backend, dtype=torch.float64)) for _ in range(3)]
        x = case.input(torch.float64)
        runs_here(members[0], backend, x)
        parameters, buffers = stack_module_state(members)

        def run(parameters, buffers, x):
            return functional_call(members[0], (parameters, buffers), (x,))

        together = vmap(run, in_dims=(0, 0, None))(parameters, buffers, x)
        assert_agree(together, torch.stack([member(x) for member in members]))
        together.square().sum().backward()
        for position, member in enumerate(members):
            expected = torch.autograd.grad(member(x).square().sum(), tuple(member.parameters()))
            for (name, _), gradient in zip(member.named_parameters(), expected, strict=True):
                assert_agree(parameters[name].grad[position], gradient, name)


class TestMemory:
    @pytest.mark.parametrize("name", ["linear", "linear-3d-bias", "conv2d", "conv2d-grouped", "conv3d", "activation"])
    @pytest.mark.parametrize("basis", [BSpline(), Chebyshev(), RBF()], ids=repr)
    @every_fast_backend
    def test_only_input_and_parameters_are_kept_for_the_backward_pass(self, name, basis, backend):
        layer, x = LAYERS[name](basis=basis), LAYERS[name].input(batch=64).requires_grad_()
        runs_here(layer, backend, x)
        saved = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = with_backend(layer, backend)(x)
        state = sum(tensor.nbytes for tensor in layer.state_dict().values())
        assert 0 < sum(saved.values()) <= 1.1 * (x.nbytes + state)
        y.sum().backward()


class TestDispatch:
    @pytest.fixture
    def fake(self, monkeypatch):
        def refuse(x, plan):
            return None if x.shape[-1] == 3 else "it needs three features"

        def run(x, base_weight, basis_weight, grid, plan):
            return x.new_full((*x.shape[:-1], basis_weight.shape[0]), 7.0)

        others = dict(BACKENDS)
        for name in others:
            monkeypatch.delitem(BACKENDS, name)
        monkeypatch.setitem(BACKENDS, "fake", Backend(run, refuse))
        for name, backend in others.items():
            monkeypatch.setitem(BACKENDS, name, backend)

    @pytest.mark.usefixtures("fake")
    def test_auto_takes_the_first_backend_that_can_run(self):
        assert torch.equal(KANLinear(3, 2)(torch.zeros(1, 3)), torch.full((1, 2), 7.0))
        assert not torch.equal(KANLinear(4, 2)(torch.zeros(1, 4)), torch.full((1, 2), 7.0))

    @pytest.mark.usefixtures("fake")
    def test_a_forced_backend_that_cannot_run_says_why(self):
        assert KANLinear(3, 2, backend="fake")(torch.zeros(1, 3))[0, 0] == 7
        with pytest.raises(RuntimeError, match="backend 'fake' cannot run here: it needs three features"):
            KANLinear(4, 2, backend="fake")(torch.zeros(1, 4))

    @every_class
    def test_an_unknown_backend_is_refused_with_the_names_there_are(self, case):
        with pytest.raises(ValueError, match=f"backend must be one of auto, {', '.join(BACKENDS)}; got 'fast'"):
            case(backend="fast")
        layer = case()
        for part in kan_layers(layer):
            part.backend = "gone"
        with pytest.raises(ValueError, match=r"backend must be one of .* got 'gone'"):
            layer(case.input())
