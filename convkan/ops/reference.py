"""The definition of a KAN layer, word for word: unfold patches, evaluate every edge's basis, contract.

A transposed convolution has no patches: what each tap makes of the pixels is added where it falls.

It costs taps × K times the input's memory. It defines the semantics: every other backend is tested against it.
"""

from itertools import product

import torch
from einops import rearrange
from torch import Tensor

from convkan.ops.convolution import Convolution
from convkan.ops.geometry import Channelwise, Linear, expanded_weight
from convkan.ops.plan import Plan
from convkan.ops.transposed import TransposedConvolution


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
        case TransposedConvolution(groups=groups) as transposed:
            values = features(x.movedim(1, -1), grid, groups).to(weight.dtype)
            return _scattered(values, weight, transposed)
        case other:
            raise TypeError(f"a layer of geometry {other!r} has no definition")


def _scattered(values: Tensor, weight: Tensor, geometry: TransposedConvolution) -> Tensor:
    """Σ_tap of what the tap makes of features (batch, *space, groups, features, channels), each where it falls."""
    space, kernel_size = values.shape[1:-3], weight.shape[2:]
    weight = rearrange(weight, "(g o) (f c) ... -> g o f c ...", g=geometry.groups, c=values.shape[-1])
    y: Tensor | None = None
    for tap in product(*map(range, kernel_size)):
        made = torch.einsum("n ... g f c, g o f c -> n ... g o", values, weight[(slice(None),) * 4 + tap]).flatten(-2)
        if y is None:
            y = made.new_zeros(len(made), *geometry.full(space, kernel_size), made.shape[-1])
        steps = zip(space, tap, geometry.stride, geometry.dilation, strict=True)
        reached = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for n, t, s, d in steps)
        y[(slice(None), *reached)] += made
    assert y is not None
    kept = zip(geometry.trim, geometry.positions(space, kernel_size), strict=True)
    return y[(slice(None), *[slice(off, off + count) for off, count in kept])].movedim(-1, 1)
