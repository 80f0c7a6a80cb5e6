import csv
import os
import sys
import time

import pytest
import torch
import yaml
from commands import Outcome, assert_refused, finished, record
from PIL import Image
from processes import start
from torch import nn

from convkan import KANConv2d, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.basis import BSpline
from convkan.models import Weights, list_models, load_classifier
from convkan.training import DATASETS, ImageData, Recipe
from experiments import predict, publish, train
from experiments.common import cli
from experiments.common.cli import UserError
from experiments.common.counting import count_multiply_adds, count_parameters, count_step_memory_bytes
from experiments.common.train_config import TrainConfig

TINY = ("--model_options.widths", "[2,4]", "--threads", 1)
# All that draws random numbers: order, shifts, dropout.
RANDOM = (*TINY, "--model_options.dropout", 0.3, "--augment", "standard", "--train_fraction", 0.3)
RANDOM += ("--seed", 5, "--epochs", 5)
FIGURES = ("learning_curves", "confusion_matrix", "edge_functions")
KEYS = {
    "test_accuracy",
    "val_accuracy",
    "parameters",
    "multiply_adds",
    "seconds_per_epoch",
    "config",
    "seed",
}
CLOCKS = {"epoch_seconds", "input_seconds", "compile_seconds", "total_seconds"}


def script(name, *arguments, output):
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]
    with output.open("wb") as file:
        return start(command, dict(os.environ), file)


