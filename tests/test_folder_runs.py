"""The commands on a folder of pictures: what they tell, keep and refuse, and that a model meets its classes by name."""

import json
import os
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from commands import assert_refused, finished
from PIL import Image

from convkan.models import load_classifier
from convkan.training import ImageData
from experiments import deletion, explain, predict, prune, train
from experiments.common import cli
from experiments.common.images import read_image

TINY = ("--model_options.widths", "[2,3]", "--threads", 1, "--accelerator", "cpu", "--epochs", 1)
SHADES = {"bright": 210, "dark": 70}


def fill(root, shades=SHADES, count=4):
    """Noisy 16-bit pictures of two shades."""
    for name, shade in shades.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            noise = np.random.default_rng([shade, index]).integers(-30, 30, (9, 12))
            Image.fromarray(((shade + noise) * 257).astype(np.uint16)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures in three parts."""
    root = tmp_path_factory.mktemp("pictures")
    for part, count in (("Train", 6), ("valid", 3), ("TEST", 2)):
        fill(root / part, count=count)
    return root


@pytest.fixture(scope="module")
def run_folder(pictures, tmp_path_factory):
    """A tiny run on them."""
    flags = ("--dataset", "folder", "--data_root", pictures, "--image_size", 8, *TINY)
    return finished(tmp_path_factory.mktemp("runs") / "tiny", *flags)


def test_run_tells_what_it_found_and_keeps_it(pictures, call, tmp_path):
    outcome = call(
        train, "--dataset", "folder", "--data_root", pictures, *TINY, "--runs_root", tmp_path, "--run_name", "one"
    )
    assert outcome.status == 0
    for words in ("12 images in Train, 6 images in valid, 4 images in TEST", "2 classes: bright 11, dark 11",
                  "32 × 32 pixels, the default: --image-size", "val_fraction is not used",
                  "12 training, 6 validation, 4 test images"):  # fmt: skip
        assert words in outcome.out
    expected = {part: dict.fromkeys(SHADES, count) for part, count in (("train", 6), ("val", 3), ("test", 2))}
    assert json.loads((tmp_path / "one" / "result.json").read_text())["images"] == expected
    assert json.loads((tmp_path / "one" / "data.json").read_text())["images"] == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda root: fill(root, {"only": 100}),
        lambda root: fill(root, count=1),
        lambda root: [fill(root / part) for part in ("train", "val", "valid")],
        lambda root: (fill(root / "train"), fill(root / "test", {"bright": 210})),
    ],
    ids=["one class", "two images", "val and valid", "class missing"],
)
def test_data_that_cannot_be_learned_from_are_refused_before_training(make, call, tmp_path):
    make(tmp_path / "pictures")
    outcome = call(
        train, "--dataset", "folder", "--data_root", tmp_path / "pictures", *TINY, "--runs_root", tmp_path / "runs"
    )
    assert_refused(outcome, tmp_path / "pictures")
    assert not [*(tmp_path / "runs").glob("*")]


def test_fraction_that_leaves_no_image_leaves_no_folder(call, tmp_path):
    assert_refused(call(train, *TINY, "--train_fraction", 1e-4, "--runs_root", tmp_path), "train_fraction 0.0001")
    assert [*tmp_path.iterdir()] == []


def test_equal_images_of_two_classes_can_be_trained_on(call, tmp_path):
    for name in SHADES:
        (tmp_path / "equal" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("L", (8, 8), 120).save(tmp_path / "equal" / name / f"{index}.png")
    flags = ("--dataset", "folder", "--data_root", tmp_path / "equal", "--image_size", 8, "--adapt_every", 1, *TINY)
    assert call(train, *flags, "--runs_root", tmp_path / "runs", "--run_name", "equal").status == 0
    record = json.loads((tmp_path / "runs" / "equal" / "result.json").read_text())
    model, _ = load_classifier(tmp_path / "runs" / "equal" / "model.safetensors")
    assert record["test_accuracy"] == 0.5
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_images_can_be_trained_and_pruned_on(count, call, monkeypatch, tmp_path):
    if count > 2:  # pictures are drawn of the fewest
        monkeypatch.setattr(train, "draw", lambda *_: None)
    for part in ("train", "val", "test"):
        fill(tmp_path / part, {"bright": 210}, count=1)
        fill(tmp_path / part, {"dark": 70}, count=count - 1)
    flags = ("--dataset", "folder", "--data_root", tmp_path, "--image_size", 8, "--batch_size", 2, *TINY)
    outcome = call(train, *flags, "--runs_root", tmp_path / "runs", "--run_name", "few")
    assert outcome.status == 0, outcome.err
    data = ImageData("folder", data_root=tmp_path, image_size=8, batch_size=2)
    data.setup()
    assert min(map(len, prune.measured_on(data, 1280))) > 1
    assert min(len(labels) for _, labels in data.train_dataloader()) == 2


def test_training_prediction_and_explanation_see_the_same_pixels(pictures, run_folder):
    _, description = load_classifier(run_folder / "model.safetensors")
    record = json.loads((run_folder / "result.json").read_text())
    trained_on = ImageData("folder", data_root=pictures, image_size=8)
    trained_on.setup()
    explained = explain._data(record, description, explain.ExplainConfig(str(run_folder)))
    assert torch.equal(explained.train.pixels, trained_on.train.pixels)
    paths = [path for name in SHADES for path in sorted((pictures / "Train" / name).iterdir())]
    given = torch.cat([read_image(path, description) for path in paths])
    assert torch.equal(given, explain._normalized(explained.train.pixels, description))
    assert 200 < explained.train.pixels[:6].float().mean() < 220  # 16 bits, and neither black nor white
    assert 60 < explained.train.pixels[6:].float().mean() < 80


def test_prediction_names_damaged_pictures_and_goes_on(pictures, run_folder, call, tmp_path):
    good = pictures / "TEST" / "dark" / "0.png"
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(good.read_bytes().replace(b"IHDR", b"IHDr", 1))
    outcome = call(predict, "--run", run_folder, good, damaged, tmp_path / "missing.png", good)
    assert outcome.status == 1
    assert [line.split(": ")[0] for line in outcome.out.splitlines()] == [str(good)] * 2
    first, second, last = outcome.err.splitlines()
    assert str(damaged) in first
    assert str(tmp_path / "missing.png") in second
    assert "2 of 4" in last


def test_explain_takes_one_picture_or_a_list(pictures, run_folder, call, tmp_path, monkeypatch):
    monkeypatch.setattr(explain, "_inlined", lambda figure: "")  # which test_explain looks at
    good = pictures / "TEST" / "dark" / "0.png"
    for given in (good, f"[{good}, {good}]"):
        config = cli.parse(explain.ExplainConfig, "test", ["--image", str(given)])
        assert config.image in (str(good), [str(good)] * 2)
    flags = ("--images", 1, "--edges", 1, "--samples", 8, "--out", tmp_path / "page.html")
    outcome = call(explain, "--run", run_folder, "--image", good, *flags)
    assert outcome.status == 0
    assert "Images the given pictures" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_explain_names_a_damaged_picture_before_it_measures(run_folder, call, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    assert_refused(call(explain, "--run", run_folder, "--image", tmp_path / "x.png"), tmp_path / "x.png")


class TestClassesAreComparedByName:
    """Wherever a trained model meets data."""

    @pytest.fixture
    def renamed(self, pictures, tmp_path):
        """The same pictures with other class names, in another order."""
        shutil.copytree(pictures, tmp_path / "renamed")
        for part in (tmp_path / "renamed").iterdir():
            (part / "bright").rename(part / "sunny")
        return tmp_path / "renamed"

    @pytest.mark.parametrize("script", [explain, deletion])
    def test_other_classes_are_refused(self, script, renamed, run_folder, call):
        outcome = call(script, "--run", run_folder, "--data_root", renamed)
        assert_refused(outcome, "only the model has: bright", "only the data set has: sunny", renamed)

    def test_pruning_on_other_classes_is_refused(self, renamed, run_folder, call, tmp_path):
        moved = tmp_path / "moved"
        shutil.copytree(run_folder, moved)
        text = (moved / "config.yaml").read_text()
        [line] = [line for line in text.splitlines() if line.startswith("data_root")]
        (moved / "config.yaml").write_text(text.replace(line, f"data_root: {renamed}"))
        assert_refused(call(prune, "--run", moved), "bright", "sunny")

    def test_a_model_that_numbers_them_otherwise_is_judged_by_name(self, pictures):
        data = ImageData("folder", data_root=pictures, image_size=8)
        data.match_classes(["dark", "bright"])
        bright = data.test.pixels[data.test.labels == 1]
        assert bright.float().mean() > 150
        assert data.counts()["test"] == {"dark": 2, "bright": 2}

    @pytest.mark.parametrize("change", ["class", "image"])
    def test_a_run_does_not_go_on_with_other_images(self, change, pictures, call, tmp_path):
        root = tmp_path / "pictures"
        shutil.copytree(pictures, root)
        flags = ("--dataset", "folder", "--data_root", root, "--image_size", 8, *TINY)
        assert call(train, *flags, "--runs_root", tmp_path, "--run_name", "run").status == 0
        (tmp_path / "run" / "result.json").unlink()
        if change == "image":
            (root / "Train" / "dark" / "0.png").unlink()
        else:
            for part in root.iterdir():
                (part / "dark").rename(part / "night")
        words = ("in train, dark 6 then, 5 now",) if change == "image" else ("dark, night",)
        assert_refused(call(train, "--resume", tmp_path / "run"), tmp_path / "run", *words)


@pytest.mark.parametrize("lines", [0, 3, 100_000])
@pytest.mark.parametrize("flushed", [True, False])
@pytest.mark.parametrize("ending", [None, SystemExit(0)], ids=["returns", "exits"])
def test_output_that_nobody_reads_ends_a_script_quietly(lines, flushed, ending, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)

    def main():
        for line in range(lines):
            print(line, flush=flushed)
        if ending is not None:
            raise ending

    with os.fdopen(writer, "w") as output:  # closing it writes what is left
        monkeypatch.setattr("sys.stdout", output)
        with pytest.raises(SystemExit) if lines or ending else nullcontext() as ended:
            cli.run(main)
    if lines:
        assert ended.value.code == cli.BROKEN_PIPE
    assert capsys.readouterr().err == ""


def test_another_broken_pipe_than_that_of_the_output_is_an_error(capsys):
    def fail():
        raise BrokenPipeError(32, "the other end of something else has gone")

    with pytest.raises(SystemExit) as ended:
        cli.run(fail)
    assert ended.value.code == 1
    assert "something else" in capsys.readouterr().err
