"""What accuracies over seeds and images allow to be said."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """How much more accurate one model is than another.

    Attributes:
        mean: Difference of the mean accuracies.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Who is better, if the interval is clear of 0."""
        return "first" if self.low > 0 else "second" if self.high < 0 else "neither"


def paired_bootstrap(
    first: Bool[np.ndarray, "seeds images"],
    second: Bool[np.ndarray, "other_seeds images"],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The difference in accuracy of two models with its uncertainty over seeds and over images.

    Images are drawn anew with replacement, the same for both models (which answered the same ones: the pairing); seeds
    are drawn anew for each model, since a seed of one has nothing to do with that of the other. The interval is that of
    the percentiles. Source: Efron and Tibshirani, "An Introduction to the Bootstrap", ch. 13.

    Args:
        first: Whether each image was right, for each seed of the first model.
        second: Likewise for the second model, on the same images in the same order.
        resamples: Draws.
        seed: Seed of the draws.
    """
    generator = np.random.default_rng(seed)
    # Images that the same runs got right are alike: it is enough to draw how many of each kind there are.
    correct, alike = np.unique(np.concatenate([first, second]), axis=1, return_counts=True)
    draws = generator.multinomial(alike.sum(), alike / alike.sum(), size=resamples)
    accuracies = draws @ correct.T.astype(float) / alike.sum()  # (draws, seeds of both)
    of_first, of_second = np.split(accuracies, [len(first)], axis=1)
    differences = _of_some(of_first, generator) - _of_some(of_second, generator)
    low, high = np.percentile(differences, [2.5, 97.5])
    return Difference(float(first.mean() - second.mean()), float(low), float(high))


def _of_some(accuracies: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The mean over seeds drawn anew for each row."""
    chosen = generator.integers(accuracies.shape[1], size=accuracies.shape)
    return np.take_along_axis(accuracies, chosen, axis=1).mean(axis=1)


def pareto_front(costs: list[float], gains: list[float]) -> list[int]:
    """Which points no other is at most as expensive and better than, by increasing cost.

    Example:
        >>> pareto_front([1, 2, 3], [0.5, 0.4, 0.7])
        [0, 2]
    """
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i])):
        if not front or gains[index] > gains[front[-1]]:
            front.append(index)
    return front
