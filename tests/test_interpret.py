from io import BytesIO

import pytest
import torch
from cases import BASIS_CASES, diagonal
from PIL import Image
from torch import nn

from convkan import KANConv2d, KANConv3d, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.basis import BSpline
from convkan.interpret import auto, curves, edges_of, importance, suggest
from convkan.interpret.plot import (
    atlas,
    edges,
    network,
    plot_atlas,
    plot_confusion,
    plot_contributions,
    plot_edges,
    plot_features,
    plot_layers,
    plot_learning_curves,
    plot_network,
)
from convkan.testing import LAYER_CLASSES, LAYERS, assert_agree, kan_layers, make_uneven, randomize

every_layer = pytest.mark.parametrize("case", LAYERS)
every_kind = pytest.mark.parametrize("case", [*LAYER_CLASSES, "conv2d-grouped", "transposed2d-grouped"])


@torch.no_grad()
def edge_values(layer, x):
    """φ of every edge at the points x (channels, points), each from a layer that has this edge alone."""
    out_channels, per_group, _, *kernel = layer.coefficients.shape
    outputs_per_group = out_channels * per_group // layer.num_inputs
    values = x.new_empty(out_channels, per_group, x.shape[1], *kernel)
    for output, input_, *tap in torch.ones(out_channels, per_group, *kernel).nonzero().tolist():
        channel = output // outputs_per_group * per_group + input_
        options = {"basis": layer.basis, "base_activation": layer.base_activation, "dtype": x.dtype}
        edge = KANLinear(1, 1, backend="reference", **options)
        if layer.grid is not None:
            edge.set_grid(layer.grid[channel : channel + 1])
        edge.coefficients[0, 0] = layer.coefficients[(output, input_, slice(None), *tap)]
        if layer.base_weight is not None:
            edge.base_weight.fill_(layer.by_output(layer.base_weight)[(output, input_, *tap)])
        values[(output, input_, slice(None), *tap)] = edge(x[channel].unsqueeze(-1)).squeeze(-1)
    return values


def png_size(figure):
    file = BytesIO()
    figure.savefig(file, format="png")
    with Image.open(file) as image:
        image.load()
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors()) > 1, "the picture is blank"
        return image.size


@pytest.mark.parametrize(("case", "basis"), diagonal(LAYERS, BASIS_CASES, each=2), ids=str)
def test_curves_are_those_of_a_layer_with_one_edge(case, basis):
    for layer in kan_layers(randomize(LAYERS[case](basis=basis, dtype=torch.float64))):
        found = curves(layer, num_points=11)
        x, values = found.x, found.total
        assert x.shape == (layer.num_inputs, 11)
        assert_agree(values, edge_values(layer, x))


@every_kind
def test_curves_follow_each_channels_own_grid(case):
    for layer in kan_layers(make_uneven(randomize(LAYERS[case](dtype=torch.float64)))):
        found = curves(layer, num_points=9)
        x, values = found.x, found.total
        low, high = layer.basis.ends(layer.grid)
        assert_agree(x[:, 0], low)
        assert_agree(x[:, -1], high)
        assert_agree(values, edge_values(layer, x))


@every_kind
def test_curves_without_base_activation_are_splines_alone(case):
    for layer in kan_layers(randomize(LAYERS[case](base_activation=None, dtype=torch.float64))):
        found = curves(layer, num_points=7, x_range=(-0.5, 2.5))
        x, values = found.x, found.total
        assert_agree(x, torch.linspace(-0.5, 2.5, 7, dtype=x.dtype).expand_as(x))
        assert_agree(values, edge_values(layer, x))


def test_curves_sum_to_the_output_of_a_linear_layer():
    layer = randomize(KANLinear(4, 3, dtype=torch.float64))
    found = curves(layer, num_points=13)
    x, values = found.x, found.total
    assert_agree(values.sum(1).mT, layer(x.mT))


