"""KANs among timm's models, and in what is built of those; with the real libraries."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from convkan import KANConv2d
from convkan.grid import refine_grids
from convkan.models import Description, create_model, get_weights, list_models, list_weights, save_classifier

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what timm itself calls
    timm = pytest.importorskip("timm")
    from convkan.timm import TimmClassifier  # importing it registers

SMALL = {"kan_cnn": {"widths": (3, 5)}, "kan_resnet8": {"width": 3.0}, "kan_vgg": {"width": 3.0, "depths": (1, 2)}}


def small(name, **options):
    return timm.create_model(name, **SMALL[name] | options)


def mask_an_edge(model):
    layer = next(layer for layer in model.modules() if isinstance(layer, KANConv2d))
    alive = torch.ones(layer.edge_shape, dtype=torch.bool)
    alive[0, 0] = False
    layer.mask_edges(alive)


def test_all_kans_are_registered_and_packaged_weights_are_tags():
    assert set(timm.list_models("kan_*")) == set(list_models("kan_*", task="classification"))
    assert set(timm.list_pretrained("kan_*")) == {f"{weights.model}.{weights.name}" for weights in list_weights()}


class TestTrainedModels:
    @pytest.mark.parametrize("weights", list_weights(), ids=lambda weights: f"{weights.model}-{weights.name}")
    def test_compute_what_ours_do(self, weights):
        model = timm.create_model(f"{weights.model}.{weights.name}", pretrained=True).eval()
        x = torch.randn(2, *model.pretrained_cfg["input_size"])
        torch.testing.assert_close(model(x), create_model(weights.model, weights=weights)(x))
        assert list(model.pretrained_cfg["label_names"]) == weights.description().class_names

    def test_take_other_classes_and_channels(self):
        ours, grey = create_model("kan_vgg", weights="mnist"), torch.rand(2, 1, 28, 28)
        model = timm.create_model("kan_vgg.mnist", pretrained=True, num_classes=5, in_chans=3).eval()
        thirds = model.forward_features(grey.expand(-1, 3, -1, -1))  # whose weights were rounded
        torch.testing.assert_close(thirds, ours.features(grey), rtol=1e-4, atol=1e-4)
        assert model(grey.expand(-1, 3, -1, -1)).shape == (2, 5)

    def test_a_name_alone_is_its_first_tag(self):
        model = timm.create_model("kan_vgg", pretrained=True)
        assert (model.pretrained_cfg["tag"], model.num_classes) == ("cifar10", 10)

    def test_a_configuration_is_its_tag(self):
        configuration = timm.get_pretrained_cfg("kan_vgg.mnist")
        model = timm.create_model("kan_vgg", pretrained=True, pretrained_cfg=configuration, in_chans=1).eval()
        x = torch.rand(2, 1, 28, 28)
        torch.testing.assert_close(model(x), create_model("kan_vgg", weights="mnist")(x))

    def test_take_what_nothing_trained_depends_on(self):
        options = {"drop_rate": 0.2, "global_pool": "max", "width": 15.875, "features_only": True}
        extractor = timm.create_model("kan_vgg.cifar10", pretrained=True, **options).eval()
        x = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(extractor(x)[-1], create_model("kan_vgg", weights="cifar10").features(x))

    @pytest.mark.parametrize("num_classes", [10, 3])
    @pytest.mark.parametrize("option", [{"base_activation": "relu"}, {"kind": "full"}, {"grid_size": 9}])
    def test_refuse_other_options_than_they_were_trained_with(self, option, num_classes):
        [name] = option
        with pytest.raises(ValueError, match=f"{name} must be .*, as these weights were trained with"):
            timm.create_model("kan_vgg.cifar10", pretrained=True, num_classes=num_classes, **option)

    def test_without_options_of_theirs_load_the_whole_body_or_not_at_all(self):
        overlay = {"state_dict": create_model("kan_vgg", weights="cifar10").state_dict(), "file": None}
        with pytest.raises(ValueError, match="its body and theirs do not both have features"):
            timm.create_model(
                "kan_vgg", width=15.875, kind="full", num_classes=3, pretrained=True, pretrained_cfg_overlay=overlay
            )

    def test_of_another_model_are_refused(self):
        overlay = {"file": str(get_weights("kan_mobilenet", "fashion_mnist").path)}
        with pytest.raises(ValueError, match="weights must be those of kan_vgg, got those of kan_mobilenet"):
            timm.create_model("kan_vgg", pretrained=True, pretrained_cfg_overlay=overlay)

    @pytest.mark.parametrize("head", ["linear", "kan"])
    def test_load_from_files_of_ours(self, head, tmp_path):
        options = SMALL["kan_vgg"] | {"head": head}
        description = Description("kan_vgg", 3, (8, 8), ["a", "b"], [0.5] * 3, [0.5] * 3, options)
        ours = description.create().eval()
        path = save_classifier(tmp_path / "model.safetensors", ours, description)
        model = small("kan_vgg", head=head, num_classes=2, checkpoint_path=str(path)).eval()
        x = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(model(x), ours(x))
        overlay = {"file": str(path), "num_classes": 2}
        other = small("kan_vgg", head=head, num_classes=4, pretrained=True, pretrained_cfg_overlay=overlay).eval()
        torch.testing.assert_close(other.forward_features(x), ours.features(x))


@pytest.mark.parametrize("name", SMALL)
class TestAnyModel:
    def test_learns_and_goes_the_way_of_timm(self, name):
        model, x = small(name, num_classes=4, drop_rate=0.1), torch.randn(2, 3, 8, 8)
        features = model.forward_features(x)
        assert features.shape[1] == model.num_features
        nn.functional.cross_entropy(model(x), torch.tensor([0, 3])).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        model.eval()
        features = model.forward_features(x)
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
        assert torch.equal(model.forward_head(features), model(x))
        assert model.get_classifier() is model.head
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301  (what was just made)
            assert torch.equal(again(x), model(x))

    def test_has_other_heads(self, name):
        model, x = small(name, num_classes=0, in_chans=1).eval(), torch.randn(2, 1, 8, 8)
        assert model(x).shape == (2, model.num_features)
        model.reset_classifier(3, "max")
        expected = model.head(model.forward_features(x).amax((2, 3)))
        torch.testing.assert_close(model(x), expected)
        model.reset_classifier(0, "")
        assert model(x).shape == model.forward_features(x).shape

    def test_gives_the_features_of_its_stages(self, name):
        torch.manual_seed(1)
        model = small(name, num_classes=2).eval()
        extractor, x = small(name, features_only=True).eval(), torch.randn(2, 3, 9, 12)
        extractor.model.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head.")})
        features = extractor(x)
        assert [feature.shape[1] for feature in features] == extractor.feature_info.channels()
        assert extractor.feature_info.reduction() == [2**stage for stage in range(len(features))]
        torch.testing.assert_close(features[-1], model.forward_features(x))
        last, both = model.forward_intermediates(x, indices=(-1, 0))
        for found, expected in zip((last, *both), (features[-1], features[-1], features[0]), strict=True):
            torch.testing.assert_close(found, expected)

    def test_leaves_out_stages_that_are_not_asked_for(self, name):
        extractor = small(name, features_only=True, out_indices=(0,))
        (feature,) = extractor(torch.randn(2, 3, 8, 8))
        feature.sum().backward()
        assert all(parameter.grad is not None for parameter in extractor.parameters())


def test_stages_beyond_those_of_the_network_are_its_last_averaged():
    extractor = small("kan_vgg", features_only=True, out_indices=(1, 3))
    last, beyond = extractor(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(beyond, nn.functional.avg_pool2d(last, 4))
    assert extractor.feature_info.reduction() == [2, 8]


@pytest.mark.parametrize("change", [lambda model: refine_grids(model, 9), mask_an_edge], ids=["refined", "pruned"])
def test_what_training_makes_of_a_model_loads(change):
    model, x = small("kan_vgg", head="kan", num_classes=2, kind="full").eval(), torch.randn(2, 3, 8, 8)
    change(model)
    again = small(
        "kan_vgg",
        head="kan",
        kind="full",
        num_classes=2,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": model.state_dict(), "file": None, "num_classes": 2},
    ).eval()
    torch.testing.assert_close(again(x), model(x))


class TestRefusals:
    @pytest.mark.parametrize("pool", ["catavgmax", ""])
    def test_of_ways_to_pool_that_do_not_fit_the_head(self, pool):
        with pytest.raises(ValueError, match="global_pool must be 'avg', 'max' or 'avgmax', or '' with num_classes 0"):
            small("kan_vgg", global_pool=pool)

    @pytest.mark.parametrize("option", ["drop_path_rate", "out_indices"])  # the latter goes with features_only
    def test_of_options_that_the_model_does_not_have(self, option):
        with pytest.raises(TypeError, match=f"kan_vgg has no option {option}"):
            timm.create_model("kan_vgg", **{option: (1,)})

    def test_of_models_that_do_not_tell_their_stages(self):
        with pytest.raises(TypeError, match="name must be that of a model with a method stages, got one of Sequential"):
            TimmClassifier("cnn_small")

    def test_of_stages_that_are_not_there(self):
        model = small("kan_vgg")
        with pytest.raises(ValueError, match="indices must be those of 2 stages"):
            model.forward_intermediates(torch.randn(1, 3, 8, 8), indices=[2])
        with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NHWC'"):
            model.forward_intermediates(torch.randn(1, 3, 8, 8), output_fmt="NHWC")


def test_a_unet_of_segmentation_models_trains_a_step():
    smp = pytest.importorskip("segmentation_models_pytorch")
    net = smp.Unet("tu-kan_resnet20", encoder_weights=None, classes=2)
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    masks = net(torch.randn(2, 3, 32, 32))
    assert masks.shape == (2, 2, 32, 32)
    masks.square().mean().backward()
    optimizer.step()
    changed = [name for name, _ in net.named_parameters() if not torch.equal(net.state_dict()[name], before[name])]
    assert len(changed) == len(list(net.parameters()))
