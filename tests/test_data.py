import multiprocessing
import os
import pickle
import re
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from convkan.models.images import fit_image
from convkan.training import DATASETS, DataError, ImageData
from convkan.training.batches import BatchedImages, shift_and_flip
from convkan.training.parts import Images, split_indices

DATA_ROOT = os.environ.get("CONVKAN_DATA")


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No data set but those a test makes, and no network."""

    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.delenv("CONVKAN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def ready(*args, **options):
    data = ImageData(*args, **options)
    data.setup()
    return data


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="of Linux")
def test_loader_processes_do_not_keep_the_memory_of_their_batches():
    images = random_images(40, height=256, width=256)
    data = ready(num_workers=1)
    data.train = Images(images.pixels.repeat(4, 3, 1, 1), images.labels.repeat(4))
    data.batch_size, held = 8, []
    for _ in data.train_dataloader():
        [worker] = multiprocessing.active_children()
        text = Path("/proc", str(worker.pid), "smaps_rollup").read_text(encoding="ascii")
        held.append(int(re.search(r"Anonymous: +(\d+) kB", text)[1]))  # copies of what was forked do not count
    assert len(held) == 20
    assert max(held) - min(held[:2]) < 15_000  # ten batches


def random_images(count=8, channels=1, height=5, width=6):
    pixels = torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 3)


def write_idx(path, array):
    """An array of bytes in the format of MNIST's files."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root, name="MNIST", train=30, test=10):
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        folder = root / name / "raw"
        write_idx(folder / f"{part}-images-idx3-ubyte", random.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return root


def write_folder(root, classes=("cat", "dog"), count=6, size=(20, 14)):
    random = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def assert_one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message.strip()
    for word in words:
        assert str(word) in message


@pytest.mark.parametrize(("count", "fraction"), [(2, 0.5), (10, 0.1), (97, 0.25), (5, 0.01), (1437, 0.1)])
def test_split_is_a_partition_of_the_asked_size(count, fraction):
    train, val = split_indices(count, fraction, seed=3)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(count))
    assert len(val) == max(1, round(count * fraction))


def test_split_follows_from_its_seed():
    first, again, other = (split_indices(100, 0.2, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_runs_with_other_seeds_are_validated_on_the_same_images():
    one, other = ready(seed=0), ready(seed=7)
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(one, part).pixels, getattr(other, part).pixels)
        assert torch.equal(getattr(one, part).labels, getattr(other, part).labels)
    assert not torch.equal(one.val.pixels, ready(split_seed=1).val.pixels)


def test_parts_of_digits_are_disjoint_and_make_up_all_images():
    data = ready()
    assert len(data.train) + len(data.val) + len(data.test) == 1797
    assert data.image_shape == (1, 8, 8)
    assert data.class_names == [str(digit) for digit in range(10)]
    parts = [{image.numpy().tobytes() for image in part.pixels} for part in (data.train, data.val, data.test)]
    assert not (parts[0] & parts[1]) | (parts[0] & parts[2]) | (parts[1] & parts[2])


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_parts_of_digits_hold_all_classes(part):
    counts = getattr(ready(), part).labels.bincount(minlength=10)
    assert len(counts) == 10
    assert counts.min() > 0


@pytest.mark.parametrize("dataset", ["digits", "folder"])
def test_normalisation_is_measured_on_the_training_part_alone(dataset, tmp_path):
    root = write_folder(tmp_path / "pictures") if dataset == "folder" else tmp_path
    data = ready(dataset, data_root=root, val_fraction=0.3)
    pixels = data.train.pixels.numpy() / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)


def test_normalised_training_part_has_mean_zero_and_deviation_one_in_each_channel(tmp_path):
    data = ready("folder", data_root=write_folder(tmp_path / "pictures"))
    images, labels = data.on_after_batch_transfer((data.train.pixels, data.train.labels), 0)
    assert images.dtype == torch.float32
    assert labels is data.train.labels
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(images.std(dim=(0, 2, 3), correction=0), torch.ones(3), rtol=1e-4, atol=0)


def test_uniform_images_stay_finite(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "flat" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 8), (7, 7, 7)).save(tmp_path / "flat" / name / f"{index}.png")
    data = ready("folder", data_root=tmp_path / "flat")
    images, _ = data.on_after_batch_transfer((data.train.pixels, data.train.labels), 0)
    assert images.isfinite().all()