def test_curves_need_no_gradient_and_leave_the_layer_as_it_was():
    layer = KANConv2d(2, 3, 3)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert not curves(layer).total.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize(
    "layer",
    [
        KANLinear(1, 1),
        KANLinear(20, 30),  # more of both than are drawn
        KANConv2d(3, 1, 1),
        KANConv2d(8, 12, 3, groups=4),
        KANConv2d(6, 6, 3, groups=6),
        KANConv2d(2, 2, 3, basis="chebyshev", dtype=torch.bfloat16),
        KANConv3d(1, 2, 2),
        LearnableActivation(3, 2),
        LearnableActivation(20),
    ],
    ids=lambda layer: str(layer).split(", basis")[0],
)
def test_edges_of_any_layer_make_a_picture(layer, monkeypatch):
    monkeypatch.setattr(edges, "MOST_OUTPUTS", 3)
    monkeypatch.setattr(edges, "MOST_INPUTS", 2)
    figure = plot_edges(layer, "layer")
    outputs, inputs = layer.coefficients.shape[:2]
    drawn = [axis for axis in figure.axes if axis.get_visible()]
    assert len(drawn) == min(outputs, edges.MOST_OUTPUTS) * min(inputs, edges.MOST_INPUTS)
    assert min(png_size(figure)) > 100


def test_drawn_edge_is_the_one_its_title_names():
    layer = randomize(KANConv2d(4, 4, 2, groups=2, basis=BSpline(grid_size=4)))
    found = curves(layer)
    x, values = found.x, found.total
    for axis in plot_edges(layer).axes:
        channel, output = (int(word) for word in axis.get_title().split() if word.isdigit())
        assert channel // 2 == output // 2, "an edge across groups does not exist"
        taps = values[output, channel % 2].flatten(1)
        lines = axis.get_lines()[: taps.shape[1]]
        for tap, line in enumerate(lines):
            torch.testing.assert_close(torch.as_tensor(line.get_xdata()), x[channel])
            torch.testing.assert_close(torch.as_tensor(line.get_ydata()), taps[:, tap])


@every_layer
def test_base_and_basis_parts_add_up_and_so_do_straight_part_and_remainder(case):
    for layer in kan_layers(randomize(LAYERS[case](dtype=torch.float64))):
        found = curves(layer, num_points=5)
        assert_agree(found.base + found.basis, found.total)
        assert_agree(found.linear + found.remainder, found.total)
        assert found.counts is None
        assert found.off_grid is None


def test_low_rank_convolution_shows_the_edges_of_the_convolution_it_stands_for():
    layer = LowRankKANConv2d(4, 6, 3, groups=2, rank=2, dtype=torch.float64)
    layer.mask_edges(torch.rand(6, 2, 3, 3) > 0.3)
    x = torch.rand(5, 4, 3, 3, dtype=torch.float64) * 2 - 1
    edges = edges_of(layer)
    per_pixel = edges.at(x.permute(0, 2, 3, 1).reshape(-1, 4))  # (out, in_per_group, points, 3, 3)
    values = per_pixel.unflatten(2, (5, 3, 3))
    own_tap = torch.einsum("o c n i j i j -> n o", values)
    assert_agree(own_tap, layer(x)[:, :, 0, 0])


def test_straightness_is_that_of_a_line_weighted_by_the_data():
    layer = KANLinear(1, 2, basis=BSpline(grid_size=8, grid_range=(-2, 2)), base_activation=None, dtype=torch.float64)
    with torch.no_grad():
        layer.basis_weight[0] = 3 * torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)  # Greville points: a line
        layer.basis_weight[1] = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64).abs()
    found = curves(layer)
    assert_agree(found.straightness[0], torch.ones(1, dtype=torch.float64))
    assert_agree(found.slope[0], torch.full((1,), 3.0, dtype=torch.float64))
    assert found.straightness[1].item() < 0.1
    right = curves(layer, x=torch.rand(500, 1, dtype=torch.float64) * 0.5 + 1)  # where |x| is a line too
    assert right.straightness[1].item() > 0.999


def test_constant_edges_count_as_straight():
    layer = KANLinear(2, 2)
    nn.init.zeros_(layer.basis_weight)
    nn.init.zeros_(layer.base_weight)
    assert torch.equal(curves(layer).straightness, torch.ones(2, 2, dtype=torch.float64))


def test_histogram_and_share_off_the_grid_are_those_of_the_padded_inputs():
    layer = KANConv2d(2, 3, 3, padding=1)
    x = torch.full((1, 2, 2, 2), 0.99)
    x[0, 1] = 5.0
    found = curves(layer, x=x)
    assert found.counts.sum(1).tolist() == [16, 12]
    assert found.counts[0, -1] == 4  # 12 zeros of padding lie in the middle
    torch.testing.assert_close(found.off_grid, torch.tensor([0.0, 0.25], dtype=torch.float64))


