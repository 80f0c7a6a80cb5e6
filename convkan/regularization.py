"""Penalties on the functions of a layer."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convkan.basis import GriddedBasis
from convkan.nn import EdgeLayer, KANLayer
from convkan.nn.recording import watched

SAMPLES = 1024
NUMBERS_AT_A_TIME = 2**24


def coefficient_penalty(layer: KANLayer) -> Float[Tensor, ""]:
    """Mean absolute coefficient of a layer: a cheap stand-in for the size of its activations.

    Not the paper's regulariser, which is the mean |φ(x)| over real inputs (Liu et al., arXiv 2404.19756, eq. 2.17):
    this one needs no data and costs next to nothing.
    """
    return layer.edge_weights()[1].abs().mean()


def total_coefficient_penalty(model: nn.Module) -> Float[Tensor, ""]:
    """The sum of ``coefficient_penalty`` over the KAN layers of a model; 0 if it has none."""
    penalties = [coefficient_penalty(layer) for layer in model.modules() if isinstance(layer, KANLayer)]
    return torch.stack(penalties).sum() if penalties else torch.zeros(())


def smoothness(layer: KANLayer) -> Float[Tensor, ""]:
    """Mean square of the second differences of neighbouring coefficients, relative to that of the coefficients.

    0 for functions that are straight lines on equally spaced knots; scaling all coefficients changes nothing.
    Source: Eilers and Marx, "Flexible smoothing with B-splines and penalties" (1996), sec. 3.

    Args:
        layer: A KAN layer whose functions have an order: on a grid, or radial functions; from three of them on.

    Raises:
        ValueError: There are fewer than three functions.
    """
    coefficients = layer.coefficients
    if coefficients.shape[2] < 3:
        raise ValueError(f"smoothness needs at least 3 functions, got {coefficients.shape[2]} of {layer.basis}")
    bend = coefficients.diff(n=2, dim=2).square().mean()
    return bend / coefficients.square().mean().clamp_min(torch.finfo(coefficients.dtype).tiny)


def edge_norms(layer: nn.Module, x: Tensor, *, samples: int = SAMPLES) -> Float[Tensor, "out in_per_group *kernel"]:
    """|φ|₁, the mean of |φ(x)| over inputs, for every edge: how much it says (Liu et al., eq. 2.17).

    Edges that compute a named function are left out: what their splines would say is 0. Memory is bounded: edges are
    evaluated in parts, which the backward pass evaluates again.

    Args:
        layer: A KAN layer, or a low-rank convolution (then of its activation's functions).
        x: Inputs, as the layer is called with; for a convolution every pixel counts, padding included.
        samples: At most so many inputs a channel are used, spread evenly.
    """
    if not isinstance(layer, EdgeLayer):
        raise TypeError(f"layer must be a KAN layer, got {type(layer).__name__}")
    functions, points = layer.functions, layer.samples(x, samples)
    groups = functions.num_groups
    features = functions.features(points.mT).to(functions.basis_weight.dtype).unflatten(-1, (groups, -1))
    edges = functions.edge_planes().unflatten(0, (groups, -1))
    size = max(1, NUMBERS_AT_A_TIME // max(1, len(features) * edges[:, 0, :, 0].numel()))
    parts = [checkpoint(_mean_absolute, features, part, use_reentrant=False) for part in edges.split(size, dim=1)]
    return torch.cat(parts, dim=1).flatten(0, 1)


def _mean_absolute(features: Tensor, edges: Tensor) -> Tensor:
    return torch.einsum("n f g c, g o c f ... -> n g o c ...", features, edges).abs().mean(0)


def l1_entropy(
    layer: nn.Module, x: Tensor, *, l1: float = 1.0, entropy: float = 1.0, samples: int = SAMPLES
) -> Float[Tensor, ""]:
    """The KAN paper's regulariser of one layer: μ₁·Σ|φ|₁ + μ₂·S, which makes few edges say all there is to say.

    With |φ|₁ as in ``edge_norms``, |Φ|₁ = Σ|φ|₁, p = |φ|₁/|Φ|₁, and S = −Σ p·log p. Its gradient is finite where edges,
    or all of them, are zero. Source: Liu et al., "KAN" (arXiv 2404.19756), eq. 2.17–2.20.

    Args:
        layer: A KAN layer.
        x: Inputs, as the layer is called with. Gradients flow into them.
        l1: μ₁.
        entropy: μ₂.
        samples: See ``edge_norms``.
    """
    norms = edge_norms(layer, x, samples=samples)
    total = norms.sum()
    shares = norms / total.clamp_min(torch.finfo(norms.dtype).tiny ** 0.5)
    return l1 * total + entropy * _entropy(shares)


def _entropy(shares: Tensor) -> Tensor:
    """−Σ p·log p, with a finite slope at 0."""
    floor = torch.finfo(shares.dtype).eps
    return -(shares * shares.clamp_min(floor).log()).sum()


@contextmanager
def recorded_inputs(model: nn.Module) -> Iterator[list[tuple[KANLayer, Tensor]]]:
    """Within the ``with`` block, the KAN layers that the model calls, each with its input, for ``total_l1_entropy``."""
    calls: list[tuple[KANLayer, Tensor]] = []
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, KANLayer)}
    with watched(layers, lambda name, _, x, __: calls.append((layers[name], x))):
        yield calls


def total_l1_entropy(
    calls: Iterable[tuple[KANLayer, Tensor]], *, l1: float = 1.0, entropy: float = 1.0, samples: int = SAMPLES
) -> Float[Tensor, ""]:
    """The sum of ``l1_entropy`` over calls recorded by ``recorded_inputs``; 0 if there are none.

    Example:
        >>> from convkan import KANLinear
        >>> model = nn.Sequential(KANLinear(2, 5), KANLinear(5, 1))
        >>> with recorded_inputs(model) as calls:
        ...     y = model(torch.rand(8, 2))
        >>> loss = y.square().mean() + 1e-3 * total_l1_entropy(calls)
    """
    penalties = [l1_entropy(layer, x, l1=l1, entropy=entropy, samples=samples) for layer, x in calls]
    return torch.stack(penalties).sum() if penalties else torch.zeros(())


def total_smoothness(model: nn.Module) -> Float[Tensor, ""]:
    """The sum of ``smoothness`` over the spline layers of a model; 0 if it has none."""
    layers = [layer for layer in model.modules() if isinstance(layer, KANLayer)]
    penalties = [smoothness(layer) for layer in layers if isinstance(layer.basis, GriddedBasis)]
    return torch.stack(penalties).sum() if penalties else torch.zeros(())
