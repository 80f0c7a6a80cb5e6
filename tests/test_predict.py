"""Folders of pictures classified by packaged weights and by exported files."""

import csv
import os

import pytest
import torch
from commands import assert_refused
from PIL import Image

from convkan.export import export_classifier
from convkan.models import Description, create_model, get_weights
from experiments import predict

WEIGHTS = ("--weights", "kan_vgg-mnist")


@pytest.fixture
def folder(tmp_path):
    """Two pictures in folders, and a file that is none."""
    pictures = tmp_path / "pictures"
    (pictures / "inner").mkdir(parents=True)
    for index, name in enumerate(("b.png", "inner/a.png")):
        Image.fromarray(torch.randint(256, (28, 28 + index), dtype=torch.uint8).numpy()).save(pictures / name)
    (pictures / "notes.txt").write_text("no picture")
    return pictures


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_a_table(folder, call, tmp_path):
    outcome = call(predict, *WEIGHTS, "--csv", tmp_path / "table.csv", "--top-k", 2, "--batch", 1, folder)
    assert outcome.status == 0
    assert "2 pictures, " in outcome.err
    assert " a second" in outcome.err
    rows = rows_of(tmp_path / "table.csv")
    assert [row["picture"] for row in rows] == [str(folder / "b.png"), str(folder / "inner" / "a.png")]
    prepare = get_weights("kan_vgg", "mnist").transforms()
    model = create_model("kan_vgg", weights="mnist")
    names = get_weights("kan_vgg", "mnist").description().class_names
    for row in rows:
        shares, places = model(prepare(Image.open(row["picture"])).unsqueeze(0)).softmax(1)[0].topk(2)
        assert [row["class"], row["class_2"]] == [names[place] for place in places]
        assert [float(row["probability"]), float(row["probability_2"])] == pytest.approx(shares.tolist(), abs=1e-5)


def test_corrupt_pictures_are_skipped_and_named_or_refused(folder, call, tmp_path):
    broken = folder / "broken.png"
    broken.write_bytes(b"no picture")
    outcome = call(predict, *WEIGHTS, "--skip-corrupt", "--csv", tmp_path / "table.csv", folder)
    assert outcome.status == 0
    first, last = outcome.err.splitlines()
    assert first.startswith(f"skipped: {broken}")
    assert "2 pictures, 1 skipped" in last
    assert len(rows_of(tmp_path / "table.csv")) == 2
    refused = call(predict, *WEIGHTS, folder)
    assert refused.status == 1
    assert str(broken) in refused.err
    assert "1 of 3" in refused.err
    refused = call(predict, *WEIGHTS, "--csv", tmp_path / "others.csv", folder)
    assert refused.status == 1
    assert f"the others are in {tmp_path / 'others.csv'}" in refused.err
    assert len(rows_of(tmp_path / "others.csv")) == 2


def test_names_stay_as_they_are_on_disk(folder, call, tmp_path):
    picture = folder / os.fsdecode(b"\xe4, \xc3\xa4.png")  # Latin 1, a comma, UTF-8
    try:
        (folder / "b.png").rename(picture)
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    assert call(predict, *WEIGHTS, "--csv", tmp_path / "table.csv", folder).status == 0
    assert b'"' + os.fsencode(picture) + b'",' in (tmp_path / "table.csv").read_bytes()


def test_exported_files_predict_too(folder, call, tmp_path):
    description = Description("plain_cnn", 1, (28, 28), ["cat", "dog"], [0.3], [0.4], {"widths": [2]})
    model = description.create()
    export_classifier(model, description, tmp_path / "model.pt2", to="torch-export", form="layers")
    outcome = call(predict, "--run", tmp_path / "model.pt2", "--top", 1, folder)
    assert outcome.status == 0
    found = [line.split(": ")[1].split()[0] for line in outcome.out.splitlines()]
    images = torch.stack([description.transforms()(Image.open(path)) for path in predict.find_pictures([str(folder)])])
    assert found == [description.class_names[place] for place in model.eval()(images).argmax(1)]


def test_what_cannot_be_is_refused_in_one_line(folder, call, tmp_path):
    assert_refused(call(predict, folder), "--run RUNDIR or by --weights NAME")
    assert_refused(call(predict, "--run", tmp_path / "none.onnx", folder), "none.onnx does not exist")
    (tmp_path / "empty").mkdir()
    assert_refused(call(predict, *WEIGHTS, tmp_path / "empty"), "has no pictures in it")