@pytest.mark.parametrize(("shift", "flip"), [(0, False), (2, False), (0, True), (1, True)])
def test_augmentation_keeps_shape_type_and_labels(shift, flip):
    images = random_images(channels=3)
    pixels, labels = BatchedImages(images, shift=shift, flip=flip).__getitems__([3, 1, 2])
    assert pixels.shape == (3, 3, 5, 6)
    assert pixels.dtype == torch.uint8
    assert labels.tolist() == images.labels[[3, 1, 2]].tolist()


def test_augmentation_follows_from_seed_and_first_index():
    images = random_images(32)
    batch = list(range(4, 20))
    pixels = BatchedImages(images, 5, 2, True).__getitems__(batch)[0]
    again = BatchedImages(images, 5, 2, True)
    again.__getitems__([0, 1])
    assert torch.equal(pixels, again.__getitems__(batch)[0])
    assert not torch.equal(pixels, BatchedImages(images, 6, 2, True).__getitems__(batch)[0])


def test_augmentation_draws_nothing_from_the_global_generator():
    images = random_images()
    before = torch.random.get_rng_state()
    BatchedImages(images, 0, 1, True).__getitems__([0, 1, 2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_shift_is_a_translation_of_all_channels_with_black_moving_in():
    images = random_images(200, channels=2, height=5, width=6).pixels
    moved = shift_and_flip(images, 2, False, torch.Generator().manual_seed(0))
    framed = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for before, after in zip(framed, moved, strict=True):
        offsets = [
            (row - 2, column - 2)
            for row in range(5)
            for column in range(5)
            if torch.equal(before[:, row : row + 5, column : column + 6], after)
        ]
        assert len(offsets) == 1
        seen.update(offsets)
    assert seen == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}


def test_flip_mirrors_about_half_of_the_images_from_left_to_right():
    images = random_images(200).pixels
    flipped = shift_and_flip(images, 0, True, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(after, before.flip(-1)) for before, after in zip(images, flipped, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, flipped, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize(
    ("dataset", "augment", "shift", "flip"),
    [
        ("cifar10", "standard", 4, True),
        ("cifar10", "auto", 4, True),
        ("cifar10", "flip", 0, True),
        ("cifar10", "none", 0, False),
        ("fashion_mnist", "auto", 0, False),
        ("fashion_mnist", "flip", 0, True),
        ("mnist", "standard", 2, False),
        ("mnist", "flip", 0, False),  # a mirrored digit is another, or none
    ],
)
def test_augmentation_keeps_the_class_of_every_image(dataset, augment, shift, flip):
    data = ImageData(dataset, augment=augment)
    assert (data.shift, data.flip) == (shift, flip)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_batches_do_not_depend_on_the_number_of_workers():
    batches = [list(ready(num_workers=workers, batch_size=256).train_dataloader()) for workers in (0, 2)]
    for (pixels, labels), (other_pixels, other_labels) in zip(*batches, strict=True):
        assert torch.equal(pixels, other_pixels)
        assert torch.equal(labels, other_labels)


def test_an_epoch_holds_every_training_image_once_in_an_order_that_follows_from_the_seed():
    def order(**options):
        data = ready(augment="none", **options)
        return torch.cat([pixels for pixels, _ in data.train_dataloader()]), data.train.pixels

    first, stored = order(seed=1)
    assert torch.equal(first, order(seed=1)[0])
    assert not torch.equal(first, order(seed=2)[0])
    assert sorted(image.numpy().tobytes() for image in first) == sorted(image.numpy().tobytes() for image in stored)


@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluation_sees_the_images_as_they_are_and_in_order(part):
    data = ready()
    batches = list(getattr(data, f"{part}_dataloader")())
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), getattr(data, part).pixels)
    assert torch.equal(torch.cat([labels for _, labels in batches]), getattr(data, part).labels)


def test_folder_without_parts_holds_out_a_fifth_of_every_class(tmp_path):
    data = ready("folder", data_root=write_folder(tmp_path / "pictures", count=10), image_size=8)
    assert data.class_names == ["cat", "dog"]
    assert data.image_shape == (3, 8, 8)
    assert data.test.labels.bincount().tolist() == [2, 2]
    assert len(data.train) + len(data.val) == 16


def test_folder_with_parts_tests_on_its_test_images(tmp_path):
    write_folder(tmp_path / "train", count=5)
    write_folder(tmp_path / "test", count=3, size=(16, 16))
    data = ready("folder", data_root=tmp_path, image_size=16)
    assert len(data.train) + len(data.val) == 10
    stored = [Image.open(path) for path in sorted((tmp_path / "test").glob("*/*.png"))]
    expected = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in stored])
    assert torch.equal(data.test.pixels, expected)
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_folder_with_other_classes_for_testing_is_refused(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", classes=("cat", "fish"))
    with pytest.raises(DataError) as caught:
        ready("folder", data_root=tmp_path)
    assert_one_line(caught, tmp_path, "same classes", "dog", "fish")


def test_class_with_a_single_image_is_refused(tmp_path):
    write_folder(tmp_path / "pictures", count=1)
    with pytest.raises(DataError) as caught:
        ready("folder", data_root=tmp_path / "pictures")
    assert_one_line(caught, tmp_path / "pictures", "at least 2 images")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_folder_takes_pictures_of_any_mode(mode, tmp_path):
    write_folder(tmp_path / "pictures", count=3)
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (9, 30), 1).save(tmp_path / "pictures" / "cat" / f"9.{suffix}")
    assert ready("folder", data_root=tmp_path / "pictures").image_shape == (3, 32, 32)


