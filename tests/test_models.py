import hashlib
import inspect
import json
from pathlib import Path

import pytest
import torch
from cases import NARROW
from torch import nn

from convkan import KANConv2d, KANConvTranspose2d, KANLinear, LowRankKANConv2d
from convkan.basis import BASES, BSpline, Chebyshev, ReLUKAN
from convkan.models import create_model, list_models, model_options, model_task, register_model, twin
from convkan.testing import kan_layers

GRID_MODELS = {  # parameters with 10 and with 20 intervals
    "kanc_mlp_small": (5040, 7740),
    "kanc_mlp_medium": (9440, 14390),
    "kanc_mlp_big": (33040, 37990),
    "kkan_small": (21280, 36480),
    "kkan_medium": (41930, 71880),
    "conv_kan_small": (17780, 30280),
    "conv_kan_medium": (35510, 60510),
}
PLAIN_MODELS = {"cnn_small": 1540, "cnn_medium": 3020, "cnn_more_convs": 6930, "cnn_big": 26620}
SIZED_MODELS = [name for name in list_models() if "image_size" in model_options(name)]
# States as they were when files and records of them were made: names and shapes in their order, then of parameters.
STATES = json.loads((Path(__file__).parent / "golden" / "model_states.json").read_text(encoding="utf-8"))
every_model = pytest.mark.parametrize("name", list_models())


def labels_like(logits):
    """Labels of four images, or of all of their pixels."""
    space = logits.shape[2:]
    return torch.arange(4).view(4, *[1] * len(space)).expand(4, *space)


def small(name, **options):
    """A model by name, as it is by default unless that is large."""
    return create_model(name, **NARROW.get(name, {}) | options)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "grid_size", "parameters"),
    [(name, size, n) for name, counts in GRID_MODELS.items() for size, n in zip((10, 20), counts, strict=True)],
)
def test_kan_of_the_first_family_has_its_exact_size(name, grid_size, parameters):
    assert count(create_model(name, grid_size=grid_size)) == parameters


@pytest.mark.parametrize(("name", "parameters"), PLAIN_MODELS.items())
def test_plain_cnn_of_the_first_family_has_its_exact_size(name, parameters):
    assert count(create_model(name)) == parameters


@pytest.mark.parametrize(("name", "parameters"), [("resnet18", 11_689_512), ("resnet34", 21_797_672)])
def test_residual_networks_for_large_images_have_the_sizes_of_torchvisions(name, parameters):
    with torch.device("meta"):
        assert count(create_model(name, 1000, 3)) == parameters
        kan, narrow = create_model(f"kan_{name}", 1000, 3), create_model(name, 1000, 3, width=16)
    assert model_options(name)["width"] == model_options(f"kan_{name}")["width"] == 64
    assert kan.widths == (64, 128, 256, 512)
    assert narrow.widths == (16, 32, 64, 128)


@pytest.mark.parametrize("kind", ["lowrank", "full", "shared", "depthwise", "bottleneck"])
def test_residual_networks_for_large_images_divide_sides_by_32(kind):
    model = create_model("kan_resnet18", 5, 3, width=2, kind=kind)
    shapes = []
    for stage in model.stages():
        last = model.get_submodule(stage.modules[-1])
        last.register_forward_hook(lambda _, __, y: shapes.append(tuple(y.shape[1:])))
    assert model(torch.rand(2, 3, 64, 96)).shape == (2, 5)
    assert shapes == [(stage.channels, 64 // stage.reduction, 96 // stage.reduction) for stage in model.stages()]
    assert [stage.reduction for stage in model.stages()] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("kept", STATES, ids=lambda kept: f"{kept['model']}-{kept['options']}")
def test_states_made_before_fit_what_is_made_now(kept):
    model = create_model(kept["model"], **kept["options"])
    assert count(model) == kept["parameters"]
    names = [[name, list(tensor.shape)] for name, tensor in model.state_dict().items()]
    names += [name for name, _ in model.named_parameters()]  # their order is that of an optimiser's state
    assert hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16] == kept["state"]


@pytest.mark.parametrize("rank", [None, 2])
def test_kan_cnn_draws_its_layers_in_the_order_of_data(rank):
    basis = BSpline(5, grid_range=(-3, 3))
    torch.manual_seed(0)
    layers = []
    for before, after in ((3, 4), (4, 4), (4, 6), (6, 6)):
        if rank is None:
            layer = KANConv2d(before, after, 3, padding=1, basis=basis)
        else:
            layer = LowRankKANConv2d(before, after, 3, padding=1, rank=rank, basis=basis)
        layers.append(layer)
    layers.append(KANLinear(6, 10, bias=True, basis=basis))
    torch.manual_seed(0)
    model = create_model("kan_cnn", in_channels=3, widths=(4, 6), rank=rank)
    expected = [parameter for layer in layers for parameter in layer.parameters()]
    for parameter, same in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter, same)


