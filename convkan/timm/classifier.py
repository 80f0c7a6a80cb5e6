"""A network of ``convkan.models`` as timm wants its models."""

from collections.abc import Sequence
from typing import Any

from timm.layers import SelectAdaptivePool2d  # type: ignore[attr-defined]
from torch import Tensor, nn

from convkan.models.registry import build_model
from convkan.models.stack import Stage


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
        self._stages = stages_of(network)
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


def stages_of(network: nn.Module) -> list[Stage]:
    """What of a network works at one resolution each."""
    if not hasattr(network, "stages"):
        raise TypeError(f"name must be that of a model with a method stages, got one of {type(network).__name__}")
    stages: list[Stage] = network.stages()  # type: ignore[operator]
    return stages
