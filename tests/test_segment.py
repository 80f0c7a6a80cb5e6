"""Segmentation of made-up scenes: what is in them, how they are judged, and that a study of them can be stopped."""

import json

import pytest
import torch

from convkan.training.parts import Images
from experiments import segment
from experiments.common import cli
from experiments.segment import CLASSES, GLYPH, dice, network_of, packed, scenes, unpacked

TINY = ("--quick", "--train_scenes", "4", "--test_scenes", "2", "--epochs", "1", "--batch_size", "4", "--width", "2")


def test_scenes_hold_digits_whose_pixels_have_their_class():
    pixels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    pixels[0, :, 2:6, 2:6], pixels[1, :, :, 3:5] = 255, 255
    pictures, masks = scenes(Images(pixels, torch.tensor([3, 7])), 20, 40, 2, seed=0)
    assert pictures.shape == (20, 1, 40, 40)
    assert set(masks.unique().tolist()) == {0, 4, 8}
    inside, outside = pictures[:, 0][masks > 0].mean(), pictures[:, 0][masks == 0].mean()
    assert inside > 0.5 > 0.1 > outside.abs()
    again, _ = scenes(Images(pixels, torch.tensor([3, 7])), 20, 40, 2, seed=0)
    assert torch.equal(again, pictures)
    assert scenes(Images(pixels, torch.tensor([3, 7])), 1, GLYPH, 1, seed=0)[0].shape == (1, 1, GLYPH, GLYPH)


def test_dice_is_counted_over_all_pixels_of_a_class():
    wanted = torch.tensor([[[1, 1], [2, 0]], [[1, 0], [0, 0]]])
    predicted = torch.tensor([[[1, 0], [2, 2]], [[1, 1], [0, 0]]])
    assert dice(predicted, wanted) == [pytest.approx(4 / 6), pytest.approx(2 / 3), *[1.0] * (CLASSES - 3)]
    assert (unpacked(packed(wanted[0])) == wanted[0].numpy()).all()


def test_kans_are_no_larger_than_the_plain_network():
    sizes = []
    for name in segment.NETWORKS:
        model, options = network_of(name, 4.0)
        sizes.append(sum(p.numel() for p in segment.create_model(model, CLASSES, **dict(options)).parameters()))
    assert all(0.5 * sizes[0] < size <= sizes[0] for size in sizes[1:])


def test_a_study_that_is_stopped_goes_on_and_leaves_a_record_a_table_and_a_picture(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["segment", *TINY, "--out", str(tmp_path)])
    train, begun = segment.train, []

    def stopping(name, *arguments):
        begun.append(name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return train(name, *arguments)

    monkeypatch.setattr(segment, "train", stopping)
    with pytest.raises(SystemExit, match="130"):
        cli.run(segment.main)
    assert list(json.loads((tmp_path / "segment.json").read_text())["runs"]) == begun[:1]
    segment.main()
    first, second = begun[:2]
    assert begun[2:] == [second, list(segment.NETWORKS)[2]]
    runs = json.loads((tmp_path / "segment.json").read_text())["runs"]
    assert list(runs) == list(segment.NETWORKS)
    assert all(len(run["dice"]) == CLASSES - 1 for (run,) in runs.values())
    assert f"| {first} | {runs[first][0]['parameters']:,} | " in capsys.readouterr().out
    assert (tmp_path / "segment.png").stat().st_size > 5000


@pytest.mark.parametrize(("flags", "message"), [(("--seeds", "0"), "seeds must be"), (("--side", "9"), "side must be")])
def test_what_cannot_be_is_refused(flags, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["segment", *flags, "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        cli.run(segment.main)
    assert message in capsys.readouterr().err
