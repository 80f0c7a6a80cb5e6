"""The model that a run begins with."""

from torch import nn

from convkan.models import Description, model_options, model_task
from convkan.training import ImageData
from experiments.common.fine_tuning import begin_with_weights
from experiments.common.train_config import TrainConfig


def begin(config: TrainConfig, data: ImageData) -> tuple[nn.Module, Description]:
    """The model to be trained on ``data``: new, or with trained weights."""
    if config.weights is not None:
        return begin_with_weights(config, data)
    if model_task(config.model) != "classification":
        raise ValueError(f"model must be a classifier, got {config.model!r}: see python -m experiments.segment")
    channels, height, width = data.image_shape
    options = dict(config.model_options)
    if "image_size" in model_options(config.model):
        options.setdefault("image_size", [height, width])
    description = Description(config.model, channels, (height, width), data.class_names, data.mean, data.std, options)
    return description.create(), description
