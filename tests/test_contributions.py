"""What inputs contribute to an output of a layer, and pixels to a logit, adds up; and the deletion test runs."""

import json
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from cases import BASIS_CASES, diagonal
from commands import finished
from PIL import Image
from torch import nn

from convkan import KANConv1d, KANConv2d, KANConv3d, KANLinear, LowRankKANConv2d
from convkan.basis import BSpline
from convkan.interpret import (
    attribute,
    contributions,
    curves,
    edge_contributions,
    edges_of,
    gradient_times_input,
    integrated_gradients,
)
from convkan.interpret.attribution.rescale import secant_rules
from convkan.models import create_model
from convkan.nn import KANLayer
from convkan.testing import LAYERS, TOLERANCES, assert_agree, make_uneven, randomize, relative_error
from experiments import deletion

every_layer = pytest.mark.parametrize("case", LAYERS)
DTYPES = (torch.float32, torch.float64)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
CONVOLUTIONS = {"1d": KANConv1d, "2d": KANConv2d, "3d": KANConv3d, "lowrank": partial(LowRankKANConv2d, rank=2)}
NAMES = ("sin", "x^2", "tanh", "exp")
COMPLETE = {torch.float32: 1e-4, torch.float64: 1e-10}
GEOMETRIES = [
    options
    for options in (
        dict(zip(("stride", "dilation", "groups", "padding_mode", "padding"), values, strict=True))
        for values in product((1, 2), (1, 2), (1, 2), ("zeros", "reflect", "replicate", "circular"), (1, "same"))
    )
    if options["stride"] == 1 or options["padding"] == 1
]


def with_masks_and_names(layer):
    """The layer with a third of its edges masked, and some of all its edges computing named functions besides."""
    alive = torch.rand(edges_of(layer).shape) > 1 / 3
    layer.mask_edges(alive)
    if isinstance(layer, KANLayer):
        chance = torch.rand(alive.shape)
        chosen = (chance >= min(0.6, chance.max())).nonzero()  # at least one
        affine = torch.randn(len(chosen), 4) * torch.tensor([0.5, 0.3, 1, 1])
        names = [NAMES[index % len(NAMES)] for index in range(len(chosen))]
        layer.add_symbolic().replace(chosen, names, affine.to(layer.basis_weight))
    return layer


def assert_parts_add_up(layer, x, weights):
    """Values, padding and bias are the total, which is the layer's own."""
    parts = contributions(layer, x, weights=weights)
    batch = parts.total.shape
    assert parts.values.shape == x.shape
    assert parts.padding.shape == parts.bias.shape == batch
    expected = (weights * layer(x)).reshape(*batch, -1).sum(-1)
    assert_agree(parts.total, expected, "total")
    assert_agree(parts.total - parts.residual, expected, "sum of the parts")
    return parts


def random_location(y, batch_dims):
    return tuple(int(torch.randint(size, ())) for size in y.shape[batch_dims + 1 :])


def brute_force(layer, x, output, location):
    """Σ over edges, one φ at a time from its curve: contributions of inputs, and of the padding, for one image."""
    edges = edges_of(layer)
    values, padding = torch.zeros_like(x), 0.0
    sides = layer.convolution.amounts[0::2][::-1]
    for input_, *tap in torch.ones(edges.shape[1:]).nonzero().tolist():
        channel = edges.channel(output, input_)
        steps = zip(location, layer.stride, tap, layer.dilation, sides, strict=True)
        place = tuple(p * s + t * d - before for p, s, t, d, before in steps)
        inside = all(0 <= at < size for at, size in zip(place, x.shape[1:], strict=True))
        seen = x[(channel, *place)] if inside else x.new_zeros(())
        points = seen.expand(1, layer.num_inputs)
        share = edges.at(points)[(output, input_, 0, *tap)]
        if inside:
            values[(channel, *place)] += share
        else:
            padding += share
    return values, padding


