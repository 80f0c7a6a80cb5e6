"""What befalls runs: names taken at once, full disks, Ctrl-C, more epochs, systems and locales of other kinds."""

import ast
import builtins
import csv
import errno
import io
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import commands
import lightning as L
import pytest
import safetensors.torch
import torch
import yaml
from commands import record
from processes import START_METHOD
from safetensors import SafetensorError
from torch import nn
from torch._dynamo.callback import CallbackTrigger, callback_handler
from torch.utils.data import DataLoader, TensorDataset

import convkan
import experiments
from convkan.ops.native import build
from convkan.optim import create_schedule
from convkan.training import Classifier, History, data, naming, write_text
from convkan.training import callbacks as callbacks_module
from convkan.training.compiling import CompileWatch
from experiments import chebyshev, continual, fit, pde, symbolic, train
from experiments.benchmark import __main__ as benchmark
from experiments.common import cli, folders, progress
from experiments.common.counting import peak_memory_bytes
from experiments.common.train_config import TrainConfig
from experiments.compare import __main__ as compare
from experiments.compare.jobs import Job, run_jobs

ROOT = Path(experiments.__file__).parents[1]
TINY = ("--model_options.widths", "[2]", "--threads", 1, "--batch_size", 64, "--train_fraction", 0.2)
PATIENCE = 300  # seconds, which only a failure takes
quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*treespec.*is deprecated:FutureWarning")


def rows(folder):
    with (folder / "history.csv").open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def figures(folder):
    """The rows of a run's history, without what the clock says."""
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows(folder)]


def claim(folder, is_claimed):
    """Hold a folder until this process ends."""
    with folders.claimed(folder):
        is_claimed.set()
        time.sleep(PATIENCE)


