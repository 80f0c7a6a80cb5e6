"""Networks converted: the same function before and after, whatever the network does; and the way back."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, images, pickled, relative
from torch import nn
from torch.nn.utils import parametrizations, prune

from convkan import (
    BSpline,
    Chebyshev,
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANConvTranspose1d,
    KANConvTranspose2d,
    KANConvTranspose3d,
    KANLinear,
    LearnableActivation,
    LowRankKANConv2d,
    SharedActivation,
    convert,
    simplify,
)
from convkan.grid import coverages
from convkan.interop import calibrate
from convkan.interop.activations import WrittenBack

ORDER_1 = BSpline(grid_size=8, order=1, grid_range=(-8, 8), extrapolation="linear")
ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU6(),
    nn.LeakyReLU(),
    nn.LeakyReLU(0.3),
    nn.SiLU(),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.Hardswish(),
    nn.ELU(),
    nn.ELU(0.4),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Softplus(),
    nn.PReLU(),
    nn.PReLU(3),
]


# What the last two are made of, the others have, too: of layers in a sequence, and of inverted residuals.
LARGE = ("googlenet", "densenet121", "vgg11_bn", "efficientnet_b0")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name in LARGE else name for name in NETWORKS]
)
def test_networks_compute_the_same_and_come_back(name):
    model = NETWORKS[name]().eval()
    converted = convert(model)
    x = images()
    with torch.no_grad():
        expected = model(x)
        assert relative(converted(x), expected) < 1e-4
        back = simplify(converted).model
        assert torch.equal(back(x), expected)
    assert any(isinstance(module, LearnableActivation) for module in converted.modules())
    assert not any(isinstance(module, nn.ReLU | nn.GELU | nn.SiLU | nn.Hardswish) for module in converted.modules())
    assert repr(back) == repr(model)
    assert [type(module) for module in back.modules()] == [type(module) for module in model.modules()]
    assert back.state_dict().keys() == model.state_dict().keys()


def check_all_laws(model, x):
    """What a converted network can do: train, save, load, be copied, exported and simplified."""
    torch.manual_seed(0)
    converted = convert(model.eval(), batches=[x])
    with torch.no_grad():
        assert relative(converted(x), model(x)) < 1e-4
        converted.double(), model.double()
        assert relative(converted(x.double()), model(x.double())) < 1e-10
        converted.float(), model.float()
    converted.train()
    optimizer = torch.optim.SGD(converted.parameters(), 1e-6)
    torch.manual_seed(0)  # of dropout
    F.cross_entropy(converted(x), torch.arange(len(x)) % 3).backward()
    activations = [module for module in converted.modules() if isinstance(module, LearnableActivation)]
    assert all(activation.basis_weight.grad.isfinite().all() for activation in activations)
    assert any(activation.basis_weight.grad.any() for activation in activations)
    optimizer.step()
    converted.eval()
    after = converted(x)
    assert after.isfinite().all()
    fresh = convert(model)
    fresh.load_state_dict(converted.state_dict())
    for other in (fresh, copy.deepcopy(converted), pickled(converted)):
        assert torch.equal(other(x), after)
    exported = torch.export.export(converted, (x,)).module()
    assert relative(exported(x), after) < 1e-4
    found = simplify(converted, [x], tolerance=math.inf)
    assert not [module for module in found.model.modules() if isinstance(module, LearnableActivation)]
    assert found.error is not None


@pytest.mark.slow
def test_a_network_trains_saves_loads_and_exports():
    models = pytest.importorskip("torchvision.models.resnet")
    check_all_laws(models.ResNet(models.BasicBlock, [1, 1, 1, 1], num_classes=3), images())


@pytest.mark.thorough
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_saves_loads_and_exports(name):
    check_all_laws(NETWORKS[name](), images(8))  # of 2 there is little to normalise where they are but a pixel


class TestActivations:
    @pytest.mark.parametrize("per_channel", [False, True])
    @pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
    def test_start_as_what_they_stand_for_and_come_back(self, activation, per_channel):
        model = nn.Sequential(nn.Conv1d(2, 3, 1), activation).double()
        x = 4 * torch.randn(5, 2, 40, dtype=torch.float64)
        converted = convert(model, batches=[x], per_channel=per_channel)
        x.requires_grad_()
        assert relative(converted(x), model(x)) < 1e-10
        (expected,) = torch.autograd.grad(model(x).sum(), x)
        (gradient,) = torch.autograd.grad(converted(x).sum(), x)
        assert relative(gradient, expected) < 1e-10
        many = per_channel or getattr(activation, "num_parameters", 1) > 1
        assert type(converted[1]) is (LearnableActivation if many else SharedActivation)
        back = simplify(converted).model
        if isinstance(activation, nn.PReLU):
            assert torch.allclose(back[1].weight, activation.weight, atol=1e-12)
            assert relative(back(x), model(x)) < 1e-10
        else:
            assert repr(back) == repr(model)
            assert torch.equal(back(x), model(x))

    @pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.PReLU(3)], ids=repr)
    def test_of_pieces_are_splines_of_order_1_with_knots_at_the_kinks(self, activation):
        model = nn.Sequential(nn.Conv1d(2, 3, 1), activation).double()
        x = 20 * torch.randn(5, 2, 40, dtype=torch.float64)
        converted = convert(model, basis=ORDER_1, base_activation=None)
        assert converted[1].base_weight is None
        assert relative(converted(x), model(x)) < 1e-12
        calibrate(converted, [x])  # which may not take the knot away from the kink
        assert relative(converted(x), model(x)) < 1e-12

    @pytest.mark.parametrize(
        ("activation", "basis"), [(nn.SiLU(), ORDER_1), (nn.ReLU(), BSpline()), (nn.ReLU(), Chebyshev())], ids=repr
    )
    def test_that_the_basis_does_not_hold_are_refused(self, activation, basis):
        model = nn.Sequential(nn.Linear(2, 2), activation)
        with pytest.raises(ValueError, match=r"(?s)cannot be converted.*1 \(.*is no function of"):
            convert(model, basis=basis, base_activation=None)

    @pytest.mark.parametrize("basis", [BSpline(), Chebyshev(), "rbf"], ids=repr)
    def test_stand_on_any_basis(self, basis):
        model, x = nn.Sequential(nn.Linear(2, 2), nn.GELU()), torch.randn(9, 2)
        assert relative(convert(model, basis=basis)(x), model(x)) < 1e-6

    def test_of_a_subclass_that_computes_another_thing_go_on_with_that(self):
        class Twice(nn.ReLU):
            def forward(self, x):
                return 2 * super().forward(x)

        model, x = nn.Sequential(nn.Linear(2, 2), Twice()), torch.randn(9, 2)
        assert torch.equal(convert(model)(x), model(x))

        class Stranger(nn.ReLU):
            def forward(self, x):
                return 2 * x

        with pytest.raises(ValueError, match="layers must choose something"):
            convert(nn.Sequential(nn.Linear(2, 2), Stranger()))

    def test_are_where_their_neighbours_are_and_of_their_type(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.ReLU())).train()
        model[1].eval()
        converted = convert(model)
        assert converted[1][1].basis_weight.dtype == torch.bfloat16
        assert converted.training
        assert not converted[1][1].training


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3, 2, 2, groups=2), KANConv1d, (3, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, (2, 3), (1, 2), (1, 0), (2, 1)), KANConv2d, (3, 4, 9, 8)),
    "conv2d-same-reflect": (nn.Conv2d(2, 3, (2, 4), padding="same", padding_mode="reflect"), KANConv2d, (3, 2, 9, 8)),
    "conv2d-depthwise": (nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False), KANConv2d, (3, 4, 9, 8)),
    "conv3d": (nn.Conv3d(2, 3, 2, padding=1), KANConv3d, (2, 2, 4, 5, 4)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 4, 2, 1, groups=2, bias=False), KANConvTranspose1d, (3, 4, 5)),
    "transposed2d": (nn.ConvTranspose2d(4, 6, 3, (1, 2), 1, (0, 1), 2, True, 2), KANConvTranspose2d, (3, 4, 5, 4)),
    "transposed3d": (nn.ConvTranspose3d(2, 3, 2, 2), KANConvTranspose3d, (2, 2, 2, 3, 2)),
    "linear": (nn.Linear(4, 3), KANLinear, (2, 5, 4)),
    "linear-no-bias": (nn.Linear(4, 3, bias=False), KANLinear, (5, 4)),
}


class TestLayers:
    @pytest.mark.parametrize("name", LAYERS)
    def test_start_as_plain_ones_with_the_same_parameters_and_come_back(self, name):
        plain, kind, shape = LAYERS[name]
        model, x = nn.Sequential(copy.deepcopy(plain)).double().eval(), torch.randn(shape, dtype=torch.float64)
        weight = model[0].weight
        converted = convert(model, type(plain), inplace=True)
        assert converted is model
        assert type(converted[0]) is kind
        assert converted[0].base_weight is weight
        assert not converted[0].training
        expected = copy.deepcopy(plain).double()(x)
        assert relative(converted(x), expected) < 1e-10
        back = simplify(converted).model
        assert repr(back[0]) == repr(plain)
        assert torch.equal(back(x), expected)

    @pytest.mark.parametrize("rank", [1, 3])
    def test_of_low_rank_start_as_plain_ones(self, rank):
        model, x = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2)).double(), torch.randn(2, 4, 7, 7).double()
        converted = convert(model, "0", rank=rank)
        assert type(converted[0]) is LowRankKANConv2d
        assert converted[0].rank == rank
        assert relative(converted(x), model(x)) < 1e-10
        converted(x).square().sum().backward()
        functions = converted[0].activation.basis_weight
        assert functions.grad[::rank].any(1).all()
        assert relative(simplify(converted, [x]).model(x), model(x)) < 1e-10

    def test_functions_of_higher_rank_part_in_training(self):
        layer = LowRankKANConv2d.from_conv(nn.Conv2d(2, 2, 3), rank=3)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.randn(4, 2, 6, 6)).square().mean().backward()
            optimizer.step()
        functions = layer.activation.coefficients.view(2, 3, -1)
        assert (functions[:, 1] - functions[:, 2]).abs().max() > 1e-3

    def test_keep_what_is_to_be_trained_and_their_type_and_format(self):
        conv = nn.Conv2d(4, 6, 3).to(torch.bfloat16, memory_format=torch.channels_last)
        conv.weight.requires_grad_(False)
        layer = KANConv2d.from_conv(conv)
        trained = {name: parameter.requires_grad for name, parameter in layer.named_parameters()}
        assert trained == {"base_weight": False, "basis_weight": False, "bias": True}
        assert layer.basis_weight.dtype == torch.bfloat16
        assert layer.basis_weight.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: KANConv2d.from_conv(nn.Conv1d(1, 1, 1)), TypeError, "conv must be an nn.Conv2d, got Conv1d"),
            (lambda: KANLinear.from_linear(nn.Conv1d(1, 1, 1)), TypeError, "linear must be an nn.Linear, got Conv1d"),
            (
                lambda: KANLinear.from_linear(parametrizations.weight_norm(nn.Linear(2, 2))),
                RuntimeError,
                "weight of .*Linear cannot be changed: it is computed",
            ),
        ],
    )
    def test_are_made_of_their_like(self, make, error, message):
        with pytest.raises(error, match=message):
            make()

    def test_tied_weights_stay_tied(self):
        model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
        model[1].weight = model[0].weight
        converted, x = convert(model, nn.Linear), torch.arange(5)
        assert converted[1].base_weight is converted[0].weight
        assert relative(converted(x), model(x)) < 1e-6
        back = simplify(converted).model
        assert back[1].weight is back[0].weight
        with torch.no_grad():
            converted[1].basis_weight.fill_(0.01)
        bent = simplify(converted, [x], tolerance=10.0)
        assert bent.layers == {}  # a plain layer in its place would be tied to nothing
        first, second = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)
        second.weight = first.weight
        with pytest.raises(ValueError, match="0 .Conv2d.: its weight is tied to another's, and of rank 2"):
            convert(nn.Sequential(first, second), nn.Conv2d, rank=2)
        low = convert(nn.Sequential(first, second), nn.Conv2d, rank=1)
        assert low[0].weight is low[1].weight


class Calls(nn.Module):
    """Activations as functions, methods and modules."""

    relu = "not to be taken for a module's name"

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)
        self.relu_1, self.scale = nn.ReLU(inplace=True), nn.Parameter(torch.ones(1))
        self.unused = nn.Linear(3, 3)

    def forward(self, x, double: bool = False):
        x = F.relu(self.first(x))
        x = F.relu(self.second(x)) + torch.sigmoid(x) + x.relu() + F.leaky_relu(x, negative_slope=0.3)
        return self.relu_1(self.second(x)) * self.scale + F.gelu(x, approximate="tanh")

    def other(self):
        return "kept"


class TestCalls:
    def test_become_modules_one_for_each(self):
        model, x = Calls(), torch.randn(7, 4)
        converted = convert(model)
        assert relative(converted(x), model(x)) < 1e-6
        assert relative(converted(x=x), model(x)) < 1e-6
        added = {name for name, _ in converted.named_modules()} - {name for name, _ in model.named_modules()}
        assert added == {"relu_2", "relu_3", "relu_4", "sigmoid", "leakyrelu", "gelu"}
        assert isinstance(converted, Calls)
        assert converted.other() == "kept"
        assert set(model.state_dict()) <= set(converted.state_dict())
        assert relative(converted(x, double=True), model(x)) < 1e-6

    def test_are_saved_copied_traced_and_exported(self):
        model, x = convert(Calls()), torch.randn(7, 4)
        for activation in model.modules():
            if isinstance(activation, LearnableActivation):
                nn.init.normal_(activation.basis_weight)
        expected = model(x)
        again = convert(Calls())
        again.load_state_dict(model.state_dict())
        for other in (again, copy.deepcopy(model), pickled(model), copy.deepcopy(again)):
            assert torch.equal(other(x), expected)
            assert type(other) is type(model)
        assert torch.equal(torch.fx.symbolic_trace(model)(x), expected)
        assert relative(torch.export.export(model, (x,)).module()(x), expected) < 1e-6
        assert relative(torch.compile(model, backend="eager", fullgraph=True)(x), expected) < 1e-6

    def test_go_back_to_functions(self):
        model, x = Calls(), torch.randn(7, 4)
        back = simplify(convert(model)).model
        assert type(back) is Calls
        assert repr(back) == repr(model)
        assert torch.equal(back(x), model(x))

    def test_can_be_left_and_chosen(self):
        def kinds(**options):
            return {
                name for name, module in convert(Calls(), **options).named_modules() if "Activation" in repr(module)
            }

        assert kinds(functional=False) == {"", "relu_1"}
        assert kinds(layers="sig*") == {"", "sigmoid"}
        assert kinds(layers=nn.ReLU) == {"", "relu_1", "relu_2", "relu_3", "relu_4"}
        assert kinds(exclude=(nn.ReLU, "gelu")) == {"", "sigmoid", "leakyrelu"}

    def test_are_converted_twice(self):
        model, x = Calls(), torch.randn(7, 4)
        first = convert(model, "sigmoid")
        both = convert(first)
        for converted in (first, both, pickled(both)):
            assert relative(converted(x), model(x)) < 1e-6
        assert type(simplify(both).model) is Calls

    def test_in_graph_modules_become_modules_too(self):
        model, x = torch.fx.symbolic_trace(Calls()), torch.randn(7, 4)
        converted = convert(model)
        assert sum(isinstance(module, LearnableActivation) for module in converted.modules()) == 7
        assert relative(converted(x), model(x)) < 1e-6
        assert not any(isinstance(module, LearnableActivation) for module in model.modules())

    @pytest.mark.parametrize(
        ("forward", "reason"),
        [
            (lambda self, x: F.relu(self.relu(x)) if x.sum() > 0 else x, "torch.fx cannot trace it .TraceError"),
            (lambda self, x: F.dropout(F.relu(self.relu(x)), 0.5, self.training), "another thing in training"),
            (lambda self, *x: F.relu(self.relu(*x)), r"it takes \*x"),
            (lambda self, x: setattr(self, "seen", x) or F.relu(self.relu(x)), "its forward writes to seen"),
            (lambda self, x: self.list.append(x) or F.relu(self.relu(x)), "its forward writes to list"),
            (lambda self, x, some=(1, 2): F.relu(self.relu(x)) * len(some), "collections|Was not able"),
        ],
    )
    def test_that_cannot_be_told_are_named_and_modules_are_converted(self, forward, reason, monkeypatch):
        made = type("Odd", (nn.Module,), {"forward": forward, "__module__": __name__})
        monkeypatch.setattr("inspect.getsource", lambda _: "F.relu(x)")
        inner = made()
        inner.relu, inner.list = nn.ReLU(), []
        model = nn.Sequential(nn.Linear(4, 4), inner)
        with pytest.warns(UserWarning, match=rf"1 \(Odd\).*\(relu\) stays as it is, since.*({reason})"):
            converted = convert(model)
        assert isinstance(converted[1].relu, SharedActivation)
        assert "seen" not in vars(inner)
        assert inner.list == []
        with pytest.raises(ValueError, match=reason):
            convert(model, functional=True)
        convert(model, functional=False)

    def test_whose_inputs_are_asked_for_their_type_are_left(self):
        class Asks(nn.Module):
            def forward(self, x):
                if isinstance(x, torch.Tensor):
                    x = 2 * x
                return F.relu(x)

        with pytest.raises(ValueError, match="asks for the type of its inputs"):
            convert(nn.Sequential(Asks()), functional=True)
        with pytest.warns(UserWarning, match="asks for the type of its inputs"):
            convert(nn.Sequential(Asks(), nn.ReLU()))

    def test_go_by_the_settings_that_there_were(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.double, self.unread = True, 1

            def forward(self, x):
                return F.relu(2 * x if self.double else x)

        model, x = convert(Scaled()), torch.randn(5)
        assert torch.equal(model(x), 2 * x.relu())
        model.unread, model.double = 2, True
        for converted in (model, copy.deepcopy(model)):
            with pytest.raises(RuntimeError, match="double of this Scaled must stay True, got False"):
                converted.double = False
        assert converted.train().eval().training is False

    def test_generators_are_left_as_they_are(self):
        class Drops(nn.Module):
            def forward(self, x):
                return F.relu(x) if torch.rand(()) < 2 else x

        model, state = nn.Sequential(Drops(), nn.ReLU()), torch.get_rng_state()
        with pytest.warns(UserWarning, match="draws random numbers to decide by"):
            convert(model, functional=None)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("mode", [torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
    def test_in_a_mode_of_their_own_are_left(self, mode):
        class Moded(nn.Module):
            def forward(self, x):
                with mode():
                    y = F.relu(x)
                return y + x

        with pytest.raises(ValueError, match="without gradients, or in another precision"):
            convert(Moded(), functional=True)

    def test_with_arguments_that_may_be_left_out(self):
        class Masked(nn.Module):
            def forward(self, x, mask=None):
                return F.relu(x if mask is None else x * mask)

        with pytest.raises(ValueError, match="it does another thing where mask are given"):
            convert(Masked(), functional=True)

        class Scaled(nn.Module):
            def forward(self, x, scale=2.0, double=False):
                x = F.relu(scale * x)
                return 2 * x if double else x

        x, model = torch.randn(3), Scaled()
        converted = convert(model)
        assert torch.equal(converted(x), model(x))
        with pytest.raises(AssertionError):
            converted(x, double=True)  # not what was traced

        class Sized(nn.Module):
            def forward(self, x, scale=2.0):
                return F.relu(scale * x)

        assert torch.equal(convert(Sized())(x, scale=3.0), 3 * x.relu())

    def test_of_a_shared_module_are_converted_once(self):
        class Block(nn.Module):
            def forward(self, x):
                return F.silu(x)

        block = Block()
        converted = convert(nn.Sequential(block, nn.Linear(2, 2), block))
        assert converted[0] is converted[2]
        assert isinstance(converted[0].silu, SharedActivation)

    def test_prelu_keeps_its_weight(self):
        class Slopes(nn.Module):
            def __init__(self):
                super().__init__()
                self.slope = nn.Parameter(torch.tensor([0.1, 0.5]))

            def forward(self, x):
                return F.prelu(x, self.slope)

        model, x = Slopes(), torch.randn(9, 2)
        assert relative(convert(model)(x), model(x)) < 1e-6

    def test_statistics_are_left_alone(self):
        class Norm(nn.BatchNorm1d):
            def forward(self, x):
                if self.training:
                    self.num_batches_tracked.add_(1)
                return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)

        model = nn.Sequential(Norm(3), nn.ReLU()).train()
        convert(model)
        assert model[0].num_batches_tracked == 0


class Residual(nn.Module):
    """A branch that writes over what the sum reads, as its ReLU is in place."""

    def __init__(self, call):
        super().__init__()
        self.relu, self.layer, self.call = nn.ReLU(inplace=True), nn.Linear(4, 4), call

    def forward(self, x):
        y = self.call(self, x)
        return self.layer(y) + x


class TestInPlace:
    @pytest.mark.parametrize(
        "call",
        [
            lambda self, x: self.relu(x),
            lambda self, x: F.relu(x, inplace=True),
            lambda self, x: F.relu_(x),
            lambda self, x: x.relu_(),
            lambda self, x: self.relu(x.view(-1, 4)),
            lambda self, x: [self.relu(x), x][1],  # the result is not used, but what it was written over
        ],
    )
    def test_what_others_read_is_written_over_as_before(self, call):
        model, x = nn.Sequential(nn.Linear(4, 4), Residual(call)), torch.randn(9, 4)
        converted = convert(model, functional=True)
        assert any(isinstance(module, WrittenBack) for module in converted.modules())
        assert relative(converted(x), model(x)) < 1e-6
        gradients = [torch.autograd.grad(net(x).square().sum(), net[0].weight)[0] for net in (model, converted)]
        assert relative(*gradients) < 1e-5
        back = simplify(converted, [x])
        assert torch.equal(back.model(x), model(x))
        assert repr(back.model) == repr(model)

    def test_a_branch_that_starts_in_place_writes_over_what_its_parent_reads(self):
        class Sum(nn.Module):
            def __init__(self):
                super().__init__()
                self.branch = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))

            def forward(self, x):
                x = 1 * x
                return x + self.branch(x)

        model, x = Sum(), torch.randn(9, 4)
        assert relative(convert(model)(x), model(x)) < 1e-6
        x = torch.randn(9, 4)
        convert(model.branch)(x)
        assert (x >= 0).all()

    def test_nobody_reads_what_a_block_of_torchvision_writes_over(self):
        assert not any(isinstance(module, WrittenBack) for module in convert(NETWORKS["resnet18"]()).modules())

    def test_of_a_drop_in_that_others_read_does_not_come_back(self):
        model = nn.Sequential(SharedActivation(inplace=True, base_activation="relu"))
        with torch.no_grad():
            model[0].base_weight.fill_(1)
            model[0].basis_weight.zero_()
        assert repr(simplify(model).model[0]) == "ReLU()"


class TestWhatIsKept:
    def test_a_module_in_several_places_is_one(self):
        relu = nn.ReLU()
        converted = convert(nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu))
        assert converted[1] is converted[3]
        assert isinstance(converted[1], SharedActivation)

    def test_hooks_go_on_and_can_be_removed(self):
        model, seen = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), []
        handles = [
            model[1].register_forward_hook(lambda module, args, y: seen.append(type(module).__name__)),
            model[0].register_forward_pre_hook(lambda module, args: seen.append("before")),
        ]
        converted = convert(model, (nn.ReLU, nn.Linear), inplace=True)
        converted(torch.zeros(1, 2))
        assert seen == ["before", "SharedActivation"]
        for handle in handles:
            handle.remove()
        converted(torch.zeros(1, 2))
        assert len(seen) == 2

    def test_the_model_is_left_as_it_is(self):
        model = nn.Sequential(nn.Linear(2, 2), Calls(), nn.ReLU())
        before, state = repr(model), copy.deepcopy(model.state_dict())
        convert(model)
        convert(model, nn.Linear)
        assert repr(model) == before
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    def test_a_refusal_leaves_the_model_as_it_is(self):
        model = nn.Sequential(nn.Linear(4, 4), Calls(), nn.SiLU())
        before, kinds = repr(model), [type(module) for module in model.modules()]
        with pytest.raises(ValueError, match="is no function of"):
            convert(model, basis=ORDER_1, base_activation=None, inplace=True)
        assert repr(model) == before
        assert [type(module) for module in model.modules()] == kinds

    def test_an_optimiser_goes_on_with_the_parameters_it_has(self):
        model = nn.Sequential(nn.Linear(2, 2))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        convert(model, nn.Linear, inplace=True)
        assert model[0].base_weight is optimizer.param_groups[0]["params"][0]


class Reads(nn.Module):
    """Reads the weight of its part without calling it, as attention of torchvision's swin does."""

    def __init__(self):
        super().__init__()
        self.part = nn.Linear(2, 2)

    def forward(self, x):
        return F.linear(x, self.part.weight)


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


