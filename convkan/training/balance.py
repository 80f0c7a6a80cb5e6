"""Classes of unequal size: each judged for itself, and weighed alike."""

from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix


def recalls(confusion: Int[Tensor, "classes classes"]) -> Float[Tensor, " classes"]:
    """The share of each class's images that is classified right; NaN for a class without any.

    Args:
        confusion: Counts by true class (row) and predicted class (column).

    Returns:
        In float64, on the CPU.
    """
    confusion = confusion.cpu().double()  # not every device has float64
    return confusion.diagonal() / confusion.sum(1)


def balanced_weights(labels: Int[Tensor, " count"], num_classes: int) -> list[float]:
    """A weight for each class, inverse to its number of images, and 1 on average over the images.

    A class without images has weight 0. Source: King and Zeng, "Logistic Regression in Rare Events Data" (2001), as
    scikit-learn's ``class_weight="balanced"`` does it.

    Example:
        >>> import torch
        >>> balanced_weights(torch.tensor([0, 0, 0, 1]), num_classes=2)
        [0.666..., 2.0]
    """
    counts = labels.bincount(minlength=num_classes).tolist()
    present = sum(count > 0 for count in counts)
    return [len(labels) / (present * count) if count else 0.0 for count in counts]


class BalancedAccuracy(MulticlassConfusionMatrix):
    """The mean of the classes' recalls, over the classes that have images: all of them weigh alike, large or small."""

    def compute(self) -> Tensor:
        """The mean, as a share."""
        confusion = super().compute()
        return recalls(confusion).nanmean().float().to(confusion.device)
