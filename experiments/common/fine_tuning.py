"""Training that begins with trained weights: which they are, and the model they make for other images and classes."""

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from convkan.models import Description, Weights, create_model, get_weights, list_weights, model_options
from convkan.models.pretrained import put_fresh_head
from convkan.training import ImageData, write_text
from experiments.common.cli import UserError
from experiments.common.train_config import TrainConfig

NAME = "description.json"


def chosen_weights(config: TrainConfig) -> Weights:
    """The weights that ``config.weights`` names: of the package, or in a file or folder.

    Raises:
        UserError: There are none, or they are of another model than ``config.model``.
    """
    wanted = str(config.weights)
    try:
        weights = get_weights(config.model, wanted) if _is_packaged(wanted) else Weights.of_file(wanted)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"weights must be a name of the package's, or a file or folder of a run: {error}") from error
    if weights.model != config.model:
        raise UserError(f"model must be that of the weights, --model {weights.model}, got {config.model}")
    return weights


def at_size_of_weights(config: TrainConfig) -> TrainConfig:
    """The configuration with pictures in folders as large as the weights saw theirs, unless it says how large."""
    if config.weights is None or config.dataset != "folder" or config.image_size is not None:
        return config
    return replace(config, image_size=max(chosen_weights(config).description().image_size))


def with_absolute_weights(config: TrainConfig) -> TrainConfig:
    """The configuration with the place of its weights as it is found from every folder."""
    if config.weights is None or _is_packaged(config.weights):
        return config
    return replace(config, weights=str(Path(config.weights).absolute()))


def _is_packaged(name: str) -> bool:
    return any(weights.name == name for weights in list_weights())


def note_description(folder: Path, description: Description) -> None:
    """Leave in a run's folder what its model is, so that it can go on where the weights it began with are gone."""
    write_text(folder / NAME, json.dumps(description.to_config(), indent=1, ensure_ascii=False) + "\n")


def go_on_with_weights(folder: Path, data: ImageData) -> tuple[nn.Module, Description] | None:
    """The model of a run that began with trained weights, to be filled from its checkpoint; None if it noted none.

    Classes are numbered and images prepared as they were when it began.

    Raises:
        UserError: What it noted cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        description = Description.from_config(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a readable description: {error}") from error
    _match_data(data, description)
    return description.create(), description


def _match_data(data: ImageData, trained: Description) -> None:
    data.match_images(trained)
    if set(data.class_names) == set(trained.class_names):
        data.match_classes(trained.class_names)


def begin_with_weights(config: TrainConfig, data: ImageData) -> tuple[nn.Module, Description]:
    """A model with trained weights, for the images and classes of ``data``, which are prepared as its own were.

    Its head is fresh unless the classes are those that it knows, in whatever order.

    Raises:
        UserError: There are no such weights, or they do not fit the images or the options.
    """
    weights = chosen_weights(config)
    trained = weights.description()
    _match_data(data, trained)
    _, height, width = data.image_shape
    sizes = {"image_size": [height, width]} if "image_size" in model_options(config.model) else {}
    try:
        model = create_model(config.model, weights=weights, **sizes | config.model_options)
    except (TypeError, ValueError) as error:
        raise UserError(f"weights {config.weights}: {error}") from error
    if data.class_names != trained.class_names:
        put_fresh_head(model, trained, len(data.class_names))
    data.notes.append(f"training begins with weights {weights.path}, and images are prepared as theirs were")
    return model.train(), replace(trained, class_names=data.class_names, image_size=(height, width))
