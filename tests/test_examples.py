"""The examples run as they stand, find what they promise, and are listed."""

import os
import re
import sys
from pathlib import Path

import processes
import pytest

FOLDER = Path(__file__).parents[1] / "examples"
FILES = sorted(FOLDER.glob("*.py"))
FINDS = {  # in what they print
    "classify_digits": r"test accuracy 0\.9",
    "swap_convolutions": r"11\.2 million parameters before, 39\.5 after",
    "fit_and_read_a_formula": r"f = .*exp\(.*y\*\*2.*sin\(3\.14",
    "prune_a_network": r"inputs kept: \[0, 1\]",
    "explain_an_image": r"explained\.png",
    "export_onnx": r"batch of 7: logits \(7, 10\)",
}
WRITES = {"explain_an_image": ["explained.png"], "export_onnx": ["model.onnx"]}


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
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
    listed = re.findall(r"^\| \[(\w+\.py)\]\(\1\)", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == [path.name for path in FILES]
    assert set(FINDS) == {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
