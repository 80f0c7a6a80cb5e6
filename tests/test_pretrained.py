import copy
import json
import os

import numpy as np
import pytest
import torch
from bumps import Bumps
from PIL import Image
from safetensors.torch import save_file

from convkan.basis import RBF, BSpline, Chebyshev
from convkan.models import (
    Description,
    Weights,
    create_model,
    freeze_body,
    get_weights,
    list_weights,
    load_classifier,
    pretrained,
)
from convkan.models.heads import head_name, replace_head
from convkan.models.images import normalize
from convkan.training import ImageData, save_classifier
from convkan.training.datasets import DataError
from experiments.common.images import read_image

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

    @pytest.mark.parametrize("asked", [{"width": 5.0}, {"in_channels": 1}, {"rank": 2}, {"base_activation": None}])
    def test_what_differs_is_refused(self, shipped, asked):
        [name] = asked
        with pytest.raises(ValueError, match=rf"{name} must be .*as these weights were trained with, got"):
            create_model("kan_vgg", weights="pets", **asked)

    def test_other_classes_get_a_fresh_head_on_the_trained_body(self, shipped):
        model = create_model("kan_vgg", 3, weights="pets")
        assert model.training
        assert (model.head.out_features, shipped.head.out_features) == (3, 2)
        x = torch.rand(2, 3, 8, 8)
        assert torch.equal(model.eval().features(x), shipped.features(x))

    @pytest.mark.parametrize("num_classes", [0, 2.5])
    def test_impossible_numbers_of_classes_are_refused(self, shipped, num_classes):
        with pytest.raises(ValueError, match="num_classes must be a positive integer, got"):
            create_model("kan_vgg", num_classes, weights="pets")

    def test_weights_of_a_file_load_as_those_of_the_package(self, shipped, tmp_path):
        weights = Weights.of_file(tmp_path / "kan_vgg-pets.safetensors")
        x = torch.rand(2, 3, 8, 8)
        assert torch.equal(create_model("kan_vgg", weights=weights)(x), shipped(x))
        with pytest.raises(ValueError, match="weights must be those of vgg, got 'kan_vgg-pets' of kan_vgg"):
            create_model("vgg", weights=weights)

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


@pytest.mark.parametrize("name", ["kan_cnn", "kkan_small", "plain_cnn"])
def test_any_model_of_the_registry_takes_a_fresh_head(name, tmp_path):
    description = Description(name, 1, (28, 28), list("abc"), [0.5], [0.5])
    trained = description.create()
    weights = Weights.of_file(save_classifier(tmp_path / "model.safetensors", trained, description))
    model = create_model(name, 5, weights=weights)
    head = head_name(trained)
    kept = {key: value for key, value in trained.state_dict().items() if key.split(".")[0] != head}
    assert kept
    assert all(torch.equal(model.state_dict()[key], value) for key, value in kept.items())
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 5)


def test_a_frozen_body_stays_and_the_head_learns():
    model = create_model("kan_vgg", 3, width=2.0, depths=[1, 1])
    freeze_body(model)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.rand(4, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_a_model_without_a_known_head_is_refused():
    with pytest.raises(ValueError, match="model must have a module called head, or be an nn.Sequential"):
        freeze_body(torch.nn.Linear(2, 3))


def test_a_last_layer_without_parameters_is_no_head():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LogSoftmax(-1))
    for change in (freeze_body, lambda model: replace_head(model, copy.deepcopy(model))):
        with pytest.raises(ValueError, match="its logits, got LogSoftmax, which has no parameters"):
            change(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_body_that_depends_on_the_classes_takes_no_other_head():
    three, five = (torch.nn.Sequential(torch.nn.Linear(2, n), torch.nn.PReLU()) for n in (3, 5))
    with pytest.raises(ValueError, match="in its head '1' alone, got other sizes of 0.weight, 0.bias"):
        replace_head(three, five)
    assert three(torch.rand(1, 2)).shape == (1, 3)


class TestHeaders:
    @staticmethod
    def written(path, record="{}", **change):
        """A file of a small model whose header says something else."""
        description = Description("kan_cnn", 1, (8, 8), ["a", "b"], [0.5], [0.5])
        config = {key: value for key, value in (description.to_config() | change).items() if value is not None}
        save_file(description.create().state_dict(), path, {"convkan": json.dumps(config), "convkan_record": record})
        return path

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"options": []}, r"options must be a mapping, got \[\]"),
            ({"options": {"basis": {"basis": "rbf", "colour": 1}}}, "colour"),
            ({"class_names": 3}, "class_names must be a list, got 3"),
            ({"std": None}, "missing or unknown: std"),
            ({"image_size": [8]}, r"image_size must be a height and a width, got \[8\]"),
        ],
    )
    def test_that_are_damaged_are_refused_by_the_name_of_the_file(self, change, words, tmp_path):
        path = self.written(tmp_path / "damaged.safetensors", **change)
        for read in (load_classifier, Weights.of_file):
            with pytest.raises(ValueError, match=rf"damaged\.safetensors does not fit .*{words}"):
                read(path)

    @pytest.mark.parametrize("record", ["{", "[]"])
    def test_with_a_damaged_record_are_refused_where_it_is_read(self, record, tmp_path):
        path = self.written(tmp_path / "damaged.safetensors", record=record)
        with pytest.raises(ValueError, match=r"damaged\.safetensors has no readable record"):
            Weights.of_file(path)
        load_classifier(path)

    def test_without_options_are_of_the_models_own(self, tmp_path):
        path = self.written(tmp_path / "model.safetensors", options=None)
        assert load_classifier(path)[1].options == {}