def compiled(model):
    model.compile()
    return model


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(nn.ReLU(), torch.zeros(1))


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nn.utils.weight_norm(layer)


def dynamically_quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


REFUSED = {
    "compiled": (lambda: torch.compile(nn.Sequential(nn.ReLU())), "it (OptimizedModule) is a OptimizedModule: convert"),
    "compiled part": (
        lambda: nn.Sequential(compiled(nn.Sequential(nn.ReLU()))),
        "its part '0' (Sequential) is compiled",
    ),
    "parallel": (lambda: nn.DataParallel(nn.Sequential(nn.ReLU())), "is a DataParallel: convert the module in it"),
    "scripted": (scripted, "is a ScriptModule: convert the model, then"),
    "quantised": (dynamically_quantised, "its part '0' (Linear) is quantised"),
    "parametrised": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2))),
        "0 (ParametrizedLinear): its weight is computed",
    ),
    "normalised by a hook": (lambda: nn.Sequential(old_weight_norm(nn.Linear(2, 2))), "0 (Linear): its weight is comp"),
    "pruned": (
        lambda: nn.Sequential(prune.l1_unstructured(nn.Linear(2, 2), "weight", 0.5)),
        "0 (Linear): its weight is",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(2)), "0 (LazyLinear): it has no sizes yet"),
    "complex": (
        lambda: nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)),
        "0 (Linear): its weight is of torch.comp",
    ),
    "own forward": (lambda: nn.Sequential(OwnConv(1, 1, 1)), "0 (OwnConv): OwnConv computes in a way of its own"),
    "read": (lambda: nn.Sequential(Reads()), "0.part (Linear): the forward of its parent, Reads, reads its weight"),
    "attention": (lambda: nn.MultiheadAttention(2, 1), "out_proj (NonDynamicallyQuantizableLinear): its parent, Multi"),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(2, 1, 4, activation=nn.ReLU()),
        "activation (ReLU): its parent, TransformerEncoderLayer, may compute without calling it",
    ),
    "bilinear": (lambda: nn.Sequential(nn.Bilinear(2, 2, 2)), "0 (Bilinear): there is no KAN layer in place of"),
}


