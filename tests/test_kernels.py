"""The fast paths: compiled kernels, tiles, look-ups and the operation that stands for a layer in a compiled graph."""

import os
from dataclasses import dataclass
from itertools import product

import processes
import pytest
import torch
from bumps import Bumps
from cases import NARROW
from torch import nn

from convkan import KANConv2d, KANLinear, LearnableActivation
from convkan.basis import RBF, Basis, BSpline, Chebyshev
from convkan.models import create_model, list_models, model_options
from convkan.ops import channelwise, compiled_kernels, kernels, tiles
from convkan.ops.native import native_kernels
from convkan.ops.plan import PLANS, Plan
from convkan.testing import (
    LAYER_CLASSES,
    LAYERS,
    TOLERANCES,
    assert_agree,
    make_uneven,
    outputs_and_gradients,
    randomize,
    relative_error,
    with_backend,
)

every_class = pytest.mark.parametrize("case", LAYER_CLASSES.values(), ids=LAYER_CLASSES)
every_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)


def assert_equals_reference(layer, x, factor=1.0):
    expected = outputs_and_gradients(with_backend(layer, "reference"), x)
    for name, value in outputs_and_gradients(layer, x).items():
        assert_agree(value, expected[name], name, factor)


@pytest.fixture
def count_compiled(monkeypatch):
    """Compile every kernel, however small its input, and count the calls that went to a compiled one."""
    calls = []
    original = kernels._of_any_size

    def counting(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(kernels, "MIN_ENTRIES", 0)
    monkeypatch.setattr(kernels, "_of_any_size", counting)
    with compiled_kernels(True), native_kernels(False):
        yield calls
    torch.compiler.reset()


@pytest.fixture
def of_one_size(monkeypatch):
    """Compile for the sizes at hand."""
    monkeypatch.setattr(torch._dynamo, "maybe_mark_dynamic", lambda *_: None)


# Until torch has cached them, kernels take seconds each to compile: two for a layer that sums, three for an activation,
# the longer the more functions there are. Formulas, ways to sum and precisions know nothing of each other: so each is
# compiled once, in small, ...
F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
SHARP = [
    (Chebyshev(3), False, "conv2d", BF16),
    (Bumps(1), True, "linear", F32),  # which the package does not know
    (RBF(2), False, "activation", F32),
]
# For inputs of one size alone it takes half as long.
LONG = [
    (BSpline(1), False, "conv2d-grouped", F32),
    (BSpline(1, 2), True, "conv2d-grouped", F32),  # the recursion on knots of any kind, above order 1
    (RBF(kernels.MOST_UNROLLED + 1), False, "activation-2", F64),  # more functions than are summed one by one
]
# ... and each with each at the usual sizes where there is time.
THOROUGH = [
    (basis, uneven, name, F32)
    for basis in (BSpline(), BSpline(20), BSpline(4, 1, extrapolation="linear"), Chebyshev(), RBF())
    for uneven in ((False, True) if basis.has_grid else (False,))
    for name in ("linear", "conv2d", "conv2d-grouped", "activation", "activation-2")
]
THOROUGH += [
    (basis, False, name, dtype)
    for name, basis in (("linear", BSpline(1, 1)), ("activation", RBF(2)))
    for dtype in (F64, BF16)
]
THOROUGH += [(BSpline(1, 1, extrapolation="linear"), True, "conv2d-grouped", F32)]
THOROUGH += [(BSpline(1), True, "conv2d-grouped", F32), (RBF(kernels.MOST_UNROLLED + 1), False, "activation-2", F32)]


def thorough(cases):
    return [pytest.param(*case, marks=pytest.mark.thorough) for case in cases]


def assert_equals_reference_in_its_precision(layer, x):
    """In half precision, where the reference errs itself, it may err twice as much."""
    if x.dtype != BF16:
        assert_equals_reference(layer, x)
        return
    exact = outputs_and_gradients(with_backend(layer, "reference").double(), x.double())
    plain = outputs_and_gradients(with_backend(layer, "reference"), x)
    for part, value in outputs_and_gradients(layer, x).items():
        allowed = 2 * max(relative_error(plain[part], exact[part]), torch.finfo(x.dtype).eps)
        assert relative_error(value, exact[part]) <= allowed, part


@pytest.mark.slow
class TestCompiledKernels:
    @pytest.mark.parametrize(("basis", "uneven", "name", "dtype"), SHARP + thorough(THOROUGH), ids=repr)
    def test_equal_the_reference(self, basis, uneven, name, dtype, count_compiled):
        layer, x = randomize(LAYERS[name](basis=basis)).to(dtype), LAYERS[name].input().to(dtype)
        layer = make_uneven(layer) if uneven else layer
        assert_equals_reference_in_its_precision(layer, x)
        assert count_compiled
        assert not kernels._failed

    @pytest.mark.parametrize(("basis", "uneven", "name", "dtype"), LONG, ids=repr)
    def test_of_long_formulas_equal_the_reference(self, basis, uneven, name, dtype, of_one_size, count_compiled):
        self.test_equal_the_reference(basis, uneven, name, dtype, count_compiled)

    @pytest.mark.parametrize(
        ("basis", "uneven", "num_functions"),
        [
            *thorough([(BSpline(20, 1), True, 1), (BSpline(30, 2, extrapolation="clamp"), False, 1)]),
            *thorough(product((BSpline(40), BSpline(40, 2, extrapolation="clamp")), (False, True), (2,))),
        ],
        ids=repr,
    )
    def test_look_up_what_is_alive_as_the_reference_does(self, basis, uneven, num_functions, count_compiled):
        layer = randomize(LearnableActivation(3, num_functions, basis=basis))
        layer = make_uneven(layer) if uneven else layer
        assert layer.plan.expansion.few_alive
        assert_equals_reference(layer, 1.5 * torch.randn(4, 3, 5))
        assert count_compiled
        assert not kernels._failed

    def test_look_up_what_is_alive_on_uneven_knots(self, of_one_size, count_compiled):
        self.test_look_up_what_is_alive_as_the_reference_does(BSpline(20, 1), True, 1, count_compiled)

    @torch.no_grad()
    def test_look_up_what_is_alive_on_even_knots(self, count_compiled):
        layer = randomize(LearnableActivation(3, basis=BSpline(30, 2, extrapolation="clamp"))).bfloat16()
        assert layer.plan.expansion.few_alive
        x = (1.5 * torch.randn(4, 3, 5)).bfloat16()
        plain, exact = with_backend(layer, "reference")(x), with_backend(layer, "reference").double()(x.double())
        assert relative_error(layer(x), exact) <= 2 * max(relative_error(plain, exact), torch.finfo(BF16).eps)
        assert count_compiled
        assert not kernels._failed

    def test_serve_every_size_without_being_compiled_again(self, count_compiled):
        compiled = []
        counter = torch._dynamo.utils.counters["stats"]
        for size, channels in ((4, 3), (5, 2), (7, 6), (6, 9)):
            layer = KANConv2d(channels, 2, 3, basis=BSpline(3, grid_range=(-size, size)))
            x = torch.randn(2, channels, size, size)
            with torch.no_grad():
                assert_agree(layer(x), with_backend(layer, "reference")(x))
            compiled.append(counter["unique_graphs"])
        assert compiled[0] == compiled[-1]

    def test_do_not_depend_on_grad_mode_or_autocast(self, count_compiled):
        layer, x = KANLinear(6, 3, basis=RBF(2)), torch.randn(5, 6)
        counter = torch._dynamo.utils.counters["stats"]
        layer(x)
        before = counter["unique_graphs"]
        with torch.no_grad():
            layer(x)
        layer(x.requires_grad_())
        assert counter["unique_graphs"] == before


class TestWithoutACompiler:
    @pytest.fixture
    def failing_compiler(self, monkeypatch):
        def fail(*arguments, **options):
            raise RuntimeError("no C++ compiler")

        monkeypatch.setattr(torch, "compile", lambda function, **options: fail)
        monkeypatch.setattr(kernels, "MIN_ENTRIES", 0)
        kernels._specialized.cache_clear()
        with compiled_kernels(True), native_kernels(False):
            yield
        kernels._specialized.cache_clear()
        kernels._failed.clear()

    @every_class
    def test_every_layer_works_silently(self, case, failing_compiler, recwarn, capfd):
        layer = randomize(case(basis=BSpline(4), dtype=torch.float64))
        assert_equals_reference(layer, case.input(torch.float64))
        assert kernels._failed
        assert not recwarn.list
        assert capfd.readouterr() == ("", "")

    def test_only_what_failed_is_given_up(self, failing_compiler, monkeypatch):
        layer = KANLinear(3, 2, basis=BSpline(4))
        layer(torch.randn(4, 3))
        assert {expansion for _, expansion, *_ in kernels._failed} == {layer.plan.expansion}
        assert {dtype for *_, dtype, _ in kernels._failed} == {torch.float32}

    def test_wrong_input_is_the_caller_s_fault(self, failing_compiler):
        with pytest.raises(RuntimeError, match="size"):
            kernels.input_gradient(torch.randn(3, 1, 2), KANLinear(2, 2).plan.expansion, None, torch.randn(3, 1, 4, 5))
        assert not kernels._failed

    def test_compilation_can_be_forbidden_by_the_environment(self, tmp_path):
        code = "from convkan.ops import kernels; print(kernels._enabled)"
        run = processes.run(code, tmp_path, os.environ | {kernels.DISABLING_VARIABLE: "0"})
        assert run.stdout.strip() == "False"


class TestTiles:
    @pytest.fixture
    def small(self, monkeypatch):
        """Hardly any memory, so that everything is cut."""
        monkeypatch.setattr(tiles, "CPU_BYTES_PER_THREAD", 1)
        monkeypatch.setattr(tiles, "tile_bytes", lambda device, weight=None: 300)
        return monkeypatch

    @pytest.fixture
    def seen(self, monkeypatch):
        """What the kernel of activations is given, call by call."""
        inputs = []
        original = kernels.activation
        monkeypatch.setattr(kernels, "activation", lambda x, *others: (inputs.append(x), original(x, *others))[1])
        with native_kernels(False):
            yield inputs

    @every_layer
    @pytest.mark.parametrize("uneven", [False, True])
    def test_give_what_the_whole_gives(self, case, uneven, small):
        layer, x = randomize(case(dtype=torch.float64)), case.input(torch.float64, batch=5)
        layer = make_uneven(layer) if uneven else layer
        cut = outputs_and_gradients(layer, x)
        small.setattr(tiles, "tile_bytes", lambda device, weight=None: 2**40)
        for name, value in outputs_and_gradients(layer, x).items():
            assert_agree(cut[name], value, name)

    @pytest.mark.parametrize("stride", [1, 2, 3])
    @pytest.mark.parametrize("dilation", [1, 2])
    @pytest.mark.parametrize("padding", [0, 2])
    def test_an_image_too_large_is_cut_into_strips(self, stride, dilation, padding, small):
        layer = randomize(KANConv2d(2, 3, (3, 2), stride, padding, dilation, dtype=torch.float64))
        x = torch.randn(2, 2, 13, 6, dtype=torch.float64)
        pixels = nn.functional.pad(x[:1], (padding,) * 4).movedim(1, -1).unsqueeze(-2)
        assert len(list(tiles.strips(pixels, layer.basis_weight, layer.plan))) > 1
        assert_equals_reference(layer, x)

    @pytest.mark.parametrize("functions", [1, 2])
    @pytest.mark.parametrize("grid_size", [5, 40])
    def test_activations_are_cut_into_few_images(self, functions, grid_size, seen, monkeypatch):
        monkeypatch.setattr(channelwise, "UNCOMPILED_BYTES", 2 * 3 * 5 * grid_size * functions * 8)
        layer = randomize(LearnableActivation(3, functions, basis=BSpline(grid_size), padding=(1, 0)))
        for dtype in (torch.float32, torch.float64):
            assert_equals_reference(layer.to(dtype), torch.randn(7, 3, 5, dtype=dtype))
        with torch.autocast("cpu", torch.bfloat16):
            layer.float()(torch.randn(7, 3, 5, requires_grad=True)).sum().backward()
        assert max(len(x) for x in seen) < 7

    @pytest.mark.parametrize(
        ("shape", "padding"),
        [(shape, 0) for shape in ((4, 17, 4, 4), (4, 16, 4, 4), (1, 3, 5, 7), (2, 24, 2, 2), (6, 5, 8), (12, 10))]
        + [((4, 17, 4, 4), 1), ((1, 3, 5, 7), 1)],  # torch keeps the order in memory through padding for images only
    )
    @pytest.mark.parametrize("functions", [1, 2])
    def test_channels_of_neighbouring_pixels_fill_vectors(self, shape, functions, padding, seen):
        channels, ndim = shape[1], len(shape) - 2
        for grid_size in (5, 40):
            layer = LearnableActivation(
                channels, functions, basis=BSpline(grid_size), padding=(padding,) * (2 * ndim), dtype=torch.float64
            )
            layer = make_uneven(randomize(layer))  # so that no two channels have the same functions
            x = torch.randn(shape[0], *shape[2:], channels, dtype=torch.float64).movedim(-1, 1)
            assert_equals_reference(layer, x)
        assert min(x.shape[-1] for x in seen) > channels

    @pytest.mark.parametrize("functions", [1, 2])
    @pytest.mark.parametrize("grid_size", [5, 40])
    def test_a_single_channel_is_evaluated_as_it_lies_in_memory(self, functions, grid_size, seen):
        layer = randomize(LearnableActivation(1, functions, basis=BSpline(grid_size), dtype=torch.float64))
        images = torch.randn(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
        for x in (images.unsqueeze(1), images.mT.unsqueeze(1), images[..., ::2].unsqueeze(1)):
            y, dense = layer(x), x.numel() == images.numel()
            assert seen[-1].is_contiguous() == dense
            if functions == 1 and dense:
                assert y.squeeze(1).stride() == x.squeeze(1).stride()
            assert_equals_reference(layer, x)

    def test_second_derivatives_are_taken_of_the_whole(self, small):
        layer = randomize(KANConv2d(2, 2, 3, dtype=torch.float64))
        x = (0.5 * torch.randn(3, 2, 6, 4, dtype=torch.float64)).requires_grad_()
        ours, expected = (
            torch.autograd.grad(
                torch.autograd.grad(version(x).square().sum(), x, create_graph=True)[0].square().sum(), x
            )[0]
            for version in (layer, with_backend(layer, "reference"))
        )
        assert_agree(ours, expected, factor=10)

    def test_bound_the_memory_of_features(self):
        layer, x = KANConv2d(8, 8, 3, padding=1), torch.randn(64, 8, 32, 32)
        count = len(x.split(tiles.images_per_tile(x, layer.basis_weight, layer.plan)))
        per_image = 9 * 8 * 34 * 34 * 4
        assert count > 1
        assert 64 / count * per_image <= 1.1 * tiles.tile_bytes(x.device)


class TestOneOperation:
    """The layer as ``torch.ops.convkan.evaluate``, as which ``torch.compile`` sees it."""

    # Padding with other numbers than zero, biases and what follows an activation are done outside of the operation. Of
    # the others, one of each geometry, with all that it can have.
    @pytest.mark.parametrize(
        "name",
        [
            *("linear", "conv1d", "conv2d-grouped", "conv2d-depthwise", "conv2d-same", "conv3d"),
            *("transposed2d-grouped", "activation-2"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own copies
    def test_is_what_torch_wants_of_an_operation(self, name):
        layer, x = LAYERS[name](), LAYERS[name].input().requires_grad_()
        weights = (
            layer.by_output(weight).detach().requires_grad_() for weight in (layer.base_weight, layer.basis_weight)
        )
        arguments = (x, *weights, layer.grid, layer.plan.key)
        assert torch.library.opcheck(torch.ops.convkan.evaluate.default, arguments)

    def test_plans_are_known_by_their_key_also_after_copies(self):
        plan = KANLinear(2, 2, basis=BSpline(17)).plan
        assert PLANS.pop(plan.key) == plan
        function, arguments = plan.__reduce__()
        assert function is Plan
        assert function(*arguments) == plan
        assert PLANS[plan.key] == plan

    def test_two_classes_of_one_name_are_not_taken_for_each_other(self):
        """As one that is written anew in a notebook, while layers of the old one live on."""

        def power(exponent):
            @dataclass(frozen=True)
            class Power(Basis):
                num_functions = 1

                def evaluate(self, x, knots=None, *, fast=False):
                    return x.unsqueeze(-2) ** exponent

                def derivative(self, x, knots=None, *, fast=False):
                    return exponent * x.unsqueeze(-2) ** (exponent - 1)

                def resized(self, num_functions, num_knots):
                    return self

            return randomize(KANLinear(3, 2, basis=Power(), base_activation=None))

        layers, x = [power(exponent) for exponent in (2, 3)], torch.randn(4, 3)
        assert repr(layers[0].basis) == repr(layers[1].basis)
        for layer in layers:
            whole = torch.compile(lambda x, layer=layer: layer(x) + 1, backend="aot_eager", fullgraph=True)
            assert_agree(whole(x), layer(x) + 1)


# Models of more, or wider, blocks of the kinds that smaller ones have: to be compiled where there is time.
LARGER = [f"{kind}{depth}" for kind in ("resnet", "kan_resnet") for depth in (14, 18, 20, 32, 34)]
LARGER += ["cnn_medium", "conv_kan_medium", "kanc_mlp_medium", "kanc_mlp_big", "kkan_medium"]
# Plain twins are the same networks as KANs that are compiled, of torch's own layers.
TWINS = ["cnn_big", "cnn_bn", "cnn_more_convs", "cnn_small", "densenet", "mobilenet", "plain_cnn", "resnet8"]
TWINS += ["tiny", "unet", "vgg"]
# Other flags than those of kernels would have torch compile its headers, which takes it seconds, once more.
AS_KERNELS = {name: value for name, value in kernels.OPTIONS.items() if name.startswith("cpp.")}
# Two stages have all that more have: units that keep the number of channels, and ones that change it.
SHALLOW = {"depths": (2, 1), "widths": (4, 8)}


def shallow(name):
    return {option: few for option, few in SHALLOW.items() if option in model_options(name)} | NARROW.get(name, {})


class TestWholeModels:
    @pytest.fixture
    def compile_counting(self):
        torch.compiler.reset()
        graphs = []

        def compiled(module, backend="aot_eager", **options):
            def counting(graph, example_inputs):
                graphs.append(graph)
                return torch._dynamo.lookup_backend(backend)(graph, example_inputs)

            return torch.compile(module, fullgraph=True, backend=counting, **options), graphs

        yield compiled
        torch.compiler.reset()

    # One of each geometry, and the paddings that are done outside of the operation.
    @pytest.mark.parametrize(
        "name",
        [*LAYER_CLASSES, *("conv2d-same", "conv2d-reflect", "conv2d-circular", "transposed2d-grouped")],
    )
    def test_every_layer_is_one_graph_for_all_batch_sizes(self, name, compile_counting):
        compiled, graphs = compile_counting(LAYERS[name]())
        for batch in (2, 5, 3):
            x = LAYERS[name].input(batch=batch)
            expected = outputs_and_gradients(compiled._orig_mod, x)
            for part, value in outputs_and_gradients(compiled, x).items():
                assert_agree(value, expected[part.removeprefix("_orig_mod.")], part)
        assert 1 <= len(graphs) <= 2

    @pytest.mark.slow
    def test_one_output_trains(self):
        torch.compiler.reset()
        for layer, shape in ((KANLinear(5, 1), (5,)), (KANConv2d(2, 1, 3, bias=True), (2, 5, 5))):
            compiled = torch.compile(layer, fullgraph=True, dynamic=True, options=AS_KERNELS)
            for batch in (4, 2):
                x = torch.randn(batch, *shape)
                expected = outputs_and_gradients(layer, x)
                for name, value in outputs_and_gradients(compiled, x).items():
                    assert_agree(value, expected[name.removeprefix("_orig_mod.")], name, factor=10)
        torch.compiler.reset()

    def test_forward_mode_can_be_compiled(self):
        torch.compiler.reset()
        layer, x = LAYERS["conv2d"](), LAYERS["conv2d"].input()

        def forward(x):
            return torch.func.jvp(layer, (x,), (torch.ones_like(x),))[1]

        assert_agree(torch.compile(forward, fullgraph=True, backend="aot_eager")(x), forward(x), factor=10)
        torch.compiler.reset()

    def test_gradients_as_functions_can_be_compiled(self):
        torch.compiler.reset()
        layer, x = LAYERS["linear"](), LAYERS["linear"].input()
        weights = dict(layer.named_parameters())

        def by_weight(x):
            return torch.func.grad(lambda w: torch.func.functional_call(layer, w, x).square().sum())(weights)

        compiled = torch.compile(by_weight, backend="aot_eager")(x)
        for name, expected in by_weight(x).items():
            assert_agree(compiled[name], expected, name, factor=10)
        torch.compiler.reset()

    @pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[pytest.mark.thorough] * (name in LARGER + TWINS)) for name in list_models()]
    )
    def test_every_model_is_one_graph_for_all_batch_sizes(self, name, compile_counting):
        # What becomes of a graph depends on its layers, each on its own: that is seen in their test, and here once.
        backend = "aot_eager" if name == "kan_cnn" else "eager"
        model = create_model(name, in_channels=1, **shallow(name))
        compiled, graphs = compile_counting(model, backend, dynamic=True)
        for batch in (2, 5, 3):
            x = torch.randn(batch, 1, 28, 28)
            y = compiled(x)
            y.square().sum().backward()
            assert_agree(y, compiled._orig_mod(x), factor=10)
        assert 1 <= len(graphs) <= 2

    @pytest.mark.parametrize("name", list_models())
    def test_every_model_trains_in_bfloat16(self, name):
        model, x = create_model(name, in_channels=1, **shallow(name)), torch.randn(4, 1, 28, 28)
        exact = model.eval()(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            y = model(x)
        assert y.dtype == torch.bfloat16
        assert relative_error(y, exact) < 2 * TOLERANCES[torch.bfloat16]
        model.train()
        with torch.autocast(x.device.type, torch.bfloat16):
            logits = model(x)
            labels = torch.arange(4).view(4, *[1] * (logits.ndim - 2)).expand(4, *logits.shape[2:])
            loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters())
