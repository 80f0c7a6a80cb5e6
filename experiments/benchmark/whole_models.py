"""Rows of the panel about whole models: predictions by trained weights, training steps at equal sizes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from convkan.models import create_model, list_weights, load_classifier, model_options, twin
from experiments.benchmark.measure import Contender, Kind
from experiments.benchmark.tasks import training


@dataclass(frozen=True)
class Prediction:
    """Trained weights in eval mode beside the plain twin of the same depths and widths, batch by batch.

    Attributes:
        model: Name of the model.
        weights: Name of its weights.
        batch: Images at a time.
        mode: "eager" or "compiled".
        bar: The most that it may take in twins.
    """

    model: str
    weights: str
    batch: int
    mode: str = "eager"
    bar: float | None = None

    @property
    def name(self) -> str:
        """SIZE/BASIS/DTYPE/MODE."""
        return f"predict-{self.model}-{self.weights}-b{self.batch}/bspline/float32/{self.mode}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.batch} images, {self.model} of {self.weights} and {twin(self.model)}, {self.mode}"

    @property
    def about(self) -> dict[str, Any]:
        """What a report must know, in terms of JSON."""
        return _about(self.name, "prediction", self.bar)

    def __call__(self, device: torch.device, notes: list[str]) -> list[Contender]:
        """Both models."""
        paths = {(entry.model, entry.name): entry.path for entry in list_weights()}
        model, description = load_classifier(paths[self.model, self.weights])
        same = {name: value for name, value in description.options.items() if name in model_options(twin(self.model))}
        classes = len(description.class_names)
        plain = create_model(twin(self.model), classes, description.in_channels, **same)
        x = torch.randn(self.batch, description.in_channels, *description.image_size, device=device)
        models: tuple[tuple[str, Kind, nn.Module], ...] = (
            (self.model, "convkan", model),
            (twin(self.model), "plain network", plain),
        )
        found = []
        for name, kind, module in models:
            module = module.to(device).eval()
            run = torch.compile(module, fullgraph=True) if self.mode == "compiled" else module
            assert isinstance(run, nn.Module)
            found.append(Contender(name, kind, run, x, compiled=self.mode == "compiled", trains=False))
        return found


@dataclass(frozen=True)
class TrainingStep:
    """Forward, backward and AdamW step of ``kan_vgg`` and of ``vgg`` with as many parameters.

    Attributes:
        size: What their number of parameters is called.
        widths: Of ``kan_vgg`` and ``vgg``: those that ``experiments.compare`` finds for it in their suites.
        depths: Of both.
        image: Channels, height and width.
        batch: Images a step.
        mode: "eager" or "compiled".
        bar: The most that it may take in steps of the twin.
        kind: Of the units of ``kan_vgg``.
    """

    size: str
    widths: tuple[float, float]
    depths: tuple[int, ...]
    image: tuple[int, int, int]
    batch: int = 128
    mode: str = "eager"
    bar: float | None = None
    kind: str = "lowrank"

    @property
    def name(self) -> str:
        """SIZE/BASIS/DTYPE/MODE."""
        return f"step-kan_vgg-{self.size}/bspline/float32/{self.mode}"

    @property
    def title(self) -> str:
        """For people."""
        shape = "×".join(map(str, (self.batch, *self.image)))
        return f"training step on {shape}, kan_vgg {self.kind} and vgg of {self.size} parameters, {self.mode}"

    @property
    def about(self) -> dict[str, Any]:
        """What a report must know, in terms of JSON."""
        return _about(self.name, "training step", self.bar)

    def __call__(self, device: torch.device, notes: list[str]) -> list[Contender]:
        """Both models."""
        compiled, options = self.mode == "compiled", {"depths": self.depths}
        kan = options | {"kind": self.kind, "rank": 1, "width": self.widths[0]}
        return [
            training("kan_vgg", kan, "convkan", self.image, self.batch, device, compiled),
            training(
                "vgg", options | {"width": self.widths[1]}, "plain network", self.image, self.batch, device, compiled
            ),
        ]


def _about(name: str, layer: str, bar: float | None) -> dict[str, Any]:
    return dict(zip(("size", "basis", "dtype", "mode"), name.split("/"), strict=True)) | {"layer": layer, "bar": bar}