def history(folder):
    """The rows of a run's history, without what the clock says."""
    with (folder / "history.csv").open() as file:
        return [{key: row[key] for key in row if key not in CLOCKS} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Two epochs of a tiny model."""
    return finished(tmp_path_factory.mktemp("runs") / "tiny", *TINY, "--epochs", 2, pictures=True)


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory):
    """An uninterrupted run with everything random switched on."""
    return finished(tmp_path_factory.mktemp("runs") / "random", *RANDOM)


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory):
    """A run that learned to read digits."""
    flags = ("--model_options.widths", "[8,16]", "--threads", 1, "--epochs", 3, "--batch_size", 32)
    return finished(tmp_path_factory.mktemp("runs") / "good", *flags)


def test_all_of_a_recipe_can_be_chosen():
    assert all(hasattr(TrainConfig(), name) for name in Recipe.__dataclass_fields__)


def test_run_leaves_its_configuration_and_record(run_folder):
    result = record(run_folder)
    assert set(result) >= KEYS
    assert 0 <= result["test_accuracy"] <= 1
    assert 0 <= result["val_accuracy"] <= 1
    assert result["seconds_per_epoch"] > 0
    assert result["step_memory_bytes"] > 0
    assert result["peak_memory_bytes"] > 0
    assert result["seed"] == 0
    assert result["config"] == yaml.safe_load((run_folder / "config.yaml").read_text())
    assert result["config"]["model_options"] == {"widths": [2, 4]}
    assert set(result) >= {"git_commit", "versions", "device"}


def test_record_agrees_with_the_history(run_folder, random_folder):
    assert record(random_folder)["epochs"] == len(history(random_folder)) == 5  # whichever was the best
    rows, result = history(run_folder), record(run_folder)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert result["val_accuracy"] == max(float(row["val_accuracy"]) for row in rows)
    assert float(rows[result["best_epoch"] - 1]["val_accuracy"]) == result["val_accuracy"]


def test_saved_model_has_the_recorded_size_and_test_accuracy(run_folder):
    model, description = load_classifier(run_folder / "model.safetensors")
    result = record(run_folder)
    data = ImageData()
    data.setup()
    assert count_parameters(model) == result["parameters"]
    assert description.mean == data.mean
    assert description.std == data.std
    images, labels = data.on_after_batch_transfer((data.test.pixels, data.test.labels), 0)
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == labels).double().mean().item()
    assert accuracy == pytest.approx(result["test_accuracy"], abs=1.5 / len(labels))


@pytest.mark.parametrize("name", FIGURES)
def test_run_leaves_its_pictures(run_folder, name):
    with Image.open(run_folder / f"{name}.png") as picture:
        picture.load()
        assert min(picture.size) > 100


def test_run_leaves_logs_and_no_partial_file(run_folder):
    files = [path for path in run_folder.rglob("*") if path.is_file()]
    assert {"metrics.csv", "last.ckpt"} <= {path.name for path in files}
    assert any(path.name.startswith("events.out.tfevents") for path in files)
    assert not [path for path in files if "partial" in path.name or "tmp" in path.name]
    assert all(path.stat().st_size > 0 for path in files)


def test_run_without_kan_layers_has_no_edge_functions(tmp_path):
    folder = finished(tmp_path / "plain", *TINY, "--model", "plain_cnn", "--epochs", 1, pictures=True)
    assert {path.stem for path in folder.glob("*.png")} == {"learning_curves", "confusion_matrix"}


def test_same_seed_gives_the_same_history(random_folder, tmp_path):
    torch.manual_seed(123)
    again = finished(tmp_path / "again", *RANDOM)
    assert history(again) == history(random_folder)
    for key in ("test_accuracy", "test_loss", "val_accuracy", "best_epoch"):
        assert record(again)[key] == record(random_folder)[key]


@pytest.mark.slow
def test_killed_run_goes_on_as_if_it_had_not_been(random_folder, tmp_path, call):
    folder = tmp_path / "killed"
    flags = (*RANDOM, "--runs_root", tmp_path, "--run_name", folder.name)
    output = tmp_path / "output.txt"
    process = script("train", *flags, output=output)
    try:
        while not ((folder / "history.csv").exists() and (folder / "checkpoints" / "last.ckpt").exists()):
            assert process.poll() is None, output.read_text(encoding="utf-8")
            time.sleep(0.01)
        time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert 1 <= len(history(folder)) < 5
    assert not (folder / "result.json").exists()
    outcome = call(train, "--resume", folder)
    assert outcome.status == 0, outcome.err
    assert history(folder) == history(random_folder)
    for key in ("test_accuracy", "test_loss", "val_accuracy", "best_epoch", "epochs"):
        assert record(folder)[key] == record(random_folder)[key]
    weights, expected = (
        load_classifier(path / "model.safetensors")[0].state_dict() for path in (folder, random_folder)
    )
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_finished_run_is_not_resumed(run_folder, call):
    assert_refused(call(train, "--resume", run_folder), run_folder, "finished", "result.json")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--batch_size", 9), ["--resume", "--epochs", "got --batch_size"]),
        (("--epochs", 9, "--model-options.widths=[3]", "--seed=1"), ["got --model_options, --seed"]),
        (("--config", "x.yaml"), ["x.yaml"]),
        (("--epochs", 2), ["epochs must be more than the 2 that", "got 2"]),
        (("--on_resume", "restart"), ["on_resume must come with --epochs"]),
    ],
)
def test_resuming_takes_epochs_and_refuses_other_options_by_name(flags, words, run_folder, call):
    before = {path: path.read_bytes() for path in run_folder.glob("*.*")}
    outcome = call(train, "--resume", run_folder, *flags)
    assert outcome.status != 0
    assert all(word in outcome.err for word in words), outcome.err
    assert {path: path.read_bytes() for path in run_folder.glob("*.*")} == before


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "foreign", "not yaml", "no mapping", "nothing"])
def test_folder_of_no_run_is_not_resumed(kind, call, tmp_path):
    folder = tmp_path / "folder"
    if kind == "file":
        folder.write_text("")
    elif kind != "missing":
        folder.mkdir()
    contents = {"foreign": "depth: 3\n", "not yaml": "a: [", "no mapping": "- 1\n", "nothing": ""}
    if kind in contents:
        (folder / "config.yaml").write_text(contents[kind])
    assert_refused(call(train, "--resume", folder), folder, "is not the folder of a run")


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_truncated_checkpoint_is_reported(kept, run_folder, call, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_bytes((run_folder / "config.yaml").read_bytes())
    content = (run_folder / "checkpoints" / "last.ckpt").read_bytes()
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    assert_refused(call(train, "--resume", folder), checkpoint)


def test_existing_run_is_not_overwritten(run_folder, call):
    before = record(run_folder)
    flags = ("--runs_root", run_folder.parent, "--run_name", run_folder.name)
    assert_refused(call(train, *TINY, *flags), run_folder, "exists", "--resume")
    assert record(run_folder) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--model", "resnet"), [*list_models(), "'resnet'"]),
        (("--model", "kan_unet"), ["classifier", "'kan_unet'", "experiments.segment"]),
        (("--dataset", "imagenet"), [*DATASETS, "'imagenet'"]),
        (("--model_options.depth", 3), ["kan_cnn", "depth", "widths", "rank", "basis"]),
        (("--model_options.basis", "splines"), ["basis", "bspline", "chebyshev", "'splines'"]),
        (("--model_options.widths", "[0]"), ["widths"]),
        (("--epochs", 0), ["epochs"]),
        (("--batch_size", 0), ["batch_size"]),
        (("--val_fraction", 2), ["val_fraction"]),
        (("--learning_rate", -1), ["learning_rate"]),
        (("--weight_decay", -1), ["decay"]),
        (("--gradient_clip", -1), ["gradient_clip"]),
        (("--threads", 0), ["threads"]),
        (("--precision", "8-fast"), ["precision", "8-fast"]),
        (("--accelerator", "abacus"), ["accelerator", "abacus"]),
        (("--dataset", "mnist", "--image_size", 32), ["image_size"]),
        (("--dataset", "folder", "--data_root", "nowhere"), ["nowhere"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_value_that_cannot_be_is_refused_before_anything_is_left_on_disk(flags, words, call, tmp_path):
    assert_refused(call(train, "--epochs", 1, *TINY, *flags), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--optimizer", "lion"), ["optimizer", "adamw", "adam", "sgd", "lion"]),
        (("--schedule", "step"), ["schedule", "cosine", "one_cycle", "constant", "step"]),
        (("--augment", "strong"), ["augment", "standard", "none", "strong"]),
        (("--depth", 3), ["--depth"]),
        (("--epochs", "many"), ["epochs", "many"]),
        (("--config", "nowhere.yaml"), ["nowhere.yaml"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_flag_that_does_not_parse_is_refused(flags, words, call, tmp_path):
    outcome = call(train, *flags)
    assert outcome.status not in (0, None)
    assert "Traceback" not in outcome.err
    assert "error: " in outcome.err
    for word in words:
        assert word in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_diverging_run_is_reported(call, tmp_path):
    flags = ("--optimizer", "sgd", "--learning_rate", 1e30, "--schedule", "constant", "--epochs", 1)
    assert_refused(call(train, *TINY, *flags, "--run_name", "wild"), "epoch 1", "--learning-rate")
    assert not (tmp_path / "runs" / "wild" / "result.json").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--run-name", "x", "--compile", "--learning-rate=0.1", "--batch-size", "3"],
        ["--run_name=x", "--compile", "true", "--learning_rate", "0.1", "--batch_size=3"],
        ["--compile=true", "--run-name", "x", "--learning_rate=1e-1", "--batch-size=3"],
        ["--run-name", "x", "--learning-rate", "0.1", "--batch_size", "3", "--compile"],
    ],
)
def test_flags_take_hyphens_and_switches_no_value(flags):
    config = cli.parse(TrainConfig, "test", flags)
    assert config == TrainConfig(run_name="x", compile=True, learning_rate=0.1, batch_size=3)


def test_switch_can_be_turned_off():
    assert not cli.parse(TrainConfig, "test", ["--compile", "false"]).compile


@pytest.mark.parametrize("text", ["{4:10,6:20}", "{4: 10, 6: 20}"])
def test_mappings_of_numbers_may_do_without_spaces(text):
    for flags in (["--refine", text], [f"--refine={text}"]):
        assert cli.parse(TrainConfig, "test", flags).refine == {4: 10, 6: 20}


def test_value_with_hyphens_is_left_alone():
    assert cli.parse(TrainConfig, "test", ["--run-name", "a-b_c"]).run_name == "a-b_c"
    assert cli.parse(TrainConfig, "test", ["--run-name=a-b_c"]).run_name == "a-b_c"


def test_options_come_from_a_file_and_flags_outrank_it(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: plain_cnn\nepochs: 7\nmodel_options:\n  widths: [3]\nlearning_rate: 1e-4\n")
    config = cli.parse(TrainConfig, "test", ["--config", str(path), "--epochs", "2"])
    expected = {"model": "plain_cnn", "model_options": {"widths": [3]}, "learning_rate": 1e-4}
    assert config == TrainConfig(epochs=2, **expected)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_config_file_is_read_as_utf8_in_any_locale(tmp_path, monkeypatch, mark):
    path = tmp_path / "a.yaml"
    path.write_text(f"{mark}run_name: Käfer-虫\n", encoding="utf-8")

    def opened(file, mode="r", buffering=-1, encoding=None, *args, open=open, **kwargs):
        encoding = "ascii" if "b" not in mode and encoding in (None, "locale") else encoding
        return open(file, mode, buffering, encoding, *args, **kwargs)

    monkeypatch.setattr("io.open", opened)
    monkeypatch.setattr("builtins.open", opened)
    assert cli.parse(TrainConfig, "test", ["--config", str(path)]).run_name == "Käfer-虫"


def test_a_config_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("run_name: Käfer\n".encode("latin-1"))
    with pytest.raises(UserError, match="config must be a file in UTF-8, got .*a.yaml: "):
        cli.parse(TrainConfig, "test", ["--config", str(path)])


def test_configuration_of_a_run_is_a_configuration_file(run_folder):
    config = cli.parse(TrainConfig, "test", ["--config", str(run_folder / "config.yaml")])
    assert config == TrainConfig(**record(run_folder)["config"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of unseen digits, named after their class."""
    data = ImageData()
    data.setup()
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(20):
        digit = data.test.labels[index].item()
        Image.fromarray(data.test.pixels[index, 0].numpy()).save(folder / f"{digit}-{index}.png")
    return sorted(folder.iterdir())


def test_predict_reads_most_pictures_right(good_folder, pictures, call):
    outcome = call(predict, "--run", good_folder, *pictures)
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(path) for path in pictures]
    right = [line.split(": ")[1][0] == path.name[0] for line, path in zip(lines, pictures, strict=True)]
    assert sum(right) >= 0.7 * len(right)
    assert all(line.count("%") == 3 for line in lines)