class TestRefusals:
    @pytest.mark.parametrize("name", REFUSED)
    def test_name_the_module_and_the_reason(self, name):
        make, message = REFUSED[name]
        model = make()
        kinds = (*(type(module) for module in model.modules()), nn.ReLU, nn.Linear)
        with pytest.raises(ValueError, match="(?s)cannot be converted") as caught:
            convert(model, [kind for kind in kinds if issubclass(kind, nn.Module)])
        assert message in str(caught.value)

    def test_of_distributed_models_go_by_the_name_of_the_class(self):
        for name in ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"):
            kind = type(name, (nn.Module,), {})
            with pytest.raises(ValueError, match=f"is a {name}: convert the model, then"):
                convert(type("FSDPLinear", (kind, nn.Linear), {})(2, 2))

    def test_of_fused_layers_are_told_of_their_functions(self):
        model = nn.Sequential(nn.TransformerEncoderLayer(2, 1, 4), nn.ReLU())
        with pytest.warns(UserWarning, match=r"0 \(TransformerEncoderLayer\).*\(relu\) stays as it is, since it may"):
            convert(model)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            (
                {"layers": "conv*"},
                ValueError,
                "layers must choose something .* got conv.*; there is 0 .Linear., 1 .ReLU.",
            ),
            ({"exclude": ["9"]}, ValueError, "exclude must choose something"),
            ({"layers": nn.BatchNorm1d}, ValueError, "layers must choose something .* got BatchNorm1d"),
            ({"layers": 3}, TypeError, "layers must be patterns of names, types .* got 3"),
            ({"exclude": nn.ReLU}, ValueError, "exclude must leave something to convert"),
            ({"per_channel": True}, ValueError, "per_channel needs batches"),
            ({"base_activation": "relu"}, ValueError, "base_activation must be 'same' or None, got 'relu'"),
            ({"layers": "0", "rank": 2}, ValueError, "0 .Linear.: there is no low-rank layer in its place"),
        ],
    )
    def test_of_arguments_say_the_rule(self, options, error, message):
        with pytest.raises(error, match=message):
            convert(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), **options)

    def test_of_things_that_are_no_models(self):
        with pytest.raises(TypeError, match="model must be an nn.Module, got Tensor"):
            convert(torch.zeros(2))
        with pytest.raises(ValueError, match="inplace must be False: the model itself was chosen"):
            convert(nn.ReLU(), inplace=True)
        assert isinstance(convert(nn.ReLU()), SharedActivation)


