"""A suite compares a user's own models on a user's own images, and says in other formats what it found."""

import csv
import io
import json
import os
import re
import shutil
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import forked_suite
import processes
import pytest
import yaml
from commands import called
from PIL import Image

from convkan.models.registry import MODELS
from convkan.training import DATASETS, ImageData, Source, register_dataset
from experiments.common.cli import UserError
from experiments.compare import __main__ as compare
from experiments.compare import exports, figures, jobs
from experiments.compare.plugins import import_plugins
from experiments.compare.schedule import Schedule
from experiments.compare.styles import styles_of
from experiments.compare.suite import load_suite, suite_of
from experiments.compare.tables import runs_of

ROOT = Path(__file__).parents[1]
PATIENCE = 300  # seconds, which only a failure takes, or a busy machine
ONE_MODEL = """
from torch import nn
from convkan.models import register_model

@register_model("{name}", twin="{name}")
def build(num_classes, in_channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * in_channels, num_classes))
"""
SUITE = {"name": "s", "title": "S", "datasets": ["digits"], "seeds": [0], "recipe": {"epochs": 1}}


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Models, data sets, modules and the environment as they were."""
    known = set(sys.modules)
    monkeypatch.setattr("sys.path", list(sys.path))
    for variable in ("CONVKAN_MODELS_PATH", "CONVKAN_MODELS"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    tables = [(table, dict(table)) for table in (MODELS, DATASETS)]
    yield
    for table, before in tables:
        table.clear()
        table.update(before)
    for name in set(sys.modules) - known:
        if name.startswith("my_"):
            del sys.modules[name]


def suite_of_page(folder):
    """The files that the page has its reader write, a folder of pictures, and a suite that takes seconds."""
    smaller = {"epochs: 10": "epochs: 1, threads: 1", "[0, 1, 2]": "[0]", "[pets, stripes]": "[pets]"}
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"^`([\w.]+)`\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for long, short in smaller.items():
            text = text.replace(long, short)
        (folder / name).write_text(text, encoding="utf-8")
    for label, color in (("cat", (200, 30, 30)), ("dog", (30, 30, 200))):
        (folder / "pictures" / label).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (9, 9), color).save(folder / "pictures" / label / f"{number}.png")
    return folder / "suite.yaml"


@pytest.mark.slow
def test_the_pages_own_models_and_pictures_are_compared_through_a_kill(tmp_path, monkeypatch):
    path, runs = suite_of_page(tmp_path), tmp_path / "runs" / "ours"
    arguments = ["--suite", path, "--runs_root", runs.parent, "--gpus", "0"]
    output = tmp_path / "output.txt"
    with output.open("wb") as stream:
        process = processes.start([sys.executable, "-m", "forked_suite", *map(str, arguments)], {**os.environ}, stream)
    try:
        deadline = time.monotonic() + PATIENCE
        while not list(runs.glob("*/result.json")):
            assert time.monotonic() < deadline, output.read_text()
            assert process.poll() is None, output.read_text()
            time.sleep(0.02)
    finally:
        process.kill()  # a SIGKILL
        process.wait()
    done = {path: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}
    assert len(done) < 2

    monkeypatch.setattr(jobs, "start_child", forked_suite.start)
    assert called(compare, *arguments) == 0
    assert all(path.stat().st_mtime_ns == written for path, written in done.items())
    rows = list(csv.DictReader(io.StringIO((runs / "report" / "results.csv").read_text(encoding="utf-8"))))
    found = [(row["dataset"], row["entry"], row["model"], row["kind"]) for row in rows]
    entries = [("ReLU", "my_cnn", "CNN"), ("learnable functions", "my_kan", "KAN")]
    assert found == [("pets", *entry) for entry in entries]
    text = (runs / "report" / "report.md").read_text(encoding="utf-8")
    assert "on pets, one seed decides nothing between learnable functions and ReLU" in text
    assert_is_latex((runs / "report" / "results.tex").read_text(encoding="utf-8"), rows=2)


def test_the_runs_that_the_page_explains_are_those_of_its_kan(tmp_path):
    suite = load_suite(suite_of_page(tmp_path))
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    kans = [f"{d}-{e.slug}-seed0" for d in ("pets", "stripes") for e in suite.entries if not e.is_plain]
    assert sorted(re.findall(rf"--run runs/compare/{suite.name}/(\S+)", page)) == kans


@pytest.mark.parametrize("change", ["other folder", "another size", "another name"])
def test_runs_on_other_pictures_are_refused(tmp_path, change):
    path = suite_of_page(tmp_path)
    suite = load_suite(path)

    def job(suite=suite):
        return Schedule(suite, tmp_path / "runs", None, tmp_path).final_jobs("pets", suite.entries[0])[0]

    before = job()
    before.folder.mkdir()
    (before.folder / "config.yaml").write_text(yaml.safe_dump(before.options))
    before.check()  # of a run from before its images were kept
    before.images_path.parent.mkdir()
    before.images_path.write_text(f"{before.images}\n")
    job().check()
    picture = tmp_path / "pictures" / "cat" / "0.png"
    if change == "other folder":
        shutil.copytree(tmp_path / "pictures", tmp_path / "pictures2")
        suite = replace(suite, folders={"pets": "pictures2"})
    elif change == "another size":
        picture.write_bytes(picture.read_bytes() + b" ")
    else:
        picture.rename(picture.with_name("new.png"))
    with pytest.raises(UserError, match=r"pets-relu-seed0 was run on other images .*: remove it, or rename the suite"):
        job(suite).check()


def test_a_plugins_folder_takes_the_place_of_no_other_module(tmp_path):
    (tmp_path / "statistics.py").write_text("raise RuntimeError")
    (tmp_path / "my_one.py").write_text(ONE_MODEL.format(name="one"))
    import_plugins(["my_one"], tmp_path)
    code = "import sys; assert 'statistics' not in sys.modules\n"
    code += "from convkan.models import list_models; import statistics as _; assert 'one' in list_models()"
    run = processes.run(code, ROOT)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["../own/my_one.py", "my_link.py"])
def test_plugins_may_lie_elsewhere(tmp_path, name):
    for folder in ("own", "suite"):
        (tmp_path / folder).mkdir()
    (tmp_path / "own" / "my_one.py").write_text(ONE_MODEL.format(name="one"))
    (tmp_path / "suite" / "my_link.py").symlink_to(tmp_path / "own" / "my_one.py")
    assert import_plugins([name], tmp_path / "suite")[0].registered == {"one"}


def test_a_data_set_is_known_in_processes_that_only_the_environment_tells_of_it(tmp_path, monkeypatch):
    suite_of_page(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CONVKAN_MODELS", "my_models")
    data = ImageData("stripes")
    data.setup()
    assert data.class_names == ["across", "along"]
    assert len(data.train) + len(data.val) == 150


class TestErrors:
    """Each names the argument, the rule and the value."""

    def load(self, folder, **changes):
        (folder / "my_one.py").write_text(ONE_MODEL.format(name="one"))
        (folder / "my_broken.py").write_text("import no_such_module")
        (folder / "my_vgg.py").write_text(ONE_MODEL.format(name="vgg"))
        (folder / "my_digits.py").write_text(
            "from convkan.training import Source, register_dataset\nregister_dataset('digits', Source(None))"
        )
        (folder / "my_taker.py").write_text("from convkan.training import DATASETS\nDATASETS['digits'] = None")
        (folder / "my_nothing.py").write_text("")
        (folder / "queue.py").write_text(ONE_MODEL.format(name="one"))
        changes = {"entries": [{"name": "a", "model": "one"}]} | changes
        (folder / "suite.yaml").write_text(yaml.safe_dump(SUITE | changes))
        return load_suite(folder / "suite.yaml")

    @pytest.mark.parametrize(
        ("name", "module"),
        [
            ("my_one", "my_one"),
            ("my_one.py", "my_one"),
            ("my_package.inner", "my_package.inner"),
            ("below/my_other.py", "my_other"),
        ],
    )
    def test_plugins_lie_beside_the_suite(self, tmp_path, name, module):
        for path in ("my_package/__init__.py", "my_package/inner.py", "below/my_other.py"):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text("" if "__" in path else ONE_MODEL.format(name="one"))
        assert self.load(tmp_path, plugins=[name]).entries[0].is_plain
        assert self.load(tmp_path, plugins=[name])  # again, in the same process
        assert os.environ["CONVKAN_MODELS"] == module

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"plugins": ["my_none"]}, r"plugins\[0\] must be .* that can be imported, got 'my_none': ModuleNotFound"),
            ({"plugins": ["my_none.py"]}, r"plugins\[0\] must be .* got 'my_none.py': there is no .*my_none.py"),
            ({"plugins": ["my_one", "my_broken.py"]}, r"plugins\[1\] .* got 'my_broken.py': .*'no_such_module'"),
            ({"plugins": ["my-one"]}, r"plugins\[0\] must be named as Python names modules, got 'my-one'"),
            ({"plugins": ["queue.py"]}, r"plugins\[0\] must have a name of its own, got 'queue.py', as which Python"),
            ({"plugins": ["my_vgg"]}, r"plugins\[0\] .*'my_vgg': ValueError: name must be new, got 'vgg'"),
            ({"plugins": ["my_digits"]}, r"plugins\[0\] .*'my_digits': ValueError: name must be new, got 'digits'"),
            ({"plugins": ["my_taker"]}, r"plugins\[0\] must register new names, got 'my_taker', .* that of digits"),
            (
                {"plugins": ["my_one", "my_nothing"]},
                r"plugins\[1\] must register a model or data set that the suite names, got 'my_nothing', .* nothing",
            ),
            (
                {"plugins": ["my_one"], "entries": [{"name": "a", "model": "vgg"}]},
                r"plugins\[0\] must register .* got 'my_one', which registers one",
            ),
            ({}, "model of 'a' must be one of .* got 'one'"),
            ({"folders": {"digits": "."}}, "folders must have names that no registered data set has, got 'digits'"),
            ({"folders": {"../x": "."}}, "folders must have names as folders have, got '../x'"),
            ({"folders": {"pets": "no"}}, "folders.pets must be a folder of images, got '.*no'"),
            ({"folders": ["pets"]}, "folders must be a mapping, got"),
            ({"plugins": ["my_one"], "datasets": ["pets"]}, "datasets must be among digits, .* got pets"),
        ],
    )
    def test_what_a_suite_says_wrongly_of_ones_own_is_named(self, tmp_path, changes, message):
        with pytest.raises(UserError, match=message):
            self.load(tmp_path, **changes)

    @pytest.mark.parametrize(("name", "rule"), [("digits", "must be new"), ("a/b", "must be that of a folder")])
    def test_a_data_set_is_registered_under_a_name_of_its_own(self, name, rule):
        with pytest.raises(ValueError, match=f"name {rule}, got '{name}'"):
            register_dataset(name, Source(None))


class TestExports:
    """Those of a record of ours, and of names that LaTeX would not take for text."""

    @pytest.fixture
    def record(self):
        return json.loads((ROOT / "experiments/results/compare/mnist_50k/suite.json").read_text(encoding="utf-8"))

    def test_csv_has_a_row_a_run_with_its_figures(self, record):
        rows = list(csv.DictReader(io.StringIO(exports.csv_of(record))))
        assert len(rows) == len(record["runs"]) > 0
        for row, run in zip(rows, record["runs"], strict=True):
            assert (row["entry"], int(row["seed"]), int(row["parameters"])) == (
                run["entry"],
                run["seed"],
                run["parameters"],
            )
            assert float(row["test_accuracy"]) == run["test_accuracy"]
            assert json.loads(row["model_options"]) == run["options"]["model_options"]

    def test_milliseconds_in_the_picture_of_costs_are_no_minutes(self, record):
        suite, runs = suite_of(record), runs_of(record)
        figure = figures.draw_costs(runs, styles_of(suite), ["training_seconds"])
        written = {axis.get_xlabel(): axis.xaxis.get_major_formatter()(0.06) for axis in figure.axes}
        assert written["training time"] == "60 ms"

    def test_latex_has_mean_and_deviation_and_escaped_names(self, record):
        name = r"50 % of_a $x^2$ & {b}\c ~ #1 <--> \end{tabular}"
        text = json.dumps(record).replace(json.dumps(record["runs"][0]["entry"]), json.dumps(name))
        latex = exports.latex_of(json.loads(text))
        assert_is_latex(latex, rows=len(record["suite"]["entries"]))
        runs = [100 * run["test_accuracy"] for run in record["runs"] if run["entry"] == record["runs"][0]["entry"]]
        assert rf"${statistics.mean(runs):.2f} \pm {statistics.stdev(runs):.2f}$" in latex
        assert r"50 \% of\_a \$x\textasciicircum{}2\$ \& \{b\}\textbackslash{}c \textasciitilde{} \#1 " in latex


def assert_is_latex(text, rows):
    """Whether TeX would take it: commands that it knows, balanced braces and maths, as many cells in each row."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    known = ["documentclass", "usepackage", "begin", "end", "toprule", "midrule", "bottomrule", "pm"]
    known += [f"text{name}" for name in ("backslash", "asciicircum", "asciitilde", "less", "greater", "asciigrave")]
    bare = re.sub(r"\\\\|\\[{}$&#_%,]", "", "\n".join(lines))  # without line ends and escaped characters
    assert set(re.findall(r"\\([a-zA-Z]+|.)", bare)) <= set(known)
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[#_^~%]", re.sub(r"\$[^$]*\$", "", bare))
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    opened = []
    for word, name in re.findall(r"\\(begin|end)\{(\w+)\}", bare):
        if word == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    columns = len(re.search(r"begin\{tabular\}\{([lr]+)\}", bare)[1])
    cells = [line for line in lines if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in cells] == [columns - 1] * (rows + 1)