def test_masked_and_named_edges_show_in_curves():
    layer = KANLinear(3, 2, dtype=torch.float64)
    alive = torch.ones(2, 3, dtype=torch.bool)
    alive[1, 2] = alive[0, 0] = False
    layer.mask_edges(alive)
    layer.add_symbolic().replace(torch.tensor([[1, 2]]), ["sin"], torch.tensor([[2.0, 0.5, 3.0, -1.0]]))
    found = curves(layer, num_points=9)
    assert found.total[0, 0].abs().max() == 0
    assert_agree(found.total[1, 2].detach(), 3 * torch.sin(2 * found.x[2] + 0.5) - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_points": 1}, "num_points must be at least 2, got 1"),
        ({"x_range": (1.0, 1.0)}, "x_range must be .* low < high"),
        ({"outputs": slice(0, 1)}, "layers without groups only, got 2 groups"),
    ],
)
def test_what_curves_are_asked_wrongly_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        curves(KANConv2d(2, 4, 3, groups=2), **arguments)


@pytest.mark.parametrize(
    "layer",
    [
        KANConv2d(40, 30, 3, padding=1),
        KANConv2d(6, 6, 3, groups=6),
        KANConv3d(2, 2, 2),
        KANLinear(100, 10),
        LearnableActivation(20),
        LowRankKANConv2d(8, 8, 3),
        KANConv2d(2, 2, 3, basis="chebyshev"),
    ],
    ids=lambda layer: str(layer).split(", basis")[0].split("\n")[0],
)
def test_atlas_of_any_layer_is_a_picture_with_a_curve_for_each_drawn_edge(layer, tmp_path):
    edges = edges_of(layer)
    x = torch.randn(4, edges.functions.num_inputs, *(6,) * len(edges.shape[2:] or (1,)))
    x = x[:, :, 0] if isinstance(layer, KANLinear) else x
    for data in (None, x):
        figure = plot_atlas(layer, x=data, importance=torch.rand(edges.shape), title="layer")
        curves_drawn = sum(len(c.get_segments()) for c in figure.axes[0].collections[:2])
        outputs, inputs = min(edges.shape[0], atlas.MOST_OUTPUTS), min(edges.shape[1], atlas.MOST_INPUTS)
        assert curves_drawn == outputs * inputs * edges.weight[0, 0, 0].numel()
        assert f"{outputs} of {edges.shape[0]} outputs" in figure.get_suptitle()
    assert min(png_size(figure)) > 100
    figure.savefig(tmp_path / "atlas.svg")
    assert "<svg" in (tmp_path / "atlas.svg").read_text()


def test_network_draws_a_box_for_each_edge_that_is_alive():
    model = nn.Sequential(KANLinear(2, 5), KANLinear(5, 1))
    model[0].mask_edges(torch.rand(5, 2) > 0.5)
    boxes = int(model[0].edge_mask.sum()) + 5
    figure = plot_network(model, x=torch.rand(20, 2), input_names=["x", "y"], title="a net")
    lines = figure.axes[0].get_lines()
    assert len(lines) == 4 * boxes + 3  # a line in, a line out, a box and a curve for each; a row of nodes a level
    assert min(png_size(figure)) > 100
    assert {"x", "y"} <= {text.get_text() for text in figure.axes[0].texts}


def test_large_network_says_what_it_leaves_out():
    figure = plot_network(nn.Sequential(KANLinear(30, 20), KANLinear(20, 3)))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert f"{network.MOST_NODES} of 30 nodes" in texts
    assert f"{network.MOST_NODES} of 20 nodes" in texts


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(KANLinear(2, 3), nn.Flatten(), KANLinear(4, 1))])
def test_network_that_is_not_a_chain_of_dense_layers_is_refused(model):
    with pytest.raises(ValueError, match="must"):
        plot_network(model)


def test_contributions_features_and_layers_make_pictures():
    images = torch.rand(5, 3, 8, 8)
    assert min(png_size(plot_contributions(images, torch.randn(5, 3, 8, 8), [str(i) for i in range(5)]))) > 100
    assert min(png_size(plot_features(images[0], torch.randn(20, 4, 4), torch.randn(20, 4, 4)))) > 100
    assert min(png_size(plot_features(images[0, :1], torch.randn(3, 4, 4)))) > 100
    assert min(png_size(plot_layers({"a": {"x": 1.0, "y": 2.0}, "b": {"x": 0.0}}))) > 100
    with pytest.raises(ValueError, match="panels must hold a layer"):
        plot_layers({})


def test_a_map_is_purple_for_what_speaks_for_the_class():
    figure = plot_contributions(torch.rand(1, 1, 1, 2), torch.tensor([[[[1.0, -1.0]]]]), ["costs $5 and $6"])
    [image] = figure.axes[1].images
    (red, _, blue, _), (other_red, _, other_blue, _) = image.to_rgba(image.get_array(), norm=True)[0]
    assert blue > red
    assert other_red > other_blue
    assert min(png_size(figure)) > 50