def test_predict_classifies_the_others_when_a_picture_cannot_be_read(good_folder, pictures, call, tmp_path):
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(pictures[0].read_bytes()[:60])
    outcome = call(predict, "--run", good_folder / "model.safetensors", broken, pictures[0], missing, pictures[1])
    assert outcome.status == 1
    assert [line.split(": ")[0] for line in outcome.out.splitlines()] == [str(path) for path in pictures[:2]]
    errors = outcome.err.splitlines()
    assert all(line.startswith("error: ") for line in errors)
    assert [str(path) in line for path, line in zip((broken, missing), errors, strict=False)] == [True, True]
    assert "2 of 4" in errors[-1]


@pytest.mark.parametrize(("top", "named"), [(1, 1), (10, 10), (99, 10)])
def test_predict_names_as_many_classes_as_asked(top, named, run_folder, pictures, call):
    outcome = call(predict, "--run", run_folder, "--top", top, pictures[0])
    assert outcome.out.count("%") == named


def test_predict_fits_pictures_of_another_size_and_mode(run_folder, call, tmp_path):
    Image.new("RGBA", (40, 31), (9, 200, 30, 128)).save(tmp_path / "large.png")
    assert call(predict, "--run", run_folder, tmp_path / "large.png").status == 0


@pytest.mark.parametrize("exists", [True, False])
def test_predict_from_a_run_without_a_model_is_refused(exists, pictures, call, tmp_path):
    folder = tmp_path / "run"
    if exists:
        folder.mkdir()
    assert_refused(call(predict, "--run", folder, pictures[0]), folder, "does not exist")


