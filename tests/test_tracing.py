"""What torch's tracers, exporters and counters make of a layer: what they make of ``nn.Conv2d`` and ``nn.Linear``."""

import copy
import io
import math
import pickle

import pytest
import torch
from cases import NARROW, diagonal
from torch import fx, nn
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

from convkan import (
    KANConv2d,
    KANConvTranspose1d,
    KANConvTranspose2d,
    KANConvTranspose3d,
    KANLinear,
    LearnableActivation,
    LowRankKANConv2d,
)
from convkan.basis import RBF, BSpline, Chebyshev
from convkan.grid import adapt_grid, refine_grid
from convkan.interpret import fix
from convkan.models import create_model, list_models
from convkan.ops import evaluate
from convkan.ops.counting import register_formulas
from convkan.testing import (
    LAYER_CLASSES,
    LAYERS,
    assert_agree,
    kan_layers,
    make_uneven,
    outputs_and_gradients,
    randomize,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.[a-z_]+. is deprecated"),  # which is known, and tested on purpose
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning"),  # torch.export itself
]
every_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
every_class = pytest.mark.parametrize("case", LAYER_CLASSES.values(), ids=LAYER_CLASSES)
every_model = pytest.mark.parametrize("name", list_models())


class UsersNet(nn.Module):
    """A net of one's own, of which a KAN layer is a part."""

    def __init__(self, layer):
        super().__init__()
        self.before, self.layer = nn.Identity(), layer

    def forward(self, x):
        return torch.relu(self.layer(self.before(x))) + 1


def slides(module):
    """Whether it is a convolution, which takes images of any size, and single ones."""
    return hasattr(module, "kernel_size")


def larger(case, batch, more=8):
    """An input of another size than the case's: of another batch, and if the layer slides, of more pixels."""
    space = [size + more if slides(case()) else size for size in case.shape[2:]]
    return 1.5 * torch.randn(batch, case.shape[1], *space)


def refined(module):
    """With a finer grid, of which the outer knots are uneven."""
    for layer in kan_layers(module):
        refine_grid(layer, 9)
    return module


