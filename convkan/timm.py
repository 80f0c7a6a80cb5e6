"""The KANs of ``convkan.models`` among timm's models: ``import convkan.timm`` registers all that are called ``kan_*``.

``timm.create_model("kan_vgg.cifar10", pretrained=True)`` has the weights that come with the package. A tag decides the
options of its model (``convkan.models.model_options``), and the first one those of the name alone, as it does in timm;
others may be given. Parameters have the names that they have in ``convkan.models``, so that a file of either is one of
the other's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from timm.layers import SelectAdaptivePool2d  # type: ignore[attr-defined]
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
from convkan.models.registry import build_model
from convkan.models.saved import KEY, description_in, read_safetensors
from convkan.models.stack import Stage

IMAGE = (3, 32, 32)  # what models without weights say that they are for
# The weights of each model, its default first.
TAGGED = {name: weights_of(name) for name in list_models("kan_*", task="classification")}


class TimmClassifier(nn.Module):
    """A network of ``convkan.models`` with the methods that timm asks of its models.

    Args:
        name: Name of the model.
        num_classes: Size of the output; 0 for features, pooled.
        in_chans: Channels of the input.
        drop_rate: Probability of dropping a feature before the head; by default the model's.
        global_pool: "avg", "max" or "avgmax"; "" for none, with ``num_classes`` 0 alone.
        levels: Resolutions to have features of; those beyond the stages of the network are its last, averaged over 2×2
            pixels again and again, as a feature pyramid (arXiv 1612.03144) goes on.
        **options: The model's own options.

    Attributes:
        feature_info: Channels and reduction of the features of each stage.
        num_features: Channels of the last.

    Shape:
        (batch, in_chans, height, width) → (batch, num_classes).

    Raises:
        ValueError: ``global_pool`` is none of these, or a size is out of range.
        TypeError: The model has no stages, or no such option.
    """

    def __init__(
        self,
        name: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float | None = None,
        global_pool: str = "avg",
        levels: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self._name, self._in_chans = name, in_chans
        self._options = options if drop_rate is None else options | {"dropout": drop_rate}
        network = self._network(num_classes)
        for child, module in network.named_children():
            self.add_module(child, module)
        self._stages = _stages_of(network)
        for _ in range(levels - len(self._stages)):
            self._stages.append(Stage((), self._stages[-1].channels, 2 * self._stages[-1].reduction))
        self.feature_info = [
            {"num_chs": stage.channels, "reduction": stage.reduction, "module": (stage.modules or ("",))[-1]}
            for stage in self._stages
        ]
        self.num_classes = num_classes
        self._pool_by(global_pool)
        if not num_classes:
            self.head: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Features of every pixel, (batch, num_features, smaller height, smaller width)."""
        for stage in self._stages:
            if stage.modules:
                x = self._forward_stage(stage, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of such features; or what the head is given, (batch, num_features)."""
        x = self.get_submodule("dropout")(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features of several stages.

        Args:
            x: Images.
            indices: The stages, counted from 0; the last so many for a number, all for None.
            norm: Nothing depends on it: the last stage ends with its normalisation and activation.
            stop_early: Whether to leave out what comes after the last of them.
            output_fmt: "NCHW".
            intermediates_only: Give these alone.

        Returns:
            The features of the last stage that was evaluated, and those asked for; or these alone.

        Raises:
            ValueError: ``output_fmt`` is another.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        taken = self._numbers(indices)
        last = max(taken, default=-1)
        found: dict[int, Tensor] = {}
        features = x
        for index, stage in enumerate(self._stages[: last + 1] if stop_early else self._stages):
            x = self._forward_stage(stage, x)
            found[index] = x
            features = x if stage.modules else features
        chosen = [found[index] for index in taken]
        return chosen if intermediates_only else (features, chosen)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = None, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what features of some stages do without: later stages, and the head; returns the stages' numbers."""
        taken = self._numbers(indices)
        last = max(taken, default=-1)
        for stage in self._stages[last + 1 :]:
            for name in stage.modules:
                parent, _, key = name.rpartition(".")
                delattr(self.get_submodule(parent), key)
        self._stages = self._stages[: last + 1]
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh head, for other classes, or none for 0; and pool in another way.

        Raises:
            ValueError: ``global_pool`` is none of the ways, or a size is out of range.
        """
        self.num_classes = num_classes
        if global_pool is not None:
            self._pool_by(global_pool)
        like = next(self.parameters())
        head = self._network(num_classes).get_submodule("head") if num_classes else nn.Identity()
        self.head = head.to(like.device, like.dtype)

    @property
    def num_features(self) -> int:
        """Channels of the last stage."""
        return self._stages[-1].channels

    head_hidden_size = num_features

    def _numbers(self, indices: int | Sequence[int] | None) -> list[int]:
        """Stages counted from 0: the last so many for a number, all for None."""
        count = len(self._stages)
        if indices is None:
            return list(range(count))
        wanted = range(count - indices, count) if isinstance(indices, int) else indices
        if not all(-count <= index < count for index in wanted):
            raise ValueError(f"indices must be those of {count} stages, got {indices!r}")
        return [index % count for index in wanted]

    def _pool_by(self, global_pool: str) -> None:
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        if self.global_pool.feat_mult() != 1 or (not global_pool and self.num_classes):
            raise ValueError(
                "global_pool must be 'avg', 'max' or 'avgmax', or '' with num_classes 0, "
                f"got {global_pool!r} with num_classes {self.num_classes}"
            )

    def _network(self, num_classes: int) -> nn.Module:
        """A new network of the name and the options."""
        return build_model(self._name, num_classes or 1, self._in_chans, **self._options)

    def _forward_stage(self, stage: Stage, x: Tensor) -> Tensor:
        if not stage.modules:
            return nn.functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        for name in stage.modules:
            x = self.get_submodule(name)(x)
        return x


def _stages_of(network: nn.Module) -> list[Stage]:
    """What of a network works at one resolution each."""
    if not hasattr(network, "stages"):
        raise TypeError(f"name must be that of a model with a method stages, got one of {type(network).__name__}")
    stages: list[Stage] = network.stages()  # type: ignore[operator]
    return stages


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
    first = _stages_of(description.create())[0].modules[0]
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
