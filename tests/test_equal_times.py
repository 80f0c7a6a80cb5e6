"""Entries that train for as long: epochs follow from measured times, which are kept, and the report says so."""

import json
import subprocess
import sys

import pytest
import yaml
from commands import called

from experiments.common.cli import UserError
from experiments.compare import __main__ as compare
from experiments.compare import budget, timing
from experiments.compare.budget import solve_epochs
from experiments.compare.schedule import Schedule
from experiments.compare.suite import Entry, Match, load_suite
from experiments.compare.timing import StepTimes

SUITE = {
    "name": "timed",
    "title": "T",
    "datasets": ["digits"],
    "seeds": [0, 1],
    "recipe": {"epochs": 4, "batch_size": 128, "threads": 1},
    "match": {"by": ["parameters", "time"], "target": 500},
    "entries": [
        {"name": "CNN", "model": "vgg", "options": {"depths": [2]}},
        {"name": "KAN", "model": "kan_vgg", "options": {"depths": [2]}},
    ],
}
CNN, KAN = Entry("CNN", "vgg"), Entry("KAN", "kan_vgg")


def written(tmp_path, **changes):
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(SUITE | changes))
    return load_suite(path)


def step_of(milliseconds, others=0.0):
    return StepTimes([milliseconds] * 3, 10, others, "cpu")


@pytest.mark.parametrize(
    ("cnn", "kan", "seconds", "expected"),
    [
        (10, 20, None, (8, 4)),  # the slower entry keeps its epochs
        (20, 10, None, (4, 8)),
        (10, 17, None, (7, 4)),  # 6.8 for the CNN, up
        (17, 10, None, (4, 6)),  # 6.8 for the KAN, down
        (10, 20, 1.0, (10, 5)),
        (10, 20, 0.01, (1, 1)),
    ],
)
def test_epochs_fill_the_time_and_rounding_never_favours_a_kan(cnn, kan, seconds, expected):
    times = {"CNN": step_of(cnn), "KAN": step_of(kan)}
    found = solve_epochs(Match("time", seconds=seconds), [CNN, KAN], times, {"CNN": 4, "KAN": 4})
    assert (found["CNN"], found["KAN"]) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"match": {"by": "time", "target": 3}}, "match.target must be left out where match.by is time, got 3"),
        ({"match": {"by": "parameters"}}, "match must have a target where it is by parameters, got none"),
        ({"match": {"by": "time", "seconds": 0}}, "match.seconds must be positive, got 0"),
        ({"match": {"by": ["parameters", "step_time"], "target": 3}}, "match.by must be one measure, or a list of one"),
        ({"match": {"by": []}}, "match.by must be one measure, or a list of one"),
        (
            {"match": {"by": "parameters", "target": 3, "seconds": 3}},
            "match.seconds must be left out where match.by is",
        ),
        ({"match": {"by": ["hours"]}}, r"match.by\[0\] must be one of parameters, .*, time, got 'hours'"),
        ({"recipe": {"refine": {1: 8}}}, "match.by must be without time .* got refine {1: 8} in the recipe of 'CNN'"),
        ({"recipe": {"adapt_every": 5}}, "match.by must be without time .* got adapt_every 5"),
        ({"recipe": {"adapt_every": 5, "adapt_until": 5}}, "match.by must be without time .* got adapt_every 5"),
        ({"recipe": {"early_stopping": 3}}, "match.by must be without time .* got early_stopping 3"),
    ],
)
def test_what_a_match_gets_wrong_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        written(tmp_path, **changes)


def test_measured_times_are_those_of_the_runs_steps_and_say_what_to_doubt(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "ROUNDS", 2)
    monkeypatch.setattr(timing, "ROUND_SECONDS", 0.01)
    schedule = Schedule(written(tmp_path), tmp_path / "runs", None)
    assert not schedule.has_times("digits")
    with pytest.raises(UserError, match="digits.json must have times of CNN, KAN"):
        schedule.final_jobs("digits", schedule.suite.entries[0])
    said = []
    schedule.measure("digits", 1, said.append)
    assert schedule.has_times("digits")
    assert "steps of KAN, round 2 of 2" in said
    for found in schedule.timings("digits"):
        assert len(found["rounds"]) == 2
        assert 0 < found["step_milliseconds"] < 5000
        assert found["steps_per_epoch"] == 11
    assert StepTimes([10, 10, 12], 5, 0.3, "cpu").doubts("a") == [
        "Times of a were measured while others kept 30% of the processors busy: on an idle machine they may be others.",
        "Times of a differ by 20% between rounds of measurement.",
    ]
    assert step_of(3.0, None).doubts("a") == []


