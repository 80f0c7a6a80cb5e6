"""Uses of training and of the commands that people report trouble with elsewhere."""

import csv
import io
import json
import math
import os
import shutil
import sys

import lightning as L
import numpy as np
import pytest
import torch
from commands import assert_refused, finished
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.tuner import Tuner
from PIL import Image
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from convkan import KANLinear
from convkan.interpret.plot import plot_confusion
from convkan.models import load_classifier
from convkan.training import (
    AdaptGrids,
    Classifier,
    FollowSchedule,
    History,
    ImageData,
    Recipe,
    RefineGrids,
    WatchCoverage,
    checkpoints,
    early_stopping,
)
from convkan.training import folders as folders_module
from convkan.training import grids as grids_module
from experiments import explain, predict, publish, train
from experiments.common import cli
from experiments.common.progress import StudyProgress
from experiments.common.records import DIVERGED
from experiments.common.train_config import TrainConfig
from experiments.compare.jobs import Job
from experiments.compare.schedule import Schedule
from experiments.compare.suite import Entry, Search, Suite
from experiments.compare.tables import Table, search_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*treespec.*is deprecated:FutureWarning")
TINY = ("--model_options.widths", "[2]", "--threads", 1, "--accelerator", "cpu", "--batch_size", 64)
TINY = (*TINY, "--train_fraction", 0.2)


def classifier(**recipe):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), KANLinear(16, 3), nn.BatchNorm1d(3))
    return Classifier(model, 3, Recipe(**recipe))