@pytest.mark.parametrize(("case", "basis", "dtype"), diagonal(LAYERS, BASIS_CASES, DTYPES, each=3), ids=str)
@torch.no_grad()
def test_parts_of_any_layer_add_up(case, basis, dtype):
    layer = make_uneven(with_masks_and_names(randomize(LAYERS[case](basis=basis, dtype=dtype))))
    x = LAYERS[case].input(dtype)
    y = layer(x)
    assert_parts_add_up(layer, x, torch.rand_like(y))
    batch_dims = x.ndim - 1 if isinstance(layer, KANLinear) else 1
    location = random_location(y, batch_dims)
    parts = contributions(layer, x, output=1 if y.shape[batch_dims] > 1 else 0, location=location)
    place = (..., 1 if y.shape[batch_dims] > 1 else 0, *location)
    assert_agree(parts.total, y[place])
    scale = parts.values.abs().sum() / y[place].numel() + parts.total.abs().max()
    assert parts.residual.abs().max() <= TOLERANCES[dtype] * scale


@pytest.mark.parametrize(
    ("geometry", "kind", "dtype"),
    diagonal(GEOMETRIES, CONVOLUTIONS, DTYPES, each=2),
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
@torch.no_grad()
def test_parts_of_any_convolution_add_up(geometry, kind, dtype):
    kind = CONVOLUTIONS[kind]
    layer = with_masks_and_names(randomize(kind(4, 2, 2, bias=True, basis=BSpline(3), dtype=dtype, **geometry)))
    x = torch.randn(2, 4, *(4, 5, 3)[: layer.dims], dtype=dtype)
    parts = assert_parts_add_up(layer, x, torch.rand_like(layer(x)))
    if geometry["padding_mode"] != "zeros":
        assert not parts.padding.any(), "what is padded is made of inputs"
    single = contributions(layer, x[0], output=1)
    assert single.total.shape == ()
    assert_agree(single.values, contributions(layer, x, output=1).values[0])


@pytest.mark.parametrize("case", ["conv1d", "conv2d", "conv2d-grouped", "conv2d-depthwise", "conv2d-same", "conv3d"])
@torch.no_grad()
def test_contributions_are_the_sums_over_edges(case):
    layer = with_masks_and_names(randomize(LAYERS[case](dtype=torch.float64)))
    x = LAYERS[case].input(torch.float64)
    y = layer(x)
    for output in range(y.shape[1]):
        location = random_location(y, 1)
        parts = contributions(layer, x, output, location)
        values, padding = brute_force(layer, x[-1], output, location)
        assert_agree(parts.values[-1], values)
        assert parts.padding[-1].item() == pytest.approx(float(padding), abs=1e-12)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("kind", [KANConv2d, LowRankKANConv2d])
@torch.no_grad()
def test_border_counts_for_the_pixels_it_copies(kind, mode):
    layer = randomize(kind(1, 1, 3, padding=1, padding_mode=mode, dtype=torch.float64))
    unpadded = kind(1, 1, 3, dtype=torch.float64)
    unpadded.load_state_dict(layer.state_dict())
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    source = layer.seen(torch.arange(9.0).view(1, 1, 3, 3)).flatten().long()
    apart = contributions(unpadded, layer.seen(x), 0).values.flatten()
    expected = torch.zeros(9, dtype=x.dtype).index_add(0, source, apart)
    assert_agree(contributions(layer, x, 0).values.flatten(), expected)


@every_layer
@torch.no_grad()
def test_edge_contributions_add_up_to_the_output(case):
    layer = with_masks_and_names(randomize(LAYERS[case](dtype=torch.float64)))
    x = LAYERS[case].input(torch.float64)
    y, linear = layer(x), isinstance(layer, KANLinear)
    batch_dims = x.ndim - 1 if linear else 1
    bias = getattr(layer, "bias", None)
    for output in range(y.shape[batch_dims]):
        location = random_location(y, batch_dims)
        found = edge_contributions(layer, x, output, location or None)
        assert found.shape == (*x.shape[:batch_dims], *edges_of(layer).shape[1:])
        constant = 0 if bias is None else bias[output]
        total = found.reshape(*x.shape[:batch_dims], -1).sum(-1) + constant
        assert relative_error(total, y[(..., output, *location)]) < 1e-11


@torch.no_grad()
def test_edge_contribution_is_the_edge_at_what_its_tap_sees():
    layer = randomize(KANConv2d(2, 3, 3, stride=2, dtype=torch.float64))
    x = torch.randn(1, 2, 7, 7, dtype=torch.float64)
    found = edge_contributions(layer, x, output=1, location=(1, 2))
    at = curves(layer, num_points=2, x_range=(x[0, 1, 1 * 2 + 2, 2 * 2 + 0].item(), 9.0)).total[1, 1, 0, 2, 0]
    assert_agree(found[0, 1, 2, 0], at)


def test_no_such_output_location_or_layer():
    layer, x = KANConv2d(1, 2, 3), torch.zeros(1, 1, 5, 5)
    for options in ({"output": 2}, {"output": -1}, {"output": 0, "location": (3, 0)}, {"output": 0, "location": (0,)}):
        with pytest.raises(ValueError, match=r"(output|location) must"):
            contributions(layer, x, **options)
    with pytest.raises(ValueError, match="output must be given"):
        contributions(layer, x)
    with pytest.raises(ValueError, match="both"):
        contributions(layer, x, 0, weights=layer(x))
    with pytest.raises(ValueError, match="shape"):
        contributions(layer, x, weights=x)
    with pytest.raises(ValueError, match="location"):
        edge_contributions(layer, x, 0)
    with pytest.raises(TypeError, match="Conv2d"):
        contributions(nn.Conv2d(1, 1, 3), x, 0)


def half_trained(name, size, dtype, **options):
    """A model with statistics of its own, and an input."""
    model = create_model(name, 10, 1, **options).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(2):
            model(torch.randn(8, 1, size, size, dtype=dtype))
    return model, torch.randn(3, 1, size, size, dtype=dtype)


MODELS = {
    "kan_cnn": (12, {"widths": (2, 3)}),
    "kan_cnn-chebyshev": (12, {"widths": (2, 3), "basis": "chebyshev"}),
    "kan_vgg": (12, {"width": 4}),
    "kan_vgg-shared": (12, {"width": 4, "kind": "shared", "rank": 2, "head": "kan"}),
    "kan_resnet8": (12, {"width": 4}),
    "kan_mobilenet": (12, {"width": 4}),
    "kan_mobilenet-full": (12, {"width": 4, "kind": "full", "depths": [1, 2]}),
    "kan_resnet8-full": (12, {"width": 4, "kind": "full"}),
    "kkan_small": (16, {"image_size": 16}),
    "kanc_mlp_small": (16, {"image_size": 16}),
    "conv_kan_small": (16, {"image_size": 16}),
    "plain_cnn": (12, {"widths": (2, 3)}),
    "resnet8": (12, {"width": 4, "activation": "gelu"}),
}


@pytest.mark.parametrize(("name", "steps", "dtype"), diagonal(MODELS, [1, 3], DTYPES, each=2), ids=str)
def test_attributions_add_up_to_the_rise_of_the_logit(name, steps, dtype):
    size, options = MODELS[name]
    model, x = half_trained(name.split("-")[0], size, dtype, **options)
    target = torch.tensor([0, 4, 9])
    found = attribute(model, x, target, baseline=-0.4, steps=steps)
    assert found.values.shape == x.shape
    assert found.completeness_error.max() < COMPLETE[dtype]
    model.eval()
    with torch.no_grad():
        assert_agree(found.logit, model(x).gather(1, target[:, None])[:, 0])
        assert_agree(found.baseline_logit, model(torch.full_like(x, -0.4)).gather(1, target[:, None])[:, 0])


@pytest.mark.parametrize("case", LAYERS)
def test_attribution_of_one_layer_is_the_difference_of_contributions(case):
    """Where there is one layer only, nothing is a choice."""
    layer = with_masks_and_names(randomize(LAYERS[case](dtype=torch.float64)))
    x = LAYERS[case].input(torch.float64)
    weights = torch.randn_like(layer(x))
    weights = weights[:1].expand_as(weights)
    x0 = torch.randn_like(x)
    x0.flatten()[::3] = x.flatten()[::3]  # there it takes the derivative
    model = nn.Sequential(layer)
    with secant_rules(model):
        both = torch.cat([x, x0]).requires_grad_()
        y = model(both)[: len(x)]
        multipliers, zero = torch.autograd.grad(y, both, weights)[0].chunk(2)
    assert not zero.any()
    difference = contributions(layer, x, weights=weights).values - contributions(layer, x0, weights=weights).values
    if getattr(layer, "padding_mode", "zeros") == "zeros":
        assert_agree(multipliers * (x - x0), difference, factor=10)
    with torch.enable_grad():
        again = x.clone().requires_grad_()
        derivative = torch.autograd.grad(layer(again), again, weights)[0]
    same = both.detach()[: len(x)] == x0
    if case not in ("conv2d-reflect", "conv2d-replicate", "conv2d-circular", "lowrank-reflect"):
        assert_agree(multipliers[same], derivative[same], factor=10)


@both_dtypes
def test_max_pooling_hands_its_difference_to_one_pixel(dtype):
    model = nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1))
    x, x0 = torch.randn(2, 4, 3, 7, 7, dtype=dtype)
    x[0], x0[1] = x0[0], x0[1] + 5  # no difference, and one that falls everywhere
    with secant_rules(model):
        both = torch.cat([x, x0]).requires_grad_()
        y, y0 = model(both).chunk(2)
        for place in torch.ones(y.shape).nonzero()[::7].tolist():
            one = torch.autograd.grad(y[tuple(place)], both, retain_graph=True)[0][: len(x)]
            assert one.count_nonzero() <= 1
            assert one.min() >= 0
            assert one.max() <= 1
            rise = (y - y0)[tuple(place)]
            assert (one * (x - x0)).sum().item() == pytest.approx(rise.item(), abs=10 * TOLERANCES[dtype])
    rising = nn.functional.max_pool2d(x, 3, 2, 1)
    assert_agree(y, rising)


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.SiLU(), nn.GELU(), nn.Tanh(), nn.PReLU()])
def test_activations_have_secants(activation):
    x, x0 = torch.randn(2, 5, 4, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3)).double()
    found = attribute(model, x, 1, baseline=x0[0], steps=1)
    assert found.completeness_error.max() < 1e-12


