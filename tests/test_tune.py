"""The search for settings: what it draws, whom it stops, and that neither kills nor company lose or double a trial."""

import csv
import json
import multiprocessing
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import processes
import pytest
import yaml
from commands import assert_refused
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError

from experiments.common import cli, spaces
from experiments.common.cli import UserError
from experiments.common.records import DIVERGED, write_record
from experiments.common.train_config import TrainConfig
from experiments.tune import __main__ as tune
from experiments.tune import storage
from experiments.tune import trial as trial_module
from experiments.tune.config import TuneConfig
from experiments.tune.report import best_options, write_report
from experiments.tune.storage import open_study
from experiments.tune.worker import outcome, work

SPACE = {"learning_rate": {"low": 1e-3, "high": 1e-1}, "rank": [None, 1], "batch_size": {"low": 8, "high": 64}}
RECIPE = {"epochs": 4, "threads": 1}
PATIENCE = 60  # seconds, which only a failure takes


class Run:
    """A run of the training script that takes no time: its accuracy grows with the learning rate."""

    def __init__(self, command, environment, output):
        self.returncode, self.is_stopped = None, False
        options = yaml.safe_load(Path(command[-1]).read_text())
        self.folder, self.rate = Path(options["runs_root"], options["run_name"]), options["learning_rate"]
        self.epochs, self.done = options["epochs"], 0
        assert options["test"] is False
        self.folder.mkdir(parents=True)
        (self.folder / "config.yaml").write_text("")

    def poll(self):
        """Each look finds an epoch more, and the end after the last."""
        if self.done == self.epochs:
            write_record(self.folder / "result.json", {"val_accuracy": self.accuracy(), "parameters": 1})
            self.returncode = 0
            return 0
        self.done += 1
        with (self.folder / "history.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, ["epoch", "val_accuracy"])
            table.writeheader()
            table.writerows({"epoch": n, "val_accuracy": self.accuracy()} for n in range(1, self.done + 1))
        return None

    def accuracy(self):
        return min(1.0, 5 * self.rate)

    def terminate(self):
        self.is_stopped = self.returncode is None

    def wait(self):
        return self.returncode


class Diverging(Run):
    def poll(self):
        (self.folder / DIVERGED).write_text("")
        self.returncode = 1
        return 1


class Endless(Run):
    """Stays in its first epoch, and goes on from there."""

    def poll(self):
        return super().poll() if self.done == 0 else None


@pytest.fixture
def made(monkeypatch):
    """The runs that a search started, of the kind that is put at the front."""
    started, kinds = [], [Run]

    def start(*arguments):
        started.append(kinds[0](*arguments))
        return started[-1]

    pretend(monkeypatch.setattr, start)
    return started, kinds


def pretend(patch, start):
    patch(trial_module, "fork_child", start)
    patch(trial_module, "can_fork", lambda: True)
    patch(trial_module, "POLL_SECONDS", 0.0)


@pytest.fixture
def config(tmp_path):
    return TuneConfig("a", SPACE, RECIPE, trials=5, runs_root=str(tmp_path), gpus=0, pruner="none", stale_after=1)


def searched(config):
    study = open_study(config)
    work(study, config, lambda progress: None)
    return study


class TestSpaces:
    @pytest.mark.parametrize(
        ("name", "choice", "expected"),
        [
            ("weight_decay", {"low": 1, "high": 2}, FloatDistribution(1, 2, log=True)),
            ("dropout", {"low": 0, "high": 0.5, "log": False}, FloatDistribution(0, 0.5)),
            ("dropout", {"low": "1e-3", "high": 0.5}, FloatDistribution(1e-3, 0.5, log=True)),
            ("batch_size", {"low": 8, "high": 64}, IntDistribution(8, 64, log=True)),
            ("widths", [[8], [8, 16], None], CategoricalDistribution(["[8]", "[8, 16]", None])),
        ],
    )
    def test_a_range_or_a_list_says_what_is_drawn(self, name, choice, expected):
        assert spaces.distribution(f"space.{name}", choice) == expected

    def test_what_is_drawn_stands_for_a_setting(self):
        assert spaces.chosen([[8], [8, 16]], "[8, 16]") == [8, 16]
        assert spaces.chosen([True, 1, None], 1) is not True
        assert spaces.chosen(SPACE["learning_rate"], 0.0123456) == 0.0123
        assert spaces.chosen(SPACE["batch_size"], 12) == 12

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"space": {}}, ["space must name the options"]),
            ({"space": {"learning_rte": [1]}}, ["got 'learning_rte'", "rank"]),
            ({"space": {"weight_decay": {"low": 0, "high": 1}}}, ["space.weight_decay", "log: false"]),
            ({"space": {"weight_decay": {"low": 0, "hi": 1}}}, ["space.weight_decay must be a list"]),
            ({"space": {"test": [True]}}, ["space must not have test", "never see the test set"]),
            ({"recipe": {"run_name": "x"}}, ["recipe must not have run_name"]),
            ({"recipe": {"epoch": 3}}, ["options of experiments.train, got 'epoch'"]),
            ({"recipe": {"rank": 3}}, ["got 'rank'"]),
            ({"recipe": {"model_options": {"rank": 3}}}, ["different options, got 'rank'"]),
        ],
    )
    def test_a_search_that_makes_no_sense_is_refused(self, config, change, words):
        with pytest.raises(UserError) as raised:
            replace(config, **change).check()
        assert all(word in str(raised.value) for word in words)

    def test_options_of_a_model_go_with_it(self, config, made):
        space = {"model": ["plain_cnn", "kan_cnn"], **SPACE}
        recipe = {**RECIPE, "model_options": {"widths": [2]}}
        study = searched(replace(config, space=space, recipe=recipe, trials=3))
        found = {trial.params["model"]: set(trial.params) for trial in study.trials}
        assert found == {"plain_cnn": set(space) - {"rank"}, "kan_cnn": set(space)}


