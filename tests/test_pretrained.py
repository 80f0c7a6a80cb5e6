import os

import pytest
import torch

from convkan.models import Description, create_model, list_weights, load_classifier, pretrained
from convkan.training import ImageData, save_classifier
from convkan.training.data import normalize
from convkan.training.datasets import DataError

DATA_ROOT = os.environ.get("CONVKAN_DATA")
OPTIONS = {"width": 4.0, "depths": [1, 1]}
MEGABYTE = 10**6


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package whose only weights are those of a small network called ``pets``."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    description = Description("kan_vgg", 3, (8, 8), ["cat", "dog"], [0.4] * 3, [0.2] * 3, OPTIONS)
    model = description.create()
    model(torch.rand(4, 3, 8, 8))  # moves the statistics of batch normalisation
    save_classifier(tmp_path / "kan_vgg-pets.safetensors", model, description, {"test_accuracy": 0.5})
    return model.eval()


class TestLoading:
    def test_weights_decide_the_model(self, shipped):
        x = torch.rand(2, 3, 8, 8)
        assert torch.equal(create_model("kan_vgg", weights="pets")(x), shipped(x))

    def test_they_are_listed_with_their_record(self, shipped):
        [weights] = list_weights()
        assert (weights.model, weights.name) == ("kan_vgg", "pets")
        assert weights.record() == {"test_accuracy": 0.5}

    @pytest.mark.parametrize("asked", [OPTIONS, {"depths": (1, 1)}, {"num_classes": 2, "in_channels": 3}, {"rank": 1}])
    def test_what_agrees_may_be_said_again(self, shipped, asked):
        create_model("kan_vgg", weights="pets", **asked)

    @pytest.mark.parametrize(
        "asked", [{"width": 5.0}, {"num_classes": 3}, {"in_channels": 1}, {"rank": 2}, {"base_activation": None}]
    )
    def test_what_differs_is_refused(self, shipped, asked):
        [name] = asked
        with pytest.raises(ValueError, match=rf"{name} must be .*as these weights were trained with, got"):
            create_model("kan_vgg", weights="pets", **asked)

    def test_unknown_option_is_refused(self, shipped):
        with pytest.raises(TypeError, match="kan_vgg has no option breadth"):
            create_model("kan_vgg", weights="pets", breadth=3)

    @pytest.mark.parametrize(("model", "weights"), [("kan_vgg", "imagenet"), ("vgg", "pets")])
    def test_unknown_weights_are_refused(self, shipped, model, weights):
        with pytest.raises(ValueError, match=f"weights must be among 'pets' of kan_vgg; got '{weights}' of {model}"):
            create_model(model, weights=weights)

    def test_unknown_model_is_refused(self):
        with pytest.raises(ValueError, match="model must be one of"):
            create_model("resnet", weights="mnist")


def test_weights_in_the_package_are_small():
    assert {weights.name for weights in list_weights()} == {"mnist", "fashion_mnist", "cifar10"}
    assert sum(weights.path.stat().st_size for weights in list_weights()) < MEGABYTE


@pytest.mark.skipif(DATA_ROOT is None, reason="CONVKAN_DATA says where the real data sets lie")
@pytest.mark.parametrize("images", [400, pytest.param(None, marks=pytest.mark.thorough, id="all")])
@pytest.mark.parametrize("weights", list_weights(), ids=lambda weights: f"{weights.model}-{weights.name}")
def test_weights_in_the_package_reproduce_their_accuracy(weights, images):
    record = weights.record()
    data = ImageData(record["dataset"])
    try:
        data.setup()
    except DataError as error:
        pytest.skip(str(error))
    model = create_model(weights.model, weights=weights.name)
    _, description = load_classifier(weights.path)
    pixels, labels = data.test.pixels[:images], data.test.labels[:images]
    with torch.no_grad():
        right = sum(
            (model(normalize(part, description.mean, description.std)).argmax(1) == of_part).sum().item()
            for part, of_part in zip(pixels.split(500), labels.split(500), strict=True)
        )
    share = record["test_accuracy"]
    # Of all images only those may differ that other machines' rounding turns; of some, as many as chance allows.
    tolerance = 5e-4 if images is None else 4 * (share * (1 - share) / images) ** 0.5
    assert right / len(labels) == pytest.approx(share, abs=tolerance)
