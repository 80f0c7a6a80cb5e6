"""Models by name."""

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from typing import Any, Literal, TypeVar, get_args

from torch import nn

MODULES_VARIABLE = "CONVKAN_MODELS"  # names modules that register more models, separated by commas
PATH_VARIABLE = "CONVKAN_MODELS_PATH"  # folders to look for them in when Python knows no module of that name

Task = Literal["classification", "segmentation"]
Builder = TypeVar("Builder", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class ModelEntry:
    """A registered model.

    Attributes:
        build: Makes the model from ``num_classes``, ``in_channels`` and its own options.
        twin: Name of the plain CNN of the same topology; its own name for a plain CNN.
        learning_rate: Where to start with AdamW.
        task: "classification", with outputs (batch, classes), or "segmentation", (batch, classes, height, width).
    """

    build: Callable[..., nn.Module]
    twin: str
    learning_rate: float
    task: Task = "classification"


MODELS: dict[str, ModelEntry] = {}


def register_model(
    name: str, *, twin: str, learning_rate: float = 3e-3, task: Task = "classification"
) -> Callable[[Builder], Builder]:
    """Make a class or function available to ``create_model`` under ``name``.

    A file in ``convkan/models`` is imported by itself. A module elsewhere is to be imported, or named in the
    environment variable CONVKAN_MODELS, for its models to be there.

    Args:
        name: The model's name.
        twin: Name of the plain CNN of the same topology.
        learning_rate: Where to start with AdamW.
        task: "classification", or "segmentation" for a model that returns (batch, classes, height, width).

    Raises:
        ValueError: The name is taken, or there is no such task.

    Example:
        >>> @register_model("pixels", twin="pixels")
        ... class Pixels(nn.Sequential):
        ...     def __init__(self, num_classes: int, in_channels: int, side: int = 8) -> None:
        ...         super().__init__(nn.Flatten(), nn.Linear(in_channels * side**2, num_classes))
        >>> model_options("pixels")
        {'side': 8}
        >>> build_model("pixels", num_classes=3, side=4)[1]
        Linear(in_features=16, out_features=3, bias=True)
        >>> del MODELS["pixels"]
    """
    _check_task(task)

    def register(build: Builder) -> Builder:
        if name in MODELS:
            raise ValueError(f"name must be new, got {name!r}, which is registered already")
        MODELS[name] = ModelEntry(build, twin, learning_rate, task)
        return build

    return register


def list_models(pattern: str = "*", *, task: Task | None = None) -> list[str]:
    """The names of models, sorted.

    Args:
        pattern: Only names that match it, as file names do in a shell.
        task: Only models for it.

    Raises:
        ValueError: There is no such task, or CONVKAN_MODELS names a module that cannot be imported.

    Example:
        >>> list_models("kkan*")
        ['kkan_medium', 'kkan_small']
    """
    if task is not None:
        _check_task(task)
    import_named()
    chosen = (name for name, entry in MODELS.items() if task in (None, entry.task))
    return sorted(name for name in chosen if fnmatchcase(name, pattern))


def model_options(name: str) -> dict[str, Any]:
    """The options of a model and their defaults, besides ``num_classes`` and ``in_channels``.

    Raises:
        ValueError: No model has this name.
    """
    build = _entry(name).build
    fixed = build.keywords if isinstance(build, partial) else {}
    parameters = inspect.signature(build).parameters
    return {key: p.default for key, p in parameters.items() if key not in ("num_classes", "in_channels", *fixed)}


def build_model(name: str, num_classes: int = 10, in_channels: int = 1, **options: Any) -> nn.Module:
    """A new model, with freshly drawn weights; see ``create_model``, which also loads trained ones.

    Raises:
        ValueError: No model has this name, or a size is out of range.
        TypeError: The model has no such option.
    """
    known = model_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    for key, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be a positive integer, got {value!r}")
    return _entry(name).build(num_classes=num_classes, in_channels=in_channels, **options)


def twin(name: str) -> str:
    """The name of the plain CNN with the topology of model ``name``; a plain CNN is its own twin.

    Raises:
        ValueError: No model has this name.

    Example:
        >>> twin("kkan_medium")
        'cnn_medium'
    """
    return _entry(name).twin


def model_task(name: str) -> Task:
    """What a model is for: "classification" or "segmentation".

    Raises:
        ValueError: No model has this name.
    """
    return _entry(name).task


def suggested_learning_rate(name: str) -> float:
    """A learning rate to start with, for AdamW and the model called ``name``.

    Raises:
        ValueError: No model has this name.
    """
    return _entry(name).learning_rate


def import_named() -> None:
    """Import the modules that CONVKAN_MODELS names, which may lie in the folders that CONVKAN_MODELS_PATH names.

    These come last in Python's path, so that nothing in them takes the place of what others import.

    Raises:
        ValueError: One of them cannot be imported.
    """
    for folder in filter(None, os.environ.get(PATH_VARIABLE, "").split(os.pathsep)):
        if folder not in sys.path:
            sys.path.append(folder)
    for module in filter(None, map(str.strip, os.environ.get(MODULES_VARIABLE, "").split(","))):
        try:
            import_module(module)
        except ImportError as error:
            raise ValueError(
                f"{MODULES_VARIABLE} must name modules that can be imported, got {module!r}: {error}"
            ) from error


def _check_task(task: Task) -> None:
    if task not in get_args(Task):
        raise ValueError(f"task must be one of {', '.join(get_args(Task))}; got {task!r}")


def _entry(name: str) -> ModelEntry:
    import_named()
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(list_models())}; got {name!r}")
    return MODELS[name]