def test_workers_that_have_ended_are_no_others():
    before = timing._own_seconds()
    work = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-S", "-c", work], check=True)
    assert timing._own_seconds() - before > 0.15


class TestKept:
    """Epochs are solved for once: whatever a later measurement would say, runs that are half done keep theirs."""

    @pytest.fixture
    def measured(self, monkeypatch):
        """Each measurement finds times of its own, as real ones do."""
        calls = []

        def measure(runs, report):
            calls.append(list(runs))
            return {name: step_of(10 * (1 + (name == "KAN")) + len(calls)) for name in runs}

        monkeypatch.setattr(budget, "time_steps", measure)
        return calls

    def epochs(self, schedule):
        jobs = [schedule.final_jobs("digits", entry) for entry in schedule.suite.entries]
        return {job.options["epochs"] for job in jobs[0]}, {job.options["epochs"] for job in jobs[1]}

    def test_another_process_finds_the_same_epochs(self, tmp_path, measured):
        found = []
        for _ in range(2):
            schedule = Schedule(written(tmp_path), tmp_path / "runs", None)
            schedule.measure("digits", 1, print)
            found.append(self.epochs(schedule))
        assert found == [({8}, {4})] * 2  # 21/11 times 4, up
        assert measured == [["CNN", "KAN"]]

    def test_an_entry_that_comes_later_is_measured_alone(self, tmp_path, measured):
        Schedule(written(tmp_path), tmp_path / "runs", None).measure("digits", 1, print)
        more = [*SUITE["entries"], {"name": "other", "model": "vgg", "options": {"depths": [1]}}]
        schedule = Schedule(written(tmp_path, entries=more), tmp_path / "runs", None)
        schedule.measure("digits", 1, print)
        assert measured[1:] == [["other"]]
        assert self.epochs(schedule) == ({8}, {4})

    def test_what_was_cut_short_before_it_was_kept_is_measured_anew(self, tmp_path, measured, monkeypatch):
        monkeypatch.setattr(budget, "write_record", lambda path, record: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Schedule(written(tmp_path), tmp_path / "runs", None).measure("digits", 1, print)
        monkeypatch.undo()
        assert not Schedule(written(tmp_path), tmp_path / "runs", None).has_times("digits")


@pytest.mark.thorough
def test_a_suite_at_equal_parameters_and_time_runs_and_says_so(tmp_path, monkeypatch, capsys):
    import processes

    monkeypatch.setattr("experiments.compare.jobs.start_child", processes.start)
    monkeypatch.setattr(budget, "time_steps", lambda runs, report: {"CNN": step_of(10), "KAN": step_of(20, 0.5)})
    written(tmp_path, recipe=SUITE["recipe"] | {"epochs": 1})
    arguments = ["--suite", tmp_path / "suite.yaml", "--runs_root", tmp_path / "runs", "--gpus", "0"]
    assert called(compare, *arguments) == 0
    output = capsys.readouterr().out
    assert "epochs on digits for equal times: CNN 2, KAN 1" in output
    assert "warning: on digits: Times of KAN were measured while others kept 50% of the processors busy" in output
    folder = tmp_path / "runs" / "timed" / "report"
    record = json.loads((folder / "suite.json").read_text())
    assert {(run["entry"], run["epochs"]) for run in record["runs"]} == {("CNN", 2), ("KAN", 1)}
    text = (folder / "report.md").read_text()
    assert "CNN 2 epochs of 10 steps of 10 ms, 0.2 s; KAN 1 epochs of 10 steps of 20 ms, 0.2 s" in text
    assert "at equal training time" in text  # so small, widths do not make parameters equal
    assert "the epochs of a run themselves took" in text
    assert [(found["entry"], found["epochs"], found["others"]) for found in record["timings"]] == [
        ("CNN", 2, 0.0),
        ("KAN", 1, 0.5),
    ]
