"""The learned function of every edge, sampled."""

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis import BSpline
from convkan.nn import KANLayer
from convkan.ops import Linear, Plan


@torch.no_grad()
def curves(
    layer: KANLayer, num_points: int = 101, x_range: tuple[float, float] | None = None
) -> tuple[Float[Tensor, "channels points"], Float[Tensor, "out in_per_group points *kernel"]]:
    """φ of every edge at ``num_points`` places.

    Args:
        layer: Any KAN layer.
        num_points: Points a curve.
        x_range: First and last point; by default each channel's own grid, or (−2, 2) for a basis without one.

    Returns:
        The points x of each input channel, and φ[o, c](x) for every edge, with the kernel's taps behind.
    """
    weight = layer.basis_weight
    steps = torch.linspace(0, 1, num_points, dtype=weight.dtype, device=weight.device).unsqueeze(-1)
    channels = layer.num_inputs
    if x_range is None and isinstance(layer.basis, BSpline) and layer.grid is not None:
        low, high = layer.basis.ends(layer.grid)
    else:
        first, last = x_range or (-2.0, 2.0)
        low, high = weight.new_full((channels,), first), weight.new_full((channels,), last)
    x = low + (high - low) * steps
    features = Plan(layer.current_plan().expansion, Linear()).features(x, layer.grid).squeeze(-3).to(weight.dtype)
    # An edge's input is its group's channel: gather the features each output sees.
    per_group = layer.coefficients.shape[1]
    features = features.unflatten(-1, (channels // per_group, per_group))
    edges = layer.coefficients
    if layer.base_weight is not None:
        edges = torch.cat([layer.base_weight.unsqueeze(2), edges], dim=2)
    edges = edges.unflatten(0, (channels // per_group, -1))
    values = torch.einsum("p f g c, g o c f ... -> g o c p ...", features, edges)
    return x.mT, values.flatten(0, 1)