def test_network_looks_at_its_dense_layers_among_others_and_leaves_the_model_as_it_was():
    model = nn.Sequential(LearnableActivation(2), KANLinear(2, 3), nn.BatchNorm1d(3), KANLinear(3, 1))
    x = torch.stack([torch.rand(50), 200 * torch.rand(50) - 100], dim=1)
    figure = plot_network(model, x=x)
    assert model.training
    assert model[2].num_batches_tracked == 0
    assert min(png_size(figure)) > 100


def test_edges_of_layers_with_groups_are_evaluated_in_parts_too(monkeypatch):
    layer = KANConv2d(4, 6, 3, groups=2, dtype=torch.float64)
    layer.add_symbolic().replace(torch.tensor([[4, 1, 0, 2], [1, 0, 1, 1]]), ["sin", "x^2"], torch.ones(2, 4))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    whole = curves(layer, x=x)
    monkeypatch.setattr("convkan.interpret.edges.NUMBERS_AT_A_TIME", 1)
    parts = list(edges_of(layer).in_parts(10))
    assert [outputs for outputs, _ in parts] == [[0, 3], [1, 4], [2, 5]]
    assert_agree(curves(layer, x=x).straightness, whole.straightness)
    places = edges_of(layer).inputs(x, 20).mT
    full = edges_of(layer).at(places)
    for outputs, part in parts:
        assert_agree(part.at(places), full[outputs])


def test_dead_edges_do_not_count_as_alive():
    layer = KANLinear(4, 4)
    layer.mask_edges(torch.eye(4, dtype=torch.bool))
    layer.add_symbolic().replace(torch.tensor([[0, 3]]), ["sin"], torch.ones(1, 4))
    assert int(edges_of(layer).alive.sum()) == 5


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_learning_curves_make_a_picture(epochs):
    names = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
    rows = [{"epoch": epoch + 1, **dict.fromkeys(names, 1 / (1 + epoch))} for epoch in range(epochs)]
    figure = plot_learning_curves(rows)
    assert min(png_size(figure)) > 100
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["training", "validation"]


@pytest.mark.parametrize("classes", [1, 2, 100])
def test_confusions_make_a_picture_also_of_a_class_that_never_occurs(classes):
    matrix = torch.randint(0, 50, (classes, classes))
    matrix[-1] = 0
    figure = plot_confusion(matrix, [f"class {index}" for index in range(classes)])
    assert min(png_size(figure)) > 100


def test_confusion_title_is_the_accuracy():
    figure = plot_confusion(torch.tensor([[3, 1], [0, 4]]), ["a", "b"])
    assert "87.50%" in figure.axes[0].get_title()


@pytest.mark.parametrize("case", LAYER_CLASSES)
def test_inputs_that_do_not_fit_a_layer_are_refused(case):
    layer, x = LAYER_CLASSES[case](), LAYER_CLASSES[case].input()
    wide = torch.cat([x, x], dim=-1 if isinstance(layer, KANLinear) else 1)
    for look in (curves, suggest):
        for wrong, message in ((wide, "input"), (x[:0], "empty"), (x * float("nan"), "finite")):
            with pytest.raises(ValueError, match=message):
                look(layer, x=wrong)
        with pytest.raises(TypeError, match="tensor, got ndarray"):
            look(layer, x=x.numpy())


@pytest.mark.parametrize("look", [importance, auto])
def test_batches_that_no_model_can_be_called_with_are_refused(look):
    model, x = nn.Sequential(KANLinear(2, 1), KANLinear(1, 1)), torch.rand(30, 2)
    for batch, message in (({"x": x}, "got dict"), (x.numpy(), "got ndarray"), ((), "got tuple")):
        with pytest.raises(TypeError, match=f"batches must be tensors.*{message}"):
            look(model, [batch])
    with pytest.raises(ValueError, match="not be empty"):
        look(model, [x[:0]])
    assert set(look(model, [(x, None)])) == {"0", "1"}


def test_channels_are_followed_through_a_compiled_model():
    model, x = nn.Sequential(KANLinear(2, 3), KANLinear(3, 1)), torch.rand(30, 2)
    found = importance(torch.compile(model, backend="eager"), [x])
    for name, score in importance(model, [x]).items():
        torch.testing.assert_close(found[name].edges, score.edges)