@pytest.mark.parametrize("content", [b"", b"not a picture", "truncated"], ids=["empty", "text", "truncated"])
def test_unreadable_picture_is_named(content, tmp_path):
    root = write_folder(tmp_path / "pictures")
    broken = root / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:300] if content == "truncated" else content)
    with pytest.raises(DataError) as caught:
        ready("folder", data_root=root)
    assert_one_line(caught, broken)


@pytest.mark.parametrize("kind", ["missing", "empty", "empty class", "file"])
def test_folder_without_pictures_is_refused(kind, tmp_path):
    root = tmp_path / "pictures"
    if kind == "file":
        root.write_text("")
    elif kind != "missing":
        (root / "cat" if kind == "empty class" else root).mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        ready("folder", data_root=root)
    assert_one_line(caught, root)


@pytest.mark.parametrize("size", [(4, 4), (7, 3), (9, 20)])
@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 12, 6), (3, 2, 40)])
def test_fitted_image_has_the_asked_size(shape, size):
    assert fit_image(torch.zeros(shape, dtype=torch.uint8), size).shape == (shape[0], *size)


def test_fitting_an_image_of_the_right_size_changes_nothing():
    image = random_images(channels=3).pixels[0]
    assert torch.equal(fit_image(image, (5, 6)), image)


def test_fitting_cuts_the_longer_side_from_the_middle():
    image = torch.arange(12, dtype=torch.uint8).expand(1, 4, 12)
    assert torch.equal(fit_image(image, (4, 4)), image[:, :, 4:8])


