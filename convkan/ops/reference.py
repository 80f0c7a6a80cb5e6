"""The definition of a KAN layer, word for word: unfold patches, evaluate every edge's basis, contract.

It costs taps × K times the input's memory. It defines the semantics: every other backend is tested against it.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from convkan.ops.plan import Channelwise, Convolution, Linear, Plan, expanded_weight


def unfold_patches(
    x: Float[Tensor, "batch channels *space"], kernel_size: tuple[int, ...], convolution: Convolution
) -> Float[Tensor, "batch *positions taps channels"]:
    """The inputs that each tap of each output position sees, with zeros where it looks past the border."""
    patches = F.pad(x, convolution.padding)
    for dim, (size, stride, dilation) in enumerate(
        zip(kernel_size, convolution.stride, convolution.dilation, strict=True), start=2
    ):
        patches = patches.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return patches.flatten(-len(kernel_size)).movedim(1, -1)


def reference(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
    """Evaluate a KAN layer by its definition (shapes as in ``convkan.ops.dispatch.evaluate``)."""
    weight = expanded_weight(base_weight, basis_weight)
    match plan.geometry:
        case Linear():
            features = plan.features(x, grid).squeeze(-3).to(weight.dtype)
            weight = rearrange(weight, "o (f c) -> o f c", c=x.shape[-1])
            return torch.einsum("... f c, o f c -> ... o", features, weight)
        case Channelwise(padding=padding):
            x = F.pad(x, padding) if any(padding) else x
            features = plan.features(x.movedim(1, -1), grid).squeeze(-3).to(weight.dtype)
            weight = rearrange(weight, "(c r) f -> c r f", c=x.shape[1])
            return torch.einsum("... f c, c r f -> ... c r", features, weight).flatten(-2).movedim(-1, 1)
        case Convolution(groups=groups) as convolution:
            patches = unfold_patches(x, tuple(weight.shape[2:]), convolution)
            features = plan.features(patches, grid).to(weight.dtype)
            weight = rearrange(weight.flatten(2), "(g o) (f c) t -> g o f c t", g=groups, c=x.shape[1] // groups)
            y = torch.einsum("n ... t g f c, g o f c t -> n ... g o", features, weight)
            return y.flatten(-2).movedim(-1, 1)