@every_model
def test_every_model_gives_finite_logits_and_gradients_reach_every_parameter(name):
    model = small(name)
    logits = model(torch.rand(4, 1, 28, 28))
    assert logits.shape == (4, 10, *((28, 28) if model_task(name) == "segmentation" else ()))
    assert logits.isfinite().all()
    nn.functional.cross_entropy(logits, labels_like(logits)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", SIZED_MODELS)
@pytest.mark.parametrize(
    ("image_size", "channels", "classes"), [(32, 3, 100), (10, 1, 2), ((12, 17), 2, 3), (48, 4, 1)]
)
def test_sized_model_takes_other_images_and_classes(name, image_size, channels, classes):
    model = create_model(name, classes, channels, image_size=image_size).eval()
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    assert model(torch.rand(2, channels, height, width)).shape == (2, classes)


@pytest.mark.parametrize("name", ["kan_cnn", "plain_cnn"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 28, 33, 64])
def test_pooled_model_takes_any_image_size(name, channels, side):
    logits = create_model(name, 7, channels, widths=(2, 3, 4))(torch.rand(2, channels, side, side))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("channels", [1, 3])
def test_kan_cnn_is_small_by_default(channels):
    assert count(create_model("kan_cnn", in_channels=channels)) < 200_000


@every_model
def test_every_twin_is_a_listed_model_without_kan_layers_and_its_own_twin(name):
    other = twin(name)
    assert other in list_models()
    assert twin(other) == other
    assert not kan_layers(small(other))


@every_model
def test_only_plain_models_are_their_own_twin(name):
    assert (twin(name) == name) == (not kan_layers(small(name)))


@pytest.mark.parametrize("name", [name for name in list_models() if twin(name) != name])
def test_twins_have_the_same_input_and_output_on_the_same_images(name):
    x = torch.rand(2, 1, 28, 28)
    assert small(name)(x).shape == small(twin(name))(x).shape


@every_model
def test_eval_output_does_not_depend_on_batch_neighbours(name):
    model = small(name).eval()
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)


def test_rank_gives_each_channel_that_many_functions_and_fewer_parameters():
    sizes = []
    for rank in (1, 2, None):
        model = create_model("kan_cnn", widths=(4, 8), rank=rank)
        sizes.append(count(model))
        if rank is not None:
            convolutions = [layer for layer in kan_layers(model) if hasattr(layer, "num_functions")]
            assert [layer.num_functions for layer in convolutions] == [rank] * 4
        assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("kind", ["lowrank", "full", "shared"])
def test_separable_network_of_every_kind_has_the_size_counted_by_hand(kind):
    width, depth, functions = 4, 3, 1 + 8  # silu and 8 splines
    model = create_model("kan_mobilenet", width=width, depths=[depth], kind=kind)
    activation = functions + 2 * width if kind == "shared" else width * functions
    spatial = width * 9 * functions if kind == "full" else activation + width * 9
    unit = spatial + activation + width * width
    assert count(model) == 9 * width + depth * unit + activation + (width + 1) * 10
    assert model(torch.rand(2, 1, 7, 9)).shape == (2, 10)


def test_separable_network_is_residual_where_channels_stay():
    model = create_model("kan_mobilenet", width=4, depths=[2, 2])
    names = [type(part).__name__ for part in model.features]
    assert names[:6] == ["Conv2d", "Residual", "Residual", "MaxPool2d", "Sequential", "Residual"]


@pytest.mark.parametrize("kind", ["full", "lowrank", "shared", "depthwise", "bottleneck"])
@pytest.mark.parametrize("side", [4, 15])
def test_unet_of_every_kind_gives_every_pixel_its_classes(kind, side):
    model = create_model("kan_unet", 3, 2, width=2, depths=[1, 2, 1], kind=kind, rank=2, head="kan", dropout=0.1)
    assert model(torch.rand(2, 2, side, side + 2)).shape == (2, 3, side, side + 2)
    transposed = [layer for layer in model.modules() if isinstance(layer, KANConvTranspose2d)]
    assert len(transposed) == (2 if kind == "full" else 0)


def test_unet_brings_what_was_before_the_pooling_back():
    model = create_model("unet", width=4, depths=(1, 1)).eval()
    with torch.no_grad():
        model.up[0].convolution.weight.zero_()  # nothing comes from below
    x = torch.rand(1, 1, 8, 8)
    changed = x.clone()
    changed[..., 0, 0] += 1
    assert not torch.equal(model(changed)[..., 0, 0], model(x)[..., 0, 0])
    assert torch.equal(model(changed)[..., 6:, 6:], model(x)[..., 6:, 6:])


