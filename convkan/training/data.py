"""A data set of the table, split once by seed, and its loaders.

Images are decoded once and held in memory as bytes, but for pictures in folders that are too many for it; a batch is an
index into one array, normalised on the device that trains on it.
"""

import os
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Sampler

from convkan.models import Description
from convkan.models.images import normalize
from convkan.training.batches import BatchedImages, return_freed_memory
from convkan.training.datasets import DATA_ROOT_VARIABLE, TORCHVISION, find_source
from convkan.training.folders import load_folder
from convkan.training.parts import DataError, Images, channel_statistics, split_labels
from convkan.training.sharing import BatchShare, Share

Augmentation = Literal["auto", "standard", "flip", "none"]
Scaling = Literal["standard", "symmetric"]

SAMPLE = 2000  # images that are measured where not all are in memory
EVALUATION_BATCH = 250  # at least: without gradients to keep, larger batches are free


class ImageData(L.LightningDataModule):
    """One data set of the table, split into training, validation and test parts.

    Args:
        dataset: A name in ``DATASETS``, or one that a module in CONVKAN_MODELS registers; or "torchvision:SVHN", or
            another class of torchvision's with a part to train on and one to test on.
        data_root: Where torchvision's folders, or a folder of class folders, lie; by default the environment variable
            CONVKAN_DATA, or ``data``.
        batch_size: Images a step.
        val_fraction: Share of the training images held out for validation, unless the data bring a validation part,
            as a folder with ``val`` beside ``train`` does.
        train_fraction: Share of the rest to train on, for quick trials; the validation part stays whole.
        augment: "standard" (shifts, and flips where they keep the class), "flip" (such flips alone), "none", or "auto":
            none for MNIST and Fashion-MNIST, as the field trains on them, standard for the others.
        scaling: "standard" for mean 0 and standard deviation 1 in each channel, "symmetric" for [-1, 1].
        image_size: Side to which ``folder`` and torchvision's classes are scaled, 32 by default; other data sets come
            as they are.
        in_memory: Of ``folder``: decode all pictures at once and hold them, or each when it is needed, in the loader's
            processes; by default the former if that takes 1 GiB at most. Where they are not held, mean and standard
            deviation are those of at most 2,000 of them.
        num_workers: Loader processes; 0 loads in the training process, which is fastest for images in memory.
        seed: Seed of order and augmentation.
        split_seed: Seed of the split, apart, so that runs with other seeds are validated on the same images.

    Attributes:
        class_names: Name of each class.
        notes: What a user should know of the data once they are read, a sentence each.
        mean: What normalisation subtracts from each channel, in units of full brightness.
        std: What it then divides by.

    Raises:
        ValueError: An argument is out of range, or no data set has this name.
        DataError: The data cannot be had, or cannot be learned from: one class, or a class with no image to train on.
    """

    def __init__(
        self,
        dataset: str = "digits",
        *,
        data_root: str | os.PathLike[str] | None = None,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        train_fraction: float = 1.0,
        augment: Augmentation = "auto",
        scaling: Scaling = "standard",
        image_size: int | None = None,
        in_memory: bool | None = None,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        source = find_source(dataset)
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {num_workers}")
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
        if not 0 < train_fraction <= 1:
            raise ValueError(f"train_fraction must lie in (0, 1], got {train_fraction}")
        if augment not in get_args(Augmentation):
            raise ValueError(f"augment must be one of {', '.join(get_args(Augmentation))}; got {augment!r}")
        if scaling not in get_args(Scaling):
            raise ValueError(f"scaling must be one of {', '.join(get_args(Scaling))}; got {scaling!r}")
        scaled = dataset == "folder" or dataset.startswith(TORCHVISION)
        if image_size is not None and (not scaled or image_size < 1):
            which = f"'folder' or {TORCHVISION}NAME"
            raise ValueError(f"image_size must be positive and goes with dataset {which} only, got {image_size}")
        if in_memory is not None and dataset != "folder":
            raise ValueError(f"in_memory goes with dataset 'folder' only, got {in_memory} with {dataset!r}")
        self.dataset, self.source, self.in_memory = dataset, source, in_memory
        self.root = Path(data_root or os.environ.get(DATA_ROOT_VARIABLE) or "data").expanduser()
        self.batch_size, self.val_fraction, self.train_fraction = batch_size, val_fraction, train_fraction
        if augment == "auto":
            augment = "standard" if self.source.augmented else "none"
        self.shift = self.source.shift if augment == "standard" else 0
        self.flip = self.source.flip and augment in ("standard", "flip")
        self.scaling, self.image_size, self.num_workers = scaling, image_size, num_workers
        self.seed, self.split_seed = seed, split_seed
        self.class_names: list[str] = []
        self.notes: list[str] = []

    def setup(self, stage: str | None = None) -> None:
        """Read the images, split them and measure the training part."""
        if self.class_names:
            return
        load = self.source.load if self.in_memory is None else partial(load_folder, in_memory=self.in_memory)
        parts = load(self.root, self.image_size)
        names = parts.class_names
        if len(names) < 2:
            raise DataError(
                f"{self.root} must hold at least two classes to tell apart, found {', '.join(names) or 'none'}"
            )
        self.notes, self.test = list(parts.notes), parts.test
        self.train, self.val = (parts.train, parts.val) if parts.val is not None else self._hold_out(parts.train)
        missing = _missing(self.train, names)
        if len(missing) == len(names):
            raise ValueError(f"val_fraction {self.val_fraction} leaves none of {len(parts.train)} images to train on")
        if missing:
            raise DataError(f"{self.root}: no images to train on of {', '.join(missing)}")
        self.mean, self.std = channel_statistics(self.train.sample(SAMPLE))
        if self.scaling == "symmetric":
            self.mean, self.std = [0.5] * len(self.mean), [0.5] * len(self.std)
        if self.train_fraction < 1:
            kept, _ = split_labels(self.train.labels, 1 - self.train_fraction, self.split_seed)
            if len(kept) == 0:
                raise ValueError(
                    f"train_fraction {self.train_fraction} leaves none of {len(self.train)} images to train on"
                )
            self.train = self.train.select(kept)
        for part, images in (("training", self.train), ("validation", self.val), ("test", self.test)):
            if missing := _missing(images, names):
                self.notes.append(f"there are no {part} images of {', '.join(missing)}")
        self.class_names = names

    def _hold_out(self, available: Images) -> tuple[Images, Images]:
        """The available images without those for validation, and those."""
        train, val = split_labels(available.labels, self.val_fraction, self.split_seed)
        if len(val) == 0:
            raise DataError(f"{self.root} has one image of each class to train on, and none for validation")
        return available.select(train), available.select(val)

    def match_classes(self, class_names: list[str]) -> None:
        """Number the classes as a model does, by their names; a change is among the notes.

        Args:
            class_names: Name of each of the model's outputs.

        Raises:
            DataError: The data have other classes than the model.
        """
        self.setup()
        if self.class_names == class_names:
            return
        wanted = [unicodedata.normalize("NFC", name) for name in class_names]
        differences = [
            f"only {whose} has: {', '.join(only)}"
            for whose, only in (
                ("the model", [name for name in wanted if name not in self.class_names]),
                ("the data set", [name for name in self.class_names if name not in wanted]),
            )
            if only
        ]
        if differences:
            raise DataError(f"the classes of the data under {self.root} must be the model's; {'; '.join(differences)}")
        number = torch.tensor([wanted.index(name) for name in self.class_names])
        self.class_names = list(class_names)
        if number.equal(torch.arange(len(number))):
            return
        self.train, self.val, self.test = (
            Images(images.pixels, number[images.labels]) for images in (self.train, self.val, self.test)
        )
        self.notes.append("the model numbers the classes in another order: they were matched by name")

    def match_images(self, description: Description) -> None:
        """Give images the channels and the normalisation of those that a model was trained on.

        Args:
            description: What the model was trained as.

        Raises:
            DataError: The images are neither grey nor in colour, or the model's were neither, and they differ.
        """
        self.setup()
        try:
            self.train, self.val, self.test = (
                images.with_channels(description.in_channels) for images in (self.train, self.val, self.test)
            )
        except ValueError as error:
            raise DataError(f"the images under {self.root} must be as the model's: {error}") from error
        self.mean, self.std = list(description.mean), list(description.std)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many images of each class there are in "train", "val" and "test"."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        names = self.class_names
        return {part: dict(zip(names, _counted(images, names), strict=True)) for part, images in parts.items()}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This epoch's batches: order and augmentation follow from the seed and the epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        seed = self.seed * 10_007 + epoch
        images = BatchedImages(self.train, seed, self.shift, self.flip)
        order: Sampler[int] = RandomSampler(images, generator=torch.Generator().manual_seed(seed))
        if self._processes:
            order = BatchShare(images, **self._processes, batch_size=self.batch_size, seed=seed)
        # Batch normalisation cannot train on a single image: one that is left over waits for another epoch's order.
        lone = len(order) > self.batch_size and len(order) % self.batch_size == 1  # type: ignore[arg-type]
        return self._loader(images, order, self.batch_size, drop_last=lone)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The validation part in order; of several processes, each has a share of it."""
        return self._evaluation_loader(BatchedImages(self.val))

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The test part in order; of several processes, each has a share of it."""
        return self._evaluation_loader(BatchedImages(self.test))

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The test part in order."""
        return self.test_dataloader()

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Float[Tensor, "batch channels height width"], Int[Tensor, " batch"]]:
        """Normalise on the device that computes."""
        pixels, labels = batch
        images = normalize(pixels, self.mean, self.std)
        if self.trainer is not None:
            images = self.trainer.precision_plugin.convert_input(images)
        return images, labels

    @property
    def _processes(self) -> dict[str, Any] | None:
        """The number of processes and that of this one, where several train or judge together."""
        return None if self.trainer is None else self.trainer.distributed_sampler_kwargs

    def _evaluation_loader(self, images: BatchedImages) -> DataLoader[tuple[Tensor, Tensor]]:
        batch_size = max(self.batch_size, EVALUATION_BATCH)
        if not self._processes:
            return self._loader(images, None, batch_size)
        share = Share(images, **self._processes)
        return self._loader(images, share, share.batch_size(batch_size))

    def _loader(
        self, images: BatchedImages, sampler: Sampler[int] | None, batch_size: int, drop_last: bool = False
    ) -> DataLoader[tuple[Tensor, Tensor]]:
        return DataLoader(
            images,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            # The loader draws a number when it is iterated; from the global generator, that would shift the model's
            # own randomness, by an amount that depends on whether the run was resumed.
            generator=torch.Generator().manual_seed(self.seed),
            collate_fn=_as_fetched,
            worker_init_fn=return_freed_memory,
            pin_memory=torch.cuda.is_available(),
        )


def _counted(images: Images, class_names: list[str]) -> list[int]:
    counts: list[int] = images.labels.bincount(minlength=len(class_names)).tolist()
    return counts


def _missing(images: Images, class_names: list[str]) -> list[str]:
    counts = _counted(images, class_names)
    return [name for name, count in zip(class_names, counts, strict=True) if count == 0]


def _as_fetched(batch: Any) -> Any:
    return batch
