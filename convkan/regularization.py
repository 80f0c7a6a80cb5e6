"""Penalties on the functions of a layer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.nn import KANLayer


def coefficient_penalty(layer: KANLayer) -> Float[Tensor, ""]:
    """Mean absolute coefficient of a layer: a cheap stand-in for the size of its activations.

    Not the paper's regulariser, which is the mean |φ(x)| over real inputs (Liu et al., arXiv 2404.19756, eq. 2.17):
    this one needs no data and costs next to nothing.
    """
    return layer.basis_weight.abs().mean()


def total_coefficient_penalty(model: nn.Module) -> Float[Tensor, ""]:
    """The sum of ``coefficient_penalty`` over the KAN layers of a model; 0 if it has none."""
    penalties = [coefficient_penalty(layer) for layer in model.modules() if isinstance(layer, KANLayer)]
    return torch.stack(penalties).sum() if penalties else torch.zeros(())