class TestTrials:
    def test_the_best_is_found_and_the_recipes_own_settings_come_first(self, config, made):
        study = searched(config)
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5
        assert study.trials[0].params == {"learning_rate": 0.01, "rank": None, "batch_size": 32}
        assert study.best_trial.params["learning_rate"] == max(t.params["learning_rate"] for t in study.trials)
        assert len({trial.params["learning_rate"] for trial in study.trials}) == 5
        searched(config)  # there is nothing left to do
        assert len(made[0]) == 5
        searched(replace(config, trials=6))
        assert len(made[0]) == 6

    def test_a_default_of_zero_is_a_choice_of_zero(self, config, made):
        study = searched(replace(config, trials=1, space={**SPACE, "mixup": [0, 0.2]}))
        assert (study.trials[0].state, study.trials[0].params["mixup"]) == (TrialState.COMPLETE, 0)

    @pytest.mark.thorough
    def test_a_seed_gives_the_same_search(self, config, made, tmp_path):
        config = replace(config, trials=3)
        again = replace(config, runs_root=str(tmp_path / "again"))
        assert [t.params for t in searched(config).trials] == [t.params for t in searched(again).trials]

    def test_a_bad_trial_is_stopped_and_a_good_one_is_not(self, config, made):
        study = searched(replace(config, pruner="median", trials=9))
        stopped = [trial for trial in study.trials if trial.state is TrialState.PRUNED]
        assert stopped
        assert [run.is_stopped for run in made[0]] == [trial in stopped for trial in study.trials]
        assert max(t.params["learning_rate"] for t in stopped) < study.best_trial.params["learning_rate"]
        assert all(len(trial.intermediate_values) < 4 for trial in stopped)

    def test_a_diverged_trial_is_no_failure_and_never_the_best(self, config, made):
        made[1].insert(0, Diverging)
        searched(replace(config, trials=2))
        made[1].pop(0)
        study = searched(replace(config, trials=3))
        assert [outcome(trial) for trial in study.trials][:2] == ["diverged", "diverged"]
        assert study.best_trial.number == 2

    def test_a_study_of_another_space_is_refused(self, config, made):
        searched(config)
        with pytest.raises(UserError, match="the study a has another space and recipe"):
            open_study(replace(config, space={"rank": [1, 2]}, recipe={}))

    def test_a_database_that_cannot_be_reached_is_told_without_its_password(self, config):
        with pytest.raises(UserError, match="the database .* cannot be used") as raised:
            open_study(replace(config, storage="sqlite:////nowhere/at/all.db"))
        assert "\n" not in str(raised.value)
        with pytest.raises(UserError, match="cannot be used") as raised:
            open_study(replace(config, storage="mysql+nothing://me:secret@host/db"))
        assert "secret" not in str(raised.value)

    def test_a_driver_that_is_missing_is_named(self, config):
        url = "oracle+cx_oracle://me:secret@host/db"  # which nobody has
        with pytest.raises(UserError, match="No module named 'cx_Oracle', which is this database's driver") as raised:
            open_study(replace(config, storage=url))
        assert "secret" not in str(raised.value)

    @pytest.mark.parametrize("losses", [1, storage.ATTEMPTS])
    def test_workers_that_come_to_an_empty_database_at_once_make_its_tables_once(self, config, monkeypatch, losses):
        made, real = [], storage.RDBStorage

        def raced(url, **options):
            made.append(url)
            if len(made) <= losses:
                raise IntegrityError("CREATE TABLE studies", {}, ValueError("duplicate key value"))
            return real(url, **options)

        monkeypatch.setattr(storage, "RDBStorage", raced)
        monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
        if losses < storage.ATTEMPTS:
            assert open_study(config).study_name == config.name
        else:
            with pytest.raises(UserError, match="duplicate key value"):
                open_study(config)
        assert len(made) == min(losses + 1, storage.ATTEMPTS)


def work_in_a_process(config, kind, barrier):
    pretend(setattr, kind)
    barrier.wait()
    searched(config)


