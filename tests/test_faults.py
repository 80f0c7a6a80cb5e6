"""What may befall a run from outside: it ends in one line at worst, and goes on as if nothing had been."""

import csv
import errno
import os
import pickle
import random
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from commands import assert_refused, finished, record
from processes import start

from convkan.files import PARTIAL, remove_partial
from convkan.models import load_classifier
from experiments import train
from experiments.common import folders
from experiments.common.cli import UserError
from experiments.common.resuming import read_checkpoint

# All that draws random numbers, and all that changes a network while it is trained.
RUN = ("--model_options.widths", "[2]", "--model_options.dropout", 0.2, "--augment", "standard", "--threads", 1)
RUN += ("--train_fraction", 0.1, "--batch_size", 32, "--epochs", 4, "--adapt_every", 3, "--refine", "{1: 7}")
CLOCKS = ("epoch_seconds", "input_seconds", "compile_seconds", "total_seconds")
FIGURES = ("test_accuracy", "test_loss", "val_accuracy", "best_epoch", "epochs", "parameters", "confusion")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run, and how long it took."""
    began = time.perf_counter()
    folder = finished(tmp_path_factory.mktemp("runs") / "undisturbed", *RUN)
    return folder, time.perf_counter() - began


def rows(folder):
    with (folder / "history.csv").open() as file:
        return [{key: row[key] for key in row if key not in CLOCKS} for row in csv.DictReader(file)]


def assert_same(folder, expected):
    """The same figures to the last digit, and the same weights to the last bit."""
    assert rows(folder) == rows(expected)
    ours, theirs = record(folder), record(expected)
    assert {name: ours[name] for name in FIGURES} == {name: theirs[name] for name in FIGURES}
    weights, others = (load_classifier(path / "model.safetensors")[0].state_dict() for path in (folder, expected))
    assert all(torch.equal(weights[name], others[name]) for name in others)
    assert not list(folder.rglob(f"{PARTIAL}*"))


def kill_after(seconds, folder, output):
    """Start a run, kill it after so many seconds, and say how many epochs it had done; None if it was finished."""
    flags = (*RUN, "--runs_root", folder.parent, "--run_name", folder.name)
    with output.open("wb") as file:
        process = start([sys.executable, "-m", "experiments.train", *map(str, flags)], dict(os.environ), file)
    process.process.join(seconds) if hasattr(process, "process") else time.sleep(seconds)
    process.kill()
    process.wait()
    if (folder / "result.json").exists():
        return None
    return len(rows(folder)) if (folder / "history.csv").exists() else 0


def go_on(folder, call):
    """What the user of a killed run does: resume it, or start it again if it had not begun."""
    has_begun = (folder / "config.yaml").exists()
    flags = ("--resume", folder) if has_begun else (*RUN, "--runs_root", folder.parent, "--run_name", folder.name)
    outcome = call(train, *flags)
    assert outcome.status == 0, outcome.err
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(30, marks=pytest.mark.thorough)])
def test_runs_that_are_killed_at_any_time_end_as_the_undisturbed(kills, undisturbed, call, tmp_path):
    expected, seconds = undisturbed
    draw, killed, done = random.Random(kills), 0, []
    for number in range(3 * kills):
        folder = tmp_path / f"run-{number}"
        epochs = kill_after(draw.uniform(0.1, 1.5) * seconds, folder, tmp_path / "output.txt")
        if epochs is not None:
            done.append(epochs)
            killed += 1
            go_on(folder, call)
        assert_same(folder, expected)
        if killed == kills:
            break
    print(f"killed {killed} runs, after so many epochs: {sorted(done)}")
    assert killed == kills


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A run that a full disk stopped in its last epoch."""
    original = train.Classifier.on_train_epoch_start

    def fill(self):
        if self.current_epoch == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self)

    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Classifier, "on_train_epoch_start", fill)
        with pytest.raises(OSError, match="No space left"):
            finished(folder, *RUN)
    return folder


