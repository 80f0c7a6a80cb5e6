"""How several processes share out the images that a model is trained and judged on."""

from collections.abc import Iterator, Sized

import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler


class Share(DistributedSampler[int]):
    """A process's part of a data set: consecutive images, in order, none of them twice.

    Torch's sampler repeats images until all processes have equally many, and they then count twice. Here the parts
    differ by an image at most, and what processes gather in the order of their ranks is in the data set's order.

    Args:
        dataset: The images.
        num_replicas: Number of processes.
        rank: Number of this one.

    Raises:
        ValueError: There are fewer images than processes.
    """

    def __init__(self, dataset: Dataset, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        assert isinstance(dataset, Sized)
        self.count = len(dataset)
        if self.count < num_replicas:
            raise ValueError(f"devices must be at most one an image to judge by, got {num_replicas} for {self.count}")

    def __len__(self) -> int:
        return len(self._indices(self.rank))

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices(self.rank))

    def batch_size(self, largest: int) -> int:
        """The largest size up to ``largest`` with which all processes have equally many batches.

        Processes that gather weights, or buffers, at each step would otherwise wait for one that has finished.

        Raises:
            ValueError: There is none.
        """
        first, last = len(self._indices(0)), len(self._indices(self.num_replicas - 1))
        for size in range(largest, 0, -1):
            if -(-first // size) == -(-last // size):
                return size
        raise ValueError(
            f"batch_size must be larger for {self.num_replicas} processes to share {self.count} images, got {largest}"
        )

    def _indices(self, rank: int) -> range:
        each, more = divmod(self.count, self.num_replicas)
        start = rank * each + min(rank, more)
        return range(start, start + each + (rank < more))


class BatchShare(DistributedSampler[int]):
    """A process's part of every batch, of which each process has equally many images, none of them twice.

    Torch's sampler repeats images until all processes have equally many, and gives them parts of another order than one
    process has. Here the processes' batches, joined in the order of their ranks, are those of one process with a batch
    size that is the sum of theirs, and a mean over processes is the mean over images. Images that cannot be divided
    evenly, fewer than there are processes, wait for another epoch's order.

    Args:
        dataset: The images.
        num_replicas: Number of processes.
        rank: Number of this one.
        batch_size: Images a step in each process.
        seed: Seed of the order.

    Raises:
        ValueError: There are fewer images than processes.
    """

    def __init__(self, dataset: Dataset, num_replicas: int, rank: int, batch_size: int, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed)
        assert isinstance(dataset, Sized)
        self.count, self.batch_size = len(dataset), batch_size
        if self.count < num_replicas:
            raise ValueError(f"devices must be at most one an image to train on, got {num_replicas} for {self.count}")

    def __len__(self) -> int:
        return self.count // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed))
        for batch in order[: len(self) * self.num_replicas].split(self.batch_size * self.num_replicas):
            yield from batch.chunk(self.num_replicas)[self.rank].tolist()
