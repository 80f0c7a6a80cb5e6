"""Initial weights that keep the variance of activations, whatever the basis, grid or fan-in.

The law is that of wide layers. In narrow ones (64 inputs and fewer) functions that grow without bound, SiLU and linear
extrapolation, let the variance drift upwards, by a factor of 1.5 to 5 over ten layers: the map from the variance of one
layer to that of the next has a slope of 1 or a little more, which adds up the chance deviations of each layer.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import torch
from torch import Tensor

from convkan.basis import Basis, GriddedBasis
from convkan.ops import Expansion

HIGHEST_SHARE = 0.2  # of the variance, that the basis has beside a base activation
SMALLEST_VARIANCE = 1e-12  # below it the basis can make nothing but constants
LEAST_POWER = 0.05  # Σ_k E[B_k²] under the standard normal, below which a grid counts as lying off it
RIDGE = 1e-3  # of a function's mean square, so that those the normal hardly meets do not make up the constant


@dataclass(frozen=True)
class EdgeMoments:
    """Statistics of an edge's features under the reference input distribution, and the scales that follow.

    Attributes:
        base_std: Standard deviation of a base weight, for a fan-in of 1.
        basis_std: Standard deviation of a coefficient, for a fan-in of 1.
        lone_base: The base weight with which the base activation alone has variance 1.
        means: Expectation of each feature, the base activation first if there is one.
        constant: Coefficients whose function has mean 1 and is as nearly constant as the basis can be.
    """

    base_std: float
    basis_std: float
    lone_base: float
    means: tuple[float, ...]
    constant: tuple[float, ...]


@lru_cache(maxsize=256)
def edge_moments(basis: Basis, base_activation: str | None) -> EdgeMoments:
    """Scales for which φ(z) has mean 0 and variance 1/fan-in when its input z is standard normal.

    If coefficients are independent with standard deviation σ and the mean of the function they make is then taken out
    along ``constant``, Var φ = σ²·tr(Pᵀ M P), with M_jk = E[B_j B_k] and P the projection; likewise for the base
    activation. The mean is taken out because a shared offset would grow from layer to layer at the expense of
    the signal. Where the basis lives off the standard normal, a normal on its grid takes its place.
    """
    features, slopes, probability = _sample(basis, base_activation, center=0.0, scale=1.0)
    first = 0 if base_activation is None else 1
    if isinstance(basis, GriddedBasis) and features[:, first:].square().sum(1) @ probability < LEAST_POWER:
        low, high = basis.grid_range
        features, slopes, probability = _sample(basis, base_activation, center=(low + high) / 2, scale=(high - low) / 2)

    weighted = features * probability.unsqueeze(-1)
    means = weighted.sum(0)
    basis_means = means[first:]
    gram = features[:, first:].mT @ weighted[:, first:]
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    constant = torch.linalg.solve(gram + ridge, basis_means)
    constant = constant / (basis_means @ constant)

    projection = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) - torch.outer(constant, basis_means)
    basis_variance = (projection.mT @ gram @ projection).trace().item()
    basis_slope = ((slopes[:, first:] @ projection).square().sum(1) @ probability).item()
    if base_activation is None:
        share, base_variance = 1.0, 1.0
    else:
        centred = features[:, 0] - means[0] * (features[:, 1:] @ constant)
        centred_slope = slopes[:, 0] - means[0] * (slopes[:, 1:] @ constant)
        base_variance = (centred.square() @ probability).item()
        base_roughness = (centred_slope.square() @ probability).item() / base_variance
        basis_roughness = basis_slope / max(basis_variance, SMALLEST_VARIANCE)
        # Random coefficients make rough functions, rougher on finer grids: with this share of the variance they add as
        # much to the slope as the base activation does, at any grid size.
        share = min(HIGHEST_SHARE, base_roughness / (base_roughness + basis_roughness))
    return EdgeMoments(
        base_std=sqrt((1 - share) / base_variance),
        basis_std=sqrt(share / basis_variance) if basis_variance > SMALLEST_VARIANCE else 0.0,
        lone_base=1 / sqrt(base_variance),
        means=tuple(means.tolist()),
        constant=tuple(constant.tolist()),
    )


def _sample(basis: Basis, base_activation: str | None, center: float, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Features and slopes (points, 1 + K) at points dense enough for the basis, and normal probabilities (points)."""
    expansion = Expansion(basis, base_activation, uniform=False)
    count = 2001 + 40 * basis.num_functions
    z = torch.linspace(-6, 6, count, dtype=torch.float64, device="cpu")
    probability = torch.exp(-z.square() / 2)
    points = (center + scale * z).unsqueeze(-1)
    grid = basis.knots(1) if isinstance(basis, GriddedBasis) else None
    features = expansion.at(points, grid).flatten(1)
    slopes = expansion.at(points, grid, derivative=True).flatten(1)
    return features, slopes, probability / probability.sum()


@torch.no_grad()
def initialize_edges(
    base_weight: Tensor | None,
    coefficients: Tensor,
    basis: Basis,
    base_activation: str | None,
    *,
    random_functions: bool = True,
    fan_in: float | None = None,
) -> None:
    """Fill the weights of a layer's edges so that the layer keeps mean 0 and variance 1.

    Args:
        base_weight: (out, in/groups, *kernel) or None.
        coefficients: The view (out, in/groups, K, *kernel) of the basis weight.
        basis: The layer's basis.
        base_activation: Name of its base activation, or None.
        random_functions: Draw weights from normal distributions, for functions that are summed over inputs. Else each
            starts as the base activation, if there is one, less its mean: nothing averages the roughness of a random
            function out, and one with a small base weight would start out dead.
        fan_in: Edges that are summed in an output; by default all that lead to one.
    """
    if coefficients.is_meta or coefficients.numel() == 0:
        return
    moments = edge_moments(basis, base_activation)
    fan_in = coefficients[0].numel() // basis.num_functions if fan_in is None else fan_in
    by_function = coefficients.movedim(2, -1)
    if random_functions or base_weight is None:
        by_function.normal_(0, moments.basis_std / sqrt(fan_in))
    else:
        by_function.zero_()
    means = coefficients.new_tensor(moments.means)
    offset = by_function @ means[-basis.num_functions :]
    if base_weight is not None:
        if random_functions:
            base_weight.normal_(0, moments.base_std / sqrt(fan_in))
        else:
            base_weight.fill_(moments.lone_base / sqrt(fan_in))
        offset = offset + base_weight * means[0]
    by_function.sub_(offset.unsqueeze(-1) * coefficients.new_tensor(moments.constant))