class TestDamage:
    @pytest.fixture
    def stopped(self, stopped_once, tmp_path):
        return Path(shutil.copytree(stopped_once, tmp_path / "stopped"))

    @pytest.mark.parametrize(
        "damage",
        ["flipped", *(pytest.param(how, marks=pytest.mark.thorough) for how in ("code", "cut short", "empty"))],
    )
    def test_instead_of_a_damaged_checkpoint_the_one_before_it_is_used(
        self, damage, stopped, undisturbed, call, tmp_path
    ):
        last = stopped / "checkpoints" / "last.ckpt"
        content = bytearray(last.read_bytes())
        if damage == "code":  # that a torch of the old ways would have run
            last.write_bytes(b"")
            torch.save({"epoch": 3, "state_dict": Harmful(tmp_path / "harmed")}, last)
        elif damage == "flipped":  # a bit of a weight, which no structure tells
            with zipfile.ZipFile(last) as archive:
                tensors = [archive.read(part) for part in archive.infolist() if "/data/" in part.filename]
            largest = max(tensors, key=len)
            content[content.index(largest) + len(largest) // 2] ^= 16
            last.write_bytes(content)
        else:
            last.write_bytes(content[: len(content) // 2 if damage == "cut short" else 0])
        outcome = call(train, "--resume", stopped)
        assert outcome.status == 0, outcome.err
        assert f"{last} is not a readable checkpoint" in outcome.out
        assert "going on from the one before it, previous.ckpt, of epoch 2" in outcome.out
        assert not (tmp_path / "harmed").exists()
        assert_same(stopped, undisturbed[0])

    def test_without_any_that_can_be_read_it_is_said_how_to_begin_anew(self, stopped, call):
        for path in (stopped / "checkpoints").glob("*.ckpt"):
            path.write_bytes(b"nothing")
        outcome = call(train, "--resume", stopped)
        assert_refused(outcome, "last.ckpt is not a readable checkpoint", "to begin anew")


class Harmful:
    """What unpickling would run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_checkpoint_runs_no_code(tmp_path):
    harmful = Harmful(tmp_path / "harmed")
    torch.save({"epoch": 3, "state_dict": harmful}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="last.ckpt is not a readable checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "harmed").exists()
    pickle.loads(pickle.dumps(harmful))  # noqa: S301 - made here, to see that it would have done harm
    assert (tmp_path / "harmed").exists()


def test_a_run_killed_before_it_began_can_be_started_again(call, tmp_path, monkeypatch):
    folder, begun = tmp_path / "run", []
    folder.mkdir()
    (folder / folders.LOCK).touch()
    (folder / f"{PARTIAL}1-config.yaml").write_text("half")
    monkeypatch.setattr(train, "train", lambda config, where, checkpoint: begun.append([where, list(where.iterdir())]))
    flags = ("--runs_root", tmp_path, "--run_name", "run")
    assert call(train, *flags).status == 0
    assert begun == [[folder, [folder / folders.LOCK]]]
    folder.mkdir()
    (folder / "config.yaml").touch()
    assert_refused(call(train, *flags), "run_name must be new", f"--resume {folder}")


def test_half_written_files_alone_are_removed(tmp_path):
    (tmp_path / "deep").mkdir()
    partial = [tmp_path / f"{PARTIAL}1-a.txt", tmp_path / "deep" / f"{PARTIAL}22-last.ckpt"]
    for path in (*partial, tmp_path / "whole.txt"):
        path.write_text("")
    assert sorted(remove_partial(tmp_path)) == sorted(partial)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["whole.txt"]


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="sizes of files are limited on Unix alone")
def test_a_limit_on_files_ends_a_run_in_one_line_and_it_goes_on_without(undisturbed, call, tmp_path):
    import resource

    folder = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # configurations and figures, but no checkpoint
    try:
        outcome = call(train, *RUN, "--runs_root", tmp_path, "--run_name", "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_refused(outcome, "File too large", ".ckpt")
    assert not list(folder.rglob(f"{PARTIAL}*"))
    assert not list(folder.rglob("*.ckpt"))
    go_on(folder, call)
    assert_same(folder, undisturbed[0])
