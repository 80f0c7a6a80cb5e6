"""Folders of pictures as people keep them: their parts are found, or the folder is refused in words."""

import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from convkan.training import DataError, ImageData
from convkan.training.parts import Images, Parts, split_indices, split_labels
from convkan.training.pictures import PictureFiles

CLASSES = ("cat", "dog")


def fill(root, classes=CLASSES, count=4):
    """Different pictures in one folder a class."""
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            random = np.random.default_rng([*str(root / name).encode(), index])
            pixels = random.integers(64, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def ready(root, **options):
    data = ImageData("folder", data_root=root, image_size=8, **options)
    data.setup()
    return data


def told(data):
    return "\n".join(data.notes)


def refusal(root, **options):
    with pytest.raises(DataError) as caught:
        ready(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stored(folder):
    """The pictures of a folder of class folders, as bytes."""
    return {np.array(Image.open(path)).transpose(2, 0, 1).tobytes() for path in folder.glob("*/*.png")}


def seen(images):
    return {image.numpy().tobytes() for image in images.pixels}


TRAIN, VAL, TEST = ("train", "Training", "TRAIN"), ("val", "valid", "validation", "Valid"), ("test", "Testing")


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize("val", [None, *VAL])
@pytest.mark.parametrize("test", [None, *TEST])
def test_parts_of_a_folder_are_used_as_they_are_named(train, val, test, tmp_path):
    sizes = {name: 4 + place for place, name in enumerate((train, val, test)) if name}
    for name, count in sizes.items():
        fill(tmp_path / name, count=count)
    data = ready(tmp_path)
    assert data.class_names == [*CLASSES]
    if val:
        assert seen(data.val) == stored(tmp_path / val)
    if test:
        assert seen(data.test) == stored(tmp_path / test)
    rest = seen(data.train) | (set() if val else seen(data.val)) | (set() if test else seen(data.test))
    assert rest == stored(tmp_path / train)
    assert len(rest) == len(data.train) + (0 if val else len(data.val)) + (0 if test else len(data.test))
    for name, count in sizes.items():
        assert f"{2 * count} images in {name}" in told(data)
    assert ("held out for testing" in told(data)) == (test is None)
    assert ("val_fraction is not used" in told(data)) == (val is not None)


def test_validation_part_does_not_depend_on_fraction_or_seed(tmp_path):
    for part in ("train", "val"):
        fill(tmp_path / part)
    first, other = ready(tmp_path), ready(tmp_path, val_fraction=0.5, split_seed=3)
    assert torch.equal(first.val.pixels, other.val.pixels)
    assert torch.equal(first.train.pixels, other.train.pixels)


def test_what_was_found_is_told_and_counted(tmp_path):
    fill(tmp_path / "train", count=5)
    fill(tmp_path / "val", count=2)
    fill(tmp_path / "test", count=3)
    data = ImageData("folder", data_root=tmp_path)
    data.setup()
    for words in ("10 images in train, 4 images in val, 6 images in test", "2 classes: cat 10, dog 10"):
        assert words in told(data)
    assert "32 × 32 pixels, the default: --image-size" in told(data)
    assert "8 × 8 pixels" in told(ready(tmp_path))
    assert "default" not in told(ready(tmp_path))
    assert data.counts() == {part: dict.fromkeys(CLASSES, count) for part, count in
                             (("train", 5), ("val", 2), ("test", 3))}  # fmt: skip


@pytest.mark.parametrize(
    ("folders", "loose", "words"),
    [
        (["train", "val", "valid"], [], ["val, valid", "same part"]),
        (["train", "Training", "test"], [], ["Training, train", "same part"]),
        (["val", "test"], [], ["val", "test", "no folder train"]),
        (["valid"], [], ["valid", "no folder train"]),
        ([], ["train", "test"], ["train", "test", "one folder of pictures for each class"]),
        ([], ["train"], ["train", "one folder of pictures for each class"]),
        (["train"], ["test"], ["test", "one folder of pictures for each class"]),
        (["train", "test"], ["bus"], ["two ways", "train", "test", "bus"]),
        (["train"], ["bus", "car"], ["two ways", "train", "bus, car"]),
    ],
    ids=str,
)
def test_folder_that_can_be_read_in_two_ways_is_refused(folders, loose, words, tmp_path):
    for name in folders:
        fill(tmp_path / name)
    fill(tmp_path, loose)
    message = refusal(tmp_path)
    for word in (str(tmp_path), *words):
        assert word in message


@pytest.mark.parametrize("classes", [("train", "bus"), ("valid", "invalid"), ("Test", "control", "treated")])
def test_class_may_be_called_as_a_part(classes, tmp_path):
    fill(tmp_path, classes)
    assert ready(tmp_path).class_names == sorted(classes)


def test_folders_beside_the_parts_are_left_aside_and_named(tmp_path):
    for part in ("train", "test", "copy/train"):
        fill(tmp_path / part)
    (tmp_path / "annotations").mkdir()
    data = ready(tmp_path)
    assert data.class_names == [*CLASSES]
    assert "not used in" in told(data)
    assert "annotations, copy" in told(data)


HIDDEN = (".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir")


@pytest.mark.parametrize("place", ["", "train", "train/cat", "test"])
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_folders_are_no_classes_and_their_pictures_no_images(name, place, tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / part)
    expected = ready(tmp_path).counts()
    fill(tmp_path / place / name, ["cat"])
    fill(tmp_path / place, [name])
    assert ready(tmp_path).counts() == expected


def test_hidden_files_and_files_that_are_no_pictures_are_left_aside(tmp_path):
    expected = ready(fill(tmp_path / "pictures")).counts()
    for name in ("._0.png", ".hidden.jpg", "Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt", "scan.dcm"):
        (tmp_path / "pictures" / "cat" / name).write_bytes(b"no picture")
    data = ready(tmp_path / "pictures")
    assert data.counts() == expected
    assert "not taken for pictures: 1 .txt, 1 .dcm" in told(data)
    assert "Thumbs" not in told(data)


def test_pictures_beside_the_class_folders_are_named(tmp_path):
    fill(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "overview.png")
    assert "are not used: 1" in told(ready(tmp_path))


def test_pictures_may_lie_deeper_and_have_suffixes_in_any_case(tmp_path):
    fill(tmp_path)
    fill(tmp_path / "dog", ["spaniel"], count=3)
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / "0.PNG")
    Image.new("L", (8, 8), 200).save(tmp_path / "cat" / "moving.gif")
    totals = ready(tmp_path).notes[0]
    assert "cat 5, dog 7" in totals


def test_class_names_do_not_depend_on_how_a_file_system_spells_accents(tmp_path):
    fill(tmp_path / "train", ["café", "thé"])
    fill(tmp_path / "test", [unicodedata.normalize("NFD", name) for name in ("café", "thé")])
    assert ready(tmp_path).class_names == ["café", "thé"]


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("kind", ["missing", "empty", "more"])
def test_class_that_a_part_lacks_is_named(part, kind, tmp_path):
    for name in ("train", "val", "test"):
        fill(tmp_path / name, [*CLASSES, "eel"])
    if kind == "more":
        fill(tmp_path / part, ["fish"])
    else:
        for path in (tmp_path / part / "eel").iterdir():
            path.unlink()
        if kind == "missing":
            (tmp_path / part / "eel").rmdir()
    message = refusal(tmp_path)
    assert ("fish" if kind == "more" else "eel") in message
    assert part in message


@pytest.mark.parametrize("layout", [[""], ["train"], ["train", "val"], ["train", "test"], ["train", "val", "test"]])
def test_single_class_is_refused(layout, tmp_path):
    for part in layout:
        fill(tmp_path / part, ["cat"])
    assert "at least two classes to tell apart, found only cat" in refusal(tmp_path)


def test_data_one_folder_deeper_are_pointed_at(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / "chest" / part)
    assert f"--data-root {tmp_path / 'chest'}" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "no folders", "no pictures"])