def test_linear_models_are_attributed_alike_by_all_methods():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(48, 4)).double()
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    for baseline in (None, 0.3, torch.randn(2, 1, 1).double(), torch.randn(4, 2, 6, 6).double()):
        ours = attribute(model, x, 2, baseline=baseline)
        assert_agree(gradient_times_input(model, x, 2, baseline=baseline), ours.values)
        path = integrated_gradients(model, x, 2, baseline=baseline, steps=3)
        assert_agree(path.values, ours.values)
        assert path.completeness_error.max() < 1e-12


def test_many_steps_become_integrated_gradients():
    model, x = half_trained("kan_cnn", 6, torch.float64, widths=(2,))
    limit = integrated_gradients(model, x, 3, steps=200).values
    errors = [relative_error(attribute(model, x, 3, steps=steps).values, limit) for steps in (1, 5, 25)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_several_baselines_are_averaged():
    model, x = half_trained("kan_cnn", 8, torch.float64, widths=(2,))
    stack = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    together = attribute(model, x, 0, baseline=stack)
    apart = [attribute(model, x, 0, baseline=one) for one in stack]
    assert_agree(together.values, torch.stack([one.values for one in apart]).mean(0))
    assert_agree(together.baseline_logit, torch.stack([one.baseline_logit for one in apart]).mean(0))
    assert together.completeness_error.max() < 1e-10


@pytest.mark.parametrize(
    "module",
    [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.Softmax(1), nn.BatchNorm1d(4, track_running_stats=False)],
    ids=lambda module: type(module).__name__,
)
def test_modules_without_a_rule_are_refused_by_name(module):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), module))
    with pytest.raises(TypeError, match=rf"{type(module).__name__} at '1\.1'"):
        attribute(model, torch.randn(2, 4), 0)
    assert "forward" not in model[1][0].__dict__
    assert model.training