def batches(count=4, size=6):
    """A user's own loader."""
    x = torch.randn(count * size, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    return DataLoader(TensorDataset(x, torch.arange(len(x)) % 3), batch_size=size)


def trainer(*callbacks, **options):
    """A user's own trainer."""
    plain = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    plain |= {"enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    return L.Trainer(callbacks=list(callbacks), **(plain | options))


def rows(path):
    with path.open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run."""
    return finished(tmp_path_factory.mktemp("runs") / "tiny", *TINY, "--epochs", 2, "--learning_rate", 0.05)


class TestInAUsersTrainer:
    def test_predicting_gives_probabilities_in_order(self):
        module, loader = classifier(), batches()
        images = torch.cat([x for x, _ in loader])
        alone = DataLoader(images, batch_size=6)
        expected = module.eval()(images).softmax(1)
        for source in (loader, alone):
            torch.testing.assert_close(torch.cat(trainer().predict(module, source)), expected)

    def test_predicting_by_the_data_module_is_of_its_test_part(self):
        data = ImageData("digits", batch_size=512)
        model = nn.Sequential(nn.Flatten(), KANLinear(64, 10))
        predicted = torch.cat(trainer().predict(Classifier(model, 10, Recipe()), datamodule=data))
        assert predicted.shape == (len(data.test), 10)

    @pytest.mark.parametrize("first", ["validate", "test", "predict"])
    def test_training_follows_an_evaluation(self, first):
        """Which computes in inference mode, by whose tensors nothing can be trained."""
        module, loader = classifier(), batches()
        getattr(trainer(), first)(module, loader)
        trainer().fit(module, loader, loader)
        [again] = trainer().validate(module, loader, verbose=False)
        fresh = classifier()
        fresh.load_state_dict(module.state_dict())
        assert [again] == trainer().validate(fresh, loader, verbose=False)

    def test_a_second_test_counts_from_nothing(self):
        module, loader = classifier(), batches()
        seen = []
        for _ in range(2):
            figures = trainer().test(module, loader, verbose=False)
            seen.append((figures, module.test_confusion.compute().tolist(), module.test_correct.compute().tolist()))
        assert seen[0] == seen[1]
        assert np.sum(seen[1][1]) == 24

    @pytest.mark.parametrize(
        ("options", "validated"),
        [({"limit_val_batches": 0}, []), ({"check_val_every_n_epoch": 2}, [2, 4]), ({"val_check_interval": 2}, [1, 2])],
    )
    def test_history_has_figures_of_validation_where_there_was_one(self, options, validated, tmp_path):
        callbacks = [History(tmp_path / "history.csv"), FollowSchedule(), early_stopping(3)]
        callbacks = callbacks if validated else callbacks[:2]
        trainer(*callbacks, max_epochs=max([2, *validated]), **options).fit(classifier(), batches(), batches())
        found = rows(tmp_path / "history.csv")
        assert [row["epoch"] for row in found if not math.isnan(row["val_loss"])] == validated
        assert [row["epoch"] for row in found if not math.isnan(row["val_accuracy"])] == validated
        assert all(math.isfinite(row["train_loss"]) for row in found)

    @pytest.mark.parametrize("every", [1, 2])
    def test_grids_are_adapted_once_a_step_however_gradients_accumulate(self, every, monkeypatch):
        calls, original = [], grids_module.adapt_grids
        monkeypatch.setattr(grids_module, "adapt_grids", lambda *a, **k: calls.append(1) or original(*a, **k))
        adapting = AdaptGrids(every, 100)
        fitted = trainer(adapting, accumulate_grad_batches=3)
        fitted.fit(classifier(), batches(count=15))
        assert fitted.global_step == 5
        assert len(calls) == len(adapting.changes) == len(range(every, 5, every))

    def test_it_ends_after_steps_or_by_the_clock(self):
        rates = []

        class Watch(Callback):
            def on_train_batch_start(self, trainer, module, batch, index):
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

            def on_train_epoch_start(self, trainer, module):
                trainer.should_stop = trainer.current_epoch == 2

        recipe = {"learning_rate": 1.0, "warmup_epochs": 0.5}
        trainer(max_epochs=-1, max_steps=8).fit(Classifier(classifier().model, 3, Recipe(**recipe)), batches())
        trainer(Watch(), max_epochs=-1).fit(classifier(schedule="constant", **recipe), batches())
        assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
        assert set(rates[3:]) == {1.0}
        with pytest.raises(ValueError, match="schedule must be constant where training has no last epoch"):
            trainer(max_epochs=-1).fit(classifier(**recipe), batches())

    def test_the_learning_rate_finder_finds_and_sets_it(self, tmp_path):
        module = classifier()
        finder = Tuner(trainer(default_root_dir=tmp_path, max_epochs=20)).lr_find(module, batches(), num_training=30)
        assert module.recipe.learning_rate == module.learning_rate == finder.suggestion() != 3e-3

    @pytest.mark.parametrize(
        "options",
        [
            {"fast_dev_run": True},
            {"overfit_batches": 1, "max_epochs": 2},
            {"deterministic": True},
            {"detect_anomaly": True},
            {"precision": "bf16-mixed"},
            {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_its_switches_and_our_callbacks_go_together(self, options, tmp_path):
        callbacks = [
            History(tmp_path / "h.csv"),
            FollowSchedule(),
            AdaptGrids(1, 9),
            RefineGrids({0: 7}),
            WatchCoverage(),
        ]
        module = classifier()
        try:
            trainer(*callbacks, **options).fit(module, batches(), batches())
        finally:
            torch.use_deterministic_algorithms(False)
        assert module.model[1].basis.grid_size == 7

    def test_a_checkpoint_with_grids_of_another_size_is_read_anywhere(self, tmp_path):
        kept = checkpoints(tmp_path)
        fitted = trainer(*kept, RefineGrids({0: 9}), enable_checkpointing=True)
        module = classifier()
        fitted.fit(module, batches(), batches())
        expected = fitted.test(module, batches(), verbose=False)
        path = fitted.checkpoint_callback.best_model_path
        rebuilt = Classifier.load_from_checkpoint(path, model=classifier().model, num_classes=3, recipe=Recipe())
        assert trainer().test(rebuilt, batches(), verbose=False) == expected
        assert trainer().test(classifier(), batches(), ckpt_path=path, verbose=False) == expected


class TestRunsThatMoved:
    def test_the_best_epoch_stays_the_best(self, tmp_path):
        class Score(L.LightningModule):
            """Whose accuracies are given."""

            accuracies = (0.9, 0.3, 0.2)

            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(1, 1)

            def training_step(self, batch, index):
                return self.layer(batch[0].flatten(1)[:, :1]).mean()

            def on_train_epoch_end(self):
                self.log("val_accuracy", self.accuracies[self.current_epoch])

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)

        trainer(*checkpoints(tmp_path / "old"), enable_checkpointing=True, max_epochs=2).fit(Score(), batches())
        shutil.copytree(tmp_path / "old", tmp_path / "new")
        before = sorted((tmp_path / "old").iterdir())
        fitted = trainer(*checkpoints(tmp_path / "new"), enable_checkpointing=True, max_epochs=3)
        fitted.fit(Score(), batches(), ckpt_path=tmp_path / "new" / "last.ckpt", weights_only=True)
        assert fitted.checkpoint_callback.best_model_path == str(tmp_path / "new" / "best-epoch=0.ckpt")
        assert fitted.checkpoint_callback.best_model_score == pytest.approx(0.9)
        assert sorted((tmp_path / "old").iterdir()) == before

    def test_images_may_lie_elsewhere_but_must_be_the_same(self, call, tmp_path, monkeypatch):
        for name in ("cat", "dog"):
            (tmp_path / "images" / name).mkdir(parents=True)
            for index in range(6):
                noise = np.random.default_rng(index).integers(256, size=(5, 5, 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / "images" / name / f"{index}.png")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(train, "draw", lambda *_: None)
        flags = ("--dataset", "folder", "--data_root", "images", "--image_size", 8, "--run_name", "r", *TINY[:-2])
        assert call(train, *flags, "--epochs", 1).status == 0
        shutil.move(tmp_path / "images", tmp_path / "moved")
        again = ("--resume", "runs/r", "--epochs", 2)
        assert_refused(call(train, *again), "images", "--data-root")
        assert call(train, *again, "--data-root", "moved").status == 0
        (tmp_path / "moved" / "cat" / "0.png").unlink()
        assert_refused(call(train, "--resume", "runs/r", "--epochs", 3, "--data_root", "moved"), "other images")


class TestRecords:
    def test_an_older_one_that_knew_fewer_options_is_explained(self, run_folder, tmp_path, call, monkeypatch):
        monkeypatch.setattr(explain, "_inlined", lambda figure: "")  # which test_explain looks at
        folder = shutil.copytree(run_folder, tmp_path / "run")
        record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        kept = {key: record["config"][key] for key in ("dataset", "model", "epochs")}
        (folder / "result.json").write_text(json.dumps({"config": kept}), encoding="utf-8")
        few = ("--samples", 8, "--images", 1, "--edges", 1, "--searched", 8)
        assert call(explain, "--run", folder, *few).status == 0

    @pytest.mark.parametrize("text", ['{"config": {', "[]", ""])
    def test_a_damaged_one_is_named_before_anything_is_done(self, text, run_folder, tmp_path, call):
        folder = shutil.copytree(run_folder, tmp_path / "run")
        (folder / "result.json").write_text(text, encoding="utf-8")
        history = (folder / "history.csv").read_bytes()
        words = (folder / "result.json", "is not a readable record")
        assert_refused(call(explain, "--run", folder), *words)
        assert_refused(call(publish, "--run", folder, "--out", tmp_path / "weights"), *words)
        assert_refused(call(train, "--resume", folder, "--epochs", 3), *words)
        assert (folder / "history.csv").read_bytes() == history


class TestCommandLines:
    @pytest.mark.parametrize("name", ["", ".", "..", "../up", "/absolute", "a/../../b", "a\0b", "a\nb"])
    def test_a_run_is_not_named_out_of_its_root(self, name, call, tmp_path):
        flags = ("--runs_root", tmp_path / "root" / "runs", f"--run_name={name}")
        assert_refused(call(train, *flags), "run_name must be that of a folder within runs_root")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            *(
                (name, value)
                for name in ("learning_rate", "weight_decay", "warmup_epochs")
                for value in (".inf", ".nan")
            ),
            ("coefficient_rate", ".inf"),
            ("momentum", "1.0"),
            ("num_workers", "-1"),
            ("adapt_until", "0"),
        ],
    )
    def test_numbers_that_cannot_be_are_refused_before_anything_is_left(self, option, value, call, tmp_path):
        assert_refused(call(train, "--runs_root", tmp_path / "runs", f"--{option}", value), option)
        assert list(tmp_path.iterdir()) == []

    def test_a_run_needs_no_console(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "stdout", None)
        monkeypatch.setattr(sys, "stderr", None)
        monkeypatch.setattr(train, "draw", lambda *_: None)
        flags = [*TINY, "--epochs", 1, "--runs_root", tmp_path, "--run_name", "silent"]
        monkeypatch.setattr(sys, "argv", ["train", *map(str, flags)])
        cli.run(train.main)
        assert (tmp_path / "silent" / "result.json").exists()

    def test_scripts_need_no_docstrings(self):
        """Python leaves them out with -OO."""
        assert cli.parse(TrainConfig, None, ["--epochs", "3"]).epochs == 3
        assert cli.first_line(None) == ""
        assert cli.first_line("One.\n\nTwo.") == "One."

    def test_predict_finds_paths_below_the_home_folder(self, run_folder, call, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        shutil.copy(run_folder / "model.safetensors", tmp_path / "m.safetensors")
        Image.new("L", (8, 8), 99).save(tmp_path / "x.png")
        assert call(predict, "--run=~/m.safetensors", "~/x.png").status == 0
        assert load_classifier(tmp_path / "m.safetensors")


class TestNames:
    NAMES = ("a,b", 'it\'s "q"', "<script>", "two\nlines", "US$ and $", r"\frac$x$", "[/b]", "x|y", "50%", "w " * 200)

    def test_any_class_name_leaves_room_for_the_picture(self):
        figure = plot_confusion(torch.eye(len(self.NAMES), dtype=torch.long), self.NAMES)
        figure.canvas.draw()
        box = figure.axes[0].get_window_extent()
        assert min(box.width, box.height) > 0.35 * min(figure.bbox.width, figure.bbox.height)
        heights = [text.get_window_extent().height for text in figure.axes[0].get_yticklabels()]
        assert max(heights) < 1.6 * min(heights)

    def test_progress_shows_names_as_they_are(self):
        for name in self.NAMES[:-1]:
            with StudyProgress() as progress:
                progress.add_task(f"{name} [g=10]", total=1)
                console = Console(width=200, record=True, file=io.StringIO())
                console.print(progress.get_renderable())
            assert f"{name.splitlines()[0]}" in console.export_text()

    def test_a_table_keeps_its_columns(self):
        for row in Table(["entry", "x|y"], [["KAN | a", "1"]]).markdown():
            assert row.replace(r"\|", "").count("|") == 3


class TestTrialsThatDiverge:
    def plan(self, tmp_path, accuracies):
        search = Search(len(accuracies), 1, space={"learning_rate": [0.1, 0.2, 0.3]})
        entry = Entry("K", "kan_cnn", {"widths": [2]})
        suite = Suite("s", "S", ["digits"], [0], [entry], {"epochs": 1}, search=search)
        plan = Schedule(suite, tmp_path, None)
        for job, accuracy in zip(plan.trial_jobs("digits", entry), accuracies, strict=True):
            job.folder.mkdir(parents=True, exist_ok=True)
            if accuracy is None:
                (job.folder / DIVERGED).write_text("it did")
            else:
                (job.folder / "result.json").write_text(json.dumps({"val_accuracy": accuracy}))
        return plan, entry

    def test_they_are_never_the_best(self, tmp_path):
        plan, entry = self.plan(tmp_path, [0.1, 0.3])
        best = plan.best_settings("digits", entry)
        first = plan.trial_jobs("digits", entry)[0]
        (first.folder / "result.json").unlink()
        (first.folder / DIVERGED).write_text("it did")
        assert plan.best_settings("digits", entry) == best

    def test_if_all_do_it_is_told(self, tmp_path):
        plan, entry = self.plan(tmp_path, [None, None])
        with pytest.raises(cli.UserError, match="all trials of K on digits diverged"):
            plan.best_settings("digits", entry)

    def test_the_report_says_so(self):
        entry = {"name": "K", "model": "kan_cnn"}
        suite = {"name": "s", "title": "S", "datasets": ["d"], "seeds": [0], "entries": [entry]}
        trials = [
            {"dataset": "d", "entry": "K", "settings": {"rank": n}, "val_accuracy": a} for n, a in ((1, None), (2, 0.5))
        ]
        table = search_rows({"suite": suite, "searches": trials})
        assert "diverged" in table.rows[0]
        assert "50.00" in table.rows[0]

    def test_a_run_leaves_word_of_it_until_it_goes_well(self, tmp_path, call, monkeypatch):
        flags = [*TINY, "--epochs", 1, "--runs_root", tmp_path, "--run_name", "r", "--learning_rate", 1e30]
        assert_refused(call(train, *flags, "--optimizer", "sgd"), "the loss became")
        job = Job("r", tmp_path / "r", {})
        assert job.has_diverged
        assert not job.is_done
        assert "the loss became" in (tmp_path / "r" / DIVERGED).read_text(encoding="utf-8")
        monkeypatch.setattr(train, "draw", lambda *_: None)
        config = cli.parse(TrainConfig, None, [*map(str, flags[:-2])])
        train.train(config, tmp_path / "r")
        assert not job.has_diverged


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="there are no links here")
def test_links_that_lead_back_are_not_followed_and_others_are(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "data" / name / "0.png")
    (tmp_path / "more").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "more" / "1.png")
    (tmp_path / "data" / "cat" / "back").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data" / "cat" / "self").symlink_to(tmp_path / "data" / "cat", target_is_directory=True)
    (tmp_path / "data" / "dog" / "more").symlink_to(tmp_path / "more", target_is_directory=True)
    listing, _ = folders_module.list_pictures(tmp_path / "data")
    assert {name: len(found) for name, found in listing.items()} == {"cat": 1, "dog": 2}
