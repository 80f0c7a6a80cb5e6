import inspect
import pickle
import re
from copy import deepcopy
from functools import partial
from itertools import cycle

import pytest
import torch
from cases import BASIS_CASES, diagonal
from torch import nn

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
from convkan.interpret import fix
from convkan.testing import (
    HALF_DTYPES,
    LAYER_CLASSES,
    LAYERS,
    TOLERANCES,
    assert_agree,
    kan_layers,
    make_uneven,
    outputs_and_gradients,
    randomize,
    relative_error,
    with_backend,
)

every_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
every_class = pytest.mark.parametrize("case", LAYER_CLASSES.values(), ids=LAYER_CLASSES)
CONVOLUTIONS = {"conv1d": KANConv1d, "conv2d": KANConv2d, "conv3d": KANConv3d, "lowrank": LowRankKANConv2d}
every_convolution = pytest.mark.parametrize("convolution", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
every_basis = pytest.mark.parametrize("basis", BASIS_CASES, ids=repr)


class TestSignature:
    @pytest.mark.parametrize(
        ("layer", "plain"),
        [
            (KANLinear, nn.Linear),
            (KANConv1d, nn.Conv1d),
            (KANConv2d, nn.Conv2d),
            (KANConv3d, nn.Conv3d),
            (KANConvTranspose1d, nn.ConvTranspose1d),
            (KANConvTranspose2d, nn.ConvTranspose2d),
            (KANConvTranspose3d, nn.ConvTranspose3d),
            (LowRankKANConv2d, nn.Conv2d),
        ],
    )
    def test_positional_arguments_are_those_of_torch(self, layer, plain):
        ours, torchs = (inspect.signature(cls).parameters.values() for cls in (layer, plain))
        positional = [p for p in ours if p.kind is not p.KEYWORD_ONLY]
        expected = [p for p in torchs if p.name not in ("device", "dtype")]
        assert [p.name for p in positional] == [p.name for p in expected]
        for our, theirs in zip(positional, expected, strict=True):
            assert our.default == (False if our.name == "bias" else theirs.default), our.name

    def test_positional_arguments_mean_what_they_mean_to_torch(self):
        arguments = (4, 6, (3, 2), (2, 1), (1, 2), (1, 3), 2, True, "reflect")
        layer, plain = KANConv2d(*arguments), nn.Conv2d(*arguments)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
            assert getattr(layer, name) == getattr(plain, name)
        assert layer.bias.shape == plain.bias.shape
        x = torch.randn(2, 4, 9, 9)
        assert layer(x).shape == plain(x).shape

    def test_positional_arguments_of_a_transposed_convolution_mean_what_they_mean_to_torch(self):
        arguments = (4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2, True, (2, 1))
        layer, plain = KANConvTranspose2d(*arguments), nn.ConvTranspose2d(*arguments)
        for name in ("kernel_size", "stride", "padding", "output_padding", "groups", "dilation", "padding_mode"):
            assert getattr(layer, name) == getattr(plain, name)
        x = torch.randn(2, 4, 5, 4)
        assert layer(x).shape == plain(x).shape
        assert layer.base_weight.shape == plain.weight.shape

    @pytest.mark.parametrize("groups", [1, 2])
    def test_the_weight_is_that_of_the_transposed_convolution_of_all_features(self, groups):
        layer = randomize(KANConvTranspose2d(4, 6, 3, 2, 1, 1, groups, base_activation=None, dtype=torch.float64))
        x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
        planes = layer.features(x.movedim(1, -1)).movedim(-2, 1).movedim(-1, 2)  # (batch, functions, channels, ...)
        planes = planes.unflatten(2, (groups, -1)).transpose(1, 2).flatten(1, 3)  # feature-major within each group
        expected = nn.functional.conv_transpose2d(planes, layer.basis_weight, None, 2, 1, 1, groups)
        assert_agree(layer(x), expected)

    def test_bias_is_off_by_default(self):
        assert KANLinear(2, 3).bias is None
        assert KANConv2d(2, 3, 1).bias is None

    def test_parameters_have_the_documented_names_and_shapes(self):
        def shapes(layer):
            return {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}

        assert shapes(KANLinear(3, 2, True)) == {
            "base_weight": (2, 3),
            "basis_weight": (2, 24),
            "bias": (2,),
            "grid": (3, 12),
        }
        assert shapes(KANConv2d(4, 6, (3, 2), groups=2, basis=BSpline(4, 2), base_activation=None)) == {
            "basis_weight": (6, 12, 3, 2),
            "grid": (4, 9),
        }
        assert shapes(KANConv1d(2, 3, 5, basis=Chebyshev(3))) == {
            "base_weight": (3, 2, 5),
            "basis_weight": (3, 8, 5),
        }
        assert shapes(KANConv3d(1, 2, 1, basis=RBF(4))) == {
            "base_weight": (2, 1, 1, 1, 1),
            "basis_weight": (2, 4, 1, 1, 1),
        }
        assert shapes(KANConvTranspose2d(4, 6, (3, 2), groups=2)) == {
            "base_weight": (4, 3, 3, 2),
            "basis_weight": (32, 3, 3, 2),
            "grid": (4, 12),
        }
        assert shapes(LearnableActivation(3, 2)) == {
            "base_weight": (6, 1),
            "basis_weight": (6, 8),
            "grid": (3, 12),
        }
        assert shapes(LowRankKANConv2d(2, 4, 3, groups=2, bias=True, rank=3)) == {
            "weight": (4, 3, 3, 3),
            "bias": (4,),
            "activation.base_weight": (6, 1),
            "activation.basis_weight": (6, 8),
            "activation.grid": (2, 12),
        }

    @pytest.mark.parametrize(
        ("layer", "shape"),
        [
            (KANLinear(3, 2), (2, 3, 8)),
            (KANConv2d(4, 6, (3, 2), groups=2), (6, 2, 8, 3, 2)),
            (LearnableActivation(3, 2), (6, 1, 8)),
        ],
    )
    def test_coefficients_are_a_view_with_the_functions_as_a_dimension(self, layer, shape):
        assert layer.coefficients.shape == shape
        with torch.no_grad():
            layer.coefficients[1, 0, 5] = 42
        assert layer.coefficients.data_ptr() == layer.basis_weight.data_ptr()
        fan_in = shape[1]
        assert (layer.basis_weight[1, 5 * fan_in] == 42).all()  # feature-major: all channels of B_1, then of B_2

    @pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d"])
    @pytest.mark.parametrize("kernel", [1, 2, 3, 4])
    @pytest.mark.parametrize("dilation", [1, 2])
    def test_same_and_valid_padding_give_the_sizes_of_torch(self, name, kernel, dilation):
        layer, dims = CONVOLUTIONS[name], int(name[4])
        x = torch.randn(1, 1, *range(7, 7 + dims))
        assert layer(1, 1, kernel, padding="same", dilation=dilation)(x).shape == x.shape
        valid = layer(1, 1, kernel, padding="valid", dilation=dilation)(x)
        assert valid.shape[2:] == tuple(n - dilation * (kernel - 1) for n in x.shape[2:])


class TestShapes:
    @every_layer
    def test_unbatched_input_is_a_batch_of_one(self, case):
        if "activation" in str(case.create):
            pytest.skip("dimension 0 of an activation's input is always the batch")
        layer, x = randomize(case(dtype=torch.float64)), case.input(torch.float64)
        y = torch.stack([layer(row) for row in x])
        assert y.shape == layer(x).shape
        assert_agree(y, layer(x))

    @every_layer
    def test_an_empty_batch_goes_forward_and_backward(self, case):
        layer, x = case(), case.input()
        values = outputs_and_gradients(layer, x[:0])
        assert values["output"].shape == (0, *layer(x).shape[1:])
        assert values["input"].shape == x[:0].shape
        for name, parameter in layer.named_parameters():
            assert values[name].shape == parameter.shape
            assert not values[name].any()

    @pytest.mark.parametrize("size", [(5, 8), [2, 3, 6, 7], torch.Size([6, 8])])
    @pytest.mark.parametrize("named", [False, True])
    def test_the_output_of_a_transposed_convolution_may_be_asked_for_by_its_size(self, size, named):
        layer, x = randomize(LAYERS["transposed2d"](base_activation="identity", dtype=torch.float64)), None
        nn.init.zeros_(layer.basis_weight)
        plain = nn.ConvTranspose2d(2, 3, 3, 2, 1, 1)
        plain.weight, plain.bias = layer.base_weight, layer.bias
        x = LAYERS["transposed2d"].input(torch.float64)
        expected = plain(x, output_size=size)
        if named:  # an edge that computes a named function does so, too
            affine = (1.0, 0.0, layer.base_weight[1, 2, 0, 1].item(), 0.0)
            fix(layer, (2, 1, 0, 1), "x", affine)
        assert_agree(layer(x, output_size=size), expected)
        assert_agree(layer(x[0], tuple(expected.shape[2:])), expected[0])

    @pytest.mark.parametrize("size", [(4, 8), (5, 9), (5,), (2, 3, 5, 8, 1)])
    def test_sizes_that_a_transposed_convolution_cannot_have_are_refused(self, size):
        with pytest.raises(ValueError, match="output_size must .* got"):
            LAYERS["transposed2d"]()(LAYERS["transposed2d"].input(), size)

    @pytest.mark.parametrize("size", [9, (5.0, 8), "58"])
    def test_sizes_of_a_transposed_convolution_are_integers(self, size):
        with pytest.raises(TypeError, match=f"output_size must be a sequence of integers, got {re.escape(repr(size))}"):
            LAYERS["transposed2d"]()(LAYERS["transposed2d"].input(), size)

    @pytest.mark.parametrize(("kernel", "stride", "padding", "side"), [(1, 3, 1, 1), (2, 4, 2, 1), (1, 3, 2, 2)])
    def test_a_size_may_be_asked_for_where_the_layer_alone_would_have_no_output(self, kernel, stride, padding, side):
        plain, x = nn.ConvTranspose1d(2, 3, kernel, stride, padding), torch.randn(2, 2, side)
        layer = KANConvTranspose1d.from_conv(plain)
        most = (side - 1) * stride - 2 * padding + kernel + stride - 1
        with pytest.raises(ValueError, match="input must be large enough"):
            layer(x)
        for size in range(1, most + 1):
            assert_agree(layer(x, output_size=[size]), plain(x, output_size=[size]))
        for size in (0, most + 1):
            with pytest.raises(ValueError, match=rf"output_size must lie between \(1,\) and \({most},\) .* got"):
                layer(x, output_size=[size])

    def test_linear_takes_any_leading_dimensions(self):
        layer, x = KANLinear(3, 2, dtype=torch.float64), torch.randn(2, 4, 5, 3, dtype=torch.float64)
        assert_agree(layer(x), layer(x.reshape(-1, 3)).reshape(2, 4, 5, 2))

    def test_activation_channel_order_is_channel_then_function(self):
        layer = randomize(LearnableActivation(3, 2, dtype=torch.float64))
        x = torch.randn(2, 3, 4, dtype=torch.float64)
        y = layer(x)
        for c in range(3):
            alone = LearnableActivation(1, 2, dtype=torch.float64)
            rows = slice(2 * c, 2 * c + 2)
            alone.load_state_dict(
                {
                    "base_weight": layer.base_weight[rows],
                    "basis_weight": layer.basis_weight[rows],
                    "grid": layer.grid[c : c + 1],
                }
            )
            assert_agree(y[:, rows], alone(x[:, c : c + 1]))


MEMORY_CASES = [
    *("conv2d", "conv2d-grouped", "conv2d-depthwise", "conv2d-same", "conv2d-replicate"),
    *("transposed2d", "transposed2d-grouped", "lowrank"),
]


class TestMemoryFormat:
    @pytest.mark.parametrize("name", [*MEMORY_CASES, "activation"])
    def test_follows_the_input(self, name):
        layer, x = LAYERS[name](), LAYERS[name].input()
        y = layer(x)
        assert y.is_contiguous()
        assert y.view(len(y), -1).shape == (len(y), y[0].numel())
        if y.shape[1] > 1:
            strided = layer(x.to(memory_format=torch.channels_last))
            assert strided.is_contiguous(memory_format=torch.channels_last)
            assert_agree(strided, y)

    def test_follows_a_three_dimensional_input(self):
        layer, x = LAYERS["conv3d"](), LAYERS["conv3d"].input()
        assert layer(x).is_contiguous()
        strided = layer(x.to(memory_format=torch.channels_last_3d))
        assert strided.is_contiguous(memory_format=torch.channels_last_3d)

    @pytest.mark.parametrize("name", MEMORY_CASES)
    def test_a_model_converts_to_channels_last(self, name):
        layer, x = LAYERS[name](dtype=torch.float64), LAYERS[name].input(torch.float64)
        expected = outputs_and_gradients(layer, x)
        layer.to(memory_format=torch.channels_last)
        for name, value in outputs_and_gradients(layer, x.to(memory_format=torch.channels_last)).items():
            assert_agree(value, expected[name], name)

    @every_layer
    def test_strided_input_gives_what_contiguous_input_gives(self, case):
        layer, x = case(dtype=torch.float64), case.input(torch.float64)
        strided = torch.stack([x, x + 1], dim=-1)[..., 0]
        assert not strided.is_contiguous()
        assert_agree(layer(strided), layer(x))


class TestIndependence:
    @every_layer
    def test_output_does_not_depend_on_batch_neighbours(self, case):
        layer = randomize(case(dtype=torch.float64)).eval()
        x = case.input(torch.float64, batch=3)
        others = torch.cat([x[:1], 100 * torch.randn_like(x[1:])])
        assert_agree(layer(others)[0], layer(x)[0])

    @pytest.mark.parametrize("name", ["conv2d-grouped", "conv2d-depthwise", "transposed2d-grouped", "lowrank"])
    def test_groups_are_isolated(self, name):
        layer, x = randomize(LAYERS[name](dtype=torch.float64)), LAYERS[name].input(torch.float64)
        first = layer.in_channels // layer.groups
        changed = torch.cat([x[:, :first].flip(0) + 1, x[:, first:]], dim=1)
        boundary = layer.out_channels // layer.groups
        assert torch.equal(layer(changed)[:, boundary:], layer(x)[:, boundary:])
        assert not torch.equal(layer(changed)[:, :boundary], layer(x)[:, :boundary])

    def test_each_group_is_a_layer_of_its_own(self):
        layer = randomize(make_uneven(KANConv2d(4, 6, 3, groups=2, dtype=torch.float64)))
        x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
        alone = KANConv2d(2, 3, 3, dtype=torch.float64)
        for group in range(2):
            outputs, inputs = slice(3 * group, 3 * group + 3), slice(2 * group, 2 * group + 2)
            state = {
                "base_weight": layer.base_weight[outputs],
                "basis_weight": layer.basis_weight[outputs],
                "grid": layer.grid[inputs],
            }
            alone.load_state_dict(state)
            assert_agree(alone(x[:, inputs]), layer(x)[:, outputs])

    @every_layer
    def test_forward_stores_nothing(self, case):
        layer = case()
        for part in kan_layers(layer):  # also where knots have changed since it was told of them
            with torch.no_grad():
                part.grid[:, 4] += 0.05
        before = [dict(vars(module)) for module in layer.modules()]
        layer(case.input())
        assert [dict(vars(module)) for module in layer.modules()] == before


class TestConversion:
    @every_class
    @pytest.mark.parametrize("dtype", [torch.float64, *HALF_DTYPES])
    def test_to_converts_everything(self, case, dtype):
        layer = case()
        convert = {torch.float64: layer.double, torch.float16: layer.half, torch.bfloat16: layer.bfloat16}[dtype]
        assert convert() is layer
        assert {tensor.dtype for tensor in layer.state_dict().values()} == {dtype}
        assert layer(case.input(dtype)).dtype == dtype
        assert {tensor.dtype for tensor in case(dtype=dtype).state_dict().values()} == {dtype}

    @every_class
    def test_default_dtype_is_respected(self, case):
        torch.set_default_dtype(torch.float64)
        try:
            layer = case()
            assert layer(case.input()).dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)

    @every_class
    @every_basis
    def test_a_meta_layer_becomes_a_fresh_one(self, case, basis):
        layer = case(basis=basis, device="meta")
        assert {tensor.device.type for tensor in layer.state_dict().values()} == {"meta"}
        assert layer(case.input().to("meta")).device.type == "meta"
        layer.to_empty(device="cpu")
        torch.manual_seed(1)
        for module in layer.modules():
            module.reset_parameters()
        for part in kan_layers(layer):
            assert part.grid is None or torch.equal(part.grid, basis.knots(len(part.grid)).float())
        torch.manual_seed(1)
        fresh = case(basis=basis)
        assert layer(case.input()).isfinite().all()
        if len(kan_layers(layer)) == len(list(layer.modules())):
            assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), fresh.parameters(), strict=True))

    @every_class
    def test_the_meta_device_context_makes_meta_layers(self, case):
        with torch.device("meta"):
            layer = case()
        assert {tensor.device.type for tensor in layer.state_dict().values()} == {"meta"}

    @every_class
    def test_reset_parameters_lays_the_grid_out_anew(self, case):
        layer = make_uneven(case())
        layer.reset_parameters()
        for part in kan_layers(layer):
            assert torch.equal(part.grid.cpu(), BSpline().knots(len(part.grid)).float())
            assert part.uniform_knots

    @every_class
    @pytest.mark.parametrize("copy", [deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301 - our own
    def test_copies_are_equal_and_independent(self, case, copy):
        layer, x = make_uneven(case(basis=BSpline(4, 2, extrapolation="linear"))), case.input()
        twin, expected = copy(layer), layer(x)
        assert repr(twin) == repr(layer)
        assert torch.equal(twin(x), expected)
        randomize(twin)
        for part in kan_layers(twin):
            part.grid = part.grid + 1
        assert torch.equal(layer(x), expected)

    def test_repr_tells_the_options(self):
        layer = make_uneven(KANConv2d(4, 6, (3, 2), groups=2, basis=RBF(4), base_activation=None))
        assert repr(layer) == (
            "KANConv2d(4, 6, kernel_size=(3, 2), groups=2, bias=False, "
            "basis=RBF(num_centers=4, center_range=(-2.0, 2.0)), base_activation=None)"
        )
        assert "uniform_knots=False" in repr(make_uneven(KANLinear(2, 2)))
        assert "backend='dense'" in repr(KANLinear(2, 2, backend="dense"))
        assert "rank=3" in repr(LowRankKANConv2d(2, 2, 3, rank=3))

    @every_class
    def test_a_new_grid_is_told_uniform_or_not(self, case):
        for layer in kan_layers(case()):
            layer.grid = 3 * layer.grid + 1
            assert layer.uniform_knots
            assert layer.basis.grid_range == (-2.0, 4.0)
            moved = layer.grid.clone()
            moved[:, 5] += 0.1
            layer.grid = moved
            assert not layer.uniform_knots
            assert isinstance(layer.grid, torch.Tensor)
            assert "grid" in layer.state_dict()


class TestAutocast:
    @every_layer
    def test_emits_low_precision_and_keeps_gradients_of_parameters_in_float32(self, case):
        layer, x = randomize(case()), case.input()
        expected = outputs_and_gradients(layer, x)
        with torch.autocast(x.device.type, torch.bfloat16):
            values = outputs_and_gradients(layer, x)
        for name, value in values.items():
            if name != "output":
                assert value.dtype == torch.float32, name
            assert relative_error(value, expected[name]) < TOLERANCES[torch.bfloat16], name

    @every_class
    def test_output_is_of_the_autocast_type(self, case):
        x = case.input()
        with torch.autocast(x.device.type, torch.bfloat16):
            assert case()(x).dtype == torch.bfloat16

    @every_class
    def test_takes_low_precision_inputs(self, case):
        layer, x = randomize(case()), case.input().bfloat16()
        with torch.autocast(x.device.type, torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        assert relative_error(y, layer(x.float())) < TOLERANCES[torch.bfloat16]


class TestCompile:
    """That each layer is one graph, and computes the same, is tested with the kernels."""

    @pytest.fixture(autouse=True)
    def fresh_compiler(self):
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    def test_double_backward_is_refused_rather_than_wrong(self):
        layer = KANLinear(2, 2)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        x = torch.randn(3, 2, requires_grad=True)
        (gradient,) = torch.autograd.grad(compiled(x).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="double backward"):
            gradient.sum().backward()


# A square layer of each kind, without borders, and an input for it.
STACKS = {
    "conv1": (lambda **options: KANConv2d(64, 64, 1, **options), (16, 64, 5, 5)),
    "conv3": (
        lambda **options: KANConv2d(24, 24, 3, 1, "same", 1, 1, False, "circular", **options),
        (12, 24, 7, 7),
    ),
    "conv5-grouped": (
        lambda **options: KANConv2d(24, 24, 5, 1, "same", 1, 3, False, "circular", **options),
        (12, 24, 7, 7),
    ),
    "conv1d": (
        lambda **options: KANConv1d(32, 32, 3, 1, "same", 1, 1, False, "circular", **options),
        (32, 32, 12),
    ),
    "transposed": (lambda **options: KANConvTranspose1d(48, 48, 4, 1, 3, **options), (24, 48, 60)),
    "lowrank": (
        lambda **options: LowRankKANConv2d(32, 32, 3, 1, "same", 1, 1, False, "circular", rank=2, **options),
        (12, 32, 7, 7),
    ),
}
STACK_BASES = [
    BSpline(2),
    BSpline(20),
    BSpline(64),
    BSpline(order=0),
    BSpline(order=1),
    BSpline(order=5),
    BSpline(grid_range=(-3, 3)),
    BSpline(grid_range=(0, 1)),
    BSpline(20, grid_range=(-8, 8)),
    Chebyshev(1),
    Chebyshev(10),
    RBF(3, (-1, 1)),
    RBF(20),
]


def variance_after_ten_layers(create, shape, seeds):
    """Geometric mean over seeds, since a finite width lets each draw wander."""
    logarithms = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        x = torch.randn(shape)
        with torch.no_grad():
            for _ in range(10):
                x = create()(x)
        logarithms.append(x.var().log())
    return torch.stack(logarithms).mean().exp().item()


def is_bounded(basis):
    return getattr(basis, "extrapolation", None) != "linear"


BOUNDED = [basis for basis in BASIS_CASES if is_bounded(basis)]


class TestInitialisation:
    @pytest.mark.parametrize(
        ("basis", "base_activation"),
        list(zip([*BASIS_CASES, *STACK_BASES], cycle(["silu", None]), strict=False)),
        ids=repr,
    )
    def test_keeps_the_variance_over_ten_wide_layers_for_every_basis(self, basis, base_activation):
        width = 192 if is_bounded(basis) else 256  # see below
        create = partial(KANLinear, width, width, basis=basis, base_activation=base_activation)
        assert 0.5 <= variance_after_ten_layers(create, (64, width), seeds=1) <= 2

    # Functions that grow without bound make the variance of a narrow net a product of heavy-tailed factors, so the law
    # holds for them in wide nets only; see convkan.nn.initialization.
    @pytest.mark.parametrize("base_activation", ["silu", None])
    @pytest.mark.parametrize("basis", BOUNDED, ids=repr)
    def test_keeps_the_variance_over_ten_narrow_layers(self, basis, base_activation):
        create = partial(KANLinear, 64, 64, basis=basis, base_activation=base_activation)
        assert 0.5 <= variance_after_ten_layers(create, (128, 64), seeds=5) <= 2

    @pytest.mark.parametrize(("name", "basis"), diagonal(STACKS, BOUNDED, each=2), ids=str)
    def test_keeps_the_variance_over_ten_layers_of_every_kind(self, name, basis):
        create, shape = STACKS[name]
        assert 0.5 <= variance_after_ten_layers(partial(create, basis=basis), shape, seeds=3) <= 2

    @pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (4, 2), (3, 2), (3, 3)])
    def test_a_transposed_convolution_keeps_the_variance_whatever_its_stride(self, kernel, stride):
        y = KANConvTranspose2d(64, 64, kernel, stride, kernel - stride)(torch.randn(2, 64, 12, 12))
        assert 0.8 <= y.var().item() <= 1.25

    @pytest.mark.parametrize("base_activation", ["gelu", "relu", "tanh", "identity", "softplus", "sigmoid"])
    def test_keeps_the_variance_over_ten_layers_for_every_activation(self, base_activation):
        create = partial(KANLinear, 256, 256, base_activation=base_activation)
        assert 0.5 <= variance_after_ten_layers(create, (64, 256), seeds=1) <= 2

    @pytest.mark.parametrize("num_functions", [1, 3])
    @pytest.mark.parametrize("base_activation", ["silu", "gelu", "relu"])
    def test_functions_of_a_channel_start_as_their_base_activation(self, base_activation, num_functions):
        layer = LearnableActivation(2, num_functions, base_activation=base_activation, basis=BSpline(5, 3, (-3, 3)))
        x = torch.linspace(-2.5, 2.5, 101)
        y = layer(x.reshape(-1, 1).expand(-1, 2).contiguous())
        base = getattr(torch.nn.functional, base_activation)(x)
        slope, offset = torch.linalg.lstsq(torch.stack([base, torch.ones_like(base)], 1), y).solution
        torch.testing.assert_close(y, base[:, None] * slope + offset, atol=1e-2, rtol=0)
        assert slope.min() > 0.5
        torch.testing.assert_close(slope, slope[:1].expand_as(slope))

    @pytest.mark.parametrize("fan_in", [1, 4, 300])
    def test_keeps_the_variance_for_any_fan_in(self, fan_in):
        assert 0.7 <= KANLinear(fan_in, 2000)(torch.randn(300, fan_in)).var().item() <= 1.4

    @every_class
    @every_basis
    def test_the_basis_takes_part_from_the_start(self, case, basis):
        for layer in kan_layers(case(basis=basis)):
            assert layer.coefficients.abs().max() > 1e-3

    @pytest.mark.parametrize(
        "basis",
        [
            Chebyshev(0),
            BSpline(1, 0),
            BSpline(1, 0, extrapolation="clamp"),
            BSpline(1, 0, (3, 4)),
            BSpline(1, 7),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("base_activation", ["silu", "identity", None])
    def test_a_degenerate_basis_starts_finite(self, basis, base_activation):
        layer = KANLinear(3, 2, basis=basis, base_activation=base_activation)
        assert all(parameter.isfinite().all() for parameter in layer.parameters())

    def test_the_seed_decides(self):
        weights = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            weights.append(KANConv2d(2, 2, 3).basis_weight)
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    def test_constructors_draw_only_their_parameters_from_the_global_generator(self):
        KANLinear(2, 2)  # warms the cache of moments
        state = torch.get_rng_state()
        with torch.device("meta"):
            KANLinear(2, 2)
        assert torch.equal(torch.get_rng_state(), state)


class TestSpecialCases:
    @every_basis
    @pytest.mark.parametrize("groups", [1, 2])
    def test_low_rank_with_a_function_for_each_feature_is_the_full_layer(self, basis, groups):
        arguments = (4, 6, 3, 2, 1, 1, groups, True, "reflect")
        rank = basis.num_functions + 1
        full = randomize(KANConv2d(*arguments, basis=basis, dtype=torch.float64))
        low = LowRankKANConv2d(*arguments, rank=rank, basis=basis, dtype=torch.float64)
        with torch.no_grad():
            unit = torch.eye(rank, dtype=torch.float64).repeat(4, 1)
            low.activation.base_weight.copy_(unit[:, :1])
            low.activation.basis_weight.copy_(unit[:, 1:])
            by_feature = torch.cat([full.base_weight.unsqueeze(2), full.coefficients], dim=2)
            low.weight.copy_(by_feature.flatten(1, 2))
            low.bias.copy_(full.bias)
        x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
        assert_agree(low(x), full(x))

    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # of torch's plain convolution
    @pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("conv")])
    def test_identity_base_without_coefficients_is_the_plain_convolution(self, name):
        layer = randomize(LAYERS[name](base_activation="identity", dtype=torch.float64))
        nn.init.zeros_(layer.basis_weight)
        plain = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[layer.dims](
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            dtype=torch.float64,
        )
        plain.weight, plain.bias = layer.base_weight, layer.bias
        x = LAYERS[name].input(torch.float64)
        assert_agree(layer(x), plain(x))

    def test_identity_base_without_coefficients_is_the_plain_linear_layer(self):
        layer = KANLinear(3, 2, True, base_activation="identity", dtype=torch.float64)
        nn.init.zeros_(layer.basis_weight)
        x = torch.randn(5, 3, dtype=torch.float64)
        assert_agree(layer(x), nn.functional.linear(x, layer.base_weight, layer.bias))

    @pytest.mark.parametrize("backend", ["dense", "reference"])
    def test_pointwise_convolution_is_the_linear_layer(self, backend):
        linear = with_backend(randomize(KANLinear(3, 4, dtype=torch.float64)), backend)
        convolution = KANConv2d(3, 4, 1, backend=backend, dtype=torch.float64)
        with torch.no_grad():
            convolution.base_weight.copy_(linear.base_weight[..., None, None])
            convolution.basis_weight.copy_(linear.basis_weight[..., None, None])
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        assert_agree(convolution(x), linear(x.movedim(1, -1)).movedim(-1, 1))


CONV_ARGUMENTS = [
    ({"in_channels": 0}, ValueError, "in_channels must be positive, got 0"),
    ({"out_channels": -2}, ValueError, "out_channels must be positive, got -2"),
    ({"in_channels": 2.0}, TypeError, r"in_channels must be an integer, got 2\.0"),
    ({"kernel_size": 0}, ValueError, "kernel_size must be at least 1, got 0"),
    ({"kernel_size": (3,) * 4}, TypeError, "kernel_size must be an integer or .* integers"),
    ({"kernel_size": 1.5}, TypeError, "kernel_size must be an integer .* got 1.5"),
    ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    ({"stride": "2"}, TypeError, "stride must be an integer"),
    ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    ({"padding": "full"}, ValueError, "padding must be 'same', 'valid' or integers, got 'full'"),
    ({"padding": "same", "stride": 2}, ValueError, "padding='same' needs stride 1"),
    ({"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
    ({"groups": 0}, ValueError, "groups must be positive, got 0"),
    ({"groups": 3}, ValueError, "in_channels must be divisible by groups, got 4 and 3"),
    ({"groups": 4}, ValueError, "out_channels must be divisible by groups, got 6 and 4"),
    ({"padding_mode": "mirror"}, ValueError, "padding_mode must be one of zeros, .* got 'mirror'"),
    ({"basis": "spline"}, ValueError, "basis must be one of .*bspline.* got 'spline'"),
    ({"basis": 5}, TypeError, "basis must be a Basis .* got 5"),
    ({"base_activation": "swish"}, ValueError, "base_activation must be None or one of .*silu.* got 'swish'"),
    ({"backend": "cuda"}, ValueError, "backend must be one of auto, dense, .* got 'cuda'"),
    ({"dtype": torch.int64}, TypeError, "dtype must be a floating point type, got torch.int64"),
]


TRANSPOSED_ARGUMENTS = [
    ({"in_channels": 0}, ValueError, "in_channels must be positive, got 0"),
    ({"kernel_size": (3,) * 4}, TypeError, "kernel_size must be an integer or 2 integers"),
    ({"padding": "same"}, TypeError, "padding must be an integer or 2 integers, got 'same'"),
    ({"stride": 2, "output_padding": 2}, ValueError, r"output_padding must be smaller than stride .* got \(2, 2\)"),
    ({"groups": 3}, ValueError, "in_channels must be divisible by groups, got 4 and 3"),
    ({"groups": 4}, ValueError, "out_channels must be divisible by groups, got 6 and 4"),
    ({"padding_mode": "reflect"}, ValueError, "padding_mode must be 'zeros', got 'reflect'"),
]


class TestErrors:
    @pytest.mark.parametrize(("arguments", "error", "message"), TRANSPOSED_ARGUMENTS)
    def test_bad_arguments_of_transposed_convolutions_are_named(self, arguments, error, message):
        with pytest.raises(error, match=message):
            KANConvTranspose2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **arguments})

    def test_inputs_of_which_a_transposed_convolution_makes_nothing_are_refused(self):
        with pytest.raises(ValueError, match=r"input must be large enough .* got \(2,\) with kernel_size \(1,\)"):
            KANConvTranspose1d(1, 1, 1, padding=1)(torch.ones(1, 1, 2))

    @every_convolution
    @pytest.mark.parametrize(("arguments", "error", "message"), CONV_ARGUMENTS)
    def test_bad_arguments_of_convolutions_are_named(self, convolution, arguments, error, message):
        with pytest.raises(error, match=message):
            convolution(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **arguments})

    @pytest.mark.parametrize(
        ("create", "error", "message"),
        [
            (lambda: KANLinear(0, 1), ValueError, "in_features must be positive, got 0"),
            (lambda: KANLinear(1, -1), ValueError, "out_features must be positive, got -1"),
            (lambda: KANLinear(1, "2"), TypeError, "out_features must be an integer, got '2'"),
            (lambda: KANLinear(1, 2, base_activation="swish"), ValueError, "got 'swish'"),
            (lambda: LearnableActivation(0), ValueError, "num_channels must be positive, got 0"),
            (lambda: LearnableActivation(2, 0), ValueError, "num_functions must be positive, got 0"),
            (lambda: LearnableActivation(2, padding=1), TypeError, "padding must be pairs of integers, got 1"),
            (lambda: LearnableActivation(2, padding=(1,)), ValueError, r"padding must be pairs .* got \(1,\)"),
            (lambda: LearnableActivation(2, padding=(1, -1)), ValueError, r"padding must be .* got \(1, -1\)"),
            (lambda: LowRankKANConv2d(2, 2, 3, rank=0), ValueError, "rank must be positive, got 0"),
            (lambda: LowRankKANConv2d(2, 2, 3, rank=1.5), TypeError, r"rank must be an integer, got 1\.5"),
        ],
    )
    def test_bad_arguments_of_other_layers_are_named(self, create, error, message):
        with pytest.raises(error, match=message):
            create()

    @every_class
    @pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
    def test_inputs_must_be_floating_point(self, case, dtype):
        with pytest.raises(TypeError, match=f"input must .*float32.* got {dtype}"):
            case()(torch.ones(case.shape, dtype=dtype))
        with (
            torch.autocast(case.input().device.type, torch.bfloat16),
            pytest.raises(TypeError, match=f"input must .* got {dtype}"),
        ):
            case()(torch.ones(case.shape, dtype=dtype))

    @every_class
    def test_inputs_must_have_the_dtype_of_the_layer(self, case):
        with pytest.raises(TypeError, match=r"input must .*float32.* got torch.float64"):
            case()(case.input(torch.float64))
        with pytest.raises(TypeError, match=r"input must .*float64.* got torch.float32"):
            case(dtype=torch.float64)(case.input())

    @every_class
    def test_inputs_must_have_the_channels_of_the_layer(self, case):
        dimension = -1 if isinstance(case(), KANLinear) else 1
        x = torch.cat([case.input(), case.input()], dim=dimension)
        channels = case.shape[dimension]
        with pytest.raises(ValueError, match=rf"input must have .*\b{channels}\b.* got .*\b{2 * channels}\b"):
            case()(x)

    @every_class
    def test_inputs_must_have_the_dimensions_of_the_layer(self, case):
        with pytest.raises(ValueError, match=r"input must have .* got"):
            case()(torch.ones(()))
        if not isinstance(case(), KANLinear | LearnableActivation):
            with pytest.raises(ValueError, match=r"input must have shape .* got"):
                case()(torch.ones(1, *case.shape))

    @every_convolution
    def test_inputs_must_not_be_smaller_than_the_kernel(self, convolution):
        layer = convolution(1, 1, 3, dilation=2)
        dims = layer.dims
        with pytest.raises(ValueError, match="input must be at least as large as the kernel: padded size 4, kernel"):
            layer(torch.ones(1, 1, *[5] * (dims - 1), 4))
        assert layer(torch.ones(1, 1, *[5] * dims)).shape == (1, 1, *[1] * dims)

    @pytest.mark.parametrize(
        ("knots", "message"),
        [
            (torch.arange(12.0).repeat(3, 1), r"knots must have shape \(2, 12\), got \(3, 12\)"),
            (torch.arange(11.0).repeat(2, 1), r"knots must have shape \(2, 12\), got \(2, 11\)"),
            (torch.arange(12.0).flip(0).repeat(2, 1), "knots must increase"),
            (torch.zeros(2, 12), "knots must increase"),
            (torch.arange(12.0).log().repeat(2, 1), "knots must be finite"),
        ],
    )
    def test_bad_knots_are_refused_and_change_nothing(self, knots, message):
        layer = KANLinear(2, 2)
        before = layer.grid.clone()
        with pytest.raises(ValueError, match=message):
            layer.set_grid(knots)
        with pytest.raises(ValueError, match=message):
            layer.grid = knots
        assert torch.equal(layer.grid, before)

    @every_class
    def test_bad_knots_are_refused_however_they_came(self, case):
        """Whoever writes to the grid himself hears of it at the next call."""
        layer, x = case(), case.input()
        for part in kan_layers(layer):
            good = part.grid.clone()
            for bad, message in (
                (torch.zeros_like(good), "knots must increase along each channel, and those of this"),
                (torch.full_like(good, torch.nan), "knots must be finite"),
            ):
                part.grid.copy_(bad)
                with pytest.raises(ValueError, match=message):
                    layer(x)
                part.grid.copy_(good)
            part._buffers["grid"] = good[:, 1:]
            with pytest.raises(ValueError, match=r"knots must have shape .*, got"):
                layer(x)
            part._buffers["grid"] = good.clone()
            layer(x)
            part.grid[:, 3] = 9.0
            with pytest.raises(ValueError, match="knots must increase along each channel"):
                layer(x)
            part.grid = good

    @every_class
    def test_a_base_weight_goes_with_a_base_activation(self, case):
        for base_activation, got in (("silu", "none and 'silu'"), (None, "one and None")):
            layer = case(base_activation=base_activation)
            for part, whole in zip(kan_layers(layer), kan_layers(case()), strict=True):
                part.base_weight = None if base_activation else whole.base_weight
            with pytest.raises(ValueError, match=f"base_weight must go with base_activation, got {got}"):
                layer(case.input())

    @pytest.mark.parametrize("basis", [Chebyshev(), RBF()], ids=repr)
    def test_a_basis_without_a_grid_takes_none(self, basis):
        with pytest.raises(TypeError, match=f"{type(basis).__name__} basis has no grid"):
            KANLinear(2, 2, basis=basis).set_grid(torch.zeros(2, 12))
