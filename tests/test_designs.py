"""Designs that are options of all networks: each does what it says, and twins are the same but for the functions."""

import pytest
import torch
from torch import nn

from convkan import KANConv2d, KANLinear, LearnableActivation
from convkan.models import create_model
from convkan.models.activations import DetachedActivation, DetachedLinear, Gated, OfEachChannel, Squeezed, TanhExp
from convkan.models.blocks import Units
from convkan.models.tiny import MixedDepthwise
from convkan.optim import parameter_groups

DESIGNS = [
    {"order": 1, "grid_size": 8},
    {"gate": True},
    {"squeeze": 4},
    {"squeeze": 4, "rank": 3},
    {"detached": True},
    {"kind": "shared", "gate": True, "rank": 2},
    {"kind": "shared", "squeeze": 3, "rank": 2},
    {"kind": "shared", "detached": True},
    {"gate": True, "squeeze": 4, "detached": True, "rank": 2, "order": 1},
]
SMALL = {"width": 4, "depths": [2, 1]}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("network", "options"),
    [*(("vgg", options) for options in DESIGNS)]
    + [(network, DESIGNS[index]) for network in ("resnet8", "mobilenet", "unet", "densenet") for index in (-3, -1)],
    ids=str,
)
def test_every_design_is_an_option_of_every_network(network, options):
    sizes = {"width": 4} if network == "resnet8" else SMALL
    if network == "mobilenet" and options.get("kind") == "shared":
        options = options | {"rank": 1}  # grouped channels share one function
    model = create_model(f"kan_{network}", 3, 2, **sizes, **options)
    x = torch.randn(2, 2, 8, 8)
    y = model(x)
    assert y.shape[:2] == (2, 3)
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    both, alone = model.eval()(x), model(x[:1])
    assert torch.allclose(both[:1], alone, atol=1e-5)  # an image does not depend on its neighbours


@pytest.mark.parametrize("options", [{"gate": True}, {"squeeze": 4}, {"gate": True, "squeeze": 4}], ids=str)
def test_a_twin_has_all_but_the_functions(options):
    sizes = {"normalization": "none", **SMALL}
    plain, kan = create_model("vgg", 3, 1, **sizes, **options), create_model("kan_vgg", 3, 1, **sizes, **options)
    functions = sum(count(module) for module in kan.modules() if isinstance(module, LearnableActivation))
    assert count(kan) - functions == count(plain)
    bare = create_model("vgg", 3, 1, **sizes)
    assert (count(plain) > count(bare)) == ("squeeze" in options)
    assert [type(m) for m in plain.modules() if isinstance(m, Gated | Squeezed)] == [
        type(m) for m in kan.modules() if isinstance(m, Gated | Squeezed)
    ]


def test_a_gate_multiplies_with_the_channel_half_of_them_further_on():
    x = torch.randn(2, 4, 3, 3)
    y = Gated(nn.ReLU())(x)
    assert torch.equal(y[:, 0], x[:, 0].relu() * x[:, 2])
    assert torch.equal(y[:, 3], x[:, 3].relu() * x[:, 1])
    functions = LearnableActivation(4, 2)
    y = Gated(functions)(x)
    assert torch.allclose(y[:, 3], functions(x)[:, 3] * x[:, 3])  # the second function of channel 1, whose gate is 3


def test_squeezed_functions_are_mixed_by_what_the_image_is():
    torch.manual_seed(0)
    x, functions = torch.randn(2, 3, 5, 5), LearnableActivation(3, 2)
    layer = Squeezed(functions, 3, 2, 4)
    assert torch.allclose(layer(x), functions(x).unflatten(1, (3, 2)).sum(2), atol=1e-6)  # at first they are added
    nn.init.normal_(layer.excite.weight)
    scales = 1 + layer.excite(layer.squeeze(x.mean((2, 3))).relu())
    expected = sum(functions(x)[:, r::2] * scales[:, r::2, None, None] for r in range(2))
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert not torch.allclose(scales[0], scales[1])


@pytest.mark.parametrize("functions", [1, 2])
def test_detached_functions_have_the_value_and_the_gradients_of_weights_and_the_base_gradient_of_inputs(functions):
    layer = DetachedActivation(3, functions, "bspline", "silu").double()
    whole = LearnableActivation(3, functions, dtype=torch.float64)
    with torch.no_grad():
        whole.basis_weight.copy_(layer.splines.basis_weight)
        whole.base_weight.copy_(layer.base_weight.view_as(whole.base_weight))
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(2, 3 * functions, 4, 4, dtype=torch.float64)
    assert torch.allclose(layer(x), whole(x))
    (layer(x) * cotangent).sum().backward()
    found, x.grad = x.grad, None
    (whole(x) * cotangent).sum().backward()
    assert torch.allclose(layer.splines.basis_weight.grad, whole.basis_weight.grad)
    assert torch.allclose(layer.base_weight.grad, whole.base_weight.grad.flatten())
    again = x.detach().requires_grad_()
    base = nn.functional.silu(again).repeat_interleave(functions, 1) * layer.base_weight.detach().view(-1, 1, 1)
    (base * cotangent).sum().backward()
    assert torch.allclose(found, again.grad)
    assert not torch.allclose(found, x.grad)


