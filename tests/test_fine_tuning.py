"""Training that begins with trained weights, on pictures in folders."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_refused, finished, record
from PIL import Image

from convkan.models import Description, Weights, get_weights, load_classifier, save_classifier
from convkan.training import DataError, ImageData
from experiments import train
from experiments.common.fine_tuning import begin_with_weights
from experiments.common.train_config import TrainConfig

TINY = ("--threads", 1, "--accelerator", "cpu", "--epochs", 1, "--dataset", "folder")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noisy colour pictures of two shades."""
    root = tmp_path_factory.mktemp("pictures")
    for name, shade in {"bright": 200, "dark": 60}.items():
        (root / name).mkdir()
        for index in range(10):
            noise = np.random.default_rng([shade, index]).integers(-30, 30, (9, 12, 3))
            Image.fromarray((shade + noise).astype(np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The weights of a small model of other classes."""
    description = Description("kan_cnn", 3, (8, 8), list("abc"), [0.4] * 3, [0.2] * 3, {"widths": [2, 3]})
    return save_classifier(tmp_path_factory.mktemp("weights") / "model.safetensors", description.create(), description)


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(train, "draw", lambda *_: None)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_head_learns_other_classes_and_the_body_with_it_unless_it_is_frozen(frozen, pictures, trained, tmp_path):
    flags = ("--data_root", pictures, "--weights", trained, "--freeze_body", str(frozen).lower())
    folder = finished(tmp_path / "tuned", *flags, *TINY)
    before, of_before = load_classifier(trained)
    after, of_after = load_classifier(folder / "model.safetensors")
    assert of_after.class_names == ["bright", "dark"]
    assert (of_after.image_size, of_after.mean, of_after.options) == ((8, 8), of_before.mean, of_before.options)
    pairs = zip(before.features.state_dict().values(), after.features.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs) == frozen
    assert record(folder)["config"]["weights"] == str(trained)
    known = Weights.of_file(folder).record()
    assert known["test_accuracy"] == record(folder)["test_accuracy"]
    assert known["dataset"] == "folder"


def test_other_commands_prepare_images_as_the_weights_had_them(pictures):
    data = ImageData("folder", data_root=pictures, image_size=8)
    described = get_weights("kan_vgg", "mnist").description()
    data.match_images(described)
    assert data.image_shape == (1, 8, 8)
    assert (data.mean, data.std) == (described.mean, described.std)
    data.match_images(get_weights("kan_vgg", "cifar10").description())
    assert data.image_shape == (3, 8, 8)
    two = replace(described, in_channels=2)
    with pytest.raises(DataError, match="the images under .* must be as the model's: channels must be 1 .grey. or 3"):
        data.match_images(two)


def test_classes_that_the_weights_know_keep_their_head(pictures, trained, tmp_path):
    flags = ("--data_root", pictures, "--weights", trained, "--learning_rate", 1e-30, "--weight_decay", 0)
    first = finished(tmp_path / "first", *flags, *TINY)
    again = finished(tmp_path / "again", *flags, *TINY, "--weights", first)
    heads = [load_classifier(folder / "model.safetensors")[0].head.state_dict() for folder in (first, again)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in ("1.basis_weight", "1.base_weight"))


def test_classes_in_another_order_keep_their_head(pictures, tmp_path):
    names = ["dark", "bright"]
    description = Description("kan_cnn", 3, (8, 8), names, [0.4] * 3, [0.2] * 3, {"widths": [2, 3]})
    path = save_classifier(tmp_path / "model.safetensors", description.create(), description)
    data = ImageData("folder", data_root=pictures, image_size=8)
    data.setup()
    bright = data.train.pixels[data.train.labels == 0]
    model, described = begin_with_weights(TrainConfig(dataset="folder", weights=str(path)), data)
    assert described.class_names == data.class_names == names
    assert torch.equal(data.train.pixels[data.train.labels == 1], bright)
    assert torch.equal(model.head[1].base_weight, load_classifier(path)[0].head[1].base_weight)


@pytest.mark.parametrize("names", [["dark", "bright"], ["a", "b", "c"]])
def test_a_run_goes_on_without_the_weights_it_began_with(call, names, pictures, tmp_path, monkeypatch):
    description = Description("kan_cnn", 3, (8, 8), names, [0.4] * 3, [0.2] * 3, {"widths": [2, 3]})
    save_classifier(tmp_path / "source.safetensors", description.create(), description)
    monkeypatch.chdir(tmp_path)
    folder = finished(tmp_path / "tuned", "--data_root", pictures, "--weights", "source.safetensors", *TINY)
    began_with = record(folder)["config"]["weights"]
    assert began_with == str(tmp_path / "source.safetensors")
    before = load_classifier(folder / "model.safetensors")[1]
    Path(began_with).unlink()
    assert call(train, "--resume", folder, "--epochs", 2).status == 0
    assert record(folder)["epochs"] == 2
    assert load_classifier(folder / "model.safetensors")[1] == before
    (folder / "description.json").write_text("{", encoding="utf-8")
    assert_refused(call(train, "--resume", folder, "--epochs", 3), folder / "description.json", "is not a readable")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--model", "kan_vgg", "--weights", "mnist", "--model_options.width", 3),
            "width must be 13.125, as these weights",
        ),
        (("--weights", "mnist"), "weights must be among"),
        (("--weights", "nowhere"), "nowhere does not exist"),
        (("--freeze_body", "true"), "freeze_body must come with weights"),
        (
            ("--weights", "x", "--freeze_body", "true", "--adapt_every", 5),
            "freeze_body must come without adapt_every and refine, which change grids of the body, got 5 and {}",
        ),
        (("--weights", "x", "--freeze_body", "true", "--refine", "{1: 9}"), "body, got 0 and {1: 9}"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(call, pictures, flags, words):
    assert_refused(call(train, "--data_root", pictures, *TINY, *flags), words)


def test_weights_of_another_model_are_refused(call, pictures):
    path = get_weights("kan_vgg", "cifar10").path
    outcome = call(train, "--data_root", pictures, *TINY, "--weights", path)
    assert_refused(outcome, "model must be that of the weights, --model kan_vgg, got kan_cnn")