class TestClaims:
    def test_names_taken_in_the_same_second_differ(self, tmp_path, monkeypatch):
        monkeypatch.setattr(time, "strftime", lambda form: "20300101-000000")
        with ThreadPoolExecutor(16) as pool:
            names = list(pool.map(lambda _: folders.new_folder(tmp_path / "runs", "digits-kan").name, range(40)))
        assert len(set(names)) == 40
        assert set(names) == {path.name for path in (tmp_path / "runs").iterdir()}
        assert {"digits-kan-20300101-000000", "digits-kan-20300101-000000+2"} < set(names)
        assert not any(character in name for name in names for character in '<>:"/\\|?*')

    def test_a_folder_belongs_to_one_until_it_lets_go(self, tmp_path):
        folder = tmp_path / "a" / "b"
        with folders.claimed(folder):
            with pytest.raises(cli.UserError, match="another process is writing into"), folders.claimed(folder):
                pass
            write_text(folder / "kept", "")
        with folders.claimed(folder):
            pass
        assert [path.name for path in folder.iterdir()] == ["kept"]

    def test_a_folder_left_empty_is_removed_and_others_stay(self, tmp_path):
        with folders.claimed(tmp_path / "a" / "b"):
            pass
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_a_claim_ends_with_its_process(self, tmp_path):
        context = multiprocessing.get_context(START_METHOD)
        is_claimed = context.Event()
        other = context.Process(target=claim, args=(tmp_path, is_claimed))
        other.start()
        try:
            assert is_claimed.wait(PATIENCE)
            with pytest.raises(cli.UserError, match="another process"), folders.claimed(tmp_path):
                pass
        finally:
            other.kill()
            other.join()
        with folders.claimed(tmp_path):
            pass

    @pytest.mark.parametrize(
        "script", [fit, pde, chebyshev, symbolic, continual, benchmark], ids=lambda script: script.__name__
    )
    def test_no_study_writes_into_a_folder_that_another_process_has(self, script, call, tmp_path):
        with folders.claimed(tmp_path / "out"):
            outcome = call(script, "--quick", "--out", tmp_path / "out")
            assert outcome.status == 1
            assert "another process is writing into" in outcome.err
            assert [path.name for path in (tmp_path / "out").iterdir()] == [folders.LOCK]

    def test_neither_a_suite_nor_a_run_goes_on_beside_itself(self, run_folder, call, tmp_path):
        with folders.claimed(tmp_path / "digits"):
            outcome = call(compare, "--runs_root", tmp_path)
            assert (outcome.status, "another process" in outcome.err) == (1, True)
        with folders.claimed(run_folder):
            outcome = call(train, "--resume", run_folder, "--epochs", 9)
            assert (outcome.status, "another process" in outcome.err) == (1, True)
        assert record(run_folder)["config"]["epochs"] == 2

    def test_a_job_killed_before_it_wrote_anything_is_started_again(self, tmp_path, monkeypatch):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / folders.LOCK).touch()
        monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.skip("started"))  # no further than this
        with pytest.raises(pytest.skip.Exception, match="started"):
            run_jobs([Job("new", tmp_path / "run", {})], 1, 0, None, lambda *_: None)
        assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run of two epochs."""
    return finished(tmp_path_factory.mktemp("runs") / "two", 2)


def finished(folder, epochs, *flags):
    return commands.finished(folder, *TINY, "--epochs", epochs, *flags)


class TestMoreEpochs:
    @pytest.fixture(scope="class")
    @classmethod
    def longer(cls, tmp_path_factory):
        """By how its schedule goes on: a run of two epochs given two more."""
        found = {}
        for how in ("stretch", "restart"):
            found[how] = finished(tmp_path_factory.mktemp("runs") / how, 2)
            before = record(found[how])
            assert commands.called(train, "--resume", found[how], "--epochs", 4, "--on-resume", how) == 0
            found[how, "before"] = before
        return found

    @pytest.mark.parametrize("how", ["stretch", "restart"])
    def test_a_finished_run_goes_on_and_its_record_is_true(self, how, longer, run_folder):
        folder, result = longer[how], record(longer[how])
        assert figures(folder)[:2] == figures(run_folder)
        assert [row["epoch"] for row in rows(folder)] == [1, 2, 3, 4]
        assert result["epochs"] == result["config"]["epochs"] == 4
        assert result["config"]["continued"] == {"2": how}
        stored = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        assert (stored["epochs"], stored["continued"]) == (4, {2: how})
        assert result["val_accuracy"] == max(row["val_accuracy"] for row in rows(folder))
        [earlier] = result["earlier"]
        assert earlier["epochs"] == 2
        assert earlier["test_accuracy"] == longer[how, "before"]["test_accuracy"]

    def test_a_stretched_schedule_is_that_of_all_epochs_from_there_on(self, longer, tmp_path):
        planned = finished(tmp_path / "four", 4)
        rates = [row["learning_rate"] for row in rows(longer["stretch"])]
        assert rates[2:] == pytest.approx([row["learning_rate"] for row in rows(planned)[2:]])
        assert rates[1] < rates[2]  # the two epochs that were planned had come to their end

    def test_a_schedule_begun_anew_goes_its_course_again(self, longer):
        rates = [row["learning_rate"] for row in rows(longer["restart"])]
        assert rates[2:] == pytest.approx(rates[:2])

    @pytest.mark.parametrize("how", ["stretch", "restart"])
    def test_it_is_finished_again(self, how, longer, call):
        outcome = call(train, "--resume", longer[how])
        assert (outcome.status, "is finished" in outcome.err) == (1, True)

    def test_stopped_on_the_way_it_goes_on_as_if_it_had_not_been(self, longer, call, tmp_path, monkeypatch):
        folder = finished(tmp_path / "again", 2)
        with monkeypatch.context() as patch:
            interrupt_at(patch, Classifier, "training_step", lambda classifier, *_: classifier.current_epoch == 3)
            assert call(train, "--resume", folder, "--epochs", 4, "--on_resume", "restart").status == 130
        assert record(folder)["epochs"] == 2  # until there is another
        assert call(train, "--resume", folder).status == 0
        assert figures(folder) == figures(longer["restart"])
        assert record(folder)["test_accuracy"] == record(longer["restart"])["test_accuracy"]

    def test_patience_begins_anew(self, call, tmp_path):
        folder = finished(tmp_path / "patient", 9, "--early_stopping", 1, "--learning_rate", 1e-9)
        assert len(rows(folder)) == 2
        assert call(train, "--resume", folder, "--epochs", 9).status == 0
        assert len(rows(folder)) == 3

    @pytest.mark.parametrize("name", ["cosine", "one_cycle", "constant"])
    def test_a_schedule_with_restarts_is_one_after_the_other(self, name):
        def rates(steps, restarts=()):
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
            schedule = create_schedule(name, optimizer, steps, 2, restarts)
            return [schedule.lr_lambdas[0](step) for step in range(steps)]

        assert rates(20, [5, 12]) == rates(5) + rates(7) + rates(8)
        assert rates(20, [0, 20]) == rates(20)


class Full:
    """A file on a full disk."""

    def __init__(self, file):
        self.file = file

    def write(self, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def fill_disk(patch, name):
    """No file with ``name`` in its own can be written."""
    true_open = io.open

    def opened(file, mode="r", *arguments, **options):
        stream = true_open(file, mode, *arguments, **options)
        is_it = not isinstance(file, int) and name in Path(os.fsdecode(file)).name
        return Full(stream) if is_it and set(mode) & set("wax+") else stream

    def save_file(tensors, path, metadata):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    patch.setattr(builtins, "open", opened)
    patch.setattr(io, "open", opened)
    if "safetensors" in name:
        patch.setattr(safetensors.torch, "save_file", save_file)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    "name",
    [
        *("config.yaml", "history.csv", "best-epoch", "last.ckpt", "metrics.csv", "events.out"),
        *("model.safetensors", "learning_curves.png", "result.json"),
    ],
)
def test_full_disk_is_told_with_its_path_and_the_run_goes_on_when_there_is_room(
    name, run_folder, call, tmp_path, monkeypatch
):
    folder = tmp_path / "runs" / "two"
    with monkeypatch.context() as patch:
        fill_disk(patch, name)
        outcome = call(train, *TINY, "--epochs", 2, "--run_name", "two", pictures="png" in name)
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "No space left on device" in outcome.err
    assert str(Path("runs") / "two") in outcome.err
    if name == "config.yaml":  # nothing was begun
        assert not folder.parent.exists()
        return
    assert not (folder / "result.json").exists()
    assert not [path for path in folder.rglob("*") if "partial" in path.name]
    assert call(train, "--resume", folder).status == 0
    assert figures(folder) == figures(run_folder)
    assert record(folder)["test_accuracy"] == record(run_folder)["test_accuracy"]


def test_errors_that_are_not_of_the_disk_keep_their_words(tmp_path):
    with pytest.raises(ConnectionError) as raised, naming(tmp_path):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    assert raised.value.filename is None
    with pytest.raises(OSError, match="elsewhere"), naming(tmp_path):
        raise OSError(errno.ENOSPC, "full", "elsewhere")


def interrupt_at(patch, owner, name, when=lambda *_: True):
    """Ctrl-C while ``owner.name`` is at work."""
    true = getattr(owner, name)

    def method(*arguments, **options):
        if when(*arguments):
            raise KeyboardInterrupt
        return true(*arguments, **options)

    patch.setattr(owner, name, method)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Classifier, "training_step"),
        (Classifier, "validation_step"),
        (Classifier, "test_step"),
        (Classifier, "configure_optimizers"),
        (data.BatchedImages, "__getitems__"),
        (History, "on_train_epoch_end"),
        (train, "draw"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_ctrl_c_ends_in_one_line_and_the_run_can_go_on(owner, name, run_folder, call, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, owner, name)
        outcome = call(train, *TINY, "--epochs", 2, "--run_name", "two", pictures=True)
    folder = Path("runs", "two")
    assert outcome.status == 130
    assert outcome.err == f"interrupted: go on with: python -m experiments.train --resume {folder}\n"
    assert call(train, "--resume", folder).status == 0
    assert figures(folder) == figures(run_folder)


def test_ctrl_c_before_a_run_began_leaves_nothing(call, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, train, "data_of")
    outcome = call(train, *TINY)
    assert (outcome.status, outcome.err) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


class Sleeping(L.LightningModule):
    """Its first step, and the one in which torch compiles, take long."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        if self.global_step == 0:
            time.sleep(0.2)
        if self.global_step == 6:
            with callback_handler.install_callbacks(CallbackTrigger.DYNAMO, "0/0"):
                print("compiling")
                time.sleep(0.3)
        time.sleep(0.01)
        self.log_dict({"train_loss": 0.0, "train_accuracy": 0.0})
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        if self.current_epoch == 2 and batch_idx == 0:
            with callback_handler.install_callbacks(CallbackTrigger.DYNAMO, "1/0"):
                time.sleep(0.4)
        self.log_dict({"val_loss": 0.0, "val_accuracy": 0.0})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@quiet