class TestWorkers:
    @pytest.fixture(autouse=True)
    def context(self):
        return multiprocessing.get_context(processes.START_METHOD)

    @pytest.mark.thorough
    def test_workers_share_a_study(self, config, context, made):
        config = replace(config, trials=7, sampler="random")
        barrier = context.Barrier(3)
        others = [context.Process(target=work_in_a_process, args=(config, Run, barrier)) for _ in range(2)]
        for other in others:
            other.start()
        barrier.wait()
        study = searched(config)
        for other in others:
            other.join(PATIENCE)
            assert other.exitcode == 0
        trials = study.get_trials()
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 7
        assert len({trial.params["learning_rate"] for trial in trials}) == 7
        assert len(made[0]) < 7
        assert len(list((config.folder / "trials").iterdir())) == 7

    @pytest.mark.slow
    def test_a_killed_workers_trial_is_made_again_and_no_other(self, config, context, made, monkeypatch):
        searched(replace(config, trials=2))
        barrier = context.Barrier(1)
        worker = context.Process(target=work_in_a_process, args=(config, Endless, barrier))
        worker.start()
        folder = config.folder / "trials" / "0002"
        deadline = time.monotonic() + PATIENCE
        while not (folder / "history.csv").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        worker.kill()
        worker.join()

        def resumed(command, environment, output):
            if command[-2] == "--resume":  # by the run's own configuration
                assert command[-1] == str(folder)
                (folder / "config.yaml").unlink()
                (folder / "history.csv").unlink()
                folder.rmdir()
                command = [*command[:-1], str(config.folder / "configs" / "0002.yaml")]
            return Run(command, environment, output)

        monkeypatch.setattr(trial_module, "fork_child", resumed)
        study = searched(config)
        [killed] = [trial for trial in study.trials if trial.state is TrialState.FAIL]
        [again] = [trial for trial in study.trials if trial.user_attrs.get("folder") == "0002" and trial.number > 2]
        assert killed.number == 2
        assert again.params == killed.params
        assert again.state is TrialState.COMPLETE
        assert sum(trial.state is TrialState.COMPLETE for trial in study.trials) == 5


@pytest.mark.slow
def test_the_command_searches_reports_and_its_best_can_be_trained(call, tmp_path, monkeypatch):
    pytest.importorskip("plotly")
    monkeypatch.setattr(trial_module, "fork_child", processes.start)
    recipe = {"epochs": 2, "threads": 1, "batch_size": 64, "train_fraction": 0.2, "model_options": {"widths": [2]}}
    path = tmp_path / "search.yaml"
    about = {"name": "tiny", "trials": 3, "gpus": 0, "recipe": recipe, "space": SPACE | {"batch_size": [32, 64]}}
    path.write_text(yaml.safe_dump(about | {"recipe": {k: v for k, v in recipe.items() if k != "batch_size"}}))
    outcome = call(tune, "--config", path)
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "runs" / "tune" / "tiny"
    assert "report in " in outcome.out
    records = [json.loads(path.read_text()) for path in folder.glob("trials/*/result.json")]
    assert records
    assert all("test_accuracy" not in record for record in records)
    best = cli.parse(TrainConfig, None, ["--config", str(folder / "best.yaml")])
    assert best.test
    [kept] = [record for record in records if record["val_accuracy"] == max(r["val_accuracy"] for r in records)][:1]
    assert best.learning_rate in [record["config"]["learning_rate"] for record in records]
    assert kept["config"]["epochs"] == best.epochs == 2
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("History", "Accuracy by option", "plotly"))
    assert "<script src" not in page
    assert "<link" not in page
    monkeypatch.setattr(trial_module, "fork_child", lambda *_: pytest.fail("ran again"))
    assert call(tune, "--config", path).status == 0
    assert_refused(call(tune, "--config", path, "--recipe.epochs", 3), "another recipe")


def test_a_run_that_fails_is_told_with_the_end_of_its_log(config, call, made, monkeypatch):
    class Failing(Run):
        def __init__(self, command, environment, output):
            super().__init__(command, environment, output)
            output.write(b"error: precision must be another\n")
            self.returncode = 1

        def poll(self):
            return 1

    made[1].insert(0, Failing)
    with pytest.raises(
        UserError, match=r"trial 0 failed \(status 1\); .*0000.log ends with: error: precision must be another"
    ):
        searched(config)


def test_a_page_without_pictures_says_what_they_need(config, made, monkeypatch):
    study = searched(config)
    monkeypatch.setitem(sys.modules, "plotly", None)
    page, best, table = write_report(study, config)
    assert "pip install &#39;convkan-vision[tune]&#39;" in page.read_text(encoding="utf-8")
    assert yaml.safe_load(best.read_text())["learning_rate"] == best_options(study.best_trial, config)["learning_rate"]
    assert len(table.read_text().splitlines()) == 6
    assert optuna.load_study(study_name="a", storage=config.url).user_attrs.keys() == {"space", "recipe"}