def test_model_is_left_as_it_was():
    model, x = half_trained("kan_vgg", 8, torch.float32, width=2)
    model.features[1].eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for method in (attribute, gradient_times_input, integrated_gradients):
            method(model, x, 1)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == ["head.weight"]
    assert (model.head.weight.grad == 1).all()


def test_failing_model_is_left_as_it_was_too():
    model = create_model("kan_cnn", 10, 1, widths=(2, 2))
    with pytest.raises(ValueError, match="batch, channels"):
        attribute(model, torch.randn(2, 1, 1, 1), 0)
    assert model.training
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_wrong_arguments_of_attributions():
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    for target in (3, -1, torch.tensor([0, 5]), torch.tensor([0, 1, 2])):
        with pytest.raises(ValueError, match="target must"):
            attribute(model, x, target)
    with pytest.raises(TypeError, match="target must"):
        attribute(model, x, torch.tensor([0.5, 1]))
    for baseline in (torch.zeros(3), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="baseline must"):
            attribute(model, x, 0, baseline=baseline)
    with pytest.raises(ValueError, match="baseline must"):
        attribute(model, x, 0, baseline=torch.zeros(0, 4))
    for method in (attribute, integrated_gradients):
        with pytest.raises(ValueError, match="steps must"):
            method(model, x, 0, steps=0)
    with pytest.raises(ValueError, match="model must return"):
        attribute(nn.Identity(), torch.randn(2, 4, 4), 0)