def test_an_epoch_is_timed_in_steady_steps_and_compilation_apart_and_announced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(callbacks_module, "LINE_SECONDS", 0.1)
    callbacks = len(callback_handler.start_callbacks)
    history = History(tmp_path / "history.csv")
    loader = DataLoader(TensorDataset(torch.zeros(5, 1)))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[history],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(Sleeping(), loader, loader)
    first, second, third = history.rows
    assert first["compile_seconds"] == pytest.approx(0.2, abs=0.1)
    assert second["compile_seconds"] == pytest.approx(0.3, abs=0.1)
    assert third["compile_seconds"] == pytest.approx(0.4, abs=0.1)
    assert all(0.05 <= row["epoch_seconds"] < 0.2 for row in history.rows)
    for row in history.rows:
        assert row["epoch_seconds"] + row["compile_seconds"] <= row["total_seconds"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("compiling") - 1] == callbacks_module.COMPILING
    assert lines.count(callbacks_module.COMPILING) == 1
    assert [line for line in lines if line.startswith("epoch 1/3  step 1/5  left 0:0")]
    assert len(callback_handler.start_callbacks) == callbacks


def test_kernels_of_our_own_are_announced_as_they_are_built(tmp_path, monkeypatch):
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] || while shift; do [ "$1" = -o ] && touch "$2" && exit; done\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CONVKAN_CACHE", str(tmp_path / "cache"))
    told = []
    watch = CompileWatch(lambda: told.append((tmp_path / "cache").exists()))
    watch.start()
    path = build._built([str(compiler)], "activations", 1)
    assert path.exists()
    assert (told, watch.count) == ([True], 1)
    assert watch.seconds > 0
    build._built([str(compiler)], "activations", 1)  # which is there
    assert watch.count == 1
    watch.stop()
    path.unlink()
    build._built([str(compiler)], "activations", 1)
    assert watch.count == 1


