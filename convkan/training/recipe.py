"""How a classifier is optimised: numbers and names alone."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from convkan.optim import OptimizerName, ScheduleName

ClassWeights = Literal["none", "balanced"]

DECAYS = ("weight_decay", "coefficient_decay", "base_decay")


@dataclass(frozen=True)
class Recipe:
    """How to optimise.

    Attributes:
        optimizer: "adamw", "adam" or "sgd".
        learning_rate: The highest rate of the schedule.
        momentum: For "sgd", with Nesterov's correction.
        schedule: "cosine", "one_cycle" or "constant".
        warmup_epochs: Epochs over which the rate rises linearly.
        weight_decay: Decay of ordinary weights, and of the others unless they are given their own.
        coefficient_decay: Decay of basis weights.
        base_decay: Decay of base weights.
        coefficient_rate: Learning rate of basis weights, as a multiple of ``learning_rate``. With "adamw" and "sgd"
            decay is proportional to the learning rate, so theirs is multiplied as well.
        label_smoothing: Probability spread evenly over all classes.
        coefficient_penalty: Weight of the mean absolute coefficient in the loss.
        class_weights: "none": each training image counts alike in the loss. "balanced": each class does.
        restarts: Epochs, counted from 0, at which the schedule begins anew.
    """

    optimizer: OptimizerName = "adamw"
    learning_rate: float = 3e-3
    momentum: float = 0.9
    schedule: ScheduleName = "cosine"
    warmup_epochs: float = 0.0
    weight_decay: float = 1e-4
    coefficient_decay: float | None = None
    base_decay: float | None = None
    coefficient_rate: float = 1.0
    label_smoothing: float = 0.0
    coefficient_penalty: float = 0.0
    class_weights: ClassWeights = "none"
    restarts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.class_weights not in get_args(ClassWeights):
            known = ", ".join(get_args(ClassWeights))
            raise ValueError(f"class_weights must be one of {known}; got {self.class_weights!r}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        for name in ("learning_rate", "coefficient_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("momentum", "warmup_epochs", "coefficient_penalty", *DECAYS):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        for name, value in vars(self).items():
            if isinstance(value, float) and not isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        if self.momentum >= 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
