"""The definition of a KAN layer, word for word: unfold patches, evaluate every edge's basis, contract.

It costs taps × K times the input's memory. It defines the semantics: every other backend is tested against it.
"""

import torch
from einops import rearrange
from torch import Tensor

from convkan.ops.geometry import Channelwise, Convolution, Linear
from convkan.ops.plan import Plan, expanded_weight


def reference(x: Tensor, base_weight: Tensor | None, basis_weight: Tensor, grid: Tensor | None, plan: Plan) -> Tensor:
    """Evaluate a KAN layer by its definition (shapes as in ``convkan.ops.dispatch.evaluate``)."""
    features, weight = plan.expansion.at, expanded_weight(base_weight, basis_weight)
    match plan.geometry:
        case Linear():
            values = features(x, grid).squeeze(-3).to(weight.dtype)
            weight = rearrange(weight, "o (f c) -> o f c", c=x.shape[-1])
            return torch.einsum("... f c, o f c -> ... o", values, weight)
        case Channelwise() as channelwise:
            values = features(channelwise.pad(x).movedim(1, -1), grid).squeeze(-3).to(weight.dtype)
            weight = rearrange(weight, "(c r) f -> c r f", c=x.shape[1])
            return torch.einsum("... f c, c r f -> ... c r", values, weight).flatten(-2).movedim(-1, 1)
        case Convolution(groups=groups) as convolution:
            patches = convolution.patches(x, weight.shape[2:])
            values = features(patches, grid, groups).to(weight.dtype)
            weight = rearrange(weight.flatten(2), "(g o) (f c) t -> g o f c t", g=groups, c=x.shape[1] // groups)
            y = torch.einsum("n ... t g f c, g o f c t -> n ... g o", values, weight)
            return y.flatten(-2).movedim(-1, 1)
        case other:
            raise TypeError(f"a layer of geometry {other!r} has no definition")
