"""The KANs of ``convkan.models`` among timm's models: ``import convkan.timm`` registers all that are called ``kan_*``.

``timm.create_model("kan_vgg.cifar10", pretrained=True)`` has the weights that come with the package. A tag decides the
options of its model (``convkan.models.model_options``), and the first one those of the name alone, as it does in timm;
others may be given. Parameters have the names that they have in ``convkan.models``, so that a file of either is one of
the other's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

from convkan.models import Description, Weights, get_weights, list_models, model_options
from convkan.models.pretrained import check_agrees, weights_of
from convkan.models.saved import KEY, description_in, read_safetensors
from convkan.timm.classifier import TimmClassifier, stages_of

IMAGE = (3, 32, 32)  # what models without weights say that they are for
# The weights of each model, its default first.
TAGGED = {name: weights_of(name) for name in list_models("kan_*", task="classification")}


def build_timm_model(name: str, pretrained: bool, *, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
    """What ``timm.create_model`` calls: a ``TimmClassifier``, or timm's extractor of its features.

    Args:
        name: Name of the model, without a tag.
        pretrained: Whether to load the weights of the tag.
        pretrained_cfg: The tag, or a configuration of timm's. Where its weights are a file of ours, as those of a tag
            are, that decides the options of the model.
        **options: Those of timm, of ``TimmClassifier`` and of the model. With ``features_only``, ``out_indices`` are
            the stages, all by default; there may be more than the network has, see ``levels`` of ``TimmClassifier``.

    Raises:
        ValueError: There are no weights of this tag, a size is out of range, or weights are to be loaded that are of
            another model, or were trained with another option than is given.
        TypeError: The model has no such option.
    """
    if isinstance(pretrained_cfg, str):
        get_weights(name, pretrained_cfg)  # refuses other tags, and says which there are
    described = _described(resolve_pretrained_cfg(name, pretrained_cfg, options.get("pretrained_cfg_overlay")))
    if described is not None:
        if pretrained:
            _check_trained(described, name, options)
        options = (described.options if described.model == name else {}) | options
    if options.get("features_only") and isinstance(options.get("out_indices"), Sequence):
        options["levels"] = max(options["out_indices"], default=0) + 1
    return build_model_with_cfg(
        TimmClassifier,
        name,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_filter_fn=_without_other_head,
        feature_cfg={"feature_cls": "getter", "out_indices": None},
        name=name,
        **options,
    )


def _described(configuration: PretrainedCfg) -> Description | None:
    """What the file of a configuration of timm's was trained as; None unless it is one of ours that is there."""
    file = configuration.file
    if configuration.state_dict or not file or Path(file).suffix != ".safetensors":
        return None
    metadata = read_safetensors(file)[1]
    return description_in(file, metadata) if KEY in metadata else None


def _check_trained(described: Description, name: str, options: dict[str, Any]) -> None:
    """Refuse weights of another model, or trained with other options; nothing that is trained depends on dropout."""
    if described.model != name:
        raise ValueError(f"weights must be those of {name}, got those of {described.model}")
    own = model_options(name).keys() - {"dropout"}
    check_agrees(described, None, {key: value for key, value in options.items() if key in own})


def _without_other_head(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state without the head, where that of ``model`` is for other classes.

    Raises:
        ValueError: The body has other tensors than that of ``model``, some of which would stay as they were drawn.
    """
    own = model.state_dict()
    optional = {f"{name}.{key}" for name, module in model.named_modules() for key in getattr(module, "constants", ())}
    differing = sorted(key for key in (state.keys() ^ own.keys()) - optional if not key.startswith("head."))
    if differing:
        raise ValueError(
            "pretrained weights must be of the model's options: its body and theirs do not both have "
            f"{', '.join(differing)}"
        )
    common = [name for name in state if name.startswith("head.") and name in own]
    if all(own[name].shape[:1] == state[name].shape[:1] for name in common):  # grids may have been refined
        return state
    return {name: value for name, value in state.items() if not name.startswith("head.")}


def _configuration(weights: Weights) -> dict[str, Any]:
    """What timm knows of trained weights."""
    description = weights.description()
    first = stages_of(description.create())[0].modules[0]
    return {
        "file": str(weights.path),
        "input_size": (description.in_channels, *description.image_size),
        "num_classes": len(description.class_names),
        "label_names": tuple(description.class_names),
        "mean": tuple(description.mean),
        "std": tuple(description.std),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "first_conv": first,
        "classifier": "head",
        "license": "mit",
    }


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        return build_timm_model(name, pretrained, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"The model ``{name}`` of ``convkan.models``; see ``convkan.timm``."
    return build


__all__ = ["TimmClassifier", "build_timm_model"]  # timm adds its models

default_cfgs = generate_default_cfgs(
    {
        tagged: configuration
        for name, found in TAGGED.items()
        for tagged, configuration in (
            [(f"{name}.{weights.name}", _configuration(weights)) for weights in found]
            or [(name, {"input_size": IMAGE, "crop_pct": 1.0, "classifier": "head"})]
        )
    }
)

for _name in TAGGED:
    register_model(_entrypoint(_name))
