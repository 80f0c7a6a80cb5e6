"""Classifiers and U-Nets by name, each KAN beside its plain-CNN twin, and trained weights of some.

Every file of this package is imported, and registers its models: a new one is one file with ``@register_model``. A
model of your own may lie anywhere: import its module, or name it in the environment variable CONVKAN_MODELS, which
reaches the scripts too (several modules are separated by commas).
"""

from importlib import import_module
from pkgutil import iter_modules

from convkan.models.heads import freeze_body
from convkan.models.pretrained import Weights, create_model, get_weights, list_weights
from convkan.models.registry import (
    list_models,
    model_options,
    model_task,
    register_model,
    suggested_learning_rate,
    twin,
)
from convkan.models.saved import Description, example_input, load_classifier, save_classifier

__all__ = [
    "Description",
    "Weights",
    "create_model",
    "example_input",
    "freeze_body",
    "get_weights",
    "list_models",
    "list_weights",
    "load_classifier",
    "model_options",
    "model_task",
    "register_model",
    "save_classifier",
    "suggested_learning_rate",
    "twin",
]

for _module in iter_modules(__path__):  # last, so that they can import from here
    import_module(f"{__name__}.{_module.name}")
