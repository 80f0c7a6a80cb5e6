"""What every study has from the engine: it goes on where it was, and leaves a record, a table and a picture."""

import json
import os
import sys
import textwrap
import types
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import processes
import pytest

import experiments
from convkan.interpret.plot import new_figure
from experiments.common import cli, records
from experiments.common.folders import claimed
from experiments.common.study import Cell, Study, Work, settings_of

ROOT = Path(experiments.__file__).parents[1]


@dataclass(frozen=True)
class ToyConfig:
    """What to square.

    Attributes:
        numbers: Them.
        power: Of them.
        out: Folder for the record, the table and the picture.
        quick: One number.
    """

    numbers: tuple[int, ...] = (2, 3, 5)
    power: int = 2
    out: str = "runs/toy"
    quick: bool = False

    def __post_init__(self):
        cli.check_positive(self, "power")


@dataclass
class Toy:
    """Powers of numbers, each kept by its name and in a list; then their sum. It notes what it does."""

    stops_at: str | None = None
    did: list[str] = field(default_factory=list)

    def do(self, what, value):
        if what == self.stops_at:
            raise KeyboardInterrupt
        self.did.append(what)
        return value

    def powers(self, work: Work[ToyConfig]):
        for index, number in enumerate(work.config.numbers):
            value = number**work.config.power
            yield Cell(f"{number}", partial(self.do, f"{number}", {1: value}), ("powers", str(number)))
            yield Cell(f"{number} again", partial(self.do, f"{number} again", (value,)), ("list", index))

    def sums(self, work: Work[ToyConfig]):
        total = sum(value for [value] in work.record["list"])  # what the stage before has found
        yield Cell("sum", partial(self.do, "sum", total), ("sums", "all", "total"))

    @property
    def study(self):
        return Study(
            name="toy",
            description="A toy.",
            config=ToyConfig,
            quick={"numbers": (7,)},
            stages=(self.powers, self.sums),
            table=lambda record: f"the sum is {record['sums']['all']['total']}",
            draw=lambda record: new_figure((2, 2)),
        )


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Calls a toy as its command line would; its folder is ``out`` within an empty one."""
    monkeypatch.delenv("CONVKAN_DEBUG", raising=False)
    monkeypatch.setattr(records, "git_commit", lambda: "c0ffee")

    def command(toy, *arguments):
        monkeypatch.setattr("sys.argv", ["toy", "--out", str(tmp_path / "out"), *arguments])
        status = 0
        try:
            cli.run(toy.study.main, cli.GOES_ON)
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()

    return command


@pytest.fixture
def record(tmp_path):
    return lambda: json.loads((tmp_path / "out" / "toy.json").read_text(encoding="utf-8"))


ALL = ["2", "2 again", "3", "3 again", "5", "5 again", "sum"]


def test_it_leaves_a_record_a_table_and_a_picture_and_says_where(call, record, tmp_path):
    toy = Toy()
    status, out, _ = call(toy)
    assert status == 0
    assert toy.did == ALL
    found = record()
    assert set(found) == {"config", "git_commit", "versions", "device", "threads", "powers", "list", "sums"}
    assert found["config"] == {"numbers": [2, 3, 5], "power": 2, "quick": False}  # but not where it is
    assert found["powers"] == {"2": {"1": 4}, "3": {"1": 9}, "5": {"1": 25}}
    assert found["list"] == [[4], [9], [25]]
    table, where = out.splitlines()[-2:]
    assert table == "the sum is 38" == (tmp_path / "out" / "toy.md").read_text().strip()
    paths = [str(tmp_path / "out" / f"toy.{kind}") for kind in ("json", "md", "png")]
    assert where == "record {}, table {}, plot {}".format(*paths)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["toy.json", "toy.md", "toy.png"]


@pytest.mark.parametrize("stop", ALL)
def test_stopped_anywhere_it_goes_on_with_nothing_lost_and_nothing_twice(stop, call, record, tmp_path):
    first, second, whole = Toy(stops_at=stop), Toy(), Toy()
    status, _, err = call(first)
    assert status == 130
    assert err == f"interrupted: {cli.GOES_ON}\n"
    assert not (tmp_path / "out" / "toy.md").exists()
    assert call(second)[0] == 0
    assert first.did + second.did == ALL
    found = record()
    (tmp_path / "out" / "toy.json").unlink()
    call(whole)
    assert record() == found


def test_what_is_finished_is_not_done_again(call, tmp_path):
    call(Toy())
    path = tmp_path / "out" / "toy.json"
    before, again = path.stat().st_mtime_ns, Toy()
    assert "the sum is 38" in call(again)[1]
    assert again.did == []
    assert path.stat().st_mtime_ns == before


def test_another_configuration_or_commit_is_run_anew(call, record, monkeypatch):
    call(Toy(stops_at="sum"))
    other = Toy()
    call(other, "--power", "3")
    assert other.did == ALL
    assert record()["powers"]["2"] == {"1": 8}
    monkeypatch.setattr(records, "git_commit", lambda: "decaf")
    later = Toy()
    call(later, "--power", "3")
    assert later.did == ALL
    assert record()["git_commit"] == "decaf"


def test_another_subject_is_studied_anew(tmp_path):
    for subject, expected in (("one", ALL), ("one", []), ("two", ALL)):
        toy = Toy()
        study = Study(**{**vars(toy.study), "about": lambda config, subject=subject: {"subject": subject}})
        assert study.run(ToyConfig(out=str(tmp_path)))["subject"] == subject
        assert toy.did == expected


def test_quick_settings_are_those_of_the_study(call, record):
    toy = Toy()
    call(toy, "--quick", "--power", "3")
    assert toy.did == ["7", "7 again", "sum"]
    assert record()["config"] == {"numbers": [7], "power": 3, "quick": True}


def test_options_that_are_given_go_before_quick_settings(call, record):
    toy = Toy()
    call(toy, "--quick", "--numbers", "[4]")
    assert toy.did == ["4", "4 again", "sum"]
    assert record()["config"]["numbers"] == [4]


def test_a_record_of_other_settings_is_put_aside_and_not_lost(call, record, tmp_path):
    call(Toy())
    whole = record()
    for number in (1, 2):
        status, out, _ = call(Toy(), "--quick", "--power", str(2 + number))
        assert status == 0
        assert (
            f"toy.json is of other settings or another commit: kept as {tmp_path / 'out' / f'toy-{number}.json'}" in out
        )
    assert json.loads((tmp_path / "out" / "toy-1.json").read_text(encoding="utf-8")) == whole


def test_what_is_left_open_is_filled_in_before_anything_is_done(tmp_path):
    toy = Toy()
    complete = lambda config: ToyConfig(config.numbers[:1], out=config.out)  # noqa: E731
    found = Study(**{**vars(toy.study), "complete": complete}).run(ToyConfig(out=str(tmp_path)))
    assert found["config"]["numbers"] == [2]
    assert toy.did == ["2", "2 again", "sum"]


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--power", "0"], "power must be at least 1, got 0"), (["--powr", "1"], "powr")]
)
def test_bad_options_are_refused_before_anything_is_left(arguments, message, call, tmp_path):
    toy = Toy()
    status, _, err = call(toy, *arguments)
    assert status != 0
    assert message in err
    assert "Traceback" not in err
    assert toy.did == []
    assert not (tmp_path / "out").exists()


def test_a_record_that_cannot_be_read_is_refused_and_kept(call, tmp_path):
    path = tmp_path / "out" / "toy.json"
    path.parent.mkdir()
    path.write_text("{")
    status, _, err = call(Toy())
    assert (status, err.count("\n"), "is not a readable record" in err) == (1, 1, True)
    assert path.read_text() == "{"


def test_no_two_processes_write_one_study(call, tmp_path):
    with claimed(tmp_path / "out"):
        status, _, err = call(Toy())
    assert (status, "another process is writing into" in err) == (1, True)


def test_a_cell_without_a_place_says_itself_whether_it_is_done(tmp_path):
    def cells(work):
        def find():
            work.record["a"], work.record["b"] = 1, 2

        yield Cell("both", find, None, done="a" in work.record)

    toy = Study(**{**vars(Toy().study), "stages": (cells,), "table": lambda record: f"{record['a']} {record['b']}"})
    config = ToyConfig(out=str(tmp_path))
    assert toy.run(config)["b"] == 2
    before = (tmp_path / "toy.json").stat().st_mtime_ns
    toy.run(config)
    assert (tmp_path / "toy.json").stat().st_mtime_ns == before


def test_the_study_that_the_contributors_page_adds_is_one(monkeypatch, tmp_path, capsys):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = textwrap.dedent(
        page.split("`experiments/waves.py`\n", 1)[1].split("```python\n", 1)[1].split("   ```\n", 1)[0]
    )
    script = types.ModuleType("waves", code.split('"""')[1])
    monkeypatch.setitem(sys.modules, "waves", script)
    exec(compile(code, "waves.py", "exec"), vars(script))
    monkeypatch.setattr("sys.argv", ["waves", "--quick", "--out", str(tmp_path)])
    script.main()
    assert script.markdown(json.loads((tmp_path / "waves.json").read_text())) in capsys.readouterr().out
    assert (tmp_path / "waves.png").stat().st_size > 5000


def test_of_a_run_that_is_studied_its_name_is_recorded():
    @dataclass(frozen=True)
    class OfRun:
        run: str = "runs/a/tiny"
        data_root: str | None = "/data"
        sizes: tuple[int, ...] = (1, 2)

    assert settings_of(OfRun()) == {"run": "tiny", "sizes": [1, 2]}


@pytest.mark.slow
def test_a_kill_costs_only_what_was_being_done(call, record, tmp_path):
    code = (
        "import os, test_study\n"
        "from experiments.common import records\n"
        "records.git_commit = lambda: 'c0ffee'\n"
        "class Killed(test_study.Toy):\n"
        "    def do(self, what, value):\n"
        "        return os._exit(9) if what == '5' else super().do(what, value)\n"
        "Killed().study.main()"
    )
    (tmp_path / "killed.py").write_text(code, encoding="utf-8")
    arguments = [sys.executable, str(tmp_path / "killed.py"), "--out", str(tmp_path / "out")]
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]), "PATH": ""}
    with (tmp_path / "written.txt").open("wb") as output:
        assert processes.start(arguments, environment, output).wait() == 9
    assert record()["list"] == [[4], [9]]
    toy = Toy()
    assert call(toy)[0] == 0
    assert toy.did == ALL[4:]