@pytest.mark.parametrize(("dataset", "name"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_stored_data_set_is_read_without_network(dataset, name, tmp_path):
    data = ready(dataset, data_root=write_mnist(tmp_path, name))
    assert [len(part) for part in (data.train, data.val, data.test)] == [27, 3, 10]
    assert data.image_shape == (1, 28, 28)
    assert len(data.class_names) == 10


def test_environment_variable_says_where_data_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("CONVKAN_DATA", str(write_mnist(tmp_path / "elsewhere")))
    assert len(ready("mnist").test) == 10


def test_argument_outranks_the_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("CONVKAN_DATA", str(tmp_path / "nowhere"))
    assert len(ready("mnist", data_root=write_mnist(tmp_path / "here")).test) == 10


def test_data_lies_in_data_unless_told_otherwise(tmp_path):
    write_mnist(tmp_path / "data")
    assert len(ready("mnist").test) == 10


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_missing_data_set_without_network_says_where_it_should_lie(dataset, tmp_path):
    with pytest.raises(DataError) as caught:
        ready(dataset, data_root=tmp_path / "nowhere")
    assert_one_line(caught, tmp_path / "nowhere", "CONVKAN_DATA", "--data-root")


@pytest.mark.parametrize("part", ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3"])
@pytest.mark.parametrize("kept", [0, 3, 11, 20])
def test_truncated_file_is_reported(part, kept, tmp_path):
    path = write_mnist(tmp_path) / "MNIST" / "raw" / f"{part}-ubyte"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError) as caught:
        ready("mnist", data_root=tmp_path)
    assert_one_line(caught, tmp_path, "damaged")


def test_file_with_a_wrong_checksum_is_not_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError) as caught:
        ready("cifar10", data_root=tmp_path)
    assert_one_line(caught, tmp_path, "damaged", "CONVKAN_DATA")
    assert not (tmp_path / "sprung").exists()


def test_unknown_data_set_lists_the_right_ones():
    with pytest.raises(ValueError, match=re.escape(f"{', '.join(DATASETS)}; got 'imagenet'")):
        ImageData("imagenet")


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"val_fraction": 0.0},
        {"val_fraction": 1.0},
        {"augment": "strong"},
        {"image_size": 32},
        {"dataset": "folder", "image_size": 0},
    ],
)
def test_option_out_of_range_is_named(options):
    with pytest.raises(ValueError, match=f"{list(options)[-1]} must"):
        ImageData(**options)


def test_validation_fraction_that_leaves_nothing_to_train_on_is_refused(tmp_path):
    with pytest.raises(ValueError, match="val_fraction"):
        ready("mnist", data_root=write_mnist(tmp_path, train=2), val_fraction=0.9)


def test_constructing_reads_nothing(tmp_path):
    assert ImageData("mnist", data_root=tmp_path / "nowhere").class_names == []


@pytest.mark.skipif(DATA_ROOT is None, reason="CONVKAN_DATA says where the real data sets lie")
@pytest.mark.parametrize(
    ("dataset", "shape", "sizes"),
    [
        ("mnist", (1, 28, 28), (54000, 6000, 10000)),
        ("fashion_mnist", (1, 28, 28), (54000, 6000, 10000)),
        ("cifar10", (3, 32, 32), (45000, 5000, 10000)),
    ],
)
def test_real_data_set_has_its_known_size(dataset, shape, sizes):
    data = ImageData(dataset, data_root=DATA_ROOT)
    try:
        data.setup()
    except DataError as error:
        pytest.skip(str(error))
    assert data.image_shape == shape
    assert tuple(len(part) for part in (data.train, data.val, data.test)) == sizes
    assert data.test.labels.bincount().tolist() == [1000] * 10 or dataset == "mnist"


class Blobs:
    """A data set as torchvision has them: pictures of two classes, in parts by name."""

    classes: ClassVar = ["dark", "bright"]

    def __init__(self, root, split="train", transform=None, download=False):
        if not (Path(root) / "blobs").exists():
            raise RuntimeError("Dataset not found")
        self.count = {"train": 12, "test": 4}[split]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Image.new("RGB", (20, 30), (200 * (index % 2), 10, 10)), index % 2


class TestTorchvisionByName:
    @pytest.fixture(autouse=True)
    def blobs(self, monkeypatch):
        monkeypatch.setattr(torchvision.datasets, "Blobs", Blobs, raising=False)
        monkeypatch.setattr(torchvision.datasets, "__all__", (*torchvision.datasets.__all__, "Blobs"))

    def test_are_read_by_the_name_of_their_class(self, tmp_path):
        (tmp_path / "blobs").touch()
        data = ImageData("torchvision:Blobs", data_root=tmp_path, image_size=8)
        data.setup()
        assert (data.class_names, data.image_shape) == (["dark", "bright"], (3, 8, 8))
        assert len(data.test) == 4
        assert data.test.pixels[:, 0, 4, 4].tolist() == [0, 200, 0, 200]

    def test_are_refused_in_one_line(self, tmp_path):
        with pytest.raises(ValueError, match="must name one of .*Blobs.*SVHN.*; got 'CocoDetection'"):
            ImageData("torchvision:CocoDetection")
        with pytest.raises(DataError, match="Blobs is missing or damaged under .*Put its files under"):
            ImageData("torchvision:Blobs", data_root=tmp_path).setup()