def test_models_are_listed_by_their_task():
    assert list_models(task="segmentation") == ["kan_unet", "unet"]
    for refused in (lambda: list_models(task="foo"), lambda: register_model("foo", twin="foo", task="foo")):
        with pytest.raises(ValueError, match="task must be one of classification, segmentation; got 'foo'"):
            refused()
    assert set(list_models(task="classification")) == set(list_models()) - {"kan_unet", "unet"}


def test_separable_network_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="where channels are grouped; got 'depthwise'"):
        create_model("kan_mobilenet", kind="depthwise")
    with pytest.raises(ValueError, match="rank must be 1 where channels are grouped and share functions; got 2"):
        create_model("kan_mobilenet", kind="shared", rank=2)
    with pytest.raises(ValueError, match="depths must be positive integers"):
        create_model("mobilenet", depths=[])


@pytest.mark.parametrize("basis", sorted(BASES))
def test_basis_may_be_given_by_name(basis):
    model = create_model("kan_cnn", widths=(2, 3), basis=basis)
    assert all(isinstance(layer.basis, BASES[basis]) for layer in kan_layers(model))
    assert model(torch.rand(2, 1, 8, 8)).isfinite().all()


def test_basis_may_be_given_as_an_object():
    basis = Chebyshev(degree=6)
    assert all(layer.basis == basis for layer in kan_layers(create_model("kan_cnn", widths=(2,), basis=basis)))


def test_grid_size_is_that_of_every_spline():
    model = create_model("kan_cnn", widths=(2,), grid_size=9)
    assert {layer.basis.grid_size for layer in kan_layers(model)} == {9}
    bumps = create_model("kan_cnn", widths=(2,), basis="relukan", grid_size=4)
    assert {layer.basis for layer in kan_layers(bumps)} == {ReLUKAN(4, grid_range=(-3, 3))}
    with pytest.raises(
        ValueError, match="grid_size goes with the name of a basis that has a grid, .* got 4 with 'dog'"
    ):
        create_model("kan_cnn", basis="dog", grid_size=4)


@every_model
def test_model_options_are_the_defaults_that_build_the_same_model(name):
    options = model_options(name)
    assert not {"num_classes", "in_channels"} & set(options)
    assert inspect.Parameter.empty not in options.values()
    assert count(small(name, **options | NARROW.get(name, {}))) == count(small(name))


def test_list_can_be_of_names_that_match():
    assert list_models("kan_resnet?") == ["kan_resnet8"]
    assert list_models("*") == list_models()
    assert list_models("KAN*") == []


@pytest.mark.parametrize("call", [create_model, twin, model_options])
def test_unknown_name_lists_the_right_ones(call):
    with pytest.raises(ValueError, match=f"{', '.join(list_models())}; got 'resnet'"):
        call("resnet")


@every_model
def test_unknown_option_lists_the_right_ones(name):
    with pytest.raises(TypeError, match=rf"{name} has no option wdiths; it has ") as caught:
        create_model(name, wdiths=3)
    assert all(option in str(caught.value) for option in model_options(name))


@pytest.mark.parametrize("sizes", [{"num_classes": 0}, {"in_channels": -1}, {"num_classes": 2.5}])
def test_sizes_must_be_positive_integers(sizes):
    with pytest.raises(ValueError, match=f"{next(iter(sizes))} must be a positive integer"):
        create_model("kan_cnn", **sizes)


@pytest.mark.parametrize(
    "options", [{"widths": ()}, {"widths": (4, 0)}, {"dropout": 1.0}, {"rank": 0}, {"basis": "splines"}]
)
def test_option_out_of_range_is_named(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        create_model("kan_cnn", **options)


@pytest.mark.parametrize("name", SIZED_MODELS)
@pytest.mark.parametrize("image_size", [9, (28, 9), 0])
def test_image_too_small_for_a_sized_model_is_refused(name, image_size):
    with pytest.raises(ValueError, match="image_size must be"):
        create_model(name, image_size=image_size)


@pytest.mark.parametrize("name", ["kan_cnn", "plain_cnn"])
@pytest.mark.parametrize("shape", [(2, 1, 3, 8), (2, 1, 8, 3), (1, 8, 8)])
def test_image_too_small_for_a_pooled_model_is_refused(name, shape):
    with pytest.raises(ValueError, match="at least 4×4"):
        create_model(name, widths=(2, 2, 2))(torch.rand(shape))


@every_model
def test_taken_name_is_refused_and_keeps_its_model(name):
    before = model_options(name)
    with pytest.raises(ValueError, match=f"{name!r}, which is registered already"):
        register_model(name, twin=name)(nn.Identity)
    assert model_options(name) == before


@pytest.mark.slow
def test_model_compiles_into_one_graph():
    torch.compiler.reset()
    model = create_model("kan_cnn", widths=(2, 3)).eval()
    x = torch.rand(2, 1, 28, 28)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
