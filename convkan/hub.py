"""Classifiers of ``convkan.models`` on the Hugging Face Hub, or in a folder that is laid out as there.

A folder has ``config.json``, which rebuilds the model; ``model.safetensors``, a file of ``save_classifier``, to be read
by all that read such; ``README.md``, the model card; and ``functions.png``, what the first KAN layer has learned.
"""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from torch import Tensor, nn

from convkan.files import write_atomically
from convkan.interpret.plot import plot_edges
from convkan.models import Description, Weights, load_classifier, model_task, save_classifier, twin
from convkan.models.images import ImageTransform
from convkan.models.saved import read_description
from convkan.nn import KANLayer

WEIGHTS = "model.safetensors"
PICTURE = "functions.png"


class HubClassifier(nn.Module, ModelHubMixin):
    """A classifier and what it was trained as: huggingface_hub's mixin saves, loads and pushes it.

    Args:
        network: A classifier of ``convkan.models``.
        description: What it takes to rebuild it.
        record: What is known about its weights, for the card: figures, and where they come from.

    Shape:
        (batch, in_channels, height, width) → (batch, classes).

    Raises:
        ValueError: The model is for another task than classification.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from convkan.models import get_weights
        >>> model = HubClassifier.of(get_weights("kan_mobilenet", "fashion_mnist"))
        >>> with TemporaryDirectory() as folder:
        ...     _ = model.save_pretrained(folder)
        ...     again = HubClassifier.from_pretrained(folder)
        >>> again.description == model.description
        True
    """

    def __init__(self, network: nn.Module, description: Description, record: dict[str, Any] | None = None) -> None:
        if model_task(description.model) != "classification":
            raise ValueError(f"description must be of a classifier, got {description.model!r}")
        super().__init__()
        self.network, self.description, self.record = network, description, dict(record or {})
        self.training = network.training
        self._hub_mixin_config = description.to_config()

    @classmethod
    def of(cls, weights: Weights, record: dict[str, Any] | None = None) -> "HubClassifier":
        """The model that trained weights are for, in eval mode.

        Args:
            weights: As ``get_weights`` finds them, or ``Weights.of_file``, in the folder of a run, too.
            record: What is known about them, instead of what their file says.
        """
        network, description = load_classifier(weights.path)
        return cls(network, description, weights.record() if record is None else record)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images, prepared as ``transforms()`` does it."""
        return self.network(x)

    def transforms(self) -> ImageTransform:
        """From a picture, or a tensor of bytes, to what the model takes."""
        return self.description.transforms()

    def generate_model_card(self, license: str = "mit", repo_id: str | None = None) -> ModelCard:
        """The card: what it is, how to load it, its record and its functions.

        Args:
            license: Of the weights, as the Hub names licences.
            repo_id: Where it will be, for the example; ``save_pretrained(…, model_card_kwargs={…})`` hands both on.
        """
        return ModelCard(f"---\n{self._card_data(license).to_yaml()}\n---\n\n{self._card_text(license, repo_id)}")

    def _save_pretrained(self, save_directory: Path) -> None:
        self._hub_mixin_config = self.description.to_config()
        save_classifier(save_directory / WEIGHTS, self.network, self.description, self.record)
        for name, layer in self.network.named_modules():
            if isinstance(layer, KANLayer):
                figure = plot_edges(layer, f"{type(layer).__name__} {name}")
                write_atomically(save_directory / PICTURE, figure.savefig)
                break

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, config: dict[str, Any] | None = None, **download: Any
    ) -> "HubClassifier":
        """From a folder, or downloaded; without a ``config.json``, as in the folder of a run, as the weights say."""
        path: str | os.PathLike[str] = Path(model_id) / WEIGHTS
        if not Path(model_id).is_dir():
            path = hf_hub_download(model_id, WEIGHTS, **download)
        try:
            described = None if config is None else Description.from_config(config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{Path(model_id) / 'config.json'} does not describe a model: {error}") from error
        network, description = load_classifier(path, described)
        return cls(network, description, read_description(path)[1])

    def _card_data(self, license: str) -> ModelCardData:
        data, results = self.record.get("dataset"), None
        if data is not None and "test_accuracy" in self.record:
            results = [
                EvalResult("image-classification", data, data, "accuracy", self.record["test_accuracy"]),
            ]
        return ModelCardData(
            license=license,
            library_name="convkan",
            pipeline_tag="image-classification",
            tags=["kolmogorov-arnold", "kan", "model_hub_mixin"],
            datasets=None if data in (None, "folder") else [data],  # a folder of images is no data set of the Hub
            model_name=self.description.model if results else None,
            eval_results=results,
        )

    def _card_text(self, license: str, repo_id: str | None) -> str:
        description = self.description
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        height, width = description.image_size
        is_kan = any(isinstance(layer, KANLayer) for layer in self.network.modules())
        rows = [f"| {name} | {value} |" for name, value in self.record.items()]
        record = "\n".join(["| | |", "| --- | --- |", *rows]) if rows else "None was kept with the weights."
        functions = (
            f"![The functions of one variable in the first KAN layer]({PICTURE})"
            if is_kan
            else "It has no KAN layer: it is a plain CNN, to be held against KANs of its topology."
        )
        options = ", ".join(f"`{name}={value!r}`" for name, value in description.options.items()) or "the model's own"
        return f"""# {description.model}

An image classifier of [convkan](https://pypi.org/project/convkan-vision) with {parameters:,} parameters.
Options: {options}.
The plain CNN of its topology is `{twin(description.model)}`.

```python
from convkan.hub import HubClassifier

model = HubClassifier.from_pretrained("{repo_id or "."}")
probabilities = model(model.transforms()(picture).unsqueeze(0)).softmax(-1)  # a picture of Pillow's
```

**Input**: {height} × {width} pixels, {description.in_channels} channels. From shares of full brightness
{description.mean} is subtracted, and the rest divided by {description.std}.

**Classes**: {", ".join(description.class_names)}.

## Record

{record}

## Functions

{functions}

## Licence

{license}
"""
