"""Comparisons: what a suite may say, how sizes are matched, what statistics conclude, and a whole one in small."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import processes
import pytest
import torch
import yaml
from cases import diagonal
from PIL import Image

from convkan.models import create_model, model_options
from experiments.common.cli import UserError
from experiments.common.counting import count_multiply_adds, count_parameters
from experiments.common.records import packed, unpacked, write_record
from experiments.common.statistics import pareto_front
from experiments.compare import __main__ as compare
from experiments.compare import jobs, matching, tables
from experiments.compare.matching import Step, match_width, matched_options
from experiments.compare.schedule import Schedule
from experiments.compare.search import best_of, split, trials_of
from experiments.compare.suite import Match, load_suite, suite_of

SUITES = sorted((Path(compare.__file__).parents[1] / "configs" / "compare").glob("*.yaml"))
SMALL = {
    "name": "small",
    "title": "A small one",
    "datasets": ["digits"],
    "seeds": [0, 1],
    "recipe": {"epochs": 1, "batch_size": 128, "threads": 1},
    "match": {"by": "parameters", "target": 500},
    "entries": [
        {"name": "CNN", "model": "vgg", "options": {"depths": [2]}},
        {"name": "KAN", "model": "kan_vgg", "options": {"depths": [2]}, "published": {"accuracy": 12.5}},
    ],
}


def written(tmp_path, **changes):
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return path


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_suite_is_valid_and_its_models_can_be_built(path):
    suite = load_suite(path)
    for entry in suite.entries:
        create_model(entry.model, **entry.options)
    for entry, rival in suite.pairs():  # a KAN is held against CNNs, unless the suite names something else
        assert rival.is_plain or rival.name in (entry.against or [])
    assert suite_of({"suite": asdict(suite)}) == suite


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ["mnits"]}, "datasets must be among .* got mnits"),
        ({"seeds": []}, "seeds and datasets must name at least one"),
        ({"entries": [{"name": "a", "model": "nothing"}]}, "model of 'a' must be one of .* got 'nothing'"),
        (
            {"entries": [{"name": "a", "model": "vgg", "options": {"rank": 1}}]},
            "options of 'a' must be among .* got rank",
        ),
        ({"entries": [{"name": "a"}]}, r"entries\[0\] must have model, got name"),
        ({"recipe": {"seed": 1}}, "recipe must be among .* got seed"),
        ({"match": {"by": "size", "target": 1}}, "match.by must be one of parameters, .* got 'size'"),
        ({"entries": [{"name": "a", "model": "cnn_small"}]}, "match needs models with an option width"),
        (
            {"datasets": ["digits", "mnist"], "entries": [SMALL["entries"][1]]},
            "published.accuracy belongs to one data set, and the suite has digits, mnist",
        ),
        ({"test": "no"}, "test must be true or false, got 'no'"),
        ({"budget": 1}, "the suite must be among .* got budget"),
        ({"seeds": 3}, "seeds must be a list, each item of it a whole number, got 3"),
        ({"seeds": [0, "1"]}, r"seeds\[1\] must be a whole number, got '1'"),
        ({"seeds": [0, True]}, r"seeds\[1\] must be a whole number, got True"),
        ({"seeds": [1, 0, 1]}, "seeds must differ, got 1, 0, 1"),
        ({"datasets": "digits"}, "datasets must be a list, each item of it text, got 'digits'"),
        ({"name": 3}, "name must be text, got 3"),
        ({"name": "../other"}, "name must be that of a folder, got '../other'"),
        ({"entries": {"a": "vgg"}}, "entries must be a list, each item of it a mapping"),
        ({"entries": ["vgg"]}, r"entries\[0\] must be a mapping, got 'vgg'"),
        ({"entries": [{"name": "a", "model": "vgg", "against": "CNN"}]}, r"entries\[0\].against must be a list"),
        ({"recipe": {"epochs": "many"}}, "recipe.epochs must be a whole number, got 'many'"),
        ({"recipe": {"epochs": 1.5}}, "recipe.epochs must be a whole number, got 1.5"),
        ({"recipe": {"learning_rate": "fast"}}, "recipe.learning_rate must be a number, got 'fast'"),
        ({"recipe": {"schedule": "step"}}, "recipe.schedule must be one of cosine, .* got 'step'"),
        ({"recipe": {"refine": {"soon": 10}}}, "a key of recipe.refine must be a whole number, got 'soon'"),
        ({"recipe": {"epochs": 0}}, "recipe of 'CNN', with the suite's: epochs must be at least 1, got 0"),
        ({"recipe": {"weight_decay": -1}}, "weight_decay must not be negative, got -1"),
        ({"match": 500}, "match must be a mapping, got 500"),
        ({"match": {"by": "parameters", "target": "small"}}, "match.target must be a number, got 'small'"),
        ({"search": {"trials": 2.5, "epochs": 1}}, "search.trials must be a whole number, got 2.5"),
        ({"test": 1}, "test must be true or false, got 1"),
    ],
)
def test_what_a_suite_gets_wrong_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_suite(written(tmp_path, **changes))


def test_a_number_that_yaml_takes_for_text_is_one(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(written(tmp_path).read_text() + "search: {trials: 1, epochs: 1, train_fraction: 5e-1}\n")
    assert load_suite(path).search.train_fraction == 0.5
    assert load_suite(written(tmp_path, recipe={"learning_rate": "1e-3"})).recipe == {"learning_rate": 1e-3}


@pytest.mark.parametrize("text", ["", "3", "- 1", "a: [", "\x00"])
def test_a_file_that_is_no_suite_is_refused(tmp_path, text):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="must be a mapping|cannot be read"):
        load_suite(path)


class TestMatching:
    @pytest.mark.parametrize("target", [1, 2, 7, 50, 99.5, 1e4])
    def test_width_is_the_closest_there_is(self, target):
        width = match_width(lambda width: width**2, target)
        assert all(abs(width**2 - target) <= abs(other**2 - target) for other in range(1, 200))

    @pytest.mark.parametrize(
        ("kind", "by"),
        diagonal([None, "full", "lowrank", "shared", "depthwise", "bottleneck"], ["parameters", "multiply_adds"]),
    )
    def test_models_come_close_to_the_target(self, by, kind):
        target = {"parameters": 20_000, "multiply_adds": 30_000_000}[by]
        model, options = ("vgg", {}) if kind is None else ("kan_vgg", {"kind": kind})
        options = matched_options(model, options, Match(by, target), (1, 28, 28), 10)
        built = create_model(model, 10, 1, **options)
        example = torch.zeros(1, 1, 28, 28)
        size = count_parameters(built) if by == "parameters" else count_multiply_adds(built, example)
        assert abs(size / target - 1) < 0.05

    def test_step_time_can_be_matched(self):
        options = matched_options("vgg", {}, Match("step_time", 5.0), (1, 8, 8), 10)
        assert options["width"] >= 1

    def test_step_time_is_that_of_the_runs_own_steps(self, monkeypatch):
        seen = []
        measure = lambda model, example, step: seen.append((tuple(example.shape), step)) or 5.0  # noqa: E731
        monkeypatch.setitem(matching.MEASURES, "step_time", measure)
        step = Step.of({"batch_size": 7, "channels_last": False, "epochs": 3})
        matched_options("vgg", {}, Match("step_time", 5.0), (3, 20, 30), 10, step)
        assert set(seen) == {((1, 3, 20, 30), Step(7, False, None))}
        batches = []
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        model.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
        assert matching.step_milliseconds(model, torch.zeros(1, 3, 2, 2), step) > 0
        assert set(batches) == {7}

    def test_a_width_that_is_given_stays(self):
        assert matched_options("vgg", {"width": 3}, Match("parameters", 1e6), (1, 8, 8), 10) == {"width": 3}

    def test_wide_networks_are_within_reach(self):
        options = matched_options("mobilenet", {"depths": [1, 1]}, Match("parameters", 400_000), (1, 8, 8), 10)
        assert options["width"] > 256

    def test_a_target_out_of_reach_is_refused(self):
        with pytest.raises(UserError, match="not reached"):
            match_width(lambda width: 1.0, 2.0)


class TestSchedule:
    """What is worked out for a run is worked out for the images, and the steps, that its own recipe asks for."""

    def jobs(self, tmp_path, **changes):
        images = tmp_path / "images"
        for name in ("cat", "dog"):
            for index in range(6):
                (images / name).mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng(index).integers(256, size=(24, 30, 3), dtype=np.uint8)
                Image.fromarray(noise).save(images / name / f"{index}.png")
        entries = [SMALL["entries"][0], SMALL["entries"][1] | {"recipe": {"image_size": 12, "batch_size": 4}}]
        changes = {"datasets": ["folder"], "entries": entries, "seeds": [0]} | changes
        suite = load_suite(written(tmp_path, **changes))
        plan = Schedule(suite, tmp_path / "runs", str(images))
        return [plan.final_jobs("folder", entry)[0] for entry in suite.entries]

    def test_multiply_adds_are_matched_at_the_size_of_the_images(self, tmp_path):
        target = 1_000_000
        recipe = SMALL["recipe"] | {"image_size": 20}
        jobs = self.jobs(tmp_path, recipe=recipe, match={"by": "multiply_adds", "target": target})
        assert [job.options["image_size"] for job in jobs] == [20, 12]
        for job in jobs:
            model = create_model(job.options["model"], 2, 3, **job.options["model_options"])
            side = job.options["image_size"]
            assert count_multiply_adds(model, torch.zeros(1, 3, side, side)) == pytest.approx(target, rel=0.05)

    def test_steps_are_timed_as_the_runs_take_them(self, tmp_path, monkeypatch):
        seen = []
        measure = lambda model, example, step: seen.append((tuple(example.shape), step)) or 5.0  # noqa: E731
        monkeypatch.setitem(matching.MEASURES, "step_time", measure)
        recipe = SMALL["recipe"] | {"image_size": 20, "channels_last": False}
        self.jobs(tmp_path, recipe=recipe, match={"by": "step_time", "target": 5})
        assert set(seen) == {((1, 3, 20, 20), Step(128, False, 1)), ((1, 3, 12, 12), Step(4, False, 1))}


class TestSearch:
    def suite(self, tmp_path):
        space = {"learning_rate": {"low": 1e-3, "high": 1e-1}, "rank": [1, 2, 4], "weight_decay": [0.0, 0.1]}
        return load_suite(written(tmp_path, search={"trials": 6, "epochs": 1, "space": space}))

    def test_entries_that_do_not_differ_within_a_trial_share_its_run(self, tmp_path):
        entries = [
            {"name": f"grid {size}", "model": "kanc_mlp_small", "recipe": {"refine": {1: size, 3: 2 * size}}}
            for size in (10, 20)
        ]
        jobs = {}
        for epochs in (1, 2):
            search = {"trials": 3, "epochs": epochs, "space": {"learning_rate": {"low": 1e-3, "high": 1e-1}}}
            suite = load_suite(written(tmp_path, entries=entries, search=search, recipe={"epochs": 4}, match=None))
            plan = Schedule(suite, tmp_path, None)
            jobs[epochs] = [plan.trial_jobs("digits", entry) for entry in suite.entries]
        one, other = jobs[1]
        assert [job.folder for job in one] == [job.folder for job in other]
        assert len({job.folder for job in one}) == 3
        assert [job.options["refine"] for job in one] == [{}] * 3
        folders = {job.folder for side in (*jobs[1], *jobs[2]) for job in side}
        assert len(folders) == 3 + 6
        assert [side[0].options["refine"] for side in jobs[2]] == [{1: 10}, {1: 20}]

    def test_every_side_gets_as_many_trials_and_its_own_setting_first(self, tmp_path):
        suite = self.suite(tmp_path)
        cnn, kan = (trials_of(suite, entry) for entry in suite.entries)
        assert len(cnn) == len(kan) == 6
        assert cnn[0] == {"learning_rate": 1e-2, "weight_decay": 0.02}
        assert kan[0] == {"learning_rate": 1e-2, "weight_decay": 0.02, "rank": 1}
        assert all(1e-3 <= trial["learning_rate"] <= 1e-1 for trial in cnn)
        assert len({trial["learning_rate"] for trial in cnn}) == 6
        assert cnn == trials_of(suite, suite.entries[0])

    def test_settings_go_where_they_belong(self, tmp_path):
        suite = self.suite(tmp_path)
        assert split({"rank": 2, "learning_rate": 0.1}, suite.entries[1]) == ({"learning_rate": 0.1}, {"rank": 2})
        assert "rank" not in model_options("vgg")

    def test_the_best_is_taken(self):
        assert best_of([{"a": 1}, {"a": 2}, {"a": 3}], [0.5, 0.9, 0.9]) == {"a": 2}

    @pytest.mark.parametrize(("weights", "best"), [("none", 0.0), ("balanced", 0.1)])
    def test_the_best_is_that_by_which_epochs_are_chosen(self, tmp_path, weights, best):
        search = {"trials": 2, "epochs": 1, "space": {"weight_decay": [0.1]}}
        recipe = SMALL["recipe"] | {"class_weights": weights, "weight_decay": 0.0}
        suite = load_suite(written(tmp_path, search=search, recipe=recipe, match=None))
        plan = Schedule(suite, tmp_path, None)
        figures = (
            {"val_accuracy": 0.9, "val_balanced_accuracy": 0.5},
            {"val_accuracy": 0.8, "val_balanced_accuracy": 0.7},
        )
        for job, found in zip(plan.trial_jobs("digits", suite.entries[0]), figures, strict=True):
            write_record(job.folder / "result.json", found)
        assert plan.best_settings("digits", suite.entries[0]) == {"weight_decay": best}
        trials = [{"dataset": "digits", "entry": "CNN", "settings": {"weight_decay": n}} | found
                  for n, found in zip((0.0, 0.1), figures, strict=True)]  # fmt: skip
        shown = tables.search_rows({"suite": asdict(suite), "searches": trials}).rows[0]
        assert shown[-1] == f"weight_decay {best}"
        assert shown[-2] == ("90.00" if weights == "none" else "70.00")

    @pytest.mark.parametrize("choice", [[], {"low": 0, "high": 1}, {"low": 2, "high": 1}, 3, {"high": 1}])
    def test_a_space_that_makes_no_sense_is_refused(self, tmp_path, choice):
        suite = load_suite(written(tmp_path, search={"trials": 2, "epochs": 1, "space": {"weight_decay": choice}}))
        with pytest.raises(UserError, match="weight_decay must be a list of choices or a mapping"):
            compare.check_search(suite)

    @pytest.mark.parametrize(
        ("name", "match", "message"),
        [
            ("learning_rat", None, "options of experiments.train or of a model of the suite's, got 'learning_rat'"),
            ("dataset", None, "without what the suite decides or match holds equal, got 'dataset'"),
            ("epochs", None, "without what the suite decides or match holds equal, got 'epochs'"),
            ("width", {"by": "parameters", "target": 500}, "holds equal, got 'width'"),
            ("refine", {"by": "time"}, "holds equal, got 'refine'"),
        ],
    )
    def test_a_space_has_options_that_are_free(self, tmp_path, name, match, message):
        suite = load_suite(written(tmp_path, match=match, search={"trials": 2, "epochs": 1, "space": {name: [1, 2]}}))
        with pytest.raises(UserError, match=message):
            compare.check_search(suite)


class TestStatistics:
    def test_the_front_holds_what_nothing_cheaper_beats(self):
        assert pareto_front([3, 1, 2, 4], [0.9, 0.5, 0.4, 0.9]) == [1, 0]

    @pytest.mark.parametrize(
        ("refine", "expected"), [({}, "2.0"), ({"2": 10}, "1.0 → 3.5"), ({"1": 10, "3": 20, "8": 40}, "1.0 → 5.0")]
    )
    def test_seconds_are_told_for_the_first_and_the_last_grid(self, refine, expected):
        history = {"epoch": [1, 2, 3, 4], "epoch_seconds": [1.0, 1.0, 2.0, 5.0] if refine else [2.0] * 4}
        runs = pd.DataFrame([{"options": {"refine": refine}, "history": history}] * 2)
        assert tables._seconds(runs) == expected

    def test_a_chosen_option_of_none_is_told(self):
        settings = {"base_activation": None, "coefficient_decay": None, "dropout": 0.1}
        search = {"dataset": "digits", "entry": "KAN", "settings": settings, "val_accuracy": 0.9}
        record = {"searches": [search], "suite": SMALL | {"entries": [{"name": "KAN", "model": "kan_vgg"}]}}
        assert tables.search_rows(record).rows[0][-1] == "base_activation None, dropout 0.1"

    def test_a_table_becomes_markdown(self):
        table = tables.Table.of(pd.DataFrame({"a": [1, 2], "b": ["", ""], "c": ["x", "3"], "d": ["", "4"]}))
        assert table.markdown() == ["| a | c | d |", "| ---: | --- | ---: |", "| 1 | x |  |", "| 2 | 3 | 4 |"]

    def test_flags_survive_packing(self):
        flags = torch.rand(37) < 0.5
        assert (unpacked(packed(flags), 37) == flags.numpy()).all()


@pytest.fixture
def at_once(monkeypatch):
    """Runs are processes of their own, as always, that need not import torch first."""
    monkeypatch.setattr(jobs, "start_child", processes.start)


@pytest.mark.slow
def test_a_comparison_runs_goes_on_after_a_kill_and_reports(at_once, tmp_path, monkeypatch, capsys):
    space = {"learning_rate": {"low": 1e-3, "high": 1e-1}}
    search = {"trials": 2, "epochs": 1, "train_fraction": 0.3, "space": space}
    path = written(tmp_path, search=search)
    arguments = [
        "compare",
        "--suite",
        str(path),
        "--runs_root",
        str(tmp_path / "runs"),
        "--processes",
        "2",
        "--gpus",
        "0",
    ]
    monkeypatch.setattr("sys.argv", arguments)
    compare.main()
    assert "report in" in capsys.readouterr().out
    folder = tmp_path / "runs" / "small" / "report"
    record = json.loads((folder / "suite.json").read_text())
    assert len(record["runs"]) == 4
    assert len(record["searches"]) == 4
    assert all("test_accuracy" not in json.loads(p.read_text()) for p in folder.parent.glob("trials/*/result.json"))
    text = (folder / "report.md").read_text()
    assert text.index("## Verdict") < text.index("## digits")
    assert "published accuracy" in text
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", page)  # pictures, in which it may be by chance

    # Nothing is done twice.
    monkeypatch.setattr("experiments.compare.jobs._start", lambda *arguments: pytest.fail("ran again"))
    compare.main()

    # Figures of classes in another order are not put beside the others.
    path = sorted(folder.parent.glob("digits-*/result.json"))[0]
    before = path.read_text(encoding="utf-8")
    other = json.loads(before)
    other["images"] = {part: dict(reversed(counts.items())) for part, counts in other["images"].items()}
    path.write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(UserError, match="runs on digits must have the same classes in the same order.*9, 8, 7"):
        compare.main()
    path.write_text(before, encoding="utf-8")

    # Other options under the same name are refused.
    written(tmp_path, search=search, recipe=SMALL["recipe"] | {"epochs": 2})
    with pytest.raises(UserError, match=r"was run with other options \(epochs\)"):
        compare.main()


@pytest.mark.slow
def test_a_suite_that_chooses_leaves_the_test_set_alone(at_once, tmp_path, monkeypatch):
    path = written(tmp_path, test=False, seeds=[0])
    arguments = ["compare", "--suite", str(path), "--runs_root", str(tmp_path / "runs"), "--gpus", "0"]
    monkeypatch.setattr("sys.argv", arguments)
    compare.main()
    folder = tmp_path / "runs" / "small" / "report"
    record = json.loads((folder / "suite.json").read_text())
    assert all("test_accuracy" not in run for run in record["runs"])
    text = (folder / "report.md").read_text()
    assert "the test set was not touched" in text
    assert "on the validation set" in text

    # What was not tested does not count as done where tests are asked for.
    written(tmp_path, seeds=[0])
    with pytest.raises(UserError, match=r"was run with other options \(test\)"):
        compare.main()
    assert "test %" not in text
    assert "one seed decides nothing" in text  # of a pair that is judged on answers to single images of validation
    assert all(run["val_images"] > 100 for run in record["runs"])


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_its_log(at_once, tmp_path, monkeypatch):
    path = written(tmp_path, recipe={"epochs": 1, "precision": "nonsense"}, seeds=[0])
    monkeypatch.setattr(
        "sys.argv", ["compare", "--suite", str(path), "--runs_root", str(tmp_path / "runs"), "--gpus", "0"]
    )
    with pytest.raises(UserError, match=r"2 of 2 runs failed \(CNN on digits, seed 0.*nonsense"):
        compare.main()
