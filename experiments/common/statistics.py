"""What accuracies over seeds and images allow to be said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

RESAMPLES = 10_000
LEVEL = 0.05  # of error, in what is named
POWER = 0.8  # with which the smallest difference is found that is told
LEAST_P = 1e-9  # smaller ones are as good as this

Winner = Literal["first", "second", "neither"]


@dataclass(frozen=True)
class Interval:
    """A difference of means.

    Attributes:
        mean: The difference found.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """How much more accurate one model is than another, for seeds and images yet to be drawn.

    Attributes:
        p: How often as large a difference would be found were there none, at most; None from one seed.
        detectable: The difference that is found, at the 5 % level, in four of five repetitions; None from one seed.
    """

    p: float | None = None
    detectable: float | None = None

    @property
    def verdict(self) -> Winner:
        """Who is better, if that is hardly chance. One seed decides nothing."""
        return winner(self.mean, self.p)


def winner(mean: float, p: float | None) -> Winner:
    """Who is ahead, if ``p`` is small enough."""
    if p is None or p > LEVEL:
        return "neither"
    return "first" if mean > 0 else "second"


def compare(
    first: Bool[np.ndarray, "seeds images"], second: Bool[np.ndarray, "other_seeds images"], level: float = LEVEL
) -> Difference:
    """The difference in accuracy of two models with its uncertainty over seeds and over images.

    It has two parts. Images are the same for both models: their part is the variance of the mean over images of the
    difference in how many seeds got an image right, as a paired bootstrap of images gives it. Seeds are each model's
    own: their part is the variance of its accuracy over them, with Student's t of Welch's degrees of freedom, those of
    as many seeds on both sides as the side with fewer has: Welch's own name winners between equals twice as often as
    they say where the fewer seeds differ more. So does a bootstrap of two or three seeds, which makes their part too
    small, by (n − 1)/n and in its tails. Chance within an image and a seed is in both parts, and taken out of the
    first. The interval is mean ± √(z²·images + t²·seeds), as Cochran combines variances of which one is nearly known;
    it holds the truth as often as it says, but for two or three seeds of which one model's differ many times as much
    as the other's and images hardly count: then in 93 of 100 cases. With many seeds it is that of the bootstrap.

    Source: Welch, Biometrika 34 (1947); Cochran, Biometrics 20 (1964); for the two parts, Owen, "The pigeonhole
    bootstrap", Annals of Applied Statistics 1 (2007).

    Args:
        first: Whether each image was right, for each seed of the first model.
        second: Likewise for the second model, on the same images in the same order.
        level: At which ``detectable`` is told.

    Returns:
        The difference. Where a model has one seed, its interval is over images alone, and there is no ``p``.
    """
    images, seeds, freedom = _variances(first, second)
    mean = float(first.mean() - second.mean())

    def reach(error: float) -> float:
        """Half the width of the interval that misses the truth so often."""
        of_seeds = stdtrit(freedom, 1 - error / 2) ** 2 * seeds if seeds else 0.0
        return float(np.sqrt(ndtri(1 - error / 2) ** 2 * images + of_seeds))

    half = reach(LEVEL)
    if min(len(first), len(second)) < 2:
        return Difference(mean, mean - half, mean + half)
    detectable = reach(level) + float(ndtri(POWER) * np.sqrt(images + seeds))
    return Difference(mean, mean - half, mean + half, _p_value(abs(mean), reach), detectable)


def _variances(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Of the difference of means: that over images, that over seeds, and the degrees of freedom of the latter."""
    count = first.shape[1]
    of_images = float((first.mean(0) - second.mean(0)).var(ddof=1)) / count if count > 1 else 0.0
    if min(len(first), len(second)) < 2:
        return of_images, 0.0, np.inf
    seeds, chance = [], 0.0
    for right in (first, second):
        number = len(right)
        seeds.append(float(right.mean(1).var(ddof=1)) / number)
        left = right - right.mean(0) - right.mean(1, keepdims=True) + right.mean()
        chance += float(np.square(left).sum()) / ((number - 1) * max(1, count - 1) * number * count)
    squares = sum(part**2 for part in seeds) / (min(len(first), len(second)) - 1)
    return max(0.0, of_images - chance), sum(seeds), sum(seeds) ** 2 / squares if squares else np.inf


def _p_value(distance: float, reach: Callable[[float], float]) -> float:
    """The error at which an interval of this reach just holds 0."""
    if distance <= reach(1.0):
        return 1.0
    if distance >= reach(LEAST_P):
        return LEAST_P
    return float(brentq(lambda error: reach(error) - distance, LEAST_P, 1.0, xtol=1e-12))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of several p-values: with it, the chance of naming any winner between equals stays what it was.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979). What is None stays so, and is not counted.

    Example:
        >>> holm([0.01, None, 0.04, 0.02])
        [0.03, None, 0.04, 0.04]
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[index] = largest
    return corrected


def bootstrap_over_images(
    first: Float[np.ndarray, " images"], second: Float[np.ndarray, " images"], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The difference of two means over the same images, its interval that of the percentiles of a paired bootstrap.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", ch. 13.

    Args:
        first: A figure of each image.
        second: Another of the same images.
        resamples: Draws.
        seed: Seed of the draws.
    """
    generator = np.random.default_rng(seed)
    differences = np.asarray(first, dtype=float) - second
    values, alike = np.unique(differences, return_counts=True)  # it is enough to draw how many of each there are
    draws = generator.multinomial(alike.sum(), alike / alike.sum(), size=resamples)
    low, high = np.percentile(draws @ values / alike.sum(), [2.5, 97.5])
    return Interval(float(differences.mean()), float(low), float(high))


def choices(first: int, second: int) -> float:
    """How many comparisons that of two counts for which were chosen, by their own runs, as the best of so many.

    The best of many equals are the luckiest. For one of ``first`` to lead the best of the others, it must lead any
    given one of them, to which there are ``first`` chances on one side; likewise on the other.

    Example:
        >>> choices(1, 1), choices(5, 1)
        (1.0, 3.0)
    """
    return (first + second) / 2


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