def convolutional(*layers):
    """A net of these layers, pooled, and a linear one of three inputs."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), KANLinear(3, 2, basis=BSpline(2, 2)))


def exported(module, x, strict=False):
    """Exported for any batch, and any number of pixels where it slides."""
    sizes = {0: Dim("batch")} | {i: Dim(f"side{i}", min=8) for i in range(2, x.ndim) if slides(module)}
    return torch.export.export(module, (x,), dynamic_shapes=(sizes,), strict=strict).module()


class TestExport:
    # One of each geometry, and the paddings that are done before it.
    @pytest.mark.parametrize(
        "name",
        [*LAYER_CLASSES, *("conv2d-same", "conv2d-reflect", "conv2d-circular", "transposed2d-grouped")],
    )
    def test_takes_any_batch_and_any_size_and_can_be_trained(self, name):
        self.check(LAYERS[name], LAYERS[name]())

    def test_on_uneven_knots(self):
        self.check(LAYERS["conv2d"], make_uneven(LAYERS["conv2d"]()))

    def check(self, case, layer):
        program = exported(layer, larger(case, 2))
        for batch in (1, 3):
            x = larger(case, batch, more=11)
            expected = outputs_and_gradients(layer, x)
            found = outputs_and_gradients(program, x)
            for name, value in expected.items():
                assert_agree(found[name], value, name, factor=10)

    def test_strictly_too(self):
        case = LAYERS["conv2d"]
        layer, x = case(), larger(case, 5)
        assert_agree(exported(layer, larger(case, 2), strict=True)(x), layer(x), factor=10)

    @pytest.mark.parametrize("basis", [Chebyshev(), RBF(), BSpline(order=0), BSpline(extrapolation="linear")], ids=repr)
    def test_of_every_basis(self, basis):
        layer = KANLinear(3, 2, basis=basis)
        x = torch.randn(5, 3)
        assert_agree(exported(layer, torch.randn(2, 3))(x), layer(x), factor=10)

    def test_of_pruned_and_named_edges(self):
        layer = randomize(KANConv2d(2, 3, 3, padding=1))
        fix(layer, (0, 1, 2, 2), "sin")
        layer.mask_edges(torch.rand(3, 2, 3, 3) > 0.3)
        x = torch.randn(3, 2, 9, 10)
        assert_agree(exported(layer, torch.randn(2, 2, 8, 8))(x), layer(x), factor=10)

    @pytest.mark.parametrize(
        ("name", "options"),
        [("kan_cnn", {"widths": (2, 3)}), ("kan_mobilenet", {"depths": (2,), "width": 2.0})],
    )
    def test_of_models_with_any_batch(self, name, options):
        model = create_model(name, in_channels=1, **options).eval()
        program = exported(model, torch.randn(2, 1, 28, 28))
        x = torch.randn(3, 1, 28, 28)
        assert_agree(program(x), model(x), factor=100)

    # What is said of a basis on its knots is the same in every layer.
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter's own parts
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_to_onnx_runs_on_any_batch_and_size(self, tmp_path):
        pytest.importorskip("onnxscript")
        runtime = pytest.importorskip("onnxruntime")
        first = refined(KANConv2d(1, 2, 3, padding=1, basis=BSpline(2, 2)))
        net = convolutional(first, LearnableActivation(2), LowRankKANConv2d(2, 3, 3)).eval()
        x, file = torch.randn(2, 1, 12, 12), tmp_path / "net.onnx"
        sizes = ({0: Dim("batch"), 2: Dim("height", min=8), 3: Dim("width", min=8)},)
        torch.onnx.export(net, (x,), file, dynamo=True, dynamic_shapes=sizes, verbose=False, external_data=False)
        session = runtime.InferenceSession(file)
        for shape in ((1, 1, 12, 12), (3, 1, 9, 15)):
            x = torch.randn(shape)
            (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
            assert_agree(torch.from_numpy(y), net(x), factor=20)


class TestScriptTrace:
    @pytest.mark.parametrize(("name", "uneven"), diagonal(LAYERS, [False, True]))
    def test_is_saved_and_takes_any_size(self, name, uneven):
        case = LAYERS[name]
        layer = make_uneven(case()) if uneven else case()
        file = io.BytesIO()
        torch.jit.save(torch.jit.trace(layer, case.input()), file)
        file.seek(0)
        x = larger(case, 3)
        assert_agree(torch.jit.load(file)(x), layer(x), factor=10)


class TestSymbolicTrace:
    @pytest.mark.parametrize(("name", "surround"), diagonal(LAYERS, [lambda layer: layer, UsersNet, nn.Sequential]))
    def test_runs_trains_and_is_copied(self, name, surround):
        case = LAYERS[name]
        net = surround(case())
        traced = fx.symbolic_trace(net)
        traced.graph.lint()
        x = case.input()
        expected = net(x)
        for version in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):  # noqa: S301
            assert torch.equal(version(x), expected)
            version(x).sum().backward()
            assert all(parameter.grad is not None for parameter in version.parameters())

    @every_class
    def test_follows_the_layer_through_every_change_of_its_grid(self, case):
        layer, x = case(), case.input()
        traced = fx.symbolic_trace(UsersNet(layer))
        for part in kan_layers(layer):
            part.register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0].detach()))
        for change in (adapt_grid, lambda part, _: refine_grid(part, 9), lambda part, _: make_uneven(part)):
            seen = []
            layer(x)
            for part, inputs in zip(kan_layers(layer), tuple(seen), strict=True):
                change(part, inputs)
            assert torch.equal(traced(x), UsersNet(layer)(x))

    @every_model
    def test_of_every_model(self, name):
        model = create_model(name, in_channels=1, **NARROW.get(name, {})).eval()
        x = torch.randn(2, 1, 28, 28)
        assert torch.equal(fx.symbolic_trace(model)(x), model(x))

    def test_names_a_layer_as_torchvision_does_its_nodes(self):
        extraction = pytest.importorskip("torchvision.models.feature_extraction")
        net = nn.Sequential(KANConv2d(1, 3, 3), LearnableActivation(3), LowRankKANConv2d(3, 2, 3))
        x = torch.randn(2, 1, 8, 8)
        found = extraction.create_feature_extractor(net, ["0", "2"])(x)
        assert torch.equal(found["0"], net[0](x))
        assert torch.equal(found["2"], net(x))

    def test_of_a_function_around_a_layer_is_refused(self):
        layer = KANLinear(2, 2)
        with pytest.raises(NameError, match="not installed as a submodule"):
            fx.symbolic_trace(lambda x: layer(x))

    def test_needs_a_tracer_that_knows_modules(self):
        with pytest.raises(TypeError, match="input must be traced by"):
            KANLinear(2, 2)(fx.Proxy(fx.Graph().placeholder("x")))


@every_layer
@pytest.mark.parametrize("unbatched", [False, True])
def test_hooks_fire_once(case, unbatched):
    module = case()
    x = case.input()
    if unbatched:
        if not slides(module):
            pytest.skip("takes batches alone")
        x = x[0]
    calls = []
    for part in module.modules():
        part.register_forward_hook(lambda part, inputs, output: calls.append(part))
    module(x)
    assert calls.count(module) == 1
    assert len(calls) == len(set(calls))


class TestFloatingPointOperations:
    @staticmethod
    def counted(compute):
        with FlopCounterMode(display=False) as counter:
            compute()
        return counter.get_total_flops()

    # What is compiled is one operation, which every class has a case of.
    @pytest.mark.parametrize(
        ("case", "run"),
        [
            *((LAYERS[name], run) for name in LAYERS for run in ("eager", "reference")),
            *((LAYERS[name], "compiled") for name in LAYER_CLASSES),
        ],
        ids=[f"{name}-{run}" for name in LAYERS for run in ("eager", "reference")]
        + [f"{name}-compiled" for name in LAYER_CLASSES],
    )
    @pytest.mark.filterwarnings("ignore:Using `torch.compile.module.` when there are global hooks:UserWarning")
    def test_are_those_of_a_hand_count(self, case, run):
        module, x = case(), case.input()
        for layer in kan_layers(module):
            layer.backend = "reference" if run == "reference" else "auto"
        torch.compiler.reset()
        called = torch.compile(module, backend="aot_eager") if run == "compiled" else module
        with torch.no_grad():
            called(x)
            assert self.counted(lambda: called(x)) == 2 * multiply_adds(module, x)
        torch.compiler.reset()

    # (of grouped convolutions torch counts more, and a low-rank layer holds one)
    @pytest.mark.parametrize("name", [name for name in LAYERS if name != "lowrank"])
    def test_of_a_backward_pass_are_twice_as_many(self, name):
        module, x = LAYERS[name](), LAYERS[name].input().requires_grad_()
        forward = self.counted(lambda: module(x))
        assert self.counted(lambda: module(x).sum().backward()) == 3 * forward

    @every_class
    def test_are_known_of_the_operation_in_compiled_graphs(self, case):
        register_formulas()
        layer, x = kan_layers(case())[0], case.input()
        plan, tensors = layer.plan, (x, *layer.edge_weights(), layer.grid)
        expected = self.counted(lambda: evaluate(*tensors, plan))
        assert self.counted(lambda: torch.ops.convkan.evaluate(*tensors, plan.key)) == expected > 0

    @every_class
    def test_counting_changes_no_result(self, case):
        counted = case()
        module, x = copy.deepcopy(counted), case.input()
        module(x).square().sum().backward()
        with FlopCounterMode(display=False):
            counted(x).square().sum().backward()
        for found, expected in zip(counted.parameters(), module.parameters(), strict=True):
            assert_agree(found.grad, expected.grad)


def multiply_adds(module, x):
    """By hand: every entry of the output is a sum over taps and inputs, of as many products as there are features."""
    if isinstance(module, LowRankKANConv2d):
        size = [s + 2 * p for s, p in zip(x.shape[2:], module.padding, strict=True)]
        functions = x.shape[0] * math.prod(size) * module.in_channels * module.rank
        products = module.in_channels // module.groups * module.rank * math.prod(module.kernel_size)
        return functions * 9 + module(x).numel() * products
    features = 9  # eight splines of five intervals and order three, and the base activation
    if isinstance(module, KANConvTranspose1d | KANConvTranspose2d | KANConvTranspose3d):  # every pixel, by every tap
        return x.numel() * module.out_channels // module.groups * math.prod(module.kernel_size) * features
    if isinstance(module, KANLinear):
        return module(x).numel() * module.in_features * features
    if isinstance(module, LearnableActivation):
        return module(x).numel() * features
    return module(x).numel() * module.in_channels // module.groups * math.prod(module.kernel_size) * features
