"""The KANs of ``convkan.models`` among torchvision's: ``import convkan.torchvision`` registers all called ``kan_*``.

``torchvision.models.get_model("kan_vgg", weights="CIFAR10")`` has the weights that come with the package, and
``torchvision.models.get_model_weights("kan_vgg")`` is the enumeration of them. Nothing is downloaded.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import Weights as TorchvisionWeights
from torchvision.models import WeightsEnum
from torchvision.models._api import register_model

from convkan.models import Weights, create_model, list_models
from convkan.models.pretrained import weights_of
from convkan.models.saved import read_safetensors


class PackagedWeights(WeightsEnum):
    """Weights in a file of ours; there is an enumeration of them for each model."""

    def get_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The tensors in the file; torchvision's arguments are about downloads, and nothing is downloaded."""
        return read_safetensors(self.weights.path)[0]

    @property
    def weights(self) -> Weights:
        """The same as ``convkan.models.get_weights`` has them."""
        weights: Weights = self.value.transforms.args[0]
        return weights


def enumerate_weights(name: str) -> type[PackagedWeights]:
    """The enumeration of a model's weights: ``CIFAR10``, …, and ``DEFAULT``, those for colour if there are such.

    Example:
        >>> enumerate_weights("kan_vgg").CIFAR10.meta["categories"][:2]
        ['airplane', 'automobile']
    """
    members = {
        weights.name.upper(): TorchvisionWeights(
            weights.path.as_uri(), partial(Weights.transforms, weights), weights.meta
        )
        for weights in weights_of(name)
    }
    if members:
        members["DEFAULT"] = next(iter(members.values()))
    title = "_".join(part.upper() if part == "kan" else part.capitalize() for part in name.split("_"))
    return PackagedWeights(f"{title}_Weights", members, module=__name__)


def build_torchvision_model(
    name: str,
    enumeration: type[PackagedWeights],
    *,
    weights: PackagedWeights | str | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    **options: Any,
) -> nn.Module:
    """What ``torchvision.models.get_model`` calls.

    Args:
        name: Name of the model.
        enumeration: The model's weights.
        weights: One of these, or its name.
        num_classes: Size of the output; that of the weights, or 1000. For another than theirs the head is fresh.
        in_channels: Channels of the input; that of the weights, or 3.
        **options: The model's own options.

    Raises:
        KeyError: There are no weights of this name.
        ValueError: A size is out of range, or an option differs from what the weights were trained with.
        TypeError: The model has no such option, or ``weights`` are those of another.
    """
    chosen = enumeration.verify(weights)
    if chosen is not None:
        return create_model(name, num_classes, in_channels, weights=chosen.weights, **options)
    classes, channels = (1000 if num_classes is None else num_classes), (3 if in_channels is None else in_channels)
    return create_model(name, classes, channels, **options)


def _builder(name: str) -> Callable[..., nn.Module]:
    enumeration = enumerate_weights(name)

    def build(*, weights: PackagedWeights | str | None = None, **options: Any) -> nn.Module:
        return build_torchvision_model(name, enumeration, weights=weights, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"The model ``{name}`` of ``convkan.models``; see ``convkan.torchvision``."
    build.__annotations__["weights"] = enumeration | None  # where torchvision looks for the weights of a model
    globals()[enumeration.__name__] = enumeration  # where pickle looks for it
    return build


for _name in list_models("kan_*", task="classification"):
    register_model(_name)(_builder(_name))
