"""The kernels of our own compute what the definition says, in every layout; nothing rests on their being there."""

import processes
import pytest
import torch
from cases import diagonal

from convkan import BSpline, KANConv2d, KANLinear, LearnableActivation
from convkan.ops import native
from convkan.ops.native import build, calls, native_kernels
from convkan.testing import assert_agree, outputs_and_gradients, randomize, relative_error, with_backend

pytestmark = pytest.mark.skipif(build.library("features", 3, "zero") is None, reason="there is no C++ compiler")
EXTRAPOLATIONS = ("zero", "clamp", "linear")
LAYERS = {
    "activation": lambda **options: LearnableActivation(19, **options),
    "activations": lambda **options: LearnableActivation(19, 3, padding=(1, 0, 2, 1), **options),
    "convolution": lambda **options: KANConv2d(19, 5, 3, padding=1, **options),
    "groups": lambda **options: KANConv2d(20, 6, 3, groups=2, **options),
    "depthwise": lambda **options: KANConv2d(19, 19, 3, padding=1, groups=19, **options),
}


def images(layer, order, size):
    """Numbers on and off the grid, some of them knots."""
    x = torch.randn(3, layer.grid.shape[0], 7, 5)
    for position, knot in enumerate(range(order, order + size + 1, max(1, size // 4))):
        x[position % 3, :, position, 0] = layer.grid[:, knot]
    return x


def both(layer, x):
    """Outputs and gradients by the kernels, and by the definition in float64."""
    assert native.covers(layer.plan.expansion, x)
    exact = outputs_and_gradients(with_backend(layer, "reference").double(), x.double())
    return outputs_and_gradients(layer, x), exact


@pytest.mark.parametrize(("name", "order", "layout"), diagonal(LAYERS, range(1, 6), range(3), each=3))
def test_kernels_compute_the_definition(name, order, layout):
    kinds = [
        (5, "zero", "silu"),
        (1, "clamp", None),
        (40, "linear", None),
        (40, "zero", "silu"),
        (5, "linear", None),
    ]
    if order not in (1, 3) and not name.startswith("activation"):  # of which every extrapolation is built anew
        kinds = [kind for kind in kinds if kind[1] == "zero"]
    for kind, (size, extrapolation, base) in enumerate(kinds):
        basis = BSpline(size, order, (-1.5, 1), extrapolation)
        layer = randomize(LAYERS[name](basis=basis, base_activation=base))
        x = images(layer, order, size)
        in_memory = (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3))
        ours, exact = both(layer, in_memory[(kind + layout) % 3])  # in its three cases, each kind in each layout
        for part, value in ours.items():
            assert_agree(value, exact[part].float(), f"{part}, {basis}, {base}")


@pytest.mark.parametrize("base", [name for name in calls.BASES if name is not None])
def test_base_activations_are_those_of_torch(base):
    layer = randomize(LearnableActivation(4, base_activation=base))
    ours, exact = both(layer, 10 * torch.randn(500, 4) * torch.rand(500, 4) ** 4)
    for part, value in ours.items():
        assert_agree(value, exact[part].float(), part)


@pytest.mark.parametrize("channels", [1, 3, 17])
def test_few_and_odd_channels_and_pixels(channels):
    for shape in ((5, channels), (2, channels, 1), (2, channels, 3, 1), (1, channels, 33)):
        for layer in (LearnableActivation(channels, 2), LearnableActivation(channels, basis=BSpline(30))):
            ours, exact = both(randomize(layer), torch.randn(shape))
            for part, value in ours.items():
                assert_agree(value, exact[part].float(), part)
    ours, exact = both(randomize(KANLinear(channels, 2)), torch.randn(40, channels))
    for part, value in ours.items():
        assert_agree(value, exact[part].float(), part)


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("rows", [1, 40, 300])
def test_small_linear_layers_go_on_beyond_their_grids_as_they_are_told(extrapolation, order, rows):
    for size, base in ((1, None), (6, "silu")):
        layer = randomize(KANLinear(3, 4, basis=BSpline(size, order, (-1.5, 1), extrapolation), base_activation=base))
        expansion, weights = layer.plan.expansion, (layer.base_weight, layer.basis_weight, layer.grid)
        x = 4 * torch.randn(rows, 3)
        sided = order == 1  # whose slopes, at a knot, are told apart by other kernels
        if not sided:
            x.view(-1)[: min(3 * rows, layer.grid.shape[1])] = layer.grid[0, : 3 * rows]  # every knot
        assert native.covers_linear(expansion, x, *weights, gradient=True) == (not sided)
        assert native.covers_linear(expansion, x, *weights) == (not sided or extrapolation != "linear")
        ours, exact = both(layer, x)
        for part, value in ours.items():
            assert_agree(value, exact[part].float(), f"{part}, {layer.basis}, {base}")


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
def test_in_double_precision_all_digits_are_right(extrapolation):
    basis = BSpline(6, 3, (-1.5, 1), extrapolation)
    far = torch.tensor([-800.0, -40.0, -1.5, 0.0, 1.0, 40.0, 800.0]).double()
    for number, base in enumerate(calls.EXACT_BASES):
        if number % 2:
            layer, x = KANLinear(3, 4, basis=basis, base_activation=base), 4 * torch.randn(60, 3).double()
        else:
            layer, x = KANConv2d(9, 4, 3, basis=basis, base_activation=base), 2 * torch.randn(2, 9, 6, 5).double()
        x.view(-1)[: len(far)] = far
        layer = randomize(layer).double()
        assert native.covers_features(layer.plan.expansion, x, layer.grid, torch.float64, gradient=True)
        exact = outputs_and_gradients(with_backend(layer, "reference"), x)
        for part, value in outputs_and_gradients(layer, x).items():
            assert relative_error(value, exact[part]) <= 1e-13, (part, base)


def test_what_is_right_to_single_precision_alone_is_left_to_others_in_double():
    gelu, x = KANLinear(3, 4, base_activation="gelu").double(), torch.randn(5, 3).double()
    assert not native.covers_features(gelu.plan.expansion, x, gelu.grid, torch.float64)
    activation = LearnableActivation(3).double()
    assert not native.covers(activation.plan.expansion, x)
    mixed = KANLinear(3, 4)
    assert not native.covers_features(mixed.plan.expansion, x, mixed.grid, torch.float32)


def test_a_function_that_channels_share_leaves_numbers_where_they_are():
    layer, x = randomize(LearnableActivation(1)), torch.randn(3, 9, 6, 5).contiguous(memory_format=torch.channels_last)
    for seen in (x.unflatten(1, (1, 9)), x.unflatten(1, (1, 9)).transpose(2, 4), x.unflatten(1, (1, 9))[..., ::2]):
        ours, exact = both(layer, seen)
        for part, value in ours.items():
            assert_agree(value, exact[part].float(), part)
    assert layer(x.unflatten(1, (1, 9))).flatten(1, 2).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("make", [lambda: KANConv2d(9, 4, 3), lambda: LearnableActivation(9)])
def test_half_precision_is_as_good_as_rounding_allows(make):
    layer = randomize(make()).bfloat16()
    x = torch.randn(2, 9, 6, 5).bfloat16()
    exact = outputs_and_gradients(with_backend(layer, "reference").double(), x.double())
    plain = outputs_and_gradients(with_backend(layer, "reference"), x)
    for part, value in outputs_and_gradients(layer, x).items():
        assert value.dtype == torch.bfloat16
        allowed = 2 * max(relative_error(plain[part], exact[part]), torch.finfo(torch.bfloat16).eps)
        assert relative_error(value, exact[part]) <= allowed, part


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("order", [1, 3])
def test_what_is_no_number_stays_none(order, extrapolation):
    for size in (5, 40):
        layer = randomize(LearnableActivation(2, basis=BSpline(size, order, extrapolation=extrapolation)))
        x = torch.randn(2, 2, 40)
        x[0, 0, 3] = torch.nan
        ours, exact = both(layer, x)
        for part, value in ours.items():
            assert torch.equal(value.isnan(), exact[part].isnan()), part


@pytest.mark.parametrize("order", [3, 5])
def test_numbers_far_out_leave_gradients_finite(order):
    layer = randomize(LearnableActivation(2, basis=BSpline(5, order, extrapolation="linear")))
    ours, exact = both(layer, torch.tensor([[1e8, 0.3], [-1e14, 0.1]]))
    for part, value in ours.items():
        assert value.isfinite().all(), part
        assert_agree(value, exact[part].float(), part)


def test_sums_do_not_depend_on_the_number_of_threads():
    layer, x = randomize(LearnableActivation(5)), torch.randn(40, 5, 16, 16)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(outputs_and_gradients(layer, x))
    for part, value in found[0].items():
        assert torch.equal(value, found[1][part]), part


def test_without_them_the_same_is_computed():
    layer, x = randomize(KANConv2d(9, 4, 3)), torch.randn(2, 9, 6, 5)
    ours = outputs_and_gradients(layer, x)
    with native_kernels(False):
        assert not native.covers(layer.plan.expansion, x)
        for part, value in outputs_and_gradients(layer, x).items():
            assert_agree(value, ours[part], part)


@pytest.mark.parametrize("compiler", ["", "no-such-compiler", "false"])
def test_no_compiler_is_no_obstacle(compiler, tmp_path):
    code = "import torch, convkan; print(convkan.LearnableActivation(2)(torch.zeros(3, 2)).shape)"
    environment = {"PATH": "/nowhere" if not compiler else "/usr/bin:/bin", "CONVKAN_CACHE": str(tmp_path)}
    environment |= {"CXX": compiler} if compiler else {}
    run = processes.run(code, tmp_path.parent, environment)
    assert run.stdout.strip() == "torch.Size([3, 2])"
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_the_library_is_built_once_and_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVKAN_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", [flag for flag in build.FLAGS if flag != "-O3"])  # which takes long
    path = build._built(["c++"], "activations", 3)
    assert list(tmp_path.iterdir()) == [path]
    written = path.stat().st_mtime_ns
    assert build._built(["c++"], "activations", 3) == path
    assert path.stat().st_mtime_ns == written


def test_without_a_home_kernels_are_not_built(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CONVKAN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(build.Path, "home", home)
    assert build.library.__wrapped__("features", 3, "zero") is None


@pytest.mark.parametrize("name", ["basis_weight", "grid", "base_weight"])
def test_tensors_of_other_sizes_are_refused_before_they_are_read(name):
    layer, x = LearnableActivation(4), torch.randn(3, 4)
    tensors = {
        "base_weight": layer.base_weight.detach(),
        "basis_weight": layer.basis_weight.detach(),
        "grid": layer.grid,
    }
    tensors[name] = tensors[name][:, :-1]
    with pytest.raises(RuntimeError, match=f"size of {name} must be"):
        native.activation(x, *tensors.values(), layer.plan.expansion)


SMALL = {  # rows of inputs, and outputs
    "net": ((1000, 2), 5),
    "single": ((1, 70), 9),
    "few": ((3, 2, 5), 17),
    "vector": ((6,), 3),
    "block": ((33, 20), 4),
    "empty": ((0, 3), 2),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("order", range(1, 6))
def test_small_linear_layers_compute_the_definition_in_one_call(name, order, monkeypatch):
    shape, outputs = SMALL[name]
    base = ("silu", None, "relu", "gelu", "identity")[order - 1]
    layer = randomize(KANLinear(shape[-1], outputs, basis=BSpline(4, order, (-1.5, 1)), base_activation=base))
    with torch.no_grad():  # each channel on a grid of its own
        layer.grid.mul_(torch.linspace(0.5, 2, shape[-1]).unsqueeze(1))
    x = torch.randn(shape)
    monkeypatch.setattr(native, "features", None)
    if order > 1:
        monkeypatch.setattr(native, "input_gradient", None)
    assert native.covers_linear(layer.plan.expansion, x, layer.base_weight, layer.basis_weight, layer.grid)
    if order > 1:
        ours, exact = both(layer, x)
    else:  # the gradient of the input, for which it matters on which side of a knot it is, is left to others
        ours, exact = without_input_gradient(layer, x), without_input_gradient(with_backend(layer, "reference"), x)
    for part, value in ours.items():
        assert_agree(value, exact[part].float(), part)
        assert value.is_contiguous()


def without_input_gradient(layer, x):
    """The output, and the gradients of parameters."""
    y, parameters = layer(x), dict(layer.named_parameters())
    gradients = torch.autograd.grad(y, list(parameters.values()), torch.ones_like(y).cumsum(0))
    return {"output": y, **dict(zip(parameters, gradients, strict=True))}


def test_a_row_that_is_no_number_leaves_the_others_alone():
    layer = randomize(KANLinear(2, 3))
    x = torch.randn(40, 2)
    alone = layer(x)
    x[5, 1], x[7, 0] = torch.nan, torch.inf
    others = [row for row in range(40) if row not in (5, 7)]
    y = layer(x)
    assert torch.equal(y[others], alone[others])
    assert y[5].isnan().all()
    with_x = x.clone().requires_grad_()
    (by_x,) = torch.autograd.grad(layer(with_x)[others].sum(), with_x)
    assert by_x[others].isfinite().all()


def test_small_layers_of_two_precisions_are_left_to_others():
    layer, x = KANLinear(4, 3), torch.randn(5, 4)
    rest = layer.basis_weight, layer.grid
    assert native.covers_linear(layer.plan.expansion, x, layer.base_weight, *rest)
    assert not native.covers_linear(layer.plan.expansion, x, layer.base_weight.bfloat16(), *rest)


def test_weights_and_inputs_lie_in_memory_as_they_may():
    layer = randomize(KANLinear(4, 3))
    x = torch.randn(4, 20).T
    expected = outputs_and_gradients(layer, x.contiguous())
    layer.basis_weight.data = layer.basis_weight.data.T.contiguous().T
    assert not layer.basis_weight.is_contiguous()
    for part, value in outputs_and_gradients(layer, x).items():
        assert_agree(value, expected[part], part)
