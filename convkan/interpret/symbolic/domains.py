"""The a·u + b that a named function may be given for u in [−1, 1], by two numbers without bounds.

Fits search over these numbers, θ: whatever they are, the argument stays inside the function's domain. Where the domain
is bounded they are logarithms of distances to its ends, so that a fit can come as close to an end as it needs.
"""

from math import inf, log, pi

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis.functions import NamedFunction

LARGEST = 40.0  # of |θ|: beyond, exp(θ) is of no use
FREQUENCIES, PHASES = 160, 6
HIGHEST_FREQUENCY = 64.0  # in radians over half the range


def affine_of(
    theta: Float[Tensor, "*fits 2"], sign: Float[Tensor, "*fits"], domain: tuple[float, float]
) -> tuple[Float[Tensor, "*fits"], Float[Tensor, "*fits"]]:
    """The a and b, with a given sign of a, for which a·u + b lies in the domain for all u in [−1, 1].

    θ is log|a| and b in a domain without bounds; log|a| and the logarithm of the distance to the end if there is one
    end; and the logarithms of how long the part seen and the distance before it are, as multiples of that behind it, if
    there are two.
    """
    low, high = domain
    first, second = theta.clamp(-LARGEST, LARGEST).exp().unbind(-1)
    if low == -inf and high == inf:
        return sign * first, theta[..., 1]
    if high == inf:
        return sign * first, low + second + first
    if low == -inf:
        return sign * first, high - second - first
    unit = (high - low) / (first + second + 1)
    half = unit * first / 2
    return sign * half, low + unit * second + half


def slopes_of(
    theta: Float[Tensor, "*fits 2"], sign: Float[Tensor, "*fits"], domain: tuple[float, float]
) -> Float[Tensor, "*fits 2 2"]:
    """The derivatives of ``affine_of``: a's and b's, as rows, by both numbers of θ."""
    low, high = domain
    first, second = theta.clamp(-LARGEST, LARGEST).exp().unbind(-1)
    zero, one = torch.zeros_like(first), torch.ones_like(first)
    if low == -inf and high == inf:
        rows = [sign * first, zero, zero, one]
    elif high == inf:
        rows = [sign * first, zero, first, second]
    elif low == -inf:
        rows = [sign * first, zero, -first, -second]
    else:
        whole, length = first + second + 1, high - low
        seen, before = first / whole, second / whole
        centre = before + seen / 2
        rows = [sign * seen * (1 - seen) / 2, -sign * seen * before / 2, seen / 2 - centre * seen]
        rows = [length * row for row in (*rows, before - centre * before)]
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 2))


def starts(function: NamedFunction, places: Float[Tensor, "channels points"]) -> tuple[Tensor, Tensor]:
    """Where to start fits: θ, (channels or 1, starts, 2), those with alike a together, and the signs, (starts,).

    Args:
        function: What is fitted.
        places: The points in [−1, 1], in order: kinks are looked for between any two of them.
    """
    bounds = sum(abs(end) < inf for end in function.domain)
    if function.free == "":
        theta = places.new_zeros(1, 1, 2)
    elif function.free == "a":
        scales = _spaced(0.02, HIGHEST_FREQUENCY, 64, places)
        theta = torch.stack([scales, torch.zeros_like(scales)], dim=-1).unsqueeze(0)
    elif function.free == "b" and bounds == 0:
        theta = _shifts(places)
    elif function.free == "b" and bounds == 1:
        distances = _spaced(1e-9, 1e2, 72, places)
        theta = torch.stack([torch.zeros_like(distances), distances], dim=-1).unsqueeze(0)
    elif bounds == 2:
        distances = _spaced(1e-9, 10, 14, places)
        behind, before = torch.meshgrid(distances, distances, indexing="ij")
        theta = torch.stack([-behind, before - behind], dim=-1).flatten(0, 1).unsqueeze(0)
    elif bounds == 1:
        first, second = torch.meshgrid(_spaced(0.05, 30, 24, places), _spaced(1e-9, 1e2, 24, places), indexing="ij")
        theta = torch.stack([first, second], dim=-1).flatten(0, 1).unsqueeze(0)
    else:
        theta = _scales_and_shifts(function, places).unsqueeze(0)
    count = theta.shape[1]
    if function.parity is not None:  # then c can do what the sign of a would
        return theta, places.new_ones(count)
    return torch.cat([theta, theta], dim=1), torch.cat([places.new_ones(count), -places.new_ones(count)])


def _spaced(low: float, high: float, count: int, like: Tensor) -> Float[Tensor, " count"]:
    """Logarithms, evenly spaced."""
    return torch.linspace(log(low), log(high), count, dtype=like.dtype, device=like.device)


def _shifts(places: Float[Tensor, "channels points"]) -> Float[Tensor, "channels starts 2"]:
    """Starts that put the argument's zero between two points, or somewhat outside all of them."""
    outside = 1 + _spaced(1e-3, 30, 24, places).exp()
    outside = torch.cat([-outside, outside]).expand(len(places), -1)
    between = (places[:, 1:] + places[:, :-1]) / 2
    shift = -torch.cat([between, places, outside], dim=1)
    return torch.stack([torch.zeros_like(shift), shift], dim=-1)


def _scales_and_shifts(function: NamedFunction, places: Tensor) -> Float[Tensor, "starts 2"]:
    if function.period is not None:
        lowest = HIGHEST_FREQUENCY / FREQUENCIES
        scale = torch.linspace(lowest, HIGHEST_FREQUENCY, FREQUENCIES, device="cpu").to(places)
        scale = torch.cat([scale[:1] / 4, scale[:1] / 2, scale]) * function.period / (2 * pi)
        phase = torch.arange(PHASES, device="cpu").to(places) / PHASES * function.period
        first, second = torch.meshgrid(scale.log(), phase, indexing="ij")
        return torch.stack([first, second], dim=-1).flatten(0, 1)
    near = torch.linspace(-1.2, 1.2, 21, device="cpu").to(places)
    far = places.new_tensor([1.6, 2.5, 5.0])
    scale, zero = torch.meshgrid(_spaced(0.1, 32, 40, places), torch.cat([-far, near, far]), indexing="ij")
    return torch.stack([scale, -scale.exp() * zero], dim=-1).flatten(0, 1)