@pytest.mark.slow
def test_script_ends_with_one_line_and_status_1(tmp_path):
    output = tmp_path / "output.txt"
    status = script("predict", "--run", tmp_path, "x.png", output=output).wait()
    outcome = Outcome(status, "", output.read_text(encoding="utf-8"))  # what it prints would be a second line of this
    assert_refused(outcome, "model.safetensors", "does not exist")


@pytest.mark.parametrize("error", [cli.UserError, ModuleNotFoundError, OSError, ValueError])
def test_what_a_user_can_mend_is_one_line(error, monkeypatch, capsys):
    def fail():
        raise error("the package onnx is not installed:\npip install it")

    monkeypatch.delenv("CONVKAN_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.run(fail)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: the package onnx is not installed: pip install it\n"


def test_debug_variable_shows_the_traceback(monkeypatch):
    def fail():
        raise cli.UserError("reason")

    monkeypatch.setenv("CONVKAN_DEBUG", "1")
    with pytest.raises(cli.UserError, match="reason"):
        cli.run(fail)


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Linear(7, 5), (7,), 7 * 5),
        (nn.Conv2d(4, 6, 3, padding=1), (4, 8, 9), 6 * 8 * 9 * 9 * 4),
        (nn.Conv2d(4, 6, 3, stride=2, groups=2), (4, 9, 9), 6 * 4 * 4 * 9 * 2),
        (KANLinear(7, 5), (7,), 7 * 5 * 9),
        (KANConv2d(4, 6, 3, padding=1), (4, 8, 9), 6 * 8 * 9 * 9 * 9 * 4),
        (KANConv2d(4, 6, 3, basis=BSpline(10)), (4, 8, 8), 6 * 6 * 6 * 9 * 14 * 4),
        (KANConv2d(4, 6, 3, base_activation=None), (4, 8, 8), 6 * 6 * 6 * 9 * 8 * 4),
        (KANConv2d(4, 6, (3, 1), stride=2, groups=2), (4, 9, 9), 6 * 4 * 5 * 3 * 9 * 2),
        (KANConv2d(4, 4, 3, padding=1, groups=4), (4, 8, 8), 4 * 8 * 8 * 9 * 9),
        (KANConv2d(3, 5, 3, padding=1, padding_mode="reflect"), (3, 8, 8), 5 * 8 * 8 * 9 * 9 * 3),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 3)), (1, 2, 2), 2 * 4 + 24),
    ],
    ids=lambda value: str(value).split(", basis")[0] if isinstance(value, nn.Module) else "",
)
def test_multiply_adds_are_those_of_the_expanded_convolution(layer, shape, expected):
    assert count_multiply_adds(layer, torch.zeros(1, *shape)) == expected
    assert layer.training


