"""Classifiers by name, each KAN beside its plain-CNN twin."""

from convkan.models import kan_cnn as _kan_cnn  # noqa: F401  (registers its models)
from convkan.models import resnet as _resnet  # noqa: F401  (registers its models)
from convkan.models import seed as _seed  # noqa: F401  (registers its models)
from convkan.models import vgg as _vgg  # noqa: F401  (registers its models)
from convkan.models.registry import (
    create_model,
    list_models,
    model_options,
    register_model,
    suggested_learning_rate,
    twin,
)

__all__ = ["create_model", "list_models", "model_options", "register_model", "suggested_learning_rate", "twin"]
