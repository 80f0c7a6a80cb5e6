"""Images held in memory as bytes, split once by seed and augmented batch by batch.

Images are decoded once; a batch is then an index into one array, shifted and flipped as a whole, and normalised on the
device that trains on it. Transforming image by image costs more than the training step of a small model.
"""

import os
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler

from convkan.training.datasets import DATA_ROOT_VARIABLE, DATASETS, Images
from convkan.training.sharing import Share

Augmentation = Literal["auto", "standard", "flip", "none"]
Scaling = Literal["standard", "symmetric"]

EVALUATION_BATCH = 250  # at least: without gradients to keep, larger batches are free


def shift_and_flip(
    pixels: UInt8[Tensor, "batch channels height width"], shift: int, flip: bool, generator: torch.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """Shift each image by up to ``shift`` pixels, black moving in, and mirror half of them if ``flip``."""
    count, _, height, width = pixels.shape
    if shift:
        padded = torch.nn.functional.pad(pixels, (shift,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        rows, columns = torch.randint(2 * shift + 1, (2, count), generator=generator)
        pixels = windows[torch.arange(count), :, rows, columns]
    if flip:
        mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        pixels = torch.where(mirrored, pixels.flip(-1), pixels)
    return pixels


class BatchedImages(Dataset[tuple[Tensor, Tensor]]):
    """Images fetched a batch at a time, augmented if asked for.

    The random choices of a batch follow from the seed and the batch's first index alone, so they do not depend on
    the number of worker processes.

    Args:
        images: The images.
        seed: Seed of the augmentation; differs from epoch to epoch.
        shift: Largest shift in pixels.
        flip: Mirror half of the images.
    """

    def __init__(self, images: Images, seed: int = 0, shift: int = 0, flip: bool = False) -> None:
        self.images, self.seed, self.shift, self.flip = images, seed, shift, flip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, labels = self.__getitems__([index])
        return pixels[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A whole batch: pixels (batch, channels, height, width) in uint8 and labels (batch,)."""
        batch = self.images.select(torch.tensor(indices))
        if not (self.shift or self.flip):
            return batch.pixels, batch.labels
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + indices[0]) % 2**63)
        return shift_and_flip(batch.pixels, self.shift, self.flip, generator), batch.labels


def channel_statistics(
    pixels: UInt8[Tensor, "count channels height width"],
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in units of full brightness; exact, from a count of bytes."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        counts = torch.bincount(pixels[:, channel].flatten().int(), minlength=256).double()
        mean = (counts @ values) / counts.sum()
        variance = (counts @ (values - mean).square()) / counts.sum()
        means.append(mean.item())
        deviations.append(max(variance.sqrt().item(), 1 / 255))
    return means, deviations


def split_indices(count: int, val_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """A random partition of ``count`` images into training and validation indices."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = max(1, round(count * val_fraction))
    return order[held_out:].sort().values, order[:held_out].sort().values


class ImageData(L.LightningDataModule):
    """One data set of the table, split into training, validation and test parts.

    Args:
        dataset: A name in ``DATASETS``.
        data_root: Where torchvision's folders, or a folder of class folders, lie; by default the environment variable
            CONVKAN_DATA, or ``data``.
        batch_size: Images a step.
        val_fraction: Share of the training images held out for validation.
        train_fraction: Share of the rest to train on, for quick trials; the validation part stays whole.
        augment: "standard" (shifts, and flips where they keep the class), "flip" (such flips alone), "none", or "auto":
            none for MNIST and Fashion-MNIST, as the field trains on them, standard for the others.
        scaling: "standard" for mean 0 and standard deviation 1 in each channel, "symmetric" for [-1, 1].
        image_size: Side to which ``folder`` scales images; other data sets come as they are.
        num_workers: Loader processes; 0 loads in the training process, which is fastest for small images.
        seed: Seed of order and augmentation.
        split_seed: Seed of the split, apart, so that runs with other seeds are validated on the same images.

    Attributes:
        class_names: Name of each class.
        mean: What normalisation subtracts from each channel, in units of full brightness.
        std: What it then divides by.

    Raises:
        ValueError: An argument is out of range, or no data set has this name.
        DataError: The data cannot be had.
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
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        if dataset not in DATASETS:
            raise ValueError(f"dataset must be one of {', '.join(DATASETS)}; got {dataset!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
        if not 0 < train_fraction <= 1:
            raise ValueError(f"train_fraction must lie in (0, 1], got {train_fraction}")
        if augment not in get_args(Augmentation):
            raise ValueError(f"augment must be one of {', '.join(get_args(Augmentation))}; got {augment!r}")
        if scaling not in get_args(Scaling):
            raise ValueError(f"scaling must be one of {', '.join(get_args(Scaling))}; got {scaling!r}")
        if image_size is not None and (dataset != "folder" or image_size < 1):
            raise ValueError(f"image_size must be positive and goes with dataset 'folder' only, got {image_size}")
        self.source = DATASETS[dataset]
        self.root = Path(data_root or os.environ.get(DATA_ROOT_VARIABLE) or "data").expanduser()
        self.batch_size, self.val_fraction, self.train_fraction = batch_size, val_fraction, train_fraction
        if augment == "auto":
            augment = "standard" if self.source.augmented else "none"
        self.shift = self.source.shift if augment == "standard" else 0
        self.flip = self.source.flip and augment in ("standard", "flip")
        self.scaling, self.image_size, self.num_workers = scaling, image_size, num_workers
        self.seed, self.split_seed = seed, split_seed
        self.class_names: list[str] = []

    def setup(self, stage: str | None = None) -> None:
        """Read the images, split them and measure the training part."""
        if self.class_names:
            return
        available, self.test, names = self.source.load(self.root, self.image_size)
        train, val = split_indices(len(available), self.val_fraction, self.split_seed)
        if len(train) == 0:
            raise ValueError(f"val_fraction {self.val_fraction} leaves none of {len(available)} images to train on")
        self.train, self.val = available.select(train), available.select(val)
        self.mean, self.std = channel_statistics(self.train.pixels)
        if self.scaling == "symmetric":
            self.mean, self.std = [0.5] * len(self.mean), [0.5] * len(self.std)
        if self.train_fraction < 1:
            kept, _ = split_indices(len(self.train), 1 - self.train_fraction, self.split_seed)
            self.train = self.train.select(kept)
        self.class_names = names

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
            order = DistributedSampler(images, **self._processes, seed=seed)
        return self._loader(images, order, self.batch_size)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The validation part in order; of several processes, each has a share of it."""
        return self._evaluation_loader(BatchedImages(self.val))

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The test part in order; of several processes, each has a share of it."""
        return self._evaluation_loader(BatchedImages(self.test))

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
        self, images: BatchedImages, sampler: Sampler[int] | None, batch_size: int
    ) -> DataLoader[tuple[Tensor, Tensor]]:
        return DataLoader(
            images,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            # The loader draws a number when it is iterated; from the global generator, that would shift the model's
            # own randomness, by an amount that depends on whether the run was resumed.
            generator=torch.Generator().manual_seed(self.seed),
            collate_fn=_as_fetched,
            pin_memory=torch.cuda.is_available(),
        )


def normalize(
    pixels: UInt8[Tensor, "batch channels height width"], mean: list[float], std: list[float]
) -> Float[Tensor, "batch channels height width"]:
    """Bytes as shares of full brightness, less ``mean``, divided by ``std``, in each channel."""
    scale = torch.tensor(std, device=pixels.device).view(-1, 1, 1)
    return (pixels / 255 - torch.tensor(mean, device=pixels.device).view(-1, 1, 1)) / scale


def _as_fetched(batch: Any) -> Any:
    return batch