def test_what_was_recorded_says_what_compilation_took(run_folder):
    assert record(run_folder)["compile_seconds"] == pytest.approx(sum(r["compile_seconds"] for r in rows(run_folder)))


def test_studies_say_how_far_they_are_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.StudyProgress("epochs") as bar:
        task = bar.add_task("trials", total=4)
        bar.advance(task)
        bar.update(task, completed=3, description="final runs")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("trials: 1/4 epochs, after 0:00") for line in lines)
    assert any(line.startswith("final runs: 3/4 epochs, after 0:00") for line in lines)


def test_peak_memory_is_none_where_no_module_tells_it(monkeypatch):
    assert peak_memory_bytes(torch.device("cpu")) > 0
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory_bytes(torch.device("cpu")) is None


SOURCES = [*Path(convkan.__file__).parent.rglob("*.py"), *Path(experiments.__file__).parent.rglob("*.py")]
OF_UNIX = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}


@pytest.fixture(scope="module")
def trees():
    """The syntax tree of every source, by its path."""
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def test_no_module_needs_unix_to_be_imported(trees):
    for path, tree in trees.items():
        for node in tree.body:  # what is imported at once
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not OF_UNIX.intersection(name.split(".")[0] for name in names), path


def test_text_files_have_an_encoding(trees):
    for path, node in ((path, node) for path, tree in trees.items() for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and called(node) in ("open", "read_text", "write_text"):
            modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            is_binary = called(node) == "open" and any("b" in str(mode) for mode in modes)
            named = any(keyword.arg == "encoding" for keyword in node.keywords)
            assert is_binary or named, f"{path}:{node.lineno}: {called(node)} without an encoding"


def called(node):
    """What of files a call calls; nothing if it is a function of ours, or of pictures."""
    if isinstance(node.func, ast.Attribute):
        return None if ast.unparse(node.func) in ("Image.open", "os.open") else node.func.attr
    return "open" if ast.unparse(node.func) == "open" else None


def test_a_script_prints_in_the_poorest_locale(monkeypatch):
    for errors in ("strict", "surrogateescape"):  # Python's own choice depends on how it got to know of the locale
        output = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", output)
            cli.run(lambda: print("J\u2080(20x)"))
        assert output.buffer.getvalue().strip() == b"J?(20x)"


@pytest.mark.parametrize("written", ["flag", "file"])
def test_paths_below_the_home_folder_are_found_wherever_they_are_written(written, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    paths = {"runs_root": "~/runs", "data_root": "~/data"}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(paths), encoding="utf-8")
    flags = [f"--{name}={value}" for name, value in paths.items()]
    config = cli.parse(TrainConfig, "test", flags if written == "flag" else ["--config", str(tmp_path / "a.yaml")])
    assert Path(config.runs_root) == tmp_path / "runs"
    assert Path(config.data_root) == tmp_path / "data"