class TestChoice:
    def test_is_by_pattern_type_or_function(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 2), nn.GELU()))

        def converted(layers, **options):
            found = convert(model, layers, **options)
            return {name for name, layer in found.named_modules() if hasattr(layer, "basis_weight")}

        assert converted("2.*") == {"2.0", "2.1"}
        assert converted(nn.Linear) == {"0", "2.0"}
        assert converted(["0", nn.GELU]) == {"0", "2.1"}
        assert converted(lambda name, module: name.endswith("1")) == {"1", "2.1"}
        assert converted(nn.Module, exclude=["2.*", nn.ReLU]) == {"0"}
        assert converted((nn.ReLU, nn.Conv2d)) == {"1"}


class TestCalibration:
    def test_grids_hold_the_inputs_and_functions_and_statistics_are_kept(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).double().train()
        x = 9 * torch.randn(8, 3, 9, 9, dtype=torch.float64)
        state = copy.deepcopy(model.state_dict())
        converted = convert(model, (nn.Conv2d, nn.ReLU), batches=[(x, None)])
        assert max(found.off_grid.max() for found in coverages(converted, [x]).values()) == 0
        assert all(torch.equal(value, state[name]) for name, value in converted[1].state_dict(prefix="1.").items())
        assert relative(converted(x), model(x)) < 1e-10
        assert converted[2].uniform_knots

    def test_a_trained_function_is_kept_or_its_grid_is(self):
        model, x = (
            nn.Sequential(SharedActivation(basis=BSpline(40, 1), base_activation=None)).double(),
            torch.rand(999, 1),
        )
        nn.init.normal_(model[0].basis_weight)
        before = model(x.double())
        assert calibrate(model, [x.double()]) == {}
        assert torch.equal(model(x.double()), before)

    def test_a_model_that_does_not_go_by_its_modules_is_found_out(self):
        class Hidden(nn.Module):
            def __init__(self):
                super().__init__()
                self.act = nn.ReLU()
                self.kept = [nn.Sequential(self.act)]  # which is not registered

            def forward(self, x):
                return self.act(x) if isinstance(self.act, nn.ReLU) else x

        with pytest.raises(RuntimeError, match="does not compute the same"):
            convert(Hidden(), batches=[torch.randn(9)])

    def test_gradients_stay_of_a_size_far_from_a_narrow_grid(self):
        model = nn.Sequential(nn.ReLU(), nn.Linear(3, 1))
        converted = convert(model, batches=[1e-6 * torch.randn(9, 3)])
        converted(torch.randn(9, 3)).sum().backward()
        assert converted[0].basis_weight.grad.abs().max() < 100

    def test_weights_get_the_gradients_that_they_got(self):
        model = NETWORKS["mobilenet_v3_small"]().train()
        found = []
        for network in (model, convert(model, batches=[images()])):
            torch.manual_seed(0)  # of dropout
            network(images()).square().sum().backward()
            found.append({name: parameter.grad for name, parameter in network.named_parameters()})
        assert all(relative(found[1][name], gradient) < 1e-4 for name, gradient in found[0].items() if gradient.any())

    def test_outputs_that_are_no_numbers_are_the_same(self):
        class Off(nn.Module):
            def forward(self, x):
                return x / 0

        model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), Off()).bfloat16()
        convert(model, (nn.Linear, nn.ReLU), batches=[torch.randn(9, 2, dtype=torch.bfloat16)])


