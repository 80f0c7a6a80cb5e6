"""Training that begins with trained weights: which they are, and the model they make for other images and classes."""

from dataclasses import replace

from torch import nn

from convkan.models import Description, Weights, create_model, get_weights, list_weights, model_options
from convkan.models.pretrained import put_fresh_head
from convkan.training import ImageData
from experiments.common.cli import UserError
from experiments.common.train_config import TrainConfig


def chosen_weights(config: TrainConfig) -> Weights:
    """The weights that ``config.weights`` names: of the package, or in a file or folder.

    Raises:
        UserError: There are none, or they are of another model than ``config.model``.
    """
    wanted = str(config.weights)
    named = [weights for weights in list_weights() if weights.name == wanted]
    try:
        weights = get_weights(config.model, wanted) if named else Weights.of_file(wanted)
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


def begin_with_weights(config: TrainConfig, data: ImageData) -> tuple[nn.Module, Description]:
    """A model with trained weights, for the images and classes of ``data``, which are prepared as its own were.

    Its head is fresh unless the classes are those that it knows.

    Raises:
        UserError: There are no such weights, or they do not fit the images or the options.
    """
    weights = chosen_weights(config)
    trained = weights.description()
    data.match_images(trained)
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
