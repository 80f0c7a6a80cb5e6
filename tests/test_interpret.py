from io import BytesIO

import pytest
import torch
from cases import BASIS_CASES, LAYERS, kan_layers, make_uneven, randomize
from PIL import Image
from tolerances import assert_agree

from convkan import KANConv1d, KANConv2d, KANConv3d, KANLinear, LearnableActivation
from convkan.basis import BSpline
from convkan.interpret import curves
from convkan.interpret.plot import (
    MOST_INPUTS,
    MOST_OUTPUTS,
    plot_confusion,
    plot_edges,
    plot_learning_curves,
)

every_layer = pytest.mark.parametrize("case", LAYERS)


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
            edge.base_weight.fill_(layer.base_weight[(output, input_, *tap)])
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


@every_layer
@pytest.mark.parametrize("basis", BASIS_CASES, ids=repr)
def test_curves_are_those_of_a_layer_with_one_edge(case, basis):
    for layer in kan_layers(randomize(LAYERS[case](basis=basis, dtype=torch.float64))):
        found = curves(layer, num_points=11)
        x, values = found.x, found.total
        assert x.shape == (layer.num_inputs, 11)
        assert_agree(values, edge_values(layer, x))


@every_layer
def test_curves_follow_each_channels_own_grid(case):
    for layer in kan_layers(make_uneven(randomize(LAYERS[case](dtype=torch.float64)))):
        found = curves(layer, num_points=9)
        x, values = found.x, found.total
        low, high = layer.basis.ends(layer.grid)
        assert_agree(x[:, 0], low)
        assert_agree(x[:, -1], high)
        assert_agree(values, edge_values(layer, x))


@every_layer
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
        KANLinear(20, 30),
        KANConv1d(2, 3, 5),
        KANConv2d(1, 5, 3),
        KANConv2d(3, 1, 1),
        KANConv2d(8, 12, 3, groups=4),
        KANConv2d(6, 6, 3, groups=6),
        KANConv2d(2, 2, 3, basis="chebyshev"),
        KANConv2d(2, 2, 3, dtype=torch.bfloat16),
        KANConv3d(1, 2, 2),
        LearnableActivation(3, 2),
        LearnableActivation(20),
    ],
    ids=lambda layer: str(layer).split(", basis")[0],
)
def test_edges_of_any_layer_make_a_picture(layer):
    figure = plot_edges(layer, "layer")
    outputs, inputs = layer.coefficients.shape[:2]
    drawn = [axis for axis in figure.axes if axis.get_visible()]
    assert len(drawn) == min(outputs, MOST_OUTPUTS) * min(inputs, MOST_INPUTS)
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


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_learning_curves_make_a_picture(epochs):
    names = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
    rows = [{"epoch": epoch + 1, **dict.fromkeys(names, 1 / (1 + epoch))} for epoch in range(epochs)]
    figure = plot_learning_curves(rows)
    assert min(png_size(figure)) > 100
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["training", "validation"]


@pytest.mark.parametrize("classes", [1, 2, 10, 100])
def test_confusions_make_a_picture_also_of_a_class_that_never_occurs(classes):
    matrix = torch.randint(0, 50, (classes, classes))
    matrix[-1] = 0
    figure = plot_confusion(matrix, [f"class {index}" for index in range(classes)])
    assert min(png_size(figure)) > 100


def test_confusion_title_is_the_accuracy():
    figure = plot_confusion(torch.tensor([[3, 1], [0, 4]]), ["a", "b"])
    assert "87.50%" in figure.axes[0].get_title()