class TestChannels:
    def test_are_where_the_layer_before_has_them(self):
        model = nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(2), nn.Linear(4, 5)),
            *(nn.Dropout(), nn.GELU(), nn.Flatten(), nn.SiLU()),
        ).eval()
        x = torch.randn(2, 3, 4, 4)
        converted = convert(model, per_channel=True, batches=[x])
        found = [module for module in converted if isinstance(module, LearnableActivation)]
        assert [(module.num_channels, module.dim) for module in found] == [(4, 1), (5, -1), (20, 1)]
        assert relative(converted(x), model(x)) < 1e-6

    def test_of_fused_normalisation_are_its_own(self):
        layers = pytest.importorskip("timm.layers")
        model, x = nn.Sequential(nn.Conv2d(3, 4, 3), layers.BatchNormAct2d(4)).eval(), images()
        converted = convert(model, per_channel=True, batches=[x])
        assert converted[1].act.num_channels == 4
        assert relative(converted(x), model(x)) < 1e-5

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.ReLU()), "channels of what '1' is given cannot be told"),
            (
                nn.Sequential(*[nn.Linear(4, 3), relu := nn.ReLU(), nn.Linear(3, 2), relu]),
                r"'1' is called with several",
            ),
        ],
    )
    def test_that_cannot_be_told_are_named(self, model, message):
        with pytest.raises(ValueError, match=message):
            convert(model, per_channel=True, batches=[torch.randn(2, 4)])