def test_curves_of_a_model_that_adds_up_pixels():
    """Deleting the brightest first, its probability falls as it must; inserting is the same backwards."""

    class Sum(nn.Module):
        def forward(self, x):
            return torch.stack([x.flatten(1).sum(1), torch.zeros(len(x))], dim=1)

    x, black = torch.arange(4.0).view(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    order, predicted = torch.tensor([[3, 2, 1, 0]]), torch.tensor([0])
    deleted = deletion.curve(Sum(), x, black, order, predicted, 4)
    assert_agree(deleted, torch.tensor([[6.0, 3, 1, 0, 0]]).sigmoid())
    inserted = deletion.curve(Sum(), black, x, order, predicted, 4)
    assert_agree(inserted, torch.tensor([[0.0, 3, 5, 6, 6]]).sigmoid())
    assert deletion.area(np.array([[0.0, 1, 1]])) == pytest.approx(0.75)


def test_quick_deletion_leaves_a_record_a_table_and_a_plot(tmp_path, monkeypatch, capsys):
    flags = ["--model_options.widths", "[2,4]", "--threads", "1", "--epochs", "1", "--train_fraction", "0.2"]
    finished(tmp_path / "tiny", *flags)
    out = tmp_path / "out"
    arguments = ["deletion", "--run", str(tmp_path / "tiny"), "--quick", "--out", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    deletion.main()
    record = json.loads((out / "deletion.json").read_text())
    assert set(record) >= {"config", "git_commit", "versions", "deletion", "insertion"}
    for test in deletion.TESTS:
        assert set(record[test]["curves"]) == set(record[test]["areas"]) == set(deletion.METHODS)
        first = {values[0] for values in record[test]["curves"].values()}
        assert len(first) == 1, "all methods begin with the same images"
        for difference in record[test]["differences"].values():
            assert difference["low"] <= difference["mean"] <= difference["high"]
    assert (out / "deletion.md").read_text().strip() in capsys.readouterr().out
    with Image.open(out / "deletion.png") as picture:
        picture.load()
        assert min(picture.size) > 300


def test_deletion_of_a_folder_that_is_no_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["deletion", "--run", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        deletion.main()
