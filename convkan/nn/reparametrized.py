"""Weights that are not a layer's own: computed from others before each use, as by weight normalisation, or sharded."""

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized


def check_own(layer: nn.Module, *names: str) -> None:
    """Raise unless these weights are the layer's own parameters, so that what is written to them stays.

    Args:
        layer: A layer.
        names: Names of its weights.

    Raises:
        RuntimeError: One is computed from other parameters: by ``torch.nn.utils.parametrize`` (weight_norm,
            spectral_norm, …), the hooks before it, or ``torch.nn.utils.prune``. Or it is sharded over processes.
    """
    for name in names:
        present = getattr(layer, name, None) is not None
        if present and is_sharded(getattr(layer, name)):
            raise RuntimeError(
                f"{name} of {type(layer).__name__} cannot be changed: it is sharded, and this process holds but a part "
                "of it. Change the layer, then shard the model"
            )
        if present and (is_parametrized(layer, name) or name not in layer._parameters):
            raise RuntimeError(
                f"{name} of {type(layer).__name__} cannot be changed: it is computed from other parameters "
                "(weight_norm, spectral_norm, pruning or another parametrisation). Make it permanent first, with "
                "torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.remove_weight_norm or "
                "torch.nn.utils.prune.remove"
            )


def is_sharded(weight: Tensor) -> bool:
    """Whether this process holds only a part of a weight, as a ``torch.distributed.tensor.DTensor``."""
    return hasattr(weight, "full_tensor")
