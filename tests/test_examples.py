"""The examples run as they stand, find what they promise, and are listed."""

import json
import os
import re
import sys
from pathlib import Path

import processes
import pytest

FOLDER = Path(__file__).parents[1] / "examples"
FILES = sorted(FOLDER.glob("*.py"))
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FINDS = {  # in what they print
    "classify_digits": r"test accuracy 0\.9",
    "swap_convolutions": r"11\.2 million parameters before, 13\.0 after",
    "fit_and_read_a_formula": r"f = .*exp\(.*y\*\*2.*sin\(3\.14",
    "formula": r"f = exp\(y\*\*2 \+ sin\(3\.14",
    "prune_a_network": r"inputs kept: \[0, 1\]",
    "explain_an_image": r"explained\.png",
    "export_onnx": r"batch of 7: logits \(7, 10\)",
}
FINDS_IN_NOTEBOOKS = {
    "formula": r"f = exp\(y\*\*2 \+ sin\(3\.14.*\n.*rounding \d\.\d+e-0[4-9]",
    "poisson": r"error \d\.\de-0[4-9]",
}
WRITES = {"formula": ["formula.png"], "explain_an_image": ["explained.png"], "export_onnx": ["model.onnx"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.thorough] * (path.stem in FINDS_IN_NOTEBOOKS)) for path in FILES],
    ids=lambda path: path.stem,
)
def test_example_runs_and_finds_what_it_promises(path, tmp_path, monkeypatch):
    written, folder = tmp_path / "written.txt", tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with written.open("wb") as output:
        status = processes.start(
            [sys.executable, str(path)], os.environ | {"PYTHONPATH": str(FOLDER.parent)}, output
        ).wait()
    text = written.read_text(encoding="utf-8")
    assert status == 0, text
    assert re.search(FINDS[path.stem], text), text
    assert [file.name for file in folder.iterdir()] == WRITES.get(path.stem, [])


def test_examples_are_listed():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+\.(?:py|ipynb))\]\(\1\)", text, re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (*FILES, *NOTEBOOKS))
    assert set(FINDS) == {path.stem for path in FILES}
    assert set(FINDS_IN_NOTEBOOKS) == {path.stem for path in NOTEBOOKS}


def cells_of(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_short_and_without_results(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert {"id", "metadata", "source"} <= set(cell)  # of nbformat 4.5
        assert not cell.get("outputs")
    for cell in cells_of(path):
        compile(cell, path.name, "exec")
    assert len("\n".join(cells_of(path)).splitlines()) <= 60


@pytest.mark.thorough
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_finds_what_it_promises(path, capsys):
    names = {}
    for cell in cells_of(path):
        exec(compile(cell, path.name, "exec"), names)
    assert re.search(FINDS_IN_NOTEBOOKS[path.stem], capsys.readouterr().out)


@pytest.mark.thorough
@pytest.mark.parametrize(("place", "wanted", "off"), [(0, 0.0, 5e-3), (1, 3.0, 0.15)], ids=["pendulum", "decay"])
def test_the_page_for_scientists_solves_its_equations(place, wanted, off, capsys):
    text = (FOLDER.parent / "docs" / "science.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(import .*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(compile(blocks[place], "science.md", "exec"), {"__name__": "__main__"})
    assert abs(float(capsys.readouterr().out.split()[-1]) - wanted) < off


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