class TestWhatIsKnown:
    def test_it_has_torchvisions_names(self):
        meta = get_weights("kan_vgg", "cifar10").meta
        assert meta["categories"][3] == "cat"
        assert meta["num_params"] == sum(p.numel() for p in create_model("kan_vgg", weights="cifar10").parameters())
        assert 75 < meta["_metrics"]["cifar10"]["acc@1"] < 85

    def test_weights_saved_without_a_record_say_what_the_file_says(self, shipped, tmp_path):
        description = Description("kan_vgg", 3, (8, 8), ["cat", "dog"], [0.4] * 3, [0.2] * 3, OPTIONS)
        path = save_classifier(tmp_path / "kan_vgg-bare.safetensors", shipped, description)
        assert "_metrics" not in Weights.of_file(path).meta
        assert Weights.of_file(path).record() == {}

    def test_pictures_are_prepared_as_files_are(self, tmp_path):
        description = Description("kan_vgg", 1, (8, 8), ["a", "b"], [0.4], [0.2])
        picture = Image.fromarray(torch.randint(256, (13, 9, 3), dtype=torch.uint8).numpy())
        picture.save(tmp_path / "picture.png")
        path = save_classifier(tmp_path / "kan_vgg-a.safetensors", description.create(), description)
        prepare = Weights.of_file(path).transforms()
        expected = read_image(tmp_path / "picture.png", description)
        assert torch.equal(prepare(picture), expected[0])
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert torch.equal(prepare(pixels.unsqueeze(0)), expected)

    def test_grey_becomes_colour(self):
        prepare = get_weights("kan_vgg", "cifar10").transforms()
        prepared = prepare(torch.full((1, 32, 32), 100, dtype=torch.uint8))
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (prepare.mean, prepare.std))
        torch.testing.assert_close(prepared * std + mean, torch.full((3, 32, 32), 100 / 255))

    @pytest.mark.parametrize("image", [torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.uint8), [[0]]])
    def test_what_is_no_picture_is_refused(self, image):
        with pytest.raises(TypeError, match="image must be a picture"):
            get_weights("kan_vgg", "cifar10").transforms()(image)

    def test_unknown_channels_are_refused(self):
        with pytest.raises(ValueError, match="channels must be 1 .grey. or 3 .colour. to read pictures, got 2"):
            get_weights("kan_vgg", "cifar10").transforms()(torch.zeros(2, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("basis", [BSpline(4, order=2, grid_range=(-2, 2)), Chebyshev(3), RBF(5)])
def test_bases_are_kept_in_files(basis, tmp_path):
    description = Description("kan_cnn", 1, (8, 8), ["a", "b"], [0.5], [0.5], {"basis": basis, "widths": (2,)})
    model, x = description.create().eval(), torch.rand(2, 1, 8, 8)
    again, read = load_classifier(save_classifier(tmp_path / "model.safetensors", model, description))
    assert read.options["basis"] == basis
    assert torch.equal(again(x), model(x))


def test_a_basis_that_files_cannot_name_is_refused(tmp_path):
    options = {"basis": Bumps(5), "widths": (2,)}
    description = Description("kan_cnn", 1, (8, 8), ["a", "b"], [0.5], [0.5], options)
    with pytest.raises(ValueError, match="basis must be a basis in convkan.basis.BASES"):
        save_classifier(tmp_path / "model.safetensors", description.create(), description)


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
