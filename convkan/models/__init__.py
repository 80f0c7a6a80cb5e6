"""Classifiers by name, each KAN beside its plain-CNN twin, and trained weights of some."""

from convkan.models import kan_cnn as _kan_cnn  # noqa: F401  (registers its models)
from convkan.models import mobilenet as _mobilenet  # noqa: F401  (registers its models)
from convkan.models import resnet as _resnet  # noqa: F401  (registers its models)
from convkan.models import seed as _seed  # noqa: F401  (registers its models)
from convkan.models import vgg as _vgg  # noqa: F401  (registers its models)
from convkan.models.pretrained import Weights, create_model, list_weights
from convkan.models.registry import list_models, model_options, register_model, suggested_learning_rate, twin
from convkan.models.saved import Description, example_input, load_classifier

__all__ = [
    "Description",
    "Weights",
    "create_model",
    "example_input",
    "list_models",
    "list_weights",
    "load_classifier",
    "model_options",
    "register_model",
    "suggested_learning_rate",
    "twin",
]