@pytest.mark.parametrize("space", [(), (2, 3)])
def test_a_detached_head_has_the_value_of_a_whole_one_and_the_base_gradient_of_inputs(space):
    head = DetachedLinear(3, 4, "bspline", "silu").double()
    x = torch.randn(5, 3, *space, dtype=torch.float64, requires_grad=True)
    whole = KANLinear(3, 4, bias=True, dtype=torch.float64)
    with torch.no_grad():
        for own, other in ((whole.base_weight, head.base_weight), (whole.basis_weight, head.splines.basis_weight)):
            own.copy_(other)
        whole.bias.copy_(head.splines.bias.normal_())
    assert torch.allclose(head(x), whole(x.movedim(1, -1)).movedim(-1, 1))
    [found] = torch.autograd.grad(head(x).square().sum() / 2, x)
    slopes = torch.func.vmap(torch.func.grad(nn.functional.silu))(x.detach().flatten()).view_as(x)
    expected = torch.einsum("n o ..., o i -> n i ...", head(x), head.base_weight) * slopes
    assert torch.allclose(found, expected)


def test_a_head_of_splines_is_detached_as_the_rest_is():
    for network, shape in (("vgg", (2, 1, 8, 8)), ("unet", (2, 1, 8, 8))):
        model = create_model(f"kan_{network}", 3, 1, **SMALL, head="kan", detached=True)
        layers = [module for module in model.modules() if isinstance(module, KANLinear | KANConv2d)]
        assert [layer.base_activation for layer in layers] == [None]
        assert sum(isinstance(module, DetachedLinear) for module in model.modules()) == 1
        assert model(torch.randn(shape)).shape[:2] == (2, 3)


def test_detached_base_weights_decay_as_those_of_layers():
    sizes = {
        detached: {group["name"]: sum(p.numel() for p in group["params"]) for group in parameter_groups(model, 0.1)}
        for detached in (False, True)
        for model in [create_model("kan_vgg", 3, 1, **SMALL, gate=True, detached=detached, head="kan")]
    }
    assert sizes[True] == sizes[False]


def test_shared_functions_stand_channel_by_channel():
    y = torch.arange(24.0).view(1, 2, 3, 2, 2)  # two functions of three channels
    assert torch.equal(OfEachChannel()(y)[0, 3], y[0, 1, 1])


def test_tanhexp_is_that_of_its_paper():
    x = torch.linspace(-3, 3, 7)
    assert torch.allclose(TanhExp()(x), x * torch.tanh(torch.exp(x)))


def test_straight_pieces_have_fewer_coefficients():
    straight, cubic = (create_model("kan_vgg", 3, 1, **SMALL, grid_size=8, order=order) for order in (1, 3))
    channels = sum(m.num_channels for m in straight.modules() if isinstance(m, LearnableActivation))
    assert count(cubic) - count(straight) == 2 * channels


def test_densenet_is_that_of_its_paper():
    model = create_model("densenet", 10, 3, depths=[16, 16, 16], width=12)
    assert count(model) == 769_162  # 0.8 million, as its authors' own
    assert [stage.channels for stage in model.stages()] == [108, 150, 342]


def test_tiny_is_the_size_counted_by_hand():
    model = create_model("tiny", 10, 3, depths=[2, 1], width=6)
    part = lambda before, after: (  # noqa: E731
        before * 2 * before + 2 * 2 * before + (9 + 25 + 49) * 2 * before // 3 + 2 * 2 * before + 2 * before * after
    )
    assert count(model) == 27 * 6 + 2 * part(6, 6) + part(6, 12) + 2 * 12 + 12 * 10 + 10
    assert any(isinstance(module, Gated) for module in model.modules())
    with pytest.raises(TypeError, match="tiny has no option gate"):
        create_model("tiny", gate=False)


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_mixed_kernels_take_each_channel_for_itself(channels):
    layer = MixedDepthwise(channels)
    x = torch.randn(1, channels, 9, 9)
    y = layer(x)
    assert y.shape == x.shape
    changed = x.clone()
    changed[:, 0] += 1
    assert torch.equal(layer(changed)[:, 1:], y[:, 1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "full", "gate": True}, "kind must be one of plain, lowrank, shared with gate, squeeze or detached"),
        ({"squeeze": -1}, "squeeze must be an integer of at least 0, got -1"),
        ({"detached": True, "base_activation": None}, "detached must come with a base_activation"),
        ({"basis": "chebyshev", "order": 1}, "order goes with the name of a basis that has a grid"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("kan_vgg", 3, 1, **SMALL, **options)
    assert Units("plain").is_extended is False
