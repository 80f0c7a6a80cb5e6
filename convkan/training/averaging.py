"""Averages of weights over training, by which a model is judged in place of its latest weights."""

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def average_weights(decay: float) -> WeightAveraging:
    """A callback that keeps an exponential moving average of weights and of what normalisation measures.

    The average takes part in validation, and goes into checkpoints; those also have the latest weights, by which
    training goes on. At first it forgets faster, by (1 + n)/(10 + n) after n steps, lest it remember the weights that
    training began with.

    Args:
        decay: What is left of the average after a step.

    Raises:
        ValueError: ``decay`` does not lie in (0, 1).
    """
    if not 0 < decay < 1:
        raise ValueError(f"decay must lie in (0, 1), got {decay}")

    def blend(averages: list[Tensor], latest: list[Tensor], count: Tensor | int) -> None:
        steps = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averages, latest, count)

    return WeightAveraging(multi_avg_fn=blend)