def test_forgotten_data_root_names_the_cure(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVKAN_DATA", raising=False)
    if kind != "missing":
        (tmp_path / "data" / ("MNIST/raw" if kind == "no pictures" else "")).mkdir(parents=True)
    message = refusal(None)
    assert "--data-root" in message
    assert "CONVKAN_DATA" in message


def test_dark_pictures_are_pointed_out(tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for index in range(4):
            values = np.full((8, 8), 1000 * index, np.uint16)  # 12 bits in 16
            Image.fromarray(values).save(tmp_path / name / f"{index}.png")
    assert "the brightest value is 12 of 255" in told(ready(tmp_path))
    assert "pictures are dark" not in told(ready(fill(tmp_path / "light")))


class TestSmallData:
    """However few images there are, no class is left without one to train on, or the data are refused."""

    @pytest.mark.parametrize("labels", [[5, 5], [2, 50], [2, 2, 2], [100, 3], [1, 9], [4] * 10, [30, 2, 2]])
    @pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.5, 0.9])
    @pytest.mark.parametrize("seed", range(3))
    def test_split_leaves_no_class_out(self, labels, fraction, seed):
        labels = torch.repeat_interleave(torch.arange(len(labels)), torch.tensor(labels))
        kept, held_out = split_labels(labels, fraction, seed)
        assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(len(labels)))
        classes = len(labels.unique())
        assert len(held_out) > 0
        if len(split_indices(len(labels), fraction, seed)[0]) >= classes:
            assert len(labels[kept].unique()) == classes
        several = (labels.bincount() > 1).sum()
        assert len(held_out) < classes or len(labels[held_out].unique()) >= several

    def test_split_by_chance_is_kept_where_it_leaves_no_class_out(self):
        labels = torch.arange(400) % 4
        for part, expected in zip(split_labels(labels, 0.1, 5), split_indices(400, 0.1, 5), strict=True):
            assert torch.equal(part, expected)

    @pytest.mark.parametrize("counts", [(1, 1), (1, 2), (2, 2), (3, 2), (2, 20), (3, 3)], ids=str)
    @pytest.mark.parametrize("layout", [[""], ["train"], ["train", "val"], ["train", "test"], ["train", "val", "test"]])
    @pytest.mark.parametrize("fractions", [(0.1, 1.0), (0.5, 1.0), (0.1, 0.5), (0.9, 0.01)], ids=str)
    def test_folder_is_refused_in_words_or_every_part_has_images(self, counts, layout, fractions, tmp_path):
        for part in layout:
            for name, count in zip(CLASSES, counts, strict=True):
                fill(tmp_path / part, [name], count)
        val_fraction, train_fraction = fractions
        try:
            data = ready(tmp_path, val_fraction=val_fraction, train_fraction=train_fraction)
        except (DataError, ValueError) as error:
            assert any(word in str(error) for word in (str(tmp_path), "val_fraction", "train_fraction"))  # noqa: PT017
            return
        for part, found in data.counts().items():
            assert sum(found.values()) > 0
            for name, count in found.items():
                title = {"train": "training", "val": "validation"}.get(part, part)
                assert count > 0 or f"there are no {title} images of {name}" in told(data)
        assert train_fraction < 1 or min(data.counts()["train"].values()) > 0

    @pytest.mark.parametrize("fraction", [1e-9, 0.001, 0.01])
    @pytest.mark.parametrize("dataset", ["digits", "folder"])
    def test_fraction_that_leaves_no_image_is_refused(self, dataset, fraction, tmp_path):
        fill(tmp_path)
        fraction = min(fraction, 1e-4) if dataset == "digits" else fraction
        with pytest.raises(ValueError, match=f"train_fraction {fraction} leaves none of"):
            ImageData(dataset, data_root=tmp_path, train_fraction=fraction).setup()

    @pytest.mark.parametrize("names", [["only"], []])
    def test_any_data_set_of_fewer_than_two_classes_is_refused(self, names, tmp_path):
        images = Images(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
        data = ImageData("digits", data_root=tmp_path)
        data.source = type("Source", (), {"load": lambda self, root, size: Parts(images, images, names)})()
        with pytest.raises(DataError, match="at least two classes"):
            data.setup()


class TestMatchingClasses:
    """A model and data agree on classes by name."""

    def test_another_order_is_matched_by_name(self, tmp_path):
        data = ready(fill(tmp_path))
        names = {part: [data.class_names[label] for label in getattr(data, part).labels] for part in data.counts()}
        data.match_classes(["dog", "cat"])
        assert data.class_names == ["dog", "cat"]
        assert {part: [data.class_names[label] for label in getattr(data, part).labels] for part in names} == names
        assert "matched by name" in told(data)

    def test_the_same_order_changes_nothing(self, tmp_path):
        data = ready(fill(tmp_path))
        labels, notes = data.train.labels, list(data.notes)
        data.match_classes([*CLASSES])
        assert data.train.labels is labels
        assert data.notes == notes

    @pytest.mark.parametrize("names", [["cat", "fish"], ["cat"], ["cat", "dog", "eel"], ["fish", "eel"]])
    def test_other_classes_are_refused_by_name(self, names, tmp_path):
        data = ready(fill(tmp_path))
        with pytest.raises(DataError) as caught:
            data.match_classes(names)
        for name in {*names} ^ {*CLASSES}:
            assert name in str(caught.value)
        assert str(tmp_path) in str(caught.value)


class TestDecodedWhenNeeded:
    """Pictures that are not held in memory are the same, and what is not needed is not read."""

    @pytest.fixture
    def folder(self, tmp_path):
        return fill(tmp_path / "pictures", count=12)

    def test_parts_statistics_and_batches_are_those_held_in_memory(self, folder):
        held, needed = ready(folder, in_memory=True), ready(folder, in_memory=False, num_workers=1)
        for part in ("train", "val", "test"):
            ours, theirs = getattr(needed, part), getattr(held, part)
            assert isinstance(ours.pixels, PictureFiles)
            assert ours.pixels.shape == theirs.pixels.shape
            assert torch.equal(ours.pixels[:], theirs.pixels)
            assert torch.equal(ours.labels, theirs.labels)
            assert torch.equal(ours.with_channels(1).pixels[:], theirs.with_channels(1).pixels)
        assert (needed.mean, needed.std, needed.image_shape) == (held.mean, held.std, held.image_shape)
        for ours, theirs in zip(needed.train_dataloader(), held.train_dataloader(), strict=True):
            assert all(map(torch.equal, ours, theirs))

    def test_is_what_happens_to_more_than_memory_should_hold(self, folder, monkeypatch):
        assert isinstance(ready(folder).train.pixels, torch.Tensor)
        monkeypatch.setattr("convkan.training.folders.HELD_BYTES", 24 * 3 * 8 * 8 - 1)
        data = ready(folder)
        assert isinstance(data.train.pixels, PictureFiles)
        assert "decoded when they are needed" in told(data)
        assert isinstance(ready(folder, in_memory=True).train.pixels, torch.Tensor)

    def test_only_pictures_that_are_asked_for_are_read(self, folder):
        images = ready(folder, in_memory=False).train
        last = images.select(torch.tensor([len(images) - 1]))
        for path in folder.glob("*/*.png"):
            path.write_bytes(b"damaged")
        assert len(images.select(torch.arange(3)).pixels) == 3
        with pytest.raises(DataError, match="cannot be read as a picture"):
            last.pixels[:]

    def test_goes_with_folders_only(self):
        with pytest.raises(ValueError, match="in_memory goes with dataset 'folder' only, got False with 'digits'"):
            ImageData("digits", in_memory=False)
