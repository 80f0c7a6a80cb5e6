"""How a classifier is optimised: numbers and names alone."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from convkan.optim import OptimizerName, ScheduleName

ClassWeights = Literal["none", "balanced"]

STRONGEST = 30  # magnitude of RandAugment
NOT_NEGATIVE = (
    *("momentum", "warmup_epochs", "weight_decay", "coefficient_decay", "base_decay"),
    *("coefficient_penalty", "sam", "mixup", "cutmix", "cutout"),
)


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
        sam: Radius ρ of sharpness-aware minimisation, as 0.05: steps follow the gradient where the loss so near is
            largest, which takes two passes a step; 0 for none. See ``convkan.optim.perturbed``.
        ema: Decay a step of a moving average of the weights, by which the model is judged and kept; 0 for none.
        mixup: Of the Beta distribution by which two images of a batch are mixed, its parameter; 0 does not mix.
        cutmix: Likewise, of the share of an image that is a rectangle of another; 0 for none.
        mixup_growing: Mix a share of the batches that grows with the epochs, from none to all of them.
        rotation: Largest angle, in degrees, by which an image is turned.
        rand_augment: Strength of two operations drawn for each image (RandAugment), of 30; 0 for none.
        erasing: Probability of erasing a rectangle.
        cutout: Side of a square to erase, in pixels; 0 for none.
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
    sam: float = 0.0
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_growing: bool = False
    rotation: float = 0.0
    rand_augment: int = 0
    erasing: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.class_weights not in get_args(ClassWeights):
            known = ", ".join(get_args(ClassWeights))
            raise ValueError(f"class_weights must be one of {known}; got {self.class_weights!r}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        for name in ("learning_rate", "coefficient_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        for name, value in vars(self).items():
            if isinstance(value, float) and not isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        for name in ("momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.erasing <= 1 or not 0 <= self.rotation <= 180 or not 0 <= self.rand_augment <= STRONGEST:
            raise ValueError(
                f"erasing must lie in [0, 1], rotation in [0, 180] and rand_augment in [0, {STRONGEST}], "
                f"got {self.erasing}, {self.rotation} and {self.rand_augment}"
            )
        if self.mixup_growing and not self.mixes:
            raise ValueError("mixup_growing must come with mixup or cutmix: there is nothing else to grow")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return bool(self.mixup or self.cutmix)

    @property
    def transforms_images(self) -> bool:
        """Whether images are changed one by one."""
        return bool(self.rotation or self.rand_augment or self.erasing or self.cutout)
