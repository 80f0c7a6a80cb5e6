import errno
import json
import os
import signal
from contextlib import contextmanager
from itertools import pairwise

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from convkan import KANConv2d, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.models import Description, create_model, load_classifier
from convkan.optim import create_optimizer, create_schedule
from convkan.testing import kan_layers, make_uneven
from convkan.training import (
    AtomicCheckpointIO,
    Classifier,
    Recipe,
    TrainingDivergedError,
    checkpoints,
    early_stopping,
    parameter_groups,
    save_classifier,
    write_atomically,
)

CLASSES = 4
# Lightning's advice, and what torch says of Lightning.
quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*treespec.*is deprecated:FutureWarning")


def mixed_model():
    """Every kind of parameter."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        LearnableActivation(2),
        KANConv2d(2, 3, 3, bias=True),
        LowRankKANConv2d(3, 4, 3, rank=2, bias=True),
        nn.Flatten(),
        nn.LayerNorm(4),
        KANLinear(4, 5, bias=True),
        nn.Linear(5, 6),
    )


def description(**changes):
    values = {
        "model": "kan_cnn",
        "in_channels": 1,
        "image_size": (8, 8),
        "class_names": ["a", "b", "c"],
        "mean": [0.3],
        "std": [0.4],
        "options": {"widths": [2, 3]},
    }
    return Description(**(values | changes))


def learning_rates(name, total_steps, warmup_steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = create_schedule(name, optimizer, total_steps, warmup_steps)
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates, optimizer.param_groups[0]["lr"]


@contextmanager
def file_size_limit(size):
    """A file can grow no larger than ``size`` bytes, as on a full disk."""
    resource = pytest.importorskip("resource")  # of Unix
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_groups_partition_all_parameters():
    model = mixed_model()
    grouped = [parameter for group in parameter_groups(model, 0.1) for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in model.parameters()}


def test_each_kind_of_parameter_has_its_decay():
    model = mixed_model()
    groups = parameter_groups(model, 0.1, coefficient_decay=0.2, base_decay=0.3)
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    actual = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
    expected = {}
    for name in actual:
        if name.endswith("basis_weight"):
            expected[name] = 0.2
        elif name.endswith("base_weight"):
            expected[name] = 0.3
        elif name.endswith("bias") or name.startswith(("1.", "6.")):
            expected[name] = 0.0
        else:
            expected[name] = 0.1
    assert actual == expected
    assert [group["name"] for group in groups] == ["coefficients", "base", "weights", "no_decay"]


def test_decays_of_kan_layers_are_the_ordinary_one_unless_given():
    assert {group["name"]: group["weight_decay"] for group in parameter_groups(mixed_model(), 0.1)} == {
        "coefficients": 0.1,
        "base": 0.1,
        "weights": 0.1,
        "no_decay": 0.0,
    }


def test_coefficients_may_have_a_learning_rate_of_their_own():
    optimizer = create_optimizer("adamw", parameter_groups(mixed_model(), 0.1, coefficient_lr=0.3), 0.1, 0.9)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        "coefficients": 0.3,
        "base": 0.1,
        "weights": 0.1,
        "no_decay": 0.1,
    }
    schedule = create_schedule("cosine", optimizer, 10, 0)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.15, 0.05, 0.05, 0.05])
    with pytest.raises(ValueError, match="coefficient_lr must be positive, got 0"):
        parameter_groups(mixed_model(), 0.1, coefficient_lr=0)


class Scripted(L.LightningModule):
    """Has the validation accuracies it is told to have."""

    def __init__(self, accuracies):
        super().__init__()
        self.accuracies, self.weight = accuracies, nn.Parameter(torch.zeros(()))

    def training_step(self, batch, _):
        return self.weight * 0

    def validation_step(self, batch, _):
        self.log("val_accuracy", torch.tensor(self.accuracies[self.current_epoch]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@quiet
@pytest.mark.parametrize(
    ("accuracies", "first_epoch", "patience", "best", "last"),
    [
        ([0.9, 0.5, 0.8, 0.6], 0, None, 0, 3),
        ([0.9, 0.5, 0.8, 0.6], 1, None, 2, 3),
        ([0.5, 0.6, 0.7, 0.8], 3, None, 3, 3),
        ([0.9, 0.5, 0.4, 0.6], 0, 1, 0, 1),
        ([0.9, 0.5, 0.8, 0.6], 1, 1, 2, 3),
        ([0.9, 0.8, 0.7, 0.6], 2, 1, 2, 3),
    ],
)
def test_the_best_and_the_last_epoch_and_that_before_it_are_kept(
    accuracies, first_epoch, patience, best, last, tmp_path
):
    trainer = scripted_run(accuracies, tmp_path, patience, first_epoch=first_epoch)
    assert trainer.checkpoint_callback.best_model_path == str(tmp_path / f"best-epoch={best}.ckpt")
    epochs = {path.name: torch.load(path, weights_only=True)["epoch"] for path in tmp_path.iterdir()}
    assert epochs == {f"best-epoch={best}.ckpt": best, "last.ckpt": last, "previous.ckpt": last - 1}


def scripted_run(accuracies, folder, patience=None, checkpoint=None, first_epoch=0):
    stopping = [] if patience is None else [early_stopping(patience, first_epoch)]
    loader = DataLoader(TensorDataset(torch.zeros(2, 1)))
    trainer = L.Trainer(
        max_epochs=len(accuracies),
        accelerator="cpu",
        callbacks=[*checkpoints(folder, first_epoch), *stopping],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Scripted(accuracies), loader, loader, ckpt_path=checkpoint, weights_only=True)
    return trainer


@quiet
def test_a_run_that_stopped_early_is_over_when_it_is_taken_up(tmp_path):
    accuracies = [0.9, 0.5, 0.4, 0.95, 0.96]
    for checkpoint in (None, tmp_path / "last.ckpt"):
        trainer = scripted_run(accuracies, tmp_path, patience=2, checkpoint=checkpoint)
        assert trainer.current_epoch == 3
        assert trainer.checkpoint_callback.best_model_path == str(tmp_path / "best-epoch=0.ckpt")


@quiet
def test_a_best_epoch_that_is_gone_is_replaced(tmp_path):
    scripted_run([0.9, 0.5], tmp_path)
    (tmp_path / "best-epoch=0.ckpt").unlink()
    trainer = scripted_run([0.9, 0.5, 0.6, 0.4], tmp_path, checkpoint=tmp_path / "last.ckpt")
    assert trainer.checkpoint_callback.best_model_path == str(tmp_path / "best-epoch=2.ckpt")


def test_constants_of_named_functions_do_not_decay():
    layer = KANLinear(2, 3)
    layer.add_symbolic().replace(torch.tensor([[0, 0]]), ["sin"], torch.ones(1, 4))
    groups = {group["name"]: group["params"] for group in parameter_groups(layer, 0.1)}
    assert [id(parameter) for parameter in groups["no_decay"]] == [id(layer.symbolic.affine)]


def test_shared_parameter_is_grouped_once():
    layer = KANLinear(3, 3)
    groups = parameter_groups(nn.Sequential(layer, nn.SiLU(), layer), 0.1)
    assert [len(group["params"]) for group in groups] == [1, 1]


@pytest.mark.parametrize("options", [{"coefficient_decay": -1.0}, {"base_decay": -0.1}, {"weight_decay": -1e-9}])
def test_negative_decay_is_refused(options):
    with pytest.raises(ValueError, match="must not be negative"):
        parameter_groups(mixed_model(), **({"weight_decay": 0.0} | options))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimizer_lowers_the_loss(name):
    model = nn.Sequential(nn.Flatten(), KANLinear(4, 1))
    x, y = torch.randn(32, 4), torch.randn(32, 1)
    optimizer = create_optimizer(name, parameter_groups(model, 0.0), 1e-2, 0.9)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(F.mse_loss(model(x), y))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_learning_rate_must_be_positive(rate):
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        create_optimizer("sgd", parameter_groups(mixed_model(), 0.0), rate, 0.9)


def test_unknown_optimizer_lists_the_right_ones():
    with pytest.raises(ValueError, match="adamw, adam, sgd; got 'lion'"):
        create_optimizer("lion", parameter_groups(mixed_model(), 0.0), 0.1, 0.9)


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 40])
def test_schedule_rises_to_the_full_rate_and_never_above(name, warmup):
    rates, _ = learning_rates(name, 100, warmup)
    peak = max(warmup, 30) if name == "one_cycle" else warmup
    assert rates[peak] == max(rates) == 1.0
    assert all(before < after for before, after in pairwise(rates[: peak + 1]))
    assert min(rates) > 0


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_schedule_falls_to_zero_at_the_last_step(name, steps):
    rates, end = learning_rates(name, steps, 0)
    assert end == pytest.approx(0, abs=1e-12)
    peak = rates.index(max(rates))
    assert all(before >= after for before, after in pairwise(rates[peak:]))
    assert all(rate > 0 for rate in rates)


def test_constant_schedule_stays_after_its_warmup():
    rates, end = learning_rates("constant", 10, 3)
    assert rates == [0.25, 0.5, 0.75, *[1.0] * 7]
    assert end == 1.0


def test_cosine_is_at_half_the_rate_halfway_down():
    assert learning_rates("cosine", 110, 10)[0][60] == pytest.approx(0.5)


def test_unknown_schedule_lists_the_right_ones():
    with pytest.raises(ValueError, match="cosine, one_cycle, constant; got 'step'"):
        learning_rates("step", 10, 0)


@pytest.mark.parametrize("old", [None, "old"])
def test_failing_writer_leaves_what_was_there_and_no_partial_file(old, tmp_path):
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)

    def write(partial):
        partial.write_text("ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(path, write)
    assert (path.read_text() if path.exists() else None) == old
    assert list(tmp_path.iterdir()) == ([] if old is None else [path])


def test_writer_fills_a_neighbour_of_the_same_suffix_while_the_old_file_stays(tmp_path):
    path = tmp_path / "deep" / "folder" / "picture.png"
    write_atomically(path, lambda partial: partial.write_text("old"))

    def write(partial):
        assert partial.suffix == ".png"
        assert partial.parent == path.parent
        assert path.read_text() == "old"
        partial.write_text("new")

    assert write_atomically(str(path), write) == path
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_written_file_has_the_permissions_of_any_new_one(tmp_path):
    def write(partial):
        partial.unlink()
        partial.touch(0o600)

    (tmp_path / "other").touch()
    path = write_atomically(tmp_path / "model.safetensors", write)
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_write_into_a_file_in_place_of_a_folder_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file" / "result.json", lambda partial: partial.write_text(""))


WRITERS = {
    "text": lambda path: write_atomically(path, lambda partial: partial.write_text("x" * 100_000)),
    "checkpoint": lambda path: AtomicCheckpointIO().save_checkpoint({"x": torch.zeros(50_000)}, path),
    "classifier": lambda path: save_classifier(path, description().create(), description()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_is_an_os_error_and_leaves_the_old_file_alone(name, tmp_path):
    path = tmp_path / "file.bin"
    path.write_text("old")
    with file_size_limit(4096), pytest.raises(OSError, match=r"file\.bin"):
        WRITERS[name](path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoint_is_read_back(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "folder" / "last.ckpt"
    io.save_checkpoint({"x": torch.arange(3)}, path)
    assert torch.equal(io.load_checkpoint(path, weights_only=True)["x"], torch.arange(3))
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(TypeError, match="storage_options must be None"):
        io.save_checkpoint({}, path, storage_options={})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"options": {"widths": [2], "rank": 1, "basis": "chebyshev", "dropout": 0.2}, "in_channels": 3},
        {"model": "kkan_small", "options": {"image_size": [12, 14], "grid_size": 3}, "image_size": (12, 14)},
        {"model": "cnn_bn", "options": {}, "image_size": (28, 28), "class_names": ["ä", "猫", 'quo"te', ""]},
    ],
    ids=["kan_cnn", "options", "sized", "plain"],
)
def test_classifier_round_trips_through_its_file(changes, tmp_path):
    saved = description(**changes)
    model = saved.create()
    x = torch.rand(3, saved.in_channels, *saved.image_size)
    model(x)  # moves the statistics of batch normalisation
    path = save_classifier(tmp_path / "model.safetensors", model, saved)
    loaded, described = load_classifier(path)
    assert described == saved
    assert not loaded.training
    assert torch.equal(loaded(x), model.eval()(x))


def test_classifier_with_adapted_grids_round_trips(tmp_path):
    model = make_uneven(description().create()).eval()
    x = torch.rand(3, 1, 8, 8)
    loaded, _ = load_classifier(save_classifier(tmp_path / "model.safetensors", model, description()))
    assert torch.equal(loaded(x), model(x))
    assert not any(layer.uniform_knots for layer in kan_layers(loaded))


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = description().create().to(memory_format=torch.channels_last)
    before = {name: (id(tensor), tensor.stride()) for name, tensor in model.named_parameters()}
    save_classifier(tmp_path / "model.safetensors", model, description())
    assert {name: (id(tensor), tensor.stride()) for name, tensor in model.named_parameters()} == before
    assert model.training


def test_missing_classifier_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.safetensors does not exist"):
        load_classifier(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_classifier_is_refused(kept, tmp_path):
    path = save_classifier(tmp_path / "model.safetensors", description().create(), description())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="model.safetensors is not a readable safetensors file"):
        load_classifier(path)


def test_weights_of_something_else_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not of a convkan classifier"):
        load_classifier(path)


@pytest.mark.parametrize(
    "header",
    [
        "{",
        "[]",
        "{}",
        '"text"',
        json.dumps({**vars(description()), "model": "resnet"}),
        json.dumps({**vars(description()), "extra": 1}),
        json.dumps({**vars(description()), "class_names": 3}),
        json.dumps({**vars(description()), "options": {"depth": 3}}),
        json.dumps({**vars(description()), "options": {"widths": [9]}}),
        json.dumps({**vars(description()), "options": None}),
    ],
    ids=range(10),
)
def test_description_that_does_not_fit_is_refused(header, tmp_path):
    path = save_classifier(tmp_path / "model.safetensors", description().create(), description())
    save_file(load_file(path), path, metadata={"convkan": header})
    with pytest.raises(ValueError, match="does not fit the model it describes"):
        load_classifier(path)


def fixed_classifier(recipe=Recipe()):
    """A classifier of vectors by a fixed linear map."""
    return Classifier(nn.Linear(5, CLASSES), CLASSES, recipe)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*treespec.*is deprecated")
def test_test_figures_are_those_of_the_whole_set_whatever_the_batches():
    classifier = fixed_classifier()
    x, labels = torch.randn(23, 5), torch.randint(CLASSES, (23,))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    [figures] = trainer.test(classifier, DataLoader(TensorDataset(x, labels), batch_size=10), verbose=False)
    with torch.no_grad():
        logits = classifier.model(x)
    predicted = logits.argmax(1)
    assert figures["test_accuracy"] == pytest.approx((predicted == labels).double().mean().item())
    assert figures["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    expected = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
    for truth, guess in zip(labels, predicted, strict=True):
        expected[truth, guess] += 1
    assert torch.equal(classifier.test_confusion.compute(), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverging_loss_is_reported(value):
    classifier = fixed_classifier()
    with torch.no_grad():
        classifier.model.weight.fill_(value)
    with pytest.raises(TrainingDivergedError, match="epoch 1, step 3: the model diverged"):
        classifier.training_step((torch.ones(2, 5), torch.tensor([0, 1])), 2)


def test_images_that_are_not_finite_are_named_as_the_cause():
    with pytest.raises(TrainingDivergedError, match="the images contain NaN or infinity"):
        fixed_classifier().training_step((torch.full((2, 5), torch.nan), torch.tensor([0, 1])), 0)


def test_penalty_and_smoothing_are_in_the_loss():
    recipe = Recipe(label_smoothing=0.1, coefficient_penalty=0.5)
    model = nn.Sequential(nn.Flatten(), KANLinear(5, CLASSES))
    x, labels = torch.randn(6, 5), torch.randint(CLASSES, (6,))
    loss = Classifier(model, CLASSES, recipe).training_step((x, labels), 0)
    expected = F.cross_entropy(model(x), labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected + 0.5 * model[1].coefficients.abs().mean())


def test_penalty_reaches_no_parameter_but_coefficients():
    plain, penalised = (Recipe(coefficient_penalty=weight) for weight in (0.0, 1.0))
    model = create_model("kan_cnn", widths=(2,)).eval()
    batch = torch.rand(4, 1, 8, 8), torch.arange(4)
    gradients = []
    for recipe in (plain, penalised):
        model.zero_grad()
        Classifier(model, 10, recipe).training_step(batch, 0).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name in gradients[0]:
        same = torch.allclose(gradients[0][name], gradients[1][name], rtol=1e-5, atol=1e-7)
        assert same != name.endswith("basis_weight"), name


@pytest.mark.parametrize(
    "options",
    [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"warmup_epochs": -1}, {"coefficient_penalty": -1}],
)
def test_recipe_out_of_range_is_named(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        Recipe(**options)