def test_multiply_adds_of_a_low_rank_layer_are_those_of_its_functions_and_its_convolution():
    layer = LowRankKANConv2d(4, 6, 3, padding=1, rank=2)  # evaluates its functions on the padded input
    assert count_multiply_adds(layer, torch.zeros(1, 4, 8, 8)) == 4 * 2 * 100 * 9 + 6 * 64 * 9 * 8


def test_memory_of_a_step_is_what_is_kept_for_the_backward_pass():
    images, hidden = 5 * 3 * 8 * 8 * 4, 5 * 7 * 6 * 6 * 4  # in bytes
    model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 2, 1))
    # The images, and what ReLU returns, which it and the second convolution keep once; weights are kept anyway.
    assert count_step_memory_bytes(model, torch.zeros(5, 3, 8, 8)) == images + hidden


@pytest.mark.parametrize("layer", [LearnableActivation(3, 2), KANConv2d(3, 2, 3), LowRankKANConv2d(3, 2, 3)])
def test_memory_of_a_kan_layer_grows_with_the_batch(layer):
    few, many = (count_step_memory_bytes(layer, torch.zeros(count, 3, 16, 16)) for count in (2, 20))
    assert few >= 2 * 3 * 16 * 16 * 4
    assert 8 * few < many < 11 * few


@pytest.mark.parametrize("count", [count_multiply_adds, count_step_memory_bytes])
def test_counting_changes_no_statistics(count):
    layer = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3))
    count(layer, torch.ones(1, 1, 4, 4))
    assert layer[0].num_batches_tracked == 0
    assert layer[0].running_mean.item() == 0


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_run_in_another_precision_leaves_its_record(precision, tmp_path):
    result = record(finished(tmp_path / "precise", *TINY, "--epochs", 1, "--precision", precision))
    assert result["parameters"] > 0
    assert result["multiply_adds"] > 0


class TestPublishing:
    def test_a_run_becomes_weights_with_its_record(self, call, run_folder, tmp_path):
        outcome = call(publish, "--run", run_folder, "--out", tmp_path, "--name", "tiny")
        path = tmp_path / "kan_cnn-tiny.safetensors"
        assert outcome.status == 0
        assert str(path) in outcome.out
        kept = Weights("kan_cnn", "tiny", path).record()
        result = record(run_folder)
        assert kept["dataset"] == "digits"
        assert all(kept[key] == result[key] for key in ("test_accuracy", "parameters", "seed"))
        x = torch.rand(2, 1, 8, 8)
        expected, _ = load_classifier(run_folder / "model.safetensors")
        assert torch.equal(load_classifier(path)[0](x), expected(x))

    def test_weights_are_replaced_only_if_asked(self, call, run_folder, tmp_path):
        path = tmp_path / "kan_cnn-digits.safetensors"
        path.write_text("good weights")
        assert_refused(call(publish, "--run", run_folder, "--out", tmp_path), path, "--replace")
        assert path.read_text() == "good weights"
        assert call(publish, "--run", run_folder, "--out", tmp_path, "--replace", "true").status == 0
        load_classifier(path)

    @pytest.mark.parametrize("name", ["folder", "../mnist", "a-b", ""])
    def test_a_name_that_says_nothing_or_leaves_the_folder_is_refused(self, call, run_folder, tmp_path, name):
        assert_refused(call(publish, "--run", run_folder, "--out", tmp_path, f"--name={name}"), "name must", repr(name))

    def test_a_run_without_a_test_is_refused(self, call, tmp_path):
        folder = finished(tmp_path / "untested", *TINY, "--epochs", 1, "--test", "false")
        assert_refused(call(publish, "--run", folder, "--out", tmp_path), "tested", folder)

    def test_what_is_no_run_is_refused(self, call, tmp_path):
        assert_refused(call(publish, "--run", tmp_path / "nothing"), "run must be the folder of a finished run")