def test_what_layers_become_says_which_are_meant():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(100, 2))
    x = torch.randn(2, 3, 9, 9)

    def kinds(**options):
        kan = convert(model, **options)
        torch.testing.assert_close(kan(x), model(x), rtol=1e-4, atol=1e-5)
        return [type(layer).__name__ for layer in kan if type(layer).__module__.startswith("convkan")]

    assert kinds(to="activation") == kinds() == ["SharedActivation"] * 2
    assert kinds(where="1") == ["SharedActivation"]
    assert kinds(to="full") == ["KANConv2d", "KANConv2d", "KANLinear"]
    assert kinds(to="full", where=nn.Linear) == ["KANLinear"]
    assert kinds(to="lowrank") == ["LowRankKANConv2d"] * 2
    assert kinds(to="lowrank", where=lambda name, module: name == "2") == ["LowRankKANConv2d"]
    assert kinds(to="full", where=["0", nn.Linear]) == ["KANConv2d", "KANLinear"]
    with pytest.raises(ValueError, match="to must be one of activation, lowrank, full; got 'half'"):
        convert(model, to="half")
    with pytest.raises(ValueError, match="layers must come without to and where"):
        convert(model, "0", to="full")
    with pytest.raises(ValueError, match="where must choose something that can be converted, got 'head'|where must"):
        convert(model, where="head")
    with pytest.raises(TypeError, match="where must be patterns of names"):
        convert(model, where=3)
